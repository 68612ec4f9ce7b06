//! The record of an ended session shrinks to a tombstone at once, however the node learns of the end.

use std::time::Duration;

use layered_session::{
    Placement, Principal, Scope, Session, SessionValue, Sessions, SharedTier, WriteErrorKind,
    testing::{Operation, SpyStore},
};
use serde::{Deserialize, Serialize};

use crate::support::{App, Browser, Node, Theme, at_once, first_write, kind, signed_in, under_way};

/// A value in memory alone, so that the value may be long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(String);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const SCOPE: Scope = Scope::Session;
    const PLACEMENT: Placement = Placement::Volatile;
}

const LONG: usize = 100_000;

fn bytes(sessions: &Sessions) -> usize {
    sessions.stats().bytes
}

async fn drafting(browser: &mut Browser, node: &Node) -> Session {
    let session = browser.visit(node, async |session| {
        session.set(Draft("x".repeat(LONG))).await.unwrap();
        session
    });
    let session = session.await;
    assert!(bytes(&node.sessions) > LONG);
    session
}

#[tokio::test]
async fn revoked_session_frees_memory() {
    let node = App::new().start_with(|sessions| sessions.value::<Draft>());
    let session = drafting(&mut signed_in(&node, "ada").await, &node).await;
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(session.get::<Draft>(), None);
    assert!(bytes(&node.sessions) < LONG, "{:?}", node.sessions.stats());
}

#[tokio::test]
async fn session_ended_in_store_frees_memory() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = || app.start_with(|sessions| sessions.value::<Draft>().tier(SharedTier::new(store.clone())));
    let (here, elsewhere) = (node(), node());
    let mut browser = Browser::new();
    let session = drafting(&mut browser, &here).await;
    browser.clone().visit(&elsewhere, async |session| session.destroy().await.unwrap()).await;
    // A write with an unknown outcome makes this node ask the store.
    store.fail();
    session.set(Theme("dark".into())).await.unwrap_err();
    store.heal();
    assert_eq!(browser.visit(&here, async |session| session.get::<Draft>()).await, None);
    assert!(bytes(&here.sessions) < LONG, "{:?}", here.sessions.stats());
}

#[tokio::test]
async fn refused_renewal_frees_memory() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = || app.start_with(|sessions| sessions.value::<Draft>().tier(SharedTier::new(store.clone())));
    let (here, elsewhere) = (node(), node());
    let mut browser = Browser::new();
    drop(drafting(&mut browser, &here).await);
    let session = under_way(&browser, &here).await;
    browser.visit(&elsewhere, async |session| session.destroy().await.unwrap()).await;
    let refused = at_once(session.renew()).expect("a store that answers at once");
    assert_eq!(kind(refused), Some(WriteErrorKind::Closed));
    assert!(bytes(&here.sessions) < LONG, "{:?}", here.sessions.stats());
}

// G4, G13: the store tells no time of the end, so the minute begins with the first request that brings the id.
#[tokio::test]
async fn ended_session_asks_store_once() {
    let (app, store) = (App::new(), SpyStore::new());
    let [here, there] = [(); 2].map(|()| app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone()))));
    let mut browser = first_write(&there, Theme("dark".into())).await;
    let late = browser.clone();
    browser.visit(&there, async |session| session.destroy().await.unwrap()).await;
    store.take_operations();
    let write = async |session: Session| session.set(Theme("light".into())).await.map_err(|error| error.kind());
    for _ in 0..2 {
        assert_eq!(late.clone().visit(&here, write).await, Err(WriteErrorKind::Closed));
    }
    assert_eq!(store.take_operations(), [Operation::Read]);
    app.pass(Duration::from_secs(60));
    assert_eq!(late.clone().visit(&here, write).await, Ok(()));
}
