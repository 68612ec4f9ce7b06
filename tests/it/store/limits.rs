//! The limits of a shared store from the guide's chapter `guarantees`: changes that a node learns of late or
//! never.

use layered_session::{Principal, SharedTier, testing::SpyStore};

use crate::support::{App, Browser, Node, Theme, dark, get, set, signed_in, theme};

/// Returns an application over a store, and the store.
fn over_store() -> (App, SpyStore) {
    let store = SpyStore::new();
    let shared = store.clone();
    (App::with(move |sessions| sessions.tier(SharedTier::new(shared.clone()))), store)
}

async fn user(browser: &Browser, node: &Node) -> Option<Principal> {
    browser.clone().visit(node, async |session| session.principal()).await
}

// R6: without a shared store `end_all_sessions` ends the sessions on the called node alone.
#[tokio::test]
async fn end_all_without_store_affects_one_node() {
    let app = App::new();
    let (here, there) = (&app.node, app.start());
    let (mut first, second) = (signed_in(here, "ada").await, signed_in(here, "ada").await);
    first.visit(here, async |session| session.end_all_sessions().await.unwrap()).await;
    assert_eq!(user(&second, here).await, None);
    for node in [&there, &app.start()] {
        assert_eq!(user(&second, node).await, Some(Principal::new("ada")));
    }
}

// G18: a node with the record in memory learns of another node's write from the newer cookie, and does not ask the
// store.
#[tokio::test]
async fn newer_cookie_carries_remote_write() {
    let (app, store) = over_store();
    let (here, there) = (&app.node, app.start());
    let mut browser = app.dark().await;
    let mut old = browser.clone();
    set(&mut browser, &there, theme("light")).await;
    store.take_operations();
    assert_eq!(get::<Theme>(&mut old, here).await, dark());
    assert_eq!(store.take_operations(), []);
    assert_eq!(get::<Theme>(&mut browser, here).await, theme("light"));
}

// G12: a node that read the record less than 30 seconds ago does not learn of an end on another node.
#[tokio::test]
async fn node_with_record_misses_remote_end() {
    let (app, _) = over_store();
    let mut browser = app.dark().await;
    let copy = browser.clone();
    browser.visit(&app.start(), async |session| session.destroy().await.unwrap()).await;
    assert_eq!(copy.theme(&app.node).await, dark());
    assert_eq!(copy.theme(&app.start()).await, Theme::default());
}
