//! The commit rules of the test store: creation, replacement, carried changes, ends and stamps.

use std::time::Duration;

use super::*;
use crate::value::Json;

const END: CommitKind = CommitKind::End { reason: CloseReason::Revoked, successor: None };
const KINDS: [CommitKind; 4] = [CommitKind::Create, CommitKind::Update, CommitKind::Upsert, END];

/// A store with one owner's record.
struct Store(Spied);

impl Store {
    fn new() -> Self {
        Self(Spied::default())
    }

    fn with(json: Option<&str>, version: u64) -> Self {
        let mut store = Self::new();
        store.commit(CommitKind::Create, &[carried(json, version)]);
        store
    }

    fn commit(&mut self, kind: CommitKind, changes: &[Mutation]) -> Committed {
        self.0.commit(Commit::new(owner(), kind, changes, SystemTime::UNIX_EPOCH + Duration::from_secs(60))).unwrap()
    }

    fn apply(&mut self, kind: CommitKind, changes: &[Mutation]) -> Version {
        match self.commit(kind, changes) {
            Committed::Applied(version) => version,
            refused => panic!("{refused:?}"),
        }
    }

    fn stands(&mut self) -> Option<(Option<String>, Version)> {
        let Snapshot::Present(stored) = self.0.read(owner()).unwrap() else { return None };
        let [entry] = <[_; 1]>::try_from(stored.entries).ok()?;
        Some((entry.json.map(|json| String::from_utf8(json.to_vec()).unwrap()), entry.version))
    }
}

fn owner() -> OwnerId {
    OwnerId::from_hash([7; 32])
}

fn change(json: Option<&str>) -> Mutation {
    let json = json.map(|json| Json::from(json.as_bytes()));
    Mutation { index: 0, name: "theme", json, version: None, replaces: None }
}

fn carried(json: Option<&str>, version: u64) -> Mutation {
    Mutation { version: Some(Version::from_u64(version)), ..change(json) }
}

fn replacing(version: Version) -> Mutation {
    Mutation { replaces: Some(version), ..change(Some("3")) }
}

#[test]
fn absent_record_takes_create_and_upsert() {
    for kind in [CommitKind::Create, CommitKind::Upsert] {
        let mut store = Store::new();
        let version = store.apply(kind, &[change(Some("1"))]);
        assert_eq!(store.stands(), Some((Some("1".into()), version)));
    }
    for kind in [CommitKind::Update, END] {
        assert!(matches!(Store::new().commit(kind, &[]), Committed::Absent));
    }
}

#[test]
fn existing_record_refuses_create() {
    let mut store = Store::with(Some("1"), 5);
    assert!(matches!(store.commit(CommitKind::Create, &[change(Some("2"))]), Committed::Outdated(_)));
    assert_eq!(store.stands(), Some((Some("1".into()), Version::from_u64(5))));
}

#[test]
fn ended_record_refuses_commits_with_reason() {
    let mut store = Store::with(Some("1"), 5);
    store.apply(END, &[]);
    for kind in KINDS {
        let refused = store.commit(kind, &[]);
        assert!(matches!(refused, Committed::Ended(CloseReason::Revoked)), "{kind:?}: {refused:?}");
    }
    let snapshot = store.0.read(owner()).unwrap();
    assert!(matches!(snapshot, Snapshot::Ended(CloseReason::Revoked)), "{snapshot:?}");
}

#[test]
fn ended_record_expires() {
    let clock = crate::testing::ManualClock::new();
    clock.set(SystemTime::UNIX_EPOCH);
    let mut store = Store::with(None, 5);
    store.0.clock = Some(Arc::new(clock.clone()));
    store.apply(END, &[]);
    clock.set(SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    assert!(matches!(store.commit(CommitKind::Update, &[]), Committed::Absent));
    store.apply(CommitKind::Create, &[]);
}

#[test]
fn replacement_needs_the_present_version() {
    let mut store = Store::with(Some("1"), 5);
    for version in [Version::ZERO, Version::from_u64(4), Version::from_u64(6)] {
        let changes = [change(Some("2")), replacing(version)];
        assert!(matches!(store.commit(CommitKind::Update, &changes), Committed::Outdated(_)), "{version}");
    }
    assert_eq!(store.stands(), Some((Some("1".into()), Version::from_u64(5))), "all changes or none");
    let version = store.apply(CommitKind::Update, &[replacing(Version::from_u64(5))]);
    assert_eq!(store.stands(), Some((Some("3".into()), version)));

    let mut empty = Store::new();
    let outdated = empty.commit(CommitKind::Upsert, &[replacing(Version::from_u64(5))]);
    assert!(matches!(outdated, Committed::Outdated(_)) && empty.0.records.is_empty(), "{outdated:?}");
    empty.apply(CommitKind::Upsert, &[replacing(Version::ZERO)]);
}

#[test]
fn carried_change_applies_if_newer() {
    let cases = [
        (Some("1"), 4, false),
        (Some("9"), 6, true),
        (None, 4, false),
        (None, 5, true),
        (Some("2"), 5, false),
        (Some("4"), 5, true),
    ];
    for (json, version, applies) in cases {
        let mut store = Store::with(Some("3"), 5);
        store.apply(CommitKind::Update, &[carried(json, version)]);
        let (json, version) = if applies { (json, version) } else { (Some("3"), 5) };
        assert_eq!(store.stands(), Some((json.map(str::to_owned), Version::from_u64(version))));
    }
}

#[test]
fn stamp_exceeds_every_version_of_owner() {
    let mut store = Store::with(None, u64::MAX / 2);
    let mut newest = Version::from_u64(u64::MAX / 2);
    for kind in [CommitKind::Update, CommitKind::Upsert, CommitKind::Update, END] {
        let stamp = store.apply(kind, &[]);
        assert!(stamp > newest, "{kind:?}");
        newest = stamp;
    }
}
