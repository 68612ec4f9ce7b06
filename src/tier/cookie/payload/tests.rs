//! The format to the byte, and that whatever it is cut or changed to is read or refused.

use std::time::Duration;

use super::*;

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
        let read = payload.entries(whose).map(|entry| (entry.whose, entry.text(), entry.kept(Millis(u64::MAX >> 20))));
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
    for rest in [b"\x00".as_slice(), b"\x04\x01a12345678\x00", b"\x02\x01\xff12345678", b"\x00\x01a12345678\x02\x31"] {
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
