//! Time of a request: medians over many turns. All peers take part in each turn, so that other load of the machine
//! slows all alike.

use std::{hint::black_box, time::Instant};

use crate::{
    peer::Peer,
    report::{Table, median},
    subject::{BROWSERS, Subject},
    workload::Workload,
};

/// The number of requests in a turn: few enough that each request is still in the cache when sent, as a request that a
/// server has just read.
const BATCH: usize = 32;

/// The number of turns of each peer in each workload.
const TURNS: usize = 5_000;

/// The number of sessions of the cold variant.
const COLD: usize = 20_000;

const COLUMNS: [&str; 7] = ["w0", "w1", "w2", "w3", "w4", "w5", "w3 cold"];

pub fn print() {
    let mut rows = Peer::ALL.map(|peer| (peer, vec![f64::NAN; COLUMNS.len()]));
    let warm = Workload::ALL.into_iter().map(|workload| (workload, BROWSERS));
    let measured: Vec<_> = warm.chain([(Workload::Read, COLD)]).collect();
    // The workloads run in reverse order: a request without a cookie leaves a session in axum_session's memory, and so
    // many of those sessions leave a heap that is slower for every peer.
    for (column, (workload, browsers)) in measured.into_iter().enumerate().rev() {
        for ((_, numbers), time) in rows.iter_mut().zip(medians(workload, browsers)) {
            numbers[column] = time;
        }
    }
    let times = Table { title: "time, ns", columns: &COLUMNS, rows: rows.into() };
    times.print(0);
    let costs = times.above_bare("cost above bare, ns", &COLUMNS);
    costs.print(0);
    costs.shares("cost, share of MemoryStore's", &COLUMNS).print(2);
}

/// Returns the nanoseconds of a request, for each peer.
fn medians(workload: Workload, browsers: usize) -> [f64; Peer::ALL.len()] {
    let subject = |peer| Subject::new(peer, workload, browsers);
    let mut subjects = Peer::ALL.map(|peer| (subject(peer), Vec::with_capacity(TURNS)));
    if browsers == COLD {
        subjects = subjects.map(|(subject, times)| (subject.shuffled(), times));
    }
    for _ in 0..TURNS {
        for (subject, times) in &mut subjects {
            times.push(turn(subject));
        }
    }
    subjects.map(|(_, times)| median(times))
}

/// Runs a turn. The time excludes making requests and dropping responses.
fn turn(subject: &mut Subject) -> f64 {
    const { assert!(BATCH <= BROWSERS, "a turn's requests are of different browsers") };
    let (browsers, requests): (Vec<_>, Vec<_>) = (0..BATCH).map(|_| subject.request()).unzip();
    let mut responses = Vec::with_capacity(BATCH);
    let start = Instant::now();
    for request in requests {
        responses.push(black_box(subject.send(request)));
    }
    let time = start.elapsed();
    for (browser, response) in browsers.into_iter().zip(responses) {
        subject.keep(browser, &response);
    }
    time.as_nanos() as f64 / BATCH as f64
}
