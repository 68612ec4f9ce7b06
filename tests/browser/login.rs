//! The `login` example: passwords, "remember me", sign-out here and everywhere, and forms of other sites.

use std::time::{Duration, Instant, SystemTime};

use http::{Request, StatusCode, header};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;

use crate::{Result, browser::Browser, server::Server, tab::Tab};

const ADA: (&str, &str) = ("ada", "weaving-patterns");
const GRACE: (&str, &str) = ("grace", "wire-nanosecond");

impl Tab {
    /// Fills in and sends the form.
    async fn log_in(&self, (name, password): (&str, &str)) -> Result {
        for (field, text) in [("#name", name), ("#password", password)] {
            self.evaluate(&format!("document.querySelector('{field}').value = {}", json!(text))).await?;
        }
        self.submit("#login button").await
    }

    async fn is_at(&self, path: &str) -> Result {
        self.until("location.pathname", path).await
    }

    async fn shows_text(&self, selector: &str, text: &str) -> Result {
        self.until(&format!("document.querySelector('{selector}')?.innerText ?? ''"), text).await
    }

    /// Loads a page of the example. The page opens no connection.
    async fn at(&self, server: &Server, path: &str) -> Result {
        self.load(&format!("{}{path}", server.url())).await
    }

    /// Returns the time that the browser keeps the cookie, or `None` for a cookie that ends with the browser.
    async fn cookie_lasts(&self) -> Result<Option<Duration>> {
        let cookie = self.cookie().await?.ok_or("no cookie")?;
        let Some(end) = cookie.expires_datetime() else { return Ok(None) };
        Ok(Some(SystemTime::from(end).duration_since(SystemTime::now())?))
    }
}

#[tokio::test]
async fn wrong_password_message_shows_once() -> Result {
    let server = Server::of("login")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("login").await?;
    tab.captures("login").await?;
    tab.shows_text("#error", "").await?;

    // Markup in a name shows as text.
    for name in ["ada", r#""><i id="injected">"#] {
        tab.log_in((name, "guessed")).await?;
        tab.is_at("/login").await?;
        tab.shows_text("#error", "The user name or the password is wrong.").await?;
        tab.until("document.querySelector('#name').value", name).await?;
        tab.until("document.activeElement.id", "password").await?;
        tab.until("document.querySelector('#injected')", json!(null)).await?;
    }
    tab.captures("login-refused").await?;

    tab.at(&server, "login").await?;
    tab.shows_text("#error", "").await?;
    tab.until("document.querySelector('#name').value", "").await?;
    tab.log_in(ADA).await?;
    tab.is_at("/account").await?;
    tab.shows_text("#user", "ada").await?;
    tab.captures("login-account").await
}

#[tokio::test]
async fn unknown_name_takes_as_long_as_wrong_password() -> Result {
    let server = Server::of("login")?;
    let client = Client::builder(TokioExecutor::new()).build_http::<String>();
    let fastest = async |name: &str| -> Result<Duration> {
        let mut fastest = Duration::MAX;
        for _ in 0..7 {
            let request = Request::post(format!("{}login", server.url()))
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(format!("name={name}&password=guessed"))?;
            let sent = Instant::now();
            let response = client.request(request).await?;
            fastest = fastest.min(sent.elapsed());
            assert_eq!(
                (response.status(), &response.headers()["location"]),
                (StatusCode::SEE_OTHER, &"/login".parse()?)
            );
        }
        Ok(fastest)
    };
    let (known, unknown) = (fastest("ada").await?, fastest("nobody").await?);
    assert!(unknown > known / 2, "{unknown:?} for an unknown name, {known:?} for a wrong password");
    Ok(())
}

#[tokio::test]
async fn account_page_requires_a_login() -> Result {
    let server = Server::of("login")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("account").await?;
    tab.is_at("/login").await?;
    tab.at(&server, "").await?;
    tab.shows_text("#who h2", "You are not signed in").await?;
    assert!(tab.cookie().await?.is_none(), "a visitor gets no cookie");
    tab.captures("login-home").await?;

    tab.at(&server, "login").await?;
    tab.log_in(GRACE).await?;
    tab.at(&server, "").await?;
    tab.shows_text("#who h2", "Signed in as grace").await?;
    tab.at(&server, "login").await?;
    tab.is_at("/account").await
}

#[tokio::test]
async fn remember_me_outlives_the_browser() -> Result {
    let mut server = Server::of("login")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("login").await?;
    tab.log_in(ADA).await?;
    assert_eq!(tab.cookie_lasts().await?, None);
    tab.submit("[action='/logout'] button").await?;

    tab.at(&server, "login").await?;
    tab.click("#remember").await?;
    tab.log_in(ADA).await?;
    let days = tab.cookie_lasts().await?.ok_or("the cookie goes with the browser")?.as_secs() / 86_400;
    assert!((30..=31).contains(&days), "{days} days");

    server.restart()?;
    tab.at(&server, "account").await?;
    tab.shows_text("#user", "ada").await?;
    // The next user did not tick "remember me".
    tab.submit("[action='/logout'] button").await?;
    tab.at(&server, "login").await?;
    tab.log_in(GRACE).await?;
    assert_eq!(tab.cookie_lasts().await?, None);
    Ok(())
}

#[tokio::test]
async fn login_survives_restart_without_keys() -> Result {
    let mut server = Server::without_keys("login")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("login").await?;
    tab.log_in(ADA).await?;
    server.restart()?;
    tab.at(&server, "account").await?;
    tab.shows_text("#user", "ada").await
}

#[tokio::test]
async fn sign_out_message_shows_once() -> Result {
    let server = Server::of("login")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("login").await?;
    tab.log_in(ADA).await?;
    tab.submit("[action='/logout'] button").await?;
    tab.is_at("/").await?;
    tab.shows_text("#message", "You are signed out in this browser.").await?;
    tab.captures("login-signed-out").await?;
    tab.at(&server, "").await?;
    tab.shows_text("#message", "").await?;
    tab.at(&server, "account").await?;
    tab.is_at("/login").await
}

#[tokio::test]
async fn sign_out_everywhere_ends_all_user_sessions() -> Result {
    let server = Server::of("login")?;
    let browsers = (Browser::start(&server).await?, Browser::start(&server).await?, Browser::start(&server).await?);
    let here = browsers.0.open_at("login").await?;
    let elsewhere = browsers.1.open_at("login").await?;
    let other = browsers.2.open_at("login").await?;
    here.log_in(ADA).await?;
    elsewhere.log_in(ADA).await?;
    other.log_in(GRACE).await?;
    let old_page = browsers.1.open_at("account").await?;
    old_page.shows_text("#user", "ada").await?;

    here.submit("[action='/logout-everywhere'] button").await?;
    here.is_at("/").await?;
    here.shows_text("#message", "You are signed out in all browsers.").await?;
    for tab in [&here, &elsewhere] {
        tab.at(&server, "account").await?;
        tab.is_at("/login").await?;
    }
    old_page.submit("[action='/logout'] button").await?;
    old_page.is_at("/").await?;
    old_page.shows_text("#who h2", "You are not signed in").await?;
    other.at(&server, "account").await?;
    other.shows_text("#user", "grace").await?;
    elsewhere.log_in(("ada", "guessed")).await?;
    elsewhere.shows_text("#error", "The user name or the password is wrong.").await?;
    elsewhere.log_in(ADA).await?;
    elsewhere.shows_text("#user", "ada").await
}

#[tokio::test]
async fn cross_site_form_is_refused() -> Result {
    let server = Server::of("login")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("login").await?;
    tab.log_in(ADA).await?;
    let (name, password) = GRACE;
    for path in ["login", "logout", "logout-everywhere"] {
        let form = format!(
            "data:text/html,<form method=post action={}{path}><input name=name value={name}>\
             <input name=password value={password}><button>Win a prize</button></form>",
            server.url()
        );
        tab.load(&form).await?;
        tab.submit("button").await?;
        tab.shows_text("h1", "This form came from another site").await?;
        tab.until("performance.getEntriesByType('navigation')[0].responseStatus", 403).await?;
        tab.at(&server, "account").await?;
        tab.shows_text("#user", "ada").await?;
    }
    tab.load(&format!("data:text/html,<form method=post action={}logout><button>", server.url())).await?;
    tab.submit("button").await?;
    tab.captures("login-cross-site").await
}
