//! The sessions that a handle has ended, and those that its orders may yet begin.

use crate::{
    cookie::order::{MOST_BEGUN, Turn},
    error::{WriteError, WriteErrorKind},
    id::{PrincipalTag, SessionId},
    sync::Mutex,
    time::Millis,
};

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
    pub(super) fn last(&self) -> Option<OwnEnd> {
        self.ended.lock().clone()
    }

    /// Notes the session whose cookie the page of the handle is to remove.
    pub(in crate::session) fn set(&self, ended: OwnEnd) {
        *self.ended.lock() = Some(ended);
    }

    pub(super) fn forget(&self) {
        *self.ended.lock() = None;
    }
}
