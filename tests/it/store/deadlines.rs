//! A store that does not answer in time.

use std::time::Duration;

use layered_session::{
    BuildErrorKind, Principal, SharedTier, WriteErrorKind,
    testing::{Operation, SpyStore},
    tier::StoreErrorKind,
};

use crate::{
    support::{App, Visits, at_once, first_write, get, settled, under_way},
    writes::stored,
};

const MS: Duration = Duration::from_millis(1);

// R-13 of a slow store: the deadline includes the wait for a connection, so the call is held before the store has it.
#[tokio::test]
async fn late_read_fails_load_at_deadline() {
    for held in [SpyStore::hold_requests, SpyStore::hold_answers] {
        let (store, app) = stored();
        held(&store, Operation::Read);
        let mut load = Box::pin(app.node.sessions.for_principal(Principal::new("ada")));
        assert!(at_once(load.as_mut()).is_none());
        app.pass(249 * MS);
        assert!(at_once(load.as_mut()).is_none(), "the deadline has not come");
        app.pass(MS);
        let error = load.await.unwrap_err();
        assert_eq!((error.kind(), app.node.sessions.stats().store_failures), (StoreErrorKind::Timeout, 1));
        store.release();
        app.node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    }
}

#[tokio::test]
async fn deadline_follows_its_setting() {
    let store = SpyStore::new();
    let app = App::new();
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone()).deadline(3000 * MS)));
    store.hold_requests(Operation::Read);
    let mut load = Box::pin(node.sessions.for_principal(Principal::new("ada")));
    assert!(at_once(load.as_mut()).is_none());
    app.pass(2999 * MS);
    assert!(at_once(load.as_mut()).is_none());
    app.pass(MS);
    assert!(load.await.is_err());
}

// The store has taken the write, and its answer is late.
#[tokio::test]
async fn late_write_makes_next_load_ask() {
    let (store, app) = stored();
    let mut browser = first_write(&app.node, Visits(1)).await;
    let session = under_way(&browser, &app.node).await;
    store.hold_answers(Operation::Update);
    let write = tokio::spawn(async move { session.set(Visits(2)).await });
    settled().await;
    app.pass(250 * MS);
    let error = write.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), WriteErrorKind::Unavailable);
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    store.release();
    store.take_operations();
    assert_eq!(get::<Visits>(&mut browser, &app.node).await, Visits(2));
    assert_eq!(store.take_operations(), [Operation::Read]);
}

#[test]
fn impossible_deadline_fails_build() {
    let app = App::new();
    for (deadline, refused) in [(Duration::ZERO, true), (MS, false), (60_000 * MS, false), (60_001 * MS, true)] {
        let chain = app.chain(layered_session::DefaultTier::new());
        let built = chain.tier(SharedTier::new(SpyStore::new()).deadline(deadline)).build();
        let kind = built.map_err(|error| error.kind()).err();
        assert_eq!(kind, refused.then_some(BuildErrorKind::Setting), "{deadline:?}");
    }
}
