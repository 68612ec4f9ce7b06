//! A request that brings several of our cookies that open is nobody's, and leaves no trace in any of their sessions.

use layered_session::Session;

use crate::{
    app::{App, get, visitor},
    world::{Browser, Node, Theme},
};

/// A browser that holds the cookies of two, one of them under another path perhaps.
async fn ambiguous(node: &Node, cookies: [&str; 2]) -> Theme {
    let mut request = Browser::new().request();
    let [first, second] = cookies;
    request.headers_mut().insert("cookie", format!("session={first}; session={second}").parse().unwrap());
    let handler = async |session: Session| (http::Response::default(), session.get::<Theme>());
    node.handle(request, move |session| Box::pin(handler(session))).await.1
}

fn token(browser: &Browser) -> &str {
    browser.cookie("session").unwrap()
}

#[tokio::test]
async fn a_request_of_nobody_does_not_say_that_a_browser_has_the_cookie() {
    let node = App::new().node();
    let mut first = Browser::new();
    let session = first.visit(&node, async |session| {
        session.set(Theme("dark".into())).await.unwrap();
        session
    });
    // Its cookie is on the way, and for all that is known it never came.
    let session = session.await;
    let second = visitor(&node).await;
    assert_eq!(ambiguous(&node, [token(&first), token(&second)]).await, Theme::default());
    session.set(Theme("light".into())).await.unwrap();
    assert!(session.relay().unwrap().as_str().starts_with("b."), "whoever has no cookie can bring it");
    get::<Theme>(&mut first, &node).await;
    session.set(Theme("dark".into())).await.unwrap();
    assert!(session.relay().unwrap().as_str().starts_with("r."));
}

#[tokio::test]
async fn one_genuine_cookie_among_others_says_so_all_the_same() {
    let node = App::new().node();
    let mut browser = Browser::new();
    let session = browser.visit(&node, async |session| {
        session.set(Theme("dark".into())).await.unwrap();
        session
    });
    let session = session.await;
    let foreign = visitor(&App::new().node()).await;
    assert_eq!(ambiguous(&node, [token(&foreign), token(&browser)]).await, Theme("dark".into()));
    session.set(Theme("light".into())).await.unwrap();
    assert!(session.relay().unwrap().as_str().starts_with("r."));
}

#[tokio::test]
async fn a_request_counts_once_however_many_cookies_it_brings() {
    let node = App::new().node();
    let (first, second) = (visitor(&node).await, visitor(&node).await);
    let foreign = visitor(&App::new().node()).await;
    let other = visitor(&App::new().node()).await;
    let looks = || (node.sessions.stats().hits, node.sessions.stats().misses);
    assert_eq!(looks(), (0, 0));
    ambiguous(&node, [token(&first), token(&second)]).await;
    assert_eq!(looks(), (1, 0));
    ambiguous(&node, [token(&first), token(&foreign)]).await;
    assert_eq!(looks(), (2, 0), "the session that it is of was in memory");
    ambiguous(&node, [token(&foreign), token(&second)]).await;
    assert_eq!(looks(), (3, 0));
    ambiguous(&node, [token(&foreign), token(&other)]).await;
    assert_eq!(looks(), (3, 1));
}
