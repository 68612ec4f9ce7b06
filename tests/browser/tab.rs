//! A tab with the page: the actions of a person, the content on show, and the traffic with the server.

use std::time::{Duration, Instant};

use fantoccini::{
    Client, Locator,
    cookies::Cookie,
    error::CmdError,
    key::Key,
    wd::{WebDriverCompatibleCommand, WindowHandle},
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use url::{ParseError, Url};

use crate::Result;

/// The division on show before the visitor chooses a division.
pub(crate) const ALL: i64 = -1;

/// Longer than any step takes on a slow machine; only a failing test waits until the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Repeats the attempt until the first success, or returns the last error at the deadline.
pub(crate) async fn eventually<T>(what: &str, attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("waited {PATIENCE:?} until {what}: {error}").into());
            }
            Err(_) => sleep(Duration::from_millis(25)).await,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tab {
    client: Client,
    window: WindowHandle,
}

/// Actions of a person.
impl Tab {
    pub(crate) fn new(client: Client, window: WindowHandle) -> Self {
        Self { client, window }
    }

    pub(crate) async fn visit(&self, url: &str) -> Result {
        self.load(url).await?;
        self.is_connected().await
    }

    pub(crate) async fn load(&self, url: &str) -> Result {
        Ok(self.front().await?.goto(url).await?)
    }

    /// Clicks the submit button of a form, and returns when the answering page has replaced the present page. An
    /// earlier return would let the test click in the old page.
    pub(crate) async fn submit(&self, selector: &str) -> Result {
        let before = self.evaluate("performance.timeOrigin").await?;
        self.front().await?.find(Locator::Css(selector)).await?.click().await?;
        self.until(&format!("performance.timeOrigin !== {before} && document.readyState === 'complete'"), true).await
    }

    pub(crate) async fn click(&self, selector: &str) -> Result {
        Ok(self.front().await?.find(Locator::Css(selector)).await?.click().await?)
    }

    /// Focuses a button and presses Enter.
    pub(crate) async fn press(&self, selector: &str) -> Result {
        let button = self.front().await?.find(Locator::Css(selector)).await?;
        Ok(button.send_keys(&Key::Enter.to_string()).await?)
    }

    pub(crate) async fn reload(&self) -> Result {
        self.front().await?.refresh().await?;
        self.is_connected().await
    }

    pub(crate) async fn back(&self) -> Result {
        Ok(self.front().await?.back().await?)
    }

    pub(crate) async fn close(&self) -> Result {
        Ok(self.front().await?.close_window().await?)
    }

    pub(crate) async fn switch(&self, division: i64) -> Result {
        let client = self.front().await?;
        client.find(Locator::Css("#division")).await?.select_by_value(&division.to_string()).await?;
        Ok(())
    }

    /// Returns to the default. The page hides the button when the answer has come, and the cookie comes with the
    /// answer.
    pub(crate) async fn forget(&self) -> Result {
        self.until("document.querySelector('#forget').checkVisibility()", true).await?;
        self.front().await?.find(Locator::Css("#forget")).await?.click().await?;
        self.until("document.querySelector('#forget').hidden", true).await?;
        self.shows(ALL).await
    }

    pub(crate) async fn navigate(&self, view: &str) -> Result {
        let link = format!("nav [data-view={view}]");
        self.front().await?.find(Locator::Css(&link)).await?.click().await?;
        self.until("document.querySelector('#view').dataset.view", view).await
    }

    pub(crate) async fn sign_in(&self, user: &str) -> Result {
        let field = self.front().await?.find(Locator::Css("#login input[name=user]")).await?;
        field.send_keys(user).await?;
        field.send_keys(&Key::Enter.to_string()).await?;
        self.is_signed_in(user).await
    }

    pub(crate) async fn sign_out(&self) -> Result {
        self.front().await?.find(Locator::Css("#logout button")).await?.click().await?;
        self.is_signed_out().await
    }
}

/// Content of the page, now or within the deadline.
impl Tab {
    pub(crate) async fn is_connected(&self) -> Result {
        self.until("document.body.dataset.connection", "open").await
    }

    pub(crate) async fn is_disconnected(&self) -> Result {
        self.until("document.body.dataset.connection !== 'open'", true).await
    }

    /// Waits until the switch shows the division: the page has the division on load, and then from its socket.
    pub(crate) async fn shows(&self, division: i64) -> Result {
        self.until("Number(document.querySelector('#division').value)", division).await?;
        self.is_connected().await
    }

    pub(crate) async fn is_signed_in(&self, user: &str) -> Result {
        let shown = format!("document.querySelector('#who')?.textContent.includes({}) ?? false", json!(user));
        self.until(&shown, true).await?;
        self.is_connected().await
    }

    pub(crate) async fn is_signed_out(&self) -> Result {
        self.until("document.querySelector('#login')?.checkVisibility() ?? false", true).await?;
        self.is_connected().await
    }

    /// Waits until the head of the view names the division in the switch.
    pub(crate) async fn view_is_about_the_division(&self) -> Result {
        let names = "document.querySelector('#view header').innerText.toLowerCase().includes(
                         document.querySelector('#division').selectedOptions[0].text.trim().toLowerCase())";
        self.until(names, true).await
    }

    pub(crate) async fn refuses(&self) -> Result<String> {
        let notice = "(notice => notice?.checkVisibility() && notice.textContent.trim() !== '')\
                      (document.querySelector('#notice[role=alert]'))";
        self.until(notice, true).await?;
        let text = self.evaluate("document.querySelector('#notice').textContent.trim()").await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// The cookie named `session`, as the browser stores the cookie.
    pub(crate) async fn cookie(&self) -> Result<Option<Cookie<'static>>> {
        match self.front().await?.get_named_cookie("session").await {
            Ok(cookie) => Ok(Some(cookie)),
            Err(CmdError::Standard(error)) if error.error() == "no such cookie" => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The answer of `GET /division` to this browser.
    pub(crate) async fn division(&self) -> Result<Value> {
        let ask = "const done = arguments[0];
                   fetch('/division', { cache: 'no-store' }).then(answer => answer.json()).then(done);";
        Ok(self.front().await?.execute_async(ask, Vec::new()).await?)
    }
}

/// Traffic of this document, as `watch.js` recorded it.
impl Tab {
    /// Records the page's traffic in `watched`, from the next document on.
    pub(crate) async fn watch(&self) -> Result {
        let parameters = json!({ "source": include_str!("watch.js") });
        self.devtools("Page.addScriptToEvaluateOnNewDocument", parameters).await
    }

    /// Waits until the browser's cookie holds the switch to this division, made in this tab: the server sent a relay
    /// token for the switch, and the page has brought that token back.
    pub(crate) async fn stored(&self, division: i64) -> Result {
        self.until("watched.relays.at(-1)?.values.current_division_id ?? null", division).await?;
        let brought = "watched.posts.some(({ path, body, status }) => path === '/store_session' && status === 200
                           && JSON.parse(body).$relay === watched.relays.at(-1).relay)";
        self.until(brought, true).await
    }

    /// The path and status of every POST of this document, once all POSTs have an answer.
    pub(crate) async fn posts(&self) -> Result<Value> {
        self.until("watched.posts.every(({ status }) => status !== null)", true).await?;
        self.evaluate("watched.posts.map(({ path, status }) => [path, status])").await
    }

    /// The close codes of this tab's sockets so far, including those before a reload.
    pub(crate) async fn closes(&self) -> Result<Vec<i64>> {
        match self.evaluate("JSON.parse(sessionStorage.closes ?? '[]')").await? {
            Value::Array(codes) => Ok(codes.iter().filter_map(Value::as_i64).collect()),
            other => Err(format!("not a list: {other}").into()),
        }
    }

    /// Holds every POST of this document back until `release_posts`.
    pub(crate) async fn hold_posts(&self) -> Result {
        self.evaluate("watched.hold()").await.map(drop)
    }

    pub(crate) async fn release_posts(&self) -> Result {
        self.evaluate("watched.release()").await.map(drop)
    }
}

/// Control of the tab.
impl Tab {
    /// Waits until the expression gives the expected result. A page that unloads answers with errors, which count as
    /// "not yet".
    pub(crate) async fn until(&self, expression: &str, wanted: impl Into<Value>) -> Result {
        let wanted = wanted.into();
        eventually(&format!("{expression} is {wanted}"), async || match self.evaluate(expression).await? {
            found if found == wanted => Ok(()),
            found => Err(format!("the result is {found}").into()),
        })
        .await
    }

    pub(crate) async fn evaluate(&self, expression: &str) -> Result<Value> {
        Ok(self.front().await?.execute(&format!("return {expression};"), Vec::new()).await?)
    }

    pub(crate) async fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(self.front().await?.screenshot().await?)
    }

    pub(crate) async fn devtools(&self, method: &'static str, parameters: Value) -> Result {
        self.front().await?.issue_cmd(DevTools { method, parameters }).await?;
        Ok(())
    }

    /// Chooses this tab, since commands go to the tab of the last choice.
    async fn front(&self) -> Result<&Client> {
        self.client.switch_to_window(self.window.clone()).await?;
        Ok(&self.client)
    }
}

/// Chromedriver's own endpoint for one command of the DevTools protocol.
#[derive(Debug)]
struct DevTools {
    method: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "cmd": self.method, "params": self.parameters }).to_string()))
    }
}
