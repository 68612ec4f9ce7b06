//! Where the layer may stand, what it may wrap, and that it asks nothing more of it than `Service` does.

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    Extension, Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Extensions, HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame};
use layered_session::{
    CookieTier, DefaultTier, Found, LayeredSession, LayeredSessionLayer, Lookup, MemoryTier, MissingSessionKind,
    Preload, Principal, Session, Sessions, Tier, TierFuture, testing::ManualClock,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::world::{Browser, Theme, builder, ring, set_cookies};

fn sessions() -> Sessions {
    builder(&ring(), &ManualClock::new()).build().unwrap()
}

fn layer() -> LayeredSessionLayer {
    LayeredSessionLayer::new(sessions())
}

/// Another application's sessions, under a cookie name of their own.
fn admin_sessions() -> Sessions {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring()).name("admin").plain_http())
        .value::<Theme>()
        .clock(ManualClock::new())
        .build()
        .unwrap()
}

async fn theme(session: Session) -> String {
    session.get::<Theme>().0
}

async fn darken(session: Session) {
    session.set(Theme("dark".into())).await.unwrap();
}

fn pages() -> Router {
    Router::new().route("/", get(theme).post(darken))
}

/// Sends a browser's request, and gives it the response's cookies.
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

// Acceptance 59.
#[tokio::test]
async fn it_serves_around_a_router_its_routes_and_its_nested_routers() {
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
async fn a_layer_on_routes_alone_leaves_what_is_not_found_alone() {
    let app = pages()
        .route_layer(layer())
        .fallback(|extensions: Extensions| async move { Session::load(&extensions).await.unwrap_err().to_string() });
    let (_, _, said) = send(&app, &mut Browser::new(), "GET", "/nowhere").await;
    assert!(said.contains("LayeredSessionLayer"), "{said}");
}

#[tokio::test]
async fn a_handler_without_a_layer_is_told_what_is_missing() {
    let (status, _, said) = send(&pages(), &mut Browser::new(), "GET", "/").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(said.contains("LayeredSessionLayer"), "{said}");
}

#[tokio::test]
async fn a_service_builder_takes_it_among_other_layers() {
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

// Acceptance 54.
#[tokio::test]
async fn two_layers_with_names_of_their_own_do_not_disturb_each_other() {
    let (outer, inner) = (sessions(), admin_sessions());
    let of = |sessions: &Sessions| {
        let sessions = sessions.clone();
        get(async move |extensions: Extensions| match sessions.load(&extensions).await {
            Ok(session) => session.get::<Theme>().0,
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

    // The inner one's extractor writes the inner one's cookie alone.
    let mut browser = Browser::new();
    let (_, headers, _) = send(&app, &mut browser, "POST", "/admin").await;
    assert_eq!(set_cookies(&headers).len(), 1);
    assert!(browser.cookie("admin").is_some() && browser.cookie("session").is_none());
    assert_eq!(send(&app, &mut browser, "GET", "/admin").await.2, "dark");
    assert_eq!(send(&app, &mut browser, "GET", "/admin/inner").await.2, "dark");
    assert_eq!(send(&app, &mut browser, "GET", "/admin/outer").await.2, "");
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "");
    // Where the inner one is not, it has no session.
    assert_eq!(send(&app, &mut browser, "GET", "/inner").await.2, "NoLayer");

    // Both write in one request, and each has its own cookie and value.
    let (_, headers, _) = send(&app, &mut browser, "POST", "/admin/both").await;
    assert_eq!(set_cookies(&headers).len(), 2);
    assert_eq!(send(&app, &mut browser, "GET", "/admin").await.2, "inner");
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "outer");
    assert_eq!(send(&app, &mut browser, "GET", "/admin/outer").await.2, "outer");

    // Neither touches the other's cookie on the way.
    let (_, headers, _) = send(&app, &mut browser, "POST", "/").await;
    assert!(set_cookies(&headers).iter().all(|cookie| cookie.starts_with("session=")), "{headers:?}");
    assert_eq!(send(&app, &mut browser, "GET", "/admin").await.2, "inner");
}

#[tokio::test]
async fn two_layers_of_the_same_sessions_still_set_one_cookie() {
    let sessions = sessions();
    let app = pages().layer(LayeredSessionLayer::new(sessions.clone())).layer(LayeredSessionLayer::new(sessions));
    let mut browser = Browser::new();
    let (_, headers, _) = send(&app, &mut browser, "POST", "/").await;
    assert_eq!(set_cookies(&headers).len(), 1);
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "dark");
}

// What `Service` does not ask for, neither do we. These compile for every S, body and error.

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

/// An error with no trait at all.
struct Mishap(#[expect(dead_code, reason = "makes it neither Send nor Sync")] Rc<()>);

/// A body with no trait at all, which borrows.
struct Borrowed<'a>(&'a Cell<u32>);

/// Neither `Clone` nor `Send`, and gone with what it borrows.
struct Counting<'a> {
    calls: &'a Cell<u32>,
}

impl<'a> Service<Request<Borrowed<'a>>> for Counting<'_> {
    type Response = Response<Borrowed<'a>>;
    type Error = Mishap;
    type Future = std::future::Ready<Result<Response<Borrowed<'a>>, Mishap>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Mishap>> {
        if self.calls.get() < 2 { Poll::Ready(Ok(())) } else { Poll::Ready(Err(Mishap(Rc::default()))) }
    }

    fn call(&mut self, request: Request<Borrowed<'a>>) -> Self::Future {
        self.calls.set(self.calls.get() + 1);
        let body = request.into_body();
        body.0.set(body.0.get() + 1);
        std::future::ready(if self.calls.get() == 1 { Ok(Response::new(body)) } else { Err(Mishap(Rc::default())) })
    }
}

// Acceptance 58.
#[test]
fn a_service_that_borrows_fails_and_is_no_clone_is_served_as_it_is() {
    let (calls, touched) = (Cell::new(0), Cell::new(0));
    {
        let mut service = serves(Counting { calls: &calls });
        let mut call = || {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
            service.call(Request::new(Borrowed(&touched))).now_or_never().expect("an answer at once")
        };
        let response = call().unwrap_or_else(|_| panic!("the first call succeeds"));
        assert_eq!(response.into_body().0.get(), 1);
        assert!(call().is_err(), "the service's own error comes out");
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Err(Mishap(_)))));
    }
    assert_eq!((calls.get(), touched.get()), (2, 2));
}

/// A service that loads and writes, and answers with a body.
fn writes_and_answers<B>(body: B) -> impl Service<Request<()>, Response = Response<B>, Error = Infallible> {
    let mut body = Some(body);
    let answer = service_fn(move |request: Request<()>| {
        let body = body.take().expect("one call");
        async move {
            let session = Session::load(request.extensions()).await.unwrap();
            session.set(Theme("dark".into())).await.unwrap();
            Ok(Response::new(body))
        }
    });
    serves(answer)
}

async fn answer<B>(body: B) -> B {
    let response = writes_and_answers(body).oneshot(Request::new(())).await.unwrap();
    assert_eq!(set_cookies(response.headers()).len(), 1);
    response.into_body()
}

#[tokio::test]
async fn bodies_pass_untouched_boxed_empty_streaming_or_none_at_all() {
    assert!(answer(Empty::<Bytes>::new()).await.is_end_stream());
    assert_eq!(answer(Full::<Bytes>::from("whole")).await.size_hint().exact(), Some(5));
    let boxed = Full::<Bytes>::from("boxed").map_err(|never| match never {}).boxed_unsync();
    let boxed: http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error> = answer(boxed).await;
    assert_eq!(boxed.collect().await.unwrap().to_bytes(), "boxed");
    struct NoBody;
    let NoBody = answer(NoBody).await;

    let trailers = HeaderMap::from_iter([(header::EXPIRES, "0".parse().unwrap())]);
    let frames = [Frame::data(Bytes::from("a")), Frame::data(Bytes::from("b")), Frame::trailers(trailers.clone())];
    let streaming = answer(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)))).await;
    let mut data = Vec::new();
    let mut trailing = None;
    let mut frames = std::pin::pin!(http_body_util::BodyStream::new(streaming));
    while let Some(frame) = frames.next().await {
        match frame.unwrap().into_data() {
            Ok(bytes) => data.push(bytes),
            Err(frame) => trailing = frame.into_trailers().ok(),
        }
    }
    assert_eq!((data, trailing), (vec![Bytes::from("a"), Bytes::from("b")], Some(trailers)));
}

#[tokio::test]
async fn nothing_of_a_body_is_polled_before_the_head_leaves() {
    let polled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&polled);
    let frames = stream::poll_fn(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(None::<Result<Frame<Bytes>, Infallible>>)
    });
    let body = answer(StreamBody::new(frames)).await;
    assert_eq!(polled.load(Ordering::Relaxed), 0);
    BodyExt::collect(body).await.unwrap();
    assert_eq!(polled.load(Ordering::Relaxed), 1);
}

/// Is ready only after it was asked, and for one call; its clone has to be asked again, as with a concurrency limit.
struct OnceReady {
    ready: bool,
    asked: Arc<AtomicUsize>,
}

impl Clone for OnceReady {
    fn clone(&self) -> Self {
        Self { ready: false, asked: Arc::clone(&self.asked) }
    }
}

impl Service<Request<()>> for OnceReady {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        std::future::ready(Ok(Response::new(())))
    }
}

#[tokio::test]
async fn readiness_is_the_inner_services_own() {
    async fn call_twice<S: Service<Request<()>, Error = Infallible>>(mut service: S, asked: &AtomicUsize) {
        for calls in 1..=2 {
            service.ready().await.unwrap().call(Request::new(())).await.unwrap();
            assert_eq!(asked.swap(0, Ordering::Relaxed), 2, "call {calls}");
        }
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let service = OnceReady { ready: false, asked: Arc::clone(&asked) };
    call_twice(serves(service.clone()), &asked).await;
    call_twice(preloads(service), &asked).await;
}

/// A source that has to be waited for.
#[derive(Debug)]
struct Slow;

impl Tier for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::boxed(async {
            tokio::task::yield_now().await;
            Found::value(&Theme("slow".into()))
        })
    }
}

/// A source that goes by what the request asks for.
#[derive(Debug)]
struct Asked;

impl Tier for Asked {
    fn name(&self) -> &'static str {
        "asked"
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        let theme = lookup.head().and_then(|head| head.headers.get("x-theme")?.to_str().ok());
        TierFuture::ready(theme.map_or_else(|| Ok(Found::nothing()), |theme| Found::value(&Theme(theme.into()))))
    }
}

#[tokio::test]
async fn a_source_has_the_head_of_its_request_and_none_in_a_job() {
    let sessions = builder(&ring(), &ManualClock::new()).tier(Asked).build().unwrap();
    let layer = LayeredSessionLayer::new(sessions.clone());
    for app in [pages().layer(layer.clone()), pages().layer(layer.preload())] {
        let request = Request::get("/").header("x-theme", "dark").body(Body::empty()).unwrap();
        let body = app.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "dark");
    }
    let job = sessions.of(Principal::new("ada")).await.unwrap();
    assert_eq!(job.origin::<Theme>().tier(), "default");
}

fn resolving(slow: bool) -> Sessions {
    let builder = Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring()).name("session").plain_http())
        .clock(ManualClock::new())
        .resolve::<Theme>();
    if slow { builder.tier(Slow).build().unwrap() } else { builder.tier(DefaultTier::new()).build().unwrap() }
}

async fn extension(theme: Option<Extension<Theme>>) -> String {
    theme.map_or_else(|| "none".into(), |Extension(Theme(theme))| theme)
}

#[tokio::test]
async fn a_resolved_value_is_in_the_extensions_as_itself() {
    let app = Router::new().route("/", get(extension).post(darken)).layer(LayeredSessionLayer::new(resolving(false)));
    let mut browser = Browser::new();
    let (_, headers, said) = send(&app, &mut browser, "GET", "/").await;
    assert_eq!((said.as_str(), headers.get(header::VARY).is_some()), ("", true));
    send(&app, &mut browser, "POST", "/").await;
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "dark");
}

#[tokio::test]
async fn a_value_that_has_to_be_waited_for_is_there_after_a_preload() {
    let layer = LayeredSessionLayer::new(resolving(true));
    let app = Router::new().route("/", get(extension).post(darken)).layer(layer.clone().preload());
    let mut browser = Browser::new();
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "slow");
    send(&app, &mut browser, "POST", "/").await;
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "dark");
    // Without the preload nobody waits, and the handler that asks for the session still gets it.
    let app = Router::new().route("/", get(extension)).route("/session", get(theme)).layer(layer);
    assert_eq!(send(&app, &mut browser, "GET", "/").await.2, "none");
    assert_eq!(send(&app, &mut browser, "GET", "/session").await.2, "dark");
}

#[tokio::test]
async fn a_session_that_would_have_to_be_waited_for_is_none_without_waiting() {
    let seen = |sessions: Sessions| {
        let service = service_fn(async |request: Request<()>| {
            Ok::<_, Infallible>(Response::new(Session::from_extensions(request.extensions()).is_some()))
        });
        LayeredSessionLayer::new(sessions).layer(service).oneshot(Request::new(()))
    };
    assert!(seen(sessions()).await.unwrap().into_body());
    assert!(!seen(resolving(true)).await.unwrap().into_body());
    assert!(Session::from_extensions(&Extensions::new()).is_none());
    let missing = Session::load(&Extensions::new()).await.unwrap_err();
    assert_eq!(missing.kind(), MissingSessionKind::NoLayer);
}

/// Nothing of ours is boxed, and nothing awaited before the inner service: it is called within `call`.
#[test]
fn the_inner_service_is_called_at_once() {
    let called = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&called);
    let mut service = serves(service_fn(move |_: Request<()>| {
        counter.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<Result<Response<()>, Infallible>>()
    }));
    let mut response: Pin<Box<dyn Future<Output = _>>> = Box::pin(service.call(Request::new(())));
    assert_eq!(called.load(Ordering::Relaxed), 1);
    assert!(response.as_mut().now_or_never().is_none());
}
