//! What goes on after the response: watches, streams of changes, and the end of a session.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_core::Stream;

use crate::{
    error::CloseReason,
    node_clock::NodeClock,
    notify::{TimerWaker, WakerSlot},
    record::values::ChangeOrigin,
    session::{
        Session,
        read::{self, SeenRecord, SeenValue},
    },
    time::{Millis, Sleep},
    value::{self, Json, SessionValue, ValueIndex},
    version::Version,
};

impl Session {
    /// The value now, and then each newer one, whoever writes it. Without a session the stream waits for one to be
    /// made on this handle. In a chain without memory nothing but this handle's own writes is seen.
    pub fn watch<V: SessionValue + Default>(&self) -> Watch<V> {
        Watch::new(self.clone())
    }

    /// Everything that happens from now on to the values of the session and of its principal.
    pub fn changes(&self) -> Changes {
        Changes::new(self.clone())
    }

    /// Resolves when the session is over, with the reason; at once if it is already, and where there is no
    /// session and none may begin ([`CloseReason::CrossSite`], [`CloseReason::Ambiguous`]). It keeps a handle of its own, so it can go
    /// into a stream or a task.
    ///
    /// In a `select!` it isn't polled while another arm's handler runs: a send that never ends would keep the socket
    /// of somebody who logged out, so sends want a timeout.
    ///
    /// # Cancel safety
    ///
    /// A dropped `closed()` leaves nothing behind, and the next one resolves with the same reason.
    pub fn closed(&self) -> impl Future<Output = CloseReason> + Send + Sync + use<> {
        Closing::new(self.clone())
    }
}

/// A waiting future's own timer: nothing else wakes for an expiry.
///
/// The timer notifies the slot rather than the task: a task that is woken for every write would poll the timer each time.
#[derive(Default)]
struct DeadlineTimer {
    armed: Option<(Millis, Sleep)>,
    /// Set anew, and not polled since.
    needs_poll: bool,
    waker: Option<Arc<TimerWaker>>,
}

/// The longest sleep of a timer: a step forward of the clock makes deadlines come earlier.
const AT_MOST: Duration = Duration::from_secs(3600);

impl DeadlineTimer {
    /// Sets it for no later than a deadline. One that is set for earlier stays: each use of a session moves its end
    /// out, and a look too many per lifetime costs less than a timer per use.
    fn set(&mut self, time: &NodeClock, deadline: Option<Millis>) {
        match (&self.armed, deadline) {
            (_, None) => self.armed = None,
            (Some((armed, _)), Some(deadline)) if *armed <= deadline => {}
            (_, Some(deadline)) => {
                let now = time.now();
                let span = deadline.since(now).min(AT_MOST);
                self.armed = Some((now.after(span), time.clock.sleep(span)));
                self.needs_poll = true;
            }
        }
    }

    /// Whether the time has come.
    fn poll(&mut self, slot: &WakerSlot) -> bool {
        let Some((_, sleep)) = &mut self.armed else { return false };
        let ringer = self.waker.get_or_insert_with(|| slot.timer_waker());
        if !ringer.take_fired() && !std::mem::take(&mut self.needs_poll) {
            return false;
        }
        let waker = Waker::from(Arc::clone(ringer));
        let rings = sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if rings {
            self.armed = None;
        }
        rings
    }
}

/// What came of a look.
pub(crate) enum Next<T> {
    /// This, and perhaps more.
    Item(T),
    /// An item; no other follows before the next notification or the given time.
    Last(T, Option<Millis>),
    /// No item before the next notification or the given time.
    Idle(Option<Millis>),
}

/// The common part of all futures that wait on a session: a waker slot and a timer.
pub(crate) struct Wait {
    session: Session,
    slot: WakerSlot,
    timer: DeadlineTimer,
    /// All items were returned: the next look waits for a notification.
    drained: bool,
    /// How many sessions the handle had ended before.
    own_ends: u32,
}

impl Wait {
    pub(crate) fn new(session: Session) -> Self {
        let slot = session.shared().subscribe();
        let own_ends = session.shared().flags.own_ends();
        Self { session, slot, timer: DeadlineTimer::default(), drained: false, own_ends }
    }

    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    /// Looks until there is an item, or no item can come before the next notification or deadline.
    ///
    /// `look` is told of the end if the handle itself has ended the session that the wait began with: the handle may be in
    /// another session by now.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&Session, Option<CloseReason>) -> Next<T>,
    ) -> Poll<T> {
        loop {
            let rung = self.slot.poll(cx).is_ready();
            if self.drained && !rung && !self.timer.poll(&self.slot) {
                return Poll::Pending;
            }
            let ended = self.session.shared().flags.own_ends() != self.own_ends;
            let said = look(&self.session, ended.then_some(CloseReason::Destroyed));
            let (said, until) = match said {
                Next::Item(said) => {
                    self.drained = false;
                    return Poll::Ready(said);
                }
                Next::Last(said, until) => (Some(said), until),
                Next::Idle(until) => (None, until),
            };
            self.drained = true;
            self.timer.set(&self.session.shared().node.time, until);
            if let Some(said) = said {
                return Poll::Ready(said);
            }
        }
    }
}

/// Why it is over for who waits on a session.
pub(crate) fn close_reason(session: &Session) -> Option<CloseReason> {
    let shared = session.shared();
    shared.close_reason(shared.node.now()).or_else(|| shared.node.is_stopping().then_some(CloseReason::Shutdown))
}

/// When a session or one of these values ends, for who looked at `now`: what has ended since is still to be told.
pub(crate) fn next_end(
    session: &Session,
    numbers: impl IntoIterator<Item = ValueIndex>,
    now: Millis,
) -> Option<Millis> {
    let shared = session.shared();
    read::ends(shared, now)
        .into_iter()
        .chain(numbers.into_iter().filter_map(|index| read::value_ends(shared, index, now)))
        .min()
}

/// A stream of a value: the current one first, then each newer one, whoever wrote it.
///
/// The latest wins: a reader that is slow skips what it missed, and costs nobody anything. It ends when the session is
/// over, and checks that first, so that no value goes out after a logout. Values that are skipped as invalid count as
/// absent. Dropped, it leaves nothing behind.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions};
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
/// let mut themes = session.watch::<Theme>();
/// assert_eq!(themes.next().await, Some(Theme::default())); // the present one first
///
/// session.set(Theme("light".into())).await?;
/// session.set(Theme("dark".into())).await?;
/// assert_eq!(themes.next().await, Some(Theme("dark".into()))); // the newest
///
/// session.destroy().await?;
/// assert_eq!(themes.next().await, None);
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # service.oneshot(Request::new(())).await?;
/// # Ok(()) }
/// ```
pub struct Watch<V> {
    wait: Wait,
    index: Option<ValueIndex>,
    /// The bytes too: where two nodes wrote at the same version, the greater ones take the others' place under it.
    seen: Option<(crate::session::ValueRevision, Option<Json>)>,
    value: PhantomData<fn() -> V>,
}

impl<V: SessionValue + Default> Watch<V> {
    pub(crate) fn new(session: Session) -> Self {
        read::mark_watched(session.shared());
        let index = read::declared_index::<V>(session.shared());
        Self { wait: Wait::new(session), index, seen: None, value: PhantomData }
    }

    /// The next value; `None` when the session is over.
    ///
    /// # Cancel safety
    ///
    /// A dropped `next` has taken no value: the next call returns the newest value that no call has returned.
    pub async fn next(&mut self) -> Option<V> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<V: SessionValue + Default> Stream for Watch<V> {
    type Item = V;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<V>> {
        let Self { wait, index, seen, .. } = self.get_mut();
        wait.poll(cx, |session, ended| {
            let shared = session.shared();
            if ended.is_some() || shared.node.is_stopping() {
                return Next::Item(None);
            }
            let Ok((stored, mark, until)) = read::peek(shared, *index, shared.node.now()) else {
                return Next::Item(None);
            };
            if seen.as_ref().is_some_and(|(seen, json)| *seen == mark && *json == stored) {
                return Next::Idle(until);
            }
            *seen = Some((mark, stored.clone()));
            let value = index.and_then(|index| read::answer(shared, index, stored, |json| value::decode::<V>(json)));
            Next::Last(Some(value.unwrap_or_default()), until)
        })
    }
}

impl<V> fmt::Debug for Watch<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("value", &std::any::type_name::<V>()).finish_non_exhaustive()
    }
}

/// What happened to a session or its principal's values.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeEvent {
    /// A value was written.
    #[non_exhaustive]
    Set {
        /// Its wire name.
        name: &'static str,
        /// The write's version.
        version: Version,
        /// Whether it was written on this node. What must be done once for a write, on whichever node, goes by this.
        origin: ChangeOrigin,
    },
    /// A value was removed; computed tiers answer from now on.
    #[non_exhaustive]
    Removed {
        /// Its wire name.
        name: &'static str,
        /// The removal's version.
        version: Version,
        /// Whether it was removed on this node.
        origin: ChangeOrigin,
    },
    /// A value reached the end of its own lifetime.
    #[non_exhaustive]
    Expired {
        /// Its wire name.
        name: &'static str,
    },
    /// The session's values were cleared; their removals follow.
    #[non_exhaustive]
    Cleared {
        /// The removals' version.
        version: Version,
    },
    /// This handle renewed the session, or its principal changed: what was said before is void, and the values that
    /// there are now follow.
    Renewed,
    /// There were more changes than were told one by one; the state told is the newest.
    CaughtUp,
    /// The session is over. The stream ends.
    Closed(CloseReason),
}

/// A stream of everything that happens to the values of a session and of its principal.
///
/// It begins with changes after its creation. It keeps one version per value, so that a slow reader never costs memory:
/// several writes of one value between two looks are told as one, and then [`ChangeEvent::CaughtUp`] is said.
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
    queue: std::collections::VecDeque<ChangeEvent>,
    over: bool,
}

/// All that a stream of changes last saw.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    owners: Vec<SeenRecord>,
    values: Vec<SeenValue>,
}

impl Changes {
    pub(crate) fn new(session: Session) -> Self {
        read::mark_watched(session.shared());
        let wait = Wait::new(session);
        let seen = Snapshot::of(&wait.session, wait.session.shared().node.now());
        Self { wait, seen, queue: std::collections::VecDeque::new(), over: false }
    }

    /// The next change; `None` after [`ChangeEvent::Closed`].
    ///
    /// # Cancel safety
    ///
    /// A dropped `next` has taken no change: the next call returns it.
    pub async fn next(&mut self) -> Option<ChangeEvent> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Snapshot {
    pub(crate) fn of(session: &Session, now: Millis) -> Self {
        let (owners, mut values) = read::snapshot(session.shared(), now);
        values.sort_unstable_by_key(|seen| seen.index);
        Self { owners, values }
    }

    /// What to tell somebody who saw `self`, if this is how it is now.
    pub(crate) fn diff(&self, now: &Self, session: &Session) -> Vec<ChangeEvent> {
        let schema = &session.shared().node.config.schema;
        let mut told = Vec::new();
        let same = self.owners.iter().map(|owner| owner.key).eq(now.owners.iter().map(|owner| owner.key));
        // A session that comes to be on an anonymous handle voids nothing, and neither does what stays beside it.
        let stays = |owner: &SeenRecord| now.owners.iter().any(|other| other.key == owner.key);
        let renewed = !self.owners.iter().all(stays);
        if renewed {
            told.push(ChangeEvent::Renewed);
        }
        let mut pairs = self.owners.iter().zip(&now.owners).filter(|_| same);
        if let Some((_, after)) = pairs.find(|(before, after)| before.cleared != after.cleared) {
            told.push(ChangeEvent::Cleared { version: after.cleared });
        }
        let before: &[SeenValue] = if renewed { &[] } else { &self.values };
        let find = |values: &[SeenValue], index| values.iter().find(|seen| seen.index == index).copied();
        for &after in &now.values {
            let SeenValue { index, version, is_value, origin, .. } = after;
            let name = schema.get(index).name;
            match find(before, index) {
                Some(seen) if seen == after => {}
                None if !is_value => {}
                _ if is_value => told.push(ChangeEvent::Set { name, version, origin }),
                _ => told.push(ChangeEvent::Removed { name, version, origin }),
            }
        }
        for seen in before.iter().filter(|seen| seen.is_value && find(&now.values, seen.index).is_none()) {
            told.push(ChangeEvent::Expired { name: schema.get(seen.index).name });
        }
        let steps = |seen: &Self| seen.owners.iter().map(|owner| u64::from(owner.changes)).sum::<u64>();
        if same && steps(now) > steps(self) + 1 && !told.is_empty() {
            told.push(ChangeEvent::CaughtUp);
        }
        told
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
                let survey = Snapshot::of(session, now);
                queue.extend(seen.diff(&survey, session));
                *seen = survey;
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

/// Resolves when the session is over. See [`Session::closed`].
pub(crate) struct Closing(Wait);

impl Closing {
    pub(crate) fn new(session: Session) -> Self {
        read::mark_watched(session.shared());
        Self(Wait::new(session))
    }
}

impl Future for Closing {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.get_mut().0.poll(cx, |session, ended| {
            let now = session.shared().node.now();
            ended.or_else(|| close_reason(session)).map_or_else(|| Next::Idle(next_end(session, [], now)), Next::Item)
        })
    }
}
