//! The memory tier from inside: the size of a record, expiry, eviction, and threads that use the tier together.

use std::{ops::ControlFlow, thread, time::Duration};

use super::*;
use crate::{
    error::CloseReason,
    memory::record::extras::StoreReading,
    node_clock::NodeClock,
    record::{
        change::{BudgetShare, Mutation, WriteContext, WriteScope},
        life::{Lifetime, SessionLife, Successor},
    },
    time::Wall,
    value::{Json, Schema, SessionValue, ValueSpec},
    version::Version,
};

#[test]
fn record_size_matches_the_docs() {
    assert_eq!(size_of::<Record>(), 232);
    let tier = Tier::new(1 << 20);
    let record = tier.hold(0, NOW);
    let _ = record.extras();
    assert_eq!(record.extras_bytes(), 48, "a watched record has extras");
    let _ = record.extras().update_queue();
    assert_eq!(record.extras_bytes(), 136, "an updated record has locks too");
    let _ = record.extras().sync();
    assert_eq!(record.extras_bytes(), 216, "a record of a chain with a store has the state of its reads too");
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Text(String);

impl SessionValue for Text {
    const NAME: &'static str = "text";
}

/// A memory tier with sessions of ten minutes' idle lifetime, and with principals. Small numbers name both.
pub(super) struct Tier {
    pub(super) memory: Memory,
    pub(super) made: AtomicU64,
    schema: Schema,
    time: NodeClock,
}

pub(super) const MINUTE: u64 = 60_000;
pub(super) const NOW: Millis = Millis(1_000_000 * MINUTE);

const fn key(kind: u8, number: u8) -> RecordKey {
    let mut key = [0; 32];
    (key[0], key[1]) = (kind, number);
    RecordKey(key)
}

impl Tier {
    pub(super) fn new(max_bytes: usize) -> Self {
        let mut schema = Schema::default();
        schema.push(ValueSpec::of::<Text>());
        // Each call of a test has the time as an argument, so no test reads this clock.
        let time = NodeClock::new(Arc::new(crate::time::TokioClock), Duration::from_secs(3600));
        Self { memory: MemoryTier { max_bytes }.open(), made: AtomicU64::new(0), schema, time }
    }

    fn context(&self, now: Millis) -> WriteContext<'_> {
        WriteContext {
            schema: &self.schema,
            now,
            time: &self.time,
            scope: WriteScope::Values,
            budget: 1 << 20,
            max_budget: 1 << 20,
            share: BudgetShare::Ordinary,
            reserved: None,
            store_stamps: false,
            stamp: None,
            tombstones: Duration::from_secs(3600),
        }
    }

    pub(super) fn hold(&self, number: u8, now: Millis) -> Arc<Record> {
        self.try_hold(number, now).expect("the session has not ended")
    }

    pub(super) fn try_hold(&self, number: u8, now: Millis) -> Result<Arc<Record>, EndedSession> {
        let key = key(1, number);
        self.memory.session_or_insert(&key, now, || {
            self.made.fetch_add(1, Ordering::Relaxed);
            let lifetime = Lifetime::new(Duration::from_secs(600), Duration::from_secs(6000)).unwrap();
            Record::session(key, SessionLife::begin(Version::at(Wall(now.0)), now, lifetime), now)
        })
    }

    pub(super) fn find(&self, number: u8) -> Option<Arc<Record>> {
        self.memory.look_up(&key(1, number))
    }

    pub(super) fn write(&self, record: &Arc<Record>, length: usize, now: Millis) {
        let json = Some(Json::from(&vec![b'"'; length][..]));
        let change = Mutation { index: 0, name: Text::NAME, json, version: None, replaces: None };
        let _ = record.commit(&[change], self.context(now));
        self.memory.account_and_sweep(record, now);
    }

    pub(super) fn end(&self, record: &Arc<Record>, now: Millis) {
        let _ = record.end(CloseReason::Destroyed, None, Successor::None, now, now);
        self.memory.account_and_sweep(record, now);
    }

    pub(super) fn hold_principal(&self, number: u8, now: Millis) -> Arc<Record> {
        let key = key(2, number);
        self.memory.principal_or_insert(&key, || Record::principal(key, Duration::from_secs(86_400), now))
    }

    pub(super) fn find_principal(&self, number: u8) -> Option<Arc<Record>> {
        self.memory.principal(&key(2, number))
    }

    /// Returns whether the map has this record under the record's key.
    pub(super) fn is_in_map(&self, record: &Arc<Record>) -> bool {
        self.memory.records.get(record.key()).is_some_and(|other| Arc::ptr_eq(&other, record))
    }

    /// Asserts the invariants of a tier that no thread uses: the index has each record once, the byte count is the sum
    /// of the records' bytes, and each session ever made is in the map, has a tombstone, or was counted as gone. The
    /// check empties the index.
    pub(super) fn assert_consistent(&self) {
        let memory = &self.memory;
        let (mut records, mut sessions) = (Vec::new(), 0);
        memory.records.scan_from_cursor(|record| {
            // A scan from the middle of a shard visits that shard twice: first the rest, and at the end all of it.
            records.push(Arc::clone(record));
            ControlFlow::Continue(())
        });
        records.sort_unstable_by_key(Arc::as_ptr);
        records.dedup_by(|a, b| Arc::ptr_eq(a, b));
        assert_eq!(records.len() + memory.tombstones.len(), memory.len());
        let counted: usize = records.iter().map(|record| record.read().counted as usize).sum();
        assert_eq!(counted, memory.bytes() - memory.tombstones.bytes());
        memory.tombstones.assert_consistent();
        let mut indexed: Vec<_> = std::iter::from_fn(|| memory.expiry.lock().take_due(Millis::MAX)).collect();
        indexed.sort_unstable_by_key(Arc::as_ptr);
        assert!(indexed.iter().map(Arc::as_ptr).eq(records.iter().map(Arc::as_ptr)), "the index and the map differ");
        for record in &records {
            assert_eq!(Arc::strong_count(record), 3, "the map, and the two lists here");
            assert!(record.end_of().is_none() && !memory.tombstones.contains(record.key()));
            sessions += u64::from(record.key().0[0] == 1);
        }
        let gone = [&memory.expired, &memory.evicted_clean, &memory.evicted_dirty, &memory.revocations_lost];
        let sessions = sessions + memory.tombstones.len() as u64;
        let gone: u64 = gone.iter().map(|counter| counter.load(Ordering::Relaxed)).sum();
        assert_eq!(sessions + gone, self.made.load(Ordering::Relaxed));
    }
}

/// Eight threads use twelve sessions, of which about five fit into the tier.
#[test]
fn threads_keep_map_and_index_consistent() {
    const STEPS: u64 = if cfg!(miri) { 40 } else { 4000 };
    let tier = Tier::new(1500);
    let clock = AtomicU64::new(NOW.0);
    thread::scope(|scope| {
        for seed in 1..9u64 {
            let (tier, clock) = (&tier, &clock);
            scope.spawn(move || {
                let mut random = seed;
                for _ in 0..STEPS {
                    // Knuth's linear congruential generator. Only the upper bits are random enough.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let (number, length) = ((random >> 40) as u8 % 12, (random >> 48) as usize % 300);
                    let now = Millis(clock.load(Ordering::Relaxed));
                    match (random >> 33) % 16 {
                        0..6 => {
                            let Ok(record) = tier.try_hold(number, now) else { continue };
                            tier.write(&record, length, now);
                            assert!(tier.is_in_map(&record) || record.end_of().is_some());
                        }
                        6..9 => drop(tier.find(number).inspect(|record| record.touch(now))),
                        9 => drop(tier.try_hold(number, now).map(|record| tier.end(&record, now))),
                        10 => _ = tier.memory.sweep(now, 8),
                        11 => _ = clock.fetch_add(MINUTE, Ordering::Relaxed),
                        12 | 13 => {
                            let record = tier.hold_principal(number % 3, now);
                            assert!(tier.is_in_map(&record));
                            tier.memory.release(record);
                        }
                        14 => drop(tier.find_principal(number % 3)),
                        _ => drop(tier.try_hold(number, now).map(|record| tier.memory.account_and_sweep(&record, now))),
                    }
                }
            });
        }
    });
    // A record without a handle stays for its idle lifetime. The first loop ends the round that the threads left
    // unfinished, the second loop goes through all shards.
    for days in [2, 4] {
        while tier.memory.sweep(Millis(clock.load(Ordering::Relaxed) + days * 86_400_000), 64) {}
    }
    let now = Millis(clock.load(Ordering::Relaxed));
    (0..12).for_each(|number| tier.write(&tier.hold(number, now), 1, now));
    assert!(tier.memory.bytes() <= 1500 + 400, "{}", tier.memory.bytes());
    tier.assert_consistent();
}

#[test]
fn load_before_abandoned_write_leaves_record_stale() {
    let tier = Tier::new(1 << 20);
    let record = tier.hold(0, NOW);
    drop(record.extras().sync().begin());
    let begin = || StoreReading::begin(Some(&record));
    let finish = |reading| record.extras().sync().finish(reading, None, Duration::ZERO, NOW);
    let [first, second] = [begin(), begin()];
    finish(first);
    assert!(!record.is_stale());
    drop(record.extras().sync().begin());
    finish(second);
    assert!(record.is_stale());
    finish(begin());
    assert!(!record.is_stale());
}

#[test]
fn endless_record_needs_no_sweep() {
    let tier = Tier::new(1 << 20);
    let forever = || Record::principal(key(2, 0), Duration::MAX, Millis::MAX);
    let record = tier.memory.principal_or_insert(&key(2, 0), forever);
    tier.memory.account_and_sweep(&record, NOW);
    assert!(!tier.memory.sweep(Millis::MAX, 64), "the sweep has nothing left to do");
    assert!(tier.is_in_map(&record));
}

#[test]
fn held_expired_record_is_checked_each_minute() {
    let tier = Tier::new(1 << 20);
    let due = || Millis(tier.memory.due.load(Ordering::Relaxed));
    let (record, later) = (tier.hold(0, NOW), Millis(NOW.0 + 12 * MINUTE));
    tier.write(&record, 1, NOW);
    assert_eq!(due(), Millis(NOW.0 + 11 * MINUTE), "no sweep locks the index before the record is due");
    assert!(!tier.memory.sweep(later, 64), "a held record does not keep the sweeper running");
    assert_eq!(due(), Millis(later.0 + MINUTE));
    drop(record);
    assert!(!tier.memory.sweep(due(), 64));
    assert_eq!((tier.memory.len(), due()), (0, Millis(u64::MAX)));
}

#[test]
fn forgotten_record_frees_bytes_and_index() {
    let tier = Tier::new(1 << 20);
    let record = tier.hold(0, NOW);
    tier.write(&record, 40, NOW);
    tier.memory.forget(record.key());
    assert_eq!((tier.memory.len(), tier.memory.bytes()), (0, 0));
    assert!(tier.memory.expiry.lock().take_due(Millis::MAX).is_none());
}

#[test]
fn scan_from_any_position_visits_every_record() {
    let tier = Tier::new(1 << 20);
    // More records than shards.
    let held: Vec<_> = (0..40).map(|number| tier.hold(number, NOW)).collect();
    for _ in &held {
        tier.memory.records.scan_from_cursor(|_| ControlFlow::Break(()));
        let mut seen = Vec::new();
        tier.memory.records.scan_from_cursor(|record| {
            seen.push(Arc::as_ptr(record));
            ControlFlow::Continue(())
        });
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), held.len());
    }
}

#[test]
fn evicted_empty_principal_counts_no_loss() {
    let tier = Tier::new(1);
    let (held, looked) = (tier.hold_principal(0, NOW), tier.find_principal(0));
    tier.memory.release(held);
    drop(looked);
    tier.write(&tier.hold(0, NOW), 1, NOW);
    assert_eq!(tier.memory.len(), 1);
    tier.assert_consistent();
}

#[test]
fn leftover_empty_principal_is_removed_later() {
    let tier = Tier::new(1 << 20);
    let (held, looked) = (tier.hold_principal(0, NOW), tier.find_principal(0));
    tier.memory.release(held);
    drop(looked);
    assert_eq!(tier.memory.len(), 1);
    // The next release removes the record. Without a further release the record expires.
    tier.memory.release(tier.hold_principal(0, NOW));
    assert_eq!(tier.memory.len(), 0);
    let (held, looked) = (tier.hold_principal(0, NOW), tier.find_principal(0));
    tier.memory.release(held);
    drop(looked);
    tier.memory.sweep(Millis(NOW.0 + 2 * 86_400_000), 1);
    tier.assert_consistent();
    assert_eq!(tier.memory.len(), 0);
}

#[test]
fn ended_id_makes_no_record() {
    let tier = Tier::new(1 << 20);
    let record = tier.hold(0, NOW);
    let create = |number| {
        let key = key(1, number);
        tier.memory.create(&key, NOW, || Record::principal(key, Duration::ZERO, NOW))
    };
    assert!(create(0).is_none() && create(1).is_some(), "no second record for a living id, a record for a new id");
    tier.memory.forget(&key(1, 1));
    tier.end(&record, NOW);
    for now in [NOW, Millis(NOW.0 + MINUTE)] {
        assert!(create(0).is_none() && tier.try_hold(0, now).is_err());
        tier.memory.sweep(now, 64);
    }
    assert!(tier.memory.records.get(&key(1, 0)).is_none());
    tier.assert_consistent();
}

#[test]
fn ended_record_counts_no_bytes() {
    let tier = Tier::new(1 << 20);
    let record = tier.hold(0, NOW);
    tier.write(&record, 100, NOW);
    tier.end(&record, NOW);
    let bytes = tier.memory.bytes();
    (0..3).for_each(|_| tier.memory.account_and_sweep(&record, NOW));
    assert_eq!((tier.memory.bytes(), tier.memory.len()), (bytes, 1));
    drop(record);
    tier.assert_consistent();
}
