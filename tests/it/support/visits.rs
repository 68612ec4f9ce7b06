//! The acts of a browser: visits, sign-ins, sockets, and posts to the writeback.

use std::future::pending;

use bytes::Bytes;
use futures_util::future::Either;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use layered_session::{Session, SessionValue, SessionWriteback, WriteError, WriteErrorKind};
use tokio::sync::oneshot;

use super::{
    app::App,
    browser::Browser,
    node::{Answer, Node},
    values::{Division, Theme, User, Visits, theme},
};

pub(crate) async fn get<V: SessionValue + Default>(browser: &mut Browser, node: &Node) -> V {
    browser.visit(node, async |session| session.value::<V>()).await
}

/// The value that a node with an empty memory reads from the browser's cookie. The cookie stays unchanged.
pub(crate) async fn carried<V: SessionValue + Default>(browser: &Browser, app: &App) -> V {
    get(&mut browser.clone(), &app.start()).await
}

/// A value with the tier that answered.
pub(crate) async fn seen<V: SessionValue + Default>(browser: &mut Browser, node: &Node) -> (V, &'static str) {
    browser.visit(node, async |session| (session.value::<V>(), session.value_source::<V>().tier())).await
}

pub(crate) async fn set<V: SessionValue>(browser: &mut Browser, node: &Node, value: V) {
    browser.visit(node, async |session| session.set(value).await.unwrap()).await;
}

/// A browser whose session begins with a value.
pub(crate) async fn first_write<V: SessionValue>(node: &Node, value: V) -> Browser {
    let mut browser = Browser::new();
    set(&mut browser, node, value).await;
    browser
}

/// A browser that has a theme, and so a session.
pub(crate) async fn visitor(node: &Node) -> Browser {
    first_write(node, theme("light")).await
}

pub(crate) async fn sign_in(browser: &mut Browser, node: &Node, user: &'static str) {
    browser.visit(node, async |session| session.sign_in(User(user.into())).await.unwrap()).await;
}

pub(crate) async fn signed_in(node: &Node, user: &'static str) -> Browser {
    let mut browser = Browser::new();
    sign_in(&mut browser, node, user).await;
    browser
}

/// Visits as the user in the head's field `x-user`, or without a user.
pub(crate) async fn visit_as<T>(
    browser: &mut Browser,
    node: &Node,
    user: Option<&str>,
    act: impl AsyncFnOnce(Session) -> T,
) -> T {
    let mut request = browser.request();
    if let Some(user) = user {
        request.headers_mut().insert("x-user", user.parse().unwrap());
    }
    let (headers, value) = node.ask(request, act).await;
    browser.take(&headers);
    value
}

/// The handshake of a socket in a page of this application.
pub(crate) fn upgrade(browser: &Browser) -> Request<Full<Bytes>> {
    let mut request = browser.request_of_page(Method::GET, "/", "");
    request.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
    request.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
    request
}

/// An open socket: the handle that outlives the handshake. The handshake's response carries no cookie.
pub(crate) async fn socket(browser: &Browser, node: &Node) -> Session {
    let handler = async |session| {
        let mut switching = Response::new(Full::default());
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        (switching, session)
    };
    node.handle(upgrade(browser), handler).await.1
}

/// The handle of a request under way. The response head never leaves, so the handle can renew and sign in.
pub(crate) async fn under_way(browser: &Browser, node: &Node) -> Session {
    let (out, handed_out) = oneshot::channel();
    let handler = async |session| {
        out.send(session).expect("the test waits for the handle");
        pending::<()>().await
    };
    let answering = Box::pin(node.ask(browser.request(), handler));
    match futures_util::future::select(answering, handed_out).await {
        Either::Left(_) => unreachable!("the handler never answers"),
        Either::Right((session, _)) => session.expect("the handler has sent its handle"),
    }
}

/// A page's POST to the writeback, which allows every value except the identity value.
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

/// The error kind of a failed write.
pub(crate) fn kind<T>(written: Result<T, WriteError>) -> Option<WriteErrorKind> {
    written.err().map(|error| error.kind())
}
