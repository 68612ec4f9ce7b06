//! The division of each user: the signed-in user decides the division on show.

use serde_json::json;

use crate::{
    Result,
    browser::Browser,
    server::Server,
    tab::{ALL, Tab},
};

#[tokio::test]
async fn two_users_of_one_browser_have_separate_values() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.sign_in("alice").await?;
    tab.switch(1).await?;
    tab.stored(1).await?;
    tab.sign_out().await?;
    tab.shows(ALL).await?;

    tab.forget_seen().await?;
    tab.sign_in("bob").await?;
    tab.shows(ALL).await?;
    tab.navigate("costs").await?;
    assert_eq!(tab.seen().await?, json!([ALL]));
    tab.switch(2).await?;
    tab.stored(2).await?;
    tab.reload().await?;
    tab.shows(2).await?;
    tab.sign_out().await?;

    tab.sign_in("alice").await?;
    tab.shows(1).await?;
    tab.reload().await?;
    assert_eq!(tab.seen().await?, json!([1]));
    assert_eq!(tab.division().await?["user"], "alice");
    Ok(())
}

#[tokio::test]
async fn two_users_in_two_browsers_have_separate_values() -> Result {
    let mut server = Server::start()?;
    let (first, second) = (Browser::start(&server).await?, Browser::start(&server).await?);
    let (alice, bob) = (first.open().await?, second.open().await?);
    alice.sign_in("alice").await?;
    bob.sign_in("bob").await?;
    alice.switch(1).await?;
    alice.stored(1).await?;
    bob.shows(ALL).await?;
    bob.switch(2).await?;
    bob.stored(2).await?;
    alice.shows(1).await?;

    server.restart()?;
    for (tab, user, division) in [(&alice, "alice", 1), (&bob, "bob", 2)] {
        tab.reload().await?;
        tab.is_signed_in(user).await?;
        tab.shows(division).await?;
        assert_eq!(tab.seen().await?, json!([division]));
    }
    Ok(())
}

#[tokio::test]
async fn user_has_same_value_in_two_browsers() -> Result {
    let mut server = Server::start()?;
    let (first, second) = (Browser::start(&server).await?, Browser::start(&server).await?);
    let (here, there) = (first.open().await?, second.open().await?);
    here.sign_in("alice").await?;
    there.sign_in("alice").await?;
    here.switch(4).await?;
    here.stored(4).await?;
    there.shows(4).await?;

    // The other browser is behind until its next request, which heals the cookie.
    there.reload().await?;
    there.shows(4).await?;
    server.restart()?;
    there.reload().await?;
    there.shows(4).await?;
    here.reload().await?;
    here.shows(4).await
}

#[tokio::test]
async fn sign_in_removes_the_anonymous_choice() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(3).await?;
    tab.stored(3).await?;
    tab.forget_seen().await?;
    tab.sign_in("alice").await?;
    tab.shows(ALL).await?;
    assert_eq!(tab.seen().await?, json!([ALL]));
    Ok(())
}

impl Tab {
    /// Returns every division that this document received: in the page itself, then from its sockets.
    async fn seen(&self) -> Result<serde_json::Value> {
        self.is_connected().await?;
        self.until("watched.divisions.length > 0", true).await?;
        self.evaluate("[...new Set([watched.first, ...watched.divisions])].filter(seen => seen !== null)").await
    }

    /// Empties the record of `seen`, since a sign-in loads no new document.
    async fn forget_seen(&self) -> Result {
        self.evaluate("watched.first = null, watched.divisions.length = 0").await.map(drop)
    }
}
