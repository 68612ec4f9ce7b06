//! The hook in a browser, against a server that fails on purpose.

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

    /// Reads the values that this tab has from the server's events.
    pub(super) async fn is_told(&self, values: Value) -> Result {
        self.until("values()", values).await
    }

    async fn announced(&self, what: &str) -> Result<usize> {
        let all = self.evaluate(&format!("told.filter(([type]) => type === '{what}').length")).await?;
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
            seen => Err(format!("it has seen {seen}").into()),
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
async fn what_fails_is_tried_again_until_it_is_stored_once() -> Result {
    let (server, _browser, page, other) = two_tabs().await?;
    server.fail([Fault::Status(503), Fault::Cut, Fault::Lost, Fault::Status(429)]);
    page.store(json!({ "note": "kept", "size": 3 })).await?;
    other.is_told(json!({ "note": "kept", "size": 3 })).await?;
    page.is_told(json!({ "note": "kept", "size": 3 })).await?;
    eventually("the page knows", async || match page.announced("stored").await? {
        1 => Ok(()),
        count => Err(format!("announced {count} times").into()),
    })
    .await?;
    assert_eq!(server.posts(), vec![json!({ "note": "kept", "size": 3 }); 5]);
    Ok(())
}

#[tokio::test]
async fn one_post_is_under_way_and_what_is_stored_meanwhile_goes_as_one() -> Result {
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
async fn a_tab_that_is_closed_has_stored_what_it_wanted() -> Result {
    let (server, _browser, page, other) = two_tabs().await?;
    other.store(json!({ "size": 0 })).await?;
    page.is_told(json!({ "size": 0 })).await?;
    server.fail([Fault::Held, Fault::Held]);
    page.store(json!({ "size": 1 })).await?;
    server.has_seen(json!([{ "size": 0 }, { "size": 1 }])).await?;
    page.store(json!({ "note": "late" })).await?;
    page.close().await?;
    eventually("both were sent", async || match server.posts().last() {
        Some(last) if last["note"] == "late" => Ok(()),
        last => Err(format!("the last was {last:?}").into()),
    })
    .await?;
    // The browser has cut the stream of the closed tab, so no page sees the answers.
    server.has_streams(1).await?;
    server.release();
    server.release();
    other.is_told(json!({ "size": 1, "note": "late" })).await
}

#[tokio::test]
async fn offline_nothing_is_lost_and_online_all_is_caught_up() -> Result {
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
async fn what_a_page_wanted_stored_outlives_the_end_of_its_session() -> Result {
    for turn in ["/renew", "/destroy"] {
        let (server, _browser, page, other) = two_tabs().await?;
        other.store(json!({ "size": 1 })).await?;
        page.is_told(json!({ "size": 1 })).await?;
        server.fail([Fault::Held]);
        page.store(json!({ "note": "mine" })).await?;
        server.has_seen(json!([{ "size": 1 }, { "note": "mine" }])).await?;
        other.ask(turn).await?;
        server.release();
        // The POST came with the old cookie: the server refused the POST, and the hook repeated it with the new cookie.
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
async fn the_page_runs_under_a_strict_policy_and_keeps_to_it() -> Result {
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
    /// Takes this tab's network away, or gives it back.
    pub(super) async fn network(&self, there: bool) -> Result {
        let conditions = json!({ "offline": !there, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.devtools("Network.enable", json!({})).await?;
        self.devtools("Network.emulateNetworkConditions", conditions).await?;
        self.until("navigator.onLine", there).await
    }
}
