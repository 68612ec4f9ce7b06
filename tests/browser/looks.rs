//! The page at desktop and phone width: nothing overflows, what one needs is in sight, and pictures for whoever looks.

use serde_json::json;

use crate::{Result, browser::Browser, server::Server, tab::Tab};

#[tokio::test]
async fn at_desktop_width() -> Result {
    look("desktop", 1280, 800).await
}

#[tokio::test]
async fn at_phone_width() -> Result {
    look("phone", 375, 812).await
}

async fn look(name: &str, width: u32, height: u32) -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
    tab.devtools("Emulation.setDeviceMetricsOverride", screen).await?;
    tab.picture(&format!("{name}-first-visit"), width).await?;

    tab.sign_in("alice").await?;
    tab.switch(3).await?;
    tab.stored(3).await?;
    for view in ["home", "projects", "costs"] {
        tab.navigate(view).await?;
        tab.view_is_about_the_division().await?;
        tab.picture(&format!("{name}-{view}"), width).await?;
    }

    tab.evaluate("document.querySelector('#division').add(new Option('Ninety-nine', '99'))").await?;
    tab.switch(99).await?;
    tab.refuses().await?;
    tab.picture(&format!("{name}-refused"), width).await
}

impl Tab {
    async fn picture(&self, name: &str, width: u32) -> Result {
        self.capture(name, width).await?;
        for needed in ["#division", "#view", "nav [data-view=costs]", ":is(#login, #logout):not([hidden])"] {
            let in_sight = format!(
                "(({{ left, right, top, width, height }}) => width > 0 && height > 0 && left >= 0 && right <= {width}
                     && top < innerHeight)(document.querySelector('{needed}').getBoundingClientRect())"
            );
            assert_eq!(self.evaluate(&in_sight).await?, true, "{name}: {needed} is out of sight");
        }
        Ok(())
    }
}
