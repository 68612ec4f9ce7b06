//! What this node knows of the cookie that a session's browser holds.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::life::SessionLife;
use crate::{id::RecordKey, time::Millis};

const MINUTE: u64 = 60_000;

/// What this node knows of the browser that holds a session.
#[derive(Debug, Default)]
pub(crate) struct CookieSync {
    /// The exact token that was last sealed for or opened from it. No token has the default fingerprint.
    pub(super) fingerprint: TokenFingerprint,
    /// That token's part in [`CookieSnapshot`]; long past without a token.
    pub(super) deadline: Millis,
    pub(super) principal: Option<Arc<(RecordKey, u64)>>,
    /// That token holds all that there is of the session.
    pub(super) complete: bool,
    /// A request has brought this session's cookie.
    pub(crate) confirmed: bool,
    /// The session has held values that no browser carries and no store has stamped.
    pub(crate) has_server_only: bool,
    /// See [`State::mark_unstored`](super::state::State).
    pub(super) has_unstored: bool,
    /// The minute in which that token was sealed.
    pub(super) sealed: u32,
}

/// A token that held all that there was, and what that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CookieSnapshot {
    /// When the session ends if it is not used again, as far as this token tells.
    pub(crate) deadline: Millis,
    /// When it was sealed, to the minute.
    pub(crate) sealed: Millis,
    /// See [`SessionLife::refresh_after`].
    pub(crate) refresh_after: Millis,
    pub(crate) session: u64,
    /// Shared between the record and the handles: most sessions are nobody's, and whose changes rarely.
    pub(crate) principal: Option<Arc<(RecordKey, u64)>>,
}

impl CookieSync {
    pub(super) fn heap_bytes(&self) -> usize {
        self.principal.as_ref().map_or(0, |_| 3 * size_of::<u64>() + size_of::<RecordKey>())
    }

    /// The browser's token, if one is known, and its contents beside a record of this revision.
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
            // No record has the revision 0: an incomplete token equals none.
            session: if complete { revision } else { 0 },
            principal: self.principal.clone(),
        };
        Some((fingerprint, snapshot))
    }

    /// Notes that the browser has this token from now on.
    pub(super) fn set(&mut self, fingerprint: TokenFingerprint, snapshot: CookieSnapshot, revision: u64) {
        let CookieSnapshot { deadline, sealed, session, principal, .. } = snapshot;
        self.complete = session == revision;
        self.sealed = u32::try_from(sealed.0 / MINUTE).unwrap_or(u32::MAX);
        (self.fingerprint, self.deadline, self.principal) = (fingerprint, deadline, principal);
    }
}

/// By which memory knows one token.
#[derive(Clone, Copy, Default)]
pub(crate) struct TokenFingerprint(pub(crate) [u8; 16]);

/// In a time that does not say how much of them is the same.
impl PartialEq for TokenFingerprint {
    fn eq(&self, other: &Self) -> bool {
        // As one number: byte by byte takes longer.
        u128::from_le_bytes(self.0).ct_eq(&u128::from_le_bytes(other.0)).into()
    }
}

impl std::fmt::Debug for TokenFingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenFingerprint(..)")
    }
}
