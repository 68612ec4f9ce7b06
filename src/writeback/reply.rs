//! What the writeback answers: JSON, one shape for every refusal, or a stream of events.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;

use super::{
    events::Events,
    request::Malformed,
    stream::{EventSource, EventStream},
};
use crate::{
    error::{MissingSession, MissingSessionKind, WriteError, WriteErrorKind},
    session::relay::RelayRefused,
};

/// The body of an answer of the writeback: whole, or a stream of events that goes on until the session is over.
#[derive(Debug)]
pub struct WritebackBody(pub(super) Content<Events>);

/// Empty. Layers such as tower-http's `CorsLayer` answer with one.
impl Default for WritebackBody {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl From<Bytes> for WritebackBody {
    fn from(whole: Bytes) -> Self {
        Self(Content::from(whole))
    }
}

impl Body for WritebackBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.get_mut().0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// What an endpoint of ours answers with, whoever tells its events.
#[derive(Debug)]
pub(crate) enum Content<T> {
    Whole(Full<Bytes>),
    Events(Box<EventStream<T>>),
}

impl<T> From<Bytes> for Content<T> {
    fn from(whole: Bytes) -> Self {
        Self::Whole(Full::new(whole))
    }
}

impl<T> Content<T> {
    pub(crate) fn told_by(teller: T, heartbeat: Duration) -> Self {
        Self::Events(Box::new(EventStream::new(teller, heartbeat)))
    }
}

impl<T: EventSource + Unpin> Body for Content<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Events(events) => Pin::new(&mut **events).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Events(events) => events.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Events(events) => events.size_hint(),
        }
    }
}

/// A request that changed nothing, as the page is told.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    names: Vec<String>,
    allow: Option<HeaderValue>,
}

#[derive(Serialize)]
struct RefusalJson<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    names: &'a [String],
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), names: Vec::new(), allow: None }
    }

    pub(super) fn named(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.names.extend(names.into_iter().map(Into::into));
        self
    }

    pub(crate) fn method(allowed: &[Method]) -> Self {
        let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("only {allowed} here");
        let allow = HeaderValue::try_from(allowed).ok();
        Self { allow, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    pub(super) fn user_changed() -> Self {
        Self::new(StatusCode::CONFLICT, "user_changed", "another user has signed in, or the user has signed out")
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let Self { status, code, message, names, allow } = self;
        let mut response = json(status, &RefusalJson { code, message: &message, names: &names });
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

pub(super) fn stored(names: &[String]) -> Response<WritebackBody> {
    json(StatusCode::OK, &serde_json::json!({ "stored": names }))
}

/// `Cross-Origin-Resource-Policy` of the Fetch standard, which the crate `http` does not name.
static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Keeps an answer from pages of other origins: a `no-cors` request of theirs, as an image or a script, can look like an
/// `EventSource`'s where the browser sends no Fetch Metadata. A CORS request, as of a listed origin, is not affected.
fn keep_from_other_origins(headers: &mut HeaderMap) {
    headers.insert(&CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The session has ended: a stream of it would have nothing to say.
pub(crate) fn gone<B: From<Bytes>>() -> Response<B> {
    let mut response = Response::new(B::from(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    keep_from_other_origins(headers);
    response
}

/// Events, as they come.
pub(crate) fn streaming<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // What a proxy compresses, or keeps until its buffer is full, comes late or never.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    keep_from_other_origins(headers);
    response
}

fn json<B: From<Bytes>>(status: StatusCode, body: &impl Serialize) -> Response<B> {
    // Strings in structs always encode.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(B::from(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    keep_from_other_origins(headers);
    response
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::new(StatusCode::BAD_REQUEST, malformed.code(), malformed.to_string())
    }
}

impl From<RelayRefused> for Refusal {
    fn from(refused: RelayRefused) -> Self {
        let (status, code, message) = match refused {
            RelayRefused::NotGenuine => (
                StatusCode::BAD_REQUEST,
                "relay_invalid",
                "the token is not a relay token of this application".to_owned(),
            ),
            RelayRefused::Expired => (StatusCode::CONFLICT, "relay_expired", "the relay token has expired".to_owned()),
            RelayRefused::OtherSession => {
                (StatusCode::CONFLICT, "relay_other_session", "the relay token belongs to another session".to_owned())
            }
            RelayRefused::Closed(reason) => (StatusCode::CONFLICT, "session_closed", reason.sentence()),
            RelayRefused::Used => {
                (StatusCode::CONFLICT, "token_used", "a page has brought the token before".to_owned())
            }
            RelayRefused::OtherUser => return Self::user_changed(),
            RelayRefused::Busy => {
                let message = "pages brought too many new sessions lately: try again".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            }
            RelayRefused::Write(error) => return error.into(),
        };
        Self::new(status, code, message)
    }
}

impl From<MissingSession> for Refusal {
    fn from(error: MissingSession) -> Self {
        match error.kind() {
            MissingSessionKind::NoLayer => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "no_layer", error.to_string()),
            MissingSessionKind::Unavailable => unavailable(),
        }
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        let code = match error.kind() {
            WriteErrorKind::Closed => "session_closed",
            WriteErrorKind::Contended => "contended",
            WriteErrorKind::Invalid => "invalid_value",
            WriteErrorKind::TooLarge => "value_too_large",
            WriteErrorKind::Unavailable => return unavailable(),
            WriteErrorKind::HeadSent | WriteErrorKind::NoMemory | WriteErrorKind::Undeclared => "misconfigured",
        };
        Self::new(error.status(), code, error.to_string()).named(error.names().iter().copied())
    }
}

fn unavailable() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the session's store did not answer: try again")
}
