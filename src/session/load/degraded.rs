//! The load of a session while the shared store does not answer, in a chain that degrades: memory and the cookie answer.
//!
//! A session that the store confirmed a short time ago loads as usual. Any other session may have ended on another
//! node, so its handle gets a copy of the session without the signed-in user, and refuses each write.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    add_answers,
    admit::{self, Admission, token_principal},
    drop_if_revoked, merge, open_tokens,
    token::{CurrentToken, OpenedCookie, RequestHead},
};
use crate::{
    config::ComputedAnswer,
    error::CloseReason,
    id::RecordKey,
    memory::{SessionLookup, record::Record},
    session::shared::{Binding, RequestToken, SessionShared},
    time::Millis,
    value::Scope,
};

/// The time after the store's confirmation for which memory still names the signed-in user.
const TRUSTED: Duration = Duration::from_secs(5 * 60);

/// Loads a session without the store. `None` if the load must fail: a socket needs a session that sees later changes.
pub(super) fn run(head: &RequestHead, answers: Vec<ComputedAnswer>) -> Option<SessionShared> {
    let (node, now) = (&head.node, head.node.now());
    let mut shared = SessionShared::new(Arc::clone(node), Binding::Anonymous, RequestToken::default(), head.upgrade);
    add_answers(&mut shared, head, answers);
    let opened = open_tokens(&mut shared, head, now).and_then(|opened| bind_known(&mut shared, opened, now));
    let (opened, known) = opened.unzip();
    drop_if_revoked(&mut shared, now);
    // Without a confirmed record the token's session is unconfirmed.
    let is_unconfirmed = opened.is_some() && matches!(shared.binding(), Binding::Anonymous);
    match has_trusted_user(&shared, now) && !is_unconfirmed {
        true => {
            if let (Some(opened), Binding::Live(record)) = (opened, shared.binding()) {
                match admit::settle(&shared, record, opened, None, now) {
                    Admission::Live(record, Some(opened)) => {
                        merge::merge_token(&shared, &record, opened, now).finish(&mut shared, now);
                    }
                    Admission::Over(binding) => shared.bind(binding),
                    Admission::Live(_, None) | Admission::Unknown => {}
                }
            }
        }
        false if head.upgrade => return None,
        false => {
            // Before the handle forgets the user of the request's head.
            let is_revoked = opened.as_ref().is_some_and(|opened| is_revoked(&shared, &opened.token, now));
            shared.head_principal = None;
            shared.flags.degraded.set();
            if let (Some(opened), Binding::Live(_) | Binding::Anonymous) = (opened, shared.binding()) {
                let copy = match is_revoked {
                    true => Binding::Fenced(CloseReason::Revoked),
                    false => copy(&mut shared, &opened, known.flatten().as_deref(), now),
                };
                shared.bind(copy);
            }
        }
    }
    node.counters.degraded_loads.fetch_add(1, Ordering::Relaxed);
    Some(shared)
}

/// Binds the handle to the session that a token names, if memory knows the session's end, or if the store has confirmed
/// the session lately. Returns the token with the record that memory has; `None` if the session has ended, also if it
/// ended so long ago that the binding does not show the end.
fn bind_known(
    shared: &mut SessionShared,
    opened: OpenedCookie,
    now: Millis,
) -> Option<(OpenedCookie, Option<Arc<Record>>)> {
    shared.request_token.key = Some(RecordKey(*opened.id.as_bytes()));
    match shared.node.lookup(&opened.id) {
        SessionLookup::Ended(ended) => {
            shared.bind(ended.into());
            None
        }
        SessionLookup::Live(record) => {
            if record.was_confirmed(TRUSTED, now) && record.closed(now).is_none() {
                shared.bind(Binding::Live(Arc::clone(&record)));
            }
            Some((opened, Some(record)))
        }
        SessionLookup::Unknown => Some((opened, None)),
    }
}

/// Whether no user is signed in, or the store has confirmed the user's record lately.
fn has_trusted_user(shared: &SessionShared, now: Millis) -> bool {
    let Some(principal) = shared.principal(now) else { return true };
    match shared.find_principal(&principal) {
        Some(record) if record.was_confirmed(TRUSTED, now) => {
            shared.hold_record(record);
            true
        }
        _ => false,
    }
}

/// Copies a session out of memory and the token, without the signed-in user. No other handle has the copy.
fn copy(shared: &mut SessionShared, opened: &OpenedCookie, known: Option<&Record>, now: Millis) -> Binding {
    let token = &opened.token;
    let copy = Record::session(RecordKey(*opened.id.as_bytes()), token.initial_life(), token.used(now));
    if let Some(known) = known {
        let state = known.read();
        let Some(life) = state.life() else { return Binding::Anonymous };
        *copy.write() = state.successor_state(life.clone());
        copy.touch(known.used());
    }
    if copy.closed(now).is_some() {
        return Binding::Anonymous;
    }
    let mut filled = Vec::new();
    // No tombstone waits for a token that is idle, so such a token brings no values.
    if !token.is_idle(now) {
        let owner = (Scope::Session, &copy);
        merge::merge_entries(shared, owner, token, shared.node.config.resolution, &mut filled, now);
    }
    let identity = shared.node.config.identity_index();
    copy.write().values.retain(|index| Some(index) != identity);
    shared.request_token.from_cookie = filled.into();
    Binding::Live(Arc::new(copy))
}

/// Whether memory knows that all sessions of the token's user have ended.
fn is_revoked(shared: &SessionShared, token: &CurrentToken, now: Millis) -> bool {
    let user = token_principal(shared, token).and_then(|user| shared.find_principal(&user));
    user.is_some_and(|record| token.life.birth() <= shared.node.not_before(&record, now))
}
