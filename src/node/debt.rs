//! The debt of a node to the shared store: the part of a record that memory has and the store's record lacks. The store
//! may have lost commits after a crash or a failover, and a cookie may have brought values that the store has lost.

use std::sync::atomic::Ordering;

use futures_util::stream::{self, StreamExt};

use super::{
    Node,
    followed::SentEnd,
    store::{NodeStore, StoreWrite},
};
use crate::{
    error::TierError,
    id::OwnerId,
    memory::record::{
        Record,
        extras::{StoreSync, Told},
    },
    record::{
        state::{Kind, State},
        values::StoredValue,
    },
    throttle::MINUTE,
    tier::{Change, CommitKind, Committed, Known, Snapshot, StoredRecord},
    time::Millis,
    value::{Json, Scope},
    version::Version,
};

/// The maximum number of ends that the follower repeats at the same time.
const MAX_ENDS: usize = 64;

/// A value or a removal to bring to the store.
struct Owed {
    name: &'static str,
    json: Option<Json>,
    version: Version,
}

impl Node {
    /// Compares the store's answer with the last answer and with memory, before memory merges the answer. Notes a
    /// debt if the store's record lacks a part. `told` is the last answer when the store was asked.
    pub(crate) fn note_debt(&self, record: &Record, told: Told, answer: &Snapshot, now: Millis) {
        let sync = record.extras().sync();
        // A commit of this node came between: the answer may be older than the commit.
        if sync.told().known != told.known {
            return;
        }
        let state = record.read();
        let (is_lost, lacks) = match (answer, &state.kind) {
            (Snapshot::Present(stored), kind) => {
                let is_same = stored.generation() == told.known.generation();
                let is_lost = told.known != Known::NONE && (!is_same || stored.newest() < told.known.newest());
                // The store creates a record of a session once, unless another node has restored the session.
                let is_session = matches!(kind, Kind::Session { .. });
                let is_other = is_session && told.known != Known::NONE && !is_same && !self.restores();
                (is_lost, !is_other && self.lacks(stored, &state, now))
            }
            (Snapshot::Absent, Kind::Principal(principal)) => {
                let is_lost = told.known != Known::NONE;
                // Also without a loss: a cookie may have brought values that the store had lost before.
                let is_full = principal.not_before != Version::ZERO || self.owed(&state, now).next().is_some();
                (is_lost, is_full)
            }
            // A session that the store does not have is over: the store may have lost the session's end too.
            (Snapshot::Absent | Snapshot::Unchanged { .. } | Snapshot::Ended(_), _) => return,
        };
        drop(state);
        if lacks {
            sync.owe();
        }
        if is_lost && lacks {
            self.counters.store_rewound.fetch_add(1, Ordering::Relaxed);
            self.followed.note_rewind();
            if let Some(left_out) = self.rewinds.due(1, now, MINUTE) {
                tracing::warn!(
                    left_out,
                    "the shared store has lost commits that it had acknowledged: this node brings the store what memory \
                     still has"
                );
            }
        }
    }

    /// Whether memory has something that the store's record lacks.
    fn lacks(&self, stored: &StoredRecord, state: &State, now: Millis) -> bool {
        let is_behind = match &state.kind {
            Kind::Session { life, .. } => {
                stored.life().map_or(Version::ZERO, |stored| stored.version()) < life.lifetime_version()
            }
            Kind::Principal(principal) => stored.not_before() < principal.not_before,
            Kind::Ended(_) => return false,
        };
        is_behind
            || self
                .owed(state, now)
                .any(|(name, value)| stored.entry(name).is_none_or(|entry| entry.rank() < value.rank()))
    }

    /// Returns the values and removals that a record may bring to the store. The store may have lost a principal's record
    /// whole, with the removal of a value that this node has not seen removed. So a principal's value goes to the store
    /// only for as long as a removal would have stayed.
    fn owed<'a>(&'a self, state: &'a State, now: Millis) -> impl Iterator<Item = (&'static str, &'a StoredValue)> {
        let schema = &self.config.schema;
        let kept = self.write_context(Scope::Principal, now).tombstones;
        let of_principal = matches!(state.kind, Kind::Principal(_));
        let is_young = move |value: &StoredValue| !of_principal || now < value.written.after(kept);
        state.values.declared().filter_map(move |slot| {
            let spec = schema.get(slot.index);
            let belongs = !of_principal || spec.scope == Scope::Principal;
            let counts = belongs && is_young(&slot.value) && !slot.value.is_expired(spec.max_age, now);
            counts.then_some((spec.name, &slot.value))
        })
    }
}

impl NodeStore<'_> {
    /// Brings the store what its record lacks: first the end of all sessions of a user, and then the values, the removals
    /// and the lifetime in one commit. The store takes only copies that are newer than its own.
    pub(crate) async fn pay_debt(self, record: &Record, now: Millis) -> Result<(), TierError> {
        let Some(debt) = record.sync().and_then(StoreSync::take_debt) else { return Ok(()) };
        self.pay(record, now).await?;
        debt.settle();
        Ok(())
    }

    async fn pay(self, record: &Record, now: Millis) -> Result<(), TierError> {
        let node = self.node();
        let (owner, kind, not_before, life, until, owed) = {
            let state = record.read();
            let owed = |(name, value): (&'static str, &StoredValue)| Owed {
                name,
                json: value.json.clone(),
                version: value.version,
            };
            let owed: Vec<_> = node.owed(&state, now).map(owed).collect();
            // The payment is no use of the session: an open stream must not keep a session alive by itself.
            let until = node.stored_until(&state, record.used());
            match &state.kind {
                Kind::Session { life, .. } => {
                    let kind = if node.restores() { CommitKind::Upsert } else { CommitKind::Update };
                    let life = Some(node.stored_life(life));
                    (node.config.owner(&record.id()), kind, Version::ZERO, life, until, owed)
                }
                Kind::Principal(principal) => {
                    let owner = OwnerId::from_hash(record.key().0);
                    (owner, CommitKind::Upsert, principal.not_before, None, until, owed)
                }
                Kind::Ended(_) => return Ok(()),
            }
        };
        if not_before != Version::ZERO {
            let revoke = StoreWrite::of(CommitKind::Revoke { up_to: Some(not_before) }, node.cookies_until(now));
            self.settle_debt(record, self.commit(owner, revoke).await?, now);
        }
        let changes: Vec<_> = owed.iter().map(Owed::change).collect();
        let write = StoreWrite { changes: &changes, life, ..StoreWrite::of(kind, until) };
        self.settle_debt(record, self.commit(owner, write).await?, now);
        Ok(())
    }

    /// Repeats this node's ends of sessions of the last minute, which the store may have lost: otherwise the session would
    /// live on nodes that have not seen its end. The store keeps an end that it still has.
    pub(crate) async fn repeat_ends(self, now: Millis) {
        let repeat = async |SentEnd { owner, reason, successor, until, .. }: SentEnd| {
            // After a failure the store's next loss makes the node try again.
            let _ = self.end(owner, reason, successor, until).await;
        };
        stream::iter(self.node().followed.sent_ends(now)).for_each_concurrent(MAX_ENDS, repeat).await;
    }

    fn settle_debt(self, record: &Record, committed: Committed, now: Millis) {
        match committed {
            Committed::Applied { stamp, newest, generation } => {
                self.node().note_version(stamp, now);
                self.node().note_stored(record, Known::new(generation, newest), false, now);
            }
            // The session is over, or another commit came first: the next load reads the store.
            _ => record.extras().sync().suspect(),
        }
    }
}

impl Owed {
    fn change(&self) -> Change<'_> {
        Change { name: self.name, json: self.json.as_ref(), version: Some(self.version), replaces: None }
    }
}
