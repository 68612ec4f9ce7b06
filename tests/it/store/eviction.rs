//! Records that the shared store holds survive an eviction, and memory evicts them first. Records with changes that the
//! store lacks go last.

use std::{future::Future, time::Duration};

use layered_session::{
    KeyRing, Lifetime, Placement, Principal, Session, SessionValue, SharedTier,
    testing::{ManualClock, SpyStore},
};
use serde::{Deserialize, Serialize};

use crate::support::{
    Browser, DAY, Division, Node, Theme, User, Visits, at_once, cookie, declared, memory_of, ring, under_way,
};

/// A session value on servers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stock(pub(crate) u32);

impl SessionValue for Stock {
    const NAME: &'static str = "stock";
    const PLACEMENT: Placement = Placement::Server;
}

/// Nodes with little memory over one store.
struct Nodes {
    ring: KeyRing,
    clock: ManualClock,
    store: SpyStore,
}

impl Nodes {
    fn new() -> Self {
        Self { ring: ring(), clock: ManualClock::new(), store: SpyStore::new() }
    }

    fn node(&self, max_bytes: usize) -> Node {
        let sessions = declared(memory_of(max_bytes), cookie(&self.ring), &self.clock)
            .tier(SharedTier::new(self.store.clone()))
            .value::<Stock>()
            .idle(20 * DAY);
        Node::new(sessions.build().unwrap())
    }
}

fn visit<T>(browser: &mut Browser, node: &Node, handler: impl AsyncFnOnce(Session) -> T) -> T {
    at_once(browser.visit(node, handler)).expect("a store that answers at once")
}

/// Returns a browser and a session with a theme. The browser holds all values.
fn themed(node: &Node) -> (Browser, Session) {
    let mut browser = Browser::new();
    let session = visit(&mut browser, node, async |session| {
        session.set(Theme("dark".into())).await.unwrap();
        session
    });
    (browser, session)
}

fn now<T, E: std::fmt::Debug>(done: impl Future<Output = Result<T, E>>) -> T {
    at_once(done).expect("a store that answers at once").unwrap()
}

type Make = fn(&Nodes, &Node) -> Browser;

/// Sessions of which the store holds at least as much as memory and the browser.
const HELD: [(&str, Make); 5] = [
    ("a value that no browser carries", |_, node| {
        let (mut browser, _) = themed(node);
        visit(&mut browser, node, async |session| session.set(Stock(7)).await.unwrap());
        browser
    }),
    ("written on an open socket", |_, node| {
        let (browser, session) = themed(node);
        now(session.batch().set(Theme("dark".into())).set(Visits(1)).commit());
        now(session.set(Stock(7)));
        browser
    }),
    ("signed in, and then written on a socket", |_, node| {
        let (mut browser, _) = themed(node);
        let session = visit(&mut browser, node, async |session| {
            session.sign_in(User("ada".into())).await.unwrap();
            session
        });
        now(session.set(Visits(1)));
        now(session.set(Stock(7)));
        browser
    }),
    ("renewed, and then written on a socket", |_, node| {
        let (mut browser, _) = themed(node);
        let session = visit(&mut browser, node, async |session| {
            session.renew().await.unwrap();
            session
        });
        now(session.set(Stock(7)));
        now(session.set(Visits(1)));
        browser
    }),
    ("values of a cookie and values of the store", |nodes, node| {
        let (mut browser, _) = themed(node);
        visit(&mut browser, node, async |session| session.set(Stock(7)).await.unwrap());
        visit(&mut browser, &nodes.node(1 << 20), async |session| session.set(Visits(1)).await.unwrap());
        assert_eq!(visit(&mut browser, node, async |session| session.value::<Visits>()), Visits(1));
        browser
    }),
];

#[test]
fn stored_session_is_evicted_as_clean() {
    for (what, make) in HELD {
        let nodes = Nodes::new();
        let node = nodes.node(100_000);
        let browsers: Vec<_> = (0..1000).map(|_| make(&nodes, &node)).collect();
        let stats = node.sessions.stats();
        assert!(stats.evicted_clean > 500, "{what}: {stats:?}");
        assert_eq!(stats.evicted_dirty, 0, "{what}: {stats:?}");
        for mut browser in browsers {
            let found =
                visit(&mut browser, &node, async |session| (session.value::<Theme>(), session.value::<Stock>()));
            assert_eq!(found, (Theme("dark".into()), Stock(7)), "{what}");
        }
    }
}

#[test]
fn stored_user_is_evicted_as_clean() {
    let node = Nodes::new().node(100_000);
    let of = |user: usize| at_once(node.sessions.for_principal(Principal::new(user.to_string()))).unwrap().unwrap();
    (0..1000).for_each(|user| now(of(user).set(Division(user as i64 % 5))));
    let stats = node.sessions.stats();
    assert!(stats.evicted_clean > 500 && stats.evicted_dirty == 0, "{stats:?}");
    (0..1000).for_each(|user| assert_eq!(of(user).value::<Division>(), Division(user as i64 % 5)));
}

/// Sessions with a change that the store lacks.
const UNHELD: [(&str, Make); 4] = [
    ("a lifetime that no cookie carries", |_, node| {
        let (browser, session) = themed(node);
        now(session.set_lifetime(Lifetime::new(10 * DAY, 30 * DAY).unwrap()));
        browser
    }),
    ("renewed with such a lifetime", |_, node| {
        let (browser, _) = themed(node);
        let session = at_once(under_way(&browser, node)).unwrap();
        now(session.set_lifetime(Lifetime::new(10 * DAY, 30 * DAY).unwrap()));
        now(session.renew());
        let token = session.relay().expect("the browser lacks the lifetime");
        let mut browser = Browser::new();
        let answer = at_once(crate::support::bring(&mut browser, node, token.as_str())).unwrap();
        assert_eq!(answer.status, 200);
        now(session.set(Visits(1)));
        browser
    }),
    ("a value that only a cookie brought", |nodes, node| {
        let (mut browser, session) = themed(node);
        let elsewhere = nodes.node(1 << 20);
        visit(&mut browser, &elsewhere, async |session| session.set(Visits(1)).await.unwrap());
        assert_eq!(visit(&mut browser, node, async |session| session.value::<Visits>()), Visits(1));
        now(session.set(Theme("light".into())));
        browser
    }),
    ("a write with an unknown outcome", |nodes, node| {
        let (browser, session) = themed(node);
        nodes.store.fail();
        at_once(session.set(Visits(1))).unwrap().unwrap_err();
        nodes.store.heal();
        browser
    }),
];

#[test]
fn unstored_records_are_evicted_last() {
    for (what, make) in UNHELD {
        let nodes = Nodes::new();
        let node = nodes.node(100_000);
        let browsers: Vec<_> = (0..50).map(|_| make(&nodes, &node)).collect();
        nodes.clock.advance(Duration::from_secs(1));
        (0..1000).for_each(|_| drop(HELD[1].1(&nodes, &node)));
        let stats = node.sessions.stats();
        assert!(stats.evicted_clean > 500 && stats.evicted_dirty == 0, "{what}: {stats:?}");
        for browser in &browsers {
            let before = node.sessions.stats().hits;
            visit(&mut browser.clone(), &node, async |_| ());
            assert!(node.sessions.stats().hits > before, "{what}");
        }
    }
}

#[test]
fn unstored_user_is_evicted_as_dirty() {
    let node = Node::new(declared(memory_of(50_000), cookie(&ring()), &ManualClock::new()).build().unwrap());
    for user in 0..500 {
        let job = at_once(node.sessions.for_principal(Principal::new(user.to_string()))).unwrap().unwrap();
        now(job.set(Division(1)));
    }
    let stats = node.sessions.stats();
    assert!(stats.evicted_dirty > 200 && stats.evicted_clean == 0, "{stats:?}");
}
