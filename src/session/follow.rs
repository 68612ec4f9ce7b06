//! A `destroy` that meets a renewal: the session that a renewed id goes on as.
//!
//! A user signs out in one tab while a response of another tab renews the session. The sign-out brings the old id, and
//! must end the session all the same.

use std::sync::Arc;

use super::shared::{Binding, SessionShared};
use crate::{
    config::Identity,
    memory::{EndedSession, SessionLookup, record::Record},
    record::life::{End, Successor},
    time::Millis,
};

/// The session that a `destroy` of this handle is to end: its own while that lives, else the successor of its own.
pub(super) fn session_to_end(shared: &SessionShared, now: Millis) -> Option<Arc<Record>> {
    shared.live(now).ok().or_else(|| exempt_session(shared, now)).or_else(|| living_successor(shared, now))
}

/// The session that another handle is about to renew, with all others of its user over.
fn exempt_session(shared: &SessionShared, now: Millis) -> Option<Arc<Record>> {
    let key = match shared.binding() {
        Binding::Live(bound) => *bound.key(),
        Binding::Fenced(_) => shared.request_token.key?,
        Binding::Anonymous | Binding::CrossSite(_) | Binding::PrincipalOnly => return None,
    };
    shared.node.exempt_renewals.renewer(&key)?;
    match shared.node.memory.as_ref()?.session(&key, now) {
        SessionLookup::Live(record) => record.closed(now).is_none().then_some(record),
        SessionLookup::Ended(_) | SessionLookup::Unknown => None,
    }
}

/// The session that this handle's renewed session goes on as.
///
/// Each step from an id to its successor must be less than a minute old. A successor is noted only where the same
/// principal was signed in before and after. With `identify` that principal must be the request's too: the head may
/// name another user of the same cookie.
fn living_successor(shared: &SessionShared, now: Millis) -> Option<Arc<Record>> {
    let memory = shared.node.memory.as_ref()?;
    let mut ended = match shared.binding() {
        Binding::Live(bound) => EndedSession::of(bound.end_of()?, now),
        Binding::Fenced(_) => match memory.session(&shared.request_token.key?, now) {
            SessionLookup::Ended(ended) => ended,
            SessionLookup::Live(_) | SessionLookup::Unknown => return None,
        },
        Binding::Anonymous | Binding::CrossSite(_) | Binding::PrincipalOnly => return None,
    };
    loop {
        let EndedSession::Recently(end) = ended else { return None };
        if !may_end_successor(shared, &end) {
            return None;
        }
        let Successor::Session(key) = end.successor else { return None };
        match memory.session(&key, now) {
            SessionLookup::Live(record) => return record.closed(now).is_none().then_some(record),
            SessionLookup::Ended(next) => ended = next,
            SessionLookup::Unknown => return None,
        }
    }
}

fn may_end_successor(shared: &SessionShared, end: &End) -> bool {
    match &shared.node.config.identity {
        Identity::Head(_) => end.principal == shared.head_principal.as_ref().map(|it| it.owner.tag()),
        Identity::Value { .. } | Identity::Nobody => true,
    }
}
