//! The failure of a shared store: [`StoreError`], and [`TierError`] with the store's name.

use std::{error::Error, fmt, sync::Arc};

use super::BoxError;

/// The failure of a store's read or commit.
///
/// ```
/// use layered_session::tier::{StoreError, StoreErrorKind};
///
/// let error = StoreError::new(StoreErrorKind::Full, "OOM command not allowed");
/// assert!(!error.may_be_applied(), "a full store has refused the commit");
/// assert!(StoreError::new(StoreErrorKind::Timeout, "no answer").may_be_applied());
/// ```
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    may_be_applied: bool,
    /// Shared: one failed read may fail several loads.
    source: Arc<dyn Error + Send + Sync>,
}

/// The kind of a [`StoreError`]: why the store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store has no room for the write. The store has refused the commit.
    Full,
    /// The store takes no writes: a replica. The store has refused the commit.
    ReadOnly,
    /// The store is starting, and reads its data. The store has refused the commit.
    Loading,
    /// The store did not answer in time. The store may have made the commit.
    Timeout,
    /// The connection failed. The store may have made the commit.
    Link,
    /// The store was not asked, since its last calls got no answer: see
    /// [`SharedTier`](crate::SharedTier#while-the-store-fails). The store has not made the commit.
    NotAsked,
    /// Another failure. The store may have made the commit.
    Other,
}

impl StoreError {
    /// Creates an error. For a commit, the kind decides [`may_be_applied`](Self::may_be_applied).
    pub fn new(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        let may_be_applied = match kind {
            StoreErrorKind::Full | StoreErrorKind::ReadOnly | StoreErrorKind::Loading | StoreErrorKind::NotAsked => {
                false
            }
            StoreErrorKind::Timeout | StoreErrorKind::Link | StoreErrorKind::Other => true,
        };
        Self { kind, may_be_applied, source: Arc::from(source.into()) }
    }

    /// Creates an error of the kind [`Other`](StoreErrorKind::Other).
    pub fn other(source: impl Into<BoxError>) -> Self {
        Self::new(StoreErrorKind::Other, source)
    }

    /// States that the store has surely not made the commit, such as when no connection was open.
    #[must_use]
    pub fn not_applied(mut self) -> Self {
        self.may_be_applied = false;
        self
    }

    /// Returns the kind of this error: why the store failed.
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the store may have made the commit.
    pub const fn may_be_applied(&self) -> bool {
        self.may_be_applied
    }
}

impl StoreErrorKind {
    /// Returns the end of a sentence that begins with the store.
    const fn predicate(self) -> &'static str {
        match self {
            Self::Full => "is full",
            Self::ReadOnly => "takes no writes",
            Self::Loading => "is starting, and still reads its data",
            Self::Timeout => "did not answer in time",
            Self::Link => "can't be reached",
            Self::NotAsked => "is not asked for the moment, since its last calls got no answer",
            Self::Other => "failed",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shared store {}", self.kind.predicate())
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

impl From<BoxError> for StoreError {
    fn from(source: BoxError) -> Self {
        Self::other(source)
    }
}

/// A shared store that failed, by name, with the cause.
#[derive(Debug)]
pub struct TierError {
    tier: &'static str,
    error: StoreError,
}

impl TierError {
    pub(crate) const fn new(tier: &'static str, error: StoreError) -> Self {
        Self { tier, error }
    }

    /// Returns the name of the store, as [`Store::name`](crate::tier::Store::name) gives it.
    pub const fn tier(&self) -> &'static str {
        self.tier
    }

    /// Returns the kind of this error: why the store failed.
    pub const fn kind(&self) -> StoreErrorKind {
        self.error.kind
    }

    /// Whether the store may have made the commit: see [`StoreError::may_be_applied`].
    pub const fn may_be_applied(&self) -> bool {
        self.error.may_be_applied
    }
}

impl fmt::Display for TierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shared store `{}` {}", self.tier, self.error.kind.predicate())
    }
}

impl Error for TierError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error.source)
    }
}
