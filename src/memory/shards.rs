//! The map of records by key, in shards, so that a reader of a record seldom waits for an insert of another.

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

/// A map that holds only pointers, at 10 to 21 bytes a record; the keys are in the records.
///
/// The map is the crate's own, since no known concurrent map offers without `unsafe` the access that eviction needs: a
/// few records of a shard at a time, at any position. The tables are hashbrown's, like those of the standard library.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Box<[Shard]>,
    /// Keys are random or SHA-256, so no attacker chooses a key that gets in: a seeded hasher suffices, cheaper than
    /// SipHash.
    hasher: RandomState,
    /// The position of [`scan_from_cursor`](Self::scan_from_cursor): the shard, and the number of its records passed.
    cursor: AtomicU64,
}

/// One cache line: a reader of a record already has the line of the counters.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard {
    table: RwLock<HashTable<Arc<Record>>>,
    hits: AtomicUsize,
    misses: AtomicUsize,
}

impl Shards {
    /// Returns a map for about `records` records. A growing shard moves all its records while readers of the shard
    /// wait, so shards are small; but more than 1024 shards would themselves fall out of the cache.
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

    /// Selects by bits that the tables don't use first: a table takes the lowest bits for the place, the top seven for
    /// the tag.
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }

    pub(super) fn get(&self, key: &RecordKey) -> Option<Arc<Record>> {
        let hash = self.hash(key);
        self.shard(hash).table.read().find(hash, |record| record.key() == key).cloned()
    }

    /// Returns the record, and counts a hit or a miss. If there is no record, `is_known` decides between the two.
    pub(super) fn look_up(&self, key: &RecordKey, is_known: impl FnOnce() -> bool) -> Option<Arc<Record>> {
        let hash = self.hash(key);
        let shard = self.shard(hash);
        let found = shard.table.read().find(hash, |record| record.key() == key).cloned();
        let counter = if found.is_some() || is_known() { &shard.hits } else { &shard.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Returns the record, inserted from `make` if missing. `make` runs under the shard's lock, and may refuse.
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

    /// Removes a record if `is_idle` returns true under the shard's lock. Under that lock, only a holder of the record
    /// can clone the `Arc`.
    pub(super) fn remove_if(&self, key: &RecordKey, is_idle: impl FnOnce(&Arc<Record>) -> bool) -> Option<Arc<Record>> {
        let hash = self.hash(key);
        let mut table = self.shard(hash).table.write();
        let entry = table.find_entry(hash, |record| record.key() == key).ok()?;
        is_idle(entry.get()).then(|| entry.remove().0)
    }

    /// Passes records to `look` until `look` breaks, each record once in a round. A table orders records by a seeded
    /// hash, so the records are a random sample, in whatever order they were created.
    pub(super) fn scan_from_cursor(&self, mut look: impl FnMut(&Arc<Record>) -> std::ops::ControlFlow<()>) {
        let cursor = self.cursor.load(Ordering::Relaxed);
        let (mut at, mut passed) = ((cursor >> 32) as usize, (cursor & u64::from(u32::MAX)) as usize);
        // One step more than there are shards: the first shard is visited in two halves.
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
