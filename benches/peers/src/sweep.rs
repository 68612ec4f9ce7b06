//! The cost of dropping expired sessions, beside a map and buckets by minute, which do nothing else.

use std::{
    collections::BTreeMap,
    future::Future,
    hint::black_box,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use http::Request;
use layered_session::{LayeredSessionLayer, testing::ManualClock};
use tower::{Layer, Service, service_fn};

use crate::{
    peer::{
        finish,
        ours::{Handle, Ours, chained, memory},
    },
    workload::{DAYS, bump},
};

/// The numbers of sessions, and the repetitions of each sweep: the shortest time counts, as the least disturbed.
const SIZES: [(usize, usize); 3] = [(100_000, 9), (1_000_000, 3), (5_000_000, 2)];

const LIFE: Duration = Duration::from_secs(DAYS as u64 * 86_400);

/// The time between the expiry of one session in a hundred and the expiry of the others.
const GAP: Duration = Duration::from_secs(600);

/// A time after the minute in which the first sessions expire, and before the others expire.
const LATE: Duration = Duration::from_secs(120);

pub fn print() {
    println!("\n| sessions, 1 % of them expired | layered-session, ms | longest step, µs | floor, ms | ratio |");
    println!("|---:|---:|---:|---:|---:|");
    for (sessions, times) in SIZES {
        let least = |all: Duration, time: Duration| all.min(time);
        let ours = (0..times)
            .map(|_| ours(sessions))
            .reduce(|(all, step), (other_all, other_step)| (least(all, other_all), least(step, other_step)));
        let floor = (0..times).map(|_| floor(sessions)).reduce(least);
        let (Some((ours, longest)), Some(floor)) = (ours, floor) else { continue };
        let ratio = ours.as_secs_f64() / floor.as_secs_f64();
        let (ours, floor) = (ours.as_secs_f64() * 1e3, floor.as_secs_f64() * 1e3);
        println!("| {sessions} | {ours:.2} | {} | {floor:.2} | {ratio:.1} |", longest.as_micros());
    }
}

/// Returns the time of a whole sweep, and of its longest step.
fn ours(sessions: usize) -> (Duration, Duration) {
    let clock = ManualClock::new();
    let sessions_of = Ours::<true>::builder().tier(memory()).clock(clock.clone());
    let configured = chained(sessions_of);
    let mut service = LayeredSessionLayer::new(configured.clone()).layer(service_fn(bump::<Handle<true>>));
    let mut begin = || finish(service.call(Request::new(()))).expect("an answer");
    let expiring = sessions / 100;
    (0..expiring).for_each(|_| drop(begin()));
    clock.advance(GAP);
    (expiring..sessions).for_each(|_| drop(begin()));

    let mut sweeper = pin!(configured.sweeper());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut poll = || sweeper.as_mut().poll(&mut Context::from_waker(&waker));
    // The sweeper sleeps first.
    assert!(poll().is_pending());
    clock.advance(LIFE - GAP + LATE);
    let (mut all, mut longest) = (Duration::ZERO, Duration::ZERO);
    while woken.0.swap(false, Ordering::AcqRel) {
        let start = Instant::now();
        assert!(poll().is_pending());
        let step = start.elapsed();
        (all, longest) = (all + step, longest.max(step));
    }
    assert_eq!(configured.stats().expired, expiring as u64);
    assert_eq!(configured.stats().records, sessions - expiring);
    (all, longest)
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Seconds since a fixed start.
type Seconds = u64;

struct Floor {
    records: DashMap<u128, (i64, Seconds), foldhash::fast::RandomState>,
    /// Buckets by the minute of the deadline.
    due: BTreeMap<Seconds, Vec<u128>>,
}

fn floor(sessions: usize) -> Duration {
    let mut floor = Floor { records: DashMap::default(), due: BTreeMap::new() };
    let expiring = sessions / 100;
    (0..sessions).for_each(|at| floor.insert(if at < expiring { LIFE } else { LIFE + GAP }));
    let start = Instant::now();
    floor.sweep(LIFE + LATE);
    let time = start.elapsed();
    assert_eq!(black_box(&floor).records.len(), sessions - expiring);
    time
}

impl Floor {
    fn insert(&mut self, deadline: Duration) {
        let (id, deadline) = (fastrand::u128(..), deadline.as_secs());
        self.records.insert(id, (1, deadline));
        self.due.entry(deadline / 60).or_default().push(id);
    }

    fn sweep(&mut self, now: Duration) {
        let later = self.due.split_off(&(now.as_secs() / 60));
        for id in std::mem::replace(&mut self.due, later).into_values().flatten() {
            self.records.remove_if(&id, |_, (_, deadline)| *deadline <= now.as_secs());
        }
    }
}
