//! Sign-in orders and renewal orders that a node carries out: a socket gives the order, and the page brings the order
//! to the writeback.

use layered_session::{CloseReason, Principal, SharedTier, WriteErrorKind, testing::SpyStore};

use crate::support::{
    App, Browser, DAY, Division, Mfa, Theme, assert_refused, at_once, bring_ok, first_write, get, id, is_ada, kind,
    login, mfa_node, principal, set, signed_in, socket, theme, user, visitor,
};

#[tokio::test]
async fn socket_cannot_sign_in_directly() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    assert_eq!(kind(live.sign_in(user("ada")).await), Some(WriteErrorKind::HeadSent));
    assert_eq!(kind(live.renew().await), Some(WriteErrorKind::HeadSent));
    assert_eq!((live.principal(), at_once(live.closed()), live.relay()), (None, None, None));
    assert_eq!(get::<Theme>(&mut browser.clone(), &node).await, theme("light"));
    let message = live.renew().await.unwrap_err().to_string();
    assert!(message.contains("by_page"), "the remedy: {message}");
}

#[tokio::test]
async fn sign_in_order_signs_page_in() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let (old, live) = (browser.clone(), socket(&browser, &node).await);
    let token = login(&live);
    assert_eq!((live.principal(), principal(&browser, &node).await), (None, None), "nothing has changed yet");
    bring_ok(&mut browser, &node, &token).await;
    assert!(is_ada(principal(&browser, &node).await));
    assert!(is_ada(principal(&browser, &app.start()).await), "the cookie alone names the user");
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
    assert_eq!(at_once(live.closed()), Some(CloseReason::Renewed));
    assert_ne!(id(&browser), id(&old));
    assert_eq!(principal(&old, &node).await, None);
}

#[tokio::test]
async fn sign_in_order_adopts_visitor_choice() {
    for (adopts, expected) in [(true, Division(3)), (false, Division(-1))] {
        let node = App::new().node;
        let mut browser = visitor(&node).await;
        let live = socket(&browser, &node).await;
        // The cookie lacks the change, so the order carries the change along.
        live.set(Division(3)).await.unwrap();
        let order = live.sign_in(user("ada"));
        let token = if adopts { order.adopt::<Division>().by_page() } else { order.by_page() }.unwrap();
        bring_ok(&mut browser, &node, token.as_str()).await;
        assert_eq!(get::<Division>(&mut browser, &node).await, expected);
    }
}

#[tokio::test]
async fn visitor_signs_in_without_session() {
    let app = App::new();
    let (first, second) = (app.start(), app.start());
    let live = socket(&Browser::new(), &first).await;
    let token = login(&live);
    for node in [&first, &second] {
        let mut browser = Browser::new();
        bring_ok(&mut browser, node, &token).await;
        assert!(is_ada(principal(&browser, node).await));
    }
}

#[tokio::test]
async fn new_session_signs_in_without_cookie() {
    let app = App::new();
    for restarts in [false, true] {
        let node = app.start();
        let live = socket(&Browser::new(), &node).await;
        live.set(theme("dark")).await.unwrap();
        let token = login(&live);
        let node = if restarts { app.start() } else { node };
        let mut browser = Browser::new();
        bring_ok(&mut browser, &node, &token).await;
        assert!(is_ada(principal(&browser, &node).await));
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    }
}

#[tokio::test]
async fn old_cookie_gets_no_granted_value() {
    let app = App::new();
    let node = mfa_node(&app);
    let mut browser = signed_in(&node, "ada").await;
    let (old, live) = (browser.clone(), socket(&browser, &node).await);
    let token = live.renew_by_page().with(&Mfa(true)).token().unwrap();
    assert_eq!((live.value::<Mfa>(), get::<Mfa>(&mut browser, &node).await), (Mfa(false), Mfa(false)));
    bring_ok(&mut browser, &node, token.as_str()).await;
    assert_eq!(get::<Mfa>(&mut browser, &node).await, Mfa(true));
    assert_eq!(get::<Mfa>(&mut old.clone(), &node).await, Mfa(false));
    assert!(is_ada(principal(&browser, &node).await));
    let restarted = mfa_node(&app);
    assert_eq!(get::<Mfa>(&mut browser.clone(), &restarted).await, Mfa(true));
    assert_eq!(get::<Mfa>(&mut old.clone(), &restarted).await, Mfa(false), "the new cookie names the old id");
}

#[tokio::test]
async fn sign_in_grants_values() {
    let app = App::new();
    let node = mfa_node(&app);
    let mut browser = visitor(&node).await;
    let old = browser.clone();
    browser.visit(&node, async |session| session.sign_in(user("ada")).with(&Mfa(true)).await.unwrap()).await;
    assert_eq!(get::<Mfa>(&mut browser, &node).await, Mfa(true));
    assert_eq!(get::<Mfa>(&mut old.clone(), &node).await, Mfa(false));
    let live = socket(&visitor(&node).await, &node).await;
    assert!(live.sign_in(user("ada")).with(&Mfa(true)).by_page().is_ok());
}

// The answer to the first order is lost, and the page brings the next order to a node without knowledge of the first
// order.
#[tokio::test]
async fn sign_in_orders_begin_separate_sessions() {
    let app = App::new();
    let (first, second) = (mfa_node(&app), mfa_node(&app));
    let mut browser = visitor(&first).await;
    let live = socket(&browser, &first).await;
    let ada = live.sign_in(user("ada")).with(&Mfa(true)).by_page().unwrap();
    let bob = live.sign_in(user("bob")).by_page().unwrap();
    bring_ok(&mut browser.clone(), &first, ada.as_str()).await;
    bring_ok(&mut browser, &second, bob.as_str()).await;
    assert_eq!(principal(&browser, &first).await, Some(Principal::new("bob")));
    assert_eq!(get::<Mfa>(&mut browser, &first).await, Mfa(false));
}

#[tokio::test]
async fn planted_cookie_gets_no_sign_in_order() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let planted = browser.clone();
    let (live, other) = (socket(&browser, &node).await, socket(&planted, &node).await);
    let clone_of_other = other.clone();
    live.set(theme("dark")).await.unwrap();
    let token = login(&live);
    for handle in [&other, &clone_of_other] {
        assert!(
            handle.relay().is_none_or(|relay| relay.as_str().starts_with("r.")),
            "another handle relays changes and no order"
        );
    }
    bring_ok(&mut browser, &node, &token).await;
    assert_eq!((other.principal(), other.relay(), at_once(other.closed())), (None, None, Some(CloseReason::Renewed)));
    assert_eq!(principal(&planted, &node).await, None);
}

#[tokio::test]
async fn newer_sign_in_order_replaces_older() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let (first, second) = (login(&live), live.sign_in(user("bob")).by_page().unwrap().to_string());
    bring_ok(&mut browser, &node, &second).await;
    let refused = crate::support::bring(&mut browser, &node, &first).await;
    assert_refused(&refused, "relay_other_session");
    assert_eq!(principal(&browser, &node).await, Some(Principal::new("bob")));
}

#[tokio::test]
async fn sign_in_order_carries_socket_use() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    app.pass(DAY);
    live.touch().await.unwrap();
    app.pass(DAY);
    let token = login(&live);
    // On every node, the cookie's own seal is two days old, and the use in the token is one day old.
    for node in [node, app.start()] {
        let mut browser = browser.clone();
        bring_ok(&mut browser, &node, &token).await;
        assert!(is_ada(principal(&browser, &node).await));
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
    }
}

#[tokio::test]
async fn sign_in_order_begins_one_stored_session() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = || app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let (first, second) = (node(), node());
    let mut browser = visitor(&first).await;
    let live = socket(&browser, &first).await;
    set(&mut browser, &first, theme("dark")).await;
    let (token, old) = (login(&live), browser.clone());
    bring_ok(&mut browser, &second, &token).await;
    assert!(is_ada(principal(&browser, &first).await));
    assert_eq!(get::<Theme>(&mut browser, &first).await, theme("dark"));
    let again = crate::support::bring(&mut old.clone(), &first, &token).await;
    assert_refused(&again, "session_closed");
    // For a visitor without a cookie, only the store knows that the begun id is in use.
    let token = login(&socket(&Browser::new(), &first).await);
    bring_ok(&mut Browser::new(), &first, &token).await;
    assert_refused(&crate::support::bring(&mut Browser::new(), &second, &token).await, "session_closed");
}

#[tokio::test]
async fn sign_in_order_adopts_value_once() {
    let node = App::new().node;
    let mut browser = first_write(&node, Division(2)).await;
    let live = socket(&browser, &node).await;
    let ordered = (0..256).fold(live.sign_in(user("ada")), |sign_in, _| sign_in.adopt::<Division>());
    bring_ok(&mut browser, &node, ordered.by_page().unwrap().as_str()).await;
    assert_eq!(get::<Division>(&mut browser, &node).await, Division(2));
}

#[tokio::test]
async fn only_user_values_are_adopted() {
    let node = App::new().node;
    let live = socket(&visitor(&node).await, &node).await;
    let refused = live.sign_in(user("ada")).adopt::<Theme>().by_page();
    assert_eq!(kind(refused), Some(WriteErrorKind::Undeclared));
}
