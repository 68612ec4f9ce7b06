//! The news of a store about the commits of other nodes: [`Notice`].

use std::pin::Pin;

use futures_core::Stream;

use super::{Known, OwnerId};

#[cfg(any(feature = "sqlite", feature = "testing"))]
pub(crate) mod hub;

/// The notices of a store. The stream never ends, and heals its connection by itself.
pub type NoticeStream = Pin<Box<dyn Stream<Item = Notice> + Send>>;

/// The news of a store.
///
/// A notice has no values: the chain reads a changed record from the store, so a forged notice costs a read and changes
/// nothing. A notice may come twice, late, or out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A node has changed or ended a record.
    Changed {
        /// The owner of the record.
        owner: OwnerId,
        /// The record after the commit.
        known: Known,
        /// The node that made the commit: [`Commit::node`](super::Commit::node).
        node: NodeId,
    },
    /// Notices arrive from now on. Earlier notices may be lost.
    Up,
    /// The connection is lost: no notice arrives until [`Up`](Self::Up).
    Down,
}

/// The random id of one `Sessions`, by which a node leaves out the notices of its own commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(u64);

impl NodeId {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// Returns the id with this number.
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// Returns the id as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}
