//! Allocations of a request, in a separate binary: counting needs another allocator, which costs time.

use std::hint::black_box;

use allocation_counter::measure;
use peers::{
    peer::Peer,
    report::{Table, median},
    subject::Subject,
    workload::Workload,
};

/// Counted requests. The median leaves out requests in which a map grows or a cache cleans up.
const REQUESTS: usize = 64;

fn main() {
    let rows = Peer::ALL.map(|peer| (peer, Workload::ALL.map(|workload| allocations(peer, workload)).into()));
    let columns = Workload::ALL.map(Workload::name);
    let allocations = Table { title: "allocations", columns: &columns, rows: rows.into() };
    allocations.print(0);
    allocations.above_bare("allocations above bare", &columns).print(0);
}

fn allocations(peer: Peer, workload: Workload) -> f64 {
    let mut subject = Subject::new(peer, workload, REQUESTS);
    let count = |_| {
        let (browser, request) = subject.request();
        let mut response = None;
        let counted = measure(|| response = Some(black_box(subject.send(request))));
        subject.keep(browser, &response.expect("a response"));
        counted.count_total as f64
    };
    median((0..REQUESTS).map(count).collect())
}
