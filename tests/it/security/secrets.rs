//! Secrets stay out of traces, `Debug`, refusals and stores.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use layered_session::{
    BuildErrorKind, CookieTier, DefaultTier, KeyRing, LayeredSession, LayeredSessionLayer, Lifetime, MemoryTier,
    Principal, Session, SessionWriteback, SharedTier,
    testing::{ManualClock, SpyStore},
    tier::{CommitKind, Committed, Found, OwnerId, Snapshot, StoredRecord, TierFuture, Version},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Browser, DAY, Division, Node, NumberedTheme, Theme, Trace, User, Visits, builder, chain, cookie, first_write,
    id_of, memory, ring, spellings, store,
};

/// Every value, id and error of the application contains this text.
const CANARY: &str = "canary";

fn canary(of: &str) -> String {
    format!("{CANARY}-{of}")
}

fn assert_hides(text: &str, secret: &str) {
    if let Some(at) = text.find(secret) {
        let from = text[..at].rfind('\n').map_or(0, |end| end + 1);
        panic!("{secret:?} is shown: {}", &text[from..(at + secret.len()).min(text.len())]);
    }
}

// R32: no trace and no `Debug` text holds an id, a key, a token or a value, also in failures.
#[tokio::test]
async fn traces_and_debug_hide_secrets() {
    let (traced, _guard) = Trace::begin();
    let key: [u8; 32] = rand::random();
    let (ring, clock) = (KeyRing::new([key]).unwrap(), ManualClock::new());
    let with_store = |store: &SpyStore| builder(&ring, &clock).tier(SharedTier::new(store.clone()));
    let store = SpyStore::new();
    let mut tokens = Vec::new();
    for sessions in [builder(&ring, &clock), with_store(&store)] {
        traced.show(&sessions);
        let node = Node::new(sessions.build().unwrap());
        let mut browser = Browser::new();
        let theme = || Theme(canary("theme"));
        browser.visit(&node, async move |s| s.set(theme()).await.unwrap()).await;
        tokens.extend(browser.cookie("session").map(str::to_owned));
        let anonymous = browser.clone();
        browser.visit(&node, async |s| s.sign_in(User(canary("user"))).adopt::<Division>().await.unwrap()).await;
        tokens.extend(browser.cookie("session").map(str::to_owned));
        let socket = browser.visit(&node, async |s| s).await;
        socket.set(theme()).await.unwrap();
        tokens.extend(socket.relay().map(|token| token.as_str()[2..].to_owned()));
        show_all(&traced, &node, &socket).await;

        // Refused writes, refused posts and unreadable cookies.
        let too_large = socket.set(Theme(canary("long").repeat(1_000))).await.unwrap_err();
        traced.show(&too_large);
        let mut late = anonymous;
        traced.show(&late.visit(&node, async move |s| s.set(theme()).await.unwrap_err()).await);
        let allowing = || SessionWriteback::new(&node.sessions).allow::<Visits>().unwrap();
        traced.show(&allowing());
        for body in [
            format!(r#"{{"visits":"{CANARY}"}}"#),
            format!(r#"{{"{CANARY}":1}}"#),
            format!(r#"{{"$relay":"r.{CANARY}"}}"#),
            format!(r#"{{"{CANARY}"#),
        ] {
            let answer = node.writeback(allowing(), browser.post_json(body)).await;
            assert!(answer.status.is_client_error());
        }
        let mut odd = browser.clone();
        odd.set("session", &canary("cookie"));
        odd.visit(&node, async |s| s.value::<Theme>()).await;
        let request = browser.request_of(http::Method::GET, "/", "");
        for headers in [format!("session={}; session={}", tokens[0], tokens[1]), format!("a={}", CANARY.repeat(4_000))]
        {
            let mut request = Request::from_parts(request.clone().into_parts().0, Full::default());
            request.headers_mut().insert(header::COOKIE, headers.parse().unwrap());
            pass(&traced, &node, request).await;
        }
        pass(&traced, &node, browser.request()).await;

        // Another build that can't read the value, clocks that differ, a store that is down, and the end of the
        // session.
        let other = chain(memory(), cookie(&ring), &clock).value::<NumberedTheme>();
        let other = Node::new(other.build().unwrap());
        browser.clone().visit(&other, async |s| s.value::<NumberedTheme>()).await;
        clock.set(SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000) - DAY);
        browser.clone().visit(&other, async |s| s.value::<NumberedTheme>()).await;
        clock.set(SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000));
        store.fail();
        let cold = Node::new(with_store(&store).build().unwrap());
        let layer = LayeredSessionLayer::new(cold.sessions);
        let load = service_fn(|request: Request<Full<Bytes>>| async move {
            Session::load(request.extensions()).await.map(Response::new)
        });
        traced.show(&layer.layer(load).oneshot(browser.request()).await.map(drop));
        traced.show(&socket.destroy().await);
        store.heal();
        traced.show(&socket.destroy().await);
        traced.show(&(socket, &store));
        tokens.extend(browser.cookie("session").map(str::to_owned));
    }

    let text = traced.text();
    assert!(text.contains("WARN") && text.contains("skipped a copy"), "the subscriber hears nothing");
    assert_hides(&text, CANARY);
    assert_hides(&text, "636E617279");
    assert!(tokens.len() >= 8);
    for token in &tokens {
        assert_hides(&text, token);
        spellings(&id_of(token)).iter().for_each(|id| assert_hides(&text, id));
        // The id as every token of the session contains it, since the test does not keep every token.
        assert_hides(&text, &token[8..48]);
    }
    spellings(&key).iter().for_each(|key| assert_hides(&text, key));
}

/// Shows `Debug` of every type that an application can hold.
async fn show_all(traced: &Trace, node: &Node, session: &Session) {
    let principal = session.principal().expect("a user is signed in");
    traced.show(&(&node.sessions, session, &principal, session.value_source::<Theme>(), session.explain::<Theme>()));
    traced.show(&(session.watch::<Theme>(), session.changes(), session.relay()));
    let mut changes = session.changes();
    session.set(Theme(canary("shown"))).await.unwrap();
    traced.show(&(changes.next().await, &changes, session.batch().set(Theme(canary("batch")))));
    traced.show(&session.sign_in(User(canary("next"))));
    traced.show(&(node.sessions.for_principal(principal.clone()).await.unwrap(), node.sessions.stats()));
    let layer = LayeredSessionLayer::new(node.sessions.clone());
    traced.show(&(layer.layer(Unseen), LayeredSession::new(Unseen, node.sessions.clone()), layer.clone().preload()));
    traced.show(&layer.preload().layer(Unseen));
    traced.show(&(CookieTier::sealed(ring()), MemoryTier::builder(), MemoryTier::builder().build()));
    traced.show(&DefaultTier::new().value(Theme(canary("default"))).with::<Division>(|_| Division(1)));
    let found = Found::value(&Theme(canary("found"))).unwrap();
    traced.show(&(Lifetime::new(DAY, DAY).unwrap(), &found, Found::from_iter([("theme", canary("row"))])));
    let stored = || StoredRecord::new(Version::ZERO).with_entry("theme", Some(canary("stored").into()), Version::ZERO);
    traced.show(&(
        TierFuture::<_>::ready(Ok(canary("tier"))),
        Snapshot::Present(stored()),
        Committed::Outdated(stored()),
    ));
    traced.show(&KeyRing::new([canary("key").as_bytes()]).map(drop));
    traced.show(&KeyRing::from_hex(&canary("hex")).map(drop));
}

#[derive(Clone, Debug)]
struct Unseen;

/// Sends one request through the layer, and shows `Debug` inside the handler and after the response.
async fn pass(traced: &Trace, node: &Node, request: Request<Full<Bytes>>) {
    let to = traced.clone();
    let show = service_fn(move |request: Request<Full<Bytes>>| {
        let to = to.clone();
        async move {
            to.show(&request);
            let session = Session::load(request.extensions()).await.unwrap();
            // The write is refused where tokens of several sessions came. The trace shows the refusal too.
            to.show(&session.set(Visits(session.value::<Visits>().0 + 1)).await);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let response = LayeredSessionLayer::new(node.sessions.clone()).layer(show);
    traced.show(&response);
    let future = response.oneshot(request);
    traced.show(&future.await.unwrap().headers());
}

// R32: the error of a refused key holds no part of the key.
#[test]
fn key_error_hides_key() {
    for key in [canary("short"), canary("text").repeat(8)] {
        let refused = KeyRing::new([key.as_bytes()]).unwrap_err();
        assert_eq!(refused.kind(), BuildErrorKind::Key);
        assert_hides(&format!("{refused:?} {refused} {:?}", KeyRing::from_hex(&key).unwrap_err()), CANARY);
    }
}

// R32: `Cookie` and `Set-Cookie` are marked as sensitive. The mark also keeps their values out of the compression
// tables of HTTP/2.
#[tokio::test]
async fn cookie_headers_are_marked_sensitive() {
    let node = Node::new(builder(&ring(), &ManualClock::new()).build().unwrap());
    let mut browser = Browser::new();
    browser.set("other", "x");
    let sensitive = |headers: &http::HeaderMap, name| headers.get_all(name).iter().all(HeaderValue::is_sensitive);
    let (headers, ()) = browser.visit_seen(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    assert!(headers.contains_key(header::SET_COOKIE) && sensitive(&headers, header::SET_COOKIE));
    let seen = service_fn(|request: Request<Full<Bytes>>| async move {
        Ok::<_, Infallible>(Response::new(request.headers().clone()))
    });
    let mut request = browser.request();
    request.headers_mut().append(header::COOKIE, HeaderValue::from_static("a=b"));
    let seen = LayeredSessionLayer::new(node.sessions.clone()).layer(seen).oneshot(request).await.unwrap();
    assert!(seen.body().get_all(header::COOKIE).iter().count() == 2 && sensitive(seen.body(), header::COOKIE));
    let (headers, ()) = browser.visit_seen(&node, async |s| s.destroy().await.unwrap()).await;
    assert!(headers.contains_key(header::SET_COOKIE) && sensitive(&headers, header::SET_COOKIE));
}

/// A store that records the owners of its calls, and stores nothing.
fn noting(owners: &Arc<Mutex<Vec<OwnerId>>>) -> SharedTier {
    let (of_reads, of_writes) = (Arc::clone(owners), Arc::clone(owners));
    store(
        "noting",
        move |owner| {
            assert_hides(&format!("{owner:?}"), CANARY);
            of_reads.lock().unwrap().push(owner);
            Snapshot::Present(StoredRecord::new(Version::ZERO))
        },
        move |commit| {
            assert_hides(&format!("{commit:?}"), CANARY);
            of_writes.lock().unwrap().push(commit.owner());
            let version = Version::from_u64(1_893_456_000_000 << 16);
            assert!(commit.kind() != CommitKind::Create || !commit.changes().is_empty());
            match commit.kind() {
                CommitKind::End { .. } => Committed::Retired(StoredRecord::new(version)),
                _ => Committed::Applied { stamp: version, newest: version, generation: version },
            }
        },
    )
}

// R33: the owner ids in a store hide the session's id, and differ by audience and by kind of owner.
#[tokio::test]
async fn store_hashes_separate_audience_and_kind() {
    let (ring, clock) = (ring(), ManualClock::new());
    let mut seen = Vec::new();
    for audience in ["", "a", "b"] {
        let owners = Arc::default();
        let node = Node::new(builder(&ring, &clock).audience(audience).tier(noting(&owners)).build().unwrap());
        let browser = first_write(&node, Theme(canary("theme"))).await;
        let id = id_of(browser.cookie("session").unwrap());
        let session = owners.lock().unwrap().drain(..).next_back().unwrap();
        assert!(session.as_bytes().windows(8).all(|part| !id.windows(8).any(|other| other == part)));
        node.sessions.for_principal(Principal::new("ada")).await.unwrap();
        let principal = owners.lock().unwrap().drain(..).next_back().unwrap();
        // A principal named like a session's id is a different owner from the session.
        node.sessions.for_principal(Principal::new(URL_SAFE_NO_PAD.encode(&id))).await.unwrap();
        assert_ne!(owners.lock().unwrap().drain(..).next_back(), Some(session));
        seen.extend([session, principal]);
    }
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all, "the same principal is another owner in another application");
}
