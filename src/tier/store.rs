//! The shared store: [`Store`], the chain's questions, and the store's answers.

use std::{fmt, time::Duration};

use super::{Commit, Committed, Known, NoticeStream, OwnerId, StoreFuture, StoredEnd, StoredRecord};
use crate::version::Version;

/// A shared store: the records of all nodes, by owner.
///
/// A chain takes at most one store, inside a [`SharedTier`](crate::SharedTier): `.tier(SharedTier::new(store))`. The
/// store keeps versions, takes writes, and decides whether a session exists. If the store fails, the load or the write
/// fails, and nothing changes. `testing::conformance` of the feature `testing` checks a store by this contract.
///
/// # Contract
///
/// - A future may be dropped before it is polled, and at any await: work belongs inside the future. A commit that the
///   store has begun is made whole or not at all.
/// - The store checks a commit against the current record, and no other commit may change the record meanwhile.
///   [`Commit::apply`] is the reference: [`CommitKind`](super::CommitKind) has the condition of each kind, and
///   [`Change::replaces`](super::Change::replaces) the condition of each change.
/// - The *stamp* of a commit is a version: the store's clock, or a greater version where the record or
///   [`Commit::above`] has one. All fresh changes of a commit get the stamp. A carried change applies only if its
///   version is newer than the stored version.
/// - A removal leaves a tombstone with its version. The tombstone stays as long as the record.
/// - An ended record stays ended until it expires: each read answers [`Snapshot::Ended`], each commit
///   [`Committed::Ended`].
/// - The record stays for the longest of the spans that its commits and touches have asked for, see [`Commit::keep`]. A
///   commit or touch by an older lifetime than the record's changes nothing: see [`Commit::life`] and
///   [`Touch::lifetime_version`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a shared store",
    note = "a shared store implements `layered_session::tier::Store`; a read-only source goes into the chain as it is: \
            `.tier(source)`"
)]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The name in traces, in errors and in the inspector.
    fn name(&self) -> &'static str;

    /// Returns a snapshot for each ask, in the order of the asks.
    ///
    /// # Errors
    ///
    /// The cause that kept the store from answering; the chain adds the store's name.
    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>>;

    /// Makes the changes of one owner's record, all or none.
    ///
    /// # Errors
    ///
    /// The cause for which the store refuses the commit, or can't tell whether the changes were made: see
    /// [`StoreError`](super::StoreError).
    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed>;

    /// Keeps records for longer: the owners were used, and nothing changed. The store moves the expiry of a live record to
    /// a later time, never to an earlier time. The store leaves ended and missing records as they are, and records with a
    /// newer lifetime than [`Touch::lifetime_version`].
    ///
    /// # Errors
    ///
    /// The cause that kept the store from answering.
    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()>;

    /// Returns a new stream of the commits that other nodes make, or `None` if the store can't tell of commits.
    ///
    /// The stream heals its connection by itself, and never ends. The chain polls the stream in
    /// [`Sessions::follow`](crate::Sessions::follow).
    fn notices(&self) -> Option<NoticeStream> {
        None
    }

    /// Deletes some expired records, in a bounded step. [`Sessions::sweeper`](crate::Sessions::sweeper) calls this method
    /// once a minute, and again for as long as there may be more. Returns whether there may be more. Does nothing for a store that
    /// drops expired records by itself.
    ///
    /// # Errors
    ///
    /// The cause that kept the store from deleting.
    fn maintain(&self) -> StoreFuture<'_, bool> {
        StoreFuture::ready(Ok(false))
    }
}

/// A use of one owner's record.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    owner: OwnerId,
    keep: Duration,
    lifetime_version: Option<Version>,
}

impl Touch {
    pub(crate) const fn new(owner: OwnerId, keep: Duration) -> Self {
        Self { owner, keep, lifetime_version: None }
    }

    /// Names the lifetime from which the node has computed the span.
    pub(crate) const fn by_lifetime(mut self, version: Option<Version>) -> Self {
        self.lifetime_version = version;
        self
    }

    /// The owner of the record.
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }

    /// The minimum span for which the store keeps the record, counted from the call.
    pub const fn keep(&self) -> Duration {
        self.keep
    }

    /// The [version](super::StoredLife::version) of the node's copy of the session's lifetime; `None` for a principal. A
    /// store whose record has a newer lifetime ignores the touch: the node has computed [`keep`](Self::keep) from a
    /// lifetime that no longer holds. The commit of the newer lifetime came a moment before, and was a use too.
    pub const fn lifetime_version(&self) -> Option<Version> {
        self.lifetime_version
    }
}

/// A question for one owner's record.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    owner: OwnerId,
    known: Option<Known>,
}

impl Ask {
    pub(crate) const fn new(owner: OwnerId) -> Self {
        Self { owner, known: None }
    }

    /// Lets the store answer [`Snapshot::Unchanged`] if the record is still the known record.
    pub(crate) const fn unless(mut self, known: Known) -> Self {
        self.known = Some(known);
        self
    }

    /// The owner of the record: a session or a principal.
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }

    /// The state of the record that the node has in memory. A store whose live record has this generation and this
    /// newest version may answer [`Snapshot::Unchanged`].
    pub const fn known(&self) -> Option<Known> {
        self.known
    }
}

/// A store's answer to an [`Ask`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Snapshot {
    /// The current record.
    Present(StoredRecord),
    /// The record lives, and is still the [known](Ask::known) record.
    Unchanged {
        /// The span until the record expires: see [`StoredRecord::left`].
        left: Duration,
    },
    /// The store has no record of the owner.
    Absent,
    /// The record has ended.
    Ended(StoredEnd),
}
