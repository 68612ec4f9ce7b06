//! What a record counts towards the bound of the tier.

use super::{Kind, Record, RecordKey, State};
use crate::chain::life::End;

/// Beside a record itself: the two counters of its `Arc`, its place in the index, and nine bytes of its shard's table,
/// which is between seven sixteenths and seven eighths full.
const PLACES: usize = 2 * size_of::<usize>() + size_of::<usize>() + 14;

impl State {
    /// Bytes that this record takes with all that there is because of it: [`tests`](super::super::tests) compare it with what an
    /// allocator is asked for.
    pub(in crate::tier::memory) fn bytes(&self) -> usize {
        let boxed = match &self.kind {
            Kind::Session { life, browser } => {
                life.heap_bytes()
                    + browser.principal.as_ref().map_or(0, |_| 3 * size_of::<u64>() + size_of::<RecordKey>())
            }
            Kind::Ended(_) => size_of::<End>(),
            Kind::Principal { .. } => 0,
        };
        PLACES + size_of::<Record>() + self.values.heap_bytes() + boxed
    }
}
