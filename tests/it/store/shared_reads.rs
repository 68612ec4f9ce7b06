//! Loads of the same owner share one read of the store, and a load reads the session and the user at once. An owner that the store does not know is remembered for a
//! while.

use std::time::Duration;

use layered_session::{
    Principal, Session, SharedTier,
    testing::{ManualClock, Operation, SpyStore},
    tier::{Ask, Commit, Committed, Snapshot, Store, StoreFuture, Touch},
};

use crate::{
    support::{App, Browser, Division, Node, Theme, User, at_once, bare, dark, named, ring, set, signed_in},
    writes::stored,
};

/// Loads the session in many requests at once, of which the store answers none before all have begun.
async fn load_at_once(store: &SpyStore, node: &Node, browser: &Browser, loads: usize) -> Vec<(Theme, Option<User>)> {
    store.take_operations();
    store.hold_answers(Operation::Read);
    let load = |mut browser: Browser| {
        Box::pin(async move {
            browser.visit(node, async |session: Session| (session.value::<Theme>(), session.get::<User>())).await
        })
    };
    let mut loads: Vec<_> = (0..loads).map(|_| load(browser.clone())).collect();
    for load in &mut loads {
        assert!(at_once(load.as_mut()).is_none());
    }
    store.release();
    futures_util::future::join_all(loads).await
}

#[tokio::test]
async fn fifty_cold_loads_share_one_read() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let seen = load_at_once(&store, &app.start(), &browser, 50).await;
    assert!(seen.iter().all(|seen| *seen == (dark(), None)));
    assert_eq!(store.take_operations(), [Operation::Read]);
}

#[tokio::test]
async fn cold_loads_of_a_user_read_each_owner_once() {
    let (store, app) = stored();
    let browser = signed_in(&app.node, "ada").await;
    let seen = load_at_once(&store, &app.start(), &browser, 50).await;
    assert!(seen.iter().all(|(_, user)| *user == Some(User("ada".into()))));
    let mut owners: Vec<_> = store.take_calls().iter().flat_map(|call| call.owners().to_vec()).collect();
    owners.sort();
    assert_eq!(owners.len(), 2);
    owners.dedup();
    assert_eq!(owners.len(), 2);
}

#[tokio::test]
async fn cold_signed_in_load_reads_once() {
    let (store, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    browser.visit(&app.node, async |session| session.set(Division(3)).await.unwrap()).await;
    let cold = app.start();
    store.take_calls();
    let seen = async |session: Session| (session.get::<User>(), session.value::<Division>());
    assert_eq!(browser.visit(&cold, seen).await, (Some(User("ada".into())), Division(3)));
    let owners: Vec<_> = store.take_calls().iter().map(|call| call.owners().len()).collect();
    assert_eq!(owners, [2], "one call for the session and the user");
    app.pass(Duration::from_secs(30));
    assert_eq!(browser.visit(&cold, seen).await.1, Division(3));
    let owners: Vec<_> = store.take_calls().iter().map(|call| call.owners().len()).collect();
    assert_eq!(owners, [2], "memory asks again in one call");
}

/// A store in which every session belongs to bob.
#[derive(Clone, Debug)]
struct Bobs(SpyStore);

impl Store for Bobs {
    fn name(&self) -> &'static str {
        "bobs"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        let with_bob = |snapshot| match snapshot {
            Snapshot::Present(stored) if stored.life().is_some() => {
                let newest = stored.newest();
                Snapshot::Present(stored.with_entry("user", Some(r#""bob""#.into()), newest))
            }
            other => other,
        };
        StoreFuture::boxed(async move { Ok(self.0.read(asks).await?.into_iter().map(with_bob).collect()) })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        self.0.commit(commit)
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        self.0.touch(touches)
    }
}

#[tokio::test]
async fn other_user_in_store_costs_another_read() {
    let store = SpyStore::new();
    let tier = Bobs(store.clone());
    let app = App::with(move |sessions| sessions.tier(SharedTier::new(tier.clone())));
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, dark()).await;
    app.node.sessions.for_principal(Principal::new("bob")).await.unwrap().set(Division(3)).await.unwrap();
    let cold = app.start();
    store.take_calls();
    let seen = async |session: Session| (session.get::<User>(), session.value::<Division>());
    assert_eq!(browser.visit(&cold, seen).await, (Some(User("bob".into())), Division(3)));
    let owners: Vec<_> = store.take_calls().iter().map(|call| call.owners().len()).collect();
    assert_eq!(owners, [2, 1]);
}

// The node remembers the absence of the session, and so does not ask for the user.
#[tokio::test]
async fn unknown_session_of_a_user_is_asked_once() {
    let store = SpyStore::new();
    let node = forgetful(&store);
    let browser = signed_in(&node, "ada").await;
    store.forget_records();
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(3)).await.unwrap();
    store.take_operations();
    for _ in 0..20 {
        assert_eq!(browser.clone().visit(&node, async |session| session.get::<User>()).await, None);
    }
    assert_eq!(store.take_operations(), [Operation::Read]);
}

#[tokio::test]
async fn shared_failure_fails_each_load() {
    let (store, app) = stored();
    store.hold_requests(Operation::Read);
    let mut loads = [(); 6].map(|()| Box::pin(app.node.sessions.for_principal(Principal::new("ada"))));
    for load in &mut loads {
        assert!(at_once(load.as_mut()).is_none());
    }
    app.pass(Duration::from_millis(250));
    for load in loads {
        assert!(load.await.is_err());
    }
    let stats = app.node.sessions.stats();
    assert_eq!((stats.store_failures, stats.store_open), (6, false), "the six loads are one failed call");
}

// The client of the request whose load began the read leaves.
#[tokio::test]
async fn load_survives_the_client_that_began_it() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let cold = app.start();
    store.take_operations();
    store.hold_answers(Operation::Read);
    let mut first = Box::pin(browser.theme(&cold));
    assert!(at_once(first.as_mut()).is_none());
    let second = tokio::spawn({
        let (browser, cold) = (browser.clone(), cold.clone());
        async move { browser.theme(&cold).await }
    });
    crate::support::settled().await;
    drop(first);
    store.release();
    assert_eq!(crate::support::soon(second).await.unwrap(), dark());
    assert_eq!(store.take_operations(), [Operation::Read]);
}

#[tokio::test]
async fn unknown_session_is_asked_once_in_five_seconds() {
    let (store, app) = stored();
    let browser = app.dark().await;
    store.forget_records();
    let cold = app.start();
    store.take_operations();
    for _ in 0..20 {
        assert_eq!(browser.theme(&cold).await, Theme::default());
    }
    assert_eq!(store.take_operations(), [Operation::Read]);
    app.pass(Duration::from_millis(4_999));
    assert_eq!(browser.theme(&cold).await, Theme::default());
    assert_eq!(store.take_operations(), []);
    app.pass(Duration::from_millis(1));
    assert_eq!(browser.theme(&cold).await, Theme::default());
    assert_eq!(store.take_operations(), [Operation::Read]);
    assert_eq!(cold.sessions.stats().records, 0);
}

/// A node without memory, whose every load reads the store.
fn forgetful(store: &SpyStore) -> Node {
    let chain = bare(&ring(), &ManualClock::new()).value::<Division>().identify_by::<User>(named);
    Node::new(chain.tier(SharedTier::new(store.clone())).build().unwrap())
}

#[tokio::test]
async fn first_write_ends_the_memory_of_absence() {
    let store = SpyStore::new();
    let node = forgetful(&store);
    let ada = async || node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    let handle = ada().await;
    assert_eq!(ada().await.get::<Division>(), None);
    assert_eq!(store.take_operations(), [Operation::Read], "the absence is remembered");
    handle.set(Division(1)).await.unwrap();
    assert_eq!(ada().await.get::<Division>(), Some(Division(1)));
}

// The store has answered the first load before the write, and the answer arrives after the write.
#[tokio::test]
async fn load_after_write_sees_the_write() {
    let store = SpyStore::new();
    let node = forgetful(&store);
    let ada = || node.sessions.for_principal(Principal::new("ada"));
    let handle = ada().await.unwrap();
    handle.set(Division(1)).await.unwrap();
    store.hold_answers(Operation::Read);
    let mut before = Box::pin(ada());
    assert!(at_once(before.as_mut()).is_none());
    handle.set(Division(2)).await.unwrap();
    let mut after = Box::pin(ada());
    assert!(at_once(after.as_mut()).is_none());
    store.release();
    assert_eq!(before.await.unwrap().get::<Division>(), Some(Division(1)));
    assert_eq!(after.await.unwrap().get::<Division>(), Some(Division(2)));
}
