//! Several tabs of one browser: each tab learns of the changes in the others.

use serde_json::json;

use crate::{
    Result,
    browser::Browser,
    server::Server,
    tab::{ALL, eventually},
};

#[tokio::test]
async fn write_reaches_the_second_tab() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let first = browser.open().await?;
    first.switch(1).await?;
    first.stored(1).await?;
    let second = browser.open().await?;
    second.shows(1).await?;

    let document = second.evaluate("performance.timeOrigin").await?;
    first.switch(3).await?;
    second.shows(3).await?;
    assert_eq!(second.posts().await?, json!([]), "only the tab of the switch brings the relay token");
    assert_eq!(second.evaluate("performance.timeOrigin").await?, document);

    second.switch(0).await?;
    first.shows(0).await
}

#[tokio::test]
async fn sign_in_reconnects_other_sockets() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let first = browser.open().await?;
    first.switch(3).await?;
    first.stored(3).await?;
    let second = browser.open().await?;
    second.shows(3).await?;

    // Without this line the page closes its socket at the hook's event, before the server closes the socket.
    second.evaluate("(WebSocket.prototype.close = () => {}, true)").await?;
    first.sign_in("alice").await?;
    second.is_signed_in("alice").await?;
    second.shows(ALL).await?;
    second.until("JSON.parse(sessionStorage.closes ?? '[]')[0]", 1008).await?;
    first.switch(1).await?;
    second.shows(1).await?;

    second.sign_out().await?;
    first.is_signed_out().await?;
    first.shows(ALL).await?;
    second.sign_in("bob").await?;
    second.switch(2).await?;
    second.stored(2).await?;
    first.reload().await?;
    first.is_signed_in("bob").await?;
    first.shows(2).await
}

#[tokio::test]
async fn late_anonymous_write_ends_no_login() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let late = browser.open().await?;
    late.hold_posts().await?;
    late.switch(4).await?;
    late.until("watched.posts.length", 1).await?;
    let login = browser.open().await?;
    login.sign_in("alice").await?;
    let cookie = login.cookie().await?;

    // No page has brought the birth token of the socket's session, and the browser has another session by now.
    late.release_posts().await?;
    late.is_signed_in("alice").await?;
    assert_eq!(late.posts().await?, json!([["/store_session", 409]]), "the writeback refuses the visitor's switch");
    login.shows(ALL).await?;
    login.reload().await?;
    login.is_signed_in("alice").await?;
    login.shows(ALL).await?;
    assert_eq!(
        login.cookie().await?.map(|cookie| cookie.value().to_owned()),
        cookie.map(|cookie| cookie.value().to_owned())
    );
    Ok(())
}

#[tokio::test]
async fn pages_with_simultaneous_first_writes_share_session() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let (first, second) = (browser.open().await?, browser.open().await?);
    first.hold_posts().await?;
    second.hold_posts().await?;
    first.switch(1).await?;
    second.switch(2).await?;
    first.release_posts().await?;
    first.stored(1).await?;

    // The second socket has begun its own session. The writeback refuses the token of that session, since the browser
    // has a session by now.
    second.release_posts().await?;
    second.until("watched.posts[0]?.status ?? null", 409).await?;
    eventually("the second page has closed a socket", async || match second.closes().await?.as_slice() {
        [] => Err("no socket has closed".into()),
        _ => Ok(()),
    })
    .await?;
    second.is_connected().await?;
    // The second page stores its pending change in the session that both pages now share.
    first.shows(2).await?;
    second.switch(5).await?;
    first.shows(5).await?;
    second.reload().await?;
    second.shows(5).await
}

#[tokio::test]
async fn first_write_reaches_the_other_tab() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let (first, second) = (browser.open().await?, browser.open().await?);
    second.shows(ALL).await?;
    first.switch(2).await?;
    second.shows(2).await?;
    first.switch(4).await?;
    second.shows(4).await?;
    second.switch(1).await?;
    first.shows(1).await
}
