//! Which tombstones are kept, how long, and which go at the cap.

use super::*;
use crate::record::life::{FENCE, Successor};

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

/// Ends sessions by the hundred, each of them later than all before. Returns how many tombstones went.
fn flood(tombstones: &Tombstones, from: u64, count: u64, principal: Option<PrincipalTag>) -> u64 {
    let one = |number: u64| {
        tombstones.insert(&session(number), end(principal, number));
        tombstones.make_room()
    };
    (from..from + count).map(one).sum()
}

#[test]
fn account_erases_no_other_accounts_tombstone() {
    let tombstones = small();
    flood(&tombstones, 0, 1, user(1));
    assert_eq!(flood(&tombstones, 1, 640, user(2)), 577);
    assert!(tombstones.contains(&session(0)));
    assert_eq!(tombstones.len(), 64);
    tombstones.assert_is_whole();
}

#[test]
fn strangers_erase_no_accounts_tombstone() {
    let tombstones = small();
    flood(&tombstones, 0, 50, user(1));
    flood(&tombstones, 50, 640, None);
    assert!((0..50).all(|number| tombstones.contains(&session(number))));
    // An account takes the place of all strangers before it takes that of another account.
    flood(&tombstones, 690, 14, user(2));
    assert!((0..50).chain(690..704).all(|number| tombstones.contains(&session(number))));
    tombstones.assert_is_whole();
}

#[test]
fn oldest_tombstone_of_an_account_goes_first() {
    let tombstones = small();
    flood(&tombstones, 0, 640, user(1));
    let stored = (0..640).filter(|number| tombstones.contains(&session(*number)));
    // The last of each sample of sixteen stays: what is left is mostly of the last few hundred.
    assert!(stored.clone().filter(|number| *number >= 320).count() > 56, "{:?}", stored.collect::<Vec<_>>());
}

#[test]
fn end_is_told_for_a_minute() {
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
    assert_eq!(tombstones.recent.lock().ends.len(), 1, "the others are over");
    tombstones.assert_is_whole();
}

#[test]
fn tombstone_goes_once_it_is_over() {
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
    tombstones.assert_is_whole();
}

#[test]
fn sweep_looks_once_a_minute_and_skips_what_stays() {
    let tombstones = small();
    flood(&tombstones, 10, 10, None);
    assert_eq!(tombstones.sweep(NOW, 1), (0, false), "one call sees that nothing is over");
    let soon = Millis(NOW.0 + MINUTE - 1);
    assert_eq!(tombstones.sweep(soon, 1), (0, false));
    assert_eq!(tombstones.swept.load(Ordering::Relaxed), 0, "not looked at");
}

#[test]
fn endless_tombstone_stays() {
    let tombstones = small();
    tombstones.insert(&session(0), End { until: Millis::MAX, ..end(None, 0) });
    tombstones.sweep(Millis::MAX, 64);
    assert!(tombstones.contains(&session(0)));
}

#[test]
fn principals_are_told_apart_by_a_keyed_hash() {
    let [one, other] = [small(), small()];
    let marks = |of: &Tombstones| -> Vec<_> { (0..8).map(|number| of.mark(user(number))).collect() };
    assert_eq!(marks(&one), marks(&one));
    assert_ne!(marks(&one), marks(&other), "another process has another key");
    assert!(!marks(&one).contains(&NOBODY) && one.mark(None) == NOBODY);
}

#[test]
fn tombstone_takes_what_its_doc_says() {
    assert_eq!(size_of::<Tombstone>(), 24);
}
