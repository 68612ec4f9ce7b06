//! The reading of a body: length, time, and the single meaning of its JSON.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use http::{HeaderMap, Request, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use layered_session::{Clock, LayeredSessionLayer, tier::BoxError};
use tower::{Layer, ServiceExt};

use super::{KIB, Level, Page, Ratio, allowing, assert_refused};
use crate::support::Theme;

type Chunk = Result<Frame<Bytes>, BoxError>;

/// Returns a body in pieces, and the count of bytes read from the body.
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

// R26: a body of 16 KiB is accepted, and one byte more is refused.
#[tokio::test]
async fn body_limit_is_16_kib() {
    let mut page = Page::new();
    let padded = |len: usize| format!(r#"{{"theme":"dark"}}{}"#, " ".repeat(len - r#"{"theme":"dark"}"#.len()));
    assert_eq!(page.post(padded(16 * KIB)).await.status, StatusCode::OK);
    assert_refused(&page.post(padded(16 * KIB + 1)).await, 413, "too_large", "one byte more");
}

// R26: a client that sends first and reads later must still see the answer, but the server stops reading at a limit.
#[tokio::test]
async fn long_body_is_partly_drained() {
    let page = Page::new();
    // The KiB that the client sends, whether the client announces the length, and the KiB that the server reads.
    for (sent, announced, taken) in [
        (17, None, 17),
        (272, None, 272),
        (273, None, 273),
        (100_000, None, 273),
        (272, Some(272 * KIB), 272),
        (273, Some(272 * KIB + 1), 0),
        (100_000, Some(100_000 * KIB), 0),
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

#[tokio::test]
async fn oversized_expect_continue_is_refused() {
    let page = Page::new();
    for (announced, refused) in [(16 * KIB + 1, true), (16 * KIB, false)] {
        let (body, _) = pieces(stream::pending());
        let mut request = posting(&page, Box::pin(body));
        request.headers_mut().insert(header::CONTENT_LENGTH, announced.into());
        request.headers_mut().insert(header::EXPECT, "100-Continue".parse().unwrap());
        let answer = page.send(request).now_or_never();
        assert_eq!(answer.map(|answer| answer.status.as_u16()), refused.then_some(413));
    }
}

// R26: a body that is incomplete after ten seconds is answered with 408, however the body stalls.
#[tokio::test]
async fn slow_body_times_out() {
    let page = Page::new();
    let second = Duration::from_secs(1);
    let clock = page.clock.clone();
    let trickle = stream::unfold((), move |()| {
        let next = clock.sleep(second);
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

// R26: a body that breaks off is refused, although the part before was complete JSON.
#[tokio::test]
async fn incomplete_body_changes_nothing() {
    let page = Page::new();
    let whole = Ok(Frame::data(Bytes::from(r#"{"theme":"dark"}"#)));
    let (body, _) = pieces(stream::iter([whole, Err("reset".into())]));
    let answer = page.send(posting(&page, Box::pin(body))).await;
    assert_refused(&answer, 400, "incomplete", "reset");
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R26: the frames of a body are joined, without the trailers.
#[tokio::test]
async fn chunked_body_is_joined() {
    let mut page = Page::new();
    let text = r#"{"theme":"dark"}"#.bytes().map(|byte| Ok(Frame::data(Bytes::from(vec![byte]))));
    let (body, _) = pieces(stream::iter(text).chain(stream::iter([Ok(Frame::trailers(HeaderMap::new()))])));
    let answer = page.send(posting(&page, Box::pin(body))).await;
    page.browser.take(&answer.headers);
    assert_eq!(page.read::<Theme>().await, Some(Theme("dark".into())));
}

// R26: a refused body takes little memory. A parser that builds a tree of values takes up to 87 times the length of
// such bodies.
#[test]
fn hostile_body_needs_little_memory() {
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
            let answer = service.oneshot(request).now_or_never().expect("the writeback waits for nothing").unwrap();
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

// R26, R27: malformed, ambiguous or too deep JSON, or JSON with too many names, is refused with its own code, and
// stores nothing.
#[tokio::test]
async fn ambiguous_json_changes_nothing() {
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
        (
            "reserved_name",
            &[
                br#"{"theme":{"$serde_json::private::RawValue":"\"dark\""}}"#,
                br#"{"level":{"$serde_json::private::Number":"9007199254740993"}}"#,
            ],
        ),
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

// R27: an integer that JavaScript would round is accepted for a type that keeps the integer exactly.
#[tokio::test]
async fn large_integer_needs_fitting_type() {
    let mut page = Page::new();
    for integer in [9_007_199_254_740_993, i64::MAX, i64::MIN] {
        let answer = page.post(format!(r#"{{"level":{integer}}}"#)).await;
        assert_eq!(answer.status, StatusCode::OK, "{integer}");
        assert_eq!(page.read::<Level>().await, Some(Level(integer)));
    }
    assert_eq!(page.post(r#"{"ratio":9007199254740991,"level":1}"#).await.status, StatusCode::OK);
    assert_eq!(page.read::<Ratio>().await, Some(Ratio(9_007_199_254_740_991.0)));
}

// R27: an integer that JavaScript would round is reported before disallowed names and invalid values.
#[tokio::test]
async fn unsafe_integer_is_reported_before_other_faults() {
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
    // The type of the first body keeps the integer, and `validate` refuses the value. The number of the second body is
    // beyond every type, so the JSON counts as malformed under any name.
    for (body, code) in
        [(r#"{"current_division_id":9007199254740993}"#, "invalid_value"), (r#"{"visits":1e999}"#, "malformed_json")]
    {
        assert_eq!(page.post(body).await.code(), code, "{body}");
    }
    assert_eq!(page.post(r#"{"visits":9007199254740993}"#).await.code(), "not_allowed");
    assert_eq!(page.node.sessions.stats().records, 0);
}
