//! The moves and ends of sessions in the facts.

use std::{collections::BTreeSet, time::Duration};

use super::{
    faults::Fault,
    judge::Done,
    reference::{End, SessionFacts, Value},
    values::{Op, Slot, principal},
    world::{Handle, Site, World},
};

impl<S: Site> World<S> {
    /// A sign-in has failed that may have happened before the failure of its adoption.
    pub(super) fn may_be_signed_in(&mut self, handle: &mut Handle, session: usize, user: usize, done: &Done) {
        let now = self.site.now();
        let was_anonymous = self.sessions[session].user.is_none();
        if was_anonymous && handle.session.principal() == Some(principal(user)) {
            let before = self.users[user].values[Slot::Choice as usize].clone();
            self.moves(handle, session, done);
            // The adoption may have failed.
            let choice = &mut self.users[user].values[Slot::Choice as usize];
            let adopted = choice.now().clone();
            *choice = before;
            for value in adopted {
                choice.may_write(|_| value, now);
            }
            // A refused write leaves no doubt.
            if done.fired != Some(Fault::Refuse) {
                choice.asks(handle.node);
            }
        } else if done.fired != Some(Fault::Refuse) {
            self.may_happen(Some(handle.node), session, done);
        }
    }

    /// A renewal or a sign-in has moved the session of a handle.
    pub(super) fn moves(&mut self, handle: &mut Handle, session: usize, done: &Done) {
        let now = self.site.now();
        let old = &mut self.sessions[session];
        old.end.write(|end| end.or(End::Renewed), now);
        old.end.made_by(handle.node);
        let old = old.clone();
        let signed_in = if let Op::SignIn { user, adopt } = done.op { Some((user, adopt)) } else { None };
        let next = self.begin(handle, signed_in.map_or(old.user, |(user, _)| Some(user)), done);
        let begun = &mut self.sessions[next];
        begun.take_values(&old, done.fired.is_none(), |slot| signed_in.is_none() || !slot.is_of_user());
        if signed_in.is_none() {
            (begun.created, begun.idle, begun.absolute) = (old.created, old.idle, old.absolute);
            self.sessions[session].successor = old.user.map(|_| next);
        }
        if let (None, Some((user, true))) = (old.user, signed_in) {
            // The visitor may have chosen during a sign-in that waited, before or after the end of the old session.
            let choice = &old.values[Slot::Choice as usize];
            let chosen = if done.flown.is_some() { choice.history() } else { choice.now().clone() };
            self.adopt(handle.node, user, &chosen, done);
        }
    }

    /// Gives a user without a choice the choice of a visitor.
    fn adopt(&mut self, node: usize, user: usize, chosen: &BTreeSet<Value>, done: &Done) {
        let now = self.site.now();
        let choice = &mut self.users[user].values[Slot::Choice as usize];
        if choice.can_be(&None) && chosen.iter().any(Option::is_some) {
            let is_sure = choice.is(&None) && done.flown.is_none();
            self.may_adopt(user, chosen, now);
            let choice = &mut self.users[user].values[Slot::Choice as usize];
            if is_sure {
                choice.is_now(|value| chosen.contains(value));
                choice.made_by(node);
            }
        }
    }

    pub(super) fn may_adopt(&mut self, user: usize, chosen: &BTreeSet<Value>, now: Duration) {
        for value in chosen {
            self.users[user].values[Slot::Choice as usize].may_write(|before| before.or(*value), now);
        }
    }

    /// A sign-out with the id of a renewed session may end the renewed session.
    pub(super) fn follow(&mut self, session: usize) {
        let now = self.site.now();
        // The renewal may still wait, and begin the renewed session later.
        self.ends += 1;
        let mut next = Some(session);
        while let Some(at) = next.filter(|at| self.sessions[*at].end.can_be(&End::Renewed)) {
            next = self.sessions[at].successor;
            if let Some(next) = next {
                self.sessions[next].end.may_write(|end| end.or(End::Destroyed), now);
            }
        }
    }

    /// Notes the end of all sessions of a user by an operation on a handle. A session that began during the operation may
    /// live.
    pub(super) fn revoke_by(&mut self, node: usize, user: usize, except: Option<usize>, done: &Done) {
        match done.flown {
            None => self.revoke(node, user, except),
            Some(_) => self.may_revoke(None, user, except),
        }
    }

    /// Notes the end of all sessions of a user, but for one.
    pub(super) fn revoke(&mut self, node: usize, user: usize, except: Option<usize>) {
        let now = self.site.now();
        self.ends += 1;
        for session in self.others(user, except) {
            session.end.write(|end| end.or(End::Revoked), now);
            session.end.made_by(node);
        }
    }

    /// Notes the end of all sessions of a user that may have happened.
    pub(super) fn may_revoke(&mut self, node: Option<usize>, user: usize, except: Option<usize>) {
        let now = self.site.now();
        self.ends += 1;
        for session in self.others(user, except) {
            let node = node.filter(|_| session.end.is(&End::Live));
            session.end.may_write(|end| end.or(End::Revoked), now);
            node.into_iter().for_each(|node| session.end.asks_for_outcome(node));
        }
    }

    fn others(&mut self, user: usize, except: Option<usize>) -> impl Iterator<Item = &mut SessionFacts> {
        let is_other =
            move |(at, session): &(usize, &mut SessionFacts)| session.user == Some(user) && Some(*at) != except;
        self.sessions.iter_mut().enumerate().filter(is_other).map(|(_, session)| session)
    }
}
