//! Refresh and heal of the browser's cookie: the requests that send a new cookie, and the requests that send none.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use layered_session::{Lifetime, Principal, Session, testing::ManualClock};

use crate::support::{
    App, Browser, DAY, Division, Node, Theme, User, Visits, at_once, builder, carried, chain, cookie, first_write, get,
    memory, post, ring, seen, set_cookies, sign_in, signed_in, socket, theme, visitor,
};

// G8: a late response brings an older value to the browser only: memory keeps the newer write, and heals the cookie.
#[tokio::test]
async fn late_response_overwrites_no_newer_write() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let switch = async |name: &'static str| {
        browser.clone().visit_seen(&node, async move |session| session.set(theme(name)).await.unwrap()).await.0
    };
    let (first, second) = (switch("first").await, switch("second").await);
    browser.take(&second);
    browser.take(&first);
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("first"));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("second"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("second"));
}

#[tokio::test]
async fn session_access_updates_outdated_cookie() {
    type Ask = fn(Session) -> crate::support::BoxFuture<()>;
    let asks: [(&str, Ask); 3] = [
        ("read", |session| Box::pin(async move { _ = session.value::<Visits>() })),
        ("written", |session| Box::pin(async move { session.set(Visits(1)).await.unwrap() })),
        ("watched", |session| Box::pin(async move { drop(session.watch::<Visits>()) })),
    ];
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    socket(&browser, &node).await.set(theme("dark")).await.unwrap();
    let (headers, ()) = browser.visit_seen(&node, async |_| ()).await;
    assert!(set_cookies(&headers).is_empty(), "the handler does not ask for the session");
    for (what, ask) in asks {
        let mut browser = browser.clone();
        browser.visit(&node, ask).await;
        assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"), "{what}");
    }
    let answer = post(&mut browser, &node, "{}").await;
    assert_eq!(answer.json(), serde_json::json!({ "stored": [] }));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"), "an empty post");
    assert!(set_cookies(&browser.visit_seen(&node, async |session| session.value::<Theme>()).await.0).is_empty());
}

// G9: a response with status 500 undoes no write, in memory and in the cookie.
#[tokio::test]
async fn error_response_undoes_no_write() {
    let app = App::new();
    let (node, mut browser) = (app.start(), Browser::new());
    let failing = async |session: Session| {
        session.set(theme("dark")).await.unwrap();
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        (response, ())
    };
    let (response, ()) = node.handle(browser.request(), failing).await;
    browser.take(response.headers());
    assert_eq!(seen(&mut browser, &node).await, (theme("dark"), "memory"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
}

#[tokio::test]
async fn greater_bytes_win_in_cookie_at_equal_versions() {
    let (ring, clock) = (ring(), ManualClock::new());
    let (one, two) =
        (Node::new(builder(&ring, &clock).build().unwrap()), Node::new(builder(&ring, &clock).build().unwrap()));
    let mut browser = first_write(&one, Visits(1)).await;
    let mut twin = browser.clone();
    clock.advance(Duration::from_secs(1));
    browser.visit(&one, async |s| s.set(Theme("a".into())).await.unwrap()).await;
    twin.visit(&two, async |s| s.set(Theme("b".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&two, async |s| s.value::<Theme>()).await, Theme("b".into()));
    let restarted = Node::new(builder(&ring, &clock).build().unwrap());
    assert_eq!(browser.visit(&restarted, async |s| s.value::<Theme>()).await, Theme("b".into()));
}

// G16: if a response with a changed lifetime is lost, the next response sends the lifetime again.
#[tokio::test]
async fn lost_lifetime_change_is_resent() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = visitor(&node).await;
    let long = Lifetime::new(30 * DAY, 90 * DAY).unwrap();
    // The response is lost, together with the cookie that tells of the new lifetime.
    browser.clone().visit(&node, async move |session| session.set_lifetime(long).await.unwrap()).await;
    get::<Theme>(&mut browser, &node).await;
    clock.advance(20 * DAY);
    let elsewhere = Node::new(builder(&ring, &clock).build().unwrap());
    assert_eq!(get::<Theme>(&mut browser, &elsewhere).await, Theme("light".into()));
}

#[tokio::test]
async fn write_during_load_reaches_cookie() {
    let (ring, clock) = (ring(), ManualClock::new());
    let (other, armed) = (Arc::new(Mutex::new(None::<Session>)), Arc::new(AtomicBool::new(false)));
    let (writer, trigger) = (Arc::clone(&other), Arc::clone(&armed));
    let sessions = chain(memory(), cookie(&ring), &clock)
        .value::<Theme>()
        .identify_by::<User>(move |user| {
            if trigger.swap(false, Ordering::SeqCst)
                && let Some(session) = &*writer.lock().unwrap()
            {
                at_once(session.set(Theme("late".into()))).unwrap().unwrap();
            }
            Some(Principal::new(&user.0))
        })
        .build()
        .unwrap();
    let node = Node::new(sessions);
    let first = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = signed_in(&first, "ada").await;
    browser.visit(&first, async |s| s.set(Theme("early".into())).await.unwrap()).await;
    let handle = browser.clone().visit(&node, async |s| s).await;
    // A new token of the same values, which this node has to open.
    clock.advance(DAY / 4);
    browser.visit(&first, async |s| s.value::<Theme>()).await;
    *other.lock().unwrap() = Some(handle);
    armed.store(true, Ordering::SeqCst);
    browser.visit(&node, async |s| s.value::<Theme>()).await;
    assert!(!armed.load(Ordering::SeqCst));
    let restarted = Node::new(builder(&ring, &clock).build().unwrap());
    assert_eq!(browser.visit(&restarted, async |s| s.value::<Theme>()).await, Theme("late".into()));
}

#[tokio::test]
async fn user_watch_sets_no_cookie() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = || Node::new(builder(&ring, &clock).build().unwrap());
    let (one, two) = (node(), node());
    let mut browser = signed_in(&one, "ada").await;
    let _watch = browser.visit(&two, async |s| s.watch::<Division>()).await;
    clock.advance(Duration::from_secs(86_400 / 4));
    browser.visit(&one, async |s| s.value::<Theme>()).await;
    let (headers, _) = browser.visit_seen(&two, async |s| s.value::<Theme>()).await;
    assert!(set_cookies(&headers).is_empty());
}

/// Sends a request whose answer an outer layer replaces, as a timeout layer does. The browser gets no cookie.
async fn unanswered(browser: &Browser, node: &Node, handler: impl AsyncFnOnce(Session)) {
    browser.clone().visit(node, handler).await;
}

// The guide's chapter on login states the results of the next three tests.
#[tokio::test]
async fn existing_session_keeps_write_of_lost_response() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    unanswered(&browser, &node, async |session| session.set(theme("dark")).await.unwrap()).await;
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("light"));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"), "healed");
}

#[tokio::test]
async fn first_write_is_gone_after_lost_response() {
    let node = App::new().node;
    let mut browser = Browser::new();
    unanswered(&browser, &node, async |session| session.set(theme("dark")).await.unwrap()).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, Theme::default());
}

#[tokio::test]
async fn session_values_are_gone_after_lost_sign_in() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    unanswered(&browser, &node, async |session| session.sign_in(User("ada".into())).await.unwrap()).await;
    let seen = browser.visit(&node, async |session| (session.principal(), session.get::<Theme>())).await;
    assert_eq!(seen, (None, None));
    sign_in(&mut browser, &node, "ada").await;
    let seen = browser.visit(&node, async |session| (session.principal(), session.get::<Theme>())).await;
    assert_eq!(seen, (Some(Principal::new("ada")), None));
}

#[tokio::test]
async fn user_value_survives_idle_time_during_request() {
    let app = App::with(|sessions| sessions.principal_idle(Duration::from_secs(2)));
    let mut browser = signed_in(&app.node, "ada").await;
    browser.visit(&app.node, async |session| session.set(Division(3)).await.unwrap()).await;
    browser.read(&app.node).await;
    let clock = app.clock.clone();
    let told = browser
        .told(&app.node, async |session| {
            let _ = session.get::<Theme>();
            clock.advance(Duration::from_secs(5));
        })
        .await;
    let next = browser.visit(&app.node, async |session| session.get::<Division>()).await;
    assert_eq!((told.len(), next), (0, Some(Division(3))));
}
