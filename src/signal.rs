//! How a record wakes those who wait on it, without knowing them and without keeping anything for them.
//!
//! Three steps: a record's [`Hub`] rings the [`Chime`] of each handle that waits, and that rings the [`Bell`] of each
//! of its watches. A ring carries nothing. Whoever is woken reads the record itself, so that a slow reader skips what
//! it missed, nothing queues, and no writer ever waits. Locks are taken in that order.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

/// Takes a lock whether or not somebody panicked in it: what it guards here is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one waiting future hangs on.
#[derive(Debug, Default)]
pub(crate) struct Bell(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    rung: bool,
    waker: Option<Waker>,
}

impl Bell {
    /// Marks it as rung. Whom that wakes is to be woken outside of all locks: a waker may run anything, our own `poll`
    /// included.
    #[must_use]
    fn ring(&self) -> Option<Waker> {
        let mut ring = lock(&self.0);
        ring.rung = true;
        ring.waker.take()
    }

    /// Ready once for all rings since the last time. Ask before reading what the ring may be about: a change between
    /// the two then rings again.
    #[allow(clippy::needless_pass_by_ref_mut)] // The form in which futures hand it on.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ring = lock(&self.0);
        if std::mem::take(&mut ring.rung) {
            return Poll::Ready(());
        }
        match &mut ring.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => ring.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// The bells of one handle and its clones.
#[derive(Debug, Default)]
pub(crate) struct Chime(Mutex<Vec<Weak<Bell>>>);

impl Chime {
    pub(crate) fn hang(&self) -> Arc<Bell> {
        let bell = Arc::new(Bell::default());
        let mut bells = lock(&self.0);
        // Those that are gone leave when the room runs out, so that a handle that opens a watch per request stays small.
        if bells.len() == bells.capacity() {
            bells.retain(|bell| bell.strong_count() > 0);
        }
        bells.push(Arc::downgrade(&bell));
        bell
    }

    pub(crate) fn is_used(&self) -> bool {
        !lock(&self.0).is_empty()
    }

    pub(crate) fn ring(&self) {
        let mut woken = Vec::new();
        self.ring_into(&mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    fn ring_into(&self, woken: &mut Vec<Waker>) {
        woken.extend(lock(&self.0).iter().filter_map(|bell| bell.upgrade()?.ring()));
    }
}

/// Who waits on one record.
#[derive(Default)]
pub(crate) struct Hub(Mutex<HashMap<usize, Weak<Chime>>>);

impl Hub {
    pub(crate) fn join(&self, chime: &Arc<Chime>) {
        lock(&self.0).insert(Arc::as_ptr(chime).addr(), Arc::downgrade(chime));
    }

    pub(crate) fn leave(&self, chime: &Arc<Chime>) {
        let mut chimes = lock(&self.0);
        chimes.remove(&Arc::as_ptr(chime).addr());
        if chimes.is_empty() {
            chimes.shrink_to_fit();
        }
    }

    pub(crate) fn ring(&self) {
        let mut woken = Vec::new();
        for chime in lock(&self.0).values().filter_map(Weak::upgrade) {
            chime.ring_into(&mut woken);
        }
        woken.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
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

    #[test]
    fn nothing_is_kept_of_who_left() {
        let (hub, chime) = (Hub::default(), Arc::new(Chime::default()));
        hub.join(&chime);
        for _ in 0..1000 {
            drop(chime.hang());
        }
        assert!(lock(&chime.0).len() <= 8);
        hub.leave(&chime);
        assert_eq!(hub.len(), 0);
    }
}
