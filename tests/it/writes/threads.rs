//! Many threads at the same time: each increment counts once, despite renewals, ends, expiry, sweeps and evictions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use layered_session::{CloseReason, Lifetime, Session, WriteErrorKind, testing::ManualClock};

use crate::support::{Browser, Node, Theme, Visits, at_once, chain, cookie, memory_of, ring, soon, under_way};

const HOUR: Duration = Duration::from_secs(3600);
const MAX_BYTES: usize = 5000;

#[derive(Clone)]
struct Busy {
    clock: ManualClock,
    node: Node,
    over: Arc<AtomicBool>,
}

impl Busy {
    fn new() -> Self {
        let clock = ManualClock::new();
        let sessions = chain(memory_of(MAX_BYTES), cookie(&ring()), &clock)
            .value::<Theme>()
            .value::<Visits>()
            .idle(HOUR)
            .absolute(24 * HOUR);
        Self { node: Node::new(sessions.build().unwrap()), clock, over: Arc::default() }
    }

    async fn session(&self) -> (Browser, Session) {
        let mut browser = Browser::new();
        let session = browser.visit(&self.node, async |session| {
            session.set(Visits(0)).await.unwrap();
            session
        });
        let session = session.await;
        (browser, session)
    }

    /// Repeats an action in a task of its own until the counting ends.
    fn meanwhile<F: Future<Output = ()> + Send>(
        &self,
        mut work: impl FnMut(Self) -> F + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let busy = self.clone();
        tokio::spawn(async move {
            while !busy.over.load(Ordering::Relaxed) {
                work(busy.clone()).await;
                tokio::task::yield_now().await;
            }
        })
    }

    /// Makes memory and time scarce: visitors come and leave or sign out, sessions expire, and
    /// sweeps run.
    fn bustle(&self) -> Vec<tokio::task::JoinHandle<()>> {
        // These sessions last a minute, and an hour passes meanwhile.
        let short = Lifetime::new(Duration::from_secs(60), HOUR).unwrap();
        let visitor = move |busy: Self| async move {
            let (mut browser, session) = busy.session().await;
            drop(session);
            // The session may expire at any moment.
            let _ = browser.visit(&busy.node, async move |session| session.set_lifetime(short).await).await;
            let _ = browser.visit(&busy.node, async |session| session.set(Theme("x".repeat(200))).await).await;
            let read = browser.visit(&busy.node, async |session| session.value::<Theme>());
            assert!(matches!(read.await.0.len(), 0 | 200));
        };
        let leaver = |busy: Self| async move {
            let (mut browser, session) = busy.session().await;
            let mut older = browser.clone();
            let lost = busy.node.sessions.stats().revocations_lost;
            browser.visit(&busy.node, async |session| session.destroy().await.unwrap()).await;
            assert_eq!(session.closed().await, CloseReason::Destroyed);
            let back = older.visit(&busy.node, async |session| session.get::<Visits>()).await;
            // A memory of this size holds 64 tombstones. Of tombstones that expire at the same time, the newest may be
            // dropped first.
            let forgotten = busy.node.sessions.stats().revocations_lost > lost;
            assert!(back.is_none() || forgotten, "the session came back, and no tombstone went");
        };
        let mut sweeper = Box::pin(self.node.sessions.sweeper());
        let time = move |_| {
            let _ = at_once(&mut sweeper);
            async {}
        };
        vec![self.meanwhile(visitor), self.meanwhile(visitor), self.meanwhile(leaver), self.meanwhile(time)]
    }

    async fn end(&self, bustle: Vec<tokio::task::JoinHandle<()>>) {
        self.over.store(true, Ordering::Relaxed);
        for task in bustle {
            soon(task).await.unwrap();
        }
        let stats = self.node.sessions.stats();
        assert!(stats.records > 0 && stats.bytes > 0, "{stats:?}");
        assert!(stats.evicted_clean + stats.evicted_dirty + stats.revocations_lost > 0, "{stats:?}");
    }
}

const TASKS: u64 = 4;
const TIMES: u64 = if cfg!(debug_assertions) { 300 } else { 3000 };

/// Counts up while time passes, less than the hour in all.
async fn count(session: Session, clock: ManualClock) {
    for _ in 0..TIMES {
        clock.advance(HOUR * 9 / 10 / (TASKS * TIMES) as u32);
        session.update(|visits: &mut Visits| visits.0 += 1).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_handles_lose_no_update() {
    let busy = Busy::new();
    let (browser, session) = busy.session().await;
    let mut handles = vec![session];
    for _ in 1..TASKS {
        handles.push(browser.clone().visit(&busy.node, async |session| session).await);
    }
    let bustle = busy.bustle();
    let counting: Vec<_> =
        handles.iter().map(|session| tokio::spawn(count(session.clone(), busy.clock.clone()))).collect();
    for task in counting {
        soon(task).await.unwrap();
    }
    assert_eq!(handles.iter().map(|session| session.value::<Visits>().0).max(), Some(TASKS * TIMES));
    busy.end(bustle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_renewal_loses_no_update() {
    let busy = Busy::new();
    let (browser, held) = busy.session().await;
    let session = under_way(&browser, &busy.node).await;
    drop(held);
    let other = browser.clone().visit(&busy.node, async |session| session).await;
    let bustle = busy.bustle();
    let counting: Vec<_> = (0..TASKS).map(|_| tokio::spawn(count(session.clone(), busy.clock.clone()))).collect();
    let renewing = {
        let session = session.clone();
        tokio::spawn(async move {
            for _ in 0..TIMES / 3 {
                session.renew().await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    for task in counting {
        soon(task).await.unwrap();
    }
    soon(renewing).await.unwrap();
    assert_eq!(session.value::<Visits>(), Visits(TASKS * TIMES));
    assert_eq!(soon(other.closed()).await, CloseReason::Renewed);
    assert_eq!(other.set(Visits(1)).await.unwrap_err().kind(), WriteErrorKind::Closed);
    busy.end(bustle).await;
}
