//! The payload of a token: the session's lifetimes, the order of a turn token, and the values with their versions.
//!
//! Every field has a fixed width and is big-endian. Times are milliseconds since 1970 in 6 bytes, versions take 8
//! bytes.
//!
//! | bytes | field |
//! |--:|---|
//! | 1 | flags: 1 the cookie ends with the browser, 2 a principal's tag follows, 4 a predecessor follows, 8 the predecessor's end ends this session, 16 an order follows |
//! | 8 | generation: the shared store's stamp of the session's creation, 0 without a store |
//! | 6 | time at which the token was sealed |
//! | 6 | time of the session's creation |
//! | 6 | idle deadline |
//! | 6 | absolute deadline |
//! | 8 | birth: the version at which this id was made |
//! | 6 | idle lifetime in milliseconds |
//! | 8 | version of the session's own lifetime, 0 for the configured lifetime |
//! | 16 | principal's tag, if flagged |
//! | 32 | predecessor: the id that this session had until a renewal or a sign-in less than 60 s before the token was sealed, if flagged |
//! | | order, if flagged: see [`order`](super::order) |
//! | | entries, to the end of the payload |
//!
//! An entry is one value or one tombstone:
//!
//! | bytes | field |
//! |--:|---|
//! | 1 | flags: 1 the principal's, 2 a tombstone, 4 granted by the order |
//! | 1 | length of the name |
//! | n | name |
//! | 8 | version |
//! | 2 | length of the JSON, unless a tombstone |
//! | n | JSON, unless a tombstone |
//!
//! A node accepts a birth token once, and knows the token by its nonce: see [`seal`](super::seal).

use super::{
    order::Order,
    plaintext::PlaintextBuffer,
    reader::{Reader, TIME_LEN},
};
use crate::{
    id::{PrincipalTag, SessionId},
    record::{
        life::{LifeFields, Predecessor},
        values::StoredValue,
        write::entry_len,
    },
    time::{Millis, Wall},
    version::Version,
};

const ENDS_WITH_BROWSER: u8 = 1;
const HAS_PRINCIPAL: u8 = 2;
const HAS_PREDECESSOR: u8 = 4;
const SHARES_END: u8 = 8;
const HAS_ORDER: u8 = 16;
const PRINCIPALS: u8 = 1;
const TOMBSTONE: u8 = 2;
const GRANTED: u8 = 4;

/// The maximum bytes before the entries, without an order. Only turn tokens have an order, and turn tokens have a
/// separate bound.
pub(crate) const HEAD_MAX: usize = 1 + 8 + 4 * TIME_LEN + 8 + TIME_LEN + 8 + 16 + SessionId::LEN;

/// The fields before the entries, without the order.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) life: LifeFields<Wall>,
    pub(crate) issued: Wall,
    pub(crate) idle_deadline: Wall,
    pub(crate) principal: Option<PrincipalTag>,
    /// The id that the session had before its last renewal or sign-in, for as long as other nodes might not know of
    /// that change.
    pub(crate) predecessor: Option<Predecessor>,
}

/// The owner of an entry's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryOwner {
    Session,
    Principal,
    /// The session that an order begins.
    Begun,
}

impl EntryOwner {
    const fn flag(self) -> u8 {
        match self {
            Self::Session => 0,
            Self::Principal => PRINCIPALS,
            Self::Begun => GRANTED,
        }
    }
}

/// One value or tombstone, as a part of the payload's bytes.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) owner: EntryOwner,
    /// UTF-8.
    pub(crate) name: &'a [u8],
    pub(crate) version: Version,
    pub(crate) json: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    pub(crate) fn of(owner: EntryOwner, name: &'a str, stored: &'a StoredValue) -> Self {
        Self { owner, name: name.as_bytes(), version: stored.version, json: stored.json.as_deref() }
    }

    /// Returns the name as text, for a value that is not declared.
    pub(crate) fn text(&self) -> &'a str {
        std::str::from_utf8(self.name).unwrap_or_default()
    }

    /// Returns the entry's length in the payload, in bytes.
    pub(crate) fn len(&self) -> usize {
        entry_len(self.name.len(), self.json.map(<[u8]>::len))
    }
}

/// An opened payload. The entries stay in the opened buffer; only a merge copies an entry into a record.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) head: Head,
    /// The order of a turn token.
    pub(crate) order: Option<Box<Order>>,
    bytes: PlaintextBuffer,
    entries_at: usize,
    counts: [usize; 3],
}

impl Payload {
    pub(crate) fn entries(&self, owner: EntryOwner) -> impl Iterator<Item = Entry<'_>> + Clone {
        let all = read_entries(&self.bytes.as_slice()[self.entries_at..]);
        // `take` ends after the owner's last entry, so that the iterator does not read the rest again.
        all.filter(move |entry| entry.owner == owner).take(self.count(owner))
    }

    pub(crate) const fn count(&self, whose: EntryOwner) -> usize {
        self.counts[whose as usize]
    }
}

pub(crate) struct Writer {
    bytes: PlaintextBuffer,
    entries_at: usize,
}

impl Writer {
    /// Begins a payload. Only a turn token has an order.
    pub(crate) fn new(head: &Head, order: Option<&Order>) -> Self {
        let LifeFields { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation } =
            head.life;
        let mut flags = if ends_with_browser { ENDS_WITH_BROWSER } else { 0 };
        flags |= if head.principal.is_some() { HAS_PRINCIPAL } else { 0 };
        flags |= match &head.predecessor {
            None => 0,
            Some(predecessor) if predecessor.shares_end => HAS_PREDECESSOR | SHARES_END,
            Some(_) => HAS_PREDECESSOR,
        };
        flags |= if order.is_some() { HAS_ORDER } else { 0 };
        let idle = Millis::of_span(idle);
        // Room for a few values.
        let mut written = PlaintextBuffer::with_room(256);
        written.extend(&[flags]);
        written.extend(&generation.to_be_bytes());
        for time in [head.issued, created, head.idle_deadline, absolute_deadline] {
            written.extend(&time_bytes(time.0));
        }
        written.extend(&birth.as_u64().to_be_bytes());
        written.extend(&time_bytes(idle.0));
        written.extend(&lifetime_version.as_u64().to_be_bytes());
        if let Some(tag) = &head.principal {
            written.extend(tag);
        }
        if let Some(predecessor) = &head.predecessor {
            written.extend(predecessor.id.as_bytes());
        }
        if let Some(order) = order {
            written.extend(&order.to_bytes());
        }
        let entries_at = written.as_slice().len();
        Self { bytes: written, entries_at }
    }

    /// Adds an entry. Returns false, and adds nothing, if the JSON is longer than any token.
    pub(crate) fn entry(&mut self, entry: Entry<'_>) -> bool {
        let Entry { owner: whose, name, version, json } = entry;
        let Ok(json_len) = u16::try_from(json.map_or(0, <[u8]>::len)) else { return false };
        let tombstone = if json.is_none() { TOMBSTONE } else { 0 };
        let bytes = self.bytes.with_more(entry.len());
        bytes.extend_from_slice(&[whose.flag() | tombstone, name.len() as u8]);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&version.as_u64().to_be_bytes());
        if let Some(json) = json {
            bytes.extend_from_slice(&json_len.to_be_bytes());
            bytes.extend_from_slice(json);
        }
        true
    }

    /// Returns the written entries, of all owners.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        read_entries(&self.bytes.as_slice()[self.entries_at..])
    }

    /// Returns the length of the entries, in bytes.
    pub(crate) fn entries_len(&self) -> usize {
        self.bytes.as_slice().len() - self.entries_at
    }

    pub(crate) fn finish(self) -> PlaintextBuffer {
        self.bytes
    }
}

fn time_bytes(time: u64) -> [u8; TIME_LEN] {
    let [_, _, bytes @ ..] = time.min(Millis::MAX.0).to_be_bytes();
    bytes
}

/// Reads an authenticated payload. Returns `None` for a format that this build does not know; such a token counts as
/// absent.
pub(crate) fn read(bytes: PlaintextBuffer) -> Option<Payload> {
    let mut reader = Reader(bytes.as_slice());
    let flags = reader.byte()?;
    if flags & !(ENDS_WITH_BROWSER | HAS_PRINCIPAL | HAS_PREDECESSOR | SHARES_END | HAS_ORDER) != 0 {
        return None;
    }
    let generation = u64::from_be_bytes(reader.array()?);
    let [issued, created, idle_deadline, absolute_deadline] =
        [reader.wall()?, reader.wall()?, reader.wall()?, reader.wall()?];
    let birth = reader.version()?;
    let idle = std::time::Duration::from_millis(reader.wall()?.0);
    let lifetime_version = reader.version()?;
    let principal = if flags & HAS_PRINCIPAL == 0 { None } else { Some(reader.array()?) };
    let predecessor = match flags & (HAS_PREDECESSOR | SHARES_END) {
        0 => None,
        SHARES_END => return None,
        flags => Some(Predecessor { id: SessionId::from_bytes(reader.array()?), shares_end: flags & SHARES_END != 0 }),
    };
    let order = if flags & HAS_ORDER == 0 { None } else { Some(Box::new(Order::read(&mut reader)?)) };
    let ends_with_browser = flags & ENDS_WITH_BROWSER != 0;
    let life = LifeFields { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation };
    let head = Head { life, issued, idle_deadline, principal, predecessor };
    // Reads all entries before a caller uses any: a payload with a malformed entry counts in no part.
    let entries_at = bytes.as_slice().len() - reader.0.len();
    let mut counts = [0; 3];
    while !reader.0.is_empty() {
        let entry = read_entry(&mut reader)?;
        if !entry.name.is_ascii() && std::str::from_utf8(entry.name).is_err() {
            return None;
        }
        counts[entry.owner as usize] += 1;
    }
    Some(Payload { head, order, bytes, entries_at, counts })
}

fn read_entries(bytes: &[u8]) -> impl Iterator<Item = Entry<'_>> + Clone {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || read_entry(&mut reader))
}

/// Reads one entry. Returns `None` if the bytes are no entry.
fn read_entry<'a>(reader: &mut Reader<'a>) -> Option<Entry<'a>> {
    let flags = reader.byte()?;
    let (whose, tombstone) = match flags {
        0 => (EntryOwner::Session, false),
        TOMBSTONE => (EntryOwner::Session, true),
        PRINCIPALS => (EntryOwner::Principal, false),
        3 => (EntryOwner::Principal, true),
        GRANTED => (EntryOwner::Begun, false),
        _ => return None,
    };
    let name = reader.name()?;
    let version = reader.version()?;
    let json = match tombstone {
        true => None,
        false => {
            let len = u16::from_be_bytes(reader.array()?);
            Some(reader.take(usize::from(len))?)
        }
    };
    Some(Entry { owner: whose, name, version, json })
}

#[cfg(test)]
mod tests;
