//! Whether a record can be relied on while writes to a shared store are on their way.

use crate::sync::atomic::{AtomicUsize, Ordering};

/// A record's writes of which it isn't known what the store made of them.
#[derive(Debug, Default)]
pub(crate) struct StoreSync {
    /// Those whose answers are not here yet.
    in_flight: AtomicUsize,
    /// Those whose answers nobody waits for any more, since the beginning.
    abandoned_writes: AtomicUsize,
    /// So many of them came before the store was asked.
    read_after: AtomicUsize,
}

impl StoreSync {
    /// Marks the record as not to be relied on: until the write that begins is answered, or, if it is dropped before,
    /// until the store has been asked again. Each write has a mark of its own.
    pub(crate) fn begin(&self) -> PendingWrite<'_> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        PendingWrite { sync: self, confirmed: false }
    }

    pub(crate) fn is_stale(&self) -> bool {
        // In this order, which is that of a write's life backwards: what has moved on since it was looked at makes the
        // record look doubted, and never sound.
        let reassured = self.read_after.load(Ordering::Acquire);
        let writing = self.in_flight.load(Ordering::Acquire);
        writing > 0 || self.abandoned_writes() > reassured
    }

    /// How many writes were abandoned so far: to be asked before the store is.
    pub(crate) fn abandoned_writes(&self) -> usize {
        self.abandoned_writes.load(Ordering::Acquire)
    }

    /// What the store held after so many abandoned writes is here now. Several may have asked it, and the one that asked
    /// last needn't come last.
    pub(crate) fn mark_read(&self, abandoned: usize) {
        self.read_after.fetch_max(abandoned, Ordering::AcqRel);
    }
}

/// The mark of one write.
#[must_use]
#[derive(Debug)]
pub(crate) struct PendingWrite<'a> {
    sync: &'a StoreSync,
    confirmed: bool,
}

impl PendingWrite<'_> {
    pub(crate) fn confirmed(mut self) {
        self.confirmed = true;
    }
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        // In this order: there is no moment at which the record looks sound.
        if !self.confirmed {
            self.sync.abandoned_writes.fetch_add(1, Ordering::AcqRel);
        }
        self.sync.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
