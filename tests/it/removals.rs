//! Removals of a user's values: remembered for as long as any cookie could bring the value back.

use layered_session::{Lifetime, Principal, Session};

use crate::{
    app::{App, get, set, signed_in, visitor},
    world::{Browser, DAY, Division, HOUR, Node, User},
};

/// A user whose browser keeps her signed in for a year, with a value of hers.
async fn remembered(node: &Node) -> Browser {
    let mut browser = signed_in(node, "ada").await;
    let year = Lifetime::new(365 * DAY, 365 * DAY).unwrap();
    browser.visit(node, async move |session| session.set_lifetime(year).await.unwrap()).await;
    set(&mut browser, node, Division(3)).await;
    browser
}

async fn ada(node: &Node) -> Session {
    node.sessions.of(Principal::new("ada")).await.unwrap()
}

#[tokio::test]
async fn removal_outlives_the_users_idle_record() {
    for crowd in [0, 8] {
        let app = App::new();
        let node = app.node();
        let mut browser = remembered(&node).await;
        ada(&node).await.remove::<Division>().await.unwrap();
        app.pass(364 * DAY);
        for _ in 0..crowd {
            visitor(&node).await;
        }
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1), "{crowd}");
        assert_eq!(ada(&node).await.find::<Division>(), None);
    }
}

#[tokio::test]
async fn clear_outlives_the_users_idle_record() {
    let app = App::new();
    let node = app.node();
    let mut browser = remembered(&node).await;
    ada(&node).await.clear().await.unwrap();
    app.pass(40 * DAY);
    visitor(&node).await;
    assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1));
}

#[tokio::test]
async fn removal_from_a_cookie_is_kept_as_long() {
    let app = App::new();
    let (here, there) = (app.node(), app.node());
    let mut old = remembered(&here).await;
    let mut browser = old.clone();
    browser.visit(&here, async |session| session.remove::<Division>().await.unwrap()).await;
    assert_eq!(get::<Division>(&mut browser, &there).await, Division(-1));
    app.pass(40 * DAY);
    visitor(&there).await;
    assert_eq!(get::<Division>(&mut old, &there).await, Division(-1));
}

#[tokio::test]
async fn record_goes_once_its_removals_may() {
    let app = App::new();
    let node = app.node();
    remembered(&node).await;
    ada(&node).await.remove::<Division>().await.unwrap();
    let records = async || {
        for _ in 0..3 {
            visitor(&node).await;
        }
        node.sessions.stats().records - 3
    };
    assert_eq!(records().await, 2, "the session and the user");
    app.pass(365 * DAY + HOUR / 2);
    assert_eq!(records().await, 1, "within the skew of clocks");
    app.pass(3 * DAY);
    assert_eq!(records().await, 0);
}

// Values that were not used for the idle time of the user's record are gone, though the record is kept for a removal.
#[tokio::test]
async fn idle_values_stay_gone_beside_a_removal() {
    let app = App::new();
    let node = app.node_with(|sessions| sessions.principal_idle(HOUR));
    ada(&node).await.set(Division(3)).await.unwrap();
    ada(&node).await.remove::<Division>().await.unwrap();
    ada(&node).await.set(Division(4)).await.unwrap();
    app.pass(2 * HOUR);
    visitor(&node).await;
    assert_eq!(ada(&node).await.find::<Division>(), None);
    node.sessions.end_all(Principal::new("ada")).await.unwrap();
    assert_eq!(ada(&node).await.find::<Division>(), None, "an end of all sessions is no use of them");
}

#[tokio::test]
async fn choice_is_adopted_over_an_idle_record() {
    let app = App::new();
    let node = app.node_with(|sessions| sessions.principal_idle(HOUR));
    ada(&node).await.set(Division(3)).await.unwrap();
    app.pass(HOUR);
    let adopt = async |session: Session| {
        session.set(Division(5)).await.unwrap();
        session.sign_in(User("ada".into())).adopt::<Division>().await.unwrap();
        session.find::<Division>()
    };
    assert_eq!(Browser::new().visit(&node, adopt).await, Some(Division(5)));
}
