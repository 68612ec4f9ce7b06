//! The `cluster` page on two nodes over one file: the node's strip with the count of visits.

use crate::{Result, browser::Browser, server::Server, tab::Tab};

#[tokio::test]
async fn visits_count_on_both_nodes() -> Result {
    let folder = tempfile::tempdir()?;
    let node = |name: &str| {
        let store = format!("sqlite://{}", folder.path().join("sessions.db").display());
        Server::with("cluster", [("NODE", name.to_owned()), ("STORE_URL", store)])
    };
    let (a, b) = (node("a")?, node("b")?);
    let browser = Browser::start(&a).await?;
    let tab = browser.open().await?;
    tab.is_on("a", 0).await?;
    tab.captures("cluster-visitor").await?;
    tab.until("document.querySelector('#everywhere').checkVisibility()", false).await?;
    tab.click("#add").await?;
    tab.is_on("a", 1).await?;
    tab.sign_in("alice").await?;
    tab.until("document.querySelector('#everywhere').checkVisibility()", true).await?;

    tab.visit(&b.url()).await?;
    tab.is_on("b", 1).await?;
    tab.is_signed_in("alice").await?;
    tab.click("#add").await?;
    tab.is_on("b", 2).await?;
    tab.until("document.querySelector('#store').className", "good").await?;
    tab.captures("cluster").await?;

    tab.submit("#everywhere button").await?;
    tab.is_signed_out().await?;
    tab.is_on("b", 0).await?;
    drop(b);
    tab.until("document.querySelector('#store').className", "bad").await?;
    tab.captures("cluster-away").await
}

impl Tab {
    /// Waits until the page shows the node's name and the visits of the session.
    async fn is_on(&self, node: &str, visits: u64) -> Result {
        self.until("document.querySelector('#node').textContent", node).await?;
        self.until("Number(document.querySelector('#visits').textContent)", visits).await
    }
}
