//! The session of a POST: ended, behind, unknown to the layer, or in a store that is down.

use std::time::Duration;

use http::StatusCode;
use layered_session::{
    LayeredSessionLayer, SessionWriteback, SharedTier,
    testing::{ManualClock, SpyStore},
};
use serde_json::json;
use tower::{Layer, ServiceExt};

use super::{Page, allowing, assert_refused, relaying, send_bare};
use crate::support::{App, Browser, DAY, Division, Node, Theme, bare, builder, dark, ring, ticking};

// G13: a POST with the cookie of a renewed or ended session is refused, and stores nothing.
#[tokio::test]
async fn ended_session_refuses_post() {
    let mut page = Page::signed_in().await;
    let late = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.renew().await.unwrap()).await;
    let renewed = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.sign_out().await.unwrap()).await;
    for browser in [late, renewed] {
        for body in [r#"{"theme":"late"}"#, r#"{"current_division_id":2}"#] {
            let answer = page.send(browser.post_json(body)).await;
            assert_refused(&answer, 409, "session_closed", body);
        }
    }
    assert_eq!(page.read::<Theme>().await, None);
}

#[tokio::test]
async fn relay_token_delivers_socket_writes() {
    let mut page = Page::signed_in().await;
    let older = page.relay("older").await;
    let token = page.relay("newest").await;
    let answer = page.post(relaying(&token)).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "stored": ["$relay"] })));
    // A late or repeated token changes nothing.
    for token in [&older, &token] {
        assert_eq!(page.post(relaying(token)).await.status, StatusCode::OK);
    }
    page.node = Page::start(&page.ring, &page.clock);
    assert_eq!(page.read::<Theme>().await, Some(Theme("newest".into())));
}

// R29: a birth token sets a cookie, so the writeback checks a birth token more strictly than a relay token.
#[tokio::test]
async fn expired_or_foreign_relay_token_is_refused() {
    let mut page = Page::new();
    let birth = page.relay("mine").await;
    let mut other = Page { browser: Browser::new(), node: page.node.clone(), ..Page::new() };
    other.post(r#"{"theme":"other"}"#).await;
    assert_refused(&other.post(relaying(&birth)).await, 409, "relay_other_session", "another's cookie");
    let mut cross_site = page.browser.post_json(relaying(&birth));
    cross_site.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    let answer = page.send(cross_site).await;
    assert_refused(&answer, 403, "cross_site", "a birth token");
    page.clock.advance(Duration::from_secs(60));
    assert_refused(&page.post(relaying(&birth)).await, 409, "relay_expired", "a birth token of a minute ago");
    assert!(page.browser.cookie("session").is_none());

    let birth = page.relay("mine").await;
    assert_eq!(page.post(relaying(&birth)).await.status, StatusCode::OK);
    assert_eq!(page.read::<Theme>().await, Some(Theme("mine".into())));
    let relay = page.relay("newer").await;
    assert_refused(&other.post(relaying(&relay)).await, 409, "relay_other_session", "another's cookie");
    let bare = page.send(Browser::new().post_json(relaying(&relay))).await;
    assert_refused(&bare, 409, "relay_other_session", "no cookie");
    assert_eq!(other.read::<Theme>().await, Some(Theme("other".into())));

    page.clock.advance(3 * DAY);
    assert_refused(&page.post(relaying(&relay)).await, 409, "relay_expired", "the token is older than any cookie");
}

#[tokio::test]
async fn relay_token_revives_no_ended_session() {
    let mut page = Page::signed_in().await;
    let token = page.relay("late").await;
    let late = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.sign_out().await.unwrap()).await;
    for (browser, code) in [(late, "session_closed"), (page.browser.clone(), "relay_other_session")] {
        let answer = page.send(browser.post_json(relaying(&token))).await;
        assert_refused(&answer, 409, code, &browser);
    }
}

#[tokio::test]
async fn invalid_token_is_reported_before_server_faults() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let start = || Node::new(builder(&ring, &clock).tier(SharedTier::new(store.clone())).build().unwrap());
    let mut page = Page { node: start(), clock: clock.clone(), ring: ring.clone(), browser: Browser::new() };
    page.browser.visit(&page.node, async |s| s.set(Theme("first".into())).await.unwrap()).await;
    let token = page.relay("second").await;
    let (forged, genuine) = (relaying(format!("{token}A")), relaying(&token));
    let writeback = || SessionWriteback::new(&page.node.sessions);
    assert_refused(&send_bare(writeback(), page.browser.post_json(forged.clone())).await, 400, "relay_invalid", "bare");
    assert_refused(&send_bare(writeback(), page.browser.post_json(genuine.clone())).await, 500, "no_layer", "bare");

    store.fail();
    let cold = start();
    for (body, status, code) in [(&forged, 400, "relay_invalid"), (&genuine, 503, "unavailable")] {
        let request = page.browser.post_json(body.clone());
        let answer = cold.writeback(SessionWriteback::new(&cold.sessions), request).await;
        assert_refused(&answer, status, code, "the store is away");
    }
    page.clock.advance(3 * DAY);
    let expired = send_bare(writeback(), page.browser.post_json(genuine)).await;
    assert_refused(&expired, 409, "relay_expired", "the expiry is reported before the missing layer");
}

#[tokio::test]
async fn empty_post_updates_cookie() {
    let mut page = Page::signed_in().await;
    let socket = page.socket().await;
    let current = page.post("{}").await;
    assert_eq!((current.status.as_u16(), current.json()), (200, json!({ "stored": [] })));
    assert!(current.set_cookies().is_empty(), "the browser was not behind");
    socket.set(Theme("dark".into())).await.unwrap();
    assert_eq!(page.post("{}").await.set_cookies().len(), 1);
    page.node = Page::start(&page.ring, &page.clock);
    assert_eq!(page.read::<Theme>().await, Some(Theme("dark".into())));
    let nobody = Page::new().post("{}").await;
    assert!(nobody.set_cookies().is_empty(), "an empty post begins no session");
}

#[tokio::test]
async fn writeback_needs_own_layer() {
    let page = Page::new();
    let request = || page.browser.post_json(r#"{"theme":"dark"}"#);
    let bare = send_bare(allowing(&page.node.sessions), request()).await;
    assert_refused(&bare, 500, "no_layer", "no layer");
    let other = Page::new().node.writeback(allowing(&page.node.sessions), request()).await;
    assert_refused(&other, 500, "no_layer", "the layer of other sessions");
    let both = LayeredSessionLayer::new(Page::new().node.sessions).layer(allowing(&page.node.sessions));
    let nested = LayeredSessionLayer::new(page.node.sessions.clone()).layer(both).oneshot(request()).await.unwrap();
    assert_eq!(nested.status(), StatusCode::OK, "the writeback's own layer is the outer layer");
    let mut browser = page.browser.clone();
    browser.take(nested.headers());
    assert_eq!(browser.theme(&page.node).await, dark(), "the outer layer's session has the write");
}

#[tokio::test]
async fn post_without_memory_writes_cookie() {
    let node = Node::new(bare(&ring(), &ManualClock::new()).value::<Theme>().build().unwrap());
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let mut browser = Browser::new();
    let answer = node.writeback(writeback, browser.post_json(r#"{"theme":"dark"}"#)).await;
    browser.take(&answer.headers);
    assert_eq!(browser.visit(&node, async |s| s.value::<Theme>()).await, Theme("dark".into()));
}

// Without a signed-in user, the session owns the values of both scopes.
#[tokio::test]
async fn visitor_post_is_all_or_nothing() {
    let mut page = Page::new();
    for body in [
        json!({ "current_division_id": 3, "theme": "x".repeat(6000) }),
        json!({ "theme": "dark", "note": "x".repeat(6000) }),
    ] {
        let answer = page.post(body.to_string()).await;
        assert_refused(&answer, 422, "value_too_large", &body);
        assert!(answer.set_cookies().is_empty(), "no session begins");
    }
    assert_eq!(page.node.sessions.stats().records, 0);
    page.post(r#"{"current_division_id":3,"theme":"dark"}"#).await;
    assert_eq!((page.read::<Division>().await, page.read::<Theme>().await), (Some(Division(3)), Some(dark())));
}

#[tokio::test]
async fn post_checks_both_owners_first() {
    let mut page = Page::signed_in().await;
    for body in [
        json!({ "current_division_id": 3, "theme": "x".repeat(6000) }),
        json!({ "theme": "light", "note": "x".repeat(6000) }),
    ] {
        assert_refused(&page.post(body.to_string()).await, 422, "value_too_large", &body);
    }
    assert_eq!((page.read::<Division>().await, page.read::<Theme>().await), (None, None));
}

// R35: a POST during a store outage is answered with 503, and stores nothing on any node.
#[tokio::test]
async fn store_outage_writes_nothing() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let start = || Node::new(builder(&ring, &clock).tier(SharedTier::new(store.clone())).build().unwrap());
    let (node, mut browser) = (start(), Browser::new());
    let allow = |node: &Node| SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let before = node.writeback(allow(&node), browser.post_json(r#"{"theme":"before"}"#)).await;
    browser.take(&before.headers);

    store.fail();
    let cold = start();
    for (node, browser) in [(&node, &browser), (&cold, &browser), (&node, &Browser::new())] {
        let answer = node.writeback(allow(node), browser.post_json(r#"{"theme":"after"}"#)).await;
        assert_refused(&answer, 503, "unavailable", browser);
    }
    store.heal();
    for node in [node, cold, start()] {
        let theme = browser.visit(&node, async |s| s.value::<Theme>()).await;
        assert_eq!(theme, Theme("before".into()));
    }
}

#[tokio::test]
async fn contended_write_is_reported() {
    let store = SpyStore::new();
    store.outdate(usize::MAX);
    let app = App::new();
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store)));
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let posted = node.writeback(writeback, Browser::new().post_json(r#"{"theme":"dark"}"#));
    let answer = ticking(&app.clock, posted).await;
    assert_refused(&answer, 409, "contended", "other writers");
}
