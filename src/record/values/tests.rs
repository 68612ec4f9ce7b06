//! Merges of copies: the copy that answers, the copy that cookies carry, and the copies that a merge decodes.

use super::*;
use crate::value::{SessionValue, ValueSpec};
use proptest::prelude::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Count(i64);
impl SessionValue for Count {
    const NAME: &'static str = "count";
}

fn schema() -> Schema {
    let mut schema = Schema::default();
    schema.push(ValueSpec::of::<Count>());
    schema
}

/// Few versions and few contents, so that versions collide: removals, values, and a copy that this build can't read.
fn copies() -> impl Strategy<Value = Vec<StoredValue>> {
    let json = prop_oneof![Just(None), Just(Some("1")), Just(Some("2")), Just(Some("\"another build's\""))];
    let stored = (1..5u64, json).prop_map(|(version, json)| {
        StoredValue::new(Version::from_u64(version), json.map(|json| Json::from(json.as_bytes())), Millis(0))
    });
    proptest::collection::vec(stored, 1..7)
}

fn incoming(value: StoredValue) -> ValueSlot {
    let readable = value.json.as_ref().is_none_or(|json| (schema().get(0).check)(json).is_ok());
    ValueSlot { readable: Some(readable), ..ValueSlot::incoming(0, value) }
}

/// The copy that answers and the copy that cookies carry.
fn merged(copies: &[StoredValue], resolution: Resolution) -> (Option<ValueSlot>, Option<StoredValue>) {
    let mut values = Values::default();
    for stored in copies {
        values.merge(incoming(stored.clone()), resolution);
    }
    (values.slot(0).cloned(), values.newest_copy(0).cloned())
}

fn newest(copies: &[StoredValue], passes: impl Fn(&StoredValue) -> bool) -> Option<StoredValue> {
    copies.iter().filter(|copy| passes(copy)).max_by_key(|copy| copy.rank()).cloned()
}

fn readable(stored: &StoredValue) -> bool {
    incoming(stored.clone()).readable == Some(true)
}

proptest! {
    #[test]
    fn newest_readable_copy_answers_in_any_order(
        (copies, shuffled) in copies().prop_flat_map(|copies| (Just(copies.clone()), Just(copies).prop_shuffle())),
    ) {
        let expected = newest(&copies, readable).or_else(|| newest(&copies, |_| true));
        for order in [&copies, &shuffled, &[copies.clone(), shuffled.clone()].concat()] {
            let (answer, carried) = merged(order, Resolution::Newest);
            prop_assert_eq!(&answer.map(|slot| slot.value), &expected);
            prop_assert_eq!(carried, newest(&copies, |_| true), "nothing newer is lost");
        }
    }

    #[test]
    fn first_readable_copy_answers_under_first_hit(copies in copies()) {
        let expected = copies.iter().find(|copy| readable(copy)).cloned().or_else(|| newest(&copies, |_| true));
        for order in [&copies, &[copies.clone(), copies.clone()].concat()] {
            let (answer, carried) = merged(order, Resolution::FirstHit);
            prop_assert_eq!(&answer.map(|slot| slot.value), &expected);
            prop_assert_eq!(carried, newest(&copies, |_| true), "nothing newer is lost");
        }
    }
}

/// Each row of the table of [`merge`].
#[test]
fn merge_follows_the_table() {
    use MergeOutcome::{KeepCurrent, KeepIncomingUnread, Replace, ReplaceKeepCurrentUnread};
    let copy = |version, readable| {
        let value = StoredValue::new(Version::from_u64(version), Some(b"1".as_slice().into()), Millis(0));
        ValueSlot { readable: Some(readable), ..ValueSlot::incoming(0, value) }
    };
    // Each row: whether this build can read the current copy, which has version 2; the incoming copy's version, and
    // whether this build can read that copy; the outcome under `Resolution::Newest`, and the outcome under
    // `Resolution::FirstHit`.
    let rows = [
        (true, (3, false), [KeepIncomingUnread, KeepIncomingUnread]),
        (true, (3, true), [Replace, KeepIncomingUnread]),
        (false, (3, true), [Replace, Replace]),
        (false, (3, false), [Replace, Replace]),
        (true, (2, true), [KeepCurrent, KeepCurrent]),
        (false, (2, false), [KeepCurrent, KeepCurrent]),
        (false, (1, true), [ReplaceKeepCurrentUnread, ReplaceKeepCurrentUnread]),
        (false, (1, false), [KeepCurrent, KeepCurrent]),
        (true, (1, true), [KeepCurrent, KeepCurrent]),
        (true, (1, false), [KeepCurrent, KeepCurrent]),
    ];
    for (current, (version, readable), outcomes) in rows {
        let incoming = copy(version, readable);
        let outcome = |resolution| merge(Some(&copy(2, current)), &incoming, resolution);
        assert_eq!([Resolution::Newest, Resolution::FirstHit].map(outcome), outcomes, "{current} {version} {readable}");
        assert_eq!(merge(None, &incoming, Resolution::FirstHit), Replace);
    }
}

#[test]
fn older_copy_never_replaces_newer() {
    let stored = |version, json: Option<&'static str>| {
        StoredValue::new(Version::from_u64(version), json.map(|json| Json::from(json.as_bytes())), Millis(0))
    };
    let mut values = Values::default();
    let mut merge = |value| values.merge(incoming(value), Resolution::Newest);
    assert!(merge(stored(5, Some("1"))));
    assert!(!merge(stored(4, Some("9"))));
    assert!(!merge(stored(4, None)));
    assert!(merge(stored(5, None)), "a removal wins over a value of the same version");
    assert!(!merge(stored(5, Some("9"))));
    assert_eq!(values.newest(), Version::from_u64(5));
}

#[test]
fn only_conflicting_copies_are_decoded() {
    let stored =
        |version, json: &str| StoredValue::new(Version::from_u64(version), Some(json.as_bytes().into()), Millis(0));
    let mut values = Values::default();
    let late = ValueSlot::incoming(0, stored(4, "9"));
    assert!(values.is_decided(&late), "no other copy, no decoding");
    values.put(ValueSlot::local(0, stored(5, "1")));
    assert!(values.is_decided(&ValueSlot::incoming(0, stored(5, "1"))), "the same copy needs no decoding");
    assert!(!values.is_decided(&late));
    assert!(values.is_decided(&incoming(stored(4, "9"))), "a local copy counts as readable");
    values.put(ValueSlot::incoming(0, stored(6, "2")));
    assert!(!values.is_decided(&incoming(stored(4, "9"))), "a copy from elsewhere must be decoded first");
    values.decide(&ValueSlot::incoming(0, stored(6, "2")), true);
    assert!(values.is_decided(&incoming(stored(4, "9"))));
}
