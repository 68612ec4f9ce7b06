//! The memory tier: what this process knows, and the place where handles, sockets and tabs meet.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicU64 as Counter},
};

pub(crate) use self::tombstones::EndedSession;
use self::{expiry::Expiry, record::Record, shards::Shards, tombstones::Tombstones};
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
pub(crate) mod record;
#[cfg(all(test, shuttle))]
mod schedules;
mod shards;
#[cfg(test)]
mod tests;
mod tombstones;

/// Values in this process's memory: the tier in front of all others, and what makes changes live.
///
/// It is bounded by bytes. Records that a browser or the shared store holds whole, or both together, and that no handle is
/// using, are evicted first: of a random sample the one that was not used for longest. (A principal's is in any number of
/// browsers, and none vouches for it. The store vouches for what it was told through this node, and neither for what only a
/// cookie brought nor for a lifetime of a session's own.) A record with anything that nobody else has is evicted only where
/// a few hundred others in a row were no better, and counted.
///
/// A session with one short value takes 270 bytes in all, and 144 more once it was updated or watched.
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
/// A session that is destroyed, revoked, renewed or signed in leaves a tombstone under its old id, so that a copy of the old
/// cookie opens nothing. The tombstone takes 190 bytes for a minute and then 40, until nothing sealed for that id can still
/// open, which is the absolute lifetime at most. A session that expires leaves none: its cookies have expired as well.
///
/// Tombstones may take a fourth of the bound, so that they never push out living sessions. Plan for
///
/// ```text
/// max_bytes = 4 × 40 bytes × ends per second × absolute lifetime in seconds
/// ```
///
/// at least: one sign-out every two seconds and 30 days need 208 MB, and the 256 MiB that are the default hold 1.6 million
/// tombstones.
///
/// At the cap those tombstones go first that ended while nobody was signed in; then, of a random sample of sixteen, the oldest
/// of the user who has most of them. So neither visitors nor one account can erase the sign-outs of another account.
/// Each loss is counted as `revocations_lost` and traced as an error: the cookie of such a session, if somebody kept a
/// copy, opens again on this node. A user all of whose sessions were ended (`end_all_sessions`) is remembered in the user's record,
/// which is evicted last.
///
/// For its minute a tombstone also tells how the session ended. A sixteenth of the bound is for that; above it the oldest
/// tombstones are cut short, and their ids count as no cookie before the minute is over.
#[derive(Clone, Debug)]
pub struct MemoryTier {
    pub(crate) max_bytes: usize,
}

impl MemoryTier {
    /// Starts with a bound of 256 MiB.
    pub const fn builder() -> MemoryTierBuilder {
        MemoryTierBuilder { max_bytes: 256 << 20 }
    }

    pub(crate) fn open(&self) -> Memory {
        Memory {
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
pub struct MemoryTierBuilder {
    max_bytes: usize,
}

impl MemoryTierBuilder {
    /// How many bytes records may take in all, as the tier counts them.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The tier.
    pub const fn build(self) -> MemoryTier {
        MemoryTier { max_bytes: self.max_bytes }
    }
}

/// Lock order: the index of expiry, then a shard, then a record or the tombstones.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) records: Shards,
    pub(crate) tombstones: Tombstones,
    /// Tombstones dropped at their cap of which no trace has told.
    lost: Throttle,
    expiry: Mutex<Expiry>,
    /// When the index has something to look at, in milliseconds, so that a call that passes needn't lock it to see.
    due: AtomicU64,
    bytes: AtomicUsize,
    max_bytes: usize,
    pub(crate) evicted_clean: Counter,
    pub(crate) evicted_dirty: Counter,
    pub(crate) revocations_lost: Counter,
    pub(crate) expired: Counter,
}

/// How many due records a passing call looks at: above one, so that expiry keeps up with creation.
const SWEEP_PER_CALL: usize = 2;

/// Holders of a record that nobody is using: the map and the index.
const INTERNAL_REFS: usize = 2;

/// What memory knows of a session.
#[derive(Debug)]
pub(crate) enum SessionLookup {
    /// The record of a session that has not ended, though its lifetime may be over.
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
    /// The record of a key, uncounted and whatever has become of it.
    #[cfg(test)]
    fn peek(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.records.get(key)
    }

    /// What memory knows of a session.
    pub(crate) fn session(&self, key: &RecordKey, now: Millis) -> SessionLookup {
        match self.records.get(key) {
            Some(record) => SessionLookup::of(record, now),
            // In this order: a record that ends goes once its tombstone is there.
            None => self.tombstones.find(key, now).map_or(SessionLookup::Unknown, SessionLookup::Ended),
        }
    }

    /// The same for the session that a request's cookie names, which counts as a hit or a miss.
    pub(crate) fn look_up(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.records.look_up(key, || self.tombstones.contains(key))
    }

    /// The record of a session, made if there is none and the session has not ended. As long as the session lives and the
    /// caller holds the record, the record stays the one of its key.
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
        // Asked under the shard's lock, under which a record that ends gives its place to a tombstone.
        let make = || self.tombstones.find(key, now).map_or_else(|| Ok(make()), Err);
        let record = self.records.get_or_insert_with(key, make)?;
        match record.end_of() {
            None => Ok(record),
            Some(end) => Err(EndedSession::of(end, now)),
        }
    }

    /// Makes the record of a new session, unless its id lives or has ended.
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

    /// The record of a principal, made if there is none. As long as the caller holds it, it stays the one of its key.
    pub(crate) fn principal_or_insert(&self, key: &RecordKey, make: impl FnOnce() -> Record) -> Arc<Record> {
        self.records.get(key).unwrap_or_else(|| {
            let Ok(record) = self.records.get_or_insert_with(key, || Ok::<_, Infallible>(make()));
            record
        })
    }

    /// Leaves a tombstone of an id that memory does not know. Returns what memory knows of the id.
    pub(crate) fn end_id(&self, key: &RecordKey, end: End, now: Millis) -> SessionLookup {
        let found = self.records.get_or_insert_with(key, || {
            let known = self.tombstones.find(key, now).map_or(SessionLookup::Unknown, SessionLookup::Ended);
            if matches!(known, SessionLookup::Unknown) {
                self.tombstones.insert(key, end);
            }
            Err(known)
        });
        self.cap_tombstones(now);
        found.map_or_else(|known| known, |record| SessionLookup::of(record, now))
    }

    /// Drops a record that its maker did not come to use.
    pub(crate) fn forget(&self, key: &RecordKey) {
        if let Some(record) = self.remove_if(key, |_, _| true) {
            self.sub_bytes(&record);
        }
    }

    /// Takes a record out of the map and the index if nobody is using it: `is_idle` says so under the locks of both. What
    /// is in the index is in the map.
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

    /// Lets go of a principal's record: one that holds nothing, and never did, goes with its last holder.
    pub(crate) fn release(&self, record: Arc<Record>) {
        if !record.read().is_never_used() {
            return;
        }
        let key = *record.key();
        drop(record);
        self.remove_if(&key, |record, expiry| {
            let passing = record.read().is_never_used();
            // Under the shard's lock nobody can gain the record but through another holder, of whom there is none.
            if passing && Arc::strong_count(record) == 1 + usize::from(!record.place.is_none()) {
                return true;
            }
            // Who only looks at it just now does not come here afterwards: let it expire at least.
            if passing {
                expiry.add(Arc::clone(record), record.forget_after());
            }
            false
        });
    }

    /// Counts a record that changed, or leaves its tombstone if it has ended, and does a bounded step of the work that is
    /// due.
    pub(crate) fn account_and_sweep(&self, record: &Arc<Record>, now: Millis) {
        let grown = self.add_bytes(record).unwrap_or_else(|| {
            self.replace_with_tombstone(record, now);
            0
        });
        if record.place.is_none() {
            let mut expiry = self.expiry.lock();
            // One that has ended meanwhile is in the map no more, or not for long.
            if record.end_of().is_none() {
                expiry.add(Arc::clone(record), record.forget_after());
                self.publish_due(&expiry);
            }
        }
        self.sweep(now, SWEEP_PER_CALL);
        // One that grew by much makes room for all of it: no record takes less than it counts as empty.
        let most = SWEEP_PER_CALL + grown / size_of::<Record>();
        for _ in 0..most {
            if self.bytes() <= self.max_bytes || !self.evict() {
                break;
            }
        }
    }

    /// Puts a tombstone in the place of a record that has ended. Handles that hold the record keep it: nothing changes it
    /// any more.
    fn replace_with_tombstone(&self, record: &Arc<Record>, now: Millis) {
        let buried = self.remove_if(record.key(), |found, _| {
            let end = if Arc::ptr_eq(found, record) { found.end_of() } else { None };
            end.map(|end| self.tombstones.insert(found.key(), end)).is_some()
        });
        if buried.is_some() {
            self.cap_tombstones(now);
        }
    }

    /// Drops tombstones above their cap, and traces the losses at most once a minute. No lock is held here: the trace runs
    /// the application's code.
    fn cap_tombstones(&self, now: Millis) {
        let lost = self.tombstones.make_room();
        if lost > 0 {
            self.revocations_lost.fetch_add(lost, Ordering::Relaxed);
            if let Some(left_out) = self.lost.due(lost, now, MINUTE) {
                tracing::error!(
                    lost = lost.saturating_add(left_out),
                    "ended sessions were forgotten for want of room: their cookies open again on this node; \
                     give the memory tier more bytes"
                );
            }
        }
    }

    /// Counts what a record takes now. Returns by how much that is more than before; none for one that has ended, which
    /// takes nothing but its tombstone.
    fn add_bytes(&self, record: &Record) -> Option<usize> {
        let mut state = record.write();
        let ended = matches!(state.kind, Kind::Ended(_));
        let bytes = if ended { 0 } else { record::BASE_BYTES + state.heap_bytes() + record.extras_bytes() };
        let after = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut state.counted, after);
        // Under the record's lock: of two that count it, the one that takes away must not come first. A sum below
        // nothing is above every bound.
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

    /// Looks at up to so many records whose minute has come, and drops those that are over. Returns whether it saw
    /// that many, so that there may be more.
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
            // What is over is brought back by nothing but another use: where there was none, it still is.
            let idle = |record: &Arc<Record>| is_held_by(record, INTERNAL_REFS) && record.used() == used;
            if until > now || self.records.remove_if(record.key(), idle).is_none() {
                // One that is over and still held is looked at again in the next minute.
                expiry.add(record, until.max(now));
                continue;
            }
            let counted = std::mem::take(&mut record.write().counted);
            bytes += counted as usize;
            // A principal's that was never settled was nobody's any more.
            expired += u64::from(counted > 0);
        }
        self.publish_due(&expiry);
        drop(expiry);
        // Once for all: a step that changed them for each record took a tenth longer.
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

/// Whether a record has just so many holders. What those did who let go of it, a use or a count, is seen then: they
/// release what the fence acquires.
fn is_held_by(record: &Arc<Record>, holders: usize) -> bool {
    let held = Arc::strong_count(record) == holders;
    if held {
        fence(Ordering::Acquire);
    }
    held
}
