//! The calls with which loads ask the store, and the age of memory's answers.

use futures_util::future::join_all;
use layered_session::{Session, Sessions, testing::Operation};

use crate::{
    engines::{Engine, over_each_engine},
    site::{Browser, Division, SECOND, Site, User, VOUCHED, Visits, ada, signed_in, visitor},
};

over_each_engine! {
    remote_write_is_seen_after_30_seconds,
    remote_write_of_a_users_value_is_seen,
    requests_during_a_held_write_ask_nothing,
    fifty_cold_loads_share_one_read,
    cold_loads_of_a_user_read_each_owner_once,
    unknown_session_is_asked_once,
    cold_signed_in_load_is_one_call,
    warm_load_asks_nothing,
}

async fn remote_write_is_seen_after_30_seconds<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let browser = visitor(&here).await;
    assert_eq!(browser.get::<Visits>(&there).await, Visits(1));
    browser.clone().set(&here, Visits(3)).await;
    site.watch.take_calls();
    site.pass(VOUCHED - 10 * SECOND);
    assert_eq!((browser.get(&there).await, site.watch.take_operations()), (Visits(1), vec![]));
    site.pass(10 * SECOND);
    assert_eq!((browser.get(&there).await, site.watch.take_operations()), (Visits(3), vec![Operation::Read]));
    assert_eq!((browser.get(&there).await, site.watch.take_operations()), (Visits(3), vec![]));
}

async fn remote_write_of_a_users_value_is_seen<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let (mut phone, laptop) = (signed_in(&here).await, signed_in(&here).await);
    phone.set(&here, Division(1)).await;
    assert_eq!(laptop.get::<Division>(&there).await, Division(1));
    phone.set(&here, Division(2)).await;
    site.pass(VOUCHED);
    assert_eq!(laptop.get::<Division>(&there).await, Division(2));
    // An update counts on from the newest value.
    let update = async |session: Session| session.update(|division: &mut Division| division.0 += 1).await.unwrap();
    assert_eq!(laptop.clone().visit(&there, update).await, Division(3));
    site.pass(VOUCHED);
    assert_eq!(laptop.get::<Division>(&here).await, Division(3));
}

// No caller knows of the write before the store's answer.
async fn requests_during_a_held_write_ask_nothing<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let node = site.start();
    let browser = visitor(&node).await;
    let socket = browser.socket(&node).await;
    site.watch.hold_answers(Operation::Update);
    let write = tokio::spawn(async move { socket.set(Visits(2)).await });
    site.watch.held(1).await;
    site.watch.take_calls();
    for _ in 0..50 {
        assert_eq!(browser.get::<Visits>(&node).await, Visits(1));
    }
    assert_eq!(site.watch.take_operations(), []);
    site.watch.release();
    write.await.unwrap().unwrap();
    assert_eq!(browser.get::<Visits>(&node).await, Visits(2));
}

/// The value and the user that a request sees.
type Seen = (Visits, Option<User>);

/// Loads the session in fifty requests at once, of which the store answers none before all have begun.
async fn load_at_once<E: Engine>(site: &Site<E>, node: &Sessions, browser: &Browser) -> Vec<Seen> {
    site.watch.take_calls();
    site.watch.hold_answers(Operation::Read);
    let load = async |mut browser: Browser| {
        browser.visit(node, async |session: Session| (session.value(), session.get())).await
    };
    let loads = join_all((0..50).map(|_| load(browser.clone())));
    let open = async {
        site.watch.held(1).await;
        tokio::time::sleep(SECOND / 50).await;
        site.watch.release();
    };
    tokio::join!(loads, open).0
}

async fn fifty_cold_loads_share_one_read<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let browser = visitor(&site.start()).await;
    let seen = load_at_once(&site, &site.start(), &browser).await;
    assert_eq!(seen, vec![(Visits(1), None); 50]);
    let calls = site.watch.take_calls();
    assert_eq!(calls.iter().map(|call| call.owners.len()).collect::<Vec<_>>(), [1]);
}

async fn cold_loads_of_a_user_read_each_owner_once<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let here = site.start();
    let mut browser = signed_in(&here).await;
    browser.set(&here, Visits(1)).await;
    let seen = load_at_once(&site, &site.start(), &browser).await;
    assert_eq!(seen, vec![(Visits(1), Some(User("ada".into()))); 50]);
    let mut owners: Vec<_> = site.watch.take_calls().iter().flat_map(|call| call.owners.clone()).collect();
    owners.sort();
    let asked = owners.len();
    owners.dedup();
    assert_eq!((asked, owners.len()), (2, 2));
}

async fn unknown_session_is_asked_once<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let browser = visitor(&site.start()).await;
    site.engine.rewind();
    let node = site.start();
    site.watch.take_calls();
    for _ in 0..20 {
        assert_eq!(browser.get::<Visits>(&node).await, Visits(0));
    }
    assert_eq!(site.watch.take_operations(), [Operation::Read]);
    assert_eq!(node.stats().records, 0);
}

async fn cold_signed_in_load_is_one_call<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let here = site.start();
    let mut browser = signed_in(&here).await;
    browser.set(&here, Division(3)).await;
    let cold = site.start();
    let look = async || {
        site.watch.take_calls();
        let seen = async |session: Session| (session.principal(), session.value::<Division>());
        assert_eq!(browser.clone().visit(&cold, seen).await, (Some(ada()), Division(3)));
        site.watch.take_calls().iter().map(|call| call.owners.len()).collect::<Vec<_>>()
    };
    assert_eq!(look().await, [2], "one call for the session and the user");
    site.pass(VOUCHED);
    assert_eq!(look().await, [2], "memory asks again in one call");
}

async fn warm_load_asks_nothing<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let node = site.start();
    let mut user = signed_in(&node).await;
    user.set(&node, Division(3)).await;
    for browser in [visitor(&node).await, user] {
        let before = browser.get::<Visits>(&node).await;
        site.watch.take_calls();
        for _ in 0..20 {
            assert_eq!(browser.get::<Visits>(&node).await, before);
        }
        assert_eq!(site.watch.take_operations(), []);
    }
}
