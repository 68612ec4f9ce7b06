//! The follower of a shared store's notices: reads the watched records that other nodes have changed.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::shared::{Binding, RequestToken, SessionShared};
use crate::{
    error::CloseReason,
    id::{OwnerId, RecordKey},
    memory::{
        SessionLookup,
        record::{Record, extras::StoreReading},
    },
    node::{Node, followed::NoticeLink},
    notify::HandleWakers,
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
    let _stopped = Stopped { node: &node, has_notices: notices.is_some() };
    let slot = shutdown.register();
    let mut queue = ReadQueue::default();
    let mut reads = FuturesUnordered::new();
    let mut tick = node.time.clock.sleep(Duration::ZERO);
    while !node.is_stopping() {
        let event = poll_fn(|cx| {
            if slot.poll(cx).is_ready() {
                // Polled again for the next wake-up.
                cx.waker().wake_by_ref();
                return Poll::Ready(Event::Woken);
            }
            if let Poll::Ready(notice) = poll_notice(&mut notices, cx) {
                return Poll::Ready(notice);
            }
            if let Poll::Ready(Some(record)) = reads.poll_next_unpin(cx) {
                return Poll::Ready(Event::Read(record));
            }
            tick.as_mut().poll(cx).map(|()| Event::Tick)
        })
        .await;
        let now = node.now();
        node.followed.note_poll(now);
        match event {
            Event::Woken => {}
            Event::Notice(notice) => take_notice(&node, notice, &mut queue, now),
            Event::Read(record) => queue.finish(record),
            Event::Tick => {
                tick = node.time.clock.sleep(TICK);
                let stale = node.followed.watched().into_iter().filter(|record| !node.vouches(record, now));
                stale.for_each(|record| queue.push(record));
            }
        }
        while reads.len() < MAX_READS
            && let Some(record) = queue.pop()
        {
            let node = Arc::clone(&node);
            reads.push(Box::pin(async move {
                revalidate(&node, &record).await;
                record
            }));
        }
    }
}

enum Event {
    Woken,
    Notice(Notice),
    Read(Arc<Record>),
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

/// Takes the link down when the follower stops.
struct Stopped<'a> {
    node: &'a Node,
    has_notices: bool,
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if self.has_notices {
            self.node.followed.set_link(NoticeLink::Down, self.node.now());
        }
    }
}

fn take_notice(node: &Node, notice: Notice, queue: &mut ReadQueue, now: Millis) {
    match notice {
        Notice::Up => {
            node.followed.set_link(NoticeLink::Up, now);
            // Notices were lost before, also notices of watched records.
            node.followed.watched().into_iter().for_each(|record| queue.push(record));
        }
        Notice::Down => node.followed.set_link(NoticeLink::Down, now),
        Notice::Changed { node: by, .. } if by == node.id() => {}
        Notice::Changed { owner, known, .. } => {
            if let Some(store) = node.store() {
                store.forget_absent(&owner);
            }
            let Some(record) = find(node, &owner, now) else { return };
            if record.knows(known) {
                return;
            }
            let is_held = node.memory.as_ref().is_none_or(|memory| memory.is_held(&record));
            if is_held {
                queue.push(record);
            } else {
                record.extras().sync().suspect();
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
    let (owner, scope) = match &record.read().kind {
        Kind::Session { .. } => (node.config.owner(&record.id()), Scope::Session),
        Kind::Principal(_) => (OwnerId::from_hash(record.key().0), Scope::Principal),
        Kind::Ended(_) => return,
    };
    let reading = StoreReading::begin(Some(record));
    // After a failure memory does not vouch for the record, so the next tick reads again.
    let Ok(snapshot) = store.read(owner, reading.known).await else { return };
    let handle =
        || SessionShared::new(Arc::clone(node), Binding::Live(Arc::clone(record)), RequestToken::default(), false);
    match (scope, snapshot) {
        (Scope::Session, Snapshot::Absent) => {
            let _ = handle().end(record, CloseReason::Destroyed, now);
        }
        (Scope::Session, Snapshot::Ended(end)) => {
            handle().end_as_stored(record, &end, now);
        }
        (scope, snapshot) => {
            node.merge_answer(record, (reading, snapshot), scope, now);
            node.account(record, now);
            // Sockets use the session without a load.
            store.touch(&[(owner, record)], record.used()).await;
        }
    }
}

/// The records to read, each once: a notice during a read makes one more read.
#[derive(Default)]
struct ReadQueue {
    waiting: VecDeque<Arc<Record>>,
    states: HashMap<RecordKey, ReadState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadState {
    Waiting,
    Reading,
    ReadingOutdated,
}

impl ReadQueue {
    fn push(&mut self, record: Arc<Record>) {
        match self.states.get_mut(record.key()) {
            None => {
                self.states.insert(*record.key(), ReadState::Waiting);
                self.waiting.push_back(record);
            }
            Some(state @ ReadState::Reading) => *state = ReadState::ReadingOutdated,
            Some(ReadState::Waiting | ReadState::ReadingOutdated) => {}
        }
    }

    fn pop(&mut self) -> Option<Arc<Record>> {
        let record = self.waiting.pop_front()?;
        self.states.insert(*record.key(), ReadState::Reading);
        Some(record)
    }

    fn finish(&mut self, record: Arc<Record>) {
        if self.states.remove(record.key()) == Some(ReadState::ReadingOutdated) {
            self.push(record);
        }
    }
}
