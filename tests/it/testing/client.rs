//! The test client: the headers of a browser, and one jar for all tabs.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use axum::{Json, Router, routing::post};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use layered_session::{
    LayeredSessionLayer, SessionWriteback, Sessions,
    testing::{Client, Jar, ManualClock},
    tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tower::{Service, service_fn};

use super::{app, chain};
use crate::support::{HOUR, TICK, Theme, cookie, ring};

/// Answers with the request fields that browsers set by themselves.
async fn shown(request: Request<Full<Bytes>>) -> Result<Response<String>, BoxError> {
    let names = ["host", "origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "cookie", "content-type"];
    let fields = names.iter().filter_map(|name| Some((name, request.headers().get(*name)?)));
    let fields: Vec<_> = fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    Ok(Response::new(fields.join("\n")))
}

#[tokio::test]
async fn client_sends_browser_headers() {
    let browser = Client::new(service_fn(shown));
    let document = "sec-fetch-mode: navigate\nsec-fetch-dest: document";
    let link = browser.get("/").await.unwrap();
    assert_eq!(link.text().unwrap(), format!("host: example.test\nsec-fetch-site: same-origin\n{document}"));
    let form = browser.post("/").form([("a", "1")]).await.unwrap();
    let expected = format!("host: example.test\norigin: https://example.test\nsec-fetch-site: same-origin\n{document}");
    assert_eq!(form.text().unwrap(), format!("{expected}\ncontent-type: application/x-www-form-urlencoded"));
    let script = browser.post("/").json(&1).await.unwrap();
    let expected = expected.replace("navigate", "cors").replace("document", "empty");
    assert_eq!(script.text().unwrap(), format!("{expected}\ncontent-type: application/json"));
    let put = browser.request(Method::PUT, "/").await.unwrap();
    assert_eq!(put.text().unwrap(), expected);
}

#[tokio::test]
async fn plain_http_sends_no_fetch_metadata() {
    for (origin, tells) in [("http://app.example", false), ("http://localhost:3000", true)] {
        let response = Client::new(service_fn(shown)).origin(origin).post("/").await.unwrap();
        let text = response.text().unwrap();
        assert!(text.contains(&format!("origin: {origin}")), "{text}");
        assert_eq!(text.contains("sec-fetch-site: same-origin"), tells, "{origin}");
    }
}

#[tokio::test]
async fn cross_site_request_names_origin() {
    let browser = Client::new(service_fn(shown));
    for (origin, site) in [("https://evil.example", "cross-site"), ("https://app.example.test", "same-site")] {
        let response = browser.from_site(origin).post("/").await.unwrap();
        let text = response.text().unwrap();
        assert!(text.contains(&format!("origin: {origin}\nsec-fetch-site: {site}")), "{text}");
    }
    let link = browser.from_site("https://evil.example").get("/").await.unwrap();
    assert!(!link.text().unwrap().contains("origin:"), "links carry no origin");
}

#[tokio::test]
async fn explicit_headers_override_defaults() {
    let browser = Client::new(service_fn(shown));
    let request = browser.post("/").header("host", "proxy").header("origin", "null").header("cookie", "forged=1");
    let text = request.header("sec-fetch-site", "none").await.unwrap().text().unwrap().to_owned();
    for field in ["host: proxy", "origin: null", "cookie: forged=1", "sec-fetch-site: none"] {
        assert!(text.contains(field), "{text}");
    }
}

#[tokio::test]
async fn only_tabs_share_cookies() {
    let app = app(chain(true));
    let browser = Client::new(app.clone());
    let tab = browser.tab();
    let written = tab.post("/").body("dark").await.unwrap();
    assert_eq!((written.cookies().len(), written.text().unwrap()), (1, "dark"));
    assert_eq!(browser.get("/").await.unwrap().text().unwrap(), "dark");
    assert_eq!(Client::new(app.clone()).get("/").await.unwrap().text().unwrap(), "");
    let thief = Client::new(app).jar(browser.cookies());
    assert_eq!(thief.get("/").await.unwrap().text().unwrap(), "dark");
    thief.cookies().close();
    assert!(thief.cookie("__Host-session").is_some() && Jar::new().get("__Host-session").is_none());
}

#[tokio::test]
async fn closed_browser_drops_session_cookies() {
    for (chain, expected) in [(chain(true), "dark"), (chain(true).until_browser_closes(), "")] {
        let browser = Client::new(app(chain));
        browser.post("/").body("dark").await.unwrap();
        let tab = browser.tab();
        tab.close();
        assert_eq!(browser.get("/").await.unwrap().text().unwrap(), expected);
    }
}

#[tokio::test]
async fn cookies_expire_by_test_clock() {
    let clock = ManualClock::new();
    let browser = Client::new(service_fn(shown)).clock(clock.clone());
    let set = async |_: Request<Full<Bytes>>| {
        let response = Response::builder().header("set-cookie", "a=1; Max-Age=3600");
        Ok::<_, BoxError>(response.body(String::new())?)
    };
    let cookies = {
        let setting = Client::new(service_fn(set)).clock(clock.clone());
        setting.get("/").await.unwrap();
        setting.cookies()
    };
    let browser = browser.jar(cookies);
    let sends = async || browser.get("/").await.unwrap().text().unwrap().contains("cookie: a=1");
    clock.advance(HOUR - TICK);
    assert!(sends().await);
    clock.advance(TICK);
    assert!(!sends().await);
}

#[tokio::test]
async fn cross_site_link_sends_lax_cookie() {
    let browser = Client::new(app(chain(true)));
    browser.post("/").body("dark").await.unwrap();
    let evil = browser.from_site("https://evil.example");
    assert_eq!(evil.get("/").await.unwrap().text().unwrap(), "dark");
    let refused = evil.post("/").body("light").await.unwrap_err();
    assert!(refused.to_string().contains("another site"), "{refused}");
    assert_eq!(browser.get("/").await.unwrap().text().unwrap(), "dark");
}

#[tokio::test]
async fn secure_cookie_needs_https() {
    for (origin, expected) in [("https://example.test", "dark"), ("http://localhost", "")] {
        let browser = Client::new(app(chain(true))).origin(origin);
        browser.post("/").body("dark").await.unwrap();
        assert_eq!(browser.get("/").await.unwrap().text().unwrap(), expected, "{origin}");
    }
    let plain = Sessions::builder().tier(cookie(&ring())).value::<Theme>();
    let browser = Client::new(app(plain)).origin("http://localhost");
    browser.post("/").body("dark").await.unwrap();
    assert_eq!(browser.get("/").await.unwrap().text().unwrap(), "dark");
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Point {
    x: i32,
}

#[tokio::test]
async fn axum_router_exchanges_json() {
    let app = Router::new().route("/", post(async |Json(point): Json<Point>| Json(Point { x: point.x + 1 })));
    let browser = Client::new(app);
    let response = browser.post("/?a=b").json(&Point { x: 1 }).await.unwrap();
    assert_eq!(response.json::<Point>().unwrap(), Point { x: 2 });
    let error = response.json::<String>().unwrap_err().to_string();
    assert!(error.contains("200 OK {\"x\":2}"), "{error}");
    assert_eq!(browser.get("/").await.unwrap().status(), 405);
}

#[tokio::test]
async fn client_streams_events() {
    let sessions = chain(true).build().unwrap();
    let writeback = SessionWriteback::new(&sessions).expose::<Theme>().unwrap();
    let browser = Client::new(tower::Layer::layer(&LayeredSessionLayer::new(sessions), writeback));
    let response = browser.get("/events").header("accept", "text/event-stream").stream().await.unwrap();
    let first = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"event: state"), "{first:?}");
}

/// A service that must be polled ready before each call.
#[derive(Default)]
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service<Request<Full<Bytes>>> for Strict {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called before it was ready");
        ready(Ok(Response::new("ready".into())))
    }
}

#[tokio::test]
async fn client_polls_service_ready() {
    let browser = Client::new(Strict::default());
    for _ in 0..2 {
        assert_eq!(browser.get("/").await.unwrap().text().unwrap(), "ready");
    }
}

#[tokio::test]
async fn invalid_requests_fail() {
    let browser = Client::new(service_fn(shown));
    let cases = [
        (browser.get("path"), "begins with `/`"),
        (browser.get("https://example.test/"), "begins with `/`"),
        (browser.get("/\u{0}"), "the request can't be built"),
        (browser.get("/").header("a\n", "b"), "the request can't be built"),
        (browser.tab().origin("example.test").get("/"), "give a scheme and a host"),
        (browser.tab().origin("/").get("/"), "give a scheme and a host"),
        (browser.from_site("evil").get("/"), "give a scheme and a host"),
        (browser.post("/").json(&f64::NAN).body("x"), ""),
    ];
    for (request, message) in cases {
        match request.await {
            Ok(response) => assert!(message.is_empty(), "{message}: {:?}", response.text()),
            Err(error) => assert!(!message.is_empty() && error.to_string().contains(message), "{error}"),
        }
    }
}
