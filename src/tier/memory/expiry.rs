//! When to look at which record: an index by the minute, so that the cost of expiry follows what expires.
//!
//! A record's deadline moves with each use, its entry here does not: when its minute comes, a record that was used
//! meanwhile goes to its new minute. So use costs nothing, and each record is looked at once per idle lifetime.

use std::collections::BTreeMap;

use super::record::RecordKey;
use crate::version::Millis;

#[derive(Debug, Default)]
pub(super) struct Expiry(BTreeMap<u64, Vec<RecordKey>>);

const MINUTE: u64 = 60_000;

impl Expiry {
    pub(super) fn add(&mut self, key: RecordKey, deadline: Millis) {
        // A deadline within a minute belongs to the next: when it comes, all in it are over.
        self.0.entry(deadline.0 / MINUTE + 1).or_default().push(key);
    }

    /// Takes one whose minute has come.
    pub(super) fn take_due(&mut self, now: Millis) -> Option<RecordKey> {
        self.take_if(|minute| minute <= now.0 / MINUTE)
    }

    /// Takes one of those whose deadline is nearest: those not used for longest, as far as this index knows.
    pub(super) fn take_nearest(&mut self) -> Option<RecordKey> {
        self.take_if(|_| true)
    }

    fn take_if(&mut self, wanted: impl Fn(u64) -> bool) -> Option<RecordKey> {
        let mut first = self.0.first_entry()?;
        if !wanted(*first.key()) {
            return None;
        }
        let key = first.get_mut().pop();
        if first.get().is_empty() {
            first.remove();
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
