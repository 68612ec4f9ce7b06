//! The words for tiers of an application's own.
//!
//! [`MemoryTier`](crate::MemoryTier), [`CookieTier`](crate::CookieTier) and [`DefaultTier`](crate::DefaultTier) come with
//! this crate. [`Tier`] is for everything else: a read-only source, such as a tenant's defaults in a database, or a shared
//! store. A source needs [`Lookup`] and [`Found`] alone; [`Commit`], [`Mutation`] and [`Committed`] are for stores.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::request::Parts;

use crate::value::{self, Json, SessionValue};
pub use crate::{error::BoxError, id::OwnerId, sessions::builder::IntoTier, version::Version};

pub(crate) mod cookie;
pub(crate) mod default;
pub(crate) mod memory;

/// A store, or a read-only source of one's own.
///
/// It is not a `tower::Service`: it has two operations, is shared rather than driven to readiness, and borrows what it
/// is asked. A source that answers at once allocates nothing, see [`TierFuture::ready`].
///
/// # Contract
///
/// - A future may be dropped before it is polled, and at any await: work belongs inside it.
/// - A **source** ([`Role::Source`]) only reads. Each load asks the source once, for every declared value, whatever the
///   stored tiers hold. The handle keeps the answers and uses them only where no stored tier answers, so that a read after
///   `remove` has them. A source that waits makes every load wait, those of visitors too: a source should cache by itself.
///   The next tier answers where a source fails, or does not answer within
///   [`source_deadline`](crate::SessionsBuilder::source_deadline), 250 milliseconds unless told otherwise. That is traced and
///   counted. The late future is dropped: a query that is to fill a cache all the same runs in a task of its own. The guide
///   has such a source, [with a database and a cache](crate::guide::tiers#a-source-with-a-database).
/// - A **store** ([`Role::Store`]) keeps versions, takes writes, and decides whether a session exists. Only one can be
///   in a chain. If it fails, the load or the write fails, and nothing changes.
///
/// ```
/// use layered_session::{SessionValue, tier::{BoxError, Found, Lookup, Tier, TierFuture}};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Locale(String);
/// # impl SessionValue for Locale { const NAME: &'static str = "locale"; }
///
/// #[derive(Debug)]
/// struct AcceptLanguage;
///
/// impl Tier for AcceptLanguage {
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
pub trait Tier: fmt::Debug + Send + Sync + 'static {
    /// What it is called in traces and in `Session::value_source`.
    fn name(&self) -> &'static str;

    /// Whether it only answers, or stores.
    fn role(&self) -> Role {
        Role::Source
    }

    /// Answers for the names that are asked.
    ///
    /// # Errors
    ///
    /// Whatever kept it from answering; the chain adds its name.
    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found>;

    /// Makes changes of one owner's record, all or none.
    ///
    /// # Errors
    ///
    /// Whatever kept it from saying whether they are made.
    fn write<'a>(&'a self, _commit: Commit<'a>) -> TierFuture<'a, Committed> {
        TierFuture::ready(Ok(Committed::ReadOnly))
    }
}

/// What a [`Tier`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Computes answers. They have no version and lose to any stored one.
    Source,
    /// Stores versions and takes writes.
    Store,
}

/// A tier's answer, at once or later.
///
/// # Cancel safety
///
/// A dropped `TierFuture` drops the future of the tier's own, which the tier must be ready for: see the
/// [contract](Tier#contract).
pub struct TierFuture<'a, T>(FutureState<'a, T>);

type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

enum FutureState<'a, T> {
    Now(Option<Result<T, BoxError>>),
    Later(Later<'a, T>),
}

impl<'a, T> TierFuture<'a, T> {
    /// An answer that is there already. Nothing is boxed.
    pub const fn ready(answer: Result<T, BoxError>) -> Self {
        Self(FutureState::Now(Some(answer)))
    }

    /// An answer that has to be waited for.
    pub fn boxed(future: impl Future<Output = Result<T, BoxError>> + Send + 'a) -> Self {
        Self(FutureState::Later(Box::pin(future)))
    }
}

impl<T: Unpin> Future for TierFuture<'_, T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            FutureState::Now(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            FutureState::Later(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for TierFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TierFuture").field("boxed", &matches!(self.0, FutureState::Later(_))).finish()
    }
}

/// What a tier is asked.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    owner: Option<OwnerId>,
    names: &'a [&'static str],
    head: Option<&'a Parts>,
}

impl<'a> Lookup<'a> {
    pub(crate) const fn new(owner: Option<OwnerId>, names: &'a [&'static str], head: Option<&'a Parts>) -> Self {
        Self { owner, names, head }
    }

    /// Whose record: the session's or the principal's. None for a source, which is asked for whoever the request is.
    pub const fn owner(&self) -> Option<OwnerId> {
        self.owner
    }

    /// The wire names that are asked for: those of all declared values.
    pub const fn names(&self) -> &'a [&'static str] {
        self.names
    }

    /// Whether `V` is asked for: true wherever [`SessionsBuilder::value`](crate::SessionsBuilder::value) declares `V` on the
    /// chain that the tier stands in, whether or not the handler reads `V`.
    ///
    /// A tier that several chains share uses this to skip a query where the chain has not declared the value. In the only
    /// chain of an application, whose tier answers for declared values alone, the method is always true and needs no call.
    pub fn wants<V: SessionValue>(&self) -> bool {
        self.names.contains(&V::NAME)
    }

    /// The request's head, as it reached the layer. None in a job, which has no request.
    pub const fn head(&self) -> Option<&'a Parts> {
        self.head
    }
}

impl fmt::Debug for Lookup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("owner", &self.owner).field("names", &self.names).finish_non_exhaustive()
    }
}

/// What a tier found.
#[derive(Default)]
pub struct Found {
    pub(crate) entries: Vec<FoundEntry>,
    pub(crate) standing: Standing,
    pub(crate) expires_in: Option<Duration>,
}

pub(crate) struct FoundEntry {
    pub(crate) name: String,
    pub(crate) json: Option<Json>,
    pub(crate) version: Version,
}

/// What a store says of the owner itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    #[default]
    Present,
    Absent,
    Ended,
}

impl Found {
    /// No answer to any name; the owner may still exist.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// One value.
    ///
    /// # Errors
    ///
    /// Where it does not encode, or would not decode to a valid value again.
    pub fn value<V: SessionValue>(value: &V) -> Result<Self, BoxError> {
        let json = value::encode(value).map_err(|flaw| flaw.into_write_error(V::NAME))?;
        let entry = FoundEntry { name: V::NAME.into(), json: Some(json), version: Version::ZERO };
        Ok(Self { entries: vec![entry], ..Self::default() })
    }

    /// Adds a further value to a source's answers.
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

    /// Limits how long a handle uses a source's answers.
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

    /// Adds a stored value as JSON bytes, or a tombstone (`None`), with its version. For stores.
    ///
    /// What this build does not declare rides along in the browser's cookie, unless its name is longer than the 64 bytes
    /// that a declared one can have.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>, json: Option<Bytes>, version: Version) -> Self {
        self.entries.push(FoundEntry { name: name.into(), json: json.as_deref().map(Json::from), version });
        self
    }

    /// The store knows no such owner.
    pub fn absent() -> Self {
        Self { standing: Standing::Absent, ..Self::default() }
    }

    /// The store knows that the owner has ended.
    pub fn ended() -> Self {
        Self { standing: Standing::Ended, ..Self::default() }
    }
}

/// Names and JSON bytes, as a source's rows have them.
impl<N: Into<String>, J: Into<Bytes>> FromIterator<(N, J)> for Found {
    fn from_iter<I: IntoIterator<Item = (N, J)>>(rows: I) -> Self {
        let entry = |(name, json): (N, J)| FoundEntry {
            name: name.into(),
            json: Some(Json::from(&*json.into())),
            version: Version::ZERO,
        };
        Self { entries: rows.into_iter().map(entry).collect(), ..Self::default() }
    }
}

/// Names only: values are the application's.
impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found")
            .field("standing", &self.standing)
            .field("names", &self.entries.iter().map(|entry| &entry.name).collect::<Vec<_>>())
            .field("expires_in", &self.expires_in)
            .finish()
    }
}

/// Changes of one owner's record that a store is to make, all or none.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    owner: OwnerId,
    kind: CommitKind,
    changes: &'a [Mutation],
    expires: SystemTime,
}

/// What a [`Commit`] does to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitKind {
    /// Makes the record. A store that has one answers [`Committed::Outdated`] or [`Committed::Ended`].
    Create,
    /// Changes the record; refused if there is none.
    Update,
    /// Changes the record, and makes it where there is none: a principal's, which nobody creates.
    Upsert,
    /// Ends it: from now on it answers [`Found::ended`], until it expires.
    End,
}

impl<'a> Commit<'a> {
    pub(crate) const fn new(owner: OwnerId, kind: CommitKind, changes: &'a [Mutation], expires: SystemTime) -> Self {
        Self { owner, kind, changes, expires }
    }

    /// Whose record.
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }

    /// What it does to the record.
    pub const fn kind(&self) -> CommitKind {
        self.kind
    }

    /// The changes, none for an end.
    pub const fn changes(&self) -> &'a [Mutation] {
        self.changes
    }

    /// When the record expires if nothing more is heard of it. For a session that is its absolute deadline: a store is not
    /// told of each use, and what has idled out is known by memory and by the seal.
    pub const fn expires(&self) -> SystemTime {
        self.expires
    }
}

/// One value set or removed.
#[derive(Clone)]
pub struct Mutation {
    pub(crate) index: value::ValueIndex,
    pub(crate) name: &'static str,
    pub(crate) json: Option<Json>,
    pub(crate) version: Option<Version>,
    pub(crate) replaces: Option<Version>,
}

impl Mutation {
    /// The value's wire name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its JSON bytes; `None` leaves a tombstone.
    pub fn json(&self) -> Option<&[u8]> {
        self.json.as_deref()
    }

    /// The version that it carries, applied only if newer. `None` for a fresh write, which the store stamps above
    /// everything that it holds of this owner.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The version that must stand there now ([`Version::ZERO`]: none), or the commit is [`Committed::Outdated`].
    pub const fn replaces(&self) -> Option<Version> {
        self.replaces
    }
}

/// The name and the versions; the value is the application's.
impl fmt::Debug for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("name", &self.name)
            .field("bytes", &self.json.as_ref().map(|json| json.len()))
            .field("version", &self.version)
            .field("replaces", &self.replaces)
            .finish()
    }
}

/// What became of a [`Commit`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Committed {
    /// It is made, and this is the newest version in the record now.
    Applied(Version),
    /// A change replaces a version that no longer stands; this is what does.
    Outdated(Found),
    /// There is no such record.
    Absent,
    /// The record has ended.
    Ended,
    /// This tier takes no writes.
    ReadOnly,
}
