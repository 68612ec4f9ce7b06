//! The `cart` example: a change in one tab shows in all tabs, and the page reports a lost connection and a failed
//! request.

use serde_json::{Value, json};

use crate::{Result, browser::Browser, pictures::Scheme, proxy::Proxy, server::Server, tab::Tab};

impl Tab {
    pub(crate) async fn add_to_cart(&self, product: u32) -> Result {
        self.evaluate(&format!("document.querySelector('[data-product=\"{product}\"] .add').click()")).await.map(drop)
    }

    /// Waits until the page shows this cart, as pairs of product and quantity.
    pub(crate) async fn has_in_cart(&self, items: Value) -> Result {
        let shown = "[...document.querySelectorAll('#items li')].map((line) =>
            [Number(line.dataset.product), Number(line.querySelector('.quantity').textContent)])";
        self.until(shown, items).await
    }
}

#[tokio::test]
async fn cart_follows_in_every_tab_and_survives_restart() -> Result {
    let mut server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    // Both tabs are open before a session exists.
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
    assert_eq!(second.evaluate("performance.timeOrigin").await?, document, "the second tab has not reloaded");

    server.restart()?;
    first.reload().await?;
    first.has_in_cart(json!([[2, 2], [5, 2]])).await?;
    first.add_to_cart(1).await?;
    second.has_in_cart(json!([[2, 2], [5, 2], [1, 1]])).await?;
    assert_eq!(second.evaluate("performance.timeOrigin").await?, document, "the stream reopens without a reload");

    second.evaluate("document.querySelector('#empty').click()").await?;
    first.has_in_cart(json!([])).await?;
    second.has_in_cart(json!([])).await
}

#[tokio::test]
async fn forgotten_session_empties_the_cart_everywhere() -> Result {
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
async fn unknown_product_is_refused() -> Result {
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

#[tokio::test]
async fn quantity_changes_reach_every_tab() -> Result {
    let server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let (first, second) = (browser.open().await?, browser.open().await?);
    // Two first requests at the same time would begin two sessions, and the browser keeps only one session.
    first.add_to_cart(2).await?;
    first.has_in_cart(json!([[2, 1]])).await?;
    for product in [5, 2] {
        first.add_to_cart(product).await?;
    }
    first.has_in_cart(json!([[2, 2], [5, 1]])).await?;
    let focus = "document.activeElement.ariaLabel";
    first.press("[data-product='2'] .less").await?;
    second.has_in_cart(json!([[2, 1], [5, 1]])).await?;
    first.has_in_cart(json!([[2, 1], [5, 1]])).await?;
    assert_eq!(first.evaluate(focus).await?, "One less Darjeeling First Flush", "the line keeps the focus");
    first.press("[data-product='5'] .more").await?;
    second.has_in_cart(json!([[2, 1], [5, 2]])).await?;
    second.press("[data-product='5'] .remove").await?;
    first.has_in_cart(json!([[2, 1]])).await?;
    second.has_in_cart(json!([[2, 1]])).await?;
    second.until("document.activeElement.id", "cart").await?;
    second.until("document.querySelector('[role=status] #news').textContent", "Rooibos Cederberg removed").await?;
    // The last piece of a product removes the line.
    first.press("[data-product='2'] .less").await?;
    second.has_in_cart(json!([])).await?;
    first.until("document.querySelector('[role=status] #news').textContent", "The cart is empty").await
}

#[tokio::test]
async fn phone_confirms_an_added_item() -> Result {
    let server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.screen(375, Scheme::Light).await?;
    tab.reload().await?;
    for (count, said) in [(1, "1 item, €7.90"), (2, "2 items, €15.80")] {
        tab.add_to_cart(5).await?;
        tab.has_in_cart(json!([[5, count]])).await?;
        tab.until(
            &format!(
                "((bar) => bar.checkVisibility() && bar.getBoundingClientRect().bottom <= innerHeight
                     && ['Rooibos Cederberg added', '{said}'].every((part) => bar.innerText.includes(part))
                     && bar.querySelector('[role=status]').getBoundingClientRect().height > 20)(document.querySelector('#bar'))"
            ),
            true,
        )
        .await?;
    }
    tab.click("#bar a").await?;
    tab.until("document.activeElement.id", "cart").await?;
    tab.until("document.querySelector('#bar a').checkVisibility()", false).await
}

impl Tab {
    /// Waits until the top of the page warns, at any scroll position, that the cart may be out of date.
    pub(crate) async fn says_that_changes_may_be_missing(&self) -> Result {
        self.until(
            "((strip) => strip.checkVisibility() && strip.getBoundingClientRect().top >= 0
                 && strip.getBoundingClientRect().bottom < 300
                 && strip.innerText.includes('may be missing'))(document.querySelector('#lost'))",
            true,
        )
        .await
    }

    async fn connection(&self, says: &str) -> Result {
        self.until("document.querySelector('#connection').textContent", says).await
    }
}

#[tokio::test]
async fn lost_stream_shows_a_warning() -> Result {
    let mut server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.screen(375, Scheme::Light).await?;
    tab.add_to_cart(6).await?;
    tab.has_in_cart(json!([[6, 1]])).await?;
    tab.evaluate("scrollTo(0, 400)").await?;
    server.stop()?;
    tab.says_that_changes_may_be_missing().await?;
    tab.connection("Not live").await?;
    server.start_again()?;
    tab.connection("Live").await?;
    tab.until("document.querySelector('#lost').checkVisibility()", false).await
}

#[tokio::test]
async fn failed_request_shows_a_notice() -> Result {
    let mut server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.screen(375, Scheme::Light).await?;
    tab.add_to_cart(1).await?;
    tab.has_in_cart(json!([[1, 1]])).await?;
    tab.evaluate("scrollTo(0, 400)").await?;
    for _ in 1..99 {
        tab.add_to_cart(1).await?;
    }
    tab.has_in_cart(json!([[1, 99]])).await?;
    let notice = "((notice) => notice.getBoundingClientRect().top >= 0 && notice.checkVisibility()
        && notice.innerText)(document.querySelector('#notice'))";
    tab.add_to_cart(1).await?;
    let full = "The cart is unchanged: `cart` is not valid: a cart holds 1 to 99 of a product.";
    tab.until(notice, full).await?;
    tab.press("[data-product='1'] .less").await?;
    tab.until(notice, false).await?;
    server.stop()?;
    tab.add_to_cart(1).await?;
    tab.until(notice, "The shop does not answer.").await
}

#[tokio::test]
async fn offline_cart_shows_no_live_state() -> Result {
    let server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.network(false).await?;
    tab.connection("Offline").await?;
    tab.says_that_changes_may_be_missing().await?;
    tab.network(true).await?;
    tab.connection("Live").await
}

#[tokio::test]
async fn refused_stream_leaves_the_cart_working() -> Result {
    let server = Server::of("cart")?;
    let proxy = Proxy::with_foreign_streams(server.address()).await?;
    let browser = Browser::at(proxy.url()).await?;
    let tab = browser.open_at("").await?;
    tab.says_that_changes_may_be_missing().await?;
    tab.until("document.querySelector('#lost').textContent.includes('Sec-Fetch-Site')", true).await?;
    tab.until("document.querySelector('#nothing').textContent", "Nothing in it yet.").await?;
    tab.add_to_cart(3).await?;
    tab.has_in_cart(json!([[3, 1]])).await?;
    tab.captures("cart-refused").await?;
    tab.press("#items .more").await?;
    tab.has_in_cart(json!([[3, 2]])).await?;
    tab.load(&proxy.url()).await?;
    tab.has_in_cart(json!([[3, 2]])).await
}

#[tokio::test]
async fn page_without_scripts_shows_no_buttons() -> Result {
    let server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open_without_script("").await?;
    tab.captures("cart-no-script").await?;
    assert_eq!(tab.evaluate("document.querySelector('.add').checkVisibility()").await?, false);
    assert_eq!(tab.evaluate("document.querySelector('noscript').checkVisibility()").await?, true);
    Ok(())
}
