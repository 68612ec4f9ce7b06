//! Requests that another site caused: under `SameSite` the browser withholds the cookie, and a session that such a
//! request began would replace the user's login.

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use layered_session::{
    ChangeEvent, CloseReason, CookieTier, DefaultTier, Principal, SameSite, Session, WriteError, WriteErrorKind,
    testing::ManualClock,
};

use crate::support::{
    App, Browser, Division, Node, Theme, User, Visits, at_once, declared, memory, parsed, ring, set_cookies, signed_in,
    theme,
};

type Headers = &'static [(&'static str, &'static str)];

/// The headers that Chromium sends with a form of another site's page.
const FORM: Headers = &[
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("origin", "https://evil.example"),
];

/// The headers of a link that the user follows on another site's page.
const LINK: Headers =
    &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];

fn request(browser: &Browser, method: Method, headers: Headers) -> Request<Full<Bytes>> {
    let mut request = browser.request_of(method, "/", "");
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// Sends a request to a handler. Returns the `Set-Cookie` fields of the response, and the handler's result.
async fn send<T>(
    node: &Node,
    request: Request<Full<Bytes>>,
    handler: impl AsyncFnOnce(Session) -> T,
) -> (Vec<String>, T) {
    let (headers, value) = node.ask(request, handler).await;
    (set_cookies(&headers), value)
}

fn assert_closed<T: std::fmt::Debug>(written: Result<T, WriteError>, write: &str) {
    let error = written.expect_err(write);
    assert_eq!(error.kind(), WriteErrorKind::Closed, "{write}");
    assert!(error.to_string().contains("cross-site"), "{write}: {error}");
}

/// Asserts that another site's form without our cookie begins no session: the handler can write nothing, and the
/// response sets no cookie.
async fn assert_mints_nothing(node: &Node, request: Request<Full<Bytes>>) {
    let records = node.sessions.stats().records;
    let (set, ()) = send(node, request, async |session| {
        assert_closed(session.set(theme("evil")).await, "set");
        assert_closed(session.set(Division(5)).await, "set of principal scope");
        assert_closed(session.update::<Visits>(|visits| visits.0 += 1).await, "update");
        assert_closed(session.batch().set(theme("evil")).set(Visits(1)).commit().await, "batch");
        assert_closed(session.remove::<Theme>().await, "remove");
        assert_closed(session.clear().await, "clear");
        assert_closed(session.renew().await, "renew");
        assert_closed(session.touch().await, "touch");
        assert_closed(session.sign_in(User("eve".into())).await, "sign_in");
        assert_closed(session.sign_in(User("eve".into())).adopt::<Division>().await, "sign_in with adoption");
        session.sign_out().await.unwrap();
        assert_eq!((session.get::<Theme>(), session.get::<User>(), session.principal()), (None, None, None));
        assert!(session.is_new() && session.created_at().is_none() && session.relay().is_none());
        assert_eq!(at_once(session.closed()), Some(CloseReason::CrossSite));
        assert_eq!(session.watch::<Division>().next().await, None);
        assert_eq!(session.changes().next().await, Some(ChangeEvent::Closed(CloseReason::CrossSite)));
    })
    .await;
    assert!(set.is_empty(), "{set:?}");
    assert_eq!(node.sessions.stats().records, records);
}

// R19: a form of another site (login CSRF) begins no session, and does not replace the user's login.
#[tokio::test]
async fn cross_site_form_ends_no_login() {
    let app = App::new();
    let mut ada = signed_in(&app.node, "ada").await;
    ada.write(&app.node, "dark").await;
    for node in [&app.node, &app.start()] {
        assert_mints_nothing(node, request(&Browser::new(), Method::POST, FORM)).await;
        let kept = ada.clone().visit(node, async |session| (session.get::<User>(), session.value::<Theme>())).await;
        assert_eq!(kept, (Some(User("ada".into())), theme("dark")));
    }
}

#[tokio::test]
async fn invalid_token_begins_no_session() {
    let app = App::new();
    let (ada, bob) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "bob").await);
    let foreign = signed_in(&App::new().node, "ada").await;
    let jars = [
        "other=1".to_owned(),
        "session=".to_owned(),
        "session=garbage".to_owned(),
        format!("session={}", foreign.token()),
        format!("session={}; session={}", ada.token(), bob.token()),
        format!("session={}; {}", ada.token(), "a=b; ".repeat(180)),
    ];
    for jar in jars {
        let mut request = request(&Browser::new(), Method::POST, FORM);
        request.headers_mut().insert(header::COOKIE, jar.parse().unwrap());
        assert_mints_nothing(&app.node, request).await;
    }
}

#[tokio::test]
async fn valid_cookie_permits_cross_site_writes() {
    let app = App::new();
    for node in [&app.node, &app.start()] {
        let ada = signed_in(&app.node, "ada").await;
        let (set, ()) = send(node, request(&ada, Method::POST, FORM), async |session| {
            session.set(theme("dark")).await.unwrap();
            session.sign_in(User("bob".into())).await.unwrap();
        })
        .await;
        assert_eq!(set.len(), 1);
        // The sign-in above has ended the id in ada's cookie. This request brings its cookie, so `SameSite` withheld no
        // cookie of a live session, and the cross-site request may sign in.
        let signed = async |session: Session| session.sign_in(User("cid".into())).await.unwrap();
        assert_eq!(send(node, request(&ada, Method::POST, FORM), signed).await.0.len(), 1);
    }
}

const LAX: SameSite = SameSite::Lax;
const STRICT: SameSite = SameSite::Strict;
const NONE: SameSite = SameSite::None;

fn node(same_site: SameSite) -> Node {
    let sessions =
        declared(memory(), CookieTier::sealed(ring()).name("session").same_site(same_site), &ManualClock::new())
            .tier(DefaultTier::new().value(Division(2)))
            .public_origins(["https://public.example"]);
    Node::new(sessions.build().unwrap())
}

/// Requests without a cookie, and the `SameSite` settings under which each may begin a session.
const REQUESTS: &[(&str, Method, Headers, &[SameSite])] = &[
    ("no browser", Method::POST, &[], &[LAX, STRICT, NONE]),
    ("our own page", Method::POST, &[("sec-fetch-site", "same-origin")], &[LAX, STRICT, NONE]),
    ("a page of our site", Method::POST, &[("sec-fetch-site", "same-site")], &[LAX, STRICT, NONE]),
    ("the address bar", Method::GET, &[("sec-fetch-site", "none")], &[LAX, STRICT, NONE]),
    ("a form", Method::POST, FORM, &[NONE]),
    ("a link", Method::GET, LINK, &[LAX, NONE]),
    ("a link that is probed", Method::HEAD, LINK, &[LAX, NONE]),
    ("a link by OPTIONS", Method::OPTIONS, LINK, &[NONE]),
    (
        "a frame",
        Method::GET,
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        &[NONE],
    ),
    (
        "an image",
        Method::GET,
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
        &[NONE],
    ),
    ("a fetch", Method::GET, &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")], &[NONE]),
    ("half a link", Method::GET, &[("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "document")], &[NONE]),
    ("two sites", Method::POST, &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], &[NONE]),
    ("our own origin", Method::POST, &[("origin", "https://app.example")], &[LAX, STRICT, NONE]),
    ("a listed origin", Method::POST, &[("origin", "https://public.example")], &[LAX, STRICT, NONE]),
    ("another origin", Method::POST, &[("origin", "https://evil.example")], &[NONE]),
    ("another scheme of a listed one", Method::POST, &[("origin", "http://public.example")], &[NONE]),
    ("a sandbox", Method::POST, &[("origin", "null")], &[NONE]),
    (
        "another site of a listed origin",
        Method::POST,
        &[("sec-fetch-site", "cross-site"), ("origin", "https://public.example")],
        &[NONE],
    ),
    (
        "our own page, whatever its origin",
        Method::POST,
        &[("sec-fetch-site", "same-origin"), ("origin", "null")],
        &[LAX, STRICT, NONE],
    ),
];

#[tokio::test]
async fn same_site_setting_limits_new_sessions() {
    for same_site in [LAX, STRICT, NONE] {
        let node = node(same_site);
        for (caller, method, headers, mints) in REQUESTS {
            let request = request(&Browser::new(), method.clone(), headers);
            let (set, written) = send(&node, request, async |session| session.set(theme("dark")).await).await;
            let expected = mints.contains(&same_site);
            assert_eq!((written.is_ok(), set.len()), (expected, usize::from(expected)), "{caller}, {same_site:?}");
        }
    }
}

#[tokio::test]
async fn computed_tiers_answer_cross_site_requests() {
    let node = node(LAX);
    let seen = async |session: Session| (session.value::<Division>(), session.value_source::<Division>().tier());
    let (set, seen) = send(&node, request(&Browser::new(), Method::POST, FORM), seen).await;
    assert_eq!((set.len(), seen), (0, (Division(2), "default")));
}

#[tokio::test]
async fn cross_site_response_sets_vary() {
    let node = node(LAX);
    let answered = async |session: Session| (Response::new(Full::default()), session.value::<Theme>());
    let form = request(&Browser::new(), Method::POST, FORM);
    let (response, _) = node.handle(form, answered).await;
    assert_eq!(response.headers()[header::VARY], "cookie");
}

// An identity provider answers by a form of its own site, as in SAML and in `form_post` of OpenID Connect.
#[tokio::test]
async fn from_another_site_permits_sign_in() {
    for (same_site, method, headers) in [
        (LAX, Method::POST, FORM),
        (STRICT, Method::POST, FORM),
        (STRICT, Method::GET, LINK),
        (NONE, Method::POST, FORM),
    ] {
        let node = node(same_site);
        let mut browser = Browser::new();
        let (set, session) = send(&node, request(&browser, method, headers), async |session| {
            session.sign_in(User("ada".into())).from_another_site().await.unwrap();
            session.set(theme("dark")).await.unwrap();
            session
        })
        .await;
        assert_eq!(set.len(), 1, "{same_site:?}");
        assert_eq!(at_once(session.closed()), None);
        browser.set("session", parsed(&set[0]).value());
        let seen = browser.visit(&node, async |session| (session.principal(), session.value::<Theme>())).await;
        assert_eq!(seen, (Some(Principal::new("ada")), theme("dark")));
    }
}

#[tokio::test]
async fn from_another_site_permits_one_sign_in() {
    let node = node(LAX);
    let (set, ()) = send(&node, request(&Browser::new(), Method::POST, FORM), async |session| {
        drop(session.sign_in(User("ada".into())).from_another_site());
        assert_closed(session.set(theme("evil")).await, "set after a sign-in that was never awaited");
        let undeclared = session.sign_in(theme("ada")).from_another_site().await;
        assert_eq!(undeclared.unwrap_err().kind(), WriteErrorKind::Undeclared);
        assert_closed(session.sign_in(User("eve".into())).await, "another sign-in");
    })
    .await;
    assert!(set.is_empty());
}

#[tokio::test]
async fn from_another_site_opens_no_socket() {
    let node = node(LAX);
    let mut upgrade = request(&Browser::new(), Method::GET, FORM);
    upgrade.headers_mut().insert(header::UPGRADE, "websocket".parse().unwrap());
    upgrade.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
    let (set, signed) =
        send(&node, upgrade, async |session| session.sign_in(User("ada".into())).from_another_site().await).await;
    assert_closed(signed, "sign_in on an upgrade");
    assert!(set.is_empty());
}

#[tokio::test]
async fn from_another_site_also_allows_same_site_sign_in() {
    let app = App::new();
    let mut browser = app.dark().await;
    let signed = async |session: Session| session.sign_in(User("ada".into())).from_another_site().await.unwrap();
    assert_eq!(browser.told(&app.node, signed).await.len(), 1);
    assert_eq!(browser.theme(&app.node).await, theme("dark"));
}
