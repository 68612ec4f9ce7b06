//! The same, over a shared store: what is left when nobody waits for its answer.

use std::{
    future::{Future, IntoFuture},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Waker},
};

use http::Response;
use http_body_util::Full;
use layered_session::{
    Commit, CommitKind, Committed, Found, Lookup, Principal, Role, Session, Tier, TierFuture, Version,
    testing::{ManualClock, SpyStore},
};

use crate::{
    review::{identified_by_head, now_or_never, visit_as},
    world::{BoxFuture, Browser, Division, Node, Theme, User, Visits, builder, ring},
};

type Hook = Box<dyn FnOnce() + Send>;

/// A store whose answers to writes wait while they are held, and which runs something of a test's at a read.
#[derive(Clone, Default)]
struct Gate {
    store: SpyStore,
    held: Arc<Mutex<Vec<CommitKind>>>,
    on_read: Arc<Mutex<Option<Hook>>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    fn hold(&self, kinds: &[CommitKind]) {
        *self.held.lock().unwrap() = kinds.to_vec();
    }
}

impl Tier for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::boxed(async move {
            if let Some(run) = self.on_read.lock().unwrap().take() {
                run();
            }
            self.store.read(lookup).await
        })
    }

    fn write<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        TierFuture::boxed(async move {
            let committed = self.store.write(commit).await;
            while self.held.lock().unwrap().contains(&commit.kind()) {
                tokio::task::yield_now().await;
            }
            committed
        })
    }
}

#[tokio::test]
async fn a_first_write_dropped_while_the_store_thinks_leaves_nothing() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), Gate::default());
    let node = Node::new(builder(&ring, &clock).tier(gate.clone()).build().unwrap());
    let session = Browser::new().visit(&node, async |s| s).await;
    gate.hold(&[CommitKind::Create]);
    assert!(now_or_never(session.set(Theme("dark".into()))).is_none());
    assert_eq!(node.sessions.stats().records, 0);
}

#[tokio::test]
async fn an_id_whose_renewal_was_dropped_half_way_is_asked_for_again() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), Gate::default());
    let node = Node::new(builder(&ring, &clock).tier(gate.clone()).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    let session = browser.visit(&node, async |s| s).await;
    gate.hold(&[CommitKind::End]);
    assert!(now_or_never(session.renew()).is_none(), "the store has retired the old id");
    assert_eq!(node.sessions.stats().records, 1);
    assert_eq!(browser.visit(&node, async |s| s.get::<Theme>()).await, Theme::default());
    assert!(session.set(Visits(1)).await.is_err(), "the open handle learns of it too");
}

#[tokio::test]
async fn a_key_replaced_during_the_load_vouches_for_nothing() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), Gate::default());
    let first = Node::new(builder(&ring, &clock).tier(gate.clone()).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&first, async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    let second = Node::new(builder(&ring, &clock).tier(gate.clone()).build().unwrap());
    let other: Vec<u8> = (0..64u8).map(|at| at.wrapping_mul(73) ^ 0x5a).collect();
    let replaced = ring.clone();
    *gate.on_read.lock().unwrap() = Some(Box::new(move || replaced.replace([other]).unwrap()));
    let mut late = browser.clone();
    let load = |s: Session| Box::pin(async move { (Response::new(Full::default()), s.get::<Theme>()) }) as BoxFuture<_>;
    second.handle(browser.request(), load).await;
    assert_eq!(late.visit(&second, async |s| s.get::<Theme>()).await, Theme::default());
}

#[tokio::test]
async fn a_write_that_ends_does_not_clear_the_doubt_of_one_that_was_dropped() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), Gate::default());
    let node = Node::new(builder(&ring, &clock).tier(gate.clone()).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.set(Visits(1)).await.unwrap()).await;
    let session = browser.visit(&node, async |s| s).await;
    gate.hold(&[CommitKind::Update]);
    {
        let mut ends = pin!(session.set(Visits(2)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(ends.as_mut().poll(&mut cx).is_pending());
        assert!(now_or_never(session.set(Theme("dark".into()))).is_none(), "taken by the store, and dropped");
        gate.hold(&[]);
        ends.await.unwrap();
    }
    assert_eq!(browser.visit(&node, async |s| s.get::<Theme>()).await, Theme("dark".into()));
}

#[tokio::test]
async fn a_principal_whom_the_head_names_is_read_from_the_store() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let node = || Node::new(identified_by_head(&ring, &clock).tier(store.clone()).build().unwrap());
    node().sessions.of(Principal::new("ada")).await.unwrap().set(Division(3)).await.unwrap();
    let (_, division) = visit_as(&mut Browser::new(), &node(), Some("ada"), async |s| s.get::<Division>()).await;
    assert_eq!(division, Division(3));
}

#[tokio::test]
async fn a_sign_in_keeps_what_a_clone_writes_meanwhile() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), Gate::default());
    let node = Node::new(builder(&ring, &clock).tier(gate.clone()).build().unwrap());
    let session = Browser::new().visit(&node, async |s| s).await;
    gate.hold(&[CommitKind::Create]);
    let mut cx = Context::from_waker(Waker::noop());
    let mut write = pin!(session.set(Theme("dark".into())));
    assert!(write.as_mut().poll(&mut cx).is_pending());
    let mut sign_in = pin!(session.sign_in(User("ada".into())).into_future());
    assert!(sign_in.as_mut().poll(&mut cx).is_pending());
    gate.hold(&[]);
    write.await.unwrap();
    sign_in.await.unwrap();
    assert_eq!(session.get::<Theme>(), Theme("dark".into()));
    assert_eq!(session.principal(), Some(Principal::new("ada")));
}

#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Stock(u32);

impl layered_session::SessionValue for Stock {
    const NAME: &'static str = "stock";
    const PLACEMENT: layered_session::Placement = layered_session::Placement::Server;
}

// What was answered with `Ok` is in the store, whatever turn the session takes meanwhile.
#[tokio::test]
async fn a_renewal_keeps_what_a_clone_writes_meanwhile() {
    for held in [CommitKind::Create, CommitKind::End, CommitKind::Update] {
        let (ring, clock, gate) = (ring(), ManualClock::new(), Gate::default());
        let node = || Node::new(builder(&ring, &clock).value::<Stock>().tier(gate.clone()).build().unwrap());
        let mut browser = Browser::new();
        let here = node();
        browser.visit(&here, async |s| s.set(Stock(1)).await.unwrap()).await;
        let store = gate.clone();
        browser
            .visit(&here, async move |s| {
                store.hold(&[held]);
                let (mut renewal, mut write) = (pin!(s.renew()), pin!(s.set(Stock(2))));
                {
                    let mut cx = Context::from_waker(Waker::noop());
                    // The one that is at the store goes first, and the other waits for it.
                    if held == CommitKind::Update {
                        assert!(write.as_mut().poll(&mut cx).is_pending());
                    }
                    assert!(renewal.as_mut().poll(&mut cx).is_pending());
                    assert!(write.as_mut().poll(&mut cx).is_pending());
                }
                store.hold(&[]);
                let (renewed, written) = tokio::join!(renewal, write);
                renewed.unwrap();
                written.unwrap();
                assert_eq!(s.get::<Stock>(), Stock(2));
            })
            .await;
        assert_eq!(browser.visit(&node(), async |s| s.get::<Stock>()).await, Stock(2), "on another node, {held:?}");
    }
}

#[tokio::test]
async fn a_renewal_that_is_dropped_lets_writes_go_on() {
    let (ring, clock, gate) = (ring(), ManualClock::new(), Gate::default());
    let node = Node::new(builder(&ring, &clock).value::<Stock>().tier(gate.clone()).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node, async |s| s.set(Stock(1)).await.unwrap()).await;
    let session = browser.visit(&node, async |s| s).await;
    gate.hold(&[CommitKind::Create]);
    assert!(now_or_never(session.renew()).is_none());
    gate.hold(&[]);
    session.set(Stock(2)).await.unwrap();
    assert_eq!(session.get::<Stock>(), Stock(2));
}

/// A store in which somebody else was always faster.
#[derive(Clone, Copy, Debug)]
struct Faster;

impl Tier for Faster {
    fn name(&self) -> &'static str {
        "faster"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::ready(Ok(Found::nothing()))
    }

    fn write<'a>(&'a self, _: Commit<'a>) -> TierFuture<'a, Committed> {
        let theirs = bytes::Bytes::from(vec![b'7'; 10_000]);
        let found = Found::nothing().entry("of_another_build", Some(theirs), Version::from_u64(1 << 40));
        TierFuture::ready(Ok(Committed::Outdated(found)))
    }
}

#[tokio::test]
async fn what_came_with_a_refusal_is_counted() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).tier(Faster).build().unwrap());
    let job = node.sessions.of(Principal::new("ada")).await.unwrap();
    assert!(job.update(|division: &mut Division| division.0 = 3).await.is_err());
    assert!(node.sessions.stats().bytes > 10_000);
}

/// A store in whose records another program writes as well, under names that no declaration can have.
#[derive(Clone, Debug, Default)]
struct Shared(SpyStore);

impl Tier for Shared {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::boxed(async move {
            let found = self.0.read(lookup).await?;
            let names = [65, 256 + 5, 3 * 256].map(|len| "x".repeat(len));
            Ok(names.into_iter().fold(found, |found, name| found.entry(name, Some("1".into()), Version::ZERO)))
        })
    }

    fn write<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        self.0.write(commit)
    }
}

#[tokio::test]
async fn a_name_in_the_store_that_no_value_can_have_spoils_no_cookie() {
    let (ring, clock, store) = (ring(), ManualClock::new(), Shared::default());
    let node = || Node::new(builder(&ring, &clock).tier(store.clone()).build().unwrap());
    let mut browser = Browser::new();
    browser.visit(&node(), async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    let another = node();
    browser.visit(&another, async |s| s.set(Visits(1)).await.unwrap()).await;
    let seen = async |s: Session| (s.get::<Theme>(), s.get::<Visits>());
    assert_eq!(browser.visit(&node(), seen).await, (Theme("dark".into()), Visits(1)));
}
