//! The trace of tombstones that were dropped at their cap.

use crate::{
    sync::atomic::{AtomicU64, Ordering},
    version::Millis,
};

/// Losses that no trace has told of yet, so that a flood of them is one line a minute.
#[derive(Debug, Default)]
pub(super) struct Losses {
    untold: AtomicU64,
    /// When the next trace may be, in milliseconds.
    next: AtomicU64,
}

const MINUTE: u64 = 60_000;

impl Losses {
    /// Traces the losses since the last trace, at most once a minute.
    pub(super) fn tell(&self, lost: u64, now: Millis) {
        if let Some(lost) = self.due(lost, now) {
            tracing::error!(
                lost,
                "ended sessions were forgotten for want of room: their cookies open again on this node; \
                 give the memory tier more bytes"
            );
        }
    }

    /// Returns how many losses to tell of, if it is time to.
    fn due(&self, lost: u64, now: Millis) -> Option<u64> {
        self.untold.fetch_add(lost, Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let due = now.0 >= next
            && self.next.compare_exchange(next, now.0 + MINUTE, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        due.then(|| self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_traced_once_a_minute() {
        let losses = Losses::default();
        let at = |minutes: u64| Millis(1_000_000 * MINUTE + minutes * MINUTE);
        assert_eq!(losses.due(1, at(0)), Some(1));
        assert_eq!(losses.due(2, at(0)), None);
        assert_eq!(losses.due(3, Millis(at(1).0 - 1)), None);
        assert_eq!(losses.due(4, at(1)), Some(9));
        assert_eq!(losses.due(5, at(2)), Some(5));
    }
}
