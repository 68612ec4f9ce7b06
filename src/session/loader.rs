//! The loader in a request's extensions: loads the session once, at the first use.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use http::Extensions;

use super::{
    Session,
    load::{
        self,
        token::{self, KnownToken, RequestHead},
    },
    shared::{Binding, SessionShared},
};
use crate::{
    config::{ComputedAnswer, Reads},
    cookie::header::Fields,
    cross_site::refusal::CrossSiteRefusal,
    error::MissingSession,
    id::Principal,
    node::Node,
    sync::Mutex,
    tier::outside::{WaitPolicy, trace_missing_layer},
};

/// The session of a request, or the request head until the first load. No look-up happens before a handler loads.
///
/// The request's extensions, the response future and the handles share a single allocation. Handles may outlive the
/// request by days, so the loader drops the data that only the first load needs.
#[derive(Default)]
pub(crate) struct Loader {
    /// The data of the first load, which the successful load takes.
    arrival: Mutex<Option<Arrival>>,
    shared: OnceLock<SessionShared>,
    /// The request's Cookie fields after the load, for an inner layer of the same sessions. The fields are dropped as
    /// the response head leaves, since they keep the server's read buffer alive.
    cookies: Mutex<Option<Fields>>,
    /// The number of handles and of loads under way, with the marks [`HEAD_SENT`] and [`WAITED`]. The count of the
    /// `Arc` is no substitute: the request's extensions hold the `Arc` too, and any code may clone the extensions.
    ///
    /// Count and marks are one atomic number, so that a handle and the response head agree which of the two came first.
    /// A handle that comes after the response head finds the mark, and a response head that comes after the handle
    /// finds the handle's session.
    handles: AtomicUsize,
}

/// The mark that the response head has left.
const HEAD_SENT: usize = 1 << (usize::BITS - 1);

/// The mark that a load had to wait. If such a load fails or is dropped, the handler answers without a session.
const WAITED: usize = 1 << (usize::BITS - 2);

/// The reference of a handle to its loader, counted in [`Loader::handles`].
pub(crate) struct HandleGuard(Arc<Loader>);

/// The load of a session. Handlers hold the future over an await, so the future is small. The state of a load has
/// kilobytes: a load that need not wait has the state on the stack for a single poll, and any other load on the heap.
///
/// # Cancel safety
///
/// A dropped future leaves no trace in the session, and the next load begins anew.
pub(crate) struct LoadFuture {
    /// The loader, which moves into the session at the end: a move needs no change of the reference count.
    loader: Option<Arc<Loader>>,
    waiting: Option<WaitingLoad>,
    patience: WaitPolicy,
}

type WaitingLoad = Pin<Box<dyn Future<Output = Result<Session, MissingSession>> + Send>>;

impl Future for LoadFuture {
    type Output = Result<Session, MissingSession>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { loader: place, waiting, patience } = &mut *self;
        if let Some(load) = waiting {
            let polled = load.as_mut().poll(cx);
            if polled.is_ready() {
                *waiting = None;
            }
            return polled;
        }
        let Some(loader) = place.take() else { return Poll::Pending };
        if loader.loaded().is_none() {
            match loader.begin() {
                LoadStart::Loaded => {}
                LoadStart::AtOnce(head, known) => match pin!(load::run(head, known, Vec::new())).poll(cx) {
                    Poll::Ready(loaded) => loader.keep(loaded?),
                    Poll::Pending => {
                        *place = Some(loader);
                        return Poll::Pending;
                    }
                },
                LoadStart::Stored(head, known) => {
                    match known.as_ref().and_then(|known| load::run_in_memory(&head, known)) {
                        Some(loaded) => loader.keep(loaded),
                        None => {
                            *waiting = Some(loader.wait(*patience, Some((head, known))));
                            return self.poll(cx);
                        }
                    }
                }
                LoadStart::Waiting => {
                    *waiting = Some(loader.wait(*patience, None));
                    return self.poll(cx);
                }
            }
        }
        Poll::Ready(Ok(Session::new(loader)))
    }
}

/// The entry in a request's extensions, with the loader of the innermost layer.
#[derive(Clone)]
pub(crate) struct LoaderHandle {
    pub(crate) loader: Arc<Loader>,
    /// The entry of the next outer layer. A handle that outlives the request doesn't hold that layer's loader.
    pub(crate) outer: Option<Box<Self>>,
}

/// A request that has not been loaded yet.
pub(crate) struct Arrival {
    pub(crate) head: RequestHead,
    /// The refusal to trace if the request gets no session. Boxed, since few requests are refused.
    pub(crate) refused: Option<Box<CrossSiteRefusal>>,
    /// The loader of an outer layer, for the same request and node, whose handles have another principal. Both loaders
    /// have the same session.
    pub(crate) outer: Option<Arc<Loader>>,
}

/// The beginning of a load.
enum LoadStart {
    /// The session is loaded already.
    Loaded,
    /// The load can finish in one poll.
    AtOnce(RequestHead, Option<KnownToken>),
    /// The load may need the store.
    Stored(RequestHead, Option<KnownToken>),
    /// The load asks sources first.
    Waiting,
}

impl LoaderHandle {
    /// Returns the loader of another layer of the same node, if the loader belongs to the same request: the Cookie
    /// fields are the same, and the response head has not left.
    pub(crate) fn same_request(&self, node: &Arc<Node>, cookies: Option<&Fields>) -> Option<Arc<Loader>> {
        self.of(node).filter(|loader| !loader.head_has_left() && loader.has_cookies(cookies))
    }

    /// Returns the loader of a node, among the loaders of nested layers.
    fn of(&self, node: &Arc<Node>) -> Option<Arc<Loader>> {
        match self.loader.is_of(node) {
            true => Some(Arc::clone(&self.loader)),
            false => self.outer.as_ref()?.of(node),
        }
    }
}

/// Loads the session that the layers of a node have noted in the request's extensions.
pub(crate) async fn load(extensions: &Extensions, node: &Arc<Node>) -> Result<Session, MissingSession> {
    if let Some(loader) = extensions.get::<LoaderHandle>().and_then(|handle| handle.of(node)) {
        return loader.load().await;
    }
    if let Some(left_out) = node.missing_layers.note(&node.time) {
        trace_missing_layer(left_out);
    }
    Err(MissingSession::no_layer())
}

impl HandleGuard {
    pub(super) fn new(loader: Arc<Loader>) -> Self {
        let before = loader.handles.fetch_add(1, Ordering::AcqRel);
        if before & HEAD_SENT != 0
            && let Some(shared) = loader.loaded()
        {
            shared.flags.head_sent.set();
        }
        Self(loader)
    }

    pub(super) fn shared(&self) -> &SessionShared {
        self.0.loaded().expect("a handle exists only once its session is loaded")
    }
}

impl Clone for HandleGuard {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for HandleGuard {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Ordering::Release);
    }
}

impl Loader {
    pub(crate) fn new(arrival: Arrival) -> Arc<Self> {
        // `Arc::new` would copy its argument from the stack, with the empty room for the session: 400 bytes, also for
        // requests whose handler never loads. `Arc::default` constructs in place.
        let mut loader = Arc::<Self>::default();
        let place = Arc::get_mut(&mut loader).expect("the new `Arc` has no clone yet");
        *place.arrival.get_mut() = Some(arrival);
        loader
    }

    /// Returns the loader of a job's handle, which belongs to no request.
    pub(crate) fn of_job(shared: SessionShared) -> Arc<Self> {
        Arc::new(Self { shared: shared.into(), ..Self::default() })
    }

    /// Runs `look` with the node. The arrival holds the node before the load, and the session after the load.
    fn with_node<T>(&self, look: impl FnOnce(&Arc<Node>) -> T) -> Option<T> {
        let arrival = self.arrival.lock();
        let node = arrival.as_ref().map(|arrival| &arrival.head.node);
        node.or_else(|| Some(&self.loaded()?.node)).map(look)
    }

    fn is_of(&self, node: &Arc<Node>) -> bool {
        self.with_node(|own| Arc::ptr_eq(own, node)).unwrap_or(false)
    }

    /// Returns the setting for caches in the response of a request that read the session.
    pub(crate) fn reads(&self) -> Reads {
        self.with_node(|node| node.config.reads).unwrap_or(Reads::Private)
    }

    /// Returns the session's state once it is loaded.
    pub(crate) fn loaded(&self) -> Option<&SessionShared> {
        self.shared.get()
    }

    /// Whether the request had these Cookie fields at the layer of this loader.
    fn has_cookies(&self, cookies: Option<&Fields>) -> bool {
        match &*self.arrival.lock() {
            Some(arrival) => arrival.head.cookies.as_ref() == cookies,
            None => self.cookies.lock().as_ref() == cookies,
        }
    }

    /// Keeps the Cookie fields of a load until the response head leaves.
    fn keep_cookies(&self, cookies: Option<Fields>) {
        *self.cookies.lock() = cookies;
        if self.head_has_left() {
            drop(self.cookies.lock().take());
        }
    }

    fn head_has_left(&self) -> bool {
        self.handles.load(Ordering::Acquire) & HEAD_SENT != 0
    }

    /// Sets the principal that an inner layer has found, if no handle exists and no load is under way.
    ///
    /// # Errors
    ///
    /// Returns the given principal if the loader keeps another principal for its handles.
    pub(crate) fn identify_anew(&self, principal: Option<Principal>) -> Result<(), Option<Principal>> {
        let mut arrival = self.arrival.lock();
        let known = match (self.loaded(), arrival.as_mut()) {
            (Some(shared), _) => shared.head_principal.as_ref().map(|signed| signed.principal.clone()),
            (None, Some(arrival)) => {
                let facts = arrival.head.facts.get_or_insert_default();
                if self.handles.load(Ordering::Acquire) == 0 {
                    facts.identified.clone_from(&principal);
                }
                facts.identified.clone()
            }
            (None, None) => None,
        };
        if known == principal { Ok(()) } else { Err(principal) }
    }

    /// Loads the session of this inner layer and marks the session as touched, if a handler has touched the session of
    /// the layer `around`: the cookie is sealed for the innermost principal.
    pub(crate) fn answer_for(self: &Arc<Self>, around: &Self) {
        if around.loaded().is_some_and(|shared| shared.flags.touched.is_set())
            && let Some(session) = Arc::clone(self).load_now()
        {
            session.shared().flags.touched.set();
        }
    }

    /// Leaves the response head to the loader of an inner layer, if both loaders have loaded, and binds to a session
    /// that the inner handle has begun. This loader sets no cookie for as long as its session is the session of the
    /// inner loader.
    pub(crate) fn leave_head_to(&self, within: &Self) {
        let (Some(shared), Some(inner)) = (self.loaded(), within.loaded()) else { return };
        if let (Binding::Anonymous, Binding::Live(begun)) = (shared.binding(), inner.binding()) {
            shared.flags.begun_here.set();
            shared.rebind(begun);
        }
        *shared.lazy().left_to_inner.lock() = inner.bound_key();
    }

    /// Marks that the response head leaves: a session that is loaded later can't set a cookie. Returns whether a handle
    /// or a pending load is alive, which may read the session while the body is sent.
    pub(crate) fn note_head_sent(&self) -> bool {
        drop(self.cookies.lock().take());
        self.handles.fetch_or(HEAD_SENT, Ordering::AcqRel) & !(HEAD_SENT | WAITED) > 0
    }

    /// Whether a load had to wait, and no load has succeeded.
    pub(crate) fn is_missed(&self) -> bool {
        self.loaded().is_none() && self.handles.load(Ordering::Acquire) & WAITED != 0
    }

    /// Returns the future that loads the session once.
    pub(crate) const fn load(self: Arc<Self>) -> LoadFuture {
        LoadFuture { loader: Some(self), waiting: None, patience: WaitPolicy::UntilDeadline }
    }

    /// Returns the session if a single poll of [`load`](Self::load) loads the session.
    pub(crate) fn load_now(self: Arc<Self>) -> Option<Session> {
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(LoadFuture { patience: WaitPolicy::OnePoll, ..self.load() }).poll(&mut cx) {
            Poll::Ready(loaded) => loaded.ok(),
            Poll::Pending => None,
        }
    }

    /// Loads the session of a chain with tiers that may wait. `begun` has the look-up of the token, unless sources must
    /// answer first.
    fn wait(self: Arc<Self>, patience: WaitPolicy, begun: Option<(RequestHead, Option<KnownToken>)>) -> WaitingLoad {
        self.handles.fetch_or(WAITED, Ordering::Release);
        // The load counts as a handle: the body may be sent while a reader waits for the session, and an inner layer
        // must no longer change the principal of the request.
        let guard = HandleGuard::new(self);
        Box::pin(async move {
            let loader = &guard.0;
            let begun = match begun {
                Some((head, known)) => Some((head, known, Vec::new())),
                None => loader.ask_sources(patience).await,
            };
            if let Some((head, known, answers)) = begun {
                loader.keep(load::run(head, known, answers).await?);
            }
            // The handle is created only after the load. If the response head has left during the load, the creation of
            // the handle records that no response can carry a cookie of this session any more.
            Ok(Session::new(Arc::clone(loader)))
        })
    }

    /// Asks the sources, and then looks up the token. `None` if another load has finished.
    async fn ask_sources(
        &self,
        patience: WaitPolicy,
    ) -> Option<(RequestHead, Option<KnownToken>, Vec<ComputedAnswer>)> {
        let head = self.arrival.lock().as_ref().map(|arrival| arrival.head.clone())?;
        let parts = head.facts.as_ref().and_then(|facts| facts.parts.as_deref());
        let answers = load::ask_sources(&head.node, parts, patience).await;
        if self.loaded().is_some() {
            return None;
        }
        let known = token::find_known(&head);
        Some((head, known, answers))
    }

    fn begin(&self) -> LoadStart {
        let mut arrival = self.arrival.lock();
        let Some(Arrival { head, .. }) = &*arrival else { return LoadStart::Loaded };
        if head.node.config.has_sources {
            return LoadStart::Waiting;
        }
        match token::find_known(head) {
            Some(known) if known.is_settled && head.is_plain() => {
                if let Some(Arrival { head: RequestHead { node, cookies, upgrade, .. }, .. }) = arrival.take() {
                    // Constructed in place: this is the path of most requests, and the state of a handle is large.
                    self.shared.get_or_init(|| token::known_session(node, known, upgrade));
                    self.keep_cookies(cookies);
                }
                LoadStart::Loaded
            }
            known if head.node.store.is_some() && (head.facts.is_some() || head.has_token()) => {
                LoadStart::Stored(head.clone(), known)
            }
            known => LoadStart::AtOnce(head.clone(), known),
        }
    }

    /// Keeps the session of a load, unless another load has finished first.
    fn keep(&self, mut shared: SessionShared) {
        let outer = self.arrival.lock().as_ref().and_then(|arrival| arrival.outer.clone());
        share_session(&mut shared, outer.as_deref().and_then(Self::loaded));
        let shared = self.shared.get_or_init(|| shared);
        let mut place = self.arrival.lock();
        // Dropped outside of the lock: the request head may hold application data, whose drop runs application code.
        let mut arrival = place.take();
        if let Some(Arrival { head, .. }) = &mut arrival {
            self.keep_cookies(head.cookies.take());
        }
        drop(place);
        if let Some(Arrival { refused: Some(refused), .. }) = &arrival
            && shared.is_cross_site()
        {
            shared.node.refusals.tell(refused, shared.node.now());
        }
    }
}

/// Binds to the session of an outer layer's handle, which may have begun or renewed the session.
fn share_session(shared: &mut SessionShared, outer: Option<&SessionShared>) {
    let Some(outer) = outer else { return };
    if matches!(shared.binding(), Binding::Fenced(_)) {
        return;
    }
    shared.bind(outer.binding());
    if outer.flags.degraded.is_set() {
        shared.head_principal = None;
        shared.flags.degraded.set();
    }
    if outer.flags.begun_here.is_set() {
        shared.flags.begun_here.set();
    }
}
