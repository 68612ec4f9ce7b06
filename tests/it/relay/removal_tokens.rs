//! Sign-outs on a socket: the session ends at once, and the page brings a *removal token*, a turn token that removes
//! the cookie.

use layered_session::{CloseReason, Lifetime, Principal, Session, SharedTier, WriteErrorKind, testing::SpyStore};

use crate::support::{
    App, Browser, DAY, HOUR, Node, Theme, assert_refused, at_once, bring, bring_ok, get, is_ada, kind, login,
    principal, sign_in, signed_in, socket, theme, user, visitor,
};

async fn sign_out(live: &Session) -> String {
    live.sign_out().await.unwrap();
    live.relay().expect("a removal").to_string()
}

/// Whether a request with this cookie has no session on a node that knew no session before the removal.
async fn is_dead(browser: &Browser, node: &Node) -> bool {
    browser.clone().visit(node, async |session| session.is_new()).await
}

#[tokio::test]
async fn socket_sign_out_reaches_browser() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let browser = signed_in(&node, "ada").await;
    let live = socket(&browser, &node).await;
    assert_eq!(live.relay(), None);
    let token = sign_out(&live).await;
    assert_eq!(at_once(live.closed()), Some(CloseReason::Destroyed));
    assert_eq!(principal(&browser, &node).await, None, "the session has ended before the page brings the token");
    // The page brings the removal to this node, to a node with an empty memory, and to that second node again.
    for node in [&node, &other, &other] {
        let mut page = browser.clone();
        bring_ok(&mut page, node, &token).await;
        assert_eq!(page.cookie("session"), None);
        assert!(is_dead(&browser, node).await, "a copy of the cookie");
    }
    let answer = bring(&mut Browser::new(), &node, &token).await;
    assert_eq!((answer.code(), answer.set_cookies()), (String::new(), vec![]), "nothing to remove");
}

#[tokio::test]
async fn newest_removal_ends_session_of_earlier_order() {
    let app = App::new();
    let (first, second) = (app.start(), app.start());
    let mut browser = visitor(&first).await;
    let live = socket(&browser, &first).await;
    bring_ok(&mut browser, &second, &login(&live)).await;
    live.sign_out().await.unwrap();
    // The hook keeps only the newest removal token, so the second removal token must name the sessions of both
    // sign-outs.
    login(&live);
    live.sign_out().await.unwrap();
    bring_ok(&mut browser, &second, live.relay().unwrap().as_str()).await;
    assert_eq!((browser.cookie("session"), principal(&browser, &second).await), (None, None));
}

#[tokio::test]
async fn repeated_sign_out_cancels_sign_in_order() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let mut browser = Browser::new();
    let live = socket(&browser, &node).await;
    let order = login(&live);
    store.fail();
    assert_eq!(kind(live.sign_out().await), Some(WriteErrorKind::Unavailable));
    store.heal();
    live.sign_out().await.unwrap();
    assert_refused(&bring(&mut browser, &node, &order).await, "token_used");
    assert_eq!(principal(&browser, &node).await, None);
}

// The removal token names the first browser's session. The second browser's own session was just renewed, and the new
// cookie is still on its way: the second browser's page brings the token with the old cookie. The token is refused, and
// the refusal must not remove the second browser's new cookie.
#[tokio::test]
async fn removal_token_keeps_cookie_of_another_session() {
    let node = App::new().node;
    let removal = sign_out(&socket(&visitor(&node).await, &node).await).await;
    let mut browser = visitor(&node).await;
    let mut old = browser.clone();
    browser.visit(&node, async |session| session.renew().await.unwrap()).await;
    assert_refused(&bring(&mut old, &node, &removal).await, "session_closed");
}

#[tokio::test]
async fn only_handle_that_ended_session_gives_removal() {
    let node = App::new().node;
    let browser = signed_in(&node, "ada").await;
    let (live, other) = (socket(&browser, &node).await, socket(&browser, &node).await);
    let clone = live.clone();
    sign_out(&live).await;
    assert!(clone.relay().is_some_and(|token| token.as_str().starts_with("t.")));
    assert_eq!(other.relay(), None, "another handle of the session");
    let mut ended = signed_in(&node, "ada").await;
    let live = socket(&ended, &node).await;
    ended.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert_eq!(live.relay(), None, "another request has ended the session");
}

#[tokio::test]
async fn removal_token_ends_no_later_sign_in() {
    for signs_over in [true, false] {
        let node = App::new().node;
        let mut browser = signed_in(&node, "ada").await;
        let old = browser.clone();
        let live = socket(&browser, &node).await;
        if signs_over {
            // A sign-in in another tab replaces the socket's session. The session has ended already, so the socket's
            // sign-out has no effect.
            sign_in(&mut browser, &node, "bob").await;
            live.sign_out().await.unwrap();
            assert_eq!(live.relay(), None);
        } else {
            let token = sign_out(&live).await;
            sign_in(&mut browser, &node, "bob").await;
            assert_refused(&bring(&mut browser, &node, &token).await, "session_closed");
            bring_ok(&mut old.clone(), &node, &token).await;
        }
        assert_eq!(principal(&browser, &node).await, Some(Principal::new("bob")));
    }
}

#[tokio::test]
async fn removal_token_removes_no_renewed_cookie() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let browser = signed_in(&node, "ada").await;
    let token = sign_out(&socket(&browser, &node).await).await;
    // The other node has renewed the session without knowledge of the end.
    let mut renewed = browser.clone();
    renewed.visit(&other, async |session| session.renew().await.unwrap()).await;
    assert_refused(&bring(&mut browser.clone(), &other, &token).await, "session_closed");
    assert!(is_ada(principal(&renewed, &other).await), "the removal ends only named sessions");
}

#[tokio::test]
async fn sign_out_cancels_pending_sign_in_order() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let order = login(&live);
    let removal = sign_out(&live).await;
    assert_refused(&bring(&mut browser.clone(), &node, &order).await, "session_closed");
    // A node without knowledge of the end carries the order out. The removal names the begun session too.
    let mut page = browser.clone();
    bring_ok(&mut page, &other, &order).await;
    assert!(is_ada(principal(&page, &other).await));
    bring_ok(&mut page.clone(), &other, &removal).await;
    assert_eq!(principal(&page, &other).await, None);
    bring_ok(&mut browser, &node, &removal).await;
    assert_eq!(browser.cookie("session"), None);
}

#[tokio::test]
async fn sign_out_ends_session_that_order_began() {
    let node = App::new().node;
    for with_session in [true, false] {
        let mut browser = if with_session { visitor(&node).await } else { Browser::new() };
        let live = socket(&browser, &node).await;
        let order = login(&live);
        bring_ok(&mut browser, &node, &order).await;
        assert!(is_ada(principal(&browser, &node).await));
        live.sign_out().await.unwrap();
        assert_eq!(principal(&browser, &node).await, None, "with a session: {with_session}");
    }
}

// The page brings the order to another node, and this node learns of the begun session before the sign-out.
#[tokio::test]
async fn removal_token_ends_session_begun_elsewhere() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    bring_ok(&mut browser, &other, &login(&live)).await;
    assert!(is_ada(principal(&browser, &node).await));
    live.sign_out().await.unwrap();
    assert_eq!(principal(&browser, &node).await, None);
    assert!(is_ada(principal(&browser, &other).await), "the other node does not know of the end yet");
    let removal = live.relay().expect("a removal").to_string();
    bring_ok(&mut browser.clone(), &other, &removal).await;
    assert_eq!(principal(&browser, &other).await, None);
}

#[tokio::test]
async fn removal_token_removes_no_unreadable_cookie() {
    let node = App::new().node;
    let browser = signed_in(&node, "ada").await;
    let token = sign_out(&socket(&browser, &node).await).await;
    let mut unread = Browser::new();
    unread.set("session", "sealed-under-a-newer-key");
    assert_refused(&bring(&mut unread, &node, &token).await, "session_closed");
}

#[tokio::test]
async fn socket_signs_out_and_in_again() {
    let app = App::new();
    for brings_removal in [true, false] {
        let node = app.start();
        let mut browser = signed_in(&node, "ada").await;
        let live = socket(&browser, &node).await;
        let removal = sign_out(&live).await;
        let order = live.sign_in(user("bob")).by_page().unwrap();
        if brings_removal {
            bring_ok(&mut browser, &node, &removal).await;
        }
        bring_ok(&mut browser, &node, order.as_str()).await;
        assert_eq!(principal(&browser, &node).await, Some(Principal::new("bob")));
        // On a node that does not know of the end, the order ends the old id first.
        let (restarted, mut page) = (app.start(), signed_in(&node, "ada").await);
        let old = page.clone();
        let live = socket(&page, &node).await;
        sign_out(&live).await;
        let order = live.sign_in(user("bob")).by_page().unwrap();
        bring_ok(&mut page, &restarted, order.as_str()).await;
        assert_eq!(principal(&page, &restarted).await, Some(Principal::new("bob")));
        assert_eq!(principal(&old, &restarted).await, None);
    }
}

#[tokio::test]
async fn renewal_order_works_after_destroy() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    live.destroy().await.unwrap();
    let token = live.renew_by_page().with(&theme("dark")).token().unwrap();
    bring_ok(&mut browser, &node, token.as_str()).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
}

#[tokio::test]
async fn removal_token_needs_cookie() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let token = sign_out(&live).await;
    bring_ok(&mut Browser::new(), &other, &token).await;
    assert_eq!(get::<Theme>(&mut browser, &other).await, theme("light"));
}

// A sign-in order begins a session with the configured lifetime. The removal token stays valid for that long, although
// the session before was shorter.
#[tokio::test]
async fn removal_token_outlives_short_session() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = Browser::new();
    let begin = async |session: Session| {
        session.set_lifetime(Lifetime::new(HOUR, HOUR).unwrap()).await.unwrap();
        session.set(theme("light")).await.unwrap();
    };
    browser.visit(&node, begin).await;
    let live = socket(&browser, &node).await;
    bring_ok(&mut browser, &other, &login(&live)).await;
    let token = sign_out(&live).await;
    app.pass(2 * HOUR);
    let mut page = browser.clone();
    bring_ok(&mut page, &other, &token).await;
    assert_eq!((page.cookie("session"), principal(&browser, &other).await), (None, None));
}

#[tokio::test]
async fn sign_in_order_ends_old_session_permanently() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = visitor(&node).await;
    let year = Lifetime::new(365 * DAY, 365 * DAY).unwrap();
    browser.visit(&node, async move |session| session.set_lifetime(year).await.unwrap()).await;
    let live = socket(&browser, &node).await;
    live.sign_out().await.unwrap();
    // The page has no cookie, so the sign-in order alone tells the other node how long the old session could have
    // lived.
    bring_ok(&mut Browser::new(), &other, &login(&live)).await;
    app.pass(364 * DAY);
    for _ in 0..8 {
        visitor(&other).await;
    }
    assert_eq!(get::<Theme>(&mut browser, &other).await, Theme::default());
}

// The response with the cookie removal is lost, and the page may have brought the order to another node. So the removal
// token also names the session that a request has ended.
#[tokio::test]
async fn removal_token_names_session_ended_elsewhere() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    login(&live);
    browser.clone().visit(&node, async |session| session.destroy().await.unwrap()).await;
    let token = sign_out(&live).await;
    let mut page = browser.clone();
    bring_ok(&mut page, &other, &token).await;
    assert_eq!(page.cookie("session"), None);
}

#[tokio::test]
async fn request_gives_no_removal_token() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let sign_out = async |session: Session| {
        session.sign_out().await.unwrap();
        session.relay()
    };
    assert_eq!(browser.visit(&node, sign_out).await, None);
    assert_eq!(browser.cookie("session"), None, "the response removes the cookie");
}
