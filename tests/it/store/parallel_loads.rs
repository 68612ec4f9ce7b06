//! Two loads of one request: the slower load uses the result of the faster load.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use layered_session::{
    LayeredSessionLayer, Session, SharedTier,
    testing::{ManualClock, Operation, SpyStore},
    tier::{BoxError, Found, Source, TierFuture},
};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{App, Browser, Node, Theme, bare, dark, first_write, ring, source};

type Gates = Arc<Mutex<Vec<oneshot::Receiver<()>>>>;

fn gated_source(gates: &Gates) -> impl Source + use<> {
    let gates = Arc::clone(gates);
    source("slow", move |_| {
        let gate = gates.lock().unwrap().pop();
        TierFuture::boxed(async move {
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            Ok(Found::nothing())
        })
    })
}

/// Runs two loads of one request, the second slower than the first; `between` runs after the first.
async fn two_loads(
    node: &Node,
    gates: &Gates,
    browser: &Browser,
    between: impl Fn() + Send + Sync + 'static,
) -> (bool, bool) {
    let ((open1, gate1), (open2, gate2)) = (oneshot::channel::<()>(), oneshot::channel::<()>());
    *gates.lock().unwrap() = vec![gate2, gate1];
    let out = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&out);
    let opens = Mutex::new(Some((open1, open2)));
    let between = Arc::new(between);
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let (open1, open2) = opens.lock().unwrap().take().unwrap();
        let (slot, between) = (Arc::clone(&slot), Arc::clone(&between));
        async move {
            let mut one = Box::pin(Session::load(request.extensions()));
            let mut two = Box::pin(Session::load(request.extensions()));
            assert!(one.as_mut().now_or_never().is_none());
            assert!(two.as_mut().now_or_never().is_none());
            open1.send(()).unwrap();
            let one = one.await;
            between();
            open2.send(()).unwrap();
            let two = two.await;
            *slot.lock().unwrap() = Some((one.is_ok(), two.is_ok()));
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
        }
    });
    LayeredSessionLayer::new(node.sessions.clone()).layer(service).oneshot(browser.request()).await.unwrap();
    out.lock().unwrap().take().unwrap()
}

#[tokio::test]
async fn second_load_counts_no_lookup() {
    let gates = Gates::default();
    let app = App::new();
    let node = app.start_with(|sessions| sessions.tier(gated_source(&gates)).source_deadline(Duration::from_secs(60)));
    let browser = first_write(&node, dark()).await;
    let before = node.sessions.stats();
    assert_eq!(two_loads(&node, &gates, &browser, || ()).await, (true, true));
    let after = node.sessions.stats();
    assert_eq!((after.hits - before.hits, after.misses - before.misses), (1, 0));
    let mut foreign = Browser::new();
    foreign.set("session", "x");
    two_loads(&node, &gates, &foreign, || ()).await;
    assert_eq!(node.sessions.stats().foreign_tokens - after.foreign_tokens, 1);
}

#[tokio::test]
async fn second_load_reuses_store_answer() {
    let (gates, store) = (Gates::default(), SpyStore::new());
    let sessions = bare(&ring(), &ManualClock::new()).value::<Theme>().tier(SharedTier::new(store.clone()));
    let sessions = sessions.tier(gated_source(&gates)).source_deadline(Duration::from_secs(60));
    let node = Node::new(sessions.build().unwrap());
    let browser = first_write(&node, dark()).await;
    store.take_operations();
    let spy = store.clone();
    let loads = two_loads(&node, &gates, &browser, move || spy.fail()).await;
    let calls = store.take_operations();
    assert_eq!((loads, calls), ((true, true), vec![Operation::Read]));
}
