//! The state that all handles of one process share: the configuration, the tiers, the clock and the counts.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use http::request::Parts;

use self::{accepted_nonces::AcceptedNonces, exempt_renewals::ExemptRenewals, traces::Traces};
use crate::{
    config::{Config, Identity},
    cross_site::refusal::RefusalTraces,
    memory::Memory,
    node_clock::NodeClock,
    notify::Subscribers,
    record::write_context::{BudgetShare, WriteContext, WriteScope},
    throttle::{MINUTE, Throttle},
    tier::{
        default::DefaultRule,
        outside::{Failures, SharedTier},
    },
    time::Millis,
    value::{Json, Scope, ValueIndex},
    version::Version,
};

pub(crate) mod accepted_nonces;
pub(crate) mod exempt_renewals;
pub(crate) mod records;
pub(crate) mod store;
pub(crate) mod traces;

pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) memory: Option<Memory>,
    pub(crate) store: Option<SharedTier>,
    pub(crate) time: NodeClock,
    /// The longest absolute lifetime of a session beyond the configured lifetime, in milliseconds.
    longest_absolute_ms: AtomicU64,
    /// Throttles the traces of cookies over the budget.
    pub(crate) over_budget: Throttle,
    /// All waiting handles, which a shutdown notifies.
    pub(crate) subscribers: Subscribers,
    stopping: AtomicBool,
    /// The number of calls of `end_all_sessions`. A handle looks up its principal again only after another call.
    pub(crate) revocations: AtomicU64,
    pub(crate) exempt_renewals: ExemptRenewals,
    pub(crate) accepted_nonces: AcceptedNonces,
    pub(crate) counters: Counters,
    /// Loads from requests without a layer of these sessions.
    pub(crate) missing_layers: Failures,
    /// Throttles the traces of versions further ahead than `max_skew`.
    skews: Throttle,
    pub(crate) refusals: RefusalTraces,
    pub(crate) traces: Traces,
}

/// Counts of refusals without an error for a caller.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) capped_cookies: AtomicU64,
    pub(crate) skewed_tokens: AtomicU64,
    pub(crate) skewed_versions: AtomicU64,
    pub(crate) foreign_tokens: AtomicU64,
    pub(crate) refused_tokens: AtomicU64,
}

impl Node {
    pub(crate) fn new(config: Config, memory: Option<Memory>, store: Option<SharedTier>, time: NodeClock) -> Self {
        Self {
            traces: Traces::new(config.schema.len()),
            config,
            memory,
            store,
            time,
            longest_absolute_ms: AtomicU64::new(0),
            over_budget: Throttle::default(),
            subscribers: Subscribers::default(),
            stopping: AtomicBool::new(false),
            revocations: AtomicU64::new(0),
            exempt_renewals: ExemptRenewals::default(),
            accepted_nonces: AcceptedNonces::default(),
            counters: Counters::default(),
            missing_layers: Failures::default(),
            skews: Throttle::default(),
            refusals: RefusalTraces::default(),
        }
    }

    pub(crate) fn now(&self) -> Millis {
        self.time.now()
    }

    /// Notes a genuine version from another node, a token or the store.
    pub(crate) fn note_version(&self, version: Version, now: Millis) {
        if self.time.note_version(version, now) {
            self.counters.skewed_versions.fetch_add(1, Ordering::Relaxed);
            if let Some(left_out) = self.skews.due(1, now, MINUTE) {
                let message =
                    "a version is further in the future than `max_skew` allows: compare the clocks of the nodes";
                tracing::warn!(%version, left_out, "{message}");
            }
        }
    }

    pub(crate) fn write_context(&self, scope: Scope, now: Millis) -> WriteContext<'_> {
        // A tombstone stays for as long as a token sealed before the removal could bring the value back. The tokens of
        // a session all idle out. The value of a principal may come with a browser that returns much later, from a node
        // that missed the removal.
        let Config { budget, max_budget, lifetime, .. } = &self.config;
        let (budget, max_budget, tombstones) = match scope {
            Scope::Session => (budget.session, max_budget.session, lifetime.idle.max(Duration::from_secs(86_400))),
            Scope::Principal => (budget.principal, max_budget.principal, self.longest_absolute()),
        };
        let reserved = match (scope, &self.config.identity) {
            (Scope::Session, Identity::Value { index, .. }) => Some((*index, self.config.budget.identity)),
            _ => None,
        };
        WriteContext {
            schema: &self.config.schema,
            now,
            time: &self.time,
            scope: WriteScope::Values,
            budget,
            max_budget,
            share: BudgetShare::Ordinary,
            reserved,
            store_stamps: self.store.is_some(),
            tombstones: tombstones.saturating_add(self.time.max_skew),
        }
    }

    /// Returns the longest absolute lifetime of a session known to this node. The end of all sessions of a principal is
    /// remembered for as long.
    pub(crate) fn longest_absolute(&self) -> Duration {
        Duration::from_millis(self.longest_absolute_ms.load(Ordering::Relaxed)).max(self.config.lifetime.absolute)
    }

    pub(crate) fn raise_longest_absolute(&self, absolute: Duration) {
        if absolute > self.config.lifetime.absolute {
            self.longest_absolute_ms
                .fetch_max(u64::try_from(absolute.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Ends every watch and stream of this node: a shutdown.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.subscribers.notify_all();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Returns the answers of the default rules that read the request's head.
    pub(crate) fn compute_defaults(&self, head: &Parts) -> Vec<(ValueIndex, Json)> {
        let mut answers = Vec::new();
        for (index, answer) in self.config.default_rules() {
            let DefaultRule::Computed(compute) = answer else { continue };
            match compute(head) {
                Ok(json) => answers.push((*index, json)),
                Err(flaw) => {
                    let name = self.config.schema.get(*index).name;
                    self.traces.invalid_default((*index, name), &flaw, self.now());
                }
            }
        }
        answers
    }

    /// Whether the load of a session may have to wait, for the store or a source.
    pub(crate) fn waits(&self) -> bool {
        self.store.is_some() || self.config.has_sources
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("config", &self.config)
            .field("memory", &self.memory.is_some())
            // The name alone, since the `Debug` of a store may show secrets.
            .field("store", &self.store.as_ref().map(SharedTier::name))
            .finish_non_exhaustive()
    }
}
