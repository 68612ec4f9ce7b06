//! The memory tier: what this process knows, and the place where handles, sockets and tabs meet.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicU64 as Counter},
};

use self::{
    expiry::Expiry,
    record::{Kind, Record, RecordKey},
    shards::Shards,
};
use crate::{
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    },
    version::Millis,
};

mod doubt;
mod expiry;
pub(crate) mod record;
#[cfg(all(test, shuttle))]
mod schedules;
mod shards;
mod state;
mod terms;
#[cfg(test)]
mod tests;

/// Values in this process's memory: the tier in front of all others, and what makes changes live.
///
/// It is bounded by bytes. Records that a browser or the shared store holds whole, or both together, and that no handle is
/// using, are evicted first: of a random sample the one that was not used for longest. (A principal's is in any number of
/// browsers, and none vouches for it. The store vouches for what it was told through this node, and neither for what only a
/// cookie brought nor for a lifetime of a session's own.) A record with anything that nobody else has is evicted only where
/// a few hundred others in a row were no better, and counted.
///
/// A session with one short value takes 260 bytes in all, and 160 more once it was updated or watched. A tombstone takes 330:
/// an ended session leaves one until nothing sealed for it can still open, which is its absolute lifetime at most.
/// Plan for `logouts per second × absolute lifetime
/// in seconds × 330` bytes: at one logout a second and 30 days that is 855 MB. Above the bound tombstones go last, and are
/// counted as `revocations_lost`: the cookie of such a session, if somebody kept a copy, opens again on this node.
#[derive(Clone, Debug)]
pub struct MemoryTier {
    max_bytes: usize,
}

impl MemoryTier {
    /// Starts with a bound of 256 MiB.
    pub const fn builder() -> MemoryTierBuilder {
        MemoryTierBuilder { max_bytes: 256 << 20 }
    }

    pub(crate) fn open(&self) -> Memory {
        Memory {
            records: Shards::new(self.max_bytes / size_of::<Record>()),
            expiry: Mutex::default(),
            due: AtomicU64::new(u64::MAX),
            bytes: AtomicUsize::new(0),
            max_bytes: self.max_bytes,
            evicted_saved: Counter::new(0),
            evicted_unsaved: Counter::new(0),
            revocations_lost: Counter::new(0),
            expired: Counter::new(0),
        }
    }
}

/// Settings of a [`MemoryTier`].
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

/// Lock order: the index of expiry, then a shard, then a record.
#[derive(Debug)]
pub(crate) struct Memory {
    records: Shards,
    expiry: Mutex<Expiry>,
    /// When the index has something to look at, in milliseconds, so that a call that passes needn't lock it to see.
    due: AtomicU64,
    bytes: AtomicUsize,
    max_bytes: usize,
    pub(crate) evicted_saved: Counter,
    pub(crate) evicted_unsaved: Counter,
    pub(crate) revocations_lost: Counter,
    pub(crate) expired: Counter,
}

/// How many due records a passing call looks at: above one, so that expiry keeps up with creation.
const STEPS: usize = 2;

/// Of so many records that can go the least recently used one goes.
const SAMPLE: usize = 8;

/// So many are looked at where none of the sample is saved: some 20 µs.
const SEARCH: usize = 256;

/// Holders of a record that nobody is using: the map and the index.
const IDLE: usize = 2;

impl Memory {
    pub(crate) fn find(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.records.get(key)
    }

    /// The record that a request's cookie names, which counts as a hit or a miss.
    pub(crate) fn look_up(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.records.look_up(key)
    }

    /// The record, made if there is none. As long as the caller holds it, it stays the one of its key.
    pub(crate) fn find_or_insert(&self, key: &RecordKey, make: impl FnOnce() -> Record) -> Arc<Record> {
        self.records.get(key).unwrap_or_else(|| self.insert(key, make))
    }

    /// The same for a key that is new most likely: it takes the write lock at once.
    fn insert(&self, key: &RecordKey, make: impl FnOnce() -> Record) -> Arc<Record> {
        self.records.get_or_insert_with(key, make)
    }

    /// Makes the record of a key, unless there is one.
    pub(crate) fn insert_new(&self, key: &RecordKey, make: impl FnOnce() -> Record) -> Option<Arc<Record>> {
        let mut made = false;
        let record = self.insert(key, || {
            made = true;
            make()
        });
        made.then_some(record)
    }

    /// Drops a record that its maker did not come to use.
    pub(crate) fn forget(&self, key: &RecordKey) {
        // Under the index's lock, as whatever drops a record: what is in the index is in the map.
        let mut expiry = self.expiry.lock();
        if let Some(record) = self.records.remove_if(key, |_| true) {
            expiry.remove(&record);
            drop(expiry);
            self.uncount(&record);
        }
    }

    /// Lets go of a principal's record: one that holds nothing, and never did, goes with its last holder.
    pub(crate) fn release(&self, record: Arc<Record>) {
        if !record.read().is_passing() {
            return;
        }
        let key = *record.key();
        drop(record);
        let mut expiry = self.expiry.lock();
        let removed = self.records.remove_if(&key, |record| {
            let passing = record.read().is_passing();
            // Under the shard's lock nobody can gain the record but through another holder, of whom there is none.
            if passing && Arc::strong_count(record) == 1 + usize::from(!record.place.is_none()) {
                return true;
            }
            // Who only looks at it just now does not come here afterwards: let it expire at least.
            if passing {
                expiry.add(Arc::clone(record), record.until());
            }
            false
        });
        if let Some(record) = removed {
            expiry.remove(&record);
        }
        self.note_due(&expiry);
    }

    /// Counts a record that changed, and does a bounded step of the work that is due.
    pub(crate) fn settle(&self, record: &Arc<Record>, now: Millis) {
        let grown = self.count(record);
        if record.place.is_none() {
            let mut expiry = self.expiry.lock();
            expiry.add(Arc::clone(record), record.until());
            self.note_due(&expiry);
        }
        self.sweep(now, STEPS);
        // One that grew by much makes room for all of it: no record takes less than it counts as empty.
        let most = STEPS + grown / size_of::<Record>();
        for _ in 0..most {
            if self.bytes() <= self.max_bytes || !self.evict(record) {
                break;
            }
        }
    }

    /// Counts what a record takes now. Returns by how much that is more than before.
    fn count(&self, record: &Record) -> usize {
        let mut state = record.write();
        let after = u32::try_from(state.bytes() + record.waiting_bytes()).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut state.counted, after);
        // Under the record's lock: of two that count it, the one that takes away must not come first. A sum below
        // nothing is above every bound.
        match after.checked_sub(before) {
            Some(0) => {}
            Some(grown) => drop(self.bytes.fetch_add(grown as usize, Ordering::Relaxed)),
            None => drop(self.bytes.fetch_sub((before - after) as usize, Ordering::Relaxed)),
        }
        after.saturating_sub(before) as usize
    }

    fn uncount(&self, record: &Record) -> u32 {
        let counted = std::mem::take(&mut record.write().counted);
        self.bytes.fetch_sub(counted as usize, Ordering::Relaxed);
        counted
    }

    fn note_due(&self, expiry: &Expiry) {
        self.due.store(expiry.first().map_or(u64::MAX, |first| first.0), Ordering::Relaxed);
    }

    /// Looks at up to so many records whose minute has come, and drops those that are over. Returns whether it saw
    /// that many, so that there may be more.
    pub(crate) fn sweep(&self, now: Millis, steps: usize) -> bool {
        if now.0 < self.due.load(Ordering::Relaxed) {
            return false;
        }
        let (mut looked, mut expired, mut bytes) = (0, 0, 0);
        let mut expiry = self.expiry.lock();
        while looked < steps
            && let Some(record) = expiry.take_due(now)
        {
            looked += 1;
            match self.drop_if_over(record, now) {
                // A principal's that was never settled was nobody's any more.
                Ok(counted) => (expired, bytes) = (expired + u64::from(counted > 0), bytes + counted as usize),
                // One that is over and still held is looked at again in the next minute.
                Err((record, until)) => expiry.add(record, until.max(now)),
            }
        }
        self.note_due(&expiry);
        drop(expiry);
        // Once for all: a step that changed them for each record took a tenth longer.
        self.expired.fetch_add(expired, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        looked == steps
    }

    /// Drops a record that the index has given up, if it is over and nobody is using it. Returns the bytes that were
    /// counted for it, or else it and when it is over.
    fn drop_if_over(&self, mut record: Arc<Record>, now: Millis) -> Result<u32, (Arc<Record>, Millis)> {
        let (used, until) = (record.used(), record.until());
        // What is over is brought back by nothing but another use: where there was none, it still is.
        let idle = |record: &Arc<Record>| is_held_by(record, IDLE) && record.used() == used;
        if until > now || self.records.remove_if(record.key(), idle).is_none() {
            return Err((record, until));
        }
        // The map has given up the other: it is ours alone, and no lock is needed.
        Ok(Arc::get_mut(&mut record).map_or(0, Record::take_counted))
    }

    /// Drops one record other than `keep`. Returns false where there is none to drop.
    fn evict(&self, keep: &Arc<Record>) -> bool {
        let rank = |record: &Record| (Worth::of(record), record.used());
        let (mut worst, mut fit, mut looked) = (None::<((Worth, Millis), Arc<Record>)>, 0, 0);
        self.records.visit(|record| {
            looked += 1;
            // What is not in the index is not to be had, and whoever makes or settles it comes to evict as well.
            if Arc::strong_count(record) <= IDLE && !Arc::ptr_eq(record, keep) && !record.place.is_none() {
                let ranked = rank(record);
                fit += usize::from(ranked.0 == Worth::Saved);
                if worst.as_ref().is_none_or(|(worst, _)| ranked < *worst) {
                    worst = Some((ranked, Arc::clone(record)));
                }
            }
            match fit == SAMPLE || looked == SEARCH {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let Some((seen, record)) = worst else { return false };
        let mut expiry = self.expiry.lock();
        // Held by us as well, so that it is the one of its key still, and in the index. A session that has ended since it
        // was looked at is no longer what it was chosen for.
        let idle = |record: &Arc<Record>| is_held_by(record, IDLE + 1) && rank(record) == seen;
        if self.records.remove_if(record.key(), idle).is_none() {
            // Somebody came to use it, which is as good a reason as any to look for another at the next call.
            return true;
        }
        expiry.remove(&record);
        self.note_due(&expiry);
        drop(expiry);
        if self.uncount(&record) == 0 {
            return true;
        }
        let counter = match seen.0 {
            Worth::Saved => &self.evicted_saved,
            Worth::Unsaved => &self.evicted_unsaved,
            Worth::Revocation => &self.revocations_lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn hits(&self) -> u64 {
        self.records.hits()
    }

    pub(crate) fn misses(&self) -> u64 {
        self.records.misses()
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

/// What is lost with a record, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Saved,
    Unsaved,
    Revocation,
}

impl Worth {
    fn of(record: &Record) -> Self {
        let state = record.read();
        match &state.kind {
            Kind::Ended(_) => Self::Revocation,
            Kind::Principal { not_before, .. } if *not_before > Default::default() => Self::Revocation,
            // What became of a write that nobody waited for isn't known, and so not what the store holds.
            _ if state.is_saved() && !record.is_doubted() => Self::Saved,
            _ => Self::Unsaved,
        }
    }
}
