//! For tests: a clock that moves by hand, and a tier that writes down what it is asked.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    id::OwnerId,
    tier::{Commit, CommitKind, Committed, Found, Lookup, Role, Tier, TierFuture},
    version::{Clock, Sleep, Version},
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wall clock and a monotonic clock that stand still until the test moves them. Clones are the same clock.
///
/// ```
/// # use std::time::Duration;
/// use layered_session::{Clock, testing::ManualClock};
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), before + Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Hands>>);

#[derive(Debug)]
struct Hands {
    now: SystemTime,
    /// How far it was advanced in all.
    passed: Duration,
    sleeping: Vec<Waker>,
}

impl ManualClock {
    /// Begins at 2030-01-01T00:00:00Z.
    pub fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        Self(Arc::new(Mutex::new(Hands { now, passed: Duration::ZERO, sleeping: Vec::new() })))
    }

    /// Lets a span pass by both clocks, and wakes whoever sleeps.
    pub fn advance(&self, span: Duration) {
        let sleeping = {
            let mut hands = lock(&self.0);
            hands.now += span;
            hands.passed += span;
            std::mem::take(&mut hands.sleeping)
        };
        sleeping.into_iter().for_each(Waker::wake);
    }

    /// Sets the wall clock to a time, an earlier one too, as when somebody sets the system's clock. The monotonic clock
    /// stays, and so does whoever sleeps.
    pub fn set(&self, now: SystemTime) {
        lock(&self.0).now = now;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        lock(&self.0).now
    }

    fn monotonic(&self) -> Duration {
        lock(&self.0).passed
    }

    fn sleep(&self, span: Duration) -> Sleep {
        let (hands, end) = (Arc::clone(&self.0), self.monotonic().saturating_add(span));
        Box::pin(std::future::poll_fn(move |cx| {
            let mut hands = lock(&hands);
            if hands.passed >= end {
                return Poll::Ready(());
            }
            hands.sleeping.push(cx.waker().clone());
            Poll::Pending
        }))
    }
}

/// A shared store in this process that writes down each operation, and fails when told to. Clones are the same store.
#[derive(Clone, Default)]
pub struct SpyStore(Arc<Mutex<Spied>>);

#[derive(Default)]
struct Spied {
    records: HashMap<OwnerId, StoredRecord>,
    operations: Vec<Operation>,
    failing: bool,
}

#[derive(Default)]
struct StoredRecord {
    ended: bool,
    newest: Version,
    values: HashMap<String, (Version, Option<Bytes>)>,
}

/// What a [`SpyStore`] was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A read of one owner's record.
    Read,
    /// A commit.
    Write(CommitKind),
}

impl SpyStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every operation fails.
    pub fn fail(&self) {
        lock(&self.0).failing = true;
    }

    /// From now on operations succeed again.
    pub fn heal(&self) {
        lock(&self.0).failing = false;
    }

    /// The operations since the last call, failed ones too.
    pub fn take_operations(&self) -> Vec<Operation> {
        std::mem::take(&mut lock(&self.0).operations)
    }
}

impl fmt::Debug for SpyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpyStore").finish_non_exhaustive()
    }
}

impl Tier for SpyStore {
    fn name(&self) -> &'static str {
        "spy"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::boxed(async move {
            let mut spied = lock(&self.0);
            spied.operations.push(Operation::Read);
            if spied.failing {
                return Err("told to fail".into());
            }
            let Some(record) = lookup.owner().and_then(|owner| spied.records.get(&owner)) else {
                return Ok(Found::absent());
            };
            if record.ended {
                return Ok(Found::ended());
            }
            let values = record.values.iter();
            Ok(values
                .fold(Found::nothing(), |found, (name, (version, json))| found.entry(name, json.clone(), *version)))
        })
    }

    fn write<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        TierFuture::boxed(async move {
            let mut spied = lock(&self.0);
            spied.operations.push(Operation::Write(commit.kind()));
            if spied.failing {
                return Err("told to fail".into());
            }
            Ok(spied.apply(commit))
        })
    }
}

impl Spied {
    fn apply(&mut self, commit: Commit<'_>) -> Committed {
        let known = self.records.get(&commit.owner());
        match (commit.kind(), known) {
            (_, Some(record)) if record.ended => return Committed::Ended,
            (CommitKind::Update | CommitKind::End, None) => return Committed::Absent,
            _ => {}
        }
        let exists = commit.kind() == CommitKind::Create && known.is_some();
        let record = self.records.entry(commit.owner()).or_default();
        let version_of = |name: &str| record.values.get(name).map_or(Version::ZERO, |(version, _)| *version);
        let outdated =
            commit.changes().iter().any(|change| change.replaces().is_some_and(|of| of != version_of(change.name())));
        if exists || outdated {
            let values = record.values.iter();
            let entry = |found: Found, (name, (version, json)): (&String, &(Version, Option<Bytes>))| {
                found.entry(name, json.clone(), *version)
            };
            return Committed::Outdated(values.fold(Found::nothing(), entry));
        }
        record.ended = commit.kind() == CommitKind::End;
        let fresh = Version::from_u64(record.newest.as_u64().max(1_893_456_000_000 << 16) + 1);
        for change in commit.changes() {
            let version = change.version().unwrap_or(fresh);
            record.newest = record.newest.max(version);
            record.values.insert(change.name().to_owned(), (version, change.json().map(Bytes::copy_from_slice)));
        }
        Committed::Applied(fresh)
    }
}
