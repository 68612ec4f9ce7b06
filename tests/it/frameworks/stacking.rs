//! The places where the layer may stand, and the services that the layer may wrap.
//!
//! - `preload`: values and sessions that the layer puts into the extensions
//! - `service`: services, bodies and errors of any type
//! - `twice`: one request through two layers of the same sessions

mod preload;
mod service;
mod twice;

use std::convert::Infallible;

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use layered_session::{
    CookieTier, LayeredSession, LayeredSessionLayer, Preload, Session, Sessions, testing::ManualClock, tier::BoxError,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{Browser, Theme, builder, chain, memory, parsed, ring, set_cookies};

fn sessions() -> Sessions {
    builder(&ring(), &ManualClock::new()).build().unwrap()
}

fn layer() -> LayeredSessionLayer {
    LayeredSessionLayer::new(sessions())
}

async fn theme(session: Session) -> String {
    session.value::<Theme>().0
}

async fn darken(session: Session) {
    session.set(Theme("dark".into())).await.unwrap();
}

fn pages() -> Router {
    Router::new().route("/", get(theme).post(darken))
}

/// Sends a browser's request, and takes the response's cookies into the jar.
async fn send(app: &Router, browser: &mut Browser, method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
    let request = browser.request_of(method.parse().unwrap(), path, Bytes::new()).map(Body::new);
    let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    browser.take(&head.headers);
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(body.into()).unwrap())
}

async fn assert_keeps_a_theme(app: Router, path: &str) {
    let mut browser = Browser::new();
    assert_eq!(send(&app, &mut browser, "POST", path).await.0, StatusCode::OK);
    assert!(browser.cookie("session").is_some());
    assert_eq!(send(&app, &mut browser, "GET", path).await.2, "dark");
}

#[tokio::test]
async fn layer_serves_nested_routers() {
    assert_keeps_a_theme(pages().layer(layer()), "/").await;
    assert_keeps_a_theme(pages().route_layer(layer()), "/").await;
    assert_keeps_a_theme(Router::new().nest("/inner", pages()).layer(layer()), "/inner").await;
    assert_keeps_a_theme(Router::new().nest("/inner", pages().layer(layer())), "/inner").await;
    assert_keeps_a_theme(Router::new().nest("/a", Router::new().nest("/b", pages())).layer(layer()), "/a/b").await;
    assert_keeps_a_theme(Router::new().merge(pages()).fallback(darken).layer(layer()), "/").await;
    assert_keeps_a_theme(Router::new().route("/", post(darken).get(theme).layer(layer())), "/").await;
    assert_keeps_a_theme(pages().layer(ServiceBuilder::new().layer(layer()).layer(layer().preload())), "/").await;
    assert_keeps_a_theme(pages().layer(layer().preload()), "/").await;
}

#[tokio::test]
async fn route_layer_skips_not_found() {
    let app = pages()
        .route_layer(layer())
        .fallback(|extensions: Extensions| async move { Session::load(&extensions).await.unwrap_err().to_string() });
    let (_, _, said) = send(&app, &mut Browser::new(), "GET", "/nowhere").await;
    assert!(said.contains("LayeredSessionLayer"), "{said}");
}

#[tokio::test]
async fn error_names_missing_layer() {
    let (status, _, said) = send(&pages(), &mut Browser::new(), "GET", "/").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(said.contains("LayeredSessionLayer"), "{said}");
}

#[tokio::test]
async fn service_builder_accepts_layer() {
    let service = ServiceBuilder::new()
        .map_response(|response: Response<Full<Bytes>>| response.map(|body| body.boxed()))
        .layer(layer())
        .map_request(|request: Request<Full<Bytes>>| request.map(drop))
        .service_fn(async |request: Request<()>| {
            let session = Session::load(request.extensions()).await.unwrap();
            session.set(Theme("dark".into())).await.unwrap();
            Ok::<_, Infallible>(Response::new(Full::default()))
        });
    let response = service.oneshot(Browser::new().request()).await.unwrap();
    assert_eq!(set_cookies(response.headers()).len(), 1);
}

/// The sessions of another application, under another cookie name.
fn admin_sessions() -> Sessions {
    chain(memory(), CookieTier::sealed(ring()).name("admin").plain_http(), &ManualClock::new())
        .value::<Theme>()
        .build()
        .unwrap()
}

#[tokio::test]
async fn nested_layers_are_independent() {
    let (outer, inner) = (sessions(), admin_sessions());
    let of = |sessions: &Sessions| {
        let sessions = sessions.clone();
        get(async move |extensions: Extensions| match sessions.load(&extensions).await {
            Ok(session) => session.value::<Theme>().0,
            Err(error) => format!("{:?}", error.kind()),
        })
    };
    let write_both = {
        let outer = outer.clone();
        post(async move |session: Session, extensions: Extensions| {
            session.set(Theme("inner".into())).await.unwrap();
            outer.load(&extensions).await.unwrap().set(Theme("outer".into())).await.unwrap();
        })
    };
    let admin = pages()
        .route("/outer", of(&outer))
        .route("/inner", of(&inner))
        .route("/both", write_both)
        .layer(LayeredSessionLayer::new(inner.clone()));
    let app = pages()
        .route("/outer", of(&outer))
        .route("/inner", of(&inner))
        .nest("/admin", admin)
        .layer(LayeredSessionLayer::new(outer));

    // The extractor of the inner layer writes the inner cookie alone.
    let mut browser = Browser::new();
    let (_, headers, _) = send(&app, &mut browser, "POST", "/admin").await;
    assert_eq!(set_cookies(&headers).len(), 1);
    assert!(browser.cookie("admin").is_some() && browser.cookie("session").is_none());
    assert_eq!(send(&app, &mut browser, "GET", "/admin").await.2, "dark");
    assert_eq!(send(&app, &mut browser, "GET", "/admin/inner").await.2, "dark");
    assert_eq!(send(&app, &mut browser, "GET", "/admin/outer").await.2, "");
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "");
    // Outside of the inner layer the inner application has no session.
    assert_eq!(send(&app, &mut browser, "GET", "/inner").await.2, "NoLayer");

    // Both applications write in one request, and each has its own cookie and value.
    let (_, headers, _) = send(&app, &mut browser, "POST", "/admin/both").await;
    assert_eq!(set_cookies(&headers).len(), 2);
    assert_eq!(send(&app, &mut browser, "GET", "/admin").await.2, "inner");
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "outer");
    assert_eq!(send(&app, &mut browser, "GET", "/admin/outer").await.2, "outer");

    // The layers leave each other's cookie alone on the way.
    let (_, headers, _) = send(&app, &mut browser, "POST", "/").await;
    assert!(set_cookies(&headers).iter().all(|cookie| parsed(cookie).name() == "session"), "{headers:?}");
    assert_eq!(send(&app, &mut browser, "GET", "/admin").await.2, "inner");
}

#[tokio::test]
async fn layering_twice_sets_one_cookie() {
    let sessions = sessions();
    let app = pages().layer(LayeredSessionLayer::new(sessions.clone())).layer(LayeredSessionLayer::new(sessions));
    let mut browser = Browser::new();
    let (_, headers, _) = send(&app, &mut browser, "POST", "/").await;
    assert_eq!(set_cookies(&headers).len(), 1);
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "dark");
}

#[tokio::test]
async fn stacked_layers_are_independent() {
    let (keys, clock) = (ring(), ManualClock::new());
    let sessions = |name: &'static str| {
        let tier = CookieTier::sealed(keys.clone()).name(name).plain_http();
        chain(memory(), tier, &clock).value::<Theme>().build().unwrap()
    };
    let (outer, inner) = (sessions("outer"), sessions("inner"));
    let visit = async |browser: &mut Browser, write: bool| {
        let loaded = (outer.clone(), inner.clone());
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            let (outer, inner) = loaded.clone();
            async move {
                let extensions = request.extensions();
                let (outer, inner) = (outer.load(extensions).await?, inner.load(extensions).await?);
                if write {
                    outer.set(Theme("outer".into())).await?;
                    inner.set(Theme("inner".into())).await?;
                }
                let innermost = Session::load(extensions).await?.value::<Theme>();
                let seen = format!("{} {} {}", outer.value::<Theme>().0, inner.value::<Theme>().0, innermost.0);
                Ok::<_, BoxError>(Response::new(seen))
            }
        });
        let layers = LayeredSessionLayer::new(outer.clone());
        let stack = layers.layer(LayeredSessionLayer::new(inner.clone()).layer(service));
        let response = stack.oneshot(browser.request()).await.unwrap();
        browser.take(response.headers());
        let vary = response.headers().get_all(header::VARY).iter().count();
        (set_cookies(response.headers()).len(), vary, response.into_body())
    };
    let mut browser = Browser::new();
    assert_eq!(visit(&mut browser, true).await, (2, 1, "outer inner inner".to_owned()));
    assert_eq!(visit(&mut browser, false).await, (0, 1, "outer inner inner".to_owned()));
    let outers = browser.cookie("outer").unwrap().to_owned();
    browser.set("inner", &outers);
    assert_eq!(visit(&mut browser, false).await, (0, 1, "outer  ".to_owned()));
}

// The functions below compile for every service, body and error.

fn serves<S: Service<Request<B>, Response = Response<R>>, B, R>(
    service: S,
) -> impl Service<Request<B>, Response = Response<R>, Error = S::Error> {
    let wrapped: LayeredSession<S> = layer().layer(service);
    wrapped
}

fn preloads<S: Service<Request<B>, Response = Response<R>> + Clone, B, R>(
    service: S,
) -> impl Service<Request<B>, Response = Response<R>, Error = S::Error> {
    let wrapped: Preload<S> = layer().preload().layer(service);
    wrapped
}
