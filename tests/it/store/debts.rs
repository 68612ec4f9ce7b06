//! The commits that memory and cookies bring to a store that has lost them: also late, and never without a loss.

use std::time::Duration;

use layered_session::{
    Lifetime, Principal, Session, SessionValue, SharedTier,
    testing::{ManualClock, Operation, SpyStore},
};

use super::rewound::{lost_theme, rewound};
use crate::{
    support::{
        App, Browser, DAY, Division, HOUR, Node, TICK, Theme, Visits, at_once, bare, chain, cookie, dark, first_write,
        get, memory, ring, set, settled, signed_in, theme, under_way, user,
    },
    writes::stored,
};

const VOUCHED: Duration = Duration::from_secs(30);

/// The value that a node with an empty memory reads.
async fn cold<V: SessionValue + Default>(app: &App, browser: &Browser) -> V {
    get(&mut browser.clone(), &app.start()).await
}

// G11: the client leaves while the store takes the lost commits.
#[tokio::test]
async fn dropped_load_keeps_the_debt() {
    let (store, app, old) = lost_theme().await;
    store.hold_requests(Operation::Update);
    assert!(at_once(get::<Theme>(&mut old.clone(), &app.node)).is_none());
    store.release();
    app.pass(VOUCHED);
    assert_eq!(get::<Theme>(&mut old.clone(), &app.node).await, theme("light"));
    assert_eq!(cold::<Theme>(&app, &old).await, theme("light"));
}

// G3: memory answers, so the load with the newer cookie does not ask the store.
#[tokio::test]
async fn cookie_that_memory_answered_is_carried_later() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    let old = browser.clone();
    let other = app.start();
    assert_eq!(get::<Theme>(&mut old.clone(), &other).await, dark());
    store.checkpoint();
    app.pass(TICK);
    set(&mut browser, &app.node, theme("light")).await;
    store.rewind();
    app.pass(TICK);
    assert_eq!(get::<Theme>(&mut browser.clone(), &other).await, theme("light"));
    for _ in 0..3 {
        app.pass(VOUCHED);
        assert_eq!(get::<Theme>(&mut browser.clone(), &other).await, theme("light"));
    }
    assert_eq!(cold::<Theme>(&app, &old).await, theme("light"));
}

// The store has lost the whole record of the user.
#[tokio::test]
async fn users_cookie_is_carried_later() {
    let (store, app) = stored();
    let mut browser = signed_in(&app.node, "ada").await;
    let other = app.start();
    assert_eq!(get::<Division>(&mut browser.clone(), &other).await, Division(-1));
    let laptop = signed_in(&app.node, "ada").await;
    store.checkpoint();
    app.pass(TICK);
    set(&mut browser, &app.node, Division(3)).await;
    store.rewind();
    app.pass(TICK);
    assert_eq!(get::<Division>(&mut browser.clone(), &other).await, Division(3));
    for _ in 0..3 {
        app.pass(VOUCHED);
        assert_eq!(get::<Division>(&mut browser.clone(), &other).await, Division(3));
    }
    assert_eq!(cold::<Division>(&app, &laptop).await, Division(3));
}

// The cookie has a shorter lifetime, which the store has lost.
#[tokio::test]
async fn cookies_lifetime_is_carried_later() {
    let (store, app) = stored();
    let store = store.expire_by(app.clock.clone());
    let mut browser = app.dark().await;
    let old = browser.clone();
    let other = app.start();
    assert_eq!(get::<Theme>(&mut old.clone(), &other).await, dark());
    store.checkpoint();
    app.pass(TICK);
    let life = Lifetime::new(HOUR, DAY).unwrap();
    browser.visit(&app.node, async |session| session.set_lifetime(life).await.unwrap()).await;
    store.rewind();
    app.pass(TICK);
    for _ in 0..3 {
        assert_eq!(get::<Theme>(&mut browser.clone(), &other).await, dark());
        app.pass(VOUCHED);
    }
    assert_eq!(get::<Theme>(&mut browser.clone(), &other).await, dark());
    app.pass(2 * HOUR);
    assert_eq!(cold::<Theme>(&app, &old).await, Theme::default());
}

// G3: in a chain without memory.
#[tokio::test]
async fn cookie_is_carried_without_memory() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let start = || {
        let chain = bare(&ring, &clock).value::<Theme>().value::<Visits>().tier(SharedTier::new(store.clone()));
        Node::new(chain.build().unwrap())
    };
    let mut browser = first_write(&start(), dark()).await;
    let old = browser.clone();
    store.checkpoint();
    clock.advance(TICK);
    set(&mut browser, &start(), theme("light")).await;
    store.rewind();
    clock.advance(TICK);
    assert_eq!(get::<Theme>(&mut browser.clone(), &start()).await, theme("light"));
    assert_eq!(get::<Theme>(&mut old.clone(), &start()).await, theme("light"));
}

// The answer to the clear comes before the earlier answer to the update.
#[tokio::test]
async fn late_outdated_answer_is_no_loss() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    set(&mut browser, &app.node, Visits(1)).await;
    let elsewhere = under_way(&browser, &app.start()).await;
    let session = under_way(&browser, &app.node).await;
    app.pass(TICK);
    elsewhere.set(Visits(5)).await.unwrap();
    store.hold_answers(Operation::Update);
    let mut update = Box::pin(session.update(|visits: &mut Visits| visits.0 += 1));
    assert!(at_once(&mut update).is_none());
    // The store has refused the update. Its next answer comes first.
    app.pass(TICK);
    session.clear().await.unwrap();
    store.take_operations();
    store.release();
    assert_eq!(update.await.unwrap(), Visits(1));
    assert_eq!(store.take_operations(), [Operation::Update]);
    assert_eq!(rewound(&app.node), 0);
}

// An open stream is no use of the session.
#[tokio::test]
async fn followers_payment_is_no_use() {
    let (ring, clock) = (ring(), ManualClock::new());
    let store = SpyStore::new().expire_by(clock.clone());
    let start = || {
        let chain = chain(memory(), cookie(&ring), &clock).value::<Theme>().idle(HOUR);
        Node::new(chain.tier(SharedTier::new(store.clone())).build().unwrap())
    };
    let node = start();
    let mut browser = first_write(&node, dark()).await;
    store.checkpoint();
    set(&mut browser, &node, theme("light")).await;
    let session = under_way(&browser, &node).await;
    let mut watch = session.watch::<Theme>();
    assert_eq!(at_once(watch.next()), Some(Some(theme("light"))));
    let follower = tokio::spawn(node.sessions.follow());
    settled().await;
    clock.advance(HOUR / 2);
    store.rewind();
    for _ in 0..40 {
        clock.advance(Duration::from_secs(1));
        settled().await;
    }
    assert_eq!(rewound(&node), 1);
    follower.abort();
    store.take_calls();
    clock.advance(HOUR / 2 + HOUR / 4);
    assert_eq!(get::<Theme>(&mut browser.clone(), &start()).await, Theme::default());
}

// Two nodes without sticky routing lose nothing, so no read brings the store anything.
#[tokio::test]
async fn reads_make_no_commits() {
    for seed in 0..20_u64 {
        let (store, app) = stored();
        let other = app.start();
        let nodes = [&app.node, &other];
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
        let mut random = move |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        let mut browsers = [Browser::new(), Browser::new()];
        for step in 0..60 {
            app.pass(Duration::from_millis(1 + random(20_000)));
            let node = nodes[random(2) as usize];
            let browser = &mut browsers[random(2) as usize];
            let act = random(12);
            let number = random(5) as i64;
            let acts = async |session: Session| match act {
                0 => drop(session.set(theme(&number.to_string())).await),
                1 => drop(session.set(Division(number)).await),
                2 => drop(session.update(|visits: &mut Visits| visits.0 += 1).await),
                3 => drop(session.remove::<Division>().await),
                4 => drop(session.sign_in(user("ada")).adopt::<Division>().await),
                5 => drop(session.renew().await),
                6 => drop(session.set_lifetime(Lifetime::new(HOUR, DAY).unwrap()).await),
                7 => drop(session.clear().await),
                8 => drop(session.take::<Visits>().await),
                9 => drop(session.end_other_sessions().await),
                10 => drop(session.batch().set(Visits(9)).set(Division(2)).commit().await),
                _ => {}
            };
            browser.visit(node, acts).await;
            if random(8) == 0 {
                app.node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(1)).await.unwrap();
            }
            app.pass(Duration::from_millis(1 + random(20_000)));
            store.take_calls();
            for _ in 0..2 {
                let at = random(2) as usize;
                let browser = &mut browsers[random(2) as usize];
                browser
                    .visit(nodes[at], async |session| {
                        let _ = (session.value::<Theme>(), session.value::<Division>());
                    })
                    .await;
                let calls = store.take_calls();
                let made: Vec<_> = calls
                    .into_iter()
                    .filter(|call| !matches!(call.operation(), Operation::Read | Operation::Touch))
                    .collect();
                assert!(made.is_empty(), "seed {seed} step {step} act {act}: {made:?}");
            }
            assert_eq!(rewound(&app.node) + rewound(&other), 0, "seed {seed} step {step} act {act}");
        }
    }
}

// R3: another node may have given a session of the user a longer lifetime.
#[tokio::test]
async fn returned_end_of_all_sessions_is_kept_as_long() {
    let (store, app) = stored();
    signed_in(&app.node, "ada").await;
    let keeps = || {
        let calls = store.take_calls().into_iter();
        calls.filter(|call| call.operation() == Operation::Revoke).map(|call| call.keep()).collect::<Vec<_>>()
    };
    store.checkpoint();
    app.node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    let kept = keeps();
    store.rewind();
    app.pass(VOUCHED);
    app.node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    assert_eq!(keeps(), kept);
}
