//! What is inside a seal: the session's lifetimes, and the values with their versions.
//!
//! Numbers are LEB128 (at most ten bytes) unless fixed. In this order:
//!
//! | field | form |
//! |---|---|
//! | generation, issued at, created at, idle deadline, absolute deadline | number; the times in milliseconds since 1970 |
//! | birth | version, 8 bytes, big-endian |
//! | idle lifetime | number of milliseconds |
//! | flags | 1 byte: 1 the cookie ends with the browser, 2 a principal's tag follows |
//! | lifetime's version | 8 bytes |
//! | principal's tag | 16 bytes, if flagged |
//! | entries, to the end | flags (1 principal's, 2 tombstone), length of name, name, version, and unless a tombstone: length, JSON |

use crate::{
    chain::{
        life::{Life, Told},
        values::Kept,
    },
    value::{Json, MAX_NAME},
    version::{Millis, Version},
};

const ENDS_WITH_BROWSER: u8 = 1;
const HAS_PRINCIPAL: u8 = 2;
const PRINCIPALS: u8 = 1;
const TOMBSTONE: u8 = 2;

/// The longest that everything before the entries can be.
pub(crate) const HEAD_MAX: usize = 5 * 10 + 8 + 10 + 1 + 8 + 16;

/// Everything but the entries.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) life: Life,
    pub(crate) issued: Millis,
    pub(crate) idle_deadline: Millis,
    pub(crate) principal: Option<[u8; 16]>,
}

impl Head {
    /// The last use that it tells of. When it was sealed says nothing of that.
    pub(crate) fn used(&self, now: Millis) -> Millis {
        self.idle_deadline.before(self.life.idle()).min(now)
    }
}

/// Which of the two owners that a cookie can speak for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Session,
    Principal,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) whose: Whose,
    pub(crate) name: Box<str>,
    pub(crate) kept: Kept,
}

#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) head: Head,
    pub(crate) entries: Vec<Entry>,
}

pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(head: &Head) -> Self {
        let mut writer = Self(Vec::with_capacity(256));
        let Told { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation } =
            head.life.told();
        for number in [generation, head.issued.0, created.0, head.idle_deadline.0, absolute_deadline.0] {
            writer.number(number);
        }
        writer.version(birth);
        writer.number(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        let browser = if ends_with_browser { ENDS_WITH_BROWSER } else { 0 };
        let principal = if head.principal.is_some() { HAS_PRINCIPAL } else { 0 };
        writer.0.push(browser | principal);
        writer.version(lifetime_version);
        writer.0.extend_from_slice(head.principal.as_ref().map_or(&[], |tag| tag.as_slice()));
        writer
    }

    pub(crate) fn entry(&mut self, whose: Whose, name: &str, kept: &Kept) {
        let principals = if whose == Whose::Principal { PRINCIPALS } else { 0 };
        let tombstone = if kept.json.is_none() { TOMBSTONE } else { 0 };
        self.0.extend_from_slice(&[principals | tombstone, name.len() as u8]);
        self.0.extend_from_slice(name.as_bytes());
        self.version(kept.version);
        if let Some(json) = &kept.json {
            self.number(json.len() as u64);
            self.0.extend_from_slice(json);
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn version(&mut self, version: Version) {
        self.0.extend_from_slice(&version.as_u64().to_be_bytes());
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

/// How many bytes an entry takes.
pub(crate) fn entry_len(name: &str, json: Option<&Json>) -> usize {
    let number_len = |number: usize| (number.max(1).ilog2() / 7 + 1) as usize;
    2 + name.len() + 8 + json.map_or(0, |json| number_len(json.len()) + json.len())
}

/// Reads a payload that a seal of ours vouched for. `None` is a format that this build does not know: as good as no
/// cookie.
pub(crate) fn read(bytes: &[u8], now: Millis) -> Option<Payload> {
    let mut reader = Reader(bytes);
    let generation = reader.number()?;
    let [issued, created, idle_deadline, absolute_deadline] =
        [reader.millis()?, reader.millis()?, reader.millis()?, reader.millis()?];
    let birth = reader.version()?;
    let idle = std::time::Duration::from_millis(reader.number()?);
    let flags = reader.byte()?;
    if flags & !(ENDS_WITH_BROWSER | HAS_PRINCIPAL) != 0 {
        return None;
    }
    let lifetime_version = reader.version()?;
    let principal = match flags & HAS_PRINCIPAL {
        0 => None,
        _ => Some(*reader.take(16)?.first_chunk()?),
    };
    let ends_with_browser = flags & ENDS_WITH_BROWSER != 0;
    let told = Told { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation };
    let life = Life::from(told);
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        entries.push(reader.entry(now)?);
    }
    Some(Payload { head: Head { life, issued, idle_deadline, principal }, entries })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn version(&mut self) -> Option<Version> {
        self.take(8)?.first_chunk().map(|bytes| Version::from_u64(u64::from_be_bytes(*bytes)))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |=
                u64::from(byte & 0x7f).checked_shl(shift).filter(|part| part >> shift == u64::from(byte & 0x7f))?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn millis(&mut self) -> Option<Millis> {
        self.number().filter(|millis| *millis <= Millis::MAX.0).map(Millis)
    }

    fn entry(&mut self, now: Millis) -> Option<Entry> {
        let flags = self.byte()?;
        if flags & !(PRINCIPALS | TOMBSTONE) != 0 {
            return None;
        }
        let len = usize::from(self.byte()?);
        if len > MAX_NAME {
            return None;
        }
        let name = std::str::from_utf8(self.take(len)?).ok()?.into();
        let version = self.version()?;
        let json = match flags & TOMBSTONE {
            0 => {
                let len = usize::try_from(self.number()?).ok()?;
                Some(Json::from(self.take(len)?))
            }
            _ => None,
        };
        let whose = if flags & PRINCIPALS != 0 { Whose::Principal } else { Whose::Session };
        Some(Entry { whose, name, kept: Kept::new(version, json, now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample() -> (Head, Vec<(Whose, &'static str, Kept)>) {
        let now = Millis(1_900_000_000_000);
        let life = Life::from(Told {
            created: Millis(1_899_000_000_000),
            birth: Version::at(Millis(1_899_000_000_000)),
            absolute_deadline: Millis(1_902_000_000_000),
            idle: Duration::from_secs(172_800),
            ends_with_browser: true,
            lifetime_version: Version::at(now),
            generation: 3,
        });
        let head = Head { life, issued: now, idle_deadline: Millis(now.0 + 172_800_000), principal: Some([7; 16]) };
        let value = Kept::new(Version::at(now), Some(Json::from(&b"7"[..])), now);
        let tombstone = Kept::new(Version::at(now).next(), None, now);
        let long = Kept::new(Version::at(now), Some(Json::from(&[b'1'; 300][..])), now);
        let entries = vec![
            (Whose::Principal, "current_division_id", value),
            (Whose::Session, "gone", tombstone),
            (Whose::Session, "long", long),
        ];
        (head, entries)
    }

    fn bytes() -> Vec<u8> {
        let (head, entries) = sample();
        let mut writer = Writer::new(&head);
        let before = writer.0.len();
        assert!(before <= HEAD_MAX);
        let expected: usize = entries.iter().map(|(_, name, kept)| entry_len(name, kept.json.as_ref())).sum();
        for (whose, name, kept) in &entries {
            writer.entry(*whose, name, kept);
        }
        assert_eq!(writer.0.len() - before, expected);
        writer.finish()
    }

    #[test]
    fn what_is_written_is_read() {
        let (head, entries) = sample();
        let payload = read(&bytes(), Millis(u64::MAX >> 20)).unwrap();
        assert_eq!(format!("{:?}", payload.head), format!("{head:?}"));
        for (entry, (whose, name, kept)) in payload.entries.iter().zip(&entries) {
            assert_eq!((entry.whose, &*entry.name, &entry.kept), (*whose, *name, kept));
        }
        assert_eq!(payload.entries.len(), entries.len());
    }

    #[test]
    fn the_format_never_changes() {
        const VECTOR: &str = concat!(
            "0380f0cc86a63780dce1a9a23780e0ffd8a6378098a3c0ad3701ba25386e00000080f0b2520301ba60d3380000",
            "0007070707070707070707070707070707011363757272656e745f6469766973696f6e5f696401ba60d3380000",
            "0001370204676f6e6501ba60d33800000100046c6f6e6701ba60d338000000ac02",
        );
        let mut hex = String::new();
        bytes().iter().for_each(|byte| hex.push_str(&format!("{byte:02x}")));
        // The last entry's 300 ones are left out.
        assert_eq!(&hex[..hex.len() - 600], VECTOR);
    }

    #[test]
    fn a_cut_or_changed_payload_never_panics() {
        let whole = bytes();
        for len in 0..whole.len() {
            let _ = read(&whole[..len], Millis(0));
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let _ = read(&changed, Millis(0));
            }
        }
    }
}
