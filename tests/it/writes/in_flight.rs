//! Writes that wait for a store: concurrent operations, and the result after the caller has dropped the write.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    task::{Context, Waker},
};

use futures_util::{FutureExt, future::join_all};
use layered_session::{
    Clock, Principal, Session, SharedTier, WriteErrorKind,
    testing::{ManualClock, Operation, SpyStore},
};

use super::{Note, count, visits};
use crate::support::{
    App, Browser, Division, HOUR, Node, TICK, Theme, User, Visits, at_once, builder, carried, dark, first_write, kind,
    ring, set, signed_in, under_way,
};

/// Returns a store that holds one kind of operation until the test releases the operation, and an application over the
/// store.
fn gated(operation: Operation) -> (SpyStore, App) {
    let store = SpyStore::new();
    store.hold_requests(operation);
    let shared = store.clone();
    (store, App::with(move |builder| builder.tier(SharedTier::new(shared.clone()))))
}

// G10: a node sends the updates of an owner to the store one after the other. If all came together, the store would
// refuse all but one each time, and some updates would fail.
#[tokio::test]
async fn each_queued_update_reaches_store_once() {
    const UPDATES: usize = 40;
    let (gate, app) = gated(Operation::Update);
    let mut browser = app.dark().await;
    let session = browser.open(&app.node).await;
    gate.take_operations();
    let updates = (0..UPDATES).map(|n| {
        let session = session.clone();
        async move {
            match n % 2 {
                0 => count(session).await,
                _ => session.batch().update::<Visits>(|visits| visits.0 += 1).commit().await.unwrap(),
            }
        }
    });
    let open = async { gate.release() };
    tokio::join!(join_all(updates), open);
    assert_eq!(gate.take_operations(), [Operation::Update; UPDATES]);
    assert_eq!(visits(&browser, &app.start()).await, Visits(UPDATES as u64));
}

#[tokio::test]
async fn clones_wait_for_new_session() {
    let (gate, app) = gated(Operation::Create);
    let mut browser = Browser::new();
    let opened = gate.clone();
    let write = async move |session: Session| {
        let (one, other) = (session.clone(), session);
        let tasks = [
            tokio::spawn(async move { one.set(dark()).await }),
            tokio::spawn(async move { other.set(Visits(1)).await }),
        ];
        tokio::task::yield_now().await;
        opened.release();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    };
    browser.told(&app.node, write).await;
    assert_eq!(gate.take_operations(), [Operation::Create, Operation::Update]);
    assert_eq!((browser.theme(&app.start()).await, visits(&browser, &app.start()).await), (dark(), Visits(1)));
}

#[tokio::test]
async fn sign_in_loses_no_concurrent_write() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), SpyStore::new());
    let node = Node::new(builder(&ring, &clock).tier(SharedTier::new(gate.clone())).build().unwrap());
    let session = under_way(&Browser::new(), &node).await;
    gate.hold_answers(Operation::Create);
    let mut cx = Context::from_waker(Waker::noop());
    let mut write = pin!(session.set(Theme("dark".into())));
    assert!(write.as_mut().poll(&mut cx).is_pending());
    let mut sign_in = pin!(session.sign_in(User("ada".into())).into_future());
    assert!(sign_in.as_mut().poll(&mut cx).is_pending());
    gate.release();
    write.await.unwrap();
    sign_in.await.unwrap();
    assert_eq!(session.value::<Theme>(), Theme("dark".into()));
    assert_eq!(session.principal(), Some(Principal::new("ada")));
}

// The store has every write that returned `Ok`, also if a renewal happens during the write.
#[tokio::test]
async fn renewal_loses_no_concurrent_write() {
    for held in [Operation::Create, Operation::End, Operation::Update] {
        let (ring, clock, gate) = (ring(), ManualClock::new(), SpyStore::new());
        let node =
            || Node::new(builder(&ring, &clock).value::<Note>().tier(SharedTier::new(gate.clone())).build().unwrap());
        let mut browser = Browser::new();
        let here = node();
        browser.visit(&here, async |s| s.set(Note("one".into())).await.unwrap()).await;
        let store = gate.clone();
        browser
            .visit(&here, async move |s| {
                store.hold_answers(held);
                let (mut renewal, mut write) = (pin!(s.renew()), pin!(s.set(Note("two".into()))));
                {
                    let mut cx = Context::from_waker(Waker::noop());
                    // The operation that the store holds goes first, and the other operation waits.
                    if held == Operation::Update {
                        assert!(write.as_mut().poll(&mut cx).is_pending());
                    }
                    assert!(renewal.as_mut().poll(&mut cx).is_pending());
                    assert!(write.as_mut().poll(&mut cx).is_pending());
                }
                store.release();
                let (renewed, written) = tokio::join!(renewal, write);
                renewed.unwrap();
                written.unwrap();
                assert_eq!(s.value::<Note>(), Note("two".into()));
            })
            .await;
        assert_eq!(
            browser.visit(&node(), async |s| s.value::<Note>()).await,
            Note("two".into()),
            "on another node, {held:?}"
        );
    }
}

// R4: a sign-out while a write waits for the store ends the session, and the write is refused.
#[tokio::test]
async fn sign_out_refuses_pending_write() {
    let (gate, app) = gated(Operation::Update);
    let mut browser = app.dark().await;
    let socket = browser.open(&app.node).await;
    let late = browser.clone();
    let writing = tokio::spawn(async move { kind(socket.set(Visits(1)).await) });
    tokio::task::yield_now().await;
    browser.visit(&app.node, async |session| session.sign_out().await.unwrap()).await;
    gate.release();
    assert_eq!(writing.await.unwrap(), Some(WriteErrorKind::Closed));
    for node in [&app.node, &app.start()] {
        assert_eq!(late.theme(node).await, Theme::default());
        assert_eq!(visits(&late, node).await, Visits(0));
    }
}

#[tokio::test]
async fn dropped_first_write_leaves_no_record() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), SpyStore::new());
    let node = Node::new(builder(&ring, &clock).tier(SharedTier::new(gate.clone())).build().unwrap());
    let session = Browser::new().visit(&node, async |s| s).await;
    gate.hold_answers(Operation::Create);
    assert!(at_once(session.set(Theme("dark".into()))).is_none());
    assert_eq!(node.sessions.stats().records, 0);
}

#[tokio::test]
async fn dropped_renewal_rereads_old_id() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), SpyStore::new());
    let node = Node::new(builder(&ring, &clock).tier(SharedTier::new(gate.clone())).build().unwrap());
    let mut browser = first_write(&node, Theme("dark".into())).await;
    let session = under_way(&browser, &node).await;
    gate.hold_answers(Operation::End);
    assert!(at_once(session.renew()).is_none(), "the store has ended the old id");
    assert_eq!(node.sessions.stats().records, 1);
    assert_eq!(browser.visit(&node, async |s| s.value::<Theme>()).await, Theme::default());
    assert!(session.set(Visits(1)).await.is_err(), "the open handle learns of the end too");
}

#[tokio::test]
async fn dropped_renewal_unblocks_writes() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), SpyStore::new());
    let node = Node::new(builder(&ring, &clock).value::<Note>().tier(SharedTier::new(gate.clone())).build().unwrap());
    let browser = first_write(&node, Note("one".into())).await;
    let session = under_way(&browser, &node).await;
    gate.hold_answers(Operation::Create);
    assert!(at_once(session.renew()).is_none());
    gate.release();
    session.set(Note("two".into())).await.unwrap();
    assert_eq!(session.value::<Note>(), Note("two".into()));
}

// The store may hold a dropped write whose reply was pending, so memory reads again, even after later writes.
#[tokio::test]
async fn dropped_write_forces_reread() {
    let (gate, app) = gated(Operation::Update);
    let mut browser = app.dark().await;
    let socket = browser.open(&app.node).await;
    let dropped = tokio::spawn({
        let socket = socket.clone();
        async move { socket.set(Visits(1)).await }
    });
    tokio::task::yield_now().await;
    let other = tokio::spawn(async move { socket.set(Theme("light".into())).await });
    tokio::task::yield_now().await;
    dropped.abort();
    assert!(dropped.await.is_err());
    gate.release();
    other.await.unwrap().unwrap();
    gate.take_operations();
    browser.theme(&app.node).await;
    assert_eq!(gate.take_operations(), [Operation::Read]);
}

#[tokio::test]
async fn dropped_write_is_reread_after_other_write() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), SpyStore::new());
    let node = Node::new(builder(&ring, &clock).tier(SharedTier::new(gate.clone())).build().unwrap());
    let mut browser = first_write(&node, Visits(1)).await;
    let session = browser.visit(&node, async |s| s).await;
    gate.hold_answers(Operation::Update);
    {
        let mut ends = pin!(session.set(Visits(2)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(ends.as_mut().poll(&mut cx).is_pending());
        assert!(
            at_once(session.set(Theme("dark".into()))).is_none(),
            "the store takes the write, and the caller drops the write"
        );
        gate.release();
        ends.await.unwrap();
    }
    assert_eq!(browser.visit(&node, async |s| s.value::<Theme>()).await, Theme("dark".into()));
}

#[tokio::test]
async fn running_load_confirms_no_removed_key() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), SpyStore::new());
    let first = Node::new(builder(&ring, &clock).tier(SharedTier::new(gate.clone())).build().unwrap());
    let browser = first_write(&first, Theme("dark".into())).await;
    let second = Node::new(builder(&ring, &clock).tier(SharedTier::new(gate.clone())).build().unwrap());
    let other: Vec<u8> = (0..64u8).map(|at| at.wrapping_mul(73) ^ 0x5a).collect();
    let mut late = browser.clone();
    gate.hold_requests(Operation::Read);
    let mut loading = pin!(second.ask(browser.request(), async |s| s.value::<Theme>()));
    assert!(loading.as_mut().now_or_never().is_none(), "the load waits for the store");
    ring.replace([other]).unwrap();
    gate.release();
    loading.await;
    assert_eq!(late.visit(&second, async |s| s.value::<Theme>()).await, Theme::default());
}

// G12: no caller learns of a session's end while the answer of a write could bring the session back. A `touch` during
// the write still extends the session after the answer.
#[tokio::test]
async fn pending_write_delays_expiry() {
    let gate = SpyStore::new();
    let shared = gate.clone();
    let app = App::with(move |builder| builder.tier(SharedTier::new(shared.clone())).idle(HOUR));
    let mut browser = app.dark().await;
    let session = browser.open(&app.node).await;
    app.clock.advance(HOUR - TICK);
    gate.hold_requests(Operation::Update);
    let mut write = pin!(session.set(Theme("light".into())));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(write.as_mut().poll(&mut cx).is_pending());
    app.clock.advance(2 * TICK);
    assert_eq!(session.closed().now_or_never(), None);
    session.touch().await.unwrap();
    gate.release();
    assert!(write.as_mut().poll(&mut cx).is_ready());
    assert_eq!((session.value(), session.expires_at()), (Theme("light".into()), Some(app.clock.now() + HOUR)));
}

#[tokio::test]
async fn principal_value_written_during_load_reaches_cookie() {
    let (app, gate) = (App::new(), SpyStore::new());
    let over_store = || app.start_with(|sessions| sessions.tier(SharedTier::new(gate.clone())));
    let (first, node) = (over_store(), over_store());
    let mut browser = signed_in(&first, "ada").await;
    set(&mut browser, &first, Division(3)).await;
    let mut visit = Box::pin(browser.visit(&node, async |session| session.value::<Theme>()));
    gate.hold_answers(Operation::Read);
    assert!(visit.as_mut().now_or_never().is_none(), "the records of the session and of the user are on their way");
    gate.release();
    let write = async {
        let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
        job.set(Division(4)).await.unwrap();
    };
    at_once(write).unwrap();
    visit.await;
    assert_eq!(carried::<Division>(&browser, &app).await, Division(4));
}
