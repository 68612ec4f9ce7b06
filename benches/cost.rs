//! The time that the layer adds to a request, above the bare service in the same run. `benches/README.md` explains the
//! figures.

mod workloads;

use std::time::Instant;

use workloads::{Subject, Workload};

/// The number of requests in a turn: few enough that each request is still in the cache when sent, as a request that a
/// server has just read.
const BATCH: usize = 32;

/// The number of turns of each workload. A median over so many turns is stable to about 5 %.
const TURNS: usize = 20_000;

fn main() {
    // `cargo test --benches` runs each bench once, without a measurement.
    let turns = if std::env::args().any(|argument| argument == "--bench") { TURNS } else { 10 };
    let mut subjects = Workload::ALL.map(|workload| (workload, Subject::new(workload), Vec::with_capacity(turns)));
    for _ in 0..turns {
        for (_, subject, times) in &mut subjects {
            times.push(turn(subject));
        }
    }
    let medians = subjects.map(|(workload, _, times)| (workload, median(times)));
    let of = |wanted| medians.iter().find(|(workload, _)| *workload == wanted).map_or(f64::NAN, |(_, time)| *time);
    println!("{:<20} {:>8} {:>8} {:>8}", "one request", "ns", "cost, ns", "ratio");
    for (workload, time) in medians {
        let bare = of(workload.baseline());
        let workload = format!("{workload:?}");
        println!("{workload:<20} {time:>8.0} {:>8.0} {:>8.1}", time - bare, time / bare);
    }
}

/// Returns the nanoseconds per request of a batch. The time excludes making requests and dropping responses.
fn turn(subject: &mut Subject) -> f64 {
    let requests: Vec<_> = (0..BATCH).map(|_| subject.request()).collect();
    let mut responses = Vec::with_capacity(BATCH);
    let start = Instant::now();
    for request in requests {
        responses.push(subject.send(request));
    }
    let time = start.elapsed();
    for (browser, response) in responses {
        subject.keep(browser, &response);
    }
    time.as_nanos() as f64 / BATCH as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
