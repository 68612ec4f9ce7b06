//! The flags of a request and its session.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Flags of the request and its session.
#[derive(Debug, Default)]
pub(crate) struct RequestFlags {
    /// The session was read, written or watched.
    pub(crate) touched: Flag,
    /// The response head has left, so that no cookie can follow. A session that is loaded later has the flag from its
    /// [`Loader`](crate::session::loader::Loader).
    pub(in crate::session) head_sent: Flag,
    /// The number of sessions that this handle has ended. A watch compares the number with the number at its beginning.
    pub(super) own_ends: AtomicU32,
    /// The handle was to end a session that had ended elsewhere: a renewal or a sign-in may begin another session.
    pub(in crate::session) may_begin: Flag,
    /// This handle, or a handle of another layer around the same request, has begun the session.
    pub(in crate::session) begun_here: Flag,
    /// The shared store did not answer the load, and memory could not vouch for the session: the handle has a copy of the
    /// session, and refuses writes.
    pub(in crate::session) degraded: Flag,
    /// The request is an upgrade, to a WebSocket or the like. Only writes and `touch` count as use of the session.
    pub(in crate::session) upgrade: Flag,
}

/// A mark that the clones of a handle share.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(super) const fn new(set: bool) -> Self {
        Self(AtomicBool::new(set))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self) {
        // Reads the flag first: requests set a flag more than once, and a write would take the cache line from the
        // cores of other clones.
        if !self.is_set() {
            self.0.store(true, Ordering::Release);
        }
    }

    pub(in crate::session) fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }
}
