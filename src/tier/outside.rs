//! [`SourceTier`], the tier around an application's source, and the count of [`Failures`].

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use crate::{
    error::MissingSession,
    node_clock::NodeClock,
    throttle::Throttle,
    tier::{Found, Lookup, Source},
    time::{Millis, Sleep},
};

/// The time between two traces of one kind of failure: in an outage, every request fails.
const INTERVAL: Duration = Duration::from_secs(1);

/// Failures of one kind.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: AtomicU64,
    throttle: Throttle,
}

impl Failures {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts a failure. If a trace is due, returns the number of earlier failures that were not traced.
    pub(crate) fn note(&self, time: &NodeClock) -> Option<u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.throttle.due(1, time.now(), INTERVAL)
    }
}

/// A read-only source in a chain, with its deadline.
#[derive(Debug)]
pub(crate) struct SourceTier {
    source: Box<dyn Source>,
    deadline: Duration,
    errors: Failures,
    late: Failures,
}

/// The time that a load waits for a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitPolicy {
    /// The source's deadline.
    UntilDeadline,
    /// One poll, without a timer: the caller may run outside of a runtime.
    OnePoll,
}

/// Traces a load in a request without any session layer, at most once a second. Such a request has no chain, so the
/// time comes from the system's clock.
pub(crate) fn note_missing_layer() {
    static LOADS: LazyLock<(Instant, Throttle)> = LazyLock::new(|| (Instant::now(), Throttle::default()));
    let (start, throttle) = &*LOADS;
    if let Some(left_out) = throttle.due(1, Millis::of_span(start.elapsed()), INTERVAL) {
        trace_missing_layer(left_out);
    }
}

pub(crate) fn trace_missing_layer(left_out: u64) {
    tracing::error!(left_out, "{}", MissingSession::no_layer());
}

impl SourceTier {
    pub(crate) fn new(source: Box<dyn Source>, deadline: Duration) -> Self {
        Self { source, deadline, errors: Failures::default(), late: Failures::default() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.source.name()
    }

    pub(crate) fn failures(&self) -> u64 {
        self.errors.count() + self.late.count()
    }

    /// Returns the source's answers, or none if the source fails or misses its deadline.
    pub(crate) async fn read(&self, lookup: Lookup<'_>, patience: WaitPolicy, time: &NodeClock) -> Found {
        let mut answer = self.source.read(lookup);
        // Armed only if the first poll is pending: most sources answer at once, from a cache of their own.
        let mut late: Option<Sleep> = None;
        let answered = poll_fn(|cx| {
            if let Poll::Ready(found) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(found.map_err(|error| (&self.errors, error)));
            }
            if patience == WaitPolicy::OnePoll {
                return Poll::Pending;
            }
            let late = late.get_or_insert_with(|| time.clock.sleep(self.deadline));
            late.as_mut().poll(cx).map(|()| {
                let span = self.deadline.as_millis();
                Err((&self.late, format!("no answer within {span} ms (`source_deadline`)").into()))
            })
        })
        .await;
        // Late answers and errors have a throttle each: the trace of a late answer must not hide an error a moment
        // later.
        answered.unwrap_or_else(|(failures, error)| {
            if let Some(left_out) = failures.note(time) {
                tracing::warn!(
                    tier = self.name(),
                    error,
                    left_out,
                    "a source did not answer, so the next tier answers"
                );
            }
            Found::nothing()
        })
    }
}
