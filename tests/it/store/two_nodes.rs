//! A session on two nodes over a store: ends, lifetimes and uses that a node has not seen, and nodes whose clocks differ.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use layered_session::{
    Lifetime, Placement, Principal, Scope, Session, SessionValue, SharedTier, WriteErrorKind,
    testing::{ManualClock, Operation, SpyStore},
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, DAY, Division, HOUR, Node, Theme, Visits, bring_ok, dark, get, kind, login, set, settled, signed_in,
    socket, theme, under_way,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A store with a clock of its own, and an application with these lifetimes.
fn of(idle: Duration, absolute: Duration) -> (SpyStore, ManualClock, App) {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let shared = store.clone();
    let app = App::with(move |sessions| sessions.idle(idle).absolute(absolute).tier(SharedTier::new(shared.clone())));
    (store, clock, app)
}

fn pass(app: &App, clock: &ManualClock, span: Duration) {
    app.pass(span);
    clock.advance(span);
}

async fn user(browser: &Browser, node: &Node) -> Option<Principal> {
    browser.clone().visit(node, async |session| session.principal()).await
}

/// A user's value on servers only.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Hidden(u32);

impl SessionValue for Hidden {
    const NAME: &'static str = "hidden";
    const SCOPE: Scope = Scope::Principal;
    const PLACEMENT: Placement = Placement::Server;
}

// G12: a node whose record seems idle takes no end, and the session has ended all the same.
#[tokio::test]
async fn sign_out_holds_where_session_seems_idle() {
    let (_, clock, app) = of(10 * MINUTE, 30 * DAY);
    let mut browser = app.dark().await;
    let other = app.start();
    assert_eq!(browser.theme(&other).await, dark());
    for _ in 0..3 {
        pass(&app, &clock, 4 * MINUTE);
        assert_eq!(get::<Theme>(&mut browser, &app.node).await, dark());
    }
    let copy = browser.clone();
    browser.visit(&app.node, async |session| session.destroy().await.unwrap()).await;
    assert_eq!(copy.theme(&other).await, Theme::default());
}

// R5: the renewing node has not seen the shorter lifetime.
#[tokio::test]
async fn renewal_takes_shorter_lifetime_along() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let browser = app.dark().await;
    let other = app.start();
    assert_eq!(browser.theme(&other).await, dark());
    let cut = Lifetime::new(MINUTE, 2 * MINUTE).unwrap();
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
    let mut renewed = browser.clone();
    renewed.visit(&other, async |session| session.renew().await.unwrap()).await;
    pass(&app, &clock, 3 * MINUTE);
    for node in [&app.node, &other, &app.start()] {
        assert_eq!(renewed.theme(node).await, Theme::default());
    }
}

// R5: a node that does not know of the shorter lifetime keeps the record for longer.
#[tokio::test]
async fn write_of_stale_node_keeps_short_lifetime() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let browser = app.dark().await;
    let other = app.start();
    assert_eq!(browser.theme(&other).await, dark());
    let cut = Lifetime::new(MINUTE, 8 * HOUR).unwrap();
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
    set(&mut browser.clone(), &other, Visits(1)).await;
    pass(&app, &clock, 4 * HOUR);
    for node in [&app.start(), &app.node, &other] {
        assert_eq!(browser.theme(node).await, Theme::default());
    }
}

// R5: the session has expired by the lifetime that another node has set.
#[tokio::test]
async fn longer_lifetime_revives_no_expired_session() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let browser = app.dark().await;
    let stale = under_way(&browser, &app.start()).await;
    let cut = Lifetime::new(MINUTE, 2 * MINUTE).unwrap();
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
    pass(&app, &clock, 3 * MINUTE);
    assert_eq!(kind(stale.set_lifetime(Lifetime::new(DAY, 30 * DAY).unwrap()).await), Some(WriteErrorKind::Closed));
    assert_eq!(browser.theme(&app.start()).await, Theme::default());
}

type Act = fn(&Session) -> BoxFuture<'_, Option<WriteErrorKind>>;

// R5: the session has been idle for longer than the lifetime that another node has set, and the store still has the record.
#[tokio::test]
async fn stale_node_revives_no_idle_session() {
    let acts: [Act; 5] = [
        |session| Box::pin(async { kind(session.set(Visits(1)).await) }),
        |session| Box::pin(async { kind(session.update(|visits: &mut Visits| visits.0 += 1).await) }),
        |session| Box::pin(async { kind(session.set(Division(2)).await) }),
        |session| Box::pin(async { kind(session.touch().await) }),
        |session| Box::pin(async { kind(session.clear().await) }),
    ];
    for (act, perform) in acts.iter().enumerate() {
        let (_, clock, app) = of(9 * HOUR, 30 * DAY);
        let mut browser = signed_in(&app.node, "ada").await;
        let stale = under_way(&browser, &app.start()).await;
        let cut = Lifetime::new(15 * MINUTE, DAY).unwrap();
        browser.visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
        // A use of the stale handle is due after 54 minutes.
        pass(&app, &clock, 60 * MINUTE);
        assert_eq!(perform(&stale).await, Some(WriteErrorKind::Closed), "act {act}");
        assert_eq!(user(&browser, &app.start()).await, None, "act {act}");
    }
}

// The node's clock is ahead of the store's, so the store's stamp is below the version that the node has given.
#[tokio::test]
async fn write_after_sign_in_with_a_lifetime_is_one_commit() {
    let (store, _, app) = of(2 * DAY, 30 * DAY);
    app.pass(SECOND);
    let operations = app
        .dark()
        .await
        .visit(&app.node, async |session| {
            session.set_lifetime(Lifetime::new(DAY, 20 * DAY).unwrap()).await.unwrap();
            session.sign_in(crate::support::user("ada")).await.unwrap();
            store.take_operations();
            session.set(Visits(1)).await.unwrap();
            store.take_operations()
        })
        .await;
    assert_eq!(operations, [Operation::Update]);
}

// The store gets the touch after another node has set a shorter lifetime.
#[tokio::test]
async fn late_touch_by_an_older_lifetime_hides_no_use() {
    let (store, clock, app) = of(2 * DAY, 30 * DAY);
    let browser = app.dark().await;
    let (setter, handle) = (under_way(&browser, &app.node).await, under_way(&browser, &app.start()).await);
    pass(&app, &clock, 5 * HOUR);
    store.hold_requests(Operation::Touch);
    let mut touch = Box::pin(handle.touch());
    assert!(touch.as_mut().now_or_never().is_none());
    assert_eq!(setter.get(), Some(dark()));
    setter.set_lifetime(Lifetime::new(HOUR, DAY).unwrap()).await.unwrap();
    store.release();
    touch.await.unwrap();
    // A record kept by the older lifetime would no longer show this use.
    pass(&app, &clock, 50 * MINUTE);
    setter.touch().await.unwrap();
    pass(&app, &clock, 50 * MINUTE);
    assert_eq!(browser.theme(&app.start()).await, dark());
}

#[tokio::test]
async fn touch_ends_a_session_that_the_store_has_lost() {
    let (store, clock, app) = of(2 * DAY, 30 * DAY);
    let handle = under_way(&app.dark().await, &app.node).await;
    pass(&app, &clock, 5 * HOUR);
    store.forget_records();
    assert_eq!(kind(handle.touch().await), Some(WriteErrorKind::Closed));
    assert_eq!(handle.get::<Theme>(), None);
}

// R5: two nodes set a lifetime in the same millisecond, each before the other's commit.
#[tokio::test]
async fn lifetimes_of_same_moment_end_alike() {
    for cuts in [[MINUTE, HOUR], [HOUR, MINUTE]] {
        let (store, clock, app) = of(2 * DAY, 30 * DAY);
        let browser = app.dark().await;
        let nodes = [&app.start(), &app.start()];
        let handles = [under_way(&browser, nodes[0]).await, under_way(&browser, nodes[1]).await];
        store.hold_requests(Operation::Update);
        let set = async |which: usize| {
            let lifetime = Lifetime::new(cuts[which], 8 * HOUR).unwrap();
            handles[which].set_lifetime(lifetime).await.unwrap();
        };
        let release = async {
            settled().await;
            store.release();
        };
        futures_util::future::join3(set(0), set(1), release).await;
        pass(&app, &clock, 31 * SECOND);
        let mut ends = Vec::new();
        for node in [nodes[0], nodes[1], &app.start()] {
            ends.push(browser.clone().visit(node, async |session| session.expires_at()).await);
        }
        assert!(ends[0] == ends[2] && ends[1] == ends[2], "{ends:?}");
    }
}

#[tokio::test]
async fn use_on_stale_node_keeps_short_lifetime() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let browser = app.dark().await;
    let other = app.start();
    pass(&app, &clock, 2 * DAY / 10 - 10 * SECOND);
    assert_eq!(browser.theme(&other).await, dark());
    let cut = Lifetime::new(MINUTE, 8 * HOUR).unwrap();
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
    pass(&app, &clock, 10 * SECOND);
    assert_eq!(browser.theme(&other).await, dark());
    pass(&app, &clock, 2 * HOUR);
    for node in [&app.start(), &app.node, &other] {
        assert_eq!(browser.theme(node).await, Theme::default());
    }
}

// R5: the clock of the node that set the earlier lifetime is ahead.
#[tokio::test]
async fn slow_node_shortens_lifetime_of_fast_node() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let browser = app.dark().await;
    let fast = ManualClock::new();
    fast.advance(5 * SECOND);
    let other = app.start_at(&fast);
    assert_eq!(browser.theme(&app.node).await, dark());
    let long = Lifetime::new(31 * DAY, 365 * DAY).unwrap();
    browser.clone().visit(&other, async move |session| session.set_lifetime(long).await.unwrap()).await;
    pass(&app, &clock, SECOND);
    fast.advance(SECOND);
    let cut = Lifetime::new(MINUTE, 2 * MINUTE).unwrap();
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
    pass(&app, &clock, 3 * MINUTE);
    assert_eq!(browser.theme(&app.start()).await, Theme::default());
}

// The store is told of uses without a load.
#[tokio::test]
async fn touched_socket_keeps_session_in_store() {
    let (_, clock, app) = of(15 * MINUTE, 30 * DAY);
    let browser = app.dark().await;
    let live = socket(&browser, &app.node).await;
    for _ in 0..120 {
        pass(&app, &clock, MINUTE);
        live.touch().await.unwrap();
    }
    assert_eq!(live.get(), Some(dark()));
    live.set(Visits(1)).await.unwrap();
}

#[tokio::test]
async fn touched_socket_keeps_session_on_cold_nodes() {
    let (_, clock, app) = of(15 * MINUTE, 30 * DAY);
    let browser = app.dark().await;
    let live = socket(&browser, &app.node).await;
    for _ in 0..20 {
        pass(&app, &clock, MINUTE);
        live.touch().await.unwrap();
    }
    assert_eq!(browser.theme(&app.start()).await, dark());
}

// A write of a user's value is a use of the session.
#[tokio::test]
async fn users_writes_on_socket_keep_session() {
    let (_, clock, app) = of(15 * MINUTE, 30 * DAY);
    let browser = signed_in(&app.node, "ada").await;
    let live = socket(&browser, &app.node).await;
    for i in 0..120 {
        pass(&app, &clock, MINUTE);
        live.set(Division(i % 3)).await.unwrap();
    }
    assert!(user(&browser, &app.node).await.is_some());
}

// R6: the ending node does not know of the long lifetime.
#[tokio::test]
async fn end_all_outlives_lifetimes_of_other_nodes() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let mut browser = signed_in(&app.node, "ada").await;
    let long = Lifetime::new(31 * DAY, 365 * DAY).unwrap();
    browser.visit(&app.node, async move |session| session.set_lifetime(long).await.unwrap()).await;
    app.start().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
    pass(&app, &clock, 30 * DAY + HOUR);
    assert_eq!(user(&browser, &app.start()).await, None);
}

// R6: the clock of the node that ended all sessions is ahead.
#[tokio::test]
async fn sign_in_after_fast_nodes_end_all_lives() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let phone = signed_in(&app.node, "ada").await;
    assert!(user(&phone, &app.node).await.is_some());
    let fast = ManualClock::new();
    fast.advance(2 * SECOND);
    app.start_at(&fast).sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    pass(&app, &clock, SECOND);
    let again = signed_in(&app.node, "ada").await;
    assert!(user(&again, &app.start()).await.is_some(), "cold");
    pass(&app, &clock, 30 * SECOND);
    assert!(user(&again, &app.node).await.is_some(), "warm");
}

// R6: the order of a node whose clock is ahead began the session.
#[tokio::test]
async fn end_all_ends_sessions_of_fast_nodes_orders() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let fast = ManualClock::new();
    fast.advance(30 * MINUTE);
    let other = app.start_at(&fast);
    let mut browser = Browser::new();
    let live = socket(&browser, &other).await;
    let order = login(&live);
    bring_ok(&mut browser, &other, &order).await;
    assert!(user(&browser, &other).await.is_some());
    pass(&app, &clock, 10 * MINUTE);
    fast.advance(10 * MINUTE);
    app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
    assert_eq!(user(&browser, &other).await, None);
}

#[tokio::test]
async fn end_all_follows_end_of_other_sessions() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let fast = ManualClock::new();
    fast.advance(30 * MINUTE);
    let other = app.start_at(&fast);
    let mut browser = signed_in(&app.node, "ada").await;
    let _ = user(&browser, &other).await;
    browser.visit(&other, async |session| session.end_other_sessions().await.unwrap()).await;
    pass(&app, &clock, 10 * MINUTE);
    fast.advance(10 * MINUTE);
    app.start().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&browser, &app.start()).await, None);
}

// G18: a session that seems idle takes no values, so memory must not know the record.
#[tokio::test]
async fn values_of_seemingly_idle_session_are_read_again() {
    let (_, clock, app) = of(15 * MINUTE, 30 * DAY);
    let browser = app.dark().await;
    let other = app.start();
    assert_eq!(browser.theme(&other).await, dark());
    let live = socket(&browser, &app.node).await;
    pass(&app, &clock, MINUTE);
    live.set(theme("light")).await.unwrap();
    for _ in 0..18 {
        pass(&app, &clock, MINUTE);
        live.touch().await.unwrap();
    }
    let _ = browser.theme(&other).await;
    assert_eq!(browser.theme(&app.node).await, theme("light"));
    assert_eq!(browser.theme(&other).await, theme("light"));
    pass(&app, &clock, MINUTE);
    assert_eq!(browser.theme(&other).await, theme("light"));
}

// G18: a user's record that memory empties as idle is not known any more.
#[tokio::test]
async fn emptied_users_record_is_read_again() {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let shared = store.clone();
    let app = App::with(move |sessions| {
        sessions.idle(60 * DAY).absolute(365 * DAY).value::<Hidden>().tier(SharedTier::new(shared.clone()))
    });
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, Hidden(7)).await;
    set(&mut browser, &app.node, Division(2)).await;
    let other = app.start();
    assert_eq!(get::<Hidden>(&mut browser.clone(), &other).await, Hidden(7));
    for _ in 0..33 {
        pass(&app, &clock, DAY);
        assert_eq!(get::<Hidden>(&mut browser, &app.node).await, Hidden(7));
    }
    assert_eq!(get::<Hidden>(&mut browser.clone(), &other).await, Hidden(7));
    pass(&app, &clock, MINUTE);
    assert_eq!(get::<Hidden>(&mut browser.clone(), &other).await, Hidden(7));
}

// An idle cookie counts only if no other cookie does.
#[tokio::test]
async fn idle_cookie_beside_living_cookie_counts_not() {
    let (_, clock, app) = of(2 * DAY, 30 * DAY);
    let old = app.dark().await;
    pass(&app, &clock, 10 * DAY);
    let new = app.dark().await;
    let node = app.start();
    let mut request = new.request();
    let both = format!("session={}; session={}", new.token(), old.token());
    request.headers_mut().insert("cookie", both.parse().unwrap());
    let (_, seen) = node.ask(request, async |session| session.value::<Theme>()).await;
    assert_eq!(seen, dark());
}

#[tokio::test]
async fn failed_touch_is_repeated() {
    let (store, clock, app) = of(2 * DAY, 30 * DAY);
    let browser = app.dark().await;
    pass(&app, &clock, DAY);
    store.hold_requests(Operation::Touch);
    let mut visiting = Box::pin(browser.theme(&app.node));
    assert!(futures_util::FutureExt::now_or_never(visiting.as_mut()).is_none());
    app.pass(SECOND);
    clock.advance(SECOND);
    assert_eq!(visiting.await, dark());
    store.release();
    store.take_operations();
    assert_eq!(browser.theme(&app.node).await, dark());
    assert_eq!(store.take_operations(), [Operation::Touch]);
}

// R6: the node has read the user's record lately, and reads the session for the first time.
#[tokio::test]
async fn end_all_reaches_node_with_users_record() {
    let (_, _, app) = of(2 * DAY, 30 * DAY);
    let (mut phone, laptop) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "ada").await);
    set(&mut phone, &app.node, Division(3)).await;
    let other = app.start();
    assert!(user(&phone, &other).await.is_some());
    app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(user(&laptop, &other).await, None, "the node does not have this session in memory");
}
