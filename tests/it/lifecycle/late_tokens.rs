//! Ends of sessions and removals of values: no late request and no older token brings the session or the value back.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use http::StatusCode;
use layered_session::{Clock, CloseReason, Lifetime, Principal, Session, Sleep, WriteErrorKind, testing::ManualClock};

use crate::support::{
    Answer, App, Browser, DAY, Division, HOUR, Node, TICK, Theme, User, Visits, at_once, bring, builder, dark,
    first_write, get, kind, post, ring, set, set_cookies, settled, sign_in, signed_in, socket, soon, theme, under_way,
    visitor,
};

/// Writes in a visit. Returns whether the session was new, the write's error, and whether the response set our cookie.
async fn attempt(browser: &Browser, node: &Node) -> (bool, Option<WriteErrorKind>, bool) {
    let write = async |session: Session| (session.is_new(), kind(session.set(Visits(9)).await));
    let (headers, (is_new, written)) = browser.clone().visit_seen(node, write).await;
    (is_new, written, !set_cookies(&headers).is_empty())
}

/// The result of a request with an ended id in the minute after the end or the renewal: no session, no write, no
/// `Set-Cookie`.
const FENCED: (bool, Option<WriteErrorKind>, bool) = (true, Some(WriteErrorKind::Closed), false);

// G12: open handles of a destroyed session can write nothing, and revive no session.
#[tokio::test]
async fn writes_after_destroy_revive_no_session() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let (live, request) = (socket(&browser, &node).await, under_way(&browser, &node).await);
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert!(browser.cookie("session").is_none());
    for turn in [live.renew().await, live.sign_in(User("ada".into())).await] {
        assert_eq!(kind(turn), Some(WriteErrorKind::HeadSent));
    }
    let refused = [
        live.set(theme("late")).await,
        live.update::<Visits>(|visits| visits.0 += 1).await.map(drop),
        live.set(Division(1)).await,
        live.remove::<Theme>().await,
        live.clear().await,
        live.touch().await,
        request.renew().await,
        request.sign_in(User("ada".into())).await,
        live.set_lifetime(Lifetime::new(DAY, DAY).unwrap()).await,
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert_eq!(kind(refused), Some(WriteErrorKind::Closed), "{at}");
    }
    assert_eq!(live.take::<Theme>().await.unwrap(), None, "there is nothing to take");
    for session in [live, request] {
        session.destroy().await.unwrap();
        assert_eq!((session.get::<Theme>(), session.relay(), session.is_new()), (None, None, true));
    }
    assert_eq!(node.sessions.stats().records, 1, "the tombstone of the session");
    assert_eq!(get::<Theme>(&mut browser, &node).await, Theme::default());
}

// R4: after `destroy` no handle, no relay token and no older cookie brings the session back, for as long as a cookie
// could open.
#[tokio::test]
async fn destroyed_session_is_never_revived() {
    let app = App::with(|builder| builder.idle(6 * DAY).absolute(10 * DAY));
    let mut browser = app.dark().await;
    app.clock.advance(3 * DAY);
    browser.read(&app.node).await;
    let (late, slow) = (browser.clone(), browser.open(&app.node).await);
    let request = under_way(&browser, &app.node).await;
    let relayed = slow.relay();
    slow.set(Visits(1)).await.unwrap();
    let relay = slow.relay().unwrap();
    assert_eq!(relayed, None);
    browser.visit(&app.node, async |session| session.destroy().await.unwrap()).await;
    let closed = [
        kind(slow.set(Theme("light".into())).await),
        kind(slow.update(|visits: &mut Visits| visits.0 += 1).await),
        kind(slow.remove::<Theme>().await),
        kind(slow.clear().await),
        kind(request.renew().await),
        kind(request.sign_in(User("eve".into())).await),
        kind(slow.touch().await),
        kind(slow.batch().set(Visits(2)).commit().await),
    ];
    assert_eq!(closed, [Some(WriteErrorKind::Closed); 8]);
    assert_eq!(slow.take::<Theme>().await.unwrap(), None, "there is nothing to take");
    let turns = [kind(slow.renew().await), kind(slow.sign_in(User("eve".into())).await)];
    assert_eq!(turns, [Some(WriteErrorKind::HeadSent); 2]);
    assert_eq!((slow.value::<Theme>(), slow.closed().now_or_never()), (Theme::default(), Some(CloseReason::Destroyed)));
    slow.destroy().await.unwrap();
    assert_eq!(slow.relay(), None, "another handle has ended the session");
    drop((slow, request));

    // For a minute a write with the old cookie begins no session. Afterwards the write begins a new session without the
    // old values.
    let write = async |session: Session| session.set(Visits(9)).await;
    assert_eq!(kind(late.clone().visit(&app.node, write).await), Some(WriteErrorKind::Closed));
    let writeback = layered_session::SessionWriteback::new(&app.node.sessions);
    let answer: Answer = app.node.writeback(writeback, late.post_json(format!(r#"{{"$relay":"{relay}"}}"#))).await;
    assert_eq!((answer.status.as_u16(), answer.set_cookies()), (409, Vec::new()));
    app.clock.advance(Duration::from_secs(60));
    let mut successor = late.clone();
    successor.visit(&app.node, write).await.unwrap();
    assert_ne!(successor.token()[..56], late.token()[..56]);
    assert_eq!(successor.theme(&app.node).await, Theme::default());

    // The end holds for as long as the cookie could open, also while the node serves other sessions.
    app.clock.advance(6 * DAY - Duration::from_secs(61));
    for _ in 0..100 {
        app.dark().await;
    }
    assert_eq!(late.theme(&app.node).await, Theme::default());
    assert_eq!(late.theme(&app.start()).await, dark(), "a node without knowledge of the end accepts the cookie");
}

#[tokio::test]
async fn end_during_request_is_not_undone() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let (mut old, live) = (browser.clone(), socket(&browser, &node).await);
    live.set(theme("dark")).await.unwrap();
    let token = live.relay().unwrap();
    let slow = async move |session: Session| {
        live.destroy().await.unwrap();
        (session.value::<Theme>(), kind(session.set(theme("slow")).await))
    };
    let (headers, answer) = browser.visit_seen(&node, slow).await;
    assert_eq!(answer, (Theme::default(), Some(WriteErrorKind::Closed)));
    assert!(set_cookies(&headers).is_empty());
    assert_eq!(bring(&mut old, &node, token.as_str()).await.status, StatusCode::CONFLICT);
    assert_eq!(bring(&mut Browser::new(), &node, token.as_str()).await.status, StatusCode::CONFLICT);
    assert_eq!(attempt(&old, &node).await, FENCED);
}

#[tokio::test]
async fn ended_id_blocks_writes_for_one_minute() {
    let app = App::new();
    for renews in [true, false] {
        let node = app.start();
        let mut browser = visitor(&node).await;
        let old = browser.clone();
        let turn = async move |session: Session| if renews { session.renew().await } else { session.destroy().await };
        browser.visit(&node, turn).await.unwrap();
        app.pass(Duration::from_secs(60) - TICK);
        assert_eq!(attempt(&old, &node).await, FENCED);
        for body in [r#"{"theme": "late"}"#, "{}"] {
            let answer = post(&mut old.clone(), &node, body).await;
            assert_eq!((answer.status, answer.set_cookies()), (StatusCode::CONFLICT, vec![]), "{body}");
        }
        let destroyed = old.clone().visit_seen(&node, async |session| session.destroy().await.unwrap()).await;
        assert!(set_cookies(&destroyed.0).is_empty());
        let live = socket(&old, &node).await;
        assert_eq!(at_once(live.closed()), Some(if renews { CloseReason::Renewed } else { CloseReason::Destroyed }));
        app.pass(TICK);
        assert_eq!(attempt(&old, &node).await, (true, None, true));
        let expected = if renews { theme("light") } else { Theme::default() };
        assert_eq!(get::<Theme>(&mut browser, &node).await, expected, "the old cookie does not change the successor");
    }
}

#[tokio::test]
async fn tombstone_outlives_cookies_of_previous_lifetime() {
    let short = Lifetime::new(DAY / 96, DAY + DAY / 4).unwrap();
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = first_write(&node, Theme("dark".into())).await;
    clock.advance(DAY);
    browser.visit(&node, async |s| s.value::<Theme>()).await;
    let mut old = browser.clone();
    browser.visit(&node, async move |s| s.set_lifetime(short).await.unwrap()).await;
    browser.visit(&node, async |s| s.destroy().await.unwrap()).await;
    clock.advance(DAY + DAY / 2);
    for _ in 0..3 {
        Browser::new().visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    }
    assert_eq!(old.visit(&node, async |s| s.value::<Theme>()).await, Theme::default());
}

// Tests of removed values.

#[tokio::test]
async fn older_cookie_restores_no_removed_value() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let old = browser.clone();
    let late = socket(&browser, &node).await;
    browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await;
    assert_eq!(late.get::<Theme>(), None, "an open socket");
    app.pass(2 * DAY - HOUR);
    set(&mut browser, &node, Visits(1)).await;
    assert_eq!(get::<Theme>(&mut old.clone(), &node).await, Theme::default(), "in memory");
    let restarted = app.start();
    assert_eq!(get::<Visits>(&mut browser, &restarted).await, Visits(1));
    assert_eq!(get::<Theme>(&mut old.clone(), &restarted).await, Theme::default(), "by the newer cookie");
}

#[tokio::test]
async fn removal_outlives_cookies_of_remembered_session() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let remember = async |session: Session| session.set_lifetime(Lifetime::new(30 * DAY, 365 * DAY).unwrap()).await;
    browser.visit(&node, remember).await.unwrap();
    let mut old = browser.clone();
    browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await;
    app.pass(10 * DAY);
    set(&mut browser, &node, Visits(1)).await;
    assert_eq!(get::<Theme>(&mut old, &node).await, Theme::default());
}

#[tokio::test]
async fn removal_outlives_cookies_of_longer_lifetime() {
    let long = Lifetime::new(31 * DAY, 365 * DAY).unwrap();
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = first_write(&node, Theme("dark".into())).await;
    browser.visit(&node, async move |s| s.set_lifetime(long).await.unwrap()).await;
    let mut old = browser.clone();
    browser.visit(&node, async |s| s.remove::<Theme>().await.unwrap()).await;
    clock.advance(5 * DAY);
    browser.visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    assert_eq!(old.visit(&node, async |s| s.value::<Theme>()).await, Theme::default());
}

// G12: memory keeps a removal for as long as a cookie of the previous, longer lifetime opens.
#[tokio::test]
async fn removal_outlives_cookies_of_previous_lifetime() {
    let app = App::new();
    let node = app.start();
    let lifetime = |idle| Lifetime::new(idle, 365 * DAY).unwrap();
    let (long, short) = (lifetime(31 * DAY), lifetime(HOUR));
    let mut browser = visitor(&node).await;
    browser.visit(&node, async move |session| session.set_lifetime(long).await.unwrap()).await;
    let mut old = browser.clone();
    browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await;
    browser.visit(&node, async move |session| session.set_lifetime(short).await.unwrap()).await;
    let live = socket(&browser, &node).await;
    for hours in 0..4 * 24 {
        app.pass(HOUR - TICK);
        live.set(Visits(hours)).await.unwrap();
    }
    assert_eq!(get::<Theme>(&mut old, &node).await, Theme::default());
}

// Tests of the end of all sessions of a user.

#[tokio::test]
async fn end_all_keeps_other_users_signed_in() {
    let app = App::new();
    let node = app.start();
    let (mut first, second, mut bob) =
        (signed_in(&node, "ada").await, signed_in(&node, "ada").await, signed_in(&node, "bob").await);
    let live = socket(&second, &node).await;
    let mut watch = live.watch::<Theme>();
    assert_eq!(soon(watch.next()).await, Some(Theme::default()));
    let (closed, watching) = (tokio::spawn(live.closed()), tokio::spawn(async move { watch.next().await }));
    tokio::task::yield_now().await;
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!((soon(closed).await.unwrap(), soon(watching).await.unwrap()), (CloseReason::Revoked, None));
    assert_eq!(attempt(&first, &node).await, FENCED);
    assert_eq!(bob.visit(&node, async |s| s.principal()).await, Some(Principal::new("bob")));
    sign_in(&mut first, &node, "ada").await;
    assert_eq!(first.visit(&node, async |s| s.principal()).await, Some(Principal::new("ada")));
    app.pass(Duration::from_secs(61));
    assert_eq!(second.clone().visit(&node, async |s| s.principal()).await, None);
}

// R6: `end_all_sessions` also ends the sessions of cookies that come later, and spares other users and later sign-ins.
#[tokio::test]
async fn end_all_ends_sessions_seen_only_afterwards() {
    let app = App::new();
    let sign_in = async |name: &'static str| {
        let mut browser = app.dark().await;
        browser.visit(&app.node, async move |session| session.sign_in(User(name.into())).await.unwrap()).await;
        browser
    };
    let (ada, bob) = (sign_in("ada").await, sign_in("bob").await);
    let cold = app.start();
    let mut sockets = Vec::new();
    for browser in [&ada, &bob] {
        sockets.push(browser.clone().open(&app.node).await);
    }
    for node in [&app.node, &cold] {
        node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
        assert_eq!(ada.theme(node).await, Theme::default());
        assert_eq!(bob.theme(node).await, dark());
        let write = async |session: Session| session.set(Visits(1)).await.map_err(|error| error.kind());
        assert_eq!(ada.clone().visit(node, write).await, Err(WriteErrorKind::Closed));
        let mut again = ada.clone();
        again.visit(node, async |session| session.sign_in(User("ada".into())).await.unwrap()).await;
        let user = async |session: Session| session.principal();
        assert_eq!(again.visit(node, user).await, Some(Principal::new("ada")));
    }
    assert_eq!(sockets[0].closed().now_or_never(), Some(CloseReason::Revoked));
    assert_eq!(sockets[1].value::<Theme>(), dark());
}

#[tokio::test]
async fn end_all_outlives_long_lifetimes() {
    let long = Lifetime::new(90 * DAY, 365 * DAY).unwrap();
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = signed_in(&node, "ada").await;
    browser.visit(&node, async move |s| s.set_lifetime(long).await.unwrap()).await;
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    clock.advance(40 * DAY);
    for _ in 0..5 {
        Browser::new().visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    }
    assert_eq!(browser.visit(&node, async |s| s.principal()).await, None);
}

#[tokio::test]
async fn end_all_restores_no_expired_value() {
    let app = App::new();
    let node = app.start_with(|sessions| sessions.principal_idle(DAY));
    let ada = async || node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    ada().await.set(Division(3)).await.unwrap();
    app.pass(DAY);
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(ada().await.value::<Division>(), Division(-1));
}

#[tokio::test]
async fn end_all_outlives_principal_idle_time() {
    let app = App::new();
    let node = || app.start_with(|sessions| sessions.idle(60 * DAY).absolute(60 * DAY));
    let (here, there) = (node(), node());
    here.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(3)).await.unwrap();
    app.pass(20 * DAY);
    let mut browser = signed_in(&there, "ada").await;
    here.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    app.pass(45 * DAY);
    for _ in 0..5 {
        drop(visitor(&here).await);
    }
    assert_eq!(browser.visit(&here, async |session| session.principal()).await, None);
}

// A restarted node learns from a cookie how long sessions may last, and keeps the end of all sessions for that long.
#[tokio::test]
async fn end_all_on_restarted_node_outlives_long_lifetimes() {
    let long = Lifetime::new(90 * DAY, 365 * DAY).unwrap();
    let app = App::new();
    let (before, after) = (app.start(), app.start());
    let mut browsers = [signed_in(&before, "ada").await, signed_in(&before, "ada").await];
    for browser in &mut browsers {
        browser.visit(&before, async move |session| session.set_lifetime(long).await.unwrap()).await;
    }
    let [mut seen, mut unseen] = browsers;
    get::<Theme>(&mut seen, &after).await;
    after.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    app.pass(40 * DAY);
    for _ in 0..5 {
        drop(visitor(&after).await);
    }
    assert_eq!(unseen.visit(&after, async |session| session.principal()).await, None);
}

// R6: `end_all_sessions` also ends a seen session whose sign-in happened under a clock that is ahead.
#[tokio::test]
async fn end_all_ends_fast_clock_sessions() {
    let (app, ahead) = (App::new(), ManualClock::new());
    ahead.advance(Duration::from_secs(60));
    let mut browser = signed_in(&app.start_at(&ahead), "ada").await;
    let user = async |session: Session| session.principal();
    assert_eq!(browser.clone().visit(&app.node, user).await, Some(Principal::new("ada")));
    app.clock.advance(Duration::from_secs(10));
    app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(browser.visit(&app.node, user).await, None);
}

/// A clock that wakes sleepers at their deadline, and no earlier.
#[derive(Clone, Debug, Default)]
struct Punctual {
    hands: ManualClock,
    sleeping: Arc<Mutex<Vec<(Duration, Waker)>>>,
}

impl Punctual {
    fn pass(&self, span: Duration) {
        self.hands.advance(span);
        let due = |(end, _): &mut (Duration, _)| *end <= self.hands.monotonic();
        self.sleeping.lock().unwrap().extract_if(.., due).for_each(|(_, waker)| waker.wake());
    }
}

impl Clock for Punctual {
    fn now(&self) -> SystemTime {
        self.hands.now()
    }

    fn monotonic(&self) -> Duration {
        self.hands.monotonic()
    }

    fn sleep(&self, span: Duration) -> Sleep {
        let (clock, end) = (self.clone(), self.monotonic() + span);
        Box::pin(poll_fn(move |cx| match clock.monotonic() >= end {
            true => Poll::Ready(()),
            false => {
                clock.sleeping.lock().unwrap().push((end, cx.waker().clone()));
                Poll::Pending
            }
        }))
    }
}

// G18: `closed` wakes at the end of a shortened lifetime, although its timer was set for the longer lifetime.
#[tokio::test]
async fn shortened_lifetime_wakes_closed_on_time() {
    let (app, clock) = (App::new(), Punctual::default());
    let node = || app.start_with(|sessions| sessions.clock(clock.clone()));
    let (here, there) = (node(), node());
    let mut browser = visitor(&here).await;
    let waiting = tokio::spawn(socket(&browser, &here).await.closed());
    settled().await;
    let short = Lifetime::new(HOUR / 4, HOUR).unwrap();
    browser.visit(&there, async move |session| session.set_lifetime(short).await.unwrap()).await;
    get::<Theme>(&mut browser, &here).await;
    settled().await;
    clock.pass(HOUR / 4);
    settled().await;
    assert!(waiting.is_finished(), "the handle still waits for the end of the longer lifetime");
    assert_eq!(waiting.await.unwrap(), CloseReason::Expired);
}
