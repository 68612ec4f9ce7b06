//! The round trips of a request, counted in a proxy before the server.

use layered_session::{KeyRing, tier::BoxError};

use super::{
    proxy::{Call, Proxy},
    report,
    site::{Act, Browser, Count, redis_node},
};

pub(crate) async fn print(port: u16) -> Result<(), BoxError> {
    let proxy = Proxy::start(port)?;
    let keys = KeyRing::generate()?;
    let node = || redis_node(&keys, proxy.port());
    let here = node()?;
    // The server gets the scripts, and the node its connection.
    Browser::after(&here, &[Act::Begin, Act::SignIn, Act::SignOut]).await?;
    let visitor = Browser::after(&here, &[Act::Begin]).await?;
    let user = Browser::after(&here, &[Act::Begin, Act::SignIn, Act::SetOfUser]).await?;

    println!("\n{:<44} trips  {:<12} commands", "round trips of a request", "");
    let request = async |name: &str, browser: &Browser, act, goal| {
        proxy.take();
        browser.clone().visit(&here, act).await?;
        let (trips, calls) = proxy.take();
        report::count(name, trips, goal, &commands(&calls));
        Ok::<_, BoxError>(())
    };
    request("without a cookie, untouched", &Browser::default(), Act::Nothing, Some(0)).await?;
    request("without a cookie, first write", &Browser::default(), Act::Set, Some(1)).await?;
    request("warm, reads", &visitor, Act::Read, Some(0)).await?;
    request("warm, signed in, reads", &user, Act::Read, Some(0)).await?;
    request("warm, set", &visitor, Act::Set, Some(1)).await?;
    request("warm, update", &visitor, Act::Update, Some(1)).await?;
    for (name, browser) in [("cold, reads", &visitor), ("cold, signed in, reads", &user)] {
        // Another node, whose connection is open.
        let there = node()?;
        Browser::after(&there, &[Act::Begin]).await?;
        proxy.take();
        let session = browser.clone().visit(&there, Act::Read).await?;
        let (trips, calls) = proxy.take();
        assert!(session.get::<Count>().is_some() && !calls.is_empty());
        report::count(name, trips, Some(1), &commands(&calls));
    }
    request("warm, signed in, set of a user's value", &user, Act::SetOfUser, Some(1)).await?;
    request("sign_in", &visitor, Act::SignIn, None).await?;
    request("renew", &user, Act::Renew, None).await?;
    let user = Browser::after(&here, &[Act::Begin, Act::SignIn]).await?;
    request("sign_out", &user, Act::SignOut, None).await
}

/// Names the commands, a commit by its kind.
fn commands(calls: &[Call]) -> String {
    let name = |call: &Call| {
        let word = |at: usize| call.get(at).map(|word| String::from_utf8_lossy(word)).unwrap_or_default();
        match (&*word(0), call.len()) {
            ("EVALSHA", 5) => "touch".to_owned(),
            ("EVALSHA", _) => format!("commit:{}", word(4)),
            (name, _) => name.to_owned(),
        }
    };
    calls.iter().map(name).collect::<Vec<_>>().join(" ")
}
