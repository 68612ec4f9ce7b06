//! `RequireLayer` before routes, and the extractors of single values.

use std::{
    convert::Infallible,
    marker::PhantomData,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use layered_session::{
    BuildErrorKind, LayeredSessionLayer, MissingValue, RequireLayer, Required, Session, Sessions, SharedTier, Value,
    testing::{ManualClock, Operation, SpyStore},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Browser, Division, Theme, User, builder, ring};

fn sessions() -> Sessions {
    builder(&ring(), &ManualClock::new()).build().unwrap()
}

async fn account(Required(User(name)): Required<User>) -> String {
    name
}

async fn sign_in(session: Session) {
    session.sign_in(User("ada".into())).await.unwrap();
}

fn app(sessions: Sessions, guard: RequireLayer<User>) -> Router {
    Router::new()
        .route("/account", get(account).post(account))
        .route_layer(guard)
        .route("/login", post(sign_in))
        .layer(LayeredSessionLayer::new(sessions))
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

async fn send(app: &Router, browser: &mut Browser, request: Request<Body>) -> Page {
    let (mut head, body) = request.into_parts();
    let cookies = browser.request().into_parts().0;
    head.headers.extend(cookies.headers.get(header::COOKIE).cloned().map(|cookies| (header::COOKIE, cookies)));
    let response = app.clone().oneshot(Request::from_parts(head, body)).await.unwrap();
    let (head, body) = response.into_parts();
    browser.take(&head.headers);
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    Page { status: head.status, headers: head.headers, text }
}

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn guard_admits_only_signed_in_users() {
    let app = app(sessions(), RequireLayer::new());
    let mut browser = Browser::new();
    let page = send(&app, &mut browser, request("GET", "/account")).await;
    assert_eq!((page.status, page.text.as_str()), (StatusCode::UNAUTHORIZED, ""));
    assert_eq!(page.headers.get(header::LOCATION), None);

    send(&app, &mut browser, request("POST", "/login")).await;
    let page = send(&app, &mut browser, request("GET", "/account")).await;
    assert_eq!((page.status, page.text.as_str()), (StatusCode::OK, "ada"));
}

#[tokio::test]
async fn guard_redirects_only_navigations() {
    let app = app(sessions(), RequireLayer::new().redirect("/login").unwrap());
    let with_mode = |method, mode| {
        let mut request = request(method, "/account");
        request.headers_mut().insert("sec-fetch-mode", mode);
        request
    };
    let navigate = || "navigate".parse().unwrap();
    for request in [request("GET", "/account"), with_mode("GET", navigate()), with_mode("POST", navigate())] {
        let page = send(&app, &mut Browser::new(), request).await;
        assert_eq!((page.status, &page.headers[header::LOCATION]), (StatusCode::SEE_OTHER, &"/login".parse().unwrap()));
    }
    for mode in ["cors", "same-origin", "no-cors", "websocket"] {
        let page = send(&app, &mut Browser::new(), with_mode("GET", mode.parse().unwrap())).await;
        assert_eq!((page.status, page.headers.get(header::LOCATION)), (StatusCode::UNAUTHORIZED, None), "{mode}");
    }
}

#[tokio::test]
async fn guard_response_is_private() {
    let app = app(sessions(), RequireLayer::new().redirect("/login").unwrap());
    let page = send(&app, &mut Browser::new(), request("GET", "/account")).await;
    assert_eq!(page.headers[header::VARY], "cookie");
    assert_eq!(page.headers[header::CACHE_CONTROL], "max-age=0, private, must-revalidate");
}

#[tokio::test]
async fn guard_ignores_unknown_paths() {
    let app = app(sessions(), RequireLayer::new());
    let page = send(&app, &mut Browser::new(), request("GET", "/nowhere")).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn server_fault_is_no_missing_login() {
    let bare = Router::new().route("/account", get(account)).route_layer(RequireLayer::<User>::new());
    let page = send(&bare, &mut Browser::new(), request("GET", "/account")).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    let bare = Router::new().route("/account", get(account)).route("/value", get(theme));
    for path in ["/account", "/value"] {
        let page = send(&bare, &mut Browser::new(), request("GET", path)).await;
        assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(page.text.contains("LayeredSessionLayer"), "{}", page.text);
    }

    let (keys, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let node = || builder(&keys, &clock).tier(SharedTier::new(store.clone())).build().unwrap();
    let mut browser = Browser::new();
    send(&app(node(), RequireLayer::new()), &mut browser, request("POST", "/login")).await;
    store.fail();
    let guarded = app(node(), RequireLayer::new().redirect("/login").unwrap());
    let page = send(&guarded, &mut browser, request("GET", "/account")).await;
    assert_eq!((page.status, page.headers.get(header::LOCATION)), (StatusCode::SERVICE_UNAVAILABLE, None));
    let bare = Router::new().route("/account", get(account)).layer(LayeredSessionLayer::new(node()));
    let page = send(&bare, &mut browser, request("GET", "/account")).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// A service that must itself be polled ready: a clone of the service is not ready.
struct Readied(bool);

impl Clone for Readied {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Service<Request<Body>> for Readied {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.0 = true;
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(self.0, "the called service was never polled ready");
        std::future::ready(Ok(Response::new("through".into())))
    }
}

#[tokio::test]
async fn guard_calls_the_ready_service() {
    let defaults = layered_session::DefaultTier::new().value(User("everyone".into()));
    let sessions = Sessions::builder()
        .tier(layered_session::CookieTier::sealed(ring()))
        .tier(defaults)
        .value::<User>()
        .clock(ManualClock::new())
        .build()
        .unwrap();
    let guarded = LayeredSessionLayer::new(sessions).layer(RequireLayer::<User>::new().layer(Readied(false)));
    let response = guarded.oneshot(request("GET", "/")).await.unwrap();
    assert_eq!(response.into_body(), "through");
}

#[tokio::test]
async fn dropped_guard_calls_no_service() {
    let (keys, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let node = || builder(&keys, &clock).tier(SharedTier::new(store.clone())).build().unwrap();
    let mut browser = Browser::new();
    send(&app(node(), RequireLayer::new()), &mut browser, request("POST", "/login")).await;

    let calls = &AtomicUsize::new(0);
    // The service counts calls, polled or not.
    let inner = service_fn(|_: Request<Full<Bytes>>| {
        calls.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok::<_, Infallible>(Response::new(())))
    });
    let guarded = LayeredSessionLayer::new(node()).layer(RequireLayer::<User>::new().layer(inner));
    store.hold_requests(Operation::Read);
    assert!(guarded.clone().oneshot(browser.request()).now_or_never().is_none());
    store.release();
    assert_eq!(calls.load(Ordering::Relaxed), 0);

    let response = guarded.oneshot(browser.request()).await.unwrap();
    assert_eq!((response.status(), calls.load(Ordering::Relaxed)), (StatusCode::OK, 1));
}

#[tokio::test]
async fn guard_body_needs_only_default() {
    let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(7_u8)));
    let guarded = LayeredSessionLayer::new(sessions()).layer(RequireLayer::<User>::new().layer(inner));
    let response = guarded.oneshot(Request::new(())).await.unwrap();
    assert_eq!((response.status(), response.into_body()), (StatusCode::UNAUTHORIZED, 0));
}

#[test]
fn invalid_redirect_location_is_refused() {
    for location in ["/login\r\nset-cookie: a=b", "", " ", "/log in", "/login\t", "/anmeldüng"] {
        let refused = RequireLayer::<User>::new().redirect(location).unwrap_err();
        assert_eq!(refused.kind(), BuildErrorKind::Setting, "{location:?}");
    }
}

#[tokio::test]
async fn undeclared_type_is_server_error() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Undeclared;
    impl layered_session::SessionValue for Undeclared {
        const NAME: &'static str = "undeclared";
    }

    let handler = async |_: Required<Undeclared>| {};
    let login = RequireLayer::<Undeclared>::new().redirect("/login").unwrap();
    let guarded = Router::new().route("/guarded", get(async || {})).route_layer(login);
    let app = guarded.route("/required", get(handler)).layer(LayeredSessionLayer::new(sessions()));
    for path in ["/guarded", "/required"] {
        let page = send(&app, &mut Browser::new(), request("GET", path)).await;
        assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    let page = send(&app, &mut Browser::new(), request("GET", "/required")).await;
    assert!(page.text.contains("`undeclared` is not declared"), "{}", page.text);
}

async fn theme(Value(Theme(theme)): Value<Theme>) -> String {
    theme
}

async fn choice(theme: Option<Value<Theme>>, division: Value<Division>) -> String {
    format!("{:?} {}", theme.map(|Value(Theme(theme))| theme), division.0.0)
}

async fn own_answer(user: Result<Required<User>, MissingValue>) -> String {
    user.map_or_else(|missing| format!("no {}: {}", missing.name(), missing.status()), |Required(User(name))| name)
}

/// Whether a type has a default.
struct Probe<T>(PhantomData<T>);

impl<T: Default> Probe<T> {
    const HAS_DEFAULT: bool = true;
}

trait Otherwise {
    const HAS_DEFAULT: bool = false;
}

impl<T> Otherwise for Probe<T> {}

/// `unwrap_or_default` on the extracted `Result` would let a stranger in.
#[test]
fn required_extractor_has_no_default() {
    assert_eq!([Probe::<Required<u8>>::HAS_DEFAULT, Probe::<Value<u8>>::HAS_DEFAULT], [false, true]);
}

async fn optional(session: Option<Session>) -> String {
    session.map_or_else(|| "no layer".to_owned(), |session| session.value::<Theme>().0)
}

#[tokio::test]
async fn extractors_return_session_values() {
    let routes = Router::new()
        .route("/choice", get(choice))
        .route("/own", get(own_answer))
        .route("/optional", get(optional))
        .route("/dark", post(async |session: Session| session.set(Theme("dark".into())).await));
    let app = routes.clone().layer(LayeredSessionLayer::new(sessions()));
    let mut browser = Browser::new();
    let mut text = async |path| send(&app, &mut browser, request("GET", path)).await.text;
    assert_eq!(text("/choice").await, "None -1");
    assert_eq!(text("/own").await, "no user: 401 Unauthorized");
    assert_eq!(text("/optional").await, "");
    send(&app, &mut browser, request("POST", "/dark")).await;
    let mut text = async |path| send(&app, &mut browser, request("GET", path)).await.text;
    assert_eq!(text("/choice").await, "Some(\"dark\") -1");
    assert_eq!(text("/optional").await, "dark");

    let page = send(&routes, &mut Browser::new(), request("GET", "/optional")).await;
    assert_eq!(page.text, "no layer");
}
