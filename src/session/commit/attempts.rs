//! The repetition of a write that other writers outdate.

use std::time::Duration;

use super::CommitFailure;
use crate::{error::WriteError, node::Node};

/// The number of losses after which a write without a store fails.
const MAX_LOCAL_LOSSES: u32 = 32;

/// The number of losses after which a write over a store fails. The sleeps between the attempts take about a second. On
/// a busy machine each attempt takes longer, and a limit by time alone would leave too few attempts.
const MAX_STORE_LOSSES: u32 = 128;

/// The time for which a write over a store is repeated at most: with a slow store the losses take longer.
const CONTENTION: Duration = Duration::from_secs(5);

/// The longest sleep between two attempts, in milliseconds.
const MAX_BACKOFF: u64 = 32;

/// The attempts of a write that other writers may outdate. A *loss* is an outdated attempt.
///
/// Over a shared store the write sleeps for a random time after each second loss. Without the sleep the node of the last
/// write would win again and again, since its memory knows the newest version first. During the sleep other nodes
/// write, so the next attempt mostly loses too, and learns the newest version. Therefore the attempt after that loss
/// follows at once.
pub(in crate::session) struct Attempts<'a> {
    node: &'a Node,
    losses: u32,
    /// The time of the first loss, by the monotonic clock.
    since: Duration,
}

impl<'a> Attempts<'a> {
    pub(in crate::session) const fn of(node: &'a Node) -> Self {
        Self { node, losses: 0, since: Duration::ZERO }
    }

    /// Returns the result of an attempt, or `None` if the attempt was outdated and another attempt is to follow.
    ///
    /// # Errors
    ///
    /// The error of the attempt; `Contended` over a store after 129 losses or 5 seconds, else after 33 losses: without a
    /// store a loss takes microseconds, and the clock may step meanwhile.
    pub(in crate::session) async fn settle<T>(
        &mut self,
        attempt: Result<T, CommitFailure>,
    ) -> Result<Option<T>, WriteError> {
        match attempt {
            Ok(done) => return Ok(Some(done)),
            Err(CommitFailure::Outdated) => {}
            Err(failure) => return Err(failure.into()),
        }
        if self.node.store.is_some() {
            self.back_off().await?;
        } else if self.losses >= MAX_LOCAL_LOSSES {
            return Err(CommitFailure::Outdated.into());
        }
        self.losses += 1;
        Ok(None)
    }

    async fn back_off(&mut self) -> Result<(), CommitFailure> {
        let clock = &self.node.time.clock;
        if self.losses == 0 {
            self.since = clock.monotonic();
        }
        if self.losses >= MAX_STORE_LOSSES || clock.monotonic().saturating_sub(self.since) >= CONTENTION {
            return Err(CommitFailure::Outdated);
        }
        if self.losses.is_multiple_of(2) {
            return Ok(());
        }
        let longest = 1 << (self.losses / 2).min(MAX_BACKOFF.ilog2());
        clock.sleep(Duration::from_micros(rand::random_range(0..=longest * 1000))).await;
        Ok(())
    }
}
