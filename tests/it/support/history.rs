//! The history of the sessions and tokens of a [`Cluster`](crate::support::cluster::Cluster). The forbidden acts of
//! each node follow from the history.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

pub(crate) const USERS: [&str; 2] = ["ada", "bob"];

/// The life of an order, and of a birth token without a cookie.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) type Id = Vec<u8>;

/// A user of [`USERS`], or no user.
pub(crate) type Name = Option<&'static str>;

/// A genuine token of a page.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// The id in the token's clear part.
    pub(crate) id: Id,
    /// The browser of the page.
    pub(crate) browser: usize,
    pub(crate) made: Duration,
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Relay,
    Birth,
    Order(Ordered),
    Removal { series: usize },
}

/// The content of an order, and the handle's knowledge at that time.
#[derive(Clone)]
pub(crate) struct Ordered {
    /// A series: the orders of one handle until the next sign-out, which begin one session.
    pub(crate) series: usize,
    /// The step in which the turn was ordered.
    pub(crate) step: usize,
    /// The user of the begun session.
    pub(crate) user: Name,
    /// The signed-in user at the time of the order.
    pub(crate) present: Name,
    /// Whether the token's id had not ended at the time of the order.
    pub(crate) living: bool,
    /// Whether a request with the session's cookie had come.
    pub(crate) needs_cookie: bool,
}

/// The history.
#[derive(Default)]
pub(crate) struct Facts {
    /// The user of each session. The user never changes, since a turn begins another session.
    pub(crate) users: HashMap<Id, Name>,
    /// The step in which each session began, or was ordered.
    pub(crate) births: HashMap<Id, usize>,
    /// The session that each series of orders has begun.
    pub(crate) begun: HashMap<usize, Id>,
    /// The ends known to each process.
    pub(crate) ended: HashSet<(usize, Id)>,
    /// The series whose handle has signed out, as far as the process knows.
    pub(crate) voided: HashSet<(usize, usize)>,
    /// The step in which all sessions of a user ended on a process.
    pub(crate) stamps: HashMap<(usize, &'static str), usize>,
    /// The tokens that a process has accepted: series of orders, and birth tokens without a cookie.
    pub(crate) carried_out: HashSet<(usize, usize)>,
    pub(crate) minted: HashSet<(usize, String)>,
}

impl Facts {
    pub(crate) fn begin(&mut self, id: &Id, user: Name, step: usize) {
        assert_eq!(*self.users.entry(id.clone()).or_insert(user), user, "one session has one user");
        let birth = self.births.entry(id.clone()).or_default();
        *birth = step.max(*birth);
    }

    fn is_stamped(&self, process: usize, user: Name, birth: usize) -> bool {
        user.is_some_and(|user| self.stamps.get(&(process, user)).is_some_and(|stamp| *stamp > birth))
    }

    /// Whether a process knows that a session has ended.
    pub(crate) fn has_ended(&self, process: usize, id: &Id) -> bool {
        let user = self.users.get(id).copied().flatten();
        let birth = self.births.get(id).copied().unwrap_or(usize::MAX);
        self.is_over(process, id) || self.is_stamped(process, user, birth)
    }

    /// Whether a process knows the session's own end. The ends of all of the user's sessions are left out.
    fn is_over(&self, process: usize, id: &Id) -> bool {
        let of_voided = |(series, begun): (&usize, &Id)| begun == id && self.voided.contains(&(process, *series));
        self.ended.contains(&(process, id.clone())) || self.begun.iter().any(of_voided)
    }

    /// Returns the reason for which every node must refuse an order, if there is a reason.
    pub(crate) fn refuses(
        &self,
        process: usize,
        token: &Token,
        ordered: &Ordered,
        now: Duration,
    ) -> Option<&'static str> {
        let begun = self.begun.get(&ordered.series);
        let named = Some(&token.id).filter(|id| ordered.living && begun != Some(*id));
        let stamped = |user| self.is_stamped(process, user, ordered.step);
        let reasons = [
            (now >= token.made + MINUTE, "late"),
            (self.carried_out.contains(&(process, ordered.series)), "the second of its series"),
            (self.voided.contains(&(process, ordered.series)), "its handle has signed out"),
            (named.is_some_and(|id| self.has_ended(process, id)), "its session has ended"),
            // The begun session counts as begun when the socket gave the order, so the ends of all sessions are checked
            // below, by that step.
            (begun.is_some_and(|id| self.is_over(process, id)), "the session that it begins has ended"),
            (stamped(ordered.user) || stamped(ordered.present), "all of the user's sessions have ended"),
        ];
        reasons.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
    }
}
