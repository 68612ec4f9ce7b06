//! The `division` page at desktop and phone width, in both colour schemes: no content overflows the screen, and the
//! controls are in sight.

use serde_json::json;

use crate::{Result, browser::Browser, pictures::Scheme, server::Server, tab::Tab};

#[tokio::test]
async fn page_fits_desktop_and_phone() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.looks("first-visit").await?;

    tab.sign_in("alice").await?;
    tab.switch(3).await?;
    tab.stored(3).await?;
    for view in ["home", "projects", "costs"] {
        tab.navigate(view).await?;
        tab.view_is_about_the_division().await?;
        tab.looks(view).await?;
    }

    tab.evaluate("document.querySelector('#division').add(new Option('Ninety-nine', '99'))").await?;
    tab.switch(99).await?;
    tab.refuses().await?;
    tab.looks("refused").await?;

    tab.reload().await?;
    server.stop()?;
    tab.is_disconnected().await?;
    tab.switch(1).await?;
    tab.until("document.querySelector('#away').checkVisibility()", true).await?;
    tab.looks("away").await
}

#[tokio::test]
async fn page_without_scripts_fits_the_screen() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await?;
    tab.load(&server.url()).await?;
    tab.looks("no-script").await?;
    // The switch is wide enough for the division's name.
    let width = "document.querySelector('#division').getBoundingClientRect().width > 120";
    assert_eq!(tab.evaluate(width).await?, true);
    let hidden = "document.querySelector('#connection').checkVisibility()";
    assert_eq!(tab.evaluate(hidden).await?, false);
    Ok(())
}

impl Tab {
    async fn looks(&self, name: &str) -> Result {
        for width in [1280, 375] {
            for scheme in [Scheme::Light, Scheme::Dark] {
                self.screen(width, scheme).await?;
                self.capture(&format!("division-{name}-{width}-{}", scheme.name()), width).await?;
            }
            for needed in ["#division", "#view", "nav [data-view=costs]", ":is(#login, #logout):not([hidden])"] {
                let in_sight = format!(
                    "(({{ left, right, top, width, height }}) => width > 0 && height > 0 && left >= 0 && right <= {width}
                         && top < innerHeight)(document.querySelector('{needed}').getBoundingClientRect())"
                );
                assert_eq!(self.evaluate(&in_sight).await?, true, "{name} at {width}: {needed} is out of sight");
            }
        }
        Ok(())
    }
}
