//! Notices between nodes: a watch sees the changes of other nodes at once, with the true reasons of ends.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{FutureExt, Stream};
use layered_session::{
    CloseReason, NoticeLink, Principal, SharedTier,
    testing::{ManualClock, Operation, SpyStore},
    tier::{Ask, Commit, Committed, Known, NodeId, Notice, NoticeStream, Snapshot, Store, StoreFuture, Touch, Version},
};
use tokio::task::JoinHandle;

use crate::{
    support::{App, DAY, Division, Node, Theme, dark, get, set, settled, signed_in, socket, soon, theme, under_way},
    writes::stored,
};

const SECOND: Duration = Duration::from_secs(1);

/// A second node of the application that follows the store.
pub(super) fn following(app: &App) -> (Node, JoinHandle<()>) {
    let node = app.start();
    let follower = tokio::spawn(node.sessions.follow());
    (node, follower)
}

#[tokio::test]
async fn watch_sees_remote_write_at_once() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    let (other, _follower) = following(&app);
    let mut watch = socket(&browser, &other).await.watch::<Theme>();
    assert_eq!(soon(watch.next()).await.unwrap(), dark());
    settled().await;
    assert_eq!(other.sessions.stats().notice_link, NoticeLink::Up);
    store.take_operations();
    set(&mut browser, &app.node, theme("light")).await;
    assert_eq!(soon(watch.next()).await.unwrap(), theme("light"));
    assert_eq!(store.take_operations(), [Operation::Update, Operation::Read]);
}

#[tokio::test]
async fn remote_end_closes_sockets_with_its_reason() {
    let (_, app) = stored();
    for reason in [CloseReason::Destroyed, CloseReason::Renewed, CloseReason::Revoked] {
        let mut browser = signed_in(&app.node, "ada").await;
        let (other, _follower) = following(&app);
        let live = socket(&browser, &other).await;
        let closed = tokio::spawn({
            let live = live.clone();
            async move { live.closed().await }
        });
        settled().await;
        match reason {
            CloseReason::Destroyed => browser.visit(&app.node, async |session| session.destroy().await.unwrap()).await,
            CloseReason::Renewed => browser.visit(&app.node, async |session| session.renew().await.unwrap()).await,
            _ => app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap(),
        }
        assert_eq!(soon(closed).await.unwrap(), reason);
        assert_eq!(live.get::<Theme>(), None);
    }
}

#[tokio::test]
async fn users_value_reaches_sockets_of_other_nodes() {
    let (_, app) = stored();
    let mut phone = signed_in(&app.node, "ada").await;
    let laptop = signed_in(&app.node, "ada").await;
    let (other, _follower) = following(&app);
    let mut watch = socket(&laptop, &other).await.watch::<Division>();
    assert_eq!(soon(watch.next()).await.unwrap(), Division(-1));
    settled().await;
    set(&mut phone, &app.node, Division(3)).await;
    assert_eq!(soon(watch.next()).await.unwrap(), Division(3));
}

// A node leaves out the notices of its own commits, and a changed record without a handle waits for the next load.
#[tokio::test]
async fn notices_cause_no_needless_reads() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    let _own = tokio::spawn(app.node.sessions.follow());
    let (other, _follower) = following(&app);
    settled().await;
    // A read in the millisecond in which notices begin proves nothing.
    app.pass(SECOND / 1000);
    for node in [&app.node, &other] {
        assert_eq!(browser.theme(node).await, dark());
    }
    settled().await;
    store.take_operations();
    set(&mut browser, &app.node, theme("light")).await;
    settled().await;
    assert_eq!(store.take_operations(), [Operation::Update]);
    assert_eq!(get::<Theme>(&mut browser.clone(), &app.node).await, theme("light"));
    assert_eq!(store.take_operations(), []);
    assert_eq!(browser.theme(&other).await, theme("light"));
    assert_eq!(store.take_operations(), [Operation::Read]);
}

#[tokio::test]
async fn many_notices_make_one_more_read() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    let (other, _follower) = following(&app);
    let mut watch = socket(&browser, &other).await.watch::<Theme>();
    assert_eq!(soon(watch.next()).await.unwrap(), dark());
    settled().await;
    store.take_operations();
    store.hold_answers(Operation::Read);
    for _ in 0..20 {
        set(&mut browser, &app.node, theme("light")).await;
        settled().await;
    }
    set(&mut browser, &app.node, theme("drab")).await;
    settled().await;
    store.release();
    assert_eq!(soon(watch.next()).await.unwrap(), theme("drab"));
    settled().await;
    let reads = store.take_operations().into_iter().filter(|operation| *operation == Operation::Read).count();
    assert_eq!(reads, 2);
}

/// A store whose notices the test gives.
#[derive(Clone, Debug)]
struct Scripted(SpyStore, Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    notices: Vec<Notice>,
    reader: Option<Waker>,
    /// The reads of records that the node has, which the store answers in short if the record is unchanged.
    probes: usize,
}

struct Script(Arc<Mutex<Told>>);

impl Stream for Script {
    type Item = Notice;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        let mut told = self.0.lock().unwrap();
        if told.notices.is_empty() {
            told.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(told.notices.remove(0)))
    }
}

impl Scripted {
    async fn tell(&self, notice: Notice) {
        let reader = {
            let mut told = self.1.lock().unwrap();
            told.notices.push(notice);
            told.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
        settled().await;
    }
}

impl Store for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        self.1.lock().unwrap().probes += asks.iter().filter(|ask| ask.known().is_some()).count();
        self.0.read(asks)
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        self.0.commit(commit)
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        self.0.touch(touches)
    }

    fn notices(&self) -> Option<NoticeStream> {
        Some(Box::pin(Script(Arc::clone(&self.1))))
    }
}

fn scripted() -> (Scripted, App) {
    let store = Scripted(SpyStore::new(), Arc::default());
    let tier = store.clone();
    (store, App::with(move |sessions| sessions.tier(SharedTier::new(tier.clone()))))
}

// G18: while notices are lost, memory answers for a second after a read of the store.
#[tokio::test]
async fn lost_notices_shorten_what_memory_answers() {
    let (store, app) = scripted();
    let browser = app.dark().await;
    let (other, follower) = following(&app);
    store.tell(Notice::Up).await;
    let reads = async |passes: Duration| {
        app.pass(passes);
        settled().await;
        store.0.take_operations();
        let _ = browser.theme(&other).await;
        store.0.take_operations().len()
    };
    assert_eq!(reads(SECOND / 1000).await, 1);
    assert_eq!(reads(2 * SECOND).await, 0);
    store.tell(Notice::Down).await;
    assert_eq!(other.sessions.stats().notice_link, NoticeLink::Down);
    assert_eq!(reads(2 * SECOND).await, 1);
    assert_eq!(reads(SECOND / 2).await, 0);
    assert_eq!(reads(SECOND).await, 1);
    app.pass(SECOND / 10);
    store.tell(Notice::Up).await;
    assert_eq!(reads(SECOND / 1000).await, 1, "notices were lost before");
    assert_eq!(reads(2 * SECOND).await, 0);
    follower.abort();
    let _ = follower.await;
    assert_eq!(other.sessions.stats().notice_link, NoticeLink::Down);
    assert_eq!(reads(SECOND).await, 1);
}

#[tokio::test]
async fn watched_records_are_read_after_lost_notices() {
    let (store, app) = scripted();
    let mut browser = app.dark().await;
    let (other, _follower) = following(&app);
    store.tell(Notice::Up).await;
    let mut watch = socket(&browser, &other).await.watch::<Theme>();
    assert_eq!(soon(watch.next()).await.unwrap(), dark());
    store.tell(Notice::Down).await;
    set(&mut browser, &app.node, theme("light")).await;
    assert!(watch.next().now_or_never().is_none());
    store.tell(Notice::Up).await;
    assert_eq!(soon(watch.next()).await.unwrap(), theme("light"));
}

// Without notices the follower still reads watched records every 30 seconds.
#[tokio::test]
async fn follower_reads_watched_records_without_notices() {
    let (store, app) = scripted();
    let mut browser = app.dark().await;
    let (other, _follower) = following(&app);
    store.tell(Notice::Up).await;
    let live = socket(&browser, &other).await;
    let closed = tokio::spawn(async move { live.closed().await });
    settled().await;
    browser.visit(&app.node, async |session| session.destroy().await.unwrap()).await;
    for _ in 0..31 {
        app.pass(SECOND);
        settled().await;
    }
    assert_eq!(soon(closed).await.unwrap(), CloseReason::Destroyed);
}

#[tokio::test]
async fn follower_ends_at_shutdown_and_without_a_store() {
    let (_, app) = stored();
    let follower = tokio::spawn(app.node.sessions.follow());
    settled().await;
    app.node.sessions.shutdown();
    soon(follower).await.unwrap();
    assert_eq!(App::new().node.sessions.follow().now_or_never(), Some(()));
}

// R5: a follower's reads are no use of the session.
#[tokio::test]
async fn followed_socket_idles_out() {
    let clock = ManualClock::new();
    let store = SpyStore::new().expire_by(clock.clone());
    let app =
        App::with(move |sessions| sessions.idle(900 * SECOND).absolute(30 * DAY).tier(SharedTier::new(store.clone())));
    let browser = app.dark().await;
    let (other, _follower) = following(&app);
    let live = socket(&browser, &other).await;
    let mut closed = tokio::spawn(async move { live.closed().await });
    for _ in 0..40 {
        app.pass(60 * SECOND);
        clock.advance(60 * SECOND);
        settled().await;
    }
    assert_eq!((&mut closed).now_or_never().map(Result::unwrap), Some(CloseReason::Expired));
}

// G18: the notice comes while a load reads the record for the first time.
#[tokio::test]
async fn notice_during_first_load_is_not_lost() {
    let (store, app) = stored();
    let browser = app.dark().await;
    let (other, _follower) = following(&app);
    settled().await;
    // A read in the millisecond in which notices begin proves nothing.
    app.pass(SECOND / 1000);
    store.hold_answers(Operation::Read);
    let load = tokio::spawn({
        let (browser, other) = (browser.clone(), other.clone());
        async move { browser.theme(&other).await }
    });
    settled().await;
    // The cookie of the first browser stays as it was, and brings no newer value.
    set(&mut browser.clone(), &app.node, theme("light")).await;
    settled().await;
    store.release();
    let _ = load.await.unwrap();
    settled().await;
    assert_eq!(browser.theme(&other).await, theme("light"));
}

// A probe of a changed record would be one more round trip before the read.
#[tokio::test]
async fn changed_record_is_read_without_a_probe() {
    let (store, app) = scripted();
    let mut browser = app.dark().await;
    let (other, _follower) = following(&app);
    store.tell(Notice::Up).await;
    let mut watch = socket(&browser, &other).await.watch::<Theme>();
    assert_eq!(soon(watch.next()).await.unwrap(), dark());
    let owner = store.0.take_calls()[0].owner();
    for theme in [theme("light"), theme("drab")] {
        set(&mut browser, &app.node, theme.clone()).await;
        store.1.lock().unwrap().probes = 0;
        let known = Known::new(Version::ZERO, Version::ZERO);
        store.tell(Notice::Changed { owner, known, node: NodeId::from_u64(1) }).await;
        assert_eq!(soon(watch.next()).await.unwrap(), theme);
        assert_eq!(store.1.lock().unwrap().probes, 0);
    }
}

// G18: a read that fails after a notice is repeated.
#[tokio::test]
async fn failed_read_after_notice_is_repeated() {
    let (store, app) = scripted();
    let mut browser = app.dark().await;
    let (other, _follower) = following(&app);
    store.tell(Notice::Up).await;
    // A read in the millisecond in which notices begin proves nothing.
    app.pass(SECOND / 1000);
    let mut watch = socket(&browser, &other).await.watch::<Theme>();
    assert_eq!(soon(watch.next()).await.unwrap(), dark());
    settled().await;
    let owner = store.0.take_calls()[0].owner();
    set(&mut browser, &app.node, theme("light")).await;
    store.0.fail();
    let known = Known::new(Version::ZERO, Version::ZERO);
    store.tell(Notice::Changed { owner, known, node: NodeId::from_u64(1) }).await;
    store.0.heal();
    app.pass(SECOND);
    assert_eq!(soon(watch.next()).await.unwrap(), theme("light"));
}

// G12: a follower reads the old id between the end in the store and the end in memory, and the renewal still succeeds.
#[tokio::test]
async fn follower_disturbs_no_renewal_of_its_node() {
    let (store, app) = scripted();
    let browser = signed_in(&app.node, "ada").await;
    let _follower = tokio::spawn(app.node.sessions.follow());
    store.tell(Notice::Up).await;
    let live = under_way(&browser, &app.node).await;
    let closed = live.closed();
    store.0.take_calls();
    store.0.hold_answers(Operation::End);
    let renewing = tokio::spawn({
        let live = live.clone();
        async move { live.renew().await }
    });
    settled().await;
    let old = store.0.take_calls().iter().find(|call| call.operation() == Operation::End).unwrap().owner();
    let known = Known::new(Version::ZERO, Version::ZERO);
    store.tell(Notice::Changed { owner: old, known, node: NodeId::from_u64(1) }).await;
    assert!(store.0.take_operations().contains(&Operation::Read), "the follower has read the ended record");
    store.0.release();
    soon(renewing).await.unwrap().unwrap();
    assert!(live.principal().is_some());
    assert!(closed.now_or_never().is_none());
}
