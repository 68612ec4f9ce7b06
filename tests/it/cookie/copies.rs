//! Dropped responses and copied cookies, in chains without memory and with memory.

use std::{convert::Infallible, future::pending};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use layered_session::{LayeredSessionLayer, Session, testing::ManualClock};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Browser, Node, Theme, bare, chain, cookie, memory, ring};

fn node(has_memory: bool) -> Node {
    let (ring, clock) = (ring(), ManualClock::new());
    let chain = if has_memory { chain(memory(), cookie(&ring), &clock) } else { bare(&ring, &clock) };
    Node::new(chain.value::<Theme>().build().unwrap())
}

async fn choose(browser: &mut Browser, node: &Node, theme: &'static str) {
    browser.visit(node, async move |session| session.set(Theme(theme.into())).await.unwrap()).await;
}

async fn chosen(browser: &mut Browser, node: &Node) -> String {
    browser.visit(node, async |session| session.value::<Theme>().0).await
}

#[tokio::test]
async fn dropped_response_loses_write_without_memory() {
    for (memory, expected) in [(false, "light"), (true, "dark")] {
        let (mut browser, node) = (Browser::new(), node(memory));
        choose(&mut browser, &node, "light").await;
        let stuck = service_fn(async |request: Request<Full<Bytes>>| {
            let session = Session::load(request.extensions()).await.unwrap();
            session.set(Theme("dark".into())).await.unwrap();
            pending::<Result<Response<()>, Infallible>>().await
        });
        let response = LayeredSessionLayer::new(node.sessions.clone()).layer(stuck).oneshot(browser.request());
        assert!(response.now_or_never().is_none());
        assert_eq!(chosen(&mut browser, &node).await, expected, "memory: {memory}");
    }
}

#[tokio::test]
async fn copied_cookie_outlives_sign_out_without_memory() {
    for (memory, expected) in [(false, "dark"), (true, "")] {
        let (mut browser, mut thief, node) = (Browser::new(), Browser::new(), node(memory));
        choose(&mut browser, &node, "dark").await;
        thief.set("session", browser.cookie("session").unwrap());
        browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
        assert_eq!(browser.cookie("session"), None);
        assert_eq!(chosen(&mut thief, &node).await, expected, "memory: {memory}");
    }
}
