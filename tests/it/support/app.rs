//! An application of several nodes, and what its browsers do there: visit, open sockets, post.

use std::{
    future::{Future, pending},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::Either};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use layered_session::{
    CookieTier, DefaultTier, KeyRing, MemoryTier, Session, SessionValue, SessionWriteback, Sessions, SessionsBuilder,
    Watch, WriteError, WriteErrorKind, testing::ManualClock,
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::world::{Answer, BoxFuture, Browser, Division, Node, Theme, User, Visits, builder, ring};

/// The event of a stream that has nothing to tell.
pub(crate) const BEAT: &str = "event: heartbeat\ndata: null\n\n";

/// What all nodes of an application share: keys and time.
pub(crate) struct App {
    pub(crate) ring: KeyRing,
    pub(crate) clock: ManualClock,
}

impl App {
    pub(crate) fn new() -> Self {
        Self { ring: ring(), clock: ManualClock::new() }
    }

    /// A node that knows nothing yet, as after a deploy.
    pub(crate) fn node(&self) -> Node {
        self.node_with(|sessions| sessions)
    }

    pub(crate) fn node_with(&self, settings: impl FnOnce(SessionsBuilder) -> SessionsBuilder) -> Node {
        Node::new(settings(builder(&self.ring, &self.clock)).build().unwrap())
    }

    /// A chain under the same keys that declares nothing yet.
    pub(crate) fn chain(&self, defaults: DefaultTier) -> SessionsBuilder {
        Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(self.ring.clone()).name("session").plain_http())
            .tier(defaults)
            .clock(self.clock.clone())
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.clock.advance(span);
    }
}

pub(crate) fn theme(name: &str) -> Theme {
    Theme(name.into())
}

pub(crate) async fn get<V: SessionValue + Default>(browser: &mut Browser, node: &Node) -> V {
    browser.visit(node, async |session| session.value::<V>()).await
}

/// What a node that knows nothing makes of the browser's cookie, which stays as it is.
pub(crate) async fn carried<V: SessionValue + Default>(browser: &Browser, app: &App) -> V {
    get(&mut browser.clone(), &app.node()).await
}

/// A value and the tier that answered.
pub(crate) async fn seen<V: SessionValue + Default>(browser: &mut Browser, node: &Node) -> (V, &'static str) {
    browser.visit(node, async |session| (session.value::<V>(), session.origin::<V>().tier())).await
}

pub(crate) async fn set<V: SessionValue>(browser: &mut Browser, node: &Node, value: V) {
    browser.visit(node, async |session| session.set(value).await.unwrap()).await;
}

/// A browser that has a theme, and so a session.
pub(crate) async fn visitor(node: &Node) -> Browser {
    let mut browser = Browser::new();
    set(&mut browser, node, Theme("light".into())).await;
    browser
}

pub(crate) async fn sign_in(browser: &mut Browser, node: &Node, user: &'static str) {
    browser.visit(node, async |session| session.sign_in(User(user.into())).await.unwrap()).await;
}

pub(crate) async fn signed_in(node: &Node, user: &'static str) -> Browser {
    let mut browser = Browser::new();
    sign_in(&mut browser, node, user).await;
    browser
}

/// The handshake of a socket of a page of ours.
pub(crate) fn upgrade(browser: &Browser) -> Request<Full<Bytes>> {
    let mut request = browser.request_of_page(Method::GET, "/", "");
    request.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
    request.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
    request
}

/// An open socket: the handle that outlives its handshake. Its response has no cookie to give.
pub(crate) async fn socket(browser: &Browser, node: &Node) -> Session {
    let handler = async |session| {
        let mut switching = Response::new(Full::default());
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        (switching, session)
    };
    node.handle(upgrade(browser), handler).await.1
}

/// The handle of a request that is still under way: its response head never leaves, so it can renew and sign in.
pub(crate) async fn under_way(browser: &Browser, node: &Node) -> Session {
    let (out, handed_out) = oneshot::channel();
    let handler = move |session| {
        out.send(session).expect("the test waits for the handle");
        Box::pin(pending()) as BoxFuture<(Response<Full<Bytes>>, ())>
    };
    let answering = Box::pin(node.handle(browser.request(), handler));
    match futures_util::future::select(answering, handed_out).await {
        Either::Left(_) => unreachable!("the handler never answers"),
        Either::Right((session, _)) => session.expect("the handler has sent its handle"),
    }
}

/// A POST of a page to the writeback, which allows every value but who is signed in.
pub(crate) async fn post(browser: &mut Browser, node: &Node, body: impl Into<Bytes>) -> Answer {
    let writeback = SessionWriteback::new(&node.sessions).allow::<Division>().unwrap();
    let writeback = writeback.allow::<Theme>().unwrap().allow::<Visits>().unwrap();
    let answer = node.writeback(writeback, browser.post_json(body)).await;
    browser.take(&answer.headers);
    answer
}

/// Brings a relay token.
pub(crate) async fn bring(browser: &mut Browser, node: &Node, token: &str) -> Answer {
    post(browser, node, serde_json::json!({ "$relay": token }).to_string()).await
}

/// Why nothing was written, where nothing was.
pub(crate) fn kind<T>(written: Result<T, WriteError>) -> Option<WriteErrorKind> {
    written.err().map(|error| error.kind())
}

/// What is there without waiting.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    future.now_or_never()
}

/// All that a stream has to tell now.
pub(crate) fn told<B>(stream: &mut B) -> String
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut told = String::new();
    while let Some(Some(Ok(frame))) = at_once(stream.frame()) {
        told.push_str(std::str::from_utf8(frame.data_ref().expect("no trailers")).unwrap());
    }
    told
}

/// A page that waits for a value, and has had its look: from here on only a change wakes it.
pub(crate) async fn waiting_for<V>(mut watch: Watch<V>, value: V) -> JoinHandle<()>
where
    V: SessionValue + Default + PartialEq,
{
    let waiting = tokio::spawn(async move { while watch.next().await.expect("the session lives") != value {} });
    settled().await;
    waiting
}

/// Lets every task go on until it waits.
pub(crate) async fn settled() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Waits, but not for ever: a test that would hang fails.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it never came")
}
