//! Races of a watch with a renewal, an expiry or a step of the clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use http::{Method, Response, StatusCode};
use layered_session::{
    Clock, DefaultTier, LayeredSessionLayer, Principal, Session, SessionValue, SessionWriteback, Sleep, WritebackBody,
    testing::ManualClock,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Answer, App, BEAT, Browser, Division, HOUR, Node, Theme, User, Visits, at_once, set, signed_in, socket, theme,
    told, under_way, visitor,
};

async fn open(browser: &mut Browser, node: &Node, writeback: SessionWriteback) -> WritebackBody {
    let response = node.stream(writeback, browser.request_of_page(Method::GET, "/events", "")).await;
    assert_eq!(response.status(), StatusCode::OK);
    browser.take(response.headers());
    response.into_body()
}

// G12: a renewal takes the calling handle, its clones and its watches to the new id, also during reads and writes of
// the clones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_never_interrupts_clones() {
    let node = App::new().node;
    let live = under_way(&visitor(&node).await, &node).await;
    live.set(Division(4)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (clone, stop) = (live.clone(), Arc::clone(&done));
    let reader = std::thread::spawn(move || {
        let (mut watch, mut changes) = (clone.watch::<Visits>(), clone.changes());
        let mut divisions = clone.watch::<Division>();
        let (mut lost, mut refused, mut ended, mut n) = (0, 0, 0, 0);
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            lost += usize::from(clone.value::<Theme>() != theme("light"));
            refused += usize::from(at_once(clone.set(Visits(n))).is_some_and(|set| set.is_err()));
            ended += usize::from(at_once(watch.next()) == Some(None));
            lost += usize::from(at_once(divisions.next()).is_some_and(|next| next != Some(Division(4))));
            while let Some(changed) = at_once(changes.next()) {
                let changed = format!("{changed:?}");
                let wrong =
                    changed.starts_with("Some(Expired") || changed == "None" || changed.starts_with("Some(Closed");
                ended += usize::from(wrong);
                if changed == "None" {
                    break;
                }
            }
        }
        (lost, refused, ended)
    });
    for _ in 0..20_000 {
        live.renew().await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert_eq!(reader.join().unwrap(), (0, 0, 0), "values lost, writes refused, watches ended");
}

// G7: a handle caches the signed-in user under the version of the identity value. The next session's identity value may
// have the same version, and the cache must not answer with the earlier user.
#[tokio::test]
async fn next_user_replaces_cached_user() {
    let node = App::new().node;
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(4)).await.unwrap();
    let seen = Browser::new()
        .visit(&node, async |session| {
            session.sign_in(User("ada".into())).await.unwrap();
            assert_eq!(session.value::<Division>(), Division(4));
            session.sign_out().await.unwrap();
            session.sign_in(User("bob".into())).await.unwrap();
            (session.principal(), session.value::<Division>())
        })
        .await;
    assert_eq!(seen, (Some(Principal::new("bob")), Division(-1)));
}

// G18: a watch that begins while a clone signs another user in follows the new user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_follows_concurrent_sign_in() {
    let gate = Arc::new(AtomicBool::new(false));
    let (entered, at_gate) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (armed, released) = (Arc::clone(&gate), std::sync::Mutex::new(released));
    let node = App::new().start_with(|sessions| {
        sessions.identify_by::<User>(move |user| {
            if user.0 == "ada" && armed.swap(false, Ordering::SeqCst) {
                entered.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
            }
            Some(Principal::new(&user.0))
        })
    });
    let live = under_way(&Browser::new(), &node).await;
    live.sign_in(User("ada".into())).await.unwrap();
    gate.store(true, Ordering::SeqCst);
    let clone = live.clone();
    let watching = std::thread::spawn(move || clone.watch::<Division>());
    at_gate.recv().unwrap();
    live.sign_in(User("bob".into())).await.unwrap();
    release.send(()).unwrap();
    let mut watch = watching.join().unwrap();
    assert_eq!(at_once(watch.next()), Some(Some(Division(-1))));
    assert_eq!(at_once(watch.next()), None);
    node.sessions.for_principal(Principal::new("bob")).await.unwrap().set(Division(3)).await.unwrap();
    assert_eq!(at_once(watch.next()), Some(Some(Division(3))), "the watch follows bob's value");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Guest(String);

impl SessionValue for Guest {
    const NAME: &'static str = "guest";
    const MAX_AGE: Option<Duration> = Some(HOUR);
}

// G18: an expiry wakes a sleeping watch, also the expiry of the identity value.
#[tokio::test]
async fn watch_sees_sign_in_expire() {
    let app = App::new();
    let sessions =
        app.chain(DefaultTier::new()).value::<Division>().identify_by::<Guest>(|guest| Some(Principal::new(&guest.0)));
    let node = Node::new(sessions.build().unwrap());
    let live = under_way(&Browser::new(), &node).await;
    live.sign_in(Guest("ada".into())).await.unwrap();
    live.set(Division(4)).await.unwrap();
    let mut watch = live.watch::<Division>();
    assert_eq!(at_once(watch.next()), Some(Some(Division(4))));
    assert_eq!(at_once(watch.next()), None);
    app.pass(HOUR);
    assert_eq!(live.value::<Division>(), Division(-1));
    assert_eq!(at_once(watch.next()), Some(Some(Division(-1))));
}

#[tokio::test]
async fn page_sees_sign_in_expire() {
    let app = App::new();
    let sessions =
        app.chain(DefaultTier::new()).value::<Division>().identify_by::<Guest>(|guest| Some(Principal::new(&guest.0)));
    let node = Node::new(sessions.build().unwrap());
    let mut browser = Browser::new();
    browser
        .visit(&node, async |session| {
            session.sign_in(Guest("ada".into())).await.unwrap();
            session.set(Division(4)).await.unwrap();
        })
        .await;
    let writeback = SessionWriteback::new(&node.sessions).allow::<Division>().unwrap();
    let mut page = open(&mut browser, &node, writeback).await;
    assert!(told(&mut page).contains("\"current_division_id\":4"));
    app.pass(HOUR);
    assert!(
        told(&mut page).contains("event: removed\ndata: [\"current_division_id\"]"),
        "the user's value is still shown"
    );
}

/// A clock that passes one millisecond during a read of the watch, at the n-th call of `now`.
#[derive(Clone, Debug)]
struct Ticking {
    clock: ManualClock,
    left: Arc<AtomicUsize>,
}

impl Clock for Ticking {
    fn now(&self) -> SystemTime {
        let now = self.clock.now();
        let left = self.left.load(Ordering::SeqCst);
        if left > 0 {
            self.left.store(left - 1, Ordering::SeqCst);
            if left == 1 {
                self.clock.advance(Duration::from_millis(1));
            }
        }
        now
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, span: Duration) -> Sleep {
        self.clock.sleep(span)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Brief(u8);

impl SessionValue for Brief {
    const NAME: &'static str = "brief";
    const MAX_AGE: Option<Duration> = Some(HOUR);
}

// G18: the page learns of an expiry between the read of the value and the setting of the timer.
#[tokio::test]
async fn expiry_during_read_reaches_page() {
    let mut missed = Vec::new();
    for at in 1..30 {
        let app = App::new();
        let clock = Ticking { clock: app.clock.clone(), left: Arc::default() };
        let left = Arc::clone(&clock.left);
        let sessions = app.chain(DefaultTier::new()).clock(clock).value::<Brief>().value::<Theme>();
        let node = Node::new(sessions.build().unwrap());
        let mut browser = visitor(&node).await;
        set(&mut browser, &node, Brief(1)).await;
        let live = socket(&browser, &node).await;
        let writeback = SessionWriteback::new(&node.sessions).allow::<Brief>().unwrap();
        let mut page = open(&mut browser, &node, writeback).await;
        let (mut watch, mut changes) = (live.watch::<Brief>(), live.changes());
        app.pass(HOUR - Duration::from_millis(1));
        left.store(at, Ordering::SeqCst);
        let mut seen = told(&mut page);
        left.store(0, Ordering::SeqCst);
        app.clock.advance(Duration::ZERO);
        app.pass(Duration::from_millis(1));
        seen += &told(&mut page);
        let shown_last = seen.rfind("\"brief\":1").map_or(0, |at| at);
        if seen.contains("\"brief\":1") && !seen[shown_last..].contains("removed") {
            missed.push(("page", at));
        }
        let app2 = &app;
        let _ = (at_once(watch.next()), app2);
        let _ = at_once(changes.next());
    }
    assert_eq!(missed, [], "reads that lost the expiry");
}

#[tokio::test]
async fn expiry_during_read_is_reported() {
    let mut missed = Vec::new();
    for at in 1..30 {
        let app = App::new();
        let clock = Ticking { clock: app.clock.clone(), left: Arc::default() };
        let left = Arc::clone(&clock.left);
        let sessions = app.chain(DefaultTier::new()).clock(clock).value::<Brief>().value::<Theme>();
        let node = Node::new(sessions.build().unwrap());
        let live = socket(&visitor(&node).await, &node).await;
        live.set(Brief(1)).await.unwrap();
        let mut changes = live.changes();
        app.pass(HOUR - Duration::from_millis(1));
        left.store(at, Ordering::SeqCst);
        let mut all = format!("{:?}", at_once(changes.next()));
        left.store(0, Ordering::SeqCst);
        app.pass(Duration::from_millis(1));
        all += &format!("{:?}", at_once(changes.next()));
        if !all.contains("Expired") {
            missed.push(at);
        }
    }
    assert_eq!(missed, [] as [usize; 0], "reads that lost the expiry");
}

// Neither an open stream nor its reconnection counts as a use, so the session of a page that only reconnects idles out.
#[tokio::test]
async fn reconnected_stream_extends_no_session() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    for _ in 0..16 {
        app.pass(5 * HOUR);
        let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
        told(&mut open(&mut browser, &node, writeback).await);
    }
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let state = told(&mut open(&mut browser, &node, writeback).await);
    assert!(state.contains("\"session\":\"\""), "80 hours with streams alone: {state}");
}

#[tokio::test]
async fn relay_token_alone_extends_no_session() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    let writeback = SessionWriteback::new(&node.sessions).allow::<Division>().unwrap();
    let mut page = open(&mut browser, &node, writeback).await;
    let mut all = told(&mut page);
    for n in 0..10 {
        app.pass(12 * HOUR);
        job.set(Division(n % 5)).await.unwrap();
        all += &told(&mut page);
        app.pass(Duration::from_millis(200));
        all += &told(&mut page);
    }
    assert!(
        all.contains("\"expired\""),
        "five days in which only a job wrote: {} relays",
        all.matches("relay").count()
    );
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Layout(Box<RawValue>);

impl SessionValue for Layout {
    const NAME: &'static str = "layout";
}

// An event has a single line of data, also if the JSON of the value has line breaks.
#[tokio::test]
async fn raw_json_breaks_no_event() {
    let app = App::new();
    let node = Node::new(app.chain(DefaultTier::new()).value::<Layout>().build().unwrap());
    let writeback = || SessionWriteback::new(&node.sessions).allow::<Layout>().unwrap();
    let mut browser = Browser::new();
    let answer = node.writeback(writeback(), browser.post_json("{\"layout\":{\n\n\"a\":\r1}}")).await;
    assert_eq!(answer.status, StatusCode::OK);
    browser.take(&answer.headers);
    let state = told(&mut open(&mut browser, &node, writeback()).await);
    assert_eq!((state.matches('\n').count(), state.matches('\r').count()), (3, 0), "{state:?}");
}

// The birth token of a session that `end_all_sessions` has ended is refused, also while a middleware watches through
// the request's handle.
#[tokio::test]
async fn revoked_birth_token_is_refused() {
    let app = App::new();
    let (here, there) = (app.start(), app.start());
    let live = under_way(&Browser::new(), &there).await;
    live.sign_in(User("ada".into())).await.unwrap();
    let token = live.relay().unwrap();
    app.pass(Duration::from_secs(1));
    here.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    app.pass(Duration::from_secs(1));
    let body = serde_json::json!({ "$relay": token.as_str() }).to_string();
    for watched in [true, false] {
        let writeback = SessionWriteback::new(&here.sessions);
        let service = service_fn(move |request: http::Request<http_body_util::Full<bytes::Bytes>>| {
            let writeback = writeback.clone();
            async move {
                let session = Session::load(request.extensions()).await.unwrap();
                let _watch = watched.then(|| session.watch::<Theme>());
                writeback.oneshot(request).await
            }
        });
        let layer = LayeredSessionLayer::new(here.sessions.clone());
        let response: Response<WritebackBody> =
            layer.layer(service).oneshot(Browser::new().post_json(body.clone())).await.unwrap();
        let answer = Answer::of(response).await;
        assert_eq!((answer.status, answer.set_cookies().len()), (StatusCode::CONFLICT, 0), "watched: {watched}");
    }
}

// A heartbeat comes every 15 seconds, also after a step of the system's clock.
#[tokio::test]
async fn heartbeat_continues_after_clock_step_back() {
    let app = App::new();
    let node = app.start();
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let mut page = open(&mut visitor(&node).await, &node, writeback).await;
    told(&mut page);
    app.clock.set(app.clock.now() - HOUR);
    for _ in 0..4 {
        app.pass(Duration::from_secs(15));
        assert_eq!(told(&mut page), BEAT);
    }
}

// The request head names the user. A renewal, as at the next user's login, ends the stream of the page that is open for
// the earlier user.
#[tokio::test]
async fn renewal_closes_earlier_users_page() {
    let app = App::new();
    let sessions = app
        .chain(DefaultTier::new())
        .value::<Division>()
        .value::<Theme>()
        .identify(|head| Some(Principal::new(head.headers.get("x-user")?.to_str().ok()?)));
    let node = Node::new(sessions.build().unwrap());
    let writeback = || SessionWriteback::new(&node.sessions).allow::<Division>().unwrap();
    let request = |browser: &Browser, user: &str| {
        let mut request = browser.request_of_page(Method::GET, "/events", "");
        request.headers_mut().insert("x-user", user.parse().unwrap());
        request
    };
    let mut browser = visitor(&node).await;
    let mut adas = node.stream(writeback(), request(&browser, "ada")).await.into_body();
    told(&mut adas);
    browser.visit(&node, async |session| session.renew().await.unwrap()).await;
    let mut bobs = node.stream(writeback(), request(&browser, "bob")).await.into_body();
    told(&mut bobs);
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(2)).await.unwrap();
    assert_eq!(told(&mut bobs), "");
    assert_eq!(told(&mut adas), "event: closed\ndata: \"renewed\"\n\n");
}
