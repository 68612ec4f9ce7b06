//! Requests with several valid cookies of ours load no session, and change none of these sessions.

use http::StatusCode;
use layered_session::{CloseReason, Principal, Session, SessionWriteback, WriteErrorKind};

use crate::support::{
    App, Browser, DAY, Node, TICK, Theme, User, Visits, at_once, get, kind, parsed, set_cookies, sign_in, signed_in,
    theme, visitor,
};

/// A request with the cookies of two sessions, as a browser sends two cookies of different paths.
async fn ambiguous(node: &Node, cookies: [&str; 2]) -> Theme {
    let mut request = Browser::new().request();
    let [first, second] = cookies;
    request.headers_mut().insert("cookie", format!("session={first}; session={second}").parse().unwrap());
    let handler = async |session: Session| (http::Response::default(), session.value::<Theme>());
    node.handle(request, move |session| Box::pin(handler(session))).await.1
}

fn token(browser: &Browser) -> &str {
    browser.cookie("session").unwrap()
}

#[tokio::test]
async fn several_ids_confirm_no_cookie() {
    let node = App::new().node;
    let mut first = Browser::new();
    let session = first.visit(&node, async |session| {
        session.set(Theme("dark".into())).await.unwrap();
        session
    });
    // The cookie is on the way, and the node has no proof that the browser received the cookie.
    let session = session.await;
    let second = visitor(&node).await;
    assert_eq!(ambiguous(&node, [token(&first), token(&second)]).await, Theme::default());
    session.set(Theme("light".into())).await.unwrap();
    assert!(
        session.relay().unwrap().as_str().starts_with("b."),
        "the page may lack the cookie, so the handle gives a birth token"
    );
    get::<Theme>(&mut first, &node).await;
    session.set(Theme("dark".into())).await.unwrap();
    assert!(session.relay().unwrap().as_str().starts_with("r."));
}

#[tokio::test]
async fn genuine_cookie_among_garbage_is_confirmed() {
    let node = App::new().node;
    let mut browser = Browser::new();
    let session = browser.visit(&node, async |session| {
        session.set(Theme("dark".into())).await.unwrap();
        session
    });
    let session = session.await;
    let foreign = visitor(&App::new().node).await;
    assert_eq!(ambiguous(&node, [token(&foreign), token(&browser)]).await, Theme("dark".into()));
    session.set(Theme("light".into())).await.unwrap();
    assert!(session.relay().unwrap().as_str().starts_with("r."));
}

#[tokio::test]
async fn several_cookies_count_as_one_load() {
    let node = App::new().node;
    let (first, second) = (visitor(&node).await, visitor(&node).await);
    let foreign = visitor(&App::new().node).await;
    let other = visitor(&App::new().node).await;
    let looks = || (node.sessions.stats().hits, node.sessions.stats().misses);
    assert_eq!(looks(), (0, 0));
    ambiguous(&node, [token(&first), token(&second)]).await;
    assert_eq!(looks(), (1, 0));
    ambiguous(&node, [token(&first), token(&foreign)]).await;
    assert_eq!(looks(), (2, 0), "the session of the genuine token was in memory");
    ambiguous(&node, [token(&foreign), token(&second)]).await;
    assert_eq!(looks(), (3, 0));
    ambiguous(&node, [token(&foreign), token(&other)]).await;
    assert_eq!(looks(), (3, 1));
}

/// Sends a request with these tokens to a handler. Returns the `Set-Cookie` fields of the response.
async fn told(node: &Node, tokens: &[&str], handler: impl AsyncFnOnce(Session)) -> Vec<String> {
    let mut request = Browser::new().request();
    let pairs: Vec<_> = tokens.iter().map(|token| format!("session={token}")).collect();
    request.headers_mut().insert("cookie", pairs.join("; ").parse().unwrap());
    set_cookies(&node.ask(request, handler).await.0)
}

async fn closed(session: Session) {
    assert_eq!((session.principal(), session.get::<Theme>()), (None, None));
    assert_eq!(kind(session.set(theme("evil")).await), Some(WriteErrorKind::Closed));
    assert_eq!(kind(session.update::<Visits>(|visits| visits.0 += 1).await), Some(WriteErrorKind::Closed));
    assert_eq!(kind(session.renew().await), Some(WriteErrorKind::Closed));
    assert_eq!(kind(session.clear().await), Some(WriteErrorKind::Closed));
    assert_eq!(at_once(session.closed()), Some(CloseReason::Ambiguous));
    assert_eq!(
        kind(session.destroy().await),
        Some(WriteErrorKind::Closed),
        "a sign-out without effect reports no success"
    );
}

// R17: a request with the cookies of several sessions writes no value, removes no cookie, and ends no session.
#[tokio::test]
async fn several_ids_permit_no_write() {
    let app = App::new();
    let (ada, bob) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "bob").await);
    for node in [&app.node, &app.start()] {
        let records = node.sessions.stats().records;
        assert!(told(node, &[ada.token(), bob.token()], closed).await.is_empty(), "the response removes no cookie");
        assert_eq!(node.sessions.stats().records, records);
        for (browser, user) in [(&ada, "ada"), (&bob, "bob")] {
            let principal = browser.clone().visit(node, async |session| session.principal()).await;
            assert_eq!(principal, Some(Principal::new(user)), "each cookie alone loads its session");
        }
    }
}

#[tokio::test]
async fn several_ids_permit_sign_in() {
    let app = App::new();
    let (ada, bob) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "bob").await);
    let signs_in = async |session: Session| session.sign_in(User("cid".into())).await.unwrap();
    let set = told(&app.node, &[ada.token(), bob.token()], signs_in).await;
    let [cookie] = &set[..] else { panic!("{set:?}") };
    let cookie = parsed(cookie);
    for node in [&app.node, &app.start()] {
        let principal = Browser::bringing(cookie.value()).visit(node, async |session| session.principal()).await;
        assert_eq!(principal, Some(Principal::new("cid")));
    }
}

// R17: a cookie planted before a sign-out does not become the session's cookie after the sign-out.
#[tokio::test]
async fn planted_cookie_opens_nothing_after_sign_out() {
    let app = App::new();
    let mut ada = signed_in(&app.node, "ada").await;
    let ended = ada.token().to_owned();
    app.clock.advance(2 * DAY - TICK);
    let planted = signed_in(&app.node, "eve").await;
    ada.visit(&app.node, async |session| session.sign_out().await.unwrap()).await;
    // During the fence, after the fence, and after the idle deadline in the ended token.
    for span in [TICK / 2, 61_000 * TICK, DAY] {
        app.clock.advance(span);
        for tokens in [[&ended, planted.token()], [planted.token(), &ended]] {
            assert!(told(&app.node, &tokens, closed).await.is_empty(), "{span:?}");
        }
    }
}

#[tokio::test]
async fn writeback_refuses_several_ids() {
    let app = App::new();
    let (ada, bob) = (signed_in(&app.node, "ada").await, signed_in(&app.node, "bob").await);
    let both = format!("session={}; session={}", ada.token(), bob.token());
    let writeback = || SessionWriteback::new(&app.node.sessions).allow::<Theme>().unwrap();
    let mut post = Browser::new().post_json(r#"{"theme":"evil"}"#);
    post.headers_mut().insert("cookie", both.parse().unwrap());
    let answer = app.node.writeback(writeback(), post).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, "session_closed"));
    assert!(answer.set_cookies().is_empty());

    let mut events = Browser::new().request_of_page(http::Method::GET, "/events", "");
    events.headers_mut().insert("cookie", both.parse().unwrap());
    assert_eq!(app.node.stream(writeback(), events).await.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn leftover_cookie_blocks_writes() {
    let app = App::new();
    let mut browser = app.dark().await;
    let leftover = browser.token().to_owned();
    sign_in(&mut browser, &app.node, "ada").await;
    // The sign-in ended the id of the leftover cookie on this node alone.
    for node in [&app.node, &app.start()] {
        assert!(told(node, &[&leftover, browser.token()], closed).await.is_empty());
    }
}
