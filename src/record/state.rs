//! The state of a record at one moment: its values, its end, its revision, and the merge of copies. Pure: no lock, no
//! waiting, no clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    change::{IncomingFrom, IncomingValue, MergeResult, WriteContext},
    cookie_sync::{CookieSnapshot, CookieSync, TokenFingerprint},
};
use crate::{
    error::CloseReason,
    node_clock::NodeClock,
    record::{
        life::{End, SessionLife},
        values::{Resolution, StoredValue, ValueSlot, Values},
    },
    time::Millis,
    value::{Schema, Scope, ValueIndex, ValueSpec},
    version::Version,
};

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) values: Values,
    pub(crate) kind: Kind,
    /// The number of the last change that browsers carry. One counter of the process gives all revisions, so no two
    /// states of any records share a revision.
    revision: u64,
    /// The number of changes so far, so that streams detect skipped changes. The number wraps.
    pub(crate) changes: u32,
    /// The bytes last counted towards the tier's bound.
    pub(crate) counted: u32,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Session { life: SessionLife, browser: CookieSync },
    Principal(PrincipalState),
    Ended(Box<End>),
}

/// The state of a principal's record beside the values.
#[derive(Debug, Default)]
pub(crate) struct PrincipalState {
    pub(crate) idle: Duration,
    /// All sessions of this principal whose id was made up to this version have ended.
    pub(crate) not_before: Version,
    /// The time at which `not_before` was set.
    pub(crate) revoked: Millis,
    /// See [`State::mark_unstored`].
    pub(crate) unstored: bool,
    /// The time until which the newest tombstone of a value must be kept.
    pub(crate) removals: Millis,
}

fn next_revision() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl State {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { values: Values::default(), kind, revision: next_revision(), changes: 0, counted: 0 }
    }

    /// Returns the state of the successor session: all values of this session, under an id that no browser has yet.
    pub(crate) fn successor_state(&self, life: SessionLife) -> Self {
        let (has_server_only, has_unstored) = match &self.kind {
            // Only declared values are written to a store.
            Kind::Session { browser, .. } => {
                (browser.has_server_only, browser.has_unstored || self.values.has_untold())
            }
            Kind::Principal(_) | Kind::Ended(_) => (false, true),
        };
        let browser = CookieSync { has_server_only, has_unstored, ..CookieSync::default() };
        // Continues the count of changes, since each copy keeps the count of the change that brought the copy.
        // No write that a clear could outrun is under way to the new id.
        Self {
            values: self.values.without_clear(),
            changes: self.changes,
            ..Self::new(Kind::Session { life, browser })
        }
    }

    /// Ends the record: only the [`End`] stays.
    pub(crate) fn end(&mut self, end: End) {
        let (changes, counted) = (self.changes, self.counted);
        *self = Self { changes, counted, ..Self::new(Kind::Ended(Box::new(end))) };
        self.count_change();
    }

    /// Returns the number of the last change that browsers carry.
    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Notes a change of the content that browsers carry.
    pub(super) fn bump_revision(&mut self) {
        self.revision = next_revision();
        if let Kind::Session { browser, .. } = &mut self.kind {
            browser.complete = false;
        }
    }

    pub(crate) const fn count_change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// Returns the fingerprint of the browser's token, and the snapshot that the token holds.
    pub(crate) fn cookie(&self) -> Option<(TokenFingerprint, CookieSnapshot)> {
        let Kind::Session { life, browser } = &self.kind else { return None };
        browser.snapshot(self.revision, life)
    }

    /// Notes that the browser has this token from now on.
    pub(crate) fn set_cookie(&mut self, fingerprint: TokenFingerprint, snapshot: CookieSnapshot) {
        let revision = self.revision;
        if let Kind::Session { browser, .. } = &mut self.kind {
            browser.set(fingerprint, snapshot, revision);
        }
    }

    /// Whether an eviction loses nothing: the store has all of the record, or the cookie and the store together have
    /// all.
    pub(crate) fn is_clean(&self) -> bool {
        match &self.kind {
            Kind::Session { life, browser } => {
                // A lifetime that was given to this session alone is in tokens only: the store then lacks a part of the
                // session.
                let stored = !browser.has_unstored && life.lifetime_version() == Version::ZERO;
                stored || browser.complete && !browser.has_server_only
            }
            Kind::Principal(principal) => !principal.unstored,
            Kind::Ended(_) => false,
        }
    }

    /// Marks that the record holds data that no store has acknowledged. A record that was never marked is empty or
    /// fully stored.
    pub(crate) const fn mark_unstored(&mut self) {
        match &mut self.kind {
            Kind::Session { browser: CookieSync { has_unstored: unstored, .. }, .. }
            | Kind::Principal(PrincipalState { unstored, .. }) => *unstored = true,
            Kind::Ended(_) => {}
        }
    }

    pub(crate) fn closed(&self, used: Millis, now: Millis) -> Option<CloseReason> {
        match &self.kind {
            Kind::Ended(end) => Some(end.reason),
            _ if self.deadline(used) <= now => Some(CloseReason::Expired),
            _ => None,
        }
    }

    pub(crate) fn check_live(&self, used: Millis, now: Millis) -> Result<(), CloseReason> {
        self.closed(used, now).map_or(Ok(()), Err)
    }

    pub(crate) fn deadline(&self, used: Millis) -> Millis {
        match &self.kind {
            Kind::Session { life, .. } => life.deadline(used),
            Kind::Principal(principal) => used.after(principal.idle),
            Kind::Ended(end) => end.until,
        }
    }

    /// Returns the time from which nothing needs the record any more. After a session's lifetime was shortened, the
    /// record stays as long as tokens of the longer lifetime open. A principal's record stays as long as a cookie could
    /// bring a removed value back.
    pub(crate) fn forget_after(&self, used: Millis) -> Millis {
        let longer = match &self.kind {
            Kind::Session { life, .. } => life.previous_deadline(),
            Kind::Principal(principal) => principal.removals,
            Kind::Ended(_) => Millis::default(),
        };
        self.deadline(used).max(longer)
    }

    /// Notes the removal of a value.
    pub(super) fn note_removal(&mut self, written: Millis, terms: WriteContext<'_>) {
        if let Kind::Principal(principal) = &mut self.kind {
            principal.removals = principal.removals.max(written.after(terms.tombstones));
        }
    }

    /// Runs `change` on a session's lifetime. Returns whether `change` changed the lifetime: then the caller must
    /// notify the watchers, since a timer may be set for an end that now comes earlier.
    #[must_use]
    pub(crate) fn change_lifetime(
        &mut self,
        now: Millis,
        change: impl FnOnce(&mut SessionLife, Millis) -> bool,
    ) -> bool {
        let Kind::Session { life, .. } = &mut self.kind else { return false };
        let before = life.deadline(now);
        let changed = change(life, before);
        if changed {
            self.bump_revision();
            self.count_change();
        }
        changed
    }

    /// Returns the idle lifetime of the owner.
    pub(crate) fn idle(&self) -> Duration {
        match &self.kind {
            Kind::Session { life, .. } => life.idle(),
            Kind::Principal(principal) => principal.idle,
            Kind::Ended(_) => Duration::ZERO,
        }
    }

    /// Returns the lifetime of a living session's record.
    pub(crate) fn life(&self) -> Option<&SessionLife> {
        match &self.kind {
            Kind::Session { life, .. } => Some(life),
            Kind::Principal(_) | Kind::Ended(_) => None,
        }
    }

    pub(crate) fn absolute_deadline(&self) -> Option<Millis> {
        self.life().map(SessionLife::absolute_deadline)
    }

    /// Returns the version at which the session's id was made. A version from a clock further ahead than the allowed
    /// skew is replaced by the beginning of the session in node time.
    pub(crate) fn birth(&self, time: &NodeClock, now: Millis) -> Option<Version> {
        let life = self.life()?;
        let is_ahead = life.birth() > time.bound(now);
        Some(if is_ahead { Version::last_at(time.wall(life.created())) } else { life.birth() })
    }

    /// Returns the version up to which all ids of this principal's sessions have ended.
    pub(crate) fn not_before(&self) -> Version {
        match &self.kind {
            Kind::Principal(principal) => principal.not_before,
            _ => Version::ZERO,
        }
    }

    /// Returns the revision; 0 for an empty principal's record, which equals a missing record.
    pub(crate) fn cookie_revision(&self) -> u64 {
        if self.is_empty() { 0 } else { self.revision }
    }

    /// Whether this is a principal's record without values or a revocation, which exists only for its holders.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.kind, Kind::Principal(principal) if principal.not_before == Version::ZERO)
            && self.values.is_empty()
    }

    /// Whether the record is empty and its bytes were never counted: then its removal loses nothing.
    pub(crate) fn is_never_used(&self) -> bool {
        self.counted == 0 && self.is_empty()
    }

    /// Returns the copy or tombstone of a value that answers. Once that copy has expired, a newer copy beside it
    /// answers.
    pub(crate) fn slot(&self, schema: &Schema, index: ValueIndex, now: Millis) -> Option<&ValueSlot> {
        let is_live = |slot: &&ValueSlot| !slot.value.is_expired(schema.get(index).max_age, now);
        let slot = self.values.slot(index)?;
        Some(slot).filter(is_live).or_else(|| self.values.unread(index).filter(is_live))
    }

    pub(crate) fn value(&self, schema: &Schema, index: ValueIndex, now: Millis) -> Option<&StoredValue> {
        self.slot(schema, index, now).map(|slot| &slot.value)
    }

    /// Returns the entries of the browser's cookie: the newest copy of each declared value, and all undeclared values.
    /// A session's record also gives values of principal scope, chosen before an outer layer named the principal: these
    /// values belong to the browser.
    pub(crate) fn cookie_entries<'a>(
        &'a self,
        schema: &'a Schema,
    ) -> impl Iterator<Item = (&'a str, &'a StoredValue)> + Clone {
        let session = self.life().is_some();
        let declared = self.values.declared().filter_map(move |slot| {
            let spec: &ValueSpec = schema.get(slot.index);
            let ours = session || spec.scope == Scope::Principal;
            let copy = self.values.unread(slot.index).unwrap_or(slot);
            (spec.in_cookie() && ours).then_some((spec.name, &copy.value))
        });
        declared.chain(self.values.undeclared())
    }

    /// Merges copies that keep their versions.
    pub(crate) fn merge<'a>(
        &mut self,
        from: IncomingFrom,
        entries: impl Iterator<Item = IncomingValue<'a>>,
        terms: WriteContext<'_>,
        mut filled: Option<&mut Vec<(ValueIndex, Version)>>,
    ) -> MergeResult {
        self.values.reserve(entries.size_hint().1.unwrap_or(0));
        let resolution = match from {
            IncomingFrom::Browser(resolution) => resolution,
            IncomingFrom::Store => Resolution::Newest,
        };
        let (mut changed, mut same) = (false, true);
        for entry in entries {
            if entry.value().json.is_none() {
                self.note_removal(entry.value().written, terms);
            }
            let newest = match &entry {
                IncomingValue::Declared(copy) => self.values.newest_copy(copy.index),
                IncomingValue::Undeclared(name, _) => {
                    self.values.undeclared().find(|(other, _)| other == name).map(|(_, stored)| stored)
                }
            };
            // Compare the bytes too: two nodes can write at the same version, and the losing copy's browser must be
            // healed.
            same &= newest.is_none_or(|newest| !entry.value().loses_to(newest));
            changed |= match entry {
                IncomingValue::Declared(copy) => {
                    let (index, version) = (copy.index, copy.value.version);
                    let expired = copy.value.is_expired(terms.schema.get(index).max_age, terms.now);
                    let merged = !expired && self.values.merge(ValueSlot { change: self.changes, ..copy }, resolution);
                    if merged && let Some(filled) = filled.as_deref_mut() {
                        filled.push((index, version));
                    }
                    same &= !expired;
                    merged
                }
                IncomingValue::Undeclared(name, value) => self.values.merge_undeclared(&name, value),
            };
        }
        if changed {
            if matches!(from, IncomingFrom::Browser(_)) {
                self.mark_unstored();
            }
            self.bump_revision();
            self.count_change();
        }
        MergeResult { changed, same, revision: self.revision }
    }

    /// Returns the bytes on the heap beside the record itself. A test of the memory tier compares them with an
    /// allocator.
    pub(crate) fn heap_bytes(&self) -> usize {
        let boxed = match &self.kind {
            Kind::Session { life, browser } => life.heap_bytes() + browser.heap_bytes(),
            Kind::Ended(_) => size_of::<End>(),
            Kind::Principal(_) => 0,
        };
        self.values.heap_bytes() + boxed
    }

    /// Empties a principal's record after its idle time. The tombstones and the newest known version stay, so that a
    /// later cookie can't bring a removed value back.
    pub(crate) fn clear_keeping_tombstones(&mut self) {
        self.values.clear_keeping_tombstones();
        self.bump_revision();
        self.count_change();
    }
}

#[cfg(test)]
mod tests;
