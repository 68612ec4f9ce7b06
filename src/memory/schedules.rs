//! The orders in which threads can come to a record, tried by a scheduler: see `tests/README.md`.

use std::sync::Arc;

use shuttle::{check_pct, check_random, thread};

use super::{
    record::Record,
    tests::{MINUTE, NOW, Tier},
    *,
};

/// At random, and with few but well-chosen changes of thread, which finds what takes a long order.
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
fn what_a_handle_holds_stays_the_one_of_its_key_and_nothing_goes_twice() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier = run(
            tier,
            [
                // A record that is over comes into use again while the sweep is at it.
                |tier| {
                    let record = tier.hold(0, LATER);
                    record.touch(LATER);
                    assert!(tier.is_the_one(&record));
                    tier.write(&record, 40, LATER);
                    assert!(tier.is_the_one(&record));
                },
                |tier| _ = tier.memory.sweep(LATER, 2),
                // Another needs its room.
                |tier| drop(tier.try_hold(1, LATER).map(|record| tier.write(&record, 300, LATER))),
                |tier| drop(tier.try_hold(1, LATER).map(|record| tier.end(&record, LATER))),
            ],
        );
        tier.assert_is_whole();
    });
}

#[test]
fn who_touches_a_record_in_time_keeps_it() {
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
fn of_two_that_count_a_record_neither_takes_away_what_is_not_there_yet() {
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
        tier.assert_is_whole();
    });
}

#[test]
fn what_has_ended_since_it_was_chosen_leaves_its_tombstone() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier =
            run(tier, [|tier| tier.end(&tier.hold(0, NOW), NOW), |tier| tier.write(&tier.hold(1, NOW), 300, NOW)]);
        assert!(tier.try_hold(0, NOW).is_err());
        tier.assert_is_whole();
    });
}

#[test]
fn ended_id_never_lives_again() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier = run(
            tier,
            [
                |tier| drop(tier.try_hold(0, NOW).map(|record| tier.end(&record, NOW))),
                // Once it has ended for somebody, it has for all: there is no moment between record and tombstone.
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
        tier.assert_is_whole();
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
        tier.assert_is_whole();
    });
}

/// An old token, or a clock that is behind, makes a record that was used as long ago as the one that goes just then.
#[test]
fn who_makes_a_record_where_an_equal_one_goes_keeps_it() {
    check(|| {
        let tier = Tier::new(400);
        tier.write(&tier.hold(0, NOW), 1, NOW);
        let tier = run(
            tier,
            [
                |tier| {
                    let record = tier.hold(0, NOW);
                    thread::yield_now();
                    assert!(tier.is_the_one(&record));
                },
                |tier| tier.write(&tier.hold(1, NOW), 300, NOW),
                |tier| _ = tier.memory.sweep(LATER, 2),
            ],
        );
        // Who only looks at a session comes back to settle it.
        tier.memory.account_and_sweep(&tier.hold(0, LATER), LATER);
        tier.assert_is_whole();
    });
}

#[test]
fn a_session_that_was_not_to_be_leaves_nothing() {
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
        tier.assert_is_whole();
    });
}

#[test]
fn a_principal_without_values_goes_with_its_last_holder_or_is_in_the_index() {
    check(|| {
        let tier = Tier::new(300);
        let tier = run(
            tier,
            [
                |tier| tier.memory.release(tier.hold_principal(0, NOW)),
                |tier| {
                    let record = tier.hold_principal(0, NOW);
                    assert!(tier.is_the_one(&record));
                    tier.memory.release(record);
                },
                |tier| _ = tier.find_principal(0).map(|record| record.read().is_empty()),
                |tier| tier.write(&tier.hold(1, NOW), 300, NOW),
            ],
        );
        tier.assert_is_whole();
    });
}

/// The store's state is a number that each write raises; memory knows the one that it last read.
#[test]
fn while_a_write_is_unanswered_or_abandoned_its_record_is_stale() {
    struct Shared {
        record: Record,
        store: AtomicUsize,
        known: AtomicUsize,
    }
    check(|| {
        let tier = Tier::new(1 << 20);
        let record = Record::principal(*tier.hold(0, NOW).key(), std::time::Duration::from_secs(60), NOW);
        let shared = Arc::new(Shared { record, store: AtomicUsize::new(0), known: AtomicUsize::new(0) });
        let spawn = |work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        };
        let write: fn(&Shared) = |shared| {
            for _ in 0..2 {
                let write = shared.record.extras().sync.begin();
                shared.store.fetch_add(1, Ordering::SeqCst);
                drop(write);
            }
        };
        let load: fn(&Shared) = |shared| {
            if shared.record.is_stale() {
                let abandoned = shared.record.extras().sync.abandoned_writes();
                let found = shared.store.load(Ordering::SeqCst);
                shared.known.fetch_max(found, Ordering::SeqCst);
                shared.record.extras().sync.mark_read(abandoned);
            }
        };
        let look: fn(&Shared) = |shared| {
            for _ in 0..3 {
                let written = shared.store.load(Ordering::SeqCst);
                if !shared.record.is_stale() {
                    assert!(shared.known.load(Ordering::SeqCst) >= written, "it looked sound");
                }
            }
        };
        let threads = [write, load, load, look].map(spawn);
        threads.into_iter().for_each(|thread| thread.join().expect("a thread's test"));
    });
}
