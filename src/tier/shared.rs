//! [`SharedTier`]: the tier around a shared store, and the conduct of a node while the store fails.

use std::{
    error::Error, fmt, future::poll_fn, panic::AssertUnwindSafe, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use futures_util::future::FutureExt;

use self::{
    breaker::{Breaker, Switch},
    flight::{Flights, Landing, Read},
};
use crate::{
    error::{BuildError, BuildErrorKind, StoreError, StoreErrorKind, TierError},
    id::OwnerId,
    node_clock::NodeClock,
    tier::{Ask, Commit, Committed, NoticeStream, Snapshot, Store, StoreFuture, Touch, outside::Failures},
    time::{Clock, Sleep},
};

mod absent;
mod breaker;
mod flight;
#[cfg(feature = "testing")]
#[cfg(test)]
mod tests;

/// The default of [`SharedTier::deadline`].
const DEADLINE: Duration = Duration::from_millis(250);

/// The longest deadline that a chain may set.
const LONGEST_DEADLINE: Duration = Duration::from_secs(60);

/// The time for which a node remembers that the store has no record of an owner.
const ABSENCE: Duration = Duration::from_secs(5);

/// A shared store in a chain, around an application's own [`Store`].
///
/// The tier counts the store's failures as [`Stats::store_failures`](crate::Stats::store_failures), and traces a failed
/// read and a failed write each at most once a second.
///
/// ```
/// # #[cfg(feature = "testing")] {
/// # use layered_session::{CookieTier, KeyRing, MemoryTier, Sessions, testing::SpyStore};
/// use layered_session::SharedTier;
///
/// let store = SpyStore::new(); // or a store of your own
/// # let keys = KeyRing::generate()?;
/// let sessions = Sessions::builder()
///     .tier(MemoryTier::builder().build())
///     .tier(CookieTier::sealed(keys))
///     .tier(SharedTier::new(store))
///     .build()?;
/// assert_eq!(sessions.stats().store_failures, 0);
/// # }
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
///
/// # Reads
///
/// - Loads that need the same owner's record at the same time share one read of the store. A load that begins after the
///   answer to a write of its node never shares a read that began before this answer, so a load sees each earlier write
///   of its node. The read goes on as long as one of its loads waits.
/// - A node remembers for five seconds that the store has no record of an owner: a cookie of a session that the store
///   does not have costs one read in five seconds. A write of the node to the owner ends the memory. The node remembers
///   at most 57,344 such owners. No error is remembered.
///
/// # While the store fails
///
/// - Each call of the store has a [deadline](Self::deadline), 250 milliseconds unless the chain sets another. The
///   deadline covers the whole call, also the wait for a connection. The deadline runs by the sessions'
///   [`Clock`](crate::Clock). A load whose call is late fails. A late write fails too, and the store may have made the
///   write: the next load asks the store.
/// - After five calls in a row that were late or had no connection, the node stops asking the store for a second: every
///   load and write that needs the store fails at once, with the kind
///   [`NotAsked`](crate::tier::StoreErrorKind::NotAsked), instead of a wait for the deadline each. The first call after
///   the second is a probe. An answer to the probe ends the pause; a late probe, or a probe without a connection,
///   begins a pause of twice the length, at most ten seconds. A store that is full, read-only or starting answers, so
///   such errors begin no pause, nor does the kind `Other`.
/// - A load that needs the store fails, unless the chain [degrades](Self::degrade). Then memory and the cookie answer:
///   - A session that the store has confirmed within the last five minutes loads as usual, with its user, unless a
///     sign-out or another end got no answer. A write fails as always.
///   - The handle of any other session has a copy of the session's values, without the signed-in user and without the
///     user's values: the session may have ended on another node. All writes of the handle fail with `Unavailable`, the
///     handle sees no later change, and the response sets no cookie. [`Session::is_degraded`](crate::Session::is_degraded)
///     tells such a handle.
///   - An upgrade to a WebSocket and `GET /events` of the writeback still fail for such a session, since a page there
///     waits for changes. [`RequireLayer`](crate::RequireLayer) answers 503 instead of the redirect to the login.
///     [`Sessions::for_principal`](crate::Sessions::for_principal) fails too.
///   - [`Stats::degraded_loads`](crate::Stats::degraded_loads) counts the loads.
/// - The begin and the end of a pause are traced, and [`Stats::store_open`](crate::Stats::store_open) shows a pause.
///
/// # If the store loses commits
///
/// A store can lose commits that it has acknowledged: after a power cut without `fsync`, after a failover to a late
/// replica, or by an eviction.
///
/// - A node that was told of a later state of a record finds the loss at its next read or update of the record, at the
///   latest after 30 seconds of use, and brings the store the values, the removals, the lifetime and the end of all
///   sessions that memory still has. [`Stats::store_rewound`](crate::Stats::store_rewound) counts these records.
/// - A cookie brings the store the values that its read lacked, for the user's other browsers.
/// - A copy keeps its version, so a later write to the store stays. A user's record that the store has lost whole gets
///   no value that is older than the longest lifetime of a session.
/// - A session that the store has lost is over, unless the chain calls
///   [`restore_from_cookie`](Self::restore_from_cookie).
/// - A node that [follows](crate::Sessions::follow) the store and finds a loss also brings back the ends of sessions of
///   the last minute. Without a follower a lost end holds only on the nodes that know of the end.
pub struct SharedTier {
    caller: Caller,
    flights: Arc<Flights>,
    reads: Failures,
    writes: Failures,
    degrades: bool,
    restores: bool,
}

impl SharedTier {
    /// Puts a store into a tier.
    pub fn new(store: impl Store) -> Self {
        let caller = Caller { store: Arc::new(store), breaker: Arc::default(), deadline: DEADLINE };
        let (reads, writes) = (Failures::default(), Failures::default());
        Self { caller, flights: Arc::default(), reads, writes, degrades: false, restores: false }
    }

    /// Sets how long a load or a write waits for each call of the store: from one millisecond to one minute, otherwise
    /// [`build`](crate::SessionsBuilder::build) fails. The default is 250 milliseconds: a store in the same data centre
    /// answers within a few milliseconds, and the rest leaves time for a new connection. A visitor who waits for
    /// several calls one after the other still gets an answer within a second.
    ///
    /// The deadline drops the call's future. A client of the store needs no deadline of its own, and a longer deadline
    /// of the client has no effect.
    ///
    /// A store that is not ready at once arms the sleep of the [`Clock`]. Tokio's clock panics there on a runtime
    /// without timers, and outside of a runtime.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.caller.deadline = deadline;
        self
    }

    /// Lets memory and the cookie answer while the store does not answer: see
    /// [While the store fails](#while-the-store-fails). Without this setting such a load fails.
    ///
    /// Choose the setting for pages whose values are preferences. A page that must know the user fails anyway: the
    /// handle of an unconfirmed session names no user.
    #[must_use]
    pub const fn degrade(mut self) -> Self {
        self.degrades = true;
        self
    }

    pub(crate) const fn degrades(&self) -> bool {
        self.degrades
    }

    /// Restores a session that the store does not have from the browser's cookie and from memory: for stores whose
    /// records may be lost or evicted, in applications that keep preferences. Without this setting the store decides
    /// whether a session exists, and a session that the store has lost is over.
    ///
    /// A session whose end the store has lost is restored too. So [`build`](crate::SessionsBuilder::build) refuses the
    /// setting in a chain with [`identify_by`](crate::SessionsBuilder::identify_by): a stolen cookie could sign in again
    /// after the user's sign-out. An end that the store still has stays.
    #[must_use]
    pub const fn restore_from_cookie(mut self) -> Self {
        self.restores = true;
        self
    }

    pub(crate) const fn restores(&self) -> bool {
        self.restores
    }

    /// Checks the settings.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let flaw = if self.caller.deadline < Duration::from_millis(1) {
            "the `deadline` of the `SharedTier` is under a millisecond, so no store that waits could answer: extend \
             `deadline`"
        } else if self.caller.deadline > LONGEST_DEADLINE {
            "the `deadline` of the `SharedTier` is over a minute, so requests would pile up while the store does not \
             answer: shorten `deadline`"
        } else {
            return Ok(());
        };
        Err(BuildErrorKind::Setting.error(flaw))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.caller.store.name()
    }

    pub(crate) fn notices(&self) -> Option<NoticeStream> {
        self.caller.store.notices()
    }

    pub(crate) fn failures(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }

    /// Whether the node asks the store no more, after calls without an answer.
    pub(crate) fn is_open(&self) -> bool {
        self.caller.breaker.is_open()
    }

    /// Returns the snapshots for asks, in the order of the asks.
    pub(crate) async fn read(&self, asks: &[Ask], time: &NodeClock) -> Result<Vec<Snapshot>, TierError> {
        let now = time.clock.monotonic();
        let seats = self.flights.join(asks, now, ABSENCE, |landing| self.start(landing, time));
        seats.wait().await.map_err(|error| self.failed(&self.reads, "read", error, time))
    }

    /// Creates a call that reads the asks of a landing.
    fn start(&self, landing: Landing, time: &NodeClock) -> Read {
        let (caller, clock) = (self.caller.clone(), Arc::clone(&time.clock));
        Box::pin(async move {
            let asks = landing.asks();
            let call = caller.call(&*clock, |store| store.read(asks));
            // A panic fails each reader, like an error: the readers that did not poll would wait for ever.
            let answered = AssertUnwindSafe(call).catch_unwind().await;
            let answered = answered.unwrap_or_else(|_| Err(StoreError::other("the store panicked")));
            let snapshots = answered.and_then(|snapshots| checked(asks, snapshots))?;
            landing.land(&snapshots);
            Ok(Arc::new(snapshots))
        })
    }

    /// Notes that the record of an owner has changed: later reads ask the store.
    pub(crate) fn forget_absent(&self, owner: &OwnerId) {
        self.flights.note_change(owner);
    }

    /// Notes that the record of any owner may have changed: later reads ask the store.
    pub(crate) fn forget_reads(&self) {
        self.flights.note_changes();
    }

    /// Whether a read of an owner would be answered as absent, without a call of the store.
    pub(crate) fn knows_absent(&self, owner: &OwnerId, time: &NodeClock) -> bool {
        self.flights.knows_absent(owner, time.clock.monotonic(), ABSENCE)
    }

    /// Returns the snapshot for an ask.
    pub(crate) async fn read_one(&self, ask: Ask, time: &NodeClock) -> Result<Snapshot, TierError> {
        let snapshots = self.read(&[ask], time).await?;
        Ok(snapshots.into_iter().next().expect("a read has a snapshot for each ask"))
    }

    pub(crate) async fn commit(&self, commit: Commit<'_>, time: &NodeClock) -> Result<Committed, TierError> {
        // Dropped before the caller has the answer, also after an error or if the caller drops the call. A record that
        // counts the call as abandoned must count after this drop: a later read would otherwise share an earlier answer.
        let _changed = Changed { flights: &self.flights, owner: commit.owner() };
        let answered = self.caller.call(&*time.clock, |store| store.commit(commit)).await;
        answered.map_err(|error| self.failed(&self.writes, "write", error, time))
    }

    /// Keeps records for longer: see [`Store::touch`].
    pub(crate) async fn touch(&self, touches: &[Touch], time: &NodeClock) -> Result<(), TierError> {
        let answered = self.caller.call(&*time.clock, |store| store.touch(touches)).await;
        answered.map_err(|error| self.failed(&self.writes, "touch", error, time))
    }

    /// Deletes some expired records: see [`Store::maintain`].
    pub(crate) async fn maintain(&self, time: &NodeClock) -> Result<bool, TierError> {
        let answered = self.caller.call(&*time.clock, |store| store.maintain()).await;
        answered.map_err(|error| self.failed(&self.writes, "delete expired records", error, time))
    }

    fn failed(&self, failures: &Failures, act: &str, error: StoreError, time: &NodeClock) -> TierError {
        if let Some(left_out) = failures.note(time) {
            let (tier, kind) = (self.name(), error.kind());
            tracing::error!(tier, ?kind, error = error.source(), left_out, "the shared store failed to {act}");
        }
        TierError::new(self.name(), error)
    }
}

/// Shows the name alone: a store's own `Debug` may show secrets.
impl fmt::Debug for SharedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedTier").field(&self.name()).finish()
    }
}

/// The end of a commit: later reads of the owner ask the store.
struct Changed<'a> {
    flights: &'a Flights,
    owner: OwnerId,
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.flights.note_change(&self.owner);
    }
}

/// The calls of a store: within the deadline, and through the breaker.
#[derive(Clone)]
struct Caller {
    store: Arc<dyn Store>,
    breaker: Arc<Breaker>,
    deadline: Duration,
}

impl Caller {
    async fn call<'a, T: Unpin>(
        &'a self,
        clock: &dyn Clock,
        call: impl FnOnce(&'a dyn Store) -> StoreFuture<'a, T>,
    ) -> Result<T, StoreError> {
        let permit = self.breaker.admit(clock.monotonic(), self.deadline)?;
        let answered = within(self.deadline, clock, call(&*self.store)).await;
        let tier = self.store.name();
        match permit.report(&answered, clock.monotonic()) {
            Some(Switch::Opened) => tracing::error!(
                tier,
                "the shared store does not answer: the node stops asking the store, and sends a probe from time to time"
            ),
            Some(Switch::Closed) => tracing::info!(tier, "the shared store answers again"),
            None => {}
        }
        answered
    }
}

/// Waits for the answer of a call until the deadline.
async fn within<T: Unpin>(
    deadline: Duration,
    clock: &dyn Clock,
    mut call: StoreFuture<'_, T>,
) -> Result<T, StoreError> {
    // Armed only if the first poll is pending: a store in this process answers at once.
    let mut late: Option<Sleep> = None;
    poll_fn(|cx| {
        if let Poll::Ready(answer) = Pin::new(&mut call).poll(cx) {
            return Poll::Ready(answer);
        }
        let late = late.get_or_insert_with(|| clock.sleep(deadline));
        late.as_mut().poll(cx).map(|()| {
            let span = deadline.as_millis();
            Err(StoreError::new(
                StoreErrorKind::Timeout,
                format!("no answer within {span} ms (`SharedTier::deadline`)"),
            ))
        })
    })
    .await
}

/// Refuses snapshots that don't fit their asks.
fn checked(asks: &[Ask], snapshots: Vec<Snapshot>) -> Result<Vec<Snapshot>, StoreError> {
    if snapshots.len() != asks.len() {
        let (answers, asked) = (snapshots.len(), asks.len());
        let plural = if asked == 1 { "" } else { "s" };
        return Err(StoreError::other(format!("the store gave {answers} snapshots for {asked} ask{plural}")));
    }
    let mut pairs = asks.iter().zip(&snapshots);
    match pairs.any(|(ask, snapshot)| ask.known().is_none() && matches!(snapshot, Snapshot::Unchanged { .. })) {
        true => Err(StoreError::other("the store answered `Unchanged` to an ask without `known`")),
        false => Ok(snapshots),
    }
}
