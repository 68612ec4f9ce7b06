//! How a record wakes those who wait on it, without knowing them and without keeping anything for them.
//!
//! Three steps: a record's [`Hub`] rings the [`Chime`] of each handle that waits, and that rings the [`Bell`] of each
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
pub(crate) struct Bell {
    chime: Arc<Chime>,
    place: usize,
}

/// Rings one bell from outside, as a timer's waker: so that the timer is polled when it has something to say, and not
/// whenever the task is.
#[derive(Debug)]
pub(crate) struct Ringer {
    chime: Arc<Chime>,
    place: usize,
    rang: AtomicBool,
}

impl Ringer {
    /// Whether it has rung since the last time.
    pub(crate) fn take(&self) -> bool {
        self.rang.load(Ordering::Acquire) && self.rang.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        // Should the bell be gone, another in its place looks once for nothing.
        let waker = lock(&self.chime.0).at(self.place).and_then(Ring::ring);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// One bell as its chime keeps it.
#[derive(Debug, Default)]
struct Ring {
    rung: bool,
    waker: Option<Waker>,
}

impl Ring {
    /// Whom it wakes is to be woken outside of all locks: a waker may run anything, our own `poll` included.
    fn ring(&mut self) -> Option<Waker> {
        self.rung = true;
        self.waker.take()
    }
}

impl Bell {
    pub(crate) fn ringer(&self) -> Arc<Ringer> {
        let (chime, place) = (Arc::clone(&self.chime), self.place);
        Arc::new(Ringer { chime, place, rang: AtomicBool::new(false) })
    }

    /// Ready once for all rings since the last time. Ask before reading what the ring may be about: a change between
    /// the two then rings again.
    #[allow(clippy::needless_pass_by_ref_mut)] // The form in which futures hand it on.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bells = lock(&self.chime.0);
        let Some(ring) = bells.at(self.place) else { return Poll::Pending };
        if std::mem::take(&mut ring.rung) {
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

impl Drop for Bell {
    fn drop(&mut self) {
        let taken = lock(&self.chime.0).take_down(self.place);
        drop(taken); // outside of the lock, as above
    }
}

/// The bells of one handle and its clones.
#[derive(Debug, Default)]
pub(crate) struct Chime(Mutex<Bells>);

/// Most handles have one watch, which needs no list: a write that thousands wait for follows a pointer less for each.
#[derive(Debug, Default)]
struct Bells {
    first: Option<Ring>,
    others: Vec<Place>,
    /// The place in `others` that the next bell takes, or the length of `others` if all are taken.
    free: usize,
}

/// The free places are a list of their own, so that a bell is hung in constant time beside any number of others.
#[derive(Debug)]
enum Place {
    Taken(Ring),
    Free { next: usize },
}

impl Place {
    const fn ring(&mut self) -> Option<&mut Ring> {
        match self {
            Self::Taken(ring) => Some(ring),
            Self::Free { .. } => None,
        }
    }
}

impl Bells {
    fn hang(&mut self) -> usize {
        if self.first.is_none() {
            self.first = Some(Ring::default());
            return 0;
        }
        let taken = self.free;
        match self.others.get_mut(taken) {
            Some(place) => {
                if let Place::Free { next } = std::mem::replace(place, Place::Taken(Ring::default())) {
                    self.free = next;
                }
            }
            None => {
                self.others.push(Place::Taken(Ring::default()));
                self.free = self.others.len();
            }
        }
        1 + taken
    }

    fn at(&mut self, place: usize) -> Option<&mut Ring> {
        match place {
            0 => self.first.as_mut(),
            place => self.others.get_mut(place - 1)?.ring(),
        }
    }

    fn take_down(&mut self, place: usize) -> Option<Ring> {
        match place {
            0 => self.first.take(),
            place => {
                let slot = self.others.get_mut(place - 1).filter(|slot| matches!(slot, Place::Taken(_)))?;
                let taken = std::mem::replace(slot, Place::Free { next: self.free });
                self.free = place - 1;
                match taken {
                    Place::Taken(ring) => Some(ring),
                    Place::Free { .. } => None,
                }
            }
        }
    }
}

impl Chime {
    pub(crate) fn hang(self: &Arc<Self>) -> Bell {
        let place = lock(&self.0).hang();
        Bell { chime: Arc::clone(self), place }
    }

    pub(crate) fn ring(&self) {
        let mut woken = Vec::new();
        self.ring_into(&mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    fn ring_into(&self, woken: &mut Vec<Waker>) {
        let Bells { first, others, .. } = &mut *lock(&self.0);
        woken.extend(first.iter_mut().chain(others.iter_mut().filter_map(Place::ring)).filter_map(Ring::ring));
    }
}

/// Who waits on one record.
#[derive(Default)]
pub(crate) struct Hub(Mutex<Chimes>);

/// By the chime's address: in an order, so that a ring can go on where it gave way. Most records have one page that
/// waits, or two, and a tree's first node is made for eleven.
#[derive(Default)]
struct Chimes {
    first: Option<(usize, Weak<Chime>)>,
    others: BTreeMap<usize, Weak<Chime>>,
}

/// How many are woken at a time: other threads run the first while the rest is still being looked for. (tokio's `Notify`
/// has the same number.)
const BATCH: usize = 32;

impl Hub {
    pub(crate) fn join(&self, chime: &Arc<Chime>) {
        let address = Arc::as_ptr(chime).addr();
        let Chimes { first, others } = &mut *lock(&self.0);
        match first {
            Some((known, _)) if *known == address => {}
            None if !others.contains_key(&address) => *first = Some((address, Arc::downgrade(chime))),
            _ => drop(others.insert(address, Arc::downgrade(chime))),
        }
    }

    pub(crate) fn leave(&self, chime: &Arc<Chime>) {
        let address = Arc::as_ptr(chime).addr();
        let Chimes { first, others } = &mut *lock(&self.0);
        match first {
            Some((known, _)) if *known == address => *first = None,
            _ => drop(others.remove(&address)),
        }
    }

    /// Whoever joins while it goes on has yet to look, and one that leaves has no need to be told.
    pub(crate) fn ring(&self) {
        let (mut woken, mut after) = (Vec::new(), 0);
        if let Some(chime) = lock(&self.0).first.as_ref().and_then(|(_, chime)| chime.upgrade()) {
            chime.ring_into(&mut woken);
        }
        loop {
            {
                let chimes = lock(&self.0);
                for (address, chime) in chimes.others.range((Excluded(after), Unbounded)) {
                    after = *address;
                    if let Some(chime) = chime.upgrade() {
                        chime.ring_into(&mut woken);
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

impl fmt::Debug for Hub {
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
        let hub = Hub::default();
        let chimes = [Arc::new(Chime::default()), Arc::new(Chime::default())];
        chimes.iter().for_each(|chime| hub.join(chime));
        let bells: Vec<_> = chimes.iter().flat_map(|chime| [chime.hang(), chime.hang()]).collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(bells.iter().all(|bell| bell.poll(&mut cx).is_pending()));
        hub.ring();
        hub.ring();
        assert!(bells.iter().all(|bell| bell.poll(&mut cx).is_ready()));
        assert!(bells.iter().all(|bell| bell.poll(&mut cx).is_pending()));
    }

    /// Leaves the hub when it is woken, as a watch does that its task drops.
    struct Leaver {
        hub: Arc<Hub>,
        chime: Arc<Chime>,
        woken: AtomicUsize,
    }

    impl Wake for Leaver {
        fn wake(self: Arc<Self>) {
            self.woken.fetch_add(1, Ordering::Relaxed);
            self.hub.leave(&self.chime);
        }
    }

    #[test]
    fn more_than_one_batch_is_woken_once_each_whatever_they_do_then() {
        let hub = Arc::new(Hub::default());
        let leaver = |_| {
            let chime = Arc::new(Chime::default());
            hub.join(&chime);
            let bell = chime.hang();
            let leaver = Arc::new(Leaver { hub: Arc::clone(&hub), chime, woken: AtomicUsize::new(0) });
            assert!(bell.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&leaver)))).is_pending());
            (leaver, bell)
        };
        let leavers: Vec<_> = (0..3 * BATCH + 1).map(leaver).collect();
        hub.ring();
        assert!(leavers.iter().all(|(leaver, _)| leaver.woken.load(Ordering::Relaxed) == 1));
        assert_eq!(hub.len(), 0);
    }

    #[test]
    fn bells_take_freed_places_without_search() {
        let chime = Arc::new(Chime::default());
        let mut bells: Vec<_> = (0..9).map(|_| Some(chime.hang())).collect();
        let places = |bells: &[Option<Bell>]| bells.iter().flatten().map(|bell| bell.place).collect::<Vec<_>>();
        assert_eq!(places(&bells), (0..9).collect::<Vec<_>>());
        for freed in [2, 7, 4] {
            bells[freed] = None;
        }
        // A search from the front would find the second place first.
        let again: Vec<_> = (0..5).map(|_| Some(chime.hang())).collect();
        assert_eq!(places(&again), [4, 7, 2, 9, 10]);
        chime.ring();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(bells.iter().chain(&again).flatten().all(|bell| bell.poll(&mut cx).is_ready()));
        assert_eq!(size_of::<Place>(), size_of::<Option<Ring>>());
    }

    #[test]
    fn nothing_is_kept_of_who_left() {
        let (hub, chime) = (Hub::default(), Arc::new(Chime::default()));
        hub.join(&chime);
        for _ in 0..1000 {
            drop(chime.hang());
        }
        let many: Vec<_> = (0..9).map(|_| chime.hang()).collect();
        drop(many);
        for _ in 0..1000 {
            drop((chime.hang(), chime.hang()));
        }
        assert_eq!(lock(&chime.0).others.len(), 8);
        hub.leave(&chime);
        assert_eq!(hub.len(), 0);
    }
}
