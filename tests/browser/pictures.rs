//! Pictures of a page at desktop and phone width, in both colour schemes, in the folder `screenshots` of the target
//! directory. A page must not overflow its screen.

use std::{fs, path::Path};

use serde_json::json;

use crate::{Result, browser::Browser, server::Server, tab::Tab};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

impl Scheme {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

impl Tab {
    /// Gives the tab the screen of a desktop or a phone of this width, in CSS pixels.
    pub(crate) async fn screen(&self, width: u32, scheme: Scheme) -> Result {
        let phone = width < 600;
        let screen = json!({
            "width": width, "height": if phone { 812 } else { 800 }, "deviceScaleFactor": 1, "mobile": phone
        });
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await?;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme.name() }] });
        self.devtools("Emulation.setEmulatedMedia", features).await
    }

    /// Writes a picture of the screen as `NAME.png` after the end of all animations.
    pub(crate) async fn capture(&self, name: &str, width: u32) -> Result {
        self.until("document.getAnimations().some(({ playState }) => playState === 'running')", false).await?;
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target directory")?;
        let folder = target.join("screenshots");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name).with_extension("png"), self.screenshot().await?)?;

        // Not `innerWidth`: a phone zooms out until the overflowing content fits.
        let wide = self.evaluate("document.documentElement.scrollWidth").await?;
        assert!(wide.as_u64() <= Some(width.into()), "{name}: the page is {wide} px wide");
        Ok(())
    }

    /// Captures the page as `NAME-WIDTH-SCHEME.png` at 1280 and 375 pixels, light and dark.
    pub(crate) async fn captures(&self, name: &str) -> Result {
        for width in [1280, 375] {
            for scheme in [Scheme::Light, Scheme::Dark] {
                self.screen(width, scheme).await?;
                self.capture(&format!("{name}-{width}-{}", scheme.name()), width).await?;
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn cart_fits_screens_in_both_schemes() -> Result {
    let mut server = Server::of("cart")?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.captures("cart-empty").await?;
    tab.add_to_cart(2).await?;
    tab.has_in_cart(json!([[2, 1]])).await?;
    for product in [5, 2] {
        tab.add_to_cart(product).await?;
    }
    tab.has_in_cart(json!([[2, 2], [5, 1]])).await?;
    tab.captures("cart").await?;
    tab.evaluate("document.querySelector('#cart').scrollIntoView()").await?;
    tab.capture("cart-lines-375-dark", 375).await?;
    server.stop()?;
    tab.says_that_changes_may_be_missing().await?;
    tab.captures("cart-disconnected").await
}

#[tokio::test]
async fn inspector_fits_screens_in_both_schemes() -> Result {
    let server = Server::of("inspector")?;
    let browser = Browser::start(&server).await?;
    let (tab, shop) = (browser.open_at("inspector").await?, browser.open_at("").await?);
    tab.is_connected().await?;
    tab.until("document.querySelector('#state').textContent", "None yet").await?;
    tab.captures("inspector-visitor").await?;
    shop.captures("shop-visitor").await?;
    shop.submit("[action='/sign-in'] button:not([formaction])").await?;
    tab.until("document.querySelector('#signed-in').textContent", "yes").await?;
    shop.submit("[action='/cart'] button:not([formaction])").await?;
    shop.captures("shop").await?;
    tab.until("document.querySelector('#log').innerText.includes('pear')", true).await?;
    tab.captures("inspector").await?;
    tab.evaluate("scrollTo(0, 900)").await?;
    tab.capture("inspector-values-375-dark", 375).await?;
    tab.evaluate("scrollTo(0, document.body.scrollHeight)").await?;
    tab.capture("inspector-log-375-dark", 375).await?;
    tab.evaluate("scrollTo(0, 0)").await?;
    drop(server);
    tab.until("document.querySelector('#notice').checkVisibility()", true).await?;
    tab.captures("inspector-disconnected").await
}
