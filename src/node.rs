//! The configuration that all handles share, and the pure rules: who answers, versions, fill, tombstones.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::request::Parts;

use self::{accepted_nonces::AcceptedNonces, exempt_renewals::ExemptRenewals, traces::Traces};
use crate::{
    cookie::{CookieTier, fingerprint::FingerprintKey, header::Name},
    cross_site::refusal::RefusalTraces,
    id::{OwnerId, Principal, RecordKey, SessionId},
    memory::{EndedSession, Memory, record::Record},
    node_clock::NodeClock,
    notify::Subscribers,
    record::{
        budget::Budget,
        life::Lifetime,
        values::Resolution,
        write_context::{BudgetShare, WriteContext, WriteScope},
    },
    throttle::{MINUTE, Throttle},
    tier::{
        default::DefaultRule,
        outside::{Failures, SharedTier, SourceTier},
    },
    time::Millis,
    value::{Json, Schema, Scope, ValueIndex},
    version::Version,
};

pub(crate) mod accepted_nonces;
pub(crate) mod exempt_renewals;
pub(crate) mod traces;

/// The word to caches on a response whose request read the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// No shared cache may store the response, unless the handler said otherwise.
    Private,
    /// `Vary: Cookie` alone.
    Vary,
}

pub(crate) struct Chain {
    pub(crate) schema: Schema,
    pub(crate) memory: Option<Memory>,
    pub(crate) cookie: CookieTier,
    pub(crate) cookie_name: Name,
    pub(crate) fingerprints: FingerprintKey,
    pub(crate) store: Option<SharedTier>,
    pub(crate) computed: Vec<ComputedTier>,
    pub(crate) has_sources: bool,
    /// A request's head has to be asked for something: known from the start, since every request wants to know.
    pub(crate) asks_head: bool,
    /// The names that sources are asked for: all.
    pub(crate) names: Vec<&'static str>,
    pub(crate) resolution: Resolution,
    pub(crate) time: NodeClock,
    pub(crate) lifetime: Lifetime,
    /// Milliseconds of the longest absolute lifetime that a session was given beyond that.
    pub(crate) longest_absolute_ms: AtomicU64,
    /// How long a principal's record is kept from its last use.
    pub(crate) principal_idle: Duration,
    /// How far ahead of ours the clock of a node that sealed a token may be.
    pub(crate) max_skew: Duration,
    pub(crate) audience: Box<str>,
    pub(crate) identity: Identity,
    pub(crate) budget: Budget,
    /// The same of the largest cookie that any deploy sealed: a cookie over the budget is still sent whole.
    pub(crate) max_budget: Budget,
    /// Cookies over the budget that no trace has told of.
    pub(crate) over_budget: Throttle,
    /// Handles that wait for anything: a shutdown tells them.
    pub(crate) subscribers: Subscribers,
    pub(crate) stopping: AtomicBool,
    /// Counts calls of `end_all_sessions`: a handle looks its principal up again only after one.
    pub(crate) revocations: AtomicU64,
    pub(crate) spared: ExemptRenewals,
    pub(crate) accepted: AcceptedNonces,
    pub(crate) counters: Counters,
    /// Requests without a layer of these sessions.
    pub(crate) missing_layers: Failures,
    /// Versions from further ahead than the allowed skew.
    pub(crate) skews: Throttle,
    pub(crate) refusals: RefusalTraces,
    pub(crate) traces: Traces,
    pub(crate) reads: Reads,
}

/// What happened that nobody was told of.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) capped_cookies: AtomicU64,
    pub(crate) skewed_tokens: AtomicU64,
    pub(crate) skewed_versions: AtomicU64,
    pub(crate) foreign_tokens: AtomicU64,
    pub(crate) refused_tokens: AtomicU64,
}

/// A tier that computes its answers, in the order of the chain.
pub(crate) enum ComputedTier {
    Default(Vec<(ValueIndex, DefaultRule)>),
    Source(SourceTier),
}

impl ComputedTier {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Default(_) => DEFAULT,
            Self::Source(source) => source.name(),
        }
    }

    pub(crate) fn rules(&self) -> &[(ValueIndex, DefaultRule)] {
        match self {
            Self::Default(rules) => rules,
            Self::Source(_) => &[],
        }
    }

    pub(crate) fn asks_head(&self) -> bool {
        self.is_source() || self.rules().iter().any(|(_, answer)| matches!(answer, DefaultRule::Computed(_)))
    }

    pub(crate) const fn is_source(&self) -> bool {
        matches!(self, Self::Source(_))
    }
}

/// What a computed tier answered for one request.
#[derive(Debug)]
pub(crate) struct ComputedAnswer {
    pub(crate) tier: &'static str,
    pub(crate) index: ValueIndex,
    pub(crate) json: Json,
    /// How long it holds, if not for as long as the handle lives.
    pub(crate) until: Option<Millis>,
}

pub(crate) const MEMORY: &str = "memory";
pub(crate) const COOKIE: &str = "cookie";
pub(crate) const DEFAULT: &str = "default";

/// Who a request's principal is.
pub(crate) enum Identity {
    Nobody,
    /// The request's head says so.
    Head(Box<Identify>),
    /// A session-scope value says so.
    Value {
        index: ValueIndex,
        derive: Box<Derive>,
    },
}

pub(crate) type Identify = dyn Fn(&Parts) -> Option<Principal> + Send + Sync;

pub(crate) type Derive = dyn Fn(&[u8]) -> Option<Principal> + Send + Sync;

/// A principal, and what its record is found by.
#[derive(Debug)]
pub(crate) struct ResolvedPrincipal {
    pub(crate) principal: Principal,
    pub(crate) owner: OwnerId,
}

impl ResolvedPrincipal {
    pub(crate) const fn key(&self) -> RecordKey {
        RecordKey(*self.owner.as_bytes())
    }
}

impl Chain {
    pub(crate) fn now(&self) -> Millis {
        self.time.now()
    }

    /// The record of a session that a token names, made if there is none.
    ///
    /// # Errors
    ///
    /// Where the session has ended on this node.
    pub(crate) fn session_record(
        &self,
        key: &RecordKey,
        now: Millis,
        make: impl FnOnce() -> Record,
    ) -> Result<Arc<Record>, EndedSession> {
        let Some(memory) = &self.memory else { return Ok(Arc::new(make())) };
        let record = memory.session_or_insert(key, now, make)?;
        // Counted, and to expire, from here on: application code runs before the token is taken in, and may panic.
        memory.account_and_sweep(&record, now);
        Ok(record)
    }

    /// Notes a genuine version from elsewhere.
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

    pub(crate) fn resolve_principal(&self, principal: Principal) -> Arc<ResolvedPrincipal> {
        let owner = principal.owner(&self.audience);
        Arc::new(ResolvedPrincipal { principal, owner })
    }

    pub(crate) fn owner(&self, id: &SessionId) -> OwnerId {
        id.owner(&self.audience)
    }

    pub(crate) fn terms(&self, scope: Scope, now: Millis) -> WriteContext<'_> {
        // A tombstone stays as long as something sealed before it could still open. A session's tokens all idle out in
        // time; a principal's value may ride in a browser that comes back later, on a node that missed the removal.
        let (budget, most, tombstones) = match scope {
            Scope::Session => {
                let idle = self.lifetime.idle.max(Duration::from_secs(86_400));
                (self.budget.session, self.max_budget.session, idle)
            }
            Scope::Principal => (self.budget.principal, self.max_budget.principal, self.longest_absolute()),
        };
        let skew = self.max_skew;
        let tombstones = tombstones.saturating_add(skew);
        let reserved = match (scope, &self.identity) {
            (Scope::Session, Identity::Value { index, .. }) => Some((*index, self.budget.identity)),
            _ => None,
        };
        let (schema, time, store_stamps) = (&self.schema, &self.time, self.store.is_some());
        let (extent, share) = (WriteScope::Values, BudgetShare::Ordinary);
        WriteContext {
            schema,
            now,
            time,
            scope: extent,
            budget,
            max_budget: most,
            share,
            reserved,
            store_stamps,
            tombstones,
            skew,
        }
    }

    /// The longest that any session lives, as far as this node knows: what holds for all of a principal's must last.
    pub(crate) fn longest_absolute(&self) -> Duration {
        Duration::from_millis(self.longest_absolute_ms.load(Ordering::Relaxed)).max(self.lifetime.absolute)
    }

    pub(crate) fn raise_longest_absolute(&self, absolute: Duration) {
        if absolute > self.lifetime.absolute {
            self.longest_absolute_ms
                .fetch_max(u64::try_from(absolute.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The answers that default rules give for one request.
    pub(crate) fn compute_defaults(&self, head: &Parts) -> Vec<(ValueIndex, Json)> {
        let mut answers = Vec::new();
        for (index, answer) in self.default_rules() {
            let DefaultRule::Computed(compute) = answer else { continue };
            match compute(head) {
                Ok(json) => answers.push((*index, json)),
                Err(flaw) => {
                    let name = self.schema.get(*index).name;
                    self.traces.invalid_default((*index, name), &flaw, self.now());
                }
            }
        }
        answers
    }

    pub(crate) fn default_rules(&self) -> impl Iterator<Item = &(ValueIndex, DefaultRule)> {
        self.computed.iter().flat_map(ComputedTier::rules)
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &SourceTier> {
        self.computed.iter().filter_map(|tier| match tier {
            ComputedTier::Default(_) => None,
            ComputedTier::Source(source) => Some(source),
        })
    }

    /// Whether a session may have to be waited for.
    pub(crate) fn waits(&self) -> bool {
        self.store.is_some() || self.has_sources
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("values", &self.names)
            .field("memory", &self.memory.is_some())
            .field("cookie", &self.cookie)
            // By name: what a store's own `Debug` shows is not for us to vouch for.
            .field("store", &self.store.as_ref().map(|store| store.name()))
            .field("computed", &self.computed.iter().map(ComputedTier::name).collect::<Vec<_>>())
            .field("resolution", &self.resolution)
            .finish_non_exhaustive()
    }
}
