//! The state of the cookie in a session's browser, as this node knows it.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::life::SessionLife;
use crate::{id::RecordKey, time::Millis};

const MINUTE: u64 = 60_000;

/// The state of the browser that holds a session, as this node knows it.
#[derive(Debug, Default)]
pub(crate) struct CookieSync {
    /// The fingerprint of the last token sealed for or opened from the browser. No token has the default fingerprint.
    pub(super) fingerprint: TokenFingerprint,
    /// See [`CookieSnapshot::deadline`]; the default, long past, without a token.
    pub(super) deadline: Millis,
    pub(super) principal: Option<Arc<(RecordKey, u64)>>,
    /// Whether the token holds all of the session.
    pub(super) complete: bool,
    /// Whether a request has brought this session's cookie.
    pub(crate) confirmed: bool,
    /// Whether the session has held values that no browser carries and no store has stamped.
    pub(crate) has_server_only: bool,
    /// See [`State::mark_unstored`](super::state::State).
    pub(super) has_unstored: bool,
    /// The minute in which the token was sealed.
    pub(super) sealed: u32,
}

/// The content of a token, to compare with the records' present content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CookieSnapshot {
    /// The deadline that the token holds: the session's end without another use.
    pub(crate) deadline: Millis,
    /// The time at which the token was sealed, to the minute.
    pub(crate) sealed: Millis,
    /// See [`SessionLife::refresh_after`].
    pub(crate) refresh_after: Millis,
    pub(crate) session: u64,
    /// The principal's key and revision. Shared between the record and the handles: most sessions are anonymous, and
    /// the principal seldom changes.
    pub(crate) principal: Option<Arc<(RecordKey, u64)>>,
}

impl CookieSync {
    pub(super) fn heap_bytes(&self) -> usize {
        self.principal.as_ref().map_or(0, |_| 3 * size_of::<u64>() + size_of::<RecordKey>())
    }

    /// Returns the browser's token, if known, and its content, compared with a record of this revision.
    pub(super) fn snapshot(&self, revision: u64, life: &SessionLife) -> Option<(TokenFingerprint, CookieSnapshot)> {
        let Self { fingerprint, deadline, complete, .. } = *self;
        if deadline == Millis::default() {
            return None;
        }
        let sealed = Millis(u64::from(self.sealed) * MINUTE);
        let snapshot = CookieSnapshot {
            deadline,
            sealed,
            refresh_after: life.refresh_after(deadline, sealed),
            // No session has the revision 0, so an incomplete token matches no session.
            session: if complete { revision } else { 0 },
            principal: self.principal.clone(),
        };
        Some((fingerprint, snapshot))
    }

    /// Notes the browser's present token.
    pub(super) fn set(&mut self, fingerprint: TokenFingerprint, snapshot: CookieSnapshot, revision: u64) {
        let CookieSnapshot { deadline, sealed, session, principal, .. } = snapshot;
        self.complete = session == revision;
        self.sealed = u32::try_from(sealed.0 / MINUTE).unwrap_or(u32::MAX);
        (self.fingerprint, self.deadline, self.principal) = (fingerprint, deadline, principal);
    }
}

/// The bytes by which memory recognises a token.
#[derive(Clone, Copy, Default)]
pub(crate) struct TokenFingerprint(pub(crate) [u8; 16]);

/// Compares in constant time, so that the timing doesn't reveal how many bytes match.
impl PartialEq for TokenFingerprint {
    fn eq(&self, other: &Self) -> bool {
        // Compared as one number, which is faster than byte by byte.
        u128::from_le_bytes(self.0).ct_eq(&u128::from_le_bytes(other.0)).into()
    }
}

impl std::fmt::Debug for TokenFingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenFingerprint(..)")
    }
}
