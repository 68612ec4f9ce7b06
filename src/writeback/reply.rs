//! The writeback's answers: JSON with one shape for every refusal, or a stream of events.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use serde::Serialize;

use crate::{
    error::{MissingSession, MissingSessionKind, WriteError, WriteErrorKind, retry_after},
    session::relay::RelayRefused,
};

/// The body of an answer of the writeback: whole, or a stream of events that goes on until the session is over.
#[derive(Debug)]
pub struct WritebackBody(pub(crate) BoxBody<Bytes, Infallible>);

/// An empty body. Layers such as tower-http's `CorsLayer` answer with an empty body.
impl Default for WritebackBody {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl From<Bytes> for WritebackBody {
    fn from(whole: Bytes) -> Self {
        Self(Full::new(whole).boxed())
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

/// The answer to a request that changed nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    #[serde(skip)]
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    #[serde(skip)]
    allow: Option<HeaderValue>,
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
        let message = format!("this path answers only the methods {allowed}");
        let allow = HeaderValue::try_from(allowed).ok();
        Self { allow, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message) }
    }

    pub(crate) fn not_found(endpoint: &str) -> Self {
        let remedy = "with `nest_service`, or set its path with `mount_path`";
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("the {endpoint} has nothing at this path: mount the {endpoint} {remedy}"),
        )
    }

    pub(super) fn user_changed() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "user_changed",
            "another user has signed in, or the user has signed out, since the page got its values",
        )
    }

    pub(crate) fn into_response(self) -> Response<WritebackBody> {
        let mut response = json(self.status, &self);
        response.headers_mut().extend(self.allow.map(|allow| (header::ALLOW, allow)));
        response.headers_mut().extend(retry_after(self.status));
        response
    }
}

/// Answers with the stored names, and with the ignored names if the writeback ignores unknown names.
pub(super) fn stored(names: &[&str], ignored: Option<&[String]>) -> Response<WritebackBody> {
    #[derive(Serialize)]
    struct Stored<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        ignored: Option<&'a [String]>,
        stored: &'a [&'a str],
    }
    json(StatusCode::OK, &Stored { stored: names, ignored })
}

/// `Cross-Origin-Resource-Policy` of the Fetch standard, which the crate `http` does not name.
static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The header fields of every answer except files. No cache keeps the answer, and no page of another origin can embed
/// the answer: if the browser sends no Fetch Metadata, a `no-cors` request of such a page, for an image or a script,
/// can look like the request of an `EventSource`. A CORS request, as of a listed origin, is not affected.
static PRIVATE: [(&HeaderName, &str); 3] = [
    (&header::CACHE_CONTROL, "no-store"),
    (&CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    (&header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

fn private(status: StatusCode, content_type: Option<&'static str>, body: WritebackBody) -> Response<WritebackBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = content_type.map(|content_type| (&header::CONTENT_TYPE, content_type));
    for (name, value) in content_type.into_iter().chain(PRIVATE) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The answer of an events endpoint whose session has ended: 204, without a stream.
pub(crate) fn gone() -> Response<WritebackBody> {
    private(StatusCode::NO_CONTENT, None, WritebackBody::default())
}

/// The answer with a stream of events as its body.
pub(crate) fn streaming(body: WritebackBody) -> Response<WritebackBody> {
    let mut response = private(StatusCode::OK, Some("text/event-stream"), body);
    let headers = response.headers_mut();
    // A proxy that compresses or buffers events would delay them, or never pass them on.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<WritebackBody> {
    // Strings in structs always encode.
    let body = serde_json::to_vec(body).unwrap_or_default();
    private(status, Some("application/json"), Bytes::from(body).into())
}

impl From<RelayRefused> for Refusal {
    fn from(refused: RelayRefused) -> Self {
        let (code, message) = match refused {
            RelayRefused::NotGenuine => {
                let message = "the token is not a relay token of this application";
                return Self::new(StatusCode::BAD_REQUEST, "relay_invalid", message);
            }
            RelayRefused::Busy => {
                let message = "pages brought tokens of too many new sessions in a short time: try again";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
            }
            RelayRefused::Write(error) => return error.into(),
            RelayRefused::OtherUser => return Self::user_changed(),
            RelayRefused::Closed(reason) => ("session_closed", reason.sentence()),
            RelayRefused::Expired => ("relay_expired", "the relay token has expired".into()),
            RelayRefused::OtherSession => ("relay_other_session", "the relay token belongs to another session".into()),
            RelayRefused::Used => ("token_used", "a page has already brought this token".into()),
        };
        Self::new(StatusCode::CONFLICT, code, message)
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
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the shared store did not answer: try again")
}
