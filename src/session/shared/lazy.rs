//! The state of a handle that most requests never need: the lock of sign-ins, renewals and ends, the sessions that the
//! handle has ended, and the sessions that the handle's orders may still begin. A write, a watch or a read for a
//! principal allocates the state.

use std::sync::{Arc, OnceLock, atomic::Ordering};

use super::{SessionShared, ValueRevision};
use crate::{
    config::ResolvedPrincipal,
    cookie::order::{MAX_BEGUN, Turn},
    error::{WriteError, WriteErrorKind},
    id::{PrincipalTag, RecordKey, SessionId},
    memory::record::Record,
    notify::HandleWakers,
    record::life::Lifetime,
    sync::Mutex,
    time::Millis,
};

/// The state of handles that write, watch, or read for a principal. Boxed apart, since each load moves the rest of the
/// handle's state into place and pays for its size.
#[derive(Debug, Default)]
pub(in crate::session) struct LazyState {
    lifecycle_lock: tokio::sync::Mutex<()>,
    /// The lifetime that the application gave to this handle's next session.
    lifetime: Mutex<Option<Lifetime>>,
    /// The sessions that orders of this handle may begin. The newest order is last.
    issued: Mutex<Vec<IssuedOrder>>,
    /// The session that this handle ended last, unless another session has begun since.
    own_end: Mutex<Option<OwnEnd>>,
    /// The principal's record, if this handle holds the record. Memory drops a never-used record with its last holder.
    pub(super) principal: Mutex<Option<Arc<Record>>>,
    /// The principal that the identity value names, with the session and the version of that value.
    pub(super) derived_principal: Mutex<Option<(ValueRevision, Option<Arc<ResolvedPrincipal>>)>>,
    /// Created for the first watch.
    pub(super) wakers: OnceLock<Arc<HandleWakers>>,
    /// The session whose response head an inner layer has finished, for another principal.
    pub(in crate::session) left_to_inner: Mutex<Option<RecordKey>>,
}

/// A session that orders of a handle may begin.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct IssuedOrder {
    pub(in crate::session) id: SessionId,
    pub(in crate::session) turn: Turn,
    /// The user of the order: of the sign-in, or of the renewal.
    pub(in crate::session) principal: Option<PrincipalTag>,
}

/// The maximum number of sessions that the orders of a handle may begin. The end of the handle's session ends each of
/// them, with up to three writes to a store.
const MAX_ISSUED_ORDERS: usize = 8;

/// A session that a handle has ended.
#[derive(Clone, Debug)]
pub(in crate::session) struct OwnEnd {
    pub(in crate::session) id: SessionId,
    /// The last moment at which a token of the id could open.
    pub(in crate::session) until: Millis,
    /// The principal of the ended session, or of the newest order.
    pub(in crate::session) principal: Option<PrincipalTag>,
    /// More sessions that the handle has ended, the newest first: sessions of orders, and earlier sessions of the
    /// handle.
    pub(in crate::session) others: Vec<SessionId>,
}

impl SessionShared {
    pub(in crate::session) fn lazy(&self) -> &LazyState {
        self.lazy.get_or_init(Box::default)
    }

    /// Returns the wakers of this handle's watches, if there was a watch.
    pub(super) fn wakers(&self) -> Option<&Arc<HandleWakers>> {
        self.lazy.get()?.wakers.get()
    }

    /// Waits for the lock that a beginning, a renewal and an end of the session hold: clones that write at the same
    /// time begin one session, and each sign-in, renewal or end finds the session that the previous change left.
    pub(in crate::session) async fn lifecycle_lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.lazy().lifecycle_lock.lock().await
    }

    /// Returns the lifetime that the application gave to this handle's next session.
    pub(in crate::session) fn own_lifetime(&self) -> Option<Lifetime> {
        *self.lazy.get()?.lifetime.lock()
    }

    pub(in crate::session) fn set_own_lifetime(&self, lifetime: Option<Lifetime>) {
        *self.lazy().lifetime.lock() = lifetime;
    }

    /// Notes the end of this handle's session by this handle. Only the handle and its clones may begin another session.
    pub(in crate::session) fn note_own_end(&self, ended: OwnEnd) {
        self.set_own_end(ended);
        self.flags.own_ends.fetch_add(1, Ordering::AcqRel);
        // The record notified its subscribers before this note, and a watch may have read in between: the second
        // notification makes the watch read the note.
        if let Some(wakers) = self.wakers() {
            wakers.notify();
        }
    }

    /// Notes the ended session whose cookie the handle's page is to remove.
    pub(in crate::session) fn set_own_end(&self, ended: OwnEnd) {
        *self.lazy().own_end.lock() = Some(ended);
    }

    /// Returns the session that this handle ended last, unless another session has begun since.
    pub(in crate::session) fn own_end(&self) -> Option<OwnEnd> {
        self.lazy.get()?.own_end.lock().clone()
    }

    /// Whether this handle has ended its session, and has begun no other session since.
    pub(in crate::session) fn has_ended_own(&self) -> bool {
        self.own_end().is_some()
    }

    /// Whether a renewal or a sign-in may begin another session after the end of this handle's session.
    pub(in crate::session) fn may_begin_anew(&self) -> bool {
        self.has_ended_own() || self.flags.may_begin.is_set()
    }

    /// Forgets the end, since another session has begun.
    pub(in crate::session) fn forget_own_end(&self) {
        self.flags.may_begin.clear();
        if let Some(lazy) = self.lazy.get() {
            *lazy.own_end.lock() = None;
        }
    }

    /// Notes the session that an order is to begin, and returns the id for the order. A second sign-in order, or a
    /// second renewal order, for the same user takes the id of the first order, so that at most one of the two orders
    /// is carried out.
    ///
    /// # Errors
    ///
    /// `Invalid` if the handle has made so many orders that the end of its session could not void a further order.
    pub(in crate::session) fn note_order(&self, planned: IssuedOrder) -> Result<SessionId, WriteError> {
        // The ended sessions count towards the limit too, since a cookie removal names them.
        let ended = self.own_end().map_or(0, |ended| 1 + ended.others.len());
        let mut issued = self.lazy().issued.lock();
        let same = |earlier: &IssuedOrder| earlier.turn == planned.turn && earlier.principal == planned.principal;
        let order = match issued.iter().position(same) {
            Some(at) => issued.remove(at),
            None if issued.len() == MAX_ISSUED_ORDERS || issued.len() + ended >= MAX_BEGUN => {
                let message = "this handle has made tokens for the sign-in or renewal of too many users (limit: 8, or \
                               15 with the sessions that the handle has ended), since one sign-out must be able to \
                               revoke all of them: make the token on the handle of a new request";
                return Err(WriteError::new(WriteErrorKind::Invalid, message));
            }
            None => planned,
        };
        issued.push(order);
        Ok(order.id)
    }

    /// Returns the sessions that the orders of this handle may begin.
    pub(in crate::session) fn orders(&self) -> Vec<IssuedOrder> {
        self.lazy().issued.lock().clone()
    }

    /// Forgets orders that can no longer begin a session.
    pub(in crate::session) fn forget_orders(&self, void: &[IssuedOrder]) {
        self.lazy().issued.lock().retain(|issued| void.iter().all(|void| void.id != issued.id));
    }
}
