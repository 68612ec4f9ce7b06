//! Eviction: the choice of the record to drop while memory is over its bound.

use std::{ops::ControlFlow, sync::Arc};

use super::{INTERNAL_REFS, Memory, is_held_by, record::Record};
use crate::{record::state::Kind, sync::atomic::Ordering, time::Millis};

/// The number of clean records in a sample. The least recently used record of the sample is evicted.
const SAMPLE: usize = 8;

/// The maximum number of records that one call checks if clean records are rare: some 20 µs.
const SCAN_LIMIT: usize = 256;

impl Memory {
    /// Drops one record that no handle holds. Returns false if no record can be dropped.
    pub(super) fn evict(&self, now: Millis) -> bool {
        let rank = |record: &Record| EvictionClass::of(record).map(|class| (class, record.used()));
        let (mut worst, mut fit, mut looked) = (None::<((EvictionClass, Millis), Arc<Record>)>, 0, 0);
        self.records.scan_from_cursor(|record| {
            looked += 1;
            // Skip records that are not indexed yet. Their creator indexes them and then runs eviction itself.
            if Arc::strong_count(record) <= INTERNAL_REFS
                && !record.place.is_none()
                && let Some(ranked) = rank(record)
            {
                fit += usize::from(ranked.0 == EvictionClass::Clean);
                if worst.as_ref().is_none_or(|(worst, _)| ranked < *worst) {
                    worst = Some((ranked, Arc::clone(record)));
                }
            }
            match fit == SAMPLE || looked == SCAN_LIMIT {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let Some((seen, record)) = worst else { return false };
        // This function holds the record too, so the record is still in the map and in the index. A record that was
        // used or ended since the scan has another rank, and stays.
        let idle =
            |record: &Arc<Record>, _: &mut _| is_held_by(record, INTERNAL_REFS + 1) && rank(record) == Some(seen);
        // If the record came into use meanwhile, the next call chooses another.
        if self.remove_if(record.key(), idle).is_none() || self.sub_bytes(&record) == 0 {
            return true;
        }
        match seen.0 {
            EvictionClass::Clean => drop(self.evicted_clean.fetch_add(1, Ordering::Relaxed)),
            EvictionClass::Dirty => drop(self.evicted_dirty.fetch_add(1, Ordering::Relaxed)),
            EvictionClass::Revocation => self.note_lost_revocations(1, now),
        }
        true
    }
}

/// The loss that an eviction of a record causes, the smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionClass {
    Clean,
    Dirty,
    Revocation,
}

impl EvictionClass {
    /// Returns `None` for an ended session: the insertion of its tombstone removes the record.
    fn of(record: &Record) -> Option<Self> {
        let state = record.read();
        Some(match &state.kind {
            Kind::Ended(_) => return None,
            Kind::Principal(principal) if principal.not_before > Default::default() => Self::Revocation,
            // The outcome of an abandoned write is unknown, so a stale record is not known to be in the store.
            _ if state.is_clean() && !record.is_stale() => Self::Clean,
            _ => Self::Dirty,
        })
    }
}
