//! Checks a shared store of the application's own by the rules of its contract.
//!
//! [`run`] checks all rules of a [`Store`], and names each broken rule with the expected and the given answer:
//!
//! ```
//! # #[cfg(feature = "tokio")] {
//! use layered_session::testing::{SpyStore, conformance};
//! use layered_session::{TokioClock, tier::BoxError};
//!
//! async fn store_keeps_its_contract() -> Result<(), BoxError> {
//!     // In place of a store of the application's own.
//!     let store = SpyStore::new().expire_by(TokioClock::default());
//!     conformance::run(&store).await?;
//!     Ok(())
//! }
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(store_keeps_its_contract()).unwrap();
//! # }
//! ```
//!
//! - Each rule makes records of new random owners, so a store may be shared by tests, and may have other records. The
//!   records of a run expire after a few minutes.
//! - The suite spawns no task and needs no runtime. Its waits use a [`Clock`], see [`Suite`].
//! - A run over a store in memory takes about a second: the rules of expiry wait for records with spans of 100 ms.
//! - `run` stops at a rule that does not end within 30 seconds, and names the rule.
//!
//! # Rules
//!
//! | rule | statement |
//! |---|---|
//! | `unknown_owner_is_absent` | The store has no record of an owner without commits. |
//! | `create_makes_the_record` | A commit of kind `Create` makes a missing record. |
//! | `create_keeps_existing_record` | A commit of kind `Create` for an existing record changes nothing and is `Outdated`. |
//! | `update_needs_a_record` | A commit of kind `Update` makes no record: the store answers `Absent`. |
//! | `clear_needs_a_record` | A commit of kind `Clear` makes no record: the store answers `Absent`. |
//! | `upsert_makes_the_record` | A commit of kind `Upsert` makes a missing record. |
//! | `revoke_makes_the_record` | A commit of kind `Revoke` makes a missing record. |
//! | `update_keeps_other_values` | A commit of kind `Update` changes no value that it does not name. |
//! | `upsert_keeps_other_values` | A commit of kind `Upsert` changes no value that it does not name. |
//! | `one_bit_tells_owners_apart` | Owners that differ in one of the 256 bits have separate records. |
//! | `json_keeps_its_bytes` | JSON comes back with the same bytes: order, spaces, digits, escapes. |
//! | `long_json_is_kept` | JSON of 64 kB comes back whole. |
//! | `names_are_compared_by_bytes` | Names of up to 64 bytes differ by each byte, also by case. |
//! | `many_values_fit_one_commit` | A commit of 100 values keeps all of them. |
//! | `stamps_increase` | Each commit of an owner has a greater stamp than the commits before. |
//! | `stamp_is_above_known_versions` | The stamp is greater than `Commit::above`. |
//! | `stamp_is_above_carried_versions` | The stamp is greater than each version in the record. |
//! | `stamp_follows_the_clock` | The stamp is the time of the store's clock, except for an owner whose versions are ahead. |
//! | `fresh_changes_get_the_stamp` | Each fresh value and removal has the stamp as its version. |
//! | `newest_counts_carried_versions` | The newest version counts a carried version above the stamp. |
//! | `newest_rises_with_each_commit` | Each applied commit raises the record's newest version. |
//! | `generation_is_the_first_stamp` | The generation is the stamp of the first commit, and stays. |
//! | `newer_carried_change_applies` | A carried change applies if its version is newer, and keeps its version. |
//! | `older_carried_change_is_ignored` | A carried change with an older version changes no value. |
//! | `tied_removal_wins` | At equal versions a removal beats a value, in either order. |
//! | `tied_greater_bytes_win` | At equal versions the greater bytes win, in either order. |
//! | `replaces_compares_exactly` | A change that replaces another version than the current is refused. |
//! | `replaces_current_version` | A change that replaces the current version applies. |
//! | `replaces_zero_needs_no_entry` | A change that replaces `Version::ZERO` needs a name without entry. |
//! | `tombstone_is_compared` | `Change::replaces` compares with the version of a tombstone too. |
//! | `refused_change_refuses_all` | One refused change refuses all changes of the commit. |
//! | `outdated_answers_the_record` | `Outdated` contains the whole current record. |
//! | `missing_record_is_outdated` | A change that replaces a version of a missing record is `Outdated`. |
//! | `removal_leaves_a_tombstone` | A removal leaves a tombstone, also for a name without entry. |
//! | `tombstone_stays` | A tombstone stays through later commits, and no older value comes back. |
//! | `clear_removes_each_value` | `Clear` leaves tombstones of all values, undeclared values too. |
//! | `clear_keeps_the_excepted_value` | `Clear` keeps the value that `except` names. |
//! | `clear_notes_absent_names` | A removal in a `Clear` leaves a tombstone of a name without entry. |
//! | `clear_compares_replaced_versions` | A `Clear` whose removal replaces another version is refused. |
//! | `end_answers_the_record` | `End` answers `Retired` with the whole record as it was. |
//! | `end_of_absent_record_is_noted` | `End` of a missing record answers `Absent`, and the end stays. |
//! | `ended_record_stays_ended` | An ended record refuses each kind of commit with `Ended`. |
//! | `end_keeps_reason_and_successor` | The end keeps its reason and its successor. |
//! | `first_end_counts` | A second `End` changes neither the reason, the successor nor the time. |
//! | `revoke_raises_not_before` | `Revoke` raises the not-before to its stamp. |
//! | `lost_revoke_is_repeated` | `Revoke` with `up_to` raises the not-before to that version, and leaves a greater not-before. |
//! | `revoke_keeps_values` | `Revoke` changes no value. |
//! | `not_before_stays` | The not-before stays through commits of each kind, `Clear` too. |
//! | `life_is_kept` | The lifetime of a new record comes back whole, or is `None`. |
//! | `newer_life_replaces_older` | A lifetime replaces a lifetime with an older version, and no other. |
//! | `older_life_refuses_the_commit` | A commit with an older lifetime than the record's changes nothing and is `Outdated`. |
//! | `life_stays` | A commit without a lifetime keeps the lifetime, and a lifetime changes no value. |
//! | `reads_answer_in_order` | A read answers each ask in order, also repeated and unknown owners. |
//! | `empty_read_has_no_answers` | A read without asks has no answers. |
//! | `known_record_is_answered` | A known record is `Unchanged`, or `Present` with the same values. |
//! | `unchanged_needs_a_known_version` | Only an ask with `known` is answered `Unchanged`. |
//! | `changed_value_is_not_unchanged` | A record is not `Unchanged` after a change of a value. |
//! | `carried_change_is_not_unchanged` | A record is not `Unchanged` after a carried change. |
//! | `changed_life_is_not_unchanged` | A record is not `Unchanged` after a change of its lifetime. |
//! | `revoked_owner_is_not_unchanged` | A record is not `Unchanged` after a commit of kind `Revoke`. |
//! | `ended_record_is_not_unchanged` | An ended record is `Ended` for each ask with `known`. |
//! | `absent_record_is_not_unchanged` | A missing record is `Absent` for each ask with `known`. |
//! | `other_generation_is_not_unchanged` | A record of another generation than known is not `Unchanged`. |
//! | `other_newest_is_not_unchanged` | A record with another newest version than known is not `Unchanged`. |
//! | `present_tells_the_expiry` | `Present` has the time of the record's expiry, by the store's clock. |
//! | `unchanged_tells_the_expiry` | `Unchanged` has the time of the record's expiry, also after a touch. |
//! | `touch_makes_no_record` | A touch makes no record of a missing owner. |
//! | `touch_changes_no_record` | A touch changes no value, no version and no end. |
//! | `maintain_keeps_live_records` | `maintain` comes to an end, and drops no live record. |
//! | `record_expires` | A record is absent soon after the span of its commits. |
//! | `ended_record_expires` | An end is forgotten soon after the span of its commits. |
//! | `expired_record_begins_anew` | An expired record is created with a new generation and no old value. |
//! | `commit_prolongs_the_span` | A commit with a later end of its span prolongs the record. |
//! | `commit_shortens_no_span` | A commit with a shorter span leaves the longer span. |
//! | `end_prolongs_the_span` | An end stays for the span of its own commit. |
//! | `end_shortens_no_span` | An end with a shorter span stays as long as the record would have. |
//! | `touch_prolongs_the_span` | A touch prolongs each live record that the touch names. |
//! | `touch_shortens_no_span` | A touch with a shorter span leaves the longer span. |
//! | `touch_prolongs_no_end` | A touch does not prolong an end. |
//! | `touch_revives_no_record` | A touch does not bring an expired record back. |
//! | `refused_commit_prolongs_no_span` | A commit that is refused for its older lifetime does not prolong the record. |
//! | `touch_needs_the_current_life` | A touch by an older lifetime than the record's does not prolong the record. |
//! | `new_life_sets_the_span` | A commit that replaces the lifetime sets the span, also to a shorter span. |
//! | `equal_life_shortens_no_span` | A commit with the lifetime that the record has leaves the longer span. |
//! | `updates_are_not_lost` | Concurrent updates that replace the version they have read all count. |
//! | `one_create_wins` | Of concurrent commits of kind `Create` one applies, and the others are `Outdated`. |
//! | `concurrent_stamps_differ` | Concurrent commits of one owner have different stamps. |
//! | `end_answers_each_applied_write` | An `End` beside writes answers each write that was applied. |
//! | `unpolled_commit_changes_nothing` | A commit that was dropped before its first poll changes nothing. |
//! | `dropped_commit_is_whole_or_nothing` | A dropped commit is made whole or not at all, and blocks no later commit. |
//! | `notices_begin_with_up` | A stream of notices begins with `Up`. |
//! | `each_commit_is_noticed` | Each commit that a store applies comes as `Changed`. |
//! | `notice_names_the_record` | A notice has the generation and a newest version of the commit or later. |
//! | `notice_names_the_node` | A notice has the node of the commit. |

use std::{fmt, sync::Arc, time::Duration};

pub use self::rule::{Rule, Violation, Violations};
use self::{
    trial::{Fault, Trial},
    wait::{Job, join},
};
use crate::{tier::Store, time::Clock};

mod changes;
mod contents;
mod ends;
mod expiry;
mod notices;
mod races;
mod reads;
mod records;
mod rule;
mod stamps;
mod trial;
mod wait;

/// The time that a rule may take. A rule over a store in memory takes a few milliseconds, a rule of expiry about a
/// second.
const LIMIT: Duration = Duration::from_secs(30);

/// Checks all rules over a store, with waits by tokio's timer. [`Suite`] checks with another clock, over two
/// connections, or without the rules of expiry.
///
/// # Errors
///
/// The broken rules.
///
/// # Cancel safety
///
/// A dropped future checks no further rule. The records of the checked rules stay in the store for some minutes.
#[cfg(feature = "tokio")]
pub async fn run(store: &dyn Store) -> Result<(), Violations> {
    Suite::new(store, crate::time::TokioClock).run().await
}

/// The rules, applied to a store.
///
/// ```
/// use layered_session::testing::{ManualClock, SpyStore, conformance::{Rule, Suite}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// let store = SpyStore::new(); // its clock stands still
/// let suite = Suite::new(&store, ManualClock::new()).without_expiry();
/// suite.run().await?;
///
/// let rule = Rule::all().find(|rule| rule.name() == "tombstone_stays").unwrap();
/// suite.check(rule).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Suite<'a> {
    stores: Vec<&'a dyn Store>,
    clock: Arc<dyn Clock>,
    expiry: bool,
}

impl<'a> Suite<'a> {
    /// Creates the suite for a store. The suite waits by the clock, which must run as fast as the store's clock.
    pub fn new(store: &'a dyn Store, clock: impl Clock) -> Self {
        Self { stores: vec![store], clock: Arc::new(clock), expiry: true }
    }

    /// Adds a second connection to the same records, as of another node. The calls of each rule go to both connections
    /// in turn, so that a rule fails if a connection does not see the commits of the other.
    #[must_use]
    pub fn beside(mut self, other: &'a dyn Store) -> Self {
        self.stores.push(other);
        self
    }

    /// Leaves out the rules that wait until records expire, for a store whose clock stands still.
    #[must_use]
    pub const fn without_expiry(mut self) -> Self {
        self.expiry = false;
        self
    }

    /// Checks one rule, also a rule of expiry in a suite [without expiry](Self::without_expiry).
    ///
    /// # Errors
    ///
    /// The violation, if the store breaks the rule.
    ///
    /// # Cancel safety
    ///
    /// The same as of [`run`](Self::run).
    pub async fn check(&self, rule: Rule) -> Result<(), Violation> {
        let trial = Trial::new(&self.stores, &*self.clock, self.expiry);
        let outcome = (rule.check)(&trial).await;
        outcome.map_err(|fault| Violation::new(rule, fault))
    }

    /// Checks all rules, the rules of expiry at once.
    ///
    /// # Errors
    ///
    /// The broken rules.
    ///
    /// # Cancel safety
    ///
    /// A dropped future checks no further rule. The records of the checked rules stay in the store for some minutes.
    pub async fn run(&self) -> Result<(), Violations> {
        let mut violations = Vec::new();
        for rule in Rule::all().filter(|rule| !rule.needs_expiry()) {
            match self.limited(rule).await {
                Checked::Kept => {}
                Checked::Broken(violation) => violations.push(violation),
                Checked::Stuck(violation) => {
                    violations.push(violation);
                    return Err(self.violations(violations));
                }
            }
        }
        if self.expiry {
            let checks =
                Rule::all().filter(Rule::needs_expiry).map(|rule| -> Job<'_, Checked> { Box::pin(self.limited(rule)) });
            violations.extend(join(checks.collect()).await.into_iter().filter_map(Checked::violation));
        }
        if violations.is_empty() { Ok(()) } else { Err(self.violations(violations)) }
    }

    fn violations(&self, mut violations: Vec<Violation>) -> Violations {
        let place = |violation: &Violation| Rule::all().position(|rule| rule == violation.rule());
        violations.sort_by_key(place);
        Violations::new(self.stores[0].name(), violations)
    }

    async fn limited(&self, rule: Rule) -> Checked {
        match wait::within(self.clock.sleep(LIMIT), self.check(rule)).await {
            Some(Ok(())) => Checked::Kept,
            Some(Err(violation)) => Checked::Broken(violation),
            None => {
                let fault = format!("no end after {} s; the later rules were not checked", LIMIT.as_secs());
                Checked::Stuck(Violation::new(rule, Fault(fault)))
            }
        }
    }
}

impl fmt::Debug for Suite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stores: Vec<_> = self.stores.iter().map(|store| store.name()).collect();
        f.debug_struct("Suite").field("stores", &stores).field("expiry", &self.expiry).finish_non_exhaustive()
    }
}

impl Rule {
    /// Returns all rules, in the order of the [table](self#rules).
    pub fn all() -> impl Iterator<Item = Self> {
        let groups = [
            records::RULES,
            contents::RULES,
            stamps::RULES,
            changes::RULES,
            ends::RULES,
            reads::RULES,
            expiry::RULES,
            races::RULES,
            notices::RULES,
        ];
        groups.into_iter().flatten().copied()
    }
}

/// The result of one rule.
enum Checked {
    Kept,
    Broken(Violation),
    /// The rule did not end in time. Later rules would most likely wait for the same lock or connection.
    Stuck(Violation),
}

impl Checked {
    fn violation(self) -> Option<Violation> {
        match self {
            Self::Kept => None,
            Self::Broken(violation) | Self::Stuck(violation) => Some(violation),
        }
    }
}

#[cfg(test)]
mod tests;
