//! Commits of changes to the owners' records, the session that a first write begins, and the repetition of a write that
//! other writers outdate. A write goes to one record: first to the shared store, if the chain has a store
//! ([`through`]), and then to memory.

use std::sync::Arc;

pub(super) use self::attempts::Attempts;
pub(super) use self::through::{count_use, read_session};
use self::through::{write_lifetime, write_through};
use super::shared::{Binding, SessionShared};
use crate::{
    error::{CloseReason, TierError, WriteError, WriteErrorKind},
    id::SessionId,
    memory::record::Record,
    record::{
        change::{BudgetShare, CommitRejected, Mutation, WriteContext, WriteScope},
        life::{Lifetime, SessionLife},
    },
    tier::CommitKind,
    time::Millis,
    value::Scope,
    version::Version,
};

mod attempts;
mod through;

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
            // Writes as a job does: this request must not begin a session, so no cookie of this browser keeps a copy.
            if shared.node.store.is_none() && shared.node.memory.is_none() {
                return Err(WriteError::closed(CloseReason::CrossSite).into());
            }
        } else if let Some(bound) = writable(shared, now)? {
            // The write tells the store of the user's record alone, and the session is in use too.
            count_use(shared, &bound, now).await?;
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
    let ended = known.map_or(Version::ZERO, |record| shared.node.not_before(&record, now));
    let above = above.max(ended);
    let birth = planned.map_or_else(|| shared.node.time.fresh(now, above), |planned| planned.birth);
    let (bound, guard) = shared.node.insert_record(id, begin_life(shared, (birth, birth), now), now)?;
    let target = WriteTarget { share, above, ..WriteTarget::session(Arc::clone(&bound)) };
    let version = write(shared, &target, CommitKind::Create, changes, now).await?;
    if shared.node.store.is_some() {
        // The store stamps the ends of all sessions too, so one clock gives the two versions to compare.
        bound.set_birth(planned.map_or(version, |planned| planned.birth.min(version)));
    }
    guard.keep();
    Ok((bound, version))
}

/// Returns the life of a session that this handle begins, by a first write or a sign-in.
pub(super) fn begin_life(
    shared: &SessionShared,
    (birth, lifetime_version): (Version, Version),
    now: Millis,
) -> SessionLife {
    let mut life = SessionLife::begin(birth, now, shared.node.config.lifetime);
    if let Some(lifetime) = shared.own_lifetime() {
        life.set_lifetime(lifetime, lifetime_version, Millis::default());
    }
    life
}

/// Refuses a write that can have no effect: on a handle with a copy of its session, and once the response head has left, in a chain without memory.
pub(super) fn check_head(shared: &SessionShared) -> Result<(), WriteError> {
    shared.refuse_degraded()?;
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
    shared.refuse_degraded()?;
    let now = shared.node.now();
    let (scope, record) = match shared.binding() {
        Binding::PrincipalOnly => {
            (Scope::Principal, shared.principal(now).and_then(|principal| shared.find_principal(&principal)))
        }
        _ => (Scope::Session, shared.live(now).ok()),
    };
    let Some(record) = record else {
        return writable(shared, now).map(drop);
    };
    let changes = removals(shared, &record);
    let has_undeclared = || record.read().values.undeclared().any(|(_, stored)| stored.json.is_some());
    // The store may have values of other nodes that this node has not seen.
    if changes.is_empty() && shared.node.store.is_none() && !has_undeclared() {
        return writable(shared, now).map(drop);
    }
    commit(shared, scope, WriteScope::ClearAll, &changes).await.map(drop)
}

/// Removes all values of a principal, also the values that no tier of this node knows: a removal of each declared value
/// keeps a cookie or another node's memory from bringing the value back.
pub(crate) async fn forget(shared: &SessionShared) -> Result<(), WriteError> {
    shared.flags.touched.set();
    let values = shared.node.config.schema.iter().filter(|(_, spec)| spec.scope == Scope::Principal);
    let removals: Vec<_> = values.map(|(index, spec)| Mutation::remove(index, spec.name)).collect();
    commit(shared, Scope::Principal, WriteScope::ClearAll, &removals).await.map(drop)
}

/// Returns the removals of all declared values in a record, except the identity value.
fn removals(shared: &SessionShared, record: &Record) -> Vec<Mutation> {
    let (schema, identity) = (&shared.node.config.schema, shared.node.config.identity_index());
    let state = record.read();
    let declared = state.values.declared().map(|slot| slot.index);
    let cleared = declared.filter(|index| Some(*index) != identity && state.values.has_json(*index));
    cleared.map(|index| Mutation::remove(index, schema.get(index).name)).collect()
}

/// Gives a session a lifetime of its own: first in the store, if the chain has a store, and then in memory.
pub(super) async fn set_lifetime(
    shared: &SessionShared,
    record: &Arc<Record>,
    lifetime: Lifetime,
    now: Millis,
) -> Result<(), WriteError> {
    let mut attempts = Attempts::of(&shared.node);
    while attempts.settle(try_set_lifetime(shared, record, lifetime, now).await).await?.is_none() {}
    Ok(())
}

async fn try_set_lifetime(
    shared: &SessionShared,
    record: &Arc<Record>,
    lifetime: Lifetime,
    now: Millis,
) -> Result<(), CommitFailure> {
    if let Some(store) = shared.node.store() {
        // The store refuses an older lifetime than its own, so the new version must be above that of a lifetime from
        // another node, whose clock may be ahead.
        read_session(shared, store, record, now).await?;
        // Another node may have set a lifetime that has passed: the store keeps the record for a while longer.
        if let Some(reason) = record.closed(now) {
            return Err(WriteError::closed(reason).into());
        }
    }
    let mut life = record.read().life().cloned().ok_or_else(|| WriteError::closed(CloseReason::Expired))?;
    let version = shared.node.time.fresh(now, life.lifetime_version());
    if let Some(store) = shared.node.store() {
        life.set_lifetime(lifetime, version, Millis::default());
        write_lifetime(shared, store, record, &life, now).await?;
    }
    record.set_lifetime(lifetime, version, shared.node.now()).map_err(WriteError::closed)?;
    shared.node.account(record, now);
    Ok(())
}

/// The record that a write goes to.
pub(super) struct WriteTarget {
    pub(super) record: Arc<Record>,
    pub(super) scope: Scope,
    pub(super) extent: WriteScope,
    pub(super) share: BudgetShare,
    /// A version that the store's stamp must exceed.
    pub(super) above: Version,
}

impl WriteTarget {
    pub(super) const fn session(record: Arc<Record>) -> Self {
        Self {
            record,
            scope: Scope::Session,
            extent: WriteScope::Values,
            share: BudgetShare::Ordinary,
            above: Version::ZERO,
        }
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

/// The reason for which a commit changed nothing.
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
            CommitFailure::Outdated => Self::new(
                WriteErrorKind::Contended,
                "other writers have changed the same record first each time: try the write again",
            ),
            CommitFailure::Error(error) => error,
        }
    }
}

impl From<CommitRejected> for WriteError {
    fn from(rejected: CommitRejected) -> Self {
        CommitFailure::from(rejected).into()
    }
}
