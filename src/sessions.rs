//! [`Sessions`]: the configuration that layer, writeback and jobs share, checked once.

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
    cross_site::CrossSiteRule,
    error::{MissingSession, TierError, WriteError},
    id::Principal,
    node::Node,
    notify::{HandleWakers, Subscribers},
    session::{Session, end, loader::Loader},
    tier::outside::{SharedTier, SourceTier, trace_missing_layer},
};

pub(crate) mod builder;

/// A chain of tiers and the values that are resolved through it: build it once, clone it freely.
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
    pub(crate) cross_site: Arc<CrossSiteRule>,
}

/// Puts a typed value into the extensions of a request.
pub(crate) type Resolved = fn(&Session, &mut Extensions);

impl Sessions {
    /// Begins with an empty chain, [`Resolution::Newest`](crate::Resolution::Newest), two days unused and thirty in all.
    pub fn builder() -> SessionsBuilder {
        SessionsBuilder::default()
    }

    /// The session of a request whose extensions a layer of these sessions has filled, even if another session layer
    /// lies inside.
    ///
    /// # Errors
    ///
    /// As [`Session::load`].
    ///
    /// # Cancel safety
    ///
    /// As [`Session::load`].
    pub async fn load(&self, extensions: &Extensions) -> Result<Session, MissingSession> {
        match Loader::of(extensions, &self.node) {
            Some(loader) => loader.load().await,
            None => {
                if let Some(left_out) = self.node.missing_layers.note(&self.node.time) {
                    trace_missing_layer(left_out);
                }
                Err(MissingSession::no_layer())
            }
        }
    }

    /// A principal's own values, outside of any request: for jobs and webhooks. Session-scope values can't be written
    /// through it, and it never ends but by [`shutdown`](Self::shutdown). Without memory and without a shared store there
    /// is no place for what it would write, and it fails as after a response's head (`HeadSent`).
    ///
    /// # Errors
    ///
    /// Where a shared store does not answer.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has changed nothing.
    pub async fn for_principal(&self, principal: Principal) -> Result<Session, TierError> {
        Session::job(&self.node, principal).await
    }

    /// Ends all sessions of a principal on this node: those that are open, and those whose cookies come later and were
    /// sealed before. Sign-ins from now on are not concerned.
    ///
    /// Before and after mean the order that this node sees: no step of its own clock confuses it. Of sign-ins on other nodes
    /// the node knows what it has seen, and for the rest it goes by the clocks. Where the other node's clock is ahead, a
    /// sign-in in the time before the call by which it is ahead is missed if this node has not seen the session yet; where
    /// this node's clock is ahead, sign-ins elsewhere in as much time after the call end too. Neither is more than
    /// [`max_skew`](crate::SessionsBuilder::max_skew), and a second call once that has passed reaches what the first missed.
    /// (After a restart the same holds of sessions from before it, if the clock was set back.)
    ///
    /// Which sessions are the principal's is known where `identify_by` reads it from the session, or where `identify`
    /// names the principal at the session's next request.
    ///
    /// # Errors
    ///
    /// `Unavailable` where a shared store does not answer. `NoMemory` in a chain without a memory tier: a cookie tells
    /// nothing of the end of other cookies.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has ended all of the sessions or none: it waits only before the end, for a shared store's answer.
    pub async fn end_all_sessions(&self, principal: Principal) -> Result<(), WriteError> {
        let session = self.for_principal(principal).await?;
        end::check_ends_kept(session.shared())?;
        if let Some(signed) = session.shared().principal(self.node.now()) {
            end::revoke(session.shared(), &signed);
        }
        Ok(())
    }

    /// Ends every `closed()`, watch and stream with [`CloseReason::Shutdown`](crate::CloseReason::Shutdown), so that sockets
    /// don't hold a graceful stop up. Sessions live on, and requests that are still on their way are served.
    pub fn shutdown(&self) {
        self.node.stop();
    }

    /// Drops expired records once a minute, for as long as the future is polled and until [`shutdown`](Self::shutdown).
    /// Without a sweeper passing calls do this work in small steps, and memory stays as it is while there are no calls.
    /// Nothing expired is ever served either way.
    ///
    /// # Cancel safety
    ///
    /// A dropped sweeper stops, and leaves nothing behind. The next one goes on from there.
    pub fn sweeper(&self) -> impl Future<Output = ()> + Send + use<> {
        let node = Arc::clone(&self.node);
        async move {
            let Some(memory) = &node.memory else { return };
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
                // In bounded steps of some 15 µs, each on a turn of its own.
                while memory.sweep(node.now(), 64) {
                    yield_now().await;
                }
            }
        }
    }

    /// Counts of the memory tier and of what was refused silently.
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

/// Waits for the next turn, on whatever runtime.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Counts since the start, and what memory holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Records in memory: sessions, principals and tombstones.
    pub records: usize,
    /// Tombstones among them: sessions that have ended, and whose cookies could still open.
    pub tombstones: usize,
    /// Bytes that they take, as the memory tier counts them.
    pub bytes: usize,
    /// Requests that brought a cookie of ours and asked for their session whose record was in memory. One with several such
    /// cookies counts once.
    pub hits: u64,
    /// Those whose record was not: it is new to this node, has expired or was evicted, or somebody made the cookie up.
    pub misses: u64,
    /// Records dropped because they were over.
    pub expired: u64,
    /// Evicted records that a browser or the shared store holds whole, or both together.
    pub evicted_clean: u64,
    /// Evicted records with something that nobody else had.
    pub evicted_dirty: u64,
    /// Tombstones dropped at their cap, and evicted records of users whose sessions were all ended: their cookies could
    /// still open, and do now on this node. Each is traced as an error, a minute's in one line.
    pub revocations_lost: u64,
    /// Loads that found their request's Cookie fields too long to look through: a request that doesn't ask for its
    /// session isn't counted.
    pub capped_cookies: u64,
    /// Genuine cookies from further ahead than the allowed skew of clocks.
    pub skewed_tokens: u64,
    /// Versions from further ahead than that in genuine cookies and in the shared store. Each counts as often as the node reads
    /// it.
    pub skewed_versions: u64,
    /// Values of our cookie and tokens of pages that don't open: from another application or a removed key, cut, or made up.
    pub foreign_tokens: u64,
    /// Genuine tokens that changed nothing: a page brought them late, twice, or for another session or user, or the cookies of
    /// one request were of several sessions.
    pub refused_tokens: u64,
    /// Reads and writes that the shared store did not carry out: each is a load or a write that failed. They are traced at
    /// `error`, at most one read and one write a second.
    pub store_failures: u64,
    /// Loads that went on without the answers of a source, which failed or missed
    /// [`source_deadline`](crate::SessionsBuilder::source_deadline). They are traced, each source at most once a second.
    pub source_failures: u64,
    /// Loads of these sessions from requests that no layer of theirs had seen: a mistake of the application, traced at
    /// `error`. A [`Session::load`] without any layer is traced too, and counted nowhere.
    pub missing_layers: u64,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{CookieTier, KeyRing, MemoryTier};

    #[tokio::test]
    async fn dropped_sweeper_leaves_nothing_behind() {
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
