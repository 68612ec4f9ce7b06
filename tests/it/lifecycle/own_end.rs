//! Calls of a handle after the end of its own session, and simultaneous turns of clones and requests.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use layered_session::{
    CloseReason, DefaultTier, Lifetime, Principal, RelayToken, Resolution, Session, SessionWriteback, WriteErrorKind,
};

use crate::support::{
    Answer, App, Browser, DAY, Node, Theme, Visits, assert_refused, at_once, bring_ok, get, is_ada, kind, principal,
    set, set_cookies, signed_in, socket, soon, theme, upgrade, user, visitor,
};

#[tokio::test]
async fn flash_message_is_stored_after_sign_out() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let other = socket(&browser, &node).await;
    let sign_out = async |session: Session| {
        session.sign_out().await.unwrap();
        let refused = kind(session.set(theme("bye")).await);
        session.renew().await.unwrap();
        session.set(theme("bye")).await.unwrap();
        (refused, session.value::<Theme>(), session.is_new())
    };
    let (headers, seen) = browser.visit_seen(&node, sign_out).await;
    assert_eq!(seen, (Some(WriteErrorKind::Closed), theme("bye"), true));
    assert_eq!(set_cookies(&headers).len(), 1);
    assert_eq!((get::<Theme>(&mut browser, &node).await, principal(&browser, &node).await), (theme("bye"), None));
    assert_eq!(at_once(other.closed()), Some(CloseReason::Destroyed));
    assert_eq!(kind(other.set(theme("late")).await), Some(WriteErrorKind::Closed));
}

#[tokio::test]
async fn destroy_ends_own_watches() {
    let node = App::new().node;
    for signs_in in [true, false] {
        for polled in [true, false] {
            let mut browser = signed_in(&node, "ada").await;
            let turn = async move |session: Session| {
                let (mut watch, mut changes, mut closed) =
                    (session.watch::<Theme>(), session.changes(), Box::pin(session.closed()));
                assert_eq!(watch.next().await, Some(Theme::default()));
                session.destroy().await.unwrap();
                if polled {
                    assert_eq!(soon(watch.next()).await, None);
                    assert_eq!(soon(closed.as_mut()).await, CloseReason::Destroyed);
                }
                match signs_in {
                    true => session.sign_in(user("bob")).await.unwrap(),
                    false => session.renew().await.unwrap(),
                }
                session.set(theme("dark")).await.unwrap();
                assert_eq!(soon(watch.next()).await, None, "the watch belongs to the session before");
                assert_eq!(
                    soon(changes.next()).await,
                    Some(layered_session::ChangeEvent::Closed(CloseReason::Destroyed))
                );
                if !polled {
                    assert_eq!(soon(closed).await, CloseReason::Destroyed);
                }
                assert_eq!(session.watch::<Theme>().next().await, Some(theme("dark")), "a new watch");
                assert_eq!(at_once(session.closed()), None);
            };
            browser.visit(&node, turn).await;
        }
    }
}

/// A node with `identify`, and a visitor.
async fn identified_by_head() -> (Node, Browser) {
    let sessions = App::new().chain(DefaultTier::new()).value::<Theme>();
    let identified = sessions.identify(|head| Some(Principal::new(head.headers.get("x-user")?.to_str().ok()?)));
    let node = Node::new(identified.build().unwrap());
    let browser = visitor(&node).await;
    (node, browser)
}

fn of(mut request: Request<Full<Bytes>>, user: &'static str) -> Request<Full<Bytes>> {
    request.headers_mut().insert("x-user", user.parse().unwrap());
    request
}

/// Ends ada's session on her socket, and orders a renewal.
async fn renewal_after_an_end(node: &Node, browser: &Browser) -> RelayToken {
    let (_, live) = node.ask(of(upgrade(browser), "ada"), async |session| session).await;
    live.destroy().await.unwrap();
    live.renew_by_page().token().unwrap()
}

async fn bring_as(browser: &Browser, node: &Node, user: &'static str, order: &RelayToken) -> Answer {
    let body = serde_json::json!({ "$relay": order.as_str() }).to_string();
    node.writeback(SessionWriteback::new(&node.sessions), of(browser.post_json(body), user)).await
}

// A renewal order that follows an end belongs to the user that `identify` named: another user can't bring the order.
#[tokio::test]
async fn other_user_cannot_bring_renewal_order() {
    let (node, browser) = identified_by_head().await;
    let order = renewal_after_an_end(&node, &browser).await;
    for (user, status) in [("bob", StatusCode::CONFLICT), ("ada", StatusCode::OK)] {
        assert_eq!(bring_as(&browser, &node, user, &order).await.status, status, "{user}");
    }
}

#[tokio::test]
async fn end_all_ends_renewal_order() {
    let (node, browser) = identified_by_head().await;
    let order = renewal_after_an_end(&node, &browser).await;
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_refused(&bring_as(&browser, &node, "ada", &order).await, "session_closed");
}

// Another node's memory may hold the session that the handle has ended. The order ends the session there, so no old
// value answers.
#[tokio::test]
async fn sign_in_order_restores_no_old_session_value() {
    let app = App::new();
    for resolution in [Resolution::Newest, Resolution::FirstHit] {
        let [first, second, third] = [(); 3].map(|()| app.start_with(|sessions| sessions.resolution(resolution)));
        let mut browser = visitor(&first).await;
        let live = socket(&browser, &first).await;
        assert_eq!(get::<Theme>(&mut browser, &second).await, theme("light"));
        // The cookie now has a newer copy than the second node's memory. Under `FirstHit` that memory keeps its older
        // copy.
        app.pass(Duration::from_secs(1));
        set(&mut browser, &first, theme("dark")).await;
        live.destroy().await.unwrap();
        let order = live.sign_in(user("ada")).by_page().unwrap();
        bring_ok(&mut browser, &second, order.as_str()).await;
        for node in [&second, &third] {
            assert!(is_ada(principal(&browser, node).await));
            assert_eq!(get::<Theme>(&mut browser.clone(), node).await, Theme::default(), "{resolution:?}");
        }
    }
}

// The handle's sign-out cancels the handle's sign-in order. The handle's next write begins another session, and the
// cancelled sign-in order does not end that session.
#[tokio::test]
async fn cancelled_sign_in_order_ends_no_next_session() {
    let node = App::new().node;
    let live = socket(&Browser::new(), &node).await;
    let _order = live.sign_in(user("ada")).by_page().unwrap();
    live.destroy().await.unwrap();
    live.set(theme("dark")).await.unwrap();
    let mut browser = Browser::new();
    bring_ok(&mut browser, &node, live.relay().unwrap().as_str()).await;
    browser.visit(&node, async |session| session.sign_out().await.unwrap()).await;
    assert_eq!(kind(live.sign_in(user("ada")).by_page()), Some(WriteErrorKind::Closed));
    assert_eq!(live.relay(), None);
}

// After its own sign-out a handle may begin another session. If that session is revoked, the handle begins no third
// session.
#[tokio::test]
async fn revocation_of_second_session_permits_no_third() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let inner = node.clone();
    let turn = async move |session: Session| {
        session.sign_out().await.unwrap();
        session.sign_in(user("bob")).await.unwrap();
        inner.sessions.end_all_sessions(layered_session::Principal::new("bob")).await.unwrap();
        (kind(session.renew().await), kind(session.sign_in(user("eve")).await), session)
    };
    let closed = Some(WriteErrorKind::Closed);
    let (headers, (renewed, signed, session)) = browser.visit_seen(&node, turn).await;
    assert_eq!((renewed, signed, set_cookies(&headers)), (closed, closed, vec![]));
    assert_eq!(session.relay(), None);
}

#[tokio::test]
async fn ended_id_cannot_renew() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let old = browser.clone();
    browser.visit(&node, async |session| session.sign_in(user("ada")).await.unwrap()).await;
    let renew = async |session: Session| kind(session.renew().await);
    let (headers, renewed) = old.clone().visit_seen(&node, renew).await;
    assert_eq!((renewed, set_cookies(&headers)), (Some(WriteErrorKind::Closed), vec![]));
    assert!(is_ada(principal(&browser, &node).await));
}

#[tokio::test]
async fn concurrent_renewals_leave_one_session() {
    let node = App::new().node;
    let browser = visitor(&node).await;
    let mut second = browser.clone();
    let first_browser = browser.clone();
    let (inner, mut first) = (node.clone(), first_browser.clone());
    let both = async move |session: Session| {
        first.visit(&inner, async |session| session.renew().await.unwrap()).await;
        (first, session.renew().await.unwrap_err().to_string())
    };
    let (headers, (mut first, error)) = second.visit_seen(&node, both).await;
    assert_eq!(
        (error.as_str(), set_cookies(&headers)),
        ("the session is closed: renewed (another handle has renewed the session)", vec![])
    );
    assert_eq!(get::<Theme>(&mut first, &node).await, theme("light"));
}

// A past bug took a clone's renewal for another handle's renewal: the sign-out returned `Ok`, and the user stayed
// signed in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_out_wins_over_concurrent_renewal() {
    let node = App::new().node;
    for _ in 0..200 {
        let mut browser = signed_in(&node, "ada").await;
        let turn = async |session: Session| {
            let (one, two) = (session.clone(), session.clone());
            let renewing = tokio::spawn(async move { one.renew().await });
            let ending = tokio::spawn(async move { two.destroy().await });
            let _ = renewing.await.unwrap();
            ending.await.unwrap().unwrap();
            session.principal()
        };
        assert_eq!(browser.visit(&node, turn).await, None);
        assert_eq!(principal(&browser, &node).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifetime_survives_concurrent_renewal() {
    let node = App::new().node;
    let short = Lifetime::new(DAY / 4, DAY / 2).unwrap();
    for _ in 0..200 {
        let mut browser = visitor(&node).await;
        let turn = async move |session: Session| {
            let (one, two) = (session.clone(), session.clone());
            let renewing = tokio::spawn(async move { one.renew().await });
            let setting = tokio::spawn(async move { two.set_lifetime(short).await });
            renewing.await.unwrap().unwrap();
            setting.await.unwrap().unwrap();
            session.expires_at()
        };
        let expires = browser.visit(&node, turn).await;
        let again = browser.visit(&node, async |session| session.expires_at()).await;
        let mut other = Browser::new();
        let set = async |session: Session| {
            session.set(Visits(1)).await.unwrap();
            session.expires_at()
        };
        let configured = other.visit(&node, set).await;
        assert_eq!(expires, again);
        assert!(expires < configured, "the session keeps the short lifetime");
    }
}
