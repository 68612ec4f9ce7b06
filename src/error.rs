//! The errors: opaque, each with a `kind` to match on and the cause as `source`.
//!
//! No message of this crate holds an id, a key or a value. The text of an application's own `validate` goes out
//! unchanged.

use std::{borrow::Cow, error::Error, fmt};

mod store;

pub use self::store::{StoreError, StoreErrorKind, TierError};

/// Any error of the application.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Returns the header field that a response with this status has beside its body: after a 503 a client tries again in a
/// second, which is the shortest time for which a node stops asking a store that does not answer.
pub(crate) fn retry_after(status: http::StatusCode) -> Option<(http::HeaderName, http::HeaderValue)> {
    let field = (http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    (status == http::StatusCode::SERVICE_UNAVAILABLE).then_some(field)
}

/// A configuration that can't work, found before the first request. The message names the remedy.
#[derive(Debug)]
pub struct BuildError {
    kind: BuildErrorKind,
    message: Cow<'static, str>,
    source: Option<BoxError>,
}

/// The part of the configuration that can't work, in a [`BuildError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildErrorKind {
    /// A value: its name, its placement, or a second or missing declaration.
    Value,
    /// The tiers: a tier is missing, a tier is there twice, or their sequence can't work.
    Chain,
    /// The cookie: a name or an attribute that browsers would refuse.
    Cookie,
    /// A sealing key: absent, too short, or guessable.
    Key,
    /// The lifetimes, the clock, the audience or another setting.
    Setting,
    /// The shared store: its file, its address or its version.
    Store,
}

impl BuildErrorKind {
    pub(crate) fn error(self, message: impl Into<Cow<'static, str>>) -> BuildError {
        BuildError { kind: self, message: message.into(), source: None }
    }
}

impl BuildError {
    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the kind of this error: the part of the configuration that can't work.
    pub const fn kind(&self) -> BuildErrorKind {
        self.kind
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// A request without a [`Session`](crate::Session) to load.
#[derive(Debug)]
pub struct MissingSession {
    source: Option<TierError>,
}

/// The kind of a [`MissingSession`]: why the request has no session to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingSessionKind {
    /// No layer of this crate wraps the handler: a mistake in the application, HTTP 500.
    NoLayer,
    /// The shared store did not answer, so the request may or may not have a session: HTTP 503.
    Unavailable,
}

impl MissingSession {
    pub(crate) const fn no_layer() -> Self {
        Self { source: None }
    }

    /// Returns the kind of this error: why the request has no session to load.
    pub const fn kind(&self) -> MissingSessionKind {
        match self.source {
            None => MissingSessionKind::NoLayer,
            Some(_) => MissingSessionKind::Unavailable,
        }
    }

    /// Returns the HTTP status with which a handler can answer this error: 500 without a layer, 503 if the store did
    /// not answer.
    pub const fn status(&self) -> http::StatusCode {
        match self.kind() {
            MissingSessionKind::NoLayer => http::StatusCode::INTERNAL_SERVER_ERROR,
            MissingSessionKind::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<TierError> for MissingSession {
    fn from(source: TierError) -> Self {
        Self { source: Some(source) }
    }
}

impl fmt::Display for MissingSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            MissingSessionKind::NoLayer => f.write_str(
                "the request passed no session layer: wrap this service in a `LayeredSessionLayer` of the same \
                 `Sessions`",
            ),
            MissingSessionKind::Unavailable => f.write_str("the shared store of the sessions failed"),
        }
    }
}

impl Error for MissingSession {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// A write, a sign-in, a renewal or a sign-out that failed, with the cause.
#[derive(Debug)]
pub struct WriteError {
    kind: WriteErrorKind,
    message: Cow<'static, str>,
    names: Vec<&'static str>,
    source: Option<BoxError>,
}

/// The kind of a [`WriteError`]: why the call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteErrorKind {
    /// The session has ended, was renewed by another handle, or can't begin in this request ([`CloseReason`]): HTTP
    /// 409.
    Closed,
    /// Other writers have changed the same record first, over a store for a second: HTTP 409, worth a retry.
    Contended,
    /// The value is not valid, can't be encoded as JSON, has JSON that does not decode again, or can't be written by
    /// this method; or the method needs another kind of handle: HTTP 422. The source is the error of `validate`, or
    /// serde's error of encoding.
    Invalid,
    /// The browser's cookie, or the token of a sign-in or renewal by the page, has no room for the write: HTTP 422. For
    /// a cookie the message tells how many bytes of JSON the write has and how many fit, and [`WriteError::names`] are
    /// the largest values.
    TooLarge,
    /// The shared store failed: HTTP 503. The message tells whether the store is full, takes no writes, or did not
    /// answer; a store that did not answer may have taken the write. This kind also reports that the operating system
    /// gave no random bytes for an id.
    Unavailable,
    /// The response head has left: HTTP 500. No response can carry the cookie of a sign-in or a renewal, and a chain
    /// without memory can keep no write and no sign-out.
    HeadSent,
    /// The call needs a memory tier, and this chain has none: HTTP 500.
    NoMemory,
    /// The type was not declared on `Sessions::builder()`: HTTP 500.
    Undeclared,
}

impl WriteError {
    pub(crate) fn new(kind: WriteErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), names: Vec::new(), source: None }
    }

    pub(crate) fn closed(reason: CloseReason) -> Self {
        Self::new(WriteErrorKind::Closed, reason.sentence())
    }

    pub(crate) fn named(mut self, names: impl IntoIterator<Item = &'static str>) -> Self {
        self.names.extend(names);
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the kind of this error: why the call failed.
    pub const fn kind(&self) -> WriteErrorKind {
        self.kind
    }

    /// Returns the wire names of the values that the error is about; may be empty.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Returns the HTTP status with which a handler can answer this error.
    pub const fn status(&self) -> http::StatusCode {
        match self.kind {
            WriteErrorKind::Closed | WriteErrorKind::Contended => http::StatusCode::CONFLICT,
            WriteErrorKind::Invalid | WriteErrorKind::TooLarge => http::StatusCode::UNPROCESSABLE_ENTITY,
            WriteErrorKind::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
            WriteErrorKind::HeadSent | WriteErrorKind::NoMemory | WriteErrorKind::Undeclared => {
                http::StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for WriteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<TierError> for WriteError {
    fn from(error: TierError) -> Self {
        Self::new(WriteErrorKind::Unavailable, error.to_string()).caused_by(error)
    }
}

/// The reason why a session has ended, or why a handle can no longer use its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// Another handle renewed the session: the session goes on under an id that this handle does not have.
    Renewed,
    /// The session was destroyed: the user signed out.
    Destroyed,
    /// The session was not used for its idle lifetime, or reached its absolute lifetime.
    Expired,
    /// All sessions of the session's principal were ended.
    Revoked,
    /// Another site caused the request: an upgrade, or a request with which the browser may have withheld the cookie
    /// ([`SameSite`](crate::SameSite)). The handle has no session and gets none. Behind a proxy that rewrites `Host`,
    /// an upgrade of the application's own page looks like another site's; the trace names the remedy.
    CrossSite,
    /// The request brought tokens of several sessions, and an attacker may have planted one of them: none counts. A
    /// sign-in still begins a session. See [`CookieTier::formerly`](crate::CookieTier::formerly).
    Ambiguous,
    /// The server is shutting down; the session itself lives on.
    Shutdown,
}

impl CloseReason {
    /// Returns the code with which to close a WebSocket (RFC 6455, 7.4.1), beside `to_string()` as the reason. A
    /// shutdown has 1001, going away, after which a page connects again by itself. All other reasons have 1008, policy
    /// violation.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Shutdown => 1001,
            _ => 1008,
        }
    }

    /// Returns the reason and its meaning, for errors.
    pub(crate) fn sentence(self) -> String {
        let (name, meaning) = self.name_and_meaning();
        match self {
            Self::CrossSite | Self::Ambiguous => format!("this request can't begin a session: {name} ({meaning})"),
            _ => format!("the session is closed: {name} ({meaning})"),
        }
    }

    const fn name_and_meaning(self) -> (&'static str, &'static str) {
        match self {
            Self::Renewed => ("renewed", "another handle has renewed the session"),
            Self::Destroyed => (
                "destroyed",
                "the session has ended, by a sign-out for example; after `sign_out` on this handle, `renew` begins \
                 another session",
            ),
            Self::Expired => ("expired", "the session was not used for too long, or has reached its absolute lifetime"),
            Self::Revoked => ("revoked", "all sessions of the user have ended"),
            Self::CrossSite => ("cross-site", "another site caused the request"),
            Self::Ambiguous => ("ambiguous", "the request brought cookies of several sessions, so no cookie counts"),
            Self::Shutdown => ("shutdown", "the server is shutting down"),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name_and_meaning().0)
    }
}
