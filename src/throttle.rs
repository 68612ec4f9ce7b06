//! [`Throttle`]: limits a repeated trace to one line an interval, with a count of the events left out.

use std::time::Duration;

use crate::{
    sync::atomic::{AtomicU64, Ordering},
    time::Millis,
    value::ValueIndex,
};

/// The interval between traces that a client can cause.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// The count of untraced events of one kind. A flood of such events gives one line an interval.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    left_out: AtomicU64,
    /// The node time of the next allowed trace, in milliseconds.
    next: AtomicU64,
}

impl Throttle {
    /// Returns the number of earlier untraced events if the last trace is at least an interval ago: the caller must
    /// then trace the present `events`. Otherwise counts the `events` as left out, and returns `None`.
    pub(crate) fn due(&self, events: u64, now: Millis, interval: Duration) -> Option<u64> {
        let (next, later) = (self.next.load(Ordering::Relaxed), now.after(interval).0);
        let due =
            now.0 >= next && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !due {
            self.left_out.fetch_add(events, Ordering::Relaxed);
        }
        due.then(|| self.left_out.swap(0, Ordering::Relaxed))
    }
}

/// A throttle for each declared value, so that events of one value don't hide events of another value.
#[derive(Debug, Default)]
pub(crate) struct PerValue(Box<[Throttle]>);

impl PerValue {
    /// Makes the throttles for a number of declared values.
    pub(crate) fn new(values: usize) -> Self {
        Self((0..values).map(|_| Throttle::default()).collect())
    }

    /// Calls [`Throttle::due`] for one event of a value, with an interval of a minute.
    pub(crate) fn due(&self, index: ValueIndex, now: Millis) -> Option<u64> {
        self.0.get(usize::from(index))?.due(1, now, MINUTE)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn event_is_reported_once_per_interval() {
        let throttle = Throttle::default();
        let at = |minutes: u64| Millis((1_000_000 + minutes) * 60_000);
        assert_eq!(throttle.due(1, at(0), MINUTE), Some(0));
        assert_eq!(throttle.due(2, at(0), MINUTE), None);
        assert_eq!(throttle.due(3, Millis(at(1).0 - 1), MINUTE), None);
        assert_eq!(throttle.due(4, at(1), MINUTE), Some(5));
        assert_eq!(throttle.due(5, at(2), MINUTE), Some(0));
    }

    #[test]
    fn value_is_traced_once_a_minute() {
        let values = PerValue::new(2);
        let at = |minutes: u64| Millis((1_000_000 + minutes) * 60_000);
        let due = [(0, at(0)), (0, at(0)), (1, at(0)), (0, Millis(at(1).0 - 1)), (0, at(1)), (1, at(2)), (2, at(2))];
        assert_eq!(
            due.map(|(index, now)| values.due(index, now)),
            [Some(0), None, Some(0), None, Some(2), Some(0), None]
        );
    }

    #[test]
    fn threads_count_each_event_once() {
        const EVENTS: u64 = 400_000;
        let throttle = Throttle::default();
        let (clock, reported) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..EVENTS / 4 {
                        // The simulated time of each event is one interval later than the time of the event before it,
                        // so every event may be due. The threads run in parallel, so several threads may find their
                        // events due at the same real moment.
                        let now = Millis(clock.fetch_add(60_000, Ordering::Relaxed));
                        if let Some(left_out) = throttle.due(1, now, MINUTE) {
                            reported.fetch_add(left_out + 1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(reported.into_inner() + throttle.left_out.into_inner(), EVENTS);
    }
}
