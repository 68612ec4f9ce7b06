//! The shared store of a node, with the node's clock, and with owner ids for the node's audience.

use super::Node;
use crate::{
    config::Identity,
    error::{CloseReason, StoreError, TierError},
    id::OwnerId,
    record::{
        change::Mutation,
        life::{End, FENCE, Successor},
    },
    tier::{Ask, Change, Commit, CommitKind, Committed, Snapshot, StoredEnd, StoredLife, shared::SharedTier},
    time::{Millis, Wall},
    version::Version,
};

/// The maximum number of renewals that a sign-out follows in the store.
const MAX_RENEWALS: usize = 16;

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

    /// Converts an end in the store to node time. The end is kept for as long as a token of the id may open.
    pub(crate) fn stored_end(&self, end: &StoredEnd, now: Millis) -> End {
        let at = self.time.written(Version::at(Wall::of(end.at())), now);
        let follows = matches!(self.config.identity, Identity::Value { .. });
        let successor = end.successor().filter(|_| follows);
        let successor = successor.map_or(Successor::None, |owner| Successor::Stored(Box::new(owner)));
        let until = now.after(self.longest_absolute());
        End { reason: end.reason(), at, until, principal: None, successor }
    }

    /// Returns the session that a renewal on another node began less than a minute ago, if a sign-out of the old
    /// session ends the new session too. With `identify` a sign-out ends no successor: the head of this request may
    /// name another user.
    pub(crate) fn live_successor(&self, end: &StoredEnd) -> Option<OwnerId> {
        let now = self.now();
        let End { successor: Successor::Stored(owner), at, .. } = self.stored_end(end, now) else { return None };
        (now < at.after(FENCE)).then_some(*owner)
    }
}

impl NodeStore<'_> {
    pub(crate) async fn read(self, owner: OwnerId) -> Result<Snapshot, TierError> {
        self.tier.read_one(Ask::new(owner), &self.node.time).await
    }

    pub(crate) async fn commit(self, owner: OwnerId, write: StoreWrite<'_>) -> Result<Committed, TierError> {
        let StoreWrite { kind, changes, life, above, until } = write;
        // A span, since the store's clock may differ from this node's clock.
        let keep = until.since(self.node.now());
        self.tier.commit(Commit { owner, kind, changes, life, above, keep, node: self.node.id }, &self.node.time).await
    }

    /// Ends a session. The store may forget the end at `until`.
    pub(crate) async fn end(
        self,
        owner: OwnerId,
        reason: CloseReason,
        successor: Option<OwnerId>,
        until: Millis,
    ) -> Result<Committed, TierError> {
        self.commit(owner, StoreWrite::of(CommitKind::End { reason, successor }, until)).await
    }

    /// Ends a session, and each session that a renewal on another node has made of it within the last minute. Returns the
    /// earlier end, if the session had ended before.
    pub(crate) async fn end_line(
        self,
        owner: OwnerId,
        reason: CloseReason,
        until: Millis,
    ) -> Result<Option<StoredEnd>, TierError> {
        let (mut owner, mut earlier) = (owner, None);
        for _ in 0..MAX_RENEWALS {
            let Committed::Ended(end) = self.end(owner, reason, None, until).await? else { return Ok(earlier) };
            earlier.get_or_insert(end);
            match self.node.live_successor(&end) {
                Some(successor) => owner = successor,
                None => return Ok(earlier),
            }
        }
        // The session that the last renewal began may still live, so `Ok` would report a sign-out that did not happen.
        let cause = format!("the session was renewed more than {MAX_RENEWALS} times in a minute");
        Err(TierError::new(self.tier.name(), StoreError::other(cause)))
    }
}
