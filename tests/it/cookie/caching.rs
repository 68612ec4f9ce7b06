//! Caching headers: an answer that used a session varies by cookie, and an answer with a cookie is not stored.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use layered_session::{LayeredSessionLayer, Lifetime, Session, testing::ManualClock, tier::BoxError};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    App, BoxFuture, Browser, DAY, Division, Node, Theme, User, Visits, chain, cookie, memory, ring, set_cookies,
    upgrade,
};

/// A use of the session by a handler. Returns the answer that the use leads to.
type Access = fn(Session) -> BoxFuture<String>;

/// Reads the division through the error of a refused update: the error tells whether the value was 3.
async fn probe(session: Session) -> String {
    let learnt = session.update(|division: &mut Division| division.0 = if division.0 == 3 { 99 } else { 98 }).await;
    learnt.unwrap_err().to_string()
}

fn accesses() -> Vec<(&'static str, Access)> {
    vec![
        ("value", |s| Box::pin(async move { s.value::<Theme>().0 })),
        ("get", |s| Box::pin(async move { format!("{:?}", s.get::<Visits>()) })),
        ("origin", |s| Box::pin(async move { s.value_source::<Theme>().tier().to_owned() })),
        ("explain", |s| Box::pin(async move { format!("{:?}", s.explain::<Theme>()) })),
        ("is_new", |s| Box::pin(async move { s.is_new().to_string() })),
        ("created_at", |s| Box::pin(async move { format!("{:?}", s.created_at()) })),
        ("expires_at", |s| Box::pin(async move { format!("{:?}", s.expires_at()) })),
        ("principal", |s| Box::pin(async move { format!("{:?}", s.principal().map(|user| user.as_str().to_owned())) })),
        ("relay", |s| Box::pin(async move { s.relay().is_some().to_string() })),
        ("watch", |s| Box::pin(async move { format!("{:?}", s.watch::<Theme>().next().now_or_never()) })),
        ("changes", |s| Box::pin(async move { s.changes().next().now_or_never().is_some().to_string() })),
        ("closed", |s| Box::pin(async move { format!("{:?}", s.closed().now_or_never()) })),
        ("touch", |s| Box::pin(async move { format!("{:?}", s.touch().await) })),
        ("set", |s| Box::pin(async move { format!("{:?}", s.set(Visits(1)).await) })),
        ("update", |s| Box::pin(async move { format!("{:?}", s.update(|visits: &mut Visits| visits.0 += 1).await) })),
        ("a refused update", |s| Box::pin(probe(s))),
        ("remove", |s| Box::pin(async move { format!("{:?}", s.remove::<Visits>().await) })),
        ("take", |s| Box::pin(async move { format!("{:?}", s.take::<Visits>().await) })),
        ("clear", |s| Box::pin(async move { format!("{:?}", s.clear().await) })),
        ("batch", |s| Box::pin(async move { format!("{:?}", s.batch().remove::<Visits>().commit().await) })),
        ("set_lifetime", |s| {
            Box::pin(async move { format!("{:?}", s.set_lifetime(Lifetime::new(DAY, DAY).unwrap()).await) })
        }),
        ("renew", |s| Box::pin(async move { format!("{:?}", s.renew().await) })),
        ("sign_in", |s| Box::pin(async move { format!("{:?}", s.sign_in(User("x".into())).await) })),
        ("destroy", |s| Box::pin(async move { format!("{:?}", s.destroy().await) })),
    ]
}

/// A visit whose handler declares the answer `public` by mistake.
async fn visit_public(browser: &Browser, node: &Node, access: Access) -> (HeaderMap, String) {
    let answer = move |session: Session| async move {
        let answer = access(session).await;
        let public = Response::builder().header(header::CACHE_CONTROL, "public, max-age=60");
        (public.body(Full::default()).unwrap(), answer)
    };
    let (response, answer) = node.handle(browser.request(), answer).await;
    (response.headers().clone(), answer)
}

/// A browser of a signed-in user, whose cookie holds values of both scopes.
async fn signed_in(node: &Node, name: &'static str) -> Browser {
    let mut browser = Browser::new();
    let sign_in = async move |session: Session| {
        session.sign_in(User(name.into())).await.unwrap();
        session.batch().set(Theme(name.into())).set(Visits(name.len() as u64)).commit().await.unwrap();
        session.set(Division(name.len() as i64)).await.unwrap();
    };
    browser.visit(node, sign_in).await;
    browser
}

// R21: each kind of access adds `Vary: Cookie`, and a response with our cookie is `no-store`, although the handler says
// `public`.
#[tokio::test]
async fn session_access_sets_caching_headers() {
    for (name, access) in accesses() {
        let app = App::new();
        let ended = signed_in(&app.node, "eve").await;
        ended.clone().visit(&app.node, async |session| session.destroy().await.unwrap()).await;
        for browser in [Browser::new(), signed_in(&app.node, "ada").await, ended] {
            let (headers, _) = visit_public(&browser, &app.node, access).await;
            let vary: Vec<_> = headers.get_all(header::VARY).iter().collect();
            assert_eq!(vary, ["cookie"], "{name}");
            let handlers = set_cookies(&headers).is_empty();
            let expected = if handlers { "public, max-age=60" } else { "no-store, max-age=60" };
            assert_eq!(headers.get_all(header::CACHE_CONTROL).iter().collect::<Vec<_>>(), [expected], "{name}");
        }
    }
}

/// A visit whose handler sets these caching fields alone.
async fn visit_saying(browser: &Browser, node: &Node, access: Access, fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut response = Response::new(Full::default());
    for (name, value) in fields {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    let answer = move |session: Session| async move { (response, access(session).await) };
    node.handle(browser.request(), answer).await.0.headers().clone()
}

const PRIVATE: &str = "max-age=0, private, must-revalidate";

// R21: each kind of access makes a response without caching fields private, unless the application has called
// `without_cache_control`.
#[tokio::test]
async fn session_access_makes_response_private() {
    for (name, access) in accesses() {
        let (app, off) = (App::new(), App::with(layered_session::SessionsBuilder::without_cache_control));
        for (app, private) in [(&app, Some(PRIVATE)), (&off, None)] {
            for browser in [Browser::new(), signed_in(&app.node, "ada").await] {
                let headers = visit_saying(&browser, &app.node, access, &[]).await;
                let expected = if set_cookies(&headers).is_empty() { private } else { Some("no-store") };
                let said = headers.get(header::CACHE_CONTROL).map(|value| value.to_str().unwrap());
                assert_eq!((said, &headers[header::VARY]), (expected, &HeaderValue::from_static("cookie")), "{name}");
            }
        }
    }
}

// R21: a read keeps the handler's caching fields. A response with our cookie is `no-store`, and loses the fields of
// single caches.
#[tokio::test]
async fn handler_cache_headers_are_kept() {
    let app = App::new();
    let browser = signed_in(&app.node, "ada").await;
    let read: Access = |s| Box::pin(async move { s.value::<Theme>().0 });
    let write: Access = |s| Box::pin(async move { format!("{:?}", s.set(Visits(9)).await) });
    for (name, value) in [
        ("cache-control", "public, max-age=60"),
        ("expires", "Thu, 01 Dec 2033 16:00:00 GMT"),
        ("cdn-cache-control", "max-age=60"),
        ("cloudflare-cdn-cache-control", "max-age=60"),
        ("surrogate-control", "max-age=60"),
        ("x-accel-expires", "60"),
    ] {
        let browser = signed_in(&app.node, "ada").await;
        let headers = visit_saying(&browser, &app.node, read, &[(name, value)]).await;
        assert_eq!(headers[name], value);
        assert_eq!(headers.contains_key(header::CACHE_CONTROL), name == "cache-control", "{name}");
        // An answer with a cookie stays `no-store`.
        let headers = visit_saying(&browser, &app.node, write, &[(name, value), ("x-own", "1")]).await;
        assert!(headers[header::CACHE_CONTROL].to_str().unwrap().starts_with("no-store"), "{name}");
        assert_eq!(headers.contains_key(name), matches!(name, "cache-control" | "expires"), "{name}");
        assert_eq!((&headers["x-own"], set_cookies(&headers).len()), (&HeaderValue::from_static("1"), 1));
    }
    let headers = visit_saying(&browser, &app.node, write, &[("cache-control", "no-transform")]).await;
    assert_eq!(headers[header::CACHE_CONTROL], "no-store, no-transform");
}

// A task may read through an open handle while the body is sent, so the response is private. A connection that has
// switched protocols has no response for a cache.
#[tokio::test]
async fn open_handle_makes_response_private() {
    let app = App::new();
    let mut browser = app.dark().await;
    let (headers, _stream) = browser.visit_seen(&app.node, async |session| session).await;
    assert_eq!(headers[header::CACHE_CONTROL], PRIVATE);
    let switch = async |session: Session| {
        let mut switching = Response::new(Full::default());
        *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        drop(session.value::<Theme>());
        (switching, session)
    };
    let (response, _socket) = app.node.handle(upgrade(&browser), switch).await;
    assert!(response.headers().is_empty(), "{:?}", response.headers());
}

// R21: an access adds `Vary: Cookie`, unless the handler's own `Vary` names the cookie.
#[tokio::test]
async fn access_adds_vary_once() {
    let app = App::new();
    let mut browser = app.dark().await;
    for (said, expected) in [
        (vec!["Cookie"], vec!["Cookie"]),
        (vec!["accept, COOKIE"], vec!["accept, COOKIE"]),
        (vec!["accept", "cookie"], vec!["accept", "cookie"]),
        (vec!["*"], vec!["*"]),
        (vec!["accept", "x-cookie"], vec!["accept", "x-cookie", "cookie"]),
    ] {
        let answer = move |session: Session| async move {
            drop(session.value::<Theme>());
            let mut response = Response::new(Full::default());
            for vary in said {
                response.headers_mut().append(header::VARY, HeaderValue::from_static(vary));
            }
            (response, ())
        };
        let (response, ()) = app.node.handle(browser.request(), answer).await;
        assert_eq!(response.headers().get_all(header::VARY).iter().collect::<Vec<_>>(), expected);
    }
    let (untouched, ()) = browser.visit_seen(&app.node, async |_| ()).await;
    assert!(untouched.is_empty(), "{untouched:?}");
    // A task may read through an open handle while the body is sent.
    let (headers, _socket) = browser.visit_seen(&app.node, async |session| session).await;
    assert_eq!(headers.get(header::VARY).unwrap(), "cookie");
}

// R21: the layer's own read for `resolve` adds `Vary: Cookie` too.
#[tokio::test]
async fn resolved_value_sets_vary() {
    let chain = chain(memory(), cookie(&ring()), &ManualClock::new());
    let sessions = chain.resolve::<Theme>().build().unwrap();
    let service = service_fn(async |request: Request<Full<Bytes>>| {
        Ok::<_, BoxError>(Response::new(request.extensions().get::<Theme>().unwrap().0.clone()))
    });
    let response = LayeredSessionLayer::new(sessions).layer(service).oneshot(Browser::new().request()).await.unwrap();
    assert_eq!(response.headers().get(header::VARY).unwrap(), "cookie");
}

/// A shared cache of one page, as permissive as RFC 9111 allows: the cache stores each answer unless a field forbids
/// storage, and serves a stored answer if the request fields that `Vary` names are the same.
#[derive(Default)]
struct Cache(Vec<(HeaderMap, HeaderMap, String)>);

impl Cache {
    async fn visit(&mut self, browser: &mut Browser, node: &Node, access: Access) -> String {
        let request = browser.request();
        let same = |stored: &HeaderMap, vary: &str| {
            vary.split(',').all(|name| stored.get(name.trim()) == request.headers().get(name.trim()))
        };
        let hit = self.0.iter().find(|(stored, headers, _)| {
            headers.get_all(header::VARY).iter().all(|vary| same(stored, vary.to_str().unwrap()))
        });
        if let Some((_, headers, answer)) = hit {
            browser.take(headers);
            return answer.clone();
        }
        let (headers, answer) = visit_public(browser, node, access).await;
        browser.take(&headers);
        if !headers[header::CACHE_CONTROL].to_str().unwrap().contains("no-store") {
            self.0.push((request.headers().clone(), headers, answer.clone()));
        }
        answer
    }
}

/// Two visitors and two users. Ada signed in half a day before grace, so that ada's cookie needs a refresh.
async fn users(app: &App) -> [Browser; 4] {
    let ada = signed_in(&app.node, "ada").await;
    app.clock.advance(DAY / 2);
    [Browser::new(), ada, signed_in(&app.node, "grace").await, Browser::new()]
}

// R21: through a permissive shared cache, each user gets the same answers as without a cache.
#[tokio::test]
async fn shared_cache_mixes_no_users() {
    for (name, access) in accesses().into_iter().filter(|(name, _)| *name != "explain") {
        // The second app answers without a cache, for comparison.
        let (app, direct) = (App::new(), App::new());
        let (mut users, mut twins) = (users(&app).await, users(&direct).await);
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 2, 0]] {
            let mut cache = Cache::default();
            for user in order {
                let cached = cache.visit(&mut users[user], &app.node, access).await;
                let answer = Cache::default().visit(&mut twins[user], &direct.node, access).await;
                assert_eq!(cached, answer, "{name} of user {user}");
                let holds = |browser: &Browser| browser.cookie("session").is_some();
                assert_eq!(holds(&users[user]), holds(&twins[user]), "{name} of user {user}");
            }
        }
        let tokens: Vec<_> = users.iter().filter_map(|browser| browser.cookie("session")).collect();
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len(), "{name}: two browsers have one cookie");
    }
}
