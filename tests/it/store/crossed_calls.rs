//! Calls of two nodes that cross: ends, renewals, clears and lost answers that the other node has not seen.

use std::time::Duration;

use futures_util::FutureExt;
use layered_session::{
    Principal, Session, WriteErrorKind,
    testing::{ManualClock, Operation},
};

use crate::{
    support::{
        App, Browser, Division, Node, Theme, Visits, get, kind, set, settled, sign_in, signed_in, socket, theme,
        ticking, under_way,
    },
    writes::stored,
};

/// A node whose clock is a second ahead.
fn fast(app: &App) -> Node {
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(1));
    app.start_at(&clock)
}

async fn user(browser: &Browser, node: &Node) -> Option<Principal> {
    browser.clone().visit(node, async |session| session.principal()).await
}

fn ada() -> Principal {
    Principal::new("ada")
}

// G11: the first read of a session counts no later write as read.
#[tokio::test]
async fn lost_answer_makes_cold_nodes_next_load_ask() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let other = app.start();
    let handle = under_way(&browser, &other).await;
    store.hold_answers(Operation::Update);
    assert!(handle.set(theme("light")).now_or_never().is_none());
    store.release();
    assert_eq!(browser.theme(&other).await, theme("light"));
}

// R6: the end of the other sessions is ahead of the store's clock.
#[tokio::test]
async fn renewal_lives_after_fast_nodes_end_of_others() {
    let (_, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    browser.visit(&fast(&app), async |session| session.end_other_sessions().await.unwrap()).await;
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(user(&browser, &app.start()).await, Some(ada()));
    app.node.sessions.end_all_sessions(ada()).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
}

// R6: the sign-in of a node whose clock is ahead.
#[tokio::test]
async fn end_all_ends_fast_nodes_sign_in() {
    let (_, app) = stored();
    let mut browser = app.dark().await;
    sign_in(&mut browser, &fast(&app), "ada").await;
    app.node.sessions.end_all_sessions(ada()).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
}

// R6: the node has lately found no record of the user.
#[tokio::test]
async fn end_all_reaches_node_without_users_record() {
    let (_, app) = stored();
    let browser = signed_in(&app.node, "ada").await;
    let other = app.start();
    let _ = signed_in(&other, "ada").await;
    app.node.sessions.end_all_sessions(ada()).await.unwrap();
    assert_eq!(user(&browser, &other).await, None);
}

// R6: the node has not seen the end of all sessions.
#[tokio::test]
async fn end_of_others_revives_no_revoked_session() {
    let (_, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    app.start().sessions.end_all_sessions(ada()).await.unwrap();
    let ended = browser.visit(&app.node, async |session| session.end_other_sessions().await).await;
    assert_eq!(kind(ended), Some(WriteErrorKind::Closed));
    assert_eq!(user(&browser, &app.start()).await, None);
}

// G18: the record came while notices were lost.
#[tokio::test]
async fn notices_end_the_memory_of_absence() {
    let (_, app) = stored();
    let other = app.start();
    let look = async || other.sessions.for_principal(ada()).await.unwrap().get::<Division>();
    assert_eq!(look().await, None);
    let job = app.node.sessions.for_principal(ada()).await.unwrap();
    job.set(Division(3)).await.unwrap();
    let _follower = tokio::spawn(other.sessions.follow());
    settled().await;
    assert_eq!(look().await, Some(Division(3)));
}

// G11: the store has ended the session, and memory has not.
#[tokio::test]
async fn renewal_dropped_after_its_end_rereads() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let renewing = under_way(&browser, &app.node).await;
    set(&mut browser.clone(), &app.start(), Visits(1)).await;
    store.hold_requests(Operation::Update);
    assert!(renewing.renew().now_or_never().is_none());
    store.release();
    drop(renewing);
    assert_eq!(browser.theme(&app.node).await, Theme::default());
}

// G12: the cookie has a value that the clearing node did not know.
#[tokio::test]
async fn cookie_restores_no_cleared_value() {
    let (_, app) = stored();
    let mut browser = app.dark().await;
    let live = socket(&browser, &app.node).await;
    set(&mut browser, &app.start(), Visits(1)).await;
    live.clear().await.unwrap();
    assert_eq!(get::<Visits>(&mut browser, &app.node).await, Visits(0));
}

// G9: another handle of the node writes while the clear is under way.
#[tokio::test]
async fn clear_removes_values_written_meanwhile() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let live = socket(&browser, &app.node).await;
    store.hold_requests(Operation::Clear);
    let mut clearing = Box::pin(live.clear());
    assert!(clearing.as_mut().now_or_never().is_none());
    let other = socket(&browser, &app.node).await;
    other.set(Visits(1)).await.unwrap();
    store.release();
    clearing.await.unwrap();
    assert_eq!((other.get::<Visits>(), other.get::<Theme>()), (None, None));
    assert_eq!(browser.theme(&app.start()).await, Theme::default());
}

// G12: the answer to a write comes after the answer to the clear that removed the value.
#[tokio::test]
async fn late_answer_brings_back_no_cleared_value() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    set(&mut browser, &app.node, Visits(1)).await;
    let session = under_way(&browser, &app.node).await;
    store.hold_answers(Operation::Update);
    let writing = tokio::spawn({
        let session = session.clone();
        async move { session.batch().set(theme("light")).set(Visits(2)).commit().await }
    });
    settled().await;
    let clear = session.clone();
    clear.clear().await.unwrap();
    store.release();
    writing.await.unwrap().unwrap();
    assert_eq!((session.get::<Theme>(), session.get::<Visits>()), (None, None));
    session.set(Visits(3)).await.unwrap();
    assert_eq!(session.get(), Some(Visits(3)));
}

// G9: the commit that brings the new session the writes of another node fails.
#[tokio::test]
async fn renewal_keeps_writes_whose_carrying_failed() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    set(&mut browser.clone(), &app.start(), Visits(7)).await;
    let renew = async |session: Session| {
        store.hold_requests(Operation::Update);
        kind(session.renew().await)
    };
    assert_eq!(ticking(&app.clock, browser.visit(&app.node, renew)).await, None);
    store.release();
    assert_eq!(get::<Visits>(&mut browser, &app.node).await, Visits(7));
    assert_eq!(get::<Visits>(&mut browser, &app.start()).await, Visits(7));
}

// R6: this node has not seen the renewal on the other node.
#[tokio::test]
async fn end_of_others_after_a_remote_renewal_ends_nothing() {
    let (_, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    let other = app.start();
    assert_eq!(user(&browser, &other).await, Some(ada()));
    let late = under_way(&browser, &other).await;
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(kind(late.end_other_sessions().await), Some(WriteErrorKind::Closed));
    assert_eq!(user(&browser, &app.start()).await, Some(ada()));
}

// G13: the sign-out comes to the store after the end of the old id, and so ends the new id there.
#[tokio::test]
async fn sign_out_beside_renewal_ends_new_session_here_too() {
    let (store, app) = stored();
    let browser = signed_in(&app.node, "ada").await;
    let renewing = under_way(&browser, &app.node).await;
    let leaving = under_way(&browser, &app.node).await;
    store.hold_requests(Operation::End);
    let release = async {
        settled().await;
        store.release();
    };
    let (renewed, left, ()) = futures_util::future::join3(renewing.renew(), leaving.sign_out(), release).await;
    assert_eq!((kind(renewed), kind(left)), (None, None));
    assert_eq!((renewing.principal(), renewing.created_at()), (None, None));
}
