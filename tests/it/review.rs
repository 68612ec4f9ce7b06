//! What an adversarial reading of the guarantees found: each of these has been red.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{HeaderMap, Response};
use http_body_util::Full;
use layered_session::{
    Changed, CookieTier, KeyRing, Lifetime, MemoryTier, Placement, Principal, Resolution, Scope, Session, SessionValue,
    Sessions, SessionsBuilder, WriteErrorKind, testing::ManualClock,
};
use serde::{Deserialize, Serialize};

use crate::{
    app::{get, set, visitor},
    world::{BoxFuture, Browser, DAY, Division, Node, Theme, User, Visits, builder, ring, set_cookies},
};

/// Something about the principal that no browser carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Unread(u32);

impl SessionValue for Unread {
    const NAME: &'static str = "unread";
    const SCOPE: Scope = Scope::Principal;
    const PLACEMENT: Placement = Placement::Volatile;
}

/// The same chain, with the principal named by a request's header.
pub(crate) fn identified_by_head(ring: &KeyRing, clock: &ManualClock) -> SessionsBuilder {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .value::<Division>()
        .value::<Theme>()
        .value::<Visits>()
        .identify(|head| head.headers.get("x-user").map(|user| Principal::new(user.to_str().unwrap())))
        .clock(clock.clone())
}

/// A visit by a user whom the head names.
pub(crate) async fn visit_as<F, Fut, T>(
    browser: &mut Browser,
    node: &Node,
    user: Option<&str>,
    handler: F,
) -> (HeaderMap, T)
where
    F: FnOnce(Session) -> Fut + Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let mut request = browser.request();
    if let Some(user) = user {
        request.headers_mut().insert("x-user", user.parse().unwrap());
    }
    let answered = async move |session| (Response::new(Full::default()), handler(session).await);
    let (response, value) = node.handle(request, |session| Box::pin(answered(session)) as BoxFuture<_>).await;
    browser.take(response.headers());
    (response.headers().clone(), value)
}

pub(crate) fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

// Signed in by the head.

#[tokio::test]
async fn a_request_of_nobody_after_a_restart_does_not_cost_the_user_their_values() {
    let (ring, clock) = (ring(), ManualClock::new());
    let mut browser = Browser::new();
    let node = Node::new(identified_by_head(&ring, &clock).build().unwrap());
    visit_as(&mut browser, &node, Some("ada"), async |s| s.set(Division(3)).await.unwrap()).await;

    let node = Node::new(identified_by_head(&ring, &clock).build().unwrap());
    let (_, theme) = visit_as(&mut browser, &node, None, async |s| s.get::<Theme>()).await;
    assert_eq!(theme, Theme::default());
    let (_, division) = visit_as(&mut browser, &node, Some("ada"), async |s| s.get::<Division>()).await;
    assert_eq!(division, Division(3));
}

#[tokio::test]
async fn a_session_begun_after_end_all_is_not_ended_by_it() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(identified_by_head(&ring, &clock).build().unwrap());
    let mut before = Browser::new();
    visit_as(&mut before, &node, Some("ada"), async |s| s.set(Division(3)).await.unwrap()).await;
    node.sessions.end_all(Principal::new("ada")).await.unwrap();
    let mut after = Browser::new();
    visit_as(&mut after, &node, Some("ada"), async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    let (_, theme) = visit_as(&mut after, &node, Some("ada"), async |s| s.get::<Theme>()).await;
    assert_eq!(theme, Theme("dark".into()));
}

#[tokio::test]
async fn a_refused_write_of_the_principals_makes_no_session() {
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Notes(String);
    impl SessionValue for Notes {
        const NAME: &'static str = "notes";
        const SCOPE: Scope = Scope::Principal;
    }
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(identified_by_head(&ring, &clock).value::<Notes>().build().unwrap());
    let mut browser = Browser::new();
    let (_, refused) =
        visit_as(&mut browser, &node, Some("ada"), async |s| s.set(Notes("x".repeat(9_000))).await).await;
    assert_eq!(refused.unwrap_err().kind(), WriteErrorKind::TooLarge);
    assert_eq!(browser.cookie("session"), None);
    assert_eq!(node.sessions.stats().records, 0);
}

#[tokio::test]
async fn a_session_that_begins_under_a_principal_is_no_renewal() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(identified_by_head(&ring, &clock).build().unwrap());
    let told = async |s: Session| {
        let mut changes = s.changes();
        s.set(Theme("dark".into())).await.unwrap();
        changes.next().await.unwrap()
    };
    let (_, first) = visit_as(&mut Browser::new(), &node, Some("ada"), told).await;
    assert!(matches!(first, Changed::Set { name: "theme", .. }), "{first:?}");
}

// Expiry.

#[tokio::test]
async fn a_principals_values_end_with_their_idle_time_whether_or_not_expiry_work_has_run() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).value::<Unread>().build().unwrap());
    node.sessions.of(Principal::new("ada")).await.unwrap().set(Unread(7)).await.unwrap();
    clock.advance(40 * DAY);
    assert_eq!(node.sessions.of(Principal::new("ada")).await.unwrap().get::<Unread>(), Unread(0));
}

#[tokio::test]
async fn what_a_cookie_brings_does_not_revive_the_expired_rest_of_a_principals_record() {
    let (ring, clock) = (ring(), ManualClock::new());
    let lived = || builder(&ring, &clock).value::<Unread>().idle(100 * DAY).absolute(365 * DAY);
    let node = Node::new(lived().build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    browser.visit(&node, async |s| s.set(Division(3)).await.unwrap()).await;
    browser.visit(&node, async |s| s.set(Unread(7)).await.unwrap()).await;
    clock.advance(40 * DAY);
    let found = browser.visit(&node, async |s| (s.get::<Division>(), s.get::<Unread>())).await;
    assert_eq!(found, (Division(3), Unread(0)));
}

#[tokio::test]
async fn a_session_whose_lifetime_was_shortened_is_not_revived_by_an_older_cookie() {
    let short = Lifetime::new(Duration::from_secs(900), 30 * DAY).unwrap();
    for swept in [false, true] {
        let (ring, clock) = (ring(), ManualClock::new());
        let node = Node::new(builder(&ring, &clock).build().unwrap());
        let mut browser = Browser::new();
        browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
        let mut old = browser.clone();
        browser.visit(&node, async move |s| s.set_lifetime(short).await.unwrap()).await;
        clock.advance(Duration::from_secs(3_600));
        if swept {
            Browser::new().visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
        }
        assert_eq!(browser.visit(&node, async |s| s.get::<Theme>()).await, Theme::default());
        assert_eq!(old.visit(&node, async |s| s.get::<Theme>()).await, Theme::default(), "swept: {swept}");
    }
}

#[tokio::test]
async fn a_tombstone_outlives_the_cookies_of_an_earlier_lifetime() {
    let short = Lifetime::new(DAY / 96, DAY + DAY / 4).unwrap();
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    clock.advance(DAY);
    browser.visit(&node, async |s| s.get::<Theme>()).await;
    let mut old = browser.clone();
    browser.visit(&node, async move |s| s.set_lifetime(short).await.unwrap()).await;
    browser.visit(&node, async |s| s.destroy().await.unwrap()).await;
    clock.advance(DAY + DAY / 2);
    for _ in 0..3 {
        Browser::new().visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    }
    assert_eq!(old.visit(&node, async |s| s.get::<Theme>()).await, Theme::default());
}

#[tokio::test]
async fn a_removal_outlives_the_cookies_of_a_longer_lifetime() {
    let long = Lifetime::new(31 * DAY, 365 * DAY).unwrap();
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    browser.visit(&node, async move |s| s.set_lifetime(long).await.unwrap()).await;
    let mut old = browser.clone();
    browser.visit(&node, async |s| s.remove::<Theme>().await.unwrap()).await;
    clock.advance(5 * DAY);
    browser.visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    assert_eq!(old.visit(&node, async |s| s.get::<Theme>()).await, Theme::default());
}

#[tokio::test]
async fn end_all_holds_for_as_long_as_any_lifetime_that_was_given() {
    let long = Lifetime::new(90 * DAY, 365 * DAY).unwrap();
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    browser.visit(&node, async move |s| s.set_lifetime(long).await.unwrap()).await;
    node.sessions.end_all(Principal::new("ada")).await.unwrap();
    clock.advance(40 * DAY);
    for _ in 0..5 {
        Browser::new().visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    }
    assert_eq!(browser.visit(&node, async |s| s.principal()).await, None);
}

#[tokio::test]
async fn a_lifetime_given_later_wins_over_one_from_a_node_whose_clock_is_ahead() {
    let (ring, ahead, clock) = (ring(), ManualClock::new(), ManualClock::new());
    ahead.advance(Duration::from_secs(300));
    let first = Node::new(builder(&ring, &ahead).build().unwrap());
    let second = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&first, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    ahead.advance(Duration::from_secs(1));
    let long = Lifetime::new(10 * DAY, 30 * DAY).unwrap();
    browser.visit(&first, async move |s| s.set_lifetime(long).await.unwrap()).await;
    let short = Lifetime::new(DAY / 24, DAY).unwrap();
    let late = browser.clone();
    browser.visit(&second, async move |s| s.set_lifetime(short).await.unwrap()).await;
    late.clone().visit(&second, async |s| s.get::<Theme>()).await;
    let ends = browser.visit(&second, async |s| s.expires_at()).await;
    assert!(ends.unwrap() <= layered_session::Clock::now(&clock) + DAY / 24);
}

// Versions.

#[tokio::test]
async fn a_browser_with_the_losing_bytes_of_an_equal_version_is_healed() {
    let (ring, clock) = (ring(), ManualClock::new());
    let (one, two) =
        (Node::new(builder(&ring, &clock).build().unwrap()), Node::new(builder(&ring, &clock).build().unwrap()));
    let mut browser = Browser::new();
    browser.visit(&one, async |s| s.set(Visits(1)).await.unwrap()).await;
    let mut twin = browser.clone();
    clock.advance(Duration::from_secs(1));
    browser.visit(&one, async |s| s.set(Theme("a".into())).await.unwrap()).await;
    twin.visit(&two, async |s| s.set(Theme("b".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&two, async |s| s.get::<Theme>()).await, Theme("b".into()));
    let restarted = Node::new(builder(&ring, &clock).build().unwrap());
    assert_eq!(browser.visit(&restarted, async |s| s.get::<Theme>()).await, Theme("b".into()));
}

#[tokio::test]
async fn under_first_hit_a_fresh_write_is_above_the_newer_cookie_too() {
    let (ring, ahead, clock) = (ring(), ManualClock::new(), ManualClock::new());
    ahead.advance(Duration::from_secs(300));
    let node = |clock| Node::new(builder(&ring, clock).resolution(Resolution::FirstHit).build().unwrap());
    let (first, second) = (node(&ahead), node(&clock));
    let mut browser = Browser::new();
    browser.visit(&second, async |s| s.set(Theme("old".into())).await.unwrap()).await;
    browser.visit(&first, async |s| s.set(Theme("newer".into())).await.unwrap()).await;
    browser.visit(&second, async |s| s.set(Theme("last".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&node(&clock), async |s| s.get::<Theme>()).await, Theme("last".into()));
}

#[tokio::test]
async fn under_first_hit_a_sign_in_takes_nothing_of_the_user_before_along() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = || Node::new(builder(&ring, &clock).resolution(Resolution::FirstHit).build().unwrap());
    let (first, second) = (node(), node());
    let mut browser = Browser::new();
    browser.visit(&first, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    browser.visit(&first, async |s| s.set(Division(1)).await.unwrap()).await;
    browser.visit(&second, async |s| s.get::<Division>()).await;
    clock.advance(Duration::from_secs(1));
    browser.visit(&first, async |s| s.set(Division(2)).await.unwrap()).await;
    browser.visit(&second, async |s| s.sign_in(User("bob".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&node(), async |s| s.get::<Division>()).await, Division(-1));
}

#[tokio::test]
async fn a_write_during_the_load_leaves_the_browser_behind() {
    let (ring, clock) = (ring(), ManualClock::new());
    let (other, armed) = (Arc::new(Mutex::new(None::<Session>)), Arc::new(AtomicBool::new(false)));
    let (writer, trigger) = (Arc::clone(&other), Arc::clone(&armed));
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .value::<Theme>()
        .identify_by::<User>(move |user| {
            if trigger.swap(false, Ordering::SeqCst)
                && let Some(session) = &*writer.lock().unwrap()
            {
                now_or_never(session.set(Theme("late".into()))).unwrap().unwrap();
            }
            Some(Principal::new(&user.0))
        })
        .clock(clock.clone())
        .build()
        .unwrap();
    let node = Node::new(sessions);
    let first = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&first, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    browser.visit(&first, async |s| s.set(Theme("early".into())).await.unwrap()).await;
    let handle = browser.clone().visit(&node, async |s| s).await;
    // A fresh token of the same values, which this node has to open.
    clock.advance(DAY / 4);
    browser.visit(&first, async |s| s.get::<Theme>()).await;
    *other.lock().unwrap() = Some(handle);
    armed.store(true, Ordering::SeqCst);
    browser.visit(&node, async |s| s.get::<Theme>()).await;
    assert!(!armed.load(Ordering::SeqCst));
    let restarted = Node::new(builder(&ring, &clock).build().unwrap());
    assert_eq!(browser.visit(&restarted, async |s| s.get::<Theme>()).await, Theme("late".into()));
}

// Cookies.

#[tokio::test]
async fn a_watch_of_a_principal_without_values_is_no_reason_for_a_cookie() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = || Node::new(builder(&ring, &clock).build().unwrap());
    let (one, two) = (node(), node());
    let mut browser = Browser::new();
    browser.visit(&one, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    let _watch = browser.visit(&two, async |s| s.watch::<Division>()).await;
    clock.advance(Duration::from_secs(86_400 / 4));
    browser.visit(&one, async |s| s.get::<Theme>()).await;
    let (headers, _) = browser.visit_seen(&two, async |s| s.get::<Theme>()).await;
    assert!(set_cookies(&headers).is_empty());
}

// Sign-in.

#[tokio::test]
async fn a_refused_sign_in_leaves_the_watches_of_the_present_user() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    let session = browser.visit(&node, async |s| s).await;
    let mut divisions = session.watch::<Division>();
    assert_eq!(divisions.next().await, Some(Division(-1)));
    session.sign_in(User("x".repeat(9_000))).await.unwrap_err();
    let woken = tokio::spawn(async move { divisions.next().await });
    tokio::task::yield_now().await;
    node.sessions.of(Principal::new("ada")).await.unwrap().set(Division(4)).await.unwrap();
    let woken = tokio::time::timeout(Duration::from_secs(2), woken).await;
    assert_eq!(woken.expect("the watch is told").unwrap(), Some(Division(4)));
}

// Memory.

#[tokio::test]
async fn a_few_sockets_do_not_stop_eviction() {
    let (ring, clock) = (ring(), ManualClock::new());
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(20_000).build())
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .value::<Theme>()
        .clock(clock.clone());
    let node = Node::new(sessions.build().unwrap());
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(Browser::new().visit(&node, async |s| s.set(Theme("held".into())).await.map(|()| s).unwrap()).await);
    }
    for _ in 0..500 {
        clock.advance(Duration::from_secs(1));
        Browser::new().visit(&node, async |s| s.set(Theme("passing".into())).await.unwrap()).await;
    }
    let bytes = node.sessions.stats().bytes;
    assert!(bytes < 40_000, "{bytes}");
}

#[tokio::test]
async fn the_same_within_one_minute() {
    let (ring, clock) = (ring(), ManualClock::new());
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(20_000).build())
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .value::<Theme>()
        .clock(clock.clone());
    let node = Node::new(sessions.build().unwrap());
    let mut held = Vec::new();
    for number in 0..200 {
        let session = Browser::new().visit(&node, async |s| s.set(Theme("x".into())).await.map(|()| s).unwrap()).await;
        if number % 10 == 0 {
            held.push(session);
        }
    }
    let bytes = node.sessions.stats().bytes;
    assert!(bytes < 40_000, "{bytes}");
}

// Chains without memory.

#[tokio::test]
async fn without_memory_a_job_does_not_pretend_to_write() {
    let (ring, clock) = (ring(), ManualClock::new());
    let sessions = Sessions::builder()
        .tier(CookieTier::sealed(ring).name("session").plain_http())
        .value::<Division>()
        .identify_by::<User>(|user| Some(Principal::new(&user.0)))
        .clock(clock)
        .build()
        .unwrap();
    let job = sessions.of(Principal::new("ada")).await.unwrap();
    job.set(Division(3)).await.unwrap_err();
}

// Bounds.

#[tokio::test]
async fn what_no_browser_carries_is_not_refused_for_what_browsers_carry() {
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Draft(String);
    impl SessionValue for Draft {
        const NAME: &'static str = "draft";
    }
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Cursor(u32);
    impl SessionValue for Cursor {
        const NAME: &'static str = "cursor";
        const PLACEMENT: Placement = Placement::Volatile;
    }
    let (ring, clock) = (ring(), ManualClock::new());
    let node = || Node::new(builder(&ring, &clock).value::<Draft>().value::<Cursor>().build().unwrap());
    let (one, two) = (node(), node());
    let mut browser = Browser::new();
    browser.visit(&one, async |s| s.set(Visits(1)).await.unwrap()).await;
    let mut twin = browser.clone();
    browser.visit(&one, async |s| s.set(Draft("x".repeat(900))).await.unwrap()).await;
    twin.visit(&two, async |s| s.set(Theme("x".repeat(900))).await.unwrap()).await;
    twin.visit(&one, async |s| s.set(Cursor(7)).await.unwrap()).await;
    assert_eq!(twin.visit(&one, async |s| s.get::<Cursor>()).await, Cursor(7));
}

#[tokio::test]
async fn the_longest_lifetimes_survive_a_restart() {
    let (ring, clock) = (ring(), ManualClock::new());
    let ages = Duration::from_secs(1 << 61);
    let node = || Node::new(builder(&ring, &clock).idle(ages).absolute(ages).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node(), async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    clock.advance(DAY);
    assert_eq!(browser.visit(&node(), async |s| s.get::<Theme>()).await, Theme("dark".into()));
}

#[tokio::test]
async fn the_sweeper_lets_others_have_their_turn() {
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

// G16.
#[tokio::test]
async fn a_browser_that_never_heard_of_its_new_lifetime_is_healed() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = visitor(&node).await;
    let long = Lifetime::new(30 * DAY, 90 * DAY).unwrap();
    // The response is lost, and with it the cookie that tells of it.
    browser.clone().visit(&node, async move |session| session.set_lifetime(long).await.unwrap()).await;
    get::<Theme>(&mut browser, &node).await;
    clock.advance(20 * DAY);
    let elsewhere = Node::new(builder(&ring, &clock).build().unwrap());
    assert_eq!(get::<Theme>(&mut browser, &elsewhere).await, Theme("light".into()));
}

// G18.
#[tokio::test]
async fn whoever_watches_is_told_of_the_greater_bytes_of_an_equal_version() {
    let (ring, clock) = (ring(), ManualClock::new());
    let nodes = [(); 2].map(|()| Node::new(builder(&ring, &clock).build().unwrap()));
    let mut browser = visitor(&nodes[0]).await;
    let socket = browser.clone().visit(&nodes[0], async |session| session).await;
    // Both nodes have yet to write, at the same moment.
    set(&mut browser.clone(), &nodes[0], Visits(1)).await;
    set(&mut browser, &nodes[1], Visits(2)).await;
    let (mut watch, mut changes) = (socket.watch::<Visits>(), socket.changes());
    assert_eq!(now_or_never(watch.next()), Some(Some(Visits(1))));
    get::<Visits>(&mut browser, &nodes[0]).await;
    assert_eq!(now_or_never(watch.next()), Some(Some(Visits(2))));
    assert!(matches!(now_or_never(changes.next()), Some(Some(Changed::Set { .. }))));
}
