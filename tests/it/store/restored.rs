//! Sessions that the store has lost, in a chain that restores sessions from cookies and from memory.

use std::time::Duration;

use layered_session::{
    BuildErrorKind, CookieTier, KeyRing, Lifetime, MemoryTier, Sessions, SharedTier,
    testing::{ManualClock, Operation, SpyStore},
};

use super::eviction::Stock;
use crate::support::{
    Browser, DAY, Node, TICK, Theme, User, Visits, chain, cookie, dark, first_write, get, kind, memory, named, ring,
    set, settled, socket, ticking, under_way,
};

const VOUCHED: Duration = Duration::from_secs(30);

/// An application without users.
struct Shop {
    ring: KeyRing,
    clock: ManualClock,
    store: SpyStore,
}

impl Shop {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self { ring: ring(), store: SpyStore::new().expire_by(clock.clone()), clock }
    }

    fn start(&self) -> Node {
        let chain =
            chain(memory(), cookie(&self.ring), &self.clock).value::<Theme>().value::<Visits>().value::<Stock>();
        let store = SharedTier::new(self.store.clone()).restore_from_cookie();
        Node::new(chain.tier(store).build().unwrap())
    }
}

async fn values(browser: &Browser, node: &Node) -> (Theme, Visits, Stock) {
    browser.clone().visit(node, async |session| (session.value(), session.value(), session.value())).await
}

#[tokio::test]
async fn cookie_restores_a_lost_session() {
    let shop = Shop::new();
    let node = shop.start();
    let mut browser = first_write(&node, dark()).await;
    set(&mut browser, &node, Visits(2)).await;
    let old = browser.clone();
    set(&mut browser, &node, Visits(3)).await;
    set(&mut browser, &node, Stock(7)).await;
    shop.store.forget_records();
    let other = shop.start();
    shop.store.take_operations();
    assert_eq!(values(&browser, &other).await, (dark(), Visits(3), Stock(0)));
    assert_eq!(shop.store.take_operations(), [Operation::Read, Operation::Upsert]);
    // An older cookie reads the restored values.
    assert_eq!(values(&old, &shop.start()).await, (dark(), Visits(3), Stock(0)));
    // Memory has the values that no cookie carries.
    shop.clock.advance(VOUCHED);
    assert_eq!(values(&browser, &node).await, (dark(), Visits(3), Stock(7)));
    assert_eq!(values(&browser, &shop.start()).await, (dark(), Visits(3), Stock(7)));
}

// No request comes: the follower finds the loss.
#[tokio::test]
async fn follower_restores_a_lost_session() {
    let shop = Shop::new();
    let node = shop.start();
    let mut browser = first_write(&node, dark()).await;
    set(&mut browser, &node, Stock(7)).await;
    let live = socket(&browser, &node).await;
    let closed = tokio::spawn({
        let live = live.clone();
        async move { live.closed().await }
    });
    let follower = tokio::spawn(node.sessions.follow());
    settled().await;
    shop.store.forget_records();
    for _ in 0..32 {
        shop.clock.advance(Duration::from_secs(1));
        settled().await;
    }
    assert!(!closed.is_finished(), "the session lives on");
    follower.abort();
    assert_eq!(values(&browser, &shop.start()).await, (dark(), Visits(0), Stock(7)));
}

// The handle was loaded before the store lost the session.
#[tokio::test]
async fn writes_restore_a_lost_session() {
    let shop = Shop::new();
    let node = shop.start();
    let mut browser = first_write(&node, dark()).await;
    set(&mut browser, &node, Stock(7)).await;
    for act in 0..5 {
        let session = under_way(&browser, &node).await;
        shop.store.forget_records();
        let written = match act {
            0 => kind(session.set(Visits(1)).await),
            1 => kind(session.update(|visits: &mut Visits| visits.0 += 1).await),
            2 => kind(session.set_lifetime(Lifetime::new(DAY, 3 * DAY).unwrap()).await),
            3 => kind(session.remove::<Visits>().await),
            _ => kind(session.renew().await),
        };
        assert_eq!(written, None, "{act}");
        let visits = [1, 2, 2, 0, 0][act];
        if act == 4 {
            let token = session.relay().expect("the browser lacks the new id");
            assert!(!token.as_str().is_empty());
            shop.clock.advance(VOUCHED);
            assert_eq!(session.value::<Stock>(), Stock(7));
        } else {
            assert_eq!(values(&browser, &shop.start()).await, (dark(), Visits(visits), Stock(7)), "{act}");
        }
    }
}

// G12: the store still has the end.
#[tokio::test]
async fn ended_session_is_not_restored() {
    let shop = Shop::new();
    let node = shop.start();
    let mut browser = first_write(&node, dark()).await;
    let copy = browser.clone();
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert_eq!(values(&copy, &shop.start()).await.0, Theme::default());
    assert_eq!(values(&copy, &node).await.0, Theme::default());
}

// The store drops the record of an idle session, and the cookie is idle too.
#[tokio::test]
async fn idle_session_is_not_restored() {
    let shop = Shop::new();
    let browser = first_write(&shop.start(), dark()).await;
    shop.clock.advance(3 * DAY);
    let cold = shop.start();
    assert_eq!(values(&browser, &cold).await.0, Theme::default());
    assert_eq!(shop.store.take_operations().last(), Some(&Operation::Read));
    assert_eq!(cold.sessions.stats().records, 0);
}

#[test]
fn restoration_is_refused_beside_identify_by() {
    let store = SharedTier::new(SpyStore::new()).restore_from_cookie();
    let chain = Sessions::builder().tier(MemoryTier::builder().build());
    let chain = chain.tier(CookieTier::sealed(ring())).tier(store).clock(ManualClock::new());
    let error = chain.identify_by::<User>(named).build().unwrap_err();
    assert_eq!(error.kind(), BuildErrorKind::Chain);
    assert!(error.to_string().contains("`restore_from_cookie`"), "{error}");
}

// Another node has restored the session from an older cookie.
#[tokio::test]
async fn update_counts_on_after_a_restoration_elsewhere() {
    let shop = Shop::new();
    let node = shop.start();
    let mut browser = first_write(&node, dark()).await;
    set(&mut browser, &node, Visits(2)).await;
    let old = browser.clone();
    shop.clock.advance(TICK);
    let session = under_way(&browser, &node).await;
    session.set(Visits(3)).await.unwrap();
    shop.store.forget_records();
    shop.clock.advance(TICK);
    assert_eq!(get::<Visits>(&mut old.clone(), &shop.start()).await, Visits(2));
    shop.clock.advance(TICK);
    let updated = ticking(&shop.clock, session.update(|visits: &mut Visits| visits.0 += 1)).await;
    assert_eq!(updated.map_err(|error| error.kind()).unwrap(), Visits(4));
    assert_eq!(get::<Visits>(&mut old.clone(), &shop.start()).await, Visits(4));
}
