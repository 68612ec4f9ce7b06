//! The hook in a browser, against a server that fails on purpose: repeated, held and offline POSTs, closed tabs, the
//! end of a session, and a strict content security policy.

use serde_json::{Value, json};

use crate::{
    Result,
    browser::Browser,
    faulty::{Fault, Faulty},
    tab::{Tab, eventually},
};

impl Tab {
    pub(super) async fn store(&self, values: Value) -> Result {
        self.evaluate(&format!("hook.store({values})")).await.map(drop)
    }

    /// Waits until this tab has these values from the server's events.
    pub(super) async fn is_told(&self, values: Value) -> Result {
        self.until("values()", values).await
    }

    /// Returns the number of the hook's events of a type.
    async fn announced(&self, event: &str) -> Result<usize> {
        let all = self.evaluate(&format!("told.filter(([type]) => type === '{event}').length")).await?;
        Ok(all.as_u64().unwrap_or_default() as usize)
    }

    pub(super) async fn ask(&self, path: &str) -> Result {
        self.evaluate(&format!("fetch('{path}', {{ method: 'POST' }}).then(({{ status }}) => asked = status)")).await?;
        self.until("globalThis.asked ?? null", 200).await
    }
}

impl Faulty {
    async fn has_seen(&self, posts: Value) -> Result {
        eventually(&format!("the server has seen {posts}"), async || match json!(self.posts()) {
            seen if seen == posts => Ok(()),
            seen => Err(format!("the server has seen {seen}").into()),
        })
        .await
    }
}

/// Opens a page, and beside the page another tab that shows the server's values.
async fn two_tabs() -> Result<(Faulty, Browser, Tab, Tab)> {
    let server = Faulty::start().await?;
    let browser = Browser::at(server.url()).await?;
    let (page, other) = (browser.open_unwatched().await?, browser.open_unwatched().await?);
    Ok((server, browser, page, other))
}

#[tokio::test]
async fn failed_posts_repeat_until_stored() -> Result {
    let (server, _browser, page, other) = two_tabs().await?;
    server.fail([Fault::Status(503), Fault::Cut, Fault::Lost, Fault::Status(429)]);
    page.store(json!({ "note": "kept", "size": 3 })).await?;
    other.is_told(json!({ "note": "kept", "size": 3 })).await?;
    page.is_told(json!({ "note": "kept", "size": 3 })).await?;
    eventually("the hook announces the stored values once", async || match page.announced("stored").await? {
        1 => Ok(()),
        count => Err(format!("announced {count} times").into()),
    })
    .await?;
    assert_eq!(server.posts(), vec![json!({ "note": "kept", "size": 3 }); 5]);
    Ok(())
}

#[tokio::test]
async fn writes_during_a_post_go_together() -> Result {
    let (server, _browser, page, other) = two_tabs().await?;
    server.fail([Fault::Held]);
    page.store(json!({ "size": 0 })).await?;
    server.has_seen(json!([{ "size": 0 }])).await?;
    page.evaluate("(() => { for (let size = 1; size <= 50; size++) hook.store({ size, note: `number ${size}` }); })()")
        .await?;
    assert_eq!(server.posts().len(), 1);
    server.release();
    other.is_told(json!({ "size": 50, "note": "number 50" })).await?;
    server.has_seen(json!([{ "size": 0 }, { "size": 50, "note": "number 50" }])).await
}

#[tokio::test]
async fn closed_tab_still_stores_values() -> Result {
    let (server, _browser, page, other) = two_tabs().await?;
    other.store(json!({ "size": 0 })).await?;
    page.is_told(json!({ "size": 0 })).await?;
    server.fail([Fault::Held, Fault::Held]);
    page.store(json!({ "size": 1 })).await?;
    server.has_seen(json!([{ "size": 0 }, { "size": 1 }])).await?;
    page.store(json!({ "note": "late" })).await?;
    page.close().await?;
    eventually("the page has sent both values", async || match server.posts().last() {
        Some(last) if last["note"] == "late" => Ok(()),
        last => Err(format!("the last POST was {last:?}").into()),
    })
    .await?;
    // The browser has cut the stream of the closed tab, so no page sees the answers.
    server.has_streams(1).await?;
    server.release();
    server.release();
    other.is_told(json!({ "size": 1, "note": "late" })).await
}

#[tokio::test]
async fn offline_writes_arrive_once_online() -> Result {
    let (server, _browser, page, other) = two_tabs().await?;
    page.store(json!({ "size": 1 })).await?;
    page.is_told(json!({ "size": 1 })).await?;
    page.network(false).await?;
    page.store(json!({ "note": "from a tunnel" })).await?;
    other.store(json!({ "size": 2 })).await?;
    other.is_told(json!({ "size": 2 })).await?;
    assert_eq!(server.posts(), [json!({ "size": 1 }), json!({ "size": 2 })]);
    page.network(true).await?;
    page.is_told(json!({ "size": 2, "note": "from a tunnel" })).await?;
    other.is_told(json!({ "size": 2, "note": "from a tunnel" })).await
}

#[tokio::test]
async fn pending_write_survives_renewal_and_sign_out() -> Result {
    for turn in ["/renew", "/destroy"] {
        let (server, _browser, page, other) = two_tabs().await?;
        other.store(json!({ "size": 1 })).await?;
        page.is_told(json!({ "size": 1 })).await?;
        server.fail([Fault::Held]);
        page.store(json!({ "note": "mine" })).await?;
        server.has_seen(json!([{ "size": 1 }, { "note": "mine" }])).await?;
        other.ask(turn).await?;
        server.release();
        // The POST came with the old cookie: the server refused the POST, and the hook repeated the POST with the new
        // cookie.
        page.until("told.some(([type, detail]) => type === 'conflict' && detail.code === 'session_closed')", true)
            .await?;
        page.until("told.some(([type, detail]) => type === 'stored' && detail.stored.includes('note'))", true).await?;
        let all = if turn == "/renew" { json!({ "size": 1, "note": "mine" }) } else { json!({ "note": "mine" }) };
        page.is_told(all.clone()).await?;
        other.is_told(all).await?;
    }
    Ok(())
}

#[tokio::test]
async fn hook_obeys_a_strict_content_security_policy() -> Result {
    let server = Faulty::start().await?;
    let browser = Browser::at(server.url()).await?;
    let page = browser.open_unwatched().await?;
    page.evaluate("addEventListener('securitypolicyviolation', () => (document.body.dataset.violation = 'yes'))")
        .await?;
    page.store(json!({ "size": 1 })).await?;
    page.is_told(json!({ "size": 1 })).await?;
    assert_eq!(page.evaluate("document.body.dataset.violation ?? null").await?, Value::Null);
    Ok(())
}

impl Tab {
    /// Switches this tab's network off or on.
    pub(super) async fn network(&self, there: bool) -> Result {
        let conditions = json!({ "offline": !there, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.devtools("Network.enable", json!({})).await?;
        self.devtools("Network.emulateNetworkConditions", conditions).await?;
        self.until("navigator.onLine", there).await
    }
}
