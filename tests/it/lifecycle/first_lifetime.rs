//! The lifetime at the beginning of a session: the configured lifetime, or a lifetime set through the handle.

use std::time::SystemTime;

use layered_session::{
    Clock, CloseReason, Lifetime, Session, SharedTier, WriteErrorKind,
    testing::{Call, ManualClock, Operation, SpyStore},
};

use crate::support::{
    App, Browser, DAY, Node, Theme, Visits, bring_ok, get, kind, login, max_age, set, set_cookies, sign_in, signed_in,
    socket, theme, user, visitor,
};

/// The idle lifetime in the builder.
const CONFIGURED: u32 = 2;

fn remember_me() -> Lifetime {
    Lifetime::new(31 * DAY, 365 * DAY).unwrap()
}

fn public_terminal() -> Lifetime {
    Lifetime::new(DAY / 4, DAY / 2).unwrap().until_browser_closes()
}

/// A single node, two nodes that share keys alone, and two nodes over one store.
fn settings() -> [(App, Node, Node); 3] {
    let (one, two, stored) = (App::new(), App::new(), App::new());
    let node = one.start();
    let (first, second) = (two.start(), two.start());
    let store = SpyStore::new().expire_by(stored.clock.clone());
    let over_store = || stored.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let (third, fourth) = (over_store(), over_store());
    [(one, node.clone(), node), (two, first, second), (stored, third, fourth)]
}

/// The days until the browser's session ends unused, by a node's count, and the days of `Max-Age` in a new cookie.
async fn lasts(browser: &Browser, node: &Node, clock: &ManualClock) -> (Option<u32>, Option<u32>) {
    let write = async |session: Session| {
        session.set(Visits(7)).await.unwrap();
        session.expires_at()
    };
    let (headers, expires) = browser.clone().visit_seen(node, write).await;
    let cookies = set_cookies(&headers);
    let max_age = max_age(&cookies[0]).map(|seconds| u32::try_from(seconds).unwrap());
    (expires.map(|end| days(end, clock)), max_age.map(|seconds| (seconds + 60) / 86_400))
}

fn days(end: SystemTime, clock: &ManualClock) -> u32 {
    let left = end.duration_since(clock.now()).unwrap();
    u32::try_from(left.as_secs() / DAY.as_secs()).unwrap()
}

const fn both(days: u32) -> (Option<u32>, Option<u32>) {
    (Some(days), Some(days))
}

async fn remember(browser: &mut Browser, node: &Node) {
    browser.visit(node, async |session| session.set_lifetime(remember_me()).await.unwrap()).await;
}

#[tokio::test]
async fn next_user_gets_configured_lifetime() {
    for (app, node, other) in settings() {
        let mut browser = signed_in(&node, "ada").await;
        remember(&mut browser, &node).await;
        assert_eq!(lasts(&browser, &other, &app.clock).await, both(31));
        sign_in(&mut browser, &node, "bob").await;
        for node in [&node, &other] {
            assert_eq!(lasts(&browser, node, &app.clock).await, both(CONFIGURED));
        }
        app.pass(3 * DAY);
        assert_eq!(browser.visit(&other, async |session| session.principal()).await, None);
    }
}

#[tokio::test]
async fn next_user_gets_persistent_cookie() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    browser.visit(&node, async |session| session.set_lifetime(public_terminal()).await.unwrap()).await;
    assert_eq!(lasts(&browser, &node, &app.clock).await, (Some(0), None));
    sign_in(&mut browser, &node, "bob").await;
    assert_eq!(lasts(&browser, &node, &app.clock).await, both(CONFIGURED));
}

#[tokio::test]
async fn sign_in_uses_lifetime_set_before() {
    for (app, node, other) in settings() {
        for has_session in [false, true] {
            let mut browser = if has_session { visitor(&node).await } else { Browser::new() };
            let login = async |session: Session| {
                session.set_lifetime(remember_me()).await.unwrap();
                session.clone().sign_in(user("ada")).await.unwrap();
            };
            browser.visit(&node, login).await;
            for node in [&node, &other] {
                assert_eq!(lasts(&browser, node, &app.clock).await, both(31));
            }
        }
    }
}

#[tokio::test]
async fn lifetime_applies_from_first_write() {
    for (app, node, other) in settings() {
        let mut browser = Browser::new();
        let before = node.sessions.stats().records;
        let (headers, ()) = browser
            .visit_seen(&node, async |session| {
                session.set_lifetime(remember_me()).await.unwrap();
                assert!(session.is_new() && session.expires_at().is_none());
            })
            .await;
        assert_eq!((set_cookies(&headers), node.sessions.stats().records), (vec![], before));
        let write = async |session: Session| {
            session.set_lifetime(public_terminal()).await.unwrap();
            session.set_lifetime(remember_me()).await.unwrap();
            session.set(theme("dark")).await.unwrap();
        };
        browser.visit(&node, write).await;
        for node in [&node, &other] {
            assert_eq!(lasts(&browser, node, &app.clock).await, both(31));
        }
    }
}

#[tokio::test]
async fn lifetime_without_write_has_no_effect() {
    let app = App::new();
    let node = app.start();
    let mut browser = Browser::new();
    remember(&mut browser, &node).await;
    set(&mut browser, &node, theme("dark")).await;
    assert_eq!(lasts(&browser, &node, &app.clock).await, both(CONFIGURED));
}

#[tokio::test]
async fn lifetime_set_before_destroy_is_forgotten() {
    for (app, node, other) in settings() {
        for (had_session, signs_in) in [(true, true), (true, false), (false, true)] {
            let mut browser = if had_session { visitor(&node).await } else { Browser::new() };
            let turn = async move |session: Session| {
                session.set_lifetime(remember_me()).await.unwrap();
                session.destroy().await.unwrap();
                match signs_in {
                    true => session.sign_in(user("ada")).await.unwrap(),
                    false => session.renew().await.unwrap(),
                }
            };
            browser.visit(&node, turn).await;
            for node in [&node, &other] {
                assert_eq!(lasts(&browser, node, &app.clock).await, both(CONFIGURED));
            }
        }
    }
}

#[tokio::test]
async fn lifetime_set_after_destroy_applies() {
    let app = App::new();
    let node = app.start();
    for signs_in in [true, false] {
        let mut browser = visitor(&node).await;
        let turn = async move |session: Session| {
            session.destroy().await.unwrap();
            session.set_lifetime(remember_me()).await.unwrap();
            assert_eq!(kind(session.set(theme("dark")).await), Some(WriteErrorKind::Closed));
            match signs_in {
                true => session.sign_in(user("ada")).await.unwrap(),
                false => session.renew().await.unwrap(),
            }
        };
        browser.visit(&node, turn).await;
        assert_eq!(lasts(&browser, &node, &app.clock).await, both(31));
    }
}

#[tokio::test]
async fn lifetime_set_on_ended_id_applies_at_sign_in() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let mut late = browser.clone();
    browser.visit(&node, async |session| session.sign_out().await.unwrap()).await;
    let login = async |session: Session| {
        session.set_lifetime(remember_me()).await.unwrap();
        session.sign_in(user("ada")).await.unwrap();
    };
    late.visit(&node, login).await;
    assert_eq!(lasts(&late, &node, &app.clock).await, both(31));
}

#[tokio::test]
async fn renewal_keeps_lifetime() {
    for (app, node, other) in settings() {
        let mut browser = visitor(&node).await;
        remember(&mut browser, &node).await;
        browser.visit(&node, async |session| session.renew().await.unwrap()).await;
        for node in [&node, &other] {
            assert_eq!(lasts(&browser, node, &app.clock).await, both(31));
        }
    }
}

#[tokio::test]
async fn until_browser_closes_omits_max_age() {
    let app = App::new();
    let until_closed = || app.start_with(|sessions| sessions.until_browser_closes());
    let (node, other) = (until_closed(), until_closed());
    let mut browser = visitor(&node).await;
    let mut until_closed = vec![lasts(&browser, &node, &app.clock).await];
    browser.visit(&node, async |session| session.renew().await.unwrap()).await;
    until_closed.push(lasts(&browser, &other, &app.clock).await);
    sign_in(&mut browser, &node, "ada").await;
    until_closed.push(lasts(&browser, &other, &app.clock).await);
    remember(&mut browser, &node).await;
    assert_eq!(lasts(&browser, &other, &app.clock).await, both(31), "the session has a lifetime of its own");
    let live = socket(&browser, &node).await;
    bring_ok(&mut browser, &node, &login(&live)).await;
    until_closed.push(lasts(&browser, &node, &app.clock).await);
    assert_eq!(until_closed, [(Some(CONFIGURED), None); 4]);
}

#[tokio::test]
async fn sign_in_order_uses_configured_lifetime() {
    let app = App::new();
    let node = app.start();
    for has_session in [true, false] {
        let mut browser = if has_session { visitor(&node).await } else { Browser::new() };
        let live = socket(&browser, &node).await;
        live.set_lifetime(remember_me()).await.unwrap();
        bring_ok(&mut browser, &node, &login(&live)).await;
        assert_eq!(lasts(&browser, &node, &app.clock).await, both(CONFIGURED));
        remember(&mut browser, &node).await;
        let live = socket(&browser, &node).await;
        let renewal = live.renew_by_page().token().unwrap();
        bring_ok(&mut browser, &node, renewal.as_str()).await;
        assert_eq!(lasts(&browser, &node, &app.clock).await, both(31), "a renewal keeps its lifetime");
    }
}

#[tokio::test]
async fn lifetime_needs_living_session() {
    let app = App::new();
    let node = app.start();
    let job = node.sessions.for_principal(layered_session::Principal::new("ada")).await.unwrap();
    assert_eq!(kind(job.set_lifetime(remember_me()).await), Some(WriteErrorKind::Invalid));
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert_eq!(live.closed().await, CloseReason::Destroyed);
    assert_eq!(kind(live.set_lifetime(remember_me()).await), Some(WriteErrorKind::Closed));
}

#[tokio::test]
async fn lifetime_set_last_wins_across_nodes() {
    for (app, node, other) in settings() {
        let mut browser = Browser::new();
        let login = async |session: Session| {
            session.set_lifetime(remember_me()).await.unwrap();
            session.sign_in(user("ada")).await.unwrap();
        };
        browser.visit(&node, login).await;
        let ten = Lifetime::new(10 * DAY, 20 * DAY).unwrap();
        browser.visit(&other, async move |session| session.set_lifetime(ten).await.unwrap()).await;
        for node in [&node, &other] {
            assert_eq!(lasts(&browser, node, &app.clock).await, both(10));
            assert_eq!(get::<Theme>(&mut browser, node).await, Theme::default());
        }
    }
}

// Two nodes without a store set a lifetime in the same millisecond, each without the other's.
#[tokio::test]
async fn shorter_of_two_simultaneous_lifetimes_stays() {
    let ten = Lifetime::new(10 * DAY, 20 * DAY).unwrap();
    for [here, there] in [[ten, remember_me()], [remember_me(), ten]] {
        let app = App::new();
        let nodes = [app.start(), app.start()];
        let mut browser = visitor(&nodes[0]).await;
        let live = socket(&browser, &nodes[0]).await;
        browser.visit(&nodes[1], async move |session| session.set_lifetime(there).await.unwrap()).await;
        live.set_lifetime(here).await.unwrap();
        for node in &nodes {
            browser.visit(node, async |session| session.remove::<Visits>().await.unwrap()).await;
            // The response has brought the browser the lifetime that stays.
            for node in [node, &app.start()] {
                assert_eq!(lasts(&browser, node, &app.clock).await, both(10));
            }
        }
    }
}

#[tokio::test]
async fn store_gets_session_lifetime() {
    let app = App::new();
    let store = SpyStore::new();
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let last = || {
        let created = |call: &Call| call.operation() == Operation::Create;
        let keep = store.take_calls().into_iter().filter(created).filter_map(|call| call.keep()).next_back();
        keep.unwrap().as_secs() / DAY.as_secs()
    };
    let mut browser = Browser::new();
    let write = async |session: Session| {
        session.set_lifetime(remember_me()).await.unwrap();
        session.set(theme("dark")).await.unwrap();
    };
    browser.visit(&node, write).await;
    assert_eq!(last(), 34, "a first write: the idle lifetime of 31 days, and a tenth");
    app.pass(DAY);
    browser.visit(&node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(last(), 34, "a renewal");
    sign_in(&mut browser, &node, "ada").await;
    assert_eq!(last(), 2, "a sign-in");
}
