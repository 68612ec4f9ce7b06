use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::UNIX_EPOCH,
};

use futures_util::{FutureExt, StreamExt, future::join_all};
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

use super::*;
use crate::{
    error::CloseReason,
    tier::{
        Change, CommitKind, NodeId, Notice, OwnerId, StoreError, StoreErrorKind, StoredEnd, StoredLife, StoredRecord,
        Version,
    },
    value::Json,
};

const NAMES: [&str; 3] = ["theme", "user", "of_another_build"];
const MINUTE: Duration = Duration::from_secs(60);

/// A store with a clock that the test moves, in a directory of its own.
struct Fixture {
    store: SqliteStore,
    millis: Arc<AtomicU64>,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let millis = Arc::new(AtomicU64::new(1_893_456_000_000));
        let directory = tempfile::tempdir().unwrap();
        Self { store: opened(&directory, &millis), millis, directory }
    }

    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    fn pass(&self, span: Duration) {
        self.millis.fetch_add(span.as_millis() as u64, Ordering::Relaxed);
    }

    /// Runs a statement on the connection of the commits.
    async fn tell(&self, statement: &str) -> Result<(), StoreError> {
        let statement = statement.to_owned();
        let run = move |rows: &mut rows::Rows<'_>, _| Ok(rows.connection.execute_batch(&statement)?);
        self.store.0.writer.run(run, |()| {}).await
    }

    /// Opens the file with another store.
    fn reopened(&self) -> SqliteStore {
        opened(&self.directory, &self.millis)
    }
}

fn opened(directory: &TempDir, millis: &Arc<AtomicU64>) -> SqliteStore {
    let millis = Arc::clone(millis);
    let now = move || UNIX_EPOCH + Duration::from_millis(millis.load(Ordering::Relaxed));
    let builder = SqliteStore::builder(directory.path().join("sessions.db")).durability(Durability::Normal);
    builder.open_with(Arc::new(now)).unwrap()
}

fn owner(number: u8) -> OwnerId {
    OwnerId::from_hash([number; 32])
}

fn commit(number: u8, kind: CommitKind) -> Commit<'static> {
    let (owner, node) = (owner(number), NodeId::from_u64(number.into()));
    Commit { owner, kind, changes: &[], life: None, above: Version::ZERO, keep: MINUTE, node }
}

fn fresh<'a>(name: &'a str, json: &'a Json) -> Change<'a> {
    Change { name, json: Some(json), version: None, replaces: None }
}

fn end() -> CommitKind {
    CommitKind::End { reason: CloseReason::Renewed, successor: Some(owner(9)) }
}

async fn read(store: &SqliteStore, ask: Ask) -> Snapshot {
    store.read(&[ask]).await.unwrap().remove(0)
}

/// The whole content of a record, values included, for comparisons.
#[derive(Debug, PartialEq)]
struct Content {
    versions: [Version; 3],
    life: Option<StoredLife>,
    end: Option<StoredEnd>,
    expires: SystemTime,
    entries: Vec<(String, Option<Vec<u8>>, Version)>,
}

fn content(record: &StoredRecord) -> Content {
    let entry =
        |entry: &crate::tier::StoredEntry| (entry.name().to_owned(), entry.json().map(<[u8]>::to_vec), entry.version());
    let mut entries: Vec<_> = record.entries().map(entry).collect();
    entries.sort();
    Content {
        versions: [record.generation(), record.newest(), record.not_before()],
        life: record.life().copied(),
        end: record.end().copied(),
        expires: record.expires(),
        entries,
    }
}

fn outcome(committed: &Committed) -> (String, Option<Content>) {
    match committed {
        Committed::Retired(record) => ("retired".into(), Some(content(record))),
        Committed::Outdated(record) => ("outdated".into(), Some(content(record))),
        other => (format!("{other:?}"), None),
    }
}

fn answer(snapshot: &Snapshot) -> (String, Option<Content>) {
    match snapshot {
        Snapshot::Present(record) => ("present".into(), Some(content(record))),
        other => (format!("{other:?}"), None),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Commit { owner: u8, kind: u8, changes: Vec<Drawn>, life: Option<(u64, u64, bool)>, above: u64, keep: u64 },
    Read { asks: Vec<(u8, bool)> },
    Touch { touches: Vec<(u8, u64)> },
    Pass(u64),
    Maintain,
    Reopen,
}

/// A drawn change. A `replaces` of zero expects no entry, one the current version, and two another version.
#[derive(Clone, Debug)]
struct Drawn {
    name: usize,
    json: Option<Vec<u8>>,
    version: Option<u64>,
    replaces: Option<u8>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let json = proptest::option::of(vec(any::<u8>(), 0..40));
    let version = proptest::option::of(prop_oneof![0..5_u64, any::<u64>().prop_map(|bits| bits >> 3)]);
    (0..NAMES.len(), json, version, proptest::option::weighted(0.3, 0..3_u8))
        .prop_map(|(name, json, version, replaces)| Drawn { name, json, version, replaces })
}

fn step() -> impl Strategy<Value = Step> {
    let owner = || 1..4_u8;
    let life = proptest::option::of((0..1_000_000_u64, 0..1_000_000_u64, any::<bool>()));
    let commit = (owner(), 0..8_u8, vec(drawn(), 0..4), life, prop_oneof![Just(0), 0..u64::MAX / 8], 0..200_000_u64);
    prop_oneof![
        6 => commit.prop_map(|(owner, kind, changes, life, above, keep)| {
            Step::Commit { owner, kind, changes, life, above, keep }
        }),
        3 => vec((owner(), any::<bool>()), 0..4).prop_map(|asks| Step::Read { asks }),
        1 => vec((owner(), 0..200_000_u64), 0..3).prop_map(|touches| Step::Touch { touches }),
        1 => (0..100_000_u64).prop_map(Step::Pass),
        1 => Just(Step::Maintain),
        1 => Just(Step::Reopen),
    ]
}

/// The records as `Commit::apply` and its kin judge them.
type Model = HashMap<OwnerId, Option<StoredRecord>>;

async fn take(step: Step, fixture: &mut Fixture, model: &mut Model) {
    let now = fixture.now();
    match step {
        Step::Commit { owner: number, kind, changes, life, above, keep } => {
            let kind = match kind {
                0 => CommitKind::Create,
                1 | 2 => CommitKind::Update,
                3 | 4 => CommitKind::Upsert,
                5 => CommitKind::Clear { except: Some(NAMES[1]).filter(|_| above % 2 == 0) },
                6 => CommitKind::Revoke { up_to: (keep % 2 == 0).then_some(Version::from_u64(above)) },
                _ => CommitKind::End {
                    reason: [CloseReason::Destroyed, CloseReason::Renewed, CloseReason::Revoked][keep as usize % 3],
                    successor: Some(owner(9)).filter(|_| keep % 2 == 0),
                },
            };
            let empty = matches!(kind, CommitKind::Revoke { .. } | CommitKind::End { .. });
            let current = model.get(&owner(number)).cloned().flatten();
            let current = |name: &str| {
                let entries = current.iter().flat_map(StoredRecord::entries);
                entries.filter(|entry| entry.name() == name).map(|entry| entry.version()).next().unwrap_or_default()
            };
            let json: Vec<_> = changes.iter().map(|drawn| drawn.json.as_deref().map(Json::from)).collect();
            let changes = changes.iter().zip(&json).filter(|_| !empty).map(|(drawn, json)| Change {
                name: NAMES[drawn.name],
                json: json.as_ref(),
                version: drawn.version.map(Version::from_u64),
                replaces: drawn.replaces.map(|replaces| match replaces {
                    0 => Version::ZERO,
                    1 => current(NAMES[drawn.name]),
                    _ => Version::from_u64(1),
                }),
            });
            let changes: Vec<_> = changes.collect();
            let life = life.map(|(deadline, idle, ends)| {
                let deadline = UNIX_EPOCH + Duration::from_millis(deadline);
                let life = StoredLife::new(deadline, Duration::from_millis(idle), Version::from_u64(idle % 7));
                life.until_browser_closes(ends)
            });
            let (above, keep) = (Version::from_u64(above), Duration::from_millis(keep));
            let commit = Commit { changes: &changes, life, above, keep, ..commit(number, kind) };
            let expected = commit.apply(model.entry(owner(number)).or_default(), now);
            let committed = fixture.store.commit(commit).await.unwrap();
            assert_eq!(outcome(&committed), outcome(&expected), "{commit:?}");
        }
        Step::Read { asks } => {
            let asks = asks.into_iter().map(|(number, knows)| {
                let known = model.get(&owner(number)).and_then(Option::as_ref).map(StoredRecord::known);
                let ask = Ask::new(owner(number));
                known.filter(|_| knows).map_or(ask, |known| ask.unless(known))
            });
            let asks: Vec<_> = asks.collect();
            let told = fixture.store.read(&asks).await.unwrap();
            let expected = asks.iter().map(|ask| match model.get(&ask.owner()).and_then(Option::as_ref) {
                Some(record) => record.answer(*ask, now),
                None => Snapshot::Absent,
            });
            let expected: Vec<_> = expected.map(|snapshot| answer(&snapshot)).collect();
            assert_eq!(told.iter().map(answer).collect::<Vec<_>>(), expected, "{asks:?}");
        }
        Step::Touch { touches } => {
            let touch = |(number, keep): &(u8, u64)| Touch::new(owner(*number), Duration::from_millis(*keep));
            let touches: Vec<_> = touches.iter().map(touch).collect();
            for touch in &touches {
                model.entry(touch.owner()).or_default().iter_mut().for_each(|record| record.touch(*touch, now));
            }
            fixture.store.touch(&touches).await.unwrap();
        }
        Step::Pass(millis) => fixture.pass(Duration::from_millis(millis)),
        Step::Maintain => assert!(!fixture.store.maintain().await.unwrap()),
        Step::Reopen => fixture.store = fixture.reopened(),
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn store_judges_as_the_reference(steps in vec(step(), 1..60)) {
        run(async {
            let (mut fixture, mut model) = (Fixture::new(), Model::default());
            for step in steps {
                take(step, &mut fixture, &mut model).await;
                for number in 1..4 {
                    take(Step::Read { asks: vec![(number, false)] }, &mut fixture, &mut model).await;
                }
            }
        });
    }
}

#[tokio::test]
async fn end_deletes_the_values() {
    let fixture = Fixture::new();
    let json = Json::from(&b"1"[..]);
    let changes = NAMES.map(|name| fresh(name, &json));
    for (kind, changes, left) in [(CommitKind::Create, &changes[..], 3), (end(), &[][..], 0)] {
        fixture.store.commit(Commit { changes, ..commit(1, kind) }).await.unwrap();
        let count = |rows: &mut rows::Rows<'_>, _| {
            Ok(rows.connection.query_row("SELECT count(*) FROM ls_value", [], |row| row.get(0))?)
        };
        assert_eq!(fixture.store.0.writer.run::<i64>(count, |_| {}).await.unwrap(), left);
    }
}

#[tokio::test]
async fn commits_lock_other_writers_out() {
    let fixture = Fixture::new();
    let other = rusqlite::Connection::open(fixture.directory.path().join("sessions.db")).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let lock = move |_: &mut rows::Rows<'_>, _| Ok(other.execute_batch("BEGIN IMMEDIATE").is_err());
    assert!(fixture.store.0.writer.run(lock, |_| {}).await.unwrap());
}

/// The kind of a failed commit, and whether the commit may have been made.
fn refusal(error: &StoreError) -> (StoreErrorKind, bool) {
    (error.kind(), error.may_be_applied())
}

#[tokio::test]
async fn full_disk_fails_one_commit_alone() {
    let fixture = Fixture::new();
    let (short, long) = (Json::from(&b"1"[..]), Json::from(&[b'1'; 200_000][..]));
    fixture.tell("PRAGMA max_page_count = 20").await.unwrap();
    let changes = [&short, &long, &short].map(|json| [fresh("theme", json)]);
    let commits = (1..).zip(&changes).map(|(number, changes)| Commit { changes, ..commit(number, CommitKind::Create) });
    let told = join_all(commits.map(|commit| fixture.store.commit(commit))).await;
    assert!(matches!((&told[0], &told[2]), (Ok(Committed::Applied { .. }), Ok(Committed::Applied { .. }))), "{told:?}");
    assert_eq!(refusal(told[1].as_ref().unwrap_err()), (StoreErrorKind::Full, false));
    assert!(matches!(read(&fixture.store, Ask::new(owner(2))).await, Snapshot::Absent));
    assert!(matches!(read(&fixture.store, Ask::new(owner(3))).await, Snapshot::Present(_)));
}

#[tokio::test]
async fn failed_transaction_acknowledges_nothing() {
    let fixture = Fixture::new();
    let orphan = "PRAGMA defer_foreign_keys = ON; INSERT INTO ls_value VALUES (x'00', 'theme', 1, x'31')";
    // The foreign key of the orphan is checked at the end of the transaction, so `COMMIT` itself fails.
    let (created, told) = tokio::join!(fixture.store.commit(commit(1, CommitKind::Create)), fixture.tell(orphan));
    assert_eq!(told.map_err(|error| refusal(&error)), Err((StoreErrorKind::Other, true)));
    let is_present = matches!(read(&fixture.store, Ask::new(owner(1))).await, Snapshot::Present(_));
    assert_eq!(created.is_ok(), is_present, "{created:?}");
    let next = fixture.store.commit(commit(2, CommitKind::Create)).await;
    assert!(matches!(next, Ok(Committed::Applied { .. })), "{next:?}");
}

#[tokio::test]
async fn read_only_database_refuses_commits() {
    let fixture = Fixture::new();
    fixture.store.commit(commit(1, CommitKind::Create)).await.unwrap();
    fixture.tell("PRAGMA query_only = ON").await.unwrap();
    let error = fixture.store.commit(commit(2, CommitKind::Create)).await.unwrap_err();
    assert_eq!(refusal(&error), (StoreErrorKind::ReadOnly, false));
    assert!(matches!(read(&fixture.store, Ask::new(owner(1))).await, Snapshot::Present(_)));
}

#[tokio::test]
async fn undecodable_record_fails_reads_and_commits() {
    for column in [
        "reason = 77",
        "successor = x'00'",
        "ended_at = -1",
        "absolute_at = -5",
        "expires_at = 1 << 60",
        "delete_at = -1",
    ] {
        let fixture = Fixture::new();
        fixture.store.commit(commit(1, end())).await.unwrap();
        fixture.tell(&format!("UPDATE ls_owner SET {column}")).await.unwrap();
        let error = fixture.store.commit(commit(1, end())).await.unwrap_err();
        assert_eq!(refusal(&error), (StoreErrorKind::Other, false), "{column}");
        assert!(fixture.store.read(&[Ask::new(owner(1))]).await.is_err(), "{column}");
        assert!(matches!(read(&fixture.store, Ask::new(owner(2))).await, Snapshot::Absent), "{column}");
    }
}

#[tokio::test]
async fn expired_records_are_deleted_in_steps() {
    let fixture = Fixture::new();
    let json = Json::from(&b"1"[..]);
    let changes = [fresh("theme", &json)];
    let owner = |number: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        OwnerId::from_hash(hash)
    };
    let of = |number| Commit { owner: owner(number), changes: &changes, ..commit(0, CommitKind::Create) };
    let commits = (0..1500).map(|number| fixture.store.commit(of(number)));
    assert!(join_all(commits).await.iter().all(Result::is_ok));
    let count = "SELECT (SELECT count(*) FROM ls_owner) + (SELECT count(*) FROM ls_value)";
    let rows = async || {
        let count = |rows: &mut rows::Rows<'_>, _| Ok(rows.connection.query_row(count, [], |row| row.get(0))?);
        fixture.store.0.writer.run::<i64>(count, |_| {}).await.unwrap()
    };
    assert!(!fixture.store.maintain().await.unwrap());
    assert_eq!(rows().await, 3000);
    fixture.pass(2 * MINUTE);
    assert!(fixture.store.maintain().await.unwrap());
    assert_eq!(rows().await, 1000);
    assert!(!fixture.store.maintain().await.unwrap());
    assert_eq!(rows().await, 0);
}

#[tokio::test]
async fn most_uses_leave_the_deletion_alone() {
    let fixture = Fixture::new();
    let times = async || {
        let select = "SELECT expires_at, delete_at FROM ls_owner";
        let times = |rows: &mut rows::Rows<'_>, _| {
            Ok(rows.connection.query_row(select, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?)
        };
        fixture.store.0.writer.run(times, |_| {}).await.unwrap()
    };
    let millis = |span: Duration| span.as_millis() as i64;
    fixture.store.commit(commit(1, CommitKind::Upsert)).await.unwrap();
    let (expires, deletion) = times().await;
    assert_eq!(deletion, expires + millis(MINUTE / 10) + 1);
    fixture.pass(MINUTE / 10);
    fixture.store.commit(commit(1, CommitKind::Upsert)).await.unwrap();
    assert_eq!(times().await, (expires + millis(MINUTE / 10), deletion));
    fixture.pass(MINUTE / 10);
    fixture.store.touch(&[Touch::new(owner(1), MINUTE)]).await.unwrap();
    assert_eq!(times().await, (expires + millis(MINUTE / 5), expires + millis(3 * MINUTE / 10) + 1));
    // A shorter lifetime brings the deletion nearer too.
    let life = StoredLife::new(fixture.now(), MINUTE / 2, Version::from_u64(1));
    let shorter = Commit { life: Some(life), keep: MINUTE / 2, ..commit(1, CommitKind::Update) };
    fixture.store.commit(shorter).await.unwrap();
    let (sooner, deletion) = times().await;
    assert!(sooner < expires && deletion == sooner + millis(MINUTE / 20) + 1);
}

#[tokio::test]
async fn notices_come_after_commits_of_any_clone() {
    let fixture = Fixture::new();
    let mut notices = fixture.store.clone().notices().unwrap();
    for kind in [CommitKind::Create, CommitKind::Create, CommitKind::Update, end(), CommitKind::Update] {
        fixture.store.commit(commit(1, kind)).await.unwrap();
    }
    let told: Vec<_> = std::iter::from_fn(|| notices.next().now_or_never().flatten()).collect();
    let node = NodeId::from_u64(1);
    let [Notice::Up, first, second, last] = told.as_slice() else { panic!("{told:?}") };
    let versions = [first, second, last].map(|notice| match notice {
        Notice::Changed { owner: of, known, node: by } if (*of, *by) == (owner(1), node) => known.newest(),
        other => panic!("{other:?}"),
    });
    assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
}

#[tokio::test]
async fn abandoned_commit_is_whole_or_absent() {
    let fixture = Fixture::new();
    let json = Json::from(&b"1"[..]);
    let changes = NAMES.map(|name| fresh(name, &json));
    for number in 0..100 {
        let created = fixture.store.commit(Commit { changes: &changes, ..commit(number, CommitKind::Create) });
        if number % 3 == 0 {
            drop(created);
        } else {
            // The first poll sends the commit to the thread, which may have answered already.
            drop(created.now_or_never());
        }
    }
    let kept = fixture.store.commit(commit(200, CommitKind::Create)).await;
    assert!(matches!(kept, Ok(Committed::Applied { .. })), "{kept:?}");
    for number in 0..100 {
        match read(&fixture.store, Ask::new(owner(number))).await {
            Snapshot::Absent => {}
            Snapshot::Present(record) if number % 3 != 0 => assert_eq!(record.entries().count(), NAMES.len()),
            other => panic!("{number}: {other:?}"),
        }
    }
}
