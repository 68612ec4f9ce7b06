//! Pages of listed public origins on another site: the writeback accepts their posts, begins no session for these
//! posts, and takes the principal from the request head.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use layered_session::{
    CloseReason, CookieTier, Principal, SameSite, Session, SessionWriteback, Sessions, SessionsBuilder, SharedTier,
    WriteErrorKind,
    testing::{ManualClock, SpyStore},
};

use crate::support::{
    Answer, App, Browser, Division, Node, Theme, Trace, User, at_once, cookie, kind, memory, ring, set_cookies, socket,
    theme, told,
};

const LISTED: &str = "https://public.example";
const UNLISTED: &str = "https://evil.example";

/// A chain in which a header names the user, as an outer layer would after its own checks.
fn chain() -> SessionsBuilder {
    Sessions::builder()
        .value::<Division>()
        .value::<Theme>()
        .identify(|head| Some(Principal::new(head.headers.get("user")?.to_str().ok()?)))
        .public_origins([LISTED])
        .clock(ManualClock::new())
}

fn node() -> Node {
    Node::new(chain().tier(memory()).tier(cookie(&ring())).build().unwrap())
}

/// A request of Ada's by `fetch` from a page of another site, without our cookie.
fn fetch(method: Method, path: &str, origin: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = Browser::new().request_of(method, path, body);
    let fields = [("sec-fetch-site", "cross-site"), ("user", "ada"), ("content-type", "application/json")];
    for (name, value) in fields.into_iter().chain([("origin", origin), ("accept", "text/event-stream")]) {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

async fn open(node: &Node, request: Request<Full<Bytes>>) -> Session {
    let (headers, session) = node.ask(request, async |session| session).await;
    assert!(set_cookies(&headers).is_empty());
    session
}

async fn post(node: &Node, origin: &str, body: &'static str) -> Answer {
    let writeback = SessionWriteback::new(&node.sessions).allow::<Division>().unwrap().allow::<Theme>().unwrap();
    let answer = node.writeback(writeback, fetch(Method::POST, "/", origin, body)).await;
    assert!(answer.set_cookies().is_empty());
    answer
}

async fn division(node: &Node) -> Option<Division> {
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().get()
}

#[tokio::test]
async fn listed_origin_accesses_user_values() {
    let store = SpyStore::new();
    let stored = || chain().tier(memory()).tier(cookie(&ring())).tier(SharedTier::new(store.clone()));
    let (shared, other) = (Node::new(stored().build().unwrap()), Node::new(stored().build().unwrap()));
    for (node, reader) in [(&shared, &other), (&node(), &node())] {
        let session = open(node, fetch(Method::POST, "/", LISTED, "")).await;
        let mut watch = session.watch::<Division>();
        assert_eq!(watch.next().await, Some(Division(-1)));
        session.set(Division(3)).await.unwrap();
        assert_eq!((session.principal(), session.value()), (Some(Principal::new("ada")), Division(3)));
        assert_eq!(watch.next().await, Some(Division(3)));
        assert_eq!(session.update::<Division>(|division| division.0 += 1).await.unwrap(), Division(4));
        assert_eq!(division(node).await, Some(Division(4)));
        assert_eq!(at_once(session.closed()), None);
        if std::ptr::eq(node, &shared) {
            assert_eq!(division(reader).await, Some(Division(4)), "the store has the value");
        }
        assert_eq!(kind(session.set(theme("dark")).await), Some(WriteErrorKind::Closed));
        assert!(session.is_new() && session.relay().is_none());
        session.remove::<Division>().await.unwrap();
        assert_eq!(division(node).await, None);
    }
}

#[tokio::test]
async fn unlisted_origin_has_no_user() {
    let node = node();
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(3)).await.unwrap();
    let session = open(&node, fetch(Method::POST, "/", UNLISTED, "")).await;
    assert_eq!((session.principal(), session.get::<Division>()), (None, None));
    assert_eq!(kind(session.set(Division(5)).await), Some(WriteErrorKind::Closed));
    assert_eq!(kind(session.remove::<Division>().await), Some(WriteErrorKind::Closed));
    assert_eq!(at_once(session.closed()), Some(CloseReason::CrossSite));
    assert_eq!(division(&node).await, Some(Division(3)));
}

#[tokio::test]
async fn user_write_without_memory_is_refused() {
    let node = Node::new(chain().tier(cookie(&ring())).build().unwrap());
    let write = async |session: Session| (Response::new(Full::default()), kind(session.set(Division(3)).await));
    let request = fetch(Method::POST, "/", LISTED, "");
    let (response, written) = node.handle(request, write).await;
    assert_eq!((set_cookies(response.headers()).len(), written), (0, Some(WriteErrorKind::Closed)));
}

// R24: a page of a listed origin on another site can write user values and no session value. An unlisted origin can
// write no value.
#[tokio::test]
async fn listed_origin_posts_only_user_values() {
    let node = node();
    let (trace, _guard) = Trace::begin();
    let answer = post(&node, LISTED, r#"{"theme":"dark"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, "session_closed"));
    assert_eq!(trace.lines_with("serve the page from the application's site, or set `SameSite::None`"), 1);
    let answer = post(&node, LISTED, r#"{"current_division_id":3}"#).await;
    assert_eq!((answer.status, division(&node).await), (StatusCode::OK, Some(Division(3))));
    let answer = post(&node, UNLISTED, r#"{"current_division_id":5}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "cross_site"));
    assert_eq!(division(&node).await, Some(Division(3)));
}

#[tokio::test]
async fn listed_origin_gets_user_events() {
    let node = node();
    let writeback = || SessionWriteback::new(&node.sessions).allow::<Division>().unwrap();
    let events = || fetch(Method::GET, "/events", LISTED, "");
    let mut stream = node.stream(writeback(), events()).await.into_body();
    assert!(told(&mut stream).contains(r#""session":"""#));
    post(&node, LISTED, r#"{"current_division_id":3}"#).await;
    assert!(told(&mut stream).contains(r#"{"current_division_id":3}"#));

    let mut nobodys = events();
    nobodys.headers_mut().remove("user");
    assert_eq!(node.stream(writeback(), nobodys).await.status(), StatusCode::NO_CONTENT);
}

// Under `SameSite=None` the browser withholds no cookie, so a write of a listed origin may begin a session. A birth
// token is accepted only from a page of the origin to which the browser sends the request, and not from a page of
// another origin that is listed.
#[tokio::test]
async fn same_site_none_refuses_listed_origin_tokens() {
    let cookie = CookieTier::sealed(ring()).name("__Host-session").same_site(SameSite::None);
    let sessions = chain().tier(memory()).tier(cookie).build().unwrap();
    let node = Node::new(sessions);
    let live = socket(&Browser::new(), &node).await;
    live.set(theme("dark")).await.unwrap();
    let body = serde_json::json!({ "$relay": live.relay().unwrap().as_str() }).to_string();
    let bring = async |site: &'static str| {
        let mut request = fetch(Method::POST, "/", LISTED, body.clone());
        request.headers_mut().insert("sec-fetch-site", header::HeaderValue::from_static(site));
        node.writeback(SessionWriteback::new(&node.sessions), request).await
    };
    for site in ["cross-site", "same-site"] {
        assert_eq!(bring(site).await.code(), "session_closed", "{site}");
    }
    assert_eq!(bring("same-origin").await.set_cookies().len(), 1);
}

// A birth token and a sign-in order give the browser the cookie of a session. The request of a listed origin has no
// cookie, so an accepted token would begin a session: the writeback refuses both tokens.
#[tokio::test]
async fn listed_origin_tokens_begin_no_session() {
    let app = App::new();
    let node = app.start_with(|sessions| sessions.public_origins([LISTED]));
    let live = socket(&Browser::new(), &node).await;
    let order = live.sign_in(User("ada".into())).by_page().unwrap();
    live.set(theme("dark")).await.unwrap();
    let birth = live.relay().unwrap();
    for (token, prefix) in [(order, "t."), (birth, "b.")] {
        assert!(token.as_str().starts_with(prefix));
        let body = serde_json::json!({ "$relay": token.as_str() }).to_string();
        let bring = async |site: &'static str| {
            let mut request = fetch(Method::POST, "/", LISTED, body.clone());
            request.headers_mut().insert("sec-fetch-site", header::HeaderValue::from_static(site));
            node.writeback(SessionWriteback::new(&node.sessions), request).await
        };
        let answer = bring("cross-site").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, "session_closed"), "{prefix}");
        assert!(answer.set_cookies().is_empty());
        let answer = bring("same-site").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, "session_closed"), "{prefix}");
        assert_eq!(
            bring("same-origin").await.set_cookies().len(),
            1,
            "a page of the node's own origin brings the token"
        );
    }
}
