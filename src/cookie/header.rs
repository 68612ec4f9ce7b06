//! Finds the session cookie among a request's `Cookie` fields, in bytes: without decoding, a copy or a cookie jar.
//!
//! The main function is [`Name::scan`]. Any client can send a value under the cookie's name; only the seal tells a
//! genuine token.

use std::{fmt, iter};

use http::{HeaderMap, HeaderValue, header::COOKIE};
use memchr::memchr;
use smallvec::SmallVec;

/// The caps on a request's cookies. A request over a cap has no session (RUSTSEC-2023-0065 shows the cost of a parser
/// without caps). Chromium and Firefox keep at most 180 cookies of a site, and servers commonly take 16 KiB of headers
/// in all.
const MAX_BYTES: usize = 16 << 10;
const MAX_PAIRS: usize = 180;

/// The maximum number of different values of the cookie's name that a request can make this node open. Each value costs
/// one decryption.
const MAX_CANDIDATES: usize = 4;

/// The unparsed `Cookie` fields of a request. HTTP/2 may send several (RFC 9113, 8.2.3).
///
/// The fields keep the server's read buffer of the request alive, so the first load must drop the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields(SmallVec<[HeaderValue; 1]>);

impl Fields {
    /// Clones the fields, and marks them as sensitive: `Debug` does not print sensitive fields, and HTTP/2 keeps them
    /// out of its header tables (RFC 7541, 7.1.3). Returns `None` for a request without cookies.
    ///
    /// Every request pays for this call, so a request without repeated headers costs one look-up. `HeaderMap::entry`
    /// would reserve room for an absent field, and panic in a map that is full.
    pub(crate) fn note(headers: &mut HeaderMap) -> Option<Self> {
        let note = |field: &mut HeaderValue| {
            field.set_sensitive(true);
            field.clone()
        };
        let noted: SmallVec<_> = match headers.len() == headers.keys_len() {
            true => headers.get_mut(COOKIE).map(note).into_iter().collect(),
            false => headers.iter_mut().filter(|(name, _)| *name == COOKIE).map(|(_, field)| note(field)).collect(),
        };
        (!noted.is_empty()).then_some(Self(noted))
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(HeaderValue::as_bytes)
    }
}

/// The values that a request brings under the cookie's name.
#[derive(Clone, Debug)]
pub(crate) enum Scan<'a> {
    Absent,
    Found(Candidates<'a>),
    /// The request is over a cap on bytes or pairs. No value of such a request is used.
    Capped,
}

/// One to four different values, in the order of the request.
#[derive(Clone)]
pub(crate) struct Candidates<'a> {
    values: SmallVec<[&'a [u8]; MAX_CANDIDATES]>,
    /// Whether the request brings more different values than [`MAX_CANDIDATES`].
    pub(crate) cut: bool,
}

impl<'a> Candidates<'a> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        self.values.iter().copied()
    }

    /// Returns the only value, or `None` if there are several.
    pub(crate) fn only(&self) -> Option<&'a [u8]> {
        match *self.values {
            [value] => Some(value),
            _ => None,
        }
    }

    fn add(&mut self, value: &'a [u8]) {
        if self.values.contains(&value) {
            return;
        }
        match self.values.len() < MAX_CANDIDATES {
            true => self.values.push(value),
            false => self.cut = true,
        }
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Candidates({})", self.values.len())
    }
}

/// The name of the session cookie.
#[derive(Clone, Debug)]
pub(crate) struct Name(Box<[u8]>);

impl Name {
    /// Takes a name that `build()` has checked: without `;`, `=` and blanks.
    pub(crate) fn new(name: &str) -> Self {
        Self(name.as_bytes().into())
    }

    /// Collects the values of all pairs of this name, from every `Cookie` field.
    ///
    /// The comparison is by bytes: `%5F%5FHost-` is not `__Host-`, and neither is `__host-` (CVE-2020-7070). A piece
    /// that is no pair, or has no name, is skipped by itself. One pair of double quotes around a value is removed: the
    /// server grammar allows quotes (RFC 6265, section 4.1.1), and clients of RFC 2965 add them
    /// (`java.net.CookieManager`). No token contains a quote, so two different tokens never become equal.
    pub(crate) fn scan<'a>(&self, fields: &'a Fields) -> Scan<'a> {
        if fields.iter().map(<[u8]>::len).sum::<usize>() > MAX_BYTES {
            return Scan::Capped;
        }
        let mut found = Candidates { values: SmallVec::new(), cut: false };
        let mut left = MAX_PAIRS;
        for field in fields.iter() {
            for pair in pairs(field) {
                let Some(after) = left.checked_sub(1) else { return Scan::Capped };
                left = after;
                if let Some(value) = self.value(pair) {
                    found.add(value);
                }
            }
        }
        if found.values.is_empty() { Scan::Absent } else { Scan::Found(found) }
    }

    /// Returns the value of a pair of this name. Only blanks may stand between the name and the equals sign.
    fn value<'a>(&self, pair: &'a [u8]) -> Option<&'a [u8]> {
        let value = trim_start(pair.strip_prefix(&*self.0)?).strip_prefix(b"=")?;
        Some(unquote(trim_start(trim_end(value))))
    }
}

const fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Splits a field at its semicolons. The pieces may be malformed.
fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    let next = move || {
        let field = rest?;
        let (pair, behind) = field.split_at(memchr(b';', field).unwrap_or(field.len()));
        rest = behind.get(1..);
        Some(trim_start(pair))
    };
    iter::from_fn(next).filter(|pair| !pair.is_empty())
}

// Both trim SP and HTAB alone: RFC 6265bis trims only WSP. A parser that also trims Unicode spaces lets a page plant a
// cookie such as `\u{2003}__Host-session`, which the browser's rule for the prefix does not cover.

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "__Host-session";

    fn note_fields(fields: &[impl AsRef<[u8]>]) -> Fields {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, HeaderValue::from_bytes(field.as_ref()).unwrap());
        }
        Fields::note(&mut headers).unwrap()
    }

    /// Returns the value of a pair as RFC 6265bis defines the value: the text behind the first equals sign.
    fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let (found, value) = pair.split_at(memchr(b'=', pair)?);
        let value = trim_start(&value[1..]);
        let quoted = value.len() > 1 && value.starts_with(b"\"") && value.ends_with(b"\"");
        let inner = if quoted { &value[1..value.len() - 1] } else { value };
        (trim_end(found) == name.as_bytes()).then_some(inner)
    }

    /// Returns the found values as text, or `None` for a request over a cap.
    fn found(fields: &[impl AsRef<[u8]>]) -> Option<Vec<String>> {
        match Name::new(NAME).scan(&note_fields(fields)) {
            Scan::Absent => Some(Vec::new()),
            Scan::Found(found) => Some(found.iter().map(|value| String::from_utf8_lossy(value).into()).collect()),
            Scan::Capped => None,
        }
    }

    #[test]
    fn only_exact_name_matches() {
        let ours = [
            "__Host-session=x",
            " \t__Host-session=x\t ",
            "__Host-session \t=\t x",
            "a=b;__Host-session=x;c=d",
            "a=b; __Host-session=x; c=d;",
            "garbage; ; =; ==; =y; a; __Host-session=x; __Host-session; \"; ,",
            "$Version=1; __Host-session=x; $Path=/",
            "$Version=\"1\"; __Host-session=\"x\";$Path=\"/\"",
        ];
        for field in ours {
            assert_eq!(found(&[field]).unwrap(), ["x"], "{field}");
        }
        let others = [
            "",
            ";",
            "=",
            "=x",
            "x",
            "__Host-session",
            "%5F%5FHost-session=x",
            "__Host%2Dsession=x",
            "\u{a0}__Host-session=x",
            "\u{85}__Host-session=x",
            "\u{2003}__Host-session=x",
            "\u{3000}__Host-session=x",
            "\u{feff}__Host-session=x",
            "__Host-session\u{a0}=x",
            "=__Host-session=x",
            " = __Host-session=x",
            "$Version=1, __Host-session=x",
            "$Version=__Host-session=x",
            "$__Host-session=x",
            "\"__Host-session\"=x",
            "__Host-session2=x",
            "x__Host-session=x",
            "x __Host-session=x",
            "__Host-session =",
            "session=x",
            "__Host-=x",
            "__host-session=x",
            "__HOST-SESSION=x",
            "__Host-Session=x",
            "a=\"; b=__Host-session=x\"",
            "a=__Host-session=x",
            "__Host-session:x",
        ];
        for field in others {
            let found = found(&[field]).unwrap();
            assert!(found.iter().all(String::is_empty), "{field:?}: {found:?}");
        }
        // `HeaderValue` refuses control characters already; the scan would not trim them either.
        for control in ["\x0b", "\x0c", "\0", "\r", "\n", "\x1f"] {
            let field = format!("{control}__Host-session=x");
            assert_eq!(value_of(field.as_bytes(), NAME), None, "{control:?}");
            assert_eq!(pairs(field.as_bytes()).next(), Some(field.as_bytes()));
        }
    }

    proptest! {
        /// Covers names that overlap themselves, and all characters that can stand around a name.
        #[test]
        fn values_follow_rfc_6265bis(
            name in "a|aa|aba|s-s",
            field in proptest::collection::vec(prop_oneof!["a|aa|aba|s-s|b|x", "[ =;\t\"\u{a0}]{1,2}"], 0..24),
        ) {
            let field = field.concat();
            let pairs_by_rfc = field.as_bytes().split(|byte| *byte == b';');
            let by_rfc = pairs_by_rfc.filter_map(|pair| value_of(trim_start(trim_end(pair)), &name));
            let by_rfc: Vec<_> = by_rfc.collect();
            let name = Name::new(&name);
            let found = pairs(field.as_bytes()).filter_map(|pair| name.value(pair));
            prop_assert_eq!(found.collect::<Vec<_>>(), by_rfc);
        }
    }

    #[test]
    fn scan_keeps_value_bytes() {
        for (sent, value) in [("\"\"x\"\"", "\"x\""), ("\"", "\""), ("\"x", "\"x"), ("\"\"", "")] {
            assert_eq!(
                found(&[format!("__Host-session={sent}; c=d")]).unwrap(),
                [value],
                "the scan removes a single pair of quotes"
            );
        }
        for value in ["a=b=", "%41", "x y", "é", ""] {
            assert_eq!(found(&[format!("a=b; __Host-session= {value} ; c=d")]).unwrap(), [value]);
        }
        let fields = note_fields(&[b"\xff=\xfe; __Host-session=\xff\xfe; \x80"]);
        let Scan::Found(found) = Name::new(NAME).scan(&fields) else { panic!() };
        assert_eq!(found.iter().collect::<Vec<_>>(), [b"\xff\xfe"]);
        assert!(Fields::note(&mut HeaderMap::new()).is_none());
    }

    #[test]
    fn equal_values_count_once_across_fields() {
        let fields = ["a=b", "__Host-session=1; x", "__Host-session=2; __Host-session=1", "", "__Host-session=2"];
        assert_eq!(found(&fields).unwrap(), ["1", "2"]);
    }

    #[test]
    fn every_cookie_field_becomes_sensitive() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("accept", "a"), ("cookie", "a=b"), ("accept", "b"), ("cookie", ""), ("cookie", "c=d")] {
            headers.append(name, HeaderValue::from_static(value));
            let fields = Fields::note(&mut headers).map_or(Vec::new(), |Fields(fields)| fields.into_vec());
            assert_eq!(fields, headers.get_all(COOKIE).iter().cloned().collect::<Vec<_>>());
            assert!(fields.iter().chain(headers.get_all(COOKIE)).all(HeaderValue::is_sensitive));
            assert!(headers.get_all("accept").iter().all(|accept| !accept.is_sensitive()));
        }
    }

    #[test]
    fn scan_keeps_four_different_values() {
        let fields = ["5", "4", "5", "3", "2", "1", "0", "4"].map(|value| format!("__Host-session={value}"));
        assert_eq!(found(&fields).unwrap(), ["5", "4", "3", "2"]);
        assert_eq!(found(&[fields.join(";")]).unwrap(), ["5", "4", "3", "2"]);
    }

    #[test]
    fn scan_over_a_cap_finds_nothing() {
        let ours = "__Host-session=x";
        let fill = |len| "y".repeat(len);
        let longest = fill(MAX_BYTES - ours.len());
        assert_eq!(found(&[ours, &longest]).unwrap(), ["x"]);
        assert_eq!(found(&[&longest, ours]).unwrap(), ["x"]);
        assert_eq!(found(&[ours, &longest, "z"]), None);
        assert_eq!(found(&[format!("{ours};{longest}")]), None);

        for separator in [";", "; ", ";;; ;"] {
            let pairs = format!("a=b{separator}").repeat(MAX_PAIRS - 1);
            assert_eq!(found(&[format!("{pairs}{ours}")]).unwrap(), ["x"]);
            assert_eq!(found(&[format!("{ours};{pairs}")]).unwrap(), ["x"]);
            assert_eq!(found(&[format!("{ours};{pairs}z")]), None);
            assert_eq!(found(&[ours, &pairs, "z"]), None);
        }
    }

    #[test]
    fn debug_hides_values() {
        let fields = note_fields(&["__Host-session=canary; __Host-session=canary2", "__Host-session=canary"]);
        assert_eq!(format!("{fields:?}"), "Fields([Sensitive, Sensitive])");
        let scan = Name::new(NAME).scan(&fields);
        assert_eq!(format!("{scan:?}"), "Found(Candidates(2))");
    }
}
