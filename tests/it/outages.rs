//! Tiers that do not answer: a source that is late, and a store that is down.

use std::{
    convert::Infallible,
    error::Error,
    future::pending,
    iter,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Extensions, Request, Response, StatusCode, header};
use http_body_util::Full;
use layered_session::{
    Clock, CookieTier, DefaultTier, LayeredSessionLayer, MemoryTier, MissingSessionKind, Principal, Session,
    SessionWriteback, Sessions, SessionsBuilder, TokioClock, WriteErrorKind,
    testing::SpyStore,
    tier::{Found, Lookup, Tier, TierFuture},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::{
    app::{App, at_once, bring, get, set, socket, theme, visitor},
    trace::Trace,
    world::{Browser, Node, Theme},
};

/// A source that never answers.
#[derive(Debug)]
struct Silent(&'static str);

impl Tier for Silent {
    fn name(&self) -> &'static str {
        self.0
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::boxed(pending())
    }
}

/// A source that fails at once.
#[derive(Debug)]
struct Broken;

impl Tier for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::ready(Err("the tenant's database is away".into()))
    }
}

/// Memory and the cookie, as the nodes of the application have them.
fn chain(app: &App) -> SessionsBuilder {
    let cookie = CookieTier::sealed(app.ring.clone()).name("session").plain_http();
    let chain = Sessions::builder().tier(MemoryTier::builder().build()).tier(cookie);
    chain.value::<Theme>().clock(app.clock.clone())
}

/// A node whose chain asks a silent source before its defaults.
fn silent_node(app: &App) -> Node {
    let sessions = chain(app).tier(Silent("tenant")).tier(DefaultTier::new().value(theme("plain")));
    Node::new(sessions.build().unwrap())
}

/// The source's deadline passes once the load waits.
async fn past_deadline<T>(app: &App, load: impl Future<Output = T>) -> T {
    let mut load = std::pin::pin!(load);
    assert!(load.as_mut().now_or_never().is_none(), "waits for the source");
    app.pass(Duration::from_millis(249));
    assert!(load.as_mut().now_or_never().is_none(), "waits until the deadline");
    app.pass(Duration::from_millis(1));
    load.now_or_never().expect("the next tier answers")
}

#[tokio::test]
async fn late_source_gives_way_to_next_tier() {
    let app = App::new();
    let (trace, _guard) = Trace::begin();
    let node = silent_node(&app);
    let visit = async |session: Session| session.value::<Theme>();
    let mut browser = Browser::new();
    assert_eq!(past_deadline(&app, browser.visit(&node, visit)).await, theme("plain"));
    // Another node, whose chain has no source, has stored the value in the cookie.
    let mut stored = visitor(&app.node()).await;
    assert_eq!(past_deadline(&app, stored.visit(&node, visit)).await, theme("light"));
    assert_eq!(
        past_deadline(&app, node.sessions.of(Principal::new("ada"))).await.unwrap().value::<Theme>(),
        theme("plain")
    );
    assert_eq!(trace.lines_with("no answer within 250 ms"), 1, "{}", trace.text());
    assert_eq!(node.sessions.stats().source_failures, 3);
}

#[tokio::test]
async fn each_source_has_its_own_deadline() {
    let app = App::new();
    let sessions = chain(&app).tier(Silent("first")).tier(Silent("second"));
    let sessions = sessions.source_deadline(Duration::from_secs(2)).build().unwrap();
    let mut job = Box::pin(sessions.of(Principal::new("ada")));
    for _ in 0..2 {
        assert!(at_once(job.as_mut()).is_none());
        app.pass(Duration::from_millis(1999));
        assert!(at_once(job.as_mut()).is_none());
        app.pass(Duration::from_millis(1));
    }
    assert!(at_once(job).is_some());
}

// A timer needs a runtime, and a look at the extensions needs none.
#[test]
fn load_without_waiting_arms_no_timer() {
    let sessions = chain(&App::new()).clock(TokioClock::default()).tier(Silent("tenant")).build().unwrap();
    let service = service_fn(|request: Request<()>| {
        let found = Session::from_extensions(request.extensions()).is_some();
        std::future::ready(Ok::<_, Infallible>(Response::new(found)))
    });
    let mut layered = LayeredSessionLayer::new(sessions).layer(service);
    let found = at_once(layered.call(Request::new(()))).unwrap().unwrap();
    assert!(!found.into_body());
}

#[tokio::test]
async fn source_is_asked_for_every_declared_value() {
    #[derive(Debug)]
    struct Naming(Arc<Mutex<Vec<Vec<&'static str>>>>);

    impl Tier for Naming {
        fn name(&self) -> &'static str {
            "naming"
        }

        fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
            self.0.lock().unwrap().push(lookup.names().to_vec());
            TierFuture::ready(Found::value(&Theme("source".into())))
        }
    }
    let (app, asked) = (App::new(), Arc::default());
    let node = app.node_with(|sessions| sessions.tier(Naming(Arc::clone(&asked))));
    let mut browser = visitor(&node).await;
    asked.lock().unwrap().clear();
    let visit = async |session: Session| {
        let before = session.value::<Theme>();
        session.remove::<Theme>().await.unwrap();
        (before, session.value::<Theme>())
    };
    assert_eq!(browser.visit(&node, visit).await, (theme("light"), theme("source")));
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "once a load");
    assert!(asked[0].contains(&"theme") && asked[0].contains(&"current_division_id"), "{asked:?}");
}

#[tokio::test]
async fn failing_source_is_traced_once_a_second() {
    let app = App::new();
    let node = app.node_with(|sessions| sessions.tier(Broken));
    let (trace, _guard) = Trace::begin();
    for (passed, left_out) in [(0, "left_out=0"), (1000, "left_out=4")] {
        app.pass(Duration::from_millis(passed));
        for _ in 0..5 {
            visitor(&node).await;
        }
        assert_eq!(trace.lines_with(left_out), 1, "{}", trace.text());
    }
    assert_eq!(trace.lines_with("database is away"), 2);
    assert_eq!(node.sessions.stats().source_failures, 10);
}

/// A source that is late first, and fails then.
#[derive(Debug, Default)]
struct LateThenBroken(AtomicBool);

impl Tier for LateThenBroken {
    fn name(&self) -> &'static str {
        "tenants"
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        let broken = self.0.swap(true, Ordering::Relaxed);
        TierFuture::boxed(async move { if broken { Err("database is on fire".into()) } else { pending().await } })
    }
}

#[tokio::test]
async fn late_source_hides_no_later_error() {
    let app = App::new();
    let node = app.node_with(|sessions| sessions.tier(LateThenBroken::default()));
    let (trace, _guard) = Trace::begin();
    let first = async {
        let passing = async { app.pass(Duration::from_millis(250)) };
        tokio::join!(biased; visitor(&node), passing).0
    };
    first.await;
    visitor(&node).await;
    assert_eq!((trace.lines_with("no answer within"), trace.lines_with("on fire")), (1, 1), "{}", trace.text());
    assert_eq!(node.sessions.stats().source_failures, 2);
}

/// The driver's error, at the end of the causes.
fn driver(error: &(dyn Error + 'static)) -> String {
    iter::successors(Some(error), |error: &&'_ (dyn Error + 'static)| (*error).source()).last().unwrap().to_string()
}

#[tokio::test]
async fn store_outage_is_traced_with_its_cause() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = app.node_with(|sessions| sessions.tier(store.clone()));
    let mut browser = visitor(&node).await;
    let (trace, _guard) = Trace::begin();
    // A handler's own write, and one by the writeback.
    let fail = store.clone();
    let write = async move |session: Session| {
        fail.fail();
        session.set(theme("dark")).await.unwrap_err()
    };
    let error = browser.visit(&node, write).await;
    assert_eq!((error.kind(), driver(&error).as_str()), (WriteErrorKind::Unavailable, "told to fail"));
    let post = async || {
        let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
        node.writeback(writeback, browser.post_json(r#"{"theme":"dark"}"#)).await.status
    };
    let errors = || (trace.lines_with("ERROR"), trace.lines_with("told to fail"));
    assert_eq!((post().await, errors()), (StatusCode::SERVICE_UNAVAILABLE, (2, 2)), "{}", trace.text());
    app.pass(Duration::from_secs(1));
    // The failed write has left doubt, so that each load asks the store.
    assert_eq!(post().await, StatusCode::SERVICE_UNAVAILABLE);
    let job = node.sessions.of(Principal::new("ada")).await.unwrap_err();
    assert_eq!(driver(&job), "told to fail");
    assert!(trace.text().contains("failed to write") && trace.text().contains("failed to read"), "{}", trace.text());
    let stats = node.sessions.stats();
    assert!(stats.store_failures >= 4, "{stats:?}");
    store.heal();
    set(&mut browser, &node, theme("dark")).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    assert_eq!(node.sessions.stats().store_failures, stats.store_failures);
}

#[tokio::test]
async fn extractors_outage_is_traced_and_counted() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = app.node_with(|sessions| sessions.tier(store.clone()));
    let browser = visitor(&node).await;
    // A node that knows nothing yet has to ask.
    let node = app.node_with(|sessions| sessions.tier(store.clone()));
    store.fail();
    let (trace, _guard) = Trace::begin();
    let load = async || {
        let service = service_fn(async |request: Request<_>| {
            let loaded = Session::load(request.extensions()).await.map(drop);
            Ok::<_, Infallible>(Response::new(loaded))
        });
        let layered = LayeredSessionLayer::new(node.sessions.clone()).layer(service);
        layered.oneshot(browser.request()).await.unwrap().into_body().unwrap_err()
    };
    for _ in 0..3 {
        let error = load().await;
        assert_eq!((error.kind(), driver(&error).as_str()), (MissingSessionKind::Unavailable, "told to fail"));
    }
    assert_eq!(trace.lines_with("ERROR"), 1, "{}", trace.text());
    app.pass(Duration::from_secs(1));
    load().await;
    assert_eq!(trace.lines_with("left_out=2"), 1, "{}", trace.text());
    assert_eq!(node.sessions.stats().store_failures, 4);
}

#[tokio::test]
async fn missing_layer_is_traced_and_counted() {
    let app = App::new();
    let node = app.node();
    let (trace, _guard) = Trace::begin();
    for _ in 0..3 {
        let missing = node.sessions.load(&Extensions::new()).await.unwrap_err();
        assert_eq!(missing.kind(), MissingSessionKind::NoLayer);
    }
    assert_eq!(trace.lines_with("ERROR"), 1, "{}", trace.text());
    assert_eq!(node.sessions.stats().missing_layers, 3);
    // Without any chain the trace is one for all threads, which other tests may have had within this second.
    for _ in 0..200 {
        if trace.lines_with("LayeredSessionLayer") > 1 {
            break;
        }
        assert!(Session::load(&Extensions::new()).await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(trace.lines_with("LayeredSessionLayer"), 2);
}

#[tokio::test]
async fn bad_tokens_are_counted_and_not_traced() {
    let app = App::new();
    let node = app.node();
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    live.set(theme("dark")).await.unwrap();
    let token = live.relay().unwrap().to_string();
    let stats = || (node.sessions.stats().foreign_tokens, node.sessions.stats().refused_tokens);
    let (trace, _guard) = Trace::begin();
    let mut foreign = Browser::new();
    foreign.set("session", "made-up");
    get::<Theme>(&mut foreign, &node).await;
    assert_eq!(stats(), (1, 0));
    bring(&mut Browser::new(), &node, "r.made-up").await;
    assert_eq!(stats(), (2, 0));
    let mut other = visitor(&node).await;
    assert_eq!(bring(&mut other, &node, &token).await.code(), "relay_other_session");
    assert_eq!(stats(), (2, 1));
    let mut both = Browser::new();
    both.set(
        "session",
        &format!("{}; session={}", browser.cookie("session").unwrap(), other.cookie("session").unwrap()),
    );
    get::<Theme>(&mut both, &node).await;
    assert_eq!(stats(), (2, 2));
    // Sealed further ahead than the allowed skew of clocks.
    app.clock.set(app.clock.now() - Duration::from_secs(7200));
    get::<Theme>(&mut browser.clone(), &app.node()).await;
    for level in ["WARN", "ERROR"] {
        let clock = |line: &&str| !line.contains("clock was set back");
        let lines: Vec<_> = trace.text().lines().map(str::to_owned).collect();
        assert_eq!(lines.iter().map(String::as_str).filter(clock).filter(|line| line.contains(level)).count(), 0);
    }
}

// The handler of a failed load may answer as for a visitor.
#[tokio::test]
async fn answers_after_a_failed_load_are_private() {
    let app = App::new();
    let store = SpyStore::new();
    let node = app.node_with(|sessions| sessions.tier(store.clone()));
    let mut browser = Browser::new();
    set(&mut browser, &node, theme("light")).await;
    let cold = app.node_with(|sessions| sessions.tier(store.clone()));
    store.fail();
    let visit = async |sessions: Sessions, waits: bool| {
        let service = service_fn(move |request: Request<_>| async move {
            let _: &Request<Full<Bytes>> = &request;
            let found = match waits {
                true => Session::load(request.extensions()).await.is_ok(),
                false => Session::from_extensions(request.extensions()).is_some(),
            };
            Ok::<_, Infallible>(Response::new(found))
        });
        LayeredSessionLayer::new(sessions).layer(service).oneshot(browser.request()).await.unwrap()
    };
    for waits in [true, false] {
        let response = visit(cold.sessions.clone(), waits).await;
        assert!(!response.body());
        assert_eq!(response.headers()[header::VARY], "cookie");
        assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("private"));
    }
}
