//! Arbitrary bytes in a cookie, a body, a token or another build's copy count as absent, and nothing fails.

use futures_util::FutureExt;
use http::{HeaderValue, Response, header};
use http_body_util::Full;
use layered_session::{DefaultTier, Principal, Session, SessionWriteback, SessionsBuilder, testing::ManualClock};
use proptest::{prelude::*, sample::Index};

use crate::support::{
    App, Browser, Node, NumberedTheme, Theme, Trace, User, Visits, builder, chain, cookie, get, memory, ring, set,
    visitor,
};

// R37: an undecodable copy is a traced miss, affects no other value, and is replaced by the next write.
#[tokio::test]
async fn undecodable_copy_is_skipped_and_replaced() {
    let (traced, _guard) = Trace::begin();
    let (ring, clock) = (ring(), ManualClock::new());
    let tiers = || chain(memory(), cookie(&ring), &clock).value::<Visits>();
    let old = Node::new(tiers().value::<NumberedTheme>().build().unwrap());
    let new = || Node::new(tiers().value::<Theme>().build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&old, async |s| s.batch().set(NumberedTheme(7)).set(Visits(1)).commit().await.unwrap()).await;
    let node = new();
    for _ in 0..2 {
        let read = browser.visit(&node, async |s| (s.get::<Theme>(), s.value::<Visits>())).await;
        assert_eq!(read, (None, Visits(1)));
    }
    assert!(traced.text().contains("skipped a copy"));
    let kept = browser.clone().visit(&old, async |s| s.get::<NumberedTheme>()).await;
    assert_eq!(kept, Some(NumberedTheme(7)), "the read kept the copy");
    browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    let read = browser.visit(&new(), async |s| (s.value::<Theme>(), s.value::<Visits>())).await;
    assert_eq!(read, (Theme("dark".into()), Visits(1)));
}

/// Mutates the bytes by the steps: change, drop, insert, cut off, repeat.
fn mutate(bytes: &[u8], steps: &[(u8, Index, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (step, at, byte) in steps {
        let at = at.index(bytes.len() + 1);
        match step % 6 {
            0 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.insert(at, *byte),
            3 => bytes.truncate(at),
            4 => bytes.extend_from_within(at..),
            _ if at < bytes.len() => bytes[at] = b"=; \",-_A9"[usize::from(byte % 9)],
            _ => {}
        }
    }
    bytes
}

fn steps() -> impl Strategy<Value = Vec<(u8, Index, u8)>> {
    prop::collection::vec((any::<u8>(), any::<Index>(), any::<u8>()), 1..4)
}

/// Returns Ada's browser, a node that knows the browser, and a node that does not.
fn ada() -> (Node, Node, Browser) {
    let (ring, clock) = (ring(), ManualClock::new());
    let [warm, cold] = [(); 2].map(|()| Node::new(builder(&ring, &clock).build().unwrap()));
    let mut browser = Browser::new();
    browser.visit(&warm, async |s| s.sign_in(User("ada".into())).await.unwrap()).now_or_never().unwrap();
    (warm, cold, browser)
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

// R37: no mutation of a genuine cookie and no arbitrary bytes open a session, and no request fails.
#[test]
fn only_genuine_cookie_opens_session() {
    let (warm, cold, browser) = ada();
    let token = browser.cookie("session").unwrap();
    let genuine = format!("session={token}").into_bytes();
    let never_a_session = |bytes: &[u8]| {
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        // A genuine pair counts as genuine beside other pairs, and with blanks around its name and value.
        let is_genuine = |pair: &[u8]| {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(at);
            [name.trim_ascii(), b"=", value.get(1..).unwrap_or_default().trim_ascii()].concat() == genuine
        };
        if bytes.split(|byte| *byte == b';').any(is_genuine) {
            return;
        }
        for node in [&warm, &cold] {
            let mut request = Browser::new().request();
            request.headers_mut().insert(header::COOKIE, value.clone());
            let look = async |s: Session| (Response::new(Full::default()), (s.is_new(), s.principal(), s.created_at()));
            let look = node.handle(request, look);
            let (response, seen) = look.now_or_never().expect("the request waits for nothing");
            assert_eq!(seen, (true, None, None), "{value:?}");
            assert!(response.headers().get(header::SET_COOKIE).is_none());
        }
    };
    for (at, byte) in (0..).zip(token.bytes()) {
        let changed = |to: &str| format!("session={}{to}{}", &token[..at], &token[at + 1..]).into_bytes();
        // The neighbour differs in the lowest bit. The last character of base64 may ignore that bit.
        let neighbour = char::from(if byte % 2 == 0 { byte + 1 } else { byte - 1 }).to_string();
        [&neighbour, "", "A", "=", "%41"].iter().filter(|to| to.as_bytes() != [byte]).for_each(|to| {
            never_a_session(&changed(to));
        });
        never_a_session(&genuine[..genuine.len() - 1 - at]);
    }
    for more in ["A", "=", "==", ".", "\"", "%", token] {
        never_a_session(&[&genuine, more.as_bytes()].concat());
    }
    let any_bytes = prop::collection::vec(any::<u8>(), 0..200);
    proptest!(config(), |(steps in steps(), garbage in any_bytes)| {
        never_a_session(&mutate(&genuine, &steps));
        never_a_session(&garbage);
        never_a_session(&[b"session=", garbage.as_slice()].concat());
    });
    let read = browser.clone().visit(&cold, async |s| s.principal()).now_or_never().unwrap();
    assert_eq!(read, Some(Principal::new("ada")), "the genuine cookie opens the session");
}

// R37: the writeback answers arbitrary bodies without a failure, and opens no mutated token.
#[test]
fn writeback_survives_arbitrary_bodies() {
    let (node, _, browser) = ada();
    let socket = browser.clone().visit(&node, async |s| s).now_or_never().unwrap();
    socket.set(Theme("dark".into())).now_or_never().unwrap().unwrap();
    let relay = socket.relay().unwrap();
    let seeds = [r#"{"theme":"dark","visits":1,"x":[{"y":null}]}"#.to_owned(), format!(r#"{{"$relay":"{relay}"}}"#)];
    let any_bytes = prop::collection::vec(any::<u8>(), 0..200);
    let writeback = || SessionWriteback::new(&node.sessions).allow::<Visits>().unwrap();
    let post = |body: Vec<u8>| node.writeback(writeback(), browser.post_json(body)).now_or_never().unwrap();
    proptest!(config(), |(steps in steps(), garbage in any_bytes)| {
        for body in seeds.iter().map(|seed| mutate(seed.as_bytes(), &steps)).chain([garbage]) {
            let status = post(body).status.as_u16();
            prop_assert!([200, 400, 413, 422].contains(&status), "{}", status);
        }
        let mutated = String::from_utf8_lossy(&mutate(relay.as_str().as_bytes(), &steps)).into_owned();
        if mutated != relay.as_str() {
            let answer = post(serde_json::json!({ "$relay": mutated }).to_string().into());
            prop_assert_eq!((answer.status.as_u16(), answer.code()), (400, "relay_invalid".to_owned()));
        }
    });
    assert_eq!(post(seeds[1].clone().into()).status.as_u16(), 200, "the writeback accepts the genuine token");
    let user = browser.clone().visit(&node, async |s| s.get::<User>()).now_or_never().unwrap();
    assert_eq!(user, Some(User("ada".into())));
}

/// Two builds of an application that declare different types for one name.
fn builds(app: &App) -> (Node, Node) {
    let of = |sessions: SessionsBuilder| Node::new(sessions.build().unwrap());
    (of(app.chain(DefaultTier::new()).value::<NumberedTheme>()), of(app.chain(DefaultTier::new()).value::<Theme>()))
}

#[tokio::test]
async fn remove_deletes_unreadable_copy() {
    let (numbered, named) = builds(&App::new());
    let mut browser = visitor(&named).await;
    let remove = async |session: Session| session.remove::<Theme>().await.unwrap();
    browser.visit(&named, remove).await;
    // The node that can't read the newer copy keeps that copy beside the node's own tombstone.
    set(&mut browser, &numbered, NumberedTheme(7)).await;
    browser.visit(&named, remove).await;
    assert_eq!(get::<NumberedTheme>(&mut browser, &numbered).await, NumberedTheme::default());
}

#[tokio::test]
async fn clear_removes_undeclared_values() {
    let app = App::new();
    let blind = Node::new(app.chain(DefaultTier::new()).value::<Visits>().build().unwrap());
    let mut browser = visitor(&app.start()).await;
    browser.visit(&blind, async |session| session.clear().await.unwrap()).await;
    assert_eq!(get::<Theme>(&mut browser, &app.start()).await, Theme::default());
}
