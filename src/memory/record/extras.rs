//! The rare fields of a record: the subscribed handles, the async locks of writers, and the state of writes to a store.

use std::sync::Arc;

use super::Record;
use crate::{
    error::TierError,
    notify::{HandleWakers, Subscribers},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The fields that only watched, contended or stored records need.
#[derive(Debug, Default)]
pub(crate) struct RecordExtras {
    pub(crate) subscribers: Subscribers,
    /// Held by one update at a time: concurrent updates queue instead of losing to each other.
    pub(crate) update_queue: tokio::sync::Mutex<()>,
    /// Shared by writes to a shared store. Held exclusively by a renewal over such a store, which copies the values to
    /// the new id in the store: the renewal waits for the writes in flight, and later writes go to the new id.
    pub(crate) renew_gate: tokio::sync::RwLock<()>,
    pub(crate) sync: StoreSync,
}

impl Record {
    pub(crate) fn extras(&self) -> &RecordExtras {
        self.extras.get_or_init(Box::default)
    }

    /// Returns the bytes of the extras, if there are any.
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

    /// Marks a record that was created without a read of the store. The store may hold other values of the owner, so
    /// the next load reads the store.
    pub(crate) fn never_loaded(self) -> Self {
        drop(self.extras().sync.begin());
        self
    }

    /// The number of abandoned writes of a record that is [`never_loaded`](Self::never_loaded), for a load that asked
    /// the store before the record existed.
    pub(crate) const NEVER_LOADED: usize = 1;

    /// Returns [`StoreSync::abandoned_writes`].
    pub(crate) fn abandoned_writes(&self) -> usize {
        self.extras.get().map_or(0, |extras| extras.sync.abandoned_writes())
    }

    /// Notes a read of the store: see [`StoreSync::mark_read`]. A record without extras has no abandoned write.
    pub(crate) fn mark_read(&self, abandoned: usize) {
        if let Some(extras) = self.extras.get() {
            extras.sync.mark_read(abandoned);
        }
    }

    /// Whether the store must be read before memory can answer for the owner.
    pub(crate) fn is_stale(&self) -> bool {
        self.extras.get().is_some_and(|extras| extras.sync.is_stale())
    }
}

/// The writes of a record to the shared store whose outcome is unknown.
///
/// A write that still waits for the store makes no record stale: no caller has been told of the write's success.
#[derive(Debug, Default)]
pub(crate) struct StoreSync {
    /// Writes that were dropped before the store's answer, or failed without a refusal, counted from the record's
    /// beginning.
    abandoned_writes: AtomicUsize,
    /// The abandoned writes before the last read of the store: the read shows their outcome.
    read_after: AtomicUsize,
}

impl StoreSync {
    /// Waits for the store's answer to a write. If the future is dropped, or the store may have made the write that
    /// failed, the record is stale until the next read of the store.
    pub(crate) async fn track<T>(&self, write: impl Future<Output = Result<T, TierError>>) -> Result<T, TierError> {
        let pending = self.begin();
        let answer = write.await;
        pending.settle(answer.as_ref().is_err_and(TierError::may_be_applied));
        answer
    }

    /// Begins a write. The write counts as abandoned if the mark is dropped.
    pub(crate) const fn begin(&self) -> PendingWrite<'_> {
        PendingWrite { sync: self, settled: false }
    }

    pub(crate) fn is_stale(&self) -> bool {
        // Reads the counters in the reverse of the order in which a write changes them: a race with a write can
        // only make the record look stale, never fresh.
        let read_after = self.read_after.load(Ordering::Acquire);
        self.abandoned_writes() > read_after
    }

    /// Returns the number of writes abandoned so far. Call this before a read of the store.
    pub(crate) fn abandoned_writes(&self) -> usize {
        self.abandoned_writes.load(Ordering::Acquire)
    }

    /// Notes that memory has merged a read of the store, begun after `abandoned` abandoned writes. Several reads may
    /// race, and the last to begin needn't be the last to end: the maximum counts.
    pub(crate) fn mark_read(&self, abandoned: usize) {
        self.read_after.fetch_max(abandoned, Ordering::AcqRel);
    }
}

/// The mark of one write. A drop without [`settle`](Self::settle) counts the write as abandoned.
#[must_use]
#[derive(Debug)]
pub(crate) struct PendingWrite<'a> {
    sync: &'a StoreSync,
    settled: bool,
}

impl PendingWrite<'_> {
    /// Ends the mark of a write. The write counts as abandoned if its outcome is unknown.
    pub(crate) fn settle(mut self, is_unknown: bool) {
        self.settled = !is_unknown;
    }
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.sync.abandoned_writes.fetch_add(1, Ordering::AcqRel);
        }
    }
}
