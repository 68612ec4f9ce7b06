//! Steps of the system's clock: a step back extends no session, value or fence, and a step forward is followed.

use std::time::Duration;

use layered_session::{
    Clock, CloseReason, KeyRing, SessionValue, SessionsBuilder, SharedTier,
    testing::{Call, ManualClock, SpyStore},
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, DAY, HOUR, Node, TICK, Theme, Visits, at_once, builder, dark, first_write, kind, max_age, settled,
    soon,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A value that expires before its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Code(u32);

impl SessionValue for Code {
    const NAME: &'static str = "code";
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(300));
}

/// An app with an idle lifetime of one hour, and an absolute lifetime of six hours.
fn app() -> App {
    App::with(|builder| builder.idle(HOUR).absolute(6 * HOUR).value::<Code>())
}

fn back(clock: &ManualClock, span: Duration) {
    clock.set(clock.now() - span);
}

// R5: a step back of the clock does not extend the idle lifetime, with and without a store.
#[tokio::test]
async fn clock_step_back_extends_no_idle_lifetime() {
    let steps = [Duration::from_secs(1), 30 * MINUTE, HOUR, 2 * DAY];
    for (step, stored) in steps.into_iter().flat_map(|step| [(step, false), (step, true)]) {
        let of_store = ManualClock::new();
        let store = SpyStore::new().expire_by(of_store.clone());
        let add =
            move |builder: SessionsBuilder| if stored { builder.tier(SharedTier::new(store.clone())) } else { builder };
        let app = App::with(move |builder| add(builder.idle(HOUR).absolute(6 * HOUR)));
        let mut browser = app.dark().await;
        let handle = browser.open(&app.node).await;
        app.clock.advance(MINUTE);
        assert_eq!(handle.get(), Some(dark()));
        back(&app.clock, step);
        app.clock.advance(HOUR - TICK);
        of_store.advance(HOUR - TICK);
        assert_eq!(handle.expires_at(), Some(app.clock.now() + TICK), "{step:?}");
        // Another node may use the session for a tenth of the idle lifetime before that node tells the store.
        let tenth = if stored { HOUR / 10 } else { Duration::ZERO };
        app.clock.advance(TICK + tenth);
        of_store.advance(TICK + tenth);
        assert_eq!(browser.theme(&app.node).await, Theme::default(), "{step:?}");
        assert_eq!((handle.get::<Theme>(), at_once(handle.closed())), (None, Some(CloseReason::Expired)));
    }
}

// R5: repeated steps back of the clock do not extend the absolute lifetime of a session in use.
#[tokio::test]
async fn clock_step_back_extends_no_absolute_lifetime() {
    let app = app();
    let mut browser = app.dark().await;
    for minutes in 1..6 * 60 {
        app.clock.advance(MINUTE);
        if minutes % 60 == 0 {
            back(&app.clock, 9 * MINUTE);
        }
        browser.read(&app.node).await;
    }
    assert_eq!(browser.theme(&app.node).await, dark());
    app.clock.advance(MINUTE);
    assert_eq!(browser.theme(&app.node).await, Theme::default());
}

#[tokio::test]
async fn clock_step_back_extends_no_value() {
    let app = app();
    let mut browser = first_write(&app.node, Code(7)).await;
    app.clock.advance(MINUTE);
    back(&app.clock, 29 * MINUTE);
    app.clock.advance(4 * MINUTE - TICK);
    assert_eq!(browser.visit(&app.node, async |session| session.get()).await, Some(Code(7)));
    app.clock.advance(TICK);
    assert_eq!(browser.visit(&app.node, async |session| session.get::<Code>()).await, None);
}

// G13: a step back of the clock does not extend the minute in which an ended id refuses writes.
#[tokio::test]
async fn clock_step_back_extends_no_fence() {
    let app = app();
    let browser = app.dark().await;
    browser.clone().visit(&app.node, async |session| session.destroy().await.unwrap()).await;
    app.clock.advance(MINUTE / 2);
    back(&app.clock, HOUR);
    let write = async |session: layered_session::Session| kind(session.set(Visits(1)).await);
    app.clock.advance(MINUTE / 2 - TICK);
    assert!(browser.clone().visit(&app.node, write).await.is_some());
    app.clock.advance(TICK);
    assert_eq!(browser.clone().visit(&app.node, write).await, None);
}

/// A node whose memory does not recognise tokens by their bytes: `reopen` gives the ring its own key again.
struct Opening {
    ring: KeyRing,
    clock: ManualClock,
    node: Node,
}

impl Opening {
    fn new() -> Self {
        let (ring, clock) = (KeyRing::new([Self::key()]).unwrap(), ManualClock::new());
        let node = Node::new(builder(&ring, &clock).idle(HOUR).absolute(6 * HOUR).build().unwrap());
        Self { ring, clock, node }
    }

    fn key() -> Vec<u8> {
        (0..64u8).map(|at| at.wrapping_mul(91) ^ 0x3c).collect()
    }

    fn reopen(&self) {
        self.ring.replace([Self::key()]).unwrap();
    }
}

// R5: a token that this node sealed before a step back of the clock still expires on time, with and without the record.
#[tokio::test]
async fn clock_step_back_extends_no_token() {
    for evicted in [false, true] {
        let opening = Opening::new();
        let mut browser = Browser::new();
        browser.write(&opening.node, "dark").await;
        let older = browser.clone();
        opening.clock.advance(20 * MINUTE);
        browser.read(&opening.node).await;
        back(&opening.clock, 30 * MINUTE);
        if evicted {
            // A visit after the expiry of the record drops the record.
            opening.clock.advance(HOUR + MINUTE);
            for _ in 0..3 {
                Browser::new().write(&opening.node, "light").await;
            }
        } else {
            opening.clock.advance(HOUR);
        }
        opening.reopen();
        assert_eq!(browser.theme(&opening.node).await, Theme::default(), "evicted: {evicted}");
        assert_eq!(older.theme(&opening.node).await, Theme::default(), "an older cookie, evicted: {evicted}");
    }
}

// R5: a token that is opened after a step back of the clock counts as a use at the time of its seal, and no later.
#[tokio::test]
async fn clock_step_back_makes_no_cookie_younger() {
    let opening = Opening::new();
    let mut browser = Browser::new();
    browser.write(&opening.node, "dark").await;
    let older = browser.clone();
    opening.clock.advance(10 * MINUTE);
    browser.read(&opening.node).await;
    back(&opening.clock, 30 * MINUTE);
    opening.clock.advance(45 * MINUTE);
    opening.reopen();
    let ends = older.clone().visit(&opening.node, async |session| session.expires_at()).await;
    assert_eq!(ends, Some(opening.clock.now() + 15 * MINUTE));
}

// After the correction of a clock that was ahead, a new session has the right times on this node and on another node.
#[tokio::test]
async fn corrected_clock_seals_right_times() {
    for ahead in [10 * MINUTE, 3 * DAY] {
        let app = App::with(|builder| builder.idle(DAY).absolute(3 * DAY));
        let right = app.clock.now();
        app.clock.set(right + ahead);
        app.dark().await;
        app.clock.set(right);
        let mut browser = app.dark().await;
        for node in [&app.node, &app.start()] {
            let seen = browser.visit(node, async |session| (session.created_at(), session.expires_at())).await;
            assert_eq!(seen, (Some(right), Some(right + DAY)), "{ahead:?}");
        }
        app.clock.advance(DAY);
        for node in [&app.node, &app.start()] {
            assert_eq!(browser.theme(node).await, Theme::default(), "{ahead:?}");
        }
    }
}

// A clock that was days ahead for a moment ends no session that another node sealed at that time.
#[tokio::test]
async fn corrected_clock_opens_tokens_of_other_nodes() {
    let app = App::with(|builder| builder.idle(DAY).absolute(3 * DAY));
    let other = app.start_at(&ManualClock::new());
    let mut browser = Browser::new();
    browser.write(&other, "dark").await;
    let right = app.clock.now();
    app.clock.set(right + 5 * DAY);
    app.dark().await;
    app.clock.set(right);
    app.clock.advance(HOUR);
    assert_eq!(browser.theme(&app.node).await, dark());
}

// A node whose clock was set back within the allowed skew still serves the sessions of other nodes.
#[tokio::test]
async fn clock_step_back_ends_no_session() {
    let clock = ManualClock::new();
    let app = App::with(|builder| builder.idle(3 * HOUR).absolute(DAY));
    let other = app.start_at(&clock);
    let mut browser = Browser::new();
    browser.write(&other, "dark").await;
    assert_eq!(browser.theme(&app.node).await, dark());
    back(&app.clock, HOUR);
    for _ in 0..20 {
        app.clock.advance(10 * MINUTE);
        clock.advance(10 * MINUTE);
        browser.read(&other).await;
        assert_eq!(browser.theme(&app.node).await, dark());
    }
}

#[tokio::test]
async fn clock_step_forward_expires_session() {
    let app = app();
    let mut browser = app.dark().await;
    let handle = browser.open(&app.node).await;
    app.clock.set(app.clock.now() + HOUR - TICK);
    assert_eq!(handle.expires_at(), Some(app.clock.now() + TICK));
    app.clock.set(app.clock.now() + TICK);
    assert_eq!((handle.get::<Theme>(), at_once(handle.closed())), (None, Some(CloseReason::Expired)));
    assert_eq!(browser.read(&app.node).await.len(), 0);
    assert_eq!(browser.theme(&app.node).await, Theme::default());
}

#[tokio::test]
async fn clock_step_back_delays_no_sleeping_handle() {
    let app = App::with(|builder| builder.idle(3 * HOUR).absolute(6 * HOUR));
    let mut browser = app.dark().await;
    let closed = tokio::spawn(browser.open(&app.node).await.closed());
    settled().await;
    back(&app.clock, 2 * HOUR);
    settled().await;
    app.clock.advance(3 * HOUR - TICK);
    settled().await;
    assert!(!closed.is_finished());
    app.clock.advance(TICK);
    assert_eq!(soon(closed).await.unwrap(), CloseReason::Expired);
}

#[tokio::test]
async fn clock_step_forward_wakes_sleeping_handle() {
    let app = App::with(|builder| builder.idle(3 * DAY).absolute(6 * DAY));
    let mut browser = app.dark().await;
    let closed = tokio::spawn(browser.open(&app.node).await.closed());
    settled().await;
    app.clock.set(app.clock.now() + 3 * DAY);
    settled().await;
    app.clock.advance(HOUR);
    assert_eq!(soon(closed).await.unwrap(), CloseReason::Expired);
}

// As the docs of `Clock` say, a restart forgets how far the clock was set back, so the restarted node opens the cookie
// for that much longer.
#[tokio::test]
async fn restart_forgets_clock_step_back() {
    let app = app();
    let browser = app.dark().await;
    app.clock.advance(MINUTE);
    back(&app.clock, 30 * MINUTE);
    app.clock.advance(89 * MINUTE - TICK);
    assert_eq!(browser.theme(&app.node).await, Theme::default());
    assert_eq!(browser.theme(&app.start()).await, dark());
    app.clock.advance(TICK);
    assert_eq!(browser.theme(&app.start()).await, Theme::default());
}

#[tokio::test]
async fn store_gets_spans_across_clock_steps() {
    let store = SpyStore::new();
    let tier = store.clone();
    let app = App::with(move |builder| builder.idle(HOUR).absolute(6 * HOUR).tier(SharedTier::new(tier.clone())));
    back(&app.clock, 30 * MINUTE);
    let mut browser = app.dark().await;
    let keep = || store.take_calls().iter().rev().find_map(Call::keep).unwrap();
    assert_eq!(keep(), HOUR * 21 / 10, "the idle lifetime, a tenth, and `max_skew`");
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(keep(), 6 * HOUR, "the end of the old id");
    browser.visit(&app.node, async |session| session.destroy().await.unwrap()).await;
    assert_eq!(keep(), 6 * HOUR);
}

// `Max-Age` counts from the response, so a step back of the clock does not change `Max-Age`.
#[tokio::test]
async fn clock_step_back_changes_no_max_age() {
    let app = app();
    let mut browser = app.dark().await;
    app.clock.advance(MINUTE);
    back(&app.clock, 30 * MINUTE);
    let set = browser.write(&app.node, "light").await;
    assert_eq!(max_age(&set[0]), Some(3540), "{set:?}");
}
