//! The `division` page without a connection: the banner, and the return.

use serde_json::json;

use crate::{Result, browser::Browser, proxy::Proxy, server::Server, tab::Tab};

impl Tab {
    /// Waits for a visible banner that contains the text.
    async fn shows_banner(&self, text: &str) -> Result {
        let away = "document.querySelector('#away')";
        self.until(&format!("{away}.checkVisibility() && {away}.textContent.includes({})", json!(text)), true).await
    }
}

#[tokio::test]
async fn disconnected_page_names_the_pending_write() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    assert_eq!(tab.evaluate("document.querySelector('#away').checkVisibility()").await?, false);
    server.stop()?;
    tab.shows_banner("Not connected").await?;
    tab.switch(3).await?;
    tab.shows_banner("still shows All divisions. Infrastructure follows").await?;
    tab.until("document.querySelector('#connection').textContent", "Reconnecting").await?;
    server.start_again()?;
    tab.shows(3).await?;
    tab.view_is_about_the_division().await?;
    tab.until("document.querySelector('#away').checkVisibility()", false).await
}

#[tokio::test]
async fn offline_page_shows_no_live_state() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.network(false).await?;
    tab.shows_banner("Not connected").await?;
    tab.network(true).await?;
    tab.is_connected().await?;
    tab.until("document.querySelector('#away').checkVisibility()", false).await
}

#[tokio::test]
async fn silent_socket_is_replaced() -> Result {
    let server = Server::start()?;
    let proxy = Proxy::start(server.address()).await?;
    let browser = Browser::at(proxy.url()).await?;
    let tab = browser.open().await?;
    let note =
        "new MutationObserver(() => document.body.dataset.connection === 'closed' && (globalThis.was = 'closed'))
                    .observe(document.body, { attributeFilter: ['data-connection'] })";
    tab.evaluate(note).await?;
    proxy.silence();
    tab.until("globalThis.was ?? null", "closed").await?;
    tab.is_connected().await?;
    tab.switch(2).await?;
    tab.shows(2).await
}

#[tokio::test]
async fn changed_host_header_is_explained() -> Result {
    let server = Server::start()?;
    let proxy = Proxy::with_host(server.address(), "internal.test").await?;
    let browser = Browser::at(proxy.url()).await?;
    let tab = browser.open_away().await?;
    tab.shows_banner("a proxy in front of the server changes the Host header").await
}

// The page closes its socket when the user leaves, so that the browser keeps the page for the back button.
#[tokio::test]
async fn restored_page_connects_at_once() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    let spy = "(() => {
        const { setTimeout } = window;
        window.waits = [];
        window.setTimeout = (run, delay) => (waits.push(delay), setTimeout(run, delay));
        window.addEventListener('pageshow', ({ persisted }) => (window.persisted = persisted));
    })()";
    tab.evaluate(spy).await?;
    for _ in 0..4 {
        tab.load(&format!("{}healthz", server.url())).await?;
        tab.back().await?;
        tab.is_connected().await?;
        assert_eq!(tab.evaluate("window.persisted ?? null").await?, true);
    }
    assert_eq!(tab.evaluate("waits").await?, json!([]));
    Ok(())
}
