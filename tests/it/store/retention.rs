//! The shared store keeps a record as long as a request can ask for the record: under memory pressure, by a birth
//! token, at the end of a day, and after any write.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use layered_session::{
    KeyRing, Lifetime, Placement, Principal, Scope, Session, SessionValue, SharedTier,
    testing::{ManualClock, Operation, SpyStore},
    tier::{Ask, Commit, Committed, Snapshot, Store, StoreFuture, Touch},
};
use serde::{Deserialize, Serialize};

use super::eviction::Stock;
use crate::support::{
    App, Browser, DAY, Division, Node, Theme, User, bring, cookie, dark, declared, first_write, login, memory_of, ring,
    settled, socket, soon,
};

/// A user value on servers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Quota(u32);

impl SessionValue for Quota {
    const NAME: &'static str = "quota";
    const SCOPE: Scope = Scope::Principal;
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
        let clock = ManualClock::new();
        let store = SpyStore::new().expire_by(clock.clone());
        Self { ring: ring(), clock, store }
    }

    fn node(&self) -> Node {
        let sessions = declared(memory_of(20_000), cookie(&self.ring), &self.clock)
            .tier(SharedTier::new(self.store.clone()))
            .value::<Stock>()
            .value::<Quota>()
            .idle(2 * DAY)
            .absolute(20 * DAY);
        Node::new(sessions.build().unwrap())
    }
}

/// Begins so many other sessions that memory evicts every record without a handle.
async fn crowd(node: &Node) {
    for _ in 0..600 {
        Browser::new().visit(node, async |session| session.set(dark()).await.unwrap()).await;
    }
}

#[tokio::test]
async fn open_handle_survives_memory_pressure() {
    let nodes = Nodes::new();
    let node = nodes.node();
    let mut browser = Browser::new();
    let sign_in = async |session: Session| {
        session.sign_in(User("ada".into())).await.unwrap();
        session.set(Quota(9)).await.unwrap();
    };
    browser.visit(&node, sign_in).await;
    let socket = browser.visit(&node, async |session| session).await;
    nodes.clock.advance(Duration::from_secs(1));
    crowd(&node).await;
    assert_eq!(socket.value::<Quota>(), Quota(9));
    socket.set(Division(3)).await.unwrap();
    drop(socket);
    let seen = browser.visit(&node, async |session| (session.value::<Quota>(), session.value::<Division>())).await;
    assert_eq!(seen, (Quota(9), Division(3)));
}

#[tokio::test]
async fn birth_token_finds_stored_session() {
    let nodes = Nodes::new();
    let [here, there] = [(); 2].map(|()| nodes.node());
    let mut browser = Browser::new();
    let open = socket(&browser, &there).await;
    open.set(dark()).await.unwrap();
    open.set(Stock(7)).await.unwrap();
    let token = open.relay().unwrap();
    assert_eq!(bring(&mut browser, &here, token.as_str()).await.status, 200);
    let seen = browser.visit(&here, async |session| (session.value::<Theme>(), session.value::<Stock>())).await;
    assert_eq!(seen, (dark(), Stock(7)));
}

#[tokio::test]
async fn birth_token_revives_no_ended_session() {
    let nodes = Nodes::new();
    let [here, there] = [(); 2].map(|()| nodes.node());
    let mut browser = Browser::new();
    let open = socket(&browser, &there).await;
    open.set(dark()).await.unwrap();
    let token = open.relay().unwrap();
    open.destroy().await.unwrap();
    bring(&mut browser, &here, token.as_str()).await;
    assert_eq!(browser.theme(&here).await, Theme::default());
}

#[tokio::test]
async fn daily_reads_keep_stored_session() {
    let nodes = Nodes::new();
    let node = nodes.node();
    let mut browser = Browser::new();
    browser.write(&node, "dark").await;
    for _ in 0..6 {
        nodes.clock.advance(DAY);
        browser.read(&node).await;
    }
    crowd(&node).await;
    assert_eq!(browser.theme(&node).await, dark());
    assert_eq!(browser.theme(&nodes.node()).await, dark());
}

// G12: a store that drops expired records keeps a removal as long as a cookie could bring the value back.
#[tokio::test]
async fn stored_removal_outlives_cookies() {
    let nodes = Nodes::new();
    let node = nodes.node();
    let mut browser = Browser::new();
    let sign_in = async |session: Session| {
        session.sign_in(User("ada".into())).await.unwrap();
        session.set_lifetime(Lifetime::new(365 * DAY, 365 * DAY).unwrap()).await.unwrap();
        session.set(Division(3)).await.unwrap();
        session.set(dark()).await.unwrap();
    };
    browser.visit(&node, sign_in).await;
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    job.remove::<Division>().await.unwrap();
    nodes.clock.advance(40 * DAY);
    assert_eq!(browser.visit(&nodes.node(), async |session| session.value::<Division>()).await, Division(-1));
}

#[tokio::test]
async fn sign_out_stores_both_ends_equally_long() {
    let store = SpyStore::new();
    let app = App::with({
        let store = store.clone();
        move |sessions| sessions.tier(SharedTier::new(store.clone())).idle(10 * DAY).absolute(30 * DAY)
    });
    let browser = first_write(&app.node, dark()).await;
    let live = socket(&browser, &app.node).await;
    app.pass(5 * DAY);
    let _ = login(&live);
    store.take_calls();
    live.destroy().await.unwrap();
    let ends: Vec<_> = store
        .take_calls()
        .into_iter()
        .filter(|call| call.operation() != Operation::Read)
        .map(|call| call.keep().unwrap())
        .collect();
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{ends:?}");
}

#[tokio::test]
async fn loaded_session_needs_little_memory() {
    let nodes = Nodes::new();
    let (one, two) = (nodes.node(), nodes.node());
    let mut browser = first_write(&one, dark()).await;
    let _ = browser.read(&two).await;
    let bytes = two.sessions.stats().bytes;
    assert!(bytes < 400, "a record without a watch and without a write on this node: {bytes}");
}

/// A store that still has this many steps of maintenance to do.
#[derive(Clone, Debug)]
struct Aged(SpyStore, Arc<Mutex<u32>>);

impl Store for Aged {
    fn name(&self) -> &'static str {
        "aged"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        self.0.read(asks)
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        self.0.commit(commit)
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        self.0.touch(touches)
    }

    fn maintain(&self) -> StoreFuture<'_, bool> {
        let mut left = self.1.lock().unwrap();
        *left -= 1;
        StoreFuture::ready(Ok(!left.is_multiple_of(3)))
    }
}

#[tokio::test]
async fn sweeper_maintains_the_store_once_a_minute() {
    let store = Aged(SpyStore::new(), Arc::new(Mutex::new(6)));
    let tier = store.clone();
    let app = App::with(move |sessions| sessions.tier(SharedTier::new(tier.clone())));
    let sweeper = tokio::spawn(app.node.sessions.sweeper());
    settled().await;
    for left in [6, 3, 0] {
        assert_eq!(*store.1.lock().unwrap(), left, "three steps a minute");
        app.pass(Duration::from_secs(60));
        settled().await;
        if left == 3 {
            app.node.sessions.shutdown();
            settled().await;
        }
    }
    soon(sweeper).await.unwrap();
}
