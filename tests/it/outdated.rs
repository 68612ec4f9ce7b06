//! A store may only ever compare: then it finds outdated what replaces nothing, too.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use layered_session::{
    Principal, WriteErrorKind,
    testing::SpyStore,
    tier::{Commit, Committed, Found, Lookup, Role, Tier, TierFuture},
};

use crate::{
    app::{App, under_way},
    world::{Browser, Theme, User, Visits},
};

/// A store that finds every write outdated, so many times in a row.
#[derive(Clone, Debug)]
struct Comparing {
    store: SpyStore,
    left: Arc<AtomicUsize>,
}

impl Comparing {
    fn new(times: usize) -> Self {
        Self { store: SpyStore::new(), left: Arc::new(AtomicUsize::new(times)) }
    }

    fn again(&self, times: usize) {
        self.left.store(times, Ordering::Relaxed);
    }
}

impl Tier for Comparing {
    fn name(&self) -> &'static str {
        "comparing"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        self.store.read(lookup)
    }

    fn write<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        match self.left.load(Ordering::Relaxed).checked_sub(1) {
            None => self.store.write(commit),
            Some(left) => {
                self.left.store(left, Ordering::Relaxed);
                TierFuture::ready(Ok(Committed::Outdated(Found::nothing())))
            }
        }
    }
}

#[tokio::test]
async fn a_fresh_write_is_tried_as_often_as_an_update() {
    let store = Comparing::new(31);
    let node = App::new().node_with(|sessions| sessions.tier(store.clone()));
    let session = Browser::new().visit(&node, async |session| session).await;
    session.set(Theme("dark".into())).await.unwrap();
    store.again(31);
    session.batch().set(Theme("light".into())).set(Visits(1)).commit().await.unwrap();
    store.again(31);
    session.clear().await.unwrap();
    assert_eq!((session.get::<Theme>(), session.get::<Visits>()), (None, None));

    let session = under_way(&Browser::new(), &node).await;
    store.again(31);
    session.sign_in(User("ada".into())).await.unwrap();
    assert_eq!(session.principal(), Some(Principal::new("ada")));
}

#[tokio::test]
async fn and_is_said_to_have_lost_so_often_only_where_it_has() {
    let store = Comparing::new(1000);
    let node = App::new().node_with(|sessions| sessions.tier(store.clone()));
    let session = under_way(&Browser::new(), &node).await;
    for tried in 1..4 {
        let error = match tried {
            1 => session.set(Theme("dark".into())).await.unwrap_err(),
            2 => session.batch().set(Theme("dark".into())).commit().await.unwrap_err(),
            _ => session.sign_in(User("ada".into())).await.unwrap_err(),
        };
        assert_eq!(error.kind(), WriteErrorKind::Contended, "{error}");
        assert_eq!(store.left.load(Ordering::Relaxed), 1000 - 32 * tried);
    }
    // No session's: that the user has nothing in the store is remembered.
    assert_eq!(node.sessions.stats().records, 1);
}
