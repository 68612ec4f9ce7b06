//! One owner's record in this process: the values, the session's life, and who waits for changes.
//!
//! Lock order: the map's shard, then the record. While a record's lock is held no other lock of ours is taken, but for a
//! new record's that nobody else can reach yet. Nothing of the application's runs under it, and nothing is awaited.

use std::{
    iter,
    ops::{Deref, DerefMut},
    time::Duration,
};

use once_cell::race::OnceBox;

use super::expiry::IndexSlot;
use crate::{
    error::CloseReason,
    id::{PrincipalTag, RecordKey, SessionId},
    node_clock::NodeClock,
    record::{
        change::{IncomingValue, MergeResult, Mutation},
        cookie_sync::CookieSync,
        life::{End, Lifetime, SessionLife, Successor},
        state::{Kind, PrincipalState, State},
        values::{StoredValue, ValueSlot},
        write_context::{CommitRejected, IncomingFrom, WriteContext},
    },
    sync::{
        RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Millis,
    value::{Schema, ValueIndex},
    version::Version,
};

mod extras;

/// The bytes of a record without its heap: the record, the two counters of its `Arc`, its place in the index, and nine bytes
/// of its shard's table, which is between seven sixteenths and seven eighths full.
pub(super) const BASE_BYTES: usize = size_of::<Record>() + 2 * size_of::<usize>() + size_of::<usize>() + 14;

/// One record, of 232 bytes for a session with one short value (measured in the tests of the memory tier).
#[derive(Debug)]
pub(crate) struct Record {
    /// Here and not in the map: a map has room for twice as many entries as it holds, at the worst.
    key: RecordKey,
    state: RwLock<State>,
    /// Last use, in milliseconds. Apart from the lock, so that a read stays a read.
    used: AtomicU64,
    /// [`State::revision`], for those who only want to know whether anything has changed: each of threads that read one
    /// session takes the lock from the others.
    revision: AtomicU64,
    /// Where the index of expiry has it.
    pub(super) place: IndexSlot,
    extras: OnceBox<extras::RecordExtras>,
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

    /// The id of the session whose record this is: a session's record is found by its id itself.
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

    /// The stamp of what browsers carry of it, without a lock.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn used(&self) -> Millis {
        Millis(self.used.load(Ordering::Relaxed))
    }

    /// Counts a use, of now or of long ago.
    pub(crate) fn touch(&self, used: Millis) {
        // Only where the use is later: threads that read one session would take the line from each other.
        if self.used() < used {
            self.used.fetch_max(used.0, Ordering::Relaxed);
        }
    }

    /// Notes that a request has brought the session's cookie. Once: later requests only read.
    pub(crate) fn confirm(&self) {
        if self.is_confirmed() {
            return;
        }
        if let Kind::Session { browser, .. } = &mut self.write().kind {
            browser.confirmed = true;
        }
    }

    /// Whether a request has brought the session's cookie, as far as a session is concerned.
    pub(crate) fn is_confirmed(&self) -> bool {
        match &self.read().kind {
            Kind::Session { browser, .. } => browser.confirmed,
            _ => true,
        }
    }

    /// Why it can't be used any more.
    pub(crate) fn closed(&self, now: Millis) -> Option<CloseReason> {
        self.read().closed(self.used(), now)
    }

    /// When it is over if nobody uses it again.
    pub(crate) fn deadline(&self) -> Millis {
        self.read().deadline(self.used())
    }

    /// Until when a shared store has to have it: it isn't told of each use of a session, of which memory and the seal know.
    pub(crate) fn expires(&self) -> Millis {
        let state = self.read();
        state.absolute_deadline().unwrap_or_else(|| state.forget_after(self.used()))
    }

    /// When nothing that somebody may still hold of it can matter any more.
    pub(crate) fn forget_after(&self) -> Millis {
        self.read().forget_after(self.used())
    }

    /// Runs a reader on the state if it is not closed.
    pub(crate) fn live<T>(&self, now: Millis, read: impl FnOnce(&State) -> T) -> Result<T, CloseReason> {
        self.read_live(now).map(|state| read(&state))
    }

    /// Makes changes that the application asks for, all or none, and tells who waits. Returns the version they got.
    pub(crate) fn commit(&self, changes: &[Mutation], terms: WriteContext<'_>) -> Result<Version, CommitRejected> {
        // What a store has stamped may meet what came past it on the way here.
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

    /// Takes over another node's word on how long the session lives, if it is newer.
    pub(crate) fn merge_life(&self, other: &SessionLife, now: Millis) {
        if other.lifetime_version() == Version::ZERO {
            return;
        }
        let changed = self.write().change_lifetime(now, |life, before| life.merge(other, before));
        if changed {
            self.notify_all();
        }
    }

    /// Gives the session a lifetime of its own, as a use of it: a shorter idle time begins now, it does not end the
    /// session at once.
    pub(crate) fn set_lifetime(&self, lifetime: Lifetime, time: &NodeClock, now: Millis) -> Result<(), CloseReason> {
        {
            let mut state = self.write();
            state.check_live(self.used(), now)?;
            let Kind::Session { life, .. } = &state.kind else { return Err(CloseReason::Expired) };
            let version = time.fresh(now, life.lifetime_version());
            let _ = state.change_lifetime(now, |life, before| {
                life.set_lifetime(lifetime, version, before);
                true
            });
            self.touch(now);
        }
        self.notify_all();
        Ok(())
    }

    /// Empties a principal's record that was not used for its idle time: whatever is written or brought now begins
    /// another. To be called before anything counts as use of it, which would bring the old one back.
    pub(crate) fn reset_if_idle(&self, state: &mut State, now: Millis) {
        if matches!(state.kind, Kind::Principal(_)) && state.deadline(self.used()) <= now {
            state.clear_keeping_tombstones();
            self.touch(now);
        }
    }

    /// The moment up to which all sessions of this principal have ended. Said by a clock that was further ahead than the
    /// allowed skew, it is put right: it must not end what began later.
    pub(crate) fn not_before(&self, time: &NodeClock, now: Millis) -> Version {
        let known = self.read().not_before();
        if known <= time.bound(now) {
            return known;
        }
        let Kind::Principal(principal) = &mut self.write().kind else { return known };
        principal.not_before = principal.not_before.min(Version::last_at(time.wall(principal.revoked)));
        principal.not_before
    }

    /// Whether the changes would be taken, without making them.
    pub(crate) fn check_budget(&self, changes: &[Mutation], terms: WriteContext<'_>) -> Result<(), CommitRejected> {
        let state = self.read();
        match state.closed(self.used(), terms.now) {
            Some(closed) if !matches!(state.kind, Kind::Principal(_)) => Err(CommitRejected::Closed(closed)),
            _ => state.check_budget(changes, terms),
        }
    }

    /// Merges copies of this record's owner that carry their versions, unless the session is over. `filled` gets the
    /// declared values that changed.
    pub(crate) fn merge<'a>(
        &self,
        from: IncomingFrom,
        entries: impl Iterator<Item = IncomingValue<'a>> + Clone,
        terms: WriteContext<'_>,
        filled: Option<&mut Vec<(ValueIndex, Version)>>,
    ) -> MergeResult {
        let joined = {
            let Ok((mut state, readable)) = self.write_decided(entries.clone(), terms) else {
                return MergeResult { changed: false, same: false, revision: self.revision() };
            };
            state.merge(from, decided(entries, &readable), terms, filled)
        };
        if joined.changed {
            self.notify_all();
        }
        joined
    }

    /// Locks the state for changes once it is known of the copies that meet there whether this build can read them, and
    /// returns that of the incoming copies. The value types' code runs without the lock, and again for the copies that
    /// others bring meanwhile. Most copies meet none, in an empty record.
    ///
    /// Versions that a clock gave which was further ahead than the allowed skew are put right: they would win until that
    /// time. Those of a store count as they are.
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

    /// Returns whether this build can read an incoming copy that meets another copy, of which the same is noted.
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

    /// Ends the record, unless it is over already. What waits on it is told.
    pub(crate) fn end(
        &self,
        reason: CloseReason,
        principal: Option<PrincipalTag>,
        sequel: Successor,
        now: Millis,
    ) -> Result<(), CloseReason> {
        let ended = self.end_with(reason, principal, now, |_| Ok(sequel));
        self.notify_all();
        ended.map_err(|refused| match refused {
            CommitRejected::Closed(closed) => closed,
            CommitRejected::Outdated | CommitRejected::TooLarge(_) => reason,
        })
    }

    /// Ends the record if `succeed`, which sees it as it is, has put a successor in its place. `succeed` returns what is
    /// noted as [`End::successor`]. Nobody is told yet.
    pub(crate) fn end_with(
        &self,
        reason: CloseReason,
        principal: Option<PrincipalTag>,
        now: Millis,
        succeed: impl FnOnce(&State) -> Result<Successor, CommitRejected>,
    ) -> Result<(), CommitRejected> {
        let mut state = self.write();
        state.check_live(self.used(), now).map_err(CommitRejected::Closed)?;
        let sequel = succeed(&state)?;
        let until = state.absolute_deadline().unwrap_or(now).max(state.forget_after(self.used()));
        state.end(End { reason, at: now, until, principal, successor: sequel });
        Ok(())
    }

    /// Returns how the record ended, if it has.
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

/// The state, locked to be changed.
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

/// The copies with what is known of whether this build can read each.
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
