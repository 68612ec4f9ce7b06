//! The orders in which threads can ring, listen and leave, tried by a scheduler: see `tests/README.md`.

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
    hub: Hub,
    value: AtomicUsize,
}

impl Record {
    fn write(&self, value: usize) {
        self.value.store(value, Ordering::SeqCst);
        self.hub.ring();
    }

    /// As a handle listens and a watch waits. A ring that was lost would be a wait without end, which is a failure here.
    fn wait_for(&self, value: usize, chime: &Arc<Chime>) {
        let bell = chime.hang();
        self.hub.join(chime);
        block_on(poll_fn(|cx| {
            loop {
                let rung = bell.poll(cx).is_ready();
                if self.value.load(Ordering::SeqCst) >= value {
                    return Poll::Ready(());
                }
                if !rung {
                    return Poll::Pending;
                }
            }
        }));
    }
}

#[test]
fn no_ring_is_lost_whoever_hangs_leaves_and_rings() {
    check(|| {
        let record = Arc::new(Record::default());
        let shared = Arc::new(Chime::default());
        let waiter = |chime: Arc<Chime>, leaves: bool| {
            let record = Arc::clone(&record);
            thread::spawn(move || {
                record.wait_for(1, &chime);
                if leaves {
                    record.hub.leave(&chime);
                }
                chime
            })
        };
        // Two watches of one handle, and two handles of which one goes.
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
        let chimes = waiters.map(|waiter| waiter.join().expect("a waiter"));
        assert_eq!(record.hub.len(), 1, "the one handle that stayed");
        record.hub.leave(&chimes[0]);
        assert_eq!(record.hub.len(), 0);
    });
}

#[test]
fn the_last_of_several_writes_is_seen() {
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
                record.hub.ring();
            })
        });
        writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
        waiter.join().expect("a waiter");
    });
}

/// As a watch's alarm: what it is armed with is polled only when its ringer says so.
#[test]
fn a_timer_that_fires_is_looked_at() {
    check(|| {
        let chime = Arc::new(Chime::default());
        let bell = chime.hang();
        let (ringer, fired) = (bell.ringer(), Arc::new(AtomicBool::new(false)));
        let timer = {
            let (ringer, fired) = (Arc::clone(&ringer), Arc::clone(&fired));
            thread::spawn(move || {
                fired.store(true, Ordering::SeqCst);
                Waker::from(ringer).wake();
            })
        };
        // Rings that are none of its business come meanwhile.
        let writer = {
            let chime = Arc::clone(&chime);
            thread::spawn(move || chime.ring())
        };
        block_on(poll_fn(|cx| {
            loop {
                let rung = bell.poll(cx).is_ready();
                if ringer.take() && fired.load(Ordering::SeqCst) {
                    return Poll::Ready(());
                }
                if !rung {
                    return Poll::Pending;
                }
            }
        }));
        [timer, writer].into_iter().for_each(|thread| thread.join().expect("a thread's test"));
    });
}
