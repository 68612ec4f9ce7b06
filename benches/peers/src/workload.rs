//! The measured work: the cookies of a request, and the use of the session in its handler.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body, Frame};

/// The cookie's name for every peer.
pub const COOKIE: &str = "__Host-session";

/// Days without use after which a session ends, and the lifetime of its cookie, for every peer.
pub const DAYS: u8 = 2;

/// The cookies before the session's cookie: 55 bytes.
pub const OTHERS: &str = "_ga=GA1.2.1234567890.1234567890; theme=dark; lang=en-US";

/// Names of eight values.
pub const PARTS: [&str; 8] = ["part0", "part1", "part2", "part3", "part4", "part5", "part6", "part7"];

/// The name of the value that the handler reads.
pub const PART: usize = 4;

/// One of eight values, 1 KiB in all. Each value has a length of its own, so that an answer shows which value was read.
pub fn part(of: usize) -> String {
    "x".repeat(100 + 8 * of)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    NoCookie,
    CookiesButNotOurs,
    Untouched,
    Read,
    Bump,
    ReadPart,
}

impl Workload {
    pub const ALL: [Self; 6] =
        [Self::NoCookie, Self::CookiesButNotOurs, Self::Untouched, Self::Read, Self::Bump, Self::ReadPart];

    pub fn name(self) -> &'static str {
        match self {
            Self::NoCookie => "w0",
            Self::CookiesButNotOurs => "w1",
            Self::Untouched => "w2",
            Self::Read => "w3",
            Self::Bump => "w4",
            Self::ReadPart => "w5",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|workload| workload.name() == name)
    }

    /// The task of each request.
    pub fn task(self) -> Task {
        match self {
            Self::NoCookie | Self::CookiesButNotOurs | Self::Untouched => Task::Nothing,
            Self::Read => Task::Read,
            Self::Bump => Task::Bump,
            Self::ReadPart => Task::ReadPart,
        }
    }

    pub fn has_session(self) -> bool {
        !matches!(self, Self::NoCookie | Self::CookiesButNotOurs)
    }

    /// The task of each browser's first request, before the measurement.
    pub fn beginning(self) -> Task {
        if self == Self::ReadPart { Task::Fill } else { Task::Bump }
    }
}

/// The work of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Nothing,
    /// Reads the integer.
    Read,
    /// Reads the integer, and writes the integer plus one.
    Bump,
    /// Writes the eight values.
    Fill,
    /// Reads one of the eight values.
    ReadPart,
}

/// A session as a handler sees it, for any crate: all peers share the handlers below.
pub trait Values: Sized + Send {
    /// Gets the session as the peer's extractor does.
    fn of(request: Request<()>) -> impl Future<Output = Self> + Send;
    /// Reads the integer; zero if the session has none.
    fn count(&self) -> impl Future<Output = i64> + Send;
    fn set_count(&mut self, count: i64) -> impl Future<Output = ()> + Send;
    /// Writes each [`part`] under its name.
    fn fill(&mut self) -> impl Future<Output = ()> + Send;
    /// Reads [`PART`].
    fn part(&self) -> impl Future<Output = String> + Send;
    /// The handler's response. A jar of cookies is the only peer that adds to the response.
    fn respond(self, number: i64) -> Response<Number> {
        respond(number)
    }
}

pub type Answer = Result<Response<Number>, Infallible>;

pub async fn nothing(_: Request<()>) -> Answer {
    Ok(respond(0))
}

pub async fn read<V: Values>(request: Request<()>) -> Answer {
    let values = V::of(request).await;
    let count = values.count().await;
    Ok(values.respond(count))
}

pub async fn bump<V: Values>(request: Request<()>) -> Answer {
    let mut values = V::of(request).await;
    let count = values.count().await;
    values.set_count(count + 1).await;
    Ok(values.respond(count))
}

pub async fn fill<V: Values>(request: Request<()>) -> Answer {
    let mut values = V::of(request).await;
    values.fill().await;
    Ok(values.respond(0))
}

pub async fn read_part<V: Values>(request: Request<()>) -> Answer {
    let values = V::of(request).await;
    let length = values.part().await.len();
    Ok(values.respond(length as i64))
}

/// Makes a response with one header, as every real response has: no layer pays for the first allocation of the header
/// map.
fn respond(number: i64) -> Response<Number> {
    let mut response = Response::new(Number(number));
    typed(&mut response);
    response
}

pub fn typed(response: &mut Response<Number>) {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
}

/// The handler's result as a body without cost. The harness checks every answer, so that no peer is measured without
/// its work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Number(pub i64);

impl Body for Number {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}
