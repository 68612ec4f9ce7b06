//! The commits of other nodes, as far as this node follows them: the link of the store's notices, and the watched
//! records.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    error::CloseReason,
    id::OwnerId,
    memory::record::Record,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Millis,
};

/// The time for which memory answers after a read of the store.
const VOUCHED: Duration = Duration::from_secs(30);

/// The time for which memory answers while notices are known to be lost.
const VOUCHED_WITHOUT_NOTICES: Duration = Duration::from_secs(1);

/// The time after which notices count as lost, if the application no longer polls the follower.
const UNPOLLED: Duration = Duration::from_secs(5);

/// Whether a node gets the notices of its shared store: see [`Sessions::follow`](crate::Sessions::follow).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoticeLink {
    /// The node has no shared store, the store gives no notices, or the application has never polled `follow`. Memory
    /// answers for 30 seconds after a read of the store.
    None,
    /// Notices arrive.
    Up,
    /// Notices are lost: the connection is down, or the application no longer polls `follow`. Memory answers for a
    /// second after a read of the store.
    Down,
}

/// The number of counts of notices. Owners share counts: a notice of another owner costs one more read at most.
const COUNTS: usize = 4096;

/// The state of a node that follows its store.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Whether a follower of notices has ever run.
    is_followed: AtomicBool,
    /// The followers whose notices arrive.
    up: AtomicUsize,
    /// The last poll of a follower.
    polled: AtomicU64,
    /// The time at which notices last began to arrive. A read before this time proves nothing: the notice of a later
    /// change may be lost.
    since: AtomicU64,
    /// The notices of other nodes, by a part of the owner.
    notices: Box<[AtomicU32]>,
    /// Whether the store has lost commits since the follower repeated the ends of sessions.
    has_rewound: AtomicBool,
    /// The ends of sessions that the store has taken from this node within [`REPEATED`], the oldest first.
    ends: Mutex<VecDeque<SentEnd>>,
    /// The watched records by address. In a chain without memory several records have the same key.
    watched: Mutex<HashMap<usize, Weak<Record>>>,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            is_followed: AtomicBool::default(),
            up: AtomicUsize::default(),
            polled: AtomicU64::default(),
            since: AtomicU64::default(),
            notices: (0..COUNTS).map(|_| AtomicU32::default()).collect(),
            has_rewound: AtomicBool::default(),
            ends: Mutex::default(),
            watched: Mutex::default(),
        }
    }
}

/// The time for which the follower repeats an end after a loss of the store. A replica is late by seconds.
const REPEATED: Duration = Duration::from_secs(60);

/// The maximum number of ends that the node keeps, of some 100 bytes each.
const MAX_ENDS: usize = 4096;

/// An end of a session that the store has taken from this node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentEnd {
    pub(crate) owner: OwnerId,
    pub(crate) reason: CloseReason,
    pub(crate) successor: Option<OwnerId>,
    pub(crate) at: Millis,
    pub(crate) until: Millis,
}

/// The number of notices for an owner when a read began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoticeCount {
    at: usize,
    count: u32,
}

impl Followed {
    pub(crate) fn link(&self, now: Millis) -> NoticeLink {
        let is_polled = now < Millis(self.polled.load(Ordering::Acquire)).after(UNPOLLED);
        match self.is_followed.load(Ordering::Acquire) {
            false => NoticeLink::None,
            true if self.up.load(Ordering::Acquire) > 0 && is_polled => NoticeLink::Up,
            true => NoticeLink::Down,
        }
    }

    /// Notes that the notices of a follower arrive from now on. Each read before counts no longer.
    pub(crate) fn note_up(&self, now: Millis) {
        self.since.fetch_max(now.0.saturating_add(1), Ordering::AcqRel);
        self.up.fetch_add(1, Ordering::AcqRel);
        self.is_followed.store(true, Ordering::Release);
    }

    /// Notes that the notices of a follower are lost.
    pub(crate) fn note_down(&self, was_up: bool) {
        if was_up {
            self.up.fetch_sub(1, Ordering::AcqRel);
        }
        self.is_followed.store(true, Ordering::Release);
    }

    /// Returns the number of notices for an owner. Take the number before a read of the store.
    pub(crate) fn notices_of(&self, owner: &OwnerId) -> NoticeCount {
        let [high, low, ..] = *owner.as_bytes();
        let at = usize::from(u16::from_be_bytes([high, low])) % COUNTS;
        NoticeCount { at, count: self.notices[at].load(Ordering::SeqCst) }
    }

    /// Counts a notice for an owner.
    pub(crate) fn count_notice(&self, owner: &OwnerId) {
        self.notices[self.notices_of(owner).at].fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a notice has come since the count.
    pub(crate) fn is_outdated(&self, before: NoticeCount) -> bool {
        self.notices[before.at].load(Ordering::SeqCst) != before.count
    }

    /// Notes that the store has lost commits.
    pub(crate) fn note_rewind(&self) {
        self.has_rewound.store(true, Ordering::Release);
    }

    /// Notes an end that the store has taken. Without a follower nothing repeats the end.
    pub(crate) fn note_end(&self, end: SentEnd) {
        if self.is_followed.load(Ordering::Acquire) {
            let mut ends = self.ends.lock();
            while ends.len() >= MAX_ENDS || ends.front().is_some_and(|first| end.at >= first.at.after(REPEATED)) {
                ends.pop_front();
            }
            ends.push_back(end);
        }
    }

    /// Returns the ends that the store has taken within [`REPEATED`].
    pub(crate) fn sent_ends(&self, now: Millis) -> Vec<SentEnd> {
        let ends = self.ends.lock();
        ends.iter().filter(|end| now < end.at.after(REPEATED)).copied().collect()
    }

    /// Whether the store has lost commits since the last call.
    pub(crate) fn takes_rewind(&self) -> bool {
        self.has_rewound.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn note_poll(&self, now: Millis) {
        self.polled.store(now.0, Ordering::Release);
    }

    /// Whether memory may answer for a record without a read of the store.
    pub(crate) fn vouches(&self, record: &Record, now: Millis) -> bool {
        let limit = match self.link(now) {
            NoticeLink::Down => VOUCHED_WITHOUT_NOTICES,
            NoticeLink::None | NoticeLink::Up => VOUCHED,
        };
        record.is_vouched(Millis(self.since.load(Ordering::Acquire)), limit, now)
    }

    /// Returns the span for which memory answers after a read of the store: short for a short idle lifetime, so that the
    /// store is told of uses in time.
    pub(crate) fn vouched_span(idle: Duration) -> Duration {
        VOUCHED.min(idle / 10)
    }

    /// Notes that a handle watches a record.
    pub(crate) fn watch(&self, record: &Arc<Record>) {
        let mut watched = self.watched.lock();
        // Without a follower nothing else drops the entries of records that are gone.
        if watched.len() == watched.capacity() {
            watched.retain(|_, record| record.strong_count() > 0);
            let living = watched.len();
            watched.reserve(living.max(16));
        }
        watched.insert(Arc::as_ptr(record).addr(), Arc::downgrade(record));
    }

    /// Returns the watched records.
    pub(crate) fn watched(&self) -> Vec<Arc<Record>> {
        let mut watched = Vec::new();
        let mut left = Vec::new();
        self.watched.lock().retain(|_, record| match record.upgrade() {
            Some(record) if record.is_watched() => {
                watched.push(record);
                true
            }
            record => {
                left.push(record);
                false
            }
        });
        // Outside of the lock: the last holder of a record drops its values.
        drop(left);
        watched
    }
}
