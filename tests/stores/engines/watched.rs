//! [`Watched`]: a store that notes its calls, and holds calls until the test releases them.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use layered_session::{
    testing::Operation,
    tier::{
        Ask, Commit, CommitKind, Committed, NoticeStream, OwnerId, Snapshot, Store, StoreError, StoreFuture, Touch,
    },
};
use tokio::{sync::watch, task::yield_now, time::timeout};

/// A call of a store that the store has answered.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) owners: Vec<OwnerId>,
    /// The span for which a commit asks the store to keep the record.
    pub(crate) keep: Option<Duration>,
    /// The answers of a read.
    pub(crate) snapshots: Vec<Snapshot>,
}

/// The calls of all nodes of a test. Clones are the same watch.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<State>);

#[derive(Default)]
struct State {
    calls: Mutex<Vec<Call>>,
    held: watch::Sender<Held>,
}

/// The kinds of calls to hold, and the number of calls that wait.
#[derive(Default)]
struct Held {
    requests: Option<Operation>,
    answers: Option<Operation>,
    waiting: usize,
}

impl Watch {
    /// Holds calls of this kind back from the store, until [`release`](Self::release).
    pub(crate) fn hold_requests(&self, operation: Operation) {
        self.0.held.send_modify(|held| held.requests = Some(operation));
    }

    /// Holds back the store's answers to calls of this kind, until [`release`](Self::release).
    pub(crate) fn hold_answers(&self, operation: Operation) {
        self.0.held.send_modify(|held| held.answers = Some(operation));
    }

    pub(crate) fn release(&self) {
        self.0.held.send_modify(|held| (held.requests, held.answers) = (None, None));
    }

    /// Waits until this number of calls wait.
    pub(crate) async fn held(&self, calls: usize) {
        let mut held = self.0.held.subscribe();
        let waiting = held.wait_for(|held| held.waiting >= calls);
        timeout(Duration::from_secs(8), waiting).await.expect("a held call").unwrap();
    }

    /// Returns the calls since the last `take_calls`, also the calls that failed.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.calls.lock().unwrap())
    }

    /// Returns the kinds of the calls since the last `take_calls`.
    pub(crate) fn take_operations(&self) -> Vec<Operation> {
        self.take_calls().iter().map(|call| call.operation).collect()
    }

    async fn wait(&self, operation: Operation, kind: fn(&Held) -> Option<Operation>) {
        if kind(&self.0.held.borrow()) != Some(operation) {
            return;
        }
        self.0.held.send_modify(|held| held.waiting += 1);
        let _waiting = Waiting(self);
        let _ = self.0.held.subscribe().wait_for(|held| kind(held) != Some(operation)).await;
    }
}

/// A call that waits. A call may be dropped while the call waits.
struct Waiting<'a>(&'a Watch);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.held.send_modify(|held| held.waiting -= 1);
    }
}

/// A node's connection to a store, with the watch of the test.
pub(crate) struct Watched<S> {
    store: S,
    watch: Watch,
}

impl<S> Watched<S> {
    pub(crate) fn new(store: S, watch: Watch) -> Self {
        Self { store, watch }
    }

    async fn call<T: Unpin>(
        &self,
        call: Call,
        answer: StoreFuture<'_, T>,
        snapshots: fn(&T) -> Vec<Snapshot>,
    ) -> Result<T, StoreError> {
        let operation = call.operation;
        // A store on the other side of a network: other tasks run before the call and before the answer.
        yield_now().await;
        self.watch.wait(operation, |held| held.requests).await;
        let answered = answer.await;
        yield_now().await;
        let snapshots = answered.as_ref().map(snapshots).unwrap_or_default();
        self.watch.0.calls.lock().unwrap().push(Call { snapshots, ..call });
        self.watch.wait(operation, |held| held.answers).await;
        answered
    }
}

impl<S> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl<S: Store> Store for Watched<S> {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        let owners = asks.iter().map(Ask::owner).collect();
        let call = Call { operation: Operation::Read, owners, keep: None, snapshots: Vec::new() };
        StoreFuture::boxed(self.call(call, self.store.read(asks), Vec::clone))
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        let owners = vec![commit.owner()];
        let call = Call { operation: kind_of(commit), owners, keep: Some(commit.keep()), snapshots: Vec::new() };
        StoreFuture::boxed(self.call(call, self.store.commit(commit), |_| Vec::new()))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        let owners = touches.iter().map(Touch::owner).collect();
        let call = Call { operation: Operation::Touch, owners, keep: None, snapshots: Vec::new() };
        StoreFuture::boxed(self.call(call, self.store.touch(touches), |()| Vec::new()))
    }

    fn notices(&self) -> Option<NoticeStream> {
        self.store.notices()
    }

    fn maintain(&self) -> StoreFuture<'_, bool> {
        self.store.maintain()
    }
}

fn kind_of(commit: Commit<'_>) -> Operation {
    match commit.kind() {
        CommitKind::Create => Operation::Create,
        CommitKind::Update => Operation::Update,
        CommitKind::Upsert => Operation::Upsert,
        CommitKind::Clear { .. } => Operation::Clear,
        CommitKind::Revoke { .. } => Operation::Revoke,
        CommitKind::End { .. } => Operation::End,
        other => panic!("{other:?}"),
    }
}
