//! Renewals and sign-ins of one node, and the writes and ends of other nodes.

use std::{future::Future, pin::Pin, time::UNIX_EPOCH};

use futures_util::FutureExt;
use layered_session::{
    CloseReason, Session, SessionValue, Sessions, WriteErrorKind, testing::Operation, tier::Snapshot,
};

use crate::{
    engines::{Engine, over_each_engine},
    site::{Browser, DAY, Draft, MAX_SKEW, MINUTE, Site, Stock, User, VOUCHED, Visits, ada, kind, signed_in, visitor},
};

over_each_engine! {
    move_keeps_writes_unseen_by_its_node,
    move_keeps_writes_between_copy_and_end,
    renewals_lose_no_write_of_another_node,
    renewal_elsewhere_closes_as_renewed,
    move_keeps_undeclared_values,
    losing_renewal_leaves_no_live_session,
    abandoned_first_write_leaves_the_store,
    store_stamps_the_user_at_sign_in,
}

type Turn = fn(Session) -> Pin<Box<dyn Future<Output = ()> + Send>>;

const TURNS: [Turn; 2] = [
    |session| Box::pin(async move { session.renew().await.unwrap() }),
    |session| Box::pin(async move { session.sign_in(User("bob".into())).await.unwrap() }),
];

async fn move_keeps_writes_unseen_by_its_node<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    for turn in TURNS {
        let mut browser = visitor(&here).await;
        browser.clone().set(&there, Visits(2)).await;
        browser.clone().set(&there, Stock(7)).await;
        browser.visit(&here, turn).await;
        for node in [&here, &site.start()] {
            assert_eq!((browser.get(node).await, browser.get(node).await), (Visits(2), Stock(7)));
        }
    }
}

async fn move_keeps_writes_between_copy_and_end<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    for turn in TURNS {
        let mut browser = visitor(&here).await;
        let socket = browser.socket(&there).await;
        site.watch.hold_requests(Operation::End);
        let write = async {
            site.watch.held(1).await;
            socket.set(Stock(2)).await.unwrap();
            site.watch.release();
        };
        tokio::join!(browser.visit(&here, turn), write);
        for node in [&here, &site.start()] {
            assert_eq!(browser.get::<Stock>(node).await, Stock(2));
        }
    }
}

// Values on servers only: otherwise the renewed cookie would bring the value to the cold node.
async fn renewals_lose_no_write_of_another_node<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let mut browser = visitor(&here).await;
    let (mut acknowledged, mut lost) = (0, 0);
    for number in 2..202 {
        let mut other = browser.clone();
        let write = other.visit(&there, async |session| session.set(Stock(number)).await.is_ok());
        let renew = browser.visit(&here, async |session| session.renew().await.unwrap());
        // The renewing node has not seen the write, which comes before the renewal or during the renewal.
        let is_written = if number % 2 == 0 {
            let is_written = write.await;
            renew.await;
            is_written
        } else {
            tokio::join!(write, renew).0
        };
        if is_written {
            acknowledged += 1;
            lost += u32::from(browser.get::<Stock>(&site.start()).await != Stock(number));
        }
    }
    assert!(acknowledged >= 100, "{acknowledged}");
    assert_eq!(lost, 0, "of {acknowledged} acknowledged writes");
}

async fn renewal_elsewhere_closes_as_renewed<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let mut browser = visitor(&here).await;
    let socket = browser.socket(&there).await;
    browser.visit(&here, TURNS[0]).await;
    let error = socket.set(Visits(2)).await.unwrap_err();
    assert!(error.kind() == WriteErrorKind::Closed && error.to_string().contains("renewed"), "{error}");
    assert_eq!(socket.closed().now_or_never(), Some(CloseReason::Renewed));
}

async fn move_keeps_undeclared_values<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (older, newer) = (site.start(), site.start_newer());
    for turn in TURNS {
        let mut browser = visitor(&older).await;
        browser.clone().set(&newer, Draft("a line".into())).await;
        browser.visit(&older, turn).await;
        assert_eq!(browser.get::<Draft>(&site.start_newer()).await, Draft("a line".into()));
    }
}

// Two nodes renew one session: the store takes one renewal, and the new session of the other renewal ends.
async fn losing_renewal_leaves_no_live_session<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (here, there) = (site.start(), site.start());
    let browser = visitor(&here).await;
    let renewal =
        async |node: &Sessions| browser.clone().visit(node, async |session| kind(session.renew().await)).await;
    site.watch.take_calls();
    site.watch.hold_requests(Operation::End);
    let open = async {
        site.watch.held(2).await;
        site.watch.release();
    };
    let (one, other, ()) = tokio::join!(renewal(&here), renewal(&there), open);
    assert!(one.is_none() != other.is_none(), "{one:?} {other:?}");
    assert_eq!(one.or(other), Some(WriteErrorKind::Closed));
    let calls = site.watch.take_calls();
    let owners = |operation| calls.iter().filter(move |call| call.operation == operation).map(|call| call.owners[0]);
    let ended = owners(Operation::Create).filter(|created| owners(Operation::End).any(|owner| owner == *created));
    assert_eq!((owners(Operation::Create).count(), ended.count()), (2, 1));
}

// The client has left before the store's answer, so no browser has the id of the new session.
async fn abandoned_first_write_leaves_the_store<E: Engine>(engine: E) {
    let (idle, absolute) = (10 * MINUTE, 30 * DAY);
    let site = Site::lasting(engine, idle, absolute);
    let node = site.start();
    site.watch.hold_answers(Operation::Create);
    let session = Browser::default().socket(&node).await;
    let write = tokio::spawn(async move { session.set(Visits(1)).await });
    site.watch.held(1).await;
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    site.watch.release();
    assert_eq!(node.stats().records, 0);
    let longest = idle + idle / 10 + MAX_SKEW;
    let calls = site.watch.take_calls();
    assert!(calls.last().unwrap().keep.unwrap() <= longest, "{calls:?}");
    assert!(site.engine.count().is_none_or(|count| count == 1));
    site.pass(longest);
    assert!(site.engine.count().is_none_or(|count| count == 0));
}

// A version from a node whose clock is ahead would outlive later writes and later ends of all of the user's sessions.
async fn store_stamps_the_user_at_sign_in<E: Engine>(engine: E) {
    let site = Site::new(engine);
    let (node, fast) = (site.start(), site.start_ahead(MAX_SKEW / 2));
    let browser = signed_in(&fast).await;
    site.watch.take_calls();
    assert_eq!(browser.user(&node).await, Some(ada()));
    let calls = site.watch.take_calls();
    let snapshots = calls.iter().flat_map(|call| &call.snapshots);
    let stamps = snapshots.filter_map(|snapshot| match snapshot {
        Snapshot::Present(record) => record.entries().find(|entry| entry.name() == User::NAME).map(|e| e.version()),
        _ => None,
    });
    let [stamp] = stamps.collect::<Vec<_>>()[..] else { panic!("{calls:?}") };
    let now = UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    assert!(stamp.as_u64() >> 16 <= now, "the stamp is ahead of the store's clock");
    node.end_all_sessions(ada()).await.unwrap();
    for node in [&node, &site.start()] {
        assert_eq!(browser.user(node).await, None);
    }
    site.pass(VOUCHED);
    assert_eq!(browser.user(&fast).await, None);
}
