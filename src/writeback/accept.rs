//! The checks before the writeback stores anything: of a request's method, cross-site rule, content type and user, and
//! of a POST's values, each decoded and encoded by its type.
//!
//! JavaScript's numbers are doubles: a page would round the id 9007199254740993, and send the id of another user back.
//! Therefore the checks refuse a number that the type of a value would change, and tell the numbers that a page can't
//! hold.

use std::borrow::Cow;

use http::{HeaderMap, StatusCode, header, request::Parts};
use serde_json::value::RawValue;

use super::{
    body::{MAX_BODY, outside_strings},
    reply::Refusal,
};
use crate::{
    cross_site::RequestKind,
    node::Node,
    record::change::Mutation,
    session::{Session, read},
    value::{Json, Schema, ValueError, ValueIndex, ValueSpec},
};

/// Checks the method and the cross-site rule.
pub(crate) fn only_own_pages(node: &Node, kind: RequestKind, head: &Parts) -> Result<(), Refusal> {
    let method = kind.method();
    if head.method != method {
        return Err(Refusal::method(&[method]));
    }
    node.config.cross_site.check(kind, &head.uri, &head.headers).map_err(|refused| {
        node.refusals.tell(&refused, node.now());
        Refusal::new(StatusCode::FORBIDDEN, "cross_site", refused.reason.message())
    })
}

/// Checks the content type of a POST.
pub(super) fn only_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let essence = match (types.next(), types.next()) {
        (Some(value), None) => value.as_bytes().split(|byte| *byte == b';').next(),
        _ => None,
    };
    if essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json")) {
        return Ok(());
    }
    let message = "the content type of the POST must be application/json";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// The header field with the user mark from the page's last `state` event: the user whose values the page posts.
const SESSION_USER: &str = "session-user";

/// Refuses a page whose user has changed. While the page could not post, another user may have signed in, and the
/// values of one user must not become the other's.
pub(super) fn for_this_user(headers: &HeaderMap, session: &Session) -> Result<(), Refusal> {
    match headers.get(SESSION_USER) {
        Some(meant) if meant.as_bytes() != read::user_mark(session.shared()).as_bytes() => Err(Refusal::user_changed()),
        _ => Ok(()),
    }
}

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
            let message = "pages may not write the values in `names`: the server permits a value with `allow`";
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
pub(super) fn integers_survive(raw: &str, encoded: &[u8]) -> bool {
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
mod tests {
    use serde::{Deserialize, Serialize, de};
    use serde_json::{Value, from_str, to_vec};

    use super::*;

    #[test]
    fn lost_integer_precision_is_detected() {
        fn survives<T: Serialize + de::DeserializeOwned>(raw: &str) -> bool {
            integers_survive(raw, &to_vec(&from_str::<T>(raw).unwrap()).unwrap())
        }
        #[derive(Serialize, Deserialize)]
        struct Known {
            a: i64,
        }
        let text = r#"{"1,9007199254740993,":[9007199254740991,-9007199254740991,-0,1e300,9007199254740993.0],
            "\"":9007199254740993E0,"":["\\",-9007199254740992 ,9007199254740992,18446744073709551616,-1e999]}"#;
        let found: Vec<_> = unsafe_numbers(text).collect();
        assert_eq!(found, ["-9007199254740992", "9007199254740992", "18446744073709551616", "-1e999"]);
        assert!(survives::<i64>("9007199254740993") && survives::<i64>("-9007199254740993"));
        assert!(survives::<u64>("18446744073709551615") && !survives::<f64>("18446744073709551616"));
        assert!(!survives::<f64>("9007199254740993") && survives::<f64>("9007199254740991"));
        assert!(!survives::<f64>("9007199254740992"), "a double holds 2^53, but also the rounded 2^53 + 1");
        assert!(survives::<f64>("9007199254740993.0") && survives::<f64>("-0"));
        assert!(survives::<Value>(r#"{"b":9007199254740995,"a":[9007199254740997,9007199254740993]}"#), "in any order");
        assert!(!survives::<Known>(r#"{"a":1,"b":9007199254740993}"#), "an unknown field loses its number");
        assert!(
            !survives::<(f64, i64)>("[9007199254740993,9007199254740993]"),
            "the integer survives in a single place of two"
        );
        assert!(!integers_survive("9007199254740993", b"[\"9007199254740993\",9007199254740995]"));
    }
}
