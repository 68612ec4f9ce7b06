//! Random programs of browsers, sockets and time against a plain [`model`] of one node. In every order of the steps,
//! each read returns the model's answer, no ended session answers, and each lost record is counted as lost.
//!
//! `ONE_NODE_CASES=20000 cargo test --release --all-features --test it one_node::` runs more programs.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    time::Duration,
};

use futures_util::FutureExt;
use layered_session::{
    Clock, CloseReason, Lifetime, Session, Sessions, Stats, Watch, WriteError, WriteErrorKind, testing::ManualClock,
};
use proptest::{prelude::*, test_runner::TestCaseError};

use self::model::{Bind, Handle, Op, Refusal, Token};
use crate::support::{
    BoxFuture, Browser, Node, Theme, Visits, chain, cookie, max_age, memory_of, ring, set_cookies, under_way,
};

mod model;

const JARS: usize = 4;
const SOCKETS: usize = 3;
/// The upper bound of a record's bytes in these tests.
const RECORD: usize = 700;

const IDLE: Duration = Duration::from_secs(3600);
const ABSOLUTE: Duration = Duration::from_secs(6 * 3600);

/// Lifetimes shorter and longer than the default.
const LIFETIMES: [(u64, u64); 3] = [(600, 2 * 3600), (2 * 3600, 12 * 3600), (3600, 3600)];

/// The errors of the clocks, in seconds. Two clocks differ by at most the allowed skew.
const OFF: &[i64] = &[-1800, -600, -1, 0, 1, 600, 1800];

#[derive(Clone, Debug)]
enum Step {
    /// A request with these cookies, whose handler performs these operations. The handle may be kept, as by a socket.
    Visit {
        node: usize,
        jar: usize,
        ops: Vec<Op>,
        keep: bool,
        /// Whether the response is lost on the way.
        lost: bool,
    },
    /// A request whose response never leaves. The test keeps the handle, which can renew the session.
    Begin {
        node: usize,
        jar: usize,
    },
    /// An operation of a kept handle.
    Socket {
        which: usize,
        op: Op,
    },
    Close {
        which: usize,
    },
    /// An older cookie comes back later, or in another browser.
    Copy {
        from: usize,
        to: usize,
    },
    Advance(Duration),
    /// A node's clock is set to so many seconds from the right time.
    SetClock {
        node: usize,
        off: i64,
    },
    /// A run of the sweeper, if the node has a sweeper.
    Sweep,
    Restart {
        node: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let value = 0..2usize;
    prop_oneof![
        4 => (value.clone(), 0..1000u64).prop_map(|(value, to)| Op::Set(value, to)),
        4 => value.clone().prop_map(Op::Read),
        3 => Just(Op::Update),
        3 => value.prop_map(Op::Remove),
        1 => Just(Op::Clear),
        1 => Just(Op::Touch),
        2 => Just(Op::Renew),
        1 => Just(Op::Destroy),
        1 => Just(Op::Panic),
        1 => (0..LIFETIMES.len()).prop_map(|which| Op::SetLifetime(LIFETIMES[which].0, LIFETIMES[which].1)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let second = Duration::from_secs(1);
    let spans = vec![second / 1000, second, 61 * second, IDLE / 3, IDLE - second / 1000, IDLE, 2 * IDLE, ABSOLUTE];
    prop_oneof![
        12 => (0..2usize, 0..JARS, proptest::collection::vec(op(), 0..4), prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(node, jar, ops, keep, lost)| Step::Visit { node, jar, ops, keep, lost }),
        2 => (0..2usize, 0..JARS).prop_map(|(node, jar)| Step::Begin { node, jar }),
        6 => (0..SOCKETS, op()).prop_map(|(which, op)| Step::Socket { which, op }),
        1 => (0..SOCKETS).prop_map(|which| Step::Close { which }),
        2 => (0..JARS, 0..JARS).prop_map(|(from, to)| Step::Copy { from, to }),
        5 => proptest::sample::select(spans).prop_map(Step::Advance),
        2 => (0..2usize, proptest::sample::select(OFF)).prop_map(|(node, off)| Step::SetClock { node, off }),
        1 => Just(Step::Sweep),
        1 => (0..2usize).prop_map(|node| Step::Restart { node }),
    ]
}

#[derive(Clone, Debug)]
struct Plan {
    nodes: usize,
    max_bytes: usize,
    sweeps: bool,
    steps: Vec<Step>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let bound = prop_oneof![Just(600), Just(1500), Just(3000), Just(256 << 20)];
    (1..3usize, bound, any::<bool>(), proptest::collection::vec(step(), 1..60))
        .prop_map(|(nodes, max_bytes, sweeps, steps)| Plan { nodes, max_bytes, sweeps, steps })
}

/// An open socket, or a request under way: the handle, and the values and the end told to the handle.
struct Socket {
    node: usize,
    handle: Handle,
    session: Session,
    watch: Watch<Visits>,
    told: Option<u64>,
    closed: Pin<Box<dyn Future<Output = CloseReason>>>,
    reason: Option<CloseReason>,
}

impl Socket {
    fn open(node: usize, session: Session, handle: Handle, model: &mut model::Node, now: u64) -> Self {
        // The creation of either future counts as a use of the session.
        let (watch, closed) = (session.watch(), Box::pin(session.closed()));
        model.touch(&handle.bind, now);
        Self { node, handle, session, watch, told: None, closed, reason: None }
    }
}

struct World {
    clocks: Vec<ManualClock>,
    /// The error of each node's clock, in seconds.
    off: Vec<i64>,
    /// The time since each clock was set forward.
    forward: Vec<Duration>,
    build: Box<dyn Fn(&ManualClock) -> Sessions>,
    nodes: Vec<(Node, model::Node)>,
    sweepers: Vec<Option<BoxFuture<()>>>,
    jars: Vec<(Browser, Option<Token>)>,
    sockets: [Option<Socket>; SOCKETS],
    ids: model::Ids,
    plan: Plan,
}

impl World {
    fn new(plan: Plan) -> Self {
        let (ring, max_bytes) = (ring(), plan.max_bytes);
        let build = move |clock: &ManualClock| {
            let sessions = chain(memory_of(max_bytes), cookie(&ring), clock)
                .value::<Theme>()
                .value::<Visits>()
                .idle(IDLE)
                .absolute(ABSOLUTE);
            sessions.build().unwrap()
        };
        let mut world = Self {
            clocks: (0..plan.nodes).map(|_| ManualClock::new()).collect(),
            off: vec![0; plan.nodes],
            forward: vec![Duration::MAX; plan.nodes],
            build: Box::new(build),
            nodes: Vec::new(),
            sweepers: Vec::new(),
            jars: vec![(Browser::new(), None); JARS],
            sockets: [const { None }; SOCKETS],
            ids: model::Ids::default(),
            plan,
        };
        for at in 0..world.plan.nodes {
            let (node, sweeper) = world.node(at);
            world.nodes.push((node, model::Node::default()));
            world.sweepers.push(sweeper);
        }
        world
    }

    fn node(&self, at: usize) -> (Node, Option<BoxFuture<()>>) {
        let sessions = (self.build)(&self.clocks[at]);
        let sweeper = self.plan.sweeps.then(|| Box::pin(sessions.sweeper()) as BoxFuture<()>);
        (Node::new(sessions), sweeper)
    }

    /// The time on a node's wall clock.
    fn wall(&self, node: usize) -> u64 {
        let since = self.clocks[node].now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(since.as_millis()).unwrap()
    }

    /// The node time, which a step back of the clock does not move.
    fn now(&self, node: usize) -> u64 {
        self.wall(node) + self.nodes[node].1.lead
    }

    fn set_clock(&mut self, node: usize, off: i64) {
        let (clock, from) = (&self.clocks[node], self.wall(node));
        let right = clock.now() - Duration::from_secs(2000) + Duration::from_secs((2000 - self.off[node]) as u64);
        clock.set(right - Duration::from_secs(2000) + Duration::from_secs((2000 + off) as u64));
        self.off[node] = off;
        let to = self.wall(node);
        self.nodes[node].1.set_clock(from, to);
        if to > from {
            self.forward[node] = Duration::ZERO;
        }
        // A node notices a step when the node reads the clock.
        let look = Browser::new().visit(&self.nodes[node].0, async |session| session.is_new()).now_or_never();
        assert_eq!(look, Some(true));
    }

    fn sweep(&mut self) {
        for sweeper in self.sweepers.iter_mut().flatten() {
            // Each batch of the sweeper's work takes a turn of the runtime.
            for _ in 0..4 {
                assert!(sweeper.as_mut().now_or_never().is_none(), "the sweeper goes on");
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Visit { node, jar, ops, keep, lost } => {
                let before = self.jars[jar].clone();
                self.visit(node % self.nodes.len(), jar, ops, keep)?;
                if lost {
                    self.jars[jar] = before;
                }
            }
            Step::Begin { node, jar } => self.begin(node % self.nodes.len(), jar)?,
            Step::Socket { which, op } => {
                let Some(node) = self.sockets[which].as_ref().map(|socket| socket.node) else { return Ok(()) };
                let now = self.now(node);
                if let Some(socket) = &mut self.sockets[which] {
                    let expected = self.nodes[socket.node].1.apply(&op, &mut socket.handle, &mut self.ids, now);
                    let came = perform(&socket.session, &op).now_or_never().expect("nothing to wait for");
                    prop_assert_eq!(came, expected, "{:?} on a socket", op);
                }
            }
            Step::Close { which } => self.sockets[which] = None,
            Step::Copy { from, to } => self.jars[to] = self.jars[from].clone(),
            Step::Advance(span) => {
                self.clocks.iter().for_each(|clock| clock.advance(span));
                self.forward.iter_mut().for_each(|ago| *ago = ago.saturating_add(span));
            }
            Step::SetClock { node, off } => self.set_clock(node % self.nodes.len(), off),
            Step::Sweep => self.sweep(),
            Step::Restart { node } => {
                let node = node % self.nodes.len();
                self.sockets
                    .iter_mut()
                    .filter(|socket| socket.as_ref().is_some_and(|it| it.node == node))
                    .for_each(|socket| *socket = None);
                let (fresh, sweeper) = self.node(node);
                self.nodes[node] = (fresh, model::Node::default());
                self.sweepers[node] = sweeper;
            }
        }
        self.check_sockets()?;
        self.check_stats()
    }

    /// Sends a request. Checks the record, the handler's answers and the browser's new cookie.
    fn visit(&mut self, at: usize, jar: usize, ops: Vec<Op>, keep: bool) -> Result<(), TestCaseError> {
        let now = self.now(at);
        if self.is_unclear(at, jar) {
            return Ok(());
        }
        let (node, _) = &self.nodes[at];
        let (browser, brought) = &mut self.jars[jar];
        let before = node.sessions.stats();
        let doing = ops.clone();
        let handler = async move |session: Session| {
            let mut came = Vec::new();
            for op in &doing {
                came.push(perform(&session, op).await);
            }
            (came, session)
        };
        let visit = browser.visit_seen(node, handler).now_or_never();
        let (headers, (came, session)) = visit.expect("nothing to wait for");
        let brought = brought.clone();
        let (mut handle, told) = self.arrive(at, brought.as_ref(), &before)?;
        let model = &mut self.nodes[at].1;
        let opened = brought.clone().filter(|token| handle.brought.is_some() || model.opens(token, now));
        // A sign-out removes the cookie if the browser holds a cookie of this application.
        let holds = brought.as_ref().is_some_and(|token| handle.brought.is_some() || model.proves_id(token, now));
        let mut destroyed = false;
        for (op, came) in ops.iter().zip(&came) {
            let lived = model.lives(&handle.bind, now);
            let expected = model.apply(op, &mut handle, &mut self.ids, now);
            prop_assert_eq!(came, &expected, "{:?} in a request", op);
            destroyed |= matches!(op, Op::Destroy) && lived;
        }
        let set = set_cookies(&headers);
        prop_assert!(set.len() <= 1);
        let carried = model.seal(&handle.bind, now);
        self.learn(at, brought.as_ref(), told)?;
        let token = &mut self.jars[jar].1;
        match (set.first().map(|cookie| max_age(cookie) == Some(0)), carried) {
            (Some(true), carried) => {
                let due = destroyed && holds && carried.is_none();
                prop_assert!(due, "a cookie removed: {:?}, of a session of which there is {:?}", set, carried);
                *token = None;
            }
            (Some(false), Some(mut carried)) => {
                self.ids.note(&mut carried);
                self.nodes[at].1.give(&carried);
                *token = Some(carried);
            }
            (Some(false), None) => prop_assert!(false, "a cookie of no session: {:?}", set),
            (None, Some(carried)) if !ops.is_empty() => {
                let brought = opened.expect("the browser of a living session has a cookie");
                let current = self.nodes[at].1.is_current(&carried, &brought);
                prop_assert!(current, "{:?} lacks something of {:?}", brought, carried);
            }
            (None, _) => prop_assert!(!(destroyed && holds), "a cookie of a session that ended here"),
        }
        if keep && let Some(place) = self.sockets.iter_mut().find(|socket| socket.is_none()) {
            handle.sent = true;
            *place = Some(Socket::open(at, session, handle, &mut self.nodes[at].1, now));
        }
        Ok(())
    }

    /// Sends a request whose response never leaves.
    fn begin(&mut self, at: usize, jar: usize) -> Result<(), TestCaseError> {
        let Some(place) = self.sockets.iter().position(Option::is_none).filter(|_| !self.is_unclear(at, jar)) else {
            return Ok(());
        };
        let (node, _) = &self.nodes[at];
        let (browser, token) = &self.jars[jar];
        let before = node.sessions.stats();
        let session = under_way(browser, node).now_or_never().expect("nothing to wait for");
        let token = token.clone();
        let (handle, told) = self.arrive(at, token.as_ref(), &before)?;
        self.learn(at, token.as_ref(), told)?;
        let now = self.now(at);
        self.sockets[place] = Some(Socket::open(at, session, handle, &mut self.nodes[at].1, now));
        Ok(())
    }

    fn is_unclear(&self, at: usize, jar: usize) -> bool {
        let (model, now) = (&self.nodes[at].1, self.now(at));
        self.jars[jar].1.as_ref().is_some_and(|token| model.is_unclear(token, now))
    }

    /// Begins a request. Returns the handle, and the ended id in the cookie if the node looked the id up.
    fn arrive(
        &mut self,
        at: usize,
        token: Option<&Token>,
        before: &Stats,
    ) -> Result<(Handle, Option<(usize, bool)>), TestCaseError> {
        let (now, (node, model)) = (self.now(at), &mut self.nodes[at]);
        let after = node.sessions.stats();
        let looked = (after.hits - before.hits, after.misses - before.misses);
        prop_assert_eq!(looked.0 + looked.1, u64::from(token.is_some()), "one look per cookie");
        let Some(token) = token else { return Ok((Handle::default(), None)) };
        if looked.1 == 1 {
            forget_end(&mut self.sockets, at, model, token.id(), now);
        }
        let held = |id| holds(&self.sockets, at, id);
        let handle = model.arrive(token, looked.0 == 1, held, &self.ids, now).map_err(TestCaseError::fail)?;
        Ok((handle, model.told_by(token, now).map(|predecessor| (predecessor, looked.0 == 1))))
    }

    /// Ends the predecessor in a cookie on this node. All other created records are counted.
    fn learn(&mut self, at: usize, token: Option<&Token>, told: Option<(usize, bool)>) -> Result<(), TestCaseError> {
        let (Some(token), Some((predecessor, hit))) = (token, told) else { return Ok(()) };
        let (now, (node, model)) = (self.now(at), &mut self.nodes[at]);
        let is_made = made(&node.sessions.stats()) > model.made;
        if is_made {
            forget_end(&mut self.sockets, at, model, predecessor, now);
        }
        let (held, told) = (|id| holds(&self.sockets, at, id), (predecessor, hit, is_made));
        model.end_predecessor(token, told, held, &self.ids, now).map_err(TestCaseError::fail)
    }

    /// Asserts the value and the end told to each socket. The check does not count as a use of a session.
    fn check_sockets(&mut self) -> Result<(), TestCaseError> {
        let now: Vec<_> = (0..self.nodes.len()).map(|node| self.now(node)).collect();
        for socket in self.sockets.iter_mut().flatten() {
            let now = now[socket.node];
            let model = &mut self.nodes[socket.node].1;
            // The socket saw the end of the handle's session. Since then the handle has begun another session, or a
            // cookie has told this node of a use on another node.
            if socket.reason.is_some() && model.closed(&socket.handle.bind, now).is_none() {
                let (session, handle) = (socket.session.clone(), socket.handle.clone());
                *socket = Socket::open(socket.node, session, handle, model, now);
            }
            while let Some(Some(Visits(told))) = socket.watch.next().now_or_never() {
                socket.told = Some(told);
            }
            let closed = model.closed(&socket.handle.bind, now);
            // A handle sees one end only. The session may go on elsewhere, and end for another reason.
            if socket.reason.is_none() {
                socket.reason = socket.closed.as_mut().now_or_never();
                // A sleeping watcher notices within an hour a clock that was set forward. A new read notices at once.
                if socket.reason.is_none() && closed.is_some() && self.forward[socket.node] < Duration::from_secs(3600)
                {
                    socket.closed = Box::pin(socket.session.closed());
                    socket.reason = socket.closed.as_mut().now_or_never();
                }
                prop_assert_eq!(socket.reason.map(Refusal::from), closed);
            }
            if closed.is_none() {
                prop_assert_eq!(socket.told, Some(model.value(&socket.handle.bind, 1, now).unwrap_or_default()));
            }
            let ends = socket.session.expires_at();
            let ends = ends.map(|ends| ends.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis());
            prop_assert_eq!(ends, model.ends(&socket.handle.bind, now).map(|ends| u128::from(ends - model.lead)));
        }
        Ok(())
    }

    fn check_stats(&self) -> Result<(), TestCaseError> {
        for (node, model) in &self.nodes {
            let stats = node.sessions.stats();
            let evicted = evicted(&stats);
            prop_assert_eq!(made(&stats), model.made, "what was made is here or was counted: {:?}", stats);
            prop_assert_eq!(stats.bytes > 0, stats.records > 0, "{:?}", stats);
            let bound = self.plan.max_bytes + (2 * SOCKETS + 1) * RECORD;
            prop_assert!(stats.bytes <= bound, "{:?}", stats);
            let missed = &model.missed;
            prop_assert!(
                missed.all <= evicted && missed.revocations <= stats.revocations_lost,
                "{:?} {:?}",
                missed,
                stats
            );
            prop_assert!(missed.unsaved <= stats.evicted_dirty, "{:?} {:?}", missed, stats);
        }
        Ok(())
    }
}

const fn evicted(stats: &Stats) -> u64 {
    stats.evicted_clean + stats.evicted_dirty + stats.revocations_lost
}

/// The number of created records.
const fn made(stats: &Stats) -> u64 {
    stats.records as u64 + stats.expired + evicted(stats)
}

fn holds(sockets: &[Option<Socket>], node: usize, id: usize) -> bool {
    sockets.iter().flatten().any(|socket| socket.node == node && socket.handle.bind == Bind::Live(id))
}

/// Notes that memory has forgotten an expired tombstone. A socket of the session keeps the reason of the end.
fn forget_end(sockets: &mut [Option<Socket>], node: usize, model: &model::Node, id: usize, now: u64) {
    let Some(reason) = model.expired_end(id, now) else { return };
    let of_session = |socket: &&mut Socket| socket.node == node && socket.handle.bind == Bind::Live(id);
    sockets.iter_mut().flatten().filter(of_session).for_each(|socket| socket.handle.bind = Bind::Over(reason));
}

/// Performs an operation of the model on a session. Returns the outcome in the model's words.
async fn perform(session: &Session, op: &Op) -> Result<Option<u64>, Refusal> {
    let done = |done: Result<(), WriteError>| done.map(|()| None).map_err(|error| refusal(session, &error));
    match *op {
        Op::Read(0) => Ok(session.get::<Theme>().map(|Theme(value)| value.parse().unwrap())),
        Op::Read(_) => Ok(session.get::<Visits>().map(|Visits(value)| value)),
        Op::Set(0, value) => done(session.set(Theme(value.to_string())).await),
        Op::Set(_, value) => done(session.set(Visits(value)).await),
        Op::Update => {
            let updated = session.update(|visits: &mut Visits| visits.0 += 1).await;
            updated.map(|Visits(value)| Some(value)).map_err(|error| refusal(session, &error))
        }
        Op::Remove(0) => done(session.remove::<Theme>().await),
        Op::Remove(_) => done(session.remove::<Visits>().await),
        Op::Clear => done(session.clear().await),
        Op::Touch => done(session.touch().await),
        Op::Renew => done(session.renew().await),
        Op::Destroy => done(session.destroy().await),
        Op::Panic => {
            let panicking = session.update(|_: &mut Visits| resume_unwind(Box::new("told to")));
            assert!(AssertUnwindSafe(panicking).catch_unwind().await.is_err(), "the closure runs in any case");
            Err(Refusal::Panicked)
        }
        Op::SetLifetime(idle, absolute) => {
            let lifetime = Lifetime::new(Duration::from_secs(idle), Duration::from_secs(absolute)).unwrap();
            done(session.set_lifetime(lifetime).await)
        }
    }
}

fn refusal(session: &Session, error: &WriteError) -> Refusal {
    match error.kind() {
        WriteErrorKind::Invalid => Refusal::Invalid,
        WriteErrorKind::HeadSent => Refusal::HeadSent,
        // A question to an ended session does not count as a use, so the test can ask for the reason.
        WriteErrorKind::Closed => session.closed().now_or_never().map_or(Refusal::Invalid, Refusal::from),
        kind => panic!("{kind:?}: {error}"),
    }
}

#[test]
fn memory_matches_the_model() {
    let cases = std::env::var("ONE_NODE_CASES").map_or(1200, |cases| cases.parse().expect("a number"));
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 4000, ..ProptestConfig::default() };
    proptest!(config, |(plan in plan())| {
        let mut world = World::new(plan.clone());
        for step in plan.steps {
            world.step(step)?;
        }
    });
}
