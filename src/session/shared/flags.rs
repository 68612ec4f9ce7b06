//! What has happened to a request's session so far.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What has happened to the request's session so far.
#[derive(Debug, Default)]
pub(crate) struct RequestFlags {
    /// It was read, written or watched.
    touched: AtomicBool,
    /// No cookie can follow. A session that is loaded later has the mark from its [`Loader`](super::super::loader::Loader).
    head_sent: AtomicBool,
    /// How many sessions this handle has ended: the cookie is to go.
    own_ends: AtomicU32,
    /// The handle was told to end a session that had ended elsewhere: a renewal may begin another one.
    may_begin: AtomicBool,
    /// The session was made here.
    begun_here: AtomicBool,
    /// The request is an upgrade, to a WebSocket or the like: only writes and `touch` are use of the session.
    upgrade: AtomicBool,
}

impl RequestFlags {
    pub(super) fn new(upgrade: bool) -> Self {
        Self { upgrade: AtomicBool::new(upgrade), ..Self::default() }
    }

    pub(in crate::session) fn begun_here(&self) -> bool {
        self.begun_here.load(Ordering::Relaxed)
    }

    pub(in crate::session) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Acquire)
    }

    pub(crate) fn touch(&self) {
        // A load first: most requests touch more than once, and a store would take the line from other clones.
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    pub(in crate::session) fn is_upgrade(&self) -> bool {
        self.upgrade.load(Ordering::Relaxed)
    }

    /// Marks that the response head has left: no cookie can follow.
    pub(in crate::session) fn note_head_sent(&self) {
        // Looked at first: each clone of a handle comes here.
        if !self.head_has_left() {
            self.head_sent.store(true, Ordering::Release);
        }
    }

    pub(in crate::session) fn head_has_left(&self) -> bool {
        self.head_sent.load(Ordering::Acquire)
    }

    /// Marks a session that was made here.
    pub(in crate::session) fn set_begun_here(&self, begun: bool) {
        self.begun_here.store(begun, Ordering::Relaxed);
    }

    pub(super) fn may_begin(&self) -> bool {
        self.may_begin.load(Ordering::Acquire)
    }

    pub(in crate::session) fn set_may_begin(&self, may_begin: bool) {
        self.may_begin.store(may_begin, Ordering::Release);
    }

    /// How many sessions this handle has ended. A watch that began before the last end is over.
    pub(crate) fn own_ends(&self) -> u32 {
        self.own_ends.load(Ordering::Acquire)
    }

    pub(super) fn count_own_end(&self) {
        self.own_ends.fetch_add(1, Ordering::AcqRel);
    }
}
