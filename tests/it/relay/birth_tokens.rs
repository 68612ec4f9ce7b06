//! Birth tokens: a birth token gives the cookie of a new session to one browser.

use layered_session::{SharedTier, testing::SpyStore};

use crate::support::{
    App, Browser, Node, Theme, Trace, assert_refused, bring, bring_ok, get, set, socket, theme, visitor,
};

async fn born(node: &Node) -> String {
    let live = socket(&Browser::new(), node).await;
    live.set(theme("dark")).await.unwrap();
    live.relay().unwrap().to_string()
}

#[tokio::test]
async fn birth_token_gives_cookie_once() {
    let app = App::new();
    let node = app.start();
    let token = born(&node).await;
    let mut browser = Browser::new();
    bring_ok(&mut browser, &node, &token).await;
    assert_refused(&bring(&mut Browser::new(), &node, &token).await, "token_used");
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    bring_ok(&mut browser, &node, &token).await;
}

#[tokio::test]
async fn second_birth_token_works_after_lost_answer() {
    let node = App::new().node;
    let live = socket(&Browser::new(), &node).await;
    live.set(theme("light")).await.unwrap();
    let first = live.relay().unwrap();
    live.set(theme("dark")).await.unwrap();
    let second = live.relay().unwrap();
    // The answer to the first token is lost, so the page has no cookie yet.
    bring_ok(&mut Browser::new(), &node, first.as_str()).await;
    let mut browser = Browser::new();
    bring_ok(&mut browser, &node, second.as_str()).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
}

#[tokio::test]
async fn each_node_accepts_birth_token_once() {
    let app = App::new();
    let node = app.start();
    let token = born(&node).await;
    for node in [node, app.start()] {
        bring_ok(&mut Browser::new(), &node, &token).await;
        assert_refused(&bring(&mut Browser::new(), &node, &token).await, "token_used");
    }
}

#[tokio::test]
async fn store_without_session_refuses_birth_token() {
    let (app, store) = (App::new(), SpyStore::new());
    let over = |store: SpyStore| app.start_with(|sessions| sessions.tier(SharedTier::new(store)));
    let first = over(store.clone());
    let live = socket(&Browser::new(), &first).await;
    live.set(theme("dark")).await.unwrap();
    let token = live.relay().unwrap().to_string();
    let mut browser = Browser::new();
    assert_refused(&bring(&mut browser, &over(SpyStore::new()), &token).await, "relay_other_session");
    bring_ok(&mut browser, &over(store.clone()), &token).await;
    live.destroy().await.unwrap();
    assert_refused(&bring(&mut Browser::new(), &over(store), &token).await, "session_closed");
}

#[tokio::test]
async fn session_begun_on_socket_is_traced() {
    let app = App::new();
    let node = app.start();
    let (trace, _guard) = Trace::begin();
    let live = socket(&Browser::new(), &node).await;
    live.set(theme("dark")).await.unwrap();
    live.clone().set(theme("light")).await.unwrap();
    assert_eq!(trace.lines_with("Session::relay"), 1, "{}", trace.text());
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    live.set(theme("dark")).await.unwrap();
    set(&mut browser, &node, theme("light")).await;
    assert_eq!(trace.lines_with("Session::relay"), 1, "a session with a cookie is not traced");
}
