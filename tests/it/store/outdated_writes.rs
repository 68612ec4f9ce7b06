//! A store that finds writes outdated: a write is repeated for a second, also a write that reads no value.

use layered_session::{
    Clock, Principal, SharedTier, WriteErrorKind,
    testing::SpyStore,
    tier::{Ask, Commit, Committed, Snapshot, Store, StoreFuture, Touch},
};

use crate::support::{App, Browser, Node, Theme, User, Visits, kind, set, ticking, under_way};

/// A store on the other side of a network: each commit waits for its turn.
#[derive(Clone, Debug)]
struct Remote(SpyStore);

impl Store for Remote {
    fn name(&self) -> &'static str {
        "remote"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        self.0.read(asks)
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::boxed(async move {
            tokio::task::yield_now().await;
            let committed = self.0.commit(commit).await;
            tokio::task::yield_now().await;
            committed
        })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        self.0.touch(touches)
    }
}

fn stored() -> (SpyStore, App) {
    let store = SpyStore::new();
    let tier = Remote(store.clone());
    (store, App::with(move |sessions| sessions.tier(SharedTier::new(tier.clone()))))
}

#[tokio::test]
async fn plain_writes_retry_when_outdated() {
    let (store, app) = stored();
    store.outdate(31);
    let session = Browser::new().visit(&app.node, async |session| session).await;
    ticking(&app.clock, session.set(Theme("dark".into()))).await.unwrap();
    store.outdate(31);
    ticking(&app.clock, session.batch().set(Theme("light".into())).set(Visits(1)).commit()).await.unwrap();
    store.outdate(31);
    ticking(&app.clock, session.clear()).await.unwrap();
    assert_eq!((session.get::<Theme>(), session.get::<Visits>()), (None, None));

    let session = under_way(&Browser::new(), &app.node).await;
    store.outdate(31);
    ticking(&app.clock, session.sign_in(User("ada".into())).into_future()).await.unwrap();
    assert_eq!(session.principal(), Some(Principal::new("ada")));
}

#[tokio::test]
async fn write_fails_after_129_losses() {
    let (store, app) = stored();
    let session = under_way(&Browser::new(), &app.node).await;
    for tried in 1..4 {
        store.outdate(1000);
        let begun = app.clock.monotonic();
        let write = async {
            match tried {
                1 => session.set(Theme("dark".into())).await.unwrap_err(),
                2 => session.batch().set(Theme("dark".into())).commit().await.unwrap_err(),
                _ => session.sign_in(User("ada".into())).await.unwrap_err(),
            }
        };
        let error = ticking(&app.clock, write).await;
        assert_eq!(error.kind(), WriteErrorKind::Contended, "{error}");
        assert_eq!(store.left_to_outdate(), 1000 - 129);
        let took = app.clock.monotonic() - begun;
        // 64 sleeps, nearly all of 0 to 32 ms.
        assert!((500..2048).contains(&took.as_millis()), "{took:?}");
    }
    // The one record is the user's: memory remembers that the store has nothing for the user.
    assert_eq!(app.node.sessions.stats().records, 1);
}

#[tokio::test]
async fn first_loss_is_repeated_at_once() {
    let (store, app) = stored();
    let session = under_way(&app.dark().await, &app.node).await;
    store.outdate(1);
    session.set(Visits(1)).await.unwrap();
    assert_eq!(store.left_to_outdate(), 0);
}

// G10: sixteen nodes, each with sixty-four updates of one counter.
#[tokio::test]
async fn contended_nodes_count_every_update() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    set(&mut browser, &app.node, Visits(0)).await;
    let nodes: Vec<Node> = (0..16).map(|_| app.start()).collect();
    store.take_calls();
    let updates = nodes.iter().map(|node| {
        let browser = browser.clone();
        async move {
            let session = under_way(&browser, node).await;
            for _ in 0..64 {
                assert_eq!(kind(session.update(|visits: &mut Visits| visits.0 += 1).await), None);
            }
        }
    });
    ticking(&app.clock, futures_util::future::join_all(updates)).await;
    let seen = browser.visit(&app.start(), async |session| session.value::<Visits>()).await;
    assert_eq!(seen, Visits(1024));
    let commits = store.take_calls().iter().filter(|call| call.kind().is_some()).count();
    assert!(commits < 2048, "{commits} commits for 1024 updates");
}
