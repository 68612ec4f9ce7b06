//! Clocks that differ between nodes, or were set: the newest write, the sessions that `end_all_sessions` ends, and the
//! bounds by the allowed skew.

use std::time::Duration;

use futures_util::FutureExt;
use layered_session::{
    Clock, CloseReason, Lifetime, Principal, Session, SessionsBuilder, SharedTier,
    testing::{ManualClock, SpyStore},
};

use crate::support::{
    App, Browser, DAY, Division, HOUR, Node, TICK, Theme, User, bare, bring, dark, sign_in, signed_in, socket,
};

const SECOND: Duration = Duration::from_secs(1);

fn ada() -> Principal {
    Principal::new("ada")
}

async fn user(browser: &Browser, node: &Node) -> Option<Principal> {
    browser.clone().visit(node, async |session| session.principal()).await
}

fn back(clock: &ManualClock, span: Duration) {
    clock.set(clock.now() - span);
}

/// Two nodes, each with a clock of its own: once without a store, and once over a shared store.
fn pairs() -> Vec<(App, ManualClock, Node)> {
    [false, true]
        .into_iter()
        .map(|stored| {
            let store = SpyStore::new();
            let add = move |builder: SessionsBuilder| {
                if stored { builder.tier(SharedTier::new(store.clone())) } else { builder }
            };
            let (app, clock) = (App::with(add), ManualClock::new());
            let other = app.start_at(&clock);
            (app, clock, other)
        })
        .collect()
}

// R6: after the clocks were set back, `end_all_sessions` still ends the earlier sessions, and spares the next sign-in.
#[tokio::test]
async fn end_all_works_after_clock_step_back() {
    for step in [TICK, SECOND, HOUR - TICK, HOUR, HOUR + TICK, 3 * DAY] {
        for (app, clock, other) in pairs() {
            let mut browser = signed_in(&app.node, "ada").await;
            let handle = browser.open(&app.node).await;
            let renewed = signed_in(&app.node, "ada").await;
            renewed.clone().visit(&app.node, async |session| session.renew().await.unwrap()).await;
            assert_eq!(user(&browser, &other).await, Some(ada()));
            for clock in [&app.clock, &clock] {
                back(clock, step);
            }
            for node in [&app.node, &other] {
                node.sessions.end_all_sessions(ada()).await.unwrap();
                assert_eq!(user(&browser, node).await, None, "{step:?}");
                assert_eq!(user(&renewed, node).await, None, "{step:?}");
                let again = signed_in(node, "ada").await;
                assert_eq!(user(&again, node).await, Some(ada()), "a later sign-in after {step:?}");
            }
            assert_eq!(handle.closed().now_or_never(), Some(CloseReason::Revoked), "{step:?}");
        }
    }
}

// R6: on the slow node, `end_all_sessions` ends the session of a fast node's sign-in order, although the version in the
// order is above every version by the slow node's clock.
#[tokio::test]
async fn end_all_ends_fast_clock_sign_in_order() {
    for (app, _, behind) in pairs() {
        app.clock.advance(30 * SECOND);
        for _ in 0..9 {
            app.dark().await; // versions of the order's millisecond
        }
        let live = socket(&Browser::new(), &app.node).await;
        let order = live.sign_in(User("ada".into())).by_page().unwrap();
        let mut browser = Browser::new();
        bring(&mut browser, &behind, order.as_str()).await;
        assert_eq!(user(&browser, &behind).await, Some(ada()));
        behind.sessions.end_all_sessions(ada()).await.unwrap();
        assert_eq!(user(&browser, &behind).await, None);
    }
}

// R6: `end_all_sessions` spares a sign-in that follows in the same millisecond, over a live anonymous session.
#[tokio::test]
async fn sign_in_right_after_end_all_stays_valid() {
    for (app, _, _) in pairs() {
        let mut browser = app.dark().await;
        let sessions = app.node.sessions.clone();
        let sign_in = async move |session: Session| {
            sessions.end_all_sessions(ada()).await.unwrap();
            session.sign_in(User("ada".into())).await.unwrap();
            session.closed().now_or_never()
        };
        assert_eq!(browser.visit(&app.node, sign_in).await, None);
        assert_eq!(user(&browser, &app.node).await, Some(ada()));
    }
}

// A renewed session begins at a version above the version of the old session, so the call of `end_all_sessions` before
// the sign-in does not end the renewed session either.
#[tokio::test]
async fn renewal_after_clock_step_back_stays_signed_in() {
    for step in [SECOND, 2 * HOUR] {
        let app = App::new();
        app.node.sessions.end_all_sessions(ada()).await.unwrap();
        app.clock.advance(TICK);
        let mut browser = signed_in(&app.node, "ada").await;
        back(&app.clock, step);
        browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
        assert_eq!(user(&browser, &app.node).await, Some(ada()), "{step:?}");
    }
}

// R6: `end_all_sessions` ends every session that this node has seen, also a session from a clock that is ahead by up to
// the allowed skew.
#[tokio::test]
async fn end_all_ends_seen_fast_clock_sessions() {
    for ahead in [SECOND, 60 * SECOND, HOUR] {
        for (app, clock, other) in pairs() {
            clock.advance(ahead);
            let browser = signed_in(&other, "ada").await;
            assert_eq!(user(&browser, &app.node).await, Some(ada()), "{ahead:?}");
            app.node.sessions.end_all_sessions(ada()).await.unwrap();
            assert_eq!(user(&browser, &app.node).await, None, "{ahead:?}");
            let again = signed_in(&app.node, "ada").await;
            assert_eq!(user(&again, &app.node).await, Some(ada()), "{ahead:?}");
        }
    }
}

// As the docs of `end_all_sessions` say, the call misses an unseen session from a fast clock until this node's clock
// shows the time of the sign-in.
#[tokio::test]
async fn end_all_misses_unseen_fast_clock_session() {
    const AHEAD: Duration = Duration::from_secs(60);
    for (late, ended) in [(AHEAD - TICK, false), (AHEAD, true)] {
        let (app, clock) = (App::new(), ManualClock::new());
        clock.advance(AHEAD);
        let browser = signed_in(&app.start_at(&clock), "ada").await;
        app.clock.advance(late);
        app.node.sessions.end_all_sessions(ada()).await.unwrap();
        assert_eq!(user(&browser, &app.node).await.is_none(), ended, "{late:?}");
        // A second call, after the difference between the clocks has passed, ends the missed session.
        app.clock.advance(AHEAD);
        app.node.sessions.end_all_sessions(ada()).await.unwrap();
        assert_eq!(user(&browser, &app.node).await, None);
    }
}

// A call of `end_all_sessions` on the fast node also ends a session that begins on the slow node within the difference
// between the clocks.
#[tokio::test]
async fn fast_clock_end_all_ends_later_session() {
    const AHEAD: Duration = Duration::from_secs(60);
    for (late, ended) in [(AHEAD, true), (AHEAD + TICK, false)] {
        let (app, clock) = (App::new(), ManualClock::new());
        let other = app.start_at(&clock);
        app.clock.advance(AHEAD);
        app.node.sessions.end_all_sessions(ada()).await.unwrap();
        clock.advance(late);
        let browser = signed_in(&other, "ada").await;
        assert_eq!(user(&browser, &app.node).await.is_none(), ended, "{late:?}");
    }
}

// A call of `end_all_sessions` under a clock further ahead than the allowed skew ends no sign-in after the correction
// of the clock.
#[tokio::test]
async fn future_end_all_ends_no_later_sign_in() {
    for ahead in [HOUR + SECOND, 5 * DAY] {
        let (app, clock) = (App::new(), ManualClock::new());
        let other = app.start_at(&clock);
        app.clock.advance(ahead);
        app.node.sessions.end_all_sessions(ada()).await.unwrap();
        back(&app.clock, ahead);
        let here = signed_in(&app.node, "ada").await;
        assert_eq!(user(&here, &app.node).await, Some(ada()), "{ahead:?}");
        for clock in [&app.clock, &clock] {
            clock.advance(SECOND);
        }
        let elsewhere = signed_in(&other, "ada").await;
        assert_eq!(user(&elsewhere, &app.node).await, Some(ada()), "{ahead:?}");
        assert_eq!(user(&here, &other).await, Some(ada()), "{ahead:?}");
    }
}

// G8: after a step back of the clocks, a fresh write still wins over the earlier write.
#[tokio::test]
async fn fresh_write_wins_after_clock_step_back() {
    for step in [SECOND, HOUR, 2 * HOUR] {
        for (app, clock, other) in pairs() {
            let mut browser = app.dark().await;
            let older = browser.clone();
            for clock in [&app.clock, &clock] {
                back(clock, step);
            }
            browser.write(&app.node, "light").await;
            for node in [&app.node, &other] {
                older.theme(node).await;
                assert_eq!(
                    browser.theme(node).await,
                    Theme("light".into()),
                    "{step:?} on {}",
                    std::ptr::eq(node, &other)
                );
            }
        }
    }
}

/// Returns a browser whose token a correct clock has sealed, with writes from a time when the clock was ahead.
async fn poisoned(app: &App, ahead: Duration) -> Browser {
    let (clock, mut browser) = (ManualClock::new(), Browser::new());
    let node = app.start_at(&clock);
    clock.advance(ahead);
    sign_in(&mut browser, &node, "ada").await;
    let write = async |session: Session| {
        session.set(dark()).await.unwrap();
        session.set(Division(4)).await.unwrap();
    };
    browser.visit(&node, write).await;
    back(&clock, ahead);
    // A write of another value gives the browser a new token.
    browser.visit(&node, async |session| session.set(Division(3)).await.unwrap()).await;
    browser
}

// R14: a version from the future loses to the next write. A version from further ahead than the allowed skew is
// counted.
#[tokio::test]
async fn future_version_counts_as_now() {
    for (ahead, poisons) in [(HOUR, false), (HOUR + SECOND, true), (5 * DAY, true)] {
        let app = App::new();
        let mut browser = poisoned(&app, ahead).await;
        let older = browser.clone();
        assert_eq!((user(&browser, &app.node).await, browser.theme(&app.node).await), (Some(ada()), dark()));
        let counted = app.node.sessions.stats().skewed_versions;
        assert_eq!(counted > 0, poisons, "{ahead:?}: {counted}");
        app.clock.advance(SECOND);
        browser.write(&app.node, "light").await;
        for node in [&app.node, &app.start()] {
            assert_eq!(browser.theme(node).await, Theme("light".into()), "{ahead:?}");
            // Another visit with the older token does not undo the newer write.
            older.theme(node).await;
            assert_eq!(browser.theme(node).await, Theme("light".into()), "{ahead:?}");
        }
    }
}

// R6, R14: `end_all_sessions` ends a session from a clock that was ahead, if this node has seen the session, or if the
// clock was further ahead than the allowed skew.
#[tokio::test]
async fn end_all_ends_sessions_from_future() {
    for ahead in [HOUR, HOUR + SECOND, 5 * DAY] {
        let app = App::new();
        let browser = poisoned(&app, ahead).await;
        let unseen = browser.clone();
        for seen in [false, true] {
            if seen {
                assert_eq!(user(&browser, &app.node).await, Some(ada()));
            }
            let node = if seen { app.node.clone() } else { app.start() };
            app.clock.advance(SECOND);
            node.sessions.end_all_sessions(ada()).await.unwrap();
            // An unseen session from a clock within the allowed skew counts as later than this call, for as long as the
            // clock was ahead.
            if seen || ahead > HOUR {
                assert_eq!(user(&unseen, &node).await, None, "{ahead:?}, seen: {seen}");
            }
            let again = signed_in(&node, "ada").await;
            assert_eq!(user(&again, &app.start()).await, Some(ada()));
        }
    }
}

// A version from far ahead raises the versions of later writes of the same value, and of no other value.
#[tokio::test]
async fn future_version_affects_one_value() {
    let app = App::new();
    let other = app.start();
    let browser = poisoned(&app, 5 * DAY).await;
    browser.theme(&app.node).await;
    let mut bob = signed_in(&app.node, "bob").await;
    bob.write(&app.node, "dark").await;
    app.clock.advance(SECOND);
    bob.clone().visit(&other, async |session| session.value::<Theme>()).await;
    bob.write(&other, "light").await;
    assert_eq!(bob.theme(&app.node).await, Theme("light".into()));
    assert_eq!(app.node.sessions.stats().skewed_versions, other.sessions.stats().skewed_versions + 3);
}

// The record of a node whose clock was ahead accepts later writes of other nodes.
#[tokio::test]
async fn record_from_future_accepts_later_writes() {
    let (app, clock) = (App::new(), ManualClock::new());
    let other = app.start_at(&clock);
    app.clock.advance(5 * DAY);
    let mut browser = app.dark().await;
    back(&app.clock, 5 * DAY);
    browser.visit(&app.node, async |session| session.set(Division(1)).await.unwrap()).await;
    for clock in [&app.clock, &clock] {
        clock.advance(SECOND);
    }
    browser.write(&other, "light").await;
    assert_eq!(browser.theme(&app.node).await, Theme("light".into()));
}

// A birth token from a clock more than a minute ahead is refused, although the allowed skew is an hour.
#[tokio::test]
async fn birth_token_from_future_is_refused() {
    for (ahead, late, accepted) in [
        (Duration::ZERO, 60 * SECOND - TICK, true),
        (Duration::ZERO, 60 * SECOND, false),
        (60 * SECOND, Duration::ZERO, true),
        (60 * SECOND + TICK, Duration::ZERO, false),
        (50 * 60 * SECOND, Duration::ZERO, false),
        (50 * 60 * SECOND, 45 * 60 * SECOND, false),
    ] {
        let (app, clock) = (App::new(), ManualClock::new());
        clock.advance(ahead);
        let live = socket(&Browser::new(), &app.start_at(&clock)).await;
        live.set(dark()).await.unwrap();
        let token = live.relay().unwrap();
        app.clock.advance(late);
        let mut browser = Browser::new();
        let answer = bring(&mut browser, &app.node, token.as_str()).await;
        assert_eq!(answer.status.is_success(), accepted, "{ahead:?} ahead, {late:?} late");
        assert_eq!(browser.cookie("session").is_some(), accepted);
    }
}

// A lifetime that is set on a node with a faster clock does not move the beginning of the session on this node.
#[tokio::test]
async fn fast_clock_lifetime_leaves_created_at_unchanged() {
    let long = Lifetime::new(10 * DAY, 30 * DAY).unwrap();
    let (app, ahead) = (App::new(), ManualClock::new());
    ahead.advance(60 * SECOND);
    let (other, mut browser, begun) = (app.start_at(&ahead), Browser::new(), app.clock.now());
    browser.write(&other, "dark").await;
    assert_eq!(browser.visit(&app.node, async |session| session.created_at()).await, Some(begun));
    for clock in [&app.clock, &ahead] {
        clock.advance(10 * SECOND);
    }
    browser.visit(&other, async move |session| session.set_lifetime(long).await.unwrap()).await;
    let seen = browser.visit(&app.node, async |session| (session.created_at(), session.expires_at())).await;
    assert_eq!(seen, (Some(begun), Some(app.clock.now() + 10 * DAY)));
}

// A session from a clock far ahead counts as begun when this node first saw a token of the session. A later token with
// another lifetime does not move this time past the call of `end_all_sessions`.
#[tokio::test]
async fn lifetime_change_revives_no_ended_session() {
    let long = Lifetime::new(10 * DAY, 30 * DAY).unwrap();
    let (app, clock) = (App::new(), ManualClock::new());
    let (other, mut browser) = (app.start_at(&clock), Browser::new());
    clock.advance(5 * DAY);
    sign_in(&mut browser, &other, "ada").await;
    back(&clock, 5 * DAY);
    browser.visit(&other, async |session| session.set(Division(3)).await.unwrap()).await;
    assert_eq!(user(&browser, &app.node).await, Some(ada()));
    for clock in [&app.clock, &clock] {
        clock.advance(SECOND);
    }
    app.node.sessions.end_all_sessions(ada()).await.unwrap();
    clock.advance(SECOND);
    browser.visit(&other, async move |session| session.set_lifetime(long).await.unwrap()).await;
    app.clock.advance(SECOND);
    assert_eq!(user(&browser, &app.node).await, None);
}

// G8: without memory, a fresh write gets a version above every version in the cookie.
#[tokio::test]
async fn fresh_write_wins_without_memory() {
    let (app, clock) = (App::new(), ManualClock::new());
    let node = Node::new(bare(&app.ring, &clock).value::<Theme>().build().unwrap());
    let mut browser = Browser::new();
    browser.write(&node, "dark").await;
    back(&clock, 2 * SECOND);
    browser.write(&node, "light").await;
    assert_eq!(browser.theme(&node).await, Theme("light".into()));
}

#[tokio::test]
async fn set_lifetime_works_after_clock_correction() {
    let app = App::new();
    let mut browser = app.dark().await;
    let set_lifetime = |idle| {
        async move |session: Session| {
            session.set_lifetime(Lifetime::new(idle, 90 * DAY).unwrap()).await.unwrap();
            session.expires_at()
        }
    };
    app.clock.advance(2 * HOUR);
    browser.visit(&app.node, set_lifetime(30 * DAY)).await;
    let earlier = browser.clone();
    back(&app.clock, 2 * HOUR);
    browser.visit(&app.node, set_lifetime(DAY)).await;
    app.clock.advance(3 * HOUR);
    let expires = earlier.clone().visit(&app.node, async |session| session.expires_at()).await;
    assert!(expires.unwrap() <= app.clock.now() + DAY, "the cookie of the earlier lifetime brings nothing back");
}

#[tokio::test]
async fn anonymous_session_signs_in_after_clock_correction() {
    for by_page in [true, false] {
        let app = App::new();
        let mut browser = app.dark().await;
        app.clock.advance(DAY);
        app.node.sessions.end_all_sessions(ada()).await.unwrap();
        back(&app.clock, DAY);
        if by_page {
            let live = socket(&browser, &app.node).await;
            let order = live.sign_in(User("ada".into())).by_page().unwrap();
            assert_eq!(bring(&mut browser, &app.node, order.as_str()).await.status, 200);
        } else {
            sign_in(&mut browser, &app.node, "ada").await;
        }
        assert_eq!(user(&browser, &app.node).await, Some(ada()), "{by_page}");
    }
}
