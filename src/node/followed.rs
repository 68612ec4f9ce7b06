//! The commits of other nodes, as far as this node follows them: the link of the store's notices, and the watched
//! records.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    id::RecordKey,
    memory::record::Record,
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU64, Ordering},
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

/// The state of a node that follows its store.
#[derive(Debug)]
pub(crate) struct Followed {
    link: AtomicU8,
    /// The last poll of the follower.
    polled: AtomicU64,
    /// The time at which notices last began to arrive. A read before this time proves nothing: the notice of a later
    /// change may be lost.
    since: AtomicU64,
    watched: Mutex<HashMap<RecordKey, Weak<Record>>>,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            link: AtomicU8::new(NoticeLink::None as u8),
            polled: AtomicU64::default(),
            since: AtomicU64::default(),
            watched: Mutex::default(),
        }
    }
}

impl Followed {
    pub(crate) fn link(&self, now: Millis) -> NoticeLink {
        let link = self.link.load(Ordering::Acquire);
        if link == NoticeLink::None as u8 {
            NoticeLink::None
        } else if link == NoticeLink::Up as u8 && now < Millis(self.polled.load(Ordering::Acquire)).after(UNPOLLED) {
            NoticeLink::Up
        } else {
            NoticeLink::Down
        }
    }

    /// Sets the link. Each read before an `Up` counts no longer.
    pub(crate) fn set_link(&self, link: NoticeLink, now: Millis) {
        if link == NoticeLink::Up {
            self.since.store(now.0, Ordering::Release);
        }
        self.link.store(link as u8, Ordering::Release);
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
        self.watched.lock().insert(*record.key(), Arc::downgrade(record));
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
