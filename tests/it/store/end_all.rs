//! The end of all sessions of a user over a shared store: every node obeys, also a restarted node and a busy node.

use std::time::Duration;

use futures_util::FutureExt;
use layered_session::{
    CloseReason, Lifetime, Principal, WriteErrorKind,
    testing::{ManualClock, Operation, SpyStore},
};

use crate::{
    support::{Browser, Node, Visits, bare, kind, ring, set, sign_in, signed_in, theme, under_way},
    writes::stored,
};

async fn user(browser: &Browser, node: &Node) -> Option<Principal> {
    browser.clone().visit(node, async |session| session.principal()).await
}

// R6: a cold node, a restarted node and a node with both records in memory.
#[tokio::test]
async fn end_all_reaches_every_node() {
    let (_, app) = stored();
    let (mut here, there) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "ada").await);
    let warm = app.start();
    assert!(user(&there, &warm).await.is_some());
    here.visit(&app.node, async |session| session.end_all_sessions().await.unwrap()).await;
    for node in [&app.node, &app.start(), &app.start()] {
        assert_eq!(user(&there, node).await, None);
    }
    app.pass(Duration::from_secs(30));
    assert_eq!(user(&there, &warm).await, None, "a node asks the store again after 30 seconds");
    let again = signed_in(&warm, "ada").await;
    for node in [&warm, &app.node, &app.start()] {
        assert!(user(&again, node).await.is_some(), "a later sign-in");
    }
}

// R6: a job ends the sessions of a user whom its node has never seen.
#[tokio::test]
async fn end_all_by_a_job_reaches_every_node() {
    let (_, app) = stored();
    let browser = signed_in(&app.node, "ada").await;
    app.start().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
}

// R6: the last end of all sessions is ahead of the store's clock, and so is the birth of each session since.
#[tokio::test]
async fn second_end_all_covers_sessions_begun_since_the_first() {
    let (store, app) = stored();
    let _store = store.expire_by(app.clock.clone());
    let fast = ManualClock::new();
    fast.advance(Duration::from_secs(1));
    let fast = app.start_at(&fast);
    fast.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    let mut browser = signed_in(&fast, "ada").await;
    for _ in 0..3 {
        set(&mut browser, &fast, theme("dark")).await;
        browser.visit(&fast, async |session| session.renew().await.unwrap()).await;
    }
    assert!(user(&browser, &app.start()).await.is_some());
    app.start().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
}

// R6: the session's earlier user has values whose versions are ahead of the store's clock.
#[tokio::test]
async fn end_all_covers_session_of_an_earlier_user() {
    let (store, app) = stored();
    let _store = store.expire_by(app.clock.clone());
    let fast = ManualClock::new();
    fast.advance(Duration::from_secs(1));
    let fast = app.start_at(&fast);
    fast.sessions.end_all_sessions(Principal::new("bob")).await.unwrap();
    let mut browser = signed_in(&fast, "bob").await;
    sign_in(&mut browser, &fast, "ada").await;
    app.start().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
}

// R6: the new id of a renewed session is younger than the end of all sessions, which the renewing node has not seen.
#[tokio::test]
async fn renewal_carries_no_revoked_session_on() {
    let (_, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    let session = under_way(&browser, &app.node).await;
    app.start().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(kind(session.renew().await), Some(WriteErrorKind::Closed));
    assert_eq!(session.closed().await, CloseReason::Revoked);
    let renewed = browser.visit(&app.node, async |session| kind(session.renew().await)).await;
    assert_ne!(renewed, None);
    for node in [&app.node, &app.start()] {
        assert_eq!(user(&browser, node).await, None);
    }
}

#[tokio::test]
async fn ending_other_sessions_keeps_the_renewed_session() {
    let (_, app) = stored();
    let (mut here, other) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "ada").await);
    here.visit(&app.start(), async |session| session.end_other_sessions().await.unwrap()).await;
    for node in [&app.start(), &app.start()] {
        assert_eq!((user(&here, node).await.is_some(), user(&other, node).await), (true, None));
    }
}

// R6: two tabs of a session call at once, and the second call must not end the session that the first call renews.
#[tokio::test]
async fn concurrent_ends_of_other_sessions_keep_the_renewed_session() {
    let (store, app) = stored();
    let browser = signed_in(&app.node, "ada").await;
    let tabs = [under_way(&browser, &app.node).await, under_way(&browser, &app.node).await];
    store.hold_requests(Operation::Revoke);
    let mut first = Box::pin(tabs[0].end_other_sessions());
    let mut second = Box::pin(tabs[1].end_other_sessions());
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    store.release();
    first.await.unwrap();
    assert_eq!(kind(second.await), Some(WriteErrorKind::Closed));
    tabs[0].set(Visits(1)).await.unwrap();
}

// R6: the session of the call is over by the lifetime that another node has set.
#[tokio::test]
async fn end_of_other_sessions_by_an_expired_session_ends_no_session() {
    let (_, app) = stored();
    let (browser, phone) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "ada").await);
    let stale = under_way(&browser, &app.start()).await;
    let cut = Lifetime::new(Duration::from_secs(60), Duration::from_secs(120)).unwrap();
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
    app.pass(Duration::from_secs(300));
    assert_eq!(kind(stale.end_other_sessions().await), Some(WriteErrorKind::Closed));
    assert!(user(&phone, &app.start()).await.is_some());
}

#[tokio::test]
async fn failed_end_all_ends_no_session() {
    let (store, app) = stored();
    let browser = signed_in(&app.node, "ada").await;
    let ada = || Principal::new("ada");
    let job = app.node.sessions.for_principal(ada()).await.unwrap();
    store.fail();
    let ended = app.node.sessions.end_all_sessions(ada()).await;
    assert_eq!(kind(ended), Some(WriteErrorKind::Unavailable));
    store.heal();
    assert_eq!(user(&browser, &app.node).await, Some(ada()));
    drop(job);
}

// The cookie alone can't tell of the end of other cookies, but the store can.
#[tokio::test]
async fn store_keeps_the_end_without_memory() {
    let (ring, clock) = (ring(), layered_session::testing::ManualClock::new());
    let store = SpyStore::new();
    let node = || {
        let chain = bare(&ring, &clock).value::<crate::support::Theme>();
        let chain = chain.identify_by::<crate::support::User>(crate::support::named);
        Node::new(chain.tier(layered_session::SharedTier::new(store.clone())).build().unwrap())
    };
    let browser = signed_in(&node(), "ada").await;
    node().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&browser, &node()).await, None);
}
