//! The world: two nodes over one store, browsers, sockets, followers and the program's steps.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use layered_session::{Clock, CloseReason, KeyRing, MemoryTier, Session, Sessions, SharedTier, tier::Store};
use proptest::test_runner::TestCaseError;

use super::{
    NODES,
    acts::Flight,
    faults::{Fault, Faulty, Script},
    reference::{Age, End, Register, SessionFacts, UserFacts, Value},
    values::{Op, USERS, declared, storeless},
};

pub(crate) const JARS: usize = 3;
pub(crate) const SOCKETS: usize = 2;

pub(crate) type Checked<T = ()> = Result<T, TestCaseError>;

/// Fails the case unless the condition holds.
pub(crate) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(TestCaseError::fail(message())) }
}

/// The surroundings of the nodes: the store and the time.
pub(crate) trait Site {
    type Store: Store;
    type Clock: Clock;

    /// The deadline of a call of the store.
    const DEADLINE: Duration;

    /// Whether a notice has arrived when its commit has ended.
    fn is_prompt(&self) -> bool;

    /// Whether calls of the store may fail without an order of the script.
    fn is_disturbed(&self) -> bool;

    /// A connection to the store.
    fn store(&self) -> Self::Store;

    /// The clock of a node; `None` for the right clock.
    fn clock(&self, node: Option<usize>) -> Self::Clock;

    /// Sets the wall clock of a node so many seconds before or behind the right time.
    fn set_clock(&mut self, node: usize, ahead: i64);

    /// The time since the beginning.
    fn now(&self) -> Duration;

    async fn pass(&mut self, span: Duration);

    /// Lets the least time pass.
    async fn idle(&mut self);
}

/// The next act of the test after the script has held a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Drops the operation.
    Drop,
    /// Opens the gate within the deadline of the call.
    Open,
    /// Lets the deadline of the call pass.
    Expire,
    /// Goes on with the program, and ends the operation in a later step.
    Leave,
}

/// A fault of one call, and what follows if the script holds the call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    /// The calls of the operation before this call.
    pub(crate) calls: usize,
    pub(crate) fault: Fault,
    pub(crate) then: Then,
}

pub(crate) type Doing = (Op, Option<Trouble>);

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A request whose handler performs operations. The handle may be kept, as by a socket.
    Visit {
        node: usize,
        jar: usize,
        load: Option<Trouble>,
        ops: Vec<Doing>,
        keep: bool,
        lost: bool,
    },
    /// An operation of a kept handle.
    Socket {
        which: usize,
        doing: Doing,
    },
    Close {
        which: usize,
    },
    /// A job writes a value of a user.
    Job {
        node: usize,
        user: usize,
        doing: Doing,
    },
    EndAll {
        node: usize,
        user: usize,
        trouble: Option<Trouble>,
    },
    /// Ends the operation that an earlier step has left, or drops it.
    Land(Then),
    Copy {
        from: usize,
        to: usize,
    },
    Restart {
        node: usize,
    },
    /// Starts or stops the follower of a node.
    Follow {
        node: usize,
        follows: bool,
    },
    /// Lets the application poll the follower, or forget to.
    Poll {
        node: usize,
        polls: bool,
    },
    /// Cuts the link of the notices, or mends the link.
    Cut {
        node: usize,
        cut: bool,
    },
    SetClock {
        node: usize,
        ahead: i64,
    },
    Pass(Duration),
    /// A new node looks at a browser's session and at the users.
    Look {
        jar: usize,
    },
}

pub(crate) struct Place {
    pub(crate) sessions: Sessions,
    follower: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    has_followed: bool,
    is_polled: bool,
    polled: Duration,
    is_cut: bool,
    /// The end of the last operation that other steps have passed.
    pub(crate) landed: Duration,
}

#[derive(Clone, Default)]
pub(crate) struct Jar {
    pub(crate) cookie: Option<String>,
    pub(crate) session: Option<usize>,
}

/// The session of a handle, as far as the handle knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Nothing,
    Live(usize),
    Over(usize),
    /// The handle of a job.
    User(usize),
}

pub(crate) struct Handle {
    pub(crate) node: usize,
    pub(crate) session: Session,
    pub(crate) bound: Bound,
    /// Whether the handle was given a lifetime for its next session.
    pub(crate) has_lifetime: bool,
}

pub(crate) struct Socket {
    pub(crate) handle: Handle,
    pub(crate) closing: Pin<Box<dyn Future<Output = CloseReason> + Send>>,
    pub(crate) closed: Option<CloseReason>,
}

impl Socket {
    pub(crate) fn open(handle: Handle) -> Self {
        let session = handle.session.clone();
        Self { handle, closing: Box::pin(async move { session.closed().await }), closed: None }
    }
}

pub(crate) struct World<S: Site> {
    pub(crate) site: S,
    pub(crate) ring: KeyRing,
    pub(crate) script: Script,
    pub(crate) places: Vec<Place>,
    pub(crate) jars: [Jar; JARS],
    pub(crate) sockets: [Option<Socket>; SOCKETS],
    pub(crate) flight: Option<Flight>,
    pub(crate) sessions: Vec<SessionFacts>,
    pub(crate) users: [UserFacts; USERS],
    pub(crate) ids: HashMap<String, usize>,
    pub(crate) storeless: Sessions,
    pub(crate) serial: u64,
    /// Whether a call of `end_other_sessions` is under way in this step.
    pub(crate) is_ending_others: bool,
    /// The ends of sessions, apart from renewals and sign-ins.
    pub(crate) ends: usize,
}

impl<S: Site> World<S> {
    pub(crate) fn new(site: S) -> Self {
        let ring = KeyRing::generate().expect("the system has randomness");
        let storeless = storeless(&ring, site.clock(None));
        let mut world = Self {
            site,
            ring,
            script: Script::default(),
            places: Vec::new(),
            jars: Default::default(),
            sockets: Default::default(),
            flight: None,
            sessions: Vec::new(),
            users: Default::default(),
            ids: HashMap::new(),
            storeless,
            serial: 0,
            is_ending_others: false,
            ends: 0,
        };
        world.places = (0..NODES).map(|node| world.place(node)).collect();
        world
    }

    fn place(&self, node: usize) -> Place {
        Place {
            sessions: self.node(Some(node)),
            follower: None,
            has_followed: false,
            is_polled: false,
            polled: Duration::ZERO,
            is_cut: false,
            landed: Duration::ZERO,
        }
    }

    /// A node with an empty memory; `None` for a node with the right time.
    pub(crate) fn node(&self, node: Option<usize>) -> Sessions {
        let chain = Sessions::builder().tier(MemoryTier::builder().build()).clock(self.site.clock(node));
        let chain = declared(chain, &self.ring);
        let (store, script) = (self.site.store(), self.script.clone());
        let chain = match node {
            Some(node) => chain.tier(SharedTier::new(Faulty { store, script, node }).deadline(S::DEADLINE)),
            None => chain.tier(SharedTier::new(store).deadline(S::DEADLINE)),
        };
        chain.build().expect("a chain of memory, a cookie and a store")
    }

    /// The age of the facts that a load on a node may see.
    pub(crate) fn age(&self, node: usize) -> Age {
        let (place, now) = (&self.places[node], self.site.now());
        let follows = place.follower.is_some() && place.is_polled;
        let waits = self.waits(node);
        if self.site.is_prompt() && follows && !place.is_cut && !waits {
            return Age::Fresh;
        }
        // A second more than the guarantee: steps take some milliseconds.
        let seconds = match self.site.is_prompt() && place.has_followed && !waits {
            true if follows || place.follower.is_none() || now > place.polled + Duration::from_secs(6) => 2,
            _ => 31,
        };
        let since = now.saturating_sub(Duration::from_secs(seconds));
        if waits { Age::Joined(since) } else { Age::Since(since) }
    }

    /// The age of the facts that a load may see if an operation of the node waits. A node gets no notices of its own
    /// writes, and a write that still waits makes no record stale.
    pub(crate) fn joined_age(&self, node: usize) -> Age {
        match self.age(node) {
            Age::Since(_) | Age::Fresh => Age::Joined(self.site.now().saturating_sub(Duration::from_secs(31))),
            age => age,
        }
    }

    /// Whether an operation of the node waits.
    pub(crate) fn waits(&self, node: usize) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.handle.node == node)
    }

    pub(crate) async fn step(&mut self, step: Step) -> Checked {
        self.site.pass(Duration::from_millis(1)).await;
        match step {
            Step::Visit { node, jar, load, ops, keep, lost } => self.visit(node, jar, load, ops, [keep, lost]).await?,
            Step::Socket { which, doing } => {
                if let Some(mut socket) = self.sockets[which].take() {
                    self.look_at_resumed(&mut socket)?;
                    // The response head has left, so the handle can't bring another cookie.
                    if !doing.0.moves() {
                        let before = socket.handle.bound;
                        self.act(&mut socket.handle, doing, false).await?;
                        if matches!(socket.handle.bound, Bound::Live(_)) && socket.handle.bound != before {
                            // The handle has begun another session.
                            socket = Socket::open(socket.handle);
                        }
                    }
                    self.sockets[which] = Some(socket);
                }
            }
            Step::Close { which } => self.sockets[which] = None,
            Step::Job { node, user, doing } => self.job(node, user, doing).await?,
            Step::EndAll { node, user, trouble } => self.end_all(node, user, trouble).await?,
            Step::Land(then) => self.land(then).await?,
            Step::Copy { from, to } => self.jars[to] = self.jars[from].clone(),
            Step::Restart { node } => self.restart(node).await?,
            Step::Follow { node, follows } => {
                let follower = follows.then(|| self.places[node].sessions.follow());
                let place = &mut self.places[node];
                place.follower = follower.map(|follower| Box::pin(follower) as Pin<Box<_>>);
                (place.is_polled, place.has_followed) = (true, place.has_followed || follows);
            }
            Step::Poll { node, polls } => self.places[node].is_polled = polls,
            Step::Cut { node, cut } => {
                self.script.cut(node, cut);
                self.places[node].is_cut = cut;
            }
            Step::SetClock { node, ahead } => self.site.set_clock(node, ahead),
            Step::Pass(span) => {
                if span > Duration::from_millis(200) {
                    self.land(Then::Expire).await?;
                }
                self.site.pass(span).await;
            }
            Step::Look { jar } => {
                self.look_at_session(jar).await?;
                for user in 0..USERS {
                    self.look_at_user(user).await?;
                }
            }
        }
        self.poll_followers().await;
        self.check_sockets()
    }

    /// Ends the operation under way, and looks at everything.
    pub(crate) async fn finish(&mut self) -> Checked {
        self.land(Then::Open).await?;
        for jar in 0..JARS {
            self.step(Step::Look { jar }).await?;
        }
        for (node, jar) in (0..NODES).flat_map(|node| (0..JARS).map(move |jar| (node, jar))) {
            self.step(Step::Visit { node, jar, load: None, ops: Vec::new(), keep: false, lost: false }).await?;
        }
        Ok(())
    }

    async fn poll_followers(&mut self) {
        for node in 0..NODES {
            if self.places[node].follower.is_some() && self.places[node].is_polled {
                self.ends().for_each(|end| end.may_be_read_by(node));
                self.values().for_each(|value| value.may_be_read_by(node));
            }
            for _ in 0..6 {
                let now = self.site.now();
                let place = &mut self.places[node];
                if let Some(follower) = place.follower.as_mut().filter(|_| place.is_polled) {
                    place.polled = now;
                    let _ = poll_fn(|cx| Poll::Ready(follower.as_mut().poll(cx))).await;
                }
            }
        }
    }

    async fn restart(&mut self, node: usize) -> Checked {
        if self.flight.as_ref().is_some_and(|flight| flight.handle.node == node) {
            self.land(Then::Drop).await?;
        }
        self.sockets.iter_mut().for_each(|socket| drop(socket.take_if(|socket| socket.handle.node == node)));
        self.places[node] = self.place(node);
        self.script.cut(node, false);
        self.ends().for_each(|end| end.asks(node));
        self.values().for_each(|value| value.asks(node));
        Ok(())
    }

    fn ends(&mut self) -> impl Iterator<Item = &mut Register<End>> {
        self.sessions.iter_mut().map(|session| &mut session.end)
    }

    fn values(&mut self) -> impl Iterator<Item = &mut Register<Value>> {
        let of_sessions = self.sessions.iter_mut().flat_map(|session| &mut session.values);
        of_sessions.chain(self.users.iter_mut().flat_map(|user| &mut user.values))
    }
}
