//! Sign-in and sign-out over a page's socket: no page loads, and every tab follows.

use serde_json::json;

use crate::{
    Result,
    browser::Browser,
    server::Server,
    tab::{ALL, Tab},
};

#[tokio::test]
async fn socket_login_and_logout_need_no_reload() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let (tab, other) = (browser.open().await?, browser.open().await?);
    let (document, others) = (tab.document().await?, other.document().await?);
    tab.switch(3).await?;
    tab.stored(3).await?;
    let before = tab.cookie().await?.ok_or("no cookie after a switch")?;

    tab.sign_in("alice").await?;
    tab.shows(ALL).await?;
    other.is_signed_in("alice").await?;
    other.shows(ALL).await?;
    let after = tab.cookie().await?.ok_or("no cookie after the sign-in")?;
    assert_ne!(before.value()[..56], after.value()[..56], "a sign-in gives the session a new id");
    assert_eq!(tab.division().await?["user"], "alice");
    tab.switch(2).await?;
    tab.stored(2).await?;
    other.shows(2).await?;

    // The server loses its memory, and reads the signed-in user from the browser's cookie.
    server.restart()?;
    tab.is_connected().await?;
    let kept = tab.division().await?;
    assert_eq!((&kept["value"], &kept["user"]), (&json!(2), &json!("alice")));

    other.sign_out().await?;
    tab.is_signed_out().await?;
    tab.shows(ALL).await?;
    assert_eq!(tab.cookie().await?, None);
    server.restart()?;
    tab.is_connected().await?;
    assert_eq!(tab.division().await?["user"], json!(null));
    assert_eq!((tab.document().await?, other.document().await?), (document, others), "no page has reloaded");
    Ok(())
}

#[tokio::test]
async fn refused_user_name_changes_nothing() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.evaluate("document.querySelector('#user').removeAttribute('maxlength')").await?;
    tab.evaluate(
        "document.querySelector('#user').value = 'x'.repeat(65), document.querySelector('#login').requestSubmit()",
    )
    .await?;
    assert!(tab.refuses().await?.contains("1 to 64 characters"));
    tab.is_signed_out().await?;
    assert_eq!(tab.cookie().await?, None);
    Ok(())
}

#[tokio::test]
async fn sign_in_reaches_the_other_node() -> Result {
    let (first, second) = (Server::start()?, Server::start()?);
    let browser = Browser::start(&first).await?;
    let (here, there) = (browser.open().await?, browser.open().await?);
    here.switch(1).await?;
    here.stored(1).await?;
    there.visit(&second.url()).await?;
    there.shows(1).await?;
    here.sign_in("alice").await?;
    // The other node learns of the turn from the new cookie, and closes the socket of the old session.
    assert_eq!(there.division().await?["user"], "alice");
    there.until("JSON.parse(sessionStorage.closes ?? '[]').includes(1008)", true).await?;
    there.evaluate("document.dispatchEvent(new Event('visibilitychange'))").await?;
    there.is_signed_in("alice").await
}

impl Tab {
    /// Reads a number that differs between documents.
    async fn document(&self) -> Result<serde_json::Value> {
        self.evaluate("performance.timeOrigin").await
    }
}
