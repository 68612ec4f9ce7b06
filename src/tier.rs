//! The types with which an application writes tiers of its own.
//!
//! [`MemoryTier`](crate::MemoryTier), [`CookieTier`](crate::CookieTier) and [`DefaultTier`](crate::DefaultTier) come
//! with this crate. An application adds tiers of two kinds:
//!
//! - A [`Source`] is read-only, such as a tenant's defaults in a database. A source gets a [`Lookup`] and returns what
//!   it [`Found`]: `.tier(source)`.
//! - A [`Store`] keeps the records of all nodes. A store gets an [`Ask`] or a [`Commit`] of [`Change`]s, and returns a
//!   [`Snapshot`] or [`Committed`]: `.tier(SharedTier::new(store))`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

pub use crate::{
    error::{BoxError, StoreError, StoreErrorKind},
    id::OwnerId,
    version::{Known, Version},
};

mod commit;
pub(crate) mod default;
pub(crate) mod notice;
pub(crate) mod outside;
pub(crate) mod shared;
mod source;
mod store;
mod stored;

pub use self::{
    commit::{Change, Commit, CommitKind, Committed},
    notice::{NodeId, Notice, NoticeStream},
    source::{Found, Lookup, Source},
    store::{Ask, Snapshot, Store, Touch},
    stored::{StoredEnd, StoredEntry, StoredLife, StoredRecord},
};

/// A store's answer: ready at once, or the future of the answer.
pub type StoreFuture<'a, T> = TierFuture<'a, T, StoreError>;

/// A tier's answer: ready at once, or the future of the answer.
///
/// # Cancel safety
///
/// A dropped `TierFuture` drops the tier's own future. The tier must stay correct then: see the contract of a
/// [source](Source#contract) and of a [store](Store#contract).
pub struct TierFuture<'a, T, E = BoxError>(FutureState<'a, T, E>);

type Later<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

enum FutureState<'a, T, E> {
    Now(Option<Result<T, E>>),
    Later(Later<'a, T, E>),
}

impl<'a, T, E> TierFuture<'a, T, E> {
    /// Wraps an answer that is known at once. Allocates nothing.
    pub const fn ready(answer: Result<T, E>) -> Self {
        Self(FutureState::Now(Some(answer)))
    }

    /// Boxes the future of an answer.
    pub fn boxed(future: impl Future<Output = Result<T, E>> + Send + 'a) -> Self {
        Self(FutureState::Later(Box::pin(future)))
    }
}

impl<T: Unpin, E: Unpin> Future for TierFuture<'_, T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            FutureState::Now(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            FutureState::Later(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T, E> fmt::Debug for TierFuture<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TierFuture").field("boxed", &matches!(self.0, FutureState::Later(_))).finish()
    }
}
