//! The state that all handles of one process share: the configuration, the tiers, the clock and the counts; and the
//! records of the process: their look-up in memory, their creation, and the merge of the store's copies.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::request::Parts;

use self::{accepted_nonces::AcceptedNonces, exempt_renewals::ExemptRenewals, followed::Followed, traces::Traces};
use crate::{
    config::{ComputedTier, Config, Identity},
    cross_site::refusal::RefusalTraces,
    error::{CloseReason, WriteError},
    id::{RecordKey, SessionId},
    memory::{EndedSession, Memory, SessionLookup, record::Record},
    node_clock::NodeClock,
    notify::Subscribers,
    record::{
        change::{BudgetShare, IncomingFrom, IncomingValue, WriteContext, WriteScope},
        cookie_sync::CookieSync,
        life::{MAX_AGE, SessionLife},
        state::{Kind, State},
        values::{StoredValue, ValueSlot},
    },
    throttle::{MINUTE, Throttle},
    tier::{NodeId, StoredRecord, default::DefaultRule, outside::Failures, shared::SharedTier},
    time::Millis,
    value::{Json, Scope, ValueIndex},
    version::Version,
};

pub(crate) mod accepted_nonces;
mod debt;
pub(crate) mod exempt_renewals;
pub(crate) mod followed;
pub(crate) mod store;
pub(crate) mod traces;

pub(crate) struct Node {
    id: NodeId,
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
    pub(crate) followed: Followed,
    pub(crate) accepted_nonces: AcceptedNonces,
    pub(crate) counters: Counters,
    /// Loads from requests without a layer of these sessions.
    pub(crate) missing_layers: Failures,
    /// Throttles the traces of versions further ahead than `max_skew`.
    skews: Throttle,
    /// Throttles the traces of commits that the store has lost.
    rewinds: Throttle,
    pub(crate) refusals: RefusalTraces,
    pub(crate) traces: Traces,
}

/// Counts of refusals for which no caller gets an error.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) capped_cookies: AtomicU64,
    pub(crate) skewed_tokens: AtomicU64,
    pub(crate) skewed_versions: AtomicU64,
    pub(crate) foreign_tokens: AtomicU64,
    pub(crate) refused_tokens: AtomicU64,
    pub(crate) degraded_loads: AtomicU64,
    pub(crate) store_rewound: AtomicU64,
}

impl Node {
    pub(crate) fn new(config: Config, memory: Option<Memory>, store: Option<SharedTier>, time: NodeClock) -> Self {
        Self {
            id: NodeId::random(),
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
            followed: Followed::default(),
            accepted_nonces: AcceptedNonces::default(),
            counters: Counters::default(),
            missing_layers: Failures::default(),
            skews: Throttle::default(),
            rewinds: Throttle::default(),
            refusals: RefusalTraces::default(),
        }
    }

    pub(crate) const fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn now(&self) -> Millis {
        self.time.now()
    }

    /// Notes a genuine version from another node, a token or the store.
    pub(crate) fn note_version(&self, version: Version, now: Millis) {
        if self.time.note_version(version, now) {
            self.counters.skewed_versions.fetch_add(1, Ordering::Relaxed);
            if let Some(left_out) = self.skews.due(1, now, MINUTE) {
                let message = "the version of a value is further in the future than `max_skew` allows: compare the \
                               clocks of the nodes";
                tracing::warn!(%version, left_out, "{message}");
            }
        }
    }

    pub(crate) fn write_context(&self, scope: Scope, now: Millis) -> WriteContext<'_> {
        // A tombstone stays for as long as a token sealed before the removal could bring the value back. Every token of
        // a session passes its idle deadline within the idle lifetime. The value of a principal may come with a browser
        // that returns much later, from a node that missed the removal.
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
            stamp: None,
            tombstones: tombstones.saturating_add(self.time.max_skew),
        }
    }

    /// Returns the longest absolute lifetime of a session known to this node. The end of all sessions of a principal is
    /// remembered for as long.
    pub(crate) fn longest_absolute(&self) -> Duration {
        Duration::from_millis(self.longest_absolute_ms.load(Ordering::Relaxed)).max(self.config.lifetime.absolute)
    }

    /// Returns the time until which a browser may keep a present cookie of any node. Other nodes may have given sessions
    /// longer lifetimes than this node knows of. No browser keeps a cookie for longer than `MAX_AGE`.
    pub(crate) fn cookies_until(&self, now: Millis) -> Millis {
        now.after(self.longest_absolute().max(MAX_AGE))
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
        for (index, answer) in self.config.computed.iter().flat_map(ComputedTier::rules) {
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

    /// Returns the record of a session that a token names, and creates the record if memory has none.
    ///
    /// # Errors
    ///
    /// The end of the session, if the session has ended on this node.
    pub(crate) fn session_record(
        &self,
        key: &RecordKey,
        now: Millis,
        make: impl FnOnce() -> Record,
    ) -> Result<Arc<Record>, EndedSession> {
        let Some(memory) = &self.memory else { return Ok(Arc::new(make())) };
        let record = memory.session_or_insert(key, now, make)?;
        // Counts the record and indexes its expiry here: application code runs before the merge of the token, and may
        // panic.
        memory.account_and_sweep(&record, now);
        Ok(record)
    }

    /// Looks up the session of an id in memory.
    pub(crate) fn lookup(&self, id: &SessionId) -> SessionLookup {
        let memory = self.memory.as_ref();
        memory.map_or(SessionLookup::Unknown, |memory| memory.session(&RecordKey(*id.as_bytes()), self.now()))
    }

    /// Whether this node knows an id, of a live or an ended session.
    pub(crate) fn is_known(&self, id: &SessionId) -> bool {
        !matches!(self.lookup(id), SessionLookup::Unknown)
    }

    /// Whether the session is live in memory. The record may know of a later use than a token.
    pub(crate) fn lives(&self, id: &SessionId) -> bool {
        matches!(self.lookup(id), SessionLookup::Live(record) if record.closed(self.now()).is_none())
    }

    /// Returns the reason for the end of an id, if this node knows the end.
    pub(crate) fn end_reason(&self, id: &SessionId) -> Option<CloseReason> {
        match self.lookup(id) {
            SessionLookup::Ended(ended) => Some(ended.reason()),
            SessionLookup::Live(_) | SessionLookup::Unknown => None,
        }
    }

    /// Returns the empty state of a session that a write would begin.
    pub(crate) fn empty_session(&self, now: Millis) -> State {
        let life = SessionLife::begin(Version::ZERO, now, self.config.lifetime);
        State::new(Kind::Session { life, browser: CookieSync::default() })
    }

    /// Puts the record of a new id into memory. The guard removes the record again unless the caller keeps it.
    ///
    /// # Errors
    ///
    /// `Closed` if the id is in use or has ended, for example if an order is carried out a second time.
    pub(crate) fn insert_record(
        &self,
        id: SessionId,
        life: SessionLife,
        now: Millis,
    ) -> Result<(Arc<Record>, InsertGuard<'_>), WriteError> {
        let key = RecordKey(*id.as_bytes());
        let memory = self.memory.as_ref();
        let make = || Record::session(key, life, now);
        let record = match memory {
            Some(memory) => memory.create(&key, now, make).ok_or_else(|| WriteError::closed(CloseReason::Renewed))?,
            None => Arc::new(make()),
        };
        Ok((record, InsertGuard { memory, key }))
    }

    /// Merges the store's copy of an owner into a record.
    pub(crate) fn merge_stored(&self, record: &Record, stored: StoredRecord, scope: Scope, now: Millis) {
        if scope == Scope::Principal {
            self.raise_not_before(record, stored.not_before(), now);
        }
        let schema = &self.config.schema;
        let values = stored.into_entries().filter_map(|entry| {
            // A value that this build does not declare stays in the store. Another build may keep the value on the
            // server alone, so the value must not go into the cookie.
            let index = schema.index_by_name(&entry.name)?;
            // The store's version is kept, however far ahead: an update compares with that version.
            self.note_version(entry.version, now);
            let stored = StoredValue::new(entry.version, entry.json, self.time.written(entry.version, now));
            // A session's record may hold values of either scope. A principal's record holds values of principal scope
            // alone.
            let belongs = scope == Scope::Session || schema.get(index).scope == Scope::Principal;
            belongs.then(|| IncomingValue::Declared(ValueSlot::incoming(index, stored)))
        });
        let values: Vec<_> = values.collect();
        record.merge(IncomingFrom::Store, values.into_iter(), self.write_context(scope, now), None);
    }

    /// Ends all sessions of a principal whose ids were made up to this version. Each handle checks its session at its
    /// next use.
    pub(crate) fn raise_not_before(&self, record: &Record, version: Version, now: Millis) {
        // Kept until the last cookie that was sealed before can no longer open.
        if record.raise_not_before(version, self.longest_absolute(), now) {
            self.note_version(version, now);
            self.revocations.fetch_add(1, Ordering::AcqRel);
            record.notify_all();
        }
    }

    /// Counts the bytes of a changed record, and does a bounded step of the memory tier's sweep and eviction.
    pub(crate) fn account(&self, record: &Arc<Record>, now: Millis) {
        if let Some(memory) = &self.memory {
            memory.account_and_sweep(record, now);
        }
    }
}

/// The record of a new id before its first write has succeeded. A guard that drops before [`keep`](Self::keep) removes
/// the record from memory: after an error, or when the client leaves while the store works.
#[must_use]
pub(crate) struct InsertGuard<'a> {
    memory: Option<&'a Memory>,
    key: RecordKey,
}

impl InsertGuard<'_> {
    pub(crate) fn keep(mut self) {
        self.memory = None;
    }
}

impl Drop for InsertGuard<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory {
            memory.forget(&self.key);
        }
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
