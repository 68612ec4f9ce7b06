//! A write over a shared store: the store decides, and memory takes the store's answer.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{CommitFailure, WriteTarget, removals};
use crate::{
    error::{CloseReason, WriteError},
    id::OwnerId,
    memory::record::Record,
    node::store::{NodeStore, StoreWrite},
    record::{
        change::{Mutation, WriteContext, WriteScope},
        life::SessionLife,
    },
    session::shared::SessionShared,
    tier::{Change, CommitKind, Committed, Known, Snapshot, StoredLife},
    time::Millis,
    value::Scope,
    version::Version,
};

/// Writes to the store, and then applies the store's answer to memory.
pub(super) async fn write_through(
    shared: &SessionShared,
    store: NodeStore<'_>,
    target: &WriteTarget,
    kind: CommitKind,
    changes: &[Mutation],
    context: WriteContext<'_>,
) -> Result<Version, CommitFailure> {
    let WriteTarget { record, scope, .. } = target;
    let _gate = record.extras().renew_gate().read().await;
    record.check_budget(changes, context)?;
    // Touched before the store is asked: otherwise the session could expire while the store works, and other handles
    // would see the end.
    record.touch(context.now);
    let owner = match scope {
        Scope::Session => shared.node.config.owner(&record.id()),
        Scope::Principal => OwnerId::from_hash(record.key().0),
    };
    let removes = *scope == Scope::Principal && changes.iter().any(|change| change.json.is_none());
    // A removal stays for as long as a cookie could bring the value back; the erasure of a user's values also for cookies
    // of sessions to which another node has given a longer lifetime.
    let tombstone = match (removes, target.extent) {
        (false, _) => Millis::default(),
        (true, WriteScope::Values) => context.now.after(context.tombstones),
        (true, WriteScope::ClearAll) => shared.node.cookies_until(context.now),
    };
    let (life, until) = {
        let state = record.read();
        let life = state.life().map(|life| shared.node.stored_life(life));
        (life, shared.node.stored_until(&state, context.now).max(tombstone))
    };
    let told: SmallVec<[Change<'_>; 2]> = changes.iter().map(Change::from).collect();
    // The store may have lost the record: its stamp must still be above the versions in memory and in cookies.
    let above = target.above.max(record.read().values.newest());
    let write = StoreWrite { changes: &told, life, above, ..StoreWrite::of(kind, until) };
    let config = &shared.node.config;
    let except = config.identity_index().map(|index| config.schema.get(index).name);
    let clear = StoreWrite { kind: CommitKind::Clear { except }, ..write };
    let sync = record.extras().sync();
    let (told, pending) = (sync.told(), sync.begin());
    let answer = match target.extent {
        WriteScope::Values => store.commit_to(record, owner, write).await,
        WriteScope::ClearAll => match store.commit_to(record, owner, clear).await {
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
    let version = life.as_ref().map(StoredLife::version);
    if let Committed::Outdated(stored) = &committed
        && kind != CommitKind::Create
        && stored.has_life_above(version)
    {
        pending.settle(false);
        // By the newer lifetime the session may have been over before this write.
        read_session(shared, store, record, context.now).await?;
        return Err(CommitFailure::Outdated);
    }
    if let (Committed::Outdated(stored), true) = (&committed, kind != CommitKind::Create) {
        shared.node.note_debt(record, told, &Snapshot::Present(stored.clone()), context.now);
    }
    let applied = apply(shared, target, (kind, committed), changes, context);
    // Not before: the code of a value's type may panic in `apply`.
    pending.settle(false);
    shared.node.account(record, context.now);
    if matches!(applied, Err(CommitFailure::Outdated)) {
        // Otherwise an update would compare with a version that the store has lost, again and again.
        store.pay_debt(record, context.now).await?;
    }
    applied
}

/// Applies the store's answer to memory.
fn apply(
    shared: &SessionShared,
    WriteTarget { record, scope, extent, .. }: &WriteTarget,
    (kind, committed): (CommitKind, Committed),
    changes: &[Mutation],
    context: WriteContext<'_>,
) -> Result<Version, CommitFailure> {
    match committed {
        Committed::Applied { stamp: version, newest, generation } => {
            shared.node.note_version(version, context.now);
            let stamp = |change: &Mutation| Mutation {
                version: Some(change.version.unwrap_or(version)),
                replaces: None,
                ..change.clone()
            };
            // The store has cleared all of the record, also a value that came into memory meanwhile.
            let cleared = match extent {
                WriteScope::ClearAll => removals(shared, record),
                WriteScope::Values => Vec::new(),
            };
            let stamped: Vec<_> = changes.iter().chain(&cleared).map(stamp).collect();
            let known = Known::new(generation, newest);
            shared.node.note_stored(record, known, kind == CommitKind::Create, context.now);
            record.commit(&stamped, WriteContext { now: shared.node.now(), stamp: Some(version), ..context })?;
            if *extent == WriteScope::ClearAll {
                // The store has also removed values that memory does not know, and a cookie may bring such a value back:
                // the next load reads the tombstones.
                record.extras().sync().suspect();
            }
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

/// Reads a session's record from the store.
///
/// # Errors
///
/// `Closed` if the session is over in the store.
pub(in crate::session) async fn read_session(
    shared: &SessionShared,
    store: NodeStore<'_>,
    record: &Arc<Record>,
    now: Millis,
) -> Result<(), WriteError> {
    let owner = shared.node.config.owner(&record.id());
    let reading = shared.node.begin_read(Some(record), &owner);
    match store.read(owner, reading.known()).await? {
        Snapshot::Ended(end) => Err(WriteError::closed(shared.end_as_stored(record, &end, now))),
        // The next write restores the session.
        Snapshot::Absent if shared.node.restores() => Ok(()),
        Snapshot::Absent => {
            let _ = shared.end(record, CloseReason::Destroyed, now);
            Err(WriteError::closed(CloseReason::Destroyed))
        }
        snapshot => {
            shared.node.merge_answer(record, (reading, snapshot), Scope::Session, now);
            Ok(())
        }
    }
}

/// Counts a use of the session by its handle, and tells the store of a use that is due. A handle may be older than the
/// last load, so the store is read first: another node may have ended the session, or set a lifetime by which the session
/// is over. After a failure a later use tells the store.
///
/// # Errors
///
/// `Closed` if the session is over.
pub(in crate::session) async fn count_use(
    shared: &SessionShared,
    record: &Arc<Record>,
    now: Millis,
) -> Result<(), WriteError> {
    // A handle with a copy of its session sees no later change of the store.
    let store = shared.node.store().filter(|_| !shared.flags.degraded.is_set());
    let Some(store) = store.filter(|_| record.is_use_due(record.read().idle(), now)) else {
        record.touch(now);
        return Ok(());
    };
    let read = read_session(shared, store, record, now).await;
    shared.check_open()?;
    record.touch(now);
    if read.is_ok() {
        store.touch(&[(shared.node.config.owner(&record.id()), record)], now).await;
    }
    Ok(())
}

/// Writes a lifetime of a session to the store.
///
/// # Errors
///
/// `Outdated` if another node has set a newer lifetime.
pub(super) async fn write_lifetime(
    shared: &SessionShared,
    store: NodeStore<'_>,
    record: &Arc<Record>,
    life: &SessionLife,
    now: Millis,
) -> Result<(), CommitFailure> {
    let _gate = record.extras().renew_gate().read().await;
    let stored = Some(shared.node.stored_life(life));
    let until = shared.node.session_until(life, now);
    let write = StoreWrite { life: stored, ..StoreWrite::of(CommitKind::Update, until) };
    let owner = shared.node.config.owner(&record.id());
    match record.extras().sync().track(store.commit_to(record, owner, write)).await? {
        Committed::Applied { stamp, newest, generation } => {
            shared.node.note_version(stamp, now);
            shared.node.note_stored(record, Known::new(generation, newest), false, now);
            Ok(())
        }
        Committed::Outdated(_) => Err(CommitFailure::Outdated),
        Committed::Ended(end) => Err(WriteError::closed(shared.end_as_stored(record, &end, now)).into()),
        Committed::Absent | Committed::Retired(_) => {
            let _ = shared.end(record, CloseReason::Destroyed, now);
            Err(WriteError::closed(CloseReason::Destroyed).into())
        }
    }
}
