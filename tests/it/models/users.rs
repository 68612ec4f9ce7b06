//! Random programs of sign-ins and sign-outs against a plain [`model`] of users. Several users act in browsers, on
//! sockets and in jobs, on several nodes and under either resolution, and each read returns the model's answer.
//!
//! `USERS_CASES=20000 cargo test --release --all-features --test it models::users::` runs more programs.

use std::{
    cell::Cell,
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::Pin,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use layered_session::{
    Clock, CloseReason, KeyRing, Principal, RelayToken, Resolution, Session, SessionWriteback, Watch, WriteError,
    WriteErrorKind, testing::ManualClock,
};
use proptest::{prelude::*, test_runner::TestCaseError};

use self::{
    model::{Handle, Of, Op, Refusal, Token, USERS},
    orders::Given,
};
use crate::support::{
    App, Browser, DAY, Division, Node, User, Visits, chain, cookie, max_age, memory, ring, set_cookies, under_way,
};

mod known_tokens;
mod model;
mod orders;

const JARS: usize = 3;
const SOCKETS: usize = 3;
const NODES: usize = 2;
/// The number of tokens in the hands of pages.
const TOKENS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// A request whose handler performs this operation. The handle may be kept, as by a socket.
    Visit {
        node: usize,
        jar: usize,
        ops: Vec<Op>,
        keep: bool,
        /// Whether the response is lost on the way.
        lost: bool,
        /// Whether clones of the handle perform the operation at the same time.
        at_once: bool,
    },
    /// A request whose response never leaves. The test keeps the handle, which can renew the session and sign in.
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
    /// A request during which `identify_by` panics.
    Panic {
        node: usize,
        jar: usize,
    },
    /// A socket gives the page an order of a sign-in or a renewal.
    Order {
        which: usize,
        user: Option<usize>,
        adopt: bool,
        place: usize,
    },
    /// A socket gives the page the removal of the sessions that the handle has ended.
    Removal {
        which: usize,
        place: usize,
    },
    /// A page brings a token, to any node and with any cookie.
    Bring {
        node: usize,
        jar: usize,
        place: usize,
        lost: bool,
    },
    /// An older cookie comes back later, or in another browser.
    Copy {
        from: usize,
        to: usize,
    },
    /// A job writes the user's value outside of any session.
    Job {
        node: usize,
        user: usize,
        op: Op,
    },
    EndAll {
        node: usize,
        user: usize,
    },
    Restart {
        node: usize,
    },
    /// The clock of a lone node is set back by so many seconds, in addition to all earlier settings.
    SetClock(u64),
    /// A pause until an ended id counts as unknown.
    Wait,
}

fn of() -> impl Strategy<Value = Of> {
    prop_oneof![1 => Just(Of::Session), 2 => Just(Of::User)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => of().prop_map(Op::Read),
        4 => (of(), 0..6i64).prop_map(|(of, value)| Op::Set(of, value)),
        2 => of().prop_map(Op::Update),
        2 => of().prop_map(Op::Remove),
        1 => Just(Op::Clear),
        4 => (0..USERS, any::<bool>()).prop_map(|(user, adopt)| Op::SignIn { user, adopt }),
        1 => Just(Op::SignOut),
        1 => Just(Op::Renew),
        1 => Just(Op::Panic),
    ]
}

fn job() -> impl Strategy<Value = Op> {
    prop_oneof![(0..6i64).prop_map(|to| Op::Set(Of::User, to)), Just(Op::Update(Of::User)), Just(Op::Remove(Of::User))]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..NODES, 0..JARS, proptest::collection::vec(op(), 0..4), prop::bool::weighted(0.25), lost(), any::<bool>())
            .prop_map(|(node, jar, ops, keep, lost, at_once)| Step::Visit { node, jar, ops, keep, lost, at_once }),
        2 => (0..NODES, 0..JARS).prop_map(|(node, jar)| Step::Begin { node, jar }),
        6 => (0..SOCKETS, op()).prop_map(|(which, op)| Step::Socket { which, op }),
        1 => (0..SOCKETS).prop_map(|which| Step::Close { which }),
        2 => (0..NODES, 0..JARS).prop_map(|(node, jar)| Step::Panic { node, jar }),
        3 => (0..SOCKETS, proptest::option::weighted(0.7, 0..USERS), any::<bool>(), 0..TOKENS)
            .prop_map(|(which, user, adopt, place)| Step::Order { which, user, adopt, place }),
        1 => (0..SOCKETS, 0..TOKENS).prop_map(|(which, place)| Step::Removal { which, place }),
        5 => (0..NODES, 0..JARS, 0..TOKENS, lost())
            .prop_map(|(node, jar, place, lost)| Step::Bring { node, jar, place, lost }),
        2 => (0..JARS, 0..JARS).prop_map(|(from, to)| Step::Copy { from, to }),
        2 => (0..NODES, 0..USERS, job()).prop_map(|(node, user, op)| Step::Job { node, user, op }),
        1 => (0..NODES, 0..USERS).prop_map(|(node, user)| Step::EndAll { node, user }),
        1 => (0..NODES).prop_map(|node| Step::Restart { node }),
        1 => proptest::sample::select(vec![0, 1, 60, 1800, 3600]).prop_map(Step::SetClock),
        1 => Just(Step::Wait),
    ]
}

fn lost() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.1)
}

/// An open socket, or a request under way: the handle, the last value told to the handle, and the end, if the handle
/// was told of an end.
struct Socket {
    node: usize,
    handle: Handle,
    session: Session,
    visits: Watch<Visits>,
    division: Watch<Division>,
    told: [Option<i64>; 2],
    closing: Pin<Box<dyn Future<Output = CloseReason>>>,
    closed: Option<CloseReason>,
}

impl Socket {
    fn open(node: usize, session: Session, handle: Handle) -> Self {
        let (visits, division, closing) = (session.watch(), session.watch(), Box::pin(session.closed()));
        Self { node, handle, session, visits, division, told: [None; 2], closing, closed: None }
    }

    fn listen(&mut self) {
        while let Some(Some(Visits(told))) = self.visits.next().now_or_never() {
            self.told[0] = Some(told as i64);
        }
        while let Some(Some(Division(told))) = self.division.next().now_or_never() {
            self.told[1] = Some(told);
        }
        if self.closed.is_none() {
            self.closed = self.closing.as_mut().now_or_never();
        }
    }
}

struct World {
    ring: KeyRing,
    clock: ManualClock,
    first_hit: bool,
    nodes: Vec<(Node, model::Node)>,
    jars: Vec<(Browser, Option<Token>)>,
    sockets: [Option<Socket>; SOCKETS],
    tokens: [Option<(RelayToken, Given)>; TOKENS],
    time: model::Time,
    /// The seconds by which the clock is behind.
    behind: u64,
    /// Whether the clock was set.
    stepped: bool,
    restarted: bool,
}

impl World {
    fn new(first_hit: bool, nodes: usize) -> Self {
        let (jars, sockets) = (vec![(Browser::new(), None); JARS], [const { None }; SOCKETS]);
        let (clock, time) = (ManualClock::new(), model::Time::default());
        let mut world = Self {
            ring: ring(),
            clock,
            first_hit,
            nodes: Vec::new(),
            jars,
            sockets,
            tokens: [const { None }; TOKENS],
            time,
            behind: 0,
            stepped: false,
            restarted: false,
        };
        world.nodes = (0..nodes).map(|_| world.node()).collect();
        world
    }

    fn node(&self) -> (Node, model::Node) {
        let sessions = chain(memory(), cookie(&self.ring), &self.clock)
            .value::<Division>()
            .value::<Visits>()
            .identify_by::<User>(|user| if PANICS.get() { panic() } else { Some(Principal::new(&user.0)) })
            .resolution(if self.first_hit { Resolution::FirstHit } else { Resolution::Newest })
            .idle(31 * DAY)
            .absolute(365 * DAY);
        (Node::new(sessions.build().unwrap()), model::Node::new(self.first_hit))
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        // Each step has a millisecond of its own, so on all nodes a later step has a greater version.
        self.pass(1);
        match step {
            Step::Visit { node, jar, ops, keep, lost, at_once } => {
                self.visit(node % self.nodes.len(), jar, ops, [keep, lost, at_once])?
            }
            Step::Begin { node, jar } => {
                let at = node % self.nodes.len();
                if let Some(place) = self.sockets.iter_mut().find(|socket| socket.is_none()) {
                    let ((node, model), (browser, token)) = (&mut self.nodes[at], &self.jars[jar]);
                    let session = under_way(browser, node).now_or_never().expect("nothing to wait for");
                    *place = Some(Socket::open(at, session, model.arrive(token.as_ref(), &self.time)));
                }
            }
            Step::Socket { which, op } => {
                if let Some(socket) = &mut self.sockets[which] {
                    let expected = self.nodes[socket.node].1.apply(&op, &mut socket.handle, &mut self.time);
                    let came = perform(&socket.session, &op).now_or_never().expect("nothing to wait for");
                    prop_assert_eq!(came, expected, "{:?} on a socket", op);
                }
            }
            Step::Close { which } => self.sockets[which] = None,
            Step::Panic { node, jar } => {
                let at = node % self.nodes.len();
                let ((node, model), (browser, token)) = (&mut self.nodes[at], &self.jars[jar]);
                let mut browser = browser.clone();
                let visit = browser.visit(node, async |session| drop(session.principal()));
                PANICS.set(true);
                let _ = AssertUnwindSafe(visit).catch_unwind().now_or_never().expect("nothing to wait for");
                PANICS.set(false);
                model.arrive_panicking(token.as_ref(), &self.time);
            }
            // After a step back of the clock, a node refuses each new sign-in or renewal order as too old, until the
            // clock has caught up.
            Step::Order { .. } if self.behind > 0 => {}
            Step::Order { which, user, adopt, place } => {
                let Some(socket) = self.sockets[which].as_mut().filter(|socket| socket.handle.sent) else {
                    return Ok(());
                };
                let expected = self.nodes[socket.node].1.order(user, adopt, &mut socket.handle, &mut self.time);
                let session = &socket.session;
                let came = match user.map(|user| session.sign_in(User(name(user)))) {
                    Some(order) if adopt => order.adopt::<Division>().by_page(),
                    Some(order) => order.by_page(),
                    None => session.renew_by_page().token(),
                };
                prop_assert_eq!(came.is_ok(), expected.is_some(), "{:?}", came);
                if let (Ok(token), Some(given)) = (came, expected) {
                    self.tokens[place] = Some((token, given));
                }
            }
            Step::Removal { which, place } => {
                let Some(socket) = self.sockets[which].as_mut().filter(|socket| socket.handle.sent) else {
                    return Ok(());
                };
                let model = &mut self.nodes[socket.node].1;
                if model.closed(&socket.handle.bind, &self.time).is_some() {
                    let (came, expected) = (socket.session.relay(), model.removal(&socket.handle, &self.time));
                    prop_assert_eq!(came.is_some(), expected.is_some());
                    self.tokens[place] = came.zip(expected).or_else(|| self.tokens[place].take());
                }
            }
            Step::Bring { node, jar, place, lost } => self.bring(node % self.nodes.len(), jar, place, lost)?,
            Step::Copy { from, to } => self.jars[to] = self.jars[from].clone(),
            Step::Job { node, user, op } => {
                let node = node % self.nodes.len();
                let (node, model) = &mut self.nodes[node];
                model.job(user, &op, &mut self.time);
                let session =
                    node.sessions.for_principal(principal(user)).now_or_never().expect("nothing to wait for").unwrap();
                let came = perform(&session, &op).now_or_never().expect("nothing to wait for");
                prop_assert!(came.is_ok(), "{:?} in a job", op);
            }
            Step::EndAll { node, user } => {
                let node = node % self.nodes.len();
                let (node, model) = &mut self.nodes[node];
                model.end_all(user, &mut self.time);
                node.sessions.end_all_sessions(principal(user)).now_or_never().expect("nothing to wait for").unwrap();
            }
            // For a write that the node has not seen (of another node, or from before a restart) the clock alone
            // decides which write is newer, and a step back would let the older write win. So the test does
            // not restart a node after a step back, and steps no clock after a restart or with a second node.
            Step::Restart { .. } if self.behind > 0 => {}
            Step::SetClock(_) if self.nodes.len() > 1 || self.restarted => {}
            Step::SetClock(behind) => {
                let right = self.clock.now() + Duration::from_secs(self.behind);
                self.clock.set(right - Duration::from_secs(behind));
                // An order lives for one minute of the clock. After a step of the clock the node refuses every earlier
                // order.
                self.tokens = [const { None }; TOKENS];
                (self.behind, self.stepped) = (behind, true);
            }
            Step::Restart { node } => {
                let node = node % self.nodes.len();
                // After a jump of the clock, the next process would take the turns of the last minute for older turns.
                // So a minute passes before the restart.
                if self.stepped {
                    self.pass(60_000);
                }
                self.restarted = true;
                let of_it = |socket: &&mut Option<Socket>| socket.as_ref().is_some_and(|it| it.node == node);
                self.sockets.iter_mut().filter(of_it).for_each(|socket| *socket = None);
                self.nodes[node] = self.node();
            }
            Step::Wait => self.pass(60_000),
        }
        self.check_sockets()
    }

    fn pass(&mut self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
        self.time.now += millis;
    }

    /// Sends a request. Checks the handler's answers and the browser's new cookie.
    fn visit(
        &mut self,
        at: usize,
        jar: usize,
        ops: Vec<Op>,
        [keep, lost, at_once]: [bool; 3],
    ) -> Result<(), TestCaseError> {
        let (node, model) = &mut self.nodes[at];
        let token = self.jars[jar].1.clone();
        let mut browser = self.jars[jar].0.clone();
        let doing = ops.clone();
        let handler = async move |session: Session| {
            let each = doing.iter().map(|op| {
                let session = session.clone();
                async move { perform(&session, op).await }
            });
            let came = if at_once { join_all(each).await } else { stream::iter(each).then(|it| it).collect().await };
            (came, session)
        };
        let visit = browser.visit_seen(node, handler).now_or_never();
        let (headers, (came, session)) = visit.expect("nothing to wait for");
        let mut handle = model.arrive(token.as_ref(), &self.time);
        for (op, came) in ops.iter().zip(&came) {
            let expected = model.apply(op, &mut handle, &mut self.time);
            prop_assert_eq!(came, &expected, "{:?} in a request", op);
        }
        let carried = answered(model, &handle, !ops.is_empty(), token, &set_cookies(&headers), &self.time)?;
        if !lost {
            self.jars[jar] = (browser, carried);
        }
        if keep && let Some(place) = self.sockets.iter_mut().find(|socket| socket.is_none()) {
            handle.sent = true;
            *place = Some(Socket::open(at, session, handle));
        }
        Ok(())
    }

    /// Brings a page's token to the writeback.
    fn bring(&mut self, at: usize, jar: usize, place: usize, lost: bool) -> Result<(), TestCaseError> {
        let Some((text, given)) = &self.tokens[place] else { return Ok(()) };
        let (node, model) = &mut self.nodes[at];
        let (mut browser, token) = self.jars[jar].clone();
        let body = serde_json::json!({ "$relay": text.as_str() }).to_string();
        let posting = node.writeback(SessionWriteback::new(&node.sessions), browser.post_json(body));
        let answer = posting.now_or_never().expect("nothing to wait for");
        browser.take(&answer.headers);
        let mut handle = model.arrive(token.as_ref(), &self.time);
        let expected = model.bring(given, &mut handle, &mut self.time);
        prop_assert_eq!(answer.code(), expected.err().unwrap_or_default(), "{:?} brought with {:?}", given, token);
        let carried = answered(model, &handle, true, token, &answer.set_cookies(), &self.time)?;
        if !lost {
            self.jars[jar] = (browser, carried);
        }
        Ok(())
    }

    /// Asserts the value and the end told to each socket.
    fn check_sockets(&mut self) -> Result<(), TestCaseError> {
        for socket in self.sockets.iter_mut().flatten() {
            let model = &mut self.nodes[socket.node].1;
            let closed = model.closed(&socket.handle.bind, &self.time);
            // The socket saw the end of the handle's session. Since then the handle has begun another session.
            if socket.closed.is_some() && closed.is_none() {
                *socket = Socket::open(socket.node, socket.session.clone(), socket.handle.clone());
            }
            socket.listen();
            prop_assert_eq!(socket.closed, closed);
            let user = model.user(&socket.handle.bind, &self.time);
            prop_assert_eq!(socket.session.principal(), user.map(principal));
            if closed.is_none() {
                let mut value = |of| model.value(&socket.handle.bind, of, &self.time);
                let there = [value(Of::Session).or(Some(0)), value(Of::User).or(Some(-1))];
                prop_assert_eq!(socket.told, there);
            }
        }
        Ok(())
    }
}

/// The browser's token after a response. If the handler asked for a living session, the response gives the token that
/// the browser lacks. If the handle has ended the session, the response removes the cookie.
fn answered(
    model: &mut model::Node,
    handle: &Handle,
    asked: bool,
    token: Option<Token>,
    set: &[String],
    time: &model::Time,
) -> Result<Option<Token>, TestCaseError> {
    prop_assert!(set.len() <= 1);
    let removed = set.first().map(|cookie| max_age(cookie) == Some(0));
    let carried = model.seal(handle, time);
    let due = match &carried {
        Some(carried) => {
            let lacks = token.as_ref().is_none_or(|token| !carried.is_known_by(token));
            (asked && lacks).then_some(false)
        }
        None => (handle.ended.is_some() && token.is_some()).then_some(true),
    };
    prop_assert_eq!(removed, due, "{:?} for {:?}, of whom is known {:?}", set, token, carried);
    Ok(match removed {
        Some(true) => None,
        Some(false) => carried,
        None => token,
    })
}

thread_local! {
    /// Whether `identify_by` panics.
    static PANICS: Cell<bool> = const { Cell::new(false) };
}

/// Panics without output on the terminal.
fn panic() -> ! {
    resume_unwind(Box::new("told to"))
}

fn name(user: usize) -> String {
    ["ada", "bob"][user].to_owned()
}

fn principal(user: usize) -> Principal {
    Principal::new(name(user))
}

/// Performs an operation of the model on a session. Returns the outcome in the model's words.
async fn perform(session: &Session, op: &Op) -> Result<Option<i64>, Refusal> {
    let done = match *op {
        Op::Read(Of::Session) => return Ok(session.get::<Visits>().map(|Visits(value)| value as i64)),
        Op::Read(Of::User) => return Ok(session.get::<Division>().map(|Division(value)| value)),
        Op::Update(Of::Session) => {
            let update = |visits: &mut Visits| visits.0 = model::updated(Of::Session, Some(visits.0 as i64)) as u64;
            let updated = session.update(update).await;
            return updated.map(|Visits(value)| Some(value as i64)).map_err(|error| refusal(session, &error));
        }
        Op::Update(Of::User) => {
            let update = |division: &mut Division| division.0 = model::updated(Of::User, Some(division.0));
            let updated = session.update(update).await;
            return updated.map(|Division(value)| Some(value)).map_err(|error| refusal(session, &error));
        }
        Op::Set(Of::Session, value) => session.set(Visits(value as u64)).await,
        Op::Set(Of::User, value) => session.set(Division(value)).await,
        Op::Remove(Of::Session) => session.remove::<Visits>().await,
        Op::Remove(Of::User) => session.remove::<Division>().await,
        Op::Clear => session.clear().await,
        Op::SignIn { user, adopt: false } => session.sign_in(User(name(user))).await,
        Op::SignIn { user, adopt: true } => session.sign_in(User(name(user))).adopt::<Division>().await,
        Op::SignOut => session.sign_out().await,
        Op::Renew => session.renew().await,
        Op::Panic => {
            let update = AssertUnwindSafe(session.update(|_: &mut Visits| panic())).catch_unwind().await;
            assert!(update.is_err(), "the closure runs also after the session's end");
            return Err(Refusal::Panicked);
        }
    };
    done.map(|()| None).map_err(|error| refusal(session, &error))
}

fn refusal(session: &Session, error: &WriteError) -> Refusal {
    match error.kind() {
        WriteErrorKind::HeadSent => Refusal::HeadSent,
        kind => {
            assert_eq!(kind, WriteErrorKind::Closed, "{error}");
            Refusal::Closed(session.closed().now_or_never().expect("the session has ended"))
        }
    }
}

#[test]
fn users_match_the_model() {
    let cases = std::env::var("USERS_CASES").map_or(300, |cases| cases.parse().expect("a number"));
    let config =
        ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 4000, ..ProptestConfig::default() };
    let worlds = (any::<bool>(), 1..=NODES);
    proptest!(config, |((first_hit, nodes) in worlds, steps in proptest::collection::vec(step(), 1..50))| {
        let mut world = World::new(first_hit, nodes);
        for step in steps {
            world.step(step)?;
        }
    });
}

// G12: under `FirstHit` the cookie may hold a newer copy than memory. A sign-in directly after a sign-out drops that
// copy too.
#[tokio::test]
async fn sign_in_right_after_sign_out_restores_nothing() {
    let app = App::new();
    let nodes = [(); 2].map(|()| app.start_with(|sessions| sessions.resolution(Resolution::FirstHit)));
    let mut browser = Browser::new();
    for (node, visits) in nodes.iter().zip(1..) {
        app.pass(Duration::from_secs(1));
        browser.visit(node, async move |session| session.set(Visits(visits)).await.unwrap()).await;
    }
    let again = async |session: Session| {
        assert_eq!(session.value::<Visits>(), Visits(1));
        session.sign_out().await.unwrap();
        session.sign_in(User(name(0))).await.unwrap();
    };
    browser.visit(&nodes[0], again).await;
    assert_eq!(browser.visit(&app.start(), async |session| session.get::<Visits>()).await, None);
}

// G7: `adopt` copies the anonymous choice also to a user who removed the value long ago.
#[tokio::test]
async fn adopted_choice_overrides_old_removal() {
    const HOUR: Duration = Duration::from_secs(3600);
    let app = App::new();
    let node = app.start_with(|sessions| sessions.idle(HOUR).absolute(6 * HOUR));
    for age in [HOUR, 7 * HOUR, 8 * HOUR] {
        let job = node.sessions.for_principal(principal(0)).await.unwrap();
        job.set(Division(1)).await.unwrap();
        job.remove::<Division>().await.unwrap();
        drop(job);
        app.pass(age);
        let adopt = async |session: Session| {
            session.set(Division(3)).await.unwrap();
            session.sign_in(User(name(0))).adopt::<Division>().await.unwrap();
            session.get::<Division>()
        };
        assert_eq!(Browser::new().visit(&node, adopt).await, Some(Division(3)));
    }
}
