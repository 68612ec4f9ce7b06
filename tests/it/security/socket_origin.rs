//! Sockets that another site opens: the browser sends the cookie with the handshake, so a foreign page could read and
//! write.

use std::{net::Ipv4Addr, time::Duration};

use axum::{Router, extract::ws::WebSocketUpgrade, routing::any};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, Version, header};
use http_body_util::Full;
use layered_session::{
    ChangeEvent, CloseReason, CookieTier, DefaultTier, LayeredSessionLayer, Principal, SameSite, Session, SessionValue,
    SessionsBuilder, WriteError, WriteErrorKind, testing::ManualClock,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tower::{Layer, ServiceExt};

use crate::support::{
    Browser, Division, Node, Theme, Trace, User, Visits, at_once, cookie, declared, kind, memory, ring, theme,
};

/// A value computed from the request head, also for requests without a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Locale(String);

impl SessionValue for Locale {
    const NAME: &'static str = "locale";
}

fn node() -> Node {
    start_with(cookie(&ring()), |sessions| sessions)
}

fn start_with(cookie: CookieTier, settings: impl FnOnce(SessionsBuilder) -> SessionsBuilder) -> Node {
    let sessions = declared(memory(), cookie, &ManualClock::new())
        .tier(DefaultTier::new().with::<Locale>(|head| Locale(head.uri.path().into())).value(Division(2)))
        .value::<Locale>()
        .public_origins(["https://public.example"]);
    Node::new(settings(sessions).build().unwrap())
}

/// Returns a node, and a browser in which Ada has a theme and a division.
async fn signed_in() -> (Node, Browser) {
    let node = node();
    let browser = ada_at(&node).await;
    (node, browser)
}

async fn ada_at(node: &Node) -> Browser {
    let mut browser = crate::support::signed_in(node, "ada").await;
    browser.visit(node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    browser.visit(node, async |s| s.set(Division(3)).await.unwrap()).await;
    browser
}

async fn open(node: &Node, request: Request<Full<Bytes>>) -> (Response<Full<Bytes>>, Session) {
    let hold = async |session| (Response::new(Full::default()), session);
    node.handle(request, hold).await
}

fn upgrade(browser: &Browser, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = browser.request_of(Method::GET, "/live", "");
    request.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
    request.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// A request by extended CONNECT, which opens a socket over HTTP/2.
fn connect(browser: &Browser, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = upgrade(browser, headers);
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "https://app.example/live".parse().unwrap();
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(header::UPGRADE);
    request.headers_mut().remove(header::HOST);
    request
}

const OURS: &[&[(&str, &str)]] = &[
    // A client that is no browser: browsers send `Origin` with every WebSocket.
    &[],
    &[("sec-fetch-site", "same-origin")],
    &[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
    &[("origin", "https://app.example")],
    &[("origin", "https://public.example")],
];

const NOT_OURS: &[&[(&str, &str)]] = &[
    &[("sec-fetch-site", "cross-site")],
    &[("sec-fetch-site", "cross-site"), ("origin", "https://app.example")],
    &[("sec-fetch-site", "same-site"), ("origin", "https://app.example")],
    &[("sec-fetch-site", "none")],
    &[("origin", "https://evil.example")],
    &[("origin", "http://public.example")],
    &[("origin", "https://app.example:8443")],
    &[("origin", "null")],
    &[("origin", "https://app.example"), ("origin", "https://app.example")],
];

// R29: a socket that passes the rule has the session, over HTTP/1.1 and over HTTP/2.
#[tokio::test]
async fn same_origin_socket_has_session() {
    let (node, browser) = signed_in().await;
    for headers in OURS {
        for request in [upgrade(&browser, headers), connect(&browser, headers)] {
            let (_, session) = open(&node, request).await;
            assert_eq!(session.principal(), Some(Principal::new("ada")), "{headers:?}");
            session.set(Theme("live".into())).await.unwrap();
            assert!(session.relay().is_some());
        }
    }
}

// R29: a client without `Origin` has the session under `Lax` and `Strict`, and under `None` only after
// `upgrades_without_origin`.
#[tokio::test]
async fn client_without_origin_has_session() {
    let cookie = |same_site| CookieTier::sealed(ring()).name("session").same_site(same_site);
    for (same_site, setting, passes) in [
        (SameSite::Lax, false, true),
        (SameSite::Strict, false, true),
        (SameSite::None, false, false),
        (SameSite::None, true, true),
    ] {
        let settings = |builder: SessionsBuilder| if setting { builder.upgrades_without_origin() } else { builder };
        let node = start_with(cookie(same_site), settings);
        let browser = ada_at(&node).await;
        for request in [upgrade(&browser, &[]), connect(&browser, &[])] {
            let (_, session) = open(&node, request).await;
            let user = passes.then(|| Principal::new("ada"));
            assert_eq!(session.principal(), user, "{same_site:?} {setting}");
            assert_eq!(session.set(theme("live")).await.is_ok(), passes);
        }
        let evil = [("origin", "https://evil.example")];
        assert_eq!(open(&node, upgrade(&browser, &evil)).await.1.principal(), None);
    }
}

// tungstenite is no browser: the client sends neither `Origin` nor `Sec-Fetch-Site`.
#[tokio::test]
async fn tungstenite_client_has_session() {
    let (node, browser) = signed_in().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let live = async |session: Session, socket: WebSocketUpgrade| {
        socket.on_upgrade(async move |mut socket| {
            let stored = session.set(theme("live")).await.map(|()| session.value::<Theme>().0);
            socket.send(stored.unwrap_or_else(|error| error.to_string()).into()).await.unwrap();
        })
    };
    let app = Router::new().route("/live", any(live)).layer(LayeredSessionLayer::new(node.sessions.clone()));
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });

    let mut request = format!("ws://{address}/live").into_client_request().unwrap();
    assert_eq!(request.headers().get(header::ORIGIN), None);
    let cookie = browser.request().headers()[header::COOKIE].clone();
    request.headers_mut().insert(header::COOKIE, cookie);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "live");
    serving.abort();
}

// R29: the trace of a refused socket names the remedy, once a minute for each reason, with the number of lines left
// out.
#[tokio::test]
async fn refused_socket_trace_names_remedy() {
    let (trace, _guard) = Trace::begin();
    let clock = ManualClock::new();
    let cookie = CookieTier::sealed(ring()).name("session").same_site(SameSite::None);
    let node = start_with(cookie, |sessions| sessions.clock(clock.clone()));
    let browser = ada_at(&node).await;
    let refuse = async |headers: &[(&'static str, &str)]| drop(open(&node, upgrade(&browser, headers)).await);
    let long = format!("https://{}.example", "x".repeat(500));
    // A proxy has rewritten `Host`.
    refuse(&[("origin", &long)]).await;
    assert_eq!((trace.lines_with(&"x".repeat(120)), trace.lines_with(&"x".repeat(121))), (1, 0), "{}", trace.text());
    assert_eq!(trace.lines_with("host=\"app.example\" left_out=0"), 1, "{}", trace.text());
    for _ in 0..3 {
        refuse(&[("origin", "https://app.example:8443")]).await;
        refuse(&[("origin", "null")]).await;
        refuse(&[("sec-fetch-site", "cross-site")]).await;
        refuse(&[]).await;
    }
    let remedies =
        ["let the proxy pass `Host` on", "`Origin` is `null`", "`public_origins`", "`upgrades_without_origin`"];
    let told = |trace: &Trace| remedies.map(|remedy| trace.lines_with(remedy));
    assert_eq!(told(&trace), [1, 1, 2, 1], "{}", trace.text());
    clock.advance(Duration::from_secs(59));
    refuse(&[("origin", "https://app.example:8443")]).await;
    assert_eq!(told(&trace), [1, 1, 2, 1]);
    clock.advance(Duration::from_secs(1));
    refuse(&[("origin", "https://app.example:8443")]).await;
    refuse(&[]).await;
    assert_eq!(told(&trace), [2, 1, 3, 2]);
    let left_out = ["left_out=4", "left_out=2"].map(|left_out| trace.lines_with(left_out));
    assert_eq!(left_out, [1, 1], "{}", trace.text());
}

// R29, R32: the trace of a refused socket hides the user name and password in `Origin`, in `Host` and in the target.
#[tokio::test]
async fn refusal_trace_hides_userinfo() {
    let (trace, _guard) = Trace::begin();
    let clock = ManualClock::new();
    let node = start_with(CookieTier::sealed(ring()).name("session"), |sessions| sessions.clock(clock.clone()));
    let browser = ada_at(&node).await;
    let long = "hunter2".repeat(100);
    let targets = [
        ("http://ada:hunter2@app.example:8080/live".to_owned(), None),
        (format!("http://{long}@app.example:8080/live"), None),
        ("/live".to_owned(), Some("ada:hunter2@app.example:8080")),
    ];
    for (told, (target, host)) in targets.into_iter().enumerate() {
        let mut request = upgrade(&browser, &[("origin", "https://ada:hunter2@evil.example")]);
        *request.uri_mut() = target.parse().unwrap();
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host.parse().unwrap());
        }
        drop(open(&node, request).await);
        assert_eq!(trace.lines_with("host=\"app.example:8080\""), told + 1, "{}", trace.text());
        assert_eq!(trace.lines_with("hunter2"), 0, "{}", trace.text());
        clock.advance(Duration::from_secs(60));
    }
}

// G4: the layer neither refuses nor traces a socket whose handler asks for no session.
#[tokio::test]
async fn unused_cross_site_socket_traces_nothing() {
    let (trace, _guard) = Trace::begin();
    let (node, browser) = signed_in().await;
    let before = trace.text();
    let request = upgrade(&browser, &[("origin", "https://evil.example")]);
    let service =
        tower::service_fn(async |_| Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default())));
    LayeredSessionLayer::new(node.sessions.clone()).layer(service).oneshot(request).await.unwrap();
    assert_eq!(trace.text(), before);
}

// curl with `--http2` and Java's `HttpClient` offer HTTP/2 by `Upgrade`, and get an answer in HTTP/1.1.
#[tokio::test]
async fn request_with_http2_offer_has_session() {
    let (node, browser) = signed_in().await;
    let offers = [
        [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")],
        [("connection", "keep-alive"), ("upgrade", "websocket")],
        [("connection", "upgrade"), ("upgrade", "websockets")],
    ];
    for offer in offers {
        let mut request = browser.request_of(Method::GET, "/", "");
        offer.iter().for_each(|(name, value)| drop(request.headers_mut().insert(*name, value.parse().unwrap())));
        let (_, session) = open(&node, request).await;
        assert_eq!(session.principal(), Some(Principal::new("ada")), "{offer:?}");
        session.set(Theme("dark".into())).await.unwrap();
    }
}

#[tokio::test]
async fn upgrade_header_lists_are_parsed() {
    let (node, browser) = signed_in().await;
    for (connection, upgrade) in [("keep-alive, Upgrade", "WebSocket"), ("UPGRADE", "h2c ,websocket")] {
        let mut request = browser.request_of(Method::GET, "/live", "");
        request.headers_mut().insert("connection", connection.parse().unwrap());
        request.headers_mut().insert("upgrade", upgrade.parse().unwrap());
        request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
        assert_has_nothing(&open(&node, request).await.1).await;
    }
}

// R29: a socket of another site reads no stored value, writes no value, and begins no session.
#[tokio::test]
async fn cross_site_socket_gets_no_session() {
    let (node, browser) = signed_in().await;
    let records = node.sessions.stats().records;
    for headers in NOT_OURS {
        for browser in [&browser, &Browser::new()] {
            for request in [upgrade(browser, headers), connect(browser, headers)] {
                let (response, session) = open(&node, request).await;
                assert!(response.headers().get(header::SET_COOKIE).is_none(), "{headers:?}");
                assert_has_nothing(&session).await;
                assert_gets_nothing(&session).await;
                assert_has_nothing(&session).await;
            }
        }
    }
    assert_eq!(node.sessions.stats().records, records);
    let kept = browser.clone().visit(&node, async |s| (s.value::<Theme>(), s.value::<Division>())).await;
    assert_eq!(kept, (Theme("dark".into()), Division(3)));
}

async fn assert_has_nothing(session: &Session) {
    assert_eq!((session.get::<Theme>(), session.get::<User>(), session.principal()), (None, None, None));
    // Computed tiers still answer.
    assert_eq!((session.value::<Division>(), session.value_source::<Division>().tier()), (Division(2), "default"));
    assert_eq!(session.value::<Locale>(), Locale("/live".into()));
    assert!(session.is_new() && session.created_at().is_none() && session.expires_at().is_none());
    assert!(session.relay().is_none());
    assert_eq!(session.closed().await, CloseReason::CrossSite);
    assert_eq!(session.watch::<Division>().next().await, None);
    assert_eq!(session.changes().next().await, Some(ChangeEvent::Closed(CloseReason::CrossSite)));
}

async fn assert_gets_nothing(session: &Session) {
    let closed = |written: Result<(), WriteError>, what| {
        let error = written.expect_err(what);
        assert_eq!(error.kind(), WriteErrorKind::Closed, "{what}");
        assert!(error.to_string().contains("cross-site"), "{what}: {error}");
    };
    closed(session.set(Theme("evil".into())).await, "set");
    closed(session.set(Division(5)).await, "set of the principal's");
    closed(session.update::<Visits>(|visits| visits.0 += 1).await.map(drop), "update");
    closed(session.batch().set(Theme("evil".into())).set(Visits(1)).commit().await, "batch");
    let turns = [
        session.sign_in(User("eve".into())).await,
        session.sign_in(User("ada".into())).adopt::<Division>().await,
        session.renew().await,
    ];
    assert_eq!(turns.map(kind), [Some(WriteErrorKind::HeadSent); 3]);
    assert!(
        session
            .set_lifetime(layered_session::Lifetime::new(crate::support::DAY, crate::support::DAY).unwrap())
            .await
            .is_err()
    );
    // These calls find nothing to change.
    assert_eq!(session.take::<Theme>().await.ok().flatten(), None);
    drop((session.remove::<Theme>().await, session.clear().await, session.destroy().await));
}

// R29: for a request that opens no socket, the browser's `SameSite` rule alone decides.
#[tokio::test]
async fn cross_site_link_arrives_with_session() {
    let (node, browser) = signed_in().await;
    let mut request = upgrade(&browser, &[("sec-fetch-site", "cross-site")]);
    request.headers_mut().remove(header::UPGRADE);
    let (_, session) = open(&node, request).await;
    assert_eq!(session.principal(), Some(Principal::new("ada")));
}

#[tokio::test]
async fn cross_site_socket_starts_closed() {
    let (node, browser) = signed_in().await;
    let headers = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
    let (_, live) = open(&node, upgrade(&browser, &headers)).await;
    assert_eq!((live.get::<Theme>(), live.relay()), (None, None));
    assert_eq!(kind(live.set(theme("evil")).await), Some(WriteErrorKind::Closed));
    assert_eq!(kind(live.remove::<Theme>().await), Some(WriteErrorKind::Closed));
    assert_eq!(at_once(live.closed()), Some(CloseReason::CrossSite));
}
