//! The speed-up of two threads over a single thread: both read one integer, of many sessions and of the same session.

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

/// Rounds of a single thread, and as many rounds of both threads, in turns.
const ROUNDS: usize = 1200;

/// Requests of a thread in a round: half a millisecond of work at most, so that most rounds end before the system gives
/// the core to another process.
const REQUESTS: usize = 250;

/// The quantile of the compared rates: a high quantile leaves out rounds that lost their core.
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
    // The time from the first start to the last end. Each thread's own time would favour rounds in which the system ran
    // the threads one after the other.
    let both = |((start, end), (other_start, other_end)): (&Span, &Span)| {
        2.0 / (*end.max(other_end) - *start.min(other_start)).as_secs_f64()
    };
    let together = first.together.iter().zip(&second.together).map(both).collect();
    let alone = first.alone.iter().map(|(start, end)| 1.0 / (*end - *start).as_secs_f64()).collect();
    quantile(together, UNDISTURBED) / quantile(alone, UNDISTURBED)
}

/// The barrier of the threads before each round.
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

/// The begin and the end of a thread's requests in one round.
type Span = (Instant, Instant);

#[derive(Default)]
struct Rounds {
    alone: Vec<Span>,
    together: Vec<Span>,
}

impl Visitor<'_> {
    fn rounds(mut self, meeting: &Meeting, goes_alone: bool) -> Rounds {
        let mut rounds = Rounds::default();
        for round in 1..=ROUNDS {
            let requests = self.requests();
            meeting.barrier.wait();
            if goes_alone {
                rounds.alone.push(self.send(requests));
            }
            let requests = self.requests();
            meeting.barrier.wait();
            // The barrier wakes the threads one after the other; this spin starts both in the same instant.
            meeting.here.fetch_add(1, Ordering::AcqRel);
            while meeting.here.load(Ordering::Acquire) < 2 * round {
                std::hint::spin_loop();
            }
            rounds.together.push(self.send(requests));
        }
        rounds
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

    fn send(&mut self, requests: Vec<Request<()>>) -> Span {
        let mut responses = Vec::with_capacity(REQUESTS);
        let start = Instant::now();
        for request in requests {
            responses.push(measured(&mut self.call, request));
        }
        let end = Instant::now();
        assert!(responses.iter().all(|response| response.body().0 == self.expected), "a wrong answer");
        (start, end)
    }
}
