//! The model's turn tokens: a socket's order for the page, and the removal after a sign-out on a socket.

use layered_session::CloseReason;

use super::model::{Bind, FENCE, Handle, Node, Place, Predecessor, Session, Time, Token};

/// The milliseconds of an order's life.
const BRIEFLY: u64 = 60_000;

/// A token for the page to bring.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Order(Order),
    Removal(Vec<usize>),
}

#[derive(Clone, Debug)]
pub(super) struct Order {
    /// The user to sign in; none for a renewal.
    user: Option<usize>,
    adopt: bool,
    named: Named,
    no_cookie: bool,
    begun: usize,
    minted: u64,
    /// The signed-in user at the time of the order.
    signed: Option<usize>,
    /// The values that the page's cookie may lack.
    relay: Option<Token>,
    at: u64,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Named {
    Nothing,
    Living(usize),
    Ended(usize),
}

impl Node {
    /// Returns the order of a socket's handle, if the handle gives one.
    pub(super) fn order(
        &mut self,
        user: Option<usize>,
        adopt: bool,
        handle: &mut Handle,
        time: &mut Time,
    ) -> Option<Given> {
        let (live, closed) = (self.live(&handle.bind, time), self.closed(&handle.bind, time));
        let fenced = matches!(handle.bind, Bind::Fenced(_));
        let named = match (&live, closed) {
            (Some((id, _)), _) => Named::Living(*id),
            (None, Some(_)) if handle.ended.is_none() && !(fenced && user.is_some()) => return None,
            (None, None) if handle.ended.is_none() => match user {
                Some(_) => Named::Nothing,
                None => return None,
            },
            (None, _) => handle.ended.or(handle.came).map_or(Named::Nothing, Named::Ended),
        };
        let ordered = &mut handle.ordered;
        let begun = match ordered.iter().position(|(of, _)| *of == user) {
            Some(at) => ordered.remove(at).1,
            None => time.new_id(),
        };
        ordered.push((user, begun));
        if ordered.iter().any(|(_, begun)| self.sessions.contains_key(begun)) {
            return None;
        }
        let (no_cookie, signed) = match named {
            Named::Living(id) => (!self.sessions[&id].confirmed, self.sessions[&id].user),
            Named::Ended(_) => (handle.ended.is_some(), None),
            Named::Nothing => (true, None),
        };
        let relay = self.seal(handle, time);
        let (minted, number, at) = (time.next(), time.next(), time.now);
        Some(Given::Order(Order { user, adopt, named, no_cookie, begun, minted, signed, relay, at, number }))
    }

    /// Returns the removal after a socket's handle has ended the session.
    pub(super) fn removal(&mut self, handle: &Handle, time: &Time) -> Option<Given> {
        if self.live(&handle.bind, time).is_some() {
            return None;
        }
        handle.ended.map(|id| Given::Removal([&[id], &handle.also_ended[..]].concat()))
    }

    /// Brings a token to the request of this handle.
    pub(super) fn bring(&mut self, given: &Given, handle: &mut Handle, time: &mut Time) -> Result<(), &'static str> {
        match given {
            Given::Order(order) => self.bring_order(order, handle, time),
            Given::Removal(named) => self.bring_removal(named, handle, time),
        }
    }

    fn bring_removal(&mut self, named: &[usize], handle: &mut Handle, time: &Time) -> Result<(), &'static str> {
        let Some(came) = handle.came else { return Ok(()) };
        let names = named.contains(&came);
        let renewed = self.reason_of(came, time) == Some(CloseReason::Renewed);
        named.iter().for_each(|id| self.end_named(*id, time));
        if renewed || !names && self.reason_of(came, time).is_none() {
            return Err("session_closed");
        }
        handle.ended = Some(came);
        Ok(())
    }

    fn bring_order(&mut self, order: &Order, handle: &mut Handle, time: &mut Time) -> Result<(), &'static str> {
        if time.now >= order.at + BRIEFLY {
            return Err("relay_expired");
        }
        if self.accepted.contains(&order.number) {
            return Err("token_used");
        }
        if let Named::Ended(id) = order.named {
            self.end_named(id, time);
        }
        // An order that names no session is sealed for the session that the order itself will begin.
        let (id, names) = match order.named {
            Named::Living(id) | Named::Ended(id) => (id, true),
            Named::Nothing => (order.begun, false),
        };
        let brings_it = names && handle.came == Some(id);
        let another = handle.came.is_some_and(|came| came != id && self.reason_of(came, time).is_none());
        if another || !brings_it && !order.no_cookie {
            return Err("relay_other_session");
        }
        let bound = match order.named {
            Named::Living(id) => Some(self.take_relay(id, order, time)?),
            Named::Ended(_) | Named::Nothing => None,
        };
        let signed = bound.and_then(|id| self.sessions[&id].user);
        if signed != order.signed {
            return Err("user_changed");
        }
        if [signed, order.user].into_iter().flatten().any(|user| self.users[user].ended >= order.minted) {
            return Err("session_closed");
        }
        if self.sessions.contains_key(&order.begun) {
            return Err("token_used");
        }
        self.begin(order, bound, handle, time);
        self.accepted.push(order.number);
        Ok(())
    }

    /// Returns the order's living session, with the order's values merged.
    fn take_relay(&mut self, id: usize, order: &Order, time: &Time) -> Result<usize, &'static str> {
        if self.reason_of(id, time).is_some() {
            return Err("session_closed");
        }
        let relay = order.relay.as_ref().expect("the session lived when it was ordered");
        self.sessions.entry(id).or_insert_with(|| Session::of(relay));
        self.merge(relay, false);
        match self.ended(id, time) {
            Some(_) => Err("session_closed"),
            None => Ok(id),
        }
    }

    fn begin(&mut self, order: &Order, bound: Option<usize>, handle: &mut Handle, time: &mut Time) {
        let before = bound.map(|id| self.sessions[&id].clone());
        let own = before.as_ref().map(|before| before.own).unwrap_or_default();
        let anonymous = before.as_ref().map(|before| before.anonymous).unwrap_or_default();
        let renews = order.user.is_none();
        let shares_end = renews && order.signed.is_some();
        let predecessor = match bound {
            Some(id) => Some(Predecessor { id, shares_end }),
            None => handle.came.map(|id| Predecessor { id, shares_end: false }),
        };
        if let Some(id) = bound {
            self.retire(&Bind::Live(id), CloseReason::Renewed, time);
            self.sessions.get_mut(&id).expect("the session lived").successor = shares_end.then_some(order.begun);
        }
        let session = Session {
            user: if renews { order.signed } else { order.user },
            signed: match &before {
                Some(before) if renews => before.signed,
                _ => order.user.map_or(0, |_| time.next()),
            },
            minted: order.minted,
            own,
            anonymous: if renews { anonymous } else { Place::default() },
            ended: None,
            successor: None,
            predecessor: predecessor.map(|predecessor| (predecessor, time.now)),
            confirmed: false,
        };
        self.sessions.insert(order.begun, session);
        handle.bind = Bind::Live(order.begun);
        (handle.ended, handle.anew) = (None, false);
        if let Some(user) = order.user
            && order.adopt
        {
            self.adopt(user, anonymous.value(), time);
        }
    }

    /// Ends a session that this node might not know.
    pub(super) fn end_named(&mut self, id: usize, time: &Time) {
        self.sessions.entry(id).or_default();
        self.retire(&Bind::Live(id), CloseReason::Destroyed, time);
    }

    fn reason_of(&self, id: usize, time: &Time) -> Option<CloseReason> {
        let (reason, at) = self.sessions.get(&id)?.ended?;
        // For a minute the node tells the reason of an end.
        Some(if time.now < at + FENCE { reason } else { CloseReason::Destroyed })
    }
}
