//! The layer asks for no more than `Service` does: any service, body and error, and the service's own readiness.

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

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame};
use layered_session::Session;
use tower::{Service, ServiceExt, service_fn};

use super::{preloads, serves};
use crate::support::{Theme, set_cookies};

/// An error without any trait.
struct Mishap(#[expect(dead_code, reason = "makes it neither Send nor Sync")] Rc<()>);

/// A body without any trait, and with a borrow.
struct Borrowed<'a>(&'a Cell<u32>);

/// A service that is neither `Clone` nor `Send`, with a borrow of a counter.
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

#[test]
fn layer_wraps_borrowing_service() {
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
async fn any_body_passes_unchanged() {
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
async fn layer_never_polls_body() {
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

/// A service that is ready for one call, after a poll. A clone of the service needs another poll, as with a concurrency
/// limit.
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
async fn layer_keeps_inner_readiness() {
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

/// The layer boxes no future, and awaits no future before the inner service: `call` calls the inner service.
#[test]
fn call_reaches_inner_service_immediately() {
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
