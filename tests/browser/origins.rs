//! Origins: a page at `app.shop.localhost` uses the writeback and a socket of `api.shop.localhost`, which lists the
//! page's origin. Chromium sends Fetch Metadata to each host. `blog.shop.localhost` is of the same site and not listed,
//! and `evil.localhost` is another site.

use std::net::Ipv4Addr;

use axum::{
    Router,
    extract::ws::WebSocketUpgrade,
    http::{HeaderName, Method, StatusCode, header::CONTENT_TYPE},
    middleware::from_fn_with_state,
    response::{Html, Response},
    routing::{any, get},
};
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, SessionWriteback, Sessions,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tower_http::cors::CorsLayer;

use crate::{
    Result,
    browser::Browser,
    requests::{Requests, note},
    tab::Tab,
};

const PAGE: &str = "app.shop.localhost";
const API: &str = "api.shop.localhost";
const SAME_SITE: &str = "blog.shop.localhost";
const OTHER_SITE: &str = "evil.localhost";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Theme(String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// Serves all hosts on one port.
struct Shop {
    port: u16,
    requests: Requests,
    serving: JoinHandle<()>,
}

impl Shop {
    async fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (port, requests) = (listener.local_addr()?.port(), Requests::default());
        let listed = format!("http://{PAGE}:{port}");
        let sessions = Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(KeyRing::generate()?).plain_http())
            .value::<Theme>()
            .public_origins([listed.clone()])
            .build()?;
        let cors = CorsLayer::new()
            .allow_origin([listed.parse()?])
            .allow_credentials(true)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([CONTENT_TYPE, HeaderName::from_static("session-user")]);
        let app = Router::new()
            .nest_service("/session", SessionWriteback::new(&sessions).allow::<Theme>()?)
            .layer(cors)
            .route("/", get(async move || page(port)))
            .route("/elsewhere", get(async || Html("<p>another page</p>")))
            .route("/live", any(live))
            .layer(LayeredSessionLayer::new(sessions))
            .layer(from_fn_with_state(requests.clone(), note));
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap_or_else(|error| println!("the shop closes: {error}"));
        });
        Ok(Self { port, requests, serving })
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}/{path}", self.port)
    }

    /// Starts a browser whose session has a dark theme, stored by the listed page, and returns that page's tab too.
    async fn visitor(&self) -> Result<(Browser, Tab)> {
        let browser = Browser::at(self.url(PAGE, "")).await?;
        let tab = browser.open_at("").await?;
        tab.until("typeof session", "object").await?;
        tab.evaluate("(session.store({ theme: 'dark' }), null)").await?;
        tab.until("session.values.get('theme') ?? null", "dark").await?;
        Ok((browser, tab))
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn page(port: u16) -> Html<String> {
    Html(format!(
        "<script type=module>import {{ connect }} from 'http://{API}:{port}/session/hook.js';
         window.session = connect({{ url: 'http://{API}:{port}/session', credentials: 'include' }});</script>"
    ))
}

/// Sends the theme over the socket, or the reason why no session begins.
async fn live(session: Session, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        let told = match session.set(Theme("live".into())).await {
            Ok(()) => session.value::<Theme>().0,
            Err(error) => error.to_string(),
        };
        socket.send(told.into()).await.unwrap_or_else(|error| println!("the page has left: {error}"));
    })
}

/// Opens a socket in the tab's page, and returns the socket's first message.
async fn socket(shop: &Shop, tab: &Tab) -> Result {
    let url = format!("ws://{API}:{}/live", shop.port);
    let open = format!("(new WebSocket('{url}').onmessage = ({{ data }}) => (document.title = data), null)");
    tab.evaluate(&open).await.map(drop)
}

// R24, R29: a page of a listed origin can post, follow the events, and open a socket with a session.
#[tokio::test]
async fn listed_origin_may_use_the_api() -> Result {
    let shop = Shop::open().await?;
    let (_browser, tab) = shop.visitor().await?;
    let origin = shop.url(PAGE, "").trim_end_matches('/').to_owned();
    for line in ["POST /session", "GET /session/events"] {
        let seen = shop.requests.last(line).await?;
        assert_eq!((seen.field("origin"), seen.field("sec-fetch-site")), (Some(&*origin), Some("same-site")), "{line}");
        assert_eq!(seen.status, StatusCode::OK, "{line}");
    }
    // Each later request carries the cookie of the first POST.
    tab.evaluate("(session.store({ theme: 'light' }), null)").await?;
    tab.until("session.values.get('theme')", "light").await?;
    let posted = shop.requests.last("POST /session").await?;
    assert!(posted.field("cookie").is_some_and(|cookie| cookie.starts_with("session=")));

    socket(&shop, &tab).await?;
    tab.until("document.title", "live").await?;
    let seen = shop.requests.last("GET /live").await?;
    // Chromium sends no Fetch Metadata with a WebSocket.
    assert_eq!((seen.field("origin"), seen.field("sec-fetch-site")), (Some(&*origin), None));
    tab.until("session.values.get('theme')", "live").await
}

// R24, R29: a page of an unlisted origin can neither post nor follow the events, and its socket gets no session.
#[tokio::test]
async fn unlisted_pages_are_refused() -> Result {
    let shop = Shop::open().await?;
    let (_browser, tab) = shop.visitor().await?;
    for (host, site, cookie) in [(SAME_SITE, "same-site", true), (OTHER_SITE, "cross-site", false)] {
        tab.load(&shop.url(host, "elsewhere")).await?;
        let origin = shop.url(host, "").trim_end_matches('/').to_owned();
        let outcome = async |script: String| tab.evaluate(&format!("(document.title = '', {script}, null)")).await;

        // JSON needs a preflight, which `CorsLayer` does not grant.
        let writeback = shop.url(API, "session");
        let mut options = json!({ "method": "POST", "credentials": "include", "body": r#"{"theme":"evil"}"# });
        let fetch = |options: &serde_json::Value| {
            let told = "then(() => (document.title = 'sent'), () => (document.title = 'kept'))";
            format!("fetch('{writeback}', {options}).{told}")
        };
        options["headers"] = json!({ "content-type": "application/json" });
        outcome(fetch(&options)).await?;
        tab.until("document.title", "kept").await?;
        assert_eq!(shop.requests.last("OPTIONS /session").await?.field("origin"), Some(&*origin));
        // Plain text needs no preflight, and the rule refuses the request.
        options["headers"] = json!({});
        outcome(fetch(&options)).await?;
        tab.until("document.title", "kept").await?;
        let events = format!("{writeback}/events");
        outcome(format!(
            "new EventSource('{events}', {{ withCredentials: true }}).onerror = () => (document.title = 'closed')"
        ))
        .await?;
        tab.until("document.title", "closed").await?;
        for line in ["POST /session", "GET /session/events"] {
            let seen = shop.requests.last(line).await?;
            assert_eq!((seen.field("origin"), seen.field("sec-fetch-site")), (Some(&*origin), Some(site)), "{line}");
            assert_eq!((seen.field("cookie").is_some(), seen.status), (cookie, StatusCode::FORBIDDEN), "{line}");
        }

        outcome("1".to_owned()).await?;
        socket(&shop, &tab).await?;
        tab.until("document.title", "this request can't begin a session: cross-site (another site caused the request)")
            .await?;
        let seen = shop.requests.last("GET /live").await?;
        assert_eq!((seen.field("origin"), seen.field("cookie").is_some()), (Some(&*origin), cookie));
    }
    tab.load(&shop.url(PAGE, "")).await?;
    tab.until("session.values.get('theme') ?? null", "dark").await
}
