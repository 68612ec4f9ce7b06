//! The frameworks around the layer.
//!
//! - `scenarios`: the same scenarios on `axum`, on `hyper` alone and on `tonic`, with real servers and a real `client`
//! - `stacking`: the places where the layer may stand, and the services that the layer may wrap
//! - `guards`: `RequireLayer` before routes, and the extractors of single values

mod axum;
mod client;
mod guards;
mod hyper;
mod scenarios;
mod stacking;
mod tonic;

use std::{future::Future, net::Ipv4Addr, time::Duration};

use ::http::HeaderMap;
use futures_util::stream::BoxStream;
use layered_session::{Session, Sessions, WriteError, WriteErrorKind};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use self::{axum::Axum, client::Version, hyper::Hyper, tonic::Tonic};
use crate::support::{Browser, Division, User, Visits};

#[tokio::test]
async fn axum_works_over_http_1() {
    scenarios::run(&Axum(Version::Http1)).await;
}

#[tokio::test]
async fn axum_works_over_http_2() {
    scenarios::run(&Axum(Version::Http2)).await;
}

#[tokio::test]
async fn hyper_works_over_http_1() {
    scenarios::run(&Hyper(Version::Http1)).await;
}

#[tokio::test]
async fn hyper_works_over_http_2() {
    scenarios::run(&Hyper(Version::Http2)).await;
}

#[tokio::test]
async fn tonic_carries_cookie_in_metadata() {
    scenarios::run(&Tonic).await;
}

/// An action that a test asks of a server.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Answers without a load of the session.
    Nothing,
    Read,
    Write(i64),
    Remove,
    /// Writes, and answers with an error.
    WriteThenFail(i64),
    /// Counts one visit, by `update`.
    Count,
    SignIn(&'static str),
    SignOut,
    Renew,
}

impl Action {
    /// The action's text in a path or a message.
    fn to_line(self) -> String {
        match self {
            Self::Nothing => "nothing".into(),
            Self::Read => "read".into(),
            Self::Write(id) => format!("write/{id}"),
            Self::Remove => "remove".into(),
            Self::WriteThenFail(id) => format!("write-then-fail/{id}"),
            Self::Count => "count".into(),
            Self::SignIn(user) => format!("sign-in/{user}"),
            Self::SignOut => "sign-out".into(),
            Self::Renew => "renew".into(),
        }
    }
}

/// The state of the session in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    division: i64,
    tier: String,
    visits: u64,
}

/// The reasons for an answer without a state.
#[derive(Debug)]
enum Trouble {
    Refused(WriteError),
    ToldToFail,
    Unknown,
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        Self::Refused(error)
    }
}

/// The handler of all servers.
async fn perform(session: &Session, line: &str) -> Result<State, Trouble> {
    let (action, argument) = line.split_once('/').unwrap_or((line, ""));
    let division = || argument.parse().map(Division).map_err(|_| Trouble::Unknown);
    match action {
        "read" => {}
        "write" => session.set(division()?).await?,
        "remove" => session.remove::<Division>().await?,
        "write-then-fail" => {
            session.set(division()?).await?;
            return Err(Trouble::ToldToFail);
        }
        "count" => drop(session.update::<Visits>(|visits| visits.0 += 1).await?),
        "sign-in" => session.sign_in(User(argument.into())).await?,
        "sign-out" => session.sign_out().await?,
        "renew" => session.renew().await?,
        _ => return Err(Trouble::Unknown),
    }
    let (Division(division), Visits(visits)) = (session.value(), session.value());
    Ok(State { division, tier: session.value_source::<Division>().tier().into(), visits })
}

/// A cookie of the application's own, on every answer of every server.
const OWN_COOKIE: &str = "own=1; Path=/";

/// A client's result.
#[derive(Debug)]
struct Reply {
    outcome: Outcome,
    headers: HeaderMap,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    State(State),
    /// The answer of a handler that did not load the session.
    Nothing,
    Refused(WriteErrorKind),
    Failed,
}

/// The items of a streaming response, each a change, and the reason of the end if the server tells the reason.
type Watching = BoxStream<'static, Result<i64, String>>;

trait Client: Clone {
    async fn act(&self, browser: &Browser, action: Action) -> Reply;

    /// Watches the division, until the stream is dropped or the session ends.
    async fn watch(&self, browser: &Browser) -> (HeaderMap, Watching);

    /// Posts JSON to the writeback as a page of another site or of this application. `None` where there is no
    /// writeback.
    async fn post(&self, browser: &Browser, site: &'static str, json: &'static str) -> Option<Reply>;
}

trait Framework {
    type Client: Client;

    async fn start(&self, sessions: Sessions) -> (Self::Client, Server);
}

/// A running server, with the means to stop it.
struct Server {
    sessions: Sessions,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    fn run<F>(sessions: Sessions, serve: impl FnOnce(oneshot::Receiver<()>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        Self { sessions, stop, task: tokio::spawn(serve(stopped)) }
    }

    /// Ends the streams, closes the connections and frees the port.
    async fn stop(self) {
        self.sessions.shutdown();
        self.stop.send(()).expect("the server runs");
        timeout(Duration::from_secs(5), self.task)
            .await
            .expect("the server ends in time")
            .expect("the server does not panic");
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, format!("http://{address}"))
}
