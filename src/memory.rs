//! The memory tier: the records of this process, shared by handles, sockets and tabs.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicU64 as Counter},
};

pub(crate) use self::tombstones::EndedSession;
use self::{expiry::Expiry, owners::Owners, record::Record, shards::Shards, tombstones::Tombstones};
use crate::{
    id::RecordKey,
    record::{life::End, state::Kind},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    },
    throttle::{MINUTE, Throttle},
    time::Millis,
};

mod evict;
mod expiry;
pub(crate) mod owners;
pub(crate) mod record;
#[cfg(all(test, shuttle))]
mod schedules;
mod shards;
#[cfg(test)]
mod tests;
mod tombstones;

/// Values in this process's memory: the tier in front of all others, which makes changes live.
///
/// The tier is bounded by bytes. Above the bound the tier evicts records that no handle is using: clean records first,
/// and of a random sample of clean records the least recently used.
///
/// - A session's record is *clean* if the browser's cookie or the shared store has all values of the session, or if
///   both together have them.
/// - A principal's record is clean only if the store has all values: the principal can have any number of browsers, so
///   no single cookie proves that a copy remains.
/// - The store has the values that this node wrote to the store. Values that only a cookie brought are not in the
///   store.
///
/// The tier evicts a record that is not clean only if 256 records in a row were not clean either, and counts the
/// eviction as [`Stats::evicted_dirty`](crate::Stats::evicted_dirty).
///
/// A session with one short value takes 270 bytes in all, and more after a watch (48 bytes), an update (136 bytes), or a
/// read of a shared store (136 bytes).
///
/// ```
/// use layered_session::{CookieTier, KeyRing, MemoryTier, Sessions};
///
/// let memory = MemoryTier::builder().max_bytes(64 << 20).build();
/// # let keys = KeyRing::generate()?;
/// let sessions = Sessions::builder().tier(memory).tier(CookieTier::sealed(keys)).build()?;
/// assert_eq!(sessions.stats().bytes, 0);
/// # Ok::<_, layered_session::BuildError>(())
/// ```
///
/// # Tombstones
///
/// A session that is destroyed, revoked, renewed or signed in leaves a tombstone under its old id, so that a copy of
/// the old cookie opens nothing. The tombstone takes 190 bytes for a minute and then 40 bytes, until no token of that
/// id can still open, which is the absolute lifetime at most. An expired session leaves no tombstone: its cookies have
/// expired as well.
///
/// Tombstones may take a fourth of the bound, so that tombstones never push out living sessions. Plan for
///
/// ```text
/// max_bytes = 4 × 40 bytes × ends per second × absolute lifetime in seconds
/// ```
///
/// at least: one sign-out every two seconds and an absolute lifetime of 30 days need 208 MB, and the default of 256 MiB
/// holds 1.6 million tombstones.
///
/// At the cap, the tier first drops tombstones of sessions without a signed-in user. Then the tier takes a random
/// sample of sixteen tombstones, and drops the oldest tombstone of the user with the most tombstones in the sample.
/// Neither visitors nor one account can therefore erase the sign-outs of another account. Each loss is counted as
/// `revocations_lost` and traced as an error, since a copied cookie of such a session opens again on this node. The end
/// of all sessions of a user (`end_all_sessions`) is kept in the user's record, and such records are evicted last.
///
/// In the first minute a tombstone also keeps the reason of the end, so that a late request with the old id begins no
/// session. This data may take a sixteenth of the bound. Above that limit the tier drops the oldest data before its
/// minute is over: a request with such an id then counts as a request without a cookie, and a write in the request
/// begins a session.
#[derive(Clone, Debug)]
pub struct MemoryTier {
    pub(crate) max_bytes: usize,
}

impl MemoryTier {
    /// Returns a builder with a bound of 256 MiB.
    pub const fn builder() -> MemoryTierBuilder {
        MemoryTierBuilder(Self { max_bytes: 256 << 20 })
    }

    pub(crate) fn open(&self) -> Memory {
        Memory {
            owners: Arc::default(),
            records: Shards::new(self.max_bytes / size_of::<Record>()),
            tombstones: Tombstones::new(self.max_bytes),
            lost: Throttle::default(),
            expiry: Mutex::default(),
            due: AtomicU64::new(u64::MAX),
            bytes: AtomicUsize::new(0),
            max_bytes: self.max_bytes,
            evicted_clean: Counter::new(0),
            evicted_dirty: Counter::new(0),
            revocations_lost: Counter::new(0),
            expired: Counter::new(0),
        }
    }
}

/// Settings of a [`MemoryTier`].
///
/// ```
/// use layered_session::{BuildErrorKind, CookieTier, KeyRing, MemoryTier, Sessions};
///
/// let nothing = MemoryTier::builder().max_bytes(0).build();
/// # let keys = KeyRing::generate()?;
/// let refused = Sessions::builder().tier(nothing).tier(CookieTier::sealed(keys)).build();
/// assert_eq!(refused.unwrap_err().kind(), BuildErrorKind::Setting);
/// # Ok::<_, layered_session::BuildError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemoryTierBuilder(MemoryTier);

impl MemoryTierBuilder {
    /// Sets the bound: the maximum bytes of all records together, as the tier counts bytes.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.0.max_bytes = bytes;
        self
    }

    /// Builds the tier.
    pub const fn build(self) -> MemoryTier {
        self.0
    }
}

/// Lock order: the index of expiry, then a shard, then a record or the tombstones.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) records: Shards,
    pub(crate) owners: Arc<Owners>,
    pub(crate) tombstones: Tombstones,
    /// Limits the traces of tombstones dropped at the cap, and counts the losses between two traces.
    lost: Throttle,
    expiry: Mutex<Expiry>,
    /// The first minute in the index, in milliseconds, so that a call with no expiry work needn't lock the index.
    due: AtomicU64,
    bytes: AtomicUsize,
    max_bytes: usize,
    pub(crate) evicted_clean: Counter,
    pub(crate) evicted_dirty: Counter,
    pub(crate) revocations_lost: Counter,
    pub(crate) expired: Counter,
}

/// The due records that one call checks: more than one, so that expiry keeps up with creation.
const SWEEP_PER_CALL: usize = 2;

/// The holders of a record that no handle uses: the map and the index.
const INTERNAL_REFS: usize = 2;

/// The answer of memory to a look-up of a session.
#[derive(Debug)]
pub(crate) enum SessionLookup {
    /// The record of a session without an end. The session may have expired.
    Live(Arc<Record>),
    Ended(EndedSession),
    Unknown,
}

impl SessionLookup {
    fn of(record: Arc<Record>, now: Millis) -> Self {
        match record.end_of() {
            Some(end) => Self::Ended(EndedSession::of(end, now)),
            None => Self::Live(record),
        }
    }
}

impl Memory {
    /// Whether a handle holds a record, beside the caller's own reference.
    pub(crate) fn is_held(&self, record: &Arc<Record>) -> bool {
        Arc::strong_count(record) > 2 + usize::from(!record.place.is_none())
    }

    /// Looks up a session without counting a hit or a miss.
    pub(crate) fn session(&self, key: &RecordKey, now: Millis) -> SessionLookup {
        match self.records.get(key) {
            Some(record) => SessionLookup::of(record, now),
            // The tombstone is looked up after the record: an ended record is removed only after its tombstone is
            // inserted, so no end is missed.
            None => self.tombstones.find(key, now).map_or(SessionLookup::Unknown, SessionLookup::Ended),
        }
    }

    /// Returns the record of the session that a request's cookie names. Counts a hit or a miss; a tombstone is a hit.
    pub(crate) fn look_up(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.records.look_up(key, || self.tombstones.contains(key))
    }

    /// Returns the record of a session. Inserts a record from `make` if memory has neither a record nor a tombstone.
    /// While the session lives and the caller holds the record, no other record takes the key.
    pub(crate) fn session_or_insert(
        &self,
        key: &RecordKey,
        now: Millis,
        make: impl FnOnce() -> Record,
    ) -> Result<Arc<Record>, EndedSession> {
        match self.session(key, now) {
            SessionLookup::Live(record) => return Ok(record),
            SessionLookup::Ended(ended) => return Err(ended),
            SessionLookup::Unknown => {}
        }
        // Checked under the shard's lock: under the same lock a tombstone takes the place of an ended record.
        let make = || self.tombstones.find(key, now).map_or_else(|| Ok(make()), Err);
        let record = self.records.get_or_insert_with(key, make)?;
        match record.end_of() {
            None => Ok(record),
            Some(end) => Err(EndedSession::of(end, now)),
        }
    }

    /// Inserts the record of a new session, unless memory has a record or a tombstone of the id.
    pub(crate) fn create(&self, key: &RecordKey, now: Millis, make: impl FnOnce() -> Record) -> Option<Arc<Record>> {
        let mut made = false;
        let make = || {
            made = true;
            make()
        };
        self.session_or_insert(key, now, make).ok().filter(|_| made)
    }

    pub(crate) fn principal(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.records.get(key)
    }

    /// Returns the record of a principal, inserted if missing. While the caller holds the record, no other record takes
    /// the key.
    pub(crate) fn principal_or_insert(&self, key: &RecordKey, make: impl FnOnce() -> Record) -> Arc<Record> {
        self.records.get(key).unwrap_or_else(|| {
            let Ok(record) = self.records.get_or_insert_with(key, || Ok::<_, Infallible>(make()));
            record
        })
    }

    /// Inserts a tombstone for an id that memory does not know. Returns the earlier state of the id in memory.
    pub(crate) fn end_id(&self, key: &RecordKey, end: End, now: Millis) -> SessionLookup {
        let found = self.records.get_or_insert_with(key, || {
            let known = self.tombstones.find(key, now).map_or(SessionLookup::Unknown, SessionLookup::Ended);
            if matches!(known, SessionLookup::Unknown) {
                self.tombstones.insert(key, end);
            }
            Err(known)
        });
        self.note_lost_revocations(self.tombstones.make_room(), now);
        found.map_or_else(|known| known, |record| SessionLookup::of(record, now))
    }

    /// Drops a record whose creation failed.
    pub(crate) fn forget(&self, key: &RecordKey) {
        if let Some(record) = self.remove_if(key, |_, _| true) {
            self.sub_bytes(&record);
        }
    }

    /// Removes a record from the map and the index if `is_idle` returns true under the locks of both. Each record in
    /// the index is in the map too.
    fn remove_if(
        &self,
        key: &RecordKey,
        is_idle: impl FnOnce(&Arc<Record>, &mut Expiry) -> bool,
    ) -> Option<Arc<Record>> {
        let mut expiry = self.expiry.lock();
        let removed = self.records.remove_if(key, |record| is_idle(record, &mut expiry));
        if let Some(record) = &removed {
            expiry.remove(record);
        }
        self.publish_due(&expiry);
        removed
    }

    /// Releases a holder of a principal's record. The last holder removes a record that was never used.
    pub(crate) fn release(&self, record: Arc<Record>) {
        if !record.read().is_never_used() {
            return;
        }
        let key = *record.key();
        drop(record);
        self.remove_if(&key, |record, expiry| {
            let unused = record.read().is_never_used();
            // Under the shard's lock only another holder could clone the record, and there is no other holder.
            if unused && Arc::strong_count(record) == 1 + usize::from(!record.place.is_none()) {
                return true;
            }
            // A reader that holds the record at this moment may never release it here: index the record, so that it
            // expires.
            if unused {
                expiry.add(Arc::clone(record), record.forget_after());
            }
            false
        });
    }

    /// Counts the bytes of a changed record, or replaces an ended record with its tombstone. Then sweeps and evicts in
    /// a bounded number of steps.
    pub(crate) fn account_and_sweep(&self, record: &Arc<Record>, now: Millis) {
        let grown = self.add_bytes(record).unwrap_or_else(|| {
            self.replace_with_tombstone(record, now);
            0
        });
        if record.place.is_none() {
            let mut expiry = self.expiry.lock();
            // A record that has ended meanwhile is leaving the map: don't index it.
            if record.end_of().is_none() {
                expiry.add(Arc::clone(record), record.forget_after());
                self.publish_due(&expiry);
            }
        }
        self.sweep(now, SWEEP_PER_CALL);
        // The maximum number of evictions in this call. The number suffices for a large growth, since each evicted
        // record frees at least the size of an empty record.
        let most = SWEEP_PER_CALL + grown / size_of::<Record>();
        for _ in 0..most {
            if self.bytes() <= self.max_bytes || !self.evict(now) {
                break;
            }
        }
    }

    /// Replaces an ended record with its tombstone. Handles keep their `Arc` of the record, which never changes again.
    fn replace_with_tombstone(&self, record: &Arc<Record>, now: Millis) {
        let removed = self.remove_if(record.key(), |found, _| {
            let end = if Arc::ptr_eq(found, record) { found.end_of() } else { None };
            end.map(|end| self.tombstones.insert(found.key(), end)).is_some()
        });
        if removed.is_some() {
            self.note_lost_revocations(self.tombstones.make_room(), now);
        }
    }

    /// Counts revocations that memory has forgotten, and traces them at most once a minute. Called without a lock: the
    /// trace runs the application's code.
    fn note_lost_revocations(&self, lost: u64, now: Millis) {
        if lost == 0 {
            return;
        }
        self.revocations_lost.fetch_add(lost, Ordering::Relaxed);
        if let Some(left_out) = self.lost.due(lost, now, MINUTE) {
            tracing::error!(
                lost = lost.saturating_add(left_out),
                "the memory tier had no room for the tombstones of ended sessions, so copies of their cookies open \
                 again on this node: raise `max_bytes` of the memory tier"
            );
        }
    }

    /// Counts the present bytes of a record. Returns the growth since the last count. Returns `None` for an ended
    /// record, which counts no bytes: the bytes of its tombstone are counted instead.
    fn add_bytes(&self, record: &Record) -> Option<usize> {
        let mut state = record.write();
        let ended = matches!(state.kind, Kind::Ended(_));
        let bytes = if ended { 0 } else { record::BASE_BYTES + state.heap_bytes() + record.extras_bytes() };
        let after = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut state.counted, after);
        // Under the record's lock: of two concurrent counts, the subtraction must not come before the addition. A sum
        // below zero would wrap, and be above every bound.
        match after.checked_sub(before) {
            Some(0) => {}
            Some(grown) => drop(self.bytes.fetch_add(grown as usize, Ordering::Relaxed)),
            None => drop(self.bytes.fetch_sub((before - after) as usize, Ordering::Relaxed)),
        }
        (!ended).then_some(after.saturating_sub(before) as usize)
    }

    fn sub_bytes(&self, record: &Record) -> u32 {
        let counted = std::mem::take(&mut record.write().counted);
        self.bytes.fetch_sub(counted as usize, Ordering::Relaxed);
        counted
    }

    fn publish_due(&self, expiry: &Expiry) {
        self.due.store(expiry.first().map_or(u64::MAX, |first| first.0), Ordering::Relaxed);
    }

    /// Checks up to `steps` due records, and drops the expired ones. Returns whether more work may be left: all steps
    /// were used, or shards of tombstones remain.
    pub(crate) fn sweep(&self, now: Millis, steps: usize) -> bool {
        let (dropped, more) = self.tombstones.sweep(now, steps.div_ceil(32));
        if dropped > 0 {
            self.expired.fetch_add(dropped, Ordering::Relaxed);
        }
        self.sweep_records(now, steps) || more
    }

    fn sweep_records(&self, now: Millis, steps: usize) -> bool {
        if now.0 < self.due.load(Ordering::Relaxed) {
            return false;
        }
        let (mut looked, mut expired, mut bytes) = (0, 0, 0);
        let mut expiry = self.expiry.lock();
        while looked < steps
            && let Some(record) = expiry.take_due(now)
        {
            looked += 1;
            let (used, until) = (record.used(), record.forget_after());
            // Only another use brings an expired record back: with an unchanged last use, the record is still expired.
            let idle = |record: &Arc<Record>| is_held_by(record, INTERNAL_REFS) && record.used() == used;
            if until > now || self.records.remove_if(record.key(), idle).is_none() {
                // An expired record that a handle still holds is checked again in the next minute.
                expiry.add(record, until.max(now));
                continue;
            }
            let counted = std::mem::take(&mut record.write().counted);
            bytes += counted as usize;
            // A principal's record whose bytes were never counted is empty, so the drop of that record is not counted
            // as an expiry.
            expired += u64::from(counted > 0);
        }
        self.publish_due(&expiry);
        drop(expiry);
        // Once after the loop: changing the counters for each record took a tenth longer.
        self.expired.fetch_add(expired, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        looked == steps
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len() + self.tombstones.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed) + self.tombstones.bytes()
    }
}

/// Returns whether exactly `holders` `Arc`s point to the record. The acquire fence pairs with the release in
/// `Arc::drop`, so the writes of former holders, such as a use or a count, are visible.
fn is_held_by(record: &Arc<Record>, holders: usize) -> bool {
    let held = Arc::strong_count(record) == holders;
    if held {
        fence(Ordering::Acquire);
    }
    held
}
