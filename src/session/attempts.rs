//! The repetition of a write that other writers outdate.

use std::time::Duration;

use crate::{
    error::{TierError, WriteError, WriteErrorKind},
    node::Node,
    record::change::CommitRejected,
};

/// The reason for which a commit changed nothing.
#[derive(Debug)]
pub(super) enum CommitFailure {
    /// Another write came first: read again.
    Outdated,
    Error(WriteError),
}

impl From<WriteError> for CommitFailure {
    fn from(error: WriteError) -> Self {
        Self::Error(error)
    }
}

impl From<TierError> for CommitFailure {
    fn from(error: TierError) -> Self {
        Self::Error(error.into())
    }
}

impl From<CommitRejected> for CommitFailure {
    fn from(rejected: CommitRejected) -> Self {
        match rejected {
            CommitRejected::Outdated => Self::Outdated,
            CommitRejected::Closed(reason) => Self::Error(WriteError::closed(reason)),
            CommitRejected::TooLarge(oversize) => {
                let error = WriteError::new(WriteErrorKind::TooLarge, oversize.to_string());
                Self::Error(error.named(oversize.largest.iter().map(|(name, _)| *name)))
            }
        }
    }
}

impl From<CommitFailure> for WriteError {
    fn from(failure: CommitFailure) -> Self {
        match failure {
            CommitFailure::Outdated => Self::new(
                WriteErrorKind::Contended,
                "other writers have changed the same record first each time: try the write again",
            ),
            CommitFailure::Error(error) => error,
        }
    }
}

impl From<CommitRejected> for WriteError {
    fn from(rejected: CommitRejected) -> Self {
        CommitFailure::from(rejected).into()
    }
}

/// The time in which a write over a store is repeated that other writers outdate.
const CONTENTION: Duration = Duration::from_secs(1);

/// The maximum number of losses without a store, where no write sleeps.
const MAX_LOCAL_LOSSES: u32 = 32;

/// The longest sleep between two attempts, in milliseconds.
const MAX_BACKOFF: u64 = 32;

/// The attempts of a write that other writers may outdate.
///
/// From the second loss on, the write sleeps for a random time before the next attempt, over a shared store. Without the
/// sleep the node of the last write would win again and again, since its memory knows the newest version first.
pub(super) struct Attempts<'a> {
    node: &'a Node,
    losses: u32,
    /// The time of the first loss, by the monotonic clock.
    since: Duration,
}

impl<'a> Attempts<'a> {
    pub(super) const fn of(node: &'a Node) -> Self {
        Self { node, losses: 0, since: Duration::ZERO }
    }

    /// Returns the result of an attempt, or `None` if the attempt was outdated and another attempt is to follow.
    ///
    /// # Errors
    ///
    /// The error of the attempt; `Contended` after a second of losses over a store, or after 33 losses without a store,
    /// where a loss takes microseconds and the clock may step meanwhile.
    pub(super) async fn settle<T>(&mut self, attempt: Result<T, CommitFailure>) -> Result<Option<T>, WriteError> {
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
            return Ok(());
        }
        if clock.monotonic().saturating_sub(self.since) >= CONTENTION {
            return Err(CommitFailure::Outdated);
        }
        let longest = 1 << (self.losses - 1).min(MAX_BACKOFF.ilog2());
        clock.sleep(Duration::from_micros(rand::random_range(0..=longest * 1000))).await;
        Ok(())
    }
}
