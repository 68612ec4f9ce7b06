//! What two threads do in the time of one: reading one integer, of many sessions and of the same one.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use http::{HeaderValue, Request, header};

use crate::{
    peer::{Call, Peer},
    report::{Table, quantile},
    subject::{as_received, cookies, measured},
    workload::Task,
};

const SESSIONS: [usize; 2] = [100_000, 1];

/// Rounds of one thread alone, and as many of both, in turns.
const ROUNDS: usize = 1200;

/// Requests of a thread in a round: half a millisecond of work at most, so that most rounds end before the system gives
/// a core to something else.
const REQUESTS: usize = 250;

/// The rates compared are those that so many rounds don't reach: rounds that lost their core tell nothing of a lock.
const UNDISTURBED: f64 = 0.9;

pub fn print() {
    let rows = Peer::ALL.into_iter().filter(|peer| *peer != Peer::OursVolatile);
    let rows = rows.map(|peer| (peer, SESSIONS.map(|sessions| speed_up(peer, sessions)).into())).collect();
    Table { title: "two threads, speed-up over one", columns: &["100,000", "one"], rows }.print(2);
}

fn speed_up(peer: Peer, sessions: usize) -> f64 {
    let open = peer.open();
    let mut begin = open(Task::Bump);
    let fields: Vec<_> =
        (0..sessions).map(|_| cookies(peer, &begin(Request::new(()))).expect("a write sends the cookie")).collect();
    let [first, second] = [1, 2].map(|seed| Visitor {
        call: open(Task::Read),
        fields: &fields,
        random: fastrand::Rng::with_seed(seed),
        expected: if peer == Peer::Bare { 0 } else { 1 },
    });
    let meeting = Meeting { barrier: Barrier::new(2), here: AtomicUsize::new(0) };
    let (first, second) = thread::scope(|scope| {
        let second = scope.spawn(|| second.rounds(&meeting, false));
        (first.rounds(&meeting, true), second.join().expect("a thread that ends"))
    });
    let together: Vec<_> = first.together.iter().zip(&second.together).map(|(one, other)| one + other).collect();
    quantile(together, UNDISTURBED) / quantile(first.alone, UNDISTURBED)
}

/// Where the threads meet before each round.
struct Meeting {
    barrier: Barrier,
    here: AtomicUsize,
}

struct Visitor<'a> {
    call: Call,
    fields: &'a [HeaderValue],
    random: fastrand::Rng,
    expected: i64,
}

/// Requests in a nanosecond, of each round.
#[derive(Default)]
struct Rates {
    alone: Vec<f64>,
    together: Vec<f64>,
}

impl Visitor<'_> {
    fn rounds(mut self, meeting: &Meeting, goes_alone: bool) -> Rates {
        let mut rates = Rates::default();
        for round in 1..=ROUNDS {
            let requests = self.requests();
            meeting.barrier.wait();
            if goes_alone {
                rates.alone.push(self.send(requests));
            }
            let requests = self.requests();
            meeting.barrier.wait();
            // The barrier wakes one after the other; this lets both go in the same instant.
            meeting.here.fetch_add(1, Ordering::AcqRel);
            while meeting.here.load(Ordering::Acquire) < 2 * round {
                std::hint::spin_loop();
            }
            rates.together.push(self.send(requests));
        }
        rates
    }

    fn requests(&mut self) -> Vec<Request<()>> {
        let request = |_| {
            let field = &self.fields[self.random.usize(..self.fields.len())];
            let mut request = Request::new(());
            request.headers_mut().insert(header::COOKIE, as_received(field));
            request
        };
        (0..REQUESTS).map(request).collect()
    }

    fn send(&mut self, requests: Vec<Request<()>>) -> f64 {
        let mut responses = Vec::with_capacity(REQUESTS);
        let start = Instant::now();
        for request in requests {
            responses.push(measured(&mut self.call, request));
        }
        let time = start.elapsed();
        assert!(responses.iter().all(|response| response.body().0 == self.expected), "a wrong answer");
        REQUESTS as f64 / time.as_nanos() as f64
    }
}
