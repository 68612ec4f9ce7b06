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
mod tests;
