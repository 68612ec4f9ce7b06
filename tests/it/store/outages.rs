//! A store that is down.

use std::{convert::Infallible, error::Error, iter, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use layered_session::{
    LayeredSessionLayer, MissingSessionKind, Principal, Session, SessionWriteback, Sessions, SharedTier,
    WriteErrorKind,
    testing::SpyStore,
    tier::{Ask, Commit, Committed, Snapshot, Store, StoreFuture, Touch},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{App, Theme, Trace, first_write, get, set, theme, visitor};

/// Returns the text of the driver's error, the last in the chain of causes.
fn driver(error: &(dyn Error + 'static)) -> String {
    iter::successors(Some(error), |error: &&'_ (dyn Error + 'static)| (*error).source()).last().unwrap().to_string()
}

#[tokio::test]
async fn store_outage_trace_names_cause() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let mut browser = visitor(&node).await;
    let (trace, _guard) = Trace::begin();
    // The handler's own write, and a write by the writeback.
    let fail = store.clone();
    let write = async move |session: Session| {
        fail.fail();
        session.set(theme("dark")).await.unwrap_err()
    };
    let error = browser.visit(&node, write).await;
    assert_eq!(
        (error.kind(), driver(&error).as_str()),
        (WriteErrorKind::Unavailable, "the test told the store to fail")
    );
    let post = async || {
        let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
        node.writeback(writeback, browser.post_json(r#"{"theme":"dark"}"#)).await.status
    };
    let errors = || (trace.lines_with("ERROR"), trace.lines_with("the test told the store to fail"));
    assert_eq!((post().await, errors()), (StatusCode::SERVICE_UNAVAILABLE, (2, 2)), "{}", trace.text());
    app.pass(Duration::from_secs(1));
    // The outcome of the failed write is unknown, so each load asks the store.
    assert_eq!(post().await, StatusCode::SERVICE_UNAVAILABLE);
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap_err();
    assert_eq!(driver(&job), "the test told the store to fail");
    assert!(trace.text().contains("failed to write") && trace.text().contains("failed to read"), "{}", trace.text());
    let stats = node.sessions.stats();
    assert!(stats.store_failures >= 4, "{stats:?}");
    store.heal();
    set(&mut browser, &node, theme("dark")).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    assert_eq!(node.sessions.stats().store_failures, stats.store_failures);
}

#[tokio::test]
async fn failed_load_is_traced_and_counted() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let browser = visitor(&node).await;
    // A node with an empty memory has to ask the store.
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
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
        assert_eq!(
            (error.kind(), driver(&error).as_str()),
            (MissingSessionKind::Unavailable, "the test told the store to fail")
        );
    }
    assert_eq!(trace.lines_with("ERROR"), 1, "{}", trace.text());
    app.pass(Duration::from_secs(1));
    load().await;
    assert_eq!(trace.lines_with("left_out=2"), 1, "{}", trace.text());
    assert_eq!(node.sessions.stats().store_failures, 4);
}

// A handler that did not get its session may answer as for a visitor: a cache must not give that answer to others.
#[tokio::test]
async fn failed_load_makes_response_private() {
    let app = App::new();
    let store = SpyStore::new();
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let browser = first_write(&node, theme("light")).await;
    let cold = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
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

/// A store that answers an ask with no snapshot, or with two.
#[derive(Debug)]
struct Miscounting(usize);

impl Store for Miscounting {
    fn name(&self) -> &'static str {
        "miscounting"
    }

    fn read<'a>(&'a self, _: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::ready(Ok((0..self.0).map(|_| Snapshot::Absent).collect()))
    }

    fn commit<'a>(&'a self, _: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::ready(Ok(Committed::Absent))
    }

    fn touch<'a>(&'a self, _: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::ready(Ok(()))
    }
}

#[tokio::test]
async fn wrong_snapshot_count_fails_load() {
    for snapshots in [0, 2] {
        let node = App::new().start_with(|sessions| sessions.tier(SharedTier::new(Miscounting(snapshots))));
        let error = node.sessions.for_principal(Principal::new("ada")).await.unwrap_err();
        assert_eq!(driver(&error), format!("the store gave {snapshots} snapshots for 1 ask"));
        assert_eq!(node.sessions.stats().store_failures, 1);
    }
}
