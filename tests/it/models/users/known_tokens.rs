//! Tokens that memory knows by their bytes. Twin nodes get the same requests: one twin recognises tokens, the other
//! opens every seal. Both twins answer and send the same, apart from the encrypted bytes.

use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, header};
use layered_session::{KeyRing, Principal, Resolution, Session, testing::ManualClock};
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{Op, Refusal, USERS, job, op, perform, principal};
use crate::support::{
    Browser, DAY, Division, Node, User, Visits, bare, chain, cookie, memory, named, parsed, set_cookies, under_way,
};

const JARS: usize = 3;
const SOCKETS: usize = 2;
const IDLE: Duration = Duration::from_secs(3600);

/// Memory forgets a removal after more than a day, while a token may still tell of the removal.
const LONGEST: Duration = DAY;

#[derive(Clone, Debug)]
enum Step {
    Visit {
        jar: usize,
        ops: Vec<Op>,
        keep: bool,
        /// Whether the response is lost on the way.
        lost: bool,
    },
    /// A request whose response never leaves.
    Begin {
        jar: usize,
    },
    Socket {
        which: usize,
        op: Op,
    },
    Close {
        which: usize,
    },
    Copy {
        from: usize,
        to: usize,
    },
    Job {
        user: usize,
        op: Op,
    },
    EndAll {
        user: usize,
    },
    Restart,
    Wait(Duration),
}

fn visit(op: impl Strategy<Value = Op>, [keep, lost]: [f64; 2]) -> impl Strategy<Value = Step> {
    (0..JARS, proptest::collection::vec(op, 0..4), prop::bool::weighted(keep), prop::bool::weighted(lost))
        .prop_map(|(jar, ops, keep, lost)| Step::Visit { jar, ops, keep, lost })
}

fn step() -> impl Strategy<Value = Step> {
    let spans = vec![IDLE / 50, IDLE / 9, IDLE - Duration::from_millis(1), IDLE, 3 * IDLE];
    prop_oneof![
        12 => visit(op(), [0.2, 0.1]),
        2 => (0..JARS).prop_map(|jar| Step::Begin { jar }),
        4 => (0..SOCKETS, op()).prop_map(|(which, op)| Step::Socket { which, op }),
        1 => (0..SOCKETS).prop_map(|which| Step::Close { which }),
        2 => (0..JARS, 0..JARS).prop_map(|(from, to)| Step::Copy { from, to }),
        1 => (0..USERS, job()).prop_map(|(user, op)| Step::Job { user, op }),
        1 => (0..USERS).prop_map(|user| Step::EndAll { user }),
        1 => Just(Step::Restart),
        4 => proptest::sample::select(spans).prop_map(Step::Wait),
    ]
}

/// Steps that a chain without memory answers too: a browser's own requests, each with the newest cookie, on values that
/// end with the session.
fn alone() -> impl Strategy<Value = Step> {
    let op = op().prop_map(|op| match op {
        Op::SignIn { .. } => Op::Renew,
        Op::SignOut => Op::Clear,
        op => op,
    });
    prop_oneof![4 => visit(op, [0.0, 0.0]), 1 => Just(Step::Wait(IDLE / 9)), 1 => Just(Step::Wait(IDLE))]
}

/// The way in which a node reads a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    /// Memory knows the token by its bytes.
    Warm,
    /// Memory knows no token: the ring gets its own key again before each request, and memory recognises no token of an
    /// earlier ring.
    Opening,
    /// The node has no memory.
    Bare,
}

struct World {
    twin: Twin,
    ring: KeyRing,
    clock: ManualClock,
    waited: Duration,
    resolution: Resolution,
    node: Node,
    jars: Vec<Browser>,
    sockets: [Option<Session>; SOCKETS],
}

/// The comparable results of a step.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    came: Vec<Result<Option<i64>, Refusal>>,
    head: Vec<(&'static str, String)>,
    user: Option<Principal>,
    ends: Option<u128>,
    new: bool,
}

impl World {
    fn new(twin: Twin, resolution: Resolution) -> Self {
        let (ring, clock) = (KeyRing::new([key()]).unwrap(), ManualClock::new());
        let node = Self::node(twin, &ring, &clock, resolution);
        let (jars, sockets) = (vec![Browser::new(); JARS], Default::default());
        Self { twin, ring, clock, waited: Duration::ZERO, resolution, node, jars, sockets }
    }

    fn node(twin: Twin, ring: &KeyRing, clock: &ManualClock, resolution: Resolution) -> Node {
        let chain = match twin {
            Twin::Bare => bare(ring, clock),
            _ => chain(memory(), cookie(ring), clock),
        };
        let sessions = chain
            .value::<Division>()
            .value::<Visits>()
            .identify_by::<User>(named)
            .resolution(resolution)
            .idle(IDLE)
            .absolute(2 * LONGEST);
        Node::new(sessions.build().unwrap())
    }

    fn step(&mut self, step: Step) -> Seen {
        self.clock.advance(Duration::from_millis(1));
        let waits = "nothing to wait for";
        match step {
            Step::Visit { jar, ops, keep, lost } => return self.visit(jar, ops, (keep, lost)),
            Step::Begin { jar } => {
                self.renew_key();
                if let Some(place) = self.sockets.iter_mut().find(|socket| socket.is_none()) {
                    let session = under_way(&self.jars[jar], &self.node).now_or_never().expect(waits);
                    return seen_of(place.insert(session));
                }
            }
            Step::Socket { which, op } => {
                let Some(session) = &self.sockets[which] else { return Seen::default() };
                let came = perform(session, &op).now_or_never().expect(waits);
                return Seen { came: vec![came], ..seen_of(session) };
            }
            Step::Close { which } => self.sockets[which] = None,
            Step::Copy { from, to } => self.jars[to] = self.jars[from].clone(),
            Step::Job { user, op } => {
                let session = self.node.sessions.for_principal(principal(user)).now_or_never().expect(waits).unwrap();
                return Seen { came: vec![perform(&session, &op).now_or_never().expect(waits)], ..Seen::default() };
            }
            Step::EndAll { user } => {
                self.node.sessions.end_all_sessions(principal(user)).now_or_never().expect(waits).unwrap();
            }
            Step::Restart => {
                self.sockets = Default::default();
                self.node = Self::node(self.twin, &self.ring, &self.clock, self.resolution);
            }
            Step::Wait(span) if self.waited + span > LONGEST => {}
            Step::Wait(span) => {
                self.waited += span;
                self.clock.advance(span);
            }
        }
        Seen::default()
    }

    /// Renews the key before each request of the twin that opens every token.
    fn renew_key(&self) {
        if self.twin == Twin::Opening {
            self.ring.replace([key()]).unwrap();
        }
    }

    fn visit(&mut self, jar: usize, ops: Vec<Op>, (keep, lost): (bool, bool)) -> Seen {
        self.renew_key();
        let handler = async move |session: Session| {
            let mut came = Vec::new();
            for op in &ops {
                came.push(perform(&session, op).await);
            }
            // A request without operations must not touch the session, so the test reads nothing either.
            let seen = if ops.is_empty() { Seen::default() } else { seen_of(&session) };
            (Seen { came, ..seen }, keep.then_some(session))
        };
        let mut browser = self.jars[jar].clone();
        let visit = browser.visit_seen(&self.node, handler).now_or_never();
        let (headers, (mut seen, session)) = visit.expect("nothing to wait for");
        if !lost {
            self.jars[jar] = browser;
        }
        seen.head = shape(&headers);
        if session.is_some()
            && let Some(place) = self.sockets.iter_mut().find(|socket| socket.is_none())
        {
            *place = session;
        }
        seen
    }
}

/// Returns the same key each time, unlike a generated key.
fn key() -> Vec<u8> {
    (0..64u8).map(|at| at.wrapping_mul(73) ^ 0x5a).collect()
}

fn seen_of(session: &Session) -> Seen {
    let ends = session.expires_at().map(|ends| ends.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis());
    Seen { user: session.principal(), new: session.is_new(), ends, ..Seen::default() }
}

/// The content of a response, with a token's length in the place of the token.
fn shape(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let text = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
    let cookies = set_cookies(headers).into_iter().map(|cookie| {
        let pair = parsed(&cookie).stripped().to_string();
        ("set-cookie", cookie.replacen(&pair, &pair.len().to_string(), 1))
    });
    let vary = text(header::VARY).map(|value| ("vary", value));
    cookies.chain(vary).chain(text(header::CACHE_CONTROL).map(|value| ("cache-control", value))).collect()
}

fn alike(twins: [Twin; 2], resolution: Resolution, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let [mut one, mut other] = twins.map(|twin| World::new(twin, resolution));
    for step in steps {
        let shown = format!("{step:?}");
        let [mut one, mut other] = [one.step(step.clone()), other.step(step)];
        if twins.contains(&Twin::Bare) {
            // The node without memory does not know of a use after its cookie was sealed, so the deadlines of the two
            // nodes differ.
            (one.ends, other.ends) = (None, None);
        }
        prop_assert_eq!(one, other, "{}", shown);
    }
    Ok(())
}

fn config() -> ProptestConfig {
    let cases = std::env::var("KNOWN_TOKENS_CASES").map_or(150, |cases| cases.parse().expect("a number"));
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 4000, ..ProptestConfig::default() }
}

#[test]
fn known_and_opened_tokens_answer_alike() {
    proptest!(config(), |(first_hit in any::<bool>(), steps in proptest::collection::vec(step(), 1..50))| {
        let resolution = if first_hit { Resolution::FirstHit } else { Resolution::Newest };
        alike([Twin::Warm, Twin::Opening], resolution, steps)?;
    });
}

#[test]
fn cookie_and_memory_answer_alike() {
    proptest!(config(), |(steps in proptest::collection::vec(alone(), 1..50))| {
        alike([Twin::Warm, Twin::Bare], Resolution::Newest, steps)?;
    });
}
