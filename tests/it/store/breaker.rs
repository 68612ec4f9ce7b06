//! A store that gives no answer: after five calls in a row the node stops asking for a while.

use std::time::Duration;

use layered_session::{
    Clock, Principal, WriteErrorKind,
    testing::{Operation, SpyStore},
    tier::StoreErrorKind,
};

use crate::{
    support::{App, Node, Trace, Visits, at_once, ticking, under_way},
    writes::stored,
};

const SECOND: Duration = Duration::from_secs(1);

/// Loads the record of a user whom the node has not seen yet.
async fn load(node: &Node, user: usize) -> Result<(), StoreErrorKind> {
    node.sessions.for_principal(Principal::new(user)).await.map(drop).map_err(|error| error.kind())
}

/// An application whose node has just stopped asking the store.
async fn paused() -> (SpyStore, App) {
    let (store, app) = stored();
    store.fail_as(StoreErrorKind::Link);
    for user in 0..5 {
        assert_eq!(load(&app.node, user).await, Err(StoreErrorKind::Link));
    }
    store.heal();
    store.take_operations();
    (store, app)
}

// A page of ten requests.
#[tokio::test]
async fn outage_costs_five_deadlines_at_most() {
    let (store, app) = stored();
    store.hold_answers(Operation::Read);
    let mut waits = Vec::new();
    for user in 0..10 {
        let begin = app.clock.monotonic();
        let failed = ticking(&app.clock, load(&app.node, user)).await.unwrap_err();
        waits.push((app.clock.monotonic() - begin, failed));
    }
    let late = (Duration::from_millis(250), StoreErrorKind::Timeout);
    assert_eq!(waits, [[late; 5], [(Duration::ZERO, StoreErrorKind::NotAsked); 5]].concat());
    assert_eq!(store.take_operations(), [Operation::Read; 5]);
    let stats = app.node.sessions.stats();
    assert_eq!((stats.store_failures, stats.store_open), (10, true));
}

#[tokio::test]
async fn probe_ends_the_pause() {
    let (trace, _guard) = Trace::begin();
    let (store, app) = paused().await;
    app.pass(SECOND - Duration::from_millis(1));
    assert_eq!(load(&app.node, 5).await, Err(StoreErrorKind::NotAsked));
    app.pass(Duration::from_millis(1));
    assert_eq!(load(&app.node, 5).await, Ok(()));
    assert_eq!(store.take_operations(), [Operation::Read]);
    assert!(!app.node.sessions.stats().store_open);
    let traced = ["stops asking the store", "answers again"].map(|text| trace.lines_with(text));
    assert_eq!(traced, [1, 1], "{}", trace.text());
}

#[tokio::test]
async fn failed_probe_doubles_the_pause() {
    let (store, app) = paused().await;
    store.fail_as(StoreErrorKind::Timeout);
    app.pass(SECOND);
    assert_eq!(load(&app.node, 5).await, Err(StoreErrorKind::Timeout));
    app.pass(2 * SECOND - Duration::from_millis(1));
    assert_eq!(load(&app.node, 5).await, Err(StoreErrorKind::NotAsked));
    store.heal();
    app.pass(Duration::from_millis(1));
    assert_eq!(load(&app.node, 5).await, Ok(()));
}

#[tokio::test]
async fn one_request_probes_at_a_time() {
    let (store, app) = paused().await;
    app.pass(SECOND);
    store.hold_answers(Operation::Read);
    let mut probe = Box::pin(load(&app.node, 5));
    assert!(at_once(probe.as_mut()).is_none());
    assert_eq!(load(&app.node, 6).await, Err(StoreErrorKind::NotAsked));
    store.release();
    assert_eq!(probe.await, Ok(()));
    assert_eq!(load(&app.node, 6).await, Ok(()));
}

// The client of the probing request leaves.
#[tokio::test]
async fn dropped_probe_is_replaced() {
    let (store, app) = paused().await;
    app.pass(SECOND);
    store.hold_answers(Operation::Read);
    let mut probe = Box::pin(load(&app.node, 5));
    assert!(at_once(probe.as_mut()).is_none());
    drop(probe);
    store.release();
    assert_eq!(load(&app.node, 6).await, Ok(()));
    assert!(!app.node.sessions.stats().store_open);
}

// No write reaches the store during the pause, so memory need not ask again.
#[tokio::test]
async fn write_during_pause_leaves_no_doubt() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let session = under_way(&browser, &app.node).await;
    store.fail_as(StoreErrorKind::Link);
    for user in 0..5 {
        load(&app.node, user).await.unwrap_err();
    }
    let error = session.set(Visits(1)).await.unwrap_err();
    assert_eq!(error.kind(), WriteErrorKind::Unavailable);
    assert!(error.to_string().contains("is not asked for the moment"), "{error}");
    store.heal();
    store.take_operations();
    browser.theme(&app.node).await;
    app.pass(SECOND);
    assert_eq!(store.take_operations(), []);
    session.set(Visits(1)).await.unwrap();
}

// A store that refuses writes answers.
#[tokio::test]
async fn full_store_is_asked_on() {
    let (store, app) = stored();
    for kind in [StoreErrorKind::Full, StoreErrorKind::ReadOnly, StoreErrorKind::Loading, StoreErrorKind::Other] {
        store.fail_as(kind);
        for user in 0..6 {
            assert_eq!(load(&app.node, user).await, Err(kind));
        }
    }
}
