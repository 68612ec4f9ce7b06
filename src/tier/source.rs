//! The application's own read-only sources: [`Source`], the chain's question, and the answer.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::request::Parts;

use super::{BoxError, TierFuture};
use crate::value::{self, Json, SessionValue};

/// A read-only source of the application's own, such as a tenant's defaults in a database.
///
/// A source is not a `tower::Service`: a source has one operation, is shared rather than driven to readiness, and
/// borrows the question. A source that answers at once needs no allocation, see [`TierFuture::ready`].
///
/// # Contract
///
/// - A future may be dropped before it is polled, and at any await: work belongs inside the future.
/// - Each load asks the source once, for every declared value, even if memory, the cookie or a shared store has the
///   values. The handle keeps the answers, and uses an answer only where none of those tiers answers. A read after
///   `remove` therefore finds the answer.
/// - A source that waits makes every load wait, also the loads of visitors without a session. So a source should have a
///   cache of its own.
/// - The next tier answers where a source fails, or does not answer within
///   [`source_deadline`](crate::SessionsBuilder::source_deadline), 250 milliseconds by default. The chain traces and
///   counts the failure, and drops the late future. A query that should still fill a cache must run in a task of its
///   own. The guide has such a source, [with a database and a cache](crate::guide::tiers#a-source-with-a-database).
///
/// ```
/// use layered_session::SessionValue;
/// use layered_session::tier::{BoxError, Found, Lookup, Source, TierFuture};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Locale(String);
/// # impl SessionValue for Locale { const NAME: &'static str = "locale"; }
///
/// #[derive(Debug)]
/// struct AcceptLanguage;
///
/// impl Source for AcceptLanguage {
///     fn name(&self) -> &'static str { "accept-language" }
///
///     fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
///         TierFuture::ready(match lookup.head() {
///             Some(head) if head.headers.contains_key("accept-language") => {
///                 Found::value(&Locale("de".into()))
///             }
///             _ => Ok(Found::nothing()),
///         })
///     }
/// }
///
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, Session, Sessions};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?));
/// # let chain = chain.tier(AcceptLanguage).value::<Locale>();
/// # let layer = LayeredSessionLayer::new(chain.build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// // In a handler of a request with `accept-language`:
/// assert_eq!(session.get::<Locale>().map(|locale| locale.0), Some("de".into()));
/// # Ok::<_, BoxError>(Response::new(())) }));
/// # service.oneshot(Request::builder().header("accept-language", "de").body(())?).await?;
/// # Ok(()) }
/// ```
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The name in traces and in `Session::value_source`.
    fn name(&self) -> &'static str;

    /// Returns the answers for the names in the lookup.
    ///
    /// # Errors
    ///
    /// The cause that kept the source from answering; the chain adds the source's name.
    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found>;
}

/// The question of a load to a [`Source`].
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    names: &'a [&'static str],
    head: Option<&'a Parts>,
}

impl<'a> Lookup<'a> {
    pub(crate) const fn new(names: &'a [&'static str], head: Option<&'a Parts>) -> Self {
        Self { names, head }
    }

    /// The wire names of all declared values.
    pub const fn names(&self) -> &'a [&'static str] {
        self.names
    }

    /// Whether the chain has declared `V` by [`SessionsBuilder::value`](crate::SessionsBuilder::value). The answer does
    /// not depend on the handler's reads.
    ///
    /// A source that several chains share calls this method to skip the queries for undeclared values. In an
    /// application with one chain, a source that answers only for declared values needs no call: the result is always
    /// true.
    pub fn wants<V: SessionValue>(&self) -> bool {
        self.names.contains(&V::NAME)
    }

    /// The request's head at the layer. `None` in a job, which has no request.
    pub const fn head(&self) -> Option<&'a Parts> {
        self.head
    }
}

/// Shows the names only: the request head may hold credentials.
impl fmt::Debug for Lookup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The answers of a [`Source`].
#[derive(Default)]
pub struct Found {
    pub(crate) entries: Vec<(String, Json)>,
    pub(crate) expires_in: Option<Duration>,
}

impl Found {
    /// Returns an answer without values.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Returns an answer with one value.
    ///
    /// # Errors
    ///
    /// For a value that does not encode, or whose encoding does not decode to a valid value.
    pub fn value<V: SessionValue>(value: &V) -> Result<Self, BoxError> {
        let json = value::encode(value).map_err(|flaw| flaw.into_write_error(V::NAME))?;
        Ok(Self { entries: vec![(V::NAME.into(), json)], expires_in: None })
    }

    /// Adds another value to the answer.
    ///
    /// ```
    /// # use layered_session::{SessionValue, tier::{BoxError, Found}};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Locale(String);
    /// # impl SessionValue for Locale { const NAME: &'static str = "locale"; }
    /// # #[derive(Serialize, Deserialize)] struct Theme(String);
    /// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
    /// fn defaults_of_tenant() -> Result<Found, BoxError> {
    ///     Found::value(&Locale("de".into()))?.and(&Theme("dark".into()))
    /// }
    /// # assert!(format!("{:?}", defaults_of_tenant()?).contains(r#"["locale", "theme"]"#));
    /// # Ok::<_, BoxError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`value`](Self::value).
    pub fn and<V: SessionValue>(mut self, value: &V) -> Result<Self, BoxError> {
        self.entries.append(&mut Self::value(value)?.entries);
        Ok(self)
    }

    /// Limits how long a handle uses the answers.
    ///
    /// A load asks each source once, and the handle keeps the answers for its lifetime, which suits a request. The
    /// handle of a socket lives longer: after the span the *next* tier answers on that handle, and the source is not
    /// asked again. The end of the span does not wake a watch: the watch shows the other answer at its next change.
    ///
    /// Set a span for answers that must not be used after a certain time, such as a price of the day. Do not pass the
    /// remaining time of an entry in the source's own cache: a socket that outlives the entry would fall back to the
    /// default.
    #[must_use]
    pub const fn expires_in(mut self, span: Duration) -> Self {
        self.expires_in = Some(span);
        self
    }
}

/// Collects rows of a name and JSON bytes.
impl<N: Into<String>, J: Into<Bytes>> FromIterator<(N, J)> for Found {
    fn from_iter<I: IntoIterator<Item = (N, J)>>(rows: I) -> Self {
        let entries = rows.into_iter().map(|(name, json)| (name.into(), Json::from(&*json.into()))).collect();
        Self { entries, expires_in: None }
    }
}

/// Shows the names only: the values may be private.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("names", &self.entries.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("expires_in", &self.expires_in)
            .finish()
    }
}
