//! The times and versions of an opened token, checked against this node's clock.

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

/// The life of a token that gives its session to each bearer: a stolen copy must not work for long.
const BRIEFLY: Duration = Duration::from_secs(60);

/// A genuine token before its absolute deadline, with times in node time.
pub(super) struct CurrentToken {
    pub(super) payload: Box<Payload>,
    pub(super) life: SessionLife,
    pub(super) issued: Millis,
    pub(super) idle_deadline: Millis,
    /// The time of sealing, no later than now.
    sealed: Wall,
    /// The span by which the time of issue is ahead of this node's clock.
    ahead: Duration,
}

impl CurrentToken {
    /// Returns the life of a record that this token creates.
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

    /// Returns the last use known to the token: the idle deadline minus the idle lifetime. The time of sealing is not a
    /// use.
    pub(super) fn used(&self, now: Millis) -> Millis {
        self.idle_deadline.before(self.life.idle()).min(now)
    }

    /// Whether a token with a life of one minute may be brought now. A token issued more than a minute ahead of this
    /// node's clock is refused too: such a token would work for as long as the clocks differ.
    pub(super) fn is_brief(&self, now: Millis) -> bool {
        self.ahead <= BRIEFLY && now < self.issued.after(BRIEFLY)
    }

    /// Returns a version of the token. A version too far ahead counts as written when the token was sealed.
    pub(super) fn believed_version(&self, version: Version, time: &NodeClock) -> Version {
        time.believed(version, self.sealed)
    }

    /// Returns the copy of a value in an entry.
    pub(super) fn stored_value(&self, entry: &Entry<'_>, time: &NodeClock, now: Millis) -> StoredValue {
        let version = self.believed_version(entry.version, time);
        StoredValue::new(version, entry.json.map(Json::from), time.written(version, now))
    }
}

/// Corrects the times of a payload. `None` if the token is further ahead than `max_skew` or past its absolute deadline.
pub(super) fn check_current(node: &Node, payload: Box<Payload>, now: Millis) -> Option<CurrentToken> {
    let (time, head) = (&node.time, &payload.head);
    let wall = time.wall(now);
    if head.issued > wall.after(node.time.max_skew) {
        node.counters.skewed_tokens.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a token is further in the future than `max_skew` allows: compare the clocks of the nodes");
        return None;
    }
    note_versions(node, &payload, now);
    let sealed = head.issued.min(wall);
    let lead = time.lead_at(head.issued);
    let node = |at: Wall| Millis(at.0).after(Duration::from_millis(lead));
    let mut life = head.life.map(node);
    life.birth = time.believed(life.birth, sealed);
    life.lifetime_version = time.believed(life.lifetime_version, sealed);
    let (mut issued, mut idle_deadline) = (node(head.issued), node(head.idle_deadline));
    if issued > now {
        // The sealing node's clock is ahead: no session lives longer by that.
        (issued, idle_deadline) = (now, idle_deadline.min(now.after(life.idle)));
    }
    if life.created > now {
        life.absolute_deadline = now.after(life.absolute_deadline.since(life.created));
        life.created = now;
    }
    let ahead = Millis(head.issued.0).since(Millis(wall.0));
    (now < life.absolute_deadline).then(|| CurrentToken {
        life: SessionLife::from(life),
        payload,
        issued,
        idle_deadline,
        sealed,
        ahead,
    })
}

/// Notes all versions of a genuine token, so that fresh writes are above them.
fn note_versions(node: &Node, payload: &Payload, now: Millis) {
    let entries = [EntryOwner::Session, EntryOwner::Principal].into_iter().flat_map(|owner| payload.entries(owner));
    let (life, order_birth) = (&payload.head.life, payload.order.as_ref().map(|order| order.birth));
    let versions = entries.map(|entry| entry.version).chain([life.birth, life.lifetime_version]).chain(order_birth);
    versions.for_each(|version| node.note_version(version, now));
}
