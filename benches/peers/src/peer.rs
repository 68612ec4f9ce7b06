//! The measured peers, each configured as its documentation says, with the same cookie if the peer's cookie can be
//! configured.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Future, ready},
    pin::pin,
};

use futures_executor::block_on;
use futures_util::FutureExt;
use http::{Request, Response};
use tower::{Service, service_fn};

use crate::workload::{Number, Task, Values, bump, fill, nothing, read, read_part};

mod axum;
pub mod ours;
mod ruts;
mod tower_sessions;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The service without any layer, as the base of the comparison.
    Bare,
    Ours,
    /// Keeps the integer out of the cookie ([`Placement::Volatile`](layered_session::Placement::Volatile)).
    OursVolatile,
    /// Without a memory tier: each request that reads opens the seal.
    OursCookie,
    TowerSessions,
    TowerSessionsMoka,
    AxumSession,
    Ruts,
    CookieStore,
    PrivateJar,
}

impl Peer {
    pub const ALL: [Self; 10] = [
        Self::Bare,
        Self::Ours,
        Self::OursVolatile,
        Self::OursCookie,
        Self::TowerSessions,
        Self::TowerSessionsMoka,
        Self::AxumSession,
        Self::Ruts,
        Self::CookieStore,
        Self::PrivateJar,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Ours => "layered-session",
            Self::OursVolatile => "layered-session, volatile",
            Self::OursCookie => "layered-session, cookie alone",
            Self::TowerSessions => "tower-sessions, MemoryStore",
            Self::TowerSessionsMoka => "tower-sessions 0.14, moka",
            Self::AxumSession => "axum_session, memory",
            Self::Ruts => "ruts, moka",
            Self::CookieStore => "tower-sessions-cookie-store, private",
            Self::PrivateJar => "axum-extra, PrivateCookieJar",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|peer| peer.name() == name)
    }

    /// Whether the peer holds sessions in this process.
    pub fn holds_sessions(self) -> bool {
        !matches!(self, Self::Bare | Self::OursCookie | Self::CookieStore | Self::PrivateJar)
    }

    /// Opens an empty store for this peer.
    pub fn open(self) -> Open {
        match self {
            Self::Bare => opened(Bare),
            Self::Ours => opened(ours::Ours::<false>::with_memory()),
            Self::OursVolatile => opened(ours::Ours::<true>::with_memory()),
            Self::OursCookie => opened(ours::Ours::<false>::of_cookie_alone()),
            Self::TowerSessions => opened(tower_sessions::memory()),
            Self::TowerSessionsMoka => opened(tower_sessions::moka()),
            Self::AxumSession => opened(axum::Session::new()),
            Self::Ruts => opened(ruts::Ruts::new()),
            Self::CookieStore => opened(tower_sessions::cookie()),
            Self::PrivateJar => opened(axum::Jar),
        }
    }
}

/// Makes services whose handlers do a task. All services share one store.
pub type Open = Box<dyn Fn(Task) -> Call>;

/// One request through a service.
pub type Call = Box<dyn FnMut(Request<()>) -> Response<Number> + Send>;

/// A peer's layer.
trait Stack: 'static {
    type Values: Values + 'static;

    fn around<H: Handler>(&self, handler: H) -> Call;
}

/// The bounds that all peers put on the inner service.
trait Handler:
    Service<Request<()>, Response = Response<Number>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Handler for S where
    S: Service<Request<()>, Response = Response<Number>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Each task has its own handler: a single handler for all tasks would give each request the future of the largest
/// task.
fn opened<S: Stack>(stack: S) -> Open {
    Box::new(move |task| match task {
        Task::Nothing => stack.around(service_fn(nothing)),
        Task::Read => stack.around(service_fn(read::<S::Values>)),
        Task::Bump => stack.around(service_fn(bump::<S::Values>)),
        Task::Fill => stack.around(service_fn(fill::<S::Values>)),
        Task::ReadPart => stack.around(service_fn(read_part::<S::Values>)),
    })
}

fn call<S>(mut service: S) -> Call
where
    S: Service<Request<()>, Response = Response<Number>, Error: Debug> + Send + 'static,
{
    Box::new(move |request| finish(service.call(request)).expect("an answer"))
}

/// Polls without a runtime: a single thread never waits. Two threads may want the same lock. The waiting thread then
/// polls once more before it sleeps, which favours a contended lock more than most runtimes do.
pub fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future.as_mut().now_or_never() {
        Some(output) => output,
        None => block_on(future),
    }
}

/// No layer, and no session.
struct Bare;

impl Stack for Bare {
    type Values = Self;

    fn around<H: Handler>(&self, handler: H) -> Call {
        call(handler)
    }
}

impl Values for Bare {
    fn of(_: Request<()>) -> impl Future<Output = Self> + Send {
        ready(Self)
    }

    fn count(&self) -> impl Future<Output = i64> + Send {
        ready(0)
    }

    fn set_count(&mut self, _: i64) -> impl Future<Output = ()> + Send {
        ready(())
    }

    fn fill(&mut self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    fn part(&self) -> impl Future<Output = String> + Send {
        ready(String::new())
    }
}
