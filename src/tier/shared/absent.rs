//! [`AbsentOwners`]: the owners for which the store has lately answered that it has no record.

use std::{collections::HashMap, time::Duration};

use foldhash::fast::RandomState;

use crate::id::OwnerId;

/// The longest span for which an absence counts. The owner map forgets an absence at some time after this span.
const LONGEST: Duration = Duration::from_secs(5);

/// The maximum number of owners in each of the two maps: 7/8 of a power of two, the most that a map holds before it
/// doubles its table. Both maps together stay below 3 MB.
const MOST: usize = 28_672;

/// The owners whom the store does not know, each with the time of the ask, by the monotonic clock.
///
/// Whole owner ids, since a hash of eight bytes could take a live session for an absent session.
#[derive(Debug, Default)]
pub(super) struct AbsentOwners {
    /// The owners noted since `begun`.
    young: HashMap<OwnerId, Duration, RandomState>,
    /// The owners noted before `begun`.
    old: HashMap<OwnerId, Duration, RandomState>,
    begun: Duration,
}

impl AbsentOwners {
    /// Notes that the store has no record of an owner. The oldest owners make room if too many are absent.
    pub(super) fn note(&mut self, owner: OwnerId, asked: Duration) {
        if self.young.len() >= MOST || asked.saturating_sub(self.begun) >= LONGEST {
            self.old = std::mem::take(&mut self.young);
            self.begun = asked;
        }
        self.young.insert(owner, asked);
    }

    /// Whether the store had no record of an owner, within a span of at most five seconds before now.
    pub(super) fn contains(&self, owner: &OwnerId, now: Duration, span: Duration) -> bool {
        let asked = self.young.get(owner).or_else(|| self.old.get(owner));
        asked.is_some_and(|asked| now.saturating_sub(*asked) < span)
    }

    pub(super) fn forget(&mut self, owner: &OwnerId) {
        self.young.remove(owner);
        self.old.remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: usize) -> OwnerId {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        OwnerId::from_hash(hash)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn absence_counts_for_its_span() {
        let mut absent = AbsentOwners::default();
        for begin in [0, 4_999, 5_000, 7_000, 60_000] {
            absent.note(owner(1), ms(begin));
            // Other owners must not shorten the span.
            for other in 0..5 {
                absent.note(owner(2 + other), ms(begin + 1_000 * other as u64));
            }
            let at = |passed, span| absent.contains(&owner(1), ms(begin + passed), ms(span));
            assert_eq!(
                [at(4_999, 5_000), at(5_000, 5_000), at(999, 1_000), at(1_000, 1_000)],
                [true, false, true, false]
            );
        }
    }

    #[test]
    fn forgotten_owner_is_unknown() {
        let mut absent = AbsentOwners::default();
        absent.note(owner(1), ms(4_000));
        // Moves the first owner to the older map.
        absent.note(owner(2), ms(5_000));
        assert!(absent.contains(&owner(1), ms(5_000), LONGEST) && absent.contains(&owner(2), ms(5_000), LONGEST));
        absent.forget(&owner(1));
        absent.forget(&owner(2));
        assert!(!absent.contains(&owner(1), ms(5_000), LONGEST) && !absent.contains(&owner(2), ms(5_000), LONGEST));
    }

    #[test]
    fn number_of_owners_is_bounded() {
        let mut absent = AbsentOwners::default();
        for number in 0..3 * MOST {
            absent.note(owner(number), ms(0));
        }
        assert!(absent.young.len() + absent.old.len() <= 2 * MOST);
        assert!(absent.young.capacity() <= MOST && absent.old.capacity() <= MOST);
        assert!(absent.contains(&owner(3 * MOST - 1), ms(0), LONGEST));
        assert!(!absent.contains(&owner(0), ms(0), LONGEST));
    }
}
