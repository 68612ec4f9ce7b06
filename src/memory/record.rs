//! One owner's record in this process: the values, the session's life, and the watchers.
//!
//! Lock order: the map's shard, then the record. Under a record's lock no other lock of this crate is taken, except the
//! lock of a new record that no other thread can reach yet. No code of the application and no await runs under the
//! lock.

use std::{
    iter,
    ops::{Deref, DerefMut},
    time::Duration,
};

use once_cell::race::OnceBox;

use crate::{
    error::CloseReason,
    id::{PrincipalTag, RecordKey, SessionId},
    node_clock::NodeClock,
    record::{
        change::{CommitRejected, IncomingFrom, IncomingValue, MergeResult, Mutation, WriteContext},
        cookie_sync::CookieSync,
        life::{End, Lifetime, SessionLife, Successor},
        state::{Kind, PrincipalState, State},
        values::{StoredValue, ValueSlot},
    },
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Millis,
    value::{Schema, ValueIndex},
    version::Version,
};

pub(crate) mod extras;

/// The bytes of a record without its heap: the sum of the record, the two counters of its `Arc`, the pointer in the
/// index, and nine bytes of its shard's table, which become 14 as the table is between seven sixteenths and seven
/// eighths full.
pub(super) const BASE_BYTES: usize = size_of::<Record>() + 2 * size_of::<usize>() + size_of::<usize>() + 14;

/// One record, of 232 bytes for a session with one short value (measured in the tests of the memory tier).
#[derive(Debug)]
pub(crate) struct Record {
    /// In the record and not in the map: a map can have room for twice as many entries as it holds.
    key: RecordKey,
    state: RwLock<State>,
    /// The last use, in milliseconds. Outside the lock, so that a read needs no write lock.
    used: AtomicU64,
    /// A copy of [`State::revision`], to check for changes without the lock: threads that read the same session would
    /// contend for the lock's cache line.
    revision: AtomicU64,
    /// The record's place in the expiry index.
    pub(super) place: IndexSlot,
    extras: OnceBox<extras::RecordExtras>,
}

/// The place of a record in the index of expiry, changed only under the index's lock.
#[derive(Debug, Default)]
pub(super) struct IndexSlot {
    /// 0 for a record that is not in the index: no deadline is in the first minute of 1970.
    minute: AtomicU32,
    at: AtomicU32,
}

impl IndexSlot {
    pub(super) fn is_none(&self) -> bool {
        self.minute.load(Ordering::Relaxed) == 0
    }

    pub(super) fn set(&self, minute: u32, at: usize) {
        self.at.store(at as u32, Ordering::Relaxed);
        self.minute.store(minute, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> (u32, usize) {
        (self.minute.load(Ordering::Relaxed), self.at.load(Ordering::Relaxed) as usize)
    }
}

impl Record {
    pub(crate) fn session(key: RecordKey, life: SessionLife, used: Millis) -> Self {
        Self::new(key, Kind::Session { life, browser: CookieSync::default() }, used)
    }

    pub(crate) fn principal(key: RecordKey, idle: Duration, now: Millis) -> Self {
        Self::new(key, Kind::Principal(PrincipalState { idle, ..PrincipalState::default() }), now)
    }

    fn new(key: RecordKey, kind: Kind, used: Millis) -> Self {
        let state = State::new(kind);
        Self {
            key,
            used: AtomicU64::new(used.0),
            revision: AtomicU64::new(state.revision()),
            place: IndexSlot::default(),
            extras: OnceBox::new(),
            state: RwLock::new(state),
        }
    }

    /// Returns the id of a session's record: the key of a session's record is the id itself.
    pub(crate) const fn id(&self) -> SessionId {
        SessionId::from_bytes(self.key.0)
    }

    pub(crate) const fn key(&self) -> &RecordKey {
        &self.key
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub(crate) fn write(&self) -> StateGuard<'_> {
        StateGuard { state: self.state.write(), revision: &self.revision }
    }

    /// Returns [`State::revision`] without a lock.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn used(&self) -> Millis {
        Millis(self.used.load(Ordering::Relaxed))
    }

    /// Counts a use at a present or past time.
    pub(crate) fn touch(&self, used: Millis) {
        // Write only a later use: otherwise threads that read the same session would contend for the cache line.
        if self.used() < used {
            self.used.fetch_max(used.0, Ordering::Relaxed);
        }
    }

    /// Sets the last use, also to an earlier time.
    pub(crate) fn set_used(&self, used: Millis) {
        self.used.store(used.0, Ordering::Relaxed);
    }

    /// Notes that a request has brought the session's cookie. Only the first call takes the write lock.
    pub(crate) fn confirm(&self) {
        if self.is_confirmed() {
            return;
        }
        if let Kind::Session { browser, .. } = &mut self.write().kind {
            browser.confirmed = true;
        }
    }

    /// Whether a request has brought the session's cookie; true for other records.
    pub(crate) fn is_confirmed(&self) -> bool {
        match &self.read().kind {
            Kind::Session { browser, .. } => browser.confirmed,
            _ => true,
        }
    }

    /// Returns the reason why the record can't be used any more, if there is one.
    pub(crate) fn closed(&self, now: Millis) -> Option<CloseReason> {
        self.read().closed(self.used(), now)
    }

    /// Returns the time at which the record expires without another use.
    pub(crate) fn deadline(&self) -> Millis {
        self.read().deadline(self.used())
    }

    /// Returns the time from which nothing needs the record any more: see [`State::forget_after`].
    pub(crate) fn forget_after(&self) -> Millis {
        self.read().forget_after(self.used())
    }

    /// Runs `read` on the state, unless the record is closed.
    pub(crate) fn live<T>(&self, now: Millis, read: impl FnOnce(&State) -> T) -> Result<T, CloseReason> {
        self.read_live(now).map(|state| read(&state))
    }

    /// Commits the application's changes, all or none, and notifies the watchers. Returns the version of the changes.
    pub(crate) fn commit(&self, changes: &[Mutation], terms: WriteContext<'_>) -> Result<Version, CommitRejected> {
        // The record may already hold a change with a later stamp of the store, which arrived here first.
        let stamped = changes.iter().filter_map(|change| {
            let value = StoredValue::new(change.version?, change.json.clone(), terms.now);
            Some(IncomingValue::Declared(ValueSlot::local(change.index, value)))
        });
        let version = {
            let (mut state, _) = self.write_decided(stamped, terms).map_err(CommitRejected::Closed)?;
            state.prune(terms);
            state.check_budget(changes, terms)?;
            let version = terms.time.fresh(terms.now, state.values.newest());
            state.apply(changes, version, terms);
            self.touch(terms.now);
            version
        };
        self.notify_all();
        Ok(version)
    }

    /// Merges the lifetime that another node gave the session, by the rule of [`SessionLife::merge`] or
    /// [`SessionLife::merge_stored`]. Returns whether the lifetime has changed.
    pub(crate) fn merge_life(
        &self,
        other: &SessionLife,
        merge: impl FnOnce(&mut SessionLife, &SessionLife, Millis) -> bool,
        now: Millis,
    ) -> bool {
        if other.lifetime_version() == Version::ZERO {
            return false;
        }
        let changed = self.write().change_lifetime(now, |life, before| merge(life, other, before));
        if changed {
            self.notify_all();
        }
        changed
    }

    /// Sets the version at which the session's id was made.
    pub(crate) fn set_birth(&self, birth: Version) {
        if let Kind::Session { life, .. } = &mut self.write().kind {
            life.set_birth(birth);
        }
    }

    /// Gives the session a lifetime of its own, and counts a use: a shorter idle lifetime begins now, and does not end
    /// the session at once.
    pub(crate) fn set_lifetime(&self, lifetime: Lifetime, version: Version, now: Millis) -> Result<(), CloseReason> {
        {
            let mut state = self.write();
            state.check_live(self.used(), now)?;
            let _ = state.change_lifetime(now, |life, before| {
                life.set_lifetime(lifetime, version, before);
                true
            });
            self.touch(now);
        }
        self.notify_all();
        Ok(())
    }

    /// Empties a principal's record that was not used for its idle time, so that the next write or merge begins with an
    /// empty record. Call this before a use is counted: the use would bring the old values back.
    pub(crate) fn reset_if_idle(&self, state: &mut State, now: Millis) {
        if matches!(state.kind, Kind::Principal(_)) && state.deadline(self.used()) <= now {
            state.clear_keeping_tombstones();
            if let Some(sync) = self.sync() {
                sync.forget_known();
            }
            self.touch(now);
        }
    }

    /// Returns the version up to which all sessions of this principal have ended. A version from a clock further ahead
    /// than the allowed skew is corrected, since the version must not end sessions that began after the revocation.
    pub(crate) fn not_before(&self, time: &NodeClock, now: Millis) -> Version {
        let known = self.read().not_before();
        if known <= time.bound(now) {
            return known;
        }
        let Kind::Principal(principal) = &mut self.write().kind else { return known };
        principal.not_before = principal.not_before.min(Version::last_at(time.wall(principal.revoked)));
        principal.not_before
    }

    /// Raises the version up to which all sessions of this principal have ended, and keeps the record for at least this
    /// span. Returns whether the version was raised.
    pub(crate) fn raise_not_before(&self, version: Version, keep: Duration, now: Millis) -> bool {
        if version <= self.read().not_before() {
            return false;
        }
        let mut state = self.write();
        self.reset_if_idle(&mut state, now);
        let Kind::Principal(principal) = &mut state.kind else { return false };
        (principal.not_before, principal.revoked) = (principal.not_before.max(version), now);
        principal.idle = principal.idle.max(keep);
        self.touch(now);
        true
    }

    /// Checks whether the record would accept the changes, without applying them.
    pub(crate) fn check_budget(&self, changes: &[Mutation], terms: WriteContext<'_>) -> Result<(), CommitRejected> {
        let state = self.read();
        match state.closed(self.used(), terms.now) {
            Some(closed) if !matches!(state.kind, Kind::Principal(_)) => Err(CommitRejected::Closed(closed)),
            _ => state.check_budget(changes, terms),
        }
    }

    /// Merges copies with their versions into the record, and notifies the watchers of a change. A closed session
    /// merges nothing. `filled` gets the declared values that changed.
    pub(crate) fn merge<'a>(
        &self,
        from: IncomingFrom,
        entries: impl Iterator<Item = IncomingValue<'a>> + Clone,
        terms: WriteContext<'_>,
        filled: Option<&mut Vec<(ValueIndex, Version)>>,
    ) -> MergeResult {
        let merged = {
            let Ok((mut state, readable)) = self.write_decided(entries.clone(), terms) else {
                return MergeResult { changed: false, same: false, revision: self.revision() };
            };
            state.merge(from, decided(entries, &readable), terms, filled)
        };
        if merged.changed {
            self.notify_all();
        }
        merged
    }

    /// Decides for each pair of copies that meet whether this build can read them, and then locks the state for
    /// changes. Returns the lock, and the decisions for the incoming copies. The code of the value types runs without
    /// the lock, and runs again if other threads bring copies meanwhile. In an empty record no copies meet, which is
    /// the common case.
    ///
    /// Versions from a clock further ahead than the allowed skew are corrected, since these versions would win all
    /// merges until their time comes. Versions that a store gives are kept as they are.
    fn write_decided<'a>(
        &self,
        entries: impl Iterator<Item = IncomingValue<'a>> + Clone,
        terms: WriteContext<'_>,
    ) -> Result<(StateGuard<'_>, Vec<Option<bool>>), CloseReason> {
        let mut readable = Vec::new();
        loop {
            let mut state = self.write();
            let is_decided = |entry| match entry {
                IncomingValue::Declared(copy) => state.values.is_decided(&copy),
                IncomingValue::Undeclared(..) => true,
            };
            if state.values.is_empty() || decided(entries.clone(), &readable).all(is_decided) {
                self.reset_if_idle(&mut state, terms.now);
                state.check_live(self.used(), terms.now)?;
                if !terms.store_stamps {
                    state.values.correct_future_versions(terms.time, terms.now);
                }
                return Ok((state, readable));
            }
            drop(state);
            readable = entries.clone().map(|entry| self.decide(&entry, terms.schema)).collect();
        }
    }

    /// Returns whether this build can read an incoming copy that meets a current copy; `None` if no copies meet. Notes
    /// in the record whether this build can read the current copy.
    fn decide(&self, entry: &IncomingValue<'_>, schema: &Schema) -> Option<bool> {
        let IncomingValue::Declared(incoming) = entry else { return None };
        let can_read = |copy: &ValueSlot| match &copy.value.json {
            Some(json) => (schema.get(copy.index).check)(json).is_ok(),
            None => true,
        };
        let current = self.read().values.slot(incoming.index).cloned();
        let current = current.filter(|current| !current.is_same(incoming))?;
        if current.readable.is_none() {
            let readable = can_read(&current);
            self.write().values.decide(&current, readable);
        }
        incoming.readable.or_else(|| Some(can_read(incoming)))
    }

    /// Ends the record as of `at`, unless the record is closed already, and notifies the watchers.
    pub(crate) fn end(
        &self,
        reason: CloseReason,
        principal: Option<PrincipalTag>,
        successor: Successor,
        at: Millis,
        now: Millis,
    ) -> Result<(), CloseReason> {
        let ended = self.end_with(reason, principal, (at, now), |_| Ok(successor));
        self.notify_all();
        ended.map_err(|refused| match refused {
            CommitRejected::Closed(closed) => closed,
            CommitRejected::Outdated | CommitRejected::TooLarge(_) => reason,
        })
    }

    /// Runs `succeed`, which may create a successor from the present state, and ends the record if `succeed` returns a
    /// [`Successor`]. Notifies no watchers: the caller does.
    pub(crate) fn end_with(
        &self,
        reason: CloseReason,
        principal: Option<PrincipalTag>,
        (at, now): (Millis, Millis),
        succeed: impl FnOnce(&State) -> Result<Successor, CommitRejected>,
    ) -> Result<(), CommitRejected> {
        let mut state = self.write();
        state.check_live(self.used(), now).map_err(CommitRejected::Closed)?;
        let successor = succeed(&state)?;
        let until = state.absolute_deadline().unwrap_or(now).max(state.forget_after(self.used()));
        state.end(End { reason, at, until, principal, successor });
        Ok(())
    }

    /// Returns the end of the record, if the record has ended.
    pub(crate) fn end_of(&self) -> Option<End> {
        match &self.read().kind {
            Kind::Ended(end) => Some(End::clone(end)),
            Kind::Session { .. } | Kind::Principal(_) => None,
        }
    }

    pub(crate) fn read_live(&self, now: Millis) -> Result<RwLockReadGuard<'_, State>, CloseReason> {
        let state = self.read();
        state.check_live(self.used(), now)?;
        Ok(state)
    }
}

/// A write lock of the state, which publishes the revision when dropped.
pub(crate) struct StateGuard<'a> {
    state: RwLockWriteGuard<'a, State>,
    revision: &'a AtomicU64,
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        self.revision.store(self.state.revision(), Ordering::Release);
    }
}

/// Adds to each copy the decision whether this build can read the copy, if there is a decision.
fn decided<'a>(
    entries: impl Iterator<Item = IncomingValue<'a>> + Clone,
    readable: &[Option<bool>],
) -> impl Iterator<Item = IncomingValue<'a>> + Clone {
    let readable = readable.iter().copied().chain(iter::repeat(None));
    entries.zip(readable).map(|(entry, readable)| match entry {
        IncomingValue::Declared(copy) => {
            IncomingValue::Declared(ValueSlot { readable: copy.readable.or(readable), ..copy })
        }
        IncomingValue::Undeclared(..) => entry,
    })
}
