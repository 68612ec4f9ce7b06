//! The expiry index: records by the minute of their deadline, so that a sweep costs as much as the records that expire.
//!
//! A record's deadline moves with each use, but its place in the index doesn't: when the minute comes, the sweep moves
//! a record that was used meanwhile to its new minute. A use therefore costs the index nothing, and each record is
//! checked once per idle lifetime. A record stores its own place, so that an early removal leaves no entry behind.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::record::Record;
use crate::time::Millis;

#[derive(Debug, Default)]
pub(super) struct Expiry {
    minutes: BTreeMap<u32, Vec<Arc<Record>>>,
}

const MINUTE: u64 = 60_000;

impl Expiry {
    /// Returns the first minute of the index.
    pub(super) fn first(&self) -> Option<Millis> {
        self.minutes.keys().next().map(|minute| Millis(u64::from(*minute) * MINUTE))
    }

    /// Adds a record, unless the record is in the index already.
    pub(super) fn add(&mut self, record: Arc<Record>, deadline: Millis) {
        if !record.place.is_none() {
            return;
        }
        // A deadline within a minute goes to the next minute: when that minute comes, all its deadlines have passed.
        let minute = u32::try_from(deadline.0 / MINUTE + 1).unwrap_or(u32::MAX);
        let bucket = self.minutes.entry(minute).or_default();
        record.place.set(minute, bucket.len());
        bucket.push(record);
    }

    /// Removes a record, if the record is in the index. The last record of the same minute takes the free place.
    pub(super) fn remove(&mut self, record: &Record) -> Option<Arc<Record>> {
        let (minute, at) = record.place.get();
        let Entry::Occupied(mut entry) = self.minutes.entry(minute) else { return None };
        let bucket = entry.get_mut();
        if at >= bucket.len() {
            return None;
        }
        let removed = bucket.swap_remove(at);
        record.place.set(0, 0);
        match bucket.get(at) {
            Some(last) => last.place.set(minute, at),
            None if bucket.is_empty() => drop(entry.remove()),
            None => {}
        }
        Some(removed)
    }

    /// Removes and returns a record of the first minute, if that minute has come.
    pub(super) fn take_due(&mut self, now: Millis) -> Option<Arc<Record>> {
        let mut first = self.minutes.first_entry()?;
        // Records in the last representable minute stay: no later minute could take them.
        if u64::from(*first.key()) > now.0 / MINUTE || *first.key() == u32::MAX {
            return None;
        }
        let record = first.get_mut().pop()?;
        if first.get().is_empty() {
            first.remove();
        }
        record.place.set(0, 0);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RecordKey;
    use proptest::prelude::*;
    use std::time::Duration;

    fn record(number: u32) -> Arc<Record> {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        Arc::new(Record::principal(RecordKey(key), Duration::ZERO, Millis(0)))
    }

    /// Takes the records that are due by `now`, and returns their keys in that order.
    fn due(expiry: &mut Expiry, now: Millis) -> Vec<RecordKey> {
        std::iter::from_fn(|| expiry.take_due(now)).map(|record| *record.key()).collect()
    }

    #[test]
    fn due_record_comes_once_and_never_early() {
        let mut expiry = Expiry::default();
        let [early, late] = [record(1), record(2)];
        expiry.add(Arc::clone(&early), Millis(5 * MINUTE + 1));
        expiry.add(Arc::clone(&early), Millis(5 * MINUTE + 1));
        expiry.add(Arc::clone(&late), Millis(9 * MINUTE));
        assert_eq!(expiry.first(), Some(Millis(6 * MINUTE)));
        assert!(due(&mut expiry, Millis(5 * MINUTE + 59_999)).is_empty());
        assert_eq!(due(&mut expiry, Millis(6 * MINUTE)), [*early.key()]);
        assert!(due(&mut expiry, Millis(6 * MINUTE)).is_empty());
        assert_eq!(expiry.first(), Some(Millis(10 * MINUTE)));
    }

    #[test]
    fn taken_record_can_be_added_again() {
        let mut expiry = Expiry::default();
        expiry.add(record(1), Millis(0));
        let taken = expiry.take_due(Millis(3 * MINUTE)).unwrap();
        expiry.add(taken, Millis(7 * MINUTE));
        assert!(expiry.take_due(Millis(7 * MINUTE)).is_none());
        assert_eq!(due(&mut expiry, Millis(8 * MINUTE)).len(), 1);
    }

    proptest! {
        /// Minutes fill and empty, and the place of a removed record goes to another record.
        #[test]
        fn index_matches_a_plain_list(
            steps in proptest::collection::vec((any::<bool>(), 0..3u64, any::<prop::sample::Index>()), 1..1500),
        ) {
            let (mut expiry, mut plain) = (Expiry::default(), Vec::new());
            for (number, (add, minute, which)) in (0..).zip(steps) {
                // Three of four steps are additions, so that minutes fill.
                if add || number % 2 == 0 || plain.is_empty() {
                    let record = record(number);
                    expiry.add(Arc::clone(&record), Millis(minute * MINUTE));
                    plain.push(record);
                } else {
                    let record = plain.swap_remove(which.index(plain.len()));
                    let removed = expiry.remove(&record);
                    prop_assert!(removed.is_some_and(|removed| Arc::ptr_eq(&removed, &record)));
                    prop_assert!(expiry.remove(&record).is_none(), "a removed record has no place in the index");
                }
            }
            let mut left = due(&mut expiry, Millis::MAX);
            let mut expected: Vec<_> = plain.iter().map(|record| *record.key()).collect();
            left.sort_unstable_by_key(|key| key.0);
            expected.sort_unstable_by_key(|key| key.0);
            prop_assert_eq!(left, expected);
            prop_assert!(plain.iter().all(|record| Arc::strong_count(record) == 1));
        }
    }
}
