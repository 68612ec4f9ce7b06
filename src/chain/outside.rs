//! [`Store`] and [`Source`]: the application's own tiers, with the trace and the count of their failures.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use super::time::NodeClock;
use crate::{
    error::{MissingSession, TierError},
    throttle::Throttle,
    tier::{Commit, Committed, Found, Lookup, Tier},
    version::{Millis, Sleep},
};

/// The time between two traces of one kind of failure: an outage fails every request.
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

    /// Counts a failure. If the failure is to be traced, returns how many earlier failures no trace has told of.
    pub(crate) fn note(&self, time: &NodeClock) -> Option<u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.throttle.due(1, time.now(), INTERVAL)
    }
}

/// The shared store.
#[derive(Debug)]
pub(crate) struct Store {
    tier: Arc<dyn Tier>,
    reads: Failures,
    writes: Failures,
}

impl Store {
    pub(crate) fn new(tier: Arc<dyn Tier>) -> Self {
        Self { tier, reads: Failures::default(), writes: Failures::default() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.tier.name()
    }

    pub(crate) fn failures(&self) -> u64 {
        self.reads.count() + self.writes.count()
    }

    pub(crate) async fn read(&self, lookup: Lookup<'_>, time: &NodeClock) -> Result<Found, TierError> {
        self.tier.read(lookup).await.map_err(|error| {
            if let Some(left_out) = self.reads.note(time) {
                tracing::error!(tier = self.name(), error, left_out, "the shared store failed to read");
            }
            TierError::new(self.name(), error)
        })
    }

    pub(crate) async fn write(&self, commit: Commit<'_>, time: &NodeClock) -> Result<Committed, TierError> {
        let written = self.tier.write(commit).await;
        if matches!(written, Err(_) | Ok(Committed::ReadOnly))
            && let Some(left_out) = self.writes.note(time)
        {
            let error = written.as_ref().err();
            tracing::error!(tier = self.name(), error, left_out, "the shared store failed to write, or is read-only");
        }
        written.map_err(|error| TierError::new(self.name(), error))
    }
}

/// A read-only source.
#[derive(Debug)]
pub(crate) struct Source {
    tier: Arc<dyn Tier>,
    deadline: Duration,
    errors: Failures,
    late: Failures,
}

/// How long a load waits for a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitPolicy {
    /// Until the source's deadline.
    UntilDeadline,
    /// For one poll, which arms no timer: the caller need not run on a runtime.
    OnePoll,
}

/// Traces a request without a layer of ours at all, at most once a second: there is no chain whose clock would tell the time.
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

impl Source {
    pub(crate) fn new(tier: Arc<dyn Tier>, deadline: Duration) -> Self {
        Self { tier, deadline, errors: Failures::default(), late: Failures::default() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.tier.name()
    }

    pub(crate) fn failures(&self) -> u64 {
        self.errors.count() + self.late.count()
    }

    /// Returns the source's answers: none where the source fails or misses its deadline.
    pub(crate) async fn read(&self, lookup: Lookup<'_>, patience: WaitPolicy, time: &NodeClock) -> Found {
        let mut answer = self.tier.read(lookup);
        // Armed by an answer that is not there at once: most sources answer from a cache of their own.
        let mut late: Option<Sleep> = None;
        let answered = poll_fn(|cx| {
            if let Poll::Ready(found) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(found.map_err(|error| (&self.errors, error)));
            }
            if patience == WaitPolicy::OnePoll {
                return Poll::Pending;
            }
            let late = late.get_or_insert_with(|| time.clock.sleep(self.deadline));
            late.as_mut().poll(cx).map(|()| Err((&self.late, Late(self.deadline).into())))
        })
        .await;
        // Traced apart: a source that is late must not hide the error that it gives a moment later.
        answered.unwrap_or_else(|(failures, error)| {
            if let Some(left_out) = failures.note(time) {
                tracing::warn!(tier = self.name(), error, left_out, "a source did not answer; the next tier does");
            }
            Found::nothing()
        })
    }
}

/// A source that has not answered within its deadline.
#[derive(Debug)]
struct Late(Duration);

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {} ms (`source_deadline`)", self.0.as_millis())
    }
}

impl std::error::Error for Late {}
