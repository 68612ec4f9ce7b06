//! A watch and a renewal of the same handle on two threads: no subscription to the old record stays.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
};

use serde::{Deserialize, Serialize};

use super::{load::token::RequestHead, loader::Arrival, *};
use crate::{
    cookie::{CookieTier, keyring::KeyRing},
    memory::MemoryTier,
    sessions::Sessions,
};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Visits(u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
}

fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("no store, so no future waits"),
    }
}

/// Two threads that begin each round together.
struct Rounds([AtomicUsize; 2]);

impl Rounds {
    fn begin(&self, mine: usize, round: usize) {
        self.0[mine].store(round, Ordering::Release);
        while self.0[1 - mine].load(Ordering::Acquire) < round {
            thread::yield_now();
        }
    }
}

#[test]
fn watch_during_renewal_unsubscribes_from_old_record() {
    const ROUNDS: usize = if cfg!(miri) { 20 } else { 3000 };
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(KeyRing::generate().unwrap()).name("session").plain_http())
        .value::<Visits>()
        .build()
        .unwrap();
    let handle = || {
        let node = Arc::clone(&sessions.node);
        let session = Loader::new(Arrival {
            head: RequestHead { node, cookies: None, cross_site: None, upgrade: false, facts: None },
            refused: None,
            outer: None,
        })
        .load_now()
        .unwrap();
        at_once(session.set(Visits(1))).unwrap();
        session
    };
    let handles: Vec<_> = (0..ROUNDS).map(|_| handle()).collect();
    let rounds = Rounds(Default::default());
    let mut before = Vec::with_capacity(ROUNDS);
    let watches: Vec<_> = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let watch = |(round, session): (usize, &Session)| {
                rounds.begin(0, round + 1);
                session.watch::<Visits>()
            };
            handles.iter().enumerate().map(watch).collect()
        });
        for (round, session) in handles.iter().enumerate() {
            let Binding::Live(bound) = session.shared().binding() else {
                unreachable!("a write has begun the session")
            };
            before.push(bound);
            rounds.begin(1, round + 1);
            at_once(session.renew()).unwrap();
        }
        watching.join().unwrap()
    });
    let left = before.iter().filter(|record| record.subscribers() > 0).count();
    assert_eq!((watches.len(), left), (ROUNDS, 0));
}
