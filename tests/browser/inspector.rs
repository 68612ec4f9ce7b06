//! The inspector in one tab, and the application in another: live changes, silence, sleep, lost networks, refusals, and
//! the page cache.

use serde_json::json;

use crate::{Result, browser::Browser, pictures::Scheme, proxy::Proxy, server::Server, tab::Tab};

#[tokio::test]
async fn inspector_shows_changes_of_another_tab() -> Result {
    let server = Server::of("inspector")?;
    let browser = Browser::start(&server).await?;
    for path in ["inspector", "inspector/"] {
        let inspector = browser.open_at(path).await?;
        inspector.is_connected().await?;
        let shop = browser.open_at("").await?;
        // The visitor's change begins the session, so the inspector has to notice a new session.
        shop.submit("[formaction='/theme/dark']").await?;
        inspector.until("document.querySelector('#state').textContent", "Active").await?;
        let card =
            "[...document.querySelectorAll('.value')].find(card => card.querySelector('h3').textContent === 'theme')";
        inspector.until(&format!("{card}.querySelector('pre').textContent"), "\"dark\"").await?;
        inspector.until(&format!("{card}.querySelector('[aria-current] b').textContent"), "memory").await?;

        shop.submit("[formaction='/theme/light']").await?;
        inspector.until(&format!("{card}.querySelector('pre').textContent"), "\"light\"").await?;
        let logged =
            "[...document.querySelector('#log li').querySelectorAll('.badge, b, .what')].map(part => part.textContent)";
        inspector.until(logged, json!(["set", "theme", "\"light\""])).await?;

        // A sign-in gives the session a new id, and the inspector must follow.
        shop.submit("[formaction='/sign-out']").await?;
        shop.submit("[action='/sign-in'] button:not([formaction])").await?;
        inspector.until("document.querySelector('#signed-in').textContent", "yes").await?;
        inspector.is_connected().await?;
        let style = inspector.evaluate("getComputedStyle(document.querySelector('.panel')).borderStyle").await?;
        assert_eq!(style, "solid", "{path}: the page has its styles");
        shop.submit("[formaction='/sign-out']").await?;
    }
    Ok(())
}

/// Opens the inspector in one tab through a proxy, and the shop in another tab without the proxy. The visitor has a
/// session.
async fn behind_a_proxy(script: &str) -> Result<(Server, Proxy, Browser, Tab, Tab)> {
    let server = Server::of("inspector")?;
    let proxy = Proxy::start(server.address()).await?;
    let browser = Browser::at(proxy.url()).await?;
    let shop = browser.open_at("").await?;
    shop.load(&server.url()).await?;
    shop.submit("[formaction='/theme/dark']").await?;
    let inspector = browser.open_at("").await?;
    inspector.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await?;
    inspector.visit(&format!("{}inspector", proxy.url())).await?;
    inspector.shows_theme("dark").await?;
    Ok((server, proxy, browser, inspector, shop))
}

impl Tab {
    async fn shows_theme(&self, theme: &str) -> Result {
        let text =
            "[...document.querySelectorAll('.value')].find((card) => card.querySelector('h3').textContent === 'theme')
            ?.querySelector('pre').textContent ?? null";
        self.until(text, format!("\"{theme}\"")).await
    }

    /// Waits until the notice with the text is in sight, at any scroll position.
    async fn notice_says(&self, text: &str) -> Result {
        self.screen(375, Scheme::Light).await?;
        self.evaluate("scrollTo(0, 600)").await?;
        let notice = "document.querySelector('#notice')";
        let top = format!("{notice}.getBoundingClientRect().top");
        self.until(
            &format!(
                "{notice}.checkVisibility() && {top} > 0 && {top} < 100 && {notice}.textContent.includes({})",
                json!(text)
            ),
            true,
        )
        .await
    }

    async fn says(&self, connection: &str) -> Result {
        self.until("document.querySelector('#connection').textContent", connection).await
    }
}

#[tokio::test]
async fn inspector_replaces_a_silent_stream() -> Result {
    // The silence limit, two and a half intervals of 15 seconds, is longer than the test waits.
    let hurry = "{ const { setTimeout } = window;
        window.setTimeout = (run, ms, ...rest) => setTimeout(run, ms > 30_000 ? 2_000 : ms, ...rest); }";
    let (_server, proxy, _browser, inspector, shop) = behind_a_proxy(hurry).await?;
    proxy.silence();
    shop.submit("[formaction='/theme/light']").await?;
    inspector.shows_theme("light").await
}

#[tokio::test]
async fn inspector_reconnects_after_sleep() -> Result {
    // Timers stop while a machine sleeps, and the clock continues.
    let sleeper = "{ const { now } = Date; globalThis.slept = 0; Date.now = () => now() + slept; }";
    let (_server, proxy, _browser, inspector, shop) = behind_a_proxy(sleeper).await?;
    proxy.silence();
    shop.submit("[formaction='/theme/light']").await?;
    // The first new stream may reuse a silent connection.
    let wakes = "setInterval(() => { slept += 40_000; dispatchEvent(new Event('focus')); }, 2_000)";
    inspector.evaluate(wakes).await?;
    inspector.shows_theme("light").await
}

#[tokio::test]
async fn offline_inspector_shows_no_live_state() -> Result {
    let server = Server::of("inspector")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("inspector").await?;
    tab.is_connected().await?;
    tab.network(false).await?;
    tab.says("Offline").await?;
    tab.notice_says("This browser is offline.").await?;
    assert_eq!(tab.evaluate("document.body.innerText.includes('Live')").await?, false);
    tab.network(true).await?;
    tab.says("Live").await?;
    tab.until("document.querySelector('#notice').checkVisibility()", false).await
}

#[tokio::test]
async fn refused_inspector_shows_the_reason() -> Result {
    let server = Server::of("inspector")?;
    let proxy = Proxy::with_foreign_streams(server.address()).await?;
    let browser = Browser::at(proxy.url()).await?;
    let tab = browser.open_at("inspector").await?;
    tab.notice_says("Sec-Fetch-Site").await?;
    tab.says("Not connected").await
}

#[tokio::test]
async fn inspector_from_page_cache_shows_new_changes() -> Result {
    let server = Server::of("inspector")?;
    let browser = Browser::start(&server).await?;
    let (tab, shop) = (browser.open_at("inspector").await?, browser.open_at("").await?);
    shop.submit("[formaction='/theme/dark']").await?;
    tab.shows_theme("dark").await?;
    let document = tab.evaluate("performance.timeOrigin").await?;
    for theme in ["light", "dark"] {
        tab.load(&format!("{}icon.svg", server.url())).await?;
        shop.submit(&format!("[formaction='/theme/{theme}']")).await?;
        tab.evaluate("history.back()").await?;
        tab.until("performance.timeOrigin", document.clone()).await?;
        tab.shows_theme(theme).await?;
        tab.is_connected().await?;
    }
    Ok(())
}

#[tokio::test]
async fn reconnect_delays_restart_after_the_page_cache() -> Result {
    let (server, elsewhere) = (Server::of("inspector")?, Server::of("cart")?);
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("").await?;
    let note = "globalThis.opened = []; window.EventSource = class extends EventSource {
        constructor(url) { super(url); opened.push(performance.now()); } };
        addEventListener('pageshow', ({ persisted }) => persisted && (globalThis.back = opened.length), { capture: true });";
    tab.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": note })).await?;
    tab.visit(&format!("{}inspector", server.url())).await?;
    drop(server);
    // The delay is half a second and doubles each time: the fifth attempt follows after four seconds.
    tab.until("opened.length >= 6", true).await?;
    tab.load(&elsewhere.url()).await?;
    tab.evaluate("history.back()").await?;
    tab.until("opened.length > globalThis.back + 2", true).await?;
    assert_eq!(tab.evaluate("opened[back + 1] - opened[back] < 2_000").await?, true);
    Ok(())
}

#[tokio::test]
async fn inspector_explains_a_missing_session() -> Result {
    let server = Server::of("inspector")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_at("inspector").await?;
    tab.until("document.querySelector('#state').textContent", "None yet").await?;
    let shown = "[...document.querySelectorAll('#visitor dd')].map((part) => part.innerText)";
    let begins = "with the first write of a value, or a sign-in";
    tab.until(shown, json!([begins, "after 2 d", "after 30 d", "no", "1 of 4"])).await
}

#[tokio::test]
async fn pages_have_icons_and_fit_without_scripts() -> Result {
    let server = Server::of("inspector")?;
    let browser = Browser::start(&server).await?;
    for (name, path) in [("shop", ""), ("inspector", "inspector")] {
        let tab = browser.open_at(path).await?;
        for icon in ["document.images[0].src", "document.querySelector('link[rel=icon]').href"] {
            let width = format!("Object.assign(new Image(), {{ src: {icon} }}).decode().then(() => 'shown', String)");
            tab.until(&width, "shown").await?;
        }
        let tab = browser.open_without_script(path).await?;
        tab.captures(&format!("{name}-no-script")).await?;
        // The shop's forms need no script. The inspector's page shows a single sentence, which asks for scripts.
        let parts = "[...document.querySelectorAll('main > *')].filter((part) => part.checkVisibility()).length > 1";
        assert_eq!(tab.evaluate(parts).await?, name == "shop");
    }
    Ok(())
}
