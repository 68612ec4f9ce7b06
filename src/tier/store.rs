//! The shared store: [`Store`], the chain's questions and commits, and the store's answers.

use std::{fmt, time::SystemTime};

use bytes::Bytes;

use super::{OwnerId, TierFuture};
use crate::{error::CloseReason, record::change::Mutation, value::Json, version::Version};

/// A shared store: the records of all nodes, by owner.
///
/// A chain takes a store inside a [`SharedTier`](crate::SharedTier), and at most one: `.tier(SharedTier::new(store))`. The
/// store keeps versions, takes writes, and decides whether a session exists. If the store fails, the load or the write fails,
/// and nothing changes. `SpyStore` of the feature `testing` keeps this contract.
///
/// # Contract
///
/// - A future may be dropped before it is polled, and at any await: work belongs inside the future. A commit that the store
///   has begun is made whole or not at all.
/// - The store judges a commit by the record as it stands at that moment, which no other commit may change meanwhile:
///   [`CommitKind`] says what each kind needs, [`Mutation::replaces`] what each change needs.
/// - A fresh change gets a version above every version that the store holds of the owner. All fresh changes of a commit get
///   the same version. A change that carries a version applies only if that version is newer than the version that stands.
/// - A removal leaves a tombstone with its version. The tombstone stays for as long as the record.
/// - An ended record stays ended until it expires: each read answers [`Snapshot::Ended`], each commit [`Committed::Ended`].
/// - The record expires at the time that its last commit named, see [`Commit::expires`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no shared store",
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
    /// The cause that kept the store from saying whether the changes are made.
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
    /// The record as it stands.
    Present(StoredRecord),
    /// The store has no record of the owner.
    Absent,
    /// The record has ended, for the reason that the [`End`](CommitKind::End) named.
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
    /// A record without values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value as JSON bytes, or a tombstone (`None`), with its version.
    ///
    /// An undeclared value goes into the browser's cookie as well, unless its name is longer than the 64 bytes that a
    /// declared name can have.
    #[must_use]
    pub fn entry(mut self, name: impl Into<String>, json: Option<Bytes>, version: Version) -> Self {
        self.entries.push(StoredEntry { name: name.into(), json: json.as_deref().map(Json::from), version });
        self
    }
}

/// Names only: values are the application's.
impl fmt::Debug for StoredRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.entries.iter().map(|entry| &entry.name).collect();
        f.debug_struct("StoredRecord").field("names", &names).finish()
    }
}

/// Changes of one owner's record that a store is to make, all or none.
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
    /// Makes the record. A store that has the record answers [`Committed::Outdated`] or [`Committed::Ended`].
    Create,
    /// Changes the record. A store without the record answers [`Committed::Absent`].
    Update,
    /// Changes the record, and makes the record where there is none: a principal's, which nobody creates.
    Upsert,
    /// Ends the record: from now on the store answers [`Snapshot::Ended`], until the record expires. A store without the
    /// record answers [`Committed::Absent`].
    End {
        /// The reason: `Destroyed`, `Renewed` or `Revoked`.
        reason: CloseReason,
        /// The owner of the session that a renewal began for the same principal. A sign-out with the cookie of the ended
        /// session is to end that session as well. A sign-in has no successor: somebody may have planted the old cookie
        /// before the login.
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

    /// The changes, none for an end.
    pub const fn changes(&self) -> &'a [Mutation] {
        self.changes
    }

    /// The time at which the record expires unless a later commit says otherwise. For a session that is its absolute
    /// deadline: a store is not told of each use, and memory and the seal know which sessions have idled out.
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
    /// The store made no change: a change replaces a version that no longer stands, or the record to create exists. The
    /// record is the record as it stands.
    Outdated(StoredRecord),
    /// The store has no such record, and made no change.
    Absent,
    /// The record has ended, for this reason, and the store made no change.
    Ended(CloseReason),
}
