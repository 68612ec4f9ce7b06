//! Schedule tests: a scheduler tries the orders in which threads reach a record, its byte count and its place in the
//! index. See `tests/README.md`.

use std::{sync::Arc, time::Duration};

use shuttle::{check_pct, check_random, thread};

use super::{
    record::{Record, extras::StoreReading},
    tests::{MINUTE, NOW, Tier},
    *,
};

/// Tries random schedules, and schedules with three well-placed thread switches, which find rare races.
fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    let orders = std::env::var("SCHEDULES").map_or(2000, |orders| orders.parse().expect("a number"));
    check_random(test.clone(), orders);
    check_pct(test, orders, 3);
}

fn run<const N: usize>(tier: Tier, threads: [fn(&Tier); N]) -> Arc<Tier> {
    let tier = Arc::new(tier);
    let spawn = |work: fn(&Tier)| {
        let tier = Arc::clone(&tier);
        thread::spawn(move || work(&tier))
    };
    threads.map(spawn).into_iter().for_each(|thread| thread.join().expect("a thread's test"));
    tier
}

const LATER: Millis = Millis(NOW.0 + 12 * MINUTE);

#[test]
fn held_record_stays_in_the_map() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier = run(
            tier,
            [
                // An expired record is used again while the sweep visits the record.
                |tier| {
                    let record = tier.hold(0, LATER);
                    record.touch(LATER);
                    assert!(tier.is_in_map(&record));
                    tier.write(&record, 40, LATER);
                    assert!(tier.is_in_map(&record));
                },
                |tier| _ = tier.memory.sweep(LATER, 2),
                // A new record causes an eviction.
                |tier| drop(tier.try_hold(1, LATER).map(|record| tier.write(&record, 300, LATER))),
                |tier| drop(tier.try_hold(1, LATER).map(|record| tier.end(&record, LATER))),
            ],
        );
        tier.assert_consistent();
    });
}

#[test]
fn touched_record_outlives_the_sweep() {
    check(|| {
        let tier = Tier::new(1 << 20);
        let soon = Millis(NOW.0 + 9 * MINUTE);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier = Arc::new(tier);
        let reader = {
            let tier = Arc::clone(&tier);
            thread::spawn(move || tier.find(0).map(|record| record.touch(soon)))
        };
        let sweep = {
            let tier = Arc::clone(&tier);
            thread::spawn(move || tier.memory.sweep(LATER, 2))
        };
        let touched = reader.join().expect("a reader").is_some();
        sweep.join().expect("a sweep");
        assert_eq!(tier.find(0).is_some(), touched);
    });
}

#[test]
fn byte_count_never_underflows() {
    check(|| {
        let tier = Tier::new(400);
        let tier = run(
            tier,
            [
                |tier| tier.write(&tier.hold(0, NOW), 3000, NOW),
                |tier| tier.write(&tier.hold(0, NOW), 1, NOW),
                |tier| assert!(tier.memory.bytes() < 1 << 20),
            ],
        );
        tier.assert_consistent();
    });
}

#[test]
fn session_ended_during_eviction_leaves_tombstone() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier =
            run(tier, [|tier| tier.end(&tier.hold(0, NOW), NOW), |tier| tier.write(&tier.hold(1, NOW), 300, NOW)]);
        assert!(tier.try_hold(0, NOW).is_err());
        tier.assert_consistent();
    });
}

#[test]
fn ended_id_stays_ended() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier = run(
            tier,
            [
                |tier| drop(tier.try_hold(0, NOW).map(|record| tier.end(&record, NOW))),
                // A session that has ended for one caller stays ended: the record gives way to the tombstone without a
                // gap.
                |tier| {
                    let ended = || tier.try_hold(0, NOW).is_err();
                    let before = ended();
                    assert!(!before || ended());
                },
                |tier| drop(tier.try_hold(0, NOW).map(|record| tier.memory.account_and_sweep(&record, NOW))),
                |tier| _ = tier.memory.sweep(LATER, 2),
            ],
        );
        assert!(tier.try_hold(0, NOW).is_err());
        tier.assert_consistent();
    });
}

#[test]
fn tombstones_at_the_cap_are_counted_once() {
    check(|| {
        let tier = Tier::new(400);
        (0..64).for_each(|number| tier.end(&tier.hold(number, NOW), NOW));
        let tier = run(
            tier,
            [
                |tier| (64..66).for_each(|number| tier.end(&tier.hold(number, NOW), NOW)),
                |tier| (66..68).for_each(|number| tier.end(&tier.hold(number, NOW), NOW)),
                |tier| _ = tier.memory.sweep(Millis(NOW.0 + 101 * MINUTE), 2),
            ],
        );
        tier.assert_consistent();
    });
}

/// A thread creates a record again while the tier evicts the earlier record of the same key. Both records have the same
/// last use, as after an old token or on a node whose clock is behind.
#[test]
fn record_recreated_during_eviction_stays() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier = run(
            tier,
            [
                |tier| {
                    let record = tier.hold(0, NOW);
                    thread::yield_now();
                    assert!(tier.is_in_map(&record));
                },
                |tier| tier.write(&tier.hold(1, NOW), 300, NOW),
                |tier| _ = tier.memory.sweep(LATER, 2),
            ],
        );
        // A read accounts for the record when the request ends.
        tier.memory.account_and_sweep(&tier.hold(0, LATER), LATER);
        tier.assert_consistent();
    });
}

#[test]
fn forgotten_record_leaves_nothing() {
    check(|| {
        let tier = Tier::new(1 << 20);
        let tier = run(
            tier,
            [
                |tier| {
                    let record = tier.hold(0, NOW);
                    tier.write(&record, 1, NOW);
                    tier.memory.forget(record.key());
                },
                |tier| _ = tier.memory.sweep(LATER, 2),
                |tier| tier.write(&tier.hold(1, LATER), 1, LATER),
            ],
        );
        assert_eq!(tier.memory.len(), 1);
        tier.made.fetch_sub(1, Ordering::Relaxed);
        tier.assert_consistent();
    });
}

#[test]
fn empty_principal_record_is_dropped_or_indexed() {
    check(|| {
        let tier = Tier::new(300);
        let tier = run(
            tier,
            [
                |tier| tier.memory.release(tier.hold_principal(0, NOW)),
                |tier| {
                    let record = tier.hold_principal(0, NOW);
                    assert!(tier.is_in_map(&record));
                    tier.memory.release(record);
                },
                |tier| _ = tier.find_principal(0).map(|record| record.read().is_empty()),
                |tier| tier.write(&tier.hold(1, NOW), 300, NOW),
            ],
        );
        tier.assert_consistent();
    });
}

/// The store's state is a number that each write raises. Memory remembers the highest number that a load has found.
#[test]
fn unconfirmed_write_keeps_record_stale() {
    struct Shared {
        record: Record,
        store: AtomicUsize,
        abandoned: AtomicUsize,
        known: AtomicUsize,
    }
    check(|| {
        let tier = Tier::new(1 << 20);
        let record = Record::principal(*tier.hold(0, NOW).key(), std::time::Duration::from_secs(60), NOW);
        let shared = Arc::new(Shared {
            record,
            store: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            known: AtomicUsize::new(0),
        });
        let spawn = |work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        };
        let write: fn(&Shared) = |shared| {
            for _ in 0..2 {
                let write = shared.record.extras().sync().begin();
                shared.store.fetch_add(1, Ordering::SeqCst);
                drop(write);
                shared.abandoned.fetch_add(1, Ordering::SeqCst);
            }
        };
        let load: fn(&Shared) = |shared| {
            if shared.record.is_stale() {
                let reading = StoreReading::begin(Some(&shared.record));
                let found = shared.store.load(Ordering::SeqCst);
                shared.known.fetch_max(found, Ordering::SeqCst);
                shared.record.extras().sync().finish(reading, None, Duration::ZERO, Millis(0));
            }
        };
        let look: fn(&Shared) = |shared| {
            for _ in 0..3 {
                let abandoned = shared.abandoned.load(Ordering::SeqCst);
                if !shared.record.is_stale() {
                    assert!(
                        shared.known.load(Ordering::SeqCst) >= abandoned,
                        "a record that is not stale has every abandoned write"
                    );
                }
            }
        };
        let threads = [write, load, load, look].map(spawn);
        threads.into_iter().for_each(|thread| thread.join().expect("a thread's test"));
    });
}
