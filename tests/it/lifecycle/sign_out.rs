//! Sign-outs that meet a renewal: `destroy` with the old id ends the session that continues under the new id.

use std::time::Duration;

use layered_session::{CloseReason, DefaultTier, Lifetime, Principal, Session, SharedTier, testing::SpyStore};

use crate::support::{
    App, Browser, Node, TICK, Theme, at_once, get, set_cookies, sign_in, signed_in, socket, theme, visit_as, visitor,
};

const MINUTE: Duration = Duration::from_secs(60);

async fn renew(browser: &mut Browser, node: &Node) {
    browser.visit(node, async |session| session.renew().await.unwrap()).await;
}

/// Signs out. Returns whether the response removed the cookie.
async fn sign_out(browser: &Browser, node: &Node) -> bool {
    let mut browser = browser.clone();
    let (headers, ()) = browser.visit_seen(node, async |session| session.sign_out().await.unwrap()).await;
    let said = !set_cookies(&headers).is_empty();
    assert_eq!(said, browser.cookie("session").is_none(), "the response sets no other cookie");
    said
}

async fn user(browser: &Browser, node: &Node) -> Option<Principal> {
    browser.clone().visit(node, async |session| session.principal()).await
}

fn ada() -> Option<Principal> {
    Some(Principal::new("ada"))
}

// G13: a sign-out with the old cookie ends the session under the new id.
#[tokio::test]
async fn late_sign_out_ends_renewed_session() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let late = browser.clone();
    renew(&mut browser, &node).await;
    let tab = socket(&browser, &node).await;
    assert!(sign_out(&late, &node).await, "the browser may hold the new cookie by now");
    assert_eq!((user(&browser, &node).await, at_once(tab.closed())), (None, Some(CloseReason::Destroyed)));
    assert!(!sign_out(&late, &node).await, "no session was left to end");
}

// G13: a sign-out in a request from before the renewal ends the session under the new id.
#[tokio::test]
async fn running_sign_out_ends_renewed_session() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let (late, other) = (browser.clone(), node.clone());
    let slow = async move |session: Session| {
        renew(&mut browser, &other).await;
        session.sign_out().await.unwrap();
        browser
    };
    let (headers, renewed) = late.clone().visit_seen(&node, slow).await;
    assert_eq!((user(&renewed, &node).await, set_cookies(&headers).len()), (None, 1));
}

// G13: a sign-out with the first cookie ends the session after three renewals.
#[tokio::test]
async fn sign_out_follows_every_renewal() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let late = browser.clone();
    for _ in 0..3 {
        renew(&mut browser, &node).await;
    }
    assert_eq!(user(&browser, &node).await, ada());
    assert!(sign_out(&late, &node).await);
    assert_eq!(user(&browser, &node).await, None);
}

// G13: a sign-out with the old cookie ends the renewed session within a minute of the renewal, and not later.
#[tokio::test]
async fn sign_out_follows_renewal_for_a_minute() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let (late, tab) = (browser.clone(), socket(&browser, &node).await);
    renew(&mut browser, &node).await;
    app.pass(MINUTE);
    tab.sign_out().await.unwrap();
    assert!(!sign_out(&late, &node).await);
    assert_eq!(user(&browser, &node).await, ada());
    let late = browser.clone();
    renew(&mut browser, &node).await;
    app.pass(MINUTE - TICK);
    assert!(sign_out(&late, &node).await, "within the minute");
}

// G13: a sign-out with the cookie from before a login does not end the login, since an attacker may have planted that
// cookie.
#[tokio::test]
async fn sign_out_never_follows_sign_in() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let (planted, tab) = (browser.clone(), socket(&browser, &node).await);
    sign_in(&mut browser, &node, "ada").await;
    let before = browser.clone();
    for user in ["bob", "ada"] {
        sign_in(&mut browser, &node, user).await;
    }
    tab.sign_out().await.unwrap();
    for late in [planted, before] {
        assert!(!sign_out(&late, &node).await);
        assert_eq!(user(&browser, &node).await, ada());
    }
}

// G13: a sign-out with the old cookie does not end a sign-in that followed the renewal.
#[tokio::test]
async fn sign_out_stops_at_later_sign_in() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let late = browser.clone();
    renew(&mut browser, &node).await;
    sign_in(&mut browser, &node, "ada").await;
    assert!(!sign_out(&late, &node).await);
    assert_eq!(user(&browser, &node).await, ada());
}

// G13: without a signed-in user, a sign-out with the old cookie does not end the renewed session.
#[tokio::test]
async fn sign_out_ignores_anonymous_renewal() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let late = browser.clone();
    renew(&mut browser, &node).await;
    assert!(!sign_out(&late, &node).await);
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
}

// G13: where the request head names the user, a sign-out with the old cookie ends the renewed session only for the same
// user.
#[tokio::test]
async fn sign_out_follows_only_same_user() {
    let identify = |head: &http::request::Parts| {
        let user = head.headers.get("x-user")?;
        Some(Principal::new(user.to_str().unwrap()))
    };
    let lives = |renews: Option<&'static str>, destroys: Option<&'static str>| async move {
        let chain = App::new().chain(DefaultTier::new()).value::<Theme>().identify(identify);
        let node = Node::new(chain.build().unwrap());
        let mut browser = visitor(&node).await;
        let mut late = browser.clone();
        visit_as(&mut browser, &node, renews, async |session| session.renew().await.unwrap()).await;
        visit_as(&mut late, &node, destroys, async |session| session.destroy().await.unwrap()).await;
        get::<Theme>(&mut browser, &node).await == theme("light")
    };
    let (ada, bob) = (Some("ada"), Some("bob"));
    assert!(!lives(ada, ada).await);
    for (renews, destroys) in [(ada, bob), (ada, None), (None, ada), (None, None)] {
        assert!(lives(renews, destroys).await, "{renews:?} {destroys:?}");
    }
}

// G13: over a store, a sign-out with the old cookie ends the renewed session in the store too.
#[tokio::test]
async fn sign_out_ends_renewed_stored_session() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = || app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let (here, there) = (node(), node());
    let mut browser = signed_in(&here, "ada").await;
    let late = browser.clone();
    renew(&mut browser, &here).await;
    assert!(sign_out(&late, &here).await);
    assert_eq!(user(&browser, &there).await, None);
}

// G13: the store names the successor of a renewed session, so a sign-out on a node that learnt of the renewal from the
// store ends the successor too.
#[tokio::test]
async fn sign_out_follows_renewal_in_store() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = || app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let (here, there) = (node(), node());
    let mut browser = signed_in(&here, "ada").await;
    let late = browser.clone();
    renew(&mut browser, &here).await;
    assert_eq!(user(&late, &there).await, None);
    assert!(!sign_out(&late, &there).await);
    assert_eq!(user(&browser, &there).await, None, "the late sign-out ends the successor");
}

// G13: without a store, a node learns of a renewal from the new cookie. A sign-out there with the old cookie ends the
// renewed session.
#[tokio::test]
async fn sign_out_follows_renewal_elsewhere() {
    let app = App::new();
    let (here, there) = (app.start(), app.start());
    let mut browser = signed_in(&here, "ada").await;
    let late = browser.clone();
    renew(&mut browser, &here).await;
    assert_eq!(user(&browser, &there).await, ada());
    assert!(sign_out(&late, &there).await);
    assert_eq!(user(&browser, &there).await, None);
}

#[tokio::test]
async fn sign_out_with_expired_cookie_ends_nothing() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let brief = Lifetime::new(MINUTE / 4, MINUTE).unwrap();
    browser.visit(&node, async move |session| session.set_lifetime(brief).await.unwrap()).await;
    let late = browser.clone();
    renew(&mut browser, &node).await;
    app.pass(MINUTE / 2);
    assert!(!sign_out(&late, &node).await, "no session was left to end");
}
