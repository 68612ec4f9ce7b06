//! The state that only handles need that write, watch, or read for a principal: turns under way, sessions that the handle has
//! ended, sessions that its orders may yet begin.

use crate::{
    config::ResolvedPrincipal,
    cookie::order::{MOST_BEGUN, Turn},
    error::{WriteError, WriteErrorKind},
    id::{PrincipalTag, RecordKey, SessionId},
    memory::record::Record,
    notify::HandleWakers,
    record::life::Lifetime,
    session::shared::{SessionShared, ValueRevision},
    sync::Mutex,
    time::Millis,
};
use std::sync::{Arc, OnceLock, atomic::Ordering};

/// What only handles need that write, watch, or read for a principal. Apart, since every request that asks for its
/// session pays for the state of a handle by its size, which is moved into place.
#[derive(Debug, Default)]
pub(in crate::session) struct LazyState {
    lifecycle_lock: tokio::sync::Mutex<()>,
    /// The lifetime that this handle was given.
    lifetime: Mutex<Option<Lifetime>>,
    pub(in crate::session) own_ends: OwnEnds,
    /// The principal's record, once this handle holds it. One that holds nothing goes with its last holder.
    pub(super) principal: Mutex<Option<Arc<Record>>>,
    /// The principal that a session's value names, by the session and the value's version.
    pub(super) derived_principal: Mutex<Option<(ValueRevision, Option<Arc<ResolvedPrincipal>>)>>,
    /// Made for the first watch.
    pub(super) wakers: OnceLock<Arc<HandleWakers>>,
    /// The session that an inner layer has seen off, for another principal.
    pub(in crate::session) left_to_inner: Mutex<Option<RecordKey>>,
}

/// A session that orders of a handle begin.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct IssuedOrder {
    pub(in crate::session) id: SessionId,
    pub(in crate::session) turn: Turn,
    /// The user of the order: the one to sign in, or the one to renew for.
    pub(in crate::session) principal: Option<PrincipalTag>,
}

/// The most sessions that the orders of a handle begin. Each is ended with the handle's session, with up to three writes to
/// a store.
const MAX_ISSUED_ORDERS: usize = 8;

/// A session that a handle has ended.
#[derive(Clone, Debug)]
pub(in crate::session) struct OwnEnd {
    pub(in crate::session) id: SessionId,
    /// The last moment at which a token of the id could open.
    pub(in crate::session) until: Millis,
    /// The principal that was signed in, or that an order would have signed in.
    pub(in crate::session) principal: Option<PrincipalTag>,
    /// More sessions that the handle has ended, the newest first: the sessions of orders, and earlier ones.
    pub(in crate::session) others: Vec<SessionId>,
}

#[derive(Debug, Default)]
pub(in crate::session) struct OwnEnds {
    /// The newest order is last.
    issued: Mutex<Vec<IssuedOrder>>,
    ended: Mutex<Option<OwnEnd>>,
}

impl OwnEnds {
    /// Notes the session that an order is to begin. Returns the id for the order: that of an earlier order of the same turn
    /// and user, so that no more than one of them is carried out.
    ///
    /// # Errors
    ///
    /// `Invalid` where an end of the handle could not take back another order.
    pub(in crate::session) fn note_order(&self, planned: IssuedOrder) -> Result<SessionId, WriteError> {
        // A removal names these too.
        let ended = self.last().map_or(0, |ended| 1 + ended.others.len());
        let mut issued = self.issued.lock();
        let same = |earlier: &IssuedOrder| earlier.turn == planned.turn && earlier.principal == planned.principal;
        let order = match issued.iter().position(same) {
            Some(at) => issued.remove(at),
            None if issued.len() == MAX_ISSUED_ORDERS || issued.len() + ended >= MOST_BEGUN => {
                let message = "a sign-out takes back 8 orders of a handle, and 15 with those of its earlier sign-outs: \
                               order on the handle of a new request";
                return Err(WriteError::new(WriteErrorKind::Invalid, message));
            }
            None => planned,
        };
        issued.push(order);
        Ok(order.id)
    }

    /// The sessions that the orders of this handle begin.
    pub(in crate::session) fn orders(&self) -> Vec<IssuedOrder> {
        self.issued.lock().clone()
    }

    /// Forgets orders that no longer begin a session.
    pub(in crate::session) fn forget_orders(&self, void: &[IssuedOrder]) {
        self.issued.lock().retain(|issued| void.iter().all(|void| void.id != issued.id));
    }

    /// The session that the handle has ended last.
    pub(in crate::session) fn last(&self) -> Option<OwnEnd> {
        self.ended.lock().clone()
    }

    /// Notes the session whose cookie the page of the handle is to remove.
    pub(in crate::session) fn set(&self, ended: OwnEnd) {
        *self.ended.lock() = Some(ended);
    }

    pub(in crate::session) fn forget(&self) {
        *self.ended.lock() = None;
    }
}

impl SessionShared {
    pub(in crate::session) fn lazy(&self) -> &LazyState {
        self.lazy.get_or_init(Box::default)
    }

    /// The wakers of this handle's watches, if there are watches.
    pub(super) fn wakers(&self) -> Option<&Arc<HandleWakers>> {
        self.lazy.get()?.wakers.get()
    }

    /// Held while a session is made, renewed or ended: clones that write at once make one session, and each turn finds the
    /// session that the turn before has left.
    pub(in crate::session) async fn lifecycle_lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.lazy().lifecycle_lock.lock().await
    }

    /// The lifetime that this handle was given, with which its next session begins.
    pub(in crate::session) fn own_lifetime(&self) -> Option<Lifetime> {
        *self.lazy.get()?.lifetime.lock()
    }

    pub(in crate::session) fn set_own_lifetime(&self, lifetime: Option<Lifetime>) {
        *self.lazy().lifetime.lock() = lifetime;
    }

    /// Notes that this handle has ended its session: only this handle and its clones may begin another session.
    pub(in crate::session) fn note_own_end(&self, ended: OwnEnd) {
        self.lazy().own_ends.set(ended);
        self.flags.own_ends.fetch_add(1, Ordering::AcqRel);
        // The record has notified its subscribers already: a watch that looked before this note looks again.
        if let Some(wakers) = self.wakers() {
            wakers.notify();
        }
    }

    /// The session that this handle has ended last.
    pub(in crate::session) fn own_end(&self) -> Option<OwnEnd> {
        self.lazy.get()?.own_ends.last()
    }

    /// Whether this handle has ended its session, and has begun no other since.
    pub(in crate::session) fn has_ended_own(&self) -> bool {
        self.own_end().is_some()
    }

    /// Whether a turn may begin another session where this handle's session is over.
    pub(in crate::session) fn may_begin_anew(&self) -> bool {
        self.has_ended_own() || self.flags.may_begin.is_set()
    }

    /// Forgets the end, since another session has begun.
    pub(in crate::session) fn forget_own_end(&self) {
        self.flags.may_begin.clear();
        if let Some(lazy) = self.lazy.get() {
            lazy.own_ends.forget();
        }
    }
}
