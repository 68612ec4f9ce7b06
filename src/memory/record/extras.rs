//! What few records need: the subscribed handles, the async locks of writers, and the state of writes to a store.

use std::sync::Arc;

use super::Record;
use crate::{
    notify::{HandleWakers, Subscribers},
    sync::atomic::{AtomicUsize, Ordering},
};

/// What only watched, contended or stored records need.
#[derive(Debug, Default)]
pub(crate) struct RecordExtras {
    pub(crate) subscribers: Subscribers,
    /// One caller at a time: concurrent updates queue instead of losing to each other.
    pub(crate) update_queue: tokio::sync::Mutex<()>,
    /// Shared by writes on their way to a shared store. Held alone by a renewal over such a store, which copies what the
    /// store is to have under the new id: the renewal waits for the writes under way, and later writes go to the new id.
    pub(crate) renew_gate: tokio::sync::RwLock<()>,
    pub(crate) sync: StoreSync,
}

impl Record {
    pub(crate) fn extras(&self) -> &RecordExtras {
        self.extras.get_or_init(Box::default)
    }

    /// Bytes beside the record.
    pub(in crate::memory) fn extras_bytes(&self) -> usize {
        self.extras.get().map_or(0, |_| size_of::<RecordExtras>())
    }

    pub(crate) fn unsubscribe(&self, wakers: &Arc<HandleWakers>) {
        if let Some(extras) = self.extras.get() {
            extras.subscribers.unsubscribe(wakers);
        }
    }

    pub(crate) fn notify_all(&self) {
        if let Some(extras) = self.extras.get() {
            extras.subscribers.notify_all();
        }
    }

    #[cfg(test)]
    pub(crate) fn subscribers(&self) -> usize {
        self.extras.get().map_or(0, |extras| extras.subscribers.len())
    }

    /// Marks a record that is made without asking the store, which may hold more of the owner: the next load asks.
    pub(crate) fn never_loaded(self) -> Self {
        drop(self.extras().sync.begin());
        self
    }

    /// The abandoned writes of a record that is [`never_loaded`](Self::never_loaded), where the record was missing when the
    /// store was asked.
    pub(crate) const NEVER_LOADED: usize = 1;

    /// See [`StoreSync::abandoned_writes`].
    pub(crate) fn abandoned_writes(&self) -> usize {
        self.extras.get().map_or(0, |extras| extras.sync.abandoned_writes())
    }

    /// See [`StoreSync::mark_read`].
    pub(crate) fn mark_read(&self, abandoned: usize) {
        if let Some(extras) = self.extras.get() {
            extras.sync.mark_read(abandoned);
        }
    }

    /// Whether the store has to be asked before memory can be relied on for the owner.
    pub(crate) fn is_stale(&self) -> bool {
        self.extras.get().is_some_and(|extras| extras.sync.is_stale())
    }
}

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
