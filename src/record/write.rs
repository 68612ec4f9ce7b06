//! The rules of a write: the removals that a record forgets first, the budget of the browser's cookie, and the changes.

use super::{
    change::{BudgetShare, CommitRejected, Mutation, Oversize, WriteContext, WriteScope},
    state::{Kind, State},
    values::{Resolution, StoredValue, ValueSlot},
};
use crate::{time::Millis, version::Version};

/// The bytes that the browser has for the entries of each owner. Each owner has its own bytes, so that principal values
/// accepted for one browser fit all other browsers of the principal, whatever their sessions hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) session: usize,
    pub(crate) principal: usize,
    /// The bytes of the session's budget that are reserved for the identity value.
    pub(crate) identity: usize,
}

/// Returns the bytes of an entry with a name and JSON of these lengths; a tombstone has no JSON.
pub(crate) fn entry_len(name: usize, json: Option<usize>) -> usize {
    2 + name + 8 + json.map_or(0, |len| 2 + len)
}

/// The part of a cookie that an owner's values take and leave, in bytes of JSON.
#[cfg(feature = "inspector")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JsonRoom {
    pub(crate) used: usize,
    /// The bytes by which the JSON of the present values may grow. A further value also needs room for its name and its
    /// version.
    pub(crate) free: usize,
}

/// The name of a cookie entry, and the bytes of its JSON; a tombstone has none.
type Sized<'a> = (&'a str, Option<usize>);

/// The bytes of a budget that entries take.
struct UsedBytes {
    /// The bytes of the identity value's entry, if room is reserved for the value.
    identity: usize,
    others: usize,
}

impl UsedBytes {
    fn of<'a>(sizes: impl Iterator<Item = Sized<'a>>, terms: WriteContext<'_>) -> Self {
        let identity = terms.reserved.map(|(index, _)| terms.schema.get(index).name);
        sizes.fold(Self { identity: 0, others: 0 }, |mut taken, (name, json)| {
            let part = if identity == Some(name) { &mut taken.identity } else { &mut taken.others };
            *part += entry_len(name.len(), json);
            taken
        })
    }

    const fn total(&self) -> usize {
        self.identity + self.others
    }
}

impl State {
    pub(crate) fn prune(&mut self, terms: WriteContext<'_>) {
        let mut horizon = terms.now.before(terms.tombstones);
        if let Some(life) = self.life() {
            horizon = horizon.min(terms.now.before(life.idle().saturating_add(terms.time.max_skew)));
            if terms.now < life.previous_deadline() {
                horizon = Millis::default();
            }
        }
        self.values.prune(terms.schema, terms.now, horizon);
    }

    /// Checks that each change replaces the version that it expects, and that the browser has room for the changes.
    ///
    /// # Errors
    ///
    /// [`CommitRejected::Outdated`] for another version, and [`CommitRejected::TooLarge`] without room.
    pub(crate) fn check_budget(&self, changes: &[Mutation], terms: WriteContext<'_>) -> Result<(), CommitRejected> {
        for change in changes {
            if let Some(expected) = change.replaces {
                let stands = self.value(terms.schema, change.index, terms.now).map(|stored| stored.version);
                if stands.unwrap_or_default() != expected {
                    return Err(CommitRejected::Outdated);
                }
            }
        }
        let carried = || changes.iter().filter(|change| terms.schema.get(change.index).in_cookie());
        // A removal always fits in the place of the removed value, and must never be refused. Values that stay on the
        // server must not be refused either, even if the merge of two nodes' values has exceeded the budget.
        if !carried().any(|change| change.json.is_some()) {
            return Ok(());
        }
        let changed = |name: &str| changes.iter().any(|change| change.name == name);
        let stays = self.sizes(terms).filter(|(name, _)| !changed(name));
        let json_len = |change: &Mutation| change.json.as_ref().map(|json| json.len());
        let sizes = stays.clone().chain(carried().map(|change| (change.name, json_len(change))));
        let taken = UsedBytes::of(sizes.clone(), terms);
        let room = terms.reserved.map_or(0, |(_, room)| room);
        let before = UsedBytes::of(self.sizes(terms), terms);
        let limit = match terms.share {
            // The values of a sign-in or a renewal may fill the reserved room already. A write that does not grow the
            // record is accepted even then.
            BudgetShare::Ordinary => {
                let others = terms.budget.saturating_sub(taken.identity.max(room)).max(before.others);
                terms.budget.min(taken.identity + others)
            }
            // After a deploy with a lower budget, fuller records remain, and their users must still be able to sign in.
            BudgetShare::Whole => terms.budget.max(terms.max_budget.min(UsedBytes::of(stays, terms).others + room)),
        };
        let limit = limit.max(before.total());
        if taken.total() <= limit {
            return Ok(());
        }
        let is_for_the_room = terms.share == BudgetShare::Ordinary && taken.total() <= terms.budget;
        let written = carried().filter_map(json_len).sum();
        Err(CommitRejected::TooLarge(Box::new(Oversize {
            largest: largest(sizes, terms),
            written,
            fits: (limit + written).saturating_sub(taken.total()),
            stored: terms.reserved.filter(|_| is_for_the_room).map(|(_, room)| room),
        })))
    }

    pub(crate) fn apply(&mut self, changes: &[Mutation], version: Version, terms: WriteContext<'_>) {
        if terms.scope == WriteScope::ClearAll || changes.iter().any(|change| change.json.is_none()) {
            self.note_removal(terms.now, terms);
        }
        for change in changes {
            let copy = |version, written| {
                let value = StoredValue::new(version, change.json.clone(), written);
                ValueSlot { change: self.changes, ..ValueSlot::local(change.index, value) }
            };
            match change.version {
                // The store has cleared the record since, and the answer to the clear came first.
                Some(stamped) if terms.stamp.is_some() && stamped < self.values.cleared() => continue,
                // The store stamped the change, and the stamp decides: a later write may have arrived here first.
                Some(stamped) => {
                    self.values.merge(copy(stamped, terms.time.written(stamped, terms.now)), Resolution::Newest);
                }
                None => {
                    self.values.put(copy(version, terms.now));
                    self.mark_unstored();
                }
            }
            match (terms.schema.get(change.index).in_cookie(), &mut self.kind) {
                (true, _) => self.bump_revision(),
                (false, Kind::Session { browser, .. }) => browser.has_server_only |= change.version.is_none(),
                (false, _) => {}
            }
        }
        if terms.scope == WriteScope::ClearAll {
            self.values.note_cleared(terms.stamp.unwrap_or(version));
            if self.values.tombstone_undeclared(version, terms.now) {
                self.mark_unstored();
                self.bump_revision();
            }
        }
        self.count_change();
    }

    /// Returns the bytes of JSON that browsers carry of this record, and the free bytes.
    #[cfg(feature = "inspector")]
    pub(crate) fn json_room(&self, terms: WriteContext<'_>) -> JsonRoom {
        let taken = UsedBytes::of(self.sizes(terms), terms);
        let room = terms.reserved.map_or(0, |(_, room)| room);
        JsonRoom {
            used: self.sizes(terms).filter_map(|(_, json)| json).sum(),
            free: terms.budget.saturating_sub(taken.others + taken.identity.max(room)),
        }
    }

    /// Returns the sizes of this record's cookie entries.
    fn sizes<'a>(&'a self, terms: WriteContext<'a>) -> impl Iterator<Item = Sized<'a>> + Clone {
        self.cookie_entries(terms.schema).map(|(name, stored)| (name, stored.json.as_ref().map(|json| json.len())))
    }
}

/// Returns the three largest declared entries, with the bytes of their JSON.
fn largest<'a>(sizes: impl Iterator<Item = Sized<'a>>, terms: WriteContext<'_>) -> Vec<(&'static str, usize)> {
    let mut sizes: Vec<_> = sizes.collect();
    sizes.sort_unstable_by_key(|(name, json)| (std::cmp::Reverse(entry_len(name.len(), *json)), *name));
    let declared = sizes.iter().filter_map(|(name, json)| {
        let index = terms.schema.index_by_name(name)?;
        Some((terms.schema.get(index).name, (*json)?))
    });
    declared.take(3).collect()
}
