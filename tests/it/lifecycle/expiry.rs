//! Expiry of sessions and values: the use that extends a deadline, no answer after the deadline, and the sweep.

use std::{
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use layered_session::{
    ChangeEvent, Clock, CloseReason, Lifetime, Placement, Principal, Scope, SessionValue, WriteErrorKind,
    testing::ManualClock,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, DAY, Division, HOUR, Node, TICK, Theme, Visits, at_once, builder, carried, first_write, get, kind,
    ring, seen, settled, signed_in, socket, soon, theme, visitor,
};

// R5: reads and writes of a request's handle extend the idle lifetime, and `touch` does not revive an expired session.
#[tokio::test]
async fn access_extends_idle_lifetime() {
    let app = App::new();
    let node = app.start();
    // The handle comes from an ordinary request: the reads of a socket do not count as a use.
    let live = visitor(&node).await.visit(&node, async |session| session).await;
    for n in 1..=3 {
        app.pass(2 * DAY - TICK);
        live.set(Visits(n)).await.unwrap();
        app.pass(2 * DAY - TICK);
        assert_eq!(live.value::<Theme>(), theme("light"), "after a write");
        app.pass(2 * DAY - TICK);
        live.touch().await.expect("after a read");
    }
    assert_eq!(live.expires_at(), Some(app.clock.now() + 2 * DAY));
    app.pass(2 * DAY);
    assert_eq!((live.get::<Theme>(), live.expires_at()), (None, None));
    assert_eq!(kind(live.touch().await), Some(WriteErrorKind::Closed));
}

// R5: reads and writes of user values extend the idle lifetime of the session.
#[tokio::test]
async fn user_value_access_extends_session() {
    let app = App::new();
    let node = app.start();
    let live = signed_in(&node, "ada").await.visit(&node, async |session| session).await;
    for n in 0..3 {
        assert_eq!(live.value::<Division>(), Division(n - 1));
        app.pass(2 * DAY - TICK);
        live.set(Division(n)).await.unwrap();
        app.pass(2 * DAY - TICK);
    }
    app.pass(TICK);
    assert_eq!(at_once(live.closed()), Some(CloseReason::Expired));
}

// R5: a read sends the browser a cookie with the later idle deadline.
#[tokio::test]
async fn reads_extend_browser_cookie() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    for _ in 0..3 {
        app.pass(36 * HOUR);
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
    }
    app.pass(2 * DAY - TICK);
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("light"));
    app.pass(TICK);
    assert_eq!(carried::<Theme>(&browser, &app).await, Theme::default());
}

#[tokio::test]
async fn unused_user_values_last_31_days() {
    let app = App::new();
    let node = app.start();
    let ada = async || node.sessions.for_principal(Principal::new("ada")).await.unwrap().value::<Division>();
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(2)).await.unwrap();
    for _ in 0..2 {
        app.pass(31 * DAY - Duration::from_millis(1));
        assert_eq!(ada().await, Division(2));
    }
    app.pass(31 * DAY);
    assert_eq!(ada().await, Division(-1));
}

/// A value of principal scope in memory alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Unread(u32);

impl SessionValue for Unread {
    const NAME: &'static str = "unread";
    const SCOPE: Scope = Scope::Principal;
    const PLACEMENT: Placement = Placement::Volatile;
}

#[tokio::test]
async fn user_values_expire_without_sweep() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).value::<Unread>().build().unwrap());
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Unread(7)).await.unwrap();
    clock.advance(40 * DAY);
    assert_eq!(node.sessions.for_principal(Principal::new("ada")).await.unwrap().value::<Unread>(), Unread(0));
}

#[tokio::test]
async fn cookie_revives_only_carried_values() {
    let (ring, clock) = (ring(), ManualClock::new());
    let lived = || builder(&ring, &clock).value::<Unread>().idle(100 * DAY).absolute(365 * DAY);
    let node = Node::new(lived().build().unwrap());
    let mut browser = signed_in(&node, "ada").await;
    browser.visit(&node, async |s| s.set(Division(3)).await.unwrap()).await;
    browser.visit(&node, async |s| s.set(Unread(7)).await.unwrap()).await;
    clock.advance(40 * DAY);
    let found = browser.visit(&node, async |s| (s.value::<Division>(), s.value::<Unread>())).await;
    assert_eq!(found, (Division(3), Unread(0)));
}

#[tokio::test]
async fn older_cookie_revives_no_shortened_session() {
    let short = Lifetime::new(Duration::from_secs(900), 30 * DAY).unwrap();
    for swept in [false, true] {
        let (ring, clock) = (ring(), ManualClock::new());
        let node = Node::new(builder(&ring, &clock).build().unwrap());
        let mut browser = first_write(&node, Theme("dark".into())).await;
        let mut old = browser.clone();
        browser.visit(&node, async move |s| s.set_lifetime(short).await.unwrap()).await;
        clock.advance(Duration::from_secs(3_600));
        if swept {
            Browser::new().visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
        }
        assert_eq!(browser.visit(&node, async |s| s.value::<Theme>()).await, Theme::default());
        assert_eq!(old.visit(&node, async |s| s.value::<Theme>()).await, Theme::default(), "swept: {swept}");
    }
}

// Tests of the sweep.

// R5: the sweeper drops expired records alone, and a read keeps a record for another idle lifetime.
#[tokio::test]
async fn sweep_drops_only_expired_records() {
    let app = App::new();
    let node = app.start();
    let mut sweeper = pin!(node.sessions.sweeper());
    let mut sweep = |span| {
        app.pass(span);
        assert!(sweeper.as_mut().now_or_never().is_none());
        node.sessions.stats().records
    };
    assert_eq!(sweep(TICK), 0);
    drop(visitor(&node).await);
    assert_eq!(sweep(DAY), 1);
    let mut later = visitor(&node).await;
    assert_eq!(sweep(HOUR), 2, "no record had expired");
    assert_eq!(sweep(DAY), 1);
    assert_eq!(seen(&mut later, &node).await, (theme("light"), "memory"));
    assert_eq!(sweep(DAY), 1, "the read has extended the later session");
    assert_eq!(seen(&mut later, &node).await, (theme("light"), "memory"));
    assert_eq!((sweep(2 * DAY + HOUR), node.sessions.stats().expired), (0, 2));
}

// R5: an expired record does not answer, although the sweep has not dropped the record yet.
#[tokio::test]
async fn unswept_expired_values_never_answer() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    app.pass(2 * DAY);
    assert_eq!(node.sessions.stats().records, 1, "the record is still in memory");
    assert_eq!(seen(&mut browser, &node).await, (Theme::default(), "default"));
}

#[tokio::test]
async fn sweeper_works_in_bounded_steps() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    for _ in 0..200 {
        Browser::new().visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    }
    let mut sweeper = pin!(node.sessions.sweeper());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(sweeper.as_mut().poll(&mut cx).is_pending());
    clock.advance(40 * DAY);
    assert!(sweeper.as_mut().poll(&mut cx).is_pending());
    assert!((100..200).contains(&node.sessions.stats().records), "a bounded step");
    for _ in 0..4 {
        assert!(sweeper.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(node.sessions.stats().records, 0);
}

// Tests of the wake-ups at the end of a session.

#[tokio::test]
async fn expiry_wakes_all_waiters() {
    let app = App::new();
    let node = app.start();
    let live = socket(&visitor(&node).await, &node).await;
    let (mut watch, mut changes) = (live.watch::<Theme>(), live.changes());
    assert_eq!(soon(watch.next()).await, Some(theme("light")));
    let closed = tokio::spawn(live.closed());
    let watching = tokio::spawn(async move { watch.next().await });
    let changing = tokio::spawn(async move { changes.next().await });
    tokio::task::yield_now().await;
    app.pass(2 * DAY - TICK);
    tokio::task::yield_now().await;
    assert!(!closed.is_finished() && !watching.is_finished() && !changing.is_finished());
    app.pass(TICK);
    assert_eq!(soon(closed).await.unwrap(), CloseReason::Expired);
    assert_eq!(soon(watching).await.unwrap(), None);
    assert_eq!(soon(changing).await.unwrap(), Some(ChangeEvent::Closed(CloseReason::Expired)));
}

#[tokio::test]
async fn sleeping_handle_follows_moved_deadline() {
    let app = App::new();
    let node = app.start();
    let live = socket(&visitor(&node).await, &node).await;
    let closed = tokio::spawn(live.closed());
    tokio::task::yield_now().await;
    app.pass(DAY);
    live.touch().await.unwrap();
    app.pass(DAY);
    tokio::task::yield_now().await;
    assert!(!closed.is_finished(), "the touch has moved the deadline");
    live.set_lifetime(Lifetime::new(HOUR, DAY * 30).unwrap()).await.unwrap();
    tokio::task::yield_now().await;
    app.pass(HOUR - TICK);
    tokio::task::yield_now().await;
    assert!(!closed.is_finished(), "`set_lifetime` is a use too");
    app.pass(TICK);
    assert_eq!(soon(closed).await.unwrap(), CloseReason::Expired);
}

#[tokio::test]
async fn sleeping_handle_follows_shortened_lifetime() {
    let app = App::new();
    let (here, elsewhere) = (app.start(), app.start());
    let mut browser = visitor(&here).await;
    let closed = tokio::spawn(socket(&browser, &here).await.closed());
    settled().await;
    let shorter = Lifetime::new(HOUR, DAY * 30).unwrap();
    browser.visit(&elsewhere, async move |session| session.set_lifetime(shorter).await.unwrap()).await;
    get::<Theme>(&mut browser, &here).await;
    settled().await;
    app.pass(HOUR);
    assert_eq!(soon(closed).await.unwrap(), CloseReason::Expired);
}
