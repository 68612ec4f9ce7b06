//! The judgement of each answer, and its effect on the facts.

use std::collections::BTreeSet;

use futures_util::FutureExt;
use layered_session::{CloseReason, WriteErrorKind};
use proptest::test_runner::TestCaseError;

use super::{
    faults::Fault,
    reference::{Bounds, End, Register, SessionFacts, Value},
    values::{Answer, LIFETIMES, Op, Slot},
    world::{Bound, Checked, Handle, Site, World, ensure},
};

/// An operation that has ended.
pub(crate) struct Done {
    pub(crate) op: Op,
    /// The number that a set writes.
    pub(crate) serial: u64,
    /// The value that the handle saw before.
    pub(crate) before: Value,
    pub(crate) fired: Option<Fault>,
    /// Set if other steps came between the beginning and the end.
    pub(crate) flown: Option<Flown>,
}

pub(crate) struct Flown {
    /// The state of the register that the write may have made.
    pub(crate) state: Option<usize>,
    /// [`World::ends`] at the beginning.
    pub(crate) ends: usize,
}

/// The outcome of an operation, as far as the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done(Value),
    Closed,
    /// The handle has no such session.
    Invalid,
    Refused,
    Unknown,
}

impl Done {
    fn outcome(&self, answer: Option<Answer>) -> Checked<Outcome> {
        let error = match answer {
            None => return Ok(Outcome::Unknown),
            Some(Ok(value)) => return Ok(Outcome::Done(value)),
            Some(Err(error)) => error,
        };
        match (error.kind(), self.fired) {
            (WriteErrorKind::Closed, _) => Ok(Outcome::Closed),
            (WriteErrorKind::Invalid, _) => Ok(Outcome::Invalid),
            (WriteErrorKind::Unavailable, Some(Fault::Refuse)) => Ok(Outcome::Refused),
            (WriteErrorKind::Unavailable, Some(_)) => Ok(Outcome::Unknown),
            (kind, _) => Err(TestCaseError::fail(format!("{:?} fails with {kind:?}: {error}", self.op))),
        }
    }

    /// Whether the operation writes nothing: the removal of a value that the handle does not see.
    fn is_empty(&self) -> bool {
        matches!(self.op, Op::Remove(_)) && self.before.is_none()
    }

    fn change(&self, value: &Value) -> Value {
        self.op.change(self.serial, *value)
    }
}

impl<S: Site> World<S> {
    /// The register of a value for a handle with this session.
    pub(crate) fn register(&mut self, bound: Bound, slot: Slot) -> Option<&mut Register<Value>> {
        match (self.user_of(bound).filter(|_| slot.is_of_user()), bound) {
            (Some(user), _) => Some(&mut self.users[user].values[slot as usize]),
            (None, Bound::Live(session)) => Some(&mut self.sessions[session].values[slot as usize]),
            (None, Bound::User(_) | Bound::Nothing | Bound::Over(_)) => None,
        }
    }

    /// Notes the possible effects of an operation under way. Returns the state of the register that the write may have made.
    pub(crate) fn mark(&mut self, handle: &Handle, done: &Done) -> Checked<Option<usize>> {
        let now = self.site.now();
        if let Some(user) = self.counted(handle, done.op) {
            self.users[user].updates.1 += 1;
        }
        match done.op.slot() {
            Some(slot) if done.fired == Some(Fault::HoldReply) => {
                let Some(register) = self.register(handle.bound, slot) else { return Ok(None) };
                register.may_write(|value| done.change(value), now);
                Ok(Some(register.last()))
            }
            Some(_) => Ok(None),
            None => {
                if let Bound::Over(session) = handle.bound {
                    self.may_happen_later(None, session, done.op);
                }
                if let Bound::Live(session) = handle.bound {
                    let facts = &self.sessions[session];
                    if let (None, Op::SignIn { user, adopt: true }) = (facts.user, done.op) {
                        let chosen = facts.values[Slot::Choice as usize].history();
                        self.may_adopt(user, &chosen, now);
                    }
                    self.may_happen(None, session, done);
                }
                Ok(None)
            }
        }
    }

    pub(crate) fn judge(&mut self, handle: &mut Handle, done: &Done, answer: Option<Answer>) -> Checked {
        let outcome = done.outcome(answer)?;
        let (now, text) = (self.site.now(), format!("{:?} of {:?}", done.op, handle.bound));
        if let (Bound::Live(session), Some(_)) = (handle.bound, done.op.slot()) {
            self.sessions[session].used.1 = now;
        }
        let reads_user = match done.op {
            Op::SignIn { user, .. } => Some(user),
            Op::Renew | Op::EndAll | Op::EndOthers => self.user_of(handle.bound),
            _ => None,
        };
        if let Some(user) = reads_user {
            self.users[user].values.iter_mut().for_each(|value| value.read_by(handle.node));
        }
        match (handle.bound, outcome) {
            (Bound::Live(session), Outcome::Closed) => {
                // The other sessions end first, also if the handle's own session has been renewed elsewhere.
                if let (Op::EndOthers, Some(user)) = (done.op, self.sessions[session].user) {
                    self.may_revoke(None, user, Some(session));
                }
                return self.closed(handle, session, &text);
            }
            (Bound::Live(session), Outcome::Done(value)) => {
                self.learns_outcomes(handle, done);
                self.succeeds(handle, session, done, value)?;
            }
            (Bound::User(_), Outcome::Done(value)) => {
                self.learns_outcomes(handle, done);
                self.writes(handle, done, value)?;
            }
            (Bound::Nothing | Bound::Over(_), Outcome::Done(value)) => self.begins(handle, done, value)?,
            (Bound::Live(session), Outcome::Unknown) => self.unknown(handle, session, done),
            (Bound::User(_), Outcome::Unknown) => self.may_write(handle, done),
            (Bound::Live(session), Outcome::Invalid) => {
                let is_for_users = matches!(done.op, Op::EndAll | Op::EndOthers);
                ensure(is_for_users && self.sessions[session].user.is_none(), || format!("{text} is invalid"))?;
            }
            (Bound::Nothing | Bound::Over(_), Outcome::Invalid) => {
                ensure(matches!(done.op, Op::EndAll | Op::EndOthers), || format!("{text} is invalid"))?;
            }
            (Bound::Live(session), Outcome::Refused) => match done.op {
                // The handle's own session ends first.
                Op::EndAll | Op::EndOthers => self.may_happen(Some(handle.node), session, done),
                Op::SignIn { user, adopt: true } => self.may_be_signed_in(handle, session, user, done),
                _ => {}
            },
            (Bound::Over(session), Outcome::Unknown | Outcome::Refused) => {
                self.may_happen_later(Some(handle.node), session, done.op);
            }
            (Bound::Over(_), Outcome::Closed) => {}
            (Bound::Nothing | Bound::User(_), Outcome::Closed) | (Bound::User(_), Outcome::Invalid) => {
                return Err(TestCaseError::fail(format!("{text} is closed")));
            }
            (_, Outcome::Unknown | Outcome::Refused) => {}
        }
        // An operation that fails may have ended the session all the same.
        match handle.bound {
            Bound::Live(session) if handle.session.closed().now_or_never().is_some() => {
                self.closed(handle, session, &text)
            }
            _ => Ok(()),
        }
    }

    /// Notes the possible effects of an operation on an ended session: an end of the sessions that renewals have made of
    /// the session.
    fn may_happen_later(&mut self, node: Option<usize>, session: usize, op: Op) {
        match (op, self.sessions[session].user) {
            (Op::SignOut, _) => self.follow(session),
            (Op::EndAll, Some(user)) => self.may_revoke(node, user, None),
            _ => {}
        }
    }

    /// The store's answer to a write tells the node of the owner's earlier writes, so that the next load need not ask.
    fn learns_outcomes(&mut self, handle: &Handle, done: &Done) {
        let has_user = self.user_of(handle.bound).is_some();
        let is_of_user = |slot: Slot| has_user && slot.is_of_user();
        let wrote_user = match done.op {
            Op::Set(slot) | Op::Update(slot) | Op::Remove(slot) if !done.is_empty() => is_of_user(slot),
            Op::Clear | Op::Lifetime(_) => false,
            _ => return,
        };
        for slot in Slot::ALL.into_iter().filter(|slot| is_of_user(*slot) == wrote_user) {
            if let Some(register) = self.register(handle.bound, slot) {
                match done.flown {
                    None => register.may_be_read_by(handle.node),
                    Some(_) => register.read_by(handle.node),
                }
            }
        }
    }

    /// The session of the handle has ended.
    fn closed(&mut self, handle: &mut Handle, session: usize, text: &str) -> Checked {
        let now = self.site.now();
        let facts = &mut self.sessions[session];
        handle.bound = Bound::Over(session);
        if self.is_ending_others {
            // The session is revoked until the renewal of `end_other_sessions` has ended.
            facts.end.may_write(|end| end.or(End::Revoked), now);
            return Ok(());
        }
        ensure(!facts.must_live(now), || format!("{text} is closed: {facts:?}"))?;
        // A deadline tells nothing of an operation whose outcome is unknown.
        let has_expired = handle.session.closed().now_or_never() == Some(CloseReason::Expired);
        if has_expired || !facts.end.is_now(|end| *end != End::Live) {
            facts.end.may_write(|end| end.or(End::Expired), now);
        }
        facts.end.made_by(handle.node);
        Ok(())
    }

    /// A handle without a session has succeeded.
    fn begins(&mut self, handle: &mut Handle, done: &Done, value: Value) -> Checked {
        let now = self.site.now();
        match done.op {
            Op::Set(slot) | Op::Update(slot) => {
                let begun = self.begin(handle, None, done);
                let register = &mut self.sessions[begun].values[slot as usize];
                register.write(|value| done.change(value), now);
                register.made_by(handle.node);
                ensure(value.is_none_or(|value| value == 1), || format!("the first update gives {value:?}"))
            }
            Op::SignIn { user, .. } => {
                self.begin(handle, Some(user), done);
                Ok(())
            }
            Op::SignOut => {
                if let Bound::Over(session) = handle.bound {
                    self.follow(session);
                }
                Ok(())
            }
            Op::Remove(_) | Op::Clear | Op::Touch | Op::Renew | Op::Lifetime(_) => Ok(()),
            // A renewal of another request may have moved the session a moment ago.
            Op::EndAll => {
                let user = if let Bound::Over(session) = handle.bound { self.sessions[session].user } else { None };
                let user = user.ok_or_else(|| TestCaseError::fail("sessions of nobody end"))?;
                self.revoke_by(handle.node, user, None, done);
                Ok(())
            }
            Op::EndOthers => Err(TestCaseError::fail("sessions of nobody end")),
        }
    }

    /// Notes a session that a handle has begun.
    pub(super) fn begin(&mut self, handle: &mut Handle, user: Option<usize>, done: &Done) -> usize {
        let now = self.site.now();
        let mut begun = SessionFacts::begin(user, LIFETIMES[0], handle.node, now);
        if handle.has_lifetime {
            LIFETIMES.into_iter().for_each(|lifetime| begun.set_lifetime(lifetime, false, now));
        }
        if done.flown.as_ref().is_some_and(|flown| flown.ends != self.ends) {
            [End::Destroyed, End::Revoked].into_iter().for_each(|by| begun.end.may_write(|end| end.or(by), now));
        }
        self.sessions.push(begun);
        handle.bound = Bound::Live(self.sessions.len() - 1);
        self.sessions.len() - 1
    }

    /// An operation of a handle with a session has succeeded.
    fn succeeds(&mut self, handle: &mut Handle, session: usize, done: &Done, value: Value) -> Checked {
        let now = self.site.now();
        let facts = &mut self.sessions[session];
        let is_of_session = match done.op.slot() {
            Some(slot) => facts.user.is_none() || !slot.is_of_user(),
            None => !matches!(done.op, Op::Touch | Op::SignOut | Op::EndAll),
        };
        // A node learns of a remote end later, so it may take a write of the user meanwhile, and count a use.
        let asks_store = is_of_session && !done.is_empty();
        if asks_store && done.flown.is_none() {
            // The user's record has the end of all sessions. A node that has not read it since goes on with the session, but
            // a renewal reads it.
            let reads_user = matches!(done.op, Op::Renew | Op::EndOthers);
            // A node that has not read a shorter lifetime goes on too.
            let lifetime_is_new = now <= facts.lifetime_known;
            let lives = |end: &End| match end {
                End::Live => true,
                End::Revoked => !reads_user,
                End::Expired => lifetime_is_new,
                End::Destroyed | End::Renewed => false,
            };
            let lives = !facts.is_late(now) && facts.end.is_now(lives);
            ensure(lives, || format!("{:?} succeeds in an ended session: {facts:?}", done.op))?;
        }
        if done.fired.is_none() && done.op.slot().is_some() && !done.is_empty() {
            facts.used = Bounds::exactly(now);
        }
        match done.op {
            Op::Set(_) | Op::Update(_) | Op::Remove(_) => self.writes(handle, done, value)?,
            Op::Clear => {
                for slot in Slot::ALL.into_iter().filter(|slot| facts.user.is_none() || !slot.is_of_user()) {
                    let register = &mut facts.values[slot as usize];
                    // The store may have cleared the values before other writes came.
                    if done.flown.is_some() {
                        register.may_write(|_| None, now);
                    } else {
                        register.write(|_| None, now);
                        register.made_by(handle.node);
                    }
                }
            }
            Op::Touch => {
                facts.used.1 = now;
                // The store may have dropped the session before, and a use brings nothing back.
                if done.fired.is_none() && facts.is_in_time(now) {
                    facts.used.0 = now;
                }
            }
            Op::Lifetime(which) => {
                facts.set_lifetime(LIFETIMES[which], true, now);
                handle.has_lifetime = true;
            }
            Op::Renew | Op::SignIn { .. } => self.moves(handle, session, done),
            Op::EndOthers => {
                if let Some(user) = facts.user {
                    self.revoke_by(handle.node, user, Some(session), done);
                }
                self.moves(handle, session, done);
            }
            Op::SignOut => {
                self.follow(session);
                let facts = &mut self.sessions[session];
                facts.end.write(|end| end.or(End::Destroyed), now);
                facts.end.made_by(handle.node);
                self.ends += 1;
                handle.bound = Bound::Over(session);
            }
            Op::EndAll => {
                if let Some(user) = facts.user {
                    self.revoke_by(handle.node, user, None, done);
                }
                handle.bound = Bound::Over(session);
            }
        }
        Ok(())
    }

    /// A write of a value has succeeded.
    fn writes(&mut self, handle: &Handle, done: &Done, value: Value) -> Checked {
        if done.is_empty() {
            return Ok(());
        }
        let (now, slot) = (self.site.now(), done.op.slot().expect("a write has a value"));
        let change = |value: &Value| done.change(value);
        if let Some(user) = self.counted(handle, done.op) {
            self.users[user].updates.0 += 1;
            self.users[user].updates.1 += u64::from(done.flown.is_none());
        }
        let register = self.register(handle.bound, slot).expect("the handle has an owner");
        let fits = |before: &BTreeSet<Value>| value.is_none() || before.iter().any(|before| change(before) == value);
        // The store may have found an update outdated. The update then came after the wait.
        if let Some(state) = done.flown.as_ref().and_then(|flown| flown.state)
            && fits(register.before(state))
        {
            register.raise_floor(handle.node, state);
            if state == register.last() {
                register.confirm(state, change);
            }
            return Ok(());
        }
        if value.is_some() {
            let fits = register.is_now(|before| change(before) == value);
            ensure(fits, || format!("{:?} gives {value:?}: {register:?}", done.op))?;
        }
        register.write(change, now);
        register.made_by(handle.node);
        Ok(())
    }

    /// The user whose values a handle sees.
    pub(crate) fn user_of(&self, bound: Bound) -> Option<usize> {
        match bound {
            Bound::Live(session) => self.sessions[session].user,
            Bound::User(user) => Some(user),
            Bound::Nothing | Bound::Over(_) => None,
        }
    }

    /// The user whose updates the operation is one of.
    fn counted(&self, handle: &Handle, op: Op) -> Option<usize> {
        if op == Op::Update(Slot::Tally) { self.user_of(handle.bound) } else { None }
    }

    fn may_write(&mut self, handle: &Handle, done: &Done) {
        if done.is_empty() {
            return;
        }
        let (now, slot) = (self.site.now(), done.op.slot().expect("a write has a value"));
        if let Some(user) = self.counted(handle, done.op).filter(|_| done.flown.is_none()) {
            self.users[user].updates.1 += 1;
        }
        if let Some(register) = self.register(handle.bound, slot) {
            register.may_write(|value| done.change(value), now);
            register.asks(handle.node);
        }
    }

    /// The outcome of an operation of a handle with a session is unknown.
    fn unknown(&mut self, handle: &mut Handle, session: usize, done: &Done) {
        match done.op {
            Op::Set(_) | Op::Update(_) | Op::Remove(_) => self.may_write(handle, done),
            Op::SignIn { user, adopt: true } => self.may_be_signed_in(handle, session, user, done),
            _ => self.may_happen(Some(handle.node), session, done),
        }
    }

    /// Notes an operation on a session that may have happened. The next load on the node asks for the outcome; `None` if
    /// the operation still waits.
    pub(super) fn may_happen(&mut self, node: Option<usize>, session: usize, done: &Done) {
        let now = self.site.now();
        let facts = &mut self.sessions[session];
        // Another operation may have ended the session first, and this operation may not have come to the store.
        let asking = node.filter(|_| done.flown.is_none() && facts.end.is(&End::Live));
        match done.op {
            Op::Set(_) | Op::Update(_) | Op::Remove(_) | Op::Touch => {}
            Op::Clear => {
                for slot in Slot::ALL.into_iter().filter(|slot| facts.user.is_none() || !slot.is_of_user()) {
                    facts.values[slot as usize].may_write(|_| None, now);
                    node.into_iter().for_each(|node| facts.values[slot as usize].asks(node));
                }
            }
            Op::Lifetime(which) => {
                facts.set_lifetime(LIFETIMES[which], false, now);
            }
            Op::Renew | Op::SignIn { .. } => {
                facts.end.may_write(|end| end.or(End::Renewed), now);
                asking.into_iter().for_each(|node| facts.end.asks_for_outcome(node));
            }
            Op::SignOut => {
                self.follow(session);
                let facts = &mut self.sessions[session];
                facts.end.may_write(|end| end.or(End::Destroyed), now);
                asking.into_iter().for_each(|node| facts.end.asks_for_outcome(node));
                self.ends += 1;
            }
            Op::EndAll | Op::EndOthers => {
                if let Some(user) = facts.user {
                    let ends = [End::Revoked, End::Renewed];
                    ends.into_iter().for_each(|by| facts.end.may_write(|end| end.or(by), now));
                    asking.into_iter().for_each(|node| facts.end.asks_for_outcome(node));
                    self.may_revoke(node, user, Some(session));
                }
            }
        }
    }
}
