//! The memory tier: what this process knows, and the place where handles, sockets and tabs meet.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;

use self::{
    expiry::Expiry,
    record::{Kind, Record, RecordKey},
};
use crate::version::Millis;

pub(crate) mod expiry;
pub(crate) mod record;
mod state;

/// Values in this process's memory: the tier in front of all others, and what makes changes live.
///
/// It is bounded by bytes. Records that a browser holds whole, and that no handle is using, are evicted first, those
/// not used for longest before others; a record with anything that nobody else has is evicted last, and counted.
///
/// An ended session leaves a tombstone of about 200 bytes until nothing sealed for it can still open, which is its
/// absolute lifetime at most. Plan for `logouts per second × absolute lifetime in seconds × 200` bytes: at one logout a
/// second and 30 days that is 520 MB. Above the bound the one nearest its end goes first, and is counted as
/// `revocations_lost`: its cookie, if somebody kept a copy, opens again on this node.
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
            records: DashMap::default(),
            expiry: Mutex::default(),
            bytes: AtomicUsize::new(0),
            max_bytes: self.max_bytes,
            evicted_saved: AtomicU64::new(0),
            evicted_unsaved: AtomicU64::new(0),
            revocations_lost: AtomicU64::new(0),
            expired: AtomicU64::new(0),
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

#[derive(Debug)]
pub(crate) struct Memory {
    /// Keys are random or SHA-256, and nobody chooses one that gets in: a seeded hasher will do, which costs less than SipHash.
    records: DashMap<RecordKey, Arc<Record>, RandomState>,
    expiry: Mutex<Expiry>,
    bytes: AtomicUsize,
    max_bytes: usize,
    pub(crate) evicted_saved: AtomicU64,
    pub(crate) evicted_unsaved: AtomicU64,
    pub(crate) revocations_lost: AtomicU64,
    pub(crate) expired: AtomicU64,
}

/// How many due records a passing call looks at: above one, so that expiry keeps up with creation.
const STEPS: usize = 2;

/// How many candidates an eviction looks at.
const SAMPLE: usize = 8;

impl Memory {
    pub(crate) fn find(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.records.get(key).map(|record| Arc::clone(&record))
    }

    /// The record, made if there is none. As long as the caller holds it, it stays the one of its key.
    pub(crate) fn find_or_insert(&self, key: RecordKey, make: impl FnOnce() -> Record) -> Arc<Record> {
        match self.records.entry(key) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => Arc::clone(&entry.insert(Arc::new(make()))),
        }
    }

    /// Drops a record that its maker did not come to use.
    pub(crate) fn forget(&self, key: &RecordKey) {
        if let Some((_, record)) = self.records.remove(key) {
            self.uncount(&record);
        }
    }

    /// Lets go of a principal's record: one that holds nothing goes with its last holder.
    pub(crate) fn release(&self, key: &RecordKey, record: Arc<Record>) {
        let vacant = record.read().is_vacant();
        drop(record);
        if vacant {
            self.records.remove_if(key, |_, record| {
                // Under the shard's lock nobody can gain the record but through another holder, of whom there is none.
                Arc::strong_count(record) == 1 && record.read().is_vacant() && !record.indexed.load(Ordering::Relaxed)
            });
        }
    }

    /// Counts a record that changed, and does a bounded step of the work that is due.
    pub(crate) fn settle(&self, key: RecordKey, record: &Record, now: Millis) {
        let (bytes, deadline) = {
            let state = record.read();
            (state.bytes(), state.until(record.used()))
        };
        let before = record.counted.swap(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        if !record.indexed.swap(true, Ordering::Relaxed) {
            self.expiry().add(key, deadline);
        }
        self.sweep(now, STEPS);
        for _ in 0..STEPS {
            if self.bytes() <= self.max_bytes || !self.evict(&key, now) {
                break;
            }
        }
    }

    /// Looks at up to so many records whose minute has come, and drops those that are over. Returns whether it saw
    /// that many, so that there may be more.
    pub(crate) fn sweep(&self, now: Millis, steps: usize) -> bool {
        for _ in 0..steps {
            let Some(key) = self.expiry().take_due(now) else { return false };
            let gone =
                self.records.remove_if(&key, |_, record| Arc::strong_count(record) == 1 && record.until() <= now);
            match gone {
                Some((_, record)) => {
                    self.expired.fetch_add(1, Ordering::Relaxed);
                    self.uncount(&record);
                }
                None => {
                    if let Some(record) = self.find(&key) {
                        // One that is over and still held is looked at again in the next minute.
                        self.expiry().add(key, record.until().max(now));
                    }
                }
            }
        }
        true
    }

    /// Drops one record other than `keep`. Returns false where there is none to drop.
    fn evict(&self, keep: &RecordKey, now: Millis) -> bool {
        let mut sample = Vec::with_capacity(SAMPLE);
        {
            let mut expiry = self.expiry();
            sample.extend(std::iter::from_fn(|| expiry.take_nearest()).take(SAMPLE));
        }
        let rank = |key: &RecordKey| {
            let record = self.find(key)?;
            // The map's and ours: anything more is a handle.
            let held = Arc::strong_count(&record) > 2 || key == keep;
            (!held).then(|| (Worth::of(&record), record.used()))
        };
        let worst = sample.iter().filter_map(|key| Some((rank(key)?, *key))).min_by_key(|(rank, _)| *rank);
        let evicted = worst.and_then(|((worth, _), key)| {
            let (_, record) = self.records.remove_if(&key, |_, record| Arc::strong_count(record) == 1)?;
            self.uncount(&record);
            let counter = match worth {
                Worth::Saved => &self.evicted_saved,
                Worth::Unsaved => &self.evicted_unsaved,
                Worth::Revocation => &self.revocations_lost,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            Some(key)
        });
        for key in sample.into_iter().filter(|key| Some(*key) != evicted) {
            if let Some(record) = self.find(&key) {
                self.expiry().add(key, record.until().max(now));
            }
        }
        if evicted.is_none() {
            self.expiry().look_further();
        }
        evicted.is_some()
    }

    fn uncount(&self, record: &Record) {
        self.bytes.fetch_sub(record.counted.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn expiry(&self) -> std::sync::MutexGuard<'_, Expiry> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
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
            // A token that is known holds all that the browser is to carry, unless something changed after it.
            Kind::Session { browser, .. }
                if browser.known.as_ref().is_some_and(|known| known.brought.session == state.carried)
                    && state.all_carried() =>
            {
                Self::Saved
            }
            _ => Self::Unsaved,
        }
    }
}
