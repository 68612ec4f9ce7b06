//! [`Sessions`]: the checked configuration that layers, writeback and jobs share.

use std::{
    fmt,
    future::{Future, poll_fn},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::Extensions;

use self::builder::SessionsBuilder;
use crate::{
    error::{MissingSession, TierError, WriteError},
    id::Principal,
    node::{Node, followed::NoticeLink},
    notify::{HandleWakers, Subscribers, yield_now},
    session::{Session, commit, end, follow, loader},
    tier::{outside::SourceTier, shared::SharedTier},
};

pub(crate) mod builder;

/// A chain of tiers and its declared values. Build the chain once, and share clones.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, MemoryTier, Principal, Scope, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// # struct Points(u32);
/// # impl SessionValue for Points {
/// #     const NAME: &'static str = "points";
/// #     const SCOPE: Scope = Scope::Principal;
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// let sessions = Sessions::builder()
///     .tier(MemoryTier::builder().build())
///     .tier(CookieTier::sealed(KeyRing::generate()?))
///     .value::<Points>()
///     .identify(|head| head.extensions.get::<Principal>().cloned())
///     .build()?;
///
/// // A job gives a user points; open pages of the user show them at once.
/// let ada = sessions.for_principal(Principal::new("ada")).await?;
/// ada.update::<Points>(|points| points.0 += 10).await?;
/// assert_eq!(ada.value::<Points>(), Points(10));
/// assert_eq!(sessions.stats().records, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sessions {
    pub(crate) node: Arc<Node>,
    pub(crate) resolved: Arc<[Resolved]>,
}

/// Puts a typed value into the extensions of a request.
pub(crate) type Resolved = fn(&Session, &mut Extensions);

impl Sessions {
    /// Returns a builder with an empty chain, [`Resolution::Newest`](crate::Resolution::Newest), an idle lifetime of
    /// two days and an absolute lifetime of thirty.
    pub fn builder() -> SessionsBuilder {
        SessionsBuilder::default()
    }

    /// Loads the session of a request from the extensions that a layer of these sessions has filled. A request may pass
    /// through layers of several [`Sessions`]: this method takes the layer of these sessions, and [`Session::load`]
    /// takes the innermost layer.
    ///
    /// # Errors
    ///
    /// As [`Session::load`].
    ///
    /// # Cancel safety
    ///
    /// As [`Session::load`].
    pub async fn load(&self, extensions: &Extensions) -> Result<Session, MissingSession> {
        loader::load(extensions, &self.node).await
    }

    /// Returns a handle of a principal's values outside of any request, for jobs and webhooks. A write of a
    /// session-scope value fails (`Invalid`), and the handle ends only by [`shutdown`](Self::shutdown). In a chain with
    /// neither memory nor a shared store, every write of the handle fails with `HeadSent`: no response can carry the
    /// value.
    ///
    /// # Errors
    ///
    /// If a shared store does not answer.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has changed nothing.
    pub async fn for_principal(&self, principal: Principal) -> Result<Session, TierError> {
        Session::job(&self.node, principal).await
    }

    /// Ends all sessions of a principal: the open sessions, and each session whose id is older than the call and whose
    /// cookie comes later. Sign-ins after the call stay.
    ///
    /// Over a shared store the call ends the sessions of all nodes. The store stamps the call and the birth of each
    /// session, so no clock of a node decides. A node that has read the session lately learns of the call within 30
    /// seconds.
    ///
    /// Without a shared store the call ends the sessions on this node. "Before" and "later" mean the order of events on
    /// this node, whatever steps its clock makes. For a session of another node that this node has not seen yet, the
    /// clocks of the two nodes decide:
    ///
    /// - If the other node's clock is ahead, the call misses sign-ins there shortly before the call.
    /// - If this node's clock is ahead, the call also ends sign-ins there shortly after the call.
    ///
    /// "Shortly" is the difference of the clocks, at most [`max_skew`](crate::SessionsBuilder::max_skew). A second call
    /// after that time ends the missed sessions. After a restart with a clock that was set back, the clocks decide
    /// about this node's sessions from before the restart too.
    ///
    /// The identity value (`identify_by`) names the principal of a session at once. With `identify` the head of a
    /// request names the principal: a session without an open handle ends at its next request.
    ///
    /// # Errors
    ///
    /// `Unavailable` if a shared store does not answer. `NoMemory` in a chain with neither a memory tier nor a shared
    /// store: a cookie does not tell of the end of other cookies.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has ended all of the sessions or none. With a shared store the store decides, and the next load
    /// asks the store.
    pub async fn end_all_sessions(&self, principal: Principal) -> Result<(), WriteError> {
        let session = self.for_principal(principal).await?;
        end::check_ends_kept(session.shared())?;
        if let Some(principal) = session.shared().principal(self.node.now()) {
            end::revoke(session.shared(), &principal).await?;
        }
        Ok(())
    }

    /// Erases all values of a principal everywhere: in memory, in the shared store, and in the cookies of the principal's
    /// browsers, each at its next request. No cookie, no memory of another node and no backup of the store brings an
    /// earlier value back: the store keeps a removal of each declared value. A value that is written after the call
    /// stays.
    ///
    /// The values of the principal's sessions belong to the sessions: call
    /// [`end_all_sessions`](Self::end_all_sessions) too. The store also erases values that this build does not declare. A
    /// cookie keeps such a value until a build that declares the value opens the cookie.
    ///
    /// Another node that has read the principal's record lately answers from memory for up to 30 seconds, and at once
    /// if the node [follows](Self::follow) the store. Without a shared store the call erases the values on this node.
    ///
    /// ```
    /// # use layered_session::{CookieTier, KeyRing, MemoryTier, Principal, Scope, SessionValue, Sessions};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Division(i64);
    /// # impl SessionValue for Division {
    /// #     const NAME: &'static str = "division"; const SCOPE: Scope = Scope::Principal;
    /// # }
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
    /// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Division>();
    /// # let sessions = chain.identify(|_| None).build()?;
    /// let ada = Principal::new("ada");
    /// sessions.for_principal(ada.clone()).await?.set(Division(3)).await?;
    /// sessions.end_all_sessions(ada.clone()).await?;
    /// sessions.forget(ada.clone()).await?;
    /// assert_eq!(sessions.for_principal(ada).await?.get::<Division>(), None);
    /// # Ok::<_, layered_session::tier::BoxError>(()) }).ok_or("waits for nothing")??;
    /// # Ok::<_, layered_session::tier::BoxError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `Unavailable` if a shared store does not answer. `HeadSent` in a chain with neither a memory tier nor a shared
    /// store: nothing could keep the removals.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has erased all of the values or none. With a shared store the store decides, and the next load
    /// asks the store.
    pub async fn forget(&self, principal: Principal) -> Result<(), WriteError> {
        let session = self.for_principal(principal).await?;
        commit::forget(session.shared()).await
    }

    /// Ends every `closed()`, watch and stream with [`CloseReason::Shutdown`](crate::CloseReason::Shutdown), so that
    /// sockets do not delay a graceful stop. Sessions live on, and requests under way are served.
    pub fn shutdown(&self) {
        self.node.stop();
    }

    /// Drops expired records once a minute, for as long as the future is polled and until [`shutdown`](Self::shutdown).
    /// Without a sweeper other calls do this work in memory in small steps, and memory keeps expired records while there
    /// are no calls. In both cases no expired value is ever served.
    ///
    /// The sweeper also lets a shared store delete its expired records, see
    /// [`Store::maintain`](crate::tier::Store::maintain). Nothing else does this: without a sweeper the file of a
    /// `SqliteStore` grows.
    ///
    /// # Cancel safety
    ///
    /// A dropped sweeper stops, and leaves nothing behind. Another sweeper continues the work.
    pub fn sweeper(&self) -> impl Future<Output = ()> + Send + use<> {
        let node = Arc::clone(&self.node);
        async move {
            if node.memory.is_none() && node.store.is_none() {
                return;
            }
            let listed = Listed::join(&node.subscribers);
            let slot = listed.wakers.register();
            while !node.is_stopping() {
                let mut minute = node.time.clock.sleep(Duration::from_secs(60));
                poll_fn(|cx| {
                    while slot.poll(cx).is_ready() {
                        if node.is_stopping() {
                            return Poll::Ready(());
                        }
                    }
                    minute.as_mut().poll(cx)
                })
                .await;
                // Sweeps in bounded steps of some 15 µs, and yields to the runtime after each step.
                while node.memory.as_ref().is_some_and(|memory| memory.sweep(node.now(), 64)) {
                    yield_now().await;
                }
                if let Some(store) = &node.store {
                    while !node.is_stopping() && matches!(store.maintain(&node.time).await, Ok(true)) {
                        yield_now().await;
                    }
                }
            }
        }
    }

    /// Follows the commits of other nodes over the shared store, for as long as the future is polled and until
    /// [`shutdown`](Self::shutdown): `tokio::spawn(sessions.follow())`, beside the [`sweeper`](Self::sweeper).
    ///
    /// A watch or a stream on this node then sees another node's change at once, and ends with the true reason when
    /// another node ends the session. Without a follower a watch sees such a change at the next load of the session on
    /// this node, and a load within 30 seconds.
    ///
    /// The store tells of commits by notices, see [`Store::notices`](crate::tier::Store::notices). The follower reads each
    /// changed record that a handle holds, at most 64 records at the same time, and one read of a record at a time. The
    /// next load reads a changed record that no handle holds. Once a second the follower looks at the watched records, and
    /// reads those that memory no longer vouches for. While notices are lost, memory vouches for a second instead of 30,
    /// see [`Stats::notice_link`]. Without a shared store the future ends at once.
    ///
    /// # Cancel safety
    ///
    /// A dropped follower stops, and the notices count as lost. Another follower continues the work.
    pub fn follow(&self) -> impl Future<Output = ()> + Send + use<> {
        let node = Arc::clone(&self.node);
        async move {
            let listed = Listed::join(&node.subscribers);
            follow::run(Arc::clone(&node), Arc::clone(&listed.wakers)).await;
        }
    }

    /// Returns counts of the memory tier, and of refusals for which no caller gets an error.
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let memory = self.node.memory.as_ref();
        let count = |of: fn(&crate::memory::Memory) -> &AtomicU64| memory.map_or(0, |memory| read(of(memory)));
        Stats {
            records: memory.map_or(0, crate::memory::Memory::len),
            tombstones: memory.map_or(0, |memory| memory.tombstones.len()),
            bytes: memory.map_or(0, crate::memory::Memory::bytes),
            hits: memory.map_or(0, |memory| memory.records.hits()),
            misses: memory.map_or(0, |memory| memory.records.misses()),
            expired: count(|memory| &memory.expired),
            evicted_clean: count(|memory| &memory.evicted_clean),
            evicted_dirty: count(|memory| &memory.evicted_dirty),
            revocations_lost: count(|memory| &memory.revocations_lost),
            capped_cookies: read(&self.node.counters.capped_cookies),
            skewed_tokens: read(&self.node.counters.skewed_tokens),
            skewed_versions: read(&self.node.counters.skewed_versions),
            foreign_tokens: read(&self.node.counters.foreign_tokens),
            refused_tokens: read(&self.node.counters.refused_tokens),
            store_failures: self.node.store.as_ref().map_or(0, SharedTier::failures),
            notice_link: self.node.followed.link(self.node.now()),
            store_open: self.node.store.as_ref().is_some_and(SharedTier::is_open),
            store_rewound: read(&self.node.counters.store_rewound),
            degraded_loads: read(&self.node.counters.degraded_loads),
            source_failures: self.node.config.sources().map(SourceTier::failures).sum(),
            missing_layers: self.node.missing_layers.count(),
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("node", &self.node).finish_non_exhaustive()
    }
}

/// A sweeper's subscription to the shutdown. A dropped sweeper unsubscribes.
struct Listed<'a> {
    subscribers: &'a Subscribers,
    wakers: Arc<HandleWakers>,
}

impl<'a> Listed<'a> {
    fn join(subscribers: &'a Subscribers) -> Self {
        let wakers = Arc::default();
        subscribers.subscribe(&wakers);
        Self { subscribers, wakers }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.subscribers.unsubscribe(&self.wakers);
    }
}

/// Counts since the start of the process, and the present content of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records in memory: sessions, principals and tombstones.
    pub records: usize,
    /// The tombstones among the records. Each stands for an ended session whose cookies could still open.
    pub tombstones: usize,
    /// Bytes of the records, as counted by the memory tier.
    pub bytes: usize,
    /// Requests that carried a cookie of ours, loaded their session and found the session's record in memory. A request
    /// with several such cookies counts once.
    pub hits: u64,
    /// Requests that carried a cookie of ours, loaded their session and did not find the session's record in memory:
    /// the record is new to this node, has expired or was evicted, or the cookie was made up.
    pub misses: u64,
    /// Records and tombstones dropped after their expiry.
    pub expired: u64,
    /// Evicted records without a loss: a browser, the shared store, or both together hold all values.
    pub evicted_clean: u64,
    /// Evicted records that may have held the only copy of a value.
    pub evicted_dirty: u64,
    /// Tombstones dropped at their cap, and evicted records of users whose sessions were all ended: the cookies of
    /// these sessions open again on this node. Losses are traced as an error, with one line a minute.
    pub revocations_lost: u64,
    /// Loads whose request had Cookie fields too long for the scan. A request that does not ask for its session is not
    /// counted.
    pub capped_cookies: u64,
    /// Genuine tokens sealed further ahead than [`max_skew`](crate::SessionsBuilder::max_skew) allows.
    pub skewed_tokens: u64,
    /// Versions further ahead than `max_skew` allows, in genuine tokens and in the shared store. Each read of such a
    /// version counts.
    pub skewed_versions: u64,
    /// Cookies of our name and tokens of pages that did not open: of another application or a removed key, cut, or made
    /// up.
    pub foreign_tokens: u64,
    /// Genuine tokens that changed nothing. The page brought the token late, twice, or for another session or user; or
    /// the request had cookies of several sessions, which counts once.
    pub refused_tokens: u64,
    /// Failed reads and writes of the shared store: each fails a load or a write, also while the node does not ask the
    /// store. They are traced at `error`, at most one read and one write a second.
    pub store_failures: u64,
    /// Whether the node has stopped asking the shared store, after several calls without an answer: see
    /// [`SharedTier`](crate::SharedTier#while-the-store-fails).
    pub store_open: bool,
    /// Records of which the shared store has lost commits that it had acknowledged, after a crash or a failover to a late
    /// replica: see [`SharedTier`](crate::SharedTier#if-the-store-loses-commits). Traced as a warning, at most once a
    /// minute.
    pub store_rewound: u64,
    /// Loads for which memory and the cookie answered, since the shared store did not: see
    /// [`SharedTier::degrade`](crate::SharedTier::degrade).
    pub degraded_loads: u64,
    /// Whether the node gets the notices of the shared store: see [`Sessions::follow`].
    pub notice_link: NoticeLink,
    /// Loads without the answers of a source that failed or missed
    /// [`source_deadline`](crate::SessionsBuilder::source_deadline). The failures and the delays of a source are each
    /// traced at most once a second.
    pub source_failures: u64,
    /// Calls of [`Sessions::load`] for a request that passed no layer of the same `Sessions`: a mistake of the
    /// application, traced at `error`. A call of [`Session::load`] without any layer is traced too, but not counted.
    pub missing_layers: u64,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{CookieTier, KeyRing, MemoryTier};

    #[tokio::test]
    async fn dropped_sweeper_unsubscribes() {
        let sessions = Sessions::builder().tier(MemoryTier::builder().build());
        let sessions = sessions.tier(CookieTier::sealed(KeyRing::generate().unwrap())).build().unwrap();
        for _ in 0..3 {
            let mut sweeper = std::pin::pin!(sessions.sweeper());
            assert!(sweeper.as_mut().now_or_never().is_none());
            assert_eq!(sessions.node.subscribers.len(), 1);
        }
        assert_eq!(sessions.node.subscribers.len(), 0);
    }
}
