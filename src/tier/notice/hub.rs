//! [`NoticeHub`]: the notices of a store to the nodes of this process.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use futures_core::Stream;

use super::{Notice, NoticeStream};
use crate::{
    sync::Mutex,
    tier::{Commit, CommitKind, Committed, StoredRecord},
};

/// The maximum number of notices that wait for one subscriber.
const ROOM: usize = 1024;

/// Brings the notices of a store to all subscribers in this process. Clones are the same hub.
///
/// Each stream begins with [`Notice::Up`]. A subscriber that reads too slowly loses notices, and gets
/// [`Notice::Down`] and [`Notice::Up`] in their place, so that the subscriber knows of the loss.
#[derive(Clone, Default)]
pub(crate) struct NoticeHub(Arc<Mutex<Vec<Weak<Mutex<Inbox>>>>>);

#[derive(Default)]
struct Inbox {
    waiting: VecDeque<Notice>,
    reader: Option<Waker>,
}

impl Notice {
    /// Returns the notice of a commit, or `None` if the commit changed nothing. `record` is the record after the commit.
    pub(crate) fn of(commit: Commit<'_>, committed: &Committed, record: Option<&StoredRecord>) -> Option<Self> {
        let is_end = matches!(commit.kind, CommitKind::End { .. });
        let has_changed = match committed {
            Committed::Applied { .. } | Committed::Retired(_) => true,
            Committed::Absent => is_end,
            Committed::Outdated(_) | Committed::Ended(_) => false,
        };
        let known = record.filter(|_| has_changed)?.known();
        Some(Self::Changed { owner: commit.owner, known, node: commit.node })
    }
}

impl NoticeHub {
    pub(crate) fn subscribe(&self) -> NoticeStream {
        let inbox = Arc::<Mutex<Inbox>>::default();
        inbox.lock().waiting.push_back(Notice::Up);
        self.0.lock().push(Arc::downgrade(&inbox));
        Box::pin(Subscription(inbox))
    }

    pub(crate) fn send(&self, notice: Notice) {
        let mut readers = Vec::new();
        self.0.lock().retain(|subscriber| {
            let Some(inbox) = subscriber.upgrade() else { return false };
            let mut inbox = inbox.lock();
            if inbox.waiting.len() < ROOM {
                inbox.waiting.push_back(notice);
            } else {
                inbox.waiting = [Notice::Down, Notice::Up].into();
            }
            readers.extend(inbox.reader.take());
            true
        });
        // Without a lock: a waker runs code of the application's runtime.
        readers.into_iter().for_each(Waker::wake);
    }
}

struct Subscription(Arc<Mutex<Inbox>>);

impl Stream for Subscription {
    type Item = Notice;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        let mut inbox = self.0.lock();
        match inbox.waiting.pop_front() {
            Some(notice) => Poll::Ready(Some(notice)),
            None => {
                inbox.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        task::Wake,
    };

    use futures_util::{FutureExt, StreamExt};

    use super::*;
    use crate::{
        tier::{Known, NodeId, OwnerId},
        version::Version,
    };

    fn changed(number: u64) -> Notice {
        let known = Known::new(Version::ZERO, Version::from_u64(number));
        Notice::Changed { owner: OwnerId::from_hash([7; 32]), known, node: NodeId::from_u64(1) }
    }

    fn told(stream: &mut NoticeStream) -> Vec<Notice> {
        std::iter::from_fn(|| stream.next().now_or_never().flatten()).collect()
    }

    #[test]
    fn subscriber_gets_later_notices() {
        let hub = NoticeHub::default();
        hub.send(changed(1));
        let mut stream = hub.subscribe();
        hub.clone().send(changed(2));
        assert_eq!(told(&mut stream), [Notice::Up, changed(2)]);
        hub.send(changed(3));
        assert_eq!(told(&mut stream), [changed(3)]);
    }

    #[test]
    fn slow_subscriber_learns_of_lost_notices() {
        let hub = NoticeHub::default();
        let (mut slow, mut quick) = (hub.subscribe(), hub.subscribe());
        for number in 0..=ROOM as u64 {
            hub.send(changed(number));
            assert_eq!(told(&mut quick).last(), Some(&changed(number)));
        }
        // `Up` took a place, so the last two notices found no room; the last of them came after the loss.
        assert_eq!(told(&mut slow), [Notice::Down, Notice::Up, changed(ROOM as u64)]);
    }

    #[test]
    fn waiting_subscriber_is_woken() {
        let hub = NoticeHub::default();
        let mut stream = hub.subscribe();
        told(&mut stream);
        let reader = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&reader));
        assert!(stream.as_mut().poll_next(&mut Context::from_waker(&waker)).is_pending());
        hub.send(changed(1));
        assert!(reader.0.load(Ordering::Relaxed));
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn dropped_subscriber_leaves_the_hub() {
        let hub = NoticeHub::default();
        drop(hub.subscribe());
        hub.send(changed(1));
        assert!(hub.0.lock().is_empty());
    }
}
