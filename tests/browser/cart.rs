//! The `cart` example: what one tab adds, the others show.

use serde_json::{Value, json};

use crate::{Result, browser::Browser, server::Server, tab::Tab};

impl Tab {
    pub(crate) async fn add_to_cart(&self, product: u32) -> Result {
        self.evaluate(&format!("document.querySelector('[data-product=\"{product}\"] .add').click()")).await.map(drop)
    }

    /// The cart on the page, as pairs of product and quantity.
    pub(crate) async fn has_in_cart(&self, items: Value) -> Result {
        let shown = "[...document.querySelectorAll('#items li')].map((line) =>
            [Number(line.dataset.product), Number(line.querySelector('.quantity').textContent)])";
        self.until(shown, items).await
    }
}

#[tokio::test]
async fn what_is_added_in_one_tab_is_in_the_other_at_once_and_outlives_a_restart() -> Result {
    let mut server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    // Both are there before there is a session.
    let (first, second) = (browser.open().await?, browser.open().await?);
    assert!(first.cookie().await?.is_none());
    let document = second.evaluate("performance.timeOrigin").await?;

    first.add_to_cart(2).await?;
    second.has_in_cart(json!([[2, 1]])).await?;
    first.add_to_cart(5).await?;
    first.add_to_cart(2).await?;
    second.has_in_cart(json!([[2, 2], [5, 1]])).await?;
    second.add_to_cart(5).await?;
    first.has_in_cart(json!([[2, 2], [5, 2]])).await?;
    assert_eq!(second.evaluate("performance.timeOrigin").await?, document, "without a reload");

    server.restart()?;
    first.reload().await?;
    first.has_in_cart(json!([[2, 2], [5, 2]])).await?;
    first.add_to_cart(1).await?;
    second.has_in_cart(json!([[2, 2], [5, 2], [1, 1]])).await?;
    assert_eq!(second.evaluate("performance.timeOrigin").await?, document, "its stream came back by itself");

    second.evaluate("document.querySelector('#empty').click()").await?;
    first.has_in_cart(json!([])).await?;
    second.has_in_cart(json!([])).await
}

#[tokio::test]
async fn a_browser_that_is_forgotten_shows_an_empty_cart_in_every_tab() -> Result {
    let server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let (first, second) = (browser.open().await?, browser.open().await?);
    first.add_to_cart(3).await?;
    second.has_in_cart(json!([[3, 1]])).await?;
    first.submit("#forget").await?;
    second.has_in_cart(json!([])).await?;
    first.has_in_cart(json!([])).await?;
    first.add_to_cart(4).await?;
    second.has_in_cart(json!([[4, 1]])).await
}

#[tokio::test]
async fn what_is_not_for_sale_is_refused() -> Result {
    let server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.add_to_cart(1).await?;
    tab.has_in_cart(json!([[1, 1]])).await?;
    tab.evaluate(
        "fetch('/cart', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{\"product_id\":7}' })
             .then(({ status }) => document.body.dataset.status = status)",
    )
    .await?;
    tab.until("document.body.dataset.status", "422").await?;
    tab.has_in_cart(json!([[1, 1]])).await
}
