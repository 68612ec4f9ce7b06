//! The record of a session that an opened token names: memory and the store decide whether the session lives.

use std::sync::Arc;

use super::{
    PrincipalReading,
    token::{CurrentToken, OpenedCookie},
};
use crate::{
    config::{Identity, ResolvedPrincipal},
    cookie::payload::EntryOwner,
    error::{CloseReason, TierError},
    id::RecordKey,
    memory::{EndedSession, SessionLookup, record::Record},
    node::store::{NodeStore, Reading},
    record::life::{End, SessionLife, Successor},
    session::shared::{Binding, SessionShared, fenced},
    tier::Snapshot,
    time::Millis,
    value::Scope,
};

/// The decision about an opened token.
pub(super) enum Admission {
    /// The store has no such session: the request counts as a request without a token.
    Unknown,
    /// The session is over.
    Over(Binding),
    /// The session lives. `None` if the token proves its id and nothing more; otherwise the values of the token are to
    /// be merged into the records.
    Live(Arc<Record>, Option<OpenedCookie>),
}

pub(super) type StoreAnswer = (Reading, Snapshot);

/// Finds the record of the session that a genuine token names.
pub(super) async fn admit(shared: &SessionShared, opened: OpenedCookie, now: Millis) -> Result<Admission, TierError> {
    let (node, id, token) = (&shared.node, &opened.id, &opened.token);
    let known = match node.lookup(id) {
        SessionLookup::Ended(ended) => return Ok(Admission::Over(ended.into())),
        SessionLookup::Live(record) => Some(record),
        SessionLookup::Unknown => None,
    };
    let stored = match node.store() {
        // A session that seems idle here may be in use on another node.
        Some(store) if known.as_ref().is_none_or(|known| !node.vouches(known, now) || known.closed(now).is_some()) => {
            Some(read(shared, store, &opened, known.as_deref(), now).await?)
        }
        _ => None,
    };
    let is_lost = matches!(stored, Some((_, Snapshot::Absent)));
    let is_restored = is_lost && node.restores() && (known.is_some() || !token.is_idle(now));
    match (&stored, &known) {
        (Some((_, Snapshot::Absent)), known) if !is_restored => {
            // Ends the open handles and watches of this node too.
            if let Some(record) = known
                && let Ok(_gate) = record.extras().renew_gate().try_read()
            {
                let _ = shared.end(record, CloseReason::Destroyed, now);
            }
            return Ok(Admission::Unknown);
        }
        // Memory keeps no tombstone of an old end, since the store has the end.
        (Some((_, Snapshot::Ended(end))), None) => {
            let ended = EndedSession::of(node.stored_end(end, now), now);
            if matches!(ended, EndedSession::LongAgo) {
                return Ok(Admission::Over(ended.into()));
            }
        }
        _ => {}
    }
    let stored = stored.filter(|_| !is_restored);
    let key = RecordKey(*id.as_bytes());
    let make = || {
        let record = Record::session(key, token.initial_life(), token.used(now));
        // The read above then counts as the record's first read, and no later write counts as read.
        if node.store.is_some() { record.never_loaded() } else { record }
    };
    Ok(match known.map_or_else(|| node.session_record(&key, now, make), Ok) {
        Ok(record) => {
            if is_restored {
                record.extras().sync().owe();
            }
            settle(shared, record, opened, stored, now)
        }
        Err(ended) => Admission::Over(ended.into()),
    })
}

/// Reads the session's record from the store. The token names the user, and the same call reads the user's record, since
/// the load needs that record next. If the store's record of the session names another user, `load_principal` reads
/// that user's record.
async fn read(
    shared: &SessionShared,
    store: NodeStore<'_>,
    opened: &OpenedCookie,
    known: Option<&Record>,
    now: Millis,
) -> Result<StoreAnswer, TierError> {
    let owner = shared.node.config.owner(&opened.id);
    let reading = shared.node.begin_read(known, &owner);
    // Also if memory vouches for the user's record: all sessions of the user may have ended since the record was read, and
    // the read costs no further call.
    let user = token_principal(shared, &opened.token);
    // A session that is known to be absent needs no call.
    let Some(user) = user.filter(|_| known.is_some() || !store.knows_absent(&owner)) else {
        return Ok((reading, store.read(owner, reading.known()).await?));
    };
    // Another node may have ended all sessions of a user without a record since.
    if store.knows_absent(&user.owner) {
        store.forget_absent(&user.owner);
    }
    let of_user = PrincipalReading::begin(shared, &user);
    let asks = ((owner, reading.known()), (user.owner, of_user.reading.known()));
    let (session, answer) = store.read_both(asks.0, asks.1).await?;
    // Held, since a chain without memory keeps no other copy until `load_principal` looks for the record.
    if let Some(record) = of_user.finish(shared, &user, answer, now) {
        shared.hold_record(record);
    }
    Ok((reading, session))
}

/// Returns the user that a token names.
pub(super) fn token_principal(shared: &SessionShared, token: &CurrentToken) -> Option<Arc<ResolvedPrincipal>> {
    let config = &shared.node.config;
    if shared.head_principal.is_some() {
        return shared.head_principal.clone();
    }
    let Identity::Value { index, derive } = &config.identity else { return None };
    let mut entries = token.payload.entries(EntryOwner::Session);
    let user = entries.find(|entry| config.schema.index_by_bytes(entry.name) == Some(*index))?;
    derive(user.json?).map(|principal| Arc::new(config.resolve_principal(principal)))
}

/// Merges the store's answer and the token's account of the session's life into the record, and decides whether the
/// session lives.
pub(super) fn settle(
    shared: &SessionShared,
    record: Arc<Record>,
    opened: OpenedCookie,
    stored: Option<StoreAnswer>,
    now: Millis,
) -> Admission {
    let token = &opened.token;
    record.confirm();
    end_predecessor(shared, &record, token, now);
    if let Some((_, Snapshot::Ended(end))) = &stored {
        // A record that seems idle here takes no end, and the session has ended all the same.
        record.touch(token.used(now));
        // A renewal of this node ends the record in the store first, and in memory last: see `replace_in_store`.
        if let Ok(_gate) = record.extras().renew_gate().try_read() {
            shared.end_as_stored(&record, end, now);
        }
        let ended = || EndedSession::of(shared.node.stored_end(end, now), now).into();
        return Admission::Over(fenced(&record, now).unwrap_or_else(ended));
    }
    let life = &token.life;
    shared.node.raise_longest_absolute(life.absolute_deadline().since(life.created()));
    record.touch(token.used(now));
    if let Some(answer) = stored {
        shared.node.merge_answer(&record, answer, Scope::Session, now);
    }
    // The session may have ended after the look-up.
    if let Some(ended) = fenced(&record, now) {
        return Admission::Over(ended);
    }
    // The session may have got a shorter lifetime after this token was sealed.
    if record.closed(now).is_some() {
        return Admission::Over(Binding::Anonymous);
    }
    if token.is_idle(now) {
        // Only the lifetime is merged. The tombstones may be gone by now, so the values of such an old token could undo
        // removals.
        record.merge_life(&token.life, SessionLife::merge, now);
        return Admission::Live(record, None);
    }
    Admission::Live(record, Some(opened))
}

/// Ends the id that a session had before its last renewal or sign-in, which may have happened on another node. From
/// then on a socket or a copied cookie with the former id has no session on this node.
fn end_predecessor(shared: &SessionShared, record: &Arc<Record>, token: &CurrentToken, now: Millis) {
    let (Some(memory), Some(predecessor)) = (&shared.node.memory, token.payload.head.predecessor) else { return };
    // A sign-out with the former id that arrives after the renewal ends this session too: see `end`.
    let successor = match predecessor.shares_end {
        true => Successor::Session(Box::new(*record.key())),
        false => Successor::None,
    };
    let end = End {
        reason: CloseReason::Renewed,
        at: shared.node.time.written(token.life.birth(), now),
        until: token.life.absolute_deadline(),
        // Filed under the principal of the cookie, so that tombstones of anonymous sessions evict no user's tombstone.
        principal: token.payload.head.principal,
        successor: successor.clone(),
    };
    match memory.end_id(&RecordKey(*predecessor.id.as_bytes()), end, now) {
        SessionLookup::Live(before) => {
            let _ = shared.end_as(&before, CloseReason::Renewed, successor, now, now);
        }
        // This node learnt of the sign-out with the former id first, and learns of the renewal only now: the sign-out
        // ends the renewed session too.
        SessionLookup::Ended(EndedSession::Recently(end)) if predecessor.shares_end && end.is_sign_out() => {
            let _ = shared.end(record, CloseReason::Destroyed, now);
        }
        SessionLookup::Ended(_) | SessionLookup::Unknown => {}
    }
}
