//! Random programs of browsers, sockets and jobs on two nodes over a real server, against the reference of the scripted
//! store. Calls are lost and dropped, nodes restart, and the server closes connections.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use layered_session::{RedisStore, TokioClock};
use proptest::{prelude::*, test_runner::TestRunner};

use self::world::{Site, Step, World};
use super::server::{Server, server};

#[path = "../../it/models/two_nodes/acts.rs"]
mod acts;
#[path = "../../it/models/two_nodes/checks.rs"]
mod checks;
#[path = "../../it/models/two_nodes/faults.rs"]
mod faults;
#[path = "../../it/models/two_nodes/judge.rs"]
mod judge;
#[path = "../../it/models/two_nodes/programs.rs"]
mod programs;
#[path = "../../it/models/two_nodes/reference.rs"]
mod reference;
#[path = "../../it/models/two_nodes/turns.rs"]
mod turns;
#[path = "../../it/models/two_nodes/values.rs"]
mod values;
#[path = "../../it/models/two_nodes/visit.rs"]
mod visit;
#[path = "../../it/models/two_nodes/world.rs"]
mod world;

const NODES: usize = 2;

/// The time in which a closed connection fails calls.
const DISTURBED: Duration = Duration::from_millis(500);

/// A real server, and the time of this machine.
struct Real {
    server: Arc<Server>,
    begun: Instant,
    disturbed: Option<Instant>,
    is_over: bool,
}

impl Site for Real {
    type Store = RedisStore;
    type Clock = TokioClock;

    /// Long enough for a machine with other work.
    const DEADLINE: Duration = Duration::from_secs(1);

    fn is_prompt(&self) -> bool {
        self.is_over
    }

    fn is_disturbed(&self) -> bool {
        self.disturbed.is_some_and(|at| at.elapsed() < DISTURBED)
    }

    fn store(&self) -> RedisStore {
        RedisStore::new(self.server.url()).unwrap()
    }

    fn clock(&self, _: Option<usize>) -> TokioClock {
        TokioClock::default()
    }

    /// Closes all connections instead: a test sets no clock of the machine.
    fn set_clock(&mut self, _: usize, _: i64) {
        self.disturbed = Some(Instant::now());
        self.server.run::<()>("CLIENT KILL TYPE normal");
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn pass(&mut self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    async fn idle(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn two_nodes_match_the_reference() {
    let Some(server) = server() else { return };
    let server = Arc::new(server);
    let cases = std::env::var("TWO_NODES_CASES").map_or(16, |cases| cases.parse().expect("a number"));
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() };
    let spans = [0, 5, 20].map(Duration::from_millis).to_vec();
    let programs = proptest::collection::vec(programs::step(spans), 1..25);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = |steps: Vec<Step>| {
        server.run::<()>("FLUSHALL");
        let site = Real { server: Arc::clone(&server), begun: Instant::now(), disturbed: None, is_over: false };
        runtime.block_on(async {
            let mut world = World::new(site);
            for step in steps {
                world.step(step).await?;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.finish().await?;
            // Each notice arrives at last.
            world.site.is_over = true;
            let begun = Instant::now();
            loop {
                match world.step(Step::Pass(Duration::from_millis(5))).await {
                    Err(_) if begun.elapsed() < Duration::from_secs(3) => {}
                    done => return done,
                }
            }
        })
    };
    TestRunner::new(config).run(&programs, run).unwrap();
}
