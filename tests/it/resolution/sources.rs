//! Computed tiers that are late or fail.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use http::{Request, Response};
use layered_session::{
    DefaultTier, LayeredSessionLayer, Principal, Session, SessionsBuilder, TokioClock,
    tier::{Found, TierFuture},
};
use tower::{Layer, Service, service_fn};

use crate::support::{
    App, Browser, Node, ScriptedSource, Theme, Trace, at_once, chain, cookie, memory, source, theme, visitor,
};

/// A source that never answers.
fn silent(name: &'static str) -> ScriptedSource {
    source(name, |_| TierFuture::boxed(pending()))
}

/// A source that fails at once.
fn broken() -> ScriptedSource {
    source("broken", |_| TierFuture::ready(Err("the tenant's database is away".into())))
}

/// A chain with memory and the cookie, as on the nodes of the application.
fn themed(app: &App) -> SessionsBuilder {
    chain(memory(), cookie(&app.ring), &app.clock).value::<Theme>()
}

/// A node whose chain asks a silent source before the defaults.
fn silent_node(app: &App) -> Node {
    let sessions = themed(app).tier(silent("tenant")).tier(DefaultTier::new().value(theme("plain")));
    Node::new(sessions.build().unwrap())
}

/// Runs a load past the source's deadline, which passes while the load waits.
async fn past_deadline<T>(app: &App, load: impl Future<Output = T>) -> T {
    let mut load = std::pin::pin!(load);
    assert!(load.as_mut().now_or_never().is_none(), "waits for the source");
    app.pass(Duration::from_millis(249));
    assert!(load.as_mut().now_or_never().is_none(), "waits until the deadline");
    app.pass(Duration::from_millis(1));
    load.now_or_never().expect("the next tier answers")
}

#[tokio::test]
async fn next_tier_answers_for_late_source() {
    let app = App::new();
    let (trace, _guard) = Trace::begin();
    let node = silent_node(&app);
    let visit = async |session: Session| session.value::<Theme>();
    let mut browser = Browser::new();
    assert_eq!(past_deadline(&app, browser.visit(&node, visit)).await, theme("plain"));
    // Another node, whose chain has no source, has stored the value in the cookie.
    let mut stored = visitor(&app.start()).await;
    assert_eq!(past_deadline(&app, stored.visit(&node, visit)).await, theme("light"));
    assert_eq!(
        past_deadline(&app, node.sessions.for_principal(Principal::new("ada"))).await.unwrap().value::<Theme>(),
        theme("plain")
    );
    assert_eq!(trace.lines_with("no answer within 250 ms"), 1, "{}", trace.text());
    assert_eq!(node.sessions.stats().source_failures, 3);
}

#[tokio::test]
async fn each_source_has_own_deadline() {
    let app = App::new();
    let sessions = themed(&app).tier(silent("first")).tier(silent("second"));
    let sessions = sessions.source_deadline(Duration::from_secs(2)).build().unwrap();
    let mut job = Box::pin(sessions.for_principal(Principal::new("ada")));
    for _ in 0..2 {
        assert!(at_once(job.as_mut()).is_none());
        app.pass(Duration::from_millis(1999));
        assert!(at_once(job.as_mut()).is_none());
        app.pass(Duration::from_millis(1));
    }
    assert!(at_once(job).is_some());
}

// A timer needs a runtime, and a read of the extensions needs none.
#[test]
fn from_extensions_sets_no_timer() {
    let sessions = themed(&App::new()).clock(TokioClock::default()).tier(silent("tenant")).build().unwrap();
    let service = service_fn(|request: Request<()>| {
        let found = Session::from_extensions(request.extensions()).is_some();
        std::future::ready(Ok::<_, Infallible>(Response::new(found)))
    });
    let mut layered = LayeredSessionLayer::new(sessions).layer(service);
    let found = at_once(layered.call(Request::new(()))).unwrap().unwrap();
    assert!(!found.into_body());
}

#[tokio::test]
async fn source_gets_all_declared_names() {
    let (app, asked) = (App::new(), Arc::<Mutex<Vec<Vec<&'static str>>>>::default());
    let names = Arc::clone(&asked);
    let naming = source("naming", move |lookup| {
        names.lock().unwrap().push(lookup.names().to_vec());
        TierFuture::ready(Found::value(&theme("source")))
    });
    let node = app.start_with(|sessions| sessions.tier(naming));
    let mut browser = visitor(&node).await;
    asked.lock().unwrap().clear();
    let visit = async |session: Session| {
        let before = session.value::<Theme>();
        session.remove::<Theme>().await.unwrap();
        (before, session.value::<Theme>())
    };
    assert_eq!(browser.visit(&node, visit).await, (theme("light"), theme("source")));
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "each load asks the source once");
    assert!(asked[0].contains(&"theme") && asked[0].contains(&"current_division_id"), "{asked:?}");
}

#[tokio::test]
async fn failing_source_trace_is_limited() {
    let app = App::new();
    let node = app.start_with(|sessions| sessions.tier(broken()));
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

#[tokio::test]
async fn late_source_trace_hides_no_later_error() {
    let app = App::new();
    let late = AtomicBool::new(true);
    let late_then_broken = source("tenants", move |_| {
        let late = late.swap(false, Ordering::Relaxed);
        TierFuture::boxed(async move { if late { pending().await } else { Err("database is on fire".into()) } })
    });
    let node = app.start_with(|sessions| sessions.tier(late_then_broken));
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
