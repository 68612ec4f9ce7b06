//! The scripted store: late answers, lost races, sessions ended elsewhere, and recorded calls.

use std::future::Future;

use futures_util::FutureExt;
use layered_session::{
    Session, Sessions, SharedTier, WriteErrorKind,
    testing::{ManualClock, Operation, SpyStore, TestSession, session},
};

use super::chain;
use crate::support::{HOUR, TICK, Theme, ticking};

fn theme(name: &str) -> Theme {
    Theme(name.into())
}

/// Sessions over the store without memory, so that every request asks the store.
fn over(store: &SpyStore, clock: &ManualClock) -> Sessions {
    chain(false)
        .tier(SharedTier::new(store.clone()))
        .idle(HOUR)
        .absolute(2 * HOUR)
        .clock(clock.clone())
        .build()
        .unwrap()
}

fn waits<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    future.now_or_never().is_none()
}

/// Begins a session with a theme, and returns the next request of its browser.
async fn begun(sessions: &Sessions) -> http::Request<()> {
    session(sessions).with(theme("dark")).into_request().await.unwrap()
}

fn again(sessions: &Sessions, request: &http::Request<()>) -> TestSession {
    session(sessions).header("cookie", request.headers()["cookie"].clone())
}

#[tokio::test]
async fn held_request_waits_for_release() {
    let (store, clock) = (SpyStore::new(), ManualClock::new());
    let handle = session(&over(&store, &clock)).await.unwrap();
    store.hold_requests(Operation::Create);
    let mut write = Box::pin(handle.set(theme("dark")));
    assert!(waits(&mut write));
    assert_eq!(store.take_operations(), []);
    store.release();
    write.await.unwrap();
    assert_eq!(store.take_operations(), [Operation::Create]);
}

#[tokio::test]
async fn held_answer_arrives_after_release() {
    let (store, clock) = (SpyStore::new(), ManualClock::new());
    let sessions = over(&store, &clock);
    let request = begun(&sessions).await;
    let handle = Session::load(request.extensions()).await.unwrap();
    store.take_operations();
    store.hold_answers(Operation::Update);
    let write = tokio::spawn({
        let handle = handle.clone();
        async move { handle.set(theme("light")).await }
    });
    crate::support::settled().await;
    assert!(!write.is_finished());
    assert_eq!(store.take_operations(), [Operation::Update]);
    let other = again(&sessions, &request).await.unwrap();
    assert_eq!(other.value::<Theme>(), theme("light"), "the store has carried the write out");
    store.release();
    write.await.unwrap().unwrap();
}

#[tokio::test]
async fn held_read_delays_load() {
    let (store, clock) = (SpyStore::new(), ManualClock::new());
    let sessions = over(&store, &clock);
    let request = begun(&sessions).await;
    store.hold_requests(Operation::Read);
    let mut load = again(&sessions, &request).into_future();
    assert!(waits(&mut load));
    store.release();
    assert_eq!(load.await.unwrap().value::<Theme>(), theme("dark"));
}

#[tokio::test]
async fn outdated_write_is_retried() {
    let (store, clock) = (SpyStore::new(), ManualClock::new());
    let handle = session(&over(&store, &clock)).with(theme("dark")).await.unwrap();
    store.take_operations();
    store.outdate(1);
    handle.set(theme("light")).await.unwrap();
    assert_eq!((store.take_operations(), store.left_to_outdate()), (vec![Operation::Update; 2], 0));
    store.outdate(1000);
    let lost = ticking(&clock, handle.set(theme("dark"))).await;
    assert_eq!(lost.unwrap_err().kind(), WriteErrorKind::Contended);
    assert!(store.left_to_outdate() > 0);
}

#[tokio::test]
async fn spy_store_ends_and_forgets_records() {
    for end in [SpyStore::end_records, SpyStore::forget_records] {
        let (store, clock) = (SpyStore::new(), ManualClock::new());
        let sessions = over(&store, &clock);
        let request = begun(&sessions).await;
        assert_eq!(again(&sessions, &request).await.unwrap().get(), Some(theme("dark")));
        end(&store);
        assert_eq!(again(&sessions, &request).await.unwrap().get::<Theme>(), None);
    }
}

#[tokio::test]
async fn records_expire_by_store_clock() {
    for (passes, found) in [(HOUR * 21 / 10 - TICK, Some(theme("dark"))), (HOUR * 21 / 10, None)] {
        let (clock, ahead) = (ManualClock::new(), ManualClock::new());
        let store = SpyStore::new().expire_by(ahead.clone());
        let sessions = over(&store, &clock);
        let request = begun(&sessions).await;
        ahead.advance(passes);
        assert_eq!(again(&sessions, &request).await.unwrap().get(), found);
    }
}

#[tokio::test]
async fn recorded_calls_name_owner_and_span() {
    let (store, clock) = (SpyStore::new(), ManualClock::new());
    let handle = session(&over(&store, &clock)).await.unwrap();
    handle.set(theme("dark")).await.unwrap();
    handle.destroy().await.unwrap();
    let calls = store.take_calls();
    assert_eq!(calls.iter().map(|call| call.operation()).collect::<Vec<_>>(), [Operation::Create, Operation::End]);
    assert!(calls[0].owner() == calls[1].owner());
    assert_eq!(calls[0].keep(), Some(HOUR * 21 / 10), "the idle lifetime, a tenth, and `max_skew`");
    assert_eq!(store.take_calls(), []);
}
