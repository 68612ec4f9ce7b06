//! A store that finds writes outdated: a write is tried up to 32 times, also a write that reads no value.

use layered_session::{Principal, SharedTier, WriteErrorKind, testing::SpyStore};

use crate::support::{App, Browser, Theme, User, Visits, under_way};

#[tokio::test]
async fn plain_writes_retry_when_outdated() {
    let store = SpyStore::new();
    store.outdate(31);
    let node = App::new().start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let session = Browser::new().visit(&node, async |session| session).await;
    session.set(Theme("dark".into())).await.unwrap();
    store.outdate(31);
    session.batch().set(Theme("light".into())).set(Visits(1)).commit().await.unwrap();
    store.outdate(31);
    session.clear().await.unwrap();
    assert_eq!((session.get::<Theme>(), session.get::<Visits>()), (None, None));

    let session = under_way(&Browser::new(), &node).await;
    store.outdate(31);
    session.sign_in(User("ada".into())).await.unwrap();
    assert_eq!(session.principal(), Some(Principal::new("ada")));
}

#[tokio::test]
async fn write_fails_after_32_outdated_tries() {
    let store = SpyStore::new();
    store.outdate(1000);
    let node = App::new().start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let session = under_way(&Browser::new(), &node).await;
    for tried in 1..4 {
        let error = match tried {
            1 => session.set(Theme("dark".into())).await.unwrap_err(),
            2 => session.batch().set(Theme("dark".into())).commit().await.unwrap_err(),
            _ => session.sign_in(User("ada".into())).await.unwrap_err(),
        };
        assert_eq!(error.kind(), WriteErrorKind::Contended, "{error}");
        assert_eq!(store.left_to_outdate(), 1000 - 32 * tried);
    }
    // The one record is the user's: memory remembers that the store has nothing for the user.
    assert_eq!(node.sessions.stats().records, 1);
}
