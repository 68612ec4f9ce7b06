//! [`Session`]: the handle through which an application reads, writes and follows a session.

use std::{fmt, future::Future, sync::Arc, time::SystemTime};

use http::Extensions;

use self::shared::{Binding, SessionShared};
pub(crate) use self::{read::Access, shared::ValueRevision};
use crate::{
    config::{DEFAULT, Identity},
    error::{MissingSession, TierError, WriteError, WriteErrorKind},
    id::Principal,
    node::Node,
    record::change::{Mutation, WriteScope},
    tier::outside::note_missing_layer,
    value::{self, SessionValue, ValueIndex},
};

pub(crate) mod batch;
pub(crate) mod commit;
pub(crate) mod cookie_out;
#[cfg(feature = "inspector")]
pub(crate) mod cookie_size;
pub(crate) mod end;
pub(crate) mod explain;
pub(crate) mod follow;
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

use self::{
    batch::Batch,
    explain::Explanation,
    loader::{HandleGuard, Loader, LoaderHandle},
    relay::RelayToken,
};

/// A loaded session: a live view of the values of one browser and of its user.
///
/// A handle is `Clone + Send + Sync + 'static` and outlives its request, so that a socket, a stream or a task can keep
/// the handle. A read always gives the newest value of the record, from every writer: a load copies no values. Clones
/// are the same handle: a renewal by one clone moves the other clones and all watches to the new id.
///
/// A handle may have no session yet. Then computed tiers answer, and the first write begins a session.
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
/// A handle is no proof of a sign-in: ask for the application's own value, or for the [`principal`].
///
/// [`principal`]: Self::principal
#[derive(Clone)]
pub struct Session {
    guard: HandleGuard,
}

impl Session {
    /// Returns a handle of a principal's values, outside of any request.
    pub(crate) async fn job(node: &Arc<Node>, principal: Principal) -> Result<Self, TierError> {
        Ok(Self::new(Loader::of_job(load::job(node, principal).await?)))
    }

    /// Returns a handle of the session that the loader has loaded.
    fn new(loader: Arc<Loader>) -> Self {
        Self { guard: HandleGuard::new(loader) }
    }

    pub(crate) fn shared(&self) -> &SessionShared {
        self.guard.shared()
    }

    /// Returns the state, and marks that the response depends on the session.
    fn touched(&self) -> &SessionShared {
        self.shared().flags.touched.set();
        self.shared()
    }

    /// Returns the session of a request, as the innermost layer has put it into the request's extensions.
    ///
    /// A load waits only for a shared store, and for a source whose future is not ready.
    ///
    /// A streaming body that reads the session needs a handle, or a load under way, from before the response head
    /// leaves: both add `Vary: Cookie` to the head. A body that holds the extensions alone and loads the session later
    /// gets no `Vary`, since the layer can't tell such extensions from extensions that are merely dropped late. The
    /// handle of a late load knows that the head has left: sign-ins and renewals fail with `HeadSent`, and so do writes
    /// in a chain without memory.
    ///
    /// # Errors
    ///
    /// [`NoLayer`](crate::MissingSessionKind::NoLayer) without a layer,
    /// [`Unavailable`](crate::MissingSessionKind::Unavailable) if the shared store does not answer.
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

    /// Returns the session without waiting: `None` without a layer, and if [`load`](Self::load) would wait or fail.
    pub fn from_extensions(extensions: &Extensions) -> Option<Self> {
        Arc::clone(&extensions.get::<LoaderHandle>()?.loader).load_now()
    }

    // Reading.

    /// Returns the chain's answer, else `V::default()`. A copy that is no valid `V` is traced and skipped.
    pub fn value<V: SessionValue + Default>(&self) -> V {
        self.get().unwrap_or_default()
    }

    /// Returns the chain's answer, or `None` if no tier has one. A copy that is no valid `V` is traced and skipped.
    pub fn get<V: SessionValue>(&self) -> Option<V> {
        self.resolve::<V>().map(|(value, _)| value)
    }

    /// Returns the tier that answers for `V`.
    pub fn value_source<V: SessionValue>(&self) -> ValueSource {
        ValueSource { tier: self.resolve::<V>().map_or(DEFAULT, |(_, tier)| tier) }
    }

    /// Returns the answer of each tier for `V`, to find out why a value is as it is. All tiers are asked, so `explain`
    /// costs more than a read.
    pub fn explain<V: SessionValue>(&self) -> Explanation {
        let shared = self.touched();
        let index = read::declared_index::<V>(shared);
        index.map(|index| explain::explain(shared, index, Access::Touch)).unwrap_or_default()
    }

    /// Returns whether the chain declares `V`.
    pub(crate) fn declares<V: SessionValue>(&self) -> bool {
        self.shared().node.config.schema.index_of::<V>().is_some()
    }

    fn resolve<V: SessionValue>(&self) -> Option<(V, &'static str)> {
        let shared = self.touched();
        let now = shared.node.now();
        let index = read::declared_index::<V>(shared)?;
        let look = read::stored(shared, index, now, Access::Touch);
        read::answer(shared, index, &look, now, |json| value::decode::<V>(json))
    }

    /// Returns whether the request brought no living session: no session lives, or this handle began the session.
    pub fn is_new(&self) -> bool {
        let shared = self.touched();
        shared.live(shared.node.now()).is_err() || shared.flags.begun_here.is_set()
    }

    /// Returns when the session began; `None` without a session. A renewal keeps this time. A sign-in begins a new
    /// session, with a new time.
    pub fn created_at(&self) -> Option<SystemTime> {
        let shared = self.touched();
        let record = shared.live(shared.node.now()).ok()?;
        record.read().life().map(|life| shared.node.time.wall(life.created()).time())
    }

    /// Returns when the session ends without a further use; `None` without a session.
    pub fn expires_at(&self) -> Option<SystemTime> {
        let shared = self.touched();
        let record = shared.live(shared.node.now()).ok()?;
        Some(shared.node.time.wall(record.deadline()).time())
    }

    /// Returns the principal, the signed-in user, from `identify` or `identify_by`. `None` once the session is over.
    pub fn principal(&self) -> Option<Principal> {
        let shared = self.touched();
        shared.principal(shared.node.now()).map(|resolved| resolved.principal.clone())
    }

    // Writing.

    /// Writes a value. Once `set` has returned, every read on this node sees the value, every watcher has been
    /// notified, and a shared store has the value. This holds even if the response fails or never arrives.
    ///
    /// In a chain with neither memory nor a shared store the handle alone has the value until the response carries
    /// the cookie: a dropped response loses the value.
    ///
    /// A session that a write begins can be lost in two ways:
    ///
    /// - Two first requests of one browser at the same time begin two sessions. The browser keeps the cookie of the
    ///   response that comes last, and loses the values of the other session.
    /// - A first write after the response head has left, in a task or on a socket, begins a session whose cookie no
    ///   response carries. Unless the page brings a token of [`relay`](Self::relay), no later request can read the
    ///   value.
    ///
    /// # Errors
    ///
    /// A refused write changes nothing:
    ///
    /// - `Invalid` for a value that does not validate, can't be encoded as JSON (the source is serde's error) or has
    ///   JSON that does not decode again, and for a value that this handle can't write by `set`, such as the identity
    ///   value.
    /// - `TooLarge` for a value that the browser could not hold beside the room that is reserved for a later sign-in.
    /// - `Closed` once the [session has ended](crate::guide::login#a-browser-whose-session-was-ended-elsewhere), or
    ///   if this request can't begin a session ([`CrossSite`](crate::CloseReason::CrossSite),
    ///   [`Ambiguous`](crate::CloseReason::Ambiguous)).
    /// - `Undeclared` for a type that was not declared.
    /// - `HeadSent` in a chain without memory, once the response head has left.
    /// - `Contended` if other nodes changed the same record first 129 times in a row, or for 5 seconds.
    ///
    /// `Unavailable` tells that a shared store did not answer. The store may still have taken the write: the next load
    /// asks the store.
    ///
    /// # Cancel safety
    ///
    /// A dropped `set` has either written the value or changed nothing. With a shared store the store decides, and the
    /// next load asks the store.
    pub async fn set<V: SessionValue>(&self, value: V) -> Result<(), WriteError> {
        let change = self.written(&value)?;
        let scope = self.shared().node.config.schema.get(change.index).scope;
        commit::commit(self.shared(), scope, WriteScope::Values, &[change]).await.map(drop)
    }

    /// Changes a value from its present content, and returns the new content.
    ///
    /// N concurrent calls apply N times. An update is a compare-and-set: the closure may run again, so the closure
    /// borrows or clones its captures. The update starts from the chain's answer, else from `V::default()`, even if
    /// a read-only source failed or was late ([`source_deadline`](crate::SessionsBuilder::source_deadline)).
    ///
    /// Updates of one owner on this node wait for each other. A closure that blocks on another update of the same
    /// session or user waits for ever: change two values in one [`batch`](Self::batch).
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `Contended` if other writers changed the same record first: over a store 129 times in a
    /// row or for 5 seconds, without a store 33 times in a row.
    ///
    /// # Cancel safety
    ///
    /// As [`set`](Self::set): a dropped `update` has either written the closure's result or changed nothing, even if
    /// the closure has run.
    pub async fn update<V: SessionValue + Default>(
        &self,
        mut update: impl FnMut(&mut V) + Send,
    ) -> Result<V, WriteError> {
        let index = self.writable::<V>()?;
        batch::update(self.shared(), index, &mut update).await
    }

    /// Removes a value; computed tiers answer from then on. If neither memory nor the cookie nor a shared store has the
    /// value, nothing changes.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), except `TooLarge`. `Invalid` tells that this handle can't remove the value by `remove`,
    /// such as the identity value.
    ///
    /// # Cancel safety
    ///
    /// As [`set`](Self::set): a dropped `remove` has either removed the value or changed nothing.
    pub async fn remove<V: SessionValue>(&self) -> Result<(), WriteError> {
        self.batch().remove::<V>().commit().await
    }

    /// Removes a value and returns it, if memory, the cookie or a shared store had a valid copy. Of concurrent calls a
    /// single call gets the value. Returns `None` if there is nothing to take: without a session, in a session that is
    /// over, and in a request that can't begin a session. A page that takes a message at each request therefore begins
    /// no session. See [messages](crate::guide::login#questions) in the guide.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    ///
    /// # Cancel safety
    ///
    /// As [`remove`](Self::remove). With a shared store a dropped `take` may have removed a value that no caller gets.
    pub async fn take<V: SessionValue>(&self) -> Result<Option<V>, WriteError> {
        let index = self.writable::<V>()?;
        batch::take(self.shared(), index).await
    }

    /// Removes all values of the session, except the identity value and the principal's own values. In a job, which has
    /// no session, `clear` empties the principal's record.
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

    /// Begins a batch: changes of several values of one scope, committed together or not at all.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Whether the shared store did not answer when this session was loaded, so that the handle has a copy of the session
    /// without the signed-in user, and refuses writes: see [`SharedTier::degrade`](crate::SharedTier::degrade).
    pub fn is_degraded(&self) -> bool {
        self.shared().flags.degraded.is_set()
    }

    /// Seals the changes that the browser's cookie lacks into a token, for the page to bring to the writeback endpoint.
    /// Returns `None` if the cookie lacks nothing, and without a session. Send the token after a write on a socket
    /// or a stream, which can't set a cookie.
    ///
    /// After this handle's own [`destroy`](Self::destroy) on a socket or stream, the token removes the browser's
    /// cookie.
    pub fn relay(&self) -> Option<RelayToken> {
        relay_out::relay(self.shared())
    }

    // Shared by the writing methods.

    /// Returns the index of a declared value, except for the identity value: only a sign-in or a sign-out changes that
    /// value.
    pub(crate) fn writable<V: SessionValue>(&self) -> Result<ValueIndex, WriteError> {
        let (config, name) = (&self.shared().node.config, V::NAME);
        let refuse = |kind, message| Err(WriteError::new(kind, message).named([name]));
        match (config.schema.index_of::<V>(), &config.identity) {
            (None, _) => {
                let message = format!("`{name}` is not declared: add `.value::<..>()` to `Sessions::builder()`");
                refuse(WriteErrorKind::Undeclared, message)
            }
            (Some(index), Identity::Value { index: identity, .. }) if *identity == index => {
                let message = format!(
                    "`{name}` is the identity value, which names the signed-in user: change the value with `sign_in` \
                     or `sign_out`"
                );
                refuse(WriteErrorKind::Invalid, message)
            }
            (Some(index), _) => self.shared().refuse_degraded().map(|()| index),
        }
    }

    /// Returns the mutation that writes a value.
    pub(super) fn written<V: SessionValue>(&self, value: &V) -> Result<Mutation, WriteError> {
        let index = self.writable::<V>()?;
        let json = value::encode(value).map_err(|flaw| flaw.into_write_error(V::NAME))?;
        Ok(Mutation::set(index, V::NAME, json))
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

/// The tier that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueSource {
    tier: &'static str,
}

impl ValueSource {
    /// The tier's name: `memory`, `cookie`, `default` (also for `V::default()`), or the name of a source.
    pub const fn tier(&self) -> &'static str {
        self.tier
    }
}
