//! A chain that degrades: memory and the cookie answer while the store does not.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use layered_session::{
    CloseReason, KeyRing, LayeredSessionLayer, Lifetime, MissingSession, Principal, RequireLayer, Session,
    SessionWriteback, SharedTier, WriteErrorKind,
    testing::{ManualClock, Operation, SpyStore},
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use super::notices::following;
use crate::support::{
    App, Browser, Division, HOUR, Node, Theme, User, Visits, at_once, chain, cookie, dark, get, kind, memory, post,
    ring, set, settled, sign_in, signed_in, theme, ticking, under_way, upgrade, user, visit_as,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn degrading() -> (SpyStore, App) {
    let store = SpyStore::new();
    let shared = store.clone();
    (store, App::with(move |chain| chain.tier(SharedTier::new(shared.clone()).degrade())))
}

/// A browser in which Ada has a theme and a division. The node of `app` has confirmed both records.
async fn ada(app: &App) -> Browser {
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, dark()).await;
    set(&mut browser, &app.node, Division(3)).await;
    app.pass(MINUTE);
    assert_eq!(get::<Division>(&mut browser, &app.node).await, Division(3));
    browser
}

/// The values and the user that a request sees, and whether the session is degraded.
async fn seen(browser: &Browser, node: &Node) -> (Theme, Division, Option<User>, bool) {
    let look = async |session: Session| {
        let is_known = session.principal() == Some(Principal::new("ada"));
        assert_eq!(is_known, session.get::<User>().is_some());
        (session.value(), session.value(), session.get(), session.is_degraded())
    };
    browser.clone().visit(node, look).await
}

// G6: the store has confirmed the user within five minutes.
#[tokio::test]
async fn confirmed_session_keeps_its_user() {
    let (store, app) = degrading();
    let mut browser = ada(&app).await;
    store.fail();
    app.pass(5 * MINUTE - Duration::from_millis(1));
    assert_eq!(seen(&browser, &app.node).await, (dark(), Division(3), Some(user("ada")), false));
    let written = browser.visit(&app.node, async |session| kind(session.set(theme("light")).await)).await;
    assert_eq!(written, Some(WriteErrorKind::Unavailable));
    assert_eq!(seen(&browser, &app.node).await.0, dark());
    assert_eq!(app.node.sessions.stats().degraded_loads, 3);
}

// G6: the session may have ended on another node.
#[tokio::test]
async fn unconfirmed_session_has_no_user() {
    let (store, app) = degrading();
    let browser = ada(&app).await;
    let cold = app.start();
    store.fail();
    let copied = (dark(), Division(-1), None, true);
    assert_eq!(seen(&browser, &cold).await, copied);
    app.pass(5 * MINUTE);
    assert_eq!(seen(&browser, &app.node).await, copied);
    store.heal();
    for node in [&app.node, &cold] {
        assert_eq!(seen(&browser, node).await, (dark(), Division(3), Some(user("ada")), false));
    }
}

// The store has confirmed the session. Another node has changed the user's record, perhaps to end all sessions.
#[tokio::test]
async fn notice_takes_the_user_of_a_confirmed_session() {
    let (store, app) = degrading();
    let browser = ada(&app).await;
    let (other, follower) = following(&app);
    settled().await;
    app.pass(Duration::from_millis(1));
    assert_eq!(seen(&browser, &other).await.2, Some(user("ada")));
    app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    store.fail();
    settled().await;
    follower.abort();
    assert_eq!(seen(&browser, &other).await, (dark(), Division(-1), None, true));
}

#[tokio::test]
async fn copy_refuses_writes_and_sets_no_cookie() {
    let (store, app) = degrading();
    let mut browser = ada(&app).await;
    let cold = app.start();
    store.fail();
    let acts = async |session: Session| {
        // A write of an old value must not reach the store, even if the store answers again.
        store.heal();
        let month = Duration::from_secs(30 * 86_400);
        let batch = session.batch().set(theme("light"));
        vec![
            kind(session.set(theme("light")).await),
            kind(session.update(|visits: &mut Visits| visits.0 += 1).await),
            kind(session.remove::<Visits>().await),
            kind(session.take::<Visits>().await),
            kind(session.clear().await),
            kind(batch.commit().await),
            kind(session.set_lifetime(Lifetime::new(month, month).unwrap()).await),
            kind(session.renew().await),
            kind(session.sign_in(user("eve")).await),
            kind(session.sign_in(user("eve")).by_page()),
            kind(session.sign_out().await),
            kind(session.end_all_sessions().await),
            kind(session.end_other_sessions().await),
        ]
    };
    let (headers, refused) = cold.ask(browser.request(), acts).await;
    assert_eq!(refused, vec![Some(WriteErrorKind::Unavailable); refused.len()]);
    assert!(!headers.contains_key(header::SET_COOKIE));
    assert_eq!(headers[header::VARY], "cookie");
    assert_eq!(seen(&browser, &cold).await, (dark(), Division(3), Some(user("ada")), false));
    store.fail();
    app.pass(5 * MINUTE);
    let answer = post(&mut browser, &cold, r#"{"theme":"light"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"));
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
}

// All sessions of the user have ended before the store answers again.
#[tokio::test]
async fn touch_of_a_copy_brings_back_no_user() {
    let (store, app) = degrading();
    let browser = ada(&app).await;
    store.fail();
    let copy = under_way(&browser, &app.start()).await;
    store.heal();
    app.start().sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    store.take_operations();
    copy.touch().await.unwrap();
    assert_eq!((copy.is_degraded(), copy.principal(), store.take_operations()), (true, None, vec![]));
}

// A page there waits for changes, and the copy gets none.
#[tokio::test]
async fn socket_of_a_copy_fails() {
    let (store, app) = degrading();
    let browser = ada(&app).await;
    let cold = app.start();
    store.fail();
    let loaded = async |node: &Node, request: Request<Full<Bytes>>| {
        let service = service_fn(async |request: Request<Full<Bytes>>| {
            let loaded = Session::load(request.extensions()).await.map_err(|error: MissingSession| error.status());
            Ok::<_, Infallible>(Response::new(loaded.err()))
        });
        let layer = LayeredSessionLayer::new(node.sessions.clone());
        layer.layer(service).oneshot(request).await.unwrap().into_body()
    };
    assert_eq!(loaded(&cold, upgrade(&browser)).await, Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(loaded(&app.node, upgrade(&browser)).await, None);
    let events = || browser.request_of_page(Method::GET, "/events", "");
    let writeback = |node: &Node| SessionWriteback::new(&node.sessions);
    assert_eq!(cold.stream(writeback(&cold), events()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.node.stream(writeback(&app.node), events()).await.status(), StatusCode::OK);
}

// The login could not reach the store either.
#[tokio::test]
async fn login_guard_answers_503_for_a_copy() {
    let (store, app) = degrading();
    let browser = ada(&app).await;
    let cold = app.start();
    store.fail();
    let guard = RequireLayer::<User>::new().redirect("/login").unwrap();
    let handler = service_fn(async |_: Request<Full<Bytes>>| Ok::<_, Infallible>(Response::new(())));
    let service = ServiceBuilder::new().layer(LayeredSessionLayer::new(cold.sessions.clone())).layer(guard);
    let response = service.service(handler).oneshot(browser.request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
}

// G12: the node knows of these ends without the store.
#[tokio::test]
async fn known_ends_hold_without_the_store() {
    let (store, app) = degrading();
    let reason = async |browser: &Browser| {
        let reason = async |session: Session| at_once(session.closed());
        browser.clone().visit(&app.node, reason).await
    };
    let mut signed_out = ada(&app).await;
    let revoked = ada(&app).await;
    let copy = signed_out.clone();
    signed_out.visit(&app.node, async |session| session.sign_out().await.unwrap()).await;
    app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    store.fail();
    assert_eq!(reason(&copy).await, Some(CloseReason::Destroyed));
    assert_eq!(reason(&revoked).await, Some(CloseReason::Revoked));
    // Another browser of the user, whose session this node has not seen.
    app.pass(6 * MINUTE);
    assert_eq!(seen(&revoked, &app.node).await.2, None);
}

// The cookie of a session that memory does not know: the end of all sessions covers the session.
#[tokio::test]
async fn copy_of_a_revoked_session_is_refused() {
    let (store, app) = degrading();
    let browser = ada(&app).await;
    let other = app.start();
    sign_in(&mut Browser::new(), &other, "ada").await;
    other.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    store.fail();
    let reason = async |session: Session| at_once(session.closed());
    assert_eq!(browser.clone().visit(&other, reason).await, Some(CloseReason::Revoked));
}

#[tokio::test]
async fn job_fails_without_the_store() {
    let (store, app) = degrading();
    ada(&app).await;
    app.pass(30 * SECOND);
    store.fail();
    app.node.sessions.for_principal(Principal::new("ada")).await.unwrap_err();
}

/// A node of a chain that degrades, and whose user the request head names.
fn head_node(ring: &KeyRing, clock: &ManualClock, store: &SpyStore) -> Node {
    let identify =
        |head: &http::request::Parts| head.headers.get("x-user").map(|user| Principal::new(user.to_str().unwrap()));
    let chain = chain(memory(), cookie(ring), clock).value::<Theme>().identify(identify);
    Node::new(chain.tier(SharedTier::new(store.clone()).degrade()).build().unwrap())
}

// G12: also an end of more than a minute ago.
#[tokio::test]
async fn ended_session_has_no_copy() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let node = head_node(&ring, &clock, &store);
    for minutes in [0, 2, 10] {
        store.heal();
        let mut browser = Browser::new();
        visit_as(&mut browser, &node, Some("ada"), async |session| session.set(dark()).await.unwrap()).await;
        let copy = browser.clone();
        visit_as(&mut browser, &node, Some("ada"), async |session| session.destroy().await.unwrap()).await;
        clock.advance(minutes * MINUTE);
        store.fail();
        let read = async |session: Session| session.value::<Theme>();
        assert_eq!(visit_as(&mut copy.clone(), &node, Some("eve"), read).await, Theme::default(), "{minutes}");
    }
}

// G5: the store has the removal, and memory has dropped its tombstone.
#[tokio::test]
async fn idle_cookie_brings_no_value() {
    let (store, app) = degrading();
    let mut browser = app.dark().await;
    set(&mut browser, &app.node, Visits(3)).await;
    let old = browser.clone();
    browser.visit(&app.node, async |session| session.remove::<Visits>().await.unwrap()).await;
    for hours in 0..80 {
        app.pass(HOUR);
        set(&mut browser, &app.node, theme(if hours % 2 == 0 { "a" } else { "b" })).await;
    }
    app.pass(30 * SECOND);
    store.fail();
    assert_eq!(get::<Visits>(&mut old.clone(), &app.node).await, Visits(0));
    store.heal();
    assert_eq!(get::<Visits>(&mut browser.clone(), &app.node).await, Visits(0));
}

// G12: the node knows of the end of all sessions.
#[tokio::test]
async fn copy_of_a_head_users_revoked_session_is_refused() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let start = || head_node(&ring, &clock, &store);
    let node = start();
    let mut browser = Browser::new();
    visit_as(&mut browser, &node, Some("ada"), async |session| session.set(dark()).await.unwrap()).await;
    let other = start();
    clock.advance(Duration::from_millis(1));
    other.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    store.fail();
    let read = async |session: Session| session.value::<Theme>();
    assert_eq!(visit_as(&mut browser.clone(), &other, Some("ada"), read).await, Theme::default());
}

// The store may have ended the session.
#[tokio::test]
async fn unanswered_sign_out_leaves_no_user() {
    let (store, app) = degrading();
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, dark()).await;
    app.pass(30 * SECOND);
    get::<Theme>(&mut browser, &app.node).await;
    let copy = browser.clone();
    let session = under_way(&browser, &app.node).await;
    store.hold_answers(Operation::End);
    ticking(&app.clock, session.sign_out()).await.unwrap_err();
    store.release();
    store.fail();
    let seen = async |session: Session| session.get::<User>();
    assert_eq!(copy.clone().visit(&app.node, seen).await, None);
}

// Memory does not have the copy.
#[tokio::test]
async fn copy_is_not_followed() {
    let (store, app) = degrading();
    let mut browser = signed_in(&app.node, "ada").await;
    set(&mut browser, &app.node, dark()).await;
    let (other, follower) = following(&app);
    settled().await;
    store.fail();
    let session = under_way(&browser, &other).await;
    assert!(session.is_degraded());
    let mut watch = session.watch::<Theme>();
    assert_eq!(at_once(watch.next()), Some(Some(dark())));
    store.heal();
    for _ in 0..40 {
        app.pass(Duration::from_secs(1));
        settled().await;
    }
    assert_eq!(session.get::<User>(), None);
    follower.abort();
}
