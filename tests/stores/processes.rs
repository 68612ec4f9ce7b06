//! Two processes of the example `cluster` over one store, as clients on the network see the nodes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::{StatusCode, header};
use serde_json::{Value, json};

use self::{
    node::Node,
    visitor::{Answer, Visitor, answer},
};
use crate::redis::server::{server, server_with};

mod node;
#[path = "../browser/process.rs"]
mod process;
mod visitor;

/// The longest wait for the answer to the first request after the store has stopped.
const FIRST: Duration = Duration::from_secs(2);

/// The longest wait while the node asks the store no more. Shorter than the deadline of a call of the store.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Far shorter than the 30 seconds after which a node asks the store again without a notice.
const SOON: Duration = Duration::from_secs(8);

/// The calls without an answer after which a node asks its store no more.
const CALLS: usize = 5;

/// The paths that need no session.
const WITHOUT_SESSION: [&str; 6] = ["/node", "/stats", "/healthz", "/page.css", "/page.js", "/node.js"];

async fn counts_all_visits(a: &Node, b: &Node) {
    let visitor = Visitor::new();
    assert_eq!(visitor.get(a, "/visits").await.visits(), 0);
    assert_eq!(visitor.post(a, "/visits").await.visits(), 1);
    let posts = (0..40).map(|number| visitor.post(if number % 2 == 0 { a } else { b }, "/visits"));
    let counted: BTreeSet<_> = join_all(posts).await.iter().map(|answer| answer.visits()).collect();
    assert_eq!(counted, (2..=41).collect());
    assert_eq!(visitor.post(a, "/visits").await.visits(), 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_over_redis_count_all_visits() {
    let Some(server) = server() else { return };
    let [a, b] = Node::pair(&server.url());
    counts_all_visits(&a, &b).await;
    let visitor = Visitor::new();
    for (node, name) in [(&a, "a"), (&b, "b")] {
        assert_eq!(visitor.get(node, "/node").await.json(), json!({ "node": name }));
        let page = visitor.get(node, "/").await.text;
        assert!(page.contains(&format!(r#"<b id="node">{name}</b>"#)), "{page}");
        let stats = visitor.get(node, "/stats").await.json();
        assert_eq!((&stats["node"], &stats["store_open"]), (&json!(name), &json!(false)));
        visitor.until(node, "/stats", |answer| answer.json()["notice_link"] == "up").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_over_a_file_share_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = Node::pair(&format!("sqlite://{}", folder.path().join("sessions.db").display()));
    counts_all_visits(&a, &b).await;
    let visitor = Visitor::new();
    visitor.sign_in(&a, "ada").await;
    visitor.switch(&a, 4).await;
    let division = visitor.get(&b, "/division").await.json();
    assert_eq!((&division["user"], &division["value"]), (&json!("ada"), &json!(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_add_no_visit() {
    let Some(server) = server() else { return };
    let [a, b] = Node::pair(&server.url());
    let visitor = Visitor::new();
    visitor.sign_in(&a, "ada").await;
    assert_eq!(visitor.post(&a, "/visits").await.visits(), 1);
    for path in ["/visits", "/logout-everywhere"] {
        for site in ["https://evil.example", &format!("http://{}", b.address())] {
            let refused = answer(visitor.at(&a).from_site(site).post(path)).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path} {site}");
            assert_eq!(refused.json()["code"], "cross_site");
        }
        // An old browser sends `Origin` alone.
        let old = visitor.at(&a).post(path).header(header::ORIGIN, "null").header("sec-fetch-site", "");
        assert_eq!(answer(old).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(visitor.get(&a, "/visits").await.visits(), 1);
    assert_eq!(visitor.user(&a).await, "ada");
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_reaches_socket_of_other_node() {
    let Some(server) = server() else { return };
    let [a, b] = Node::pair(&server.url());
    let visitor = Visitor::new();
    visitor.switch(&a, 2).await;
    let mut socket = visitor.socket(&b).await;
    socket.shows(2).await;
    let begin = Instant::now();
    visitor.switch(&a, 5).await;
    socket.shows(5).await;
    // Without notices the socket learns of the switch within 30 seconds.
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let mut other = visitor.socket(&a).await;
    socket.switch(1).await;
    other.shows(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_out_ends_socket_of_other_node() {
    let Some(server) = server() else { return };
    let [a, b] = Node::pair(&server.url());
    let visitor = Visitor::new();
    visitor.sign_in(&a, "ada").await;
    assert_eq!(visitor.user(&b).await, "ada");
    let socket = visitor.socket(&b).await;
    assert_eq!(visitor.post(&a, "/logout").await.status, StatusCode::SEE_OTHER);
    assert_eq!(socket.closed().await, "destroyed");
    assert_eq!(visitor.user(&b).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_everywhere_ends_sessions_of_all_nodes() {
    let Some(server) = server() else { return };
    let [a, b] = Node::pair(&server.url());
    let (one, two, eve) = (Visitor::new(), Visitor::new(), Visitor::new());
    one.sign_in(&a, "ada").await;
    two.sign_in(&b, "ada").await;
    eve.sign_in(&b, "eve").await;
    let sockets = [one.socket(&b).await, two.socket(&a).await, two.socket(&b).await];
    assert_eq!(one.post(&a, "/logout-everywhere").await.status, StatusCode::SEE_OTHER);
    for socket in sockets {
        assert!(["destroyed", "revoked"].contains(&socket.closed().await.as_str()));
    }
    for node in [&a, &b] {
        assert_eq!(one.user(node).await, Value::Null);
        assert_eq!(two.user(node).await, Value::Null);
        assert_eq!(eve.user(node).await, "eve");
    }
    // A visitor has no other sessions.
    assert_eq!(one.post(&a, "/logout-everywhere").await.status, StatusCode::SEE_OTHER);
}

/// Waits until a node asks its store no more, and checks the answers. The node does not know the session.
async fn fails_at_once(node: &Node, cold: &Visitor) {
    for _ in 0..CALLS {
        cold.get(node, "/visits").await.is_unavailable_within(FIRST);
    }
    assert_eq!(cold.get(node, "/stats").await.json()["store_open"], true);
    refused_at_once(async || cold.get(node, "/visits").await).await;
    refused_at_once(async || cold.post(node, "/visits").await).await;
    refused_at_once(async || cold.form(node, "/division", &[("id", "1")]).await).await;
    refused_at_once(async || Visitor::new().post(node, "/visits").await).await;
    let page = answer(cold.at(node).get("/").header(header::ACCEPT, "text/html,*/*;q=0.8")).await;
    assert_eq!((page.status, page.retry_after.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    assert!(page.text.starts_with("<!doctype html>"), "{page:?}");
    goes_on(node, cold).await;
}

/// Checks that a request fails without a call of the store. A first request may be the probe of the store.
async fn refused_at_once(ask: impl AsyncFn() -> Answer) {
    let first = ask().await;
    let refused = if first.took < AT_ONCE { first } else { ask().await };
    refused.is_unavailable_within(AT_ONCE);
}

/// Checks the paths that need no session.
async fn goes_on(node: &Node, visitor: &Visitor) {
    for path in WITHOUT_SESSION {
        let answer = visitor.get(node, path).await;
        assert!(answer.status == StatusCode::OK && answer.took < FIRST, "{path}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_store_fails_requests_and_heals() {
    let Some(mut server) = server_with(&["--appendonly", "yes", "--appendfsync", "no"]) else { return };
    let [a, b] = Node::pair(&server.url());
    let (cold, warm) = (Visitor::new(), Visitor::new());
    assert_eq!(cold.post(&a, "/visits").await.visits(), 1);
    assert_eq!(warm.post(&b, "/visits").await.visits(), 1);
    warm.until(&b, "/stats", |answer| answer.json()["notice_link"] == "up").await;
    let mut socket = warm.socket(&b).await;
    socket.shows(-1).await;
    server.kill();
    cold.get(&b, "/visits").await.is_unavailable_within(FIRST);
    warm.until(&b, "/stats", |answer| answer.json()["notice_link"] == "down").await;
    let down = Instant::now();
    warm.until(&b, "/visits", |answer| answer.status == StatusCode::SERVICE_UNAVAILABLE).await;
    // The node knows the link for down, so memory answers for a second.
    assert!(down.elapsed() < SOON, "{:?}", down.elapsed());
    socket.switch(3).await;
    socket.until(|frame| frame["event"] == "error").await;
    fails_at_once(&b, &cold).await;

    server.start();
    assert_eq!(cold.until(&b, "/visits", |answer| answer.status == StatusCode::OK).await.visits(), 1);
    warm.until(&b, "/stats", |answer| answer.json()["notice_link"] == "up").await;
    assert_eq!(warm.get(&b, "/stats").await.json()["store_open"], false);
    warm.switch(&b, 4).await;
    socket.shows(4).await;
    assert_eq!(warm.post(&b, "/visits").await.visits(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_store_leaves_warm_reads() {
    let Some(server) = server() else { return };
    let [a, b] = Node::pair(&server.url());
    let (cold, warm) = (Visitor::new(), Visitor::new());
    assert_eq!(cold.post(&a, "/visits").await.visits(), 1);
    warm.until(&b, "/stats", |answer| answer.json()["notice_link"] == "up").await;
    assert_eq!(warm.post(&b, "/visits").await.visits(), 1);
    server.pause();
    cold.get(&b, "/visits").await.is_unavailable_within(FIRST);
    Visitor::new().post(&b, "/visits").await.is_unavailable_within(FIRST);
    // The notice link is silent, and the node does not know yet that the store has stopped.
    assert_eq!(warm.get(&b, "/visits").await.visits(), 1);
    fails_at_once(&b, &cold).await;
    assert_eq!(warm.get(&b, "/visits").await.visits(), 1);
    warm.until(&b, "/stats", |answer| answer.json()["notice_link"] == "down").await;
    let down = Instant::now();
    warm.until(&b, "/visits", |answer| answer.status == StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(down.elapsed() < SOON, "{:?}", down.elapsed());
    server.resume();
    assert_eq!(cold.until(&b, "/visits", |answer| answer.status == StatusCode::OK).await.visits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn degraded_node_answers_reads_alone() {
    let Some(mut server) = server_with(&["--appendonly", "yes", "--appendfsync", "no"]) else { return };
    let [a, b] = ["a", "b"].map(|name| Node::with(name, &server.url(), &[("DEGRADE", "1")]));
    let visitor = Visitor::new();
    visitor.sign_in(&a, "ada").await;
    visitor.switch(&a, 2).await;
    assert_eq!(visitor.post(&a, "/visits").await.visits(), 1);
    server.kill();
    visitor.until(&a, "/stats", |answer| answer.json()["notice_link"] == "down").await;
    let begin = Instant::now();
    while visitor.get(&a, "/stats").await.json()["degraded_loads"] == 0 {
        assert_eq!(visitor.get(&a, "/visits").await.visits(), 1);
        assert_eq!(visitor.user(&a).await, "ada");
        assert!(begin.elapsed() < SOON);
    }
    assert_eq!(visitor.get(&a, "/").await.status, StatusCode::OK);
    visitor.post(&a, "/visits").await.is_unavailable_within(FIRST);

    // The other node does not know whether the session has ended.
    let division = visitor.get(&b, "/division").await.json();
    assert_eq!((&division["user"], &division["value"]), (&Value::Null, &json!(-1)));
    visitor.get(&b, "/visits").await.is_unavailable_within(FIRST);
    visitor.form(&b, "/division", &[("id", "3")]).await.is_unavailable_within(FIRST);
    let page = visitor.get(&b, "/").await;
    assert!(page.status == StatusCode::OK && page.text.contains(r#"class="warn" >"#), "{page:?}");
    goes_on(&b, &visitor).await;

    server.start();
    visitor.until(&b, "/division", |answer| answer.json()["user"] == "ada").await;
    assert_eq!(visitor.get(&b, "/visits").await.visits(), 1);
}
