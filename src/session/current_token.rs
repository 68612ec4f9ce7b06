//! The times and versions of an opened token, as this node believes them.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    cookie::payload::{Entry, EntryOwner, Payload},
    node::Node,
    node_clock::NodeClock,
    record::{life::SessionLife, values::StoredValue},
    time::{Millis, Wall},
    value::Json,
    version::Version,
};

/// How long a token may be brought that gives a session to whoever brings it: it should not lie about.
const BRIEFLY: Duration = Duration::from_secs(60);

/// A genuine token whose absolute deadline has not come, with its times in node time.
pub(super) struct CurrentToken {
    pub(super) payload: Box<Payload>,
    pub(super) life: SessionLife,
    pub(super) issued: Millis,
    pub(super) idle_deadline: Millis,
    /// When it was sealed; no later than now.
    sealed: Wall,
    /// How much further ahead than this node's clock it was issued.
    ahead: Duration,
}

impl CurrentToken {
    /// The life of a record that begins with this token.
    pub(super) fn initial_life(&self) -> SessionLife {
        let mut life = self.life.clone();
        if let Some(predecessor) = self.payload.head.predecessor {
            life.set_predecessor(predecessor);
        }
        life
    }

    /// Whether the idle deadline of the seal has come. Such a token proves its id and nothing more.
    pub(super) fn is_idle(&self, now: Millis) -> bool {
        self.idle_deadline <= now
    }

    /// The last use that the token tells of. When it was sealed says nothing of that.
    pub(super) fn used(&self, now: Millis) -> Millis {
        self.idle_deadline.before(self.life.idle()).min(now)
    }

    /// Whether a token that may be brought for a minute still may, or may already: issued further ahead, it could lie about
    /// for as long as the clocks differ.
    pub(super) fn is_brief(&self, now: Millis) -> bool {
        self.ahead <= BRIEFLY && now < self.issued.after(BRIEFLY)
    }

    /// A version in the token, unless it can't be believed.
    pub(super) fn believed_version(&self, version: Version, time: &NodeClock) -> Version {
        time.believed(version, self.sealed)
    }

    /// A copy of an entry.
    pub(super) fn stored_value(&self, entry: &Entry<'_>, time: &NodeClock, now: Millis) -> StoredValue {
        let version = self.believed_version(entry.version, time);
        StoredValue::new(version, entry.json.map(Json::from), time.written(version, now))
    }
}

/// A payload with its times put right, unless they can't be believed or are over.
pub(super) fn check_current(node: &Node, payload: Box<Payload>, now: Millis) -> Option<CurrentToken> {
    let (time, head) = (&node.time, &payload.head);
    let wall = time.wall(now);
    if head.issued > wall.after(node.time.max_skew) {
        node.counters.skewed_tokens.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a token is further in the future than `max_skew` allows: compare the clocks of the nodes");
        return None;
    }
    see_versions(node, &payload, now);
    let sealed = head.issued.min(wall);
    let lead = time.lead_at(head.issued);
    let node = |at: Wall| Millis(at.0).after(Duration::from_millis(lead));
    let mut told = head.life.map(node);
    told.birth = time.believed(told.birth, sealed);
    told.lifetime_version = time.believed(told.lifetime_version, sealed);
    let (mut issued, mut idle_deadline) = (node(head.issued), node(head.idle_deadline));
    if issued > now {
        // Sealed by a node whose clock is ahead: nobody lives longer for it.
        (issued, idle_deadline) = (now, idle_deadline.min(now.after(told.idle)));
    }
    if told.created > now {
        told.absolute_deadline = now.after(told.absolute_deadline.since(told.created));
        told.created = now;
    }
    let ahead = Millis(head.issued.0).since(Millis(wall.0));
    (now < told.absolute_deadline).then(|| CurrentToken {
        life: SessionLife::from(told),
        payload,
        issued,
        idle_deadline,
        sealed,
        ahead,
    })
}

/// Notes all versions that a genuine token tells of.
fn see_versions(node: &Node, payload: &Payload, now: Millis) {
    let entries = [EntryOwner::Session, EntryOwner::Principal].into_iter().flat_map(|whose| payload.entries(whose));
    let (told, drawn) = (&payload.head.life, payload.order.as_ref().map(|order| order.birth));
    let versions = entries.map(|entry| entry.version).chain([told.birth, told.lifetime_version]).chain(drawn);
    versions.for_each(|version| node.note_version(version, now));
}
