//! The suite over a right store, and over stores that each break a rule.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use futures_core::Stream;
use futures_util::future::{Either, select};

use super::{wait::pause, *};
use crate::{
    id::OwnerId,
    testing::{ManualClock, SpyStore, lock},
    tier::{Ask, Commit, Committed, Known, Notice, NoticeStream, Snapshot, StoreFuture, StoredRecord, Touch},
    version::Version,
};

mod wrong;

/// The behaviour of a [`Model`]: [`Conduct::RIGHT`], or a fault in one of its parts.
#[derive(Clone, Copy)]
struct Conduct {
    /// The owner under which the store keeps a record.
    key: fn(OwnerId) -> OwnerId,
    commit: fn(&Commit<'_>, &mut Option<StoredRecord>, SystemTime) -> Committed,
    /// Whether the store forgets that a commit has changed the record: the record as before is still `Unchanged`.
    overlooks: fn(&Commit<'_>) -> bool,
    /// Whether other commits may come between the check and the write of a commit.
    tears: fn(&Commit<'_>) -> bool,
    /// Whether the store writes each change of a commit for itself.
    steps: fn(&Commit<'_>) -> bool,
    /// Whether a commit begins before the first poll.
    eager: bool,
    answer: fn(Option<&StoredRecord>, Ask, SystemTime) -> Snapshot,
    /// Changes the answers of a read.
    answers: fn(&[Ask], Vec<Snapshot>) -> Vec<Snapshot>,
    touch: fn(&mut HashMap<OwnerId, StoredRecord>, &[Touch], SystemTime),
    maintain: fn(&mut HashMap<OwnerId, StoredRecord>),
    first_notices: &'static [Notice],
    notice: fn(&Commit<'_>, Notice) -> Option<Notice>,
}

impl Conduct {
    const RIGHT: Self = Self {
        key: |owner| owner,
        commit: |commit, record, now| commit.apply(record, now),
        overlooks: |_| false,
        tears: |_| false,
        steps: |_| false,
        eager: false,
        answer: |record, ask, now| record.map_or(Snapshot::Absent, |record| record.answer(ask, now)),
        answers: |_, snapshots| snapshots,
        touch: |records, touches, now| {
            for touch in touches {
                if let Some(record) = records.get_mut(&touch.owner()) {
                    record.touch(*touch, now);
                }
            }
        },
        maintain: |_| {},
        first_notices: &[Notice::Up],
        notice: |_, notice| Some(notice),
    };
}

/// A store with notices, whose conduct a test chooses.
#[derive(Clone)]
struct Model {
    conduct: Conduct,
    clock: ManualClock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: HashMap<OwnerId, StoredRecord>,
    /// The state of records before a commit that the store overlooks.
    overlooked: HashMap<OwnerId, Known>,
    notices: Vec<Notice>,
    waiting: Vec<Waker>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    fn new(conduct: Conduct, clock: &ManualClock) -> Self {
        Self { conduct, clock: clock.clone(), state: Arc::default() }
    }

    fn record(&self, commit: &Commit<'_>) -> Option<StoredRecord> {
        lock(&self.state).records.get(&(self.conduct.key)(commit.owner())).cloned()
    }

    /// Writes the record after a commit, and sends the notice.
    fn put(&self, commit: &Commit<'_>, before: Option<&StoredRecord>, after: Option<StoredRecord>) {
        let owner = (self.conduct.key)(commit.owner());
        let mut state = lock(&self.state);
        match (before.map(StoredRecord::known), after.as_ref().map(StoredRecord::known)) {
            (before, Some(known)) if before != Some(known) => {
                let notice = Notice::Changed { owner: commit.owner(), known, node: commit.node() };
                let notice = (self.conduct.notice)(commit, notice);
                state.notices.extend(notice);
                state.waiting.drain(..).for_each(Waker::wake);
                state.overlooked.remove(&owner);
                if (self.conduct.overlooks)(commit) {
                    state.overlooked.extend(before.map(|before| (owner, before)));
                }
            }
            _ => {}
        }
        match after {
            Some(record) => drop(state.records.insert(owner, record)),
            None => drop(state.records.remove(&owner)),
        }
    }

    fn commit_now(&self, commit: Commit<'_>) -> Committed {
        let before = self.record(&commit);
        let mut record = before.clone();
        let committed = (self.conduct.commit)(&commit, &mut record, self.clock.now());
        self.put(&commit, before.as_ref(), record);
        committed
    }
}

impl Store for Model {
    fn name(&self) -> &'static str {
        "model"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::boxed(async move {
            let (state, now) = (lock(&self.state), self.clock.now());
            let answer = |ask: &Ask| {
                let owner = (self.conduct.key)(ask.owner());
                let record = state.records.get(&owner);
                let overlooked = ask.known().is_some_and(|known| state.overlooked.get(&owner) == Some(&known));
                match record {
                    Some(record) if overlooked => wrong::unchanged(record, now),
                    _ => (self.conduct.answer)(record, *ask, now),
                }
            };
            Ok((self.conduct.answers)(asks, asks.iter().map(answer).collect()))
        })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        if self.conduct.eager {
            return StoreFuture::ready(Ok(self.commit_now(commit)));
        }
        StoreFuture::boxed(async move {
            if (self.conduct.tears)(&commit) {
                let before = self.record(&commit);
                let mut record = before.clone();
                let committed = (self.conduct.commit)(&commit, &mut record, self.clock.now());
                pause().await;
                self.put(&commit, before.as_ref(), record);
                return Ok(committed);
            }
            if (self.conduct.steps)(&commit) {
                for change in commit.changes() {
                    self.commit_now(Commit { changes: std::slice::from_ref(change), ..commit });
                    pause().await;
                }
            }
            Ok(self.commit_now(commit))
        })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(async move {
            let kept = |touch: &Touch| {
                Touch::new((self.conduct.key)(touch.owner()), touch.keep()).by_lifetime(touch.lifetime_version())
            };
            let touches: Vec<_> = touches.iter().map(kept).collect();
            (self.conduct.touch)(&mut lock(&self.state).records, &touches, self.clock.now());
            Ok(())
        })
    }

    fn notices(&self) -> Option<NoticeStream> {
        Some(Box::pin(Notices { model: self.clone(), first: self.conduct.first_notices, next: 0 }))
    }

    fn maintain(&self) -> StoreFuture<'_, bool> {
        (self.conduct.maintain)(&mut lock(&self.state).records);
        StoreFuture::ready(Ok(false))
    }
}

struct Notices {
    model: Model,
    first: &'static [Notice],
    next: usize,
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        if let Some((first, rest)) = self.first.split_first() {
            self.first = rest;
            return Poll::Ready(Some(*first));
        }
        let next = {
            let mut state = lock(&self.model.state);
            let next = state.notices.get(self.next).copied();
            if next.is_none() {
                state.waiting.push(cx.waker().clone());
            }
            next
        };
        self.next += usize::from(next.is_some());
        next.map_or(Poll::Pending, |notice| Poll::Ready(Some(notice)))
    }
}

/// Lets the clock run until the future ends.
async fn by_clock<T>(clock: &ManualClock, future: impl Future<Output = T>) -> T {
    let ticks = async {
        loop {
            clock.advance(Duration::from_millis(5));
            pause().await;
        }
    };
    match select(pin!(future), pin!(ticks)).await {
        Either::Left((done, _)) => done,
        Either::Right((never, _)) => never,
    }
}

/// Runs the suite, and returns the names of the broken rules with the whole report.
async fn broken(conduct: Conduct) -> (Vec<&'static str>, String) {
    let clock = ManualClock::new();
    let store = Model::new(conduct, &clock);
    match by_clock(&clock, Suite::new(&store, clock.clone()).run()).await {
        Ok(()) => (Vec::new(), String::new()),
        Err(violations) => {
            (violations.iter().map(|violation| violation.rule().name()).collect(), violations.to_string())
        }
    }
}

#[tokio::test]
async fn right_store_keeps_all_rules() {
    let (_, report) = broken(Conduct::RIGHT).await;
    assert_eq!(report, "");
}

#[tokio::test]
async fn each_wrong_store_breaks_its_rule() {
    let mut failed = Vec::new();
    for (rule, also, conduct) in wrong::stores() {
        let (names, report) = broken(*conduct).await;
        match also {
            Some(also) => {
                let place = |name: &&str| Rule::all().position(|rule| rule.name() == *name);
                let mut expected = [&[*rule], *also].concat();
                expected.sort_by_key(place);
                if names != expected {
                    failed.push(format!("{rule}: {report}"));
                }
            }
            None if names.contains(rule) => {}
            None => failed.push(format!("{rule}: {report}")),
        }
    }
    assert!(failed.is_empty(), "the stores break other rules:\n{}", failed.join("\n"));
}

#[test]
fn each_rule_has_a_wrong_store() {
    let mut stores: Vec<_> = wrong::stores().map(|(rule, ..)| *rule).collect();
    let mut rules: Vec<_> = Rule::all().map(|rule| rule.name()).collect();
    stores.sort_unstable();
    rules.sort_unstable();
    assert_eq!(stores, rules);
}

#[tokio::test]
async fn spy_store_keeps_all_rules() {
    let clock = ManualClock::new();
    let (store, resting) = (SpyStore::new().expire_by(clock.clone()), SpyStore::new());
    by_clock(&clock, Suite::new(&store, clock.clone()).run()).await.unwrap();
    Suite::new(&resting, ManualClock::new()).without_expiry().run().await.unwrap();
}

#[tokio::test]
async fn second_connection_sees_all_commits() {
    let clock = ManualClock::new();
    let store = Model::new(Conduct::RIGHT, &clock);
    let suite = Suite::new(&store, clock.clone());
    by_clock(&clock, suite.clone().beside(&store.clone()).run()).await.unwrap();
    let stranger = Model::new(Conduct::RIGHT, &clock);
    let rule = Rule::all().find(|rule| rule.name() == "create_makes_the_record").unwrap();
    assert!(suite.beside(&stranger).check(rule).await.is_err(), "the two have no record in common");
}

#[tokio::test]
async fn stuck_store_ends_the_run() {
    /// Keeps a lock for ever after a caller has dropped a commit.
    #[derive(Debug)]
    struct Stuck(Model, tokio::sync::Mutex<bool>);

    impl Store for Stuck {
        fn name(&self) -> &'static str {
            "stuck"
        }

        fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
            self.0.read(asks)
        }

        fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
            StoreFuture::boxed(async move {
                while std::mem::replace(&mut *self.1.lock().await, true) {
                    pause().await;
                }
                pause().await;
                let committed = self.0.commit(commit).await;
                *self.1.lock().await = false;
                committed
            })
        }

        fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
            self.0.touch(touches)
        }
    }

    let clock = ManualClock::new();
    let store = Stuck(Model::new(Conduct::RIGHT, &clock), tokio::sync::Mutex::new(false));
    let violations = by_clock(&clock, Suite::new(&store, clock.clone()).run()).await.unwrap_err();
    let names: Vec<_> = violations.iter().map(|violation| violation.rule().name()).collect();
    assert_eq!(names, ["dropped_commit_is_whole_or_nothing"]);
    assert!(violations.to_string().ends_with("no end after 30 s; the later rules were not checked"), "{violations}");
}

#[tokio::test]
async fn report_names_store_rule_and_answers() {
    let conduct = Conduct {
        commit: |commit, record, now| Commit { above: Version::ZERO, ..*commit }.apply(record, now),
        ..Conduct::RIGHT
    };
    let (_, report) = broken(conduct).await;
    let mut lines = report.lines();
    assert_eq!(lines.next(), Some("the store `model` breaks 1 rule:"));
    let rule = "- stamp_is_above_known_versions: The stamp is greater than `Commit::above`.";
    assert_eq!(lines.next(), Some(rule));
    assert!(lines.next().is_some_and(|line| line.starts_with("    expected a stamp above ")), "{report}");
}

#[test]
fn docs_list_all_rules() {
    let docs = include_str!("../conformance.rs");
    let rows = docs.lines().filter(|line| line.starts_with("//! | `"));
    let rules = Rule::all().map(|rule| format!("//! | `{}` | {} |", rule.name(), rule.statement()));
    assert_eq!(rows.collect::<Vec<_>>(), rules.collect::<Vec<_>>());
}
