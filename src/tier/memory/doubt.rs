//! Whether a record can be relied on while writes to a shared store are on their way.

use crate::sync::atomic::{AtomicUsize, Ordering};

/// A record's writes of which it isn't known what the store made of them.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Those whose answers are not here yet.
    writing: AtomicUsize,
    /// Those whose answers nobody waits for any more, since the beginning.
    abandoned: AtomicUsize,
    /// So many of them came before the store was asked.
    reassured: AtomicUsize,
}

impl Doubts {
    /// Marks the record as not to be relied on: until the write that begins is answered, or, if it is dropped before,
    /// until the store has been asked again. Each write has a mark of its own.
    pub(super) fn begin(&self) -> Doubt<'_> {
        self.writing.fetch_add(1, Ordering::AcqRel);
        Doubt { doubts: self, answered: false }
    }

    pub(super) fn any(&self) -> bool {
        // In this order, which is that of a write's life backwards: what has moved on since it was looked at makes the
        // record look doubted, and never sound.
        let reassured = self.reassured.load(Ordering::Acquire);
        let writing = self.writing.load(Ordering::Acquire);
        writing > 0 || self.abandoned() > reassured
    }

    /// How many writes were abandoned so far: to be asked before the store is.
    pub(super) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::Acquire)
    }

    /// What the store held after so many abandoned writes is here now. Several may have asked it, and the one that asked
    /// last needn't come last.
    pub(super) fn reassure(&self, abandoned: usize) {
        self.reassured.fetch_max(abandoned, Ordering::AcqRel);
    }
}

/// The mark of one write.
#[must_use]
#[derive(Debug)]
pub(crate) struct Doubt<'a> {
    doubts: &'a Doubts,
    answered: bool,
}

impl Doubt<'_> {
    pub(crate) fn clear(mut self) {
        self.answered = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        // In this order: there is no moment at which the record looks sound.
        if !self.answered {
            self.doubts.abandoned.fetch_add(1, Ordering::AcqRel);
        }
        self.doubts.writing.fetch_sub(1, Ordering::AcqRel);
    }
}
