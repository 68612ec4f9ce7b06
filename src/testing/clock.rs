//! [`ManualClock`]: a clock that stands still until a test moves it.

use std::{
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::{Duration, SystemTime},
};

use super::lock;
use crate::time::{Clock, Sleep};

/// A wall clock and a monotonic clock that stand still until the test moves them. Clones are the same clock.
///
/// ```
/// # use std::time::Duration;
/// use layered_session::{Clock, testing::ManualClock};
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), before + Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Hands>>);

#[derive(Debug)]
struct Hands {
    now: SystemTime,
    /// The sum of all advances.
    passed: Duration,
    sleeping: Vec<Waker>,
}

impl ManualClock {
    /// Creates a clock that shows 2030-01-01T00:00:00Z.
    pub fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        Self(Arc::new(Mutex::new(Hands { now, passed: Duration::ZERO, sleeping: Vec::new() })))
    }

    /// Moves both clocks (wall and monotonic) forward by `span`, and wakes all futures that sleep on this clock. A
    /// future whose sleep has not ended goes back to sleep.
    pub fn advance(&self, span: Duration) {
        let sleeping = {
            let mut hands = lock(&self.0);
            hands.now += span;
            hands.passed += span;
            std::mem::take(&mut hands.sleeping)
        };
        sleeping.into_iter().for_each(Waker::wake);
    }

    /// Sets the wall clock to a time, also to an earlier time, as when somebody sets the system's clock. The monotonic
    /// clock stands still, so no sleep ends.
    pub fn set(&self, now: SystemTime) {
        lock(&self.0).now = now;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        lock(&self.0).now
    }

    fn monotonic(&self) -> Duration {
        lock(&self.0).passed
    }

    fn sleep(&self, span: Duration) -> Sleep {
        let (hands, end) = (Arc::clone(&self.0), self.monotonic().saturating_add(span));
        Box::pin(std::future::poll_fn(move |cx| {
            let mut hands = lock(&hands);
            if hands.passed >= end {
                return Poll::Ready(());
            }
            hands.sleeping.push(cx.waker().clone());
            Poll::Pending
        }))
    }
}
