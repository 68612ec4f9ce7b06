//! The event stream: the events that a page receives, and the data that no page receives.

use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt;
use layered_session::{
    BuildErrorKind, DefaultTier, Principal, Session, SessionValue, SessionWriteback, WritebackBody,
    tier::{Found, TierFuture},
};

use crate::support::{
    Answer, App, BEAT, Browser, DAY, Division, Node, Theme, User, Visits, bring, carried, get, post, set, sign_in,
    signed_in, socket, soon, source, theme, told, under_way, visitor,
};

const HEARTBEAT: Duration = Duration::from_secs(15);
const RELAY_DELAY: Duration = Duration::from_millis(200);

/// A writeback that lets pages write the theme and the division, and read the user. Pages do not see the visits.
fn writeback(node: &Node) -> SessionWriteback {
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    writeback.allow::<Division>().unwrap().expose::<User>().unwrap()
}

fn request(browser: &Browser) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    browser.request_of_page(Method::GET, "/events", "")
}

/// A page with an open stream.
struct Page {
    head: HeaderMap,
    stream: WritebackBody,
}

impl Page {
    async fn open(browser: &Browser, node: &Node) -> Self {
        let response = node.stream(writeback(node), request(browser)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let (head, stream) = response.into_parts();
        Self { head: head.headers, stream }
    }

    /// Opens a page, and reads the state event that begins every stream.
    async fn opened(browser: &Browser, node: &Node) -> Self {
        let mut page = Self::open(browser, node).await;
        assert!(page.told().starts_with("event: state\n"));
        page
    }

    /// The text that the stream has ready.
    fn told(&mut self) -> String {
        told(&mut self.stream)
    }

    /// The relay token for the page to bring, after the delay in which a response could have carried the cookie.
    fn relay(&mut self, app: &App) -> Option<String> {
        app.pass(RELAY_DELAY);
        let told = self.told();
        let token = told.strip_prefix("event: relay\ndata: \"")?.strip_suffix("\"\n\n").expect("one event");
        Some(token.to_owned())
    }

    fn is_over(&mut self) -> bool {
        matches!(self.stream.frame().now_or_never(), Some(None))
    }
}

/// The marks of session and user in a state, and the state without the marks.
fn marks(state: &str) -> (String, String, String) {
    let (before, rest) = state.split_once("\"session\":\"").expect("a state");
    let (session, rest) = rest.split_once("\",\"user\":\"").unwrap();
    let (user, after) = rest.split_once("\",").unwrap();
    (session.to_owned(), user.to_owned(), format!("{before}{after}"))
}

#[tokio::test]
async fn stream_begins_with_readable_values() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    set(&mut browser, &node, Division(2)).await;
    set(&mut browser, &node, Visits(7)).await;
    let mut page = Page::open(&browser, &node).await;
    let (session, user, told) = marks(&page.told());
    assert_eq!((session.len(), user.len()), (16, 16));
    let state = r#"{"heartbeat":15000,"values":{"current_division_id":2,"user":"ada"}}"#;
    assert_eq!(told, format!("event: state\ndata: {state}\n\n"));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (header::VARY, "cookie"),
    ] {
        assert_eq!(page.head[&name].to_str().unwrap().to_lowercase(), value);
    }
    assert_eq!(page.head.get(header::SET_COOKIE), None);
    assert_eq!(page.head["x-accel-buffering"], "no");
}

/// A same-origin `EventSource` request over plain HTTP, not on loopback: neither `Origin` nor `Sec-Fetch-Site`.
fn bare_request(browser: &Browser) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = browser.request_of(Method::GET, "/events", "");
    request.headers_mut().insert(header::ACCEPT, "text/event-stream".parse().unwrap());
    request
}

// R24: an `EventSource` on plain HTTP gets the stream without `Origin` and `Sec-Fetch-Site`. A GET without its `Accept`
// is refused.
#[tokio::test]
async fn plain_http_event_source_is_accepted() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let mut response = node.stream(writeback(&node), bare_request(&browser)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(told(response.body_mut()).contains(r#""theme":"light""#));

    let mut plain_get = bare_request(&browser);
    plain_get.headers_mut().remove(header::ACCEPT);
    assert_eq!(node.writeback(writeback(&node), plain_get).await.code(), "cross_site");

    let closed = browser.clone();
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    let gone = node.stream(writeback(&node), bare_request(&closed)).await;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
}

// A page of another site can imitate an `EventSource` on plain HTTP by a `no-cors` fetch, so each response forbids
// other origins to read the body.
#[tokio::test]
async fn responses_forbid_other_origins() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let closed = browser.clone();
    let answer = async |request| node.stream(writeback(&node), request).await.headers().clone();
    let mut answers =
        vec![answer(bare_request(&browser)).await, answer(browser.request_of(Method::GET, "/events", "")).await];
    answers.push(answer(browser.post_json("{}")).await);
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    answers.push(answer(bare_request(&closed)).await);
    for head in answers {
        assert_eq!(head["cross-origin-resource-policy"], "same-origin");
        assert_eq!(head[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}

#[tokio::test]
async fn stream_reports_every_change() {
    let app = App::new();
    let node = Node::new(
        app.chain(DefaultTier::new().value(theme("light"))).value::<Theme>().value::<Division>().build().unwrap(),
    );
    let writeback = || SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap().allow::<Division>().unwrap();
    let mut browser = visitor(&node).await;
    let response = node.stream(writeback(), request(&browser)).await;
    let mut page = Page { head: HeaderMap::new(), stream: response.into_body() };
    page.told();
    set(&mut browser, &node, theme("dark")).await;
    assert_eq!(page.told(), "event: set\ndata: {\"theme\":\"dark\"}\n\n");
    node.writeback(writeback(), browser.post_json(r#"{"current_division_id":3}"#)).await;
    assert_eq!(page.told(), "event: set\ndata: {\"current_division_id\":3}\n\n");
    socket(&browser, &node).await.remove::<Division>().await.unwrap();
    assert_eq!(page.told(), "event: removed\ndata: [\"current_division_id\"]\n\n");
    socket(&browser, &node).await.remove::<Theme>().await.unwrap();
    assert_eq!(page.told(), "event: set\ndata: {\"theme\":\"light\"}\n\n", "the default answers");
}

#[tokio::test]
async fn only_own_pages_get_user_values() {
    let app = App::new();
    let node = app.start();
    let (ada, bob) = (signed_in(&node, "ada").await, signed_in(&node, "bob").await);
    let mut pages = [Page::opened(&ada, &node).await, Page::opened(&signed_in(&node, "ada").await, &node).await];
    let mut others = [Page::opened(&bob, &node).await, Page::opened(&visitor(&node).await, &node).await];
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    job.set(Division(4)).await.unwrap();
    for page in &mut pages {
        assert_eq!(page.told(), "event: set\ndata: {\"current_division_id\":4}\n\n");
    }
    set(&mut ada.clone(), &node, theme("dark")).await;
    assert_eq!(pages.map(|mut page| page.told().is_empty()), [false, true], "the theme belongs to one browser");
    app.pass(RELAY_DELAY);
    assert!(others.iter_mut().all(|page| page.told().is_empty()));
}

#[tokio::test]
async fn slow_page_gets_newest_value() {
    let node = App::new().node;
    let browser = visitor(&node).await;
    let mut page = Page::opened(&browser, &node).await;
    let live = socket(&browser, &node).await;
    for n in 0..10_000 {
        live.set(theme(&n.to_string())).await.unwrap();
    }
    assert_eq!(page.told(), "event: set\ndata: {\"theme\":\"9999\"}\n\n");
}

#[tokio::test]
async fn visitor_stream_creates_no_record() {
    let app = App::new();
    let node = app.start();
    let mut page = Page::open(&Browser::new(), &node).await;
    assert_eq!(
        page.told(),
        "event: state\ndata: {\"session\":\"\",\"user\":\"\",\"heartbeat\":15000,\"values\":{}}\n\n"
    );
    for _ in 0..3 {
        app.pass(HEARTBEAT - Duration::from_millis(1));
        assert_eq!(page.told(), "");
        app.pass(Duration::from_millis(1));
        assert_eq!(page.told(), BEAT);
    }
    assert_eq!(page.head.get(header::SET_COOKIE), None);
    assert_eq!(node.sessions.stats().records, 0);
}

#[tokio::test]
async fn close_reason_is_last_event() {
    type End = fn(Session, Node, App) -> crate::support::BoxFuture<()>;
    let ends: [(&str, End); 5] = [
        ("renewed", |request, _, _| Box::pin(async move { request.renew().await.unwrap() })),
        ("destroyed", |request, _, _| Box::pin(async move { request.destroy().await.unwrap() })),
        ("revoked", |_, node, _| {
            Box::pin(async move { node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap() })
        }),
        ("expired", |_, _, app| Box::pin(async move { app.pass(2 * DAY) })),
        ("shutdown", |_, node, _| Box::pin(async move { node.sessions.shutdown() })),
    ];
    for (reason, end) in ends {
        let app = App::new();
        let node = app.start();
        let browser = signed_in(&node, "ada").await;
        let mut page = Page::opened(&browser, &node).await;
        end(under_way(&browser, &node).await, node.clone(), app).await;
        assert_eq!(page.told(), format!("event: closed\ndata: \"{reason}\"\n\n"));
        assert!(page.is_over(), "{reason}");
    }
}

// R29: a request with an ended session is answered with 204, so that the page stops asking.
#[tokio::test]
async fn ended_session_gets_no_stream() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    socket(&browser, &node).await.destroy().await.unwrap();
    let answer = node.writeback(writeback(&node), request(&browser)).await;
    assert_eq!((answer.status, answer.body.len(), answer.set_cookies()), (StatusCode::NO_CONTENT, 0, vec![]));
    app.pass(Duration::from_secs(60));
    assert!(Page::open(&browser, &node).await.told().contains("\"session\":\"\""));
}

// R29: only a GET of a same-origin page opens the stream.
#[tokio::test]
async fn only_same_origin_get_opens_stream() {
    let node = App::new().node;
    let browser = visitor(&node).await;
    for site in ["cross-site", "same-site", "none", ""] {
        let mut request = request(&browser);
        request.headers_mut().insert("sec-fetch-site", site.parse().unwrap());
        if site.is_empty() {
            request.headers_mut().remove("sec-fetch-site");
        }
        let answer = soon(node.writeback(writeback(&node), request)).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "cross_site"), "{site}");
    }
    for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
        let mut request = request(&browser);
        *request.method_mut() = method;
        let answer = node.writeback(writeback(&node), request).await;
        assert_eq!(
            (answer.status, &answer.headers[header::ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap())
        );
    }
    let bare = tower::ServiceExt::oneshot(writeback(&node), request(&browser)).await.unwrap();
    assert_eq!(Answer::of(bare).await.code(), "no_layer");
}

#[tokio::test]
async fn disabled_stream_is_not_found() {
    let app = App::new();
    let node = app.start();
    let answer = node.writeback(writeback(&node).without_events(), request(&Browser::new())).await;
    assert_eq!(answer.code(), "not_found");
    let forgetful = layered_session::Sessions::builder()
        .tier(layered_session::CookieTier::sealed(app.ring.clone()))
        .value::<Theme>()
        .build()
        .unwrap();
    let bare = SessionWriteback::new(&forgetful);
    assert_eq!(Node::new(forgetful).writeback(bare, request(&Browser::new())).await.code(), "not_found");
    let undeclared = SessionWriteback::new(&Node::new(app.chain(DefaultTier::new()).build().unwrap()).sessions);
    assert_eq!(undeclared.expose::<Theme>().unwrap_err().kind(), BuildErrorKind::Value);
}

#[tokio::test]
async fn undelivered_changes_are_relayed() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let mut page = Page::opened(&browser, &node).await;
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    job.set(Division(1)).await.unwrap();
    socket(&browser, &node).await.set(Visits(5)).await.unwrap();
    assert_eq!(page.told(), "event: set\ndata: {\"current_division_id\":1}\n\n");
    let token = page.relay(&app).expect("a job's write has no response, so the stream sends a token");
    assert_eq!(page.relay(&app), None, "once");
    assert_eq!(bring(&mut browser, &node, &token).await.status, StatusCode::OK);
    assert_eq!(carried::<Division>(&browser, &app).await, Division(1));
    assert_eq!(
        carried::<Visits>(&browser, &app).await,
        Visits(5),
        "the token also carries values that the page must not read"
    );
    job.set(Division(2)).await.unwrap();
    page.told();
    let newer = page.relay(&app).expect("another change gives another token");
    bring(&mut browser, &node, &newer).await;
    bring(&mut browser, &node, &token).await;
    assert_eq!(carried::<Division>(&browser, &app).await, Division(2));
}

#[tokio::test]
async fn delivered_changes_are_not_relayed() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let mut page = Page::opened(&browser, &node).await;
    post(&mut browser, &node, r#"{"theme":"dark"}"#).await;
    assert_eq!(page.told(), "event: set\ndata: {\"theme\":\"dark\"}\n\n");
    assert_eq!(page.relay(&app), None);
    // The stream opens while the browser is behind: the stream's own response heals the browser.
    socket(&browser, &node).await.set(theme("blue")).await.unwrap();
    page.told();
    let mut other = Page::opened(&browser, &node).await;
    assert!(other.head.contains_key(header::SET_COOKIE));
    assert_eq!((page.relay(&app), other.relay(&app)), (None, None));
}

#[tokio::test]
async fn open_stream_extends_no_session() {
    let app = App::new();
    let node = app.start();
    let mut page = Page::opened(&visitor(&node).await, &node).await;
    for _ in 0..48 {
        app.pass(Duration::from_secs(3599));
        assert_eq!(page.told(), BEAT);
    }
    app.pass(Duration::from_secs(48));
    assert_eq!(page.told(), "event: closed\ndata: \"expired\"\n\n");
}

#[tokio::test]
async fn value_cannot_break_event() {
    let app = App::new();
    // A source whose database keeps JSON with its line feeds.
    let json = "\n\n\"event: closed\"\n\n";
    let spaced = source("spaced", move |_| TierFuture::ready(Ok(Found::from_iter([(Theme::NAME, json)]))));
    let node = Node::new(app.chain(DefaultTier::new()).tier(spaced).value::<Theme>().build().unwrap());
    let open = async |browser: &Browser| {
        let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
        Page { head: HeaderMap::new(), stream: node.stream(writeback, request(browser)).await.into_body() }
    };
    let state = open(&Browser::new()).await.told();
    assert_eq!(
        state,
        "event: state\ndata: {\"session\":\"\",\"user\":\"\",\"heartbeat\":15000,\"values\":{\"theme\":\"event: closed\"}}\n\n"
    );
    let mut browser = visitor(&node).await;
    let mut page = open(&browser).await;
    page.told();
    set(&mut browser, &node, theme("a\n\nevent: closed\ndata: \u{2028}\r")).await;
    let told = page.told();
    assert_eq!((told.matches('\n').count(), told.matches('\r').count()), (3, 0));
}

#[tokio::test]
async fn sign_in_elsewhere_ends_stream() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let mut page = Page::opened(&browser, &node).await;
    sign_in(&mut browser, &node, "ada").await;
    assert_eq!(page.told(), "event: closed\ndata: \"renewed\"\n\n");
    assert!(Page::open(&browser, &node).await.told().contains("\"user\":\"ada\""));
}

#[tokio::test]
async fn earlier_users_page_cannot_write_next_users_values() {
    let app = App::new();
    let node = app.start();
    let mark = async |browser: &Browser, node: &Node| marks(&Page::open(browser, node).await.told()).1;
    let (visitor, mut ada, mut bob) =
        (visitor(&node).await, signed_in(&node, "ada").await, signed_in(&node, "bob").await);
    let (nobody, adas, bobs) = (mark(&visitor, &node).await, mark(&ada, &node).await, mark(&bob, &node).await);
    assert_eq!(nobody, "");
    assert_ne!(adas, bobs);
    let again = signed_in(&app.start(), "ada").await;
    assert_eq!(mark(&again, &app.start()).await, adas, "every node and every session of ada has the same mark");

    let post = async |browser: &mut Browser, mark: &str, level: i64| {
        let mut request = browser.post_json(format!(r#"{{"current_division_id":{level}}}"#));
        request.headers_mut().insert("session-user", mark.parse().unwrap());
        let answer = node.writeback(writeback(&node), request).await;
        browser.take(&answer.headers);
        answer
    };
    assert_eq!(post(&mut ada, &adas, 1).await.status, StatusCode::OK);
    for mark in ["", &bobs, "x", "\u{e4}"] {
        let refused = post(&mut ada, mark, 2).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "user_changed".into()), "{mark:?}");
    }
    ada.visit(&node, async |session| session.sign_in(User("bob".into())).await.unwrap()).await;
    assert_eq!(post(&mut ada, &adas, 3).await.code(), "user_changed");
    assert_eq!(get::<Division>(&mut bob, &node).await, Division::default(), "no write of ada's page reaches bob");
    assert_eq!(post(&mut ada, &bobs, 4).await.status, StatusCode::OK);
    assert_eq!(get::<Division>(&mut bob, &node).await, Division(4));
}

#[tokio::test]
async fn session_mark_follows_session() {
    let app = App::new();
    let node = app.start();
    let mark = async |browser: &Browser, node: &Node| marks(&Page::open(browser, node).await.told()).0;
    let (mut browser, other) = (visitor(&node).await, visitor(&node).await);
    let first = mark(&browser, &node).await;
    assert_eq!(mark(&browser, &app.start()).await, first);
    assert_ne!(mark(&other, &node).await, first);
    set(&mut browser, &node, theme("dark")).await;
    assert_eq!(mark(&browser, &node).await, first);
    sign_in(&mut browser, &node, "ada").await;
    assert_ne!(mark(&browser, &node).await, first);
    assert_eq!(mark(&Browser::new(), &node).await, "");
}

#[tokio::test]
async fn heartbeat_follows_announced_interval() {
    let app = App::new();
    let node = app.start();
    let writeback = writeback(&node).heartbeat(Duration::from_secs(1)).unwrap();
    let mut stream = node.stream(writeback, request(&visitor(&node).await)).await.into_body();
    assert!(told(&mut stream).contains("\"heartbeat\":1000,"));
    for _ in 0..3 {
        app.pass(Duration::from_millis(999));
        assert_eq!(told(&mut stream), "");
        app.pass(Duration::from_millis(1));
        assert_eq!(told(&mut stream), BEAT);
    }
}

#[test]
fn heartbeat_interval_is_bounded() {
    let node = App::new().node;
    for (interval, possible) in [(999, false), (1_000, true), (300_000, true), (300_001, false), (0, false)] {
        let built = writeback(&node).heartbeat(Duration::from_millis(interval));
        assert_eq!(built.map_err(|error| error.kind()).err(), (!possible).then_some(BuildErrorKind::Setting));
    }
}

#[tokio::test]
async fn page_sees_greater_bytes_at_equal_versions() {
    let app = App::new();
    let nodes = [app.start(), app.start()];
    let mut browser = visitor(&nodes[0]).await;
    set(&mut browser.clone(), &nodes[0], theme("dark")).await;
    let mut page = Page::opened(&browser, &nodes[0]).await;
    set(&mut browser, &nodes[1], theme("dawn")).await;
    get::<Theme>(&mut browser, &nodes[0]).await;
    assert_eq!(page.told(), "event: set\ndata: {\"theme\":\"dawn\"}\n\n");
}
