//! The move of a session to a new id, by a renewal or a sign-in.

use std::sync::Arc;

use super::{
    commit::{PlannedSession, begin_life, new_session_id},
    load,
    shared::SessionShared,
};
use crate::{
    config::Identity,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{OwnerId, PrincipalTag},
    memory::record::{Record, extras::PendingWrite},
    node::store::{NodeStore, StoreWrite},
    record::{
        change::{BudgetShare, CommitRejected, Mutation},
        life::{LifeFields, Predecessor, SessionLife, Successor},
        state::{Kind, State},
        values::StoredValue,
    },
    tier::{Change, CommitKind, Committed, Known, StoredEntry, StoredRecord},
    time::Millis,
    value::{Scope, ValueIndex},
    version::Version,
};

/// The values and the life with which a renewal or a sign-in begins the new session.
pub(super) struct SessionStart<'a> {
    pub(super) kind: StartKind,
    /// The id and the birth that an order has planned. Without an order, the renewal or the sign-in makes both.
    pub(super) planned: Option<PlannedSession>,
    /// Values that are written under the new id: at a sign-in the identity value first.
    pub(super) changes: &'a [Mutation],
    /// The anonymous choices that the principal is to get.
    pub(super) adopt: &'a [ValueIndex],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartKind {
    /// The new session keeps all values and the lifetime.
    Renewal {
        /// The other sessions of the user up to this version have ended.
        above: Version,
    },
    /// The new session keeps the values of session scope, and no anonymous choice of principal scope. The life begins
    /// anew, with the configured lifetime or with the lifetime that the application gave the handle.
    SignIn {
        /// The user's sessions up to this version have ended.
        above: Version,
    },
}

impl StartKind {
    pub(super) const fn is_renewal(self) -> bool {
        matches!(self, Self::Renewal { .. })
    }
}

impl SessionStart<'_> {
    pub(super) const fn above(&self) -> Version {
        match self.kind {
            StartKind::Renewal { above } | StartKind::SignIn { above } => above,
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
    /// The store's stamp of the written values; `None` before the store has created the session, and without a store.
    pub(super) stamp: Option<Version>,
    /// Whether the store may lack values of the new session.
    pub(super) is_unstored: bool,
    /// The version of the lifetime that the application has given a new session. The store and memory must get the same.
    lifetime_version: Version,
}

impl<'a> Replacement<'a> {
    pub(super) fn new(
        shared: &SessionShared,
        start: &'a SessionStart<'a>,
        predecessor: Predecessor,
        followed: bool,
        now: Millis,
    ) -> Self {
        let fresh = || shared.node.time.fresh(now, start.above());
        let lifetime_version = start.planned.map_or_else(fresh, |planned| planned.birth);
        Self { start, predecessor, followed, stamp: None, is_unstored: false, lifetime_version }
    }
}

/// Moves the session to a new id. The new record exists before the old record ends. Returns the choices to adopt, as the
/// old session had them at its end: another node may have written a choice a moment before.
pub(super) async fn replace_session(
    shared: &SessionShared,
    old: &Arc<Record>,
    start: &SessionStart<'_>,
    now: Millis,
) -> Result<Vec<Mutation>, WriteError> {
    // Derived before the gate: the application's own code runs here.
    let principal = shared.principal_for(old, now).map(|principal| principal.owner.tag());
    let _gate = renewal_gate(shared, old).await;
    replace_behind_gate(shared, (old, principal), start, now).await
}

/// Waits until no write to the store and no renewal of the session is under way on this node, and keeps others from
/// beginning.
pub(super) async fn renewal_gate<'a>(
    shared: &SessionShared,
    record: &'a Record,
) -> Option<tokio::sync::RwLockWriteGuard<'a, ()>> {
    match shared.node.store {
        Some(_) => Some(record.extras().renew_gate().write().await),
        None => None,
    }
}

/// Does the work of [`replace_session`]. The caller holds the [`renewal_gate`].
pub(super) async fn replace_behind_gate(
    shared: &SessionShared,
    (old, principal): (&Arc<Record>, Option<PrincipalTag>),
    start: &SessionStart<'_>,
    now: Millis,
) -> Result<Vec<Mutation>, WriteError> {
    let id = start.planned.map_or_else(new_session_id, |planned| Ok(planned.id))?;
    let life = SessionLife::begin(Version::ZERO, now, shared.node.config.lifetime);
    let (next, made) = shared.node.insert_record(id, life, now)?;
    let notices = shared.node.followed.notices_of(&shared.node.config.owner(&next.id()));
    let by_value = matches!(shared.node.config.identity, Identity::Value { .. });
    let followed = start.kind.is_renewal() && principal.is_some();
    let predecessor = Predecessor { id: old.id(), shares_end: followed && by_value };
    let mut replacement = Replacement::new(shared, start, predecessor, followed, now);
    let ended = match shared.node.store() {
        Some(store) => Some(replace_in_store(shared, store, (old, &next), &mut replacement, now).await?),
        None => None,
    };
    let moved = shared.rebind_if(next.clone(), || swap_records(shared, (old, principal), &next, &replacement, now));
    if let (Err(_), Some(store)) = (&moved, shared.node.store()) {
        end_copy(shared, store, shared.node.config.owner(&next.id()), now).await;
    }
    let adopted = moved?;
    if let Some(ended) = ended {
        ended.settle(false);
    }
    made.keep();
    if let Some(stamp) = replacement.stamp {
        // Another node may have ended the new session already, by a sign-out that came after the end of the old one.
        let is_whole = !replacement.is_unstored && !shared.node.followed.is_outdated(notices);
        shared.node.note_stored(&next, Known::new(stamp, stamp), is_whole, now);
        if replacement.is_unstored {
            // The next load brings the store the values of other nodes that only this node's memory has now.
            next.extras().sync().owe();
        }
    }
    shared.node.account(old, now);
    shared.node.account(&next, now);
    // Notified after the rebinding: a watch of this handle then sees the renewal as its own.
    old.notify_all();
    Ok(adopted)
}

/// Moves the old record's values into the new record in memory, and ends the old record, in one step. Returns the choices
/// to adopt.
fn swap_records(
    shared: &SessionShared,
    (old, principal): (&Record, Option<PrincipalTag>),
    next: &Record,
    replacement: &Replacement<'_>,
    now: Millis,
) -> Result<Vec<Mutation>, WriteError> {
    let mut adopted = Vec::new();
    old.end_with(CloseReason::Renewed, principal, (now, now), |state| {
        *next.write() = successor_state(shared, state, replacement, now)?;
        adopted = chosen(shared, state, replacement.start.adopt, now);
        Ok(match replacement.followed {
            true => Successor::Session(Box::new(*next.key())),
            false => Successor::None,
        })
    })?;
    Ok(adopted)
}

/// Returns the session's copies of the values to adopt.
pub(super) fn chosen(shared: &SessionShared, state: &State, adopt: &[ValueIndex], now: Millis) -> Vec<Mutation> {
    let schema = &shared.node.config.schema;
    let change = |index: &ValueIndex| {
        let json = state.value(schema, *index, now)?.json.clone()?;
        Some(Mutation::set(*index, schema.get(*index).name, json))
    };
    adopt.iter().filter_map(change).collect()
}

/// # Errors
///
/// `TooLarge` if the values to write do not fit beside the values that the new session keeps.
pub(super) fn successor_state(
    shared: &SessionShared,
    state: &State,
    Replacement { start, predecessor, stamp, is_unstored, lifetime_version, .. }: &Replacement<'_>,
    now: Millis,
) -> Result<State, CommitRejected> {
    let Kind::Session { life, .. } = &state.kind else { return Err(CommitRejected::Closed(CloseReason::Expired)) };
    // The birth is greater than every version that this node has seen. So the birth is greater than that of the old
    // session, which no `end_all_sessions` has covered.
    let fresh = || stamp.unwrap_or_else(|| shared.node.time.fresh(now, start.above()));
    // A node whose clock is ahead may have planned the birth, and the end of all sessions compares with the stamp.
    let planned = |planned: PlannedSession| stamp.map_or(planned.birth, |stamp| planned.birth.min(stamp));
    let birth = start.planned.map_or_else(fresh, planned);
    let fields = match start.kind {
        // The last end of all sessions may be ahead of the store's clock, and the old birth is above this end.
        StartKind::Renewal { .. } => LifeFields { birth: birth.max(life.birth()), ..life.fields() },
        StartKind::SignIn { .. } => LifeFields {
            generation: life.fields().generation,
            ..begin_life(shared, (birth, *lifetime_version), now).fields()
        },
    };
    let mut life = SessionLife::from(fields);
    life.set_predecessor(*predecessor);
    let mut next = state.successor_state(life);
    if !start.kind.is_renewal() {
        next.values.retain(|index| shared.node.config.schema.get(index).scope == Scope::Session);
    }
    if *is_unstored {
        next.mark_unstored();
    }
    if start.changes.is_empty() {
        return Ok(next);
    }
    // The store's stamp may be below the version of an earlier copy, which a node's clock has given.
    next.values.retain(|index| !start.changes.iter().any(|change| change.index == index));
    let context = shared.node.write_context(Scope::Session, now).for_share(BudgetShare::Whole);
    let version = stamp.unwrap_or_else(|| shared.node.time.fresh(now, state.values.newest()));
    let changes: Vec<_> = start.changes.iter().map(|change| Mutation { version: *stamp, ..change.clone() }).collect();
    if stamp.is_none() {
        // With a stamp the store has made the move, which can't fail any more.
        next.check_budget(&changes, context)?;
    }
    next.apply(&changes, version, context);
    Ok(next)
}

/// Moves the session to its new id in the store. The copy comes first and the end second: a failure between the two
/// leaves the old session whole. Returns the end, to settle once memory has the end too: after a drop before, the next
/// load asks the store.
async fn replace_in_store<'a>(
    shared: &SessionShared,
    store: NodeStore<'_>,
    (old, next): (&'a Arc<Record>, &Record),
    replacement: &mut Replacement<'_>,
    now: Millis,
) -> Result<PendingWrite<'a>, WriteError> {
    let copied = create_in_store(shared, store, (old, next), replacement, now).await?;
    let owner = shared.node.config.owner(&next.id());
    if let Err(error) = check_revoked_in_store(shared, old, replacement, now).await {
        end_copy(shared, store, owner, now).await;
        return Err(error);
    }
    let mut retired = match end_in_store(shared, store, (old, owner), replacement, now).await {
        Ok(retired) => retired,
        Err(error) => {
            end_copy(shared, store, owner, now).await;
            return Err(error);
        }
    };
    let ended = old.extras().sync().begin();
    let later = later_writes(shared, &retired, &copied, replacement);
    let life = later_life(shared, (old, &retired), &copied, replacement, now);
    if !later.is_empty() || life.is_some() {
        let until = life.as_ref().map_or(now, |life| shared.node.session_until(life, now));
        let life = life.map(|life| shared.node.stored_life(&life));
        let write = StoreWrite { changes: &later, life, ..StoreWrite::of(CommitKind::Update, until) };
        // The old session has ended, so a failure of this write is no failure of the move: memory has the values, and
        // the next load asks the store again.
        match next.extras().sync().track(store.commit(owner, write)).await {
            Ok(Committed::Ended(end)) => return Err(WriteError::closed(shared.end_as_stored(old, &end, now))),
            Ok(Committed::Absent) => {
                let _ = shared.end(old, CloseReason::Destroyed, now);
                return Err(WriteError::closed(CloseReason::Destroyed));
            }
            Ok(Committed::Outdated(_)) | Err(_) => replacement.is_unstored = true,
            Ok(_) => {}
        }
    }
    // Undeclared values stay in the store. A value that is written with the move replaces each earlier copy.
    retired.retain(|name| {
        let index = shared.node.config.schema.index_by_name(name);
        index.is_some_and(|index| !replacement.start.changes.iter().any(|change| change.index == index))
    });
    shared.node.merge_stored(old, retired, Scope::Session, now);
    Ok(ended)
}

/// Checks whether another node has ended all sessions of the principal, after the store has stamped the copy: a renewal
/// must not carry a revoked session beyond its end.
async fn check_revoked_in_store(
    shared: &SessionShared,
    old: &Arc<Record>,
    replacement: &Replacement<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let SessionStart { kind, planned, .. } = replacement.start;
    // The birth that an order has planned is older than the copy, so a later load finds such a session revoked.
    if !kind.is_renewal() || planned.is_some() {
        return Ok(());
    }
    if let (Some(principal), Some(store)) = (shared.principal_for(old, now), shared.node.store()) {
        store.forget_absent(&principal.owner);
        load::read_record(shared, &principal, now).await?;
    }
    shared.check_revoked(old, now).map_err(WriteError::closed)
}

/// Ends the copy of a session after a failed move, so that no session stays in the store whose id no browser has. A
/// failure of the end changes nothing: the store drops the copy after the session's lifetime.
async fn end_copy(shared: &SessionShared, store: NodeStore<'_>, copy: OwnerId, now: Millis) {
    let _ = store.end(copy, CloseReason::Destroyed, None, now.after(shared.node.longest_absolute())).await;
}

/// Copies the session to its new id in the store. Returns the copy.
async fn create_in_store(
    shared: &SessionShared,
    store: NodeStore<'_>,
    (old, next): (&Record, &Record),
    replacement: &mut Replacement<'_>,
    now: Millis,
) -> Result<State, WriteError> {
    let copy =
        old.live(now, |state| successor_state(shared, state, replacement, now)).map_err(WriteError::closed)??;
    let schema = &shared.node.config.schema;
    let written = replacement.start.changes;
    // The store stamps the values that are written with the move.
    let carried = copy.values.declared().filter(|slot| !written.iter().any(|change| change.index == slot.index));
    let carried = carried.map(|slot| carried_change(schema.get(slot.index).name, &slot.value));
    let changes: Vec<_> = carried.chain(written.iter().map(Change::from)).collect();
    // Not above the versions of the values, which may come from a node's clock: the stamp is the birth of the new session,
    // and a birth ahead of the store's clock would outlive a later end of all sessions.
    let above = replacement.start.above();
    let life = copy.life().map(|life| shared.node.stored_life(life));
    let until = shared.node.stored_until(&copy, now);
    let write = StoreWrite { changes: &changes, life, above, ..StoreWrite::of(CommitKind::Create, until) };
    match store.commit(shared.node.config.owner(&next.id()), write).await? {
        Committed::Applied { stamp, .. } => {
            shared.node.note_version(stamp, now);
            replacement.stamp = Some(stamp);
            Ok(copy)
        }
        // The store knows the planned id already: another node has carried out the order.
        _ if replacement.start.planned.is_some() => Err(WriteError::closed(CloseReason::Renewed)),
        _ => Err(not_taken()),
    }
}

fn carried_change<'a>(name: &'a str, value: &'a StoredValue) -> Change<'a> {
    Change { name, json: value.json.as_ref(), version: Some(value.version), replaces: None }
}

/// Ends the old id in the store. Returns the record as it was before the end.
async fn end_in_store(
    shared: &SessionShared,
    store: NodeStore<'_>,
    (old, next): (&Arc<Record>, OwnerId),
    replacement: &Replacement<'_>,
    now: Millis,
) -> Result<StoredRecord, WriteError> {
    let until = old.read().absolute_deadline().unwrap_or(now);
    // With `identify` the store names no successor: it does not know the users of requests.
    let successor = replacement.predecessor.shares_end.then_some(next);
    let end = store.end(shared.node.config.owner(&old.id()), CloseReason::Renewed, successor, until);
    match old.extras().sync().track(end).await? {
        Committed::Retired(record) => Ok(record),
        Committed::Ended(end) => Err(WriteError::closed(shared.end_as_stored(old, &end, now))),
        // The copy is the restored session.
        Committed::Absent if shared.node.restores() => Ok(StoredRecord::new(Version::ZERO)),
        Committed::Absent => {
            let _ = shared.end(old, CloseReason::Destroyed, now);
            Err(WriteError::closed(CloseReason::Destroyed))
        }
        Committed::Applied { .. } | Committed::Outdated(_) => Err(not_taken()),
    }
}

/// Returns the values of the ended session that its copy lacks: writes of other nodes that this node has not seen, and
/// values that this build does not declare.
fn later_writes<'a>(
    shared: &SessionShared,
    retired: &'a StoredRecord,
    copied: &State,
    replacement: &Replacement<'_>,
) -> Vec<Change<'a>> {
    let (schema, start) = (&shared.node.config.schema, replacement.start);
    let is_later = |entry: &&StoredEntry| {
        let Some(index) = schema.index_by_name(entry.name()) else { return true };
        let goes_along = start.kind.is_renewal() || schema.get(index).scope == Scope::Session;
        let is_written = start.changes.iter().any(|change| change.index == index);
        let copy = copied.values.slot(index).map(|slot| slot.value.rank());
        goes_along && !is_written && copy.is_none_or(|copy| copy < entry.rank())
    };
    let change = |entry: &'a StoredEntry| Change {
        name: &entry.name,
        json: entry.json.as_ref(),
        version: Some(entry.version),
        replaces: None,
    };
    retired.entries().filter(is_later).map(change).collect()
}

/// Returns the lifetime that another node has given the ended session, if the copy of a renewal lacks the lifetime. The
/// old record gets the lifetime too.
fn later_life(
    shared: &SessionShared,
    (old, retired): (&Record, &StoredRecord),
    copied: &State,
    replacement: &Replacement<'_>,
    now: Millis,
) -> Option<SessionLife> {
    shared.node.merge_stored_life(old, retired.life()?, now);
    let copied = copied.life().map(SessionLife::lifetime_version);
    let life = old.read().life().cloned()?;
    (replacement.start.kind.is_renewal() && Some(life.lifetime_version()) > copied).then_some(life)
}

fn not_taken() -> WriteError {
    WriteError::new(WriteErrorKind::Unavailable, "the shared store refused the renewal of the session: try again")
}
