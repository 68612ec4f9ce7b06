//! [`Wait`]: the wait of a future or a stream on a session, with a waker slot and a timer.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{
    error::CloseReason,
    node_clock::NodeClock,
    notify::{TimerWaker, WakerSlot},
    session::{Session, read},
    time::{Millis, Sleep},
    value::ValueIndex,
};

/// The timer of one waiting future: an expiry notifies no watcher by itself.
///
/// The timer notifies the slot rather than the task: a task that is woken for every write would poll the timer each
/// time.
#[derive(Default)]
struct DeadlineTimer {
    armed: Option<(Millis, Sleep)>,
    /// Set for a new deadline, and not polled since.
    needs_poll: bool,
    waker: Option<Arc<TimerWaker>>,
}

/// The longest sleep of a timer, since a step forward of the clock makes deadlines come earlier.
const AT_MOST: Duration = Duration::from_secs(3600);

impl DeadlineTimer {
    /// Sets the timer for no later than a deadline. A timer that is set for an earlier time stays: each use of a
    /// session moves its end out, and a needless look per lifetime costs less than a timer per use.
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

    /// Returns whether the deadline has come.
    fn poll(&mut self, slot: &WakerSlot) -> bool {
        let Some((_, sleep)) = &mut self.armed else { return false };
        let waker = self.waker.get_or_insert_with(|| slot.timer_waker());
        if !waker.take_fired() && !std::mem::take(&mut self.needs_poll) {
            return false;
        }
        let waker = Waker::from(Arc::clone(waker));
        let fired = sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if fired {
            self.armed = None;
        }
        fired
    }
}

/// The outcome of a look at the session.
pub(crate) enum Next<T> {
    /// An item, and perhaps more items.
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
    /// Whether all items were returned: the next look waits for a notification.
    drained: bool,
    /// The number of sessions that the handle had ended before the wait.
    own_ends: u32,
}

impl Wait {
    pub(crate) fn new(session: Session) -> Self {
        let slot = session.shared().subscribe();
        let own_ends = session.shared().own_ends();
        Self { session, slot, timer: DeadlineTimer::default(), drained: false, own_ends }
    }

    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    /// Runs `look` until there is an item, or until no item can come before the next notification or deadline.
    ///
    /// `look` gets the end as an argument if the handle itself has ended the session that the wait began with: the
    /// handle may be in another session by now.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&Session, Option<CloseReason>) -> Next<T>,
    ) -> Poll<T> {
        loop {
            let notified = self.slot.poll(cx).is_ready();
            if self.drained && !notified && !self.timer.poll(&self.slot) {
                return Poll::Pending;
            }
            let ended = self.session.shared().own_ends() != self.own_ends;
            let next = look(&self.session, ended.then_some(CloseReason::Destroyed));
            let (item, until) = match next {
                Next::Item(item) => {
                    self.drained = false;
                    return Poll::Ready(item);
                }
                Next::Last(item, until) => (Some(item), until),
                Next::Idle(until) => (None, until),
            };
            self.drained = true;
            self.timer.set(&self.session.shared().node.time, until);
            if let Some(item) = item {
                return Poll::Ready(item);
            }
        }
    }
}

/// Returns the reason why a wait on the session ends now, if any.
pub(crate) fn close_reason(session: &Session) -> Option<CloseReason> {
    let shared = session.shared();
    shared.close_reason(shared.node.now()).or_else(|| shared.node.is_stopping().then_some(CloseReason::Shutdown))
}

/// Returns the next end of a session or of some of its values. An end after the time `now` of the look counts too: no
/// item has told of that end.
pub(crate) fn next_end(
    session: &Session,
    indexes: impl IntoIterator<Item = ValueIndex>,
    now: Millis,
) -> Option<Millis> {
    let shared = session.shared();
    read::ends(shared, now)
        .into_iter()
        .chain(indexes.into_iter().filter_map(|index| read::value_ends(shared, index, now)))
        .min()
}
