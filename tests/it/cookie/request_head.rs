//! The parts of a request that a handle keeps, and the headers of a response while a handle lives.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderValue, Request, Response, header};
use http_body_util::Full;
use layered_session::{LayeredSessionLayer, Principal, Session, Sessions, WriteError, testing::ManualClock};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{
    BoxFuture, Browser, Node, Theme, User, builder, chain, cookie, empty_source, memory, ring, set_cookies,
};

/// A server's read buffer of a request. The count of the `Arc` tells whether a part of the buffer is still held.
struct Buffer(Vec<u8>, #[allow(dead_code, reason = "held")] Arc<()>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

async fn dark(sessions: &Sessions) -> Browser {
    let service =
        LayeredSessionLayer::new(sessions.clone()).layer(service_fn(async |request: Request<Full<Bytes>>| {
            let session = Session::from_extensions(request.extensions()).unwrap();
            session.set(Theme("dark".into())).await.unwrap();
            Ok::<_, Infallible>(Response::new(()))
        }));
    let mut browser = Browser::new();
    let response = service.oneshot(browser.request()).await.unwrap();
    assert_eq!(set_cookies(response.headers()).len(), 1);
    browser.take(response.headers());
    browser
}

/// The session and the extensions that a handler keeps after the response.
type Kept = Arc<Mutex<(Option<Session>, Option<Extensions>)>>;

async fn visit<S>(service: S, request: Request<Full<Bytes>>) -> Response<()>
where
    S: Service<Request<Full<Bytes>>, Response = Response<()>, Error: std::fmt::Debug>,
{
    service.oneshot(request).await.unwrap()
}

// R21: a handle that lives at the end of the handler adds `Vary: Cookie`. A dropped handle adds none, also while other
// code holds the request's extensions.
#[tokio::test]
async fn open_handle_sets_vary() {
    let sessions = builder(&ring(), &ManualClock::new()).build().unwrap();
    let browser = dark(&sessions).await;
    type Keep = fn(&Request<Full<Bytes>>) -> (Option<Session>, Option<Extensions>);
    let cases: [(&str, Keep, bool); 6] = [
        ("nothing", |_| (None, None), false),
        ("extensions, nobody asked", |request| (None, Some(request.extensions().clone())), false),
        (
            "extensions, loaded",
            |request| {
                drop(Session::from_extensions(request.extensions()).unwrap());
                (None, Some(request.extensions().clone()))
            },
            false,
        ),
        (
            "all clones dropped",
            |request| {
                let session = Session::from_extensions(request.extensions()).unwrap();
                let clones =
                    [session.clone(), session.clone(), Session::from_extensions(request.extensions()).unwrap()];
                drop((session, clones));
                (None, None)
            },
            false,
        ),
        ("a handle", |request| (Session::from_extensions(request.extensions()), None), true),
        (
            "a clone, and extensions",
            |request| {
                let session = Session::from_extensions(request.extensions()).unwrap();
                let clone = session.clone();
                drop(session);
                (Some(clone), Some(request.extensions().clone()))
            },
            true,
        ),
    ];
    for (what, keep, varies) in cases {
        let kept = Kept::default();
        let keeping = Arc::clone(&kept);
        let service =
            LayeredSessionLayer::new(sessions.clone()).layer(service_fn(move |request: Request<Full<Bytes>>| {
                *keeping.lock().unwrap() = keep(&request);
                ready(Ok::<_, Infallible>(Response::new(())))
            }));
        let response = visit(service, browser.request()).await;
        let said: Vec<_> = response.headers().get_all(header::VARY).iter().collect();
        assert_eq!(said, if varies { vec!["cookie"] } else { Vec::new() }, "{what}");
        assert!(set_cookies(response.headers()).is_empty(), "{what}");
    }
}

/// A socket lives for days. The handle must not keep the read buffer of the handshake, the handshake's head, or
/// extensions that an outer layer added to the same request.
#[tokio::test]
async fn handle_keeps_no_request_head() {
    let (ring, clock) = (ring(), ManualClock::new());
    let plain = || builder(&ring, &clock);
    let warm = plain().build().unwrap();
    let browser = dark(&warm).await;
    let token = browser.cookie("session").unwrap();
    let chains = [
        ("known to memory", warm),
        ("opened", plain().build().unwrap()),
        ("with a source", plain().tier(empty_source("empty")).build().unwrap()),
    ];
    let others = plain().build().unwrap();
    for (what, sessions) in chains {
        for fields in
            [vec![format!("session={token}")], vec!["a=b".into(), format!("session={token}; c=d"), "e".into()]]
        {
            let held = Arc::new(());
            let mut request = Browser::new().request();
            for field in fields {
                let buffer = Bytes::from_owner(Buffer(field.into_bytes(), Arc::clone(&held)));
                request.headers_mut().append(header::COOKIE, HeaderValue::from_maybe_shared(buffer).unwrap());
            }
            let kept = Kept::default();
            let keeping = Arc::clone(&kept);
            let service = service_fn(move |request: Request<Full<Bytes>>| {
                let keeping = Arc::clone(&keeping);
                async move {
                    let session = Session::load(request.extensions()).await.unwrap();
                    keeping.lock().unwrap().0 = Some(session);
                    Ok::<_, Infallible>(Response::new(()))
                }
            });
            let inner = LayeredSessionLayer::new(sessions.clone()).layer(service);
            let response = visit(LayeredSessionLayer::new(others.clone()).layer(inner), request).await;
            assert_eq!(response.headers()[header::VARY], "cookie", "{what}");
            let session = kept.lock().unwrap().0.take().unwrap();
            assert_eq!(Arc::strong_count(&held), 1, "{what}: the handle keeps the buffer");
            assert_eq!(session.value::<Theme>(), Theme("dark".into()), "{what}");
        }
    }
}

/// HTTP/2 sends each pair as a field of its own. The load searches all fields, and the layer marks all as sensitive.
#[tokio::test]
async fn load_searches_every_cookie_field() {
    let sessions = builder(&ring(), &ManualClock::new()).build().unwrap();
    let ours = format!("session={}", dark(&sessions).await.cookie("session").unwrap());
    for fields in [vec!["a=b", &ours], vec![&ours, "a=b"], vec!["a=b", "c=d", &ours, "e"], vec![&ours, &ours]] {
        let mut request = Browser::new().request();
        request.headers_mut().append(header::ACCEPT, HeaderValue::from_static("text/html"));
        request.headers_mut().append(header::ACCEPT, HeaderValue::from_static("text/plain"));
        for field in &fields {
            request.headers_mut().append(header::COOKIE, field.parse().unwrap());
        }
        let count = fields.len();
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            let cookies = request.headers().get_all(header::COOKIE);
            assert_eq!(cookies.iter().filter(|field| field.is_sensitive()).count(), count);
            assert!(request.headers().get_all(header::ACCEPT).iter().all(|field| !field.is_sensitive()));
            let session = Session::from_extensions(request.extensions()).unwrap();
            assert_eq!(session.value::<Theme>(), Theme("dark".into()));
            ready(Ok::<_, Infallible>(Response::new(())))
        });
        let response = visit(LayeredSessionLayer::new(sessions.clone()).layer(service), request).await;
        assert!(set_cookies(response.headers()).is_empty(), "{fields:?}");
    }
}

/// Counts the copies of an extension: each copy runs code of the application.
#[derive(Default)]
struct Copied(Arc<AtomicUsize>);

impl Clone for Copied {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

/// The copy of an extension may run any code, and a load holds a lock while the load reads the request.
#[tokio::test]
async fn request_head_is_copied_once() {
    let sessions = builder(&ring(), &ManualClock::new()).tier(empty_source("empty")).build().unwrap();
    let (mut request, copies) = (Browser::new().request(), Arc::default());
    request.extensions_mut().insert(Copied(Arc::clone(&copies)));
    let service = service_fn(async |request: Request<Full<Bytes>>| {
        Session::load(request.extensions()).await.unwrap();
        Ok::<_, Infallible>(Response::new(()))
    });
    visit(LayeredSessionLayer::new(sessions).layer(service), request).await;
    assert_eq!(copies.load(Ordering::Relaxed), 1);
}

/// A turn by a clone of the handle.
type Turn = fn(Session) -> BoxFuture<Result<(), WriteError>>;

/// The application's `identify_by` may take long, or wait for another task. A clone of the handle does not wait
/// meanwhile, whether the handler or the response asks for the user first.
#[tokio::test]
async fn identify_by_holds_no_lock() {
    type Meanwhile = Arc<Mutex<Option<(Session, Turn, mpsc::Sender<bool>)>>>;
    let meanwhile = Meanwhile::default();
    let at_derivation = Arc::clone(&meanwhile);
    let derive = move |user: &User| {
        let taken = at_derivation.lock().unwrap().take();
        if let Some((session, turn, told)) = taken {
            let (done, turned) = mpsc::channel();
            thread::spawn(move || {
                tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(turn(session)).unwrap();
                done.send(()).ok();
            });
            told.send(turned.recv_timeout(Duration::from_secs(2)).is_ok()).unwrap();
        }
        Some(Principal::new(&user.0))
    };
    let chain = chain(memory(), cookie(&ring()), &ManualClock::new());
    let node = Node::new(chain.value::<Theme>().identify_by::<User>(derive).build().unwrap());
    let mut browser = Browser::new();
    let turns: [(bool, Turn); 3] = [
        (true, |session| Box::pin(async move { session.renew().await })),
        (true, |session| Box::pin(async move { session.destroy().await })),
        // After the head has left, a clone can end the session, and cannot renew or sign in.
        (false, |session| Box::pin(async move { session.destroy().await })),
    ];
    for (handler_asks, turn) in turns {
        browser.visit(&node, async |session| session.sign_in(User("ada".into())).await.unwrap()).await;
        let (told, went_on) = mpsc::channel();
        let meanwhile = Arc::clone(&meanwhile);
        let reading = move |session: Session| async move {
            session.value::<Theme>();
            *meanwhile.lock().unwrap() = Some((session.clone(), turn, told));
            if handler_asks {
                session.principal();
            }
        };
        browser.visit(&node, reading).await;
        assert!(went_on.recv().unwrap(), "a clone waits for the application's code");
    }
}
