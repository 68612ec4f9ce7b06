//! The shared store of a node, with the node's clock, and with owner ids for the node's audience.

use super::Node;
use crate::{
    error::{CloseReason, TierError},
    id::{OwnerId, SessionId},
    record::change::Mutation,
    tier::{Change, Commit, CommitKind, Committed, Snapshot, StoredLife, outside::SharedTier},
    time::Millis,
    version::Version,
};

/// The shared store of a node.
#[derive(Clone, Copy)]
pub(crate) struct NodeStore<'a> {
    tier: &'a SharedTier,
    node: &'a Node,
}

/// A commit in the terms of a node.
#[derive(Clone, Copy)]
pub(crate) struct StoreWrite<'a> {
    pub(crate) kind: CommitKind,
    pub(crate) changes: &'a [Change<'a>],
    pub(crate) life: Option<StoredLife>,
    /// The newest version of the owner that this node knows.
    pub(crate) above: Version,
    /// The time at which the store may drop the record.
    pub(crate) until: Millis,
}

impl StoreWrite<'_> {
    /// Returns a write without changes.
    pub(crate) const fn of(kind: CommitKind, until: Millis) -> Self {
        Self { kind, changes: &[], life: None, above: Version::ZERO, until }
    }
}

impl<'a> From<&'a Mutation> for Change<'a> {
    fn from(mutation: &'a Mutation) -> Self {
        let Mutation { name, json, version, replaces, .. } = mutation;
        Self { name, json: json.as_ref(), version: *version, replaces: *replaces }
    }
}

impl Node {
    pub(crate) fn store(&self) -> Option<NodeStore<'_>> {
        self.store.as_ref().map(|tier| NodeStore { tier, node: self })
    }
}

impl NodeStore<'_> {
    pub(crate) async fn read(self, owner: OwnerId) -> Result<Snapshot, TierError> {
        self.tier.read(owner, &self.node.time).await
    }

    pub(crate) async fn commit(self, owner: OwnerId, write: StoreWrite<'_>) -> Result<Committed, TierError> {
        let StoreWrite { kind, changes, life, above, until } = write;
        // A span, since the store's clock may differ from this node's clock.
        let keep = until.since(self.node.now());
        self.tier.commit(Commit { owner, kind, changes, life, above, keep }, &self.node.time).await
    }

    /// Ends a session. The store may forget the end at `until`.
    pub(crate) async fn end(
        self,
        id: &SessionId,
        reason: CloseReason,
        successor: Option<&SessionId>,
        until: Millis,
    ) -> Result<Committed, TierError> {
        let owner = |id| self.node.config.owner(id);
        let kind = CommitKind::End { reason, successor: successor.map(owner) };
        self.commit(owner(id), StoreWrite::of(kind, until)).await
    }
}
