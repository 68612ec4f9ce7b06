//! Responses that set the cookie, responses that remove the cookie, and other headers, which pass unchanged.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use layered_session::{LayeredSessionLayer, Session, tier::BoxError};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{App, Browser, Theme, Visits, attributes, dark, parsed, set_cookies};

// G15: a response sets the cookie only if the browser is behind. A mere read sets no cookie.
#[tokio::test]
async fn only_outdated_browser_gets_cookie() {
    let app = App::new();
    let mut browser = Browser::new();
    assert!(browser.told(&app.node, async |_| ()).await.is_empty());
    assert!(browser.read(&app.node).await.is_empty());
    assert_eq!(browser.write(&app.node, "light").await.len(), 1);
    assert!(browser.read(&app.node).await.is_empty());

    // A write after the head has left: a request that loads its session is healed, and no other request is.
    let socket = browser.open(&app.node).await;
    socket.set(dark()).await.unwrap();
    assert!(browser.told(&app.node, async |_| ()).await.is_empty());
    assert_eq!(browser.read(&app.node).await.len(), 1);
    assert!(browser.read(&app.node).await.is_empty());
    assert_eq!(browser.theme(&app.start()).await, dark());
}

// G15: a removal of an absent value sets no cookie, and begins no session.
#[tokio::test]
async fn removing_absent_value_sets_no_cookie() {
    let app = App::new();
    let absent = async |session: Session| {
        session.remove::<Visits>().await.unwrap();
        assert_eq!(session.take::<Visits>().await.unwrap(), None);
        session.batch().remove::<Visits>().commit().await.unwrap();
    };
    let mut browser = Browser::new();
    assert!(browser.told(&app.node, absent).await.is_empty());
    assert_eq!(app.node.sessions.stats().records, 0);
    let mut browser = app.dark().await;
    assert!(browser.told(&app.node, absent).await.is_empty());
}

// R19: `destroy` removes only the cookie of a living session, and the removal repeats the attributes of the creation.
#[tokio::test]
async fn removal_repeats_attributes_of_live_cookie() {
    let app = App::new();
    let mut browser = Browser::new();
    let destroy = async |session: Session| session.destroy().await.unwrap();
    assert!(browser.told(&app.node, destroy).await.is_empty());
    let both = async |session: Session| {
        session.set(dark()).await.unwrap();
        session.destroy().await.unwrap();
    };
    assert!(browser.told(&app.node, both).await.is_empty());
    let set = browser.write(&app.node, "dark").await;
    let late = browser.clone();
    let removed = browser.told(&app.node, destroy).await;
    let attributes = attributes(&set[0]).rsplit_once("Max-Age").unwrap().0;
    assert_eq!(removed, [format!("session=; {attributes}Max-Age=0")]);
    for mut browser in [late, browser, Browser::bringing("garbage")] {
        assert!(browser.told(&app.node, destroy).await.is_empty());
    }
}

// G15, R22: the layer appends our cookie, and leaves the handler's `Set-Cookie` fields unchanged.
#[tokio::test]
async fn handlers_own_cookies_stay_unchanged() {
    let app = App::new();
    let response = |session: Session| async move {
        session.set(dark()).await.unwrap();
        let own =
            Response::builder().header(header::SET_COOKIE, "a=1").header(header::SET_COOKIE, "session=x; Path=/b");
        (own.body(Full::default()).unwrap(), ())
    };
    let (response, ()) = app.node.handle(Browser::new().request(), response).await;
    let set = set_cookies(response.headers());
    assert_eq!(set[..2], ["a=1", "session=x; Path=/b"]);
    assert_eq!(Browser::bringing(parsed(&set[2]).value()).theme(&app.start()).await, dark());
}

// G9, R3, R22: no status undoes a write, and a renewal reaches the browser with every status.
#[tokio::test]
async fn failed_response_carries_cookie() {
    let app = App::new();
    for status in [StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR] {
        let mut browser = Browser::new();
        for renewed in [false, true] {
            let fail = move |session: Session| async move {
                match renewed {
                    false => session.set(dark()).await.unwrap(),
                    true => session.renew().await.unwrap(),
                }
                (Response::builder().status(status).body(Full::default()).unwrap(), ())
            };
            let (response, ()) = app.node.handle(browser.request(), fail).await;
            assert_eq!((response.status(), set_cookies(response.headers()).len()), (status, 1));
            browser.take(response.headers());
            assert_eq!(browser.theme(&app.node).await, dark());
            assert_eq!(browser.theme(&app.start()).await, dark());
        }
    }
}

// R23: no byte of a value is in `Set-Cookie`, only Base64 and attributes.
#[tokio::test]
async fn header_contains_no_value_bytes() {
    let app = App::new();
    let set = Browser::new().write(&app.node, "x\r\nSet-Cookie: a=b; Domain=evil, \u{0} \"ü\"").await;
    let ours = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!(parsed(&set[0]).value().bytes().all(ours), "{set:?}");
    assert_eq!(attributes(&set[0]), "HttpOnly; SameSite=Lax; Path=/; Max-Age=172740");
}

/// A body that records its first read.
struct Stream(Arc<AtomicBool>);

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))))
    }
}

/// Answers one request after a write, with a body that the test does not read.
async fn stream(app: &App, browser: &Browser, head: http::response::Builder) -> (Response<Stream>, Session) {
    let kept = Arc::new(std::sync::Mutex::new(None));
    let (slot, head) = (Arc::clone(&kept), std::sync::Mutex::new(Some(head)));
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let head = head.lock().unwrap().take().unwrap();
        let slot = Arc::clone(&slot);
        async move {
            let session = Session::load(request.extensions()).await?;
            session.set(dark()).await?;
            *slot.lock().unwrap() = Some(session);
            Ok::<_, BoxError>(head.body(Stream(Arc::default()))?)
        }
    });
    let response = LayeredSessionLayer::new(app.node.sessions.clone()).layer(service).oneshot(browser.request());
    let response = response.await.unwrap();
    let session = kept.lock().unwrap().take().unwrap();
    (response, session)
}

// G17, R22: the head of a streaming response carries the cookie, and the layer does not read the body.
#[tokio::test]
async fn cookie_precedes_streamed_body() {
    let app = App::new();
    let mut browser = Browser::new();
    let head = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
    let (response, session) = stream(&app, &browser, head).await;
    assert_eq!(set_cookies(response.headers()).len(), 1);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert!(!response.body().0.load(Ordering::Relaxed), "the layer never reads the body");
    browser.take(response.headers());
    session.set(Theme("late".into())).await.unwrap();
    assert_eq!(browser.theme(&app.start()).await, dark());
    assert_eq!(browser.read(&app.node).await.len(), 1);
    assert_eq!(browser.theme(&app.start()).await, Theme("late".into()));
}

// G17, R22: a 101 response passes unchanged, and the next response carries the cookie.
#[tokio::test]
async fn upgrade_response_stays_unchanged() {
    let app = App::new();
    let mut browser = app.dark().await;
    let head = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(header::UPGRADE, "websocket");
    let (response, session) = stream(&app, &browser, head).await;
    assert_eq!(response.headers().len(), 1, "{:?}", response.headers());
    assert_eq!(response.headers()[header::UPGRADE], "websocket");
    drop(session);
    assert_eq!(browser.read(&app.node).await.len(), 1);
    assert_eq!(browser.theme(&app.start()).await, dark());
}
