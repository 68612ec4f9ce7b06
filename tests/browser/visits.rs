//! One visitor without a sign-in.

use serde_json::json;

use crate::{
    Result,
    browser::Browser,
    server::Server,
    tab::{ALL, eventually},
};

#[tokio::test]
async fn a_first_visit_shows_all_and_leaves_no_cookie() -> Result {
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
async fn a_switch_on_a_socket_without_a_session_is_kept_when_the_server_restarts() -> Result {
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
async fn a_reload_keeps_the_division() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(4).await?;
    tab.stored(4).await?;

    tab.reload().await?;
    assert_eq!(tab.evaluate("watched.first").await?, 4, "the page itself, before its socket is open");
    tab.shows(4).await?;

    tab.switch(0).await?;
    tab.stored(0).await?;
    tab.reload().await?;
    tab.shows(0).await
}

#[tokio::test]
async fn views_change_without_a_request_and_show_the_newest_division() -> Result {
    let server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(2).await?;
    tab.stored(2).await?;
    tab.reload().await?;
    tab.shows(2).await?;

    // A new document would have a new time origin, and any request of this document is an entry.
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
async fn of_two_quick_switches_the_last_one_wins() -> Result {
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
async fn a_switch_while_the_server_is_away_is_stored_when_it_is_back() -> Result {
    let mut server = Server::start()?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.switch(4).await?;
    tab.stored(4).await?;

    server.stop()?;
    tab.is_disconnected().await?;
    tab.switch(2).await?;
    server.start_again()?;
    eventually("the server has it", async || match &tab.division().await?["value"] {
        value if *value == 2 => Ok(()),
        value => Err(format!("the server has {value}").into()),
    })
    .await?;
    tab.shows(2).await?;
    tab.reload().await?;
    tab.shows(2).await
}

#[tokio::test]
async fn a_socket_that_was_opened_before_the_session_follows_it() -> Result {
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
async fn an_invalid_division_is_shown_as_refused_and_changes_nothing() -> Result {
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
