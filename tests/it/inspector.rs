//! The inspector: the report of the visitor's own session.
//!
//! - `page`: the page with its scripts and styles
//! - `report`: the answer of each tier for each value
//! - `events`: the event stream with reports and changes
//! - `secrets`: the secrets that the inspector hides

mod events;
mod page;
mod report;
mod secrets;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use layered_session::{DefaultTier, InspectorBody, LayeredSessionLayer, Placement, SessionInspector, SessionValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower::{Layer, ServiceExt};

use crate::support::{App, Browser, Division, Node, Theme, theme, told};

const HEARTBEAT: Duration = Duration::from_secs(15);

/// The delay after a change until the inspector checks whether the browser has the change.
const SETTLED: Duration = Duration::from_millis(250);

/// A value in memory alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(u32);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const PLACEMENT: Placement = Placement::Volatile;
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(60));
}

fn request(browser: &Browser, method: Method, path: &str) -> Request<Full<Bytes>> {
    browser.request_of_page(method, path, "")
}

async fn ask(node: &Node, request: Request<Full<Bytes>>) -> Response<InspectorBody> {
    let inspector = SessionInspector::new(&node.sessions);
    LayeredSessionLayer::new(node.sessions.clone()).layer(inspector).oneshot(request).await.unwrap()
}

/// The inspector's page with its stream open.
struct Page {
    head: HeaderMap,
    stream: InspectorBody,
}

impl Page {
    async fn open(browser: &Browser, node: &Node) -> Self {
        let response = ask(node, request(browser, Method::GET, "/events")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let (head, stream) = response.into_parts();
        Self { head: head.headers, stream }
    }

    /// The same page, past the first report.
    async fn opened(browser: &Browser, node: &Node) -> Self {
        let mut page = Self::open(browser, node).await;
        page.report();
        page
    }

    /// All events that the page's stream has ready now.
    fn told(&mut self) -> String {
        told(&mut self.stream)
    }

    /// The ready events, each with the event's name.
    fn events(&mut self) -> Vec<(String, Value)> {
        let told = self.told();
        let events = told.split_terminator("\n\n").filter(|event| *event != ":");
        let parse = |event: &str| {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (name.to_owned(), serde_json::from_str(data).unwrap())
        };
        events.map(parse).collect()
    }

    /// The only ready event, a report.
    fn report(&mut self) -> Value {
        match self.events().as_slice() {
            [(name, report)] if name == "report" => report.clone(),
            other => panic!("not one report: {other:?}"),
        }
    }

    /// The ready report and changes, without the time.
    fn changes(&mut self) -> (Value, Value) {
        match self.events().as_slice() {
            [(report, told), (changes, changed)] if report == "report" && changes == "changes" => {
                (told.clone(), changed["changes"].clone())
            }
            other => panic!("not a report and changes: {other:?}"),
        }
    }
}

async fn report(browser: &Browser, node: &Node) -> Value {
    Page::open(browser, node).await.report()
}

fn value<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["values"].as_array().unwrap().iter().find(|value| value["name"] == name).expect("a declared value")
}

/// The answer and the reason of each tier for a value.
fn tiers<'a>(report: &'a Value, name: &str) -> Vec<[&'a str; 3]> {
    let text = |row: &'a Value, field| row[field].as_str().unwrap();
    let rows = value(report, name)["tiers"].as_array().unwrap();
    rows.iter().map(|row| [text(row, "tier"), text(row, "answer"), text(row, "why")]).collect()
}

/// A node with a default for the theme.
fn node(app: &App) -> Node {
    let chain = app.chain(DefaultTier::new().value(theme("light")));
    Node::new(chain.value::<Theme>().value::<Division>().value::<Draft>().build().unwrap())
}
