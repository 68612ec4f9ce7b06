//! From a request to a session: what the layer leaves in the request's extensions, and what it does when asked.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use http::{Extensions, request::Parts};

use super::{
    Session, arrive, nested,
    recognise::{self, KnownToken, UnopenedTokens},
    request_token::RequestToken,
    shared::{Binding, SessionShared},
};
use crate::{
    config::{ComputedAnswer, DEFAULT, Reads},
    cookie::header::Fields,
    cross_site::{CrossSite, refusal::CrossSiteRefusal},
    error::{MissingSession, TierError},
    id::Principal,
    node::Node,
    sync::Mutex,
    tier::{Lookup, outside::WaitPolicy},
    value::{Json, ValueIndex},
};

/// A request's session, or what it is to be found by: nothing of that is looked up before somebody asks.
///
/// It is one allocation for all who are concerned: the request's extensions, its response's future, and the handles, which
/// may outlive both by days. So it keeps nothing that only the first load needs.
#[derive(Default)]
pub(crate) struct Loader {
    /// Goes once the session is there.
    head: Mutex<Option<RequestHead>>,
    core: OnceLock<SessionShared>,
    /// The request's Cookie fields from the load on, for an inner layer of the same sessions. They go with the response head,
    /// since they keep alive the buffer that the server read the request into.
    cookies: Mutex<Option<Fields>>,
    /// The number of handles and of loads under way, with the marks [`HEAD_SENT`] and [`WAITED`]. The allocation's own count
    /// is no substitute: the request's extensions hold the allocation too, and any code may clone them.
    ///
    /// Count and marks are one number, so that a handle and the response head agree on their order: a handle that comes
    /// later finds the mark, and a head that leaves later finds the handle's session.
    handles: AtomicUsize,
}

/// The mark that the response head has left.
const HEAD_SENT: usize = 1 << (usize::BITS - 1);

/// The mark that a load had to wait. Such a load may fail, or be given up, and its handler answers without a session.
const WAITED: usize = 1 << (usize::BITS - 2);

/// What a handle holds of its session.
pub(crate) struct HandleGuard(Arc<Loader>);

/// A session that is being loaded. Handlers hold it over an await, so it is small: what there is to do takes kilobytes of
/// state, which stands on the stack for as long as one poll where nothing has to be waited for, and on the heap else.
///
/// # Cancel safety
///
/// Dropped, it leaves nothing behind; the next one begins anew.
pub(crate) struct LoadFuture {
    /// Handed on to the session in the end: it is counted often enough without.
    loader: Option<Arc<Loader>>,
    waiting: Option<PendingLoad>,
    patience: WaitPolicy,
}

struct PendingLoad {
    /// Counted as a handle: the session that comes of it may be read while the body goes out.
    _hold: HandleGuard,
    load: Pin<Box<dyn Future<Output = Result<(), MissingSession>> + Send>>,
}

impl Future for LoadFuture {
    type Output = Result<Session, MissingSession>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(loader) = this.loader.take() else { return Poll::Pending };
        match loader.poll_loaded(&mut this.waiting, this.patience, cx) {
            Poll::Ready(loaded) => Poll::Ready(loaded.map(|()| Session::new(loader))),
            Poll::Pending => {
                this.loader = Some(loader);
                Poll::Pending
            }
        }
    }
}

/// The key of the extensions under which the innermost layer's loader is.
#[derive(Clone, Debug)]
pub(crate) struct LoaderHandle {
    pub(crate) loader: Arc<Loader>,
    /// The layer around ours: here, where a handle that outlives the request doesn't hold it.
    pub(crate) outer: Option<Box<Self>>,
}

/// What the layer notes at entry.
pub(crate) struct RequestHead {
    /// The session's from its load on. All requests of all threads count on the chain, so that none does it twice.
    pub(crate) node: Arc<Node>,
    pub(crate) cookies: Option<Fields>,
    /// How another site caused the request, if one did.
    pub(crate) cross_site: Option<CrossSite>,
    /// The refusal to trace if the request gets no session. Boxed, since few requests are refused.
    pub(crate) refused: Option<Box<CrossSiteRefusal>>,
    /// The request asks for another protocol, such as WebSocket.
    pub(crate) upgrade: bool,
    pub(crate) facts: Option<Box<HeadFacts>>,
    /// The loader of the same request and chain whose handles have another principal: its session is this loader's too.
    pub(crate) outer: Option<Arc<Loader>>,
}

impl LoaderHandle {
    /// The loader that a layer of the same chain has put there for the same request: with the same Cookie fields, and with
    /// the response head still to come.
    pub(crate) fn same_request(&self, node: &Arc<Node>, cookies: Option<&Fields>) -> Option<Arc<Loader>> {
        let mut loading = self;
        while !loading.loader.is_of(node) {
            loading = loading.outer.as_deref()?;
        }
        let same = !loading.loader.head_has_left() && loading.loader.has_cookies(cookies);
        same.then(|| Arc::clone(&loading.loader))
    }
}

/// What was learnt from the head, if the chain has anything to ask it.
#[derive(Default)]
pub(crate) struct HeadFacts {
    pub(crate) identified: Option<Principal>,
    pub(crate) defaults: Vec<(ValueIndex, Json)>,
    /// For sources. Each load has it for as long as it asks; a copy would be made by the application's code.
    pub(crate) head: Option<Arc<Parts>>,
}

impl HandleGuard {
    pub(super) fn new(loader: Arc<Loader>) -> Self {
        let before = loader.handles.fetch_add(1, Ordering::AcqRel);
        if before & HEAD_SENT != 0
            && let Some(core) = loader.loaded()
        {
            core.flags.note_head_sent();
        }
        Self(loader)
    }

    pub(super) fn core(&self) -> &SessionShared {
        self.0.loaded().expect("there are handles of loaded sessions only")
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
    pub(crate) fn new(arrival: RequestHead) -> Arc<Self> {
        // What is given to `Arc::new` is made on the stack and then copied, with all the room for what is loaded once: 400
        // bytes for each request that never asks. A default is made where it stays.
        let mut loader = Arc::<Self>::default();
        let place = Arc::get_mut(&mut loader).expect("nobody else has it yet");
        *place.head.get_mut() = Some(arrival);
        loader
    }

    /// One that was loaded from elsewhere.
    fn from_core(core: SessionShared) -> Arc<Self> {
        Arc::new(Self { core: core.into(), ..Self::default() })
    }

    /// The loader of a chain, among those of nested layers.
    pub(crate) fn of(extensions: &Extensions, node: &Arc<Node>) -> Option<Arc<Self>> {
        let mut loading = extensions.get::<LoaderHandle>();
        while let Some(LoaderHandle { loader, outer, .. }) = loading {
            if loader.is_of(node) {
                return Some(Arc::clone(loader));
            }
            loading = outer.as_deref();
        }
        None
    }

    fn is_of(&self, node: &Arc<Node>) -> bool {
        let arrival = self.head.lock();
        // What has no arrival any more has been loaded.
        let own = arrival.as_ref().map(|arrival| &arrival.node).or_else(|| Some(&self.loaded()?.node));
        own.is_some_and(|own| Arc::ptr_eq(own, node))
    }

    /// The word to caches on a response whose request read the session.
    pub(crate) fn reads(&self) -> Reads {
        let arrival = self.head.lock();
        // A loader without an arrival has been loaded.
        let node = arrival.as_ref().map(|arrival| &arrival.node).or_else(|| Some(&self.loaded()?.node));
        node.map_or(Reads::Private, |node| node.config.reads)
    }

    /// The session's state, if it was loaded.
    pub(crate) fn loaded(&self) -> Option<&SessionShared> {
        self.core.get()
    }

    /// Whether the request had these Cookie fields at the layer of this loader.
    fn has_cookies(&self, cookies: Option<&Fields>) -> bool {
        match &*self.head.lock() {
            Some(arrival) => arrival.cookies.as_ref() == cookies,
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

    /// Takes the principal that an inner layer has found, where no handle was given and no load is under way yet.
    ///
    /// # Errors
    ///
    /// The principal, where handles have another one.
    pub(crate) fn identify_anew(&self, principal: Option<Principal>) -> Result<(), Option<Principal>> {
        let mut arrival = self.head.lock();
        let known = match (self.loaded(), arrival.as_mut()) {
            (Some(core), _) => core.head_principal.as_ref().map(|signed| signed.principal.clone()),
            (None, Some(arrival)) => {
                let asked = arrival.facts.get_or_insert_default();
                if self.handles.load(Ordering::Acquire) == 0 {
                    asked.identified.clone_from(&principal);
                }
                asked.identified.clone()
            }
            (None, None) => None,
        };
        if known == principal { Ok(()) } else { Err(principal) }
    }

    /// Loads the session of an inner layer where the session of the layer around was touched: the head is sealed for the
    /// innermost principal.
    pub(crate) fn answer_for(self: &Arc<Self>, around: &Self) {
        if around.loaded().is_some_and(|shared| shared.flags.is_touched())
            && let Some(session) = Arc::clone(self).load_now()
        {
            session.core().flags.touch();
        }
    }

    /// Leaves the head to the loader of an inner layer, as far as both stand for the same session.
    pub(crate) fn leave_head_to(&self, within: &Self) {
        if let (Some(core), Some(within)) = (self.loaded(), within.loaded()) {
            nested::leave_head_to(core, within);
        }
    }

    /// Marks that the response head leaves: a session that is loaded from now on can't set a cookie. Returns whether a
    /// handle or a load under way is alive, which may be read while the body goes out.
    pub(crate) fn note_head_sent(&self) -> bool {
        drop(self.cookies.lock().take());
        self.handles.fetch_or(HEAD_SENT, Ordering::AcqRel) & !(HEAD_SENT | WAITED) > 0
    }

    /// Whether a handler asked for the session and got none.
    pub(crate) fn is_missed(&self) -> bool {
        self.loaded().is_none() && self.handles.load(Ordering::Acquire) & WAITED != 0
    }

    /// Loads the session, once.
    pub(crate) const fn load(self: Arc<Self>) -> LoadFuture {
        LoadFuture { loader: Some(self), waiting: None, patience: WaitPolicy::UntilDeadline }
    }

    /// What [`load`](Self::load) gives without waiting for anything.
    pub(crate) fn load_now(self: Arc<Self>) -> Option<Session> {
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(LoadFuture { patience: WaitPolicy::OnePoll, ..self.load() }).poll(&mut cx) {
            Poll::Ready(loaded) => loaded.ok(),
            Poll::Pending => None,
        }
    }

    fn poll_loaded(
        self: &Arc<Self>,
        waiting: &mut Option<PendingLoad>,
        patience: WaitPolicy,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), MissingSession>> {
        if waiting.is_none()
            && self.loaded().is_none()
            && let Some(node) = ready!(self.poll_without_waiting(cx))?
        {
            self.handles.fetch_or(WAITED, Ordering::Release);
            let (hold, loader) = (HandleGuard::new(Arc::clone(self)), Arc::clone(self));
            let load = Box::pin(async move { loader.load_waiting(&node, patience).await });
            *waiting = Some(PendingLoad { _hold: hold, load });
        }
        waiting.as_mut().map_or(Poll::Ready(Ok(())), |waiting| waiting.load.as_mut().poll(cx))
    }

    /// The load of a chain that never waits. Of one that may it only gives the chain.
    fn poll_without_waiting(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Arc<Node>>, MissingSession>> {
        let mut arrival = self.head.lock();
        // Unless another load was faster.
        let Some(known) = &*arrival else { return Poll::Ready(Ok(None)) };
        if known.node.waits() {
            return Poll::Ready(Ok(Some(Arc::clone(&known.node))));
        }
        let familiar = match known.familiar() {
            Some(familiar) if known.is_plain() => {
                if let Some(RequestHead { node, cookies, upgrade, .. }) = arrival.take() {
                    // Made where it stays. Made apart and moved, as below, it would be a twelfth of a read.
                    self.core.get_or_init(|| recognise::from_known_token(node, familiar, upgrade));
                    self.keep_cookies(cookies);
                    drop(arrival);
                }
                return Poll::Ready(Ok(None));
            }
            familiar => familiar,
        };
        let (mut core, unopened) = known.begin(familiar, Vec::new());
        let around = known.outer.clone();
        drop(arrival);
        let now = core.node.now();
        ready!(pin!(recognise::resolve_token(&mut core, unopened, now)).poll(cx))?;
        nested::share_session(&mut core, around.as_deref().and_then(Self::loaded));
        self.keep(core);
        Poll::Ready(Ok(None))
    }

    async fn load_waiting(&self, node: &Node, patience: WaitPolicy) -> Result<(), MissingSession> {
        let mut answers = Vec::new();
        if node.config.has_sources {
            let Some(head) = self.head.lock().as_ref().map(RequestHead::head) else { return Ok(()) };
            ask(node, head.as_deref(), patience, &mut answers).await;
        }
        let begun =
            self.head.lock().as_ref().map(|known| (known.begin(known.familiar(), answers), known.outer.clone()));
        if let Some(((mut core, unopened), around)) = begun {
            recognise::resolve_token(&mut core, unopened, node.now()).await?;
            nested::share_session(&mut core, around.as_deref().and_then(Self::loaded));
            self.keep(core);
        }
        Ok(())
    }

    fn keep(&self, core: SessionShared) {
        // Unless another load was faster.
        let stored = self.core.get_or_init(|| core);
        // The head goes, which may hold anything of the application's.
        let mut noted = self.head.lock();
        let mut arrival = noted.take();
        if let Some(arrival) = &mut arrival {
            self.keep_cookies(arrival.cookies.take());
        }
        drop(noted);
        if let Some(RequestHead { refused: Some(refused), .. }) = &arrival
            && stored.is_cross_site()
        {
            stored.node.refusals.tell(refused, stored.node.now());
        }
        drop(arrival); // outside of the lock
    }
}

impl RequestHead {
    /// The session whose token memory knows, if that is the only one that was brought.
    fn familiar(&self) -> Option<KnownToken> {
        let cookies = self.countable()?;
        recognise::find_known_token(&self.node, cookies, self.node.now())
    }

    /// The cookies, unless the request is one whose cookies do not count.
    fn countable(&self) -> Option<&Fields> {
        self.cookies.as_ref().filter(|_| self.cross_site != Some(CrossSite::Upgrade))
    }

    /// Whether nothing but the token has a say.
    fn is_plain(&self) -> bool {
        self.facts.is_none() && self.node.revocations.load(Ordering::Acquire) == 0
    }

    fn head(&self) -> Option<Arc<Parts>> {
        self.facts.as_ref()?.head.clone()
    }

    /// Does what needs no waiting and runs nothing of the application's. Gives what must be looked at for a session that
    /// memory does not know.
    fn begin(
        &self,
        familiar: Option<KnownToken>,
        mut computed: Vec<ComputedAnswer>,
    ) -> (SessionShared, Option<UnopenedTokens>) {
        let cookies = || self.countable().cloned();
        let unopened = familiar.is_none().then(|| UnopenedTokens { cookies: cookies(), cross_site: self.cross_site });
        let node = Arc::clone(&self.node);
        let mut core = match familiar {
            Some(familiar) => recognise::from_known_token(node, familiar, self.upgrade),
            None => SessionShared::new(node, Binding::Anonymous, RequestToken::default()),
        };
        core.flags.set_upgrade(self.upgrade);
        if let Some(asked) = &self.facts {
            core.head_principal =
                asked.identified.clone().map(|principal| Arc::new(self.node.config.resolve_principal(principal)));
            computed.extend(asked.defaults.iter().map(|(index, json)| ComputedAnswer {
                tier: DEFAULT,
                index: *index,
                json: json.clone(),
                until: None,
            }));
        }
        core.computed = computed.into();
        (core, unopened)
    }
}

/// The sources' answers for one request, or for a job.
async fn ask(node: &Node, head: Option<&Parts>, patience: WaitPolicy, answers: &mut Vec<ComputedAnswer>) {
    for source in node.config.sources() {
        let found = source.read(Lookup::new(&node.config.names, head), patience, &node.time).await;
        let until = found.expires_in.map(|span| node.now().after(span));
        let named = |(name, json): (String, Json)| {
            let index = node.config.schema.index_by_name(&name)?;
            Some(ComputedAnswer { tier: source.name(), index, json, until })
        };
        answers.extend(found.entries.into_iter().filter_map(named));
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("loaded", &self.loaded().is_some())
            .field("handles", &(self.handles.load(Ordering::Relaxed) & !(HEAD_SENT | WAITED)))
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A principal's own handle, outside of any request.
    pub(crate) async fn job(node: &Arc<Node>, principal: Principal) -> Result<Self, TierError> {
        let signed = Arc::new(node.config.resolve_principal(principal));
        let mut computed = Vec::new();
        ask(node, None, WaitPolicy::UntilDeadline, &mut computed).await;
        let mut core = SessionShared::new(Arc::clone(node), Binding::PrincipalOnly, RequestToken::default());
        (core.head_principal, core.computed) = (Some(signed), computed.into());
        arrive::load_principal(&core, node.now()).await?;
        if node.store.is_none() && node.memory.is_none() {
            // There is no request whose cookie could keep what it writes: without memory that would be lost at once.
            core.flags.note_head_sent();
        }
        Ok(Self::new(Loader::from_core(core)))
    }
}
