//! Time and allocations of one request. `benches/README.md` explains the workloads and the figures.

mod workloads;

use divan::{AllocProfiler, Bencher};
use workloads::{BROWSERS, Subject, Workload};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = Workload::ALL, sample_size = 32, sample_count = 5000, max_time = 5)]
fn request(bencher: Bencher<'_, '_>, workload: Workload) {
    const { assert!(32 <= BROWSERS, "a sample's requests are of different browsers") };
    let subject = std::cell::RefCell::new(Subject::new(workload));
    bencher.with_inputs(|| subject.borrow_mut().request()).bench_local_values(|request| {
        let (browser, response) = subject.borrow_mut().send(request);
        Sent { subject: &subject, browser, response }
    });
}

/// A response on its way to its browser. The harness drops the value after the sample, outside the measured time.
struct Sent<'a> {
    subject: &'a std::cell::RefCell<Subject>,
    browser: usize,
    response: http::Response<()>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.subject.borrow_mut().keep(self.browser, &self.response);
    }
}
