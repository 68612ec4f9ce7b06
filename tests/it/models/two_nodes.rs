//! Random programs of browsers, sockets and jobs on two nodes over one store, against a plain [`reference`]. The store
//! refuses, loses and delays calls, callers give up, nodes restart, and clocks step.
//!
//! `TWO_NODES_CASES=20000 cargo test --release --all-features --test it two_nodes::` runs more programs.

use std::time::Duration;

use futures_util::FutureExt;
use layered_session::{
    Clock,
    testing::{ManualClock, SpyStore},
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use self::{
    faults::Fault,
    values::{Op, Slot},
    world::{Doing, Site, Step, Then, Trouble, World},
};

mod acts;
mod checks;
mod faults;
mod judge;
mod programs;
mod reference;
mod turns;
mod values;
mod visit;
mod world;

const NODES: usize = 2;

/// A scripted store, and clocks that the program moves.
struct Scripted {
    store: SpyStore,
    clock: ManualClock,
    clocks: [ManualClock; NODES],
}

impl Scripted {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self {
            store: SpyStore::new().expire_by(clock.clone()),
            clock,
            clocks: [(); NODES].map(|()| ManualClock::new()),
        }
    }
}

impl Site for Scripted {
    type Store = SpyStore;
    type Clock = ManualClock;

    const DEADLINE: Duration = Duration::from_millis(250);

    fn is_prompt(&self) -> bool {
        true
    }

    fn is_disturbed(&self) -> bool {
        false
    }

    fn store(&self) -> SpyStore {
        self.store.clone()
    }

    fn clock(&self, node: Option<usize>) -> ManualClock {
        node.map_or(&self.clock, |node| &self.clocks[node]).clone()
    }

    fn set_clock(&mut self, node: usize, ahead: i64) {
        let (now, span) = (self.clock.now(), Duration::from_secs(ahead.unsigned_abs()));
        self.clocks[node].set(if ahead < 0 { now - span } else { now + span });
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    async fn pass(&mut self, span: Duration) {
        self.clock.advance(span);
        self.clocks.iter().for_each(|clock| clock.advance(span));
    }

    async fn idle(&mut self) {
        self.pass(Duration::from_millis(1)).await;
    }
}

#[test]
fn two_nodes_match_the_reference() {
    let cases = std::env::var("TWO_NODES_CASES").ok().map(|cases| cases.parse().expect("a number"));
    let config = ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    let mut runner = match cases {
        Some(cases) => TestRunner::new(ProptestConfig { cases, ..config }),
        // The same programs at each run: the reference may judge a rare program too strictly.
        None => TestRunner::new_with_rng(
            ProptestConfig { cases: 250, ..config },
            TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        ),
    };
    let spans = [20, 1_000, 10_000, 31_000, 61_000, 3_600_000, 18_000_000, 86_400_000, 259_200_000];
    let spans = spans.map(Duration::from_millis).to_vec();
    runner.run(&proptest::collection::vec(programs::step(spans), 1..40), run).unwrap();
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(Scripted::new());
    let run = async {
        for step in steps {
            world.step(step).await?;
        }
        world.finish().await
    };
    run.now_or_never().expect("only the program waits")
}

fn visit(node: usize, jar: usize, ops: Vec<Doing>) -> Step {
    Step::Visit { node, jar, load: None, ops, keep: false, lost: false }
}

const SIGN_IN: Op = Op::SignIn { user: 0, adopt: false };

// The sign-out ends the new session before the renewing node has the store's answer to the end of the old one.
#[test]
fn sign_out_reaches_session_of_waiting_renewal() {
    let waits = Trouble { calls: 2, fault: Fault::HoldReply, then: Then::Leave };
    let program = vec![
        visit(0, 0, vec![(SIGN_IN, None)]),
        Step::Follow { node: 1, follows: true },
        visit(1, 0, vec![(Op::Renew, Some(waits))]),
        visit(0, 0, vec![(Op::SignOut, None)]),
    ];
    run(program).unwrap();
}

// The store's end of the old session seems a minute old to the node that signs out.
#[test]
fn sign_out_reaches_renewed_session_after_a_clock_step() {
    let waits = Trouble { calls: 0, fault: Fault::HoldRequest, then: Then::Leave };
    let program = vec![
        visit(0, 0, vec![(SIGN_IN, None)]),
        visit(1, 0, vec![(Op::SignOut, Some(waits))]),
        visit(1, 0, vec![(Op::Renew, None)]),
        Step::SetClock { node: 1, ahead: 60 },
    ];
    run(program).unwrap();
}

// Node 1 knows the session by its first lifetime until the socket's next use, hours later.
#[test]
fn use_on_a_node_that_knows_an_older_lifetime_counts() {
    for (lifetime, op, hours) in [
        (1, Op::Set(Slot::Count), [5, 2]),
        (1, Op::Remove(Slot::Count), [5, 2]),
        (1, Op::Set(Slot::Choice), [5, 2]),
        (1, Op::Touch, [5, 2]),
        (2, Op::Set(Slot::Count), [40, 90]),
        (2, Op::Touch, [40, 90]),
    ] {
        let [first, later] = hours.map(|hours| Step::Pass(Duration::from_secs(hours * 3600)));
        let begin = vec![(SIGN_IN, None), (Op::Set(Slot::Count), None)];
        let program = vec![
            Step::Visit { node: 1, jar: 0, load: None, ops: begin, keep: true, lost: false },
            visit(0, 0, vec![(Op::Lifetime(lifetime), None)]),
            first,
            Step::Socket { which: 0, doing: (op, None) },
            later,
            Step::Look { jar: 0 },
        ];
        run(program).unwrap_or_else(|failure| panic!("{op:?} after lifetime {lifetime}: {failure}"));
    }
}

// Both nodes have read the session before either sets a lifetime. The lifetime whose call ends last counts.
#[test]
fn lifetime_counts_after_a_newer_lifetime_of_another_node() {
    let waits = Trouble { calls: 1, fault: Fault::HoldRequest, then: Then::Leave };
    let program = vec![
        visit(0, 0, vec![(SIGN_IN, None)]),
        visit(0, 0, vec![(Op::Lifetime(1), Some(waits))]),
        visit(1, 0, vec![(Op::Lifetime(2), None)]),
        Step::Land(Then::Open),
        Step::Pass(Duration::from_secs(8 * 3600)),
        Step::Look { jar: 0 },
    ];
    run(program).unwrap();
}

// Both calls have read the session before either ends the other sessions.
#[test]
fn second_end_of_other_sessions_waits_for_the_first() {
    let waits = |calls| Trouble { calls, fault: Fault::HoldRequest, then: Then::Leave };
    for calls in 0..5 {
        let program = vec![
            visit(0, 1, vec![(SIGN_IN, None)]),
            visit(1, 1, vec![(Op::EndOthers, Some(waits(calls)))]),
            visit(1, 1, vec![(Op::EndOthers, None)]),
        ];
        run(program).unwrap_or_else(|failure| panic!("call {calls} waits: {failure}"));
    }
}
