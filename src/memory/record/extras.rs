//! The rare fields of a record: the subscribed handles, the async locks of writers, and the state of writes to a store.

use std::{sync::Arc, time::Duration};

use once_cell::race::OnceBox;

use super::Record;
use crate::{
    error::TierError,
    memory::owners::ListedOwner,
    notify::{HandleWakers, Subscribers},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Millis,
    version::Known,
};

/// The fields that only watched, contended or stored records need.
#[derive(Debug, Default)]
pub(crate) struct RecordExtras {
    pub(crate) subscribers: Subscribers,
    locks: OnceBox<WriterLocks>,
    sync: OnceBox<StoreSync>,
}

/// The async locks of writers.
#[derive(Debug, Default)]
struct WriterLocks {
    update_queue: tokio::sync::Mutex<()>,
    renew_gate: tokio::sync::RwLock<()>,
}

impl RecordExtras {
    /// Held by one update at a time: concurrent updates queue instead of losing to each other.
    pub(crate) fn update_queue(&self) -> &tokio::sync::Mutex<()> {
        &self.locks.get_or_init(Box::default).update_queue
    }

    /// Shared by writes to a shared store. Held exclusively by a renewal over such a store, which copies the values to
    /// the new id in the store: the renewal waits for the writes in flight, and later writes go to the new id. An end of all
    /// other sessions holds the gate from its first read until its renewal has ended.
    pub(crate) fn renew_gate(&self) -> &tokio::sync::RwLock<()> {
        &self.locks.get_or_init(Box::default).renew_gate
    }

    pub(crate) fn sync(&self) -> &StoreSync {
        self.sync.get_or_init(Box::default)
    }
}

impl Record {
    pub(crate) fn extras(&self) -> &RecordExtras {
        self.extras.get_or_init(Box::default)
    }

    /// Whether memory has merged this state of the store's record, or a later state.
    pub(crate) fn knows(&self, known: Known) -> bool {
        let mine = self.sync().and_then(|sync| sync.told.lock().whole());
        mine.is_some_and(|mine| mine.generation == known.generation && mine.newest >= known.newest)
    }

    /// Whether a handle subscribes to the record.
    pub(crate) fn is_watched(&self) -> bool {
        self.extras.get().is_some_and(|extras| !extras.subscribers.is_empty())
    }

    pub(crate) fn sync(&self) -> Option<&StoreSync> {
        self.extras.get()?.sync.get()
    }

    /// Returns the bytes of the extras, if there are any.
    pub(in crate::memory) fn extras_bytes(&self) -> usize {
        self.extras.get().map_or(0, |extras| {
            let locks = extras.locks.get().map_or(0, |_| size_of::<WriterLocks>());
            let sync = extras.sync.get().map_or(0, |_| size_of::<StoreSync>());
            size_of::<RecordExtras>() + locks + sync
        })
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
        drop(self.extras().sync().begin());
        self
    }

    /// Whether the outcome of a write is unknown, so that the store must be read before memory can answer.
    pub(crate) fn is_stale(&self) -> bool {
        self.sync().is_some_and(StoreSync::is_stale)
    }

    /// Whether the store must be told of a use of this record.
    pub(crate) fn is_use_due(&self, idle: Duration, now: Millis) -> bool {
        self.sync().is_none_or(|sync| is_use_due(sync.told_use.load(Ordering::Acquire), idle, now))
    }

    /// Whether the store has confirmed the record within `span`, and no notice of a change has come since.
    pub(crate) fn was_confirmed(&self, span: Duration, now: Millis) -> bool {
        self.sync().is_some_and(|sync| {
            let confirmed = Millis(sync.confirmed.load(Ordering::Acquire));
            now < confirmed.after(span) && sync.vouched_until.load(Ordering::Acquire) != 0
        })
    }

    /// Whether memory may answer for the owner without a read of the store: the store has confirmed the record after
    /// `since`, and neither its time nor `limit` after the confirmation has passed.
    pub(crate) fn is_vouched(&self, since: Millis, limit: Duration, now: Millis) -> bool {
        self.sync().is_some_and(|sync| {
            let confirmed = Millis(sync.confirmed.load(Ordering::Acquire));
            !sync.is_stale()
                && confirmed >= since
                && now < confirmed.after(limit)
                && now.0 < sync.vouched_until.load(Ordering::Acquire)
        })
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
    /// The time of the last read of the store, in milliseconds of node time; 0 before the first read.
    confirmed: AtomicU64,
    /// The time until which memory may answer without another read, if notices arrive.
    vouched_until: AtomicU64,
    /// The last use of the record that the store has been told of.
    told_use: AtomicU64,
    /// The store's record of which the store has told this node last.
    told: Mutex<Told>,
    /// The entry of a session among the owners.
    listed: OnceBox<ListedOwner>,
}

/// The state of the store's record in the last answer of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// [`Known::NONE`] without an answer, and after an answer without a record.
    pub(crate) known: Known,
    /// Whether memory has merged this state whole. Commits of other nodes may come before a commit of this node.
    is_whole: bool,
    /// Whether memory has something that the store's record lacks.
    owes: bool,
}

impl Default for Told {
    fn default() -> Self {
        Self { known: Known::NONE, is_whole: false, owes: false }
    }
}

impl Told {
    /// Returns the state that memory has merged whole.
    fn whole(self) -> Option<Known> {
        self.is_whole.then_some(self.known)
    }

    fn set(&mut self, known: Known, is_whole: bool) {
        (self.known, self.is_whole) = (known, is_whole);
    }
}

/// A read of the store for a record. Begin the reading before the store is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreReading {
    abandoned: usize,
    /// The last answer of the store when the reading began.
    pub(crate) told: Told,
}

impl StoreReading {
    /// Begins a reading for a record that memory has, or may get as a record that was [`Record::never_loaded`].
    pub(crate) fn begin(record: Option<&Record>) -> Self {
        let sync = record.and_then(Record::sync);
        // A record that is created while the store is asked counts one abandoned write.
        let none = if record.is_some() { 0 } else { 1 };
        Self {
            abandoned: sync.map_or(none, StoreSync::abandoned_writes),
            told: sync.map_or_else(Told::default, |sync| *sync.told.lock()),
        }
    }

    /// Returns the store's record that memory had merged whole when the reading began.
    pub(crate) fn known(&self) -> Option<Known> {
        self.told.whole()
    }
}

impl StoreSync {
    /// Waits for the store's answer to a write. If the future is dropped, or the store may have made the write that
    /// failed, the record is stale until the next read of the store.
    ///
    /// For writes that may end a session or shorten its lifetime: without an answer, a load during an outage does not
    /// count on the store's last confirmation either.
    pub(crate) async fn track<T>(&self, write: impl Future<Output = Result<T, TierError>>) -> Result<T, TierError> {
        let pending = PendingWrite { sync: self, may_end: true, settled: false };
        let answer = write.await;
        pending.settle(answer.as_ref().is_err_and(TierError::may_be_applied));
        answer
    }

    /// Begins a write. The write counts as abandoned if the mark is dropped.
    pub(crate) const fn begin(&self) -> PendingWrite<'_> {
        PendingWrite { sync: self, may_end: false, settled: false }
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

    /// Notes that memory has merged a read of the store whole, and may answer for `span`. Several reads may race, and
    /// the last to begin needn't be the last to end: the maximum counts.
    pub(crate) fn finish(&self, reading: StoreReading, known: Option<Known>, span: Duration, now: Millis) {
        self.read_after.fetch_max(reading.abandoned, Ordering::AcqRel);
        self.told.lock().set(known.unwrap_or(Known::NONE), known.is_some());
        self.vouch(span, now);
    }

    /// Notes that the store's record is unchanged since the reading began. Memory vouches only if it still has that record
    /// whole: it may have emptied the record meanwhile.
    pub(crate) fn finish_unchanged(&self, reading: StoreReading, span: Duration, now: Millis) {
        self.read_after.fetch_max(reading.abandoned, Ordering::AcqRel);
        if self.told.lock().whole() == reading.known() {
            self.vouch(span, now);
        }
    }

    /// Notes that memory has the store's record, and may answer for `span`.
    pub(crate) fn vouch(&self, span: Duration, now: Millis) {
        self.confirmed.store(now.0, Ordering::Release);
        self.vouched_until.store(now.after(span).0, Ordering::Release);
    }

    /// Lists the record under its owner, unless it is listed.
    pub(crate) fn list(&self, list: impl FnOnce() -> ListedOwner) {
        self.listed.get_or_init(|| Box::new(list()));
    }

    /// Notes that another node has changed the record: the next load reads the store.
    pub(crate) fn suspect(&self) {
        self.vouched_until.store(0, Ordering::Release);
    }

    /// Notes a commit of this node. The store's record may have changes of other nodes too, so the next read must be
    /// answered whole.
    pub(crate) fn note_commit(&self, known: Known, used: Millis) {
        let mut told = self.told.lock();
        // Commits of one record may end in another order than the store has made them.
        let newest = told.known.newest.max(known.newest);
        told.set(Known { newest, ..known }, false);
        drop(told);
        self.note_told_use(used);
    }

    /// Notes that memory has something that the store's record lacks.
    pub(crate) fn owe(&self) {
        self.told.lock().owes = true;
    }

    /// Takes the debt that [`owe`](Self::owe) has noted. `None` without a debt, and if another caller has taken the debt.
    pub(crate) fn take_debt(&self) -> Option<TakenDebt<'_>> {
        let owes = std::mem::take(&mut self.told.lock().owes);
        owes.then(|| TakenDebt { sync: self, is_paid: false })
    }

    /// Whether the store has been read at this time.
    pub(crate) fn was_read_at(&self, now: Millis) -> bool {
        self.confirmed.load(Ordering::Acquire) == now.0
    }

    /// Returns the last answer of the store.
    pub(crate) fn told(&self) -> Told {
        *self.told.lock()
    }

    /// Makes the store answer the next read whole. Takes a lock of its own under the record's lock.
    pub(crate) fn forget_known(&self) {
        self.told.lock().is_whole = false;
    }

    /// Makes the next load tell the store of the use.
    pub(crate) fn forget_told_use(&self) {
        self.told_use.store(0, Ordering::Release);
    }

    /// Notes a use that the store has been told of.
    pub(crate) fn note_told_use(&self, used: Millis) {
        self.told_use.fetch_max(used.0, Ordering::AcqRel);
    }

    /// Whether the caller must tell the store of a use: the first caller, once a tenth of the idle lifetime has passed
    /// since the last use that the store was told of.
    pub(crate) fn tells_use(&self, idle: Duration, now: Millis) -> bool {
        let told = self.told_use.load(Ordering::Acquire);
        is_use_due(told, idle, now)
            && self.told_use.compare_exchange(told, now.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Whether a tenth of the idle lifetime has passed since the last use that the store was told of.
fn is_use_due(told: u64, idle: Duration, now: Millis) -> bool {
    now >= Millis(told).after(idle / 10)
}

/// The mark of one write. A drop without [`settle`](Self::settle) counts the write as abandoned.
#[must_use]
#[derive(Debug)]
pub(crate) struct PendingWrite<'a> {
    sync: &'a StoreSync,
    /// Whether the write may end the session, or all sessions of the user.
    may_end: bool,
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
            if self.may_end {
                self.sync.suspect();
            }
        }
    }
}

/// A debt to the store that a caller pays. A drop without [`settle`](Self::settle) leaves the debt to a later load: the
/// store may have failed, or the client may have left.
#[must_use]
#[derive(Debug)]
pub(crate) struct TakenDebt<'a> {
    sync: &'a StoreSync,
    is_paid: bool,
}

impl TakenDebt<'_> {
    /// Ends the debt: the store has answered.
    pub(crate) fn settle(mut self) {
        self.is_paid = true;
    }
}

impl Drop for TakenDebt<'_> {
    fn drop(&mut self) {
        if !self.is_paid {
            self.sync.owe();
        }
    }
}
