//! The hook's stream in a browser: shared by tabs, over silent connections, and where the browser's online state is
//! wrong.

use serde_json::json;

use crate::{
    Result,
    browser::Browser,
    faulty::Faulty,
    proxy::Proxy,
    tab::{Tab, eventually},
};

impl Faulty {
    pub(super) async fn has_streams(&self, count: usize) -> Result {
        eventually(&format!("{count} streams are open"), async || match self.streams() {
            open if open == count => Ok(()),
            open => Err(format!("{open} streams are open").into()),
        })
        .await
    }
}

impl Tab {
    async fn freeze(&self, frozen: bool) -> Result {
        let state = if frozen { "frozen" } else { "active" };
        self.devtools("Page.setWebLifecycleState", json!({ "state": state })).await
    }
}

// Over HTTP/1.1 a browser opens six connections to a host: with a stream in each tab, the seventh page would not load.
#[tokio::test]
async fn eight_tabs_share_one_stream() -> Result {
    let server = Faulty::start().await?;
    let browser = Browser::at(server.url()).await?;
    let mut tabs = Vec::new();
    for _ in 0..8 {
        tabs.push(browser.open_unwatched().await?);
    }
    server.has_streams(1).await?;
    for (size, teller) in [(1, 0), (2, 7)] {
        tabs[teller].store(json!({ "size": size })).await?;
        for tab in &tabs {
            tab.is_told(json!({ "size": size })).await?;
        }
    }
    server.has_streams(1).await?;
    // The first tab leads. Another tab leads as soon as the first tab has closed.
    tabs.remove(0).close().await?;
    tabs[6].store(json!({ "size": 3 })).await?;
    for tab in &tabs {
        tab.is_told(json!({ "size": 3 })).await?;
    }
    server.has_streams(1).await
}

#[tokio::test]
async fn frozen_leader_loses_the_stream() -> Result {
    let server = Faulty::start().await?;
    let browser = Browser::at(server.url()).await?;
    let (leader, other) = (browser.open_unwatched().await?, browser.open_unwatched().await?);
    other.store(json!({ "size": 1 })).await?;
    leader.is_told(json!({ "size": 1 })).await?;
    server.has_streams(1).await?;
    leader.freeze(true).await?;
    other.store(json!({ "size": 2 })).await?;
    other.is_told(json!({ "size": 2 })).await?;
    leader.freeze(false).await?;
    other.store(json!({ "size": 3 })).await?;
    leader.is_told(json!({ "size": 3 })).await?;
    other.is_told(json!({ "size": 3 })).await?;
    server.has_streams(1).await
}

#[tokio::test]
async fn new_session_reaches_every_tab() -> Result {
    let server = Faulty::start().await?;
    let browser = Browser::at(server.url()).await?;
    let (leader, other) = (browser.open_unwatched().await?, browser.open_unwatched().await?);
    other.store(json!({ "size": 1 })).await?;
    leader.is_told(json!({ "size": 1 })).await?;
    for (turn, left) in [("/renew", json!({ "size": 1 })), ("/destroy", json!({}))] {
        other.ask(turn).await?;
        for tab in [&leader, &other] {
            tab.until("told.some(([type]) => type === 'closed')", true).await?;
            tab.is_told(left.clone()).await?;
        }
    }
    other.store(json!({ "note": "new" })).await?;
    leader.is_told(json!({ "note": "new" })).await
}

#[tokio::test]
async fn silent_stream_is_reported_lost() -> Result {
    let server = Faulty::start().await?;
    let proxy = Proxy::start(server.address()).await?;
    let browser = Browser::at(proxy.url()).await?;
    let page = browser.open_unwatched().await?;
    page.store(json!({ "size": 1 })).await?;
    page.is_told(json!({ "size": 1 })).await?;
    proxy.silence();
    page.until("told.some(([type]) => type === 'lost')", true).await?;
    page.evaluate("hook.resume()").await?;
    page.store(json!({ "size": 2 })).await?;
    page.is_told(json!({ "size": 2 })).await
}

// `navigator.onLine` is false on a machine whose only network is of a kind that the system ignores.
#[tokio::test]
async fn hook_works_despite_wrong_offline_state() -> Result {
    let server = Faulty::start().await?;
    let browser = Browser::at(server.url()).await?;
    let page = browser.open_offline().await?;
    assert_eq!(page.evaluate("navigator.onLine").await?, false);
    page.store(json!({ "size": 1 })).await?;
    page.is_told(json!({ "size": 1 })).await
}
