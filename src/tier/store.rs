//! The shared store: [`Store`], the chain's questions and commits, and the store's answers.

use std::{fmt, time::SystemTime};

use bytes::Bytes;

use super::{OwnerId, TierFuture};
use crate::{error::CloseReason, record::change::Mutation, value::Json, version::Version};

/// A shared store: the records of all nodes, by owner.
///
/// A chain takes a store inside a [`SharedTier`](crate::SharedTier), and at most one: `.tier(SharedTier::new(store))`.
/// The store keeps versions, takes writes, and decides whether a session exists. If the store fails, the load or the
/// write fails, and nothing changes. `SpyStore` of the feature `testing` keeps this contract.
///
/// # Contract
///
/// - A future may be dropped before it is polled, and at any await: work belongs inside the future. A commit that the
///   store has begun is made whole or not at all.
/// - The store checks a commit against the current record, and no other commit may change the record meanwhile.
///   [`CommitKind`] has the condition of each kind, and [`Mutation::replaces`] the condition of each change.
/// - A fresh change gets a version above every version that the store holds of the owner. All fresh changes of a commit
///   get the same version. A carried change applies only if its version is newer than the stored version.
/// - A removal leaves a tombstone with its version. The tombstone stays as long as the record.
/// - An ended record stays ended until it expires: each read answers [`Snapshot::Ended`], each commit
///   [`Committed::Ended`].
/// - The record expires at the time in its last commit, see [`Commit::expires`].
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
    fn read<'a>(&'a self, asks: &'a [Ask]) -> TierFuture<'a, Vec<Snapshot>>;

    /// Makes the changes of one owner's record, all or none.
    ///
    /// # Errors
    ///
    /// The cause for which the store can't tell whether the changes were made.
    fn commit<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed>;
}

/// A question for one owner's record.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    owner: OwnerId,
}

impl Ask {
    pub(crate) const fn new(owner: OwnerId) -> Self {
        Self { owner }
    }

    /// The owner of the record: a session or a principal.
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }
}

/// A store's answer to an [`Ask`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Snapshot {
    /// The current record.
    Present(StoredRecord),
    /// The store has no record of the owner.
    Absent,
    /// The record has ended, for the reason in the commit of kind [`End`](CommitKind::End).
    Ended(CloseReason),
}

impl Snapshot {
    pub(crate) fn into_record(self) -> StoredRecord {
        match self {
            Self::Present(record) => record,
            Self::Absent | Self::Ended(_) => StoredRecord::default(),
        }
    }
}

/// The values and tombstones of one owner in a store.
#[derive(Default)]
pub struct StoredRecord {
    pub(crate) entries: Vec<StoredEntry>,
}

pub(crate) struct StoredEntry {
    pub(crate) name: String,
    pub(crate) json: Option<Json>,
    pub(crate) version: Version,
}

impl StoredRecord {
    /// Creates a record without values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value as JSON bytes, or a tombstone (`None`), with its version.
    ///
    /// The browser's cookie carries undeclared values too, except values with a name of more than 64 bytes, the limit
    /// for declared names.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>, json: Option<Bytes>, version: Version) -> Self {
        self.entries.push(StoredEntry { name: name.into(), json: json.as_deref().map(Json::from), version });
        self
    }
}

/// Shows the names only: the values may be private.
impl fmt::Debug for StoredRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.entries.iter().map(|entry| &entry.name).collect();
        f.debug_struct("StoredRecord").field("names", &names).finish()
    }
}

/// The changes of one owner's record, which the store makes all or none.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    owner: OwnerId,
    kind: CommitKind,
    changes: &'a [Mutation],
    expires: SystemTime,
}

/// The effect of a [`Commit`] on the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitKind {
    /// Creates the record. A store that has the record answers [`Committed::Outdated`] or [`Committed::Ended`].
    Create,
    /// Changes the record. A store without the record answers [`Committed::Absent`].
    Update,
    /// Changes the record, and creates a missing record. For principals, whose records have no commit of kind `Create`.
    Upsert,
    /// Ends the record: from now on the store answers [`Snapshot::Ended`], until the record expires. A store without
    /// the record answers [`Committed::Absent`].
    End {
        /// The reason: `Destroyed`, `Renewed` or `Revoked`.
        reason: CloseReason,
        /// The owner of the new session, if a renewal ended this session and the principal stayed the same. A sign-out
        /// with the cookie of the ended session also ends the new session. A sign-in has no successor: an attacker may
        /// have planted the old cookie before the login (session fixation).
        successor: Option<OwnerId>,
    },
}

impl<'a> Commit<'a> {
    pub(crate) const fn new(owner: OwnerId, kind: CommitKind, changes: &'a [Mutation], expires: SystemTime) -> Self {
        Self { owner, kind, changes, expires }
    }

    /// The owner of the record.
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }

    /// The effect on the record.
    pub const fn kind(&self) -> CommitKind {
        self.kind
    }

    /// The changes. Empty for an end.
    pub const fn changes(&self) -> &'a [Mutation] {
        self.changes
    }

    /// The time at which the record expires, unless a later commit sets another time. For a session, the absolute
    /// deadline: the store does not learn of each use, and memory and the sealed token know the idle deadline.
    pub const fn expires(&self) -> SystemTime {
        self.expires
    }
}

/// The outcome of a [`Commit`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Committed {
    /// The store made the changes. The version is the version of the fresh changes.
    Applied(Version),
    /// The store made no change: a change replaces a version that is no longer current, or the record to create exists.
    /// Contains the current record.
    Outdated(StoredRecord),
    /// The store has no such record, and made no change.
    Absent,
    /// The record has ended, for this reason, and the store made no change.
    Ended(CloseReason),
}
