//! Plain HTTP outside loopback, as on a phone in the local network: Chromium sends no Fetch Metadata to such a host,
//! and no `Origin` with a same-origin `EventSource`.

use std::net::Ipv4Addr;

use axum::{
    Router,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::Html,
    routing::get,
};
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionInspector, SessionValue, SessionWriteback,
    Sessions,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    Result,
    browser::Browser,
    requests::{Requests, Seen, note},
    tab::Tab,
};

const HOST: &str = "lan.test";
const OTHER: &str = "other.test";

const CHROMIUM: &[&str] = &[
    "--host-resolver-rules=MAP lan.test 127.0.0.1, MAP other.test 127.0.0.1",
    "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Theme(String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// Serves both hosts on one port.
struct Lan {
    port: u16,
    requests: Requests,
    serving: JoinHandle<()>,
}

impl Lan {
    async fn open() -> Result<Self> {
        Self::with(CookieTier::sealed(KeyRing::generate()?).plain_http()).await
    }

    async fn with(cookie: CookieTier) -> Result<Self> {
        let sessions = Sessions::builder().tier(MemoryTier::builder().build()).tier(cookie).value::<Theme>().build()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (port, requests) = (listener.local_addr()?.port(), Requests::default());
        let app = Router::new()
            .route("/", get(page))
            .route("/login", get(async || Html("<form method=post><button>log in</button></form>")).post(login))
            .route("/elsewhere", get(async || Html("<p>another page</p>")))
            .nest_service("/session", SessionWriteback::new(&sessions).allow::<Theme>()?)
            .nest_service("/inspector", SessionInspector::new(&sessions))
            .layer(LayeredSessionLayer::new(sessions))
            .layer(from_fn_with_state(requests.clone(), note));
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap_or_else(|error| println!("the server stops: {error}"));
        });
        Ok(Self { port, requests, serving })
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.port)
    }

    async fn browser(&self) -> Result<Browser> {
        Browser::with(self.url(HOST), CHROMIUM).await
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn page(session: Session) -> Html<&'static str> {
    session.set(Theme("dark".into())).await.unwrap_or_else(|error| println!("not stored: {error}"));
    Html(
        "<script type=module>import { connect } from '/session/hook.js';
         const session = connect({ url: '/session' });
         session.addEventListener('change', () => (document.title = session.values.get('theme')));</script>",
    )
}

async fn login(session: Session) -> Html<&'static str> {
    session.set(Theme("dark".into())).await.unwrap_or_else(|error| println!("not stored: {error}"));
    Html("<p>logged in</p>")
}

fn assert_neither_header(seen: &Seen) {
    assert_eq!((seen.field("origin"), seen.field("sec-fetch-site")), (None, None));
    assert_eq!(seen.headers[header::ACCEPT], "text/event-stream");
}

// R24: a same-origin `EventSource` opens on plain HTTP outside loopback, although the browser sends neither `Origin`
// nor `Sec-Fetch-Site`.
#[tokio::test]
async fn event_sources_open_on_plain_http() -> Result {
    let lan = Lan::open().await?;
    let browser = lan.browser().await?;
    let tab = browser.open_at("").await?;
    tab.until("document.title", "dark").await?;
    let inspector = browser.open_at("inspector").await?;
    inspector.until("document.querySelector('#state').textContent", "Active").await?;
    for path in ["GET /session/events", "GET /inspector?events"] {
        let seen = lan.requests.last(path).await?;
        assert_neither_header(&seen);
        assert_eq!(seen.status, StatusCode::OK, "{path}");
    }
    Ok(())
}

/// Empties the title and runs a script in the tab's page. The script leaves its result in the title.
async fn outcome(tab: &Tab, script: &str) -> Result {
    tab.evaluate(&format!("(document.title = '', ({script})())")).await?;
    Ok(())
}

// R24: an `EventSource` of another origin is refused, and the browser hides the answer to an imitated request.
#[tokio::test]
async fn other_origins_read_no_events_on_plain_http() -> Result {
    let lan = Lan::open().await?;
    let browser = lan.browser().await?;
    let tab = browser.open_at("").await?;
    tab.until("document.title", "dark").await?;
    tab.load(&format!("{}elsewhere", lan.url(OTHER))).await?;

    // An `EventSource` of another origin carries `Origin`.
    let events = format!("{}session/events", lan.url(HOST));
    outcome(&tab, &format!("() => {{ new EventSource('{events}').onerror = () => (document.title = 'closed'); }}"))
        .await?;
    tab.until("document.title", "closed").await?;
    let refused = lan.requests.last("GET /session/events").await?;
    assert_eq!(refused.headers[header::ORIGIN], lan.url(OTHER).trim_end_matches('/'));
    assert_eq!(refused.status, StatusCode::FORBIDDEN);

    // A `no-cors` fetch looks like a request of the application's own page, and the browser hides the response.
    let options = json!({ "mode": "no-cors", "headers": { "accept": "text/event-stream" } });
    let fetch = format!(
        "() => {{ fetch('{events}', {options}).then(() => (document.title = 'read'), () => (document.title = 'kept')) }}"
    );
    outcome(&tab, &fetch).await?;
    tab.until("document.title", "kept").await?;
    let imitated = lan.requests.last("GET /session/events").await?;
    assert_neither_header(&imitated);
    assert_eq!(imitated.status, StatusCode::OK);
    Ok(())
}

/// Posts the login form, and returns the request, and whether the next request carries the cookie.
async fn log_in(lan: &Lan, tab: &Tab, url: &str) -> Result<(Seen, bool)> {
    tab.load(&format!("{url}login")).await?;
    tab.submit("button").await?;
    tab.until("document.querySelector('p')?.textContent", "logged in").await?;
    let posted = lan.requests.last("POST /login").await?;
    tab.load(&format!("{url}elsewhere")).await?;
    let next = lan.requests.last("GET /elsewhere").await?;
    Ok((posted, next.headers.contains_key(header::COOKIE)))
}

// From an `Origin` without `Sec-Fetch-Site` the layer concludes that the browser drops a `Secure` cookie.
#[tokio::test]
async fn browser_keeps_secure_cookies_on_loopback_only() -> Result {
    let lan = Lan::with(CookieTier::sealed(KeyRing::generate()?)).await?;
    let browser = lan.browser().await?;
    let tab = browser.open_at("elsewhere").await?;

    let (posted, kept) = log_in(&lan, &tab, &lan.url(HOST)).await?;
    assert_eq!(posted.field("origin"), Some(lan.url(HOST).trim_end_matches('/')));
    assert_eq!((posted.field("sec-fetch-site"), kept), (None, false));

    let loopback = lan.url("127.0.0.1");
    let (posted, kept) = log_in(&lan, &tab, &loopback).await?;
    assert_eq!(posted.field("origin"), Some(loopback.trim_end_matches('/')));
    assert_eq!((posted.field("sec-fetch-site"), kept), (Some("same-origin"), true));
    Ok(())
}
