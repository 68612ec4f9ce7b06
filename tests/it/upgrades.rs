//! Sockets that another site opens: browsers send them with cookies, and let the page there read and write.

use bytes::Bytes;
use http::{Method, Request, Response, Version, header};
use http_body_util::Full;
use layered_session::{
    Changed, Closed, CookieTier, DefaultTier, MemoryTier, Principal, Session, SessionValue, Sessions, WriteError,
    WriteErrorKind, testing::ManualClock,
};
use serde::{Deserialize, Serialize};

use crate::{
    app::{at_once, kind, theme},
    world::{BoxFuture, Browser, Division, Node, Theme, User, Visits, ring},
};

/// Computed from the head, for those too who have no session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Locale(String);

impl SessionValue for Locale {
    const NAME: &'static str = "locale";
}

fn node() -> Node {
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring()).name("session").plain_http())
        .tier(DefaultTier::new().with::<Locale>(|head| Locale(head.uri.path().into())).value(Division(2)))
        .value::<Division>()
        .value::<Theme>()
        .value::<Visits>()
        .value::<Locale>()
        .identify_by::<User>(|user| Some(Principal::new(&user.0)))
        .public_origins(["https://public.example"])
        .clock(ManualClock::new());
    Node::new(sessions.build().unwrap())
}

/// A node and a browser in which ada has a theme and a division.
async fn signed_in() -> (Node, Browser) {
    let (node, mut browser) = (node(), Browser::new());
    browser.visit(&node, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    browser.visit(&node, async |s| s.set(Division(3)).await.unwrap()).await;
    (node, browser)
}

async fn open(node: &Node, request: Request<Full<Bytes>>) -> (Response<Full<Bytes>>, Session) {
    let hold = async |session| (Response::new(Full::default()), session);
    node.handle(request, move |session| Box::pin(hold(session)) as BoxFuture<_>).await
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

/// Extended CONNECT, as a socket over HTTP/2 begins.
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
    &[("sec-fetch-site", "same-origin")],
    &[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")],
    &[("origin", "https://app.example")],
    &[("origin", "https://public.example")],
];

const NOT_OURS: &[&[(&str, &str)]] = &[
    &[],
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

// R29.
#[tokio::test]
async fn a_socket_of_our_own_page_has_its_session() {
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

// curl --http2 and Java's HttpClient offer HTTP/2 so, and are answered in HTTP/1.1.
#[tokio::test]
async fn client_that_offers_http2_has_its_session() {
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
async fn members_of_both_lists_make_a_socket() {
    let (node, browser) = signed_in().await;
    for (connection, upgrade) in [("keep-alive, Upgrade", "WebSocket"), ("UPGRADE", "h2c ,websocket")] {
        let mut request = browser.request_of(Method::GET, "/live", "");
        request.headers_mut().insert("connection", connection.parse().unwrap());
        request.headers_mut().insert("upgrade", upgrade.parse().unwrap());
        request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
        assert_has_nothing(&open(&node, request).await.1).await;
    }
}

// R29.
#[tokio::test]
async fn a_socket_of_another_site_has_no_session_and_gets_none() {
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
    let kept = browser.clone().visit(&node, async |s| (s.get::<Theme>(), s.get::<Division>())).await;
    assert_eq!(kept, (Theme("dark".into()), Division(3)));
}

async fn assert_has_nothing(session: &Session) {
    assert_eq!((session.find::<Theme>(), session.find::<User>(), session.principal()), (None, None, None));
    // Computed tiers answer.
    assert_eq!((session.get::<Division>(), session.origin::<Division>().tier()), (Division(2), "default"));
    assert_eq!(session.get::<Locale>(), Locale("/live".into()));
    assert!(session.is_new() && session.created_at().is_none() && session.expires_at().is_none());
    assert!(session.relay().is_none());
    assert_eq!(session.closed().await, Closed::CrossSite);
    assert_eq!(session.watch::<Division>().next().await, None);
    assert_eq!(session.changes().next().await, Some(Changed::Closed(Closed::CrossSite)));
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
            .set_lifetime(layered_session::Lifetime::new(crate::world::DAY, crate::world::DAY).unwrap())
            .await
            .is_err()
    );
    // There is nothing that these could change.
    assert_eq!(session.take::<Theme>().await.ok().flatten(), None);
    drop((session.remove::<Theme>().await, session.clear().await, session.destroy().await));
}

// R29. A request that makes no connection of itself is the cookie's own concern (`SameSite`).
#[tokio::test]
async fn a_link_from_another_site_arrives_signed_in() {
    let (node, browser) = signed_in().await;
    let mut request = upgrade(&browser, &[("sec-fetch-site", "cross-site")]);
    request.headers_mut().remove(header::UPGRADE);
    let (_, session) = open(&node, request).await;
    assert_eq!(session.principal(), Some(Principal::new("ada")));
}

#[tokio::test]
async fn a_socket_that_another_site_opened_is_closed_from_the_start() {
    let (node, browser) = signed_in().await;
    let headers = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
    let (_, live) = open(&node, upgrade(&browser, &headers)).await;
    assert_eq!((live.find::<Theme>(), live.relay()), (None, None));
    assert_eq!(kind(live.set(theme("evil")).await), Some(WriteErrorKind::Closed));
    assert_eq!(kind(live.remove::<Theme>().await), Some(WriteErrorKind::Closed));
    assert_eq!(at_once(live.closed()), Some(Closed::CrossSite));
}
