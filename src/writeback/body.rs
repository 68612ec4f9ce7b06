//! The body of a POST: read with a limit of length and a deadline, and parsed strictly to names and raw values.
//!
//! [`Posted::parse`] checks every name, string and number of the body first, and then collects the top level, each
//! value as a piece of the body itself. So a body that means different things to different readers is refused whole,
//! and no value is built before its name is allowed.

use std::{borrow::Cow, collections::HashSet, fmt, future::Future, iter, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{from_str, value::RawValue};

use super::reply::Refusal;
use crate::{error::BoxError, time::Clock};

/// The maximum bytes of a body.
pub(super) const MAX_BODY: usize = 16 << 10;

/// The bytes beyond [`MAX_BODY`] that are read and dropped. Thus a client that sends its whole body before reading sees
/// the answer.
const DRAIN: usize = 256 << 10;

/// The longest time that a body may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Returns the whole body.
///
/// # Errors
///
/// For a body that is too long, breaks off, or takes longer than [`READ_DEADLINE`].
pub(super) async fn read<B>(clock: &dyn Clock, headers: &HeaderMap, body: B) -> Result<Bytes, Refusal>
where
    B: Body + Send,
    B::Error: Into<BoxError>,
{
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    let announced = announced.unwrap_or(0);
    // A client that waits for 100 (RFC 9110, 10.1.1) reads the answer before it sends. A body longer than the drained
    // bytes is refused at once: no drain would reach its end.
    let waits =
        headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if announced > MAX_BODY + DRAIN || announced > MAX_BODY && waits {
        return Err(too_large());
    }
    let mut deadline = clock.sleep(READ_DEADLINE);
    let mut read = std::pin::pin!(collect(body, announced));
    std::future::poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(read),
        Poll::Pending => deadline.as_mut().poll(cx).map(|()| {
            let message = format!("the body of the request took longer than {} s to arrive", READ_DEADLINE.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
        }),
    })
    .await
}

/// Collects a body up to [`MAX_BODY`]. Of a longer body, reads and drops up to [`DRAIN`] further bytes.
async fn collect<B>(body: B, announced: usize) -> Result<Bytes, Refusal>
where
    B: Body + Send,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let (mut stored, mut seen) = (BytesMut::new(), 0);
    let mut over = announced > MAX_BODY;
    while let Some(frame) = body.as_mut().frame().await {
        let frame = frame.map_err(|error| {
            tracing::debug!(error = error.into(), "the body of a POST to the writeback ended with an error");
            Refusal::new(StatusCode::BAD_REQUEST, "incomplete", "the body of the request ended too early")
        })?;
        let Ok(mut data) = frame.into_data() else { continue };
        let len = bytes::Buf::remaining(&data);
        seen += len;
        over |= seen > MAX_BODY;
        if seen > MAX_BODY + DRAIN {
            break;
        }
        if over {
            stored = BytesMut::new();
        } else {
            stored.extend_from_slice(&bytes::Buf::copy_to_bytes(&mut data, len));
        }
    }
    if over { Err(too_large()) } else { Ok(stored.freeze()) }
}

fn too_large() -> Refusal {
    let message = format!("the body is longer than {MAX_BODY} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

const MAX_DEPTH: usize = 16;
const MAX_NAMES: usize = 64;
const RELAY: &str = "$relay";

/// The prefix of serde_json's private names. `serde_json::Value` reads an object with the private name `RawValue` as
/// the JSON text in its string, and with the feature `arbitrary_precision` an object with the private name `Number` as
/// the number in its string. The check of the body would see only a string there.
const PRIVATE: &str = "$serde_json::private::";

/// The content of a POST: values of the page's own, or a token from the server that the page relays.
pub(crate) enum Posted<'a> {
    /// Names and values in order of appearance. The list may be empty.
    Values(Vec<(Cow<'a, str>, &'a RawValue)>),
    /// A relay token, not opened yet.
    Relay(Cow<'a, str>),
}

impl<'a> Posted<'a> {
    /// Reads a whole body. The caller limits the length of the body: time and memory grow linearly with the length.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let text = str::from_utf8(body).map_err(|_| not_json())?;
        // The check below recurses, so the depth is limited first.
        if depth(text) > MAX_DEPTH {
            return Err(malformed("too_deep", "the body nests arrays or objects more than 16 levels deep"));
        }
        let body: &RawValue = from_str(text).map_err(|_| not_json())?;
        check(body.get())?;
        if !body.get().starts_with('{') {
            return Err(malformed("not_an_object", "the body is not a JSON object"));
        }
        let Object(values) = from_str(body.get()).map_err(|_| not_json())?;
        match values.as_slice() {
            more if more.len() > MAX_NAMES => Err(malformed("too_many_names", "the body has more than 64 names")),
            &[(ref name, token)] if name == RELAY => match from_str(token.get()) {
                Ok(Text(token)) => Ok(Self::Relay(token)),
                Err(_) => Err(malformed("relay_not_a_string", "`$relay` is not a string")),
            },
            several if several.iter().any(|(name, _)| name == RELAY) => {
                let message = "`$relay` has other names beside it in the body: post a token alone";
                Err(malformed("relay_not_alone", message))
            }
            _ => Ok(Self::Values(values)),
        }
    }
}

/// A refusal with 400. The message repeats nothing from the client.
fn malformed(code: &'static str, message: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, message)
}

fn not_json() -> Refusal {
    malformed("malformed_json", "the body is not exactly one JSON text in UTF-8")
}

/// Returns the depth of a JSON text: the maximum number of objects and arrays that are open at the same time.
fn depth(text: &str) -> usize {
    let open = outside_strings(text).flat_map(str::bytes).scan(0_usize, |open, byte| {
        *open = match byte {
            b'{' | b'[' => *open + 1,
            b'}' | b']' => open.saturating_sub(1),
            _ => *open,
        };
        Some(*open)
    });
    open.max().unwrap_or(0)
}

/// Returns the parts of a JSON text between its strings. For other text, the parts are unspecified.
pub(super) fn outside_strings(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    iter::from_fn(move || {
        let text = rest.take()?;
        let Some((part, string)) = text.split_once('"') else { return Some(text) };
        rest = after_string(string);
        Some(part)
    })
}

fn after_string(text: &str) -> Option<&str> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    text.get(end + 1..)
}

/// Checks one JSON text of valid syntax, and all the texts in it.
///
/// The first character decides the type of the text, not serde_json: with the feature `arbitrary_precision`, which any
/// crate of an application can switch on, serde_json presents numbers as objects and accepts `1e999`. The check reads
/// each level as raw texts, so each byte is read once for each level around it, 16 times at most.
fn check(text: &str) -> Result<(), Refusal> {
    let syntax = |_| not_json();
    match text.as_bytes().first() {
        Some(b'{') => {
            let Object(entries) = from_str(text).map_err(syntax)?;
            let mut names = HashSet::new();
            for (name, value) in &entries {
                if name.starts_with(PRIVATE) {
                    let message = "an object in the body has a name with the reserved prefix `$serde_json::private::`";
                    return Err(malformed("reserved_name", message));
                }
                if !names.insert(name) {
                    return Err(malformed("duplicate_name", "an object in the body has the same name twice"));
                }
                check(value.get())?;
            }
            Ok(())
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = from_str(text).map_err(syntax)?;
            items.into_iter().try_for_each(|item| check(item.get()))
        }
        // A `RawValue` does not check escapes, such as the lone surrogate `\ud800`, so the text is decoded here.
        Some(b'"') => from_str(text).map(|Text(_)| ()).map_err(syntax),
        Some(b'-' | b'0'..=b'9') if !text.parse().is_ok_and(f64::is_finite) => Err(not_json()),
        _ => Ok(()),
    }
}

/// The names and raw values of an object, in order of appearance.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object<'de>, A::Error> {
                let mut object = Vec::new();
                while let Some((Text(name), value)) = entries.next_entry()? {
                    object.push((name, value));
                }
                Ok(Object(object))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A string: borrowed from the body, or owned if the string has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::writeback::accept::integers_survive;

    fn code(body: impl AsRef<[u8]>) -> &'static str {
        Posted::parse(body.as_ref()).err().map_or("accepted", |refusal| refusal.code)
    }

    /// Checks the code of each of `bodies`, which bars and line ends separate.
    fn assert_code(expected: &str, bodies: &str) {
        bodies.split(['|', '\n']).for_each(|body| assert_eq!(code(body.trim()), expected, "{body}"));
    }

    #[test]
    fn values_stay_raw_and_in_order() {
        let body = r#" { "z" : [1, {"z":-0}] , "\u0061b":"\ud83d\ude00" ,"":null} "#;
        let Ok(Posted::Values(values)) = Posted::parse(body.as_bytes()) else { panic!("refused") };
        assert!(matches!(values[..], [(Cow::Borrowed("z"), _), (Cow::Owned(_), _), (Cow::Borrowed(""), _)]));
        let values: Vec<_> = values.iter().map(|(name, raw)| (&**name, raw.get())).collect();
        assert_eq!(values, [("z", r#"[1, {"z":-0}]"#), ("ab", r#""\ud83d\ude00""#), ("", "null")]);
        assert_code("accepted", r#"{} | {"__proto__":1,"relay":{"$relay":2}}"#);
    }

    #[test]
    fn relay_token_excludes_other_names() {
        for body in [r#"{"$relay":"t/ok"}"#, r#"{"\u0024relay":"t\u002fok"}"#] {
            assert!(matches!(Posted::parse(body.as_bytes()), Ok(Posted::Relay(token)) if token == "t/ok"));
        }
        assert_code("relay_not_alone", r#"{"$relay":"t","a":1} | {"a":1,"\u0024relay":"t"}"#);
        assert_code("relay_not_a_string", r#"{"$relay":1} | {"$relay":null} | {"$relay":["t"]} | {"$relay":{"t":1}}"#);
    }

    #[test]
    fn duplicate_names_are_refused() {
        assert_code("duplicate_name", r#"{"a":1,"a":1} | {"a":1,"b":2,"\u0061":3} | {"a":{"b":1,"b":2}}"#);
        assert_code("duplicate_name", r#"{"a":[[{"b":{"":1,"c":0,"":2}}]]} | {"$relay":"t","$relay":"t"}"#);
        assert_code("accepted", r#"{"a":{"a":[{"a":1},{"a":1}]},"A":1}"#);
    }

    #[test]
    fn object_is_not_read_from_a_string() {
        let text = r#"{"$serde_json::private::RawValue":"{\"b\":1,\"b\":2}"}"#;
        assert_eq!(
            from_str::<Value>(text).unwrap().to_string(),
            r#"{"b":2}"#,
            "serde_json would read an object from the string"
        );
        assert_code("reserved_name", &[text, &text.replace('$', r"\u0024"), &format!(r#"{{"a":[{text}]}}"#)].join("|"));
    }

    #[test]
    fn serde_json_names_are_reserved() {
        assert_code("reserved_name", r#"{"a":{"$serde_json::private::Number":"9007199254740993"}}"#);
        assert_code("reserved_name", r#"{"\u0024serde_json::private::Number":"1e999"} | {"$serde_json::private::":1}"#);
        assert_code("accepted", r#"{"$serde_json":1,"a":"$serde_json::private::Number"}"#);
    }

    #[test]
    fn numbers_beyond_double_range_are_refused() {
        assert_code("malformed_json", r#"{"a":1e999} | {"a":[{"b":-1e309}]} | {"a":1.8e308} | {"a":2E+308}"#);
        assert_code(
            "malformed_json",
            &format!(r#"{{"a":1{}}} | {{"a":-}} | {{"a":1e}} | {{"a":-01}}"#, "0".repeat(309)),
        );
        assert_code("accepted", r#"{"a":[1.7976931348623157e308,-1E-999,5e-324,-0,0.0,18446744073709551616,1e+2]}"#);
    }

    #[test]
    fn depth_and_name_count_are_limited() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert_code("accepted", &nested(16));
        assert_code("too_deep", &[nested(17), nested(100_000), "[".repeat(16 << 10)].join("|"));
        assert_code("accepted", r#"{"a":"[[[[[[[[[[[[[[[[[\"[[","b":[[[[[[[[[]]]]]]]]],"c":[[[[[[[[[]]]]]]]]]}"#);

        let names = |count| (0..count).map(|n| format!(r#""n{n}":{n}"#)).collect::<Vec<_>>().join(",");
        assert_code("accepted", &format!("{{{}}}", names(64)));
        assert_code("too_many_names", &format!("{{{}}} | {{{}}}", names(65), names(1_000)));
        assert_code("accepted", &format!(r#"{{"a":{{{}}}}}"#, names(1_000)));
    }

    #[test]
    fn invalid_json_is_refused() {
        let refused = r#" | { | {}{} | {} x | {"a":1,} | {,} | {a:1} | {'a':1} | {1:1} | /**/{} | {"a":"b}
            {"a":NaN} | {"a":Infinity} | {"a":-Infinity} | {"a":1e400} | {"a":[-1e999]} | {"a":-} | {"a":True}
            {"a":01} | {"a":+1} | {"a":.5} | {"a":1.} | {"a":0x1} | {"a":"\x"} | {"a":"\u12"} | {"a":"\u12g4"}
            {"a":"\ud800"} | {"a":"\udc00\ud800"} | {"a":[{"b":"\udfff"}]} | {"\ud800":1} | {"a":{"\udead":1}}"#;
        assert_code("malformed_json", refused);
        assert_code("malformed_json", "\u{feff}{}|{}\u{feff}|{}\0|{\"a\":\"\t\"}|{\"a\":\"\0\"}|{\u{a0}}");
        let not_utf8 = b"{\"a\":\"\xff\"} {\"\xc3\":1} {\"a\":\"\xed\xa0\x80\"} {}\xff \xfe\xff\0{\0}";
        not_utf8.split(|byte| *byte == b' ').for_each(|body| assert_eq!(code(body), "malformed_json", "{body:x?}"));
        assert_code("not_an_object", r#"[] | [{"a":1}] | null | true | "a" | 1 | -1.5"#);
    }

    const GOOD: &str = r#"{"a":[1,-2.5e3,{"b":"\u00e9\ud83d\ude00\"","c":[null,true]}],"ü":"x","n":9007199254740993}"#;

    #[test]
    fn truncated_bodies_are_refused() {
        assert_eq!(code(GOOD), "accepted");
        (0..GOOD.len()).for_each(|end| assert_eq!(code(&GOOD.as_bytes()[..end]), "malformed_json", "cut at {end}"));
    }

    /// No body makes the parser panic, and an ordinary parser reads the same values from an accepted body.
    #[test]
    fn mutated_bodies_have_one_meaning() {
        let seeds = [GOOD, r#"{"$relay":"AbC-_09"}"#, r#"{"a":{"a":[[[[[[[[[[[[[0]]]]]]]]]]]]]},"b":{"c":1,"d":2}}"#];
        let scraps = b"\"a\":1,\"a\":{}[{[[,\\ud800\\u0061$relay:9-e9\xff\0\xef\xbb\xbf\"\"\\\\";
        let mut state = 0x5eed_u64;
        let mut random = |below: usize| {
            // SplitMix64, for the same bodies on every run.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) as usize % below
        };
        let mut codes = HashSet::new();
        for _ in 0..200_000 {
            let mut body = seeds[random(seeds.len())].as_bytes().to_vec();
            for _ in 0..=random(3) {
                let (at, from) = (random(body.len() + 1), random(scraps.len()));
                let (end, to) = ((at + random(4)).min(body.len()), (from + random(8)).min(scraps.len()));
                body.splice(at..end, scraps[from..to].iter().copied());
            }
            codes.insert(code(&body));
            let text = String::from_utf8_lossy(&body);
            integers_survive(&text, &body);
            let Ok(Posted::Values(values)) = Posted::parse(&body) else { continue };
            let plain: serde_json::Map<String, Value> = from_str(&text).unwrap();
            assert_eq!(values.len(), plain.len(), "{text}");
            values.iter().for_each(|(name, raw)| assert_eq!(plain[&**name], from_str::<Value>(raw.get()).unwrap()));
        }
        assert!(codes.contains("accepted") && codes.len() >= 5, "the mutations reach too few results: {codes:?}");
    }
}
