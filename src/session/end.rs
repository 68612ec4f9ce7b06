//! Ends of sessions: of this handle's own session, and of all sessions of a user.
//!
//! A `destroy` can meet a renewal: a user signs out in one tab while a response of another tab renews the session. The
//! sign-out brings the old id, and must end the session under its new id.

use std::{iter, sync::Arc};

use super::{
    commit, lifecycle, load,
    replace::{self, SessionStart, StartKind},
    shared::{Binding, IssuedOrder, OwnEnd, SessionShared},
};
use crate::{
    config::{Identity, ResolvedPrincipal},
    cookie::order::MAX_BEGUN,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{OwnerId, PrincipalTag, RecordKey, SessionId},
    memory::{EndedSession, SessionLookup, record::Record},
    node::store::StoreWrite,
    record::life::{End, Successor},
    tier::{CommitKind, Committed, Known},
    time::Millis,
    version::Version,
};

/// Ends an id on this node and in the store, also an unknown id. The tombstone of an unknown id is filed under
/// `principal`.
pub(super) async fn end_id(
    shared: &SessionShared,
    id: SessionId,
    principal: Option<PrincipalTag>,
    until: Millis,
    now: Millis,
) -> Result<(), WriteError> {
    if let Some(store) = shared.node.store() {
        store.end_line(shared.node.config.owner(&id), CloseReason::Destroyed, until).await?;
    }
    if let Some(memory) = &shared.node.memory {
        let key = RecordKey(*id.as_bytes());
        let end = End { reason: CloseReason::Destroyed, at: now, until, principal, successor: Successor::None };
        if let SessionLookup::Live(record) = memory.end_id(&key, end, now) {
            let _ = shared.end(&record, CloseReason::Destroyed, now);
        }
    }
    Ok(())
}

pub(super) async fn destroy(shared: &SessionShared) -> Result<(), WriteError> {
    shared.flags.touched.set();
    commit::check_head(shared)?;
    let _lifecycle = shared.lifecycle_lock().await;
    end_own(shared, CloseReason::Destroyed).await
}

/// Ends the handle's session, and the sessions that this handle's orders may still begin. The caller holds
/// [`SessionShared::lifecycle_lock`], so that no clone renews the session meanwhile.
pub(super) async fn end_own(shared: &SessionShared, reason: CloseReason) -> Result<(), WriteError> {
    if matches!(shared.binding(), Binding::Fenced(CloseReason::Ambiguous)) {
        // One of the sessions is the user's, and lives on. A success would show a sign-out that did not happen.
        return Err(WriteError::closed(CloseReason::Ambiguous));
    }
    let now = shared.node.now();
    let longest = now.after(shared.node.longest_absolute());
    // The orders are forgotten only after their sessions have ended: after a failure or a dropped call, the next call
    // ends these sessions.
    let orders = shared.orders();
    for IssuedOrder { id, principal, .. } in &orders {
        end_id(shared, *id, *principal, longest, now).await?;
    }
    let orderer = orders.last().and_then(|newest| newest.principal);
    let before = shared.own_end();
    let mut others: Vec<_> = orders.iter().rev().map(|order| order.id).collect();
    others.extend(before.iter().flat_map(|before| iter::once(&before.id).chain(&before.others)));
    // The session of an order has a lifetime of its own, so the end is kept for the longest lifetime.
    let at_least = if orders.is_empty() { now } else { longest };
    let ended = end_session(shared, reason, at_least, now).await?;
    shared.set_own_lifetime(None);
    shared.forget_orders(&orders);
    match ended {
        Some(EndedRecord { id, until, principal }) => {
            others.truncate(MAX_BEGUN);
            shared.note_own_end(OwnEnd { id, until, principal: principal.or(orderer), others });
        }
        None if !orders.is_empty() => {
            // The page may have brought an order to another node, and the browser then has the cookie of the session
            // that the order began. So the cookie removal names the sessions of all orders.
            if before.is_none() {
                others.extend(shared.bound_key().or(shared.request_token.key).map(|key| SessionId::from_bytes(key.0)));
            }
            let principal = before.and_then(|before| before.principal).or(orderer);
            let id = others.remove(0);
            others.truncate(MAX_BEGUN);
            shared.set_own_end(OwnEnd { id, until: longest, principal, others });
        }
        // No session lives, so there is nothing to end.
        None => {
            if let Err(Some(CloseReason::Destroyed | CloseReason::Revoked | CloseReason::Expired)) = shared.live(now) {
                // Ended elsewhere: the application may begin another session, as after an end of its own. The browser
                // keeps its cookie, which by now may be the cookie of a later login. A renewed session goes on in
                // another tab, so this handle may begin no other session.
                shared.flags.may_begin.set();
            }
        }
    }
    Ok(())
}

/// A record that this handle has ended.
struct EndedRecord {
    id: SessionId,
    /// The last moment at which a token of the id can open.
    until: Millis,
    principal: Option<PrincipalTag>,
}

/// Ends the handle's session, or the successor that a renewal of the session began. `None` if there is no session to
/// end.
async fn end_session(
    shared: &SessionShared,
    reason: CloseReason,
    at_least: Millis,
    now: Millis,
) -> Result<Option<EndedRecord>, WriteError> {
    // Looks again if another handle has renewed the session meanwhile.
    while let Some(record) = session_to_end(shared, now) {
        let deadline = record.read().absolute_deadline().unwrap_or(now);
        let until = record.forget_after().max(deadline).max(at_least);
        if let Some(store) = shared.node.store() {
            let owner = shared.node.config.owner(&record.id());
            if let Some(earlier) = record.extras().sync().track(store.end_line(owner, reason, until)).await? {
                shared.end_as_stored(&record, &earlier, now);
                // A renewal has begun another session meanwhile. The store may not have ended that session: after a step
                // of this node's clock the renewal seems older than a minute.
                match living_successor(shared, now) {
                    Some(_) => continue,
                    None => return Ok(None),
                }
            }
        }
        let principal = shared.principal_for(&record, now).map(|principal| principal.owner.tag());
        if shared.end(&record, reason, now).is_ok() {
            return Ok(Some(EndedRecord { id: record.id(), until, principal }));
        }
    }
    if let (Some(store), Some(successor)) = (shared.node.store(), stored_successor(shared, now)) {
        let until = now.after(shared.node.longest_absolute());
        store.end_line(successor, reason, until).await?;
    }
    Ok(None)
}

pub(super) async fn end_all_sessions(shared: &SessionShared) -> Result<(), WriteError> {
    shared.flags.touched.set();
    commit::check_head(shared)?;
    let _lifecycle = shared.lifecycle_lock().await;
    let now = shared.node.now();
    // As in `destroy`, another tab may renew the session first, and a third tab again before the principal is read:
    // looks again until the principal of a living session is read.
    let principal = loop {
        let record = session_to_end(shared, now);
        match signed_in(shared, record.clone(), now) {
            Ok((_, principal)) => break principal,
            Err(error) if record.is_none_or(|record| record.closed(now).is_none()) => return Err(error),
            Err(_) => {}
        }
    };
    check_ends_kept(shared)?;
    // This session ends before the revocation. The revocation's stamp covers this session too, so this handle would
    // otherwise see an end by another handle.
    end_own(shared, CloseReason::Revoked).await?;
    revoke(shared, &principal).await.map(drop)
}

pub(super) async fn end_other_sessions(shared: &SessionShared) -> Result<(), WriteError> {
    shared.flags.touched.set();
    lifecycle::check_can_set_cookie(shared)?;
    let _lifecycle = shared.lifecycle_lock().await;
    let now = shared.node.now();
    let (record, principal) = signed_in(shared, shared.live(now).ok(), now)?;
    check_ends_kept(shared)?;
    // Two calls for one session must not meet: the revocation by the second call would end the session that the first
    // call has renewed. Without a store no call waits, and the exemption keeps the calls apart.
    let _gate = replace::renewal_gate(shared, &record).await;
    let now = shared.node.now();
    if let Some(store) = shared.node.store() {
        // Another node may have renewed or ended this session, or all of the user's: the call then ends no session, and
        // its renewal must not revive this session.
        commit::read_session(shared, store, &record, now).await?;
        store.forget_absent(&principal.owner);
        load::read_record(shared, &principal, now).await?;
        shared.check_revoked(&record, now).map_err(WriteError::closed)?;
    }
    let exemption = shared.node.exempt_renewals.exempt(*record.key(), shared.handle_id());
    let _exemption = exemption.ok_or_else(|| WriteError::closed(CloseReason::Renewed))?;
    // Another call has renewed this session, or another node has set a lifetime that has passed.
    if let Some(reason) = record.closed(now) {
        return Err(WriteError::closed(reason));
    }
    let above = revoke(shared, &principal).await?;
    let start = SessionStart { kind: StartKind::Renewal { above }, planned: None, changes: &[], adopt: &[] };
    replace::replace_behind_gate(shared, (&record, Some(principal.owner.tag())), &start, now).await.map(drop)
}

/// # Errors
///
/// `NoMemory` if no tier would know at the next request that a principal's sessions have ended.
pub(crate) fn check_ends_kept(shared: &SessionShared) -> Result<(), WriteError> {
    if shared.node.memory.is_none() && shared.node.store.is_none() {
        let message = "the memory tier or a shared store keeps the end of a user's sessions, and this chain has \
                       neither: add `.tier(MemoryTier::builder().build())`";
        return Err(WriteError::new(WriteErrorKind::NoMemory, message));
    }
    Ok(())
}

/// Returns the session and its principal, for the end of several sessions of the principal.
fn signed_in(
    shared: &SessionShared,
    record: Option<Arc<Record>>,
    now: Millis,
) -> Result<(Arc<Record>, Arc<ResolvedPrincipal>), WriteError> {
    let record = record.ok_or_else(|| match shared.live(now) {
        Err(None) => WriteError::new(
            WriteErrorKind::Invalid,
            "the handle has no session, so no user is signed in: outside of a request call \
             `Sessions::end_all_sessions`",
        ),
        Err(Some(reason)) => WriteError::closed(reason),
        Ok(_) => WriteError::closed(CloseReason::Renewed),
    })?;
    let anonymous = || match record.closed(now) {
        // Another request has ended the session first, and an ended record no longer names its principal. So the error
        // tells the end.
        Some(reason) => WriteError::closed(reason),
        None => {
            WriteError::new(WriteErrorKind::Invalid, "no user is signed in, so there are no sessions of a user to end")
        }
    };
    let principal = shared.principal_for(&record, now).ok_or_else(anonymous)?;
    Ok((record, principal))
}

/// Ends all sessions of a principal whose ids were made up to now: first in the store, and then on this node. Returns
/// the version up to which the sessions have ended.
pub(crate) async fn revoke(shared: &SessionShared, principal: &ResolvedPrincipal) -> Result<Version, WriteError> {
    let now = shared.node.now();
    let record = shared.hold_principal(principal, now);
    let time = &shared.node.time;
    // This node doesn't know the counters of other nodes in this millisecond, so all ids of the millisecond end too.
    let version = time.fresh(now, Version::ZERO).max(Version::last_at(time.wall(now)));
    let version = match shared.node.store() {
        Some(store) => {
            let until = shared.node.cookies_until(now);
            let write = StoreWrite { above: version, ..StoreWrite::of(CommitKind::Revoke { up_to: None }, until) };
            match record.extras().sync().track(store.commit(principal.owner, write)).await? {
                Committed::Applied { stamp, newest, generation } => {
                    shared.node.note_stored(&record, Known::new(generation, newest), false, now);
                    stamp
                }
                _ => return Err(not_taken()),
            }
        }
        None => version,
    };
    shared.node.raise_not_before(&record, version, shared.node.now());
    shared.node.account(&record, now);
    Ok(version)
}

fn not_taken() -> WriteError {
    let message = "the shared store refused the end of the user's sessions: try again";
    WriteError::new(WriteErrorKind::Unavailable, message)
}

/// Returns the session that a `destroy` of this handle ends: the handle's own session if that session lives, else its
/// living successor.
pub(super) fn session_to_end(shared: &SessionShared, now: Millis) -> Option<Arc<Record>> {
    shared.live(now).ok().or_else(|| exempt_session(shared, now)).or_else(|| living_successor(shared, now))
}

/// Returns the session that another handle is about to renew, after the end of all other sessions of its user.
fn exempt_session(shared: &SessionShared, now: Millis) -> Option<Arc<Record>> {
    let key = match shared.binding() {
        Binding::Live(record) => *record.key(),
        Binding::Fenced(_) => shared.request_token.key?,
        Binding::Anonymous | Binding::CrossSite(_) | Binding::PrincipalOnly => return None,
    };
    shared.node.exempt_renewals.renewer(&key)?;
    match shared.node.memory.as_ref()?.session(&key, now) {
        SessionLookup::Live(record) => record.closed(now).is_none().then_some(record),
        SessionLookup::Ended(_) | SessionLookup::Unknown => None,
    }
}

/// The session that a renewal made of an ended session.
enum RenewedSession {
    Here(Arc<Record>),
    /// The store knows the session, and this node's memory does not.
    Elsewhere(OwnerId),
}

/// Returns the living successor of this handle's renewed session, if this node has its record.
fn living_successor(shared: &SessionShared, now: Millis) -> Option<Arc<Record>> {
    match renewed_session(shared, now)? {
        RenewedSession::Here(record) => Some(record),
        RenewedSession::Elsewhere(_) => None,
    }
}

/// Returns the successor of this handle's renewed session, if only the store has its record.
fn stored_successor(shared: &SessionShared, now: Millis) -> Option<OwnerId> {
    match renewed_session(shared, now)? {
        RenewedSession::Here(_) => None,
        RenewedSession::Elsewhere(owner) => Some(owner),
    }
}

/// Returns the last successor of this handle's renewed session.
///
/// Each step from an id to its successor must be less than a minute old. A record notes a successor only if the same
/// principal was signed in before and after.
fn renewed_session(shared: &SessionShared, now: Millis) -> Option<RenewedSession> {
    let memory = shared.node.memory.as_ref()?;
    let mut successor = own_successor(shared, now)?;
    loop {
        let key = match successor {
            Successor::Session(key) => key,
            Successor::Stored(owner) => match listed_session(shared, &owner) {
                Some(key) => Box::new(key),
                None => return Some(RenewedSession::Elsewhere(*owner)),
            },
            Successor::None => return None,
        };
        match memory.session(&key, now) {
            SessionLookup::Live(record) if record.closed(now).is_none() => return Some(RenewedSession::Here(record)),
            SessionLookup::Live(_) => return None,
            SessionLookup::Ended(next) => successor = successor_of(shared, next)?,
            SessionLookup::Unknown => {
                let owner = shared.node.config.owner(&SessionId::from_bytes(key.0));
                return Some(RenewedSession::Elsewhere(owner));
            }
        }
    }
}

/// Returns the id of a session in the store, if this node's memory may have the session.
fn listed_session(shared: &SessionShared, owner: &OwnerId) -> Option<RecordKey> {
    let key = shared.node.memory.as_ref()?.owners.session_of(owner)?;
    // The list has the first bytes of the owner alone.
    (shared.node.config.owner(&SessionId::from_bytes(key.0)) == *owner).then_some(key)
}

fn own_successor(shared: &SessionShared, now: Millis) -> Option<Successor> {
    let ended = match shared.binding() {
        Binding::Live(record) => EndedSession::of(record.end_of()?, now),
        Binding::Fenced(_) => match shared.node.memory.as_ref()?.session(&shared.request_token.key?, now) {
            SessionLookup::Ended(ended) => ended,
            SessionLookup::Live(_) | SessionLookup::Unknown => return None,
        },
        Binding::Anonymous | Binding::CrossSite(_) | Binding::PrincipalOnly => return None,
    };
    successor_of(shared, ended)
}

/// Returns the successor of a session that ended less than a minute ago. With `identify` the request must have the
/// principal of the ended session: the head may name another user of the same cookie.
fn successor_of(shared: &SessionShared, ended: EndedSession) -> Option<Successor> {
    let EndedSession::Recently(end) = ended else { return None };
    let follows = match &shared.node.config.identity {
        Identity::Head(_) => end.principal == shared.head_principal.as_ref().map(|it| it.owner.tag()),
        Identity::Value { .. } | Identity::Nobody => true,
    };
    follows.then_some(end.successor)
}
