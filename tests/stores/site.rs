//! [`Site`]: an application on several nodes over one engine, with its browsers.

use std::{cell::RefCell, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Placement, Principal, Scope, Session, SessionValue, Sessions,
    SessionsBuilder, SharedTier, WriteError, WriteErrorKind,
    testing::{Client, Jar},
    tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tower::{Layer, service_fn};

use crate::engines::{
    Engine,
    clock::MovedClock,
    watched::{Watch, Watched},
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// The span for which memory answers after a read of the store.
pub(crate) const VOUCHED: Duration = Duration::from_secs(30);

/// The greatest accepted difference of two clocks.
pub(crate) const MAX_SKEW: Duration = HOUR;

/// A value of the session, which the cookie carries too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Visits(pub(crate) u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
}

/// A value of the session, which the cookie carries too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Theme(pub(crate) String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// A value of the session on servers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stock(pub(crate) u32);

impl SessionValue for Stock {
    const NAME: &'static str = "stock";
    const PLACEMENT: Placement = Placement::Server;
}

/// A value of the user, which the cookie carries too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Division(pub(crate) u32);

impl SessionValue for Division {
    const NAME: &'static str = "division";
    const SCOPE: Scope = Scope::Principal;
}

/// A value of the user on servers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quota(pub(crate) u32);

impl SessionValue for Quota {
    const NAME: &'static str = "quota";
    const SCOPE: Scope = Scope::Principal;
    const PLACEMENT: Placement = Placement::Server;
}

/// The signed-in user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct User(pub(crate) String);

impl SessionValue for User {
    const NAME: &'static str = "user";
}

/// A value on servers only, which only the newer build of the application declares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Draft(pub(crate) String);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const PLACEMENT: Placement = Placement::Server;
}

/// The name of [`Draft`] in a build that lets browsers carry the value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CarriedDraft(pub(crate) String);

impl SessionValue for CarriedDraft {
    const NAME: &'static str = Draft::NAME;
}

pub(crate) fn theme(name: &str) -> Theme {
    Theme(name.into())
}

pub(crate) fn ada() -> Principal {
    Principal::new("ada")
}

/// Returns the kind of a write's error.
pub(crate) fn kind<T>(done: Result<T, WriteError>) -> Option<WriteErrorKind> {
    done.err().map(|error| error.kind())
}

/// The nodes of an application: each with a memory and a connection of its own.
pub(crate) struct Site<E> {
    pub(crate) engine: E,
    pub(crate) watch: Watch,
    clock: MovedClock,
    ring: KeyRing,
    idle: Duration,
    absolute: Duration,
}

impl<E: Engine> Site<E> {
    pub(crate) fn new(engine: E) -> Self {
        Self::lasting(engine, 2 * DAY, 30 * DAY)
    }

    /// Sets the idle and the absolute lifetime of the sessions.
    pub(crate) fn lasting(engine: E, idle: Duration, absolute: Duration) -> Self {
        let ring = KeyRing::generate().unwrap();
        Self { engine, watch: Watch::default(), clock: MovedClock::new(), ring, idle, absolute }
    }

    /// Starts a node: another node, or a node that has restarted.
    pub(crate) fn start(&self) -> Sessions {
        self.over_store(&self.clock).build().unwrap()
    }

    /// Starts a node whose clock is ahead.
    pub(crate) fn start_ahead(&self, span: Duration) -> Sessions {
        self.over_store(&self.clock.ahead(span)).build().unwrap()
    }

    /// Starts a node with the newer build of the application.
    pub(crate) fn start_newer(&self) -> Sessions {
        self.over_store(&self.clock).value::<Draft>().build().unwrap()
    }

    /// Starts a node without the store: the node reads the browser's cookie alone, with an undeclared value too.
    pub(crate) fn start_storeless(&self) -> Sessions {
        self.chain(&self.clock).value::<CarriedDraft>().build().unwrap()
    }

    fn over_store(&self, clock: &MovedClock) -> SessionsBuilder {
        // The machine may be busy with other tests, and a test holds calls.
        let deadline = 10 * SECOND;
        self.chain(clock)
            .tier(SharedTier::new(Watched::new(self.engine.connect(), self.watch.clone())).deadline(deadline))
            .value::<Stock>()
            .value::<Quota>()
    }

    fn chain(&self, clock: &MovedClock) -> SessionsBuilder {
        Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(self.ring.clone()))
            .value::<Visits>()
            .value::<Theme>()
            .value::<Division>()
            .identify_by::<User>(|user| Some(Principal::new(&user.0)))
            .idle(self.idle)
            .absolute(self.absolute)
            .max_skew(MAX_SKEW)
            .clock(clock.clone())
    }

    /// Lets time pass for the nodes and for the records in the store.
    pub(crate) fn pass(&self, span: Duration) {
        self.engine.pass(span);
        self.clock.advance(span);
    }
}

/// A browser. Clones are browsers with a copy of the cookies: stolen copies, or requests at the same time.
#[derive(Clone, Default)]
pub(crate) struct Browser(Jar);

impl Browser {
    /// Sends a request through a node's layer to a handler, and keeps the response's cookies.
    pub(crate) async fn visit<T>(&mut self, node: &Sessions, act: impl AsyncFnOnce(Session) -> T) -> T {
        let (act, done) = (Rc::new(RefCell::new(Some(act))), Rc::new(RefCell::new(None)));
        let out = Rc::clone(&done);
        let page = service_fn(move |request: Request<Full<Bytes>>| {
            let (act, out) = (act.take().expect("one request, one call"), Rc::clone(&out));
            async move {
                let session = Session::load(request.extensions()).await?;
                *out.borrow_mut() = Some(act(session).await);
                Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
            }
        });
        let client = Client::new(LayeredSessionLayer::new(node.clone()).layer(page)).jar(self.0.clone());
        client.post("/").stream().await.unwrap();
        self.0 = client.cookies();
        done.take().expect("the handler ran")
    }

    /// Returns a handle that outlives the request, as a socket's handle does. The cookies stay as they are.
    pub(crate) async fn socket(&self, node: &Sessions) -> Session {
        self.clone().visit(node, async |session| session).await
    }

    pub(crate) async fn set<V: SessionValue>(&mut self, node: &Sessions, value: V) {
        self.visit(node, async |session| session.set(value).await.unwrap()).await;
    }

    /// Returns a value. The cookies stay as they are.
    pub(crate) async fn get<V: SessionValue + Default>(&self, node: &Sessions) -> V {
        self.clone().visit(node, async |session| session.value()).await
    }

    /// Returns the signed-in user. The cookies stay as they are.
    pub(crate) async fn user(&self, node: &Sessions) -> Option<Principal> {
        self.clone().visit(node, async |session| session.principal()).await
    }

    pub(crate) async fn sign_in(&mut self, node: &Sessions, name: &str) {
        self.visit(node, async |session| session.sign_in(User(name.into())).await.unwrap()).await;
    }

    /// Returns the bytes of the cookies.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|cookie| cookie.value().len()).sum()
    }
}

/// Returns a browser with a new session on a node, in which [`Visits`] are 1.
pub(crate) async fn visitor(node: &Sessions) -> Browser {
    let mut browser = Browser::default();
    browser.set(node, Visits(1)).await;
    browser
}

/// Returns a browser in which Ada has signed in on a node.
pub(crate) async fn signed_in(node: &Sessions) -> Browser {
    let mut browser = Browser::default();
    browser.sign_in(node, "ada").await;
    browser
}

/// Returns a handle of Ada's values, outside of any request.
pub(crate) async fn job(node: &Sessions) -> Session {
    node.for_principal(ada()).await.unwrap()
}
