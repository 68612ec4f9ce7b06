//! Forged cookies load no session: other bits, other spellings, other names, another audience or purpose.

use std::collections::HashSet;

use http::{HeaderValue, StatusCode, header};
use layered_session::{CookieTier, Principal, Session, SessionWriteback, testing::ManualClock};

use super::{bringing, nobody, outcome};
use crate::support::{App, Browser, Node, Theme, Trace, User, builder, chain, dark, id_of, memory, ring, set_cookies};

// R1, R9: the ids and the tokens of a thousand sessions all differ, and no part of the id is constant.
#[tokio::test]
async fn session_ids_are_random() {
    let app = App::new();
    let (mut ids, mut tokens) = (HashSet::new(), HashSet::new());
    for _ in 0..1000 {
        let token = app.dark().await.token().to_owned();
        ids.insert(id_of(&token));
        tokens.insert(token);
    }
    assert_eq!((ids.len(), tokens.len()), (1000, 1000));
    let zeros = |id: &Vec<u8>| id.iter().filter(|byte| **byte == 0).count();
    assert!(ids.iter().map(zeros).sum::<usize>() < 500, "a part of the id never changes");
}

// R2, R12: a text that is no sealed token opens no session, and the next write begins a session with a new id.
#[tokio::test]
async fn forged_cookie_is_ignored() {
    let app = App::new();
    let (trace, _guard) = Trace::begin();
    let planted = "A".repeat(200);
    let long = "x".repeat(10_000);
    let json = r#"{"theme":"dark"}"#;
    let signed = "eyJhbGciOiJub25lIn0.eyJ0aGVtZSI6ImRhcmsifQ.";
    for garbage in ["", "last_clean", ".", "=", "%00", json, signed, &planted, &long] {
        let mut browser = Browser::bringing(garbage);
        assert_eq!(outcome(&app.node, browser.request()).await, nobody(), "{garbage}");
        browser.write(&app.node, "dark").await;
        assert_ne!(browser.token(), garbage, "the session gets a new id");
        assert_eq!(browser.theme(&app.node).await, dark());
    }
    assert_eq!(trace.lines_with("ERROR"), 0);
}

// R2: a cookie with an id that looks reserved, empty or long opens no session, and leaves no record.
#[tokio::test]
async fn reserved_looking_ids_are_ignored() {
    let node = App::new().node;
    for id in ["last_clean", "", ".", "null", "0", &"A".repeat(43), &"a".repeat(10_000)] {
        let mut browser = Browser::new();
        browser.set("session", id);
        let read = async |session: Session| (session.is_new(), session.get::<Theme>());
        let (headers, found) = browser.visit_seen(&node, read).await;
        assert_eq!((found, set_cookies(&headers)), ((true, None), vec![]), "{id}");
    }
    assert_eq!(node.sessions.stats().records, 0);
}

// R37: an unreadable cookie fails no request, and the next write replaces the cookie.
#[tokio::test]
async fn next_write_replaces_unreadable_cookie() {
    let node = Node::new(builder(&ring(), &ManualClock::new()).build().unwrap());
    for odd in ["", "x", "AQIDBAUG", &"A".repeat(3_000), "\"quoted\""] {
        let mut browser = Browser::new();
        browser.set("session", odd);
        let (headers, theme) = browser.visit_seen(&node, async |s| s.get::<Theme>()).await;
        assert!(theme.is_none() && !headers.contains_key(header::SET_COOKIE), "{odd}");
        browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
        assert_eq!(browser.visit(&node, async |s| s.value::<Theme>()).await, Theme("dark".into()), "{odd}");
    }
}

// R2, R13: a token with a flipped bit opens no session, with warm and with cold memory.
#[tokio::test]
async fn flipped_bit_invalidates_cookie() {
    let app = App::new();
    let cold = app.start();
    let browser = app.dark().await;
    let whole = browser.token().as_bytes();
    for bit in 0..whole.len() * 8 {
        let mut token = whole.to_vec();
        token[bit / 8] ^= 1 << (bit % 8);
        let Ok(field) = HeaderValue::from_bytes(&[b"session=", &token[..]].concat()) else { continue };
        for node in [&app.node, &cold] {
            assert_eq!(outcome(node, bringing([&field])).await, nobody(), "bit {bit}");
        }
    }
    assert_eq!(cold.sessions.stats().records, 0);
    assert_eq!(browser.theme(&app.node).await, dark());
}

// R13: a token that is cut, extended or spelt otherwise opens no session, with warm and with cold memory.
#[tokio::test]
async fn malformed_tokens_open_no_session() {
    let app = App::new();
    let cold = app.start();
    // Three lengths, so that some tokens have unused bits in the last character.
    for theme in ["dark", "dark!", "dark!!"] {
        let mut browser = Browser::new();
        browser.write(&app.node, theme).await;
        let token = browser.token().to_owned();
        let mut others: Vec<_> = (0..token.len()).map(|len| token[..len].to_owned()).collect();
        others.extend(["A", "=", "==", ".", "AAAA"].map(|more| format!("{token}{more}")));
        others.extend(["A", "r.", "b."].map(|before| format!("{before}{token}")));
        others.extend([format!("\"\"{token}\"\""), format!("\"{token}"), format!("'{token}'")]);
        let last = token.chars().last().unwrap();
        others.extend(('A'..='z').filter(|c| c.is_ascii_alphabetic() && *c != last).map(|c| {
            let kept = &token[..token.len() - 1];
            format!("{kept}{c}")
        }));
        others.extend([token.replace(['-', '_'], "+"), token.replace('_', "/")].into_iter().filter(|t| *t != token));
        for other in others {
            for node in [&app.node, &cold] {
                assert_eq!(outcome(node, bringing([format!("session={other}")])).await, nobody(), "{other}");
            }
        }
    }
}

// R11: a token opens only under the cookie name and the audience of its seal.
#[tokio::test]
async fn token_binds_name_and_audience() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = |name: &'static str, audience: &str| {
        let tier = CookieTier::sealed(ring.clone()).name(name).plain_http();
        Node::new(chain(memory(), tier, &clock).value::<Theme>().audience(audience).build().unwrap())
    };
    let mut browser = Browser::new();
    browser.write(&node("a", "shop"), "dark").await;
    let token = browser.cookie("a").unwrap().to_owned();
    for (name, audience, expected) in
        [("a", "shop", true), ("b", "shop", false), ("a", "bank", false), ("a", "", false)]
    {
        let mut browser = Browser::new();
        browser.set(name, &token);
        assert_eq!(browser.theme(&node(name, audience)).await == dark(), expected, "{name} {audience}");
    }
}

// R11, R33: an application with another audience reads no session and no user from the cookie.
#[tokio::test]
async fn cookie_of_other_audience_is_ignored() {
    let (ring, clock) = (ring(), ManualClock::new());
    let start = |audience: &str| Node::new(builder(&ring, &clock).audience(audience).build().unwrap());
    let (shop, mut browser) = (start("shop"), Browser::new());
    browser.visit(&shop, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
    for audience in ["forum", "", "shop2"] {
        let read = browser.clone().visit(&start(audience), async |s| (s.principal(), s.is_new())).await;
        assert_eq!(read, (None, true), "{audience}");
    }
    let again = browser.visit(&start("shop"), async |s| s.principal()).await;
    assert_eq!(again, Some(Principal::new("ada")));
}

// R11: a relay or birth token does not open as a cookie, and a cookie does not open as a relay or birth token.
#[tokio::test]
async fn token_purposes_never_mix() {
    let app = App::new();
    let relay = async |browser: &mut Browser| {
        let socket = browser.open(&app.node).await;
        socket.set(Theme("relayed".into())).await.unwrap();
        socket.relay().unwrap().to_string()
    };
    let mut browser = app.dark().await;
    let tokens = [relay(&mut browser).await, relay(&mut Browser::new()).await];
    assert_eq!(tokens.clone().map(|token| token[..2].to_owned()), ["r.", "b."]);
    for node in [&app.node, &app.start()] {
        for token in &tokens {
            assert_eq!(outcome(node, bringing([format!("session={}", &token[2..])])).await, nobody());
        }
        for prefix in ["r.", "b."] {
            let writeback = SessionWriteback::new(&node.sessions);
            let body = format!(r#"{{"$relay":"{prefix}{}"}}"#, browser.token());
            let answer = node.writeback(writeback, Browser::new().post_json(body)).await;
            assert_eq!((answer.status, answer.set_cookies()), (StatusCode::BAD_REQUEST, Vec::new()));
        }
    }
}
