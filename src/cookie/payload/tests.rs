//! The payload's format to the byte, and damaged payloads: each is read or refused without a panic.

use std::time::Duration;

use super::{
    super::order::{MAX_BEGUN, Named, Turn},
    *,
};
use crate::value::Json;

fn sample() -> (Head, Vec<(EntryOwner, &'static str, StoredValue)>) {
    let now = Wall(1_900_000_000_000);
    let life = LifeFields {
        created: Wall(1_899_000_000_000),
        birth: Version::at(Wall(1_899_000_000_000)),
        absolute_deadline: Wall(1_902_000_000_000),
        idle: Duration::from_secs(172_800),
        ends_with_browser: true,
        lifetime_version: Version::at(now),
        generation: 3,
    };
    let predecessor = Some(Predecessor { id: SessionId::from_bytes([9; 32]), shares_end: true });
    let idle_deadline = Wall(now.0 + 172_800_000);
    let head = Head { life, issued: now, idle_deadline, principal: Some([7; 16]), predecessor };
    let value = StoredValue::new(Version::at(now), Some(Json::from(&b"7"[..])), Millis(now.0));
    let tombstone = StoredValue::new(Version::at(now).next(), None, Millis(now.0));
    let long = StoredValue::new(Version::at(now), Some(Json::from(&[b'1'; 300][..])), Millis(now.0));
    let entries = vec![
        (EntryOwner::Principal, "current_division_id", value),
        (EntryOwner::Session, "gone", tombstone),
        (EntryOwner::Session, "long", long),
    ];
    (head, entries)
}

fn bytes() -> Vec<u8> {
    let (head, entries) = sample();
    let mut writer = Writer::new(&head, None);
    assert!(writer.entries_at <= HEAD_MAX);
    let expected: usize = entries
        .iter()
        .map(|(_, name, stored)| entry_len(name.len(), stored.json.as_ref().map(|json| json.len())))
        .sum();
    for (owner, name, stored) in &entries {
        assert!(writer.entry(Entry::of(*owner, name, stored)));
    }
    assert_eq!(writer.entries_len(), expected);
    assert_eq!(writer.entries().map(|entry| entry.len()).sum::<usize>(), expected);
    writer.finish().as_slice().to_vec()
}

fn read(bytes: &[u8]) -> Option<Payload> {
    let mut unsealed = PlaintextBuffer::with_room(0);
    unsealed.extend(bytes);
    super::read(unsealed)
}

#[test]
fn written_payload_reads_back() {
    let (head, entries) = sample();
    let payload = read(&bytes()).unwrap();
    assert_eq!(format!("{:?}", payload.head), format!("{head:?}"));
    for owner in [EntryOwner::Session, EntryOwner::Principal] {
        let read = payload.entries(owner).map(|entry| {
            let stored = StoredValue::new(entry.version, entry.json.map(Json::from), Millis(1_900_000_000_000));
            (entry.owner, entry.text(), stored)
        });
        let expected: Vec<_> = entries.iter().filter(|entry| entry.0 == owner).cloned().collect();
        assert_eq!((payload.count(owner), read.collect::<Vec<_>>()), (expected.len(), expected));
    }
}

#[test]
fn json_over_65535_bytes_is_left_out() {
    let (head, _) = sample();
    for (len, fits) in [(65_535, true), (65_536, false)] {
        let mut writer = Writer::new(&head, None);
        let stored = StoredValue::new(Version::ZERO, Some(Json::from(&vec![b'1'; len][..])), Millis(0));
        assert_eq!(writer.entry(Entry::of(EntryOwner::Session, "long", &stored)), fits);
        assert_eq!(writer.entries().count(), usize::from(fits));
    }
}

fn order() -> Order {
    let (birth, begun) = (Version::at(Wall(1_900_000_000_000)), vec![SessionId::from_bytes([5; 32])]);
    let adopts = vec!["theme".into()];
    Order { turn: Turn::SignIn, named: Named::Living, no_cookie: true, begun, birth, adopts }
}

/// Returns the payload of an order that signs ada in.
fn ordering(order: &Order) -> Vec<u8> {
    let head = Head { predecessor: None, ..sample().0 };
    let mut writer = Writer::new(&head, Some(order));
    let json = br#""ada""#;
    assert!(writer.entry(Entry { owner: EntryOwner::Begun, name: b"user", version: Version::ZERO, json: Some(json) }));
    writer.finish().as_slice().to_vec()
}

#[test]
fn well_formed_orders_read_back() {
    for turn in [Turn::Remove, Turn::Renew, Turn::SignIn] {
        for named in [Named::Nothing, Named::Living, Named::Ended] {
            for no_cookie in [false, true] {
                for count in [0, 1, 2, MAX_BEGUN, MAX_BEGUN + 1] {
                    let begun = (0..count).map(|at| SessionId::from_bytes([at as u8; 32])).collect();
                    let order = Order { turn, named, no_cookie, begun, ..order() };
                    let whole = match turn {
                        Turn::Remove => named != Named::Nothing && count <= MAX_BEGUN,
                        _ => count == 1,
                    };
                    let read = read(&ordering(&order));
                    assert_eq!(read.as_ref().and_then(|read| read.order.as_deref()), Some(&order).filter(|_| whole));
                    assert_eq!(read.map_or(1, |read| read.count(EntryOwner::Begun)), 1);
                }
            }
        }
    }
}

#[test]
fn malformed_entry_refuses_the_payload() {
    let whole = bytes();
    let refused: [&[u8]; 5] = [
        b"\x00",
        b"\x08\x01a12345678\x00\x00",
        b"\x05\x01a12345678\x00\x00",
        b"\x02\x01\xff12345678",
        b"\x00\x01a12345678\x00\x021",
    ];
    for rest in refused {
        assert!(read(&[&whole, rest].concat()).is_none(), "{rest:?}");
    }
    assert_eq!(read(&[&whole, b"\x02\x01a12345678".as_slice()].concat()).unwrap().count(EntryOwner::Session), 3);
}

// A program that shares no code with this crate made both vectors, by the tables of `payload` and `order`.
#[test]
fn payload_format_is_stable() {
    const COOKIE: &str = concat!(
        "0f000000000000000301ba60d3380001ba25386e0001ba6b1ff00001bad808cc0001ba25386e00000000000a4cb80001ba60",
        "d338000000070707070707070707070707070707070909090909090909090909090909090909090909090909090909090909",
        "090909011363757272656e745f6469766973696f6e5f696401ba60d3380000000001370204676f6e6501ba60d33800000100",
        "046c6f6e6701ba60d338000000012c",
    );
    const ORDER: &str = concat!(
        "13000000000000000301ba60d3380001ba25386e0001ba6b1ff00001bad808cc0001ba25386e00000000000a4cb80001ba60",
        "d338000000070707070707070707070707070707070203010505050505050505050505050505050505050505050505050505",
        "05050505050501ba60d33800000001057468656d65040475736572000000000000000000052261646122",
    );
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let cookie = hex(bytes());
    // The last entry's 300 ones are left out.
    assert_eq!(&cookie[..cookie.len() - 600], COOKIE);
    assert_eq!(hex(ordering(&order())), ORDER);
}

#[test]
fn invalid_flags_are_refused() {
    let (cookie, order) = (bytes(), ordering(&order()));
    for bit in 5..8 {
        let mut changed = cookie.clone();
        changed[0] |= 1 << bit;
        assert!(read(&changed).is_none(), "head's bit {bit}");
    }
    let mut alone = cookie.clone();
    alone[0] &= !HAS_PREDECESSOR;
    assert!(read(&alone).is_none(), "a shared end without a predecessor");
    let at = HEAD_MAX - SessionId::LEN;
    for (at, byte) in [(at, 3), (at + 1, 8), (at + 1, 6)] {
        let mut changed = order.clone();
        changed[at] = byte;
        assert!(read(&changed).is_none(), "{byte} at {at}");
    }
}

#[test]
fn damaged_payload_never_panics() {
    [bytes(), ordering(&order())].iter().for_each(|whole| cut_and_change(whole));
}

fn cut_and_change(whole: &[u8]) {
    for len in 0..whole.len() {
        let _ = read(&whole[..len]);
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.to_vec();
            changed[at] ^= 1 << bit;
            let _ = read(&changed);
        }
    }
}
