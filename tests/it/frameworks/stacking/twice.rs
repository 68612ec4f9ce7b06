//! The same `Sessions` layered twice: one session for a request, and one cookie.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{Extension, Router, routing::get};
use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, header};
use http_body_util::Full;
use layered_session::{
    KeyRing, LayeredSessionLayer, MemoryTier, Principal, Session, Sessions, SessionsBuilder, testing::ManualClock,
};
use tower::{Layer, ServiceExt, service_fn};

use super::send;
use crate::support::{BoxFuture, Browser, Division, Theme, cookie, ring, set_cookies, theme};

/// The actions of a service between the two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Passes,
    /// Keeps the extensions, and loads the session after the inner response.
    LoadsLate,
    Loads,
    Reads,
    Writes,
    /// Renews the session after the inner response.
    Renews,
    /// Ends the session after the inner response.
    Destroys,
}

const ALL: [Between; 5] = [Between::Passes, Between::LoadsLate, Between::Loads, Between::Reads, Between::Writes];

/// The users whom `identify` finds in the outer and in the inner layer.
const USERS: [(Option<&str>, Option<&str>); 5] =
    [(None, Some("bob")), (Some("ada"), Some("bob")), (Some("bob"), None), (Some("bob"), Some("bob")), (None, None)];

fn builder(ring: &KeyRing, memory: bool) -> SessionsBuilder {
    let mut sessions = Sessions::builder();
    if memory {
        sessions = sessions.tier(MemoryTier::builder().build());
    }
    let identify = |head: &http::request::Parts| Some(Principal::new(head.headers.get("x-user")?.to_str().ok()?));
    let cookie = cookie(ring);
    sessions.tier(cookie).value::<Theme>().clock(ManualClock::new()).identify(identify)
}

fn sessions(ring: &KeyRing, memory: bool) -> Sessions {
    builder(ring, memory).resolve::<Division>().build().unwrap()
}

fn sign(headers: &mut HeaderMap, user: Option<&str>) {
    headers.remove("x-user");
    if let Some(user) = user {
        headers.insert("x-user", user.parse().unwrap());
    }
}

type Handler<T> = fn(Extensions) -> BoxFuture<T>;

async fn load(extensions: &Extensions) -> Session {
    Session::load(extensions).await.unwrap()
}

struct Visited<T> {
    headers: HeaderMap,
    said: T,
    /// The handle of the service between the layers.
    kept: Option<Session>,
}

/// Sends a request through both layers.
async fn visit<T: Send + 'static>(
    browser: &mut Browser,
    sessions: &Sessions,
    (first, second): (Option<&'static str>, Option<&'static str>),
    between: Between,
    preloads: bool,
    handler: Handler<T>,
) -> Visited<T> {
    let (said, kept) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let (saying, keeping) = (Arc::clone(&said), Arc::clone(&kept));
    let handler = service_fn(move |request: Request<Full<Bytes>>| {
        let saying = Arc::clone(&saying);
        async move {
            let said = handler(request.extensions().clone()).await;
            *saying.lock().unwrap() = Some(said);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let layer = LayeredSessionLayer::new(sessions.clone());
    let inner = match preloads {
        true => tower::util::BoxCloneService::new(layer.clone().preload().layer(handler)),
        false => tower::util::BoxCloneService::new(layer.layer(handler)),
    };
    let between = service_fn(move |mut request: Request<Full<Bytes>>| {
        let (inner, keeping) = (inner.clone(), Arc::clone(&keeping));
        async move {
            let extensions = request.extensions().clone();
            if !matches!(between, Between::Passes | Between::LoadsLate) {
                let session = load(request.extensions()).await;
                match between {
                    Between::Reads => drop(session.value::<Theme>()),
                    Between::Writes => session.set(theme("early")).await.unwrap(),
                    _ => {}
                }
                *keeping.lock().unwrap() = Some(session);
            }
            sign(request.headers_mut(), second);
            let response = inner.oneshot(request).await;
            let kept = keeping.lock().unwrap().clone();
            match (between, kept) {
                (Between::LoadsLate, _) => *keeping.lock().unwrap() = Some(load(&extensions).await),
                (Between::Renews, Some(session)) => session.renew().await.unwrap(),
                (Between::Destroys, Some(session)) => session.destroy().await.unwrap(),
                _ => {}
            }
            response
        }
    });
    let mut request = browser.request();
    sign(request.headers_mut(), first);
    let response = match preloads {
        true => layer.preload().layer(between).oneshot(request).await.unwrap(),
        false => layer.layer(between).oneshot(request).await.unwrap(),
    };
    browser.take(response.headers());
    let (said, kept) = (said.lock().unwrap().take().unwrap(), kept.lock().unwrap().take());
    Visited { headers: response.headers().clone(), said, kept }
}

/// Sends a request through one layer.
async fn read(browser: &Browser, sessions: &Sessions, user: Option<&'static str>) -> (Theme, Division) {
    let handler: Handler<_> = |extensions| {
        Box::pin(async move {
            let session = load(&extensions).await;
            (session.value::<Theme>(), session.value::<Division>())
        })
    };
    visit(&mut browser.clone(), sessions, (user, user), Between::Passes, false, handler).await.said
}

/// A browser whose cookie holds values of a session and of bob.
async fn bobs(ring: &KeyRing) -> Browser {
    let mut browser = Browser::new();
    let write: Handler<()> = |extensions| {
        Box::pin(async move {
            let session = load(&extensions).await;

            session.set(theme("light")).await.unwrap();
            session.set(Division(2)).await.unwrap();
        })
    };
    let bob = (Some("bob"), Some("bob"));
    visit(&mut browser, &sessions(ring, true), bob, Between::Passes, false, write).await;
    browser
}

fn user(name: Option<&str>) -> Option<Principal> {
    name.map(Principal::new)
}

fn each(mut check: impl FnMut((Option<&'static str>, Option<&'static str>), Between, bool, bool)) {
    for users in USERS {
        for between in ALL {
            for memory in [true, false] {
                for preloads in [true, false] {
                    check(users, between, memory, preloads);
                }
            }
        }
    }
}

#[test]
fn inner_layer_identifies_its_user() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    each(|users, between, memory, preloads| {
        let case = format!("{users:?} {between:?} memory {memory} preloads {preloads}");
        runtime.block_on(async {
            let ring = ring();
            let mut browser = bobs(&ring).await;
            let cold = sessions(&ring, memory);
            let handler: Handler<_> = |extensions| {
                Box::pin(async move {
                    let session = load(&extensions).await;
                    let resolved = extensions.get::<Division>().copied();
                    let seen = (session.principal(), session.value::<Theme>(), session.value::<Division>());
                    session.set(theme("dark")).await.unwrap();
                    (seen, resolved)
                })
            };
            let Visited { headers, said, kept } = visit(&mut browser, &cold, users, between, preloads, handler).await;
            let (seen, resolved) = said;
            let before = theme(if between == Between::Writes { "early" } else { "light" });
            let division = if users.1.is_some() { Division(2) } else { Division(-1) };
            assert_eq!((seen, resolved), ((user(users.1), before, division), Some(division)), "{case}");
            assert_eq!(set_cookies(&headers).len(), 1, "{case}");
            if let Some(kept) = kept {
                assert_eq!((kept.principal(), kept.value::<Theme>()), (user(users.0), theme("dark")), "{case}");
            }
            let next = sessions(&ring, memory);
            assert_eq!(read(&browser, &next, users.1).await, (theme("dark"), division), "{case}");
        });
    });
}

// Only the service between the layers uses the session.
#[test]
fn cookie_is_sealed_for_inner_user() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    each(|users, between, memory, preloads| {
        let case = format!("{users:?} {between:?} memory {memory} preloads {preloads}");
        runtime.block_on(async {
            let ring = ring();
            let mut browser = bobs(&ring).await;
            let handler: Handler<()> = |_| Box::pin(async {});
            // Without an insert in the extensions the inner layer loads no session by itself.
            let cold = builder(&ring, memory).value::<Division>().build().unwrap();
            let Visited { headers, kept, .. } = visit(&mut browser, &cold, users, between, preloads, handler).await;
            if let (Between::LoadsLate, false, Some(kept)) = (between, preloads, kept) {
                assert_eq!(kept.principal(), user(users.1), "no earlier handle exists: {case}");
            }
            assert!(set_cookies(&headers).len() <= 1, "{case}");
            assert!(between != Between::Writes || set_cookies(&headers).len() == 1, "{case}");
            let before = theme(if between == Between::Writes { "early" } else { "light" });
            let division = if users.1.is_some() { Division(2) } else { Division(-1) };
            assert_eq!(read(&browser, &sessions(&ring, memory), users.1).await, (before, division), "{case}");
        });
    });
}

#[test]
fn two_layers_begin_one_session() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    each(|users, between, memory, preloads| {
        let case = format!("{users:?} {between:?} memory {memory} preloads {preloads}");
        runtime.block_on(async {
            let (ring, mut browser) = (ring(), Browser::new());
            let handler: Handler<_> = |extensions| {
                Box::pin(async move {
                    let session = load(&extensions).await;

                    let before = session.value::<Theme>();
                    session.set(Division(3)).await.unwrap();
                    session.set(theme("dark")).await.unwrap();
                    (before, session.is_new())
                })
            };
            let cold = sessions(&ring, memory);
            let visited = visit(&mut browser, &cold, users, between, preloads, handler).await;
            let before = if between == Between::Writes { theme("early") } else { Theme::default() };
            assert_eq!((visited.said, set_cookies(&visited.headers).len()), ((before, true), 1), "{case}");
            if let Some(kept) = visited.kept {
                assert_eq!((kept.value::<Theme>(), kept.is_new()), (theme("dark"), true), "{case}");
            }
            let next = sessions(&ring, memory);
            assert_eq!(read(&browser, &next, users.1).await, (theme("dark"), Division(3)), "{case}");
        });
    });
}

#[tokio::test]
async fn inner_renewal_sets_one_cookie() {
    for users in USERS {
        for between in ALL {
            let ring = ring();
            let node = sessions(&ring, true);
            let renew: Handler<()> = |extensions| {
                Box::pin(async move {
                    let session = load(&extensions).await;
                    session.renew().await.unwrap()
                })
            };
            let mut browser = bobs(&ring).await;
            let Visited { headers, .. } = visit(&mut browser, &node, users, between, false, renew).await;
            assert_eq!(set_cookies(&headers).len(), 1, "{users:?} {between:?}");
            let destroy: Handler<()> = |extensions| {
                Box::pin(async move {
                    let session = load(&extensions).await;
                    session.destroy().await.unwrap()
                })
            };
            let Visited { headers, .. } = visit(&mut browser, &node, users, between, false, destroy).await;
            assert_eq!((set_cookies(&headers).len(), browser.cookie("session")), (1, None), "{users:?} {between:?}");
        }
    }
}

#[tokio::test]
async fn renewal_after_inner_response_reaches_browser() {
    for users in USERS {
        let ring = ring();
        let node = sessions(&ring, true);
        let write: Handler<()> =
            |extensions| Box::pin(async move { load(&extensions).await.set(theme("dark")).await.unwrap() });
        let mut browser = bobs(&ring).await;
        visit(&mut browser, &node, users, Between::Renews, false, write).await;
        assert_eq!(read(&browser, &node, users.0).await.0, theme("dark"), "{users:?}");
        visit(&mut browser, &node, users, Between::Destroys, false, write).await;
        assert_eq!(browser.cookie("session"), None, "{users:?}");
    }
}

#[tokio::test]
async fn changed_request_loads_own_session() {
    let ring = ring();
    let sessions = sessions(&ring, true);
    let layer = LayeredSessionLayer::new(sessions.clone());
    let page = service_fn(async |request: Request<Full<Bytes>>| {
        let session = load(request.extensions()).await;
        Ok::<_, Infallible>(Response::new(session.value::<Theme>()))
    });
    let inner = layer.clone().layer(page);
    let strips = layer.clone().layer(service_fn(move |mut request: Request<Full<Bytes>>| {
        request.headers_mut().remove(header::COOKIE);
        inner.clone().oneshot(request)
    }));
    let browser = bobs(&ring).await;
    assert_eq!(strips.oneshot(browser.request()).await.unwrap().into_body(), Theme::default());
    // The response head of the outer layer has left, so the inner layer's response has a cookie of its own.
    let kept = Arc::new(Mutex::new(None));
    let keeping = Arc::clone(&kept);
    let outer = layer.clone().layer(service_fn(move |request: Request<Full<Bytes>>| {
        *keeping.lock().unwrap() = Some(request);
        std::future::ready(Ok::<_, Infallible>(Response::new(())))
    }));
    outer.oneshot(browser.request()).await.unwrap();
    let late = kept.lock().unwrap().take().unwrap();
    let writes = layer.layer(service_fn(async |request: Request<Full<Bytes>>| {
        load(request.extensions()).await.set(theme("dark")).await.unwrap();
        Ok::<_, Infallible>(Response::new(()))
    }));
    assert_eq!(set_cookies(writes.oneshot(late).await.unwrap().headers()).len(), 1);
}

// A layer of other sessions lies between the two layers.
#[tokio::test]
async fn layers_share_session_across_other_layer() {
    let ring = ring();
    let mine = sessions(&ring, true);
    let other = sessions(&super::ring(), true);
    let page = get(async |session: Session, Extension(Division(number)): Extension<Division>| {
        session.set(theme("dark")).await.unwrap();
        number.to_string()
    });
    let [inner, outer] = [(); 2].map(|()| LayeredSessionLayer::new(mine.clone()));
    let loads = async |session: Session, request: axum::extract::Request, next: axum::middleware::Next| {
        session.value::<Theme>();
        next.run(request).await
    };
    let app = Router::new().route("/", page).layer(inner).layer(LayeredSessionLayer::new(other));
    let app = app.layer(axum::middleware::from_fn(loads)).layer(outer);
    let mut browser = bobs(&ring).await;
    let (_, headers, said) = send(&app, &mut browser, "GET", "/").await;
    assert_eq!((said.as_str(), set_cookies(&headers).len()), ("-1", 1));
}
