//! [`Changes`]: a stream of all changes of a session, and the difference between two snapshots of a session.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

use super::wait::{Next, Wait, close_reason, next_end};
use crate::{
    error::CloseReason,
    record::values::ChangeOrigin,
    session::{
        Session,
        read::{self, SeenRecord, SeenValue},
    },
    time::Millis,
    version::Version,
};

/// A change of a session, or of a value of the session or its principal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeEvent {
    /// A value was written.
    #[non_exhaustive]
    Set {
        /// The value's wire name.
        name: &'static str,
        /// The write's version.
        version: Version,
        /// The node that wrote the value: this node or another. An action that must run on a single node for each write
        /// runs only if the origin is [`Local`](ChangeOrigin::Local).
        origin: ChangeOrigin,
    },
    /// A value was removed; computed tiers answer from now on.
    #[non_exhaustive]
    Removed {
        /// The value's wire name.
        name: &'static str,
        /// The removal's version.
        version: Version,
        /// The node that removed the value: this node or another.
        origin: ChangeOrigin,
    },
    /// A value reached the end of its own lifetime.
    #[non_exhaustive]
    Expired {
        /// The value's wire name.
        name: &'static str,
    },
    /// The session's values were cleared; their removals follow.
    #[non_exhaustive]
    Cleared {
        /// The removals' version.
        version: Version,
    },
    /// This handle renewed the session, or the session's principal changed. Earlier events are void, and the present
    /// values follow.
    Renewed,
    /// Some changes had no event of their own. The events so far tell the newest state.
    CaughtUp,
    /// The session is over. The stream ends.
    Closed(CloseReason),
}

/// A stream of all changes to the values of a session and of its principal.
///
/// The stream begins with changes after its creation. The stream keeps one version per value, so that a slow reader
/// never costs memory. If a value was written several times since the reader's last event, the stream gives a single
/// event with the newest version, and then [`ChangeEvent::CaughtUp`].
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions, ChangeEvent, CloseReason};
/// # use serde::{Deserialize, Serialize};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Theme>();
/// # let layer = LayeredSessionLayer::new(chain.build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// let mut changes = session.changes();
/// session.set(Theme("dark".into())).await?;
/// assert!(matches!(changes.next().await, Some(ChangeEvent::Set { name: "theme", .. })));
/// session.remove::<Theme>().await?;
/// let removed = changes.next().await;
/// assert!(matches!(removed, Some(ChangeEvent::Removed { name: "theme", .. })));
/// session.destroy().await?;
/// assert_eq!(changes.next().await, Some(ChangeEvent::Closed(CloseReason::Destroyed)));
/// assert_eq!(changes.next().await, None);
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # service.oneshot(Request::new(())).await?;
/// # Ok(()) }
/// ```
pub struct Changes {
    wait: Wait,
    seen: Snapshot,
    queue: VecDeque<ChangeEvent>,
    over: bool,
}

/// The state of a session when a stream last read it.
pub(crate) struct Snapshot {
    owners: Vec<SeenRecord>,
    values: Vec<SeenValue>,
}

impl Changes {
    pub(crate) fn new(session: Session) -> Self {
        read::mark_watched(session.shared());
        let wait = Wait::new(session);
        let seen = Snapshot::of(wait.session(), wait.session().shared().node.now());
        Self { wait, seen, queue: VecDeque::new(), over: false }
    }

    /// Returns the next change; `None` after [`ChangeEvent::Closed`].
    ///
    /// # Cancel safety
    ///
    /// A dropped `next` has taken no change: the next call returns the change.
    pub async fn next(&mut self) -> Option<ChangeEvent> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Snapshot {
    pub(crate) fn of(session: &Session, now: Millis) -> Self {
        let (owners, mut values) = read::snapshot(session.shared(), now);
        values.sort_unstable_by_key(|seen| seen.index);
        Self { owners, values }
    }

    /// Returns the changes from `self` to a newer snapshot, as events.
    pub(crate) fn diff(&self, now: &Self, session: &Session) -> Vec<ChangeEvent> {
        let schema = &session.shared().node.config.schema;
        let mut events = Vec::new();
        let same = self.owners.iter().map(|owner| owner.key).eq(now.owners.iter().map(|owner| owner.key));
        // A renewal takes a record of the earlier snapshot away. A record that is only added, as when a visitor's first
        // write begins a session, is no renewal: the earlier events stay valid.
        let stays = |owner: &SeenRecord| now.owners.iter().any(|other| other.key == owner.key);
        let renewed = !self.owners.iter().all(stays);
        if renewed {
            events.push(ChangeEvent::Renewed);
        }
        let mut pairs = self.owners.iter().zip(&now.owners).filter(|_| same);
        if let Some((_, after)) = pairs.find(|(before, after)| before.cleared != after.cleared) {
            events.push(ChangeEvent::Cleared { version: after.cleared });
        }
        let before: &[SeenValue] = if renewed { &[] } else { &self.values };
        let find = |values: &[SeenValue], index| values.iter().find(|seen| seen.index == index).copied();
        for &after in &now.values {
            let SeenValue { index, version, is_value, origin, .. } = after;
            let name = schema.get(index).name;
            match find(before, index) {
                Some(seen) if seen == after => {}
                None if !is_value => {}
                _ if is_value => events.push(ChangeEvent::Set { name, version, origin }),
                _ => events.push(ChangeEvent::Removed { name, version, origin }),
            }
        }
        for seen in before.iter().filter(|seen| seen.is_value && find(&now.values, seen.index).is_none()) {
            events.push(ChangeEvent::Expired { name: schema.get(seen.index).name });
        }
        let changes = |seen: &Self| seen.owners.iter().map(|owner| u64::from(owner.changes)).sum::<u64>();
        if same && changes(now) > changes(self) + 1 && !events.is_empty() {
            events.push(ChangeEvent::CaughtUp);
        }
        events
    }
}

impl Stream for Changes {
    type Item = ChangeEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ChangeEvent>> {
        let Self { wait, seen, queue, over } = self.get_mut();
        if *over {
            return Poll::Ready(None);
        }
        wait.poll(cx, |session, ended| {
            if let Some(reason) = ended.or_else(|| close_reason(session)) {
                queue.clear();
                *over = true;
                return Next::Item(Some(ChangeEvent::Closed(reason)));
            }
            let node = &session.shared().node;
            let now = node.now();
            if queue.is_empty() {
                let snapshot = Snapshot::of(session, now);
                queue.extend(seen.diff(&snapshot, session));
                *seen = snapshot;
            }
            match queue.pop_front() {
                Some(changed) => Next::Item(Some(changed)),
                None => Next::Idle(next_end(session, node.config.schema.iter().map(|(index, _)| index), now)),
            }
        })
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}
