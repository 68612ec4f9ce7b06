//! The trace of tombstones that were dropped at their cap.

use crate::{
    throttle::{MINUTE, Throttle},
    time::Millis,
};

/// Losses that no trace has told of yet, so that a flood of them is one line a minute.
#[derive(Debug, Default)]
pub(super) struct LostTombstones(Throttle);

impl LostTombstones {
    /// Traces the losses since the last trace, at most once a minute.
    pub(super) fn trace(&self, lost: u64, now: Millis) {
        if let Some(left_out) = self.0.due(lost, now, MINUTE) {
            tracing::error!(
                lost = lost.saturating_add(left_out),
                "ended sessions were forgotten for want of room: their cookies open again on this node; \
                 give the memory tier more bytes"
            );
        }
    }
}
