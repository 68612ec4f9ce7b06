//! The erasure of all values of a user.

use std::time::Duration;

use layered_session::{Lifetime, Principal, Session, SharedTier, testing::SpyStore};

use crate::{
    support::{App, Browser, DAY, Division, Node, get, seen, set, signed_in},
    writes::stored,
};

const VOUCHED: Duration = Duration::from_secs(30);

fn ada() -> Principal {
    Principal::new("ada")
}

async fn job(node: &Node) -> Session {
    node.sessions.for_principal(ada()).await.unwrap()
}

/// A browser of Ada whose cookie has a division.
async fn browser(app: &App) -> Browser {
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, Division(3)).await;
    browser
}

#[tokio::test]
async fn forgotten_values_are_gone_everywhere() {
    let (_, app) = stored();
    let mut phone = browser(&app).await;
    let other = app.start();
    assert_eq!(get::<Division>(&mut phone.clone(), &other).await, Division(3));
    // This node has never seen the user.
    app.start().sessions.forget(ada()).await.unwrap();
    app.pass(VOUCHED);
    for node in [&app.node, &other, &app.start()] {
        assert_eq!(job(node).await.get::<Division>(), None);
        assert_eq!(get::<Division>(&mut phone, node).await, Division(-1));
    }
    set(&mut phone, &other, Division(4)).await;
    assert_eq!(job(&app.start()).await.get(), Some(Division(4)));
}

// The store has lost the user's record, and has taken the erasure since.
#[tokio::test]
async fn cookie_brings_back_no_forgotten_value() {
    let (store, app) = stored();
    let phone = browser(&app).await;
    let user = app.node.sessions.stats();
    assert_eq!(user.store_rewound, 0);
    store.checkpoint();
    app.start().sessions.forget(ada()).await.unwrap();
    for days in [0, 20] {
        app.pass(days * DAY);
        let elsewhere = app.start();
        assert_eq!(get::<Division>(&mut phone.clone(), &elsewhere).await, Division(-1));
        assert_eq!(job(&app.start()).await.get::<Division>(), None);
    }
    // The first node still has the value, and finds the erasure newer.
    assert_eq!(job(&app.node).await.get::<Division>(), None);
    assert_eq!(job(&app.start()).await.get::<Division>(), None);
}

// the node of the erasure brings the store the removals that the store has lost.
#[tokio::test]
async fn lost_erasure_is_brought_back() {
    let (store, app) = stored();
    let phone = browser(&app).await;
    let eraser = app.start();
    store.checkpoint();
    eraser.sessions.forget(ada()).await.unwrap();
    store.rewind();
    app.pass(VOUCHED);
    assert_eq!(job(&app.start()).await.get::<Division>(), Some(Division(3)));
    assert_eq!(job(&eraser).await.get::<Division>(), None);
    assert_eq!(job(&app.start()).await.get::<Division>(), None);
    assert_eq!(get::<Division>(&mut phone.clone(), &app.start()).await, Division(-1));
}

// The node of the erasure does not know the long lifetime.
#[tokio::test]
async fn cookie_with_a_long_lifetime_brings_back_nothing() {
    let (store, app) = stored();
    let _store = store.expire_by(app.clock.clone());
    let mut phone = browser(&app).await;
    let year = Lifetime::new(300 * DAY, 365 * DAY).unwrap();
    phone.visit(&app.node, async |session| session.set_lifetime(year).await.unwrap()).await;
    app.start().sessions.forget(ada()).await.unwrap();
    app.pass(100 * DAY);
    let elsewhere = app.start();
    let look = async |session: Session| (session.principal(), session.value::<Division>());
    assert_eq!(phone.clone().visit(&elsewhere, look).await, (Some(ada()), Division(-1)));
    assert_eq!(job(&app.start()).await.get::<Division>(), None);
}

#[tokio::test]
async fn forget_without_a_store_erases_on_the_node() {
    let app = App::new();
    let mut phone = browser(&app).await;
    app.node.sessions.forget(ada()).await.unwrap();
    assert_eq!(seen::<Division>(&mut phone, &app.node).await.0, Division(-1));
    assert_eq!(seen::<Division>(&mut phone, &app.node).await.0, Division(-1));
    // The browser's next cookie has the removal.
    assert_eq!(seen::<Division>(&mut phone, &app.start()).await.0, Division(-1));
}

#[tokio::test]
async fn forget_fails_while_the_store_fails() {
    let store = SpyStore::new();
    let shared = store.clone();
    let app = App::with(move |chain| chain.tier(SharedTier::new(shared.clone()).degrade()));
    browser(&app).await;
    app.pass(VOUCHED);
    store.fail();
    app.node.sessions.forget(ada()).await.unwrap_err();
    store.heal();
    assert_eq!(job(&app.start()).await.get(), Some(Division(3)));
}
