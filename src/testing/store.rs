//! [`SpyStore`]: a shared store in this process that follows a script.

use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::lock;
use crate::{
    error::CloseReason,
    id::OwnerId,
    tier::{
        Ask, Commit, CommitKind, Committed, Notice, NoticeStream, Snapshot, Store, StoreError, StoreErrorKind,
        StoreFuture, StoredEnd, StoredRecord, Touch, notice::hub::NoticeHub,
    },
    time::Clock,
    version::Version,
};

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
pub struct SpyStore(Arc<Mutex<Spied>>, NoticeHub);

#[derive(Default)]
struct Spied {
    records: HashMap<OwnerId, StoredRecord>,
    /// The records of the last [`SpyStore::checkpoint`].
    checkpoint: HashMap<OwnerId, StoredRecord>,
    calls: Vec<Call>,
    failing: Option<StoreErrorKind>,
    /// The number of writes that the store still answers as outdated.
    outdated: usize,
    requests_held: Option<Operation>,
    answers_held: Option<Operation>,
    /// The calls that wait for [`SpyStore::release`].
    waiting: Vec<Waker>,
    clock: Option<Arc<dyn Clock>>,
}

/// The kind of a call to a [`SpyStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A read of one or more records.
    Read,
    /// A commit that creates the record of a new session.
    Create,
    /// A commit that changes an existing record.
    Update,
    /// A commit that changes a record, or creates the record if the store has none.
    Upsert,
    /// A commit that removes all values of a record, except the identity value.
    Clear,
    /// A commit that ends all sessions of a principal.
    Revoke,
    /// A commit that ends a session.
    End,
    /// A touch: a call that makes the store keep records for longer.
    Touch,
}

impl Operation {
    const fn of(kind: CommitKind) -> Self {
        match kind {
            CommitKind::Create => Self::Create,
            CommitKind::Update => Self::Update,
            CommitKind::Upsert => Self::Upsert,
            CommitKind::Clear { .. } => Self::Clear,
            CommitKind::Revoke { .. } => Self::Revoke,
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
/// use layered_session::SharedTier;
/// use layered_session::{testing::{self, ManualClock, SpyStore}, tier::BoxError};
///
/// # futures_util::future::FutureExt::now_or_never(async {
/// let store = SpyStore::new();
/// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?)).value::<Visits>();
/// let hour = Duration::from_secs(3600);
/// let chain = chain.tier(SharedTier::new(store.clone())).clock(ManualClock::new());
/// let sessions = chain.idle(hour).absolute(hour).build()?;
/// testing::session(&sessions).await?.set(Visits(1)).await?;
/// let calls = store.take_calls();
/// assert_eq!(calls[0].keep(), Some(2 * hour), "the lifetime and `max_skew`");
/// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    operation: Operation,
    kind: Option<CommitKind>,
    owners: Vec<OwnerId>,
    keep: Option<Duration>,
}

impl Call {
    /// The kind of the call.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// The kind of the commit, with the reason and the successor of an end; `None` for a read and for a touch.
    pub const fn kind(&self) -> Option<CommitKind> {
        self.kind
    }

    /// The owner of the record: of a call for several records, the first.
    ///
    /// # Panics
    ///
    /// For a call without any owner, which no chain makes.
    pub fn owner(&self) -> OwnerId {
        self.owners[0]
    }

    /// The owners of the records, in the order of the call.
    pub fn owners(&self) -> &[OwnerId] {
        &self.owners
    }

    /// The minimum span for which the store is to keep the record, of several touches the first; `None` for a read.
    pub const fn keep(&self) -> Option<Duration> {
        self.keep
    }
}

impl SpyStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails every operation from now on, with the kind [`Other`](StoreErrorKind::Other).
    pub fn fail(&self) {
        self.fail_as(StoreErrorKind::Other);
    }

    /// Fails every operation from now on, with this kind.
    pub fn fail_as(&self, kind: StoreErrorKind) {
        lock(&self.0).failing = Some(kind);
    }

    /// Lets operations succeed again.
    pub fn heal(&self) {
        lock(&self.0).failing = None;
    }

    /// Holds calls of this kind back from the store from now on, until [`release`](Self::release). A chain drops a held
    /// call at its [deadline](crate::SharedTier::deadline), by the clock of the sessions.
    ///
    /// ```
    /// # use {layered_session::{CookieTier, KeyRing, SessionValue, Sessions, SharedTier}, futures_util::future::FutureExt};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
    /// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
    /// use layered_session::testing::{self, ManualClock, Operation, SpyStore};
    /// use layered_session::tier::BoxError;
    ///
    /// # async {
    /// let store = SpyStore::new();
    /// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?)).value::<Visits>();
    /// let chain = chain.tier(SharedTier::new(store.clone())).clock(ManualClock::new());
    /// let sessions = chain.build()?;
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

    /// Carries out calls of this kind from now on, and holds their answers back until [`release`](Self::release).
    pub fn hold_answers(&self, operation: Operation) {
        lock(&self.0).answers_held = Some(operation);
    }

    /// Lets every waiting call go on, and holds no further call.
    pub fn release(&self) {
        let waiting = {
            let mut spied = lock(&self.0);
            (spied.requests_held, spied.answers_held) = (None, None);
            std::mem::take(&mut spied.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Answers the next `writes` commits as outdated, as if another node had changed the record first each time. The
    /// session repeats an outdated write for a second, and then fails with `Contended`. From the second outdated answer
    /// on, the session sleeps before it repeats the write, by the clock of its `Sessions`. A
    /// [`ManualClock`](super::ManualClock) ends the sleep when the test advances the clock.
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

    /// Returns the number of commits that the store will still answer as outdated: see [`outdate`](Self::outdate).
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
        let mut spied = lock(&self.0);
        let end = StoredEnd::new(CloseReason::Destroyed, spied.now());
        let empty = |record: &StoredRecord| {
            StoredRecord::new(record.generation()).with_newest(record.newest().next()).with_expires(record.expires())
        };
        spied.records.values_mut().for_each(|record| *record = empty(record).with_end(end));
    }

    /// Drops every record, as when the store was set up anew.
    pub fn forget_records(&self) {
        lock(&self.0).records.clear();
    }

    /// Keeps a copy of all records for [`rewind`](Self::rewind).
    pub fn checkpoint(&self) {
        let spied = &mut *lock(&self.0);
        spied.checkpoint.clone_from(&spied.records);
    }

    /// Goes back to the records of the last [`checkpoint`](Self::checkpoint), as after a failover to a late replica.
    ///
    /// ```
    /// # use {layered_session::{CookieTier, KeyRing, SessionValue, Sessions, SharedTier}, futures_util::future::FutureExt};
    /// # use {layered_session::{testing::{self, SpyStore}, tier::BoxError}, serde::{Deserialize, Serialize}};
    /// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
    /// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
    /// # async {
    /// # let (store, chain) = (SpyStore::new(), Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?)));
    /// # let chain = chain.tier(SharedTier::new(store.clone())).value::<Visits>().build()?;
    /// let session = testing::session(&chain).with(Visits(1)).await?;
    /// store.checkpoint();
    /// session.set(Visits(2)).await?;
    /// store.rewind();
    /// assert_eq!(session.update(|visits: &mut Visits| visits.0 += 1).await?, Visits(3));
    /// # Ok::<_, BoxError>(()) }.now_or_never().unwrap().unwrap();
    /// ```
    pub fn rewind(&self) {
        let spied = &mut *lock(&self.0);
        spied.records.clone_from(&spied.checkpoint);
    }

    /// Gives the store a clock. The store then drops a record once the keep time of every commit ([`Commit::keep`]) and
    /// every touch ([`Touch::keep`]) of that record has passed. Without a clock the store's time stands still, and the
    /// store keeps records for ever.
    pub fn expire_by(self, clock: impl Clock) -> Self {
        lock(&self.0).clock = Some(Arc::new(clock));
        self
    }

    /// Returns the calls since the last `take_calls`, failed calls too.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.0).calls)
    }

    /// Returns the kinds of the calls since the last `take_calls` or `take_operations`, failed calls too.
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

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::boxed(async move {
            self.pass(|spied| spied.requests_held, Operation::Read).await;
            let snapshots = lock(&self.0).read(asks);
            self.pass(|spied| spied.answers_held, Operation::Read).await;
            snapshots
        })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        let operation = Operation::of(commit.kind());
        StoreFuture::boxed(async move {
            self.pass(|spied| spied.requests_held, operation).await;
            let committed = lock(&self.0).commit(commit);
            // Without the lock: a subscriber's waker runs code of the application.
            if let Ok((_, Some(notice))) = committed {
                self.1.send(notice);
            }
            self.pass(|spied| spied.answers_held, operation).await;
            committed.map(|(committed, _)| committed)
        })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(async move {
            self.pass(|spied| spied.requests_held, Operation::Touch).await;
            let touched = lock(&self.0).touch(touches);
            self.pass(|spied| spied.answers_held, Operation::Touch).await;
            touched
        })
    }

    fn notices(&self) -> Option<NoticeStream> {
        Some(self.1.subscribe())
    }
}

impl Spied {
    /// Returns the store's time: without a clock the beginning of 2030.
    fn now(&self) -> SystemTime {
        let fixed = UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        self.clock.as_ref().map_or(fixed, |clock| clock.now())
    }

    /// Notes a call.
    ///
    /// # Errors
    ///
    /// If the script fails the call.
    fn begin(&mut self, call: Call) -> Result<(), StoreError> {
        self.calls.push(call);
        match self.failing {
            Some(kind) => Err(StoreError::new(kind, "the test told the store to fail")),
            None => Ok(()),
        }
    }

    fn read(&mut self, asks: &[Ask]) -> Result<Vec<Snapshot>, StoreError> {
        let owners = asks.iter().map(Ask::owner).collect();
        self.begin(Call { operation: Operation::Read, kind: None, owners, keep: None })?;
        let now = self.now();
        let answer = |ask: &Ask| {
            let record = self.records.get(&ask.owner());
            record.map_or(Snapshot::Absent, |record| record.answer(*ask, now))
        };
        Ok(asks.iter().map(answer).collect())
    }

    fn commit(&mut self, commit: Commit<'_>) -> Result<(Committed, Option<Notice>), StoreError> {
        self.begin(Call {
            operation: Operation::of(commit.kind()),
            kind: Some(commit.kind()),
            owners: vec![commit.owner()],
            keep: Some(commit.keep()),
        })?;
        let now = self.now();
        let mut record = self.records.remove(&commit.owner());
        let committed = match self.outdated.checked_sub(1) {
            Some(left) => {
                self.outdated = left;
                Committed::Outdated(record.clone().unwrap_or_else(|| StoredRecord::new(Version::ZERO)))
            }
            None => commit.apply(&mut record, now),
        };
        let notice = Notice::of(commit, &committed, record.as_ref());
        self.records.extend(record.map(|record| (commit.owner(), record)));
        Ok((committed, notice))
    }

    fn touch(&mut self, touches: &[Touch]) -> Result<(), StoreError> {
        let owners = touches.iter().map(Touch::owner).collect();
        let keep = touches.first().map(Touch::keep);
        self.begin(Call { operation: Operation::Touch, kind: None, owners, keep })?;
        let now = self.now();
        for touch in touches {
            if let Some(record) = self.records.get_mut(&touch.owner()) {
                record.touch(*touch, now);
            }
        }
        Ok(())
    }
}
