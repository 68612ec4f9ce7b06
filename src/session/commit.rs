//! Commits of changes to the owners' records, and the session that a first write begins. A write goes to one record:
//! first to the shared store, if the chain has a store, and then to memory.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    attempts::{Attempts, CommitFailure},
    shared::{Binding, SessionShared},
};
use crate::{
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{OwnerId, SessionId},
    memory::record::Record,
    node::store::{NodeStore, StoreWrite},
    record::{
        change::{BudgetShare, Mutation, WriteContext, WriteScope},
        life::SessionLife,
    },
    tier::{Change, CommitKind, Committed},
    time::Millis,
    value::Scope,
    version::Version,
};

/// The id and the birth of a session that an order begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedSession {
    pub(super) id: SessionId,
    pub(super) birth: Version,
}

pub(super) fn new_session_id() -> Result<SessionId, WriteError> {
    SessionId::mint().map_err(|error| {
        WriteError::new(WriteErrorKind::Unavailable, "the operating system gave no random bytes for a session id")
            .caused_by(error)
    })
}

/// Makes changes of values of one scope, all or none.
///
/// Cancel safe: if the future is dropped before the store answers, the store decides, and memory asks the store again.
/// Without a store the change itself awaits nothing.
pub(crate) async fn commit(
    shared: &SessionShared,
    scope: Scope,
    extent: WriteScope,
    changes: &[Mutation],
) -> Result<Version, WriteError> {
    let mut attempts = Attempts::of(&shared.node);
    loop {
        if let Some(version) = attempts.settle(try_commit(shared, scope, extent, changes).await).await? {
            return Ok(version);
        }
    }
}

/// Makes changes of values of both scopes: all or none of each owner's changes. Checks the budgets of both owners
/// first, so that a change over one owner's budget leaves no change of the other owner.
///
/// Cancel safe for each owner, as [`commit`] is.
pub(crate) async fn commit_of_owners(
    shared: &SessionShared,
    changes: impl Iterator<Item = Mutation>,
) -> Result<(), WriteError> {
    let now = shared.node.now();
    let principal = shared.principal(now);
    // Without a signed-in user the session owns the values of both scopes.
    let is_of_user = |change: &Mutation| match shared.node.config.schema.get(change.index).scope {
        Scope::Session => false,
        Scope::Principal => principal.is_some(),
    };
    let (users, sessions): (Vec<_>, Vec<_>) = changes.partition(is_of_user);
    if let (Some(principal), false, false) = (&principal, users.is_empty(), sessions.is_empty()) {
        let record = shared.hold_principal(principal, now);
        record.check_budget(&users, shared.node.write_context(Scope::Principal, now))?;
        let context = shared.node.write_context(Scope::Session, now);
        match writable(shared, now)? {
            Some(bound) => bound.check_budget(&sessions, context)?,
            None => shared.node.empty_session(now).check_budget(&sessions, context)?,
        }
    }
    for (scope, changes) in [(Scope::Session, sessions), (Scope::Principal, users)] {
        if !changes.is_empty() {
            commit(shared, scope, WriteScope::Values, &changes).await?;
        }
    }
    Ok(())
}

pub(super) async fn try_commit(
    shared: &SessionShared,
    scope: Scope,
    extent: WriteScope,
    changes: &[Mutation],
) -> Result<Version, CommitFailure> {
    shared.flags.touched.set();
    check_head(shared)?;
    loop {
        let before = shared.bound_key();
        match commit_here(shared, scope, extent, changes).await {
            // A clone renewed the session meanwhile, and has bound this handle to the new session: the write goes
            // there.
            Err(CommitFailure::Error(error))
                if error.kind() == WriteErrorKind::Closed && before != shared.bound_key() => {}
            committed => return committed,
        }
    }
}

async fn commit_here(
    shared: &SessionShared,
    scope: Scope,
    extent: WriteScope,
    changes: &[Mutation],
) -> Result<Version, CommitFailure> {
    let now = shared.node.now();
    if scope == Scope::Principal
        && let Some(principal) = shared.principal(now)
    {
        // Without a store only the cookie keeps the write over a restart, and a cookie needs a session: the write
        // begins a session.
        if shared.node.store.is_none() && matches!(shared.binding(), Binding::Anonymous) {
            let context = shared.node.write_context(scope, now);
            shared.hold_principal(&principal, now).check_budget(changes, context)?;
            begin_with(shared, &[], now).await?;
        }
        if shared.is_principal_only() {
            // Writes as a job does: no session may begin here, so no cookie of this browser keeps a copy.
            if shared.node.store.is_none() && shared.node.memory.is_none() {
                return Err(WriteError::closed(CloseReason::CrossSite).into());
            }
        } else if let Some(bound) = writable(shared, now)? {
            bound.touch(now);
        }
        let record = shared.hold_principal(&principal, now);
        let target = WriteTarget { extent, ..WriteTarget::principal(record) };
        return write(shared, &target, CommitKind::Upsert, changes, now).await;
    }
    match writable(shared, now)? {
        Some(bound) => {
            let target = WriteTarget { extent, ..WriteTarget::session(bound) };
            write(shared, &target, CommitKind::Update, changes, now).await
        }
        None => begin_with(shared, changes, now).await,
    }
}

/// Returns the session to write to; `None` if the write is to begin a session.
pub(super) fn writable(shared: &SessionShared, now: Millis) -> Result<Option<Arc<Record>>, WriteError> {
    match shared.live(now) {
        Ok(record) => Ok(Some(record)),
        Err(Some(reason)) => Err(WriteError::closed(reason)),
        Err(None) => Ok(None),
    }
}

/// Begins a session with the changes. If a clone has begun a session meanwhile, the changes go into that session.
async fn begin_with(shared: &SessionShared, changes: &[Mutation], now: Millis) -> Result<Version, CommitFailure> {
    let _lifecycle = shared.lifecycle_lock().await;
    match shared.binding() {
        Binding::Anonymous => {}
        Binding::PrincipalOnly => {
            let message = "a handle of `Sessions::for_principal` has no session, so the handle can't write a value of \
                           session scope: write the value in a request, or declare the value with `Scope::Principal`";
            return Err(WriteError::new(WriteErrorKind::Invalid, message).into());
        }
        _ => {
            let record = writable(shared, now)?.ok_or_else(|| WriteError::closed(CloseReason::Expired))?;
            return match changes {
                [] => Ok(Version::ZERO),
                _ => write(shared, &WriteTarget::session(record), CommitKind::Update, changes, now).await,
            };
        }
    }
    let (record, version) = create_session(shared, changes, BudgetShare::Ordinary, None, Version::ZERO, now).await?;
    if shared.flags.head_sent.is_set() {
        tracing::debug!(
            "a session begins after the response head has left, so no response carries the session's cookie: the \
             browser gets the cookie only if the page brings a token of `Session::relay`"
        );
    }
    shared.flags.begun_here.set();
    shared.rebind(record);
    shared.forget_own_end();
    Ok(version)
}

/// Creates a session with its first values. The session is bound to no handle yet. Its birth is above the version
/// `above`.
pub(super) async fn create_session(
    shared: &SessionShared,
    changes: &[Mutation],
    share: BudgetShare,
    planned: Option<PlannedSession>,
    above: Version,
    now: Millis,
) -> Result<(Arc<Record>, Version), CommitFailure> {
    let id = planned.map_or_else(new_session_id, |planned| Ok(planned.id))?;
    let known = shared.principal(now).and_then(|principal| shared.find_principal(&principal));
    let ended = known.map_or(Version::ZERO, |record| record.not_before(&shared.node.time, now));
    let birth = planned.map_or_else(|| shared.node.time.fresh(now, above.max(ended)), |planned| planned.birth);
    let (bound, guard) = shared.node.insert_record(id, begin_life(shared, birth, now), now)?;
    let target = WriteTarget { share, ..WriteTarget::session(Arc::clone(&bound)) };
    let version = write(shared, &target, CommitKind::Create, changes, now).await?;
    guard.keep();
    Ok((bound, version))
}

/// Returns the life of a session that this handle begins, by a first write or a sign-in.
pub(super) fn begin_life(shared: &SessionShared, birth: Version, now: Millis) -> SessionLife {
    let mut life = SessionLife::begin(birth, now, shared.node.config.lifetime);
    if let Some(lifetime) = shared.own_lifetime() {
        life.set_lifetime(lifetime, birth, Millis::default());
    }
    life
}

/// Refuses a write that can no longer have an effect: once the response head has left, in a chain without memory.
pub(super) fn check_head(shared: &SessionShared) -> Result<(), WriteError> {
    if shared.node.memory.is_none() && shared.flags.head_sent.is_set() {
        return Err(WriteError::new(
            WriteErrorKind::HeadSent,
            "no response is left whose cookie could keep the write, and this chain has no memory tier: write before \
             the response head leaves, or add `.tier(MemoryTier::builder().build())`",
        ));
    }
    Ok(())
}

/// Removes all values of the session's own record, except the identity value. In a job, removes the principal's values.
pub(super) async fn clear(shared: &SessionShared) -> Result<(), WriteError> {
    shared.flags.touched.set();
    let now = shared.node.now();
    let identity = shared.node.config.identity_index();
    let (scope, record) = match shared.binding() {
        Binding::PrincipalOnly => {
            (Scope::Principal, shared.principal(now).and_then(|principal| shared.find_principal(&principal)))
        }
        _ => (Scope::Session, shared.live(now).ok()),
    };
    let Some(record) = record else {
        return writable(shared, now).map(drop);
    };
    let changes: Vec<_> = {
        let state = record.read();
        let declared = state.values.declared().map(|slot| slot.index);
        let cleared = declared.filter(|index| Some(*index) != identity && state.values.has_json(*index));
        cleared.map(|index| Mutation::remove(index, shared.node.config.schema.get(index).name)).collect()
    };
    let has_undeclared = || record.read().values.undeclared().any(|(_, stored)| stored.json.is_some());
    // The store may have values of other nodes that this node has not seen.
    if changes.is_empty() && shared.node.store.is_none() && !has_undeclared() {
        return writable(shared, now).map(drop);
    }
    commit(shared, scope, WriteScope::ClearAll, &changes).await.map(drop)
}

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
    let until = record.expires().max(tombstone);
    let told: SmallVec<[Change<'_>; 2]> = changes.iter().map(Change::from).collect();
    // The store may have lost the record: its stamp must still be above the versions in memory and in cookies.
    let above = record.read().values.newest();
    let write = StoreWrite { changes: &told, above, ..StoreWrite::of(kind, until) };
    let config = &shared.node.config;
    let except = config.identity_index().map(|index| config.schema.get(index).name);
    let clear = StoreWrite { kind: CommitKind::Clear { except }, ..write };
    let pending = record.extras().sync.begin();
    let answer = match target.extent {
        WriteScope::Values => store.commit(owner, write).await,
        WriteScope::ClearAll => match store.commit(owner, clear).await {
            // The store has no record of the principal yet: the tombstones go into a new one.
            Ok(Committed::Absent) if *scope == Scope::Principal => store.commit(owner, write).await,
            answer => answer,
        },
    };
    let committed = match answer {
        Ok(committed) => committed,
        Err(error) => {
            pending.settle(error.may_be_applied());
            return Err(error.into());
        }
    };
    let applied = apply(shared, target, committed, changes, context);
    // Not before: the code of a value's type may panic in `apply`.
    pending.settle(false);
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
        Committed::Applied { stamp: version, .. } => {
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
        Committed::Ended(end) => Err(WriteError::closed(shared.end_as_stored(record, &end, context.now)).into()),
        // A store answers `Retired` only to an end, and this write is no end.
        Committed::Absent | Committed::Retired(_) => {
            let _ = shared.end(record, CloseReason::Destroyed, context.now);
            Err(WriteError::closed(CloseReason::Destroyed).into())
        }
    }
}
