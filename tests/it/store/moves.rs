//! A renewal or a sign-in on one node, and the writes and ends of another node over the same store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use layered_session::{
    CloseReason, DefaultTier, Principal, Session, SessionValue, SharedTier, WriteErrorKind,
    testing::{Call, Operation, SpyStore},
    tier::{Commit, Snapshot, Store},
};

use crate::{
    support::{
        self, App, BoxFuture, HOUR, Node, Theme, User, Visits, at_once, dark, first_write, get, kind, named, set,
        set_cookies, settled, signed_in, socket, theme, under_way, visit_as, visitor,
    },
    writes::stored,
};

/// An application whose store reads the clock of the nodes.
fn timed() -> (SpyStore, App) {
    let (store, app) = stored();
    (store.clone().expire_by(app.clock.clone()), app)
}

type Turn = fn(Session) -> BoxFuture<()>;

const TURNS: [Turn; 2] = [
    |session| Box::pin(async move { session.renew().await.unwrap() }),
    |session| Box::pin(async move { session.sign_in(User("bob".into())).await.unwrap() }),
];

// G12: a renewal copies the store's values, and not only the values that this node's memory knows.
#[tokio::test]
async fn move_keeps_writes_unseen_by_its_node() {
    for turn in TURNS {
        let (_, app) = timed();
        let mut browser = app.dark().await;
        set(&mut browser.clone(), &app.start(), Visits(2)).await;
        browser.visit(&app.node, turn).await;
        assert_eq!(get::<Visits>(&mut browser, &app.node).await, Visits(2));
        assert_eq!(get::<Visits>(&mut browser, &app.start()).await, Visits(2));
    }
}

#[tokio::test]
async fn move_keeps_writes_between_copy_and_end() {
    for turn in TURNS {
        let (store, app) = timed();
        let mut browser = app.dark().await;
        let other = under_way(&browser, &app.start()).await;
        store.hold_requests(Operation::End);
        let write = async {
            settled().await;
            other.set(Visits(2)).await.unwrap();
            store.release();
        };
        futures_util::future::join(browser.visit(&app.node, turn), write).await;
        assert_eq!(get::<Visits>(&mut browser, &app.node).await, Visits(2));
        assert_eq!(get::<Visits>(&mut browser, &app.start()).await, Visits(2));
    }
}

#[tokio::test]
async fn move_keeps_removals_and_undeclared_values() {
    for turn in TURNS {
        let (store, app) = timed();
        let mut browser = app.dark().await;
        set(&mut browser, &app.node, Visits(1)).await;
        let other = app.start();
        browser.clone().visit(&other, async |session| session.remove::<Theme>().await.unwrap()).await;
        let older = app.chain(DefaultTier::new()).tier(SharedTier::new(store.clone())).value::<Theme>();
        let older = older.identify_by::<User>(named).build().unwrap();
        let older = Node::new(older);
        browser.visit(&older, turn).await;
        let seen = async |session: Session| (session.get::<Theme>(), session.get::<Visits>());
        assert_eq!(browser.visit(&app.start(), seen).await, (None, Some(Visits(1))));
    }
}

// A failure after the end in the store: the browser has the new session already.
#[tokio::test]
async fn lost_copy_of_a_late_write_keeps_the_session() {
    let (store, app) = timed();
    let browser = app.dark().await;
    set(&mut browser.clone(), &app.start(), Visits(2)).await;
    store.hold_requests(Operation::Update);
    let session = under_way(&browser, &app.node).await;
    let renewing = tokio::spawn({
        let session = session.clone();
        async move { session.renew().await }
    });
    settled().await;
    store.fail();
    store.release();
    assert_eq!(kind(renewing.await.unwrap()), None);
    assert_eq!(session.get::<Visits>(), Some(Visits(2)));
    store.heal();
}

// Two nodes renew one session: the store takes one renewal, and the new session of the other renewal ends.
#[tokio::test]
async fn losing_renewal_leaves_no_live_session() {
    let (store, app) = timed();
    let browser = app.dark().await;
    let other = app.start();
    let sessions = [under_way(&browser, &app.node).await, under_way(&browser, &other).await];
    store.take_calls();
    store.hold_requests(Operation::End);
    let renewals = sessions.clone().map(|session| tokio::spawn(async move { session.renew().await }));
    settled().await;
    store.release();
    let mut results = Vec::new();
    for renewal in renewals {
        results.push(kind(renewal.await.unwrap()));
    }
    results.sort_by_key(Option::is_some);
    assert_eq!(results, [None, Some(WriteErrorKind::Closed)]);
    let calls = store.take_calls();
    let owners = |operation| calls.iter().filter(move |call| call.operation() == operation).map(Call::owner);
    let ended = owners(Operation::Create).filter(|created| owners(Operation::End).any(|owner| owner == *created));
    assert_eq!((owners(Operation::Create).count(), ended.count()), (2, 1));
}

#[tokio::test]
async fn renewal_elsewhere_closes_as_renewed() {
    let (_, app) = timed();
    let mut browser = app.dark().await;
    let other = app.start();
    let open = browser.open(&other).await;
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    let error = open.set(Visits(1)).await.unwrap_err();
    assert!(error.kind() == WriteErrorKind::Closed && error.to_string().contains("renewed"), "{error}");
    assert_eq!(open.closed().await, CloseReason::Renewed);
}

// G13: the minute counts from the end in the store, on every node.
#[tokio::test]
async fn fence_counts_from_the_end_in_the_store() {
    for (passed, fenced) in [(Duration::from_secs(59), true), (2 * HOUR, false)] {
        let (_, app) = timed();
        let browser = app.dark().await;
        browser.clone().visit(&app.node, async |session| session.destroy().await.unwrap()).await;
        app.pass(passed);
        let cold = app.start();
        let write = browser.clone().visit(&cold, async |session| kind(session.set(dark()).await)).await;
        assert_eq!(write, fenced.then_some(WriteErrorKind::Closed), "{passed:?}");
        if !fenced {
            assert_eq!(cold.sessions.stats().tombstones, 0, "the store has the end");
        }
    }
}

// G13: a sign-out with the cookie from before a renewal ends the renewed session too, within a minute.
#[tokio::test]
async fn late_sign_out_ends_session_renewed_elsewhere() {
    let [soon, late] = [50, 61].map(Duration::from_secs);
    for (passed, learns_first, ends) in
        [(soon, false, true), (soon, true, true), (late, false, false), (late, true, false)]
    {
        let (_, app) = timed();
        let mut browser = signed_in(&app.node, "ada").await;
        let (old, other) = (browser.clone(), app.start());
        let late = socket(&old, &other).await;
        browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
        app.pass(passed);
        if learns_first {
            assert_eq!(kind(late.set(dark()).await), Some(WriteErrorKind::Closed));
        }
        late.destroy().await.unwrap();
        let principal = browser.visit(&app.start(), async |session| session.principal()).await;
        assert_eq!(principal.is_none(), ends, "{passed:?}");
    }
}

// The versions of the old id are ahead of the store's clock, and the versions of the new id are not.
#[tokio::test]
async fn write_after_clear_and_renewal_is_kept() {
    let (_, app) = timed();
    let mut browser = signed_in(&app.node, "ada").await;
    browser.visit(&app.node, async |session| session.end_other_sessions().await.unwrap()).await;
    browser.visit(&app.node, async |session| session.clear().await.unwrap()).await;
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    set(&mut browser, &app.node, Visits(3)).await;
    assert_eq!(get::<Visits>(&mut browser, &app.node).await, Visits(3));
}

// G13: the renewal took place on another node, and this node has the renewed session in memory too.
#[tokio::test]
async fn late_sign_out_ends_loaded_session_here_too() {
    let (_, app) = timed();
    let mut browser = signed_in(&app.node, "ada").await;
    let (old, other) = (browser.clone(), app.start());
    let late = socket(&old, &other).await;
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(kind(late.set(dark()).await), Some(WriteErrorKind::Closed), "the node learns of the renewal");
    assert!(browser.visit(&other, async |session| session.principal().is_some()).await);
    late.sign_out().await.unwrap();
    assert_eq!(browser.visit(&other, async |session| session.principal()).await, None);
}

// An attacker may have planted the old cookie before the login.
#[tokio::test]
async fn late_sign_out_spares_session_of_a_sign_in() {
    let (_, app) = timed();
    let mut browser = app.dark().await;
    let (old, other) = (browser.clone(), app.start());
    let late = socket(&old, &other).await;
    browser.visit(&app.node, async |session| session.sign_in(User("ada".into())).await.unwrap()).await;
    late.destroy().await.unwrap();
    assert!(browser.visit(&app.start(), async |session| session.principal().is_some()).await);
}

// G8: a sign-in sends the identity value to the store without a version, so that the store stamps the value.
#[tokio::test]
async fn store_stamps_identity_value_at_sign_in() {
    let is_fresh = Arc::new(AtomicBool::new(false));
    let (spy, noted) = (SpyStore::new(), Arc::clone(&is_fresh));
    let commits = move |commit: Commit<'_>| {
        let user = commit.changes().iter().find(|change| change.name() == User::NAME);
        noted.fetch_or(user.is_some_and(|change| change.version().is_none()), Ordering::Relaxed);
        at_once(spy.commit(commit)).unwrap().unwrap()
    };
    let app = App::new();
    let node = app.start_with(|sessions| sessions.tier(support::store("noting", |_| Snapshot::Absent, commits)));
    let browser = first_write(&node, dark()).await;
    let session = under_way(&browser, &node).await;
    assert_eq!(kind(session.sign_in(User("bob".into())).await), None);
    assert!(is_fresh.load(Ordering::Relaxed));
}

// G12: a value that a sign-in writes wins against a write to the old id on another node. A holder of a planted cookie
// could otherwise replace the value.
#[tokio::test]
async fn granted_value_wins_against_write_to_old_id() {
    let (store, app) = timed();
    let mut browser = app.dark().await;
    set(&mut browser, &app.node, Visits(1)).await;
    let other = under_way(&browser, &app.start()).await;
    store.hold_requests(Operation::End);
    let write = async {
        settled().await;
        app.clock.advance(Duration::from_millis(5));
        other.set(Visits(2)).await.unwrap();
        store.release();
    };
    let turn = async |session: Session| session.sign_in(User("bob".into())).with(&Visits(7)).await.unwrap();
    futures_util::future::join(browser.visit(&app.node, turn), write).await;
    assert_eq!(get::<Visits>(&mut browser.clone(), &app.start()).await, Visits(7));
    let update = async |session: Session| session.update(|visits: &mut Visits| visits.0 += 1).await;
    assert_eq!(browser.visit(&app.node, update).await.unwrap(), Visits(8));
}

// G13: with `identify` the store does not know whose request ends a session.
#[tokio::test]
async fn stranger_ends_no_renewed_session() {
    let identify = |head: &http::request::Parts| Some(Principal::new(head.headers.get("x-user")?.to_str().ok()?));
    for stranger in [Some("bob"), None] {
        let (app, store) = (App::new(), SpyStore::new());
        let node = || {
            let chain = app.chain(DefaultTier::new()).tier(SharedTier::new(store.clone()));
            Node::new(chain.value::<Theme>().identify(identify).build().unwrap())
        };
        let (here, there) = (node(), node());
        let mut browser = visitor(&here).await;
        let mut late = browser.clone();
        visit_as(&mut browser, &here, Some("ada"), async |session| session.renew().await.unwrap()).await;
        visit_as(&mut late, &there, stranger, async |session| session.destroy().await.unwrap()).await;
        assert_eq!(get::<Theme>(&mut browser, &node()).await, theme("light"), "{stranger:?}");
    }
}

// G13: the first renewal took place on this node, and the second on another node.
#[tokio::test]
async fn sign_out_follows_renewals_on_two_nodes() {
    let (_, app) = timed();
    let mut browser = signed_in(&app.node, "ada").await;
    let (mut late, other) = (browser.clone(), app.start());
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    let renewed = under_way(&browser, &app.node).await;
    browser.visit(&other, async |session| session.renew().await.unwrap()).await;
    assert_eq!(kind(renewed.set(dark()).await), Some(WriteErrorKind::Closed), "this node learns of the second renewal");
    late.visit(&app.node, async |session| session.sign_out().await.unwrap()).await;
    assert_eq!(browser.visit(&app.start(), async |session| session.principal()).await, None);
}

#[tokio::test]
async fn renewal_fails_if_another_node_signs_out_meanwhile() {
    let (store, app) = timed();
    let mut browser = signed_in(&app.node, "ada").await;
    // A write that this node has not seen: the renewal copies the value after the end of the old session.
    set(&mut browser.clone(), &app.start(), Visits(2)).await;
    let (mut old, other) = (browser.clone(), app.start());
    store.hold_requests(Operation::Update);
    let sign_out = async {
        settled().await;
        old.visit(&other, async |session| session.sign_out().await.unwrap()).await;
        store.release();
    };
    let renewal = browser.visit(&app.node, async |session| kind(session.renew().await));
    assert_eq!(futures_util::future::join(renewal, sign_out).await.0, Some(WriteErrorKind::Closed));
    for node in [&app.node, &app.start()] {
        assert_eq!(browser.visit(node, async |session| session.principal()).await, None);
    }
}

// The renewal's last write fails, so the renewing node does not learn of the sign-out from its answer.
#[tokio::test]
async fn load_after_a_renewal_with_lost_write_sees_sign_out() {
    let (store, app) = timed();
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser.clone(), &app.start(), Visits(2)).await;
    let (mut old, other) = (browser.clone(), app.start());
    store.hold_requests(Operation::Update);
    let sign_out = async {
        settled().await;
        old.visit(&other, async |session| session.sign_out().await.unwrap()).await;
        store.fail();
        store.release();
    };
    let renewal = browser.visit(&app.node, async |session| kind(session.renew().await));
    assert_eq!(futures_util::future::join(renewal, sign_out).await.0, None);
    store.heal();
    assert_eq!(browser.visit(&app.node, async |session| session.principal()).await, None);
}

// The browser may hold the cookie of a later login.
#[tokio::test]
async fn sign_out_of_a_session_ended_elsewhere_keeps_the_cookie() {
    let (_, app) = timed();
    let mut browser = app.dark().await;
    let (mut late, other) = (browser.clone(), app.start());
    late.theme(&other).await;
    browser.visit(&app.node, TURNS[1]).await;
    app.pass(Duration::from_secs(300));
    let (headers, ()) = late.visit_seen(&other, async |session| session.sign_out().await.unwrap()).await;
    assert_eq!(set_cookies(&headers).len(), 0);
}

#[tokio::test]
async fn sign_out_past_the_minute_ends_no_renewed_session() {
    let (_, app) = timed();
    let mut browser = signed_in(&app.node, "ada").await;
    let (mut late, other) = (browser.clone(), app.start());
    late.theme(&other).await;
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    app.pass(Duration::from_secs(61));
    late.visit(&other, async |session| session.sign_out().await.unwrap()).await;
    for node in [&other, &app.start()] {
        assert!(browser.visit(node, async |session| session.principal()).await.is_some());
    }
}

#[tokio::test]
async fn failed_end_leaves_no_copy_in_the_store() {
    let (store, app) = timed();
    let session = under_way(&signed_in(&app.node, "ada").await, &app.node).await;
    store.take_calls();
    store.hold_requests(Operation::End);
    let renewing = tokio::spawn(async move { session.renew().await });
    settled().await;
    store.fail();
    store.release();
    assert_eq!(kind(renewing.await.unwrap()), Some(WriteErrorKind::Unavailable));
    let calls = store.take_calls();
    assert_eq!(
        calls.iter().map(Call::operation).collect::<Vec<_>>(),
        [Operation::Create, Operation::Read, Operation::End, Operation::End]
    );
    assert_eq!(calls[0].owner(), calls[3].owner());
}
