//! The inspector's event stream: the events after a change, and the requests that may open the stream.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use layered_session::{DefaultTier, SessionInspector, SessionValue, SessionWriteback};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tower::ServiceExt;

use super::{Draft, HEARTBEAT, Page, SETTLED, ask, node, report, request, value};
use crate::support::{Answer, App, BEAT, Browser, DAY, Node, Theme, set, socket, theme, visitor};

#[tokio::test]
async fn stream_shows_every_change() {
    let app = App::new();
    let node = node(&app);
    let mut browser = visitor(&node).await;
    let mut page = Page::opened(&browser, &node).await;
    set(&mut browser, &node, theme("dark")).await;
    let (report, changes) = page.changes();
    let row = |report: &Value, name: &str| value(report, name)["tiers"][0]["version"].clone();
    let set_to = json!({ "kind": "set", "name": "theme", "version": row(&report, "theme"), "origin": "fresh" });
    assert_eq!((&value(&report, "theme")["value"], changes), (&json!("dark"), json!([set_to])));
    app.pass(SETTLED);
    page.told();

    let live = socket(&browser, &node).await;
    live.remove::<Theme>().await.unwrap();
    let (report, changes) = page.changes();
    let removed = json!({ "kind": "removed", "name": "theme", "version": row(&report, "theme"), "origin": "fresh" });
    assert_eq!((&value(&report, "theme")["value"], changes), (&json!("light"), json!([removed])));
    live.set(Draft(1)).await.unwrap();
    page.told();
    app.pass(Duration::from_secs(60));
    let (report, changes) = page.changes();
    assert_eq!(
        (&value(&report, "draft")["value"], changes),
        (&Value::Null, json!([{ "kind": "expired", "name": "draft" }]))
    );

    live.set(Draft(2)).await.unwrap();
    page.told();
    live.clear().await.unwrap();
    let (_, changes) = page.changes();
    let kinds: Vec<_> = changes.as_array().unwrap().iter().map(|change| change["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["cleared", "removed"]);
    browser.visit(&node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(page.told(), "event: closed\ndata: \"renewed\"\n\n");
    assert!(matches!(page.stream.frame().now_or_never(), Some(None)));
}

#[tokio::test]
async fn inspector_marks_other_nodes_changes() {
    let app = App::new();
    let (here, there) = (node(&app), node(&app));
    let mut browser = visitor(&here).await;
    let mut page = Page::opened(&browser, &here).await;
    app.pass(Duration::from_secs(1));
    set(&mut browser, &there, theme("theirs")).await;
    browser.visit(&here, async |session| session.value::<Theme>()).await;
    let (report, changes) = page.changes();
    assert_eq!((&value(&report, "theme")["value"], &changes[0]["origin"]), (&json!("theirs"), &json!("carried")));
}

#[tokio::test]
async fn inspector_reports_outdated_cookie() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let mut page = Page::opened(&browser, &node).await;
    // A request makes the change. The response is sealed after the page was told of the change.
    let mut page = browser
        .visit(&node, async move |session| {
            session.set(theme("dark")).await.unwrap();
            assert_eq!(page.changes().0["session"]["in_step"], false);
            page
        })
        .await;
    assert_eq!(page.told(), "");
    app.pass(SETTLED);
    assert_eq!(page.report()["session"]["in_step"], true);
    // A socket makes the change, without a response.
    socket(&browser, &node).await.set(theme("blue")).await.unwrap();
    assert_eq!(page.changes().0["session"]["in_step"], false);
    app.pass(SETTLED);
    assert_eq!(page.told(), "");
    let mut other = Page::open(&browser, &node).await;
    assert_eq!((&other.report()["session"]["in_step"], other.head.get(header::SET_COOKIE)), (&json!(false), None));
    // A read notifies no watcher: the page sees the read at the next heartbeat.
    browser.visit(&node, async |session| session.value::<Theme>()).await;
    app.pass(HEARTBEAT);
    assert_eq!(page.report()["session"]["in_step"], true);
}

#[tokio::test]
async fn open_inspector_extends_no_session() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let mut page = Page::open(&browser, &node).await;
    let first = page.report();
    let ms = |report: &Value, field: &str| report["session"][field].as_u64().unwrap();
    let now = first["now"].as_u64().unwrap();
    let (idle, absolute) = (2 * DAY.as_millis() as u64, 30 * DAY.as_millis() as u64);
    assert_eq!([ms(&first, "created"), ms(&first, "expires"), ms(&first, "ends")], [now, now + idle, now + absolute]);
    for _ in 0..24 {
        app.pass(Duration::from_secs(3599));
        assert_eq!(page.told(), BEAT);
    }
    browser.visit(&node, async |session| session.value::<Theme>()).await;
    app.pass(HEARTBEAT);
    assert_eq!(ms(&page.report(), "expires"), now + 24 * 3_599_000 + idle);
    app.pass(DAY);
    page.told();
    app.pass(DAY);
    assert_eq!(page.told(), "event: closed\ndata: \"expired\"\n\n");
}

/// A refusal: a complete answer instead of a stream, which would not end.
async fn refused(node: &Node, request: Request<Full<Bytes>>) -> Answer {
    let response = ask(node, request).await;
    assert_ne!(response.status(), StatusCode::OK);
    Answer::of(response).await
}

// R24, R29: only a GET of the application's own page opens the inspector's stream.
#[tokio::test]
async fn only_same_origin_get_opens_stream() {
    let node = App::new().node;
    let browser = visitor(&node).await;
    for path in ["/events", "/?events"] {
        for site in ["cross-site", "same-site", "none", ""] {
            let mut request = request(&browser, Method::GET, path);
            request.headers_mut().insert("sec-fetch-site", site.parse().unwrap());
            if site.is_empty() {
                request.headers_mut().remove("sec-fetch-site");
            }
            let answer = refused(&node, request).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "cross_site"), "{site}");
        }
        // On plain http to a host other than loopback, an `EventSource` sends neither `Sec-Fetch-Site` nor `Origin`.
        let mut event_source = browser.request_of(Method::GET, path, "");
        event_source.headers_mut().insert(header::ACCEPT, "text/event-stream".parse().unwrap());
        let opened = ask(&node, event_source).await;
        assert_eq!(opened.status(), StatusCode::OK);
        assert_eq!(opened.headers()["cross-origin-resource-policy"], "same-origin");
        for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
            let answer = refused(&node, request(&browser, method, path)).await;
            let allow = &answer.headers[header::ALLOW];
            assert_eq!((answer.status, allow.to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, "GET"));
        }
    }
    let bare = SessionInspector::new(&node.sessions).oneshot(request(&browser, Method::GET, "/events")).await.unwrap();
    assert_eq!(
        (bare.status(), Answer::of(bare).await.code().as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "no_layer")
    );
    let page = Page::open(&browser, &node).await;
    assert_eq!(page.head[header::CONTENT_TYPE], "text/event-stream");
    assert!(page.head[header::CACHE_CONTROL].to_str().unwrap().contains("no-store"));
    assert_eq!(page.head[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
}

// R29: a request with an ended session is answered with 204, so that the page stops asking.
#[tokio::test]
async fn ended_session_gets_no_stream() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    socket(&browser, &node).await.destroy().await.unwrap();
    let answer = refused(&node, request(&browser, Method::GET, "/events")).await;
    assert_eq!((answer.status, answer.body.len(), answer.set_cookies()), (StatusCode::NO_CONTENT, 0, vec![]));
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    app.pass(Duration::from_secs(60));
    assert_eq!(report(&browser, &node).await["session"]["state"], "none");
}

/// JSON with a layout of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Layout(Box<RawValue>);

impl SessionValue for Layout {
    const NAME: &'static str = "layout";
}

#[tokio::test]
async fn value_cannot_break_event() {
    let app = App::new();
    let node = Node::new(app.chain(DefaultTier::new()).value::<Layout>().build().unwrap());
    let mut browser = Browser::new();
    let laid = || Layout(serde_json::from_str("[1,\n\n\r\"event: closed\\n\"]").unwrap());
    set(&mut browser, &node, laid()).await;
    assert_eq!(value(&report(&browser, &node).await, "layout")["value"], json!([1, "event: closed\n"]));
    let writeback = SessionWriteback::new(&node.sessions).expose::<Layout>().unwrap();
    let mut stream = node.stream(writeback, request(&browser, Method::GET, "/events")).await.into_body();
    let frame = stream.frame().now_or_never().unwrap().unwrap().unwrap();
    let told = std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    assert_eq!((told.matches('\n').count(), told.matches('\r').count()), (3, 0), "{told}");
}
