//! How a write becomes true: the store first, then memory, then whoever waits.

use std::sync::Arc;

use super::{
    lifecycle::PlannedSession,
    shared::{Binding, SessionShared},
};
use crate::{
    error::{CloseReason, TierError, WriteError, WriteErrorKind},
    id::{OwnerId, SessionId},
    memory::record::Record,
    record::{
        change::Mutation,
        life::SessionLife,
        write_context::{BudgetShare, CommitRejected, IncomingFrom, WriteContext, WriteScope},
    },
    tier::{Commit, CommitKind, Committed},
    time::Millis,
    value::Scope,
    version::Version,
};

/// Losing so often in a row means that something else writes in a loop.
pub(super) const MAX_ATTEMPTS: usize = 32;

/// Where a commit goes.
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
    /// Something else was written meanwhile: look again.
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

impl From<CommitFailure> for WriteError {
    fn from(loss: CommitFailure) -> Self {
        match loss {
            CommitFailure::Outdated => {
                Self::new(WriteErrorKind::Contended, "other writers were faster 32 times in a row: try again")
            }
            CommitFailure::Error(error) => error,
        }
    }
}

/// Tries what replaces nothing again where a store finds it outdated all the same, as one may that only ever compares.
pub(super) async fn retry_outdated<T, F>(attempt: impl Fn() -> F) -> Result<T, WriteError>
where
    F: Future<Output = Result<T, CommitFailure>>,
{
    for _ in 0..MAX_ATTEMPTS {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(CommitFailure::Outdated) => {}
            Err(loss) => return Err(loss.into()),
        }
    }
    Err(CommitFailure::Outdated.into())
}

impl CommitRejected {
    pub(super) fn into_failure(self) -> CommitFailure {
        match self {
            Self::Outdated => CommitFailure::Outdated,
            Self::Closed(reason) => CommitFailure::Error(WriteError::closed(reason)),
            Self::TooLarge(oversize) => {
                let error = WriteError::new(WriteErrorKind::TooLarge, oversize.to_string());
                CommitFailure::Error(error.named(oversize.largest.iter().map(|(name, _)| *name)))
            }
        }
    }
}

pub(super) fn new_session_id() -> Result<SessionId, WriteError> {
    SessionId::mint().map_err(|error| {
        WriteError::new(WriteErrorKind::Unavailable, "the operating system gave no randomness for a session id")
            .caused_by(error)
    })
}

/// Makes changes of values of one scope, all or none.
///
/// Cancel safe: dropped before the store answers, the store decides, and memory asks it again; without a store
/// nothing is awaited once the change begins.
pub(crate) async fn commit(
    shared: &SessionShared,
    scope: Scope,
    extent: WriteScope,
    changes: &[Mutation],
) -> Result<Version, WriteError> {
    retry_outdated(|| try_commit(shared, scope, extent, changes)).await
}

/// Makes changes of values of both scopes: of each owner all or none, and none at all where an owner's are refused.
///
/// Cancel safe for each owner, as [`commit`](Self::commit) is.
pub(crate) async fn commit_of_owners(
    shared: &SessionShared,
    changes: impl Iterator<Item = Mutation>,
) -> Result<(), WriteError> {
    let now = shared.node.now();
    let signed = shared.principal(now);
    // While nobody is signed in, the session owns the values of both scopes.
    let is_users = |change: &Mutation| match shared.node.config.schema.get(change.index).scope {
        Scope::Session => false,
        Scope::Principal => signed.is_some(),
    };
    let (users, sessions): (Vec<_>, Vec<_>) = changes.partition(is_users);
    if let (Some(signed), false, false) = (&signed, users.is_empty(), sessions.is_empty()) {
        let refused = |refused: CommitRejected| WriteError::from(refused.into_failure());
        let record = shared.hold_principal(signed, now);
        record.check_budget(&users, shared.node.write_context(Scope::Principal, now)).map_err(refused)?;
        let terms = shared.node.write_context(Scope::Session, now);
        match writable(shared, now)? {
            Some(bound) => bound.check_budget(&sessions, terms).map_err(refused)?,
            None => shared.node.empty_session(now).check_budget(&sessions, terms).map_err(refused)?,
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
    shared.flags.touch();
    check_head(shared)?;
    loop {
        let before = shared.bound_key();
        match commit_here(shared, scope, extent, changes).await {
            // A clone has renewed the session meanwhile, and this handle went along: so does the write.
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
        && let Some(signed) = shared.principal(now)
    {
        // Without a store the cookie is the only copy that outlives this process, and it needs a session.
        if shared.node.store.is_none() && matches!(shared.binding(), Binding::Anonymous) {
            let terms = shared.node.write_context(scope, now);
            shared.hold_principal(&signed, now).check_budget(changes, terms).map_err(CommitRejected::into_failure)?;
            begin_with(shared, &[], Version::ZERO, now).await?;
        }
        if shared.is_principal_only() {
            // Written as by a job: no session may begin here, so no cookie of this browser keeps a copy.
            if shared.node.store.is_none() && shared.node.memory.is_none() {
                return Err(WriteError::closed(CloseReason::CrossSite).into());
            }
        } else if let Some(bound) = writable(shared, now)? {
            bound.touch(now);
        }
        let record = shared.hold_principal(&signed, now);
        return write(
            shared,
            &WriteTarget { extent, ..WriteTarget::principal(record) },
            CommitKind::Upsert,
            changes,
            now,
        )
        .await;
    }
    match writable(shared, now)? {
        Some(bound) => {
            let target = WriteTarget { extent, ..WriteTarget::session(bound) };
            write(shared, &target, CommitKind::Update, changes, now).await
        }
        None => begin_with(shared, changes, Version::ZERO, now).await,
    }
}

/// The session to write to; none if a write is to make it.
pub(super) fn writable(shared: &SessionShared, now: Millis) -> Result<Option<Arc<Record>>, WriteError> {
    match shared.live(now) {
        Ok(record) => Ok(Some(record)),
        Err(Some(reason)) => Err(WriteError::closed(reason)),
        Err(None) => Ok(None),
    }
}

/// Makes a session that holds the changes. If a clone was faster, they go into that one.
async fn begin_with(
    shared: &SessionShared,
    changes: &[Mutation],
    above: Version,
    now: Millis,
) -> Result<Version, CommitFailure> {
    let _turning = shared.lifecycle_lock().await;
    match shared.binding() {
        Binding::Anonymous => {}
        Binding::PrincipalOnly => {
            let message = "a handle of `Sessions::for_principal` has no session to keep values of session scope";
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
    let (record, version) = create_session(shared, changes, BudgetShare::Ordinary, None, above, now).await?;
    if shared.flags.head_has_left() {
        tracing::debug!(
            "a session begins after the response head has left: its cookie reaches the browser only by a token of \
             `Session::relay`, which the page brings"
        );
    }
    shared.flags.set_begun_here(true);
    shared.rebind(record);
    shared.forget_own_end();
    Ok(version)
}

/// A new session with its first values, record to nobody yet.
pub(super) async fn create_session(
    shared: &SessionShared,
    changes: &[Mutation],
    share: BudgetShare,
    drawn: Option<PlannedSession>,
    above: Version,
    now: Millis,
) -> Result<(Arc<Record>, Version), CommitFailure> {
    let id = drawn.map_or_else(new_session_id, |drawn| Ok(drawn.id))?;
    let known = shared.principal(now).and_then(|signed| shared.find_principal(&signed));
    let ended = known.map_or(Version::ZERO, |record| record.not_before(&shared.node.time, now));
    let birth = drawn.map_or_else(|| shared.node.time.fresh(now, above.max(ended)), |drawn| drawn.birth);
    let (bound, made) = shared.node.insert_record(id, begin_life(shared, birth, now), now)?;
    let target = WriteTarget { share, ..WriteTarget::session(Arc::clone(&bound)) };
    let version = write(shared, &target, CommitKind::Create, changes, now).await?;
    made.keep();
    Ok((bound, version))
}

/// The life of a session that this handle begins, by a first write or a sign-in.
pub(super) fn begin_life(shared: &SessionShared, birth: Version, now: Millis) -> SessionLife {
    let mut life = SessionLife::begin(birth, now, shared.node.config.lifetime);
    if let Some(lifetime) = shared.own_lifetime() {
        life.set_lifetime(lifetime, birth, Millis::default());
    }
    life
}

/// Writes to one record: the store, if there is one, then memory.
pub(super) async fn write(
    shared: &SessionShared,
    target: &WriteTarget,
    kind: CommitKind,
    changes: &[Mutation],
    now: Millis,
) -> Result<Version, CommitFailure> {
    let terms = shared.node.write_context(target.scope, now).for_share(target.share);
    let terms = WriteContext { scope: target.extent, ..terms };
    let Some(store) = &shared.node.store else {
        let committed = target.record.commit(changes, terms);
        shared.node.account(&target.record, now);
        return committed.map_err(|refused| refused.into_failure());
    };
    let _passing = target.record.renew_gate_shared().await;
    target.record.check_budget(changes, terms).map_err(CommitRejected::into_failure)?;
    // The use is when the write begins: nobody is told meanwhile that the session is over, which the answer would undo.
    target.record.touch(now);
    let removes = target.scope == Scope::Principal && changes.iter().any(|change| change.json.is_none());
    // A removal must be there for as long as a cookie could bring the value back.
    let expires = match removes {
        true => target.record.expires().max(now.after(terms.tombstones)),
        false => target.record.expires(),
    };
    let expires = shared.node.time.wall(expires).time();
    // Until the store's word is in memory, memory can't be relied on for this owner.
    let doubt = target.record.begin_store_write();
    let owner = match target.scope {
        Scope::Session => shared.node.config.owner(&SessionId::from_bytes(target.record.key().0)),
        Scope::Principal => OwnerId::from_hash(target.record.key().0),
    };
    let commit = Commit::new(owner, kind, changes, expires);
    let committed = store.commit(commit, &shared.node.time).await?;
    match committed {
        Committed::Applied(version) => {
            shared.node.note_version(version, now);
            let stamped: Vec<_> = changes
                .iter()
                .map(|change| Mutation {
                    version: Some(change.version.unwrap_or(version)),
                    replaces: None,
                    ..change.clone()
                })
                .collect();
            let taken = target.record.commit(&stamped, WriteContext { now: shared.node.now(), ..terms });
            doubt.confirmed();
            shared.node.account(&target.record, now);
            taken.map_err(CommitRejected::into_failure)?;
            Ok(version)
        }
        Committed::Outdated(stored) => {
            target.record.merge(
                IncomingFrom::Store,
                shared.node.incoming_values(stored, target.scope, now).into_iter(),
                terms,
                None,
            );
            doubt.confirmed();
            // Counted from here on, whether or not another attempt follows.
            shared.node.account(&target.record, now);
            Err(CommitFailure::Outdated)
        }
        Committed::Absent | Committed::Ended(_) => {
            let _ = shared.end(&target.record, CloseReason::Destroyed, now);
            doubt.confirmed();
            Err(WriteError::closed(CloseReason::Destroyed).into())
        }
    }
}

/// Whether a write can still have an effect.
pub(super) fn check_head(shared: &SessionShared) -> Result<(), WriteError> {
    if shared.node.memory.is_none() && shared.flags.head_has_left() {
        return Err(WriteError::new(
            WriteErrorKind::HeadSent,
            "the response head is gone: without a memory tier nothing is kept past it",
        ));
    }
    Ok(())
}
