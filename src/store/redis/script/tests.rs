//! Random commits, reads and touches against a real server, with `Commit::apply` as the reference.

use std::{
    collections::{BTreeMap, HashMap},
    env, mem,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::{Builder, Runtime};

use super::super::{
    RedisStore,
    layout::span_millis,
    tests::{HOUR, owner, server::server, store},
};
use crate::{
    error::CloseReason,
    tier::{
        Ask, Change, Commit, CommitKind, Committed, Known, NodeId, OwnerId, Snapshot, Store, StoredLife, StoredRecord,
        Touch, Version,
    },
    value::Json,
};

/// Everything about a record, as text.
fn shape(record: &StoredRecord) -> String {
    let entries: BTreeMap<_, _> =
        record.entries().map(|entry| (entry.name(), (entry.version(), entry.json()))).collect();
    let state = (record.not_before(), record.life(), record.end(), record.expires());
    format!("{:?} {state:?} {entries:?}", record.known())
}

fn outcome(committed: &Committed) -> String {
    match committed {
        Committed::Retired(record) => format!("retired {}", shape(record)),
        // The reference returns an empty record without an expiry for a missing record, and so does the store.
        Committed::Outdated(record) => format!("outdated {}", shape(record)),
        other => format!("{other:?}"),
    }
}

fn seen(snapshot: &Snapshot) -> String {
    match snapshot {
        Snapshot::Present(record) => format!("present {:?} {}", record.left(), shape(record)),
        other => format!("{other:?}"),
    }
}

/// A step of the search. Small numbers choose among the interesting cases.
#[derive(Clone, Debug)]
enum Step {
    Commit { owner: u8, kind: u8, changes: Vec<(u8, u8, u8, u8)>, life: u8, above: u8, keep: u8 },
    Read { known: Vec<(u8, u8)> },
    Touch { owners: Vec<u8>, keep: u8, life: u8 },
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec((0..5_u8, 0..6_u8, 0..10_u8, 0..8_u8), 0..4);
    let commit = (0..3_u8, 0..14_u8, changes, 0..5_u8, 0..12_u8, 0..8_u8)
        .prop_map(|(owner, kind, changes, life, above, keep)| Step::Commit { owner, kind, changes, life, above, keep });
    prop_oneof![
        12 => commit,
        3 => prop::collection::vec((0..3_u8, 0..4_u8), 0..4).prop_map(|known| Step::Read { known }),
        2 => (prop::collection::vec(0..3_u8, 0..4), 0..8_u8, 0..4_u8)
            .prop_map(|(owners, keep, life)| Step::Touch { owners, keep, life }),
        1 => Just(Step::Wait),
    ]
}

fn keep(choice: u8) -> Duration {
    match choice {
        0 => Duration::ZERO,
        1 => Duration::from_millis(4),
        2 => Duration::from_micros(2500),
        3 => 2 * HOUR,
        _ => HOUR,
    }
}

/// The store, and the records that the reference may hold. The server's millisecond of a call is known up to a few, so
/// the reference makes each step at each of these, and keeps the results that agree with the store.
struct Search {
    store: RedisStore,
    runtime: Runtime,
    owners: [OwnerId; 3],
    records: HashMap<OwnerId, Vec<Option<StoredRecord>>>,
}

impl Search {
    fn now(&self) -> u64 {
        let time = self.runtime.block_on(self.store.link.run(redis::pipe().cmd("TIME"), None)).unwrap().remove(0);
        let (seconds, micros): (u64, u64) = redis::from_redis_value(time).unwrap();
        seconds * 1000 + micros / 1000
    }

    fn during<T>(&self, call: impl AsyncFnOnce(&RedisStore) -> T) -> (T, Vec<SystemTime>) {
        let from = self.now();
        let answer = self.runtime.block_on(call(&self.store));
        (answer, (from..=self.now()).map(|millis| UNIX_EPOCH + Duration::from_millis(millis)).collect())
    }

    fn may_be(&mut self, owner: OwnerId) -> &mut Vec<Option<StoredRecord>> {
        self.records.entry(owner).or_insert_with(|| vec![None])
    }

    /// Keeps the records that a step makes of the records before, at one of the times.
    fn follow(
        &mut self,
        owner: OwnerId,
        times: &[SystemTime],
        step: impl Fn(&mut Option<StoredRecord>, SystemTime) -> bool,
        told: &str,
    ) -> Result<(), TestCaseError> {
        let before = mem::take(self.may_be(owner));
        let mut after: BTreeMap<String, Option<StoredRecord>> = BTreeMap::new();
        for record in &before {
            for time in times {
                let mut record = record.clone();
                if step(&mut record, *time) {
                    after.insert(record.as_ref().map(shape).unwrap_or_default(), record);
                }
            }
        }
        let expected = || before.iter().map(|record| record.as_ref().map(shape)).collect::<Vec<_>>();
        prop_assert!(!after.is_empty(), "the store answered {told}\nfor one of {:#?}", expected());
        *self.may_be(owner) = after.into_values().collect();
        Ok(())
    }

    fn read(&mut self, asks: &[Ask]) -> Result<(), TestCaseError> {
        let (snapshots, times) = self.during(async |store| store.read(asks).await.unwrap());
        prop_assert_eq!(snapshots.len(), asks.len());
        for (ask, snapshot) in asks.iter().zip(&snapshots) {
            let told = seen(snapshot);
            let answers = |record: &mut Option<StoredRecord>, now| {
                // `PEXPIREAT` drops a key at once that has a millisecond left.
                let is_over = |record: &mut StoredRecord| record.expires <= now + Duration::from_millis(1);
                if matches!(snapshot, Snapshot::Absent) && record.as_mut().is_some_and(is_over) {
                    *record = None;
                }
                let answer = record.as_ref().map_or(Snapshot::Absent, |record| record.answer(*ask, now));
                seen(&answer) == told
            };
            self.follow(ask.owner(), &times, answers, &told)?;
        }
        Ok(())
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Wait => std::thread::sleep(Duration::from_millis(3)),
            Step::Read { known } => {
                // An owner that is asked for twice may expire between the two answers.
                let known: HashMap<_, _> = known.iter().copied().collect();
                let asks: Vec<_> = known.into_iter().map(|(owner, known)| self.ask(owner, known)).collect();
                self.read(&asks)?;
            }
            Step::Touch { owners, keep: choice, life } => {
                let touches: Vec<_> = owners.iter().map(|owner| self.touch(*owner, keep(*choice), *life)).collect();
                let ((), times) = self.during(async |store| store.touch(&touches).await.unwrap());
                for touch in &touches {
                    let touched = |record: &mut Option<StoredRecord>, now| {
                        // The store has whole milliseconds.
                        let keep = Duration::from_millis(span_millis(touch.keep()));
                        let touch = Touch::new(touch.owner(), keep).by_lifetime(touch.lifetime_version());
                        record.iter_mut().for_each(|record| record.touch(touch, now));
                        true
                    };
                    self.follow(touch.owner(), &times, touched, "a touch")?;
                }
                let asks: Vec<_> = touches.iter().map(|touch| Ask::new(touch.owner())).collect();
                self.read(&asks)?;
            }
            Step::Commit { owner, kind, changes, life, above, keep } => {
                let owner = self.owners[usize::from(*owner)];
                self.commit(owner, *kind, changes, [*life, *above, *keep])?;
                self.read(&[Ask::new(owner)])?;
            }
        }
        Ok(())
    }

    fn touch(&mut self, owner: u8, keep: Duration, life: u8) -> Touch {
        let owner = self.owners[usize::from(owner)];
        let current = self.may_be(owner).iter().flatten().find_map(StoredRecord::life).map(StoredLife::version);
        let version = match life {
            0 => None,
            1 => Some(Version::ZERO),
            2 => current.map(Version::next),
            _ => current,
        };
        Touch::new(owner, keep).by_lifetime(version)
    }

    fn ask(&mut self, owner: u8, known: u8) -> Ask {
        let owner = self.owners[usize::from(owner)];
        let current = self.may_be(owner).iter().flatten().next().map(StoredRecord::known);
        let ask = Ask::new(owner);
        match (known, current) {
            (0, _) | (_, None) => ask,
            (1, Some(current)) => ask.unless(Known { newest: Version::from_u64(1), ..current }),
            (2, Some(current)) => ask.unless(Known { generation: Version::from_u64(1), ..current }),
            (_, Some(current)) => ask.unless(current),
        }
    }

    fn commit(
        &mut self,
        owner: OwnerId,
        kind: u8,
        changes: &[(u8, u8, u8, u8)],
        [life, above, choice]: [u8; 3],
    ) -> Result<(), TestCaseError> {
        const NAMES: [&str; 5] = ["theme", "@", "@@a", "größe", ""];
        let record = self.may_be(owner).iter().flatten().next().cloned();
        let newest = record.as_ref().map_or(Version::ZERO, StoredRecord::newest);
        let near = |choice: u8, current: Version| match choice {
            0 => Version::ZERO,
            1 => Version::from_u64(5),
            2 => Version::from_u64(newest.as_u64() | 0xffff),
            3 => newest.next(),
            4 => Version::from_u64(newest.as_u64().saturating_add(1 << 30)),
            5 if above == 11 => Version::from_u64(u64::MAX - 1),
            _ => current,
        };
        let reason = [CloseReason::Destroyed, CloseReason::Renewed, CloseReason::Revoked][usize::from(life % 3)];
        let kind = match kind {
            0 | 1 => CommitKind::Create,
            2..=4 => CommitKind::Update,
            5..=9 => CommitKind::Upsert,
            10 => CommitKind::Clear { except: None },
            11 => CommitKind::Clear { except: Some(NAMES[usize::from(above % 5)]) },
            12 => CommitKind::Revoke { up_to: (life % 2 == 0).then_some(near(above % 5, newest)) },
            _ => CommitKind::End { reason, successor: (above % 2 == 0).then_some(owner) },
        };
        let long = "x".repeat(300);
        let texts = ["1", "2", "10", "null", &long].map(|text| Json::from(text.as_bytes()));
        let changes: Vec<_> = changes
            .iter()
            .map(|&(name, json, version, replaces)| {
                let name = NAMES[usize::from(name)];
                let entry = record.as_ref().and_then(|record| record.entries().find(|entry| entry.name() == name));
                let current = entry.map_or(Version::ZERO, |entry| entry.version());
                Change {
                    name,
                    json: texts.get(usize::from(json)),
                    version: (version < 7).then(|| near(version, current)),
                    replaces: match replaces {
                        0 => Some(Version::ZERO),
                        1 => Some(newest),
                        2..=4 => Some(current),
                        _ => None,
                    },
                }
            })
            .collect();
        let deadline = UNIX_EPOCH + Duration::from_millis(1_900_000_000_123) + HOUR * u32::from(life);
        let life = (life < 3).then(|| {
            let version = near(above, Version::from_u64(u64::from(life)));
            StoredLife::new(deadline, Duration::from_millis(1500), version).until_browser_closes(life == 1)
        });
        let above = if above < 6 { near(above, newest) } else { Version::ZERO };
        let keep = Duration::from_millis(span_millis(keep(choice)));
        let commit =
            Commit { owner, kind, changes: &changes, life, above, keep, node: NodeId::from_u64(u64::from(choice)) };
        let (committed, times) = self.during(async |store| store.commit(commit).await.unwrap());
        let told = outcome(&committed);
        let applies = |record: &mut Option<StoredRecord>, now: SystemTime| outcome(&commit.apply(record, now)) == told;
        self.follow(owner, &times, applies, &format!("{told}\nto {commit:?}"))
    }
}

#[test]
fn commits_and_reads_equal_the_reference() {
    let Some(server) = server() else { return };
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let cases = env::var("REDIS_CASES").ok().map_or(100, |cases| cases.parse().unwrap());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let case = AtomicU32::new(0);
    let run = |steps: Vec<Step>| {
        let store = store(&server).prefix(format!("case{}", case.fetch_add(1, Ordering::Relaxed)));
        let mut search =
            Search { store, runtime: runtime(), owners: [owner(1), owner(2), owner(3)], records: HashMap::new() };
        steps.iter().try_for_each(|step| search.run(step))
    };
    TestRunner::new(config).run(&prop::collection::vec(step(), 1..40), run).unwrap();
}
