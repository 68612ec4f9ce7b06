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

use super::unsealed::Unsealed;
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

/// One value, where it stands in a payload.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) whose: Whose,
    /// UTF-8.
    pub(crate) name: &'a [u8],
    pub(crate) version: Version,
    pub(crate) json: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    pub(crate) fn of(whose: Whose, name: &'a str, kept: &'a Kept) -> Self {
        Self { whose, name: name.as_bytes(), version: kept.version, json: kept.json.as_deref() }
    }

    /// The name, of a value that no declaration names.
    pub(crate) fn text(&self) -> &'a str {
        std::str::from_utf8(self.name).unwrap_or_default()
    }

    /// A copy of it.
    pub(crate) fn kept(&self, now: Millis) -> Kept {
        Kept::new(self.version, self.json.map(Json::from), now)
    }

    /// How many bytes it takes.
    pub(crate) fn len(&self) -> usize {
        len_of(self.name.len(), self.json.map(<[u8]>::len))
    }
}

/// What a seal held. The entries stay where they were opened, and are copied only into the records that take them.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) head: Head,
    bytes: Unsealed,
    entries_at: usize,
    sessions: usize,
    principals: usize,
}

impl Payload {
    pub(crate) fn entries(&self, whose: Whose) -> Entries<'_> {
        let left = self.count(whose);
        Entries { reader: Reader(&self.bytes.as_slice()[self.entries_at..]), whose, left }
    }

    pub(crate) const fn count(&self, whose: Whose) -> usize {
        match whose {
            Whose::Session => self.sessions,
            Whose::Principal => self.principals,
        }
    }
}

/// The entries of one owner.
#[derive(Clone)]
pub(crate) struct Entries<'a> {
    reader: Reader<'a>,
    whose: Whose,
    left: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        // So that nothing is read again behind the last one, or for an owner who has none.
        self.left = self.left.checked_sub(1)?;
        loop {
            let entry = self.reader.entry()?;
            if entry.whose == self.whose {
                return Some(entry);
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

pub(crate) struct Writer {
    bytes: Unsealed,
    entries_at: usize,
}

impl Writer {
    pub(crate) fn new(head: &Head) -> Self {
        // Field by field in one place, and then at once: each addition to a payload asks for room.
        let (mut bytes, mut len) = ([0; HEAD_MAX], 0);
        let Told { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation } =
            head.life.told();
        for number in [generation, head.issued.0, created.0, head.idle_deadline.0, absolute_deadline.0] {
            len += put(number, &mut bytes[len..]);
        }
        len += put_all(&birth.as_u64().to_be_bytes(), &mut bytes[len..]);
        len += put(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX), &mut bytes[len..]);
        let browser = if ends_with_browser { ENDS_WITH_BROWSER } else { 0 };
        let principal = if head.principal.is_some() { HAS_PRINCIPAL } else { 0 };
        len += put_all(&[browser | principal], &mut bytes[len..]);
        len += put_all(&lifetime_version.as_u64().to_be_bytes(), &mut bytes[len..]);
        if let Some(tag) = &head.principal {
            len += put_all(tag, &mut bytes[len..]);
        }
        // Enough for a few values.
        let mut written = Unsealed::with_room(256);
        written.extend(&bytes[..len]);
        Self { bytes: written, entries_at: len }
    }

    pub(crate) fn entry(&mut self, entry: Entry<'_>) {
        let Entry { whose, name, version, json } = entry;
        let principals = if whose == Whose::Principal { PRINCIPALS } else { 0 };
        let tombstone = if json.is_none() { TOMBSTONE } else { 0 };
        let bytes = self.bytes.with_more(entry.len());
        bytes.extend_from_slice(&[principals | tombstone, name.len() as u8]);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&version.as_u64().to_be_bytes());
        if let Some(json) = json {
            let mut len = [0; 10];
            let places = put(json.len() as u64, &mut len);
            bytes.extend_from_slice(&len[..places]);
            bytes.extend_from_slice(json);
        }
    }

    /// What has been written, of both owners.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut reader = Reader(&self.bytes.as_slice()[self.entries_at..]);
        std::iter::from_fn(move || reader.entry())
    }

    /// How many bytes the entries take.
    pub(crate) fn entries_len(&self) -> usize {
        self.bytes.as_slice().len() - self.entries_at
    }

    pub(crate) fn finish(self) -> Unsealed {
        self.bytes
    }
}

/// Writes a field of fixed length, and gives that.
fn put_all<const LEN: usize>(field: &[u8; LEN], bytes: &mut [u8]) -> usize {
    bytes[..LEN].copy_from_slice(field);
    LEN
}

/// Writes a number, and gives how many bytes it took.
fn put(mut number: u64, bytes: &mut [u8]) -> usize {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = number as u8 & 0x7f;
        number >>= 7;
        if number == 0 {
            return at + 1;
        }
        *byte |= 0x80;
    }
    bytes.len()
}

/// A one in each byte.
const ONES: u64 = u64::MAX / 0xff;

/// The sevens of eight bytes, together.
const fn gather(bytes: u64) -> u64 {
    let quarters = bytes & 0x007f_007f_007f_007f | (bytes & 0x7f00_7f00_7f00_7f00) >> 1;
    let halves = quarters & 0x0000_3fff_0000_3fff | (quarters & 0x3fff_0000_3fff_0000) >> 2;
    halves & 0x0fff_ffff | (halves & 0x0fff_ffff_0000_0000) >> 4
}

/// How many bytes an entry takes.
pub(crate) fn entry_len(name: &str, json: Option<&Json>) -> usize {
    len_of(name.len(), json.map(|json| json.len()))
}

fn len_of(name: usize, json: Option<usize>) -> usize {
    let number_len = |number: usize| (number.max(1).ilog2() / 7 + 1) as usize;
    2 + name + 8 + json.map_or(0, |len| number_len(len) + len)
}

/// Reads a payload that a seal of ours vouched for. `None` is a format that this build does not know: as good as no
/// cookie.
pub(crate) fn read(bytes: Unsealed) -> Option<Payload> {
    let mut reader = Reader(bytes.as_slice());
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
    let head = Head { life: Life::from(told), issued, idle_deadline, principal };
    // All of them before any is taken: what ends in something else is taken in no part.
    let entries_at = bytes.as_slice().len() - reader.0.len();
    let (mut sessions, mut principals) = (0, 0);
    while !reader.0.is_empty() {
        let entry = reader.entry()?;
        if !entry.name.is_ascii() && std::str::from_utf8(entry.name).is_err() {
            return None;
        }
        match entry.whose {
            Whose::Session => sessions += 1,
            Whose::Principal => principals += 1,
        }
    }
    Some(Payload { head, bytes, entries_at, sessions, principals })
}

#[derive(Clone, Copy)]
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
        // Eight bytes at once where there are as many: a head has six numbers, which took 370 instructions byte by byte.
        if let Some((eight, _)) = self.0.split_first_chunk() {
            let bytes = u64::from_le_bytes(*eight);
            let ends = !bytes & ONES << 7;
            if ends != 0 {
                let bits = ends.trailing_zeros() + 1;
                self.0 = &self.0[bits as usize / 8..];
                return Some(gather(bytes & u64::MAX >> (64 - bits)));
            }
        }
        let mut number = 0;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            let part = u64::from(byte & 0x7f);
            // Nine bytes hold 63 bits.
            if at == 9 && part > 1 {
                return None;
            }
            number |= part << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Some(number);
            }
        }
        None
    }

    fn millis(&mut self) -> Option<Millis> {
        self.number().filter(|millis| *millis <= Millis::MAX.0).map(Millis)
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let flags = self.byte()?;
        if flags & !(PRINCIPALS | TOMBSTONE) != 0 {
            return None;
        }
        let len = usize::from(self.byte()?);
        if len > MAX_NAME {
            return None;
        }
        let name = self.take(len)?;
        let version = self.version()?;
        let json = match flags & TOMBSTONE {
            0 => {
                let len = usize::try_from(self.number()?).ok()?;
                Some(self.take(len)?)
            }
            _ => None,
        };
        let whose = if flags & PRINCIPALS != 0 { Whose::Principal } else { Whose::Session };
        Some(Entry { whose, name, version, json })
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
        assert!(writer.entries_at <= HEAD_MAX);
        let expected: usize = entries.iter().map(|(_, name, kept)| entry_len(name, kept.json.as_ref())).sum();
        for (whose, name, kept) in &entries {
            writer.entry(Entry::of(*whose, name, kept));
        }
        assert_eq!(writer.entries_len(), expected);
        assert_eq!(writer.entries().map(|entry| entry.len()).sum::<usize>(), expected);
        writer.finish().as_slice().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Payload> {
        let mut unsealed = Unsealed::with_room(0);
        unsealed.extend(bytes);
        super::read(unsealed)
    }

    #[test]
    fn what_is_written_is_read() {
        let (head, entries) = sample();
        let payload = read(&bytes()).unwrap();
        assert_eq!(format!("{:?}", payload.head), format!("{head:?}"));
        for whose in [Whose::Session, Whose::Principal] {
            let read =
                payload.entries(whose).map(|entry| (entry.whose, entry.text(), entry.kept(Millis(u64::MAX >> 20))));
            let expected: Vec<_> = entries.iter().filter(|entry| entry.0 == whose).cloned().collect();
            assert_eq!((payload.count(whose), read.collect::<Vec<_>>()), (expected.len(), expected));
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written_and_none_that_is_too_large() {
        for number in (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, u64::MAX >> bit]) {
            let mut bytes = [0; 10];
            let len = put(number, &mut bytes);
            let written = &bytes[..len];
            // The last of all, and with others behind it.
            for behind in [[].as_slice(), &[0xff; 8]] {
                let followed = [written, behind].concat();
                let mut reader = Reader(&followed);
                assert_eq!((reader.number(), reader.0), (Some(number), behind));
            }
            assert_eq!(Reader(&written[..len - 1]).number(), None);
            let half = number / 2;
            assert_eq!(len_of(0, Some(half as usize)) - 10 - half as usize, put(half, &mut bytes));
        }
        let more = |last| [[0xff; 9].as_slice(), last].concat();
        assert_eq!(Reader(&more(&[1])).number(), Some(u64::MAX));
        for last in [[2].as_slice(), &[0x7f], &[0x81], &[0x80, 0]] {
            assert_eq!(Reader(&more(last)).number(), None, "{last:?}");
        }
    }

    #[test]
    fn a_payload_that_ends_in_something_else_is_refused_as_a_whole() {
        let whole = bytes();
        for rest in
            [b"\x00".as_slice(), b"\x04\x01a12345678\x00", b"\x02\x01\xff12345678", b"\x00\x01a12345678\x02\x31"]
        {
            assert!(read(&[&whole, rest].concat()).is_none(), "{rest:?}");
        }
        assert_eq!(read(&[&whole, b"\x02\x01a12345678".as_slice()].concat()).unwrap().count(Whose::Session), 3);
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
            let _ = read(&whole[..len]);
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let _ = read(&changed);
            }
        }
    }
}
