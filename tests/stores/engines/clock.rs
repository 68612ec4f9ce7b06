//! [`MovedClock`]: the time of this machine, moved forward.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use layered_session::{Clock, Sleep, TokioClock};
use tokio::{sync::watch, time::timeout};

/// A clock that runs with the clock of this machine, and that a test also moves forward. Clones are the same clock. The
/// stores have real clocks, so a clock that stands still would fall behind them.
#[derive(Clone, Debug)]
pub(crate) struct MovedClock {
    moved: Arc<watch::Sender<Duration>>,
    /// The span by which the wall clock is ahead, as on a machine whose time is wrong.
    ahead: Duration,
}

impl MovedClock {
    pub(crate) fn new() -> Self {
        Self { moved: Arc::new(watch::Sender::new(Duration::ZERO)), ahead: Duration::ZERO }
    }

    /// Returns a clock that moves with this clock, and whose wall clock is ahead.
    pub(crate) fn ahead(&self, span: Duration) -> Self {
        Self { moved: Arc::clone(&self.moved), ahead: span }
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.moved.send_modify(|moved| *moved += span);
    }

    fn moved(&self) -> Duration {
        *self.moved.borrow()
    }
}

impl Clock for MovedClock {
    fn now(&self) -> SystemTime {
        TokioClock::default().now() + self.moved() + self.ahead
    }

    fn monotonic(&self) -> Duration {
        TokioClock::default().monotonic() + self.moved()
    }

    fn sleep(&self, span: Duration) -> Sleep {
        let clock = self.clone();
        let end = self.monotonic().saturating_add(span);
        let mut moves = self.moved.subscribe();
        Box::pin(async move {
            while let Some(left) = end.checked_sub(clock.monotonic()).filter(|left| !left.is_zero()) {
                let _ = timeout(left, moves.changed()).await;
            }
        })
    }
}
