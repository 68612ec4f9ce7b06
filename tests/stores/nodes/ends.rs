//! Sign-outs and the end of all of a user's sessions, on every node.

use futures_util::FutureExt;
use layered_session::{CloseReason, WriteErrorKind};

use crate::{
    engines::{Engine, over_each_engine},
    site::{HOUR, SECOND, Site, Theme, VOUCHED, Visits, ada, kind, signed_in, theme, visitor},
};

over_each_engine! {
    end_all_reaches_every_node,
    end_all_by_a_job_reaches_every_node,
    sign_out_reaches_warm_nodes,
    sign_out_holds_on_cold_nodes,
    follower_closes_a_socket_ended_elsewhere,
    old_end_fences_no_write,
    end_all_reaches_node_with_users_record,
    renewal_carries_no_revoked_session_on,
    sign_in_after_unseen_end_all_lives,
}

async fn end_all_reaches_every_node<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, warm) = (site.start(), site.start());
    let (mut phone, laptop) = (signed_in(&here).await, signed_in(&here).await);
    assert_eq!(laptop.user(&warm).await, Some(ada()));
    phone.visit(&here, async |session| session.end_all_sessions().await.unwrap()).await;
    // The node, a cold node, and the restarted node.
    for node in [&here, &site.start(), &site.start()] {
        assert_eq!(laptop.user(node).await, None);
    }
    site.pass(VOUCHED);
    assert_eq!(laptop.user(&warm).await, None);
    let again = signed_in(&warm).await;
    for node in [&warm, &here, &site.start()] {
        assert_eq!(again.user(node).await, Some(ada()), "a later sign-in");
    }
}

// The node of the job has never seen the user.
async fn end_all_by_a_job_reaches_every_node<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let here = site.start();
    let browser = signed_in(&here).await;
    site.start().end_all_sessions(ada()).await.unwrap();
    assert_eq!(browser.user(&site.start()).await, None);
    site.pass(VOUCHED);
    assert_eq!(browser.user(&here).await, None);
}

async fn sign_out_reaches_warm_nodes<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let mut browser = signed_in(&here).await;
    let copy = browser.clone();
    let socket = copy.socket(&there).await;
    browser.visit(&here, async |session| session.destroy().await.unwrap()).await;
    site.pass(VOUCHED);
    assert_eq!(copy.user(&there).await, None);
    assert_eq!((socket.principal(), socket.closed().now_or_never()), (None, Some(CloseReason::Destroyed)));
}

async fn sign_out_holds_on_cold_nodes<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, warm) = (site.start(), site.start());
    let mut browser = signed_in(&here).await;
    browser.set(&here, Visits(1)).await;
    let mut copy = browser.clone();
    assert_eq!(copy.get::<Visits>(&warm).await, Visits(1));
    browser.visit(&here, async |session| session.sign_out().await.unwrap()).await;
    // The store refuses the write, so a node with the record in memory learns of the end.
    let write = copy.visit(&warm, async |session| kind(session.set(Visits(2)).await)).await;
    assert_eq!(write, Some(WriteErrorKind::Closed));
    drop(here);
    for node in [&warm, &site.start(), &site.start()] {
        assert_eq!((copy.user(node).await, copy.get::<Visits>(node).await), (None, Visits(0)));
    }
}

// No request comes: the node's follower reads the records that handles hold.
async fn follower_closes_a_socket_ended_elsewhere<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let mut browser = visitor(&here).await;
    let socket = browser.socket(&there).await;
    let follower = tokio::spawn(there.follow());
    let watch = tokio::spawn({
        let socket = socket.clone();
        async move { socket.closed().await }
    });
    browser.visit(&here, async |session| session.destroy().await.unwrap()).await;
    for _ in 0..400 {
        if watch.is_finished() {
            break;
        }
        site.pass(SECOND);
        tokio::time::sleep(SECOND / 100).await;
    }
    follower.abort();
    assert!(watch.is_finished(), "the handle is open after 400 seconds");
    assert_eq!(watch.await.unwrap(), CloseReason::Destroyed);
    assert_eq!(socket.get::<Visits>(), None);
}

// The minute in which a write begins no session counts from the end, and not from the first news of the end on a node.
async fn old_end_fences_no_write<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let here = site.start();
    for (passed, fenced) in [(30 * SECOND, true), (2 * HOUR, false)] {
        let mut browser = visitor(&here).await;
        let mut copy = browser.clone();
        browser.visit(&here, async |session| session.destroy().await.unwrap()).await;
        site.pass(passed);
        let cold = site.start();
        let write = copy.visit(&cold, async |session| kind(session.set(theme("dark")).await)).await;
        assert_eq!(write, fenced.then_some(WriteErrorKind::Closed), "{passed:?}");
        if !fenced {
            assert_eq!(copy.get::<Theme>(&site.start()).await, theme("dark"), "a new session");
            assert_eq!(cold.stats().tombstones, 0, "the store has the end");
        }
    }
}

// The node has read the user's record lately, and reads the session for the first time.
async fn end_all_reaches_node_with_users_record<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let (phone, laptop) = (signed_in(&here).await, signed_in(&here).await);
    assert_eq!(phone.user(&there).await, Some(ada()));
    here.end_all_sessions(ada()).await.unwrap();
    assert_eq!(laptop.user(&there).await, None);
}

// The new id of a renewed session is younger than the end of all sessions, which the renewing node has not seen.
async fn renewal_carries_no_revoked_session_on<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let here = site.start();
    let mut browser = signed_in(&here).await;
    site.start().end_all_sessions(ada()).await.unwrap();
    let renewed = browser.visit(&here, async |session| kind(session.renew().await)).await;
    assert_eq!(renewed, Some(WriteErrorKind::Closed));
    for node in [&here, &site.start()] {
        assert_eq!(browser.user(node).await, None);
    }
}

// The session's birth must be above the end of all sessions, whose version is ahead of the clock of this node.
async fn sign_in_after_unseen_end_all_lives<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let here = site.start();
    let old = signed_in(&here).await;
    site.start_ahead(30 * SECOND).end_all_sessions(ada()).await.unwrap();
    let new = signed_in(&here).await;
    for node in [&here, &site.start()] {
        assert_eq!((old.user(node).await, new.user(node).await), (None, Some(ada())));
    }
    site.pass(VOUCHED);
    assert_eq!(new.user(&here).await, Some(ada()));
}
