//! [`SessionWriteback`]: the endpoint that a page's hook posts to.

use std::{
    any::TypeId,
    borrow::Cow,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tower_service::Service;

use super::{
    origin::same_origin,
    reply::{Refusal, WritebackBody, stored},
    request::{Posted, integers_survive},
};
use crate::{
    error::{BoxError, BuildError, BuildErrorKind},
    session::browser::Relayed,
    sessions::Sessions,
    value::{Declared, Flaw, Number, Scope, SessionValue},
};

/// The longest body that is read.
const MAX_BODY: usize = 16 << 10;

/// The longest value, as its type encodes it: `[{},{},…]` can be thirty times as long once each field has its default.
const MAX_VALUE: usize = MAX_BODY;

/// So much more is read and dropped, so that a client that sends first and reads later sees the answer.
const DRAIN: usize = 256 << 10;

/// How long a body may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Of names that are not allowed so many are said back, each cut to so many characters: they are the client's own, and
/// what it sends must not come out larger, or fill a log.
const ECHOED_NAMES: usize = 16;
const ECHOED_CHARS: usize = 64;

/// Takes JSON from the hook in a page, of allowed values only, and serves the hook.
///
/// Mount it inside of a [`LayeredSessionLayer`](crate::LayeredSessionLayer) of the same [`Sessions`]: with
/// `nest_service("/session", ..)` under axum, which strips the path, or with [`at`](Self::at) where nothing does.
///
/// | request | answer |
/// |---|---|
/// | `POST /` `{"name": value, …}` | 200 `{"stored": ["name", …]}`, or a refusal |
/// | `POST /` `{"$relay": "…"}` | the same, for a [`RelayToken`](crate::RelayToken) |
/// | `GET /hook.js` | the browser hook, an ES module |
///
/// Nothing is allowed that is not [`allow`](Self::allow)ed by type, and values come in as their type takes them:
/// parsed, validated, and stored as the type itself encodes them. A request is stored whole per owner, or not at all.
/// Only pages of the same origin get through, see `Sessions::builder().public_origins(..)` for proxies.
///
/// Every refusal is `{"code": "…", "message": "…", "names": […]}`, the names where some are meant; of names that are not
/// allowed the first 16, each cut at 64 characters. Of several reasons the first of this list is the answer:
///
/// | status | code |
/// |---|---|
/// | 404 | `not_found` |
/// | 405 | `method_not_allowed` |
/// | 403 | `cross_site` |
/// | 415 | `unsupported_media_type` |
/// | 413, 408, 400 | `too_large`, `timeout`, `incomplete` |
/// | 400 | `malformed_json`, `not_an_object`, `duplicate_name`, `reserved_name`, `too_deep`, `too_many_names`, `relay_not_alone`, `relay_not_a_string`, `relay_invalid`, `unsafe_integer` |
/// | 422 | `not_allowed`, `invalid_value`, `value_too_large` |
/// | 409 | `session_closed`, `relay_expired`, `relay_other_session`, `contended` |
/// | 500 | `no_layer`, `misconfigured` |
/// | 503 | `unavailable` |
#[derive(Clone)]
pub struct SessionWriteback {
    sessions: Sessions,
    allowed: Vec<Number>,
    prefix: String,
    unknown: Unknown,
    hook: Hook,
}

/// What becomes of names that are not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    Refused,
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Served,
    Off,
}

impl SessionWriteback {
    /// Takes nothing yet but relay tokens.
    pub fn new(sessions: &Sessions) -> Self {
        Self {
            sessions: sessions.clone(),
            allowed: Vec::new(),
            prefix: String::new(),
            unknown: Unknown::Refused,
            hook: Hook::Served,
        }
    }

    /// Lets pages write `V`: up to what the cookie has room for if the browser carries it, else
    /// ([`Placement`](crate::Placement)) up to 16 KiB, sent and as `V` encodes it. A session holds one of each value, so
    /// that bounds what a page can make a session take; the memory tier's own bound holds for all of them together.
    ///
    /// # Errors
    ///
    /// For a value that is not declared, and for the one that says who is signed in.
    pub fn allow<V: SessionValue>(mut self) -> Result<Self, BuildError> {
        let chain = &self.sessions.chain;
        let refuse = |what| {
            let message = format!("pages can't be let write `{}`: {what}", V::NAME);
            Err(BuildError::new(BuildErrorKind::Value, message))
        };
        let Some(number) = chain.schema.of::<V>() else { return refuse("declare it with `.value::<..>()`") };
        if let crate::chain::Identity::Value { number: identity, .. } = &chain.identity
            && *identity == number
        {
            return refuse("it says who is signed in");
        }
        debug_assert_eq!(chain.schema.at(number).type_id, TypeId::of::<V>());
        self.allowed.push(number);
        Ok(self)
    }

    /// The path under which it is mounted, where no router strips it: `/session`.
    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        path.trim_end_matches('/').clone_into(&mut self.prefix);
        self
    }

    /// Passes over names that are not allowed, and reports the first 16 as `ignored`, each cut at 64 characters, instead
    /// of refusing the whole request: for pages that may be newer than the server.
    #[must_use]
    pub const fn ignore_unknown(mut self) -> Self {
        self.unknown = Unknown::Ignored;
        self
    }

    /// Does not serve the hook, for an application that bundles its own.
    #[must_use]
    pub const fn without_hook(mut self) -> Self {
        self.hook = Hook::Off;
        self
    }

    async fn answer<B>(self, head: Parts, body: B) -> Response<WritebackBody>
    where
        B: Body + Send,
        B::Error: Into<BoxError>,
    {
        let answered = match head.uri.path().strip_prefix(self.prefix.as_str()) {
            Some("" | "/") => self.post(&head, body).await,
            Some("/hook.js") if self.hook == Hook::Served => hook(&head.method, &head.headers),
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "nothing here: mount the writeback with `nest_service`, or name its path with `at`",
            )),
        };
        answered.unwrap_or_else(Refusal::into_response)
    }

    async fn post<B>(&self, head: &Parts, body: B) -> Result<Response<WritebackBody>, Refusal>
    where
        B: Body + Send,
        B::Error: Into<BoxError>,
    {
        let Parts { method, uri, headers, extensions, .. } = head;
        self.admit(method, uri, headers)?;
        let body = self.read(headers, body).await?;
        match Posted::parse(&body)? {
            Posted::Relay(token) => {
                // A token that does not open is the page's fault, whether or not there is a session for it.
                let relayed = Relayed::open(&self.sessions.chain, &token)?;
                self.sessions.load(extensions).await?.core().bring(relayed)?;
                Ok(stored(&["$relay".to_owned()]))
            }
            Posted::Values(values) => {
                let accepted = self.accept(&values)?;
                let session = self.sessions.load(extensions).await?;
                session.core().touch();
                session.core().open()?;
                for (scope, values) in accepted.by_scope {
                    session.commit_json(scope, values).await?;
                }
                Ok(match self.unknown {
                    Unknown::Refused => stored(&accepted.names),
                    Unknown::Ignored => reply_with_ignored(&accepted.names, &accepted.ignored),
                })
            }
        }
    }

    fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if method != Method::POST {
            return Err(Refusal::method(&[Method::POST]));
        }
        if !same_origin(uri, headers, &self.sessions.public_origins) {
            let message =
                "only pages of the same origin may write; for a proxy that rewrites Host see `public_origins`";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "cross_site", message));
        }
        if !is_json(headers) {
            let message = "the content type must be application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
        }
        Ok(())
    }

    /// The whole body, if it is short enough and comes in time.
    async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, Refusal>
    where
        B: Body + Send,
        B::Error: Into<BoxError>,
    {
        let clock = &self.sessions.chain.clock;
        let mut deadline = clock.sleep_until(clock.now() + READ_DEADLINE);
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
        let mut read = std::pin::pin!(collect(body, announced.unwrap_or(0)));
        std::future::poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => deadline.as_mut().poll(cx).map(|()| {
                let message = format!("the body took longer than {} s", READ_DEADLINE.as_secs());
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
            }),
        })
        .await
    }

    /// Every value as its type takes it, before any is stored. What is ambiguous is said before what is not allowed, and
    /// that before what is not valid.
    fn accept(&self, values: &[(Cow<'_, str>, &RawValue)]) -> Result<Accepted, Refusal> {
        let schema = &self.sessions.chain.schema;
        let mut accepted = Accepted { by_scope: Vec::new(), names: Vec::new(), ignored: Vec::new() };
        let mut invalid = None;
        for (name, raw) in values {
            let Some(number) = schema.named(name).filter(|number| self.allowed.contains(number)) else {
                if accepted.ignored.len() < ECHOED_NAMES {
                    accepted.ignored.push(name.chars().take(ECHOED_CHARS).collect());
                }
                continue;
            };
            let declared = schema.at(number);
            match encode(declared, raw.get()) {
                Ok(json) => accepted.add(declared, number, json),
                Err(refusal) if refusal.status() == StatusCode::BAD_REQUEST => return Err(refusal),
                Err(refusal) => invalid = invalid.or(Some(refusal)),
            }
        }
        if self.unknown == Unknown::Refused && !accepted.ignored.is_empty() {
            let message = "these values may not be written by a page";
            let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_allowed", message);
            return Err(refusal.named(accepted.ignored));
        }
        invalid.map_or(Ok(accepted), Err)
    }
}

/// What is stored of a value: the bytes that its own type writes.
fn encode(declared: &Declared, raw: &str) -> Result<Bytes, Refusal> {
    let name = declared.name;
    let json = (declared.normalize)(raw.as_bytes());
    let kept = match &json {
        Ok(json) => integers_survive(raw, json),
        // Not read, so that no integer of it was taken; what was read and found invalid had its integers taken.
        Err(Flaw::Json(_)) => integers_survive(raw, b""),
        Err(_) => true,
    };
    let (status, code, message) = match json {
        _ if !kept => {
            let message = format!("`{name}` has an integer beyond 2^53 - 1 that its type does not take");
            (StatusCode::BAD_REQUEST, "unsafe_integer", message)
        }
        Ok(json) if json.len() <= MAX_VALUE => return Ok(json),
        Ok(_) => {
            let message = format!("`{name}` is longer than {MAX_VALUE} bytes, encoded");
            (StatusCode::UNPROCESSABLE_ENTITY, "value_too_large", message)
        }
        Err(flaw) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", format!("`{name}` is {flaw}")),
    };
    Err(Refusal::new(status, code, message).named([name]))
}

struct Accepted {
    by_scope: Vec<(Scope, Vec<(Number, Bytes)>)>,
    names: Vec<String>,
    ignored: Vec<String>,
}

impl Accepted {
    fn add(&mut self, declared: &Declared, number: Number, json: Bytes) {
        match self.by_scope.iter_mut().find(|(scope, _)| *scope == declared.scope) {
            Some((_, values)) => values.push((number, json)),
            None => self.by_scope.push((declared.scope, vec![(number, json)])),
        }
        self.names.push(declared.name.to_owned());
    }
}

fn reply_with_ignored(names: &[String], ignored: &[String]) -> Response<WritebackBody> {
    let mut response = stored(names);
    let body = serde_json::json!({ "stored": names, "ignored": ignored }).to_string();
    *response.body_mut() = Full::new(Bytes::from(body));
    response
}

/// Collects a body up to the limit. Over it, it reads on for a while, and keeps nothing.
async fn collect<B>(body: B, announced: usize) -> Result<Bytes, Refusal>
where
    B: Body + Send,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let (mut kept, mut seen) = (BytesMut::new(), 0);
    let mut over = announced > MAX_BODY;
    while let Some(frame) = body.as_mut().frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(error = error.into(), "a writeback's body broke off");
            Refusal::new(StatusCode::BAD_REQUEST, "incomplete", "the body broke off")
        })?;
        let Ok(mut data) = frame.into_data() else { continue };
        let len = bytes::Buf::remaining(&data);
        seen += len;
        over |= seen > MAX_BODY;
        if seen > MAX_BODY + DRAIN {
            break;
        }
        if over {
            kept = BytesMut::new();
        } else {
            kept.extend_from_slice(&bytes::Buf::copy_to_bytes(&mut data, len));
        }
    }
    if over {
        let message = format!("the body is longer than {MAX_BODY} bytes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
    }
    Ok(kept.freeze())
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return false };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// The hook, which is the same for everybody: no cross-site rule, cached until it changes.
fn hook(method: &Method, headers: &HeaderMap) -> Result<Response<WritebackBody>, Refusal> {
    const HOOK: &str = include_str!("hook.js");
    static ETAG: OnceLock<String> = OnceLock::new();
    if method != Method::GET && method != Method::HEAD {
        return Err(Refusal::method(&[Method::GET, Method::HEAD]));
    }
    let etag = ETAG.get_or_init(|| {
        let hash = Sha256::digest(HOOK);
        let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("\"{hex}\"")
    });
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        let mut tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        // A weak comparison is what If-None-Match asks for (RFC 9110, 13.1.2).
        tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
    });
    let body = if known || method == Method::HEAD { Bytes::new() } else { Bytes::from_static(HOOK.as_bytes()) };
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
        headers.insert(header::CONTENT_LENGTH, HOOK.len().into());
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::try_from(etag.as_str()) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

impl<B> Service<Request<B>> for SessionWriteback
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<WritebackBody>;
    type Error = Infallible;
    type Future = WritebackFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> WritebackFuture {
        let (head, body) = request.into_parts();
        WritebackFuture(Box::pin(self.clone().answer(head, body)))
    }
}

/// The answer of a [`SessionWriteback`]. Dropped before it is ready, values of one owner are stored whole or not at
/// all.
#[must_use = "futures do nothing unless polled"]
pub struct WritebackFuture(Pin<Box<dyn Future<Output = Response<WritebackBody>> + Send>>);

impl Future for WritebackFuture {
    type Output = Result<Response<WritebackBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for WritebackFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritebackFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionWriteback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.allowed.iter().map(|number| self.sessions.chain.schema.at(*number).name).collect();
        f.debug_struct("SessionWriteback").field("allowed", &names).field("at", &self.prefix).finish_non_exhaustive()
    }
}
