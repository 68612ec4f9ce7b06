//! Finds our cookie among a request's `Cookie` fields, in bytes: nothing is decoded, copied or put into a jar.
//!
//! The main thing is [`scan`]. What it finds is only what somebody sent under our name; the seal says what is genuine.

use std::{fmt, iter, ops::Range};

use http::{HeaderMap, HeaderValue, header::COOKIE};
use memchr::{memchr, memchr_iter};

/// Beyond these a request counts as one without a session (RUSTSEC-2023-0065 is what a header without caps can cost).
/// Chromium and Firefox keep at most 180 cookies of a site, and servers commonly take 16 KiB of headers in all.
const MAX_BYTES: usize = 16 << 10;
const MAX_PAIRS: usize = 180;

/// So many different values of our name are tried to open, each at the price of a seal.
const MAX_CANDIDATES: usize = 4;

/// What a request brings under our cookie's name.
#[derive(Clone, Debug)]
pub(crate) enum Scan {
    Absent,
    Found(Candidates),
    /// More bytes or pairs than are read. Nothing is known of it, and no part of it is used.
    Capped,
}

/// One to four different values, in the order in which they came. Each keeps its header field alive.
#[derive(Clone)]
pub(crate) struct Candidates {
    first: Candidate,
    /// Empty, and then without an allocation, unless somebody set our cookie twice.
    others: Vec<Candidate>,
}

#[derive(Clone)]
struct Candidate {
    field: HeaderValue,
    value: Range<usize>,
}

impl Candidate {
    fn as_bytes(&self) -> &[u8] {
        &self.field.as_bytes()[self.value.clone()]
    }
}

impl Candidates {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        iter::once(&self.first).chain(&self.others).map(Candidate::as_bytes)
    }

    fn add(&mut self, field: &HeaderValue, value: Range<usize>) {
        let known = self.iter().any(|known| known == &field.as_bytes()[value.clone()]);
        if !known && 1 + self.others.len() < MAX_CANDIDATES {
            self.others.push(Candidate { field: field.clone(), value });
        }
    }
}

impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Candidates({})", 1 + self.others.len())
    }
}

/// Looks through every `Cookie` field, of which HTTP/2 sends many (RFC 9113 section 8.2.3), for pairs of this name.
///
/// The name is compared as bytes: `%5F%5FHost-` is not `__Host-`, and neither is `__host-` (CVE-2020-7070). Anything
/// that is no pair, or has no name, is passed over alone. A value in double quotes keeps them (RFC 6265bis, section
/// 4.1.1: "they are part of the cookie-value"), and so is a candidate that never opens.
pub(crate) fn scan(headers: &HeaderMap, name: &str) -> Scan {
    let mut bytes = 0;
    let mut pairs = 0;
    let mut found: Option<Candidates> = None;
    for field in headers.get_all(COOKIE) {
        bytes += field.len();
        if bytes > MAX_BYTES {
            return Scan::Capped;
        }
        for pair in split(field.as_bytes()) {
            pairs += 1;
            if pairs > MAX_PAIRS {
                return Scan::Capped;
            }
            let Some(value) = value_of(field.as_bytes(), pair, name) else { continue };
            match &mut found {
                Some(candidates) => candidates.add(field, value),
                None => {
                    let first = Candidate { field: field.clone(), value };
                    found = Some(Candidates { first, others: Vec::new() });
                }
            }
        }
    }
    found.map_or(Scan::Absent, Scan::Found)
}

/// The pairs of one field, good or garbage, as ranges of its bytes.
fn split(field: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    memchr_iter(b';', field)
        .chain(iter::once(field.len()))
        .map(move |end| {
            let pair = start..end;
            start = end + 1;
            trim(field, pair)
        })
        .filter(|pair| !pair.is_empty())
}

fn value_of(field: &[u8], pair: Range<usize>, name: &str) -> Option<Range<usize>> {
    let equals = pair.start + memchr(b'=', &field[pair.clone()])?;
    let found = &field[trim(field, pair.start..equals)];
    (found == name.as_bytes()).then(|| trim(field, equals + 1..pair.end))
}

/// Takes SP and HTAB from both ends and nothing else: RFC 6265bis trims only WSP, and a parser that takes Unicode's
/// spaces too lets a page plant ` __Host-session` past the browser's rule for the prefix.
fn trim(field: &[u8], mut range: Range<usize>) -> Range<usize> {
    let blank = |at: usize| matches!(field[at], b' ' | b'\t');
    while !range.is_empty() && blank(range.start) {
        range.start += 1;
    }
    while !range.is_empty() && blank(range.end - 1) {
        range.end -= 1;
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "__Host-session";

    fn scan_fields(fields: &[impl AsRef<[u8]>]) -> Scan {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, HeaderValue::from_bytes(field.as_ref()).unwrap());
        }
        scan(&headers, NAME)
    }

    /// What was found, as text, `None` for a request that was not read.
    fn found(fields: &[impl AsRef<[u8]>]) -> Option<Vec<String>> {
        match scan_fields(fields) {
            Scan::Absent => Some(Vec::new()),
            Scan::Found(found) => Some(found.iter().map(|value| String::from_utf8_lossy(value).into()).collect()),
            Scan::Capped => None,
        }
    }

    #[test]
    fn only_the_exact_name_is_ours() {
        let ours = [
            "__Host-session=x",
            " \t__Host-session=x\t ",
            "__Host-session \t=\t x",
            "a=b;__Host-session=x;c=d",
            "a=b; __Host-session=x; c=d;",
            "garbage; ; =; ==; =y; a; __Host-session=x; __Host-session; \"; ,",
            "$Version=1; __Host-session=x; $Path=/",
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
        // Control characters don't get this far, for `HeaderValue` refuses them; the reader would refuse them too.
        for control in ["\x0b", "\x0c", "\0", "\r", "\n", "\x1f"] {
            let field = format!("{control}__Host-session=x");
            assert_eq!(value_of(field.as_bytes(), 0..field.len(), NAME), None, "{control:?}");
            assert_eq!(split(field.as_bytes()).next(), Some(0..field.len()));
        }
    }

    #[test]
    fn values_are_the_bytes_that_were_sent() {
        for value in ["\"x\"", "a=b=", "%41", "x y", "é", ""] {
            assert_eq!(found(&[format!("a=b; __Host-session= {value} ; c=d")]).unwrap(), [value]);
        }
        let Scan::Found(found) = scan_fields(&[b"\xff=\xfe; __Host-session=\xff\xfe; \x80"]) else { panic!() };
        assert_eq!(found.iter().collect::<Vec<_>>(), [b"\xff\xfe"]);
        assert!(matches!(scan(&HeaderMap::new(), NAME), Scan::Absent));
    }

    #[test]
    fn every_field_is_walked_and_equal_values_are_one() {
        let fields = ["a=b", "__Host-session=1; x", "__Host-session=2; __Host-session=1", "", "__Host-session=2"];
        assert_eq!(found(&fields).unwrap(), ["1", "2"]);
    }

    #[test]
    fn at_most_four_different_values_are_kept() {
        let fields = ["5", "4", "5", "3", "2", "1", "0", "4"].map(|value| format!("__Host-session={value}"));
        assert_eq!(found(&fields).unwrap(), ["5", "4", "3", "2"]);
        assert_eq!(found(&[fields.join(";")]).unwrap(), ["5", "4", "3", "2"]);
    }

    #[test]
    fn beyond_a_cap_nothing_is_found_wherever_ours_stands() {
        let ours = "__Host-session=x";
        let fill = |len| "y".repeat(len);
        let most = fill(MAX_BYTES - ours.len());
        assert_eq!(found(&[ours, &most]).unwrap(), ["x"]);
        assert_eq!(found(&[&most, ours]).unwrap(), ["x"]);
        assert_eq!(found(&[ours, &most, "z"]), None);
        assert_eq!(found(&[format!("{ours};{most}")]), None);

        for separator in [";", "; ", ";;; ;"] {
            let pairs = format!("a=b{separator}").repeat(MAX_PAIRS - 1);
            assert_eq!(found(&[format!("{pairs}{ours}")]).unwrap(), ["x"]);
            assert_eq!(found(&[format!("{ours};{pairs}")]).unwrap(), ["x"]);
            assert_eq!(found(&[format!("{ours};{pairs}z")]), None);
            assert_eq!(found(&[ours, &pairs, "z"]), None);
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let scan = scan_fields(&["__Host-session=canary; __Host-session=canary2"]);
        assert_eq!(format!("{scan:?}"), "Found(Candidates(2))");
    }
}
