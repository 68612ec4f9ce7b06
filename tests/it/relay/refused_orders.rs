//! Sign-in orders that a node refuses: late, used, of another session or user, or given before the end of all of the
//! user's sessions.

use std::{sync::Barrier, thread, time::Duration};

use http::StatusCode;
use layered_session::{Clock, Principal, Session, SharedTier, WriteErrorKind, testing::SpyStore};

use crate::support::{
    App, Browser, Division, Mfa, Node, Theme, User, assert_refused, at_once, bare, bring, bring_ok, get, id, is_ada,
    kind, login, mfa_node, named, post, principal, sign_in, signed_in, socket, theme, user, visitor,
};

#[tokio::test]
async fn sign_in_order_lives_one_minute() {
    let app = App::new();
    for (passed, taken) in [(59_999, true), (60_000, false)] {
        let node = app.start();
        let mut browser = visitor(&node).await;
        let token = login(&socket(&browser, &node).await);
        app.pass(Duration::from_millis(passed));
        let answer = bring(&mut browser, &node, &token).await;
        assert_eq!(answer.code(), if taken { "" } else { "relay_expired" });
        assert_eq!(is_ada(principal(&browser, &node).await), taken);
    }
}

// After a step back the clock passes some moments a second time. The step must not extend the life of an order from
// before the step.
#[tokio::test]
async fn clock_step_back_extends_no_sign_in_order() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let before = login(&live);
    app.clock.set(app.clock.now() - Duration::from_secs(600));
    let after = login(&live);
    for token in [&before, &after] {
        assert_refused(&bring(&mut browser, &node, token).await, "relay_expired");
    }
    app.pass(Duration::from_secs(601));
    assert_refused(&bring(&mut browser, &node, &before).await, "relay_expired");
    bring_ok(&mut browser, &node, &login(&live)).await;
}

#[tokio::test]
async fn sign_in_order_begins_same_session_everywhere() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    let token = login(&socket(&browser, &node).await);
    let mut begun = Vec::new();
    for node in [node.clone(), app.start(), app.start()] {
        let mut page = browser.clone();
        bring_ok(&mut page, &node, &token).await;
        begun.push(id(&page));
        assert_refused(&bring(&mut browser.clone(), &node, &token).await, "token_used");
        assert_refused(&bring(&mut page, &node, &token).await, "token_used");
    }
    begun.dedup();
    assert_eq!(begun.len(), 1);
    let token = login(&socket(&Browser::new(), &node).await);
    bring_ok(&mut Browser::new(), &node, &token).await;
    assert_refused(&bring(&mut Browser::new(), &node, &token).await, "token_used");
}

#[tokio::test]
async fn sign_in_order_needs_session_cookie() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    let token = login(&socket(&browser, &node).await);
    assert_refused(&bring(&mut Browser::new(), &node, &token).await, "relay_other_session");
    let mut other = visitor(&node).await;
    assert_refused(&bring(&mut other, &node, &token).await, "relay_other_session");
    let mut garbage = Browser::new();
    garbage.set("session", "garbage");
    assert_refused(&bring(&mut garbage, &node, &token).await, "relay_other_session");
    // The order of a visitor without a session has no effect in a browser with a session, or with an unreadable cookie.
    let token = login(&socket(&Browser::new(), &node).await);
    for browser in [&mut other, &mut garbage] {
        assert_refused(&bring(browser, &node, &token).await, "relay_other_session");
    }
    assert_eq!(get::<Theme>(&mut other, &node).await, theme("light"));
}

#[tokio::test]
async fn sign_out_cancels_sign_in_order() {
    let app = App::new();
    for renews in [true, false] {
        let node = app.start();
        let mut browser = visitor(&node).await;
        let (mut old, token) = (browser.clone(), login(&socket(&browser, &node).await));
        let turn = async move |session: Session| if renews { session.renew().await } else { session.sign_out().await };
        browser.visit(&node, turn).await.unwrap();
        assert_refused(&bring(&mut old, &node, &token).await, "session_closed");
        assert_refused(&bring(&mut browser, &node, &token).await, "relay_other_session");
        assert_eq!(principal(&browser, &node).await, None);
    }
}

#[tokio::test]
async fn end_all_cancels_earlier_sign_in_order() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    // All sessions of ada end before the socket gives the order, so the session of the order begins after the end.
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    other.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    app.pass(Duration::from_millis(1));
    let token = login(&live);
    for node in [&node, &other] {
        let mut page = browser.clone();
        let stamped = app.start();
        stamped.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
        assert_refused(&bring(&mut page, &stamped, &token).await, "session_closed");
        bring_ok(&mut page, node, &token).await;
        assert!(is_ada(principal(&page, node).await));
    }
    // All sessions of ada end after the socket has given the order, on the node of the socket.
    let mut late = visitor(&node).await;
    let token = login(&socket(&late, &node).await);
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_refused(&bring(&mut late, &node, &token).await, "session_closed");
    assert_eq!(principal(&late, &node).await, None);
    browser.set("session", "gone");
}

#[tokio::test]
async fn end_all_cancels_order_of_ended_session() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let token = socket(&browser, &node).await.sign_in(user("bob")).by_page().unwrap();
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_refused(&bring(&mut browser, &node, token.as_str()).await, "session_closed");
    assert_eq!(principal(&browser, &node).await, None);
}

#[tokio::test]
async fn another_sign_in_cancels_earlier_sign_in_order() {
    let app = App::new();
    let node = app.start_with(|sessions| {
        sessions.identify_by::<crate::support::User>(|user| (user.0 != "guest").then(|| Principal::new(&user.0)))
    });
    let mut browser = visitor(&node).await;
    // The socket gives the order for a visitor. Afterwards another user signs in, in the session of the same browser.
    let token = login(&socket(&browser, &node).await);
    sign_in(&mut browser, &node, "bob").await;
    assert_refused(&bring(&mut browser, &node, &token).await, "relay_other_session");
    assert_eq!(principal(&browser, &node).await, Some(Principal::new("bob")));
}

#[tokio::test]
async fn closed_handle_gives_no_sign_in_order() {
    let app = App::new();
    let node = mfa_node(&app);
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    assert_eq!(kind(job.sign_in(user("ada")).by_page()), Some(WriteErrorKind::Invalid));
    assert_eq!(kind(job.renew_by_page().token()), Some(WriteErrorKind::Invalid));
    assert_eq!(kind(job.sign_in(user("ada")).await), Some(WriteErrorKind::Invalid));
    assert_eq!(kind(job.renew().await), Some(WriteErrorKind::Invalid));
    let visitors = socket(&Browser::new(), &node).await;
    assert_eq!(kind(visitors.renew_by_page().token()), Some(WriteErrorKind::Invalid), "nothing to renew");
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert_eq!(kind(live.sign_in(user("ada")).by_page()), Some(WriteErrorKind::Closed));
    assert_eq!(kind(live.renew_by_page().token()), Some(WriteErrorKind::Closed));
}

#[tokio::test]
async fn sign_in_order_needs_memory() {
    let app = App::new();
    let chain = bare(&app.ring, &app.clock).value::<Theme>().identify_by::<User>(named);
    let node = Node::new(chain.build().unwrap());
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    assert_eq!(kind(live.sign_in(user("ada")).by_page()), Some(WriteErrorKind::NoMemory));
    assert_eq!(kind(live.renew_by_page().token()), Some(WriteErrorKind::NoMemory));
}

// A sign-out takes back every order of the handle, so a handle gives no more orders than the sign-out can take back.
#[tokio::test]
async fn ninth_sign_in_order_is_refused() {
    let (app, store) = (App::new(), SpyStore::new());
    let over_store = || app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let (node, other) = (over_store(), over_store());
    let live = socket(&Browser::new(), &node).await;
    let order = |number: usize| live.sign_in(user(&format!("user {number}"))).by_page();
    assert_eq!(
        kind(live.sign_in(user(&"x".repeat(4_000))).by_page()),
        Some(WriteErrorKind::TooLarge),
        "a refused order does not count"
    );
    let mut tokens: Vec<_> = (0..8).map(|number| order(number).unwrap().to_string()).collect();
    for _ in 0..2 {
        assert_eq!(kind(order(8)), Some(WriteErrorKind::Invalid));
    }
    assert!(order(8).unwrap_err().to_string().contains("new request"), "the remedy");
    tokens.extend(
        (0..8).map(|number| order(number).expect("an order for the same user replaces the earlier order").to_string()),
    );
    live.destroy().await.unwrap();
    for node in [&node, &other] {
        for token in &tokens {
            let answer = bring(&mut Browser::new(), node, token).await;
            assert_eq!((answer.status, answer.set_cookies()), (StatusCode::CONFLICT, vec![]));
        }
    }
}

#[tokio::test]
async fn removal_token_ends_sessions_of_all_orders() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let (mut given, mut refused) = (Vec::new(), 0);
    for number in 0..24 {
        match live.sign_in(user(&format!("user {number}"))).by_page() {
            Ok(token) => given.push(token.to_string()),
            Err(error) => {
                assert_eq!(error.kind(), WriteErrorKind::Invalid);
                refused += 1;
                live.destroy().await.unwrap();
            }
        }
    }
    assert_eq!(given.len() + refused, 24);
    live.destroy().await.unwrap();
    let mut pages = Vec::new();
    for token in &given {
        let mut page = browser.clone();
        // The node knows of no end yet.
        let answer = bring(&mut page, &app.start(), token).await;
        if answer.status == StatusCode::OK {
            pages.push(page);
        }
    }
    assert!(pages.len() >= 14, "{}", pages.len());
    let removal = live.relay().unwrap().to_string();
    bring_ok(&mut pages[0].clone(), &other, &removal).await;
    for page in &pages {
        assert_eq!(principal(page, &other).await, None);
    }
}

// Two clones of a handle give a sign-in order at the same moment: both sign-in orders begin the same session.
#[test]
fn concurrent_sign_in_orders_share_session() {
    let node = App::new().node;
    for _ in 0..200 {
        let live = at_once(socket(&Browser::new(), &node)).unwrap();
        let barrier = Barrier::new(2);
        let order = || {
            barrier.wait();
            login(&live)
        };
        let tokens = thread::scope(|scope| [scope.spawn(order), scope.spawn(order)].map(|it| it.join().unwrap()));
        let [first, second] = tokens.map(|token| at_once(bring(&mut Browser::new(), &node, &token)).unwrap());
        assert_eq!((first.status, second.code().as_str()), (StatusCode::OK, "token_used"));
    }
}

#[tokio::test]
async fn oversized_sign_in_order_is_refused() {
    let app = App::new();
    let node = mfa_node(&app);
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    assert_eq!(kind(live.sign_in(user(&"x".repeat(4_000))).by_page()), Some(WriteErrorKind::TooLarge));
    assert_eq!(kind(live.renew_by_page().with(&theme(&"x".repeat(4_000))).token()), Some(WriteErrorKind::TooLarge));
    let grants = live.renew_by_page().with(&Division(1));
    assert_eq!(kind(grants.token()), Some(WriteErrorKind::Invalid), "a value of principal scope can't be granted");
    assert_eq!(
        kind(live.renew_by_page().with(&user("eve")).token()),
        Some(WriteErrorKind::Invalid),
        "the identity value can't be granted"
    );
    let undeclared = socket(&browser, &app.start()).await;
    assert_eq!(kind(undeclared.renew_by_page().with(&Mfa(true)).token()), Some(WriteErrorKind::Undeclared));
    let token = live.renew_by_page().with(&Mfa(true)).token().unwrap();
    bring_ok(&mut browser, &node, token.as_str()).await;
}

#[tokio::test]
async fn relayed_values_are_stored_despite_refused_order() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    live.set(theme("dark")).await.unwrap();
    let token = login(&live);
    let restarted = app.start();
    restarted.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(bring(&mut browser, &restarted, &token).await.code(), "session_closed");
    assert_eq!(get::<Theme>(&mut browser, &restarted).await, theme("dark"));
    assert_eq!(principal(&browser, &restarted).await, None);
}

#[tokio::test]
async fn sign_in_order_with_other_values_is_refused() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let token = login(&socket(&browser, &node).await);
    let body = serde_json::json!({ "$relay": token, "theme": "dark" }).to_string();
    assert_eq!(post(&mut browser, &node, body).await.code(), "relay_not_alone");
    assert_eq!(principal(&browser, &node).await, None);
}

#[tokio::test]
async fn sign_in_order_after_end_needs_cookie() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let mut old = browser.clone();
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    let live = socket(&old, &node).await;
    assert_eq!(kind(live.renew_by_page().token()), Some(WriteErrorKind::Closed));
    let token = login(&live);
    assert_refused(&bring(&mut Browser::new(), &node, &token).await, "relay_other_session");
    bring_ok(&mut old, &node, &token).await;
    assert!(is_ada(principal(&old, &node).await));
}

#[tokio::test]
async fn completed_sign_in_order_closes_handle() {
    let node = App::new().node;
    let live = socket(&Browser::new(), &node).await;
    bring_ok(&mut Browser::new(), &node, &login(&live)).await;
    assert_eq!(kind(live.sign_in(user("bob")).by_page()), Some(WriteErrorKind::Closed));
}

#[tokio::test]
async fn destroy_cancels_sign_in_order_elsewhere() {
    let (app, store) = (App::new(), SpyStore::new());
    let over_store = || app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let (node, other) = (over_store(), over_store());
    let live = socket(&Browser::new(), &node).await;
    let token = login(&live);
    live.destroy().await.unwrap();
    assert_refused(&bring(&mut Browser::new(), &other, &token).await, "session_closed");
}
