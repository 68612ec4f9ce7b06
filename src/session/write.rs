//! A write to one record: first to the shared store, if the chain has a store, and then to memory.

use std::sync::Arc;

use super::shared::SessionShared;
use crate::{
    error::{CloseReason, TierError, WriteError, WriteErrorKind},
    id::OwnerId,
    memory::record::Record,
    node::store::NodeStore,
    record::{
        change::Mutation,
        write_context::{BudgetShare, CommitRejected, WriteContext, WriteScope},
    },
    tier::{CommitKind, Committed},
    time::Millis,
    value::Scope,
    version::Version,
};

/// The most attempts of an outdated write. As many losses in a row mean that another writer writes in a loop.
const MAX_ATTEMPTS: usize = 32;

/// The record that a write goes to.
pub(super) struct WriteTarget {
    pub(super) record: Arc<Record>,
    pub(super) scope: Scope,
    pub(super) extent: WriteScope,
    pub(super) share: BudgetShare,
}

impl WriteTarget {
    pub(super) const fn session(record: Arc<Record>) -> Self {
        Self { record, scope: Scope::Session, extent: WriteScope::Values, share: BudgetShare::Ordinary }
    }

    pub(super) fn principal(record: Arc<Record>) -> Self {
        Self { scope: Scope::Principal, ..Self::session(record) }
    }
}

/// Why a commit changed nothing.
#[derive(Debug)]
pub(super) enum CommitFailure {
    /// Another write came first: read again.
    Outdated,
    Error(WriteError),
}

impl From<WriteError> for CommitFailure {
    fn from(error: WriteError) -> Self {
        Self::Error(error)
    }
}

impl From<TierError> for CommitFailure {
    fn from(error: TierError) -> Self {
        Self::Error(error.into())
    }
}

impl From<CommitRejected> for CommitFailure {
    fn from(rejected: CommitRejected) -> Self {
        match rejected {
            CommitRejected::Outdated => Self::Outdated,
            CommitRejected::Closed(reason) => Self::Error(WriteError::closed(reason)),
            CommitRejected::TooLarge(oversize) => {
                let error = WriteError::new(WriteErrorKind::TooLarge, oversize.to_string());
                Self::Error(error.named(oversize.largest.iter().map(|(name, _)| *name)))
            }
        }
    }
}

impl From<CommitFailure> for WriteError {
    fn from(failure: CommitFailure) -> Self {
        match failure {
            CommitFailure::Outdated => {
                Self::new(WriteErrorKind::Contended, "other writers were faster 32 times in a row: try again")
            }
            CommitFailure::Error(error) => error,
        }
    }
}

impl From<CommitRejected> for WriteError {
    fn from(rejected: CommitRejected) -> Self {
        CommitFailure::from(rejected).into()
    }
}

/// Counts the attempts of a write that may be outdated.
#[derive(Debug, Default)]
pub(super) struct Attempts(usize);

impl Attempts {
    /// Returns the result of an attempt, or `None` if the attempt was outdated and another attempt is to follow.
    ///
    /// # Errors
    ///
    /// The error of the attempt; `Contended` after [`MAX_ATTEMPTS`] outdated attempts.
    pub(super) fn settle<T>(&mut self, attempt: Result<T, CommitFailure>) -> Result<Option<T>, WriteError> {
        self.0 += 1;
        match attempt {
            Ok(done) => Ok(Some(done)),
            Err(CommitFailure::Outdated) if self.0 < MAX_ATTEMPTS => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Writes to one record.
pub(super) async fn write(
    shared: &SessionShared,
    target: &WriteTarget,
    kind: CommitKind,
    changes: &[Mutation],
    now: Millis,
) -> Result<Version, CommitFailure> {
    let context = shared.node.write_context(target.scope, now).for_share(target.share);
    let context = WriteContext { scope: target.extent, ..context };
    match shared.node.store() {
        Some(store) => write_through(shared, store, target, kind, changes, context).await,
        None => {
            let committed = target.record.commit(changes, context);
            shared.node.account(&target.record, now);
            Ok(committed?)
        }
    }
}

/// Writes to the store, and then applies the store's answer to memory.
async fn write_through(
    shared: &SessionShared,
    store: NodeStore<'_>,
    target: &WriteTarget,
    kind: CommitKind,
    changes: &[Mutation],
    context: WriteContext<'_>,
) -> Result<Version, CommitFailure> {
    let WriteTarget { record, scope, .. } = target;
    let _gate = record.extras().renew_gate.read().await;
    record.check_budget(changes, context)?;
    // Touched before the store is asked: otherwise the session could expire while the store works, and other handles
    // would see the end.
    record.touch(context.now);
    let owner = match scope {
        Scope::Session => shared.node.config.owner(&record.id()),
        Scope::Principal => OwnerId::from_hash(record.key().0),
    };
    let removes = *scope == Scope::Principal && changes.iter().any(|change| change.json.is_none());
    // A removal stays for as long as a cookie could bring the value back.
    let tombstone = if removes { context.now.after(context.tombstones) } else { Millis::default() };
    let pending = record.extras().sync.begin();
    let committed = store.commit(owner, kind, changes, record.expires().max(tombstone)).await?;
    let applied = apply(shared, target, committed, changes, context);
    pending.confirmed();
    shared.node.account(record, context.now);
    applied
}

/// Applies the store's answer to memory.
fn apply(
    shared: &SessionShared,
    WriteTarget { record, scope, .. }: &WriteTarget,
    committed: Committed,
    changes: &[Mutation],
    context: WriteContext<'_>,
) -> Result<Version, CommitFailure> {
    match committed {
        Committed::Applied(version) => {
            shared.node.note_version(version, context.now);
            let stamp = |change: &Mutation| Mutation {
                version: Some(change.version.unwrap_or(version)),
                replaces: None,
                ..change.clone()
            };
            let stamped: Vec<_> = changes.iter().map(stamp).collect();
            record.commit(&stamped, WriteContext { now: shared.node.now(), ..context })?;
            Ok(version)
        }
        Committed::Outdated(stored) => {
            shared.node.merge_stored(record, stored, *scope, context.now);
            Err(CommitFailure::Outdated)
        }
        Committed::Absent | Committed::Ended(_) => {
            let _ = shared.end(record, CloseReason::Destroyed, context.now);
            Err(WriteError::closed(CloseReason::Destroyed).into())
        }
    }
}
