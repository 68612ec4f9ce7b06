//! How a record wakes those who wait on it, without knowing them and without keeping anything for them.
//!
//! Three steps: a record's [`Subscribers`] rings the [`HandleWakers`] of each handle that waits, and that rings the [`WakerSlot`] of each
//! of its watches. A ring carries nothing. Whoever is woken reads the record itself, so that a slow reader skips what
//! it missed, nothing queues, and no writer ever waits. Locks are taken in that order.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker},
};

use crate::sync::{
    StdMutex as Mutex, StdMutexGuard as MutexGuard,
    atomic::{AtomicBool, Ordering},
};

#[cfg(all(test, shuttle))]
mod schedules;

/// Takes a lock whether or not somebody panicked in it: what it guards here is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one waiting future hangs on: a place in its handle's chime.
#[derive(Debug)]
pub(crate) struct WakerSlot {
    wakers: Arc<HandleWakers>,
    index: usize,
}

/// Rings one bell from outside, as a timer's waker: so that the timer is polled when it has something to say, and not
/// whenever the task is.
#[derive(Debug)]
pub(crate) struct TimerWaker {
    wakers: Arc<HandleWakers>,
    index: usize,
    fired: AtomicBool,
}

impl TimerWaker {
    /// Whether it has rung since the last time.
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
        // Should the bell be gone, another in its place looks once for nothing.
        let waker = lock(&self.wakers.0).get(self.index).and_then(Slot::notify);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// One bell as its chime keeps it.
#[derive(Debug, Default)]
struct Slot {
    notified: bool,
    waker: Option<Waker>,
}

impl Slot {
    /// Whom it wakes is to be woken outside of all locks: a waker may run anything, our own `poll` included.
    fn notify(&mut self) -> Option<Waker> {
        self.notified = true;
        self.waker.take()
    }
}

impl WakerSlot {
    pub(crate) fn timer_waker(&self) -> Arc<TimerWaker> {
        let (chime, place) = (Arc::clone(&self.wakers), self.index);
        Arc::new(TimerWaker { wakers: chime, index: place, fired: AtomicBool::new(false) })
    }

    /// Ready once for all rings since the last time. Ask before reading what the ring may be about: a change between
    /// the two then rings again.
    #[allow(clippy::needless_pass_by_ref_mut)] // The form in which futures hand it on.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bells = lock(&self.wakers.0);
        let Some(ring) = bells.get(self.index) else { return Poll::Pending };
        if std::mem::take(&mut ring.notified) {
            return Poll::Ready(());
        }
        let known = ring.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        let before = if known { None } else { ring.waker.replace(cx.waker().clone()) };
        // A waker may be the last to hold its task, and that may hold other bells: it is dropped outside of the lock.
        drop(bells);
        drop(before);
        Poll::Pending
    }
}

impl Drop for WakerSlot {
    fn drop(&mut self) {
        let taken = lock(&self.wakers.0).remove(self.index);
        drop(taken); // outside of the lock, as above
    }
}

/// The bells of one handle and its clones.
#[derive(Debug, Default)]
pub(crate) struct HandleWakers(Mutex<Slots>);

/// Most handles have one watch, which needs no list: a write that thousands wait for follows a pointer less for each.
#[derive(Debug, Default)]
struct Slots {
    first: Option<Slot>,
    others: Vec<SlotEntry>,
    /// The place in `others` that the next bell takes, or the length of `others` if all are taken.
    free: usize,
}

/// The free places are a list of their own, so that a bell is hung in constant time beside any number of others.
#[derive(Debug)]
enum SlotEntry {
    Used(Slot),
    Free { next: usize },
}

impl SlotEntry {
    const fn slot(&mut self) -> Option<&mut Slot> {
        match self {
            Self::Used(ring) => Some(ring),
            Self::Free { .. } => None,
        }
    }
}

impl Slots {
    fn insert(&mut self) -> usize {
        if self.first.is_none() {
            self.first = Some(Slot::default());
            return 0;
        }
        let taken = self.free;
        match self.others.get_mut(taken) {
            Some(place) => {
                if let SlotEntry::Free { next } = std::mem::replace(place, SlotEntry::Used(Slot::default())) {
                    self.free = next;
                }
            }
            None => {
                self.others.push(SlotEntry::Used(Slot::default()));
                self.free = self.others.len();
            }
        }
        1 + taken
    }

    fn get(&mut self, place: usize) -> Option<&mut Slot> {
        match place {
            0 => self.first.as_mut(),
            place => self.others.get_mut(place - 1)?.slot(),
        }
    }

    fn remove(&mut self, place: usize) -> Option<Slot> {
        match place {
            0 => self.first.take(),
            place => {
                let slot = self.others.get_mut(place - 1).filter(|slot| matches!(slot, SlotEntry::Used(_)))?;
                let taken = std::mem::replace(slot, SlotEntry::Free { next: self.free });
                self.free = place - 1;
                match taken {
                    SlotEntry::Used(ring) => Some(ring),
                    SlotEntry::Free { .. } => None,
                }
            }
        }
    }
}

impl HandleWakers {
    pub(crate) fn register(self: &Arc<Self>) -> WakerSlot {
        let place = lock(&self.0).insert();
        WakerSlot { wakers: Arc::clone(self), index: place }
    }

    pub(crate) fn notify(&self) {
        let mut woken = Vec::new();
        self.notify_into(&mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    fn notify_into(&self, woken: &mut Vec<Waker>) {
        let Slots { first, others, .. } = &mut *lock(&self.0);
        woken.extend(first.iter_mut().chain(others.iter_mut().filter_map(SlotEntry::slot)).filter_map(Slot::notify));
    }
}

/// Who waits on one record.
#[derive(Default)]
pub(crate) struct Subscribers(Mutex<HandleList>);

/// By the chime's address: in an order, so that a ring can go on where it gave way. Most records have one page that
/// waits, or two, and a tree's first node is made for eleven.
#[derive(Default)]
struct HandleList {
    first: Option<(usize, Weak<HandleWakers>)>,
    others: BTreeMap<usize, Weak<HandleWakers>>,
}

/// How many are woken at a time: other threads run the first while the rest is still being looked for. (tokio's `Notify`
/// has the same number.)
const BATCH: usize = 32;

impl Subscribers {
    pub(crate) fn subscribe(&self, chime: &Arc<HandleWakers>) {
        let address = Arc::as_ptr(chime).addr();
        let HandleList { first, others } = &mut *lock(&self.0);
        match first {
            Some((known, _)) if *known == address => {}
            None if !others.contains_key(&address) => *first = Some((address, Arc::downgrade(chime))),
            _ => drop(others.insert(address, Arc::downgrade(chime))),
        }
    }

    pub(crate) fn unsubscribe(&self, chime: &Arc<HandleWakers>) {
        let address = Arc::as_ptr(chime).addr();
        let HandleList { first, others } = &mut *lock(&self.0);
        match first {
            Some((known, _)) if *known == address => *first = None,
            _ => drop(others.remove(&address)),
        }
    }

    /// Whoever joins while it goes on has yet to look, and one that leaves has no need to be told.
    pub(crate) fn notify_all(&self) {
        let (mut woken, mut after) = (Vec::new(), 0);
        if let Some(chime) = lock(&self.0).first.as_ref().and_then(|(_, chime)| chime.upgrade()) {
            chime.notify_into(&mut woken);
        }
        loop {
            {
                let chimes = lock(&self.0);
                for (address, chime) in chimes.others.range((Excluded(after), Unbounded)) {
                    after = *address;
                    if let Some(chime) = chime.upgrade() {
                        chime.notify_into(&mut woken);
                    }
                    if woken.len() >= BATCH {
                        break;
                    }
                }
            }
            if woken.is_empty() {
                return;
            }
            woken.drain(..).for_each(Waker::wake);
        }
    }

    pub(crate) fn len(&self) -> usize {
        let chimes = lock(&self.0);
        usize::from(chimes.first.is_some()) + chimes.others.len()
    }
}

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("waiting", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::AtomicUsize;

    #[test]
    fn rings_coalesce_and_reach_every_bell_of_every_chime() {
        let hub = Subscribers::default();
        let chimes = [Arc::new(HandleWakers::default()), Arc::new(HandleWakers::default())];
        chimes.iter().for_each(|chime| hub.subscribe(chime));
        let bells: Vec<_> = chimes.iter().flat_map(|chime| [chime.register(), chime.register()]).collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(bells.iter().all(|bell| bell.poll(&mut cx).is_pending()));
        hub.notify_all();
        hub.notify_all();
        assert!(bells.iter().all(|bell| bell.poll(&mut cx).is_ready()));
        assert!(bells.iter().all(|bell| bell.poll(&mut cx).is_pending()));
    }

    /// Leaves the hub when it is woken, as a watch does that its task drops.
    struct Leaver {
        hub: Arc<Subscribers>,
        chime: Arc<HandleWakers>,
        woken: AtomicUsize,
    }

    impl Wake for Leaver {
        fn wake(self: Arc<Self>) {
            self.woken.fetch_add(1, Ordering::Relaxed);
            self.hub.unsubscribe(&self.chime);
        }
    }

    #[test]
    fn more_than_one_batch_is_woken_once_each_whatever_they_do_then() {
        let hub = Arc::new(Subscribers::default());
        let leaver = |_| {
            let chime = Arc::new(HandleWakers::default());
            hub.subscribe(&chime);
            let bell = chime.register();
            let leaver = Arc::new(Leaver { hub: Arc::clone(&hub), chime, woken: AtomicUsize::new(0) });
            assert!(bell.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&leaver)))).is_pending());
            (leaver, bell)
        };
        let leavers: Vec<_> = (0..3 * BATCH + 1).map(leaver).collect();
        hub.notify_all();
        assert!(leavers.iter().all(|(leaver, _)| leaver.woken.load(Ordering::Relaxed) == 1));
        assert_eq!(hub.len(), 0);
    }

    #[test]
    fn bells_take_freed_places_without_search() {
        let chime = Arc::new(HandleWakers::default());
        let mut bells: Vec<_> = (0..9).map(|_| Some(chime.register())).collect();
        let places = |bells: &[Option<WakerSlot>]| bells.iter().flatten().map(|bell| bell.index).collect::<Vec<_>>();
        assert_eq!(places(&bells), (0..9).collect::<Vec<_>>());
        for freed in [2, 7, 4] {
            bells[freed] = None;
        }
        // A search from the front would find the second place first.
        let again: Vec<_> = (0..5).map(|_| Some(chime.register())).collect();
        assert_eq!(places(&again), [4, 7, 2, 9, 10]);
        chime.notify();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(bells.iter().chain(&again).flatten().all(|bell| bell.poll(&mut cx).is_ready()));
        assert_eq!(size_of::<SlotEntry>(), size_of::<Option<Slot>>());
    }

    #[test]
    fn nothing_is_kept_of_who_left() {
        let (hub, chime) = (Subscribers::default(), Arc::new(HandleWakers::default()));
        hub.subscribe(&chime);
        for _ in 0..1000 {
            drop(chime.register());
        }
        let many: Vec<_> = (0..9).map(|_| chime.register()).collect();
        drop(many);
        for _ in 0..1000 {
            drop((chime.register(), chime.register()));
        }
        assert_eq!(lock(&chime.0).others.len(), 8);
        hub.unsubscribe(&chime);
        assert_eq!(hub.len(), 0);
    }
}
