//! The bytes of a record in Redis, as the scripts read and write them.
//!
//! A record is a hash under the key `{prefix}:{owner}`. The field `@` is the header, each other field an entry. All
//! numbers are big-endian; times and spans are milliseconds.
//!
//! | header of a live record | bytes | header of an ended record | bytes |
//! |---|---|---|---|
//! | format: 1 | 1 | format: 1 | 1 |
//! | state: 1 | 1 | state: 2 | 1 |
//! | newest version | 8 | newest version | 8 |
//! | generation | 8 | generation | 8 |
//! | expiry | 6 | expiry | 6 |
//! | not-before | 8 | reason | 1 |
//! | lifetime: 1 if set, and 2 if until the browser closes | 1 | time of the end | 6 |
//! | absolute deadline, idle limit | 6, 6 | successor, if the record has one | 32 |
//! | version of the lifetime | 8 | | |
//!
//! An entry is the version (8), a byte that is 1 for a tombstone, and the JSON. Both headers have at most 64 bytes: with
//! a longer field, Redis takes more than twice the memory for the hash (`hash-max-listpack-value`).

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use redis::Value;

use super::super::{number_of, reason_of};
use crate::{
    error::{CloseReason, StoreError},
    tier::{OwnerId, StoredEnd, StoredLife, StoredRecord, Version},
    time::{Wall, whole_millis},
};

/// The field of the header.
pub(super) const HEADER: &str = "@";

const FORMAT: u8 = 1;
const LIVE: u8 = 1;
const ENDED: u8 = 2;
const HAS_LIFE: u8 = 1;
const ENDS_WITH_BROWSER: u8 = 2;
const TOMBSTONE: u8 = 1;

/// A record in Redis, or its absence.
#[derive(Debug)]
pub(super) enum Found {
    Absent,
    Live(StoredRecord),
    Ended(StoredEnd),
}

pub(super) fn key(prefix: &str, owner: &OwnerId) -> String {
    format!("{prefix}:{}", BASE64_URL_SAFE_NO_PAD.encode(owner.as_bytes()))
}

/// Returns the field of a value. A name that begins with `@` gets a second `@`, so that no name is the field of the
/// header.
pub(super) fn field(name: &str) -> Cow<'_, str> {
    if name.starts_with(HEADER) { Cow::Owned(format!("{HEADER}{name}")) } else { Cow::Borrowed(name) }
}

/// Returns the name of a value; `None` for a field that no store of this crate writes.
fn name(field: &[u8]) -> Option<&str> {
    let field = str::from_utf8(field).ok()?;
    match field.strip_prefix(HEADER) {
        None => Some(field),
        Some(name) => name.starts_with(HEADER).then_some(name),
    }
}

/// Returns an entry without its version.
pub(super) fn entry_tail(json: Option<&[u8]>) -> Vec<u8> {
    match json {
        Some(json) => [&[0], json].concat(),
        None => vec![TOMBSTONE],
    }
}

pub(super) fn version(version: Version) -> [u8; 8] {
    version.as_u64().to_be_bytes()
}

/// Reads the versions of a commit that was made: the stamp, the newest version and the generation.
pub(super) fn versions(bytes: &[u8]) -> Option<[Version; 3]> {
    let mut reader = Reader(bytes);
    let versions = [reader.version()?, reader.version()?, reader.version()?];
    reader.0.is_empty().then_some(versions)
}

/// Converts a span to whole milliseconds, rounded up: a store keeps a record for at least the span.
pub(super) fn span_millis(span: Duration) -> u64 {
    whole_millis(span.saturating_add(Duration::from_nanos(999_999))).min(MAX_MILLIS)
}

const MAX_MILLIS: u64 = (1 << 48) - 1;

fn six(millis: u64) -> [u8; 6] {
    let [_, _, rest @ ..] = millis.min(MAX_MILLIS).to_be_bytes();
    rest
}

pub(super) fn life(life: &StoredLife) -> Vec<u8> {
    let flags = HAS_LIFE | if life.ends_with_browser() { ENDS_WITH_BROWSER } else { 0 };
    let deadline = six(Wall::of(life.absolute_deadline()).0);
    [&[flags][..], &deadline, &six(whole_millis(life.idle())), &version(life.version())].concat()
}

/// Returns the reason of an end, and the successor.
pub(super) fn end(reason: CloseReason, successor: Option<OwnerId>) -> Vec<u8> {
    let mut bytes = vec![number_of(reason)];
    bytes.extend(successor.iter().flat_map(OwnerId::as_bytes));
    bytes
}

/// The rest of a header's bytes, read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| *byte)
    }

    fn version(&mut self) -> Option<Version> {
        self.take().map(|bytes| Version::from_u64(u64::from_be_bytes(*bytes)))
    }

    fn millis(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(self.take::<6>()?);
        Some(u64::from_be_bytes(bytes))
    }

    fn time(&mut self) -> Option<SystemTime> {
        self.millis().map(|millis| Wall(millis).time())
    }

    fn life(&mut self) -> Option<Option<StoredLife>> {
        let flags = self.byte()?;
        let (deadline, idle, version) = (self.time()?, self.millis()?, self.version()?);
        let life = StoredLife::new(deadline, Duration::from_millis(idle), version);
        Some((flags & HAS_LIFE != 0).then(|| life.until_browser_closes(flags & ENDS_WITH_BROWSER != 0)))
    }

    fn header(mut self) -> Option<Found> {
        let (format, state) = (self.byte()?, self.byte()?);
        let (newest, generation, expires) = (self.version()?, self.version()?, self.time()?);
        let found = match (format, state) {
            (FORMAT, LIVE) => {
                let record = StoredRecord::new(generation).with_newest(newest).with_expires(expires);
                let record = record.with_not_before(self.version()?);
                Found::Live(match self.life()? {
                    Some(life) => record.with_life(life),
                    None => record,
                })
            }
            (FORMAT, ENDED) => {
                let (reason, at) = (reason_of(self.byte()?)?, self.time()?);
                let successor = if self.0.is_empty() { None } else { Some(OwnerId::from_hash(*self.take()?)) };
                Found::Ended(StoredEnd::new(reason, at).with_successor(successor))
            }
            _ => return None,
        };
        self.0.is_empty().then_some(found)
    }
}

/// Decodes a header: the record without entries, or the end.
///
/// # Errors
///
/// For a header that this build does not know. The record stays as it is.
pub(super) fn header(bytes: &[u8]) -> Result<Found, StoreError> {
    Reader(bytes).header().ok_or_else(|| malformed("the record's header has an unknown format"))
}

/// Decodes the fields of a hash. An entry that is too short, and a field that no store of this crate writes, count as
/// absent: the next commit of the value replaces the entry.
pub(super) fn record(fields: Value) -> Result<Found, StoreError> {
    let fields = pairs(fields)?;
    let Some((_, bytes)) = fields.iter().find(|(field, _)| field == HEADER.as_bytes()) else {
        return Ok(Found::Absent);
    };
    let mut record = match header(bytes)? {
        Found::Live(record) => record,
        other => return Ok(other),
    };
    for (field, entry) in fields {
        let mut rest = Reader(&entry);
        if let (Some(name), Some(version), Some(flags)) = (name(&field), rest.version(), rest.byte()) {
            let json_at = entry.len() - rest.0.len();
            let json = (flags & TOMBSTONE == 0).then(|| Bytes::from(entry).slice(json_at..));
            record = record.with_entry(name, json, version);
        }
    }
    Ok(Found::Live(record))
}

/// A field with its bytes.
type Pair = (Vec<u8>, Vec<u8>);

/// Returns the fields of a hash with their bytes. RESP3 has maps, RESP2 and scripts have lists.
fn pairs(fields: Value) -> Result<Vec<Pair>, StoreError> {
    match fields {
        Value::Map(pairs) => pairs.into_iter().map(|(field, entry)| Ok((bytes(field)?, bytes(entry)?))).collect(),
        Value::Array(list) => {
            let mut list = list.into_iter();
            let mut pairs = Vec::with_capacity(list.len() / 2);
            while let (Some(field), Some(entry)) = (list.next(), list.next()) {
                pairs.push((bytes(field)?, bytes(entry)?));
            }
            Ok(pairs)
        }
        _ => Err(malformed("the server's answer is no hash")),
    }
}

pub(super) fn bytes(value: Value) -> Result<Vec<u8>, StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        _ => Err(malformed("the server's answer is no text")),
    }
}

pub(super) fn malformed(cause: &'static str) -> StoreError {
    StoreError::other(cause)
}

/// Decodes the answer of `TIME`: seconds and microseconds. The scripts cut the time to milliseconds too.
pub(super) fn server_time(answer: Value) -> Result<SystemTime, StoreError> {
    let (seconds, micros): (u64, u32) =
        redis::from_redis_value(answer).map_err(|_| malformed("the server gave no time"))?;
    let since = Duration::from_secs(seconds).saturating_add(Duration::from_millis((micros / 1000).into()));
    Ok(UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(fields: &[(&[u8], &[u8])]) -> Value {
        let both = fields.iter().flat_map(|(field, entry)| [field.to_vec(), entry.to_vec()]);
        Value::Array(both.map(Value::BulkString).collect())
    }

    fn live(newest: u64) -> Vec<u8> {
        let version = newest.to_be_bytes();
        [&[FORMAT, LIVE][..], &version, &version, &six(9), &[0; 8 + 21]].concat()
    }

    #[test]
    fn no_value_name_is_the_header() {
        for value in ["", "a", "@", "@@", "@a", "theme", "ä@"] {
            let field = field(value);
            assert_ne!(field, HEADER);
            assert_eq!(name(field.as_bytes()), Some(value));
        }
        assert_eq!((name(b"@"), name(b"@a"), name(b"\xff")), (None, None, None));
    }

    #[test]
    fn headers_fit_a_listpack() {
        assert_eq!(live(1).len(), 53);
        let ended = 24 + end(CloseReason::Renewed, Some(OwnerId::from_hash([1; 32]))).len() + 6;
        assert_eq!(ended, 63);
    }

    #[test]
    fn unknown_headers_are_errors() {
        let known = live(7);
        assert!(header(&known).is_ok());
        let mut ended = known[..24].to_vec();
        ended[1] = ENDED;
        ended.extend([&[2][..], &[0; 6]].concat());
        assert!(header(&ended).is_ok());
        for len in 0..known.len() {
            assert!(header(&known[..len]).is_err(), "{len}");
        }
        for (at, byte) in [(0, 0), (0, 2), (1, 0), (1, 2), (1, 3)] {
            let mut other = known.clone();
            other[at] = byte;
            assert!(header(&other).is_err(), "{at} {byte}");
        }
        assert!(header(&[&known[..], &[0]].concat()).is_err());
        ended[24] = 9;
        assert!(header(&ended).is_err());
    }

    #[test]
    fn malformed_entries_count_as_absent() {
        let entry = [&7_u64.to_be_bytes()[..], &[0], b"1"].concat();
        let fields: [(&[u8], &[u8]); 5] =
            [(b"@", &live(7)), (b"a", &entry), (b"b", b"short"), (b"\xff", &entry), (b"@c", &entry)];
        let Found::Live(record) = record(flat(&fields)).unwrap() else { panic!() };
        let entries: Vec<_> = record.entries().map(|entry| (entry.name(), entry.json())).collect();
        assert_eq!(entries, [("a", Some(&b"1"[..]))]);
        assert!(matches!(super::record(flat(&fields[1..])), Ok(Found::Absent)), "no header, no record");
        assert!(super::record(Value::Int(1)).is_err() && super::record(Value::Array(vec![Value::Nil; 2])).is_err());
    }

    #[test]
    fn spans_round_up_and_stay_in_range() {
        let spans = [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(1), Duration::MAX];
        assert_eq!(spans.map(span_millis), [0, 1, 1, MAX_MILLIS]);
    }
}
