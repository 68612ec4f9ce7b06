//! The body of a POST: read with a limit of length and a deadline, parsed strictly to names and raw values, and each
//! value decoded and encoded by its type.
//!
//! [`Posted::parse`] checks every name, string and number of the body first, and then collects the top level, each
//! value as a piece of the body itself. So a body that means different things to different readers is refused whole,
//! and no value is built before its name is allowed.
//!
//! JavaScript's numbers are doubles: a page would round the id 9007199254740993, and send the id of another user back.
//! Therefore [`AcceptedValues::read`] refuses a number that the type of a value would change, and no value leaves for a
//! page unless the page can hold its numbers ([`is_exact_in_pages`]).

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
use crate::{
    error::BoxError,
    record::change::Mutation,
    time::Clock,
    value::{Json, Schema, ValueError, ValueIndex, ValueSpec},
};

/// The maximum bytes of a body.
const MAX_BODY: usize = 16 << 10;

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
fn outside_strings(text: &str) -> impl Iterator<Item = &str> {
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

/// The maximum bytes of a value, as its type encodes the value. The limit on the body is not enough: `[{},{},…]` can
/// become thirty times as long once each field has its default.
const MAX_VALUE: usize = MAX_BODY;

/// The maximum number of names that a refusal repeats, and of characters of each name: the names are the client's own,
/// and an answer must not be larger than the request, or fill a log.
const ECHOED_NAMES: usize = 16;
const ECHOED_CHARS: usize = 64;

/// The treatment of names that are not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownNames {
    Refused,
    Ignored,
}

/// The values of one POST. All of them are stored, or none.
pub(super) struct AcceptedValues {
    pub(super) changes: Vec<Mutation>,
    /// The first names that are not allowed, each cut to [`ECHOED_CHARS`].
    pub(super) ignored: Vec<String>,
}

impl AcceptedValues {
    /// Decodes every value by its type, before any value is stored. An ambiguous value is refused before a name that is
    /// not allowed, and such a name before a value that is not valid.
    pub(super) fn read(
        values: &[(Cow<'_, str>, &RawValue)],
        schema: &Schema,
        allowed: &[ValueIndex],
        unknown: UnknownNames,
    ) -> Result<Self, Refusal> {
        let mut accepted = Self { changes: Vec::new(), ignored: Vec::new() };
        let mut invalid = None;
        for (name, raw) in values {
            let Some(index) = schema.index_by_name(name).filter(|index| allowed.contains(index)) else {
                if accepted.ignored.len() < ECHOED_NAMES {
                    accepted.ignored.push(name.chars().take(ECHOED_CHARS).collect());
                }
                continue;
            };
            let declared = schema.get(index);
            match encode(declared, raw.get()) {
                Ok(json) => accepted.changes.push(Mutation::set(index, declared.name, json)),
                Err(refusal) if refusal.status == StatusCode::BAD_REQUEST => return Err(refusal),
                Err(refusal) => invalid = invalid.or(Some(refusal)),
            }
        }
        if unknown == UnknownNames::Refused && !accepted.ignored.is_empty() {
            let message = "pages can't write the values in `names`: the server permits a value with `allow`";
            let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "not_allowed", message);
            return Err(refusal.named(accepted.ignored));
        }
        invalid.map_or(Ok(accepted), Err)
    }
}

/// Encodes a value for storage, as the bytes that its type writes.
fn encode(declared: &ValueSpec, raw: &str) -> Result<Json, Refusal> {
    let name = declared.name;
    let json = (declared.normalize)(raw.as_bytes());
    let stored = match &json {
        Ok(json) => integers_survive(raw, json),
        // If the type could not decode the value, every integer counts as lost. A decoded value that is not valid has
        // kept its integers.
        Err(ValueError::Undecodable(_)) => integers_survive(raw, b""),
        Err(_) => true,
    };
    let refuse = |status, code, message| Err(Refusal::new(status, code, message).named([name]));
    match json {
        _ if !stored => {
            let message = format!(
                "`{name}` has an integer beyond 2^53 - 1, which the value's type would change or drop: send the \
                 integer as a string"
            );
            refuse(StatusCode::BAD_REQUEST, "unsafe_integer", message)
        }
        Ok(json) if json.len() <= MAX_VALUE => Ok(json),
        Ok(_) => {
            let message = format!(
                "`{name}` is longer than {MAX_VALUE} bytes as the value's type encodes it: send a shorter value"
            );
            refuse(StatusCode::UNPROCESSABLE_ENTITY, "value_too_large", message)
        }
        Err(flaw) => refuse(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", format!("`{name}` {flaw}")),
    }
}

/// Returns the number literals of a JSON text that a reader with only doubles would change: integers beyond ±(2^53−1),
/// and numbers that no double holds (`1e999`).
///
/// An integer is a literal without a fraction and without an exponent: a type that writes a fraction or an exponent
/// means a double. `-0` is within bounds.
fn unsafe_numbers(raw: &str) -> impl Iterator<Item = &str> {
    let punctuation = |c: char| c.is_ascii_whitespace() || matches!(c, ',' | ':' | '[' | ']' | '{' | '}');
    outside_strings(raw).flat_map(move |part| part.split(punctuation)).filter(|literal| {
        let digits = literal.strip_prefix('-').unwrap_or(literal);
        let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_rounded = is_integer && !digits.parse().is_ok_and(|integer: u64| integer < 1 << 53);
        is_rounded || literal.parse().is_ok_and(f64::is_infinite)
    })
}

/// Whether the encoded value still has each unsafe integer of the client's text, digit for digit and as often. An `i64`
/// keeps 9007199254740993, an `f64` changes the number, and a type that skips the field loses the number.
fn integers_survive(raw: &str, encoded: &[u8]) -> bool {
    let mut sent: Vec<_> = unsafe_numbers(raw).collect();
    if sent.is_empty() {
        return true;
    }
    let Ok(encoded) = str::from_utf8(encoded) else { return false };
    let mut stored: Vec<_> = unsafe_numbers(encoded).collect();
    sent.sort_unstable();
    stored.sort_unstable();
    let mut stored = stored.into_iter();
    sent.into_iter().all(|sent| stored.any(|stored| stored == sent))
}

/// Whether a page reads each number of a value exactly as the server holds it.
pub(crate) fn is_exact_in_pages(json: &[u8]) -> bool {
    str::from_utf8(json).is_ok_and(|json| unsafe_numbers(json).next().is_none())
}

#[cfg(test)]
mod tests;
