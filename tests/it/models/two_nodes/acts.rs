//! The acts of a step: requests, operations, jobs, and the operations that later steps end.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use proptest::test_runner::TestCaseError;

use super::{
    faults::{Fault, Gate},
    judge::{Done, Flown},
    reference::Value,
    values::{Answer, Op, Slot, perform, principal},
    visit::Visit,
    world::{Bound, Checked, Doing, Handle, Site, Socket, Then, Trouble, World, ensure},
};

type Attempt<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An operation that waits for the store while the program goes on.
pub(crate) struct Flight {
    pub(crate) handle: Handle,
    done: Done,
    performing: Attempt<Answer>,
    gate: Gate,
    rest: Rest,
}

/// The end of a visit.
struct Rest {
    visit: Visit,
    jar: usize,
    /// The session whose cookie the request brought.
    brought: Option<usize>,
    keep: bool,
    lost: bool,
}

enum Driven<T> {
    Done(T),
    Held(Gate),
}

/// The end of an attempt.
enum Attempted<T> {
    Done(T),
    Dropped,
    /// The script holds a call, and the program goes on.
    Left(Attempt<T>, Gate),
}

impl<S: Site> World<S> {
    /// Polls a future until its end, or until the script holds one of its calls.
    async fn drive<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Checked<Driven<T>> {
        for turn in 0.. {
            if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(poll(cx))).await {
                return Ok(Driven::Done(done));
            }
            if let Some(gate) = self.script.take_held() {
                return Ok(Driven::Held(gate));
            }
            // The future may wait for the operation that an earlier step has left.
            if turn >= 64 {
                Box::pin(self.poll_flight()).await?;
            }
            ensure(turn < 4096, || "a future never ends".to_owned())?;
            self.site.idle().await;
        }
        unreachable!("the range has no end")
    }

    /// Lets the operation under way go on beside another operation.
    async fn poll_flight(&mut self) -> Checked {
        let Some(flight) = &mut self.flight else { return Ok(()) };
        let armed = self.script.suspend();
        flight.gate.open();
        if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(flight.performing.as_mut().poll(cx))).await
            && let Some(flight) = self.flight.take()
        {
            self.landed(flight, Some(answer)).await?;
        }
        self.script.resume(armed);
        Ok(())
    }

    /// Drives a future in whose calls the script makes no faults.
    async fn drive_on<T>(&mut self, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Checked<T> {
        match self.drive(poll).await? {
            Driven::Done(done) => Ok(done),
            Driven::Held(_) => Err(TestCaseError::fail("the script holds a call without an order")),
        }
    }

    /// Drives a future whose calls meet trouble. Returns the fault that a call has met.
    async fn attempt<T>(
        &mut self,
        mut future: Attempt<T>,
        trouble: Option<Trouble>,
        can_leave: bool,
    ) -> Checked<(Attempted<T>, Option<Fault>)> {
        self.script.arm(trouble.map(|trouble| (trouble.calls, trouble.fault)));
        let attempted = loop {
            let gate = match self.drive(|cx| future.as_mut().poll(cx)).await? {
                Driven::Done(done) => break Attempted::Done(done),
                Driven::Held(gate) => gate,
            };
            match trouble.map_or(Then::Open, |trouble| trouble.then) {
                Then::Leave if can_leave && self.flight.is_none() => break Attempted::Left(future, gate),
                then => {
                    if !self.follow_up(then, &gate).await {
                        drop(future);
                        // Another load on the node may share the read.
                        gate.open();
                        break Attempted::Dropped;
                    }
                }
            }
        };
        let fired = self.script.fired().or_else(|| self.site.is_disturbed().then_some(Fault::LoseReply));
        self.script.arm(None);
        Ok((attempted, fired))
    }

    /// Does what follows a held call. Returns false if the operation is to be dropped.
    async fn follow_up(&mut self, then: Then, gate: &Gate) -> bool {
        match then {
            Then::Drop => false,
            // The deadline of an operation that an earlier step has left must not pass unseen.
            Then::Expire if self.flight.is_none() => {
                self.site.pass(S::DEADLINE + Duration::from_millis(50)).await;
                true
            }
            Then::Open | Then::Leave | Then::Expire => {
                self.site.pass(Duration::from_millis(20)).await;
                gate.open();
                true
            }
        }
    }

    pub(crate) async fn visit(
        &mut self,
        node: usize,
        jar: usize,
        trouble: Option<Trouble>,
        ops: Vec<Doing>,
        [keep, lost]: [bool; 2],
    ) -> Checked {
        let mut visit = Visit::begin(&self.places[node].sessions, self.jars[jar].cookie.as_deref());
        let brought = self.jars[jar].session;
        let has_waited = self.waits(node);
        let loading = async move {
            let loaded = poll_fn(|cx| visit.poll_loaded(cx)).await;
            (visit, loaded)
        };
        let (attempted, fired) = self.attempt(Box::pin(loading), trouble, false).await?;
        if let (Some(session), true) = (brought, fired.is_some()) {
            // The store may have got the use, and the node may have got the records.
            let facts = &mut self.sessions[session];
            facts.used.1 = self.site.now();
            facts.end.read_by(node);
            let user = facts.user.map(|user| &mut self.users[user].values);
            facts.values.iter_mut().chain(user.into_iter().flatten()).for_each(|value| value.read_by(node));
        }
        let Attempted::Done((visit, loaded)) = attempted else { return Ok(()) };
        let Some(session) = loaded else {
            return ensure(fired.is_some(), || "a load fails without a fault".to_owned());
        };
        let mut handle = Handle { node, session, bound: Bound::Nothing, has_lifetime: false };
        let age = if has_waited { self.joined_age(node) } else { self.age(node) };
        self.look_at_handle(&mut handle, brought, age, fired.is_none())?;
        let rest = Rest { visit, jar, brought, keep, lost };
        for doing in ops {
            let ends = matches!(doing.0, Op::SignOut | Op::EndAll);
            if let Some((done, performing, gate)) = self.act(&mut handle, doing, true).await? {
                self.flight = Some(Flight { handle, done, performing, gate, rest });
                return Ok(());
            }
            if ends {
                break;
            }
        }
        self.end_visit(handle, rest).await
    }

    /// Sends the response to the browser.
    async fn end_visit(&mut self, handle: Handle, rest: Rest) -> Checked {
        let Rest { mut visit, jar, brought, keep, lost } = rest;
        visit.finish();
        let headers = self.drive_on(|cx| visit.poll_answer(cx)).await?;
        self.check_cookie(&handle, (jar, brought), &headers, lost).await?;
        if keep && let Some(place) = self.sockets.iter_mut().find(|socket| socket.is_none()) {
            *place = Some(Socket::open(handle));
        }
        Ok(())
    }

    /// Performs an operation, and judges the answer. Returns the operation if it is to go on during later steps.
    pub(crate) async fn act(
        &mut self,
        handle: &mut Handle,
        (op, trouble): Doing,
        can_leave: bool,
    ) -> Checked<Option<(Done, Attempt<Answer>, Gate)>> {
        if matches!(op, Op::Lifetime(_)) && !matches!(handle.bound, Bound::Live(_)) {
            return Ok(None);
        }
        let before: Value = op.slot().and_then(|slot: Slot| slot.get(&handle.session));
        self.serial += 1;
        let serial = self.serial * 1000;
        let performing = perform(handle.session.clone(), op, serial);
        self.is_ending_others = op == Op::EndOthers;
        let attempted = self.attempt(performing, trouble, can_leave).await;
        self.is_ending_others = false;
        let (attempted, fired) = attempted?;
        let mut done = Done { op, serial, before, fired, flown: None };
        let answer = match attempted {
            Attempted::Done(answer) => Some(answer),
            Attempted::Dropped => None,
            Attempted::Left(performing, gate) => {
                done.flown = Some(Flown { state: self.mark(handle, &done)?, ends: self.ends });
                return Ok(Some((done, performing, gate)));
            }
        };
        self.judge(handle, &done, answer)?;
        Ok(None)
    }

    /// Ends the operation that an earlier step has left.
    pub(crate) async fn land(&mut self, then: Then) -> Checked {
        let Some(mut flight) = self.flight.take() else { return Ok(()) };
        let answer = match self.follow_up(then, &flight.gate).await {
            false => None,
            true => Some(self.drive_on(|cx| flight.performing.as_mut().poll(cx)).await?),
        };
        self.landed(flight, answer).await
    }

    async fn landed(&mut self, mut flight: Flight, answer: Option<Answer>) -> Checked {
        let is_dropped = answer.is_none();
        self.places[flight.handle.node].landed = self.site.now();
        drop(flight.performing);
        flight.gate.open();
        self.judge(&mut flight.handle, &flight.done, answer)?;
        if is_dropped { Ok(()) } else { self.end_visit(flight.handle, flight.rest).await }
    }

    pub(crate) async fn job(&mut self, node: usize, user: usize, doing: Doing) -> Checked {
        let sessions = self.places[node].sessions.clone();
        let has_waited = self.waits(node);
        let loading = Box::pin(async move { sessions.for_principal(principal(user)).await });
        let (attempted, fired) = self.attempt(loading, None, false).await?;
        let session = match attempted {
            Attempted::Done(Ok(session)) => session,
            Attempted::Done(Err(error)) if fired.is_none() => {
                return Err(TestCaseError::fail(format!("a job's load fails: {error}")));
            }
            _ => return Ok(()),
        };
        let mut handle = Handle { node, session, bound: Bound::User(user), has_lifetime: false };
        let age = if has_waited { self.joined_age(node) } else { self.age(node) };
        self.look_at_values(&handle, age)?;
        self.act(&mut handle, doing, false).await.map(drop)
    }

    pub(crate) async fn end_all(&mut self, node: usize, user: usize, trouble: Option<Trouble>) -> Checked {
        let sessions = self.places[node].sessions.clone();
        // The call begins with a load of the user's record.
        self.users[user].values.iter_mut().for_each(|value| value.read_by(node));
        let ending = Box::pin(async move { sessions.end_all_sessions(principal(user)).await });
        let (attempted, fired) = self.attempt(ending, trouble, false).await?;
        match attempted {
            Attempted::Done(Ok(())) => self.revoke(node, user, None),
            Attempted::Done(Err(error)) if fired.is_none() => {
                return Err(TestCaseError::fail(format!("an end of all sessions fails: {error}")));
            }
            Attempted::Done(Err(_)) if fired == Some(Fault::Refuse) => {}
            _ => self.may_revoke(Some(node), user, None),
        }
        Ok(())
    }
}
