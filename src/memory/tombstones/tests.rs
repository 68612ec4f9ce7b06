//! The lifetime of tombstones, the choice of the tombstones that go at the cap, and the ends of the last minute.

use super::*;
use crate::record::life::{FENCE, Successor};

impl Tombstones {
    pub(in crate::memory) fn assert_consistent(&self) {
        for (at, count) in self.counts.iter().enumerate() {
            let there: usize = self.shards.iter().map(|shard| shard.tables.read()[at].len()).sum();
            assert_eq!(there, count.load(Ordering::Relaxed));
        }
        let recent = self.recent.lock();
        assert_eq!(recent.ends.len(), recent.queue.len());
        assert_eq!(recent.queue.len(), self.recent_count.load(Ordering::Relaxed));
    }
}

const NOW: Millis = Millis(1_000_000 * MINUTE);

/// A cap of 64 tombstones.
fn small() -> Tombstones {
    Tombstones::new(1)
}

fn key(kind: u8, number: u64) -> RecordKey {
    let mut key = [kind; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    RecordKey(key)
}

fn session(number: u64) -> RecordKey {
    key(1, number)
}

fn user(number: u64) -> Option<PrincipalTag> {
    Some(u128::from(number).to_le_bytes())
}

fn end(principal: Option<PrincipalTag>, until: u64) -> End {
    let until = Millis(NOW.0 + until * MINUTE);
    End { reason: CloseReason::Destroyed, at: NOW, until, principal, successor: Successor::None }
}

/// Inserts the tombstones of `count` sessions, each a minute longer than the tombstone before. Returns the number of
/// tombstones that were dropped at the cap.
fn flood(tombstones: &Tombstones, from: u64, count: u64, principal: Option<PrincipalTag>) -> u64 {
    let insert = |number: u64| {
        tombstones.insert(&session(number), end(principal, number));
        tombstones.make_room()
    };
    (from..from + count).map(insert).sum()
}

#[test]
fn account_erases_no_other_accounts_tombstones() {
    let tombstones = small();
    flood(&tombstones, 0, 1, user(1));
    assert_eq!(flood(&tombstones, 1, 640, user(2)), 577);
    assert!(tombstones.contains(&session(0)));
    assert_eq!(tombstones.len(), 64);
    tombstones.assert_consistent();
}

#[test]
fn visitors_never_erase_account_tombstones() {
    let tombstones = small();
    flood(&tombstones, 0, 50, user(1));
    flood(&tombstones, 50, 640, None);
    assert!((0..50).all(|number| tombstones.contains(&session(number))));
    // At the cap, an account's tombstones replace the tombstones of all visitors before the tombstones of another
    // account.
    flood(&tombstones, 690, 14, user(2));
    assert!((0..50).chain(690..704).all(|number| tombstones.contains(&session(number))));
    tombstones.assert_consistent();
}

#[test]
fn oldest_account_tombstone_goes_first() {
    let tombstones = small();
    flood(&tombstones, 0, 640, user(1));
    let stored = (0..640).filter(|number| tombstones.contains(&session(*number)));
    // Each step drops the oldest of a sample of sixteen, so mostly the tombstones of the last few hundred stay.
    assert!(stored.clone().filter(|number| *number >= 320).count() > 56, "{:?}", stored.collect::<Vec<_>>());
}

#[test]
fn end_details_last_a_minute() {
    let tombstones = small();
    tombstones.insert(&session(0), end(user(1), 60));
    let later = |millis| Millis(NOW.0 + FENCE.as_millis() as u64 + millis - 1);
    let found = |now| tombstones.find(&session(0), now);
    assert!(matches!(found(later(0)), Some(EndedSession::Recently(end)) if end.principal == user(1)));
    assert!(matches!(found(later(1)), Some(EndedSession::LongAgo)));
    assert!(tombstones.find(&session(1), NOW).is_none());
}

#[test]
fn recent_ends_are_bounded() {
    let tombstones = small();
    flood(&tombstones, 0, 65, user(1));
    assert!(matches!(tombstones.find(&session(64), NOW), Some(EndedSession::Recently(_))));
    assert_eq!(tombstones.recent.lock().ends.len(), FLOOR);
    let later = NOW.after(FENCE);
    tombstones.insert(&session(65), End { at: later, ..end(None, 60) });
    assert_eq!(tombstones.recent.lock().ends.len(), 1, "an insert drops the ends of more than a minute ago");
    tombstones.assert_consistent();
}

#[test]
fn sweep_drops_expired_tombstones() {
    let tombstones = small();
    flood(&tombstones, 1, 10, None);
    flood(&tombstones, 11, 10, user(1));
    let sweep = |minutes| {
        let mut dropped = 0;
        while let (some, true) = tombstones.sweep(Millis(NOW.0 + minutes * MINUTE), 1) {
            dropped += some;
        }
        dropped
    };
    assert_eq!(sweep(0), 0);
    sweep(5);
    assert_eq!(tombstones.len(), 15);
    assert!(!tombstones.contains(&session(5)) && tombstones.contains(&session(6)));
    sweep(20);
    assert_eq!((tombstones.len(), tombstones.bytes()), (0, 0));
    tombstones.assert_consistent();
}

#[test]
fn sweep_runs_once_a_minute() {
    let tombstones = small();
    flood(&tombstones, 10, 10, None);
    assert_eq!(tombstones.sweep(NOW, 1), (0, false), "the first call checks every shard");
    let soon = Millis(NOW.0 + MINUTE - 1);
    assert_eq!(tombstones.sweep(soon, 1), (0, false));
    assert_eq!(tombstones.swept.load(Ordering::Relaxed), 0, "a second call within the minute checks no shard");
}

#[test]
fn endless_tombstone_stays() {
    let tombstones = small();
    tombstones.insert(&session(0), End { until: Millis::MAX, ..end(None, 0) });
    tombstones.sweep(Millis::MAX, 64);
    assert!(tombstones.contains(&session(0)));
}

#[test]
fn principal_hash_is_keyed() {
    let [first, second] = [small(), small()];
    let marks = |of: &Tombstones| -> Vec<_> { (0..8).map(|number| of.mark(user(number))).collect() };
    assert_eq!(marks(&first), marks(&first));
    assert_ne!(marks(&first), marks(&second), "each process has its own random key");
    assert!(!marks(&first).contains(&NOBODY) && first.mark(None) == NOBODY);
}

#[test]
fn tombstone_size_matches_the_docs() {
    assert_eq!(size_of::<Tombstone>(), 24);
}
