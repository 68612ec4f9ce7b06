//! The inspector in one tab, and the application in another.

use serde_json::json;

use crate::{Result, browser::Browser, server::Server};

#[tokio::test]
async fn what_changes_in_one_tab_shows_in_the_inspector_in_another() -> Result {
    let server = Server::of("inspector")?;
    let browser = Browser::start(&server).await?;
    for path in ["inspector", "inspector/"] {
        let inspector = browser.open_at(path).await?;
        inspector.is_connected().await?;
        let shop = browser.open_at("").await?;
        // By a visitor first, whose session the inspector has to look for.
        shop.submit("[formaction='/theme/dark']").await?;
        inspector.until("document.querySelector('#state').textContent", "Live").await?;
        let card =
            "[...document.querySelectorAll('.value')].find(card => card.querySelector('h3').textContent === 'theme')";
        inspector.until(&format!("{card}.querySelector('pre').textContent"), "\"dark\"").await?;
        inspector.until(&format!("{card}.querySelector('[aria-current] b').textContent"), "memory").await?;

        shop.submit("[formaction='/theme/light']").await?;
        inspector.until(&format!("{card}.querySelector('pre').textContent"), "\"light\"").await?;
        let logged =
            "[...document.querySelector('#log li').querySelectorAll('.badge, b, .what')].map(part => part.textContent)";
        inspector.until(logged, json!(["set", "theme", "\"light\""])).await?;

        // Under the id that the sign-in gave it.
        shop.submit("[formaction='/sign-out']").await?;
        shop.submit("[action='/sign-in'] button:not([formaction])").await?;
        inspector.until("document.querySelector('#signed-in').textContent", "yes").await?;
        inspector.is_connected().await?;
        let style = inspector.evaluate("getComputedStyle(document.querySelector('.panel')).borderStyle").await?;
        assert_eq!(style, "solid", "{path}: the page has found its parts");
        shop.submit("[formaction='/sign-out']").await?;
    }
    Ok(())
}
