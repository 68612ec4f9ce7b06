//! A visitor without a sign-in: the first visit, switches, reloads, restarts and an invalid division.

use serde_json::json;

use crate::{
    Result,
    browser::Browser,
    server::Server,
    tab::{ALL, eventually},
};

#[tokio::test]
async fn first_visit_sets_no_cookie() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.shows(ALL).await?;
    assert_eq!(tab.division().await?, json!({ "value": ALL, "tier": "default", "user": null }));

    tab.reload().await?;
    tab.shows(ALL).await?;
    assert_eq!(tab.cookie().await?, None);
    Ok(())
}

#[tokio::test]
async fn first_write_on_socket_survives_restart() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    assert_eq!(tab.cookie().await?, None);

    tab.switch(3).await?;
    tab.stored(3).await?;
    assert_eq!(tab.posts().await?, json!([["/store_session", 200]]));
    let cookie = tab.cookie().await?.ok_or("no cookie after the relay token was brought")?;
    assert_eq!((cookie.http_only(), cookie.path()), (Some(true), Some("/")));

    server.stop()?;
    tab.is_disconnected().await?;
    server.start_again()?;
    tab.shows(3).await?;
    tab.until("watched.divisions.at(-1)", 3).await?;
    tab.reload().await?;
    tab.shows(3).await?;
    assert_eq!(tab.division().await?["value"], 3);
    Ok(())
}

#[tokio::test]
async fn reload_keeps_the_value() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(4).await?;
    tab.stored(4).await?;

    tab.reload().await?;
    assert_eq!(tab.evaluate("watched.first").await?, 4, "the page shows the division before its socket opens");
    tab.shows(4).await?;

    tab.switch(0).await?;
    tab.stored(0).await?;
    tab.reload().await?;
    tab.shows(0).await
}

#[tokio::test]
async fn views_show_newest_value_without_requests() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(2).await?;
    tab.stored(2).await?;
    tab.reload().await?;
    tab.shows(2).await?;

    // A new document would have a new time origin, and each request of this document adds an entry.
    let begun = tab.evaluate("[performance.timeOrigin, performance.now()]").await?;
    for view in ["projects", "costs", "home", "projects"] {
        tab.navigate(view).await?;
        tab.view_is_about_the_division().await?;
    }
    assert_eq!(tab.evaluate("performance.timeOrigin").await?, begun[0]);
    let since = format!("performance.getEntriesByType('resource').filter(entry => entry.startTime > {})", begun[1]);
    assert_eq!(tab.evaluate(&since).await?, json!([]));

    tab.switch(5).await?;
    tab.stored(5).await?;
    tab.view_is_about_the_division().await?;
    tab.navigate("costs").await?;
    tab.view_is_about_the_division().await?;
    tab.shows(5).await
}

#[tokio::test]
async fn last_of_two_writes_wins() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.hold_posts().await?;
    tab.switch(3).await?;
    tab.switch(5).await?;
    tab.shows(5).await?;
    tab.release_posts().await?;
    tab.stored(5).await?;

    tab.reload().await?;
    tab.shows(5).await?;
    server.restart()?;
    tab.reload().await?;
    tab.shows(5).await
}

#[tokio::test]
async fn write_during_outage_is_stored_later() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(4).await?;
    tab.stored(4).await?;

    server.stop()?;
    tab.is_disconnected().await?;
    tab.switch(2).await?;
    server.start_again()?;
    eventually("the server has the switch", async || match &tab.division().await?["value"] {
        value if *value == 2 => Ok(()),
        value => Err(format!("the server has {value}").into()),
    })
    .await?;
    tab.shows(2).await?;
    tab.reload().await?;
    tab.shows(2).await
}

#[tokio::test]
async fn socket_without_session_joins_the_new_session() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    server.stop()?;
    tab.is_disconnected().await?;
    tab.hold_posts().await?;
    tab.switch(4).await?;
    server.start_again()?;
    tab.is_connected().await?;

    // This POST alone starts the session, after the socket has opened.
    tab.release_posts().await?;
    tab.shows(4).await?;
    tab.switch(1).await?;
    tab.stored(1).await?;
    tab.reload().await?;
    tab.shows(1).await
}

#[tokio::test]
async fn invalid_value_is_refused_and_changes_nothing() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(2).await?;
    tab.stored(2).await?;
    let cookie = tab.cookie().await?;

    tab.evaluate("document.querySelector('#division').add(new Option('Ninety-nine', '99'))").await?;
    tab.switch(99).await?;
    tab.refuses().await?;
    tab.shows(2).await?;
    assert_eq!(tab.division().await?["value"], 2);
    assert_eq!(tab.cookie().await?, cookie);

    tab.reload().await?;
    tab.shows(2).await
}
