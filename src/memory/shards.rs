//! The map of records by key, in shards: who reads one record waits for nobody who adds another.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::record::Record;
use crate::{
    id::RecordKey,
    sync::{
        RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// A map that holds nothing but pointers, at 10 to 21 bytes a record; the keys are in the records.
///
/// It is ours since no map of the field gives what eviction needs without `unsafe`: a few records of a shard at a time,
/// wherever they are. The tables are hashbrown's, as the standard library's are.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Box<[Shard]>,
    /// Keys are random or SHA-256, and nobody chooses one that gets in: a seeded hasher will do, which costs less than SipHash.
    hasher: RandomState,
    /// Where [`visit`](Self::scan_from_cursor) goes on: the shard, and how many of its records were passed.
    cursor: AtomicU64,
}

/// One line of cache: who reads a record has the line already when it counts that.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard {
    table: RwLock<HashTable<Arc<Record>>>,
    hits: AtomicUsize,
    misses: AtomicUsize,
}

impl Shards {
    /// Makes a map for about so many records. A shard that grows moves all of its records while readers of the shard wait.
    /// More shards than these are themselves out of cache.
    pub(super) fn new(records: usize) -> Self {
        let shards = (records / 2048).next_power_of_two().clamp(16, 1024);
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            hasher: RandomState::default(),
            cursor: AtomicU64::new(0),
        }
    }

    fn hash(&self, RecordKey(key): &RecordKey) -> u64 {
        use std::hash::BuildHasher;
        self.hasher.hash_one(key.first_chunk().map_or(0, |half| u128::from_le_bytes(*half)))
    }

    /// By bits that the tables don't begin with: they take the lowest for the place and the highest seven for the tag.
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }

    pub(super) fn get(&self, key: &RecordKey) -> Option<Arc<Record>> {
        let hash = self.hash(key);
        self.shard(hash).table.read().find(hash, |record| record.key() == key).cloned()
    }

    /// The same, counted as a hit or a miss. Without a record `is_known` decides.
    pub(super) fn look_up(&self, key: &RecordKey, is_known: impl FnOnce() -> bool) -> Option<Arc<Record>> {
        let hash = self.hash(key);
        let shard = self.shard(hash);
        let found = shard.table.read().find(hash, |record| record.key() == key).cloned();
        let counter = if found.is_some() || is_known() { &shard.hits } else { &shard.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// The record, made if there is none, unless `make`, which is asked under the shard's lock, refuses.
    pub(super) fn get_or_insert_with<E>(
        &self,
        key: &RecordKey,
        make: impl FnOnce() -> Result<Record, E>,
    ) -> Result<Arc<Record>, E> {
        let hash = self.hash(key);
        let mut table = self.shard(hash).table.write();
        if let Some(record) = table.find(hash, |record| record.key() == key) {
            return Ok(Arc::clone(record));
        }
        let record = Arc::new(make()?);
        let rehash = |record: &Arc<Record>| self.hash(record.key());
        Ok(Arc::clone(table.insert_unique(hash, record, rehash).get()))
    }

    /// Takes a record out if nobody can gain it meanwhile but through a holder, and `is_idle` says of it, under the
    /// shard's lock, that there is none.
    pub(super) fn remove_if(&self, key: &RecordKey, is_idle: impl FnOnce(&Arc<Record>) -> bool) -> Option<Arc<Record>> {
        let hash = self.hash(key);
        let mut table = self.shard(hash).table.write();
        let entry = table.find_entry(hash, |record| record.key() == key).ok()?;
        is_idle(entry.get()).then(|| entry.remove().0)
    }

    /// Shows records until `look` has seen enough of them, each once in a round through all. In a table they stand in the
    /// order of a seeded hash: what is shown is a random sample, whatever made them.
    pub(super) fn scan_from_cursor(&self, mut look: impl FnMut(&Arc<Record>) -> std::ops::ControlFlow<()>) {
        let hand = self.cursor.load(Ordering::Relaxed);
        let (mut at, mut passed) = ((hand >> 32) as usize, (hand & u64::from(u32::MAX)) as usize);
        // One more than there are: the first is gone through in two halves.
        for _ in 0..=self.shards.len() {
            let table = self.shards[at & (self.shards.len() - 1)].table.read();
            for record in table.iter().skip(passed) {
                passed += 1;
                if look(record).is_break() {
                    self.cursor.store((at as u64) << 32 | passed as u64, Ordering::Relaxed);
                    return;
                }
            }
            (at, passed) = ((at + 1) & (self.shards.len() - 1), 0);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.read().len()).sum()
    }

    pub(crate) fn hits(&self) -> u64 {
        self.shards.iter().map(|shard| shard.hits.load(Ordering::Relaxed) as u64).sum()
    }

    pub(crate) fn misses(&self) -> u64 {
        self.shards.iter().map(|shard| shard.misses.load(Ordering::Relaxed) as u64).sum()
    }
}
