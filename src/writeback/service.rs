//! [`SessionWriteback`]: the endpoint that a page's hook posts to.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{body::UnknownNames, stream::HEARTBEAT_INTERVAL};
use crate::{
    error::{BuildError, BuildErrorKind},
    node::Node,
    sessions::Sessions,
    value::{SessionValue, ValueIndex},
};

pub(crate) mod answer;

/// The accepted intervals of heartbeats: short enough for proxies, and not a burden for pages.
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

/// Accepts posted JSON of allowed values, sends changes to pages as events, and serves the hook.
///
/// Mount the writeback inside a [`LayeredSessionLayer`](crate::LayeredSessionLayer) of the same [`Sessions`]: with
/// `nest_service("/session", ..)` under axum, which removes the path, or with [`mount_path`](Self::mount_path) if no
/// router removes the path.
///
/// | request | answer |
/// |---|---|
/// | `POST /` `{"name": value, …}` | 200 `{"stored": ["name", …]}`, or a refusal |
/// | `POST /` `{"$relay": "…"}` | the same answers, for a [`RelayToken`](crate::RelayToken) |
/// | `POST /` with `Session-User: …` | values, only if the user's mark is still this mark from the event `state`; else 409 |
/// | `GET /events` | server-sent events, of [`expose`](Self::expose)d and allowed values; 204 if the session has ended |
/// | `GET /hook.js` | the browser hook, an ES module; `hook.d.ts` are its types |
///
/// Pages may write only values that the application [`allow`](Self::allow)s by type. The type decodes, validates and
/// encodes each value. The values of each owner are stored all or none. Only pages of the same origin pass the
/// cross-site rule; see `Sessions::builder().public_origins(..)` for proxies and for pages of another origin. A `GET
/// /events` with neither `Origin` nor `Sec-Fetch-Site` passes with `Accept: text/event-stream`, since an `EventSource`
/// sends neither on plain http to a host other than loopback. Answers have `Cross-Origin-Resource-Policy: same-origin`,
/// so that no page of another origin can embed the answers.
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
///         .header("sec-fetch-site", "same-origin") // browsers send this by themselves
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
/// A browser marks a POST of the application's own page by itself. Any other client sends a header: `Sec-Fetch-Site:
/// same-origin`, or `Origin` with the origin of the request's target. The content type is `application/json`. Without
/// the header the answer is 403 `cross_site`, and with another content type 415. A relay token is posted in the same
/// way, as `{"$relay": "…"}`, with the cookie of its session:
///
/// ```text
/// curl -b jar -c jar -H 'Sec-Fetch-Site: same-origin' \
///      --json '{"theme": "dark"}' https://shop.example/session
/// ```
///
/// # Events
///
/// An `EventSource`, or the hook, gets each change without a further request. Each connection begins with the whole
/// state. A slow page gets only the newest values. Over HTTP/1.1 a browser opens six connections to a host, for all its
/// tabs together: `EventSource`s in six tabs leave no connection for other requests. The hook shares one stream among
/// all tabs.
///
/// | event | data |
/// |---|---|
/// | `state` | `{"session": "…", "user": "…", "heartbeat": 15000, "values": {"name": value, …}}`, first: all values. `session` and `user` are marks: a mark distinguishes sessions or users, and identifies none. `session` is empty for a visitor without a session, whose stream does not see a later session; `user` is empty while no user is signed in. `heartbeat` is the interval in milliseconds |
/// | `set` | `{"name": value, …}`: the changed values |
/// | `removed` | `["name", …]`: the values that no tier answers any more, not even a default, or that a page can't read exactly ([`expose`](Self::expose)) |
/// | `relay` | `"…"`: a [`RelayToken`](crate::RelayToken) to post, after a change that no response has brought to the browser |
/// | `heartbeat` | `null`, after an interval without another event ([`heartbeat`](Self::heartbeat)) |
/// | `closed` | `"renewed"`, `"destroyed"`, `"expired"`, `"revoked"` or `"shutdown"`, last |
///
/// An open stream does not count as a use of the session, and does not extend the idle lifetime.
///
/// # The hook
///
/// The hook is an ES module at `/session/hook.js`, with its types in `/session/hook.d.ts`. The guide shows [its use and
/// its events](crate::guide::live_pages#the-hook), and [a socket beside it](crate::guide::live_pages#a-websocket).
///
/// Tabs share one stream: a Web Lock decides which tab holds the stream, and a `BroadcastChannel` carries each event to
/// the other tabs. Each tab shows only events of its own session and user. If the browser has no locks (plain http
/// to a host other than loopback), each visible tab holds a stream of its own. The hook closes a stream without a
/// [`heartbeat`](Self::heartbeat) and opens another.
///
/// The hook needs no build step, and runs under a policy of `script-src 'self'; connect-src 'self'`. The hook sends one
/// POST at a time, with the newest value of each name. Values wait through lost connections, offline times and the end
/// of the session. A page sends all waiting values when the user leaves the page. A page with a socket of its own
/// passes [`RelayToken`](crate::RelayToken)s to `relay(token)` of the hook.
///
/// # Pages of another origin
///
/// A page of `https://app.shop.example` may use a writeback of `https://api.shop.example` if the application lists the
/// page's origin. The listed origin passes the cross-site rule. Browsers also require CORS before the page may send
/// JSON and read the answers: use the [layer of tower-http](https://docs.rs/tower-http/latest/tower_http/cors/). Allow
/// only listed origins: `CorsLayer::very_permissive()` would let every site read the session. The page connects with
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
/// Browsers send `SameSite=Lax` and `Strict` cookies with these requests if both hosts belong to one site, as here. A
/// page of another site needs [`SameSite::None`](crate::SameSite::None).
///
/// # Refusals
///
/// Every refusal is `{"code": "…", "message": "…", "names": […]}`. `names` is there if the refusal concerns some names;
/// for names that are not allowed, `names` has the first 16, each cut at 64 characters. If several reasons apply, the
/// answer gives the first in this table:
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
    node: Arc<Node>,
    allowed: Vec<ValueIndex>,
    /// The values that pages may read. Includes every allowed value.
    exposed: Vec<ValueIndex>,
    prefix: String,
    unknown: UnknownNames,
    serves_events: bool,
    heartbeat: Duration,
    serves_hook: bool,
}

impl SessionWriteback {
    /// Creates a writeback that accepts relay tokens and no values yet.
    pub fn new(sessions: &Sessions) -> Self {
        Self {
            node: Arc::clone(&sessions.node),
            allowed: Vec::new(),
            exposed: Vec::new(),
            prefix: String::new(),
            unknown: UnknownNames::Refused,
            serves_events: true,
            heartbeat: HEARTBEAT_INTERVAL,
            serves_hook: true,
        }
    }

    /// Lets pages write `V`. If the browser carries `V`, the cookie's room limits the value; other values
    /// ([`Placement`](crate::Placement)) may have up to 16 KiB, both as sent and as `V` encodes them. A session holds
    /// one copy of each value, so these limits bound the size of a session that a page fills. The memory tier's bound
    /// holds for all sessions together.
    ///
    /// Use strings in JSON for integers beyond ±(2^53 − 1). A type that keeps such an integer exactly, as `i64` does,
    /// accepts the integer from a POST, but the value is not sent to pages: see [`expose`](Self::expose). For any other
    /// type the POST is refused (`unsafe_integer`).
    ///
    /// # Errors
    ///
    /// For a value that is not declared, and for the value that names the signed-in user.
    pub fn allow<V: SessionValue>(mut self) -> Result<Self, BuildError> {
        let config = &self.node.config;
        let refuse = |what| Err(BuildErrorKind::Value.error(format!("`{}` can't be allowed: {what}", V::NAME)));
        let Some(index) = config.schema.index_of::<V>() else {
            return refuse("declare the value with `.value::<..>()`");
        };
        if config.identity_index() == Some(index) {
            return refuse("only `sign_in` and `sign_out` change the value that names the signed-in user");
        }
        self.allowed.push(index);
        self.expose::<V>()
    }

    /// Lets pages read `V` through `GET /events`, but not write `V`. Allowed values are exposed too.
    ///
    /// JavaScript's numbers are doubles, which round integers beyond ±(2^53 − 1): a page would read a wrong id, and
    /// send the wrong id back. So a value whose JSON holds such an integer is not sent. A page with an older value gets
    /// `removed`, and an error with the name of `V` is traced, at most once a minute. Keep ids of 64 bits as strings in
    /// JSON:
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
        let Some(index) = self.node.config.schema.index_of::<V>() else {
            let message = format!("`{}` can't be exposed: declare the value with `.value::<..>()`", V::NAME);
            return Err(BuildErrorKind::Value.error(message));
        };
        if !self.exposed.contains(&index) {
            self.exposed.push(index);
        }
        Ok(self)
    }

    /// Sets the path at which the application mounts the writeback, such as `/session`. Call `mount_path` only if no
    /// router removes this path before it calls the writeback: axum's `nest_service` does remove the path.
    #[must_use]
    pub fn mount_path(mut self, path: &str) -> Self {
        path.trim_end_matches('/').clone_into(&mut self.prefix);
        self
    }

    /// Ignores names that are not allowed, instead of refusing the whole request, for pages that may be newer than the
    /// server. The answer lists the first 16 as `ignored`, each cut at 64 characters.
    #[must_use]
    pub const fn ignore_unknown(mut self) -> Self {
        self.unknown = UnknownNames::Ignored;
        self
    }

    /// Serves no events, for an application with a stream or socket of its own.
    #[must_use]
    pub const fn without_events(mut self) -> Self {
        self.serves_events = false;
        self
    }

    /// Sets the interval of heartbeats: 15 seconds by default, and from one second to five minutes. A page gets a
    /// heartbeat after an interval without another event.
    ///
    /// A proxy cuts a connection that is silent for longer than the proxy's own limit. The hook closes a stream that is
    /// silent for two and a half intervals, and opens another.
    ///
    /// # Errors
    ///
    /// For an interval below a second or above five minutes.
    pub fn heartbeat(mut self, interval: Duration) -> Result<Self, BuildError> {
        if !HEARTBEATS.contains(&interval) {
            let message = format!("the interval of heartbeats is {interval:?}: give an interval from 1s to 300s");
            return Err(BuildErrorKind::Setting.error(message));
        }
        self.heartbeat = interval;
        Ok(self)
    }

    /// Does not serve the hook, for an application that bundles the hook or uses none.
    #[must_use]
    pub const fn without_hook(mut self) -> Self {
        self.serves_hook = false;
        self
    }
}

impl fmt::Debug for SessionWriteback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.allowed.iter().map(|index| self.node.config.schema.get(*index).name).collect();
        f.debug_struct("SessionWriteback").field("allowed", &names).field("at", &self.prefix).finish_non_exhaustive()
    }
}
