//! The looks at sessions: of a node after a load, of a node with an empty memory, of sockets, and at cookies.

use std::time::Duration;

use futures_util::FutureExt;
use http::HeaderMap;
use layered_session::{CloseReason, Session, testing};
use proptest::test_runner::TestCaseError;

use super::{
    NODES,
    reference::{Age, End, MARGIN},
    values::{LIFETIMES, Slot, principal},
    visit::Visit,
    world::{Bound, Checked, Handle, Site, Socket, World, ensure},
};

impl<S: Site> World<S> {
    /// Looks at the session of a request after the load.
    pub(crate) fn look_at_handle(
        &mut self,
        handle: &mut Handle,
        session: Option<usize>,
        age: Age,
        is_used: bool,
    ) -> Checked {
        let (now, node) = (self.site.now(), handle.node);
        let (lives, closed) = (handle.session.created_at().is_some(), handle.session.closed().now_or_never());
        let Some(session) = session else {
            return ensure(!lives && closed.is_none(), || "a browser without a cookie has a session".to_owned());
        };
        let is_moving = self.is_moving(node, session);
        let facts = &mut self.sessions[session];
        let of_session = age;
        let age = if facts.user.is_some() { age.of_user() } else { age };
        ensure(lives == closed.is_none() || !lives, || format!("a living session has ended: {closed:?}"))?;
        if lives {
            let lives = facts.may_live(now);
            let fits = !facts.is_late(now) && facts.end.sees(node, age, lives);
            ensure(fits, || format!("session {session} lives on node {node} ({age:?}): {facts:?}"))?;
            facts.used.1 = now;
            if is_used {
                facts.used.0 = now;
            }
        } else if is_moving {
            // The load has read the end. The node notes the end after the end of the operation.
            let fits = facts.end.ever_fits(|end| *end != End::Live);
            ensure(fits, || format!("session {session} is lost on node {node} beside an operation: {facts:?}"))?;
        } else if facts.is_in_time(now) {
            let fits = facts.end.sees(node, age, |end| *end != End::Live);
            ensure(fits, || format!("session {session} is lost on node {node}: {facts:?}"))?;
        } else {
            facts.end.may_write(|end| end.or(End::Expired), now);
        }
        handle.bound = if lives { Bound::Live(session) } else { Bound::Over(session) };
        if let (false, Some(user)) = (lives, self.sessions[session].user) {
            // The same call has read the user's record.
            self.users[user].values.iter_mut().for_each(|value| value.read_by(node));
        }
        let user = self.sessions[session].user.filter(|_| lives).map(principal);
        let seen = handle.session.principal();
        ensure(seen == user, || format!("session {session} is of {user:?}, and node {node} sees {seen:?}"))?;
        self.look_at_values(handle, of_session)
    }

    /// Notes the session of a handle that seemed idle on its node, until a load told the node of a use elsewhere.
    pub(crate) fn look_at_resumed(&self, socket: &mut Socket) -> Checked {
        let Bound::Over(session) = socket.handle.bound else { return Ok(()) };
        if socket.handle.session.created_at().is_some() {
            let facts = &self.sessions[session];
            let fits = facts.end.ever_fits(facts.may_live(self.site.now()));
            ensure(fits, || format!("session {session} lives again: {facts:?}"))?;
            let handle =
                Handle { session: socket.handle.session.clone(), bound: Bound::Live(session), ..socket.handle };
            *socket = Socket::open(handle);
        }
        Ok(())
    }

    /// Whether an operation of a node on the session waits.
    fn is_moving(&self, node: usize, session: usize) -> bool {
        let bound = Bound::Live(session);
        self.flight.as_ref().is_some_and(|flight| (flight.handle.node, flight.handle.bound) == (node, bound))
    }

    /// Reads each value of a handle.
    pub(crate) fn look_at_values(&mut self, handle: &Handle, age: Age) -> Checked {
        for slot in Slot::ALL {
            let seen = slot.get(&handle.session);
            let is_of_user = self.user_of(handle.bound).is_some() && slot.is_of_user();
            let age = if is_of_user { age.of_user() } else { age };
            match self.register(handle.bound, slot) {
                Some(register) => {
                    let fits = register.sees(handle.node, age, |value| *value == seen);
                    ensure(fits, || {
                        format!(
                            "{slot:?} of {:?} is {seen:?} on node {} ({age:?}): {register:?}",
                            handle.bound, handle.node
                        )
                    })?;
                }
                None => ensure(seen.is_none(), || format!("{slot:?} of {:?} is {seen:?}", handle.bound))?,
            }
        }
        Ok(())
    }

    /// Looks at a browser's session on a node with an empty memory.
    pub(crate) async fn look_at_session(&mut self, jar: usize) -> Checked {
        let jar = self.jars[jar].clone();
        let (Some(session), Some(cookie)) = (jar.session, jar.cookie) else { return Ok(()) };
        let cold = self.load_elsewhere(&self.node(None), &cookie).await?;
        let now = self.site.now();
        let facts = &mut self.sessions[session];
        if cold.created_at().is_none() {
            if facts.is_in_time(now) {
                let fits = facts.end.is_now(|end| *end != End::Live);
                return ensure(fits, || format!("session {session} is lost: {facts:?}"));
            }
            facts.end.may_write(|end| end.or(End::Expired), now);
            return Ok(());
        }
        let lives = facts.may_live(now);
        let lives = !facts.is_late(now) && facts.end.is_now(lives);
        ensure(lives, || format!("session {session} lives on a cold node: {facts:?}"))?;
        (facts.used.0, facts.used.1) = (now, now);
        for slot in Slot::ALL {
            let seen = slot.get(&cold);
            let register = self.register(Bound::Live(session), slot).expect("the session lives");
            ensure(register.is_now(|value| *value == seen), || {
                format!("{slot:?} of session {session} is {seen:?} on a cold node: {register:?}")
            })?;
        }
        Ok(())
    }

    /// Looks at a user's values on a node with an empty memory.
    pub(crate) async fn look_at_user(&mut self, user: usize) -> Checked {
        let job = self.node(None).for_principal(principal(user)).await;
        let job = job.map_err(|error| TestCaseError::fail(format!("a cold load fails: {error}")))?;
        let facts = &mut self.users[user];
        for slot in [Slot::Choice, Slot::Tally] {
            let (seen, register) = (slot.get(&job), &mut facts.values[slot as usize]);
            ensure(register.is_now(|value| *value == seen), || {
                format!("{slot:?} of user {user} is {seen:?} on a cold node: {register:?}")
            })?;
        }
        let (sure, all) = facts.updates;
        let tally = Slot::Tally.get(&job).unwrap_or_default();
        ensure((sure..=all).contains(&tally), || format!("the tally is {tally} after {sure} to {all} updates"))
    }

    /// Loads the session of a cookie on a node that is no part of the world.
    async fn load_elsewhere(&self, node: &layered_session::Sessions, cookie: &str) -> Checked<Session> {
        let mut visit = Visit::begin(node, Some(cookie));
        let loaded = std::future::poll_fn(|cx| visit.poll_loaded(cx)).await;
        loaded.ok_or_else(|| TestCaseError::fail("a cold load fails"))
    }

    /// Checks the cookie of a response, and gives the cookie to the browser.
    pub(crate) async fn check_cookie(
        &mut self,
        handle: &Handle,
        (jar, brought): (usize, Option<usize>),
        headers: &HeaderMap,
        lost: bool,
    ) -> Checked {
        let set = testing::set_cookies(headers);
        ensure(set.len() < 2, || format!("{} cookies", set.len()))?;
        let Some(cookie) = set.first() else {
            let same = match handle.bound {
                Bound::Live(session) => brought == Some(session),
                _ => true,
            };
            return ensure(same || lost, || format!("no response carries the cookie of {:?}", handle.bound));
        };
        if cookie.max_age().is_some_and(|age| age.is_zero()) {
            if !lost {
                self.jars[jar] = Default::default();
            }
            return ensure(matches!(handle.bound, Bound::Over(_)), || "a living session loses its cookie".to_owned());
        }
        let Bound::Live(session) = handle.bound else {
            return Err(TestCaseError::fail(format!("a cookie for {:?}", handle.bound)));
        };
        let (token, id) = (cookie.value().to_owned(), cookie.value()[..48].to_owned());
        let of_id = *self.ids.entry(id).or_insert(session);
        ensure(of_id == session, || format!("the cookie of session {session} has the id of session {of_id}"))?;
        let carried = self.load_elsewhere(&self.storeless, &token).await?;
        // The clock of the node that made the cookie may be behind.
        let has_expired = carried.created_at().is_none() && !self.sessions[session].is_in_time(self.site.now());
        for slot in Slot::ALL.into_iter().filter(|_| !has_expired) {
            let (seen, register) =
                (slot.carried(&carried), self.register(handle.bound, slot).expect("the session lives"));
            let fits = if slot.is_carried() { register.ever(&seen) } else { seen.is_none() };
            ensure(fits, || format!("the cookie carries {slot:?} {seen:?}: {register:?}"))?;
        }
        if !lost {
            (self.jars[jar].cookie, self.jars[jar].session) = (Some(token), Some(session));
        }
        Ok(())
    }

    /// Looks at the sockets without a load.
    pub(crate) fn check_sockets(&mut self) -> Checked {
        let now = self.site.now();
        let mut sockets = std::mem::take(&mut self.sockets);
        for socket in sockets.iter_mut().flatten() {
            if socket.closed.is_none() {
                socket.closed = socket.closing.as_mut().now_or_never();
            }
            let node = socket.handle.node;
            debug_assert!(node < NODES);
            // A follower reads no record that its own node is about to move, and reads the record a second later.
            let has_moved = now < self.places[node].landed + Duration::from_secs(2);
            let age = match self.age(node) {
                Age::Fresh if self.flight.is_none() && !has_moved => Age::Followed,
                _ => Age::Held,
            };
            let Bound::Live(session) = socket.handle.bound else { continue };
            let is_moving = self.is_moving(node, session);
            let facts = &mut self.sessions[session];
            match socket.closed {
                Some(reason) => {
                    // The node does not know of uses and lifetimes on the other node until the next load.
                    let may_expire = reason == CloseReason::Expired && now + MARGIN > facts.created + LIFETIMES[1][0];
                    let fits = facts.end.sees(node, Age::Held, |end| *end != End::Live);
                    ensure(fits || may_expire || !facts.is_in_time(now), || {
                        format!("a socket of session {session} closes ({reason:?}): {facts:?}")
                    })?;
                    socket.handle.bound = Bound::Over(session);
                }
                // A load may have read the end already that the handle's own renewal is about to note.
                None if is_moving => {}
                None => {
                    let lives = facts.may_live(now);
                    let fits = facts.end.sees(node, age, lives);
                    ensure(fits, || format!("a socket of session {session} stays open ({age:?}): {facts:?}"))?;
                    facts.used.1 = now;
                    self.look_at_values(&socket.handle, age)?;
                }
            }
        }
        self.sockets = sockets;
        Ok(())
    }
}
