//! The follower of a shared store's notices: reads the watched records that other nodes have changed.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt},
};

use super::shared::{Binding, RequestToken, SessionShared};
use crate::{
    error::CloseReason,
    id::{OwnerId, RecordKey},
    memory::{SessionLookup, record::Record},
    node::Node,
    notify::{HandleWakers, yield_now},
    record::state::Kind,
    tier::{Notice, NoticeStream, Snapshot},
    time::Millis,
    value::Scope,
};

/// The maximum number of reads at the same time.
const MAX_READS: usize = 64;

/// The time between two looks at the watched records.
const TICK: Duration = Duration::from_secs(1);

/// Follows the store's notices until the shutdown of the node, which wakes `shutdown`.
pub(crate) async fn run(node: Arc<Node>, shutdown: Arc<HandleWakers>) {
    let Some(store) = &node.store else { return };
    let mut notices = store.notices();
    let mut link = Link { node: &node, has_notices: notices.is_some(), is_up: false };
    let slot = shutdown.register();
    let mut queue = ReadQueue::default();
    let mut reads: FuturesUnordered<Task> = FuturesUnordered::new();
    let mut tick = node.time.clock.sleep(Duration::ZERO);
    let mut turns = 0_u8;
    while !node.is_stopping() {
        turns = turns.wrapping_add(1);
        // Answers that are ready at once must not keep the task from its runtime.
        if turns.is_multiple_of(64) {
            yield_now().await;
        }
        let event = poll_fn(|cx| {
            if slot.poll(cx).is_ready() {
                // Polled again for the next wake-up.
                cx.waker().wake_by_ref();
                return Poll::Ready(Event::Woken);
            }
            if let Poll::Ready(Some(record)) = reads.poll_next_unpin(cx) {
                return Poll::Ready(Event::Read(record));
            }
            if let Poll::Ready(notice) = poll_notice(&mut notices, cx) {
                return Poll::Ready(notice);
            }
            tick.as_mut().poll(cx).map(|()| Event::Tick)
        })
        .await;
        let now = node.now();
        node.followed.note_poll(now);
        match event {
            Event::Woken => {}
            Event::Notice(notice) => take_notice(&mut link, notice, &mut queue, now),
            Event::Read(record) => record.into_iter().for_each(|record| queue.finish(record)),
            Event::Tick => {
                tick = node.time.clock.sleep(TICK);
                let stale = node.followed.watched().into_iter().filter(|record| !node.vouches(record, now));
                stale.for_each(|record| queue.push(record));
                if node.followed.takes_rewind() {
                    let node = Arc::clone(&node);
                    reads.push(Box::pin(async move {
                        if let Some(store) = node.store() {
                            store.repeat_ends(now).await;
                        }
                        None
                    }));
                }
            }
        }
        while reads.len() < MAX_READS
            && let Some(record) = queue.pop()
        {
            let node = Arc::clone(&node);
            reads.push(Box::pin(async move {
                // The code of a value's type may panic. The record stays suspect.
                let _ = AssertUnwindSafe(revalidate(&node, &record)).catch_unwind().await;
                Some(record)
            }));
        }
    }
}

/// A read of a record, with the record as its output, or the repetition of ends.
type Task = Pin<Box<dyn Future<Output = Option<Arc<Record>>> + Send>>;

enum Event {
    Woken,
    Notice(Notice),
    /// A read of a record has ended, or the repetition of ends.
    Read(Option<Arc<Record>>),
    Tick,
}

fn poll_notice(notices: &mut Option<NoticeStream>, cx: &mut std::task::Context<'_>) -> Poll<Event> {
    let Some(stream) = notices else { return Poll::Pending };
    stream.as_mut().poll_next(cx).map(|notice| {
        let lost = notice.is_none();
        if lost {
            *notices = None;
        }
        Event::Notice(notice.unwrap_or(Notice::Down))
    })
}

/// The link of one follower. The link goes down when the follower stops.
struct Link<'a> {
    node: &'a Node,
    has_notices: bool,
    is_up: bool,
}

impl Link<'_> {
    fn up(&mut self, now: Millis) {
        if !std::mem::replace(&mut self.is_up, true) {
            self.node.followed.note_up(now);
        }
    }

    fn down(&mut self) {
        let was_up = std::mem::replace(&mut self.is_up, false);
        self.node.followed.note_down(was_up);
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        if self.has_notices {
            self.down();
        }
    }
}

fn take_notice(link: &mut Link<'_>, notice: Notice, queue: &mut ReadQueue, now: Millis) {
    let node = link.node;
    match notice {
        Notice::Up => {
            link.up(now);
            // A read from before proves nothing.
            if let Some(store) = node.store() {
                store.forget_reads();
            }
            // Notices were lost before, also notices of watched records.
            node.followed.watched().into_iter().for_each(|record| queue.push(record));
        }
        Notice::Down => link.down(),
        Notice::Changed { node: by, .. } if by == node.id() => {}
        Notice::Changed { owner, known, .. } => {
            // Before the look-up: a load that has not yet listed its record finds the count changed.
            node.followed.count_notice(&owner);
            if let Some(store) = node.store() {
                store.forget_absent(&owner);
            }
            let Some(record) = find(node, &owner, now) else { return };
            if record.knows(known) {
                return;
            }
            let sync = record.extras().sync();
            // A probe of the changed record would be one more round trip.
            sync.forget_known();
            // Also for a record to read: the read may fail.
            sync.suspect();
            if node.memory.as_ref().is_some_and(|memory| memory.is_held(&record)) {
                queue.push(record);
            }
        }
    }
}

/// Returns the record of an owner, if memory has the record.
fn find(node: &Node, owner: &OwnerId, now: Millis) -> Option<Arc<Record>> {
    let memory = node.memory.as_ref()?;
    let Some(key) = memory.owners.session_of(owner) else { return memory.principal(&RecordKey(*owner.as_bytes())) };
    match memory.session(&key, now) {
        SessionLookup::Live(record) => Some(record),
        SessionLookup::Ended(_) | SessionLookup::Unknown => None,
    }
}

/// Reads a record from the store, and merges the answer: changes wake the watches.
async fn revalidate(node: &Arc<Node>, record: &Arc<Record>) {
    let (Some(store), now) = (node.store(), node.now()) else { return };
    // A session that seems idle has closed its watches, and the next load asks the store.
    if record.closed(now).is_some() {
        return;
    }
    let (owner, scope) = match &record.read().kind {
        Kind::Session { .. } => (node.config.owner(&record.id()), Scope::Session),
        Kind::Principal(_) => (OwnerId::from_hash(record.key().0), Scope::Principal),
        Kind::Ended(_) => return,
    };
    let reading = node.begin_read(Some(record), &owner);
    // After a failure memory does not vouch for the record, so the next tick reads again.
    let Ok(snapshot) = store.read(owner, reading.known()).await else { return };
    // A renewal or a sign-in of this node ends the record in the store first, and in memory last.
    let Ok(gate) = record.extras().renew_gate().try_read() else {
        record.extras().sync().suspect();
        return;
    };
    let handle =
        || SessionShared::new(Arc::clone(node), Binding::Live(Arc::clone(record)), RequestToken::default(), false);
    match (scope, snapshot) {
        (Scope::Session, Snapshot::Absent) if node.restores() => {
            record.extras().sync().owe();
            drop(gate);
            let _ = store.pay_debt(record, now).await;
        }
        (Scope::Session, Snapshot::Absent) => {
            let _ = handle().end(record, CloseReason::Destroyed, now);
        }
        (Scope::Session, Snapshot::Ended(end)) => {
            handle().end_as_stored(record, &end, now);
        }
        (scope, snapshot) => {
            node.merge_answer(record, (reading, snapshot), scope, now);
            node.account(record, now);
            drop(gate);
            let _ = store.pay_debt(record, now).await;
            // Sockets use the session without a load. A use that the span in the store proves may be a tenth later than
            // the told use, and is no use of this node: told again, it would keep the session for ever.
            store.touch(&[(owner, record)], record.used().before(Duration::from_millis(1))).await;
        }
    }
}

/// The records to read, each once: a notice during a read makes one more read.
#[derive(Default)]
struct ReadQueue {
    waiting: VecDeque<Arc<Record>>,
    /// By the address of the record: in a chain without memory several records have the same key.
    states: HashMap<usize, ReadState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadState {
    Waiting,
    Reading,
    ReadingOutdated,
}

fn address(record: &Arc<Record>) -> usize {
    Arc::as_ptr(record).addr()
}

impl ReadQueue {
    fn push(&mut self, record: Arc<Record>) {
        match self.states.get_mut(&address(&record)) {
            None => {
                self.states.insert(address(&record), ReadState::Waiting);
                self.waiting.push_back(record);
            }
            Some(state @ ReadState::Reading) => *state = ReadState::ReadingOutdated,
            Some(ReadState::Waiting | ReadState::ReadingOutdated) => {}
        }
    }

    fn pop(&mut self) -> Option<Arc<Record>> {
        let record = self.waiting.pop_front()?;
        self.states.insert(address(&record), ReadState::Reading);
        Some(record)
    }

    fn finish(&mut self, record: Arc<Record>) {
        if self.states.remove(&address(&record)) == Some(ReadState::ReadingOutdated) {
            self.push(record);
        }
    }
}
