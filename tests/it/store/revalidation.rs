//! The age of memory's answers over a store: memory answers for 30 seconds after a read, and the store is told of uses.

use std::time::Duration;

use layered_session::{
    Lifetime, Placement, Principal, SessionValue, SharedTier,
    testing::{self, ManualClock, Operation, SpyStore},
};
use serde::{Deserialize, Serialize};

use crate::{
    support::{App, Browser, Division, Node, Theme, Visits, dark, get, set, signed_in, theme},
    writes::stored,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

// G18: memory answers for 30 seconds after a read of the store.
#[tokio::test]
async fn remote_write_is_seen_after_30_seconds() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let other = app.start();
    assert_eq!(browser.theme(&other).await, dark());
    set(&mut browser.clone(), &app.node, theme("light")).await;
    app.pass(30 * SECOND - Duration::from_millis(1));
    store.take_operations();
    assert_eq!((browser.theme(&other).await, store.take_operations()), (dark(), vec![]));
    app.pass(Duration::from_millis(1));
    assert_eq!((browser.theme(&other).await, store.take_operations()), (theme("light"), vec![Operation::Read]));
    assert_eq!((browser.theme(&other).await, store.take_operations()), (theme("light"), vec![]));
}

// G12, G18: a node that served the session learns of a sign-out on another node.
#[tokio::test]
async fn remote_end_is_seen_after_30_seconds() {
    let (_, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    let (copy, other) = (browser.clone(), app.start());
    let user = async |browser: &Browser| browser.clone().visit(&other, async |session| session.principal()).await;
    assert!(user(&copy).await.is_some());
    browser.visit(&app.node, async |session| session.destroy().await.unwrap()).await;
    app.pass(30 * SECOND);
    assert_eq!(user(&copy).await, None);
}

// G18: the values of a user follow the user to every device.
#[tokio::test]
async fn remote_write_of_a_users_value_is_seen() {
    let (_, app) = stored();
    let (mut phone, mut laptop) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "ada").await);
    let other = app.start();
    assert_eq!(get::<Division>(&mut laptop, &other).await, Division(-1));
    set(&mut phone, &app.node, Division(3)).await;
    app.pass(30 * SECOND);
    assert_eq!(get::<Division>(&mut laptop, &other).await, Division(3));
}

// G18: the write of this node must not hide an earlier write of another node that memory has not seen.
#[tokio::test]
async fn own_write_hides_no_remote_write() {
    let (_, app) = stored();
    let mut browser = app.dark().await;
    let other = app.start();
    assert_eq!(browser.theme(&other).await, dark());
    set(&mut browser.clone(), &app.node, theme("light")).await;
    set(&mut browser.clone(), &other, Visits(1)).await;
    app.pass(30 * SECOND);
    assert_eq!(get::<Theme>(&mut browser, &other).await, theme("light"));
}

#[tokio::test]
async fn outage_ends_what_memory_vouches_for() {
    let (store, app) = stored();
    let browser = app.dark().await;
    store.fail();
    app.pass(29 * SECOND);
    assert_eq!(browser.theme(&app.node).await, dark());
    app.pass(SECOND);
    let loaded = testing::session(&app.node.sessions).header("cookie", format!("session={}", browser.token())).await;
    assert!(loaded.is_err(), "memory answers no longer than 30 seconds");
}

fn short_lived(store: &SpyStore) -> App {
    let store = store.clone();
    App::with(move |sessions| sessions.idle(2 * DAY).absolute(30 * DAY).tier(SharedTier::new(store.clone())))
}

// R5: a lifetime that another node has shortened holds on a cold node with an earlier cookie.
#[tokio::test]
async fn shorter_lifetime_reaches_cold_nodes() {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let app = short_lived(&store);
    let browser = app.dark().await;
    let cut = Lifetime::new(MINUTE, 2 * MINUTE).unwrap();
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(cut).await.unwrap()).await;
    for node in [&app.node, &app.start()] {
        assert_eq!(browser.theme(node).await, dark());
    }
    app.pass(2 * MINUTE);
    clock.advance(2 * MINUTE);
    for node in [&app.node, &app.start()] {
        assert_eq!(browser.theme(node).await, Theme::default());
    }
}

// R5: the cookie of a browser on a cold node is old, and the session is in use on another node.
#[tokio::test]
async fn session_in_use_elsewhere_does_not_idle_out() {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let app = short_lived(&store);
    let browser = app.dark().await;
    let idle = app.start();
    assert_eq!(browser.theme(&idle).await, dark());
    for _ in 0..5 {
        app.pass(DAY);
        clock.advance(DAY);
        assert_eq!(browser.theme(&app.node).await, dark());
    }
    for node in [&idle, &app.start()] {
        assert_eq!(browser.theme(node).await, dark());
    }
    app.pass(3 * DAY);
    clock.advance(3 * DAY);
    for node in [&app.node, &idle, &app.start()] {
        assert_eq!(browser.theme(node).await, Theme::default());
    }
}

// An unused session leaves the store after its idle lifetime, and not after its absolute lifetime.
#[tokio::test]
async fn idle_session_leaves_the_store() {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let app = short_lived(&store);
    let browser = app.dark().await;
    let keep = store.take_calls().iter().find_map(|call| call.keep()).unwrap();
    assert_eq!(keep, 2 * DAY + 2 * DAY / 10 + 60 * MINUTE);
    app.pass(DAY);
    clock.advance(DAY);
    assert_eq!(browser.theme(&app.node).await, dark());
    assert_eq!(store.take_operations(), [Operation::Read, Operation::Touch], "once per tenth of the idle lifetime");
    app.pass(MINUTE);
    assert_eq!(browser.theme(&app.node).await, dark());
    assert_eq!(store.take_operations(), [Operation::Read]);
}

// Memory answers from the load after 50 seconds on, and a tenth of the idle lifetime is over during that time.
#[tokio::test]
async fn use_is_told_while_memory_answers() {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let spy = store.clone();
    let app = App::with(move |sessions| sessions.idle(10 * MINUTE).absolute(DAY).tier(SharedTier::new(spy.clone())));
    let browser = app.dark().await;
    app.pass(50 * SECOND);
    clock.advance(50 * SECOND);
    store.take_operations();
    assert_eq!((browser.theme(&app.node).await, store.take_operations()), (dark(), vec![Operation::Read]));
    app.pass(11 * SECOND);
    assert_eq!((browser.theme(&app.node).await, store.take_operations()), (dark(), vec![Operation::Touch]));
    assert_eq!((browser.theme(&app.node).await, store.take_operations()), (dark(), vec![]));
}

// A user's values stay for 31 days after their last use, and not after their last write.
#[tokio::test]
async fn users_values_stay_while_in_use() {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let app = short_lived(&store);
    let ada = || Principal::new("ada");
    app.node.sessions.for_principal(ada()).await.unwrap().set(Division(5)).await.unwrap();
    for _ in 0..40 {
        app.pass(DAY);
        clock.advance(DAY);
        let division = async |node: &Node| node.sessions.for_principal(ada()).await.unwrap().get::<Division>();
        assert_eq!(division(&app.node).await, Some(Division(5)));
    }
    let fresh = app.start();
    assert_eq!(fresh.sessions.for_principal(ada()).await.unwrap().get(), Some(Division(5)));
}

/// A value of a newer build, kept on the server alone.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Secret(String);

impl SessionValue for Secret {
    const NAME: &'static str = "secret";
    const PLACEMENT: Placement = Placement::Server;
}

// A value that this build does not declare stays in the store: another build may keep the value on the server alone,
// and a large value must not make the other values too large.
#[tokio::test]
async fn undeclared_stored_value_stays_in_the_store() {
    let (_, app) = stored();
    let newer = || app.start_with(|sessions| sessions.value::<Secret>());
    let mut browser = app.dark().await;
    let before = browser.token().len();
    set(&mut browser, &newer(), Secret("x".repeat(6000))).await;
    let older = app.start();
    set(&mut browser, &older, theme("drab")).await;
    assert_eq!(browser.token().len(), before);
    browser.visit(&older, async |session| session.renew().await.unwrap()).await;
    assert_eq!(get::<Secret>(&mut browser, &newer()).await, Secret("x".repeat(6000)));
}
