//! Sites: the application at `app.shop.localhost`, a page of the same site at `api.shop.localhost`, and another site at
//! `evil.localhost`. Chromium resolves all of them to loopback and sends Fetch Metadata to each.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Method, Uri, header},
    response::Html,
    routing::any,
};
use layered_session::{
    BuildError, CloseReason, CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, SameSite, Session,
    SessionValue, Sessions, WriteError,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    Result,
    browser::Browser,
    tab::{Tab, eventually},
};

const APP: &str = "app.shop.localhost";
const SAME_SITE: &str = "api.shop.localhost";
const OTHER_SITE: &str = "evil.localhost";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Theme(String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User(String);

impl SessionValue for User {
    const NAME: &'static str = "user";
}

/// A request as the application received it, with the outcome.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: Method,
    path: String,
    /// The header `Sec-Fetch-Site`.
    site: String,
    cookie: bool,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Done,
    Closed,
    User(Option<String>),
}

/// Serves all hosts on one port.
struct Shop {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: JoinHandle<()>,
}

impl Shop {
    async fn open(same_site: SameSite) -> Result<Self> {
        Self::with(CookieTier::sealed(KeyRing::generate()?).same_site(same_site).plain_http()).await
    }

    async fn with(cookie: CookieTier) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let seen = Arc::default();
        let app = Router::new()
            .route("/{page}", any(page))
            .with_state((port, Arc::clone(&seen)))
            .layer(LayeredSessionLayer::new(sessions(cookie)?));
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap_or_else(|error| println!("the shop closes: {error}"));
        });
        Ok(Self { port, seen, serving })
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}/{path}", self.port)
    }

    /// Starts a browser in which ada is signed in, and returns her tab too.
    async fn visitor(&self) -> Result<(Browser, Tab)> {
        let browser = Browser::at(self.url(APP, "")).await?;
        let tab = browser.open_at("login").await?;
        assert_eq!(self.seen("/login").await?, request(Method::GET, "/login", "none", false, Outcome::Done));
        Ok((browser, tab))
    }

    /// Waits for a request with this path, and returns the last such request.
    async fn seen(&self, path: &str) -> Result<Seen> {
        let find = async || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(seen.iter().rfind(|seen| seen.path == path).cloned().ok_or("no such request yet")?)
        };
        eventually(&format!("a request for {path}"), find).await
    }

    async fn shows(&self, tab: &Tab, user: Option<&str>) -> Result {
        tab.load(&self.url(APP, "user")).await?;
        assert_eq!(self.seen("/user").await?.outcome, Outcome::User(user.map(str::to_owned)));
        Ok(())
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn request(method: Method, path: &str, site: &str, cookie: bool, outcome: Outcome) -> Seen {
    Seen { method, path: path.to_owned(), site: site.to_owned(), cookie, outcome }
}

fn sessions(cookie: CookieTier) -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(cookie)
        .value::<Theme>()
        .identify_by::<User>(|user| Some(Principal::new(&user.0)))
        .build()
}

type Shared = State<(u16, Arc<Mutex<Vec<Seen>>>)>;

/// Serves every page of every host: the application's paths name actions, and the other hosts' pages lead to those
/// paths.
async fn page(
    State((port, seen)): Shared,
    session: Session,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Html<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if text("host") != format!("{APP}:{port}") {
        let to = format!("http://{APP}:{port}{}", uri.path());
        return Html(format!(
            "<form method=post action={to}><button>post</button></form><a href={to}>link</a>\
             <button id=frame onclick=\"const f = document.createElement('iframe'); f.src = '{to}'; \
             f.onload = () => (document.title = 'framed'); document.body.append(f)\">frame</button>"
        ));
    }
    let done = |written: Result<(), WriteError>| match written {
        Ok(()) => Outcome::Done,
        Err(error) => {
            assert!(error.to_string().contains(&CloseReason::CrossSite.to_string()), "{error}");
            Outcome::Closed
        }
    };
    let outcome = match uri.path() {
        "/login" => done(session.sign_in(User("ada".into())).await),
        "/trap" => done(session.sign_in(User("eve".into())).await),
        "/callback" => done(session.sign_in(User("bob".into())).from_another_site().await),
        "/write" => done(session.set(Theme("dark".into())).await),
        _ => Outcome::User(session.principal().map(|user| user.as_str().to_owned())),
    };
    let (path, cookie) = (uri.path().to_owned(), headers.contains_key(header::COOKIE));
    let request = Seen { method, path, site: text("sec-fetch-site"), cookie, outcome };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    Html("<p>the shop</p>".to_owned())
}

const BOTH: [SameSite; 2] = [SameSite::Lax, SameSite::Strict];

#[tokio::test]
async fn cross_site_form_ends_no_login() -> Result {
    for same_site in BOTH {
        let shop = Shop::open(same_site).await?;
        let (_browser, tab) = shop.visitor().await?;
        for path in ["write", "trap"] {
            tab.load(&shop.url(OTHER_SITE, path)).await?;
            tab.submit("form button").await?;
            let path = format!("/{path}");
            assert_eq!(shop.seen(&path).await?, request(Method::POST, &path, "cross-site", false, Outcome::Closed));
            shop.shows(&tab, Some("ada")).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn cross_site_frame_ends_no_login() -> Result {
    for same_site in BOTH {
        let shop = Shop::open(same_site).await?;
        let (_browser, tab) = shop.visitor().await?;
        tab.load(&shop.url(OTHER_SITE, "write")).await?;
        tab.evaluate("document.querySelector('#frame').click()").await?;
        let seen = shop.seen("/write").await?;
        assert_eq!(seen, request(Method::GET, "/write", "cross-site", false, Outcome::Closed));
        shop.shows(&tab, Some("ada")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn only_lax_links_arrive_signed_in() -> Result {
    for (same_site, cookie, outcome) in
        [(SameSite::Lax, true, Outcome::Done), (SameSite::Strict, false, Outcome::Closed)]
    {
        let shop = Shop::open(same_site).await?;
        let (_browser, tab) = shop.visitor().await?;
        tab.load(&shop.url(OTHER_SITE, "write")).await?;
        tab.submit("a").await?;
        assert_eq!(shop.seen("/write").await?, request(Method::GET, "/write", "cross-site", cookie, outcome));
        shop.shows(&tab, Some("ada")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn first_link_begins_a_session_under_lax() -> Result {
    let shop = Shop::open(SameSite::Lax).await?;
    let browser = Browser::at(shop.url(OTHER_SITE, "")).await?;
    let tab = browser.open_at("write").await?;
    tab.submit("a").await?;
    assert_eq!(shop.seen("/write").await?, request(Method::GET, "/write", "cross-site", false, Outcome::Done));
    assert!(tab.cookie().await?.is_some());
    Ok(())
}

#[tokio::test]
async fn same_site_pages_send_the_cookie() -> Result {
    for same_site in BOTH {
        let shop = Shop::open(same_site).await?;
        let (_browser, tab) = shop.visitor().await?;
        tab.load(&shop.url(SAME_SITE, "write")).await?;
        tab.submit("form button").await?;
        assert_eq!(shop.seen("/write").await?, request(Method::POST, "/write", "same-site", true, Outcome::Done));
        tab.load(&shop.url(SAME_SITE, "user")).await?;
        tab.evaluate("document.querySelector('#frame').click()").await?;
        let ada = Outcome::User(Some("ada".to_owned()));
        assert_eq!(shop.seen("/user").await?, request(Method::GET, "/user", "same-site", true, ada));
    }
    Ok(())
}

#[tokio::test]
async fn identity_provider_form_post_signs_in() -> Result {
    for same_site in BOTH {
        let shop = Shop::open(same_site).await?;
        let browser = Browser::at(shop.url(OTHER_SITE, "")).await?;
        let tab = browser.open_at("callback").await?;
        tab.submit("form button").await?;
        let seen = shop.seen("/callback").await?;
        assert_eq!(seen, request(Method::POST, "/callback", "cross-site", false, Outcome::Done));
        shop.shows(&tab, Some("bob")).await?;
    }
    Ok(())
}

// R19: a `Partitioned` cookie keeps a session in a frame on another site, and a cookie without the attribute does not.
// Chromium takes `Secure` cookies over plain HTTP from hosts of `localhost`.
#[tokio::test]
async fn partitioned_cookie_keeps_an_embedded_session() -> Result {
    let cookie = || Ok::<_, BuildError>(CookieTier::sealed(KeyRing::generate()?).same_site(SameSite::None));
    for (cookie, partitioned) in [(cookie()?.partitioned(), true), (cookie()?, false)] {
        let shop = Shop::with(cookie).await?;
        // The browser blocks third-party cookies.
        let browser = Browser::with(shop.url(OTHER_SITE, ""), &["--test-third-party-cookie-phaseout"]).await?;
        let tab = browser.open_at("login").await?;
        tab.evaluate("document.querySelector('#frame').click()").await?;
        tab.until("document.title", "framed").await?;
        assert_eq!(shop.seen("/login").await?, request(Method::GET, "/login", "cross-site", false, Outcome::Done));
        tab.load(&shop.url(OTHER_SITE, "user")).await?;
        tab.evaluate("document.querySelector('#frame').click()").await?;
        let user = Outcome::User(partitioned.then(|| "ada".to_owned()));
        assert_eq!(shop.seen("/user").await?, request(Method::GET, "/user", "cross-site", partitioned, user));
        // The partition of the application's own top-level page has another cookie.
        tab.load(&shop.url(APP, "alone")).await?;
        assert_eq!(shop.seen("/alone").await?.outcome, Outcome::User(None));
    }
    Ok(())
}
