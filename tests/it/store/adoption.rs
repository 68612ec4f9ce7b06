//! A store that refuses the values that a sign-in adopts, or that answers while sessions end.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use layered_session::{
    Principal, SharedTier,
    testing::{Operation, SpyStore},
    tier::{Ask, Commit, CommitKind, Committed, Snapshot, Store, StoreFuture, StoredRecord, Touch, Version},
};
use tokio::sync::Semaphore;

use crate::{
    support::{App, Browser, Division, Theme, User, first_write, kind, settled, signed_in, ticking, under_way},
    writes::stored,
};

/// A spy store that finds each upsert outdated, or holds one read.
#[derive(Clone)]
struct SlowStore {
    spy: SpyStore,
    lose_upserts: bool,
    reads: Arc<AtomicUsize>,
    hold_at: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    upserts: Arc<AtomicUsize>,
}

impl SlowStore {
    fn new(lose_upserts: bool) -> Self {
        Self {
            spy: SpyStore::new(),
            lose_upserts,
            reads: Arc::default(),
            hold_at: Arc::new(AtomicUsize::new(usize::MAX)),
            gate: Arc::new(Semaphore::new(0)),
            upserts: Arc::default(),
        }
    }
}

impl fmt::Debug for SlowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slow")
    }
}

impl Store for SlowStore {
    fn name(&self) -> &'static str {
        "slow"
    }
    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        let at = self.reads.fetch_add(1, Ordering::SeqCst);
        StoreFuture::boxed(async move {
            if at == self.hold_at.load(Ordering::SeqCst) {
                let _permit = self.gate.acquire().await;
            }
            self.spy.read(asks).await
        })
    }
    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        if self.lose_upserts && matches!(commit.kind(), CommitKind::Upsert) {
            self.upserts.fetch_add(1, Ordering::SeqCst);
            return StoreFuture::ready(Ok(Committed::Outdated(StoredRecord::new(Version::ZERO))));
        }
        self.spy.commit(commit)
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        self.spy.touch(touches)
    }
}

#[tokio::test]
async fn sign_in_succeeds_despite_failed_adopt() {
    let store = SlowStore::new(true);
    let app = App::new();
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let mut browser = Browser::new();
    browser.visit(&node, async |session| session.set(Division(3)).await.unwrap()).await;
    let session = under_way(&browser, &node).await;
    let signed = ticking(&app.clock, session.sign_in(User("ada".into())).adopt::<Division>().into_future()).await;
    assert_eq!(session.principal(), Some(Principal::new("ada")));
    assert!(store.upserts.load(Ordering::SeqCst) > 32);
    assert_eq!(kind(signed), None);
}

// The visitor chooses again on another node, before the sign-in or while its end of the old session is on the way.
#[tokio::test]
async fn sign_in_adopts_choice_unseen_by_its_node() {
    for is_late in [false, true] {
        let (store, app) = stored();
        let browser = first_write(&app.node, Division(3)).await;
        let other = under_way(&browser, &app.start()).await;
        let session = under_way(&browser, &app.node).await;
        store.hold_requests(if is_late { Operation::End } else { Operation::Create });
        let choose = async {
            settled().await;
            other.set(Division(5)).await.unwrap();
            store.release();
        };
        let sign_in = session.sign_in(User("ada".into())).adopt::<Division>().into_future();
        assert_eq!(kind(futures_util::future::join(sign_in, choose).await.0), None);
        for node in [&app.node, &app.start()] {
            let ada = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
            assert_eq!(ada.get::<Division>(), Some(Division(5)), "late: {is_late}");
        }
    }
}

#[tokio::test]
async fn handle_signs_in_after_revocation_during_load() {
    let store = SlowStore::new(false);
    let app = App::with({
        let store = store.clone();
        move |sessions| sessions.tier(SharedTier::new(store.clone()))
    });
    let browser = signed_in(&app.node, "ada").await;
    let node = app.start();
    let base = store.reads.load(Ordering::SeqCst);
    // The end of all sessions and the load share the held read of the user, and the end begins the read: after the
    // answer the end goes on first.
    store.hold_at.store(base, Ordering::SeqCst);
    let ending = tokio::spawn({
        let sessions = node.sessions.clone();
        async move { sessions.end_all_sessions(Principal::new("ada")).await }
    });
    settled().await;
    let loading = tokio::spawn({
        let (browser, node) = (browser.clone(), node.clone());
        async move { under_way(&browser, &node).await }
    });
    settled().await;
    assert_eq!(store.reads.load(Ordering::SeqCst), base + 2, "the user's record and the session's");
    store.gate.add_permits(1);
    ending.await.unwrap().unwrap();
    let session = loading.await.unwrap();
    assert_eq!((session.principal(), session.get::<Theme>()), (None, None));
    assert_eq!(kind(session.sign_in(User("bob".into())).await), None);
    assert_eq!(session.principal(), Some(Principal::new("bob")));
}
