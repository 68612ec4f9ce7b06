//! The application's own read-only sources: [`Source`], what the chain asks of a source, and the answer.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::request::Parts;

use super::{BoxError, TierFuture};
use crate::value::{self, Json, SessionValue};

/// A read-only source of the application's own, such as a tenant's defaults in a database.
///
/// A source is not a `tower::Service`: a source has one operation, is shared rather than driven to readiness, and borrows
/// the question. A source that answers at once allocates nothing, see [`TierFuture::ready`].
///
/// # Contract
///
/// - A future may be dropped before it is polled, and at any await: work belongs inside the future.
/// - Each load asks the source once, for every declared value, whatever the stored tiers hold. The handle keeps the answers
///   and uses them only where no stored tier answers, so that a read after `remove` has them.
/// - A source that waits makes every load wait, those of visitors too: a source should cache by itself.
/// - The next tier answers where a source fails, or does not answer within
///   [`source_deadline`](crate::SessionsBuilder::source_deadline), 250 milliseconds unless told otherwise. The chain traces
///   and counts the failure. The late future is dropped: a query that is to fill a cache all the same runs in a task of its
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

    /// Answers for the names in the lookup.
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

    /// Whether `V` is asked for: true wherever [`SessionsBuilder::value`](crate::SessionsBuilder::value) declares `V` on the
    /// chain that the source stands in, whether or not the handler reads `V`.
    ///
    /// A source that several chains share uses this to skip a query where the chain has not declared the value. In the only
    /// chain of an application, whose source answers for declared values alone, the method is always true and needs no call.
    pub fn wants<V: SessionValue>(&self) -> bool {
        self.names.contains(&V::NAME)
    }

    /// The request's head, as it reached the layer. None in a job, which has no request.
    pub const fn head(&self) -> Option<&'a Parts> {
        self.head
    }
}

/// Names only: the head may hold credentials.
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
    /// No answer to any name.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// One value.
    ///
    /// # Errors
    ///
    /// Where the value does not encode, or would not decode to a valid value again.
    pub fn value<V: SessionValue>(value: &V) -> Result<Self, BoxError> {
        let json = value::encode(value).map_err(|flaw| flaw.into_write_error(V::NAME))?;
        Ok(Self { entries: vec![(V::NAME.into(), json)], expires_in: None })
    }

    /// Adds a further value.
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
    /// A handle asks each source once, as it loads, and keeps the answers for its life. That suits a request. A socket's
    /// handle lives longer: after the span the *next* tier answers on that handle, and the source is not asked again. A watch
    /// is not woken at the end of the span, and tells the other answer at its next change.
    ///
    /// The span is for answers that must not be used past a moment, such as a price of the day. The remaining time of an
    /// entry in the source's own cache does not belong here: a socket that outlives the entry would fall back to the default.
    #[must_use]
    pub const fn expires_in(mut self, span: Duration) -> Self {
        self.expires_in = Some(span);
        self
    }
}

/// Names and JSON bytes, as a source's rows have them.
impl<N: Into<String>, J: Into<Bytes>> FromIterator<(N, J)> for Found {
    fn from_iter<I: IntoIterator<Item = (N, J)>>(rows: I) -> Self {
        let entries = rows.into_iter().map(|(name, json)| (name.into(), Json::from(&*json.into()))).collect();
        Self { entries, expires_in: None }
    }
}

/// Names only: values are the application's.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("names", &self.entries.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("expires_in", &self.expires_in)
            .finish()
    }
}
