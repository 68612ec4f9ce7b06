//! What an opened token holds goes into the records: the join at the door.

use std::sync::Arc;

use super::{
    current_token::CurrentToken,
    relay::RelayRefused,
    request_token::RequestToken,
    shared::{Binding, SessionShared, fenced},
};
use crate::{
    config::ResolvedPrincipal,
    cookie::payload::EntryOwner,
    cross_site::PageOrigin,
    error::{CloseReason, TierError, WriteError},
    id::{RecordKey, SessionId},
    memory::{SessionLookup, record::Record},
    record::{
        change::IncomingValue,
        cookie_sync::{CookieSnapshot, TokenFingerprint},
        state::Kind,
        values::{Resolution, ValueSlot},
        write_context::IncomingFrom,
    },
    sync::RwLock,
    tier::{Snapshot, StoredRecord},
    time::Millis,
    value::{Scope, ValueIndex},
    version::Version,
};

/// A token that had to be opened, on its way into the records.
pub(super) struct AcceptedToken {
    pub(super) current: CurrentToken,
    pub(super) old_key: bool,
    pub(super) fingerprint: Option<TokenFingerprint>,
    /// What the store holds, and how many writes of ours had been abandoned when it was asked.
    pub(super) stored: Option<(StoredRecord, usize)>,
}

/// What came of a payload.
pub(super) struct PayloadMerge {
    pub(super) deadline: Millis,
    sealed: Millis,
    sessions: usize,
    principals: usize,
    /// The states of the records into which they went.
    session_stamp: Option<u64>,
    principal_stamp: Option<u64>,
    equal: bool,
    /// The word on the session's lifetime that it brought.
    lifetime: Version,
    /// The principal's entries are the present principal's, or there is none to mind.
    ours: bool,
    /// Everything went into a record: what brings the same bytes again needn't be opened.
    whole: bool,
    pub(super) filled: Vec<(ValueIndex, Version)>,
}

/// # Errors
///
/// Where a token that is brought without a cookie may give the browser no session: giving one is minting.
pub(super) fn check_minting(shared: &SessionShared, page: PageOrigin) -> Result<(), RelayRefused> {
    if page == PageOrigin::Listed || matches!(shared.binding(), Binding::CrossSite(_)) {
        return Err(RelayRefused::Closed(CloseReason::CrossSite));
    }
    Ok(())
}

/// Takes what a token of this session holds into the records. Only that says whose session it is: the session is this
/// handle's once it is known to live.
pub(super) fn take_changes(
    shared: &SessionShared,
    record: &Arc<Record>,
    current: &CurrentToken,
    now: Millis,
) -> Result<(), RelayRefused> {
    record.touch_at_least(current.used(now));
    // The newest copy stands whatever the resolution: no cookie would keep a copy that memory leaves out here.
    merge_payload(shared, record, current, Resolution::Newest, now);
    shared.node.account(record, now);
    shared.check_revoked(record, now).map_err(RelayRefused::Closed)
}

/// Takes what an opened token holds into the records of its session and of its present principal.
pub(super) async fn merge_token(
    shared: &mut SessionShared,
    arrived: AcceptedToken,
    now: Millis,
) -> Result<(), TierError> {
    let AcceptedToken { current, old_key: retired, fingerprint: seen, stored } = arrived;
    let Binding::Live(bound) = shared.binding() else { return Ok(()) };
    if let Some((stored, abandoned)) = stored {
        let entries = shared.node.incoming_values(stored, Scope::Session, now);
        bound.merge(IncomingFrom::Store, entries.into_iter(), shared.node.write_context(Scope::Session, now), None);
        bound.sync().mark_read(abandoned);
    }
    let mut taken = merge_payload(shared, &bound, &current, shared.node.config.resolution, now);
    let signed = shared.principal_for(&bound, now);
    load_principal(shared, now).await?;
    drop_if_revoked(shared, now);
    let Binding::Live(bound) = shared.binding() else { return Ok(()) };
    let in_step = cookie_snapshot(shared, &bound, signed.as_deref(), &taken, now).filter(|_| !retired);
    if let (Some(fingerprint), Some(brought), true) = (seen, in_step.clone(), taken.whole) {
        bound.write().set_cookie(fingerprint, brought);
    }
    shared.node.account(&bound, now);
    shared.request_token = RequestToken {
        key: Some(*bound.key()),
        cookie: in_step,
        // What came of it into the user's record is held already.
        principal: None,
        cookie_tokens: shared.request_token.cookie_tokens.take(),
        from_cookie: std::mem::take(&mut taken.filled).into(),
    };
    Ok(())
}

/// A request that comes with a revoked session comes with none.
pub(super) fn drop_if_revoked(shared: &mut SessionShared, now: Millis) {
    if shared.with_session_record(Scope::Session, |_| ()).is_none()
        && let Binding::Live(record) = shared.binding()
        && shared.check_revoked(&record, now).is_err()
    {
        shared.binding = RwLock::new(fenced(&record, now).unwrap_or(Binding::Fenced(CloseReason::Revoked)));
    }
}

/// Asks the shared store for what the present principal has, once for as long as memory holds the answer.
pub(super) async fn load_principal(shared: &SessionShared, now: Millis) -> Result<(), TierError> {
    if shared.node.store.is_some()
        && let Some(signed) = shared.principal(now)
        && let Some(record) = load_principal_record(shared, &signed, now).await?
    {
        // As long as the handle lives: one that is made after an eviction would lack what the store has.
        shared.hold_record(record);
    }
    Ok(())
}

/// The record of a principal with what the shared store has of it, of which it is asked unless memory holds the answer.
/// `None` without a store.
pub(super) async fn load_principal_record(
    shared: &SessionShared,
    signed: &ResolvedPrincipal,
    now: Millis,
) -> Result<Option<Arc<Record>>, TierError> {
    let Some(store) = shared.node.store() else { return Ok(None) };
    let known = shared.find_principal(signed);
    if known.as_ref().is_some_and(|record| !record.is_stale() && record.closed(now).is_none()) {
        return Ok(known);
    }
    let abandoned = known.as_ref().map_or(Record::NEVER_LOADED, |record| record.sync().abandoned_writes());
    let stored = store.read(signed.owner).await?.into_record();
    let entries = shared.node.incoming_values(stored, Scope::Principal, now);
    let record = shared.principal_record(signed, now);
    record.merge(IncomingFrom::Store, entries.into_iter(), shared.node.write_context(Scope::Principal, now), None);
    // The very record that was asked, and held since: another of this owner counts its own writes.
    known.as_ref().unwrap_or(&record).sync().mark_read(abandoned);
    // That there is nothing is remembered too.
    shared.node.account(&record, now);
    Ok(Some(record))
}

/// Joins what a genuine payload of this session holds into the records that it speaks of.
pub(super) fn merge_payload(
    shared: &SessionShared,
    bound: &Arc<Record>,
    current: &CurrentToken,
    resolution: Resolution,
    now: Millis,
) -> PayloadMerge {
    let (payload, life) = (&current.payload, &current.life);
    let mut taken = PayloadMerge {
        deadline: current.idle_deadline.min(life.absolute_deadline()),
        sealed: current.issued,
        sessions: payload.count(EntryOwner::Session),
        principals: payload.count(EntryOwner::Principal),
        session_stamp: None,
        principal_stamp: None,
        lifetime: life.lifetime_version(),
        equal: true,
        ours: true,
        whole: true,
        filled: Vec::new(),
    };
    bound.merge_life(life, now);
    let from = IncomingFrom::Browser(resolution);
    merge_entries(shared, (Scope::Session, bound), from, current, &mut taken, now);
    match (payload.head.principal, shared.principal_for(bound, now)) {
        (Some(tag), Some(signed)) if tag == signed.owner.tag() => {
            if taken.principals > 0 {
                let record = shared.hold_principal(&signed, now);
                merge_entries(shared, (Scope::Principal, &record), from, current, &mut taken, now);
                record.touch(now);
                shared.node.account(&record, now);
            }
        }
        // What another principal left in this browser is nobody's here.
        (_, signed) => {
            taken.ours = signed.is_none();
            taken.whole &= taken.principals == 0;
        }
    }
    taken
}

fn merge_entries(
    shared: &SessionShared,
    (scope, record): (Scope, &Record),
    from: IncomingFrom,
    current: &CurrentToken,
    taken: &mut PayloadMerge,
    now: Millis,
) {
    let schema = &shared.node.config.schema;
    let time = &shared.node.time;
    let (owner, revision) = match scope {
        Scope::Session => (EntryOwner::Session, &mut taken.session_stamp),
        Scope::Principal => (EntryOwner::Principal, &mut taken.principal_stamp),
    };
    let entries = current.payload.entries(owner).map(|entry| {
        let value = current.stored_value(&entry, time, now);
        match schema.index_by_bytes(entry.name) {
            Some(index) => IncomingValue::Declared(ValueSlot::incoming(index, value)),
            None => IncomingValue::Undeclared(entry.text().into(), value),
        }
    });
    // Without memory there is no other tier than the cookie that could have answered.
    let filled = shared.node.memory.is_some().then_some(&mut taken.filled);
    let joined = record.merge(from, entries, shared.node.write_context(scope, now), filled);
    taken.equal &= joined.same;
    *revision = Some(joined.revision);
}

/// Whether what was taken in is all that this browser is to carry, and what state of the records that was.
pub(super) fn cookie_snapshot(
    shared: &SessionShared,
    bound: &Arc<Record>,
    signed: Option<&ResolvedPrincipal>,
    taken: &PayloadMerge,
    now: Millis,
) -> Option<CookieSnapshot> {
    let schema = &shared.node.config.schema;
    let session = bound.read();
    // Of the very state that the token was compared with: a write since then is one that the browser lacks.
    let same = |stamp: Option<u64>, carried| stamp.is_none_or(|stamp| stamp == carried);
    let mut all = same(taken.session_stamp, session.revision());
    all &= session.cookie_entries(schema).count() == taken.sessions;
    // Of the same values, and of a lifetime that is no longer the session's: the answer that told of it was lost.
    let Kind::Session { life, .. } = &session.kind else { return None };
    all &= life.lifetime_version() == taken.lifetime;
    let (carried, due) = (session.revision(), life.refresh_after(taken.deadline, taken.sealed));
    drop(session);
    let principal = signed.map(|signed| {
        let read = |record: Arc<Record>| {
            let state = record.live(now, |state| {
                all &= same(taken.principal_stamp, state.revision());
                all &= state.cookie_entries(schema).count() == taken.principals;
                state.cookie_revision()
            });
            state.unwrap_or(0)
        };
        Arc::new((signed.key(), shared.find_principal(signed).map_or(0, read)))
    });
    let in_step = CookieSnapshot {
        deadline: taken.deadline,
        sealed: taken.sealed,
        refresh_after: due,
        session: carried,
        principal,
    };
    (all && taken.equal && taken.ours).then_some(in_step)
}

/// The session of an opened token that a page brought, on a node that may not know the session yet. A shared store
/// decides whether the session exists; its values are asked for when they are read.
pub(super) async fn find_token_record(
    shared: &SessionShared,
    id: SessionId,
    current: &CurrentToken,
    now: Millis,
) -> Result<Arc<Record>, RelayRefused> {
    let (node, key) = (&shared.node, RecordKey(*id.as_bytes()));
    if let Some(store) = node.store()
        && !is_fresh(shared, &key, now)
    {
        match store.read(node.config.owner(&id)).await.map_err(WriteError::from)? {
            Snapshot::Present(_) => {}
            Snapshot::Absent => return Err(RelayRefused::OtherSession),
            Snapshot::Ended(_) => return Err(RelayRefused::Closed(CloseReason::Destroyed)),
        }
    }
    let make = || {
        let record = Record::session(key, current.initial_life(), current.used(now));
        if node.store.is_some() { record.never_loaded() } else { record }
    };
    let record = node.session_record(&key, now, make).map_err(|ended| RelayRefused::Closed(ended.reason()))?;
    record.touch_at_least(current.used(now));
    match record.closed(now) {
        Some(reason) => Err(RelayRefused::Closed(reason)),
        None => Ok(record),
    }
}

/// Whether memory has the store's last answer on a session.
fn is_fresh(shared: &SessionShared, key: &RecordKey, now: Millis) -> bool {
    let known = shared.node.memory.as_ref().map(|memory| memory.session(key, now));
    matches!(known, Some(SessionLookup::Live(record)) if !record.is_stale())
}
