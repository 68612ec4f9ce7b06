//! The move of a session to a new id, by a renewal or a sign-in.

use std::sync::Arc;

use super::{
    commit::{PlannedSession, begin_life, new_session_id},
    shared::SessionShared,
};
use crate::{
    config::Identity,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::PrincipalTag,
    memory::record::Record,
    node::store::{NodeStore, StoreWrite},
    record::{
        change::{BudgetShare, CommitRejected, Mutation},
        life::{LifeFields, Predecessor, SessionLife, Successor},
        state::{Kind, State},
        values::ValueSlot,
    },
    tier::{Change, CommitKind, Committed},
    time::Millis,
    value::Scope,
    version::Version,
};

/// The values and the life with which a renewal or a sign-in begins the new session.
pub(super) struct SessionStart<'a> {
    pub(super) kind: StartKind,
    /// The id and the birth that an order has planned. Without an order, the renewal or the sign-in makes both.
    pub(super) planned: Option<PlannedSession>,
    /// Values that are written under the new id: at a sign-in the identity value first.
    pub(super) changes: &'a [Mutation],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartKind {
    /// The new session keeps all values and the lifetime.
    Renewal,
    /// The new session keeps the values of session scope, and no anonymous choice of principal scope. The life begins
    /// anew, with the configured lifetime or with the lifetime that the application gave the handle.
    SignIn {
        /// The user's sessions up to this version have ended.
        above: Version,
    },
}

impl SessionStart<'_> {
    pub(super) const fn above(&self) -> Version {
        match self.kind {
            StartKind::Renewal => Version::ZERO,
            StartKind::SignIn { above } => above,
        }
    }
}

/// The move of a session from one id to the next.
pub(super) struct Replacement<'a> {
    pub(super) start: &'a SessionStart<'a>,
    pub(super) predecessor: Predecessor,
    /// Whether a sign-out with the old id ends the new session too. False for a sign-in: an attacker may have planted
    /// the old cookie before the login.
    pub(super) followed: bool,
}

/// Moves the session to a new id. The new record exists before the old record ends.
pub(super) async fn replace_session(
    shared: &SessionShared,
    old: &Arc<Record>,
    start: &SessionStart<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let id = start.planned.map_or_else(new_session_id, |planned| Ok(planned.id))?;
    let life = SessionLife::begin(Version::ZERO, now, shared.node.config.lifetime);
    let (next, made) = shared.node.insert_record(id, life, now)?;
    // Derived outside of all locks: the application's own code runs here.
    let principal = shared.principal_for(old, now).map(|principal| principal.owner.tag());
    let by_value = matches!(shared.node.config.identity, Identity::Value { .. });
    let followed = start.kind == StartKind::Renewal && principal.is_some();
    let predecessor = Predecessor { id: old.id(), shares_end: followed && by_value };
    let replacement = Replacement { start, predecessor, followed };
    let _gate = match shared.node.store() {
        Some(store) => {
            let gate = old.extras().renew_gate.write().await;
            // The copy comes first and the end second: a failure between the two leaves the old session whole.
            create_in_store(shared, store, old, &next, &replacement, now).await?;
            end_in_store(shared, store, old, &next, &replacement, now).await?;
            Some(gate)
        }
        None => None,
    };
    shared.rebind_if(next.clone(), || swap_records(shared, (old, principal), &next, &replacement, now))?;
    made.keep();
    shared.node.account(old, now);
    shared.node.account(&next, now);
    // Notified after the rebinding: a watch of this handle then sees the renewal as its own.
    old.notify_all();
    Ok(())
}

/// Moves the old record's values into the new record in memory, and ends the old record, in one step.
fn swap_records(
    shared: &SessionShared,
    (old, principal): (&Record, Option<PrincipalTag>),
    next: &Record,
    replacement: &Replacement<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    old.end_with(CloseReason::Renewed, principal, now, |state| {
        *next.write() = successor_state(shared, state, replacement, now)?;
        Ok(match replacement.followed {
            true => Successor::Session(Box::new(*next.key())),
            false => Successor::None,
        })
    })?;
    Ok(())
}

/// # Errors
///
/// `TooLarge` where the values to write do not fit beside the values that the new session keeps.
pub(super) fn successor_state(
    shared: &SessionShared,
    state: &State,
    Replacement { start, predecessor, .. }: &Replacement<'_>,
    now: Millis,
) -> Result<State, CommitRejected> {
    let Kind::Session { life, .. } = &state.kind else { return Err(CommitRejected::Closed(CloseReason::Expired)) };
    // The birth is greater than every version that this node has seen. So the birth is greater than that of the old
    // session, which no `end_all_sessions` has covered.
    let fresh = |above| shared.node.time.fresh(now, above);
    let birth = start.planned.map_or_else(|| fresh(start.above()), |planned| planned.birth);
    let fields = match start.kind {
        StartKind::Renewal => LifeFields { birth, ..life.fields() },
        StartKind::SignIn { .. } => {
            LifeFields { generation: life.fields().generation, ..begin_life(shared, birth, now).fields() }
        }
    };
    let mut life = SessionLife::from(fields);
    life.set_predecessor(*predecessor);
    let mut next = state.successor_state(life);
    if start.kind != StartKind::Renewal {
        next.values.retain(|index| shared.node.config.schema.get(index).scope == Scope::Session);
    }
    if start.changes.is_empty() {
        return Ok(next);
    }
    let context = shared.node.write_context(Scope::Session, now).for_share(BudgetShare::Whole);
    let version = shared.node.time.fresh(now, state.values.newest());
    // The version is assigned here: a store keeps the versions that come with a `Create`.
    let stamp = shared.node.store.as_ref().map(|_| version);
    let changes: Vec<_> = start.changes.iter().map(|change| Mutation { version: stamp, ..change.clone() }).collect();
    next.check_budget(&changes, context)?;
    next.apply(&changes, version, context);
    Ok(next)
}

/// Copies the session to its new id in the store.
async fn create_in_store(
    shared: &SessionShared,
    store: NodeStore<'_>,
    old: &Record,
    next: &Record,
    replacement: &Replacement<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let successor =
        old.live(now, |state| successor_state(shared, state, replacement, now)).map_err(WriteError::closed)??;
    let schema = &shared.node.config.schema;
    let changes: Vec<_> = successor.values.declared().map(|slot| carried(schema.get(slot.index).name, slot)).collect();
    let until = successor.absolute_deadline().unwrap_or(now);
    let write = StoreWrite { changes: &changes, ..StoreWrite::of(CommitKind::Create, until) };
    match store.commit(shared.node.config.owner(&next.id()), write).await? {
        Committed::Applied { .. } => Ok(()),
        // The store knows the planned id already: another node has carried out the order.
        _ if replacement.start.planned.is_some() => Err(WriteError::closed(CloseReason::Renewed)),
        _ => Err(not_taken()),
    }
}

fn carried<'a>(name: &'a str, ValueSlot { value, .. }: &'a ValueSlot) -> Change<'a> {
    Change { name, json: value.json.as_ref(), version: Some(value.version), replaces: None }
}

/// Ends the old id in the store.
async fn end_in_store(
    shared: &SessionShared,
    store: NodeStore<'_>,
    old: &Arc<Record>,
    next: &Record,
    replacement: &Replacement<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let until = old.read().absolute_deadline().unwrap_or(now);
    let next = next.id();
    let successor = replacement.followed.then_some(&next);
    let pending = old.extras().sync.begin();
    let ended = store.end(&old.id(), CloseReason::Renewed, successor, until).await?;
    pending.confirmed();
    match ended {
        Committed::Retired(_) => Ok(()),
        Committed::Absent | Committed::Ended(_) => {
            let _ = shared.end(old, CloseReason::Destroyed, now);
            Err(WriteError::closed(CloseReason::Destroyed))
        }
        Committed::Applied { .. } | Committed::Outdated(_) => Err(not_taken()),
    }
}

fn not_taken() -> WriteError {
    WriteError::new(WriteErrorKind::Unavailable, "the shared store refused the renewal of the session: try again")
}
