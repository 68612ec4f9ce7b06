//! [`SpyStore`]: a shared store in this process that follows a script.

use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use bytes::Bytes;

use super::lock;
use crate::{
    error::{BoxError, CloseReason},
    id::OwnerId,
    record::change::Mutation,
    tier::{Ask, Commit, CommitKind, Committed, Snapshot, Store, StoredRecord, TierFuture},
    time::Clock,
    version::Version,
};

#[cfg(test)]
mod tests;

/// A shared store in this process, which notes its calls and follows a script. Clones are the same store.
///
/// ```
/// # use {http::{Request, Response}, layered_session::{CookieTier, KeyRing, Principal, Scope, SessionValue, Sessions}};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
/// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
/// use layered_session::{SharedTier, WriteErrorKind};
/// use layered_session::{testing::{self, SpyStore}, tier::BoxError};
///
/// # futures_util::future::FutureExt::now_or_never(async {
/// let store = SpyStore::new();
/// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?));
/// let sessions = chain.tier(SharedTier::new(store.clone())).value::<Visits>().build()?;
/// let session = testing::session(&sessions).await?;
/// store.fail();
/// let error = session.set(Visits(1)).await.unwrap_err();
/// assert_eq!(error.kind(), WriteErrorKind::Unavailable);
/// store.heal();
/// session.set(Visits(1)).await?;
/// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
/// ```
#[derive(Clone, Default)]
pub struct SpyStore(Arc<Mutex<Spied>>);

#[derive(Default)]
struct Spied {
    records: HashMap<OwnerId, SpiedRecord>,
    calls: Vec<Call>,
    failing: bool,
    /// How many more writes find themselves outdated.
    outdated: usize,
    requests_held: Option<Operation>,
    answers_held: Option<Operation>,
    /// The calls that wait for [`SpyStore::release`].
    waiting: Vec<Waker>,
    clock: Option<Arc<dyn Clock>>,
}

#[derive(Default)]
struct SpiedRecord {
    ended: Option<CloseReason>,
    newest: Version,
    values: HashMap<String, (Version, Option<Bytes>)>,
    expires: Option<SystemTime>,
}

/// The kind of a call to a [`SpyStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A read of records.
    Read,
    /// A commit that makes a record.
    Create,
    /// A commit that changes a record.
    Update,
    /// A commit that changes a record, or makes the record.
    Upsert,
    /// A commit that ends a record.
    End,
}

impl Operation {
    const fn of(kind: CommitKind) -> Self {
        match kind {
            CommitKind::Create => Self::Create,
            CommitKind::Update => Self::Update,
            CommitKind::Upsert => Self::Upsert,
            CommitKind::End { .. } => Self::End,
        }
    }
}

/// A call to a [`SpyStore`].
///
/// ```
/// # use {layered_session::{CookieTier, KeyRing, SessionValue, Sessions}, std::time::Duration};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
/// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
/// use layered_session::{Clock, SharedTier};
/// use layered_session::{testing::{self, ManualClock, SpyStore}, tier::BoxError};
///
/// # futures_util::future::FutureExt::now_or_never(async {
/// let (store, clock) = (SpyStore::new(), ManualClock::new());
/// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?)).value::<Visits>();
/// let hour = Duration::from_secs(3600);
/// let chain = chain.tier(SharedTier::new(store.clone())).clock(clock.clone());
/// let sessions = chain.idle(hour).absolute(hour).build()?;
/// testing::session(&sessions).await?.set(Visits(1)).await?;
/// let calls = store.take_calls();
/// assert_eq!(calls[0].expires(), Some(clock.now() + hour));
/// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    kind: Option<CommitKind>,
    owner: OwnerId,
    expires: Option<SystemTime>,
}

impl Call {
    /// The kind of the call.
    pub fn operation(&self) -> Operation {
        self.kind.map_or(Operation::Read, Operation::of)
    }

    /// The kind of the commit, with the reason and the successor of an end; `None` for a read.
    pub const fn kind(&self) -> Option<CommitKind> {
        self.kind
    }

    /// The owner of the record.
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }

    /// The time until which a commit asks the store to keep the record; `None` for a read.
    pub const fn expires(&self) -> Option<SystemTime> {
        self.expires
    }
}

impl SpyStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails every operation from now on.
    pub fn fail(&self) {
        lock(&self.0).failing = true;
    }

    /// Lets operations succeed again.
    pub fn heal(&self) {
        lock(&self.0).failing = false;
    }

    /// Keeps calls of this kind from the store from now on, until [`release`](Self::release).
    ///
    /// ```
    /// # use {layered_session::{CookieTier, KeyRing, SessionValue, Sessions, SharedTier}, futures_util::future::FutureExt};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
    /// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
    /// use layered_session::testing::{self, Operation, SpyStore};
    /// use layered_session::tier::BoxError;
    ///
    /// # async {
    /// let store = SpyStore::new();
    /// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?));
    /// let sessions = chain.tier(SharedTier::new(store.clone())).value::<Visits>().build()?;
    /// let session = testing::session(&sessions).await?;
    /// store.hold_requests(Operation::Create);
    /// let mut write = Box::pin(session.set(Visits(1)));
    /// assert!(write.as_mut().now_or_never().is_none(), "the write waits");
    /// store.release();
    /// write.await?;
    /// # Ok::<_, BoxError>(()) }.now_or_never().unwrap().unwrap();
    /// ```
    pub fn hold_requests(&self, operation: Operation) {
        lock(&self.0).requests_held = Some(operation);
    }

    /// Carries calls of this kind out from now on, and keeps their answers until [`release`](Self::release).
    pub fn hold_answers(&self, operation: Operation) {
        lock(&self.0).answers_held = Some(operation);
    }

    /// Lets every call that waits go on, and holds no more.
    pub fn release(&self) {
        let waiting = {
            let mut spied = lock(&self.0);
            (spied.requests_held, spied.answers_held) = (None, None);
            std::mem::take(&mut spied.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Finds the next writes outdated, so many, as if another node were faster each time.
    ///
    /// ```
    /// use layered_session::testing::SpyStore;
    ///
    /// let store = SpyStore::new();
    /// store.outdate(31);
    /// assert_eq!(store.left_to_outdate(), 31, "no write has come yet");
    /// ```
    pub fn outdate(&self, writes: usize) {
        lock(&self.0).outdated = writes;
    }

    /// Returns the number of writes that [`outdate`](Self::outdate) still waits for.
    pub fn left_to_outdate(&self) -> usize {
        lock(&self.0).outdated
    }

    /// Marks every record as ended, as when another node has ended each session.
    ///
    /// ```
    /// # use {layered_session::{CookieTier, KeyRing, SessionValue, Sessions, SharedTier}, futures_util::future::FutureExt};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
    /// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
    /// use layered_session::{WriteErrorKind, testing::{self, SpyStore}, tier::BoxError};
    ///
    /// # async {
    /// let store = SpyStore::new();
    /// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?));
    /// let sessions = chain.tier(SharedTier::new(store.clone())).value::<Visits>().build()?;
    /// let session = testing::session(&sessions).with(Visits(1)).await?;
    /// store.end_records();
    /// let error = session.set(Visits(2)).await.unwrap_err();
    /// assert_eq!(error.kind(), WriteErrorKind::Closed);
    /// # Ok::<_, BoxError>(()) }.now_or_never().unwrap().unwrap();
    /// ```
    pub fn end_records(&self) {
        lock(&self.0).records.values_mut().for_each(|record| record.end(CloseReason::Destroyed));
    }

    /// Drops every record, as when the store was set up anew.
    pub fn forget_records(&self) {
        lock(&self.0).records.clear();
    }

    /// Drops each record at the end that its last commit asked for ([`Commit::expires`]), by this clock. Without a clock the
    /// store keeps records for ever.
    pub fn expire_by(self, clock: impl Clock) -> Self {
        lock(&self.0).clock = Some(Arc::new(clock));
        self
    }

    /// The calls since the last time, failed ones too.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.0).calls)
    }

    /// The kinds of the calls since the last time, failed ones too.
    pub fn take_operations(&self) -> Vec<Operation> {
        self.take_calls().iter().map(Call::operation).collect()
    }

    /// Waits for as long as the script holds calls of this kind.
    async fn pass(&self, held: fn(&Spied) -> Option<Operation>, operation: Operation) {
        let open = |cx: &mut Context<'_>| {
            let mut spied = lock(&self.0);
            if held(&spied) != Some(operation) {
                return Poll::Ready(());
            }
            spied.waiting.push(cx.waker().clone());
            Poll::Pending
        };
        poll_fn(open).await;
    }
}

impl fmt::Debug for SpyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpyStore").finish_non_exhaustive()
    }
}

impl Store for SpyStore {
    fn name(&self) -> &'static str {
        "spy"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> TierFuture<'a, Vec<Snapshot>> {
        TierFuture::boxed(async move {
            self.pass(|spied| spied.requests_held, Operation::Read).await;
            let snapshots = asks.iter().map(|ask| lock(&self.0).read(ask.owner())).collect();
            self.pass(|spied| spied.answers_held, Operation::Read).await;
            snapshots
        })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        let operation = Operation::of(commit.kind());
        TierFuture::boxed(async move {
            self.pass(|spied| spied.requests_held, operation).await;
            let committed = lock(&self.0).commit(commit);
            self.pass(|spied| spied.answers_held, operation).await;
            committed
        })
    }
}

impl SpiedRecord {
    fn end(&mut self, reason: CloseReason) {
        self.ended.get_or_insert(reason);
        self.values.clear();
    }

    /// Puts a change in the place of an older value. At equal versions a removal beats a value, and the greater bytes beat
    /// the smaller.
    fn apply(&mut self, change: &Mutation, stamp: Version) {
        let version = change.version().unwrap_or(stamp);
        let incoming = (version, change.json().is_none(), change.json());
        let stands = self.values.get(change.name());
        if stands.is_none_or(|(version, json)| (*version, json.is_none(), json.as_deref()) < incoming) {
            self.values.insert(change.name().to_owned(), (version, change.json().map(Bytes::copy_from_slice)));
        }
        self.newest = self.newest.max(version);
    }

    fn stored(&self) -> StoredRecord {
        let values = self.values.iter();
        values.fold(StoredRecord::new(), |stored, (name, (version, json))| stored.entry(name, json.clone(), *version))
    }
}

impl Spied {
    /// Notes a call, and drops records that have expired.
    ///
    /// # Errors
    ///
    /// Where the script fails the call.
    fn begin(&mut self, call: Call) -> Result<(), BoxError> {
        self.calls.push(call);
        if self.failing {
            return Err("the test told the store to fail".into());
        }
        if let Some(clock) = &self.clock {
            let now = clock.now();
            self.records.retain(|_, record| record.expires.is_some_and(|expires| expires > now));
        }
        Ok(())
    }

    fn read(&mut self, owner: OwnerId) -> Result<Snapshot, BoxError> {
        self.begin(Call { kind: None, owner, expires: None })?;
        Ok(match self.records.get(&owner) {
            None => Snapshot::Absent,
            Some(record) => record.ended.map_or_else(|| Snapshot::Present(record.stored()), Snapshot::Ended),
        })
    }

    fn commit(&mut self, commit: Commit<'_>) -> Result<Committed, BoxError> {
        self.begin(Call { kind: Some(commit.kind()), owner: commit.owner(), expires: Some(commit.expires()) })?;
        if self.outdated > 0 {
            self.outdated -= 1;
            return Ok(Committed::Outdated(self.stored(commit.owner())));
        }
        Ok(self.apply(commit))
    }

    fn stored(&self, owner: OwnerId) -> StoredRecord {
        self.records.get(&owner).map_or_else(StoredRecord::new, SpiedRecord::stored)
    }

    /// Judges a commit by the record as it stands, and makes the changes.
    fn apply(&mut self, commit: Commit<'_>) -> Committed {
        let stands = self.records.get(&commit.owner());
        match (commit.kind(), stands) {
            (_, Some(SpiedRecord { ended: Some(reason), .. })) => return Committed::Ended(*reason),
            (CommitKind::Create, Some(record)) => return Committed::Outdated(record.stored()),
            (CommitKind::Update | CommitKind::End { .. }, None) => return Committed::Absent,
            _ => {}
        }
        let version_of =
            |name| stands.and_then(|record| record.values.get(name)).map_or(Version::ZERO, |value| value.0);
        if commit.changes().iter().any(|change| change.replaces().is_some_and(|of| of != version_of(change.name()))) {
            return Committed::Outdated(self.stored(commit.owner()));
        }
        let record = self.records.entry(commit.owner()).or_default();
        record.expires = Some(commit.expires());
        record.newest = Version::from_u64(record.newest.as_u64().max(1_893_456_000_000 << 16) + 1);
        let stamp = record.newest;
        commit.changes().iter().for_each(|change| record.apply(change, stamp));
        if let CommitKind::End { reason, .. } = commit.kind() {
            record.end(reason);
        }
        Committed::Applied(stamp)
    }
}
