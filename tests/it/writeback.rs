//! What a page may write, and what becomes of everything else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{HeaderMap, Method, Request, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::{Full, StreamBody};
use layered_session::{
    BoxError, Clock, Commit, Committed, CookieTier, Found, KeyRing, LayeredSessionLayer, Lookup, Placement, RelayToken,
    Role, Scope, Session, SessionValue, SessionWriteback, Sessions, Tier, TierFuture,
    testing::{ManualClock, SpyStore},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower::{Layer, ServiceExt};

use crate::{
    site::dark,
    world::{Answer, Browser, DAY, Division, Node, Theme, User, Visits, builder, ring},
};

const KIB: usize = 1 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Level(i64);

impl SessionValue for Level {
    const NAME: &'static str = "level";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ratio(f64);

impl SessionValue for Ratio {
    const NAME: &'static str = "ratio";
}

/// The user's, long or short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note(String);

impl SessionValue for Note {
    const NAME: &'static str = "note";
    const SCOPE: Scope = Scope::Principal;
}

/// What the browser does not carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(Vec<Paragraph>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Paragraph {
    text: String,
    alignment: String,
    indentation: u32,
}

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const PLACEMENT: Placement = Placement::Volatile;
}

/// A page in a browser: it posts, and reads back through the handle of another request.
struct Page {
    node: Node,
    clock: ManualClock,
    ring: KeyRing,
    browser: Browser,
}

impl Page {
    fn new() -> Self {
        let (ring, clock) = (ring(), ManualClock::new());
        Self { node: Self::start(&ring, &clock), clock, ring, browser: Browser::new() }
    }

    fn start(ring: &KeyRing, clock: &ManualClock) -> Node {
        let values = builder(ring, clock).value::<Level>().value::<Ratio>().value::<Note>().value::<Draft>();
        Node::new(values.public_origins(["https://public.example"]).build().unwrap())
    }

    async fn signed_in() -> Self {
        let mut page = Self::new();
        page.browser.visit(&page.node, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
        page
    }

    /// Sends a request; what the answer does to cookies is left aside.
    async fn send<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        self.node.writeback(allowing(&self.node.sessions), request).await
    }

    async fn post(&mut self, body: impl Into<Bytes>) -> Answer {
        let answer = self.send(self.browser.post_json(body)).await;
        self.browser.take(&answer.headers);
        answer
    }

    async fn read<V: SessionValue>(&mut self) -> Option<V> {
        self.browser.visit(&self.node, async |session| session.find::<V>()).await
    }

    /// A handle that outlives its request, as a socket has it.
    async fn socket(&mut self) -> Session {
        self.browser.visit(&self.node, async |session| session).await
    }

    async fn relay(&mut self, theme: &str) -> RelayToken {
        let socket = self.socket().await;
        socket.set(Theme(theme.into())).await.unwrap();
        socket.relay().expect("the browser is behind")
    }
}

/// Everything but `visits` and who is signed in.
fn allowing(sessions: &Sessions) -> SessionWriteback {
    let writeback = SessionWriteback::new(sessions).allow::<Theme>().unwrap().allow::<Division>().unwrap();
    let writeback = writeback.allow::<Level>().unwrap().allow::<Ratio>().unwrap();
    writeback.allow::<Note>().unwrap().allow::<Draft>().unwrap()
}

/// Sends a request to the writeback alone, with no layer around.
async fn send_bare(writeback: SessionWriteback, request: Request<Full<Bytes>>) -> Answer {
    Answer::of(writeback.oneshot(request).await.unwrap()).await
}

fn assert_refused(answer: &Answer, status: u16, code: &str, why: impl std::fmt::Debug) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{why:?}");
    assert!(!answer.json()["message"].as_str().unwrap().is_empty(), "{why:?}");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert!(answer.set_cookies().is_empty(), "{why:?}");
}

fn relaying(token: impl std::fmt::Display) -> String {
    json!({ "$relay": token.to_string() }).to_string()
}

// What is allowed.

// R28.
#[tokio::test]
async fn allowed_values_are_stored_and_listed_in_the_order_they_came() {
    let mut page = Page::signed_in().await;
    for body in [
        r#"{"theme":"dark","current_division_id":3,"level":1}"#,
        r#"{"level":2,"theme":"light","current_division_id":4}"#,
        r#" { "current_division_id" : 5 , "ratio":0.5, "theme" : "blue" } "#,
    ] {
        let names: Vec<_> = body.split('"').filter(|part| part.contains(char::is_alphabetic)).collect();
        let names: Vec<_> = names.into_iter().filter(|part| !["dark", "light", "blue"].contains(part)).collect();
        let answer = page.post(body).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "stored": names })));
    }
    let read = (page.read::<Theme>().await, page.read::<Division>().await, page.read::<Level>().await);
    assert_eq!(read, (Some(Theme("blue".into())), Some(Division(5)), Some(Level(2))));
    assert_eq!(page.read::<Ratio>().await, Some(Ratio(0.5)));
}

// R28. What is stored is what the type itself writes, so that a page can't choose the bytes.
#[tokio::test]
async fn a_value_is_stored_as_its_type_encodes_it() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Raw(serde_json::Value);
    impl SessionValue for Raw {
        const NAME: &'static str = Draft::NAME;
    }
    let (ring, clock) = (ring(), ManualClock::new());
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Carried(Vec<Paragraph>);
    impl SessionValue for Carried {
        const NAME: &'static str = Draft::NAME;
    }
    let node = Node::new(builder(&ring, &clock).value::<Carried>().build().unwrap());
    let writeback = SessionWriteback::new(&node.sessions).allow::<Carried>().unwrap();
    let mut browser = Browser::new();
    let answer = node.writeback(writeback, browser.post_json(r#"{"draft":[{"text":"a","planted":"b"}]}"#)).await;
    browser.take(&answer.headers);
    let other = Node::new(builder(&ring, &clock).value::<Raw>().build().unwrap());
    let stored = browser.visit(&other, async |s| s.find::<Raw>()).await.expect("it was stored").0;
    assert_eq!(stored, json!([{ "text": "a", "alignment": "", "indentation": 0 }]));
}

// R28.
#[tokio::test]
async fn what_is_not_allowed_changes_nothing_and_is_named() {
    let mut page = Page::new();
    for (body, names) in [
        (r#"{"theme":"dark","visits":7}"#, &["visits"][..]),
        (r#"{"nobody":1,"theme":"dark","Theme":"x","theme ":"y"}"#, &["nobody", "Theme", "theme "]),
        (r#"{"theme":"dark","":0}"#, &[""]),
        (r#"{"user":"eve","theme":"dark"}"#, &["user"]),
        (r#"{"$lifetime":1,"$version":9,"generation":2}"#, &["$lifetime", "$version", "generation"]),
        (r#"{"__proto__":{"theme":"x"},"constructor":1}"#, &["__proto__", "constructor"]),
    ] {
        let answer = page.post(body).await;
        assert_refused(&answer, 422, "not_allowed", body);
        assert_eq!(answer.json()["names"], json!(names), "{body}");
    }
    assert_eq!(page.read::<Theme>().await, None);
    assert_eq!(page.read::<User>().await, None);
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R28.
#[tokio::test]
async fn one_wrong_value_among_good_ones_stores_none() {
    let mut page = Page::signed_in().await;
    page.post(r#"{"theme":"before","current_division_id":1}"#).await;
    for wrong in [
        r#""current_division_id":99"#,
        r#""current_division_id":"3""#,
        r#""current_division_id":null"#,
        r#""current_division_id":3.5"#,
        r#""current_division_id":[3]"#,
        r#""current_division_id":true"#,
    ] {
        for body in [format!(r#"{{"theme":"after",{wrong}}}"#), format!(r#"{{{wrong},"theme":"after"}}"#)] {
            let answer = page.post(body.clone()).await;
            assert_refused(&answer, 422, "invalid_value", &body);
            assert_eq!(answer.json()["names"], json!(["current_division_id"]));
        }
    }
    assert_eq!(page.read::<Theme>().await, Some(Theme("before".into())));
    assert_eq!(page.read::<Division>().await, Some(Division(1)));
}

// R28. Owners are written one by one: what of one owner does not fit leaves that owner as it was.
#[tokio::test]
async fn values_of_one_owner_are_stored_together_or_not_at_all() {
    let mut page = Page::signed_in().await;
    let long = "x".repeat(4 * KIB);
    let answer = page.post(json!({ "theme": long, "level": 1 }).to_string()).await;
    assert_refused(&answer, 422, "value_too_large", "the session's");
    assert!(answer.json()["names"].as_array().unwrap().contains(&json!("theme")));
    assert_eq!((page.read::<Theme>().await, page.read::<Level>().await), (None, None));

    let answer = page.post(json!({ "note": long, "current_division_id": 2 }).to_string()).await;
    assert_refused(&answer, 422, "value_too_large", "the principal's");
    assert_eq!((page.read::<Note>().await, page.read::<Division>().await), (None, None));
}

// R28.
#[tokio::test]
async fn names_that_are_not_allowed_can_be_passed_over_and_are_reported() {
    let mut page = Page::new();
    let writeback = || allowing(&page.node.sessions).ignore_unknown();
    let request = page.browser.post_json(r#"{"newer":[1],"theme":"dark","visits":7,"user":"eve"}"#);
    let answer = page.node.writeback(writeback(), request).await;
    let told = json!({ "stored": ["theme"], "ignored": ["newer", "visits", "user"] });
    assert_eq!((answer.status.as_u16(), answer.json()), (200, told));
    let invalid = page.node.writeback(writeback(), page.browser.post_json(r#"{"newer":1,"level":"x"}"#)).await;
    assert_refused(&invalid, 422, "invalid_value", "leniency ends with the names");
    page.browser.take(&answer.headers);
    let read = (page.read::<Theme>().await, page.read::<Visits>().await, page.read::<User>().await);
    assert_eq!(read, (Some(Theme("dark".into())), None, None));
}

// R28.
#[test]
fn who_is_signed_in_and_what_is_not_declared_cannot_be_allowed() {
    let page = Page::new();
    let plain = || SessionWriteback::new(&page.node.sessions);
    assert!(plain().allow::<User>().unwrap_err().to_string().contains("signed in"));
    #[derive(Serialize, Deserialize)]
    struct Undeclared;
    impl SessionValue for Undeclared {
        const NAME: &'static str = "undeclared";
    }
    assert!(plain().allow::<Undeclared>().unwrap_err().to_string().contains("declare"));
}

// R28.
#[tokio::test]
async fn refused_names_leave_nothing_behind() {
    let mut page = Page::new();
    let names = |from: usize, to: usize| (from..to).map(|n| format!(r#""n{n}":{n}"#)).collect::<Vec<_>>().join(",");
    for from in (0..1_000).step_by(50) {
        let answer = page.post(format!("{{{}}}", names(from, from + 50))).await;
        assert_refused(&answer, 422, "not_allowed", from);
    }
    assert_refused(&page.post(format!("{{{}}}", names(0, 1_000))).await, 400, "too_many_names", 1_000);
    let long = page.post(format!(r#"{{"{}":1}}"#, "n".repeat(10_000))).await;
    assert_refused(&long, 422, "not_allowed", "a name of 10 kB");
    let stats = page.node.sessions.stats();
    assert_eq!((stats.records, stats.bytes), (0, 0));
}

// Who may ask.

// R24.
#[tokio::test]
async fn only_post_writes() {
    let page = Page::new();
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
        let mut request = page.browser.post_json(r#"{"theme":"dark"}"#);
        *request.method_mut() = method.parse().unwrap();
        let answer = page.send(request).await;
        assert_refused(&answer, 405, "method_not_allowed", method);
        assert_eq!(answer.headers[header::ALLOW], "POST");
    }
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R24.
#[tokio::test]
async fn only_pages_of_the_same_origin_write() {
    const HOST: &str = "app.example";
    let page = Page::new();
    let sites: [(&[&str], Option<bool>); 8] = [
        (&[], None),
        (&["same-origin"], Some(true)),
        (&["same-site"], Some(false)),
        (&["cross-site"], Some(false)),
        (&["none"], Some(false)),
        (&["Same-Origin"], Some(false)),
        (&[""], Some(false)),
        (&["same-origin", "cross-site"], Some(false)),
    ];
    // What `Origin` says, and whether it is ours at `Host: app.example` and behind a proxy that rewrites it.
    let origins: [(&[&str], bool, bool); 11] = [
        (&[], false, false),
        (&["https://app.example"], true, false),
        (&["http://app.example"], true, false),
        (&["https://app.example:8443"], false, false),
        (&["https://evil.example"], false, false),
        (&["https://app.example.evil.example"], false, false),
        (&["https://public.example"], true, true),
        (&["http://public.example"], false, false),
        (&["null"], false, false),
        (&["https://app.example", "https://app.example"], false, false),
        (&["https://app.example/"], false, false),
    ];
    let places = [
        ("host", "/", Some(HOST), Version::HTTP_11),
        ("http/2 without a host", "https://app.example/", None, Version::HTTP_2),
        ("rewritten host", "/", Some("10.0.0.7:3000"), Version::HTTP_11),
        ("no host", "/", None, Version::HTTP_10),
    ];
    for (site, decided) in sites {
        for (origin, ours, behind_proxy) in origins {
            for (place, uri, host, version) in places {
                let mut request = Request::post(uri).version(version).header(header::CONTENT_TYPE, "application/json");
                for (name, values) in [("sec-fetch-site", site), ("origin", origin), ("host", host.as_slice())] {
                    request = values.iter().fold(request, |request, value| request.header(name, *value));
                }
                let request = request.body(Full::<Bytes>::from(r#"{"theme":"dark"}"#)).unwrap();
                let answer = page.send(request).await;
                let addressed = matches!(place, "host" | "http/2 without a host");
                let passes = decided.unwrap_or(if addressed { ours } else { behind_proxy });
                let why = (site, origin, place);
                assert_eq!(answer.status.as_u16(), if passes { 200 } else { 403 }, "{why:?}");
                if !passes {
                    assert_refused(&answer, 403, "cross_site", why);
                }
                let cors = |name: &header::HeaderName| name.as_str().starts_with("access-control-");
                assert!(!answer.headers.keys().any(cors), "{why:?}");
            }
        }
    }
}

// R25.
#[tokio::test]
async fn only_json_is_read() {
    let page = Page::new();
    for (types, taken) in [
        (&["application/json"][..], true),
        (&["Application/JSON"], true),
        (&["application/json; charset=utf-8"], true),
        (&[" application/json ;charset=x"], true),
        (&[], false),
        (&[""], false),
        (&["text/plain"], false),
        (&["text/plain; application/json"], false),
        (&["application/x-www-form-urlencoded"], false),
        (&["multipart/form-data"], false),
        (&["application/jsonp"], false),
        (&["application/json, text/plain"], false),
        (&["application/merge-patch+json"], false),
        (&["text/json"], false),
        (&["application/json", "application/json"], false),
        (&["application/json", "text/plain"], false),
    ] {
        let mut request = page.browser.post_json("{}");
        request.headers_mut().remove(header::CONTENT_TYPE);
        for value in types {
            request.headers_mut().append(header::CONTENT_TYPE, value.parse().unwrap());
        }
        let answer = page.send(request).await;
        match taken {
            true => assert_eq!(answer.status, StatusCode::OK, "{types:?}"),
            false => assert_refused(&answer, 415, "unsupported_media_type", types),
        }
    }
}

// The body.

type Chunk = Result<Frame<Bytes>, BoxError>;

/// A body in pieces, and the count of bytes taken from it.
fn pieces(pieces: impl Stream<Item = Chunk>) -> (impl Body<Data = Bytes, Error = BoxError>, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let counted = pieces.inspect(move |chunk| {
        let len = chunk.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
        count.fetch_add(len, Ordering::Relaxed);
    });
    (StreamBody::new(counted), taken)
}

fn chunk(len: usize) -> Chunk {
    Ok(Frame::data(Bytes::from(vec![b' '; len])))
}

/// The page's POST with another body.
fn posting<B>(page: &Page, body: B) -> Request<B> {
    page.browser.post_json("").map(|_| body)
}

// R26.
#[tokio::test]
async fn a_body_of_16_kib_is_read_and_one_byte_more_is_not() {
    let mut page = Page::new();
    let padded = |len: usize| format!(r#"{{"theme":"dark"}}{}"#, " ".repeat(len - r#"{"theme":"dark"}"#.len()));
    assert_eq!(page.post(padded(16 * KIB)).await.status, StatusCode::OK);
    assert_refused(&page.post(padded(16 * KIB + 1)).await, 413, "too_large", "one byte more");
}

// R26. A client that sends first and reads later is to see the answer, but isn't listened to for ever.
#[tokio::test]
async fn a_body_too_long_is_drained_for_a_while_and_then_cut_off() {
    let page = Page::new();
    // How many KiB come, whether the client says how long the body is, and how many are taken.
    for (sent, announced, taken) in [
        (17, None, 17),
        (272, None, 272),
        (273, None, 273),
        (100_000, None, 273),
        (100_000, Some(100_000 * KIB), 273),
        (1, Some(16 * KIB + 1), 1),
        (20, Some(10), 20),
    ] {
        let (body, count) = pieces(stream::iter(0..sent).map(|_| chunk(KIB)));
        let mut request = posting(&page, Box::pin(body));
        if let Some(len) = announced {
            request.headers_mut().insert(header::CONTENT_LENGTH, len.into());
        }
        let answer = page.send(request).await;
        assert_refused(&answer, 413, "too_large", (sent, announced));
        assert_eq!(count.load(Ordering::Relaxed), taken * KIB, "{sent} {announced:?}");
    }
}

// R26.
#[tokio::test]
async fn a_body_that_stalls_or_trickles_times_out() {
    let page = Page::new();
    let second = Duration::from_secs(1);
    let clock = page.clock.clone();
    let trickle = stream::unfold((), move |()| {
        let next = clock.sleep_until(clock.now() + second);
        async move {
            next.await;
            Some((chunk(1), ()))
        }
    });
    let over_and_stalled = stream::iter([chunk(17 * KIB)]).chain(stream::pending());
    let stalled: [(&str, stream::BoxStream<'static, Chunk>); 4] = [
        ("from the start", stream::pending().boxed()),
        ("in the middle", stream::iter([chunk(100)]).chain(stream::pending()).boxed()),
        ("while drained", over_and_stalled.boxed()),
        ("a byte a second", trickle.boxed()),
    ];
    for (how, body) in stalled {
        let (body, _) = pieces(body);
        let mut answer = Box::pin(page.send(posting(&page, Box::pin(body))));
        for _ in 0..9 {
            assert!((&mut answer).now_or_never().is_none(), "{how}");
            page.clock.advance(second);
        }
        assert!((&mut answer).now_or_never().is_none(), "{how}");
        page.clock.advance(second);
        let answer = (&mut answer).now_or_never().expect("ten seconds are over");
        assert_refused(&answer, 408, "timeout", how);
    }
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R26.
#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let page = Page::new();
    let whole = Ok(Frame::data(Bytes::from(r#"{"theme":"dark"}"#)));
    let (body, _) = pieces(stream::iter([whole, Err("reset".into())]));
    let answer = page.send(posting(&page, Box::pin(body))).await;
    assert_refused(&answer, 400, "incomplete", "reset");
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R26. Trailers are no part of the body.
#[tokio::test]
async fn a_body_in_pieces_is_one_body() {
    let mut page = Page::new();
    let text = r#"{"theme":"dark"}"#.bytes().map(|byte| Ok(Frame::data(Bytes::from(vec![byte]))));
    let (body, _) = pieces(stream::iter(text).chain(stream::iter([Ok(Frame::trailers(HeaderMap::new()))])));
    let answer = page.send(posting(&page, Box::pin(body))).await;
    page.browser.take(&answer.headers);
    assert_eq!(page.read::<Theme>().await, Some(Theme("dark".into())));
}

// R26. As a tree of values such bodies take up to 87 times their length.
#[test]
fn a_hostile_body_takes_a_small_multiple_of_its_length() {
    let page = Page::new();
    let fill = |unit: &dyn Fn(usize) -> String, open: &str, close: &str| {
        let mut body = open.to_owned();
        let mut n = 0;
        loop {
            let unit = unit(n);
            if body.len() + unit.len() + close.len() >= 16 * KIB {
                break body + close;
            }
            body.push_str(&unit);
            n += 1;
        }
    };
    let bodies = [
        fill(&|_| "0,".into(), r#"{"x":["#, "0]}"),
        fill(&|_| "[],".into(), r#"{"x":["#, "0]}"),
        fill(&|_| "{\"\":0},".into(), r#"{"x":["#, "0]}"),
        fill(&|n| format!("\"{n:x}\":0,"), r#"{"x":{"#, "\"\":0}}"),
        fill(&|n| format!("\"\\u00{:02x}{n:x}\":0,", n % 32), r#"{"x":{"#, "\"\":0}}"),
        fill(&|n| format!("\"{n:x}\":0,"), "{", "\"\":0}"),
        fill(&|_| "\\u0000".into(), r#"{"x":""#, r#""}"#),
        fill(&|_| "[".into(), r#"{"x":"#, ""),
    ];
    let (writeback, layer) = (allowing(&page.node.sessions), LayeredSessionLayer::new(page.node.sessions.clone()));
    for body in bodies {
        assert!(body.len() > 16 * KIB - 32, "{}", body.len());
        let request = page.browser.post_json(body.clone());
        let service = layer.layer(writeback.clone());
        let used = allocation_counter::measure(|| {
            let answer = service.oneshot(request).now_or_never().expect("it waits for nothing").unwrap();
            assert!(answer.status().is_client_error());
        });
        let most = 16 * 16 * KIB as u64;
        assert!(used.bytes_max < most, "{} bytes for {}", used.bytes_max, &body[..40]);
    }
    let used = allocation_counter::measure(|| {
        let (body, _) = pieces(stream::iter(0..100_000).map(|_| chunk(KIB)));
        let answer = layer.layer(writeback).oneshot(posting(&page, Box::pin(body))).now_or_never();
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    });
    assert!(used.bytes_max < 64 * KIB as u64, "{} bytes while draining", used.bytes_max);
}

// R26, R27.
#[tokio::test]
async fn a_body_that_could_mean_two_things_changes_nothing() {
    let deep = format!(r#"{{"theme":{}1{}}}"#, "[".repeat(16), "]".repeat(16));
    let names: Vec<_> = (0..65).map(|n| format!(r#""n{n}":0"#)).collect();
    let many = format!("{{{}}}", names.join(","));
    let vectors: &[(&str, &[&[u8]])] = &[
        (
            "malformed_json",
            &[
                b"",
                b" ",
                b"{",
                br#"{"theme":"dark""#,
                br#"{"theme":"dark"} x"#,
                br#"{"theme":"dark"}{}"#,
                br#"{"theme":"dark",}"#,
                br#"{"theme":'dark'}"#,
                br#"{theme:"dark"}"#,
                br#"{"ratio":NaN}"#,
                br#"{"ratio":Infinity}"#,
                br#"{"ratio":-Infinity}"#,
                br#"{"ratio":1e999}"#,
                br#"{"level":01}"#,
                br#"{"level":+1}"#,
                br#"{"theme":"\ud800"}"#,
                br#"{"theme":"\udc00\ud800"}"#,
                br#"{"\ud800":1}"#,
                b"{\"theme\":\"\xff\"}",
                b"{\"theme\":\"\xed\xa0\x80\"}",
                b"\xef\xbb\xbf{\"theme\":\"dark\"}",
                b"{\"theme\":\"dark\"}\0",
                b"\xff\xfe{\0}\0",
                b"// {\n{\"theme\":\"dark\"}",
            ],
        ),
        ("not_an_object", &[b"[]", b"null", b"7", br#""theme""#, br#"[{"theme":"dark"}]"#]),
        (
            "duplicate_name",
            &[
                br#"{"theme":"dark","theme":"dark"}"#,
                br#"{"theme":"dark","level":1,"\u0074heme":"light"}"#,
                br#"{"theme":"dark","draft":[{"text":"a","text":"b"}]}"#,
                br#"{"nobody":{"x":1,"x":1},"theme":"dark"}"#,
            ],
        ),
        ("reserved_name", &[br#"{"theme":{"$serde_json::private::RawValue":"\"dark\""}}"#]),
        ("too_deep", &[deep.as_bytes()]),
        ("too_many_names", &[many.as_bytes()]),
        (
            "unsafe_integer",
            &[
                br#"{"ratio":9007199254740993}"#,
                br#"{"ratio":-9007199254740992}"#,
                br#"{"theme":"dark","ratio":18446744073709551616}"#,
                br#"{"draft":[{"text":"a","unknown":9007199254740993}]}"#,
            ],
        ),
        ("relay_not_alone", &[br#"{"$relay":"r.","theme":"dark"}"#, br#"{"theme":"dark","\u0024relay":"r."}"#]),
        ("relay_not_a_string", &[br#"{"$relay":null}"#, br#"{"$relay":{"theme":"dark"}}"#, br#"{"$relay":["r."]}"#]),
        (
            "relay_invalid",
            &[br#"{"$relay":""}"#, br#"{"$relay":"r."}"#, br#"{"$relay":"b."}"#, br#"{"$relay":"r.AQID"}"#],
        ),
    ];
    let mut page = Page::new();
    for (code, bodies) in vectors {
        for body in *bodies {
            let why = String::from_utf8_lossy(body);
            assert_refused(&page.post(Bytes::copy_from_slice(body)).await, 400, code, why);
        }
    }
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R27.
#[tokio::test]
async fn a_large_integer_is_taken_by_a_type_that_keeps_it() {
    let mut page = Page::new();
    for integer in [9_007_199_254_740_993, i64::MAX, i64::MIN] {
        let answer = page.post(format!(r#"{{"level":{integer}}}"#)).await;
        assert_eq!(answer.status, StatusCode::OK, "{integer}");
        assert_eq!(page.read::<Level>().await, Some(Level(integer)));
    }
    assert_eq!(page.post(r#"{"ratio":9007199254740991,"level":1}"#).await.status, StatusCode::OK);
    assert_eq!(page.read::<Ratio>().await, Some(Ratio(9_007_199_254_740_991.0)));
}

// The session.

// R28.
#[tokio::test]
async fn a_session_that_is_over_is_not_written_to() {
    let mut page = Page::signed_in().await;
    let late = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.renew().await.unwrap()).await;
    let renewed = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.sign_out().await.unwrap()).await;
    for browser in [late, renewed] {
        for body in [r#"{"theme":"late"}"#, r#"{"current_division_id":2}"#] {
            let answer = page.send(browser.post_json(body)).await;
            assert_refused(&answer, 409, "session_closed", body);
        }
    }
    assert_eq!(page.read::<Theme>().await, None);
}

#[tokio::test]
async fn a_relay_token_brings_the_cookie_what_a_socket_wrote() {
    let mut page = Page::signed_in().await;
    let older = page.relay("older").await;
    let token = page.relay("newest").await;
    let answer = page.post(relaying(&token)).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "stored": ["$relay"] })));
    // Late and again, it changes nothing.
    for token in [&older, &token] {
        assert_eq!(page.post(relaying(token)).await.status, StatusCode::OK);
    }
    page.node = Page::start(&page.ring, &page.clock);
    assert_eq!(page.read::<Theme>().await, Some(Theme("newest".into())));
}

// R29. A birth token gives a cookie, so it asks for more than one that only brings changes.
#[tokio::test]
async fn a_relay_token_is_for_its_own_session_and_time() {
    let mut page = Page::new();
    let birth = page.relay("mine").await;
    let mut other = Page { browser: Browser::new(), node: page.node.clone(), ..Page::new() };
    other.post(r#"{"theme":"other"}"#).await;
    assert_refused(&other.post(relaying(&birth)).await, 409, "relay_other_session", "another's cookie");
    let mut cross_site = page.browser.post_json(relaying(&birth));
    cross_site.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    let answer = page.send(cross_site).await;
    assert_refused(&answer, 403, "cross_site", "a birth");
    page.clock.advance(Duration::from_secs(60));
    assert_refused(&page.post(relaying(&birth)).await, 409, "relay_expired", "a birth token of a minute ago");
    assert!(page.browser.cookie("session").is_none());

    let birth = page.relay("mine").await;
    assert_eq!(page.post(relaying(&birth)).await.status, StatusCode::OK);
    assert_eq!(page.read::<Theme>().await, Some(Theme("mine".into())));
    let relay = page.relay("newer").await;
    assert_refused(&other.post(relaying(&relay)).await, 409, "relay_other_session", "another's cookie");
    let bare = page.send(Browser::new().post_json(relaying(&relay))).await;
    assert_refused(&bare, 409, "relay_other_session", "no cookie");
    assert_eq!(other.read::<Theme>().await, Some(Theme("other".into())));

    page.clock.advance(3 * DAY);
    assert_refused(&page.post(relaying(&relay)).await, 409, "relay_expired", "as old as a cookie can get");
}

#[tokio::test]
async fn a_relay_token_does_not_bring_back_a_session_that_has_ended() {
    let mut page = Page::signed_in().await;
    let token = page.relay("late").await;
    let late = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.sign_out().await.unwrap()).await;
    for (browser, code) in [(late, "session_closed"), (page.browser.clone(), "relay_other_session")] {
        let answer = page.send(browser.post_json(relaying(&token))).await;
        assert_refused(&answer, 409, code, &browser);
    }
}

#[tokio::test]
async fn an_empty_object_heals_the_cookie() {
    let mut page = Page::signed_in().await;
    let socket = page.socket().await;
    let current = page.post("{}").await;
    assert_eq!((current.status.as_u16(), current.json()), (200, json!({ "stored": [] })));
    assert!(current.set_cookies().is_empty(), "nothing was behind");
    socket.set(Theme("dark".into())).await.unwrap();
    assert_eq!(page.post("{}").await.set_cookies().len(), 1);
    page.node = Page::start(&page.ring, &page.clock);
    assert_eq!(page.read::<Theme>().await, Some(Theme("dark".into())));
    let nobody = Page::new().post("{}").await;
    assert!(nobody.set_cookies().is_empty(), "no session comes of nothing");
}

#[tokio::test]
async fn without_its_own_layer_it_says_so() {
    let page = Page::new();
    let request = || page.browser.post_json(r#"{"theme":"dark"}"#);
    let bare = send_bare(allowing(&page.node.sessions), request()).await;
    assert_refused(&bare, 500, "no_layer", "no layer");
    let other = Page::new().node.writeback(allowing(&page.node.sessions), request()).await;
    assert_refused(&other, 500, "no_layer", "the layer of other sessions");
    let both = LayeredSessionLayer::new(Page::new().node.sessions).layer(allowing(&page.node.sessions));
    let nested = LayeredSessionLayer::new(page.node.sessions.clone()).layer(both).oneshot(request()).await.unwrap();
    assert_eq!(nested.status(), StatusCode::OK, "its own lies further out");
    let mut browser = page.browser.clone();
    browser.take(nested.headers());
    assert_eq!(browser.theme(&page.node).await, dark(), "the one further in has taken it");
}

// R35.
#[tokio::test]
async fn a_store_that_is_away_is_told_and_nothing_is_written() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let start = || Node::new(builder(&ring, &clock).tier(store.clone()).build().unwrap());
    let (node, mut browser) = (start(), Browser::new());
    let allow = |node: &Node| SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let before = node.writeback(allow(&node), browser.post_json(r#"{"theme":"before"}"#)).await;
    browser.take(&before.headers);

    store.fail();
    let cold = start();
    for (node, browser) in [(&node, &browser), (&cold, &browser), (&node, &Browser::new())] {
        let answer = node.writeback(allow(node), browser.post_json(r#"{"theme":"after"}"#)).await;
        assert_refused(&answer, 503, "unavailable", browser);
    }
    store.heal();
    for node in [node, cold, start()] {
        let theme = browser.visit(&node, async |s| s.get::<Theme>()).await;
        assert_eq!(theme, Theme("before".into()));
    }
}

/// A store where somebody else is always faster.
#[derive(Debug)]
struct Crowded;

impl Tier for Crowded {
    fn name(&self) -> &'static str {
        "crowded"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::ready(Ok(Found::nothing()))
    }

    fn write<'a>(&'a self, _: Commit<'a>) -> TierFuture<'a, Committed> {
        TierFuture::ready(Ok(Committed::Outdated(Found::nothing())))
    }
}

#[tokio::test]
async fn a_write_that_loses_to_others_is_told() {
    let node = Node::new(builder(&ring(), &ManualClock::new()).tier(Crowded).build().unwrap());
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let answer = node.writeback(writeback, Browser::new().post_json(r#"{"theme":"dark"}"#)).await;
    assert_refused(&answer, 409, "contended", "Crowded");
}

// The order of reasons.

// R24 to R28. One fault after the other is put right.
#[tokio::test]
async fn of_several_faults_the_first_of_the_list_answers() {
    let mut page = Page::signed_in().await;
    let closed = page.browser.clone();
    page.browser.visit(&page.node, async |s| s.sign_out().await.unwrap()).await;
    let writeback = || allowing(&page.node.sessions);
    let mut request = closed.post_json("{".repeat(20 * KIB));
    *request.method_mut() = Method::GET;
    request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    request.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());

    let mut elsewhere = request.clone();
    *elsewhere.uri_mut() = "/elsewhere".parse().unwrap();
    assert_refused(&send_bare(writeback(), elsewhere).await, 404, "not_found", "everything is wrong");
    assert_refused(&send_bare(writeback(), request.clone()).await, 405, "method_not_allowed", "at the right path");
    *request.method_mut() = Method::POST;
    assert_refused(&send_bare(writeback(), request.clone()).await, 403, "cross_site", "posted");
    request.headers_mut().insert("sec-fetch-site", "same-origin".parse().unwrap());
    assert_refused(&send_bare(writeback(), request.clone()).await, 415, "unsupported_media_type", "same origin");
    request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    assert_refused(&send_bare(writeback(), request.clone()).await, 413, "too_large", "JSON");
    for (body, status, code) in [
        (r#"{"visits":1,"level":"x""#, 400, "malformed_json"),
        (r#"{"visits":1,"visits":2,"level":"x"}"#, 400, "duplicate_name"),
        (r#"{"visits":1,"level":"x"}"#, 422, "not_allowed"),
        (r#"{"level":"x"}"#, 422, "invalid_value"),
    ] {
        *request.body_mut() = Full::from(body);
        for answer in
            [send_bare(writeback(), request.clone()).await, page.node.writeback(writeback(), request.clone()).await]
        {
            assert_refused(&answer, status, code, body);
        }
    }
    *request.body_mut() = Full::from(r#"{"level":1}"#);
    assert_refused(&page.node.writeback(writeback(), request.clone()).await, 409, "session_closed", "all is right");
    assert_refused(&send_bare(writeback(), request).await, 500, "no_layer", "but the session is unknown");
}

// The hook.

#[tokio::test]
async fn the_hook_is_a_module_that_caches_ask_about() {
    let page = Page::new();
    let hook = async |method: Method, tag: Option<&str>| {
        // Scripts are fetched across sites too, and without a content type.
        let mut request = page.browser.request_of(method, "/hook.js", "");
        request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
        if let Some(tag) = tag {
            request.headers_mut().insert(header::IF_NONE_MATCH, tag.parse().unwrap());
        }
        page.node.writeback(SessionWriteback::new(&page.node.sessions), request).await
    };
    let got = hook(Method::GET, None).await;
    assert_eq!(got.status, StatusCode::OK);
    assert_eq!(got.headers[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
    assert_eq!(got.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert_eq!(got.headers[header::CACHE_CONTROL], "no-cache");
    assert!(!got.headers.contains_key(header::VARY) && got.set_cookies().is_empty());
    assert!(std::str::from_utf8(&got.body).unwrap().contains("export const connect"));
    let tag = got.headers[header::ETAG].to_str().unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 10, "{tag}");

    let head = hook(Method::HEAD, None).await;
    assert_eq!((head.status, &head.headers, head.body.len()), (StatusCode::OK, &got.headers, 0));
    assert_eq!(head.headers[header::CONTENT_LENGTH], got.body.len().to_string());

    for known in [tag.to_owned(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        for method in [Method::GET, Method::HEAD] {
            let answer = hook(method, Some(&known)).await;
            assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
            assert_eq!(answer.headers[header::ETAG], tag);
        }
    }
    for unknown in ["\"x\"", "", &tag[1..tag.len() - 1]] {
        assert_eq!(hook(Method::GET, Some(unknown)).await.status, StatusCode::OK, "{unknown}");
    }
    let posted = hook(Method::POST, None).await;
    assert_refused(&posted, 405, "method_not_allowed", "POST");
    assert_eq!(posted.headers[header::ALLOW], "GET, HEAD");
    let off = SessionWriteback::new(&page.node.sessions).without_hook();
    assert_eq!(
        page.node.writeback(off, page.browser.request_of(Method::GET, "/hook.js", "")).await.code(),
        "not_found"
    );
}

// Where it is mounted.

#[tokio::test]
async fn it_is_found_where_it_is_mounted_and_nowhere_else() {
    let page = Page::new();
    let post = |path: &str| {
        let mut request = page.browser.post_json(r#"{"theme":"dark"}"#);
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    for at in ["/session", "/session/"] {
        for (path, status) in [
            ("/session", 200),
            ("/session/", 200),
            ("/session?x=1", 200),
            ("/session/hook.js", 405),
            ("/", 404),
            ("/hook.js", 404),
            ("/sessions", 404),
            ("/session/x", 404),
            ("/session//", 404),
            ("/Session", 404),
        ] {
            let answer = page.node.writeback(allowing(&page.node.sessions).at(at), post(path)).await;
            assert_eq!(answer.status.as_u16(), status, "{path} at {at}");
        }
    }
    let app = Router::new()
        .nest_service("/session", allowing(&page.node.sessions))
        .layer(LayeredSessionLayer::new(page.node.sessions.clone()));
    for (method, path, status) in [
        (Method::POST, "/session", 200),
        (Method::POST, "/session/", 200),
        (Method::GET, "/session/hook.js", 200),
        (Method::GET, "/session", 405),
        (Method::POST, "/session/x", 404),
        (Method::POST, "/", 404),
    ] {
        let mut request = post(path).map(axum::body::Body::new);
        *request.method_mut() = method.clone();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status().as_u16(), status, "{method} {path}");
    }
    // The authority stays what it was: HTTP/2 has it in the target alone.
    let from = |origin: &str| {
        let body = axum::body::Body::from(r#"{"theme":"dark"}"#);
        let request = Request::post("https://app.example/session").header(header::ORIGIN, origin);
        request.version(Version::HTTP_2).header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
    };
    assert_eq!(app.clone().oneshot(from("https://app.example")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(app.oneshot(from("https://evil.example")).await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_chain_without_memory_is_written_through_the_cookie() {
    let (ring, clock) = (ring(), ManualClock::new());
    let cookie = CookieTier::sealed(ring).name("session").plain_http();
    let node = Node::new(Sessions::builder().tier(cookie).value::<Theme>().clock(clock).build().unwrap());
    let writeback = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap();
    let mut browser = Browser::new();
    let answer = node.writeback(writeback, browser.post_json(r#"{"theme":"dark"}"#)).await;
    browser.take(&answer.headers);
    assert_eq!(browser.visit(&node, async |s| s.get::<Theme>()).await, Theme("dark".into()));
}

// What came of changes, each with its reason.

#[tokio::test]
async fn a_relay_token_that_does_not_open_is_said_before_there_is_no_session_for_it() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let start = || Node::new(builder(&ring, &clock).tier(store.clone()).build().unwrap());
    let mut page = Page { node: start(), clock: clock.clone(), ring: ring.clone(), browser: Browser::new() };
    page.browser.visit(&page.node, async |s| s.set(Theme("first".into())).await.unwrap()).await;
    let token = page.relay("second").await;
    let (forged, genuine) = (relaying(format!("{token}A")), relaying(&token));
    let writeback = || SessionWriteback::new(&page.node.sessions);
    assert_refused(&send_bare(writeback(), page.browser.post_json(forged.clone())).await, 400, "relay_invalid", "bare");
    assert_refused(&send_bare(writeback(), page.browser.post_json(genuine.clone())).await, 500, "no_layer", "bare");

    store.fail();
    let cold = start();
    for (body, status, code) in [(&forged, 400, "relay_invalid"), (&genuine, 503, "unavailable")] {
        let request = page.browser.post_json(body.clone());
        let answer = cold.writeback(SessionWriteback::new(&cold.sessions), request).await;
        assert_refused(&answer, status, code, "the store is away");
    }
    page.clock.advance(3 * DAY);
    let expired = send_bare(writeback(), page.browser.post_json(genuine)).await;
    assert_refused(&expired, 409, "relay_expired", "no layer is worse than that");
}

// R28. What a client sends is not said back whole, whatever it is.
#[tokio::test]
async fn sixteen_names_are_said_back_and_none_of_them_whole() {
    let page = Page::new();
    let names: Vec<_> = (0..60).map(|n| format!("{n}{}", "é".repeat(100))).collect();
    let said: Vec<String> = names.iter().take(16).map(|name| name.chars().take(64).collect()).collect();
    let members: Vec<_> = names.iter().map(|name| format!(r#""{name}":0"#)).collect();
    let body = format!("{{{}}}", members.join(","));
    let strict = allowing(&page.node.sessions);
    let lenient = strict.clone().ignore_unknown();
    let refused = page.node.writeback(strict, page.browser.post_json(body.clone())).await;
    assert_refused(&refused, 422, "not_allowed", "sixty names");
    assert_eq!(refused.json()["names"], json!(said));
    let ignored = page.node.writeback(lenient, page.browser.post_json(body)).await;
    assert_eq!(ignored.json(), json!({ "stored": [], "ignored": said }));
}

// R26.
#[tokio::test]
async fn a_value_that_the_browser_does_not_carry_is_bounded_too() {
    let mut page = Page::new();
    let text = |len: usize| json!({ "draft": [{ "text": "x".repeat(len) }] }).to_string();
    assert_eq!(page.post(text(15 * KIB)).await.status, StatusCode::OK);
    let kept = page.read::<Draft>().await.expect("it is in memory");
    assert_eq!(kept.0[0].text.len(), 15 * KIB);
    assert_refused(&page.post(text(16 * KIB)).await, 413, "too_large", "sent");
    // Three bytes each as sent, twelve times as many with their defaults.
    let grown = format!(r#"{{"theme":"dark","draft":[{}{{}}]}}"#, "{},".repeat(4 * KIB));
    let answer = page.post(grown).await;
    assert_refused(&answer, 422, "value_too_large", "encoded");
    assert_eq!(answer.json()["names"], json!(["draft"]));
    assert_eq!(page.read::<Draft>().await, Some(kept));
    assert_eq!(page.read::<Theme>().await, None);
}

// R27.
#[tokio::test]
async fn an_ambiguous_integer_is_said_first_wherever_it_stands() {
    let mut page = Page::new();
    for body in [
        r#"{"ratio":9007199254740993,"visits":1,"current_division_id":99}"#,
        r#"{"visits":1,"ratio":9007199254740993}"#,
        r#"{"current_division_id":99,"ratio":9007199254740993}"#,
        r#"{"current_division_id":99999999999999999999}"#,
        r#"{"theme":[9007199254740993],"visits":1}"#,
    ] {
        assert_refused(&page.post(body).await, 400, "unsafe_integer", body);
    }
    // The type takes it, and its own rule does not; and of a name that has no type nothing can be said.
    for (body, code) in
        [(r#"{"current_division_id":9007199254740993}"#, "invalid_value"), (r#"{"visits":1e999}"#, "malformed_json")]
    {
        assert_eq!(page.post(body).await.code(), code, "{body}");
    }
    assert_eq!(page.post(r#"{"visits":9007199254740993}"#).await.code(), "not_allowed");
    assert_eq!(page.node.sessions.stats().records, 0);
}
