//! Wake-ups: a changed record wakes the watches of the handles that subscribe to it.
//!
//! A record has [`Subscribers`], each the [`HandleWakers`] of one handle, which have a [`WakerSlot`] for each watch. A
//! wake-up carries no data. The woken watch reads the record itself, so a slow watch skips changes, nothing queues, and
//! no writer waits. Locks are taken in this order: the subscribers of a record, then the wakers of a handle.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
};

use slab::Slab;

use crate::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

#[cfg(all(test, shuttle))]
mod schedules;

/// Waits for the task's next turn, on any runtime.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The slot of one waiting future among the wakers of its handle.
#[derive(Debug)]
pub(crate) struct WakerSlot {
    wakers: Arc<HandleWakers>,
    index: usize,
}

/// The waker of a timer, which notifies one slot. The watch polls the timer only after the timer has fired, and not at
/// each wake-up of the task.
#[derive(Debug)]
pub(crate) struct TimerWaker {
    wakers: Arc<HandleWakers>,
    index: usize,
    fired: AtomicBool,
}

impl TimerWaker {
    /// Returns whether the timer has fired since the last call.
    pub(crate) fn take_fired(&self) -> bool {
        self.fired.load(Ordering::Acquire) && self.fired.swap(false, Ordering::AcqRel)
    }
}

impl Wake for TimerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.fired.store(true, Ordering::Release);
        // If the slot was freed and reused, the new watch gets one spurious wake-up.
        let waker = self.wakers.0.lock().get_mut(self.index).and_then(Slot::notify);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// The state of one slot.
#[derive(Debug, Default)]
struct Slot {
    notified: bool,
    waker: Option<Waker>,
}

impl Slot {
    /// Marks the slot, and returns the waker. The caller wakes outside of all locks: a waker may run any code, and the
    /// `poll` of this module too.
    fn notify(&mut self) -> Option<Waker> {
        self.notified = true;
        self.waker.take()
    }
}

impl WakerSlot {
    pub(crate) fn timer_waker(&self) -> Arc<TimerWaker> {
        Arc::new(TimerWaker { wakers: Arc::clone(&self.wakers), index: self.index, fired: AtomicBool::new(false) })
    }

    /// Returns ready once for all notifications since the last call. Poll the slot before reading the record: a change
    /// in between then notifies again.
    #[allow(clippy::needless_pass_by_ref_mut)] // Futures pass the slot as `&mut`.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.wakers.0.lock();
        let Some(slot) = slots.get_mut(self.index) else { return Poll::Pending };
        if std::mem::take(&mut slot.notified) {
            return Poll::Ready(());
        }
        let known = slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        let before = if known { None } else { slot.waker.replace(cx.waker().clone()) };
        // The waker may hold the last reference to a task that owns other slots, so the waker is dropped outside of the
        // lock.
        drop(slots);
        drop(before);
        Poll::Pending
    }
}

impl Drop for WakerSlot {
    fn drop(&mut self) {
        let taken = self.wakers.0.lock().try_remove(self.index);
        drop(taken); // outside of the lock: the task of the waker may own other slots
    }
}

/// The wakers of all watches of one handle and its clones.
#[derive(Debug, Default)]
pub(crate) struct HandleWakers(Mutex<Slab<Slot>>);

impl HandleWakers {
    pub(crate) fn register(self: &Arc<Self>) -> WakerSlot {
        let mut slots = self.0.lock();
        // Most handles have one watch.
        if slots.capacity() == 0 {
            slots.reserve_exact(1);
        }
        let index = slots.insert(Slot::default());
        WakerSlot { wakers: Arc::clone(self), index }
    }

    pub(crate) fn notify(&self) {
        let mut woken = Vec::new();
        self.notify_into(&mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    fn notify_into(&self, woken: &mut Vec<Waker>) {
        woken.extend(self.0.lock().iter_mut().filter_map(|(_, slot)| slot.notify()));
    }
}

/// The handles that subscribe to one record, by address: the order lets a notification continue behind the last woken
/// handle.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(Mutex<BTreeMap<usize, Weak<HandleWakers>>>);

/// The number of wakers that are woken at a time: other threads run the first tasks while this thread collects the next
/// wakers. (tokio's `Notify` has the same number.)
const BATCH: usize = 32;

impl Subscribers {
    pub(crate) fn subscribe(&self, wakers: &Arc<HandleWakers>) {
        self.0.lock().insert(Arc::as_ptr(wakers).addr(), Arc::downgrade(wakers));
    }

    pub(crate) fn unsubscribe(&self, wakers: &Arc<HandleWakers>) {
        self.0.lock().remove(&Arc::as_ptr(wakers).addr());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Notifies all subscribed handles. A handle that subscribes meanwhile may be missed: the handle reads the record
    /// after it has subscribed. A handle that unsubscribes meanwhile needs no notification.
    pub(crate) fn notify_all(&self) {
        let (mut woken, mut after) = (Vec::new(), 0);
        loop {
            // The lock is held for this loop only, and not while the tasks are woken.
            for (address, wakers) in self.0.lock().range((Excluded(after), Unbounded)) {
                after = *address;
                if let Some(wakers) = wakers.upgrade() {
                    wakers.notify_into(&mut woken);
                }
                if woken.len() >= BATCH {
                    break;
                }
            }
            if woken.is_empty() {
                return;
            }
            woken.drain(..).for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Subscribers {
        pub(crate) fn len(&self) -> usize {
            self.0.lock().len()
        }
    }
    use crate::sync::atomic::AtomicUsize;

    #[test]
    fn notifications_coalesce_and_reach_every_slot() {
        let subscribers = Subscribers::default();
        let handles = [Arc::new(HandleWakers::default()), Arc::new(HandleWakers::default())];
        handles.iter().for_each(|wakers| subscribers.subscribe(wakers));
        let slots: Vec<_> = handles.iter().flat_map(|wakers| [wakers.register(), wakers.register()]).collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(slots.iter().all(|slot| slot.poll(&mut cx).is_pending()));
        subscribers.notify_all();
        subscribers.notify_all();
        assert!(slots.iter().all(|slot| slot.poll(&mut cx).is_ready()));
        assert!(slots.iter().all(|slot| slot.poll(&mut cx).is_pending()));
    }

    /// A waker that unsubscribes when woken, as the handle of a dropped watch does.
    struct Leaver {
        subscribers: Arc<Subscribers>,
        wakers: Arc<HandleWakers>,
        woken: AtomicUsize,
    }

    impl Wake for Leaver {
        fn wake(self: Arc<Self>) {
            self.woken.fetch_add(1, Ordering::Relaxed);
            self.subscribers.unsubscribe(&self.wakers);
        }
    }

    #[test]
    fn every_waker_wakes_once_across_batches() {
        let subscribers = Arc::new(Subscribers::default());
        let leaver = |_| {
            let wakers = Arc::new(HandleWakers::default());
            subscribers.subscribe(&wakers);
            let slot = wakers.register();
            let leaver = Arc::new(Leaver { subscribers: Arc::clone(&subscribers), wakers, woken: AtomicUsize::new(0) });
            assert!(slot.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&leaver)))).is_pending());
            (leaver, slot)
        };
        let leavers: Vec<_> = (0..3 * BATCH + 1).map(leaver).collect();
        subscribers.notify_all();
        assert!(leavers.iter().all(|(leaver, _)| leaver.woken.load(Ordering::Relaxed) == 1));
        assert_eq!(subscribers.len(), 0);
    }

    #[test]
    fn freed_slots_are_reused_first() {
        let wakers = Arc::new(HandleWakers::default());
        let mut slots: Vec<_> = (0..9).map(|_| Some(wakers.register())).collect();
        let places = |slots: &[Option<WakerSlot>]| slots.iter().flatten().map(|slot| slot.index).collect::<Vec<_>>();
        assert_eq!(places(&slots), (0..9).collect::<Vec<_>>());
        for freed in [2, 7, 4] {
            slots[freed] = None;
        }
        // Freed places are used again before new places, and the place freed last comes first.
        let again: Vec<_> = (0..5).map(|_| Some(wakers.register())).collect();
        assert_eq!(places(&again), [4, 7, 2, 9, 10]);
        wakers.notify();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(slots.iter().chain(&again).flatten().all(|slot| slot.poll(&mut cx).is_ready()));
    }

    #[test]
    fn unregistered_slots_leave_nothing() {
        let (subscribers, wakers) = (Subscribers::default(), Arc::new(HandleWakers::default()));
        subscribers.subscribe(&wakers);
        for _ in 0..1000 {
            drop(wakers.register());
        }
        let many: Vec<_> = (0..9).map(|_| wakers.register()).collect();
        drop(many);
        for _ in 0..1000 {
            drop((wakers.register(), wakers.register()));
        }
        assert!(wakers.0.lock().is_empty() && wakers.0.lock().capacity() <= 16);
        subscribers.unsubscribe(&wakers);
        assert_eq!(subscribers.len(), 0);
    }
}
