//! The use of a session on a socket: the calls that count as use, and the updates of the browser's cookie.

use std::time::Duration;

use http::{Method, StatusCode};
use layered_session::{Session, SessionWriteback, SharedTier, WritebackBody, testing::SpyStore};

use crate::support::{
    App, BEAT, Browser, DAY, HOUR, Node, Theme, Visits, bring, carried, get, set, set_cookies, socket, theme, told,
    visitor,
};

/// The application's idle lifetime. The refresh point is a tenth of the lifetime.
const IDLE: Duration = Duration::from_secs(2 * 86_400);

async fn stream(browser: &Browser, node: &Node) -> WritebackBody {
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let mut stream = node.stream(writeback, browser.request_of_page(Method::GET, "/events", "")).await.into_body();
    assert!(told(&mut stream).starts_with("event: state\n"));
    stream
}

/// The relay token in the stream's text, without the heartbeats.
fn relayed(stream: &mut WritebackBody) -> Option<String> {
    let told = told(stream).replace(BEAT, "");
    let token = told.strip_prefix("event: relay\ndata: \"")?.strip_suffix("\"\n\n").expect("one event");
    Some(token.to_owned())
}

/// Moves the time forward, and lets the stream's timers fire one after the other.
fn pass(app: &App, stream: &mut WritebackBody, span: Duration) -> Option<String> {
    app.pass(span);
    relayed(stream).or_else(|| {
        app.pass(Duration::from_millis(200));
        relayed(stream)
    })
}

#[tokio::test]
async fn stream_sends_token_for_due_use() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let (live, mut page) = (socket(&browser, &node).await, stream(&browser, &node).await);
    app.pass(HOUR);
    live.touch().await.unwrap();
    assert_eq!(pass(&app, &mut page, IDLE / 10 - HOUR), None, "the session was used, and no refresh is due");
    live.touch().await.unwrap();
    let token = pass(&app, &mut page, IDLE / 10).expect("a token");
    let answer = bring(&mut browser, &node, &token).await;
    assert_eq!(answer.set_cookies().len(), 1, "the cookie with its later end");
    assert_eq!(pass(&app, &mut page, IDLE / 10), None, "the browser has the later end");
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("light"));
}

#[tokio::test]
async fn open_page_extends_no_session() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    let mut page = stream(&browser, &node).await;
    for _ in 0..9 {
        assert_eq!(pass(&app, &mut page, IDLE / 10), None);
    }
    app.pass(IDLE / 10);
    assert!(told(&mut page).contains("event: closed\ndata: \"expired\""));
}

#[tokio::test]
async fn socket_relays_due_use() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    live.touch().await.unwrap();
    assert_eq!(live.relay(), None);
    app.pass(IDLE / 10);
    live.touch().await.unwrap();
    let token = live.relay().expect("a refresh is due");
    bring(&mut browser, &node, token.as_str()).await;
    assert_eq!(live.relay(), None, "the browser has the later end");
    app.pass(IDLE - HOUR);
    assert_eq!(
        get::<Theme>(&mut browser.clone(), &app.start()).await,
        theme("light"),
        "every node reads the later end from the cookie"
    );
}

// The use on the socket keeps the record alive. The idle deadline in the cookie has passed, so only a node with the
// record finds the session alive.
#[tokio::test]
async fn living_record_revives_idle_cookie() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    for _ in 0..3 {
        app.pass(DAY);
        live.touch().await.unwrap();
    }
    live.set(Visits(7)).await.unwrap();
    assert_eq!(
        get::<Theme>(&mut browser.clone(), &app.start()).await,
        Theme::default(),
        "by the old seal alone the session has idled out"
    );
    let (headers, visits) = browser.visit_seen(&node, async |session| session.value::<Visits>()).await;
    assert_eq!((visits, set_cookies(&headers).len()), (Visits(7), 1));
    assert_eq!(
        get::<Theme>(&mut browser.clone(), &app.start()).await,
        theme("light"),
        "the new seal has the later use"
    );
    set(&mut browser, &node, Visits(8)).await;
    assert_eq!(live.value::<Visits>(), Visits(8), "the socket and the browser have one session");
}

// The relay token has a later use than the cookie, whose idle deadline has passed. The store decides whether the
// session still exists.
#[tokio::test]
async fn store_decides_if_idle_session_lives() {
    let (app, store) = (App::new(), SpyStore::new());
    let over = |store: SpyStore| app.start_with(|sessions| sessions.tier(SharedTier::new(store)));
    let first = over(store.clone());
    let mut browser = visitor(&first).await;
    let live = socket(&browser, &first).await;
    app.pass(IDLE - HOUR);
    live.touch().await.unwrap();
    app.pass(IDLE - HOUR);
    let token = live.relay().unwrap();
    let elsewhere = bring(&mut browser.clone(), &over(SpyStore::new()), token.as_str()).await;
    assert_eq!((elsewhere.code().as_str(), elsewhere.set_cookies().len()), ("relay_other_session", 0));
    let second = over(store);
    assert_eq!(bring(&mut browser, &second, token.as_str()).await.status, StatusCode::OK);
    assert_eq!(get::<Theme>(&mut browser, &second).await, theme("light"));
}

#[tokio::test]
async fn idled_out_cookie_restores_no_values() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    set(&mut browser, &node, theme("old")).await;
    let old = browser.clone();
    let live = socket(&browser, &node).await;
    app.pass(DAY);
    // The tombstone stays until every token from before the removal has expired, so no token brings the value back.
    live.remove::<Theme>().await.unwrap();
    for _ in 0..40 {
        app.pass(DAY / 2);
        live.set(Visits(1)).await.unwrap();
    }
    assert_eq!(get::<Theme>(&mut old.clone(), &node).await, Theme::default());
    assert_eq!(get::<Visits>(&mut old.clone(), &node).await, Visits(1));
    assert_eq!(live.value::<Theme>(), Theme::default());
}

#[tokio::test]
async fn socket_reads_extend_no_session() {
    let app = App::new();
    for used in [false, true] {
        let node = app.start();
        let mut browser = visitor(&node).await;
        let live = socket(&browser, &node).await;
        app.pass(DAY);
        live.value::<Theme>();
        live.explain::<Theme>();
        drop((live.watch::<Theme>(), live.changes(), live.closed()));
        if used {
            live.touch().await.unwrap();
        }
        app.pass(DAY);
        let expected = if used { theme("light") } else { Theme::default() };
        assert_eq!(get::<Theme>(&mut browser, &node).await, expected);
    }
    let node = app.start();
    let mut browser = visitor(&node).await;
    let kept = browser.visit(&node, async |session: Session| session).await;
    app.pass(DAY);
    kept.value::<Theme>();
    app.pass(DAY);
    assert_eq!(
        get::<Theme>(&mut browser, &node).await,
        theme("light"),
        "a read of an ordinary request's handle is a use"
    );
}
