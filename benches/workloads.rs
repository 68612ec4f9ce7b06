//! The workloads of the benches: one request through a service, with and without the layer.

use std::{
    convert::Infallible,
    future::{Future, ready},
};

use bytes::BytesMut;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, header};
use layered_session::{
    CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions,
    testing::set_cookies, tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tower::{Layer, Service, service_fn};

/// The number of browsers, which take turns. A request that writes then carries the cookie of its last response, also
/// where a harness prepares many requests before it sends the first.
pub(crate) const BROWSERS: usize = 1024;

/// The cookies before the session's cookie: 55 bytes.
const OTHERS: &str = "_ga=GA1.2.1234567890.1234567890; theme=dark; lang=en-US";

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Count(i64);

impl SessionValue for Count {
    const NAME: &'static str = "count";
}

/// The cookies of a request, and the work of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Bare,
    BareWithCookies,
    NoCookie,
    CookiesButNotOurs,
    CookieUntouched,
    ReadOne,
    ReadAndWriteOne,
    /// A read in a chain without memory, so that each request opens the seal.
    ReadFromCookieAlone,
}

impl Workload {
    pub(crate) const ALL: [Self; 8] = [
        Self::Bare,
        Self::BareWithCookies,
        Self::NoCookie,
        Self::CookiesButNotOurs,
        Self::CookieUntouched,
        Self::ReadOne,
        Self::ReadAndWriteOne,
        Self::ReadFromCookieAlone,
    ];

    /// Returns the workload with the same request and without the layer.
    #[allow(dead_code, reason = "one of the benches compares")]
    pub(crate) fn baseline(self) -> Self {
        if self.has_cookies() { Self::BareWithCookies } else { Self::Bare }
    }

    fn has_cookies(self) -> bool {
        !matches!(self, Self::Bare | Self::NoCookie)
    }
}

/// A service, and the browsers that use it.
pub(crate) struct Subject {
    call: Box<dyn FnMut(Request<()>) -> Response<()>>,
    /// The `Cookie` header of each browser.
    cookies: Vec<Option<HeaderValue>>,
    turn: usize,
}

impl Subject {
    pub(crate) fn new(workload: Workload) -> Self {
        let memory = workload != Workload::ReadFromCookieAlone;
        let layer = LayeredSessionLayer::new(sessions(memory).expect("a configuration that works"));
        let mut first = immediate(layer.layer(service_fn(read_and_write)));
        let cookie = |_| match workload {
            _ if !workload.has_cookies() => None,
            Workload::CookiesButNotOurs => Some(HeaderValue::from_static(OTHERS)),
            _ => Some(cookie_field(&first(Request::new(()))).expect("a write sends the cookie")),
        };
        let cookies = (0..BROWSERS).map(cookie).collect();
        let call: Box<dyn FnMut(_) -> _> = match workload {
            Workload::Bare | Workload::BareWithCookies => Box::new(immediate(service_fn(answer))),
            Workload::NoCookie | Workload::CookiesButNotOurs | Workload::CookieUntouched => {
                Box::new(immediate(layer.layer(service_fn(answer))))
            }
            Workload::ReadOne | Workload::ReadFromCookieAlone => Box::new(immediate(layer.layer(service_fn(read)))),
            Workload::ReadAndWriteOne => Box::new(immediate(layer.layer(service_fn(read_and_write)))),
        };
        let mut subject = Self { call, cookies, turn: 0 };
        // One request of each browser warms all caches.
        for _ in 0..BROWSERS {
            let request = subject.request();
            let (browser, response) = subject.send(request);
            subject.keep(browser, &response);
        }
        subject
    }

    /// Makes the next browser's request.
    pub(crate) fn request(&mut self) -> (usize, Request<()>) {
        let browser = self.turn % BROWSERS;
        self.turn += 1;
        let mut request = Request::new(());
        if let Some(cookie) = &self.cookies[browser] {
            request.headers_mut().insert(header::COOKIE, as_received(cookie));
        }
        (browser, request)
    }

    /// The measured call.
    #[inline(never)] // so that profilers show the call separately
    pub(crate) fn send(&mut self, (browser, request): (usize, Request<()>)) -> (usize, Response<()>) {
        (browser, (self.call)(request))
    }

    /// Stores the session's cookie of the response, if the response sets the cookie.
    pub(crate) fn keep(&mut self, browser: usize, response: &Response<()>) {
        if let Some(cookie) = cookie_field(response) {
            self.cookies[browser] = Some(cookie);
        }
    }
}

fn sessions(memory: bool) -> Result<Sessions, BoxError> {
    let builder = Sessions::builder().value::<Count>();
    let builder = if memory { builder.tier(MemoryTier::builder().build()) } else { builder };
    let cookie = CookieTier::sealed(KeyRing::generate()?);
    Ok(builder.tier(cookie).tier(DefaultTier::new()).build()?)
}

fn answer(_: Request<()>) -> impl Future<Output = Result<Response<()>, Infallible>> {
    ready(Ok(Response::new(())))
}

async fn read(request: Request<()>) -> Result<Response<()>, BoxError> {
    let session = Session::load(request.extensions()).await?;
    std::hint::black_box(session.value::<Count>());
    Ok(Response::new(()))
}

async fn read_and_write(request: Request<()>) -> Result<Response<()>, BoxError> {
    let session = Session::load(request.extensions()).await?;
    let Count(count) = session.value();
    session.set(Count(count + 1)).await?;
    Ok(Response::new(()))
}

/// Calls a service whose future never waits, so the bench needs no runtime.
fn immediate<S, E>(mut service: S) -> impl FnMut(Request<()>) -> Response<()>
where
    S: Service<Request<()>, Response = Response<()>, Error = E>,
    E: std::fmt::Debug,
{
    move |request| service.call(request).now_or_never().expect("an answer at once").expect("an answer")
}

/// Makes a header field as a server does: fresh bytes, part of the read buffer.
fn as_received(field: &HeaderValue) -> HeaderValue {
    let mut buffer = BytesMut::from(field.as_bytes());
    let bytes = buffer.split_to(field.len()).freeze();
    HeaderValue::from_maybe_shared(bytes).expect("bytes of a header")
}

fn cookie_field(response: &Response<()>) -> Option<HeaderValue> {
    let set = set_cookies(response.headers());
    format!("{OTHERS}; {}", set.first()?.stripped()).parse().ok()
}
