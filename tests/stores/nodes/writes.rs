//! Writes that other nodes contend for, writes that the store refuses or has lost, values of another build, and clears.

use std::error::Error;

use layered_session::{Session, TierError, WriteErrorKind, testing::Operation};

use crate::{
    engines::{Engine, over_each_engine},
    site::{
        CarriedDraft, Division, Draft, MAX_SKEW, Quota, Site, Stock, Theme, User, VOUCHED, Visits, ada, job, kind,
        signed_in, theme, visitor,
    },
};

over_each_engine! {
    write_wins_after_store_loses_record,
    write_wins_over_a_newer_cookie,
    clear_removes_values_unseen_by_its_node,
    clear_of_a_user_removes_unseen_values,
    updates_of_sixteen_nodes_all_count,
    sequential_writers_on_two_nodes_never_lose,
    undeclared_value_stays_in_the_store,
    refused_write_leaves_no_doubt,
    cookie_brings_back_a_users_lost_value,
}

// Memory knows a version that is ahead of the store's clock, and the store has lost that version.
async fn write_wins_after_store_loses_record<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let fast = site.start_ahead(MAX_SKEW / 2);
    // Lifts the versions of the user's record to the clock of this node.
    fast.end_all_sessions(ada()).await.unwrap();
    let user = job(&fast).await;
    user.set(Division(1)).await.unwrap();
    site.engine.rewind();
    user.set(Division(4)).await.unwrap();
    assert_eq!(user.get(), Some(Division(4)));
    for node in [&fast, &site.start()] {
        assert_eq!(job(node).await.get(), Some(Division(4)));
    }
}

async fn clear_removes_values_unseen_by_its_node<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let mut browser = signed_in(&here).await;
    browser.set(&here, theme("dark")).await;
    browser.clone().set(&there, Visits(5)).await;
    browser.clone().set(&there, Stock(7)).await;
    browser.visit(&here, async |session| session.clear().await.unwrap()).await;
    for node in [&here, &site.start()] {
        let all = async |session: Session| (session.get::<Theme>(), session.get::<Visits>(), session.get::<Stock>());
        assert_eq!(browser.clone().visit(node, all).await, (None, None, None));
        assert_eq!(browser.user(node).await, Some(ada()), "a clear is no sign-out");
    }
}

async fn clear_of_a_user_removes_unseen_values<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let user = job(&here).await;
    user.set(Division(1)).await.unwrap();
    job(&there).await.set(Quota(9)).await.unwrap();
    user.clear().await.unwrap();
    let cold = job(&site.start()).await;
    assert_eq!((cold.get::<Division>(), cold.get::<Quota>()), (None, None));
}

async fn updates_of_sixteen_nodes_all_count<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let browser = visitor(&site.start()).await;
    browser.clone().set(&site.start(), Visits(0)).await;
    let mut nodes = Vec::new();
    for _ in 0..16 {
        nodes.push(browser.socket(&site.start()).await);
    }
    let updates = nodes.into_iter().map(|session| {
        tokio::spawn(async move {
            for _ in 0..64 {
                session.update(|visits: &mut Visits| visits.0 += 1).await.unwrap();
            }
        })
    });
    for update in updates.collect::<Vec<_>>() {
        update.await.unwrap();
    }
    assert_eq!(browser.get::<Visits>(&site.start()).await, Visits(1024));
}

// A writer that has just won must not win again and again.
async fn sequential_writers_on_two_nodes_never_lose<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let writers = [job(&here).await, job(&there).await].map(|user| {
        tokio::spawn(async move {
            for _ in 0..200 {
                user.update(|quota: &mut Quota| quota.0 += 1).await.unwrap();
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(job(&site.start()).await.value::<Quota>(), Quota(400));
}

// Another build keeps the value on servers alone, and a large value must not hinder the writes of this build.
async fn undeclared_value_stays_in_the_store<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (older, newer) = (site.start(), site.start_newer());
    let mut browser = visitor(&older).await;
    for text in ["a secret line".to_owned(), "x".repeat(6000)] {
        let before = browser.size();
        browser.clone().set(&newer, Draft(text.clone())).await;
        site.pass(VOUCHED);
        let draft = async |session: Session| {
            session.set(Visits(2)).await.unwrap();
            session.set(Visits(1)).await.unwrap();
        };
        browser.visit(&older, draft).await;
        browser.visit(&site.start(), async |session| session.set(Visits(3)).await.unwrap()).await;
        assert_eq!(browser.size(), before);
        let carried = async |session: Session| (session.get::<CarriedDraft>(), session.get::<Visits>());
        assert_eq!(browser.clone().visit(&site.start_storeless(), carried).await, (None, Some(Visits(3))));
        assert_eq!(browser.get::<Draft>(&site.start_newer()).await, Draft(text));
    }
}

async fn refused_write_leaves_no_doubt<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let node = site.start();
    let browser = visitor(&node).await;
    let socket = browser.socket(&node).await;
    site.engine.refuse_writes();
    let error = socket.set(Visits(2)).await.unwrap_err();
    site.engine.accept_writes();
    assert_eq!(error.kind(), WriteErrorKind::Unavailable);
    let cause = error.source().and_then(|source| source.downcast_ref::<TierError>()).unwrap();
    assert_eq!((cause.kind(), cause.may_be_applied()), (E::REFUSAL, false), "{error}");
    site.watch.take_calls();
    assert_eq!(browser.get::<Visits>(&node).await, Visits(1));
    assert_eq!(site.watch.take_operations(), []);
    assert_eq!(browser.get::<Visits>(&site.start()).await, Visits(1));
    assert_eq!(kind(socket.set(Visits(3)).await), None);
}

// The browser's cookie knows such a version.
async fn write_wins_over_a_newer_cookie<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let fast = site.start_ahead(MAX_SKEW / 2);
    fast.end_all_sessions(ada()).await.unwrap();
    let mut browser = signed_in(&fast).await;
    site.engine.checkpoint();
    for number in [3, 2, 1] {
        browser.set(&fast, Division(number)).await;
    }
    site.engine.rewind();
    let node = site.start();
    browser.set(&node, Division(4)).await;
    for node in [&node, &site.start()] {
        assert_eq!(browser.get::<Division>(node).await, Division(4));
        assert_eq!(job(node).await.get(), Some(Division(4)));
    }
}

// The store went back to a state from before the write: after a failover, for example.
async fn cookie_brings_back_a_users_lost_value<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let here = site.start();
    let (mut phone, laptop) = (signed_in(&here).await, signed_in(&here).await);
    site.engine.checkpoint();
    phone.set(&here, Division(3)).await;
    site.engine.rewind();
    assert_eq!(laptop.get::<Division>(&site.start()).await, Division(0), "the store has lost the value");
    let node = site.start();
    site.watch.take_calls();
    assert_eq!(phone.get::<Division>(&node).await, Division(3));
    assert_eq!(site.watch.take_operations(), [Operation::Read, Operation::Upsert]);
    for node in [&node, &site.start()] {
        assert_eq!(laptop.get::<Division>(node).await, Division(3));
    }
    let user = async |session: Session| session.get::<User>();
    assert_eq!(laptop.clone().visit(&node, user).await, Some(User("ada".into())));
}
