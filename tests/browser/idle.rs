//! A page that uses its session by the socket alone, for longer than the idle lifetime.

use std::time::{Duration, Instant};

use crate::{Result, browser::Browser, proxy::Proxy, server::Server};

/// The idle lifetime. A browser keeps the cookie for half of this time.
const IDLE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn used_page_stays_signed_in() -> Result {
    let server = Server::idle_after(IDLE)?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.sign_in("alice").await?;
    let begun = Instant::now();
    while begun.elapsed() < 3 * IDLE {
        for view in ["projects", "home"] {
            tab.navigate(view).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    tab.reload().await?;
    tab.is_signed_in("alice").await?;
    assert_eq!(tab.division().await?["user"], "alice");
    Ok(())
}

#[tokio::test]
async fn idle_page_is_signed_out() -> Result {
    let server = Server::idle_after(IDLE)?;
    let browser = Browser::start(&server).await?;
    let tab = browser.open().await?;
    tab.sign_in("alice").await?;
    tokio::time::sleep(IDLE + Duration::from_secs(2)).await;
    tab.reload().await?;
    tab.is_signed_out().await?;
    assert_eq!(tab.cookie().await?, None);
    Ok(())
}

// A proxy that cuts sockets makes pages reconnect, which must not keep an unused session alive for ever.
#[tokio::test]
async fn reconnection_does_not_prolong_the_session() -> Result {
    let server = Server::idle_after(IDLE)?;
    let proxy = Proxy::start(server.address()).await?;
    let browser = Browser::at(proxy.url()).await?;
    let tab = browser.open().await?;
    tab.sign_in("alice").await?;
    let begun = Instant::now();
    while begun.elapsed() < IDLE + Duration::from_secs(2) {
        let closed = tab.closes().await?.len();
        proxy.cut();
        tab.until(&format!("JSON.parse(sessionStorage.closes ?? '[]').length > {closed}"), true).await?;
        tab.is_connected().await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    // The test asks at once: after a further wait the session would have expired without reconnections too.
    assert_eq!(tab.division().await?["user"], serde_json::Value::Null);
    Ok(())
}
