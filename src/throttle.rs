//! [`Throttle`]: a trace that repeats is told now and then, with a count.

use std::time::Duration;

use crate::{
    sync::atomic::{AtomicU64, Ordering},
    version::Millis,
};

/// Events of one kind that no trace has told of yet, so that a flood of them is one line an interval.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    untold: AtomicU64,
    /// When the next trace may be, in milliseconds.
    next: AtomicU64,
}

impl Throttle {
    /// Counts events, and returns how many to tell of if no trace was due within the interval before.
    pub(crate) fn due(&self, events: u64, now: Millis, interval: Duration) -> Option<u64> {
        self.untold.fetch_add(events, Ordering::Relaxed);
        let (next, later) = (self.next.load(Ordering::Relaxed), now.after(interval).0);
        let due =
            now.0 >= next && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        due.then(|| self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn events_are_told_once_an_interval() {
        let throttle = Throttle::default();
        let at = |minutes: u64| Millis((1_000_000 + minutes) * 60_000);
        assert_eq!(throttle.due(1, at(0), MINUTE), Some(1));
        assert_eq!(throttle.due(2, at(0), MINUTE), None);
        assert_eq!(throttle.due(3, Millis(at(1).0 - 1), MINUTE), None);
        assert_eq!(throttle.due(4, at(1), MINUTE), Some(9));
        assert_eq!(throttle.due(5, at(2), MINUTE), Some(5));
    }
}
