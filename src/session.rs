//! [`Session`]: the handle through which an application reads, writes and follows a session.

use std::{fmt, future::Future, sync::Arc, time::SystemTime};

use http::Extensions;

use self::shared::{Binding, SessionShared};
pub(crate) use self::{read::Access, shared::ValueRevision};
use crate::{
    config::Identity,
    error::{MissingSession, TierError, WriteError, WriteErrorKind},
    id::Principal,
    node::Node,
    record::{change::Mutation, state::Kind, write_context::WriteScope},
    tier::outside::note_missing_layer,
    value::{self, Json, SessionValue, ValueIndex},
};

pub(crate) mod batch;
pub(crate) mod commit;
pub(crate) mod cookie_out;
#[cfg(feature = "inspector")]
pub(crate) mod cookie_size;
mod current_token;
pub(crate) mod end;
pub(crate) mod explain;
mod life;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod loader;
pub(crate) mod read;
pub(crate) mod relay;
pub(crate) mod relay_in;
pub(crate) mod relay_out;
mod replace;
#[cfg(all(test, shuttle))]
mod schedules;
pub(crate) mod shared;
pub(crate) mod sign_in;
mod sign_in_plan;
#[cfg(test)]
mod tests;
mod write;

use self::{
    batch::Batch,
    explain::Explanation,
    loader::{HandleGuard, Loader, LoaderHandle},
    relay::RelayToken,
};

/// A session, loaded: a live view of one browser's values and of its user's.
///
/// It is `Clone + Send + Sync + 'static` and outlives its request, so that a socket, a stream or a task can keep it.
/// Reading always gives the record's newest value, whoever wrote it; nothing is copied at load. Clones are the same
/// handle: one that renews the session takes all its clones and watches along.
///
/// There may be no session behind it yet. Then computed tiers answer, and the first write makes one.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// # struct Visits(u32);
/// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Visits>();
/// # let layer = LayeredSessionLayer::new(chain.build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// assert!(session.is_new());
/// session.update::<Visits>(|visits| visits.0 += 1).await?;
/// assert_eq!(session.value::<Visits>(), Visits(1));
/// assert_eq!(session.value_source::<Visits>().tier(), "memory");
///
/// session.remove::<Visits>().await?;
/// assert_eq!(session.get::<Visits>(), None);
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # service.oneshot(Request::new(())).await?;
/// # Ok(()) }
/// ```
///
/// Nothing of it is proof that somebody is signed in: ask for the application's own value, or [`principal`].
///
/// [`principal`]: Self::principal
#[derive(Clone)]
pub struct Session {
    guard: HandleGuard,
}

impl Session {
    /// A principal's own handle, outside of any request.
    pub(crate) async fn job(node: &Arc<Node>, principal: Principal) -> Result<Self, TierError> {
        Ok(Self::new(Loader::of_job(load::job(node, principal).await?)))
    }

    /// A handle of what the loader has loaded.
    fn new(loader: Arc<Loader>) -> Self {
        Self { guard: HandleGuard::new(loader) }
    }

    pub(crate) fn shared(&self) -> &SessionShared {
        self.guard.shared()
    }

    /// The session of a request, from its extensions, of the innermost layer.
    ///
    /// It waits only for a shared store, or for a source of one's own whose future is not ready.
    ///
    /// A streaming body that reads the session needs a handle, or a load under way, from before the response head leaves:
    /// both add `Vary: Cookie` to the head. A body that holds the extensions alone and loads the session later gets no
    /// `Vary`, since nothing tells such extensions from those that are dropped late. The handle of a late load knows that
    /// the head has left: turns fail with `HeadSent`, and so do writes in a chain without memory.
    ///
    /// # Errors
    ///
    /// [`NoLayer`](crate::MissingSessionKind::NoLayer) without a layer,
    /// [`Unavailable`](crate::MissingSessionKind::Unavailable) where the shared store does not answer.
    ///
    /// # Cancel safety
    ///
    /// A dropped load has changed no session, and the next load of the request asks the tiers again.
    pub fn load(extensions: &Extensions) -> impl Future<Output = Result<Self, MissingSession>> + Send + use<> {
        let loader = extensions.get::<LoaderHandle>().map(|loading| Arc::clone(&loading.loader));
        async move {
            match loader {
                Some(loader) => loader.load().await,
                None => {
                    note_missing_layer();
                    Err(MissingSession::no_layer())
                }
            }
        }
    }

    /// Whether a layer has seen the request.
    #[cfg(feature = "axum-0_8")]
    pub(crate) fn has_layer(extensions: &Extensions) -> bool {
        extensions.get::<LoaderHandle>().is_some()
    }

    /// The same without waiting: `None` without a layer, and where waiting would be needed.
    pub fn from_extensions(extensions: &Extensions) -> Option<Self> {
        Arc::clone(&extensions.get::<LoaderHandle>()?.loader).load_now()
    }

    // Reading.

    /// Returns the chain's answer, else `V::default()`. A copy that is no valid `V` is traced and skipped.
    pub fn value<V: SessionValue + Default>(&self) -> V {
        self.get().unwrap_or_default()
    }

    /// Returns the chain's answer, or `None` where no tier has one. A copy that is no valid `V` is traced and skipped.
    pub fn get<V: SessionValue>(&self) -> Option<V> {
        self.resolve::<V>().map(|(value, _)| value)
    }

    /// Which tier answers for `V`.
    pub fn value_source<V: SessionValue>(&self) -> ValueSource {
        ValueSource { tier: self.resolve::<V>().map_or(read::FALLBACK_TIER, |(_, tier)| tier) }
    }

    /// What each tier says of `V`, for people who wonder. It looks everywhere, so it costs more than reading.
    pub fn explain<V: SessionValue>(&self) -> Explanation {
        self.shared().flags.touched.set();
        let index = read::declared_index::<V>(self.shared());
        index.map_or_else(Explanation::of_nothing, |index| explain::explain(self.shared(), index, Access::Touch))
    }

    /// Whether sessions can have a `V`.
    pub(crate) fn declares<V: SessionValue>(&self) -> bool {
        self.shared().node.config.schema.index_of::<V>().is_some()
    }

    fn resolve<V: SessionValue>(&self) -> Option<(V, &'static str)> {
        let shared = self.shared();
        shared.flags.touched.set();
        let now = shared.node.now();
        let index = read::declared_index::<V>(shared)?;
        let look = read::stored(shared, index, now, Access::Touch);
        read::answer(shared, index, &look.stored, now, |json| value::decode::<V>(json))
    }

    /// Whether the request brought no session: there is none, or this handle made it.
    pub fn is_new(&self) -> bool {
        self.shared().flags.touched.set();
        match self.shared().live(self.shared().node.now()) {
            Ok(_) => self.shared().flags.begun_here.is_set(),
            Err(_) => true,
        }
    }

    /// When the session began; `None` if there is none. Renewal keeps it, sign-in begins anew.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.shared().flags.touched.set();
        let record = self.shared().live(self.shared().node.now()).ok()?;
        match &record.read().kind {
            Kind::Session { life, .. } => Some(self.shared().node.time.wall(life.created()).time()),
            _ => None,
        }
    }

    /// When the session ends if nobody uses it again; `None` if there is none.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.shared().flags.touched.set();
        let record = self.shared().live(self.shared().node.now()).ok()?;
        Some(self.shared().node.time.wall(record.deadline()).time())
    }

    /// The principal: who is signed in, as `identify` or `identify_by` says. `None` once the session is over.
    pub fn principal(&self) -> Option<Principal> {
        self.shared().flags.touched.set();
        self.shared().principal(self.shared().node.now()).map(|signed| signed.principal.clone())
    }

    // Writing.

    /// Writes a value. When it returns, every later read on this node sees it, every watcher is told, and the shared
    /// store, if there is one, has it; whatever becomes of the response changes nothing about that.
    ///
    /// In a chain without memory and without a shared store the handle alone has the value until the response carries the
    /// cookie: the value is lost with a response that is dropped.
    ///
    /// Two things can lose a session that a write begins:
    ///
    /// - Two first requests of one browser at the same time begin two sessions. The browser keeps the cookie of the
    ///   response that comes last, and loses the values of the other session.
    /// - A first write after the response head has left, in a task or on a socket, begins a session whose cookie no
    ///   response carries. The page must bring a token of [`relay`](Self::relay), or nobody can read the value again.
    ///
    /// # Errors
    ///
    /// `Invalid` for a value that does not validate, can't be encoded as JSON (the source is serde's error) or would not
    /// decode again, `TooLarge` for one that the browser
    /// could not hold beside the room that is kept for a sign-in, `Closed` once the
    /// [session has ended](crate::guide::login#a-browser-whose-session-was-ended-elsewhere), or where none may
    /// begin ([`CrossSite`](crate::CloseReason::CrossSite),
    /// [`Ambiguous`](crate::CloseReason::Ambiguous)). Nothing has changed then. Over a shared store `Unavailable`
    /// where it did not answer: it may have taken the write all the same, and is asked again by the next load; `Contended`
    /// where it found the write outdated 32 times in a row.
    ///
    /// # Cancel safety
    ///
    /// A dropped `set` has written the value or has not. With a shared store the store decides, and the next load asks the
    /// store.
    pub async fn set<V: SessionValue>(&self, value: V) -> Result<(), WriteError> {
        let change = self.written(&value)?;
        let scope = self.shared().node.config.schema.get(change.index).scope;
        commit::commit(self.shared(), scope, WriteScope::Values, &[change]).await.map(drop)
    }

    /// Changes a value from what it is now, and returns what it became.
    ///
    /// N concurrent calls apply N times. An update is a compare-and-set: the closure may run again, so the closure borrows or
    /// clones its captures. The update starts from the chain's answer, else from `V::default()`; so it does where a read-only
    /// source failed or was late ([`source_deadline`](crate::SessionsBuilder::source_deadline)).
    ///
    /// Updates of one owner on this node wait for each other. A closure that blocks on another update of the same session
    /// or user waits for itself, for ever: change two values in one [`batch`](Self::batch).
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `Contended` after losing 32 times in a row.
    ///
    /// # Cancel safety
    ///
    /// As [`set`](Self::set): a dropped `update` has written the closure's result or has not, even if the closure has run.
    pub async fn update<V: SessionValue + Default>(
        &self,
        mut update: impl FnMut(&mut V) + Send,
    ) -> Result<V, WriteError> {
        let index = self.writable::<V>()?;
        batch::update(self.shared(), index, &mut update).await
    }

    /// Removes a value; computed tiers answer from then on. Removing what no stored tier has changes nothing.
    ///
    /// # Errors
    ///
    /// `Closed`, and what a shared store makes of it.
    ///
    /// # Cancel safety
    ///
    /// As [`set`](Self::set): a dropped `remove` has removed the value or has not.
    pub async fn remove<V: SessionValue>(&self) -> Result<(), WriteError> {
        self.batch().remove::<V>().commit().await
    }

    /// Removes a value and returns it, if a stored tier had a valid one. Of concurrent calls a single call gets the value. `None` where there is
    /// nothing to take: without a session too, in a session that is over, and where no session may begin. A page that looks for
    /// a message at each request begins no session by that. See [messages](crate::guide::login#questions) in the guide.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    ///
    /// # Cancel safety
    ///
    /// As [`remove`](Self::remove). With a shared store a dropped `take` may have removed a value that then reaches nobody.
    pub async fn take<V: SessionValue>(&self) -> Result<Option<V>, WriteError> {
        let index = self.writable::<V>()?;
        batch::take(self.shared(), index).await
    }

    /// Removes every value of the session, but not who is signed in, nor what is the principal's own. In a job, which
    /// has no session, it empties the principal's record.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    ///
    /// # Cancel safety
    ///
    /// As [`set`](Self::set): a dropped `clear` has removed all of the values or none.
    pub async fn clear(&self) -> Result<(), WriteError> {
        commit::clear(self.shared()).await
    }

    /// Begins a batch: values of one scope that are written together or not at all.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// What this handle's browser lacks, sealed for its page to bring to the writeback endpoint; `None` where the browser
    /// lacks nothing or there is no session. To be sent after a write on a socket or stream, which can't set a cookie.
    ///
    /// After this handle's own [`destroy`](Self::destroy) on a socket or stream, the token removes the browser's cookie.
    pub fn relay(&self) -> Option<RelayToken> {
        relay_out::relay(self.shared())
    }

    // Shared by the above.

    /// The number of a declared value that may be written one by one.
    pub(crate) fn writable<V: SessionValue>(&self) -> Result<ValueIndex, WriteError> {
        let node = &self.shared().node;
        let index = node.config.schema.index_of::<V>().ok_or_else(|| {
            let message = format!("`{}` was not declared on `Sessions::builder()`", V::NAME);
            WriteError::new(WriteErrorKind::Undeclared, message).named([V::NAME])
        })?;
        match &node.config.identity {
            Identity::Value { index: identity, .. } if *identity == index => {
                let message = format!("`{}` says who is signed in: only `sign_in` and `sign_out` change it", V::NAME);
                Err(WriteError::new(WriteErrorKind::Invalid, message).named([V::NAME]))
            }
            _ => Ok(index),
        }
    }

    /// What writing a value comes to.
    pub(super) fn written<V: SessionValue>(&self, value: &V) -> Result<Mutation, WriteError> {
        let index = self.writable::<V>()?;
        let json = value::encode(value).map_err(|flaw| flaw.into_write_error(V::NAME))?;
        Ok(Mutation::set(index, V::NAME, json))
    }

    pub(crate) async fn commit_json(&self, values: Vec<(ValueIndex, Json)>) -> Result<(), WriteError> {
        let schema = &self.shared().node.config.schema;
        let change = |(index, json)| Mutation::set(index, schema.get(index).name, json);
        commit::commit_of_owners(self.shared(), values.into_iter().map(change)).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.shared().binding() {
            Binding::Anonymous => "anonymous",
            Binding::Live(record) => match record.closed(self.shared().node.now()) {
                None => "live",
                Some(_) => "closed",
            },
            Binding::Fenced(_) => "closed",
            Binding::CrossSite(_) => "refused",
            Binding::PrincipalOnly => "principal's",
        };
        f.debug_struct("Session").field("state", &state).finish_non_exhaustive()
    }
}

/// Which tier answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueSource {
    tier: &'static str,
}

impl ValueSource {
    /// `memory`, `cookie`, `default` (also where `V::default()` stands in), or the name of a source.
    pub const fn tier(&self) -> &'static str {
        self.tier
    }
}
