//! Values as pages see them: in the event stream of the writeback, and in the inspector.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use http::{Method, StatusCode};
use layered_session::{
    DefaultTier, InspectorBody, LayeredSessionLayer, Session, SessionInspector, SessionValue, SessionWriteback,
    WritebackBody,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};

use crate::support::{App, Browser, Node, Theme, Trace, set, socket, theme, told, visitor};

/// The time from a change to the inspector's next read.
const SETTLED: Duration = Duration::from_millis(250);

/// A type whose encoding has another order each time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Prices(HashMap<String, u32>);

impl SessionValue for Prices {
    const NAME: &'static str = "prices";
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Visited {
    pages: HashSet<u32>,
}

impl SessionValue for Visited {
    const NAME: &'static str = "visited";
}

/// A value with an id, and with a list of ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    id: u64,
    others: Vec<i64>,
}

impl SessionValue for Account {
    const NAME: &'static str = "account";
}

fn account(id: u64) -> Account {
    Account { id, others: Vec::new() }
}

fn prices(many: u32) -> Prices {
    Prices((0..many).map(|n| (format!("item {n}"), n)).collect())
}

/// A node with a default for the prices.
fn node(app: &App) -> Node {
    let values = app.chain(DefaultTier::new().value(prices(30))).value::<Theme>().value::<Prices>().value::<Visited>();
    Node::new(values.value::<Account>().build().unwrap())
}

/// The stream of a page that may read all values.
async fn stream(browser: &Browser, node: &Node) -> WritebackBody {
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let writeback = writeback.expose::<Prices>().unwrap().allow::<Visited>().unwrap().allow::<Account>().unwrap();
    node.stream(writeback, browser.request_of_page(Method::GET, "/events", "")).await.into_body()
}

/// The stream of the inspector's page.
async fn inspector(browser: &Browser, node: &Node) -> InspectorBody {
    let inspector = LayeredSessionLayer::new(node.sessions.clone()).layer(SessionInspector::new(&node.sessions));
    inspector.oneshot(browser.request_of_page(Method::GET, "/events", "")).await.unwrap().into_body()
}

/// The events of a text, by name.
fn events(text: &str) -> Vec<(&str, Value)> {
    let events = text.split("event: ").filter_map(|event| event.trim_end().split_once("\ndata: "));
    events.map(|(name, data)| (name, serde_json::from_str(data).unwrap())).collect()
}

/// Changes the theme eight times, and asserts that the page hears of no other value.
async fn assert_theme_is_told_alone(live: &Session, page: &mut WritebackBody) {
    for n in 0..8 {
        live.set(theme(&n.to_string())).await.unwrap();
        assert_eq!(told(page), format!("event: set\ndata: {{\"theme\":\"{n}\"}}\n\n"));
    }
}

#[tokio::test]
async fn stream_ignores_map_order() {
    let app = App::new();
    let node = node(&app);
    let mut browser = visitor(&node).await;
    let visited = Visited { pages: (0..30).collect() };
    set(&mut browser, &node, visited.clone()).await;
    let mut page = stream(&browser, &node).await;
    let state = told(&mut page);
    let values = &events(&state)[0].1["values"];
    assert_eq!(serde_json::from_value::<Visited>(values["visited"].clone()).unwrap(), visited);
    assert_eq!(serde_json::from_value::<Prices>(values["prices"].clone()).unwrap(), prices(30));

    let live = socket(&browser, &node).await;
    assert_theme_is_told_alone(&live, &mut page).await;
    live.set(prices(20)).await.unwrap();
    let set = told(&mut page);
    let (name, values) = &events(&set)[0];
    assert_eq!((*name, values.as_object().unwrap().len()), ("set", 1));
    assert_eq!(serde_json::from_value::<Prices>(values["prices"].clone()).unwrap(), prices(20));
    assert_theme_is_told_alone(&live, &mut page).await;

    // After a removal the default answers, which has no version.
    live.remove::<Prices>().await.unwrap();
    assert_eq!(events(&told(&mut page))[0].1["prices"].as_object().unwrap().len(), 30);
    assert_theme_is_told_alone(&live, &mut page).await;
}

#[tokio::test]
async fn inspector_ignores_map_order() {
    let app = App::new();
    let node = node(&app);
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    live.set(Visited { pages: (0..30).collect() }).await.unwrap();
    let mut page = inspector(&browser, &node).await;
    let first = told(&mut page);
    let values = events(&first)[0].1["values"].clone();
    assert_eq!(values[1]["value"].as_object().unwrap().len(), 30);
    assert_eq!(values[2]["value"]["pages"].as_array().unwrap().len(), 30);
    app.pass(SETTLED);
    live.set(theme("dark")).await.unwrap();
    assert_eq!(events(&told(&mut page)).len(), 2, "a report and a change");
    app.pass(SETTLED);
    assert_eq!(told(&mut page), "");
}

const LAST_EXACT: u64 = (1 << 53) - 1;

#[tokio::test]
async fn unsafe_integers_are_not_sent() {
    let (trace, _guard) = Trace::begin();
    let app = App::new();
    let node = node(&app);
    let mut browser = visitor(&node).await;
    set(&mut browser, &node, account(LAST_EXACT + 1)).await;
    let mut page = stream(&browser, &node).await;
    let state = told(&mut page);
    assert!(state.starts_with("event: state\n") && !state.contains("account"), "{state}");

    let live = socket(&browser, &node).await;
    live.set(account(LAST_EXACT)).await.unwrap();
    let exact = format!("event: set\ndata: {{\"account\":{{\"id\":{LAST_EXACT},\"others\":[]}}}}\n\n");
    assert_eq!(told(&mut page), exact);
    let removed = "event: removed\ndata: [\"account\"]\n\n";
    for negative in [-(1 << 53), i64::MIN] {
        live.set(Account { id: 1, others: vec![0, negative] }).await.unwrap();
        assert_eq!(told(&mut page), removed, "the page would keep an older value");
    }
    let errors = || {
        let trace = trace.text();
        trace.lines().filter(|line| line.contains("ERROR") && line.contains("account")).count()
    };
    assert_eq!(errors(), 1, "{}", trace.text());
    assert!(trace.text().contains("encode such integers as strings"));

    app.pass(Duration::from_secs(60));
    told(&mut page);
    let body = format!(r#"{{"account":{{"id":{},"others":[]}}}}"#, u64::MAX);
    let writeback = SessionWriteback::new(&node.sessions).allow::<Account>().unwrap();
    let answer = node.writeback(writeback, browser.post_json(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "the type accepts the integer");
    assert_eq!((told(&mut page).as_str(), errors()), (removed, 2));
    assert_eq!(live.value::<Account>(), account(u64::MAX));
}

#[tokio::test]
async fn inspector_shows_large_integers_as_text() {
    let app = App::new();
    let node = node(&app);
    let mut browser = visitor(&node).await;
    for (id, value, text) in [
        (LAST_EXACT, json!({ "id": LAST_EXACT, "others": [] }), Value::Null),
        (u64::MAX, Value::Null, json!(r#"{"id":18446744073709551615,"others":[]}"#)),
    ] {
        set(&mut browser, &node, account(id)).await;
        let report = told(&mut inspector(&browser, &node).await);
        let shown = &events(&report)[0].1["values"][3];
        assert_eq!((&shown["name"], &shown["value"], &shown["text"]), (&json!("account"), &value, &text));
    }
}
