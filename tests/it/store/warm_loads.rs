//! A load that memory answers costs the same over a store as without a store.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use layered_session::{LayeredSessionLayer, Principal, Session};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    support::{App, Browser, Division, Node, Theme, at_once, dark, signed_in},
    writes::stored,
};

/// Returns the allocations of a hundred warm loads.
fn allocations(node: &Node, browser: &Browser) -> u64 {
    let handler = async |request: Request<Full<Bytes>>| {
        let session = Session::load(request.extensions()).await.unwrap();
        assert_eq!(session.value::<Theme>(), dark());
        session.value::<Division>();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    };
    let layer = LayeredSessionLayer::new(node.sessions.clone());
    let send = |request| {
        let answer = at_once(layer.layer(service_fn(handler)).oneshot(request)).expect("a warm load waits for nothing");
        assert!(answer.unwrap().headers().get("set-cookie").is_none());
    };
    // The first load makes the allocations that happen once.
    send(browser.request());
    let requests: Vec<_> = (0..100).map(|_| browser.request()).collect();
    allocation_counter::measure(|| requests.into_iter().for_each(send)).count_total
}

/// Checks the warm loads of a browser that `begin` makes on a node.
async fn assert_warm_loads_need_no_store(begin: impl AsyncFn(&Node) -> Browser) {
    let (plain, (store, app)) = (App::new(), stored());
    let alone = allocations(&plain.node, &begin(&plain.node).await);
    let browser = begin(&app.node).await;
    // The node has loaded the records, and told the store of the use.
    let _ = browser.clone().visit(&app.node, async |session| session.value::<Division>()).await;
    store.take_operations();
    let over_store = allocations(&app.node, &browser);
    assert_eq!((store.take_operations(), over_store), (vec![], alone));
}

#[tokio::test]
async fn anonymous_warm_load_needs_no_store() {
    assert_warm_loads_need_no_store(async |node| {
        let mut browser = Browser::new();
        browser.visit(node, async |session| session.set(dark()).await.unwrap()).await;
        browser
    })
    .await;
}

async fn ada(node: &Node) -> Browser {
    let mut browser = signed_in(node, "ada").await;
    browser.visit(node, async |session| session.set(dark()).await.unwrap()).await;
    browser
}

#[tokio::test]
async fn signed_in_warm_load_needs_no_store() {
    assert_warm_loads_need_no_store(ada).await;
    assert_warm_loads_need_no_store(async |node| {
        let mut browser = ada(node).await;
        browser.visit(node, async |session| session.set(Division(3)).await.unwrap()).await;
        browser
    })
    .await;
}

// From an end of all sessions of any user on, each load compares the session with the user's record.
#[tokio::test]
async fn warm_load_after_revocation_needs_no_store() {
    assert_warm_loads_need_no_store(async |node| {
        let browser = ada(node).await;
        node.sessions.end_all_sessions(Principal::new("bob")).await.unwrap();
        browser
    })
    .await;
}

#[tokio::test]
async fn load_without_cookie_needs_no_store() {
    let (plain, (store, app)) = (App::new(), stored());
    let mut browser = Browser::new();
    browser.set("other", "cookie");
    let load = |node: &Node| {
        let loaded = browser.clone();
        let request = loaded.request();
        let layer = LayeredSessionLayer::new(node.sessions.clone());
        let handler = async |request: Request<Full<Bytes>>| {
            assert!(Session::load(request.extensions()).await.unwrap().is_new());
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        };
        allocation_counter::measure(|| {
            at_once(layer.layer(service_fn(handler)).oneshot(request)).expect("no wait").unwrap();
        })
        .count_total
    };
    let (alone, over_store) = (load(&plain.node), load(&app.node));
    assert_eq!((store.take_operations(), over_store), (vec![], alone));
}
