//! How values are shown to pages: by the event stream of the writeback, and by the inspector.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use http::Method;
use layered_session::{
    DefaultTier, InspectorBody, LayeredSessionLayer, Session, SessionInspector, SessionValue, SessionWriteback,
    WritebackBody,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower::{Layer, ServiceExt};

use crate::{
    app::{App, set, socket, theme, told, visitor},
    world::{Browser, Node, Theme},
};

/// The inspector looks again so long after a change.
const SETTLED: Duration = Duration::from_millis(250);

/// A type that encodes itself in another order each time.
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

fn prices(many: u32) -> Prices {
    Prices((0..many).map(|n| (format!("item {n}"), n)).collect())
}

/// A node with a default for the prices.
fn node(app: &App) -> Node {
    let values = app.chain(DefaultTier::new().value(prices(30))).value::<Theme>().value::<Prices>().value::<Visited>();
    Node::new(values.build().unwrap())
}

/// The stream of a page that may read all values.
async fn stream(browser: &Browser, node: &Node) -> WritebackBody {
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let writeback = writeback.expose::<Prices>().unwrap().allow::<Visited>().unwrap();
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

/// Changes nothing but the theme, and the page hears of nothing else.
async fn assert_theme_is_told_alone(live: &Session, page: &mut WritebackBody) {
    for n in 0..8 {
        live.set(theme(&n.to_string())).await.unwrap();
        assert_eq!(told(page), format!("event: set\ndata: {{\"theme\":\"{n}\"}}\n\n"));
    }
}

#[tokio::test]
async fn unordered_values_are_told_only_when_written() {
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

    // A removal lets the default answer, which has no version.
    live.remove::<Prices>().await.unwrap();
    assert_eq!(events(&told(&mut page))[0].1["prices"].as_object().unwrap().len(), 30);
    assert_theme_is_told_alone(&live, &mut page).await;
}

#[tokio::test]
async fn inspector_reports_unordered_values_only_when_written() {
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
