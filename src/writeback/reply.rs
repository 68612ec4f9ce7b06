//! What the writeback answers: JSON, one shape for every refusal, or a stream of events.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;

use super::{events::Events, request::Malformed};
use crate::{
    error::{MissingSession, MissingSessionKind, WriteError, WriteErrorKind},
    session::{Session, browser::RelayRefused},
    value::Number,
};

/// The body of an answer of the writeback: whole, or a stream of events that goes on until the session is over.
#[derive(Debug)]
pub struct WritebackBody(Content);

#[derive(Debug)]
enum Content {
    Whole(Full<Bytes>),
    Events(Box<Events>),
}

impl From<Bytes> for WritebackBody {
    fn from(whole: Bytes) -> Self {
        Self(Content::Whole(Full::new(whole)))
    }
}

impl Body for WritebackBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Content::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Content::Events(events) => Pin::new(&mut **events).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(whole) => whole.is_end_stream(),
            Content::Events(events) => events.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(whole) => whole.size_hint(),
            Content::Events(events) => events.size_hint(),
        }
    }
}

/// A request that changed nothing, as the page is told.
#[derive(Debug)]
pub(super) struct Refusal {
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
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), names: Vec::new(), allow: None }
    }

    pub(super) fn named(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.names.extend(names.into_iter().map(Into::into));
        self
    }

    pub(super) fn method(allowed: &[Method]) -> Self {
        let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("only {allowed} here");
        let allow = HeaderValue::try_from(allowed).ok();
        Self { allow, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn into_response(self) -> Response<WritebackBody> {
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

/// The session has ended: a stream of it would have nothing to say.
pub(super) fn gone() -> Response<WritebackBody> {
    let mut response = Response::new(WritebackBody::from(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn events(session: Session, shown: &[Number]) -> Response<WritebackBody> {
    let mut response = Response::new(WritebackBody(Content::Events(Box::new(Events::new(session, shown)))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // What a proxy compresses, or keeps until its buffer is full, comes late or never.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<WritebackBody> {
    // Strings in structs always encode.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(WritebackBody::from(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
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
            RelayRefused::NotGenuine => {
                (StatusCode::BAD_REQUEST, "relay_invalid", "not a relay token of this application".to_owned())
            }
            RelayRefused::Expired => (StatusCode::CONFLICT, "relay_expired", "the relay token has expired".to_owned()),
            RelayRefused::OtherSession => {
                (StatusCode::CONFLICT, "relay_other_session", "the relay token is of another session".to_owned())
            }
            RelayRefused::Closed(reason) => {
                (StatusCode::CONFLICT, "session_closed", format!("the session is closed: {reason}"))
            }
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
            WriteErrorKind::HeadSent | WriteErrorKind::Undeclared => "misconfigured",
        };
        Self::new(error.status(), code, error.to_string()).named(error.names().iter().copied())
    }
}

fn unavailable() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the session's store did not answer; try again")
}
