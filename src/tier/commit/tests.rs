use std::time::UNIX_EPOCH;

use super::*;
use crate::tier::{Ask, Known, Snapshot, Touch};

const END: CommitKind = CommitKind::End { reason: CloseReason::Revoked, successor: None };
const MINUTE: Duration = Duration::from_secs(60);

/// The record of one owner, with the store's clock.
#[derive(Default)]
struct Owner {
    record: Option<StoredRecord>,
    now: Duration,
}

impl Owner {
    fn with(json: Option<&str>, version: u64) -> Self {
        let mut owner = Self::default();
        owner.applied(CommitKind::Create, &[carried(json, version)]);
        owner
    }

    fn apply(&mut self, commit: Commit<'_>) -> Committed {
        commit.apply(&mut self.record, UNIX_EPOCH + self.now)
    }

    fn commit(&mut self, kind: CommitKind, changes: &[Value<'_>]) -> Committed {
        let json: Vec<_> = changes.iter().map(|value| value.json.map(|json| Json::from(json.as_bytes()))).collect();
        let change = |(Value { version, replaces, .. }, json)| Change { name: "theme", json, version, replaces };
        let changes: Vec<_> = changes.iter().copied().zip(json.iter().map(Option::as_ref)).map(change).collect();
        self.apply(Commit { changes: &changes, ..commit(kind) })
    }

    /// Commits, and returns the stamp.
    fn applied(&mut self, kind: CommitKind, changes: &[Value<'_>]) -> Version {
        match self.commit(kind, changes) {
            Committed::Applied { stamp, .. } => stamp,
            refused => panic!("{refused:?}"),
        }
    }

    fn value(&self) -> Option<(Option<String>, Version)> {
        let [entry] = self.record.as_ref()?.entries.as_slice() else { return None };
        let text = |json: &Json| String::from_utf8(json.to_vec()).unwrap();
        Some((entry.json.as_ref().map(text), entry.version))
    }
}

#[derive(Clone, Copy)]
struct Value<'a> {
    json: Option<&'a str>,
    version: Option<Version>,
    replaces: Option<Version>,
}

fn commit(kind: CommitKind) -> Commit<'static> {
    let owner = OwnerId::from_hash([7; 32]);
    Commit { owner, kind, changes: &[], life: None, above: Version::ZERO, keep: MINUTE, node: NodeId::from_u64(1) }
}

const fn change(json: Option<&str>) -> Value<'_> {
    Value { json, version: None, replaces: None }
}

const fn carried(json: Option<&str>, version: u64) -> Value<'_> {
    Value { version: Some(Version::from_u64(version)), json, replaces: None }
}

const fn replacing(version: Version) -> Value<'static> {
    Value { replaces: Some(version), json: Some("3"), version: None }
}

#[test]
fn create_upsert_and_revoke_make_a_record() {
    for kind in [CommitKind::Create, CommitKind::Upsert, CommitKind::Revoke { up_to: None }] {
        let mut owner = Owner::default();
        let stamp = owner.applied(kind, &[]);
        assert_eq!(owner.record.unwrap().generation, stamp, "{kind:?}");
    }
    for kind in [CommitKind::Update, CommitKind::Clear { except: None }] {
        let mut owner = Owner::default();
        assert!(matches!(owner.commit(kind, &[]), Committed::Absent) && owner.record.is_none(), "{kind:?}");
    }
}

#[test]
fn existing_record_refuses_create() {
    let mut owner = Owner::with(Some("1"), 5);
    assert!(matches!(owner.commit(CommitKind::Create, &[change(Some("2"))]), Committed::Outdated(_)));
    assert_eq!(owner.value(), Some((Some("1".into()), Version::from_u64(5))));
}

#[test]
fn end_returns_the_record_and_keeps_no_value() {
    let mut owner = Owner::with(Some("1"), 5);
    let Committed::Retired(before) = owner.commit(END, &[]) else { panic!("the record lived") };
    assert_eq!(before.entries().map(|entry| entry.version().as_u64()).collect::<Vec<_>>(), [5]);
    let record = owner.record.unwrap();
    assert_eq!((record.entries().count(), record.end().map(|end| end.reason())), (0, Some(CloseReason::Revoked)));
    assert!(record.newest() > before.newest());
}

#[test]
fn end_of_an_absent_record_is_kept() {
    let mut owner = Owner::default();
    assert!(matches!(owner.commit(END, &[]), Committed::Absent));
    assert!(matches!(owner.commit(CommitKind::Create, &[]), Committed::Ended(_)));
}

#[test]
fn ended_record_refuses_each_commit_with_the_first_reason() {
    let mut owner = Owner::with(Some("1"), 5);
    owner.commit(END, &[]);
    let at = UNIX_EPOCH + owner.now;
    owner.now += MINUTE / 2;
    let other = CommitKind::End { reason: CloseReason::Destroyed, successor: None };
    let clear = CommitKind::Clear { except: None };
    for kind in
        [CommitKind::Create, CommitKind::Update, CommitKind::Upsert, CommitKind::Revoke { up_to: None }, clear, other]
    {
        let Committed::Ended(end) = owner.commit(kind, &[]) else { panic!("{kind:?}") };
        assert_eq!((end.reason(), end.at()), (CloseReason::Revoked, at), "{kind:?}");
    }
}

#[test]
fn expired_record_counts_as_absent() {
    let mut owner = Owner::with(None, 5);
    owner.commit(END, &[]);
    owner.now += MINUTE;
    assert!(matches!(owner.commit(CommitKind::Update, &[]), Committed::Absent) && owner.record.is_none());
    owner.applied(CommitKind::Create, &[]);
}

#[test]
fn commit_never_shortens_the_time_to_keep() {
    let mut owner = Owner::default();
    owner.apply(Commit { keep: 10 * MINUTE, ..commit(CommitKind::Create) });
    for kind in [CommitKind::Update, END] {
        owner.apply(commit(kind));
        let expires = owner.record.as_ref().map(StoredRecord::expires);
        assert_eq!(expires, Some(UNIX_EPOCH + 10 * MINUTE), "{kind:?}");
    }
}

#[test]
fn change_replaces_the_current_version_alone() {
    let mut owner = Owner::with(Some("1"), 5);
    for version in [Version::ZERO, Version::from_u64(4), Version::from_u64(6)] {
        let changes = [change(Some("2")), replacing(version)];
        assert!(matches!(owner.commit(CommitKind::Update, &changes), Committed::Outdated(_)), "{version}");
    }
    assert_eq!(owner.value(), Some((Some("1".into()), Version::from_u64(5))), "all changes or none");
    let stamp = owner.applied(CommitKind::Update, &[replacing(Version::from_u64(5))]);
    assert_eq!(owner.value(), Some((Some("3".into()), stamp)));

    let mut absent = Owner::default();
    let outdated = absent.commit(CommitKind::Upsert, &[replacing(Version::from_u64(5))]);
    assert!(matches!(outdated, Committed::Outdated(_)) && absent.record.is_none(), "{outdated:?}");
    absent.applied(CommitKind::Upsert, &[replacing(Version::ZERO)]);
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
        let mut owner = Owner::with(Some("3"), 5);
        owner.applied(CommitKind::Update, &[carried(json, version)]);
        let (json, version) = if applies { (json, version) } else { (Some("3"), 5) };
        assert_eq!(owner.value(), Some((json.map(str::to_owned), Version::from_u64(version))));
    }
}

#[test]
fn stamp_is_above_all_known_versions() {
    let ahead = Version::from_u64(u64::MAX / 2);
    let mut owner = Owner::with(None, ahead.as_u64());
    let mut newest = ahead;
    let clear = CommitKind::Clear { except: None };
    for kind in [CommitKind::Update, CommitKind::Upsert, CommitKind::Revoke { up_to: None }, clear] {
        let stamp = owner.applied(kind, &[]);
        assert!(stamp > newest, "{kind:?}");
        newest = stamp;
    }
    let mut lost = Owner::default();
    let told = lost.apply(Commit { above: ahead, ..commit(CommitKind::Upsert) });
    assert!(matches!(told, Committed::Applied { stamp, .. } if stamp > ahead), "{told:?}");
}

#[test]
fn clear_removes_all_values_but_one() {
    let name = |name: &'static str, json| Change { name, json: Some(json), version: None, replaces: None };
    let json = Json::from(&b"1"[..]);
    let changes = ["theme", "user", "of_another_build"].map(|of| name(of, &json));
    let mut owner = Owner::default();
    owner.apply(Commit { changes: &changes, ..commit(CommitKind::Create) });
    let stamp = owner.applied(CommitKind::Clear { except: Some("user") }, &[]);
    let record = owner.record.unwrap();
    let removed = record.entries().filter(|entry| entry.json().is_none() && entry.version() == stamp);
    assert_eq!(removed.map(StoredEntry::name).collect::<Vec<_>>(), ["theme", "of_another_build"]);
}

#[test]
fn revocation_is_stamped_and_kept() {
    let mut owner = Owner::with(Some("1"), 5);
    let stamp = owner.applied(CommitKind::Revoke { up_to: None }, &[]);
    owner.applied(CommitKind::Upsert, &[change(Some("2"))]);
    assert_eq!(owner.record.unwrap().not_before(), stamp);
}

#[test]
fn repeated_revocation_keeps_its_version() {
    let mut owner = Owner::with(Some("1"), 5);
    let version = Version::from_u64;
    for (up_to, expected) in [(7, 7), (6, 7), (8, 8)] {
        owner.applied(CommitKind::Revoke { up_to: Some(version(up_to)) }, &[]);
        assert_eq!(owner.record.as_ref().unwrap().not_before(), version(expected));
    }
}

#[test]
fn newer_lifetime_replaces_the_older() {
    let life = |days: u32, version| {
        let days = days * 1440 * MINUTE;
        StoredLife::new(UNIX_EPOCH + days, days, Version::from_u64(version))
    };
    let mut owner = Owner::default();
    for (told, expected) in [(life(30, 0), life(30, 0)), (life(1, 9), life(1, 9)), (life(60, 8), life(1, 9))] {
        let kind = if owner.record.is_none() { CommitKind::Create } else { CommitKind::Update };
        owner.apply(Commit { life: Some(told), ..commit(kind) });
        assert_eq!(owner.record.as_ref().unwrap().life(), Some(&expected));
    }
}

#[test]
fn commit_shortens_span_with_new_lifetime_alone() {
    let life = |version| StoredLife::new(UNIX_EPOCH + 60 * MINUTE, MINUTE, Version::from_u64(version));
    let mut owner = Owner::default();
    owner.apply(Commit { life: Some(life(0)), keep: 10 * MINUTE, ..commit(CommitKind::Create) });
    for (version, expected) in [(0, 10 * MINUTE), (9, MINUTE)] {
        owner.apply(Commit { life: Some(life(version)), ..commit(CommitKind::Update) });
        assert_eq!(owner.record.as_ref().unwrap().expires(), UNIX_EPOCH + expected);
    }
}

#[test]
fn snapshot_is_unchanged_for_known_version_alone() {
    let mut owner = Owner::with(Some("1"), 5);
    let known = owner.record.as_ref().unwrap().known();
    let answer = |owner: &Owner, ask: Ask| owner.record.as_ref().unwrap().answer(ask, UNIX_EPOCH + owner.now);
    let ask = Ask::new(OwnerId::from_hash([7; 32]));
    assert!(matches!(answer(&owner, ask), Snapshot::Present(record) if record.left() == MINUTE));
    assert!(matches!(answer(&owner, ask.unless(known)), Snapshot::Unchanged { left: MINUTE }));
    let lost = Known { generation: Version::ZERO, ..known };
    assert!(matches!(answer(&owner, ask.unless(lost)), Snapshot::Present(_)));
    owner.applied(CommitKind::Update, &[]);
    assert!(matches!(answer(&owner, ask.unless(known)), Snapshot::Present(_)));
    let known = owner.record.as_ref().unwrap().known();
    owner.now = MINUTE;
    assert!(matches!(answer(&owner, ask.unless(known)), Snapshot::Absent));
    owner.now = Duration::ZERO;
    owner.commit(END, &[]);
    let known = owner.record.as_ref().unwrap().known();
    assert!(matches!(answer(&owner, ask.unless(known)), Snapshot::Ended(_)));
}

#[test]
fn touch_moves_expiry_of_live_records_later() {
    let touch = |owner: &mut Owner, keep| {
        let now = UNIX_EPOCH + owner.now;
        let record = owner.record.as_mut().unwrap();
        record.touch(Touch::new(OwnerId::from_hash([7; 32]), keep), now);
        record.expires().duration_since(UNIX_EPOCH).unwrap()
    };
    let mut owner = Owner::with(Some("1"), 5);
    assert_eq!(touch(&mut owner, 2 * MINUTE), 2 * MINUTE);
    assert_eq!(touch(&mut owner, MINUTE), 2 * MINUTE);
    owner.now = 2 * MINUTE;
    assert_eq!(touch(&mut owner, MINUTE), 2 * MINUTE, "an expired record stays expired");
    owner.now = MINUTE;
    owner.commit(END, &[]);
    assert_eq!(touch(&mut owner, 9 * MINUTE), 2 * MINUTE, "a tombstone stays as long as the end asked");
}
