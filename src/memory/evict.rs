//! Which record goes where memory is over its bound.

use std::{ops::ControlFlow, sync::Arc};

use super::{INTERNAL_REFS, Memory, is_held_by, record::Record};
use crate::{record::state::Kind, sync::atomic::Ordering, time::Millis};

/// Of so many records that can go the least recently used one goes.
const SAMPLE: usize = 8;

/// So many are looked at where none of the sample is saved: some 20 µs.
const SCAN_LIMIT: usize = 256;

impl Memory {
    /// Drops one record that nobody holds. Returns false where there is none to drop.
    pub(super) fn evict(&self) -> bool {
        let rank = |record: &Record| EvictionClass::of(record).map(|worth| (worth, record.used()));
        let (mut worst, mut fit, mut looked) = (None::<((EvictionClass, Millis), Arc<Record>)>, 0, 0);
        self.records.scan_from_cursor(|record| {
            looked += 1;
            // What is not in the index is not to be had, and whoever makes or settles it comes to evict as well.
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
        // Held by us as well, so that it is the one of its key still, and in the index. A session that has ended since it
        // was looked at is no longer what it was chosen for.
        let idle =
            |record: &Arc<Record>, _: &mut _| is_held_by(record, INTERNAL_REFS + 1) && rank(record) == Some(seen);
        // Where somebody came to use it, the next call looks for another.
        if self.remove_if(record.key(), idle).is_none() || self.sub_bytes(&record) == 0 {
            return true;
        }
        let counter = match seen.0 {
            EvictionClass::Clean => &self.evicted_clean,
            EvictionClass::Dirty => &self.evicted_dirty,
            EvictionClass::Revocation => &self.revocations_lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// What is lost with a record, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionClass {
    Clean,
    Dirty,
    Revocation,
}

impl EvictionClass {
    /// None for a session that has ended: its record goes as soon as its tombstone is there.
    fn of(record: &Record) -> Option<Self> {
        let state = record.read();
        Some(match &state.kind {
            Kind::Ended(_) => return None,
            Kind::Principal(principal) if principal.not_before > Default::default() => Self::Revocation,
            // What became of a write that nobody waited for isn't known, and so not what the store holds.
            _ if state.is_clean() && !record.is_stale() => Self::Clean,
            _ => Self::Dirty,
        })
    }
}
