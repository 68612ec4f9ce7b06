//! The place of a record in the index of expiry.

use crate::sync::atomic::{AtomicU32, Ordering};

/// The place of a record in the index, changed only under the index's lock.
#[derive(Debug, Default)]
pub(super) struct IndexSlot {
    /// 0 for a record that is not in the index: no deadline is in the first minute of 1970.
    minute: AtomicU32,
    at: AtomicU32,
}

impl IndexSlot {
    pub(super) fn is_none(&self) -> bool {
        self.minute.load(Ordering::Relaxed) == 0
    }

    pub(super) fn set(&self, minute: u32, at: usize) {
        self.at.store(at as u32, Ordering::Relaxed);
        self.minute.store(minute, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> (u32, usize) {
        (self.minute.load(Ordering::Relaxed), self.at.load(Ordering::Relaxed) as usize)
    }
}
