//! The tombstones of sessions: each ended id, for as long as a token of that id could open.
//!
//! A tombstone takes 24 bytes of a table that has a cap of its own, so that ended sessions can't push out living ones.
//! The [`End`] of a session is kept beside the table, for the minute in which a late request needs it.
//!
//! The locks of this module are the last in the lock order: no other lock is taken under them.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};

use foldhash::fast::RandomState as FastState;
use hashbrown::HashTable;

use crate::{
    error::CloseReason,
    id::{PrincipalTag, RecordKey},
    record::life::End,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Millis,
};

/// An ended session, by the time since its end.
#[derive(Clone, Debug)]
pub(crate) enum EndedSession {
    /// Ended less than a minute ago: a late request with the id must not begin a session.
    Recently(End),
    /// Ended a minute ago or more: a request with the id counts as a request without a cookie, and the id never lives
    /// again.
    LongAgo,
}

impl EndedSession {
    pub(crate) fn of(end: End, now: Millis) -> Self {
        if end.is_recent(now) { Self::Recently(end) } else { Self::LongAgo }
    }

    /// Returns the reason of the end; [`CloseReason::Destroyed`] once the reason is forgotten.
    pub(crate) const fn reason(&self) -> CloseReason {
        match self {
            Self::Recently(end) => end.reason,
            Self::LongAgo => CloseReason::Destroyed,
        }
    }
}

/// Half of an id: as random as the whole, and enough to tell sessions apart.
type Half = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    id: Half,
    /// The minute, counted from 1970, from which no token of the id opens.
    until: u32,
    /// The keyed hash of the signed-in principal; 0 for an anonymous session.
    principal: u32,
}

const MINUTE: u64 = 60_000;

impl Tombstone {
    const fn table(&self) -> usize {
        if self.principal == NOBODY { 0 } else { 1 }
    }
}

const NOBODY: u32 = 0;

/// A tombstone's bytes: 25 in a table that is between seven sixteenths and seven eighths full.
pub(super) const TOMBSTONE: usize = 40;

/// The bytes of a recent end, in a map and in a queue that grow by doubling.
pub(super) const RECENT: usize = 150;

/// Tombstones may take a fourth of the tier's bytes.
const SHARE: usize = 4;

/// Recent ends may take a sixteenth of the tier's bytes.
const RECENT_SHARE: usize = 16;

/// The smallest cap, so that a tier of a few kilobytes still holds some tombstones.
const FLOOR: usize = 64;

/// The tombstones of a sample at the cap, of which one is dropped.
const SAMPLE: usize = 16;

#[derive(Debug)]
pub(crate) struct Tombstones {
    shards: Box<[Shard]>,
    hasher: FastState,
    /// SipHash with a random key, so that an attacker can't search for a principal whose hash collides with another's.
    principals: RandomState,
    /// The numbers of tombstones of anonymous sessions, and of principals.
    counts: [AtomicUsize; 2],
    cap: usize,
    recent: Mutex<Recent>,
    recent_count: AtomicUsize,
    recent_cap: usize,
    /// The position of [`sample`](Self::sample): the shard, and the number of its tombstones passed.
    cursor: AtomicU64,
    /// The next shard of [`sweep`](Self::sweep).
    swept: AtomicUsize,
    /// The beginning of the next round of sweeps, in milliseconds.
    due: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    tables: RwLock<[HashTable<Tombstone>; 2]>,
    /// A minute before which no tombstone of the shard is over.
    earliest: AtomicU32,
}

/// The ends of the last minute, in the order of their insertion.
#[derive(Debug, Default)]
struct Recent {
    ends: HashMap<Half, End, FastState>,
    queue: VecDeque<(Half, Millis)>,
}

fn half(RecordKey(key): &RecordKey) -> Half {
    key.first_chunk().copied().unwrap_or_default()
}

impl Tombstones {
    /// Returns the tombstones of a tier of `max_bytes` bytes.
    pub(super) fn new(max_bytes: usize) -> Self {
        let cap = (max_bytes / SHARE / TOMBSTONE).max(FLOOR);
        // A step of a sweep visits one whole shard: about 4096 tombstones at most, some 8 µs.
        let shards = (cap / 4096).next_power_of_two().clamp(16, 1 << 14);
        let shard = || Shard { tables: RwLock::default(), earliest: AtomicU32::new(u32::MAX) };
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            hasher: FastState::default(),
            principals: RandomState::new(),
            counts: [AtomicUsize::new(0), AtomicUsize::new(0)],
            cap,
            recent: Mutex::default(),
            recent_count: AtomicUsize::new(0),
            recent_cap: (max_bytes / RECENT_SHARE / RECENT).max(FLOOR),
            cursor: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
            due: AtomicU64::new(0),
        }
    }

    fn hash(&self, id: &Half) -> u64 {
        self.hasher.hash_one(u128::from_le_bytes(*id))
    }

    /// Selects by bits that the tables don't use, as the map of records does.
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }

    fn mark(&self, principal: Option<PrincipalTag>) -> u32 {
        principal.map_or(NOBODY, |tag| (self.principals.hash_one(tag) as u32).max(1))
    }

    /// Inserts the tombstone of an ended session. The number may exceed the cap until the next call of
    /// [`make_room`](Self::make_room).
    pub(super) fn insert(&self, key: &RecordKey, end: End) {
        let (id, at) = (half(key), end.at);
        let until = u32::try_from(end.until.0.div_ceil(MINUTE)).unwrap_or(u32::MAX);
        let tombstone = Tombstone { id, until, principal: self.mark(end.principal) };
        // The recent end first, so that a look-up that finds the tombstone also finds the end.
        let mut recent = self.recent.lock();
        recent.drop_over(at);
        if recent.ends.insert(id, end).is_none() {
            recent.queue.push_back((id, at));
        }
        while recent.queue.len() > self.recent_cap {
            recent.drop_first();
        }
        self.recent_count.store(recent.queue.len(), Ordering::Relaxed);
        drop(recent);

        let hash = self.hash(&id);
        let shard = self.shard(hash);
        let mut tables = shard.tables.write();
        shard.earliest.fetch_min(until, Ordering::Relaxed);
        let known = tables.iter_mut().find_map(|table| table.find_mut(hash, |known| known.id == id));
        if let Some(known) = known {
            known.until = known.until.max(until);
            return;
        }
        tables[tombstone.table()].insert_unique(hash, tombstone, |tombstone| self.hash(&tombstone.id));
        self.counts[tombstone.table()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn contains(&self, key: &RecordKey) -> bool {
        let id = half(key);
        let hash = self.hash(&id);
        let tables = self.shard(hash).tables.read();
        tables.iter().any(|table| table.find(hash, |tombstone| tombstone.id == id).is_some())
    }

    /// Returns the end of a session, if there is a tombstone.
    pub(super) fn find(&self, key: &RecordKey, now: Millis) -> Option<EndedSession> {
        // Most ids without a record have no tombstone either: their look-up takes only the shard's lock.
        self.contains(key).then(|| {
            let end = self.recent.lock().ends.get(&half(key)).cloned();
            end.map_or(EndedSession::LongAgo, |end| EndedSession::of(end, now))
        })
    }

    /// Drops tombstones above the cap. Returns their number.
    pub(super) fn make_room(&self) -> u64 {
        let mut lost = 0;
        while self.len() > self.cap
            && let Some(tombstone) = self.least()
            && self.remove(&tombstone)
        {
            lost += 1;
        }
        lost
    }

    /// Returns the tombstone to drop first at the cap: the oldest of a sample of anonymous sessions, if there are any,
    /// and else the oldest of the principal with the most tombstones in a sample. Neither visitors nor one account can
    /// therefore erase the tombstones of another account. The oldest is the tombstone that is over first.
    fn least(&self) -> Option<Tombstone> {
        let oldest = |of: Vec<Tombstone>| of.into_iter().min_by_key(|tombstone| tombstone.until);
        if self.counts[0].load(Ordering::Relaxed) > 0
            && let Some(anonymous) = oldest(self.sample(0))
        {
            return Some(anonymous);
        }
        let sample = self.sample(1);
        let most_of = |tombstone: &Tombstone| sample.iter().filter(|it| it.principal == tombstone.principal).count();
        let most = sample.iter().map(most_of).max()?;
        oldest(sample.iter().filter(|tombstone| most_of(tombstone) == most).copied().collect())
    }

    /// Returns tombstones of one kind in the order of a seeded hash: a random sample, in whatever order they were made.
    fn sample(&self, table: usize) -> Vec<Tombstone> {
        let cursor = self.cursor.load(Ordering::Relaxed);
        let (mut at, mut passed) = ((cursor >> 32) as usize, (cursor & u64::from(u32::MAX)) as usize);
        let mut sample = Vec::with_capacity(SAMPLE);
        // One step more than there are shards: the first shard is visited in two halves.
        for _ in 0..=self.shards.len() {
            let tables = self.shards[at & (self.shards.len() - 1)].tables.read();
            let before = sample.len();
            sample.extend(tables[table].iter().skip(passed).take(SAMPLE - before));
            passed += sample.len() - before;
            if sample.len() == SAMPLE {
                break;
            }
            (at, passed) = ((at + 1) & (self.shards.len() - 1), 0);
        }
        self.cursor.store((at as u64) << 32 | passed as u64, Ordering::Relaxed);
        sample
    }

    fn remove(&self, tombstone: &Tombstone) -> bool {
        let hash = self.hash(&tombstone.id);
        let mut tables = self.shard(hash).tables.write();
        let same = |it: &Tombstone| it.id == tombstone.id && it.until == tombstone.until;
        let table = tombstone.table();
        let Ok(entry) = tables[table].find_entry(hash, same) else { return false };
        entry.remove();
        self.counts[table].fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Drops the tombstones that are over, in up to `steps` shards that have any. A round through all shards begins at
    /// most once a minute. Returns the number of dropped tombstones, and whether shards of this round are left.
    pub(super) fn sweep(&self, now: Millis, mut steps: usize) -> (u64, bool) {
        if now.0 < self.due.load(Ordering::Relaxed) {
            return (0, false);
        }
        // A tombstone of the last representable minute is never over.
        let minute = u32::try_from(now.0 / MINUTE).unwrap_or(u32::MAX).min(u32::MAX - 1);
        let mut dropped = 0;
        while let Some(shard) = self.shards.get(self.swept.fetch_add(1, Ordering::Relaxed)) {
            if shard.earliest.load(Ordering::Relaxed) <= minute {
                dropped += self.sweep_shard(shard, minute);
                steps -= 1;
                if steps == 0 {
                    return (dropped, true);
                }
            }
        }
        self.due.store(now.0 + MINUTE, Ordering::Relaxed);
        self.swept.store(0, Ordering::Relaxed);
        let mut recent = self.recent.lock();
        recent.drop_over(now);
        self.recent_count.store(recent.queue.len(), Ordering::Relaxed);
        (dropped, false)
    }

    fn sweep_shard(&self, shard: &Shard, minute: u32) -> u64 {
        let (mut dropped, mut earliest) = (0, u32::MAX);
        let mut tables = shard.tables.write();
        for (table, count) in tables.iter_mut().zip(&self.counts) {
            let before = table.len();
            table.retain(|tombstone| {
                let stays = tombstone.until > minute;
                earliest = if stays { earliest.min(tombstone.until) } else { earliest };
                stays
            });
            let over = before - table.len();
            count.fetch_sub(over, Ordering::Relaxed);
            dropped += over as u64;
            if table.len() < table.capacity() / 8 {
                table.shrink_to(2 * table.len(), |tombstone| self.hash(&tombstone.id));
            }
        }
        shard.earliest.store(earliest, Ordering::Relaxed);
        dropped
    }

    pub(crate) fn len(&self) -> usize {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.len() * TOMBSTONE + self.recent_count.load(Ordering::Relaxed) * RECENT
    }
}

impl Recent {
    fn drop_over(&mut self, now: Millis) {
        while let Some((id, _)) = self.queue.front()
            && self.ends.get(id).is_none_or(|end| !end.is_recent(now))
        {
            self.drop_first();
        }
        // Frees the capacity after a peak.
        if self.queue.is_empty() && self.queue.capacity() > FLOOR {
            *self = Self::default();
        }
    }

    fn drop_first(&mut self) {
        if let Some((id, _)) = self.queue.pop_front() {
            self.ends.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
