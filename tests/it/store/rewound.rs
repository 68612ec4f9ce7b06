//! A store that has lost commits which it had acknowledged, as after a failover to a late replica.

use std::time::Duration;

use layered_session::{
    CloseReason, Lifetime, Principal, Session, SharedTier,
    testing::{Operation, SpyStore},
};

use super::notices::following;
use crate::{
    support::{
        App, Browser, DAY, Division, Node, Theme, User, Visits, at_once, dark, get, set, settled, signed_in, theme,
        ticking, under_way,
    },
    writes::stored,
};

const VOUCHED: Duration = Duration::from_secs(30);

/// The values that a node with an empty memory reads from the store alone: the browser brings an old cookie.
async fn cold(app: &App, browser: &Browser) -> (Theme, Visits, Division) {
    let look = async |session: Session| (session.value(), session.value(), session.value());
    browser.clone().visit(&app.start(), look).await
}

pub(super) fn rewound(node: &Node) -> u64 {
    node.sessions.stats().store_rewound
}

/// A store that has lost the write of a light theme, the application, and a browser with the cookie from before the
/// write. Memory no longer vouches for the session.
pub(super) async fn lost_theme() -> (SpyStore, App, Browser) {
    let (store, app) = stored();
    let old = app.dark().await;
    store.checkpoint();
    set(&mut old.clone(), &app.node, theme("light")).await;
    store.rewind();
    app.pass(VOUCHED);
    (store, app, old)
}

// R-6, G9: the values, the removals and the lifetime of a session.
#[tokio::test]
async fn memory_brings_back_lost_commits() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    set(&mut browser, &app.node, Visits(1)).await;
    let old = browser.clone();
    store.checkpoint();
    let session = under_way(&browser, &app.node).await;
    session.set(theme("light")).await.unwrap();
    session.remove::<Visits>().await.unwrap();
    let life = Lifetime::new(DAY, 3 * DAY).unwrap();
    session.set_lifetime(life).await.unwrap();
    store.rewind();
    assert_eq!(cold(&app, &old).await, (dark(), Visits(1), Division(-1)));
    app.pass(VOUCHED);
    store.take_operations();
    assert_eq!(get::<Theme>(&mut old.clone(), &app.node).await, theme("light"));
    assert_eq!(store.take_operations(), [Operation::Read, Operation::Update]);
    assert_eq!(cold(&app, &old).await, (theme("light"), Visits(0), Division(-1)));
    app.pass(3 * DAY);
    assert_eq!(cold(&app, &old).await.0, Theme::default(), "the shorter lifetime is back too");
    assert_eq!(rewound(&app.node), 1);
}

// G10: an update compares with the version in memory, which the store has lost.
#[tokio::test]
async fn update_after_a_rewind_counts_on() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    set(&mut browser, &app.node, Visits(1)).await;
    store.checkpoint();
    let session = under_way(&browser, &app.node).await;
    let visit = async || session.update(|visits: &mut Visits| visits.0 += 1).await;
    assert_eq!(visit().await.unwrap(), Visits(2));
    store.rewind();
    assert_eq!(visit().await.unwrap(), Visits(3));
    assert_eq!(cold(&app, &browser).await.1, Visits(3));
    assert_eq!(rewound(&app.node), 1);
}

// R3: first the end of all sessions, and then the user's values.
#[tokio::test]
async fn end_of_all_sessions_is_brought_back() {
    let (store, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, Division(1)).await;
    store.checkpoint();
    set(&mut browser, &app.node, Division(2)).await;
    app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    store.rewind();
    app.pass(VOUCHED);
    let user = async |node: &Node| browser.clone().visit(node, async |session| session.get::<User>()).await;
    assert!(user(&app.start()).await.is_some(), "the store has lost the end");
    let job = app.node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    assert_eq!(job.value::<Division>(), Division(2));
    let elsewhere = app.start();
    assert_eq!(user(&elsewhere).await, None);
    let job = elsewhere.sessions.for_principal(Principal::new("ada")).await.unwrap();
    assert_eq!(job.value::<Division>(), Division(2));
}

// G12: the session would live on nodes that have not seen its end. A follower repeats the ends of the last minute.
#[tokio::test]
async fn follower_brings_back_ends_of_sessions() {
    let (store, app) = stored();
    let (node, follower) = following(&app);
    settled().await;
    let mut signed_out = signed_in(&node, "ada").await;
    let mut renewed = signed_in(&node, "bob").await;
    let (ended, old) = (signed_out.clone(), renewed.clone());
    let mut other = signed_in(&node, "eve").await;
    store.checkpoint();
    signed_out.visit(&node, async |session| session.sign_out().await.unwrap()).await;
    renewed.visit(&node, async |session| session.renew().await.unwrap()).await;
    set(&mut other, &node, Visits(1)).await;
    store.rewind();
    let user = async |browser: &Browser| {
        let closed = async |session: Session| (session.get::<User>(), at_once(session.closed()));
        browser.clone().visit(&app.start(), closed).await
    };
    assert!(user(&ended).await.0.is_some() && user(&old).await.0.is_some(), "the store has lost the ends");
    app.pass(VOUCHED);
    assert_eq!(get::<Visits>(&mut other, &node).await, Visits(1));
    for _ in 0..2 {
        app.pass(Duration::from_secs(1));
        settled().await;
    }
    assert_eq!(user(&ended).await, (None, Some(CloseReason::Destroyed)));
    assert_eq!(user(&old).await, (None, Some(CloseReason::Renewed)));
    follower.abort();
}

// The store has lost the whole record of the user, by an eviction for example.
#[tokio::test]
async fn lost_record_of_a_user_is_brought_back() {
    let (store, app) = stored();
    let user = async |node: &Node| node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    user(&app.node).await.set(Division(3)).await.unwrap();
    app.pass(VOUCHED);
    user(&app.node).await;
    store.forget_records();
    app.pass(VOUCHED);
    assert_eq!(user(&app.node).await.value::<Division>(), Division(3));
    assert_eq!(user(&app.start()).await.value::<Division>(), Division(3));
    assert_eq!(rewound(&app.node), 1);
    // Another node has written to the lost record meanwhile.
    store.forget_records();
    user(&app.start()).await.set(Division(4)).await.unwrap();
    app.pass(VOUCHED);
    assert_eq!(user(&app.node).await.value::<Division>(), Division(4));
}

// A removal that no node remembers any more could be older than such a value.
#[tokio::test]
async fn old_value_of_a_user_is_not_brought_back() {
    let (store, app) = stored();
    let user = async |node: &Node| node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    user(&app.node).await.set(Division(3)).await.unwrap();
    for _ in 0..4 {
        app.pass(10 * DAY);
        user(&app.node).await;
    }
    store.forget_records();
    app.pass(VOUCHED);
    user(&app.node).await;
    assert_eq!(user(&app.start()).await.value::<Division>(), Division(-1));
}

// G5: the store decides whether a session exists.
#[tokio::test]
async fn lost_session_stays_absent() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    store.forget_records();
    app.pass(VOUCHED);
    assert_eq!(get::<Theme>(&mut browser, &app.node).await, Theme::default());
    assert_eq!((cold(&app, &browser).await.0, rewound(&app.node)), (Theme::default(), 0));
}

// G3: the cookie of one browser brings lost values to the store, for the user's other browsers.
#[tokio::test]
async fn cookie_brings_back_lost_values() {
    let store = SpyStore::new();
    let shared = store.clone();
    let app = App::with(move |chain| chain.tier(SharedTier::new(shared.clone())));
    let mut phone = signed_in(&app.node, "ada").await;
    let laptop = signed_in(&app.node, "ada").await;
    set(&mut phone, &app.node, dark()).await;
    store.checkpoint();
    set(&mut phone, &app.node, Division(3)).await;
    set(&mut phone, &app.node, theme("light")).await;
    store.rewind();
    app.pass(VOUCHED);
    assert_eq!(cold(&app, &laptop).await.2, Division(-1));
    let node = app.start();
    store.take_operations();
    assert_eq!(get::<Division>(&mut phone.clone(), &node).await, Division(3));
    assert_eq!(store.take_operations(), [Operation::Read, Operation::Update, Operation::Upsert]);
    assert_eq!(cold(&app, &laptop).await.2, Division(3));
    assert_eq!(rewound(&node), 0);
    // The values are back, and no later load brings them again.
    app.pass(VOUCHED);
    for node in [&node, &app.start()] {
        store.take_operations();
        get::<Theme>(&mut phone, node).await;
        assert_eq!(store.take_operations(), [Operation::Read]);
    }
}

// A load is no failure if the store takes no write, and a later load tries again.
#[tokio::test]
async fn refused_return_is_tried_again() {
    let (store, app, old) = lost_theme().await;
    store.hold_requests(Operation::Update);
    let read = async || get::<Theme>(&mut old.clone(), &app.node).await;
    assert_eq!(ticking(&app.clock, read()).await, theme("light"));
    store.release();
    app.pass(VOUCHED);
    store.take_operations();
    // The read finds the record unchanged, and the node still knows of its debt.
    assert_eq!(read().await, theme("light"));
    assert_eq!(store.take_operations(), [Operation::Read, Operation::Update]);
    assert_eq!(cold(&app, &old).await.0, theme("light"));
    assert_eq!(rewound(&app.node), 1);
}
