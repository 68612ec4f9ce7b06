//! [`Faulty`]: a store whose calls a [`Script`] refuses, loses or holds.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::Stream;
use layered_session::tier::{
    Ask, Commit, Committed, Notice, NoticeStream, Snapshot, Store, StoreError, StoreErrorKind, StoreFuture, Touch,
};

use super::NODES;

/// The fate of one call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The store refuses the call, and says so.
    Refuse,
    /// The store never gets the call, and the caller gets an error.
    LoseRequest,
    /// The store carries out the call, and the caller gets an error.
    LoseReply,
    /// The call waits before the store gets it.
    HoldRequest,
    /// The store carries out the call, and the answer waits.
    HoldReply,
}

/// The fates of the calls of all nodes. Clones are the same script.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The number of calls before the call with the fault.
    armed: Option<(usize, Fault)>,
    fired: Option<Fault>,
    held: Option<Gate>,
    /// The nodes that get no notices.
    cut: [bool; NODES],
}

/// Holds one call until [`Gate::open`].
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Waits for the gate. The test polls the waiting call again, so the gate wakes no task.
    async fn wait(&self) {
        poll_fn(|_| if self.0.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Script {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().expect("no call panics"))
    }

    /// Gives a later call its fault, or none.
    pub(crate) fn arm(&self, fault: Option<(usize, Fault)>) {
        self.with(|state| (state.armed, state.fired) = (fault, None));
    }

    /// Makes no faults until [`resume`](Self::resume).
    pub(crate) fn suspend(&self) -> (Option<(usize, Fault)>, Option<Fault>) {
        self.with(|state| (state.armed.take(), state.fired.take()))
    }

    pub(crate) fn resume(&self, (armed, fired): (Option<(usize, Fault)>, Option<Fault>)) {
        self.with(|state| (state.armed, state.fired) = (armed, fired));
    }

    /// The fault that has met a call since the script was armed.
    pub(crate) fn fired(&self) -> Option<Fault> {
        self.with(|state| state.fired)
    }

    /// The gate of a call that began to wait since the last look.
    pub(crate) fn take_held(&self) -> Option<Gate> {
        self.with(|state| state.held.take())
    }

    pub(crate) fn cut(&self, node: usize, is_cut: bool) {
        self.with(|state| state.cut[node] = is_cut);
    }

    fn next(&self) -> Option<Fault> {
        self.with(|state| match &mut state.armed {
            Some((0, fault)) => {
                state.fired = Some(*fault);
                state.armed = None;
                state.fired
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        })
    }

    /// Notes that the held call has written nothing, so that a later call makes the operation's write.
    fn note_unwritten(&self) {
        self.with(|state| state.fired = Some(Fault::HoldRequest));
    }

    async fn hold(&self) {
        let gate = Gate::default();
        self.with(|state| state.held = Some(gate.clone()));
        gate.wait().await;
    }
}

/// The store of one node.
pub(crate) struct Faulty<S> {
    pub(crate) store: S,
    pub(crate) script: Script,
    pub(crate) node: usize,
}

impl<S> Faulty<S> {
    /// Makes a call. `writes` tells whether the answer is that of a write.
    async fn call<T: Unpin>(&self, call: StoreFuture<'_, T>, writes: fn(&T) -> bool) -> Result<T, StoreError> {
        let lost = || Err(StoreError::other("the script lost the call"));
        match self.script.next() {
            None => call.await,
            Some(Fault::Refuse) => Err(StoreError::new(StoreErrorKind::Full, "the script refused the call")),
            Some(Fault::LoseRequest) => lost(),
            Some(Fault::LoseReply) => {
                call.await?;
                lost()
            }
            Some(Fault::HoldRequest) => {
                self.script.hold().await;
                call.await
            }
            Some(Fault::HoldReply) => {
                let answer = call.await;
                if !answer.as_ref().is_ok_and(writes) {
                    self.script.note_unwritten();
                }
                self.script.hold().await;
                answer
            }
        }
    }
}

impl<S> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

impl<S: Store> Store for Faulty<S> {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::boxed(async move { self.call(self.store.read(asks), |_| false).await })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::boxed(async move {
            self.call(self.store.commit(commit), |committed| !matches!(committed, Committed::Outdated(_))).await
        })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(async move { self.call(self.store.touch(touches), |()| false).await })
    }

    fn notices(&self) -> Option<NoticeStream> {
        let (script, node) = (self.script.clone(), self.node);
        Some(Box::pin(Cut { notices: self.store.notices()?, script, node, is_cut: false }))
    }
}

/// The notices of one node. A cut stream tells of the cut, and loses the notices meanwhile.
struct Cut {
    notices: NoticeStream,
    script: Script,
    node: usize,
    is_cut: bool,
}

impl Stream for Cut {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        let is_cut = self.script.with(|state| state.cut[self.node]);
        loop {
            if is_cut && !self.is_cut {
                self.is_cut = true;
                return Poll::Ready(Some(Notice::Down));
            }
            match self.notices.as_mut().poll_next(cx) {
                Poll::Ready(Some(_)) if is_cut => {}
                Poll::Pending if self.is_cut && !is_cut => {
                    self.is_cut = false;
                    return Poll::Ready(Some(Notice::Up));
                }
                // A lost notice must not come before the news that the link is up.
                Poll::Ready(Some(_)) if self.is_cut => {}
                notice => return notice,
            }
        }
    }
}
