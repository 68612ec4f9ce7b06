//! Lifetimes of sessions, values and cookies, by the site's clock and by other clocks.

use std::time::Duration;

use futures_util::FutureExt;
use layered_session::{Clock, CloseReason, Lifetime, Session, SessionValue, WriteErrorKind, testing::ManualClock};
use serde::{Deserialize, Serialize};

use crate::support::{App, Browser, DAY, HOUR, Node, Theme, User, Visits, builder, dark, first_write, max_age, ring};

const SECOND: Duration = Duration::from_secs(1);

/// An app with an idle lifetime of one day, and an absolute lifetime of three days.
fn app() -> App {
    App::with(|builder| builder.idle(DAY).absolute(3 * DAY).value::<Code>())
}

/// A value that expires before its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Code(u32);

impl SessionValue for Code {
    const NAME: &'static str = "code";
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(600));
}

async fn gone_from(browser: &Browser, nodes: [&Node; 2]) {
    for node in nodes {
        assert_eq!(browser.theme(node).await, Theme::default());
    }
}

// R5: a use extends the idle lifetime, and after the deadline no node answers.
#[tokio::test]
async fn use_extends_idle_lifetime() {
    let app = app();
    let mut browser = app.dark().await;
    app.clock.advance(DAY - SECOND);
    browser.read(&app.node).await;
    app.clock.advance(DAY - SECOND);
    assert_eq!(browser.theme(&app.start()).await, dark());
    assert_eq!(browser.theme(&app.node).await, dark());

    app.clock.advance(DAY);
    gone_from(&browser, [&app.node, &app.start()]).await;
}

// R5: the server checks its own deadline, and does not rely on the browser and `Max-Age`.
#[tokio::test]
async fn cookie_expires_at_exact_second() {
    let app = app();
    let browser = app.dark().await;
    let handle = browser.clone().open(&app.node).await;
    app.clock.advance(DAY - SECOND);
    assert_eq!(browser.theme(&app.start()).await, dark());
    app.clock.advance(SECOND);
    gone_from(&browser, [&app.node, &app.start()]).await;
    let refused = handle.set(Theme("late".into())).await.unwrap_err();
    assert_eq!((refused.kind(), handle.closed().now_or_never()), (WriteErrorKind::Closed, Some(CloseReason::Expired)));
}

// R5: neither a use nor a renewal extends the absolute lifetime, and `Max-Age` ends no later than the session.
#[tokio::test]
async fn use_extends_no_absolute_lifetime() {
    let app = app();
    let mut browser = app.dark().await;
    let ends = app.clock.now() + 3 * DAY;
    while app.clock.now() + HOUR < ends {
        app.clock.advance(HOUR);
        let set = browser.read(&app.node).await;
        let left = (ends - 60 * SECOND).duration_since(app.clock.now()).unwrap().as_secs();
        let asked = set.iter().filter_map(|cookie| max_age(cookie));
        assert!(
            asked.into_iter().all(|age| age <= left),
            "the browser keeps the cookie no longer than the server: {set:?}"
        );
    }
    app.clock.set(ends - SECOND);
    assert_eq!(browser.theme(&app.start()).await, dark());
    browser.read(&app.node).await;
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(browser.theme(&app.node).await, dark());
    app.clock.set(ends);
    gone_from(&browser, [&app.node, &app.start()]).await;
}

#[tokio::test]
async fn only_sign_in_resets_created_at() {
    let app = app();
    let mut browser = app.dark().await;
    let begun = app.clock.now();
    let began = async |session: Session| session.created_at();
    app.clock.advance(HOUR);
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(browser.visit(&app.start(), began).await, Some(begun));
    browser.visit(&app.node, async |session| session.sign_in(User("ada".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&app.start(), began).await, Some(begun + HOUR));
}

// R14: `Max-Age` is a minute shorter than the time that the session has left.
#[tokio::test]
async fn max_age_ends_one_minute_early() {
    let app = app();
    let mut browser = Browser::new();
    let set = browser.write(&app.node, "dark").await;
    assert_eq!(max_age(&set[0]), Some(86_340));
    for _ in 0..5 {
        app.clock.advance(DAY / 2);
        browser.read(&app.node).await;
    }
    // Half a day of the absolute lifetime is left.
    let set = browser.write(&app.node, "light").await;
    assert_eq!(max_age(&set[0]), Some(43_140));
}

// R14: `Max-Age` is at most 400 days, also under a longer idle lifetime.
#[tokio::test]
async fn max_age_limit_is_400_days() {
    let app = App::with(|builder| builder.idle(500 * DAY).absolute(1000 * DAY));
    let set = Browser::new().write(&app.node, "dark").await;
    assert_eq!(max_age(&set[0]), Some((400 * DAY).as_secs()));
}

// R14: a browser with daily visits keeps its session, also if the browser caps the cookie's lifetime.
#[tokio::test]
async fn daily_use_keeps_session_despite_browser_limit() {
    for (idle, absolute) in [(500, 500), (450, 1000), (5000, 9000)] {
        let app = App::with(move |builder| builder.idle(idle * DAY).absolute(absolute * DAY));
        let (mut browser, mut dropped, mut refreshes) = (Browser::new(), 0, 0);
        for day in 0..absolute.min(1500) {
            let told = if day == 0 { browser.write(&app.node, "dark").await } else { browser.read(&app.node).await };
            refreshes += told.len();
            for cookie in told {
                let seconds = max_age(&cookie).unwrap();
                dropped = u64::from(day) + seconds / DAY.as_secs();
            }
            assert!(u64::from(day) < dropped || day + 1 == absolute, "{idle}, {absolute}: gone on day {day}");
            app.clock.advance(DAY);
        }
        assert!(refreshes <= 1500 / 40 + 1, "{refreshes}");
    }
}

// R5: reads send the cookie again at most once per tenth of the idle lifetime.
#[tokio::test]
async fn cookie_refreshes_once_per_idle_tenth() {
    let app = App::with(|builder| builder.idle(10 * HOUR).absolute(30 * DAY));
    let mut browser = app.dark().await;
    app.clock.advance(HOUR - SECOND);
    assert!(browser.read(&app.node).await.is_empty());
    app.clock.advance(SECOND);
    assert_eq!(browser.read(&app.node).await.len(), 1);
    assert!(browser.read(&app.node).await.is_empty());

    let mut refreshes = 0;
    for _ in 0..600 {
        app.clock.advance(60 * SECOND);
        refreshes += browser.read(&app.node).await.len();
    }
    assert_eq!(refreshes, 10);
    assert_eq!(browser.theme(&app.start()).await, dark());
}

// R14: a cookie from a clock ahead by the allowed skew counts as sealed now.
#[tokio::test]
async fn fast_clock_cookie_counts_as_now() {
    let (app, ahead) = (app(), ManualClock::new());
    ahead.advance(HOUR);
    let mut browser = Browser::new();
    browser.write(&app.start_at(&ahead), "dark").await;
    let ends = browser.visit(&app.node, async |session| session.expires_at().unwrap()).await;
    assert_eq!(ends, app.clock.now() + DAY);
    assert_eq!(browser.theme(&app.start()).await, dark());
}

// R14: a session from a clock ahead by the allowed skew counts as begun now, and lives no longer than the absolute
// lifetime.
#[tokio::test]
async fn fast_clock_extends_no_absolute_lifetime() {
    let (app, ahead) = (app(), ManualClock::new());
    ahead.advance(HOUR);
    let mut browser = Browser::new();
    browser.write(&app.start_at(&ahead), "dark").await;
    let ends = app.clock.now() + 3 * DAY;
    assert_eq!(browser.visit(&app.node, async |session| session.created_at()).await, Some(app.clock.now()));
    while app.clock.now() + HOUR < ends {
        app.clock.advance(HOUR);
        browser.read(&app.node).await;
    }
    assert_eq!(browser.theme(&app.node).await, dark());
    app.clock.set(ends);
    gone_from(&browser, [&app.node, &app.start()]).await;
}

// R14: a cookie from further ahead than the allowed skew is absent and counted, until the clocks differ by less.
#[tokio::test]
async fn cookie_beyond_clock_skew_is_refused() {
    let (app, ahead) = (app(), ManualClock::new());
    ahead.advance(HOUR + SECOND);
    let mut browser = Browser::new();
    browser.write(&app.start_at(&ahead), "dark").await;
    assert_eq!(browser.theme(&app.node).await, Theme::default());
    assert_eq!(app.node.sessions.stats().skewed_tokens, 1);
    app.clock.advance(SECOND);
    assert_eq!(browser.theme(&app.node).await, dark());
    assert_eq!(app.node.sessions.stats().skewed_tokens, 1);
}

#[tokio::test]
async fn clock_step_back_changes_no_expiry() {
    let app = app();
    let begun = app.clock.now();
    let mut browser = app.dark().await;
    app.clock.advance(HOUR);
    browser.read(&app.node).await;
    app.clock.set(begun);
    assert_eq!(browser.visit(&app.node, async |session| session.value::<Theme>()).await, dark());
    browser.write(&app.node, "light").await;
    for node in [&app.node, &app.start()] {
        assert_eq!(browser.theme(node).await, Theme("light".into()), "a fresh write wins despite the step back");
        let ends = browser.clone().visit(node, async |session| session.expires_at().unwrap()).await;
        assert_eq!(ends, begun + DAY);
    }
}

// R5: the lifetime of `set_lifetime` holds on other nodes and after a renewal.
#[tokio::test]
async fn set_lifetime_holds_after_renewal_and_elsewhere() {
    let app = app();
    let mut browser = app.dark().await;
    let other = app.start();
    browser.read(&other).await;
    let lifetime = Lifetime::new(30 * DAY, 365 * DAY).unwrap();
    browser.visit(&app.node, async move |session| session.set_lifetime(lifetime).await.unwrap()).await;
    let ends = browser.visit(&other, async |session| session.expires_at().unwrap()).await;
    assert_eq!(ends, app.clock.now() + 30 * DAY, "a node that knows the session learns the new lifetime");
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    let set = browser.write(&app.node, "dark").await;
    assert_eq!(max_age(&set[0]), Some((30 * DAY - 60 * SECOND).as_secs()));
    app.clock.advance(29 * DAY);
    assert_eq!(browser.theme(&app.node).await, dark());
    assert_eq!(browser.theme(&app.start()).await, dark());
    app.clock.advance(DAY);
    gone_from(&browser, [&app.start(), &app.start()]).await;
}

#[tokio::test]
async fn absolute_lifetime_counts_from_beginning() {
    let app = app();
    let mut browser = app.dark().await;
    app.clock.advance(2 * HOUR);
    let handle = browser.open(&app.node).await;
    handle.set_lifetime(Lifetime::new(HOUR, HOUR).unwrap()).await.unwrap();
    assert_eq!(handle.closed().now_or_never(), Some(CloseReason::Expired));
    assert_eq!(browser.theme(&app.node).await, Theme::default());
}

#[tokio::test]
async fn browser_session_has_no_max_age() {
    let app = app();
    let mut browser = app.dark().await;
    let lifetime = Lifetime::new(DAY, 3 * DAY).unwrap().until_browser_closes();
    browser.visit(&app.node, async move |session| session.set_lifetime(lifetime).await.unwrap()).await;
    app.clock.advance(DAY - SECOND);
    for node in [&app.node, &app.start()] {
        let set = browser.read(node).await;
        assert_eq!(set.len(), 1);
        assert_eq!(max_age(&set[0]), None);
        app.clock.advance(DAY / 2);
    }
    app.clock.advance(DAY / 2);
    gone_from(&browser, [&app.node, &app.start()]).await;
}

#[tokio::test]
async fn value_expires_before_session() {
    let app = app();
    let mut browser = app.dark().await;
    let code = async |session: Session| session.get::<Code>();
    browser.visit(&app.node, async |session| session.set(Code(7)).await.unwrap()).await;
    app.clock.advance(599 * SECOND);
    assert_eq!(browser.visit(&app.start(), code).await, Some(Code(7)));
    // A write on a node that knows the cookie alone seals the value again. Neither the write nor the new cookie extends
    // the value's lifetime.
    browser.write(&app.start(), "light").await;
    assert_eq!(browser.visit(&app.node, code).await, Some(Code(7)));
    app.clock.advance(SECOND);
    for node in [&app.node, &app.start()] {
        assert_eq!(browser.clone().visit(node, code).await, None);
        assert_eq!(browser.theme(node).await, Theme("light".into()));
    }
}

// A value from a node whose clock is ahead lives no longer than its `MAX_AGE`, counted from the first read on this
// node.
#[tokio::test]
async fn fast_clock_extends_no_value() {
    let (app, ahead) = (app(), ManualClock::new());
    ahead.advance(HOUR / 2);
    let mut browser = first_write(&app.start_at(&ahead), Code(7)).await;
    let code = async |session: Session| session.get::<Code>();
    assert_eq!(browser.visit(&app.node, code).await, Some(Code(7)));
    app.clock.advance(600 * SECOND - SECOND);
    assert_eq!(browser.visit(&app.node, code).await, Some(Code(7)));
    app.clock.advance(SECOND);
    assert_eq!(browser.visit(&app.node, code).await, None);
}

#[tokio::test]
async fn write_restarts_value_max_age() {
    let app = app();
    let mut browser = Browser::new();
    let count = async |session: Session| session.update(|code: &mut Code| code.0 += 1).await.unwrap();
    browser.visit(&app.node, count).await;
    app.clock.advance(599 * SECOND);
    assert_eq!(browser.visit(&app.node, count).await, Code(2));
    app.clock.advance(599 * SECOND);
    assert_eq!(browser.clone().visit(&app.start(), async |s| s.value::<Code>()).await, Code(2));
    app.clock.advance(SECOND);
    assert_eq!(browser.visit(&app.node, count).await, Code(1), "the update begins without the expired value");
}

// R5: `touch` on a socket extends the session, and revives no session after the deadline.
#[tokio::test]
async fn touch_revives_no_expired_session() {
    let app = app();
    let mut browser = app.dark().await;
    let socket = browser.open(&app.node).await;
    app.clock.advance(DAY - SECOND);
    socket.touch().await.unwrap();
    app.clock.advance(DAY - SECOND);
    assert_eq!(socket.value::<Theme>(), dark());
    app.clock.advance(DAY);
    assert_eq!(socket.touch().await.unwrap_err().kind(), WriteErrorKind::Closed);
    assert_eq!(socket.value::<Theme>(), Theme::default());
}

#[tokio::test]
async fn expired_sessions_leave_memory() {
    let app = app();
    for _ in 0..100 {
        app.dark().await;
    }
    assert_eq!(app.node.sessions.stats().records, 100);
    app.clock.advance(DAY + HOUR);
    let mut browser = Browser::new();
    for _ in 0..60 {
        browser
            .visit(&app.node, async |session| session.update(|visits: &mut Visits| visits.0 += 1).await.unwrap())
            .await;
    }
    let stats = app.node.sessions.stats();
    assert_eq!((stats.records, stats.expired), (1, 100));
}

#[tokio::test]
async fn lifetime_set_last_beats_fast_clock_lifetime() {
    let (ring, ahead, clock) = (ring(), ManualClock::new(), ManualClock::new());
    ahead.advance(Duration::from_secs(300));
    let first = Node::new(builder(&ring, &ahead).build().unwrap());
    let second = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = first_write(&first, Theme("dark".into())).await;
    ahead.advance(Duration::from_secs(1));
    let long = Lifetime::new(10 * DAY, 30 * DAY).unwrap();
    browser.visit(&first, async move |s| s.set_lifetime(long).await.unwrap()).await;
    let short = Lifetime::new(DAY / 24, DAY).unwrap();
    let late = browser.clone();
    browser.visit(&second, async move |s| s.set_lifetime(short).await.unwrap()).await;
    late.clone().visit(&second, async |s| s.value::<Theme>()).await;
    let ends = browser.visit(&second, async |s| s.expires_at()).await;
    assert!(ends.unwrap() <= layered_session::Clock::now(&clock) + DAY / 24);
}

#[tokio::test]
async fn huge_lifetime_survives_restart() {
    let (ring, clock) = (ring(), ManualClock::new());
    let ages = Duration::from_secs(1 << 61);
    let node = || Node::new(builder(&ring, &clock).idle(ages).absolute(ages).build().unwrap());
    let mut browser = first_write(&node(), Theme("dark".into())).await;
    clock.advance(DAY);
    assert_eq!(browser.visit(&node(), async |s| s.value::<Theme>()).await, Theme("dark".into()));
}

// G12: memory keeps a shortened lifetime, through every sweep, for as long as a cookie of the longer lifetime opens.
#[tokio::test]
async fn shortened_lifetime_survives_sweeps() {
    let app = app();
    let mut browser = app.dark().await;
    app.clock.advance(DAY / 2);
    browser.read(&app.node).await;
    let older = browser.clone();
    let short = Lifetime::new(HOUR, 2 * DAY).unwrap();
    browser.visit(&app.node, async move |session| session.set_lifetime(short).await.unwrap()).await;
    // The record's deadline of before the change has passed, so the sweep of the next request checks the record.
    app.clock.advance(DAY / 2 + HOUR);
    app.dark().await;
    assert_eq!(older.theme(&app.node).await, Theme::default());
    app.clock.advance(DAY / 2);
    app.dark().await;
    assert_eq!(app.node.sessions.stats().expired, 1, "memory drops the record once no cookie opens");
}

// G16: an unchanged expiry of the cookie does not prove that the browser has the new lifetime: the next response sends
// the lifetime.
#[tokio::test]
async fn lost_lifetime_change_with_equal_expiry_is_resent() {
    let app = app();
    let mut browser = app.dark().await;
    let longer = Lifetime::new(DAY, 9 * DAY).unwrap();
    // The response is lost, together with the cookie that tells of the new lifetime.
    browser.clone().visit(&app.node, async move |session| session.set_lifetime(longer).await.unwrap()).await;
    assert_eq!(browser.read(&app.node).await.len(), 1);
    assert!(browser.read(&app.node).await.is_empty());
    for _ in 0..8 {
        app.clock.advance(DAY - HOUR);
        browser.read(&app.start()).await;
    }
    assert_eq!(browser.theme(&app.start()).await, dark());
}
