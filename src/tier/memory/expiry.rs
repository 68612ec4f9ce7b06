//! When to look at which record: an index by the minute, so that the cost of expiry follows what expires.
//!
//! A record's deadline moves with each use, its entry here does not: when its minute comes, a record that was used
//! meanwhile goes to its new minute. So use costs nothing, and each record is looked at once per idle lifetime.

use std::collections::{BTreeMap, VecDeque};

use super::record::RecordKey;
use crate::version::Millis;

#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// In the order in which they came, so that who puts one back sees the others first.
    minutes: BTreeMap<u64, VecDeque<RecordKey>>,
    /// Where eviction goes on.
    hand: u64,
}

const MINUTE: u64 = 60_000;

impl Expiry {
    pub(super) fn add(&mut self, key: RecordKey, deadline: Millis) {
        // A deadline within a minute belongs to the next: when it comes, all in it are over.
        self.minutes.entry(deadline.0 / MINUTE + 1).or_default().push_back(key);
    }

    /// Takes one whose minute has come.
    pub(super) fn take_due(&mut self, now: Millis) -> Option<RecordKey> {
        let first = *self.minutes.first_key_value()?.0;
        if first <= now.0 / MINUTE { self.take_from(first) } else { None }
    }

    /// Takes one of those whose deadline is nearest: those not used for longest, as far as this index knows.
    pub(super) fn take_nearest(&mut self) -> Option<RecordKey> {
        let next = self.minutes.range(self.hand..).next().or_else(|| self.minutes.first_key_value());
        self.hand = *next?.0;
        self.take_from(self.hand)
    }

    /// Nothing of what [`take_nearest`](Self::take_nearest) gave could go: looks further on from now, and comes back in
    /// the end. Else a few sockets whose sessions are next to expire would keep everything else in memory.
    pub(super) fn look_further(&mut self) {
        self.hand += 1;
    }

    fn take_from(&mut self, minute: u64) -> Option<RecordKey> {
        let keys = self.minutes.get_mut(&minute)?;
        let key = keys.pop_front();
        if keys.is_empty() {
            self.minutes.remove(&minute);
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_once_and_never_early() {
        let mut expiry = Expiry::default();
        let key = |n| RecordKey([n; 32]);
        expiry.add(key(1), Millis(5 * MINUTE + 1));
        expiry.add(key(2), Millis(9 * MINUTE));
        assert_eq!(expiry.take_due(Millis(5 * MINUTE + 59_999)), None);
        assert_eq!(expiry.take_due(Millis(6 * MINUTE)), Some(key(1)));
        assert_eq!(expiry.take_due(Millis(6 * MINUTE)), None);
        assert_eq!(expiry.take_nearest(), Some(key(2)));
        assert_eq!(expiry.take_nearest(), None);
    }
}
