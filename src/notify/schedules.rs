//! Schedule tests: a scheduler tries the orders in which threads notify, subscribe and unsubscribe. See
//! `tests/README.md`.

use std::future::poll_fn;

use shuttle::{check_pct, check_random, future::block_on, thread};

use super::*;
use crate::sync::atomic::AtomicUsize;

fn check(test: impl Fn() + Send + Sync + Clone + 'static) {
    let orders = std::env::var("SCHEDULES").map_or(2000, |orders| orders.parse().expect("a number"));
    check_random(test.clone(), orders);
    check_pct(test, orders, 3);
}

#[derive(Default)]
struct Record {
    subscribers: Subscribers,
    value: AtomicUsize,
}

impl Record {
    fn write(&self, value: usize) {
        self.value.store(value, Ordering::SeqCst);
        self.subscribers.notify_all();
    }

    /// Subscribes as a handle does, and waits as a watch does. A lost notification would be a wait without end, which
    /// the scheduler reports as a failure.
    fn wait_for(&self, value: usize, wakers: &Arc<HandleWakers>) {
        let slot = wakers.register();
        self.subscribers.subscribe(wakers);
        block_on(poll_fn(|cx| {
            loop {
                let notified = slot.poll(cx).is_ready();
                if self.value.load(Ordering::SeqCst) >= value {
                    return Poll::Ready(());
                }
                if !notified {
                    return Poll::Pending;
                }
            }
        }));
    }
}

#[test]
fn no_notification_is_lost() {
    check(|| {
        let record = Arc::new(Record::default());
        let shared = Arc::new(HandleWakers::default());
        let waiter = |wakers: Arc<HandleWakers>, leaves: bool| {
            let record = Arc::clone(&record);
            thread::spawn(move || {
                record.wait_for(1, &wakers);
                if leaves {
                    record.subscribers.unsubscribe(&wakers);
                }
                wakers
            })
        };
        // Two watches of one handle that stays, and two handles that unsubscribe.
        let waiters = [
            waiter(Arc::clone(&shared), false),
            waiter(shared, false),
            waiter(Arc::default(), true),
            waiter(Arc::default(), true),
        ];
        let writer = {
            let record = Arc::clone(&record);
            thread::spawn(move || record.write(1))
        };
        writer.join().expect("a writer");
        let handles = waiters.map(|waiter| waiter.join().expect("a waiter"));
        assert_eq!(record.subscribers.len(), 1, "only the first handle still subscribes");
        record.subscribers.unsubscribe(&handles[0]);
        assert_eq!(record.subscribers.len(), 0);
    });
}

#[test]
fn last_of_several_writes_is_seen() {
    check(|| {
        let record = Arc::new(Record::default());
        let waiter = {
            let record = Arc::clone(&record);
            thread::spawn(move || record.wait_for(3, &Arc::default()))
        };
        let writers = [1, 2].map(|by| {
            let record = Arc::clone(&record);
            thread::spawn(move || {
                record.value.fetch_add(by, Ordering::SeqCst);
                record.subscribers.notify_all();
            })
        });
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        waiter.join().expect("a waiter");
    });
}

/// The watch polls the timer only after the timer's waker has fired, so `take_fired` must not miss the timer.
#[test]
fn fired_timer_wakes_the_watch() {
    check(|| {
        let wakers = Arc::new(HandleWakers::default());
        let slot = wakers.register();
        let (timer, fired) = (slot.timer_waker(), Arc::new(AtomicBool::new(false)));
        let timer_thread = {
            let (timer, fired) = (Arc::clone(&timer), Arc::clone(&fired));
            thread::spawn(move || {
                fired.store(true, Ordering::SeqCst);
                Waker::from(timer).wake();
            })
        };
        // Meanwhile the slot gets a notification that does not come from the timer.
        let writer = {
            let wakers = Arc::clone(&wakers);
            thread::spawn(move || wakers.notify())
        };
        block_on(poll_fn(|cx| {
            loop {
                let notified = slot.poll(cx).is_ready();
                if timer.take_fired() && fired.load(Ordering::SeqCst) {
                    return Poll::Ready(());
                }
                if !notified {
                    return Poll::Pending;
                }
            }
        }));
        [timer_thread, writer].into_iter().for_each(|thread| thread.join().expect("a thread's test"));
    });
}
