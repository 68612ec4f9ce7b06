//! The cookie as a browser and a cache see it: when it is set, what is believed of it, and what is said of caching.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::Full;
use layered_session::{
    BoxError, CookieTier, KeyRing, LayeredSessionLayer, Lifetime, MemoryTier, Session, SessionWriteback, Sessions,
    testing::ManualClock,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    site::{Site, attribute, dark},
    trace::Trace,
    world::{BoxFuture, Browser, DAY, Division, Node, Theme, User, Visits, builder, id_of, ring, set_cookies},
};

/// All that a request can tell of its session: the status, `Set-Cookie`, the value, its tier, and whether it is new.
type Outcome = (StatusCode, Vec<String>, Theme, &'static str, bool);

fn nobody() -> Outcome {
    (StatusCode::OK, Vec::new(), Theme::default(), "default", true)
}

async fn outcome(node: &Node, request: Request<Full<Bytes>>) -> Outcome {
    let read = async |session: Session| {
        let seen = (session.get::<Theme>(), session.origin::<Theme>().tier(), session.is_new());
        (Response::new(Full::default()), seen)
    };
    let (response, (theme, tier, is_new)) = node.handle(request, read).await;
    (response.status(), set_cookies(response.headers()), theme, tier, is_new)
}

/// A request with these `Cookie` fields.
fn bringing<T: AsRef<[u8]>>(fields: impl IntoIterator<Item = T>) -> Request<Full<Bytes>> {
    let mut request = Browser::new().request();
    for field in fields {
        request.headers_mut().append(header::COOKIE, HeaderValue::from_bytes(field.as_ref()).unwrap());
    }
    request
}

fn token_of(set_cookie: &str) -> &str {
    set_cookie.split(['=', ';']).nth(1).unwrap()
}

// When it is set.

// Acceptance 37.
#[tokio::test]
async fn a_cookie_is_set_by_the_first_write_and_then_only_when_the_browser_is_behind() {
    let site = Site::new();
    let mut browser = Browser::new();
    assert!(browser.told(&site.node, async |_| ()).await.is_empty());
    assert!(browser.read(&site.node).await.is_empty());
    assert_eq!(browser.write(&site.node, "light").await.len(), 1);
    assert!(browser.read(&site.node).await.is_empty());

    // Written after the head has left: a request that asks for its session is healed, and only that.
    let socket = browser.open(&site.node).await;
    socket.set(dark()).await.unwrap();
    assert!(browser.told(&site.node, async |_| ()).await.is_empty());
    assert_eq!(browser.read(&site.node).await.len(), 1);
    assert!(browser.read(&site.node).await.is_empty());
    assert_eq!(browser.theme(&site.cold()).await, dark());
}

// Acceptance 45.
#[tokio::test]
async fn removing_what_is_absent_is_no_modification() {
    let site = Site::new();
    let absent = async |session: Session| {
        session.remove::<Visits>().await.unwrap();
        assert_eq!(session.take::<Visits>().await.unwrap(), None);
        session.batch().remove::<Visits>().commit().await.unwrap();
    };
    let mut browser = Browser::new();
    assert!(browser.told(&site.node, absent).await.is_empty());
    assert_eq!(site.node.sessions.stats().records, 0);
    let mut browser = site.dark().await;
    assert!(browser.told(&site.node, absent).await.is_empty());
}

// Acceptance 38, 53, R19.
#[tokio::test]
async fn a_removal_repeats_the_attributes_and_answers_only_who_brought_a_cookie() {
    let site = Site::new();
    let mut browser = Browser::new();
    let destroy = async |session: Session| session.destroy().await.unwrap();
    assert!(browser.told(&site.node, destroy).await.is_empty());
    let both = async |session: Session| {
        session.set(dark()).await.unwrap();
        session.destroy().await.unwrap();
    };
    assert!(browser.told(&site.node, both).await.is_empty());
    let set = browser.write(&site.node, "dark").await;
    let late = browser.clone();
    let removed = browser.told(&site.node, destroy).await;
    let attributes = set[0].split_once("; ").unwrap().1.rsplit_once("Max-Age").unwrap().0;
    assert_eq!(removed, [format!("session=; {attributes}Max-Age=0")]);
    for mut browser in [late, browser, Browser::bringing("garbage")] {
        assert!(browser.told(&site.node, destroy).await.is_empty());
    }
}

// Acceptance 47, R22.
#[tokio::test]
async fn a_handlers_own_cookies_and_those_of_another_path_are_untouched() {
    let site = Site::new();
    let response = |session: Session| async move {
        session.set(dark()).await.unwrap();
        let own =
            Response::builder().header(header::SET_COOKIE, "a=1").header(header::SET_COOKIE, "session=x; Path=/b");
        (own.body(Full::default()).unwrap(), ())
    };
    let (response, ()) = site.node.handle(Browser::new().request(), response).await;
    let set = set_cookies(response.headers());
    assert_eq!(set[..2], ["a=1", "session=x; Path=/b"]);
    assert_eq!(Browser::bringing(token_of(&set[2])).theme(&site.cold()).await, dark());
}

// Acceptance 57c, R3, R22: no status undoes a write, and a renewal reaches the browser whatever follows.
#[tokio::test]
async fn a_failed_response_keeps_the_write_and_carries_the_cookie() {
    let site = Site::new();
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
            let (response, ()) = site.node.handle(browser.request(), fail).await;
            assert_eq!((response.status(), set_cookies(response.headers()).len()), (status, 1));
            browser.take(response.headers());
            assert_eq!(browser.theme(&site.node).await, dark());
            assert_eq!(browser.theme(&site.cold()).await, dark());
        }
    }
}

// What is believed.

// R1, R9.
#[tokio::test]
async fn ids_are_32_bytes_and_no_two_tokens_are_alike() {
    let site = Site::new();
    let (mut ids, mut tokens) = (HashSet::new(), HashSet::new());
    for _ in 0..1000 {
        let token = site.dark().await.token().to_owned();
        ids.insert(id_of(&token));
        tokens.insert(token);
    }
    assert_eq!((ids.len(), tokens.len()), (1000, 1000));
    let zeros = |id: &Vec<u8>| id.iter().filter(|byte| **byte == 0).count();
    assert!(ids.iter().map(zeros).sum::<usize>() < 500, "a part of the id that never changes");
}

// Acceptance 32, 40, R2, R12.
#[tokio::test]
async fn what_is_not_genuine_is_no_session_and_no_error_and_is_never_adopted() {
    let site = Site::new();
    let (trace, _guard) = Trace::begin();
    let planted = "A".repeat(200);
    let long = "x".repeat(10_000);
    let json = r#"{"theme":"dark"}"#;
    let signed = "eyJhbGciOiJub25lIn0.eyJ0aGVtZSI6ImRhcmsifQ.";
    for garbage in ["", "last_clean", ".", "=", "%00", json, signed, &planted, &long] {
        let mut browser = Browser::bringing(garbage);
        assert_eq!(outcome(&site.node, browser.request()).await, nobody(), "{garbage}");
        browser.write(&site.node, "dark").await;
        assert_ne!(browser.token(), garbage, "an id is minted, never taken");
        assert_eq!(browser.theme(&site.node).await, dark());
    }
    assert_eq!(trace.lines_with("ERROR"), 0);
}

// R2, R13.
#[tokio::test]
async fn any_flipped_bit_is_nobody_warm_and_cold() {
    let site = Site::new();
    let cold = site.cold();
    let browser = site.dark().await;
    let whole = browser.token().as_bytes();
    for bit in 0..whole.len() * 8 {
        let mut token = whole.to_vec();
        token[bit / 8] ^= 1 << (bit % 8);
        let Ok(field) = HeaderValue::from_bytes(&[b"session=", &token[..]].concat()) else { continue };
        for node in [&site.node, &cold] {
            assert_eq!(outcome(node, bringing([&field])).await, nobody(), "bit {bit}");
        }
    }
    assert_eq!(cold.sessions.stats().records, 0);
    assert_eq!(browser.theme(&site.node).await, dark());
}

// R13.
#[tokio::test]
async fn shorter_longer_and_otherwise_encoded_tokens_are_nobody_warm_and_cold() {
    let site = Site::new();
    let cold = site.cold();
    // Three lengths, so that the last character has unused bits in some of them.
    for theme in ["dark", "dark!", "dark!!"] {
        let mut browser = Browser::new();
        browser.write(&site.node, theme).await;
        let token = browser.token().to_owned();
        let mut others: Vec<_> = (0..token.len()).map(|len| token[..len].to_owned()).collect();
        others.extend(["A", "=", "==", ".", "AAAA"].map(|more| format!("{token}{more}")));
        others.extend(["A", "r.", "b."].map(|before| format!("{before}{token}")));
        others.push(format!("\"{token}\""));
        let last = token.chars().last().unwrap();
        others.extend(('A'..='z').filter(|c| c.is_ascii_alphabetic() && *c != last).map(|c| {
            let kept = &token[..token.len() - 1];
            format!("{kept}{c}")
        }));
        others.extend([token.replace(['-', '_'], "+"), token.replace('_', "/")].into_iter().filter(|t| *t != token));
        for other in others {
            for node in [&site.node, &cold] {
                assert_eq!(outcome(node, bringing([format!("session={other}")])).await, nobody(), "{other}");
            }
        }
    }
}

// Acceptance 43, R11.
#[tokio::test]
async fn a_token_opens_only_under_the_name_and_for_the_audience_it_was_sealed_for() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = |name: &'static str, audience: &str| {
        let tier = CookieTier::sealed(ring.clone()).name(name).plain_http();
        let sessions = Sessions::builder().tier(MemoryTier::builder().build()).tier(tier);
        Node::new(sessions.value::<Theme>().audience(audience).clock(clock.clone()).build().unwrap())
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

// R11.
#[tokio::test]
async fn relay_and_birth_tokens_are_no_cookies_and_cookies_no_relay_tokens() {
    let site = Site::new();
    let relay = async |browser: &mut Browser| {
        let socket = browser.open(&site.node).await;
        socket.set(Theme("relayed".into())).await.unwrap();
        socket.relay().unwrap().to_string()
    };
    let mut browser = site.dark().await;
    let tokens = [relay(&mut browser).await, relay(&mut Browser::new()).await];
    assert_eq!(tokens.clone().map(|token| token[..2].to_owned()), ["r.", "b."]);
    for node in [&site.node, &site.cold()] {
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

fn key() -> [u8; 32] {
    rand::random()
}

// Acceptance 41, R9.
#[tokio::test]
async fn a_retired_key_opens_and_the_next_response_seals_anew() {
    let (old, new, clock) = (key(), key(), ManualClock::new());
    let node = |keys: &[[u8; 32]]| Node::new(builder(&KeyRing::new(keys).unwrap(), &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.write(&node(&[old]), "dark").await;
    assert_eq!(browser.theme(&node(&[new])).await, Theme::default());
    let rotated = node(&[new, old]);
    assert_eq!(browser.theme(&rotated).await, dark());
    assert_eq!(browser.read(&rotated).await.len(), 1, "read only, and sealed anew");
    assert!(browser.read(&rotated).await.is_empty());
    assert_eq!(browser.theme(&node(&[old])).await, Theme::default());
    assert_eq!(browser.theme(&node(&[new])).await, dark());
}

// Acceptance 41, 57c, R9.
#[tokio::test]
async fn replacing_the_keys_takes_effect_at_the_next_request_with_memory_warm() {
    let (old, new, clock) = (key(), key(), ManualClock::new());
    let ring = KeyRing::new([old]).unwrap();
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let mut browser = Browser::new();
    browser.write(&node, "dark").await;
    assert!(browser.read(&node).await.is_empty());

    ring.replace([new, old]).unwrap();
    let sealed_under_old = browser.clone();
    assert_eq!(browser.read(&node).await.len(), 1);
    assert_eq!(sealed_under_old.theme(&node).await, dark());

    ring.replace([new]).unwrap();
    assert_eq!(outcome(&node, sealed_under_old.request()).await, nobody());
    assert_eq!(browser.theme(&node).await, dark());

    ring.replace([key()]).unwrap();
    assert_eq!(outcome(&node, browser.request()).await, nobody());
}

// Acceptance 55, R16.
#[tokio::test]
async fn our_cookie_is_found_in_any_field_beside_any_garbage() {
    let site = Site::new();
    let browser = site.dark().await;
    let ours = format!("session={}", browser.token());
    let upper = ours.replacen("session", "Session", 1);
    for fields in [
        vec!["a=b", "c=d", &ours],
        vec!["=; ;;=x; \"; Session=x; $Version=1", &ours, "a=b"],
        vec![&format!("a=\"b; \t{ours}\t ;c"), "session2=x"],
        vec![&upper, "%73ession=x", "\u{a0}session=x", &ours],
    ] {
        for node in [&site.node, &site.cold()] {
            let (status, set, theme, ..) = outcome(node, bringing(&fields)).await;
            assert_eq!((status, set.len(), theme), (StatusCode::OK, 0, dark()), "{fields:?}");
        }
    }
    let encoded = ours.replacen('s', "%73", 1);
    for others in [&upper, &encoded, &format!("\u{a0}{ours}"), &format!("={ours}")] {
        assert_eq!(outcome(&site.node, bringing([others])).await, nobody(), "{others}");
    }
}

// R17.
#[tokio::test]
async fn of_several_tokens_one_distinct_that_opens_counts_and_more_are_none_and_removed() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let first = format!("session={}", browser.token());
    browser.write(&site.node, "light").await;
    let (newer, other) = (format!("session={}", browser.token()), format!("session={}", site.dark().await.token()));
    let garbage: Vec<_> = (0..4).map(|n| format!("session={n}")).collect();
    for node in [&site.node, &site.cold()] {
        for one in [vec![&newer, &newer], vec![&garbage[0], &newer, &garbage[1], &newer, &garbage[2]]] {
            let (status, set, theme, ..) = outcome(node, bringing(&one)).await;
            assert_eq!((status, set, theme), (StatusCode::OK, Vec::new(), Theme("light".into())), "{one:?}");
        }
        // Two of one session, too: which of them the browser means can't be told.
        for several in [[&newer, &other], [&other, &newer], [&first, &newer]] {
            let (trace, _guard) = Trace::begin();
            let (status, set, theme, ..) = outcome(node, bringing(several)).await;
            assert_eq!((status, theme), (StatusCode::OK, Theme::default()));
            assert_eq!(set.iter().map(|set| attribute(set, "Max-Age")).collect::<Vec<_>>(), [Some("0")]);
            assert_eq!(trace.lines_with("several session cookies"), 1);
        }
        let behind_four = garbage.iter().chain([&newer]);
        assert_eq!(outcome(node, bringing(behind_four)).await, nobody());
    }
}

// R17.
#[tokio::test]
async fn several_tokens_are_removed_though_nobody_reads_what_was_loaded() {
    let site = Site::new();
    let tokens = [site.dark().await, site.dark().await].map(|browser| format!("session={}", browser.token()));
    let idle = |_: Session| async { (Response::new(Full::default()), ()) };
    let (response, ()) = site.node.handle(bringing(&tokens), idle).await;
    let set = set_cookies(response.headers());
    assert_eq!(set.iter().map(|set| attribute(set, "Max-Age")).collect::<Vec<_>>(), [Some("0")]);
}

// R17.
#[tokio::test]
async fn a_write_among_several_tokens_makes_a_session_of_its_own() {
    let site = Site::new();
    let tokens = [site.dark().await, site.dark().await].map(|browser| format!("session={}", browser.token()));
    let write = |session: Session| async move {
        (Response::new(Full::default()), session.set(Theme("third".into())).await.unwrap())
    };
    let (response, ()) = site.node.handle(bringing(&tokens), write).await;
    let set = set_cookies(response.headers());
    assert_eq!(set.len(), 1);
    assert_eq!(Browser::bringing(token_of(&set[0])).theme(&site.cold()).await, Theme("third".into()));
    for token in tokens {
        assert_eq!(outcome(&site.node, bringing([token])).await.2, dark());
    }
}

// R18.
#[tokio::test]
async fn beyond_the_caps_nobody_is_seen_and_it_is_counted() {
    let site = Site::new();
    let ours = format!("session={}", site.dark().await.token());
    let most = "y".repeat((16 << 10) - ours.len());
    let pairs = "a=b;".repeat(179);
    for within in [[&ours, &most], [&most, &ours], [&ours, &pairs], [&pairs, &ours]] {
        assert_eq!(outcome(&site.node, bringing(within)).await.2, dark());
    }
    assert_eq!(site.node.sessions.stats().capped_cookies, 0);
    for beyond in [[&ours, &most, "z"], [&ours, &pairs, "z"]] {
        assert_eq!(outcome(&site.node, bringing(beyond)).await, nobody());
    }
    assert_eq!(site.node.sessions.stats().capped_cookies, 2);
}

// R23.
#[tokio::test]
async fn no_byte_of_a_value_reaches_a_header() {
    let site = Site::new();
    let set = Browser::new().write(&site.node, "x\r\nSet-Cookie: a=b; Domain=evil, \u{0} \"ü\"").await;
    let ours = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!(token_of(&set[0]).bytes().all(ours), "{set:?}");
    assert_eq!(set[0].split_once("; ").unwrap().1, "HttpOnly; SameSite=Lax; Path=/; Max-Age=172740");
}

// Acceptance 54.
#[tokio::test]
async fn two_layers_in_one_stack_dont_disturb_each_other() {
    let (keys, clock) = (ring(), ManualClock::new());
    let sessions = |name: &'static str| {
        let tier = CookieTier::sealed(keys.clone()).name(name).plain_http();
        let sessions = Sessions::builder().tier(MemoryTier::builder().build()).tier(tier);
        sessions.value::<Theme>().clock(clock.clone()).build().unwrap()
    };
    let (outer, inner) = (sessions("outer"), sessions("inner"));
    let visit = async |browser: &mut Browser, write: bool| {
        let loaded = (outer.clone(), inner.clone());
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            let (outer, inner) = loaded.clone();
            async move {
                let extensions = request.extensions();
                let (outer, inner) = (outer.load(extensions).await?, inner.load(extensions).await?);
                if write {
                    outer.set(Theme("outer".into())).await?;
                    inner.set(Theme("inner".into())).await?;
                }
                let innermost = Session::load(extensions).await?.get::<Theme>();
                let seen = format!("{} {} {}", outer.get::<Theme>().0, inner.get::<Theme>().0, innermost.0);
                Ok::<_, BoxError>(Response::new(seen))
            }
        });
        let layers = LayeredSessionLayer::new(outer.clone());
        let stack = layers.layer(LayeredSessionLayer::new(inner.clone()).layer(service));
        let response = stack.oneshot(browser.request()).await.unwrap();
        browser.take(response.headers());
        let vary = response.headers().get_all(header::VARY).iter().count();
        (set_cookies(response.headers()).len(), vary, response.into_body())
    };
    let mut browser = Browser::new();
    assert_eq!(visit(&mut browser, true).await, (2, 1, "outer inner inner".to_owned()));
    assert_eq!(visit(&mut browser, false).await, (0, 1, "outer inner inner".to_owned()));
    let outers = browser.cookie("outer").unwrap().to_owned();
    browser.set("inner", &outers);
    assert_eq!(visit(&mut browser, false).await, (0, 1, "outer  ".to_owned()));
}

// What caches are told.

/// Something that a handler can learn from or do to its session, and what it then answers.
type Access = fn(Session) -> BoxFuture<String>;

/// Refuses what it is not given, so that a handler learns from the refusal what there was.
async fn probe(session: Session) -> String {
    let learnt = session.update(|division: &mut Division| division.0 = if division.0 == 3 { 99 } else { 98 }).await;
    learnt.unwrap_err().to_string()
}

fn accesses() -> Vec<(&'static str, Access)> {
    vec![
        ("get", |s| Box::pin(async move { s.get::<Theme>().0 })),
        ("find", |s| Box::pin(async move { format!("{:?}", s.find::<Visits>()) })),
        ("origin", |s| Box::pin(async move { s.origin::<Theme>().tier().to_owned() })),
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

/// A visit whose handler thinks that everybody may be given its answer.
async fn visit_public(browser: &Browser, node: &Node, access: Access) -> (HeaderMap, String) {
    let answer = move |session: Session| async move {
        let answer = access(session).await;
        let public = Response::builder().header(header::CACHE_CONTROL, "public, max-age=60");
        (public.body(Full::default()).unwrap(), answer)
    };
    let (response, answer) = node.handle(browser.request(), answer).await;
    (response.headers().clone(), answer)
}

/// A site with somebody signed in, who has values of either scope and whose cookie holds them.
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

// R21.
#[tokio::test]
async fn every_access_varies_by_cookie_once_and_every_cookie_forbids_storing() {
    for (name, access) in accesses() {
        let site = Site::new();
        let ended = signed_in(&site.node, "eve").await;
        ended.clone().visit(&site.node, async |session| session.destroy().await.unwrap()).await;
        for browser in [Browser::new(), signed_in(&site.node, "ada").await, ended] {
            let (headers, _) = visit_public(&browser, &site.node, access).await;
            let vary: Vec<_> = headers.get_all(header::VARY).iter().collect();
            assert_eq!(vary, ["cookie"], "{name}");
            let expected = if set_cookies(&headers).is_empty() { "public, max-age=60" } else { "no-store" };
            assert_eq!(headers.get_all(header::CACHE_CONTROL).iter().collect::<Vec<_>>(), [expected], "{name}");
        }
    }
}

// R21.
#[tokio::test]
async fn vary_is_not_said_twice_and_not_where_nobody_asked() {
    let site = Site::new();
    let mut browser = site.dark().await;
    for (said, expected) in [
        (vec!["Cookie"], vec!["Cookie"]),
        (vec!["accept, COOKIE"], vec!["accept, COOKIE"]),
        (vec!["accept", "cookie"], vec!["accept", "cookie"]),
        (vec!["*"], vec!["*"]),
        (vec!["accept", "x-cookie"], vec!["accept", "x-cookie", "cookie"]),
    ] {
        let answer = move |session: Session| async move {
            drop(session.get::<Theme>());
            let mut response = Response::new(Full::default());
            for vary in said {
                response.headers_mut().append(header::VARY, HeaderValue::from_static(vary));
            }
            (response, ())
        };
        let (response, ()) = site.node.handle(browser.request(), answer).await;
        assert_eq!(response.headers().get_all(header::VARY).iter().collect::<Vec<_>>(), expected);
    }
    let (untouched, ()) = browser.visit_seen(&site.node, async |_| ()).await;
    assert!(untouched.is_empty(), "{untouched:?}");
    // One that is still there may be asked while the body goes out.
    let (headers, _socket) = browser.visit_seen(&site.node, async |session| session).await;
    assert_eq!(headers.get(header::VARY).unwrap(), "cookie");
}

// R21: what the layer itself reads for the application counts as well.
#[tokio::test]
async fn a_resolved_value_varies_by_cookie() {
    let (ring, clock) = (ring(), ManualClock::new());
    let sessions = Sessions::builder().tier(MemoryTier::builder().build()).tier(CookieTier::sealed(ring));
    let sessions = sessions.resolve::<Theme>().clock(clock).build().unwrap();
    let service = service_fn(async |request: Request<Full<Bytes>>| {
        Ok::<_, BoxError>(Response::new(request.extensions().get::<Theme>().unwrap().0.clone()))
    });
    let response = LayeredSessionLayer::new(sessions).layer(service).oneshot(Browser::new().request()).await.unwrap();
    assert_eq!(response.headers().get(header::VARY).unwrap(), "cookie");
}

/// A shared cache of one page that does what RFC 9111 allows it: it stores unless that is forbidden, and answers from
/// what it has if the fields that `Vary` names are the same.
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

/// Two visitors and two users, of whom one signed in half a day before the other, so that her cookie is to be refreshed.
async fn users(site: &Site) -> [Browser; 4] {
    let ada = signed_in(&site.node, "ada").await;
    site.clock.advance(DAY / 2);
    [Browser::new(), ada, signed_in(&site.node, "grace").await, Browser::new()]
}

// R21.
#[tokio::test]
async fn a_shared_cache_gives_nobody_the_answer_or_the_cookie_of_another() {
    for (name, access) in accesses().into_iter().filter(|(name, _)| *name != "explain") {
        // The same without a cache, to compare with.
        let (site, direct) = (Site::new(), Site::new());
        let (mut users, mut twins) = (users(&site).await, users(&direct).await);
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 2, 0]] {
            let mut cache = Cache::default();
            for user in order {
                let cached = cache.visit(&mut users[user], &site.node, access).await;
                let answer = Cache::default().visit(&mut twins[user], &direct.node, access).await;
                assert_eq!(cached, answer, "{name} of user {user}");
                let holds = |browser: &Browser| browser.cookie("session").is_some();
                assert_eq!(holds(&users[user]), holds(&twins[user]), "{name} of user {user}");
            }
        }
        let tokens: Vec<_> = users.iter().filter_map(|browser| browser.cookie("session")).collect();
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len(), "{name}: one cookie for two");
    }
}

// What passes untouched.

/// A body that notes when it is first read.
struct Stream(Arc<AtomicBool>);

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: 1\n\n")))))
    }
}

/// Answers once, with a body that is read by nobody, after a write.
async fn stream(site: &Site, browser: &Browser, head: http::response::Builder) -> (Response<Stream>, Session) {
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
    let response = LayeredSessionLayer::new(site.node.sessions.clone()).layer(service).oneshot(browser.request());
    let response = response.await.unwrap();
    let session = kept.lock().unwrap().take().unwrap();
    (response, session)
}

// Acceptance 46, R21.
#[tokio::test]
async fn the_cookie_precedes_the_first_byte_of_a_stream_and_a_write_after_it_heals_later() {
    let site = Site::new();
    let mut browser = Browser::new();
    let head = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
    let (response, session) = stream(&site, &browser, head).await;
    assert_eq!(set_cookies(response.headers()).len(), 1);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert!(!response.body().0.load(Ordering::Relaxed), "the body is its reader's alone");
    browser.take(response.headers());
    session.set(Theme("late".into())).await.unwrap();
    assert_eq!(browser.theme(&site.cold()).await, dark());
    assert_eq!(browser.read(&site.node).await.len(), 1);
    assert_eq!(browser.theme(&site.cold()).await, Theme("late".into()));
}

// Acceptance 46, R22.
#[tokio::test]
async fn an_upgrade_passes_untouched_and_its_write_heals_later() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let head = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(header::UPGRADE, "websocket");
    let (response, session) = stream(&site, &browser, head).await;
    assert_eq!(response.headers().len(), 1, "{:?}", response.headers());
    assert_eq!(response.headers()[header::UPGRADE], "websocket");
    drop(session);
    assert_eq!(browser.read(&site.node).await.len(), 1);
    assert_eq!(browser.theme(&site.cold()).await, dark());
}
