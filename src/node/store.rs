//! The shared store of a node, with the node's clock, and with owner ids for the node's audience.

use super::Node;
use crate::{
    error::{CloseReason, TierError},
    id::{OwnerId, SessionId},
    record::change::Mutation,
    tier::{Commit, CommitKind, Committed, Snapshot, outside::SharedTier},
    time::Millis,
};

/// The shared store of a node.
#[derive(Clone, Copy)]
pub(crate) struct NodeStore<'a> {
    tier: &'a SharedTier,
    node: &'a Node,
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

    /// Commits changes of an owner. The store may drop the owner's record at `until`.
    pub(crate) async fn commit(
        self,
        owner: OwnerId,
        kind: CommitKind,
        changes: &[Mutation],
        until: Millis,
    ) -> Result<Committed, TierError> {
        let expires = self.node.time.wall(until).time();
        self.tier.commit(Commit::new(owner, kind, changes, expires), &self.node.time).await
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
        self.commit(owner(id), kind, &[], until).await
    }
}
