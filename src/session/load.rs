//! From a request to a session: what the layer leaves in the request's extensions, and what it does when asked.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use http::{Extensions, request::Parts};

use super::{
    Session,
    core::{Binding, Core, lock},
    recognise::Unfamiliar,
};
use crate::{
    chain::{Chain, Computation, Computed, DEFAULT},
    error::{MissingSession, TierError},
    id::Principal,
    tier::{
        Lookup,
        cookie::header::{Fields, Scan},
    },
    value::{Json, Number},
    version::Millis,
};

/// A request's session, or what it is to be found by: nothing of that is looked up before somebody asks.
///
/// It is one allocation for all who are concerned: the request's extensions, its response's future, and the handles, which
/// may outlive both by days. So it keeps nothing that only the first load needs.
#[derive(Default)]
pub(crate) struct Loader {
    chain: Option<Arc<Chain>>,
    /// Until the first load.
    arrival: Mutex<Option<Arrival>>,
    core: OnceLock<Core>,
    /// How many handles there are. Others hold the allocation too: whoever has the extensions, which anybody may clone.
    handles: AtomicUsize,
}

/// What a handle holds of its session.
pub(crate) struct Hold(Arc<Loader>);

/// A session that is being loaded. Handlers hold it over an await, so it is small: what there is to do takes kilobytes of
/// state, which stands on the stack for as long as one poll where nothing has to be waited for, and on the heap else.
///
/// # Cancel safety
///
/// Dropped, it leaves nothing behind; the next one begins anew.
pub(crate) struct Load {
    loader: Arc<Loader>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = Result<(), MissingSession>> + Send>>;

impl Future for Load {
    type Output = Result<Session, MissingSession>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { loader, waiting } = self.get_mut();
        if loader.loaded().is_none() {
            if loader.chain().waits() {
                let loading = waiting.get_or_insert_with(|| -> Waiting {
                    let loader = Arc::clone(loader);
                    Box::pin(async move { loader.finish().await })
                });
                ready!(loading.as_mut().poll(cx))?;
            } else {
                ready!(loader.poll_at_once(cx))?;
            }
        }
        Poll::Ready(Ok(Session::new(loader)))
    }
}

/// The key of the extensions under which the innermost layer's loader is.
#[derive(Clone, Debug)]
pub(crate) struct Loading {
    pub(crate) loader: Arc<Loader>,
    /// The layer around ours: here, where a handle that outlives the request doesn't hold it.
    pub(crate) outer: Option<Box<Self>>,
}

/// What the layer notes at entry.
pub(crate) struct Arrival {
    pub(crate) cookies: Option<Fields>,
    /// An upgrade that another site caused.
    pub(crate) cross_site: bool,
    pub(crate) asked: Option<Box<Asked>>,
}

/// What was learnt from the head, if the chain has anything to ask it.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) identified: Option<Principal>,
    pub(crate) defaults: Vec<(Number, Json)>,
    /// For sources. Each load has it for as long as it asks; a copy would be made by the application's code.
    pub(crate) head: Option<Arc<Parts>>,
}

impl Hold {
    pub(super) fn new(loader: Arc<Loader>) -> Self {
        // Counts say nothing of what else was written: whoever reads this one only wants to know whether it is 0.
        loader.handles.fetch_add(1, Ordering::Relaxed);
        Self(loader)
    }

    pub(super) fn core(&self) -> &Core {
        self.0.loaded().expect("there are handles of loaded sessions only")
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Loader {
    pub(crate) fn new(chain: Arc<Chain>, arrival: Arrival) -> Arc<Self> {
        // What is given to `Arc::new` is made on the stack and then copied, with all the room for what is loaded once: 400
        // bytes for each request that never asks. A default is made where it stays.
        let mut loader = Arc::<Self>::default();
        let place = Arc::get_mut(&mut loader).expect("nobody else has it yet");
        place.chain = Some(chain);
        *place.arrival.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(arrival);
        loader
    }

    /// One that was loaded from elsewhere.
    fn from_core(core: Core) -> Arc<Self> {
        Arc::new(Self { chain: Some(Arc::clone(&core.chain)), core: core.into(), ..Self::default() })
    }

    fn chain(&self) -> &Arc<Chain> {
        self.chain.as_ref().expect("a loader has its chain from the first")
    }

    /// The loader of a chain, among those of nested layers.
    pub(crate) fn of(extensions: &Extensions, chain: &Arc<Chain>) -> Option<Arc<Self>> {
        let mut loading = extensions.get::<Loading>();
        while let Some(Loading { loader, outer }) = loading {
            if Arc::ptr_eq(loader.chain(), chain) {
                return Some(Arc::clone(loader));
            }
            loading = outer.as_deref();
        }
        None
    }

    /// The session's state, if it was loaded.
    pub(crate) fn loaded(&self) -> Option<&Core> {
        self.core.get()
    }

    /// Whether a handle is alive: it may still be read while the body goes out.
    pub(crate) fn has_handles(&self) -> bool {
        self.handles.load(Ordering::Relaxed) > 0
    }

    /// Loads the session, once.
    pub(crate) fn load(self: &Arc<Self>) -> Load {
        Load { loader: Arc::clone(self), waiting: None }
    }

    /// What [`load`](Self::load) gives without waiting for anything.
    pub(crate) fn load_now(self: &Arc<Self>) -> Option<Session> {
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(self.load()).poll(&mut cx) {
            Poll::Ready(loaded) => loaded.ok(),
            Poll::Pending => None,
        }
    }

    /// The load of a chain that never waits.
    fn poll_at_once(&self, cx: &mut Context<'_>) -> Poll<Result<(), MissingSession>> {
        let now = self.chain().now();
        let mut core = Core::new(Arc::clone(self.chain()));
        match self.begin(&mut core, Vec::new(), now) {
            Begun::Elsewhere => return Poll::Ready(Ok(())),
            Begun::Here => core.unless_revoked(now),
            Begun::Opened(opened) => ready!(pin!(core.admit(opened, now)).poll(cx))?,
        }
        self.keep(core);
        Poll::Ready(Ok(()))
    }

    async fn finish(&self) -> Result<(), MissingSession> {
        let now = self.chain().now();
        let sources = self.ask_sources().await;
        let mut core = Core::new(Arc::clone(self.chain()));
        match self.begin(&mut core, sources, now) {
            Begun::Elsewhere => return Ok(()),
            Begun::Here => {
                core.unless_revoked(now);
                core.read_principal(now).await?;
            }
            Begun::Opened(opened) => core.admit(opened, now).await?,
        }
        self.keep(core);
        Ok(())
    }

    fn keep(&self, core: Core) {
        // Unless another load was faster.
        let _ = self.core.set(core);
        self.forget_arrival();
    }

    /// What only the load needed goes: the header fields are parts of the buffer that the server read, and the head may
    /// hold anything.
    fn forget_arrival(&self) {
        let arrival = lock(&self.arrival).take();
        drop(arrival); // outside of the lock
    }

    /// Does what needs no waiting.
    fn begin(&self, core: &mut Core, mut computed: Vec<Computation>, now: Millis) -> Begun {
        let chain = self.chain();
        let mut identified = None;
        let cookies = {
            let arrival = lock(&self.arrival);
            let Some(Arrival { cookies, cross_site, asked }) = arrival.as_ref() else { return Begun::Elsewhere };
            if let Some(asked) = asked {
                identified = asked.identified.clone();
                computed.extend(asked.defaults.iter().map(|(number, json)| Computation {
                    tier: DEFAULT,
                    number: *number,
                    json: json.clone(),
                    until: None,
                }));
            }
            if *cross_site {
                core.binding = Binding::Refused.into();
            }
            // What has to be opened is opened outside of the lock: it may trace.
            cookies.as_ref().filter(|cookies| !cross_site && !core.is_familiar(cookies, now)).cloned()
        };
        if !computed.is_empty() {
            core.computed = computed.into();
        }
        core.given = identified.map(|principal| chain.signed(principal));
        let opened = cookies.and_then(|cookies| match chain.cookie_name.scan(&cookies) {
            Scan::Found(candidates) => core.try_each(&candidates, now),
            Scan::Absent => None,
            Scan::Capped => {
                chain.counters.capped_cookies.fetch_add(1, Ordering::Relaxed);
                None
            }
        });
        opened.map_or(Begun::Here, Begun::Opened)
    }

    /// Asks the sources once, for everything; a source that fails is passed over.
    async fn ask_sources(&self) -> Vec<Computation> {
        let mut answers = Vec::new();
        if self.chain().has_sources {
            let head = {
                let arrival = lock(&self.arrival);
                let asked = arrival.as_ref().and_then(|arrival| arrival.asked.as_ref());
                asked.and_then(|asked| asked.head.clone())
            };
            ask(self.chain(), head.as_deref(), &mut answers).await;
        }
        answers
    }
}

/// The sources' answers for one request, or for a job.
pub(super) async fn ask(chain: &Chain, head: Option<&Parts>, answers: &mut Vec<Computation>) {
    for tier in &chain.computed {
        let Computed::Source(source) = tier else { continue };
        match source.read(Lookup::new(None, &chain.names, head)).await {
            Ok(found) => {
                let until = found.expires_in.map(|span| chain.now().after(span));
                let named = |entry: crate::tier::FoundEntry| {
                    let number = chain.schema.named(&entry.name)?;
                    Some(Computation { tier: source.name(), number, json: entry.json?, until })
                };
                answers.extend(found.entries.into_iter().filter_map(named));
            }
            Err(error) => tracing::warn!(tier = source.name(), error, "a source did not answer; the next tier does"),
        }
    }
}

/// How far a load has come without waiting.
enum Begun {
    /// To its end: another one was faster.
    Elsewhere,
    /// To the store, if there is one.
    Here,
    Opened(Unfamiliar),
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("loaded", &self.loaded().is_some())
            .field("handles", &self.handles)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A principal's own handle, outside of any request.
    pub(crate) async fn job(chain: &Arc<Chain>, principal: Principal) -> Result<Self, TierError> {
        let signed = chain.signed(principal);
        let mut computed = Vec::new();
        ask(chain, None, &mut computed).await;
        let mut core = Core::new(Arc::clone(chain));
        (core.binding, core.given, core.computed) = (Binding::Job.into(), Some(signed), computed.into());
        core.read_principal(chain.now()).await?;
        if chain.store.is_none() && chain.memory.is_none() {
            // There is no request whose cookie could keep what it writes: without memory that would be lost at once.
            core.marks.head_sent.store(true, Ordering::Release);
        }
        Ok(Self::new(&Loader::from_core(core)))
    }
}
