//! One browser at two nodes that share the keys alone. Cookies ignore ports, so both nodes get the same cookie.

use crate::{
    Result,
    browser::Browser,
    server::Server,
    tab::{ALL, Tab},
};

#[tokio::test]
async fn visitor_keeps_newest_value_across_nodes() -> Result {
    moves(None).await
}

#[tokio::test]
async fn user_keeps_newest_value_across_nodes() -> Result {
    moves(Some("alice")).await
}

async fn moves(user: Option<&str>) -> Result {
    let (mut first, mut second) = (Server::start()?, Server::start()?);
    let browser = Browser::start(&first).await?;
    let tab = browser.open().await?;
    if let Some(user) = user {
        tab.sign_in(user).await?;
    }
    tab.switch(1).await?;
    tab.stored(1).await?;

    tab.finds(&second, 1, user).await?;
    tab.switch(2).await?;
    tab.stored(2).await?;
    tab.finds(&first, 2, user).await?;

    // Only the first node's memory has the switch: no page has brought the relay token, so memory is newer than the
    // cookie.
    tab.cut_off().await?;
    tab.switch(3).await?;
    tab.until("watched.relays.at(-1)?.values.current_division_id ?? null", 3).await?;
    tab.finds(&second, 2, user).await?;
    tab.finds(&first, 3, user).await?;
    tab.finds(&second, 3, user).await?;

    // The second node's memory still holds the value that the first node removed.
    tab.finds(&first, 3, user).await?;
    tab.forget().await?;
    tab.finds(&second, ALL, user).await?;
    assert_eq!(tab.division().await?["tier"], "default");
    tab.finds(&first, ALL, user).await?;

    first.restart()?;
    second.restart()?;
    for server in [&first, &second] {
        tab.finds(server, ALL, user).await?;
    }
    Ok(())
}

#[tokio::test]
async fn open_page_follows_changes_of_another_node() -> Result {
    let (first, second) = (Server::start()?, Server::start()?);
    let browser = Browser::start(&first).await?;
    let (here, there) = (browser.open().await?, browser.open().await?);
    here.switch(1).await?;
    here.stored(1).await?;
    there.finds(&second, 1, None).await?;

    here.switch(4).await?;
    here.stored(4).await?;
    assert_eq!(there.division().await?["value"], 4, "any request brings the cookie");
    there.shows(4).await?;

    there.forget().await?;
    assert_eq!(here.division().await?["tier"], "default");
    here.shows(ALL).await
}

impl Tab {
    /// Visits a node, whose page must show the division before the socket opens, and afterwards.
    async fn finds(&self, server: &Server, division: i64, user: Option<&str>) -> Result {
        self.visit(&server.url()).await?;
        assert_eq!(self.evaluate("watched.first").await?, division);
        match user {
            Some(user) => self.is_signed_in(user).await?,
            None => self.is_signed_out().await?,
        }
        self.until("watched.divisions.at(-1)", division).await?;
        self.shows(division).await
    }

    /// Disables the document's `fetch`, so that the document sends only frames over its socket.
    async fn cut_off(&self) -> Result {
        self.evaluate("(window.fetch = () => new Promise(() => {}), null)").await.map(drop)
    }
}
