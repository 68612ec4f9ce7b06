//! The calls that a shared store receives, and the effects of its answers: errors, refusals, unknown sessions.

use std::convert::Infallible;

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use layered_session::{
    CloseReason, DefaultTier, LayeredSessionLayer, MissingSessionKind, Principal, Session, SharedTier, WriteErrorKind,
    testing::{Call, ManualClock, Operation, SpyStore},
    tier::{
        Ask, Commit, CommitKind, Committed, Found, Snapshot, Store, StoreFuture, StoredRecord, TierFuture, Touch,
        Version,
    },
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    App, BoxFuture, Browser, Division, Node, Theme, Trace, User, Visits, builder, chain, cookie, dark, first_write,
    kind, memory, ring, set_cookies, sign_in, signed_in, source, store, theme, ticking, under_way,
};
use crate::writes::{count, stored, visits};

#[tokio::test]
async fn batch_is_one_store_commit() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    store.take_operations();
    let batch = async |session: Session| {
        session.batch().set(Visits(1)).update(|theme: &mut Theme| theme.0.push('!')).commit().await.unwrap();
    };
    browser.told(&site.node, batch).await;
    assert_eq!(store.take_operations(), [Operation::Update]);
    assert_eq!(browser.theme(&site.start()).await, Theme("dark!".into()));
}

#[tokio::test]
async fn removing_absent_value_skips_store() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    store.take_operations();
    let absent = async |session: Session| {
        session.remove::<Visits>().await.unwrap();
        session.take::<Visits>().await.unwrap();
    };
    browser.told(&site.node, absent).await;
    assert_eq!(store.take_operations(), []);
}

// G9: a write that fails in the store changes no value, no user and no cookie, on this node and on another node.
#[tokio::test]
async fn failed_store_write_changes_nothing() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    let (socket, request) = (browser.open(&site.node).await, under_way(&browser, &site.node).await);
    store.fail();
    let failed = [
        kind(socket.set(Theme("light".into())).await),
        kind(socket.update(|visits: &mut Visits| visits.0 += 1).await),
        kind(socket.remove::<Theme>().await),
        kind(socket.take::<Theme>().await),
        kind(socket.clear().await),
        kind(request.renew().await),
        kind(request.sign_in(User("ada".into())).await),
        kind(socket.destroy().await),
    ];
    assert_eq!(failed, [Some(WriteErrorKind::Unavailable); 8]);
    drop((socket, request));
    let (headers, error) =
        Browser::new().visit_seen(&site.node, async |session| session.set(dark()).await.unwrap_err()).await;
    assert_eq!((error.status().as_u16(), set_cookies(&headers).len()), (503, 0));
    assert_eq!(site.node.sessions.stats().records, 1);

    store.heal();
    for node in [&site.node, &site.start()] {
        assert_eq!(browser.theme(node).await, dark());
        assert_eq!(visits(&browser, node).await, Visits(0));
        let principal = browser.clone().visit(node, async |session| session.principal().is_none()).await;
        assert!(principal);
    }
}

#[tokio::test]
async fn failed_write_rereads_store_once() {
    type Write = fn(Session) -> BoxFuture<Option<WriteErrorKind>>;
    let writes: [Write; 2] = [
        |session| Box::pin(async move { kind(session.set(Visits(1)).await) }),
        |session| Box::pin(async move { kind(session.set(Division(1)).await) }),
    ];
    for write in writes {
        let (store, site) = stored();
        let mut browser = site.dark().await;
        let sign_in = async |session: Session| {
            session.sign_in(User("ada".into())).await.unwrap();
            session.set(Division(2)).await.unwrap();
        };
        browser.visit(&site.node, sign_in).await;
        store.fail();
        assert_eq!(browser.visit(&site.node, write).await, Some(WriteErrorKind::Unavailable));
        store.heal();
        store.take_operations();
        for asked in [1, 0] {
            assert_eq!(browser.visit(&site.node, async |session| session.value::<Division>()).await, Division(2));
            assert_eq!(store.take_operations(), vec![Operation::Read; asked]);
        }
    }
}

// G6: a load that needs the store fails with 503 during an outage. A visitor without a cookie needs no store.
#[tokio::test]
async fn store_outage_fails_load_with_503() {
    let (store, site) = stored();
    let browser = site.dark().await;
    let cold = site.start();
    store.fail();
    let load = service_fn(async |request: http::Request<http_body_util::Full<bytes::Bytes>>| {
        let error = Session::load(request.extensions()).await.unwrap_err();
        Ok::<_, std::convert::Infallible>(http::Response::new(error.kind()))
    });
    let response = LayeredSessionLayer::new(cold.sessions.clone()).layer(load).oneshot(browser.request());
    assert_eq!(response.await.unwrap().into_body(), MissingSessionKind::Unavailable);

    let page = Router::new().route("/", get(async |session: Session| session.value::<Theme>().0));
    let page = page.layer(LayeredSessionLayer::new(cold.sessions.clone()));
    let request = |browser: &Browser| browser.request().map(axum::body::Body::new);
    assert_eq!(page.clone().oneshot(request(&browser)).await.unwrap().status(), 503);
    assert_eq!(page.clone().oneshot(request(&Browser::new())).await.unwrap().status(), 200, "a visitor needs no store");
    store.heal();
    let response = page.oneshot(request(&browser)).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "dark");
}

// R35: an outage fails the load and keeps the cookie, so a signed-in user never counts as anonymous.
#[tokio::test]
async fn store_outage_makes_no_user_anonymous() {
    let (ring, clock, store) = (ring(), ManualClock::new(), SpyStore::new());
    let start = || Node::new(builder(&ring, &clock).tier(SharedTier::new(store.clone())).build().unwrap());
    let mut browser = signed_in(&start(), "ada").await;
    store.fail();
    let ask = service_fn(|request: Request<Full<Bytes>>| async move {
        let kind = Session::load(request.extensions()).await.map(drop).unwrap_err().kind();
        assert!(Session::from_extensions(request.extensions()).is_none());
        Ok::<_, Infallible>(Response::new(kind))
    });
    let cold = start();
    let asked = LayeredSessionLayer::new(cold.sessions.clone()).layer(ask).oneshot(browser.request()).await.unwrap();
    assert_eq!(*asked.body(), MissingSessionKind::Unavailable);
    assert!(
        asked.headers().get(header::SET_COOKIE).is_none(),
        "the browser keeps the cookie until the store answers again"
    );
    store.heal();
    assert_eq!(browser.visit(&cold, async |s| s.principal()).await, Some(Principal::new("ada")));
}

// R2: a genuine cookie of a session that the store does not have loads no session, and the next write begins a session
// with a new id.
#[tokio::test]
async fn session_missing_in_store_stays_absent() {
    let (_, site) = stored();
    let browser = site.dark().await;
    let node = Node::new(builder(&site.ring, &site.clock).tier(SharedTier::new(SpyStore::new())).build().unwrap());
    assert_eq!(browser.theme(&node).await, Theme::default());
    let mut writing = browser.clone();
    writing.visit(&node, count).await;
    assert_eq!(writing.theme(&node).await, Theme::default());
    assert_ne!(writing.token()[..56], browser.token()[..56], "the new session has another id");
}

// R3: a renewal creates the new record in the store before the renewal ends the old record.
#[tokio::test]
async fn renewal_creates_new_before_ending_old() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    let old = browser.clone();
    store.take_operations();
    browser.visit(&site.node, async |session| session.renew().await.unwrap()).await;
    let expected = [Operation::Create, Operation::End];
    assert_eq!(store.take_operations(), expected);
    for node in [&site.node, &site.start()] {
        assert_eq!(browser.theme(node).await, dark());
        assert_eq!(old.theme(node).await, Theme::default());
        let write = async |session: Session| kind(session.set(Visits(1)).await);
        assert_eq!(old.clone().visit(node, write).await, Some(WriteErrorKind::Closed));
    }
}

#[tokio::test]
async fn outdated_snapshot_is_counted_in_bytes() {
    let theirs = || {
        let long = bytes::Bytes::from(vec![b'7'; 10_000]);
        StoredRecord::new(Version::ZERO).with_entry("current_division_id", Some(long), Version::from_u64(1 << 40))
    };
    let clock = ManualClock::new();
    let node = Node::new(
        builder(&ring(), &clock)
            .tier(store(
                "faster",
                |_| Snapshot::Present(StoredRecord::new(Version::ZERO)),
                move |_| Committed::Outdated(theirs()),
            ))
            .build()
            .unwrap(),
    );
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    let update = ticking(&clock, job.update(|division: &mut Division| division.0 = 3));
    assert!(update.await.is_err());
    assert!(node.sessions.stats().bytes > 10_000);
}

// G13: the end of a renewed session names the successor, so that a sign-out with the old cookie can end the successor
// too. The end by a sign-in names none.
#[tokio::test]
async fn end_names_reason_and_successor() {
    let (store, site) = stored();
    let mut browser = signed_in(&site.node, "ada").await;
    let mut ended = async |act: fn(Session) -> BoxFuture<()>| {
        store.take_calls();
        browser.visit(&site.node, act).await;
        let calls = store.take_calls();
        let created = calls.iter().find(|call| call.operation() == Operation::Create).map(Call::owner);
        let end = calls.iter().find(|call| call.operation() == Operation::End).and_then(Call::kind).unwrap();
        (end, created)
    };
    let (renewed, created) = ended(|session| Box::pin(async move { session.renew().await.unwrap() })).await;
    assert_eq!(renewed, CommitKind::End { reason: CloseReason::Renewed, successor: created });
    let (signed_in, created) = ended(|s| Box::pin(async move { s.sign_in(User("bob".into())).await.unwrap() })).await;
    assert_eq!(signed_in, CommitKind::End { reason: CloseReason::Renewed, successor: None });
    assert!(created.is_some());
    let (destroyed, _) = ended(|session| Box::pin(async move { session.destroy().await.unwrap() })).await;
    assert_eq!(destroyed, CommitKind::End { reason: CloseReason::Destroyed, successor: None });
    sign_in(&mut browser, &site.node, "ada").await;
    store.take_calls();
    browser.visit(&site.node, async |session| session.end_all_sessions().await.unwrap()).await;
    let end = store.take_calls().iter().find_map(Call::kind);
    assert_eq!(end, Some(CommitKind::End { reason: CloseReason::Revoked, successor: None }));
}

/// A store whose records another program also writes, under names that no declaration can have.
#[derive(Clone, Debug, Default)]
struct Shared(SpyStore);

impl Store for Shared {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        let names = || [65, 256 + 5, 3 * 256].map(|len| "x".repeat(len)).into_iter();
        let add = |stored: StoredRecord, name| stored.with_entry(name, Some("1".into()), Version::ZERO);
        StoreFuture::boxed(async move {
            let snapshots = self.0.read(asks).await?.into_iter().map(|snapshot| match snapshot {
                Snapshot::Present(stored) => Snapshot::Present(names().fold(stored, add)),
                other => other,
            });
            Ok(snapshots.collect())
        })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        self.0.commit(commit)
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        self.0.touch(touches)
    }
}

#[tokio::test]
async fn invalid_stored_names_are_ignored() {
    let (app, store) = (App::new(), Shared::default());
    let node = || app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let mut browser = first_write(&node(), Theme("dark".into())).await;
    let another = node();
    browser.visit(&another, async |s| s.set(Visits(1)).await.unwrap()).await;
    let seen = async |s: Session| (s.value::<Theme>(), s.value::<Visits>());
    assert_eq!(browser.visit(&node(), seen).await, (Theme("dark".into()), Visits(1)));
}

// G6: a source that fails is traced, and the next tier answers.
#[tokio::test]
async fn next_tier_answers_for_failing_source() {
    for (answer, expected, traced) in [(Ok(dark()), "tenant", 0), (Err("the tenants' table is away"), "default", 1)] {
        let tenant = source("tenant", move |_| match &answer {
            Ok(theme) => TierFuture::ready(Found::value(theme)),
            Err(error) => TierFuture::ready(Err((*error).into())),
        });
        let chain = chain(memory(), cookie(&ring()), &ManualClock::new()).tier(tenant);
        let chain = chain.tier(DefaultTier::new().value(theme("plain"))).value::<Theme>();
        let node = Node::new(chain.build().unwrap());
        let (trace, _guard) = Trace::begin();
        let origin = Browser::new().visit(&node, async |session| session.value_source::<Theme>().tier()).await;
        assert_eq!((origin, trace.lines_with("the tenants' table is away")), (expected, traced));
    }
}
