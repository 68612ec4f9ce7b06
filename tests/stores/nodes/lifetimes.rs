//! The spans for which a session lives, and for which the store keeps a record.

use layered_session::{Lifetime, Sessions, testing::Operation, tier::Snapshot};

use crate::{
    engines::{Engine, over_each_engine},
    site::{DAY, Division, HOUR, MAX_SKEW, MINUTE, Quota, Site, VOUCHED, Visits, job, signed_in, visitor},
};

over_each_engine! {
    shorter_lifetime_holds_on_every_node,
    renewal_takes_shorter_lifetime_along,
    users_values_stay_while_in_daily_use,
    users_values_outlive_daily_restarts,
    idle_session_leaves_the_store,
}

async fn shorter_lifetime_holds_on_every_node<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, warm) = (site.start(), site.start());
    let mut browser = visitor(&here).await;
    // The cookie from before, which tells the longer lifetime.
    let old = browser.clone();
    assert_eq!(old.get::<Visits>(&warm).await, Visits(1));
    let short = Lifetime::new(MINUTE, 2 * MINUTE).unwrap();
    browser.visit(&here, async |session| session.set_lifetime(short).await.unwrap()).await;
    site.pass(3 * MINUTE);
    for node in [&site.start(), &warm, &here, &site.start()] {
        assert_eq!(old.get::<Visits>(node).await, Visits(0));
    }
    site.pass(HOUR);
    assert_eq!(old.get::<Visits>(&site.start()).await, Visits(0));
}

// The renewing node has not seen the shorter lifetime.
async fn renewal_takes_shorter_lifetime_along<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let mut browser = visitor(&here).await;
    assert_eq!(browser.get::<Visits>(&there).await, Visits(1));
    let short = Lifetime::new(MINUTE, 2 * MINUTE).unwrap();
    browser.clone().visit(&here, async |session| session.set_lifetime(short).await.unwrap()).await;
    browser.visit(&there, async |session| session.renew().await.unwrap()).await;
    assert_eq!(browser.get::<Visits>(&site.start()).await, Visits(1));
    site.pass(3 * MINUTE);
    for node in [&there, &here, &site.start()] {
        assert_eq!(browser.get::<Visits>(node).await, Visits(0));
    }
}

async fn users_values_stay_while_in_daily_use<E: Engine>(engine: E) {
    let site = Site::lasting(engine, 2 * DAY, 365 * DAY);
    let here = site.start();
    use_daily(&site, || here.clone()).await;
}

// No memory brings back a record that the store has lost.
async fn users_values_outlive_daily_restarts<E: Engine>(engine: E) {
    let site = Site::lasting(engine, 2 * DAY, 365 * DAY);
    use_daily(&site, || site.start()).await;
}

/// Uses the session of a user daily. The store keeps the user's record for 31 days after its last use, and not after its
/// last write.
async fn use_daily<E: Engine>(site: &Site<E>, node: impl Fn() -> Sessions) {
    let mut browser = signed_in(&node()).await;
    browser.set(&node(), Quota(9)).await;
    for _ in 0..40 {
        site.pass(DAY);
        assert_eq!(browser.visit(&node(), async |session| session.value::<Quota>()).await, Quota(9));
    }
    let there = site.start();
    assert_eq!(job(&there).await.value::<Quota>(), Quota(9), "cold");
    job(&there).await.set(Division(1)).await.unwrap();
    site.pass(VOUCHED);
    for node in [&node(), &there, &site.start()] {
        let seen = browser.clone().visit(node, async |session| (session.value(), session.value())).await;
        assert_eq!(seen, (Quota(9), Division(1)));
    }
}

async fn idle_session_leaves_the_store<E: Engine>(engine: E) {
    let site = Site::lasting(engine, 2 * DAY, 30 * DAY);
    let mut browser = visitor(&site.start()).await;
    let stored = async |browser: &mut crate::site::Browser| {
        site.watch.take_calls();
        let visits: Visits = browser.visit(&site.start(), async |session| session.value()).await;
        let calls = site.watch.take_calls();
        let read = calls.iter().find(|call| call.operation == Operation::Read).unwrap();
        (visits, matches!(read.snapshots[..], [Snapshot::Present(_)]), matches!(read.snapshots[..], [Snapshot::Absent]))
    };
    // Each use keeps the session.
    for _ in 0..3 {
        site.pass(2 * DAY - HOUR);
        assert_eq!(stored(&mut browser).await, (Visits(1), true, false));
    }
    site.pass(2 * DAY + 2 * DAY / 10 + MAX_SKEW);
    assert_eq!(stored(&mut browser).await, (Visits(0), false, true));
    assert!(site.engine.count().is_none_or(|count| count == 0));
}
