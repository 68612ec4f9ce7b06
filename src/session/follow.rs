//! A `destroy` that meets a renewal: the session that a renewed id goes on as.
//!
//! A user signs out in one tab while a response of another tab renews the session. The sign-out brings the old id, and
//! must end the session all the same.

use std::sync::Arc;

use super::shared::{Binding, SessionShared};
use crate::{
    config::Identity,
    error::CloseReason,
    memory::{EndedSession, SessionLookup, record::Record},
    record::life::{End, Successor},
    time::Millis,
};

impl SessionShared {
    /// Ends a record, unless it is over already, and counts what it no longer takes.
    pub(super) fn end(&self, record: &Arc<Record>, reason: CloseReason, now: Millis) -> Result<(), CloseReason> {
        self.end_as(record, reason, Successor::None, now)
    }

    /// The same, with what comes after.
    pub(super) fn end_as(
        &self,
        record: &Arc<Record>,
        reason: CloseReason,
        sequel: Successor,
        now: Millis,
    ) -> Result<(), CloseReason> {
        let signed = self.principal_for(&Arc::clone(record), now);
        let ended = record.end(reason, signed.map(|signed| signed.owner.tag()), sequel, now);
        self.account(record, now);
        ended
    }

    /// The session that a `destroy` of this handle is to end: its own while that lives, else the successor of its own.
    pub(super) fn session_to_end(&self, now: Millis) -> Option<Arc<Record>> {
        self.live(now).ok().or_else(|| self.exempt_session(now)).or_else(|| self.living_successor(now))
    }

    /// The session that another handle is about to renew, with all others of its user over.
    fn exempt_session(&self, now: Millis) -> Option<Arc<Record>> {
        let key = match self.binding() {
            Binding::Live(bound) => *bound.key(),
            Binding::Fenced(_) => self.request_token.key?,
            Binding::Anonymous | Binding::CrossSite(_) | Binding::PrincipalOnly => return None,
        };
        self.node.exempt_renewals.renewer(&key)?;
        match self.node.memory.as_ref()?.session(&key, now) {
            SessionLookup::Live(record) => record.closed(now).is_none().then_some(record),
            SessionLookup::Ended(_) | SessionLookup::Unknown => None,
        }
    }

    /// The session that this handle's renewed session goes on as.
    ///
    /// Each step from an id to its successor must be less than a minute old. A successor is noted only where the same
    /// principal was signed in before and after. With `identify` that principal must be the request's too: the head may
    /// name another user of the same cookie.
    fn living_successor(&self, now: Millis) -> Option<Arc<Record>> {
        let memory = self.node.memory.as_ref()?;
        let mut ended = match self.binding() {
            Binding::Live(bound) => EndedSession::of(bound.end_of()?, now),
            Binding::Fenced(_) => match memory.session(&self.request_token.key?, now) {
                SessionLookup::Ended(ended) => ended,
                SessionLookup::Live(_) | SessionLookup::Unknown => return None,
            },
            Binding::Anonymous | Binding::CrossSite(_) | Binding::PrincipalOnly => return None,
        };
        loop {
            let EndedSession::Recently(end) = ended else { return None };
            if !self.may_end_successor(&end) {
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

    fn may_end_successor(&self, end: &End) -> bool {
        match &self.node.config.identity {
            Identity::Head(_) => end.principal == self.head_principal.as_ref().map(|it| it.owner.tag()),
            Identity::Value { .. } | Identity::Nobody => true,
        }
    }
}
