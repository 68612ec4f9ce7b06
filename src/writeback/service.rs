//! [`SessionWriteback`]: the endpoint that a page's hook posts to.

use std::{
    any::TypeId,
    borrow::Cow,
    convert::Infallible,
    fmt,
    future::Future,
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use http_body::Body;
use serde_json::value::RawValue;
use tower_service::Service;

use super::{
    asset::Asset,
    body::{self, MAX_BODY, is_json},
    events::Events,
    numbers::{InexactNumbers, integers_survive},
    reply::{Content, Refusal, WritebackBody, gone, stored, streaming},
    request::Posted,
    stream::HEARTBEAT_INTERVAL,
};
use crate::{
    cross_site::{RequestKind, page_of},
    error::{BoxError, BuildError, BuildErrorKind},
    session::{
        Session, read,
        relay::{OpenedRelay, RelayRefused},
        relay_in,
    },
    sessions::Sessions,
    value::{Json, SessionValue, ValueError, ValueIndex, ValueSpec},
};

static HOOK: Asset = Asset::script(include_str!("hook.js"));
static HOOK_TYPES: Asset = Asset::new(include_str!("hook.d.ts"), "text/plain; charset=utf-8");

/// The longest value, as its type encodes it: `[{},{},…]` can be thirty times as long once each field has its default.
const MAX_VALUE: usize = MAX_BODY;

/// The intervals of heartbeats that a proxy and a page can do with.
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

/// Of names that are not allowed so many are said back, each cut to so many characters: they are the client's own, and
/// what it sends must not come out larger, or fill a log.
const ECHOED_NAMES: usize = 16;
const ECHOED_CHARS: usize = 64;

/// Takes JSON from the hook in a page, of allowed values only, tells pages what changes, and serves the hook.
///
/// Mount it inside of a [`LayeredSessionLayer`](crate::LayeredSessionLayer) of the same [`Sessions`]: with
/// `nest_service("/session", ..)` under axum, which strips the path, or with [`mount_path`](Self::mount_path) where nothing does.
///
/// | request | answer |
/// |---|---|
/// | `POST /` `{"name": value, …}` | 200 `{"stored": ["name", …]}`, or a refusal |
/// | `POST /` `{"$relay": "…"}` | the same, for a [`RelayToken`](crate::RelayToken) |
/// | `POST /` with `Session-User: …` | values only if the user is still the one whom the events' `state` named so, else 409 |
/// | `GET /events` | server-sent events, of [`expose`](Self::expose)d and allowed values; 204 if the session has ended |
/// | `GET /hook.js` | the browser hook, an ES module; `hook.d.ts` are its types |
///
/// Nothing is allowed that is not [`allow`](Self::allow)ed by type, and values come in as their type takes them:
/// parsed, validated, and stored as the type itself encodes them. A request is stored whole per owner, or not at all.
/// Only pages of the same origin get through, see `Sessions::builder().public_origins(..)` for proxies and for pages of
/// another origin. A `GET /events` with neither `Origin` nor `Sec-Fetch-Site` passes with `Accept: text/event-stream`, since
/// an `EventSource` sends neither on plain http off loopback. Answers say `Cross-Origin-Resource-Policy: same-origin`, so
/// that no page of another origin can embed the answers.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, MemoryTier, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// use axum::{Router, body::Body};
/// use http::{Request, StatusCode};
/// use layered_session::{LayeredSessionLayer, SessionWriteback};
/// use tower::ServiceExt;
///
/// # #[derive(Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Theme>();
/// # let sessions = chain.build()?;
/// let app: Router = Router::new()
///     .nest_service("/session", SessionWriteback::new(&sessions).allow::<Theme>()?)
///     .layer(LayeredSessionLayer::new(sessions));
///
/// let post = |json: &'static str| {
///     Request::post("/session")
///         .header("content-type", "application/json")
///         .header("sec-fetch-site", "same-origin") // browsers send it by themselves
///         .body(Body::from(json))
/// };
/// let stored = app.clone().oneshot(post(r#"{"theme": "dark"}"#)?).await?;
/// assert_eq!(stored.status(), StatusCode::OK);
/// let refused = app.oneshot(post(r#"{"is_admin": true}"#)?).await?;
/// assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
/// # Ok(()) }
/// ```
///
/// # Clients that are no browsers
///
/// A browser says by itself that a POST comes from the application's own page. Any other client says so in a header:
/// `Sec-Fetch-Site: same-origin`, or `Origin` with the origin that the request goes to. The body's type is
/// `application/json`. Without the header the answer is 403 `cross_site`, and with another type 415. A relay token goes the
/// same way, as `{"$relay": "…"}`, with the cookie of its session:
///
/// ```text
/// curl -b jar -c jar -H 'Sec-Fetch-Site: same-origin' \
///      --json '{"theme": "dark"}' https://shop.example/session
/// ```
///
/// # Events
///
/// An `EventSource`, or the hook, is told without asking again. Each connection begins with the whole state; a page that
/// is slow is told the newest alone. Over HTTP/1.1 a browser opens six connections to a host, for all its tabs together: an
/// `EventSource` in each of seven tabs leaves none for anything else. The hook shares one stream among all tabs.
///
/// | event | data |
/// |---|---|
/// | `state` | `{"session": "…", "user": "…", "heartbeat": 15000, "values": {"name": value, …}}`, first: all values. `session` and `user` are marks: a mark tells sessions or users apart and names none. `session` is empty for a visitor without a session, whose stream does not see a later session; `user` is empty while nobody is signed in. `heartbeat` is the interval in milliseconds |
/// | `set` | `{"name": value, …}`: these have changed |
/// | `removed` | `["name", …]`: of these there is nothing any more, not even a default, or nothing that a page could read ([`expose`](Self::expose)) |
/// | `relay` | `"…"`: a [`RelayToken`](crate::RelayToken) to post, where something changed that no response has taken to the browser |
/// | `heartbeat` | `null`, where no event came for an interval ([`heartbeat`](Self::heartbeat)) |
/// | `closed` | `"renewed"`, `"destroyed"`, `"expired"`, `"revoked"` or `"shutdown"`, last |
///
/// The stream itself is no use of the session, and does not keep it from idling out.
///
/// # The hook
///
/// The hook is an ES module at `/session/hook.js`, with its types in `/session/hook.d.ts`. The guide shows
/// [its use and its events](crate::guide::live_pages#the-hook), and [a socket beside it](crate::guide::live_pages#a-websocket).
///
/// Tabs share one stream: a Web Lock says which tab holds it, and a `BroadcastChannel` carries each event to the others.
/// Each tab shows only events of its own session and user. Where the browser has no locks (plain http off loopback) each
/// visible tab holds a stream of its own. A stream without a [`heartbeat`](Self::heartbeat) is given up and opened anew.
///
/// It needs no build step, and runs under a policy of `script-src 'self'; connect-src 'self'`. One POST is under way at a
/// time, the newest of each name, over lost connections, while offline and past the end of the session; a page that is
/// left sends what waits. A socket of the page's own hands
/// [`RelayToken`](crate::RelayToken)s to `relay(token)` of the hook.
///
/// # Pages of another origin
///
/// A page of `https://app.shop.example` may use a writeback of `https://api.shop.example`, once its origin is listed. The
/// listed origin passes the cross-site rule; that browsers let the page send JSON and read the answers takes CORS, which is
/// [tower-http's](https://docs.rs/tower-http/latest/tower_http/cors/). Allow the origins that are listed, and no others:
/// `CorsLayer::very_permissive()` would let every site read the session. The page connects with
/// `credentials: 'include'`.
///
/// ```
/// use axum::{Router, http::{HeaderName, Method, header::CONTENT_TYPE}};
/// # use layered_session::{CookieTier, KeyRing, MemoryTier};
/// use layered_session::{LayeredSessionLayer, SessionWriteback, Sessions};
/// use tower_http::cors::CorsLayer;
///
/// const PAGE: &str = "https://app.shop.example";
///
/// let sessions = Sessions::builder()
///     .tier(MemoryTier::builder().build())
///     .tier(CookieTier::sealed(KeyRing::generate()?))
///     .public_origins([PAGE])
///     .build()?;
/// let cors = CorsLayer::new()
///     .allow_origin([PAGE.parse()?])
///     .allow_credentials(true)
///     .allow_methods([Method::GET, Method::POST])
///     .allow_headers([CONTENT_TYPE, HeaderName::from_static("session-user")]);
/// let app: Router = Router::new()
///     .nest_service("/session", SessionWriteback::new(&sessions))
///     .layer(cors) // around nothing that other origins must not read
///     .layer(LayeredSessionLayer::new(sessions));
///
/// # use {axum::{body::Body, http::Request}, tower::ServiceExt};
/// # futures_util::FutureExt::now_or_never(async {
/// let preflight = Request::options("/session")
///     .header("origin", PAGE)
///     .header("access-control-request-method", "POST")
///     .body(Body::empty())?;
/// let answer = app.oneshot(preflight).await?;
/// assert_eq!(answer.headers()["access-control-allow-origin"], PAGE);
/// # Ok::<_, layered_session::tier::BoxError>(())
/// # }).ok_or("it waits for nothing")??;
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
///
/// Browsers send `SameSite=Lax` and `Strict` cookies with these requests where both hosts are of one site, as here. A page
/// of another site needs [`SameSite::None`](crate::SameSite::None).
///
/// # Refusals
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
/// | 409 | `session_closed`, `user_changed`, `relay_expired`, `relay_other_session`, `token_used`, `contended` |
/// | 500 | `no_layer`, `misconfigured` |
/// | 503 | `unavailable` |
#[derive(Clone)]
pub struct SessionWriteback {
    sessions: Sessions,
    allowed: Vec<ValueIndex>,
    /// What pages may read: what they may write, and more.
    exposed: Vec<ValueIndex>,
    withheld: InexactNumbers,
    prefix: String,
    unknown: UnknownNames,
    events: Served,
    heartbeat: Duration,
    hook: Served,
}

/// What becomes of names that are not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnknownNames {
    Refused,
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Yes,
    No,
}

impl SessionWriteback {
    /// Takes nothing yet but relay tokens.
    pub fn new(sessions: &Sessions) -> Self {
        Self {
            sessions: sessions.clone(),
            allowed: Vec::new(),
            exposed: Vec::new(),
            withheld: InexactNumbers::new(sessions.node.config.schema.len()),
            prefix: String::new(),
            unknown: UnknownNames::Refused,
            events: Served::Yes,
            heartbeat: HEARTBEAT_INTERVAL,
            hook: Served::Yes,
        }
    }

    /// Lets pages write `V`: up to what the cookie has room for if the browser carries it, else
    /// ([`Placement`](crate::Placement)) up to 16 KiB, sent and as `V` encodes it. A session holds one of each value, so
    /// that bounds what a page can make a session take; the memory tier's own bound holds for all of them together.
    ///
    /// Use strings in JSON for integers beyond ±(2^53 − 1). A type that keeps such an integer exactly, as `i64` does, takes the
    /// integer from a POST, but no page is sent the value: see [`expose`](Self::expose). For any other type the POST is
    /// refused (`unsafe_integer`).
    ///
    /// # Errors
    ///
    /// For a value that is not declared, and for the one that says who is signed in.
    pub fn allow<V: SessionValue>(mut self) -> Result<Self, BuildError> {
        let node = &self.sessions.node;
        let refuse = |what| Err(BuildErrorKind::Value.error(format!("`{}` can't be allowed: {what}", V::NAME)));
        let Some(index) = node.config.schema.index_of::<V>() else { return refuse("declare it with `.value::<..>()`") };
        if let crate::config::Identity::Value { index: identity, .. } = &node.config.identity
            && *identity == index
        {
            return refuse("it says who is signed in");
        }
        debug_assert_eq!(node.config.schema.get(index).type_id, TypeId::of::<V>());
        self.allowed.push(index);
        self.expose::<V>()
    }

    /// Lets pages read `V`, through `GET /events`, and not write it. What is allowed is exposed too.
    ///
    /// JavaScript's numbers are doubles, which round integers beyond ±(2^53 − 1): a page would read the id of another
    /// thing, and send that one back. So a value whose JSON holds such an integer is not sent. A page that has an older
    /// value is told that the value was removed, and an error with the name of `V` is traced, at most once a minute. Keep
    /// ids of 64 bits as strings in JSON:
    ///
    /// ```
    /// # use layered_session::SessionValue;
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Clone, Serialize, Deserialize)]
    /// #[serde(try_from = "String", into = "String")]
    /// struct Account(u64);
    ///
    /// impl TryFrom<String> for Account {
    ///     type Error = std::num::ParseIntError;
    ///     fn try_from(id: String) -> Result<Self, Self::Error> { id.parse().map(Self) }
    /// }
    ///
    /// impl From<Account> for String {
    ///     fn from(account: Account) -> Self { account.0.to_string() }
    /// }
    /// # impl SessionValue for Account { const NAME: &'static str = "account"; }
    /// # assert_eq!(serde_json::to_string(&Account(u64::MAX))?, r#""18446744073709551615""#);
    /// # assert_eq!(serde_json::from_str::<Account>(r#""18446744073709551615""#)?.0, u64::MAX);
    /// # Ok::<_, serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// For a value that is not declared.
    pub fn expose<V: SessionValue>(mut self) -> Result<Self, BuildError> {
        let Some(index) = self.sessions.node.config.schema.index_of::<V>() else {
            let message = format!("`{}` can't be exposed: declare it with `.value::<..>()`", V::NAME);
            return Err(BuildErrorKind::Value.error(message));
        };
        if !self.exposed.contains(&index) {
            self.exposed.push(index);
        }
        Ok(self)
    }

    /// The path under which it is mounted, where no router strips it: `/session`.
    #[must_use]
    pub fn mount_path(mut self, path: &str) -> Self {
        path.trim_end_matches('/').clone_into(&mut self.prefix);
        self
    }

    /// Passes over names that are not allowed, and reports the first 16 as `ignored`, each cut at 64 characters, instead
    /// of refusing the whole request: for pages that may be newer than the server.
    #[must_use]
    pub const fn ignore_unknown(mut self) -> Self {
        self.unknown = UnknownNames::Ignored;
        self
    }

    /// Serves no events, for an application that has a stream or socket of its own.
    #[must_use]
    pub const fn without_events(mut self) -> Self {
        self.events = Served::No;
        self
    }

    /// Sends a heartbeat to a page that had no event for so long, in place of 15 seconds: from one second to five minutes.
    ///
    /// A proxy cuts a connection that is silent for longer than the proxy's own limit. The hook gives a stream up that is
    /// silent for two and a half intervals, and opens another.
    ///
    /// # Errors
    ///
    /// For an interval below a second or above five minutes.
    pub fn heartbeat(mut self, interval: Duration) -> Result<Self, BuildError> {
        if !HEARTBEATS.contains(&interval) {
            let message = format!("a heartbeat each {interval:?} is not possible: from 1s to 300s is");
            return Err(BuildErrorKind::Setting.error(message));
        }
        self.heartbeat = interval;
        Ok(self)
    }

    /// Does not serve the hook, for an application that bundles its own.
    #[must_use]
    pub const fn without_hook(mut self) -> Self {
        self.hook = Served::No;
        self
    }

    async fn answer<B>(self, head: Parts, body: B) -> Response<WritebackBody>
    where
        B: Body + Send,
        B::Error: Into<BoxError>,
    {
        let answered = match head.uri.path().strip_prefix(self.prefix.as_str()) {
            Some("" | "/") => self.post(&head, body).await,
            Some("/events") if self.serves_events() => self.events(&head).await,
            Some("/hook.js") if self.hook == Served::Yes => HOOK.answer(&head.method, &head.headers),
            Some("/hook.d.ts") if self.hook == Served::Yes => HOOK_TYPES.answer(&head.method, &head.headers),
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
        let Parts { headers, extensions, .. } = head;
        self.admit(head)?;
        let body = body::read(&*self.sessions.node.time.clock, headers, body).await?;
        match Posted::parse(&body)? {
            Posted::Relay(token) => {
                // A token that does not open is the page's fault, whether or not there is a session for it.
                let count = |refused: RelayRefused| {
                    refused.count(&self.sessions.node);
                    refused
                };
                let relayed = OpenedRelay::open(&self.sessions.node, &token, page_of(headers)).map_err(count)?;
                let session = self.sessions.load(extensions).await?;
                relay_in::apply_relay(session.core(), relayed).await.map_err(count)?;
                Ok(stored(&["$relay".to_owned()]))
            }
            Posted::Values(values) => {
                let accepted = self.accept(&values)?;
                let session = self.sessions.load(extensions).await?;
                session.core().flags.touch();
                session.core().check_open()?;
                for_this_user(headers, &session)?;
                session.commit_json(accepted.values).await?;
                Ok(match self.unknown {
                    UnknownNames::Refused => stored(&accepted.names),
                    UnknownNames::Ignored => reply_with_ignored(&accepted.names, &accepted.ignored),
                })
            }
        }
    }

    /// Without memory a session is its request's own, and nothing that happens elsewhere is seen.
    fn serves_events(&self) -> bool {
        self.events == Served::Yes && self.sessions.node.memory.is_some()
    }

    async fn events(&self, head: &Parts) -> Result<Response<WritebackBody>, Refusal> {
        only_own_pages(&self.sessions, RequestKind::Events, head)?;
        let session = self.sessions.load(&head.extensions).await?;
        let core = session.core();
        core.flags.touch();
        // EventSource takes it as the word to stay away.
        if core.close_reason(core.node.now()).is_some() {
            return Ok(gone());
        }
        let events = Events::new(session, &self.exposed, self.withheld.clone(), self.heartbeat);
        Ok(streaming(WritebackBody(Content::told_by(events, self.heartbeat))))
    }

    fn admit(&self, head: &Parts) -> Result<(), Refusal> {
        only_own_pages(&self.sessions, RequestKind::Post, head)?;
        if !is_json(&head.headers) {
            let message = "the content type must be application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
        }
        Ok(())
    }

    /// Every value as its type takes it, before any is stored. What is ambiguous is said before what is not allowed, and
    /// that before what is not valid.
    fn accept(&self, values: &[(Cow<'_, str>, &RawValue)]) -> Result<AcceptedValues, Refusal> {
        let schema = &self.sessions.node.config.schema;
        let mut accepted = AcceptedValues { values: Vec::new(), names: Vec::new(), ignored: Vec::new() };
        let mut invalid = None;
        for (name, raw) in values {
            let Some(index) = schema.index_by_name(name).filter(|index| self.allowed.contains(index)) else {
                if accepted.ignored.len() < ECHOED_NAMES {
                    accepted.ignored.push(name.chars().take(ECHOED_CHARS).collect());
                }
                continue;
            };
            let declared = schema.get(index);
            match encode(declared, raw.get()) {
                Ok(json) => accepted.add(declared, index, json),
                Err(refusal) if refusal.status() == StatusCode::BAD_REQUEST => return Err(refusal),
                Err(refusal) => invalid = invalid.or(Some(refusal)),
            }
        }
        if self.unknown == UnknownNames::Refused && !accepted.ignored.is_empty() {
            let message = "pages may not write these values";
            let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_allowed", message);
            return Err(refusal.named(accepted.ignored));
        }
        invalid.map_or(Ok(accepted), Err)
    }
}

/// The method, and the cross-site rule.
pub(crate) fn only_own_pages(sessions: &Sessions, kind: RequestKind, head: &Parts) -> Result<(), Refusal> {
    let method = kind.method();
    if head.method != method {
        return Err(Refusal::method(&[method]));
    }
    sessions.cross_site.check(kind, &head.uri, &head.headers).map_err(|refused| {
        sessions.node.refusals.tell(&refused, sessions.node.now());
        Refusal::new(StatusCode::FORBIDDEN, "cross_site", refused.reason.message())
    })
}

/// The page's word for whose values it posts: what `state` told it then.
const SESSION_USER: &str = "session-user";

/// A page that could not post for a while may find that somebody else has signed in since. What it says of one user is
/// not to become another's.
fn for_this_user(headers: &HeaderMap, session: &Session) -> Result<(), Refusal> {
    match headers.get(SESSION_USER) {
        Some(meant) if meant.as_bytes() != read::user_mark(session.core()).as_bytes() => Err(Refusal::user_changed()),
        _ => Ok(()),
    }
}

/// What is stored of a value: the bytes that its own type writes.
fn encode(declared: &ValueSpec, raw: &str) -> Result<Json, Refusal> {
    let name = declared.name;
    let json = (declared.normalize)(raw.as_bytes());
    let stored = match &json {
        Ok(json) => integers_survive(raw, json),
        // Not read, so that no integer of it was taken; what was read and found invalid had its integers taken.
        Err(ValueError::Undecodable(_)) => integers_survive(raw, b""),
        Err(_) => true,
    };
    let (status, code, message) = match json {
        _ if !stored => {
            let message =
                format!("`{name}` has an integer beyond 2^53 - 1 that its type would change or drop: send a string");
            (StatusCode::BAD_REQUEST, "unsafe_integer", message)
        }
        Ok(json) if json.len() <= MAX_VALUE => return Ok(json),
        Ok(_) => {
            let message = format!("`{name}` is longer than {MAX_VALUE} bytes as its type encodes it");
            (StatusCode::UNPROCESSABLE_ENTITY, "value_too_large", message)
        }
        Err(flaw) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", format!("`{name}` {flaw}")),
    };
    Err(Refusal::new(status, code, message).named([name]))
}

struct AcceptedValues {
    values: Vec<(ValueIndex, Json)>,
    names: Vec<String>,
    ignored: Vec<String>,
}

impl AcceptedValues {
    fn add(&mut self, declared: &ValueSpec, index: ValueIndex, json: Json) {
        self.values.push((index, json));
        self.names.push(declared.name.to_owned());
    }
}

fn reply_with_ignored(names: &[String], ignored: &[String]) -> Response<WritebackBody> {
    let mut response = stored(names);
    let body = serde_json::json!({ "stored": names, "ignored": ignored }).to_string();
    *response.body_mut() = Bytes::from(body).into();
    response
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

/// The answer of a [`SessionWriteback`].
///
/// # Cancel safety
///
/// A dropped answer has stored all values of an owner or none, and has carried out a token or has not.
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
        let names: Vec<_> =
            self.allowed.iter().map(|index| self.sessions.node.config.schema.get(*index).name).collect();
        f.debug_struct("SessionWriteback").field("allowed", &names).field("at", &self.prefix).finish_non_exhaustive()
    }
}
