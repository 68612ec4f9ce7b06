//! Writes: what `Ok` promises, what an error leaves as it was, and what many writers at once come to.

use std::{
    sync::{Arc, Barrier},
    time::Duration,
};

use axum::{Router, routing::get};
use futures_util::{FutureExt, future::join_all};
use layered_session::{
    Closed, Commit, CommitKind, Committed, CookieTier, DefaultTier, Found, LayeredSessionLayer, Lookup, MemoryTier,
    MissingSessionKind, Placement, Principal, Role, Scope, Session, SessionValue, Sessions, Tier, TierFuture,
    WriteError, WriteErrorKind,
    testing::{ManualClock, Operation, SpyStore},
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::Semaphore};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    site::{Site, dark},
    trace::Trace,
    world::{Answer, BoxFuture, Browser, DAY, Division, Node, Theme, User, Visits, builder, ring, set_cookies},
};

/// What the server keeps to itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note(String);

impl SessionValue for Note {
    const NAME: &'static str = "note";
    const PLACEMENT: Placement = Placement::Server;
}

/// What may be lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Scratch(String);

impl SessionValue for Scratch {
    const NAME: &'static str = "scratch";
    const PLACEMENT: Placement = Placement::Volatile;
}

/// The principal's, of any size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bio(String);

impl SessionValue for Bio {
    const NAME: &'static str = "bio";
    const SCOPE: Scope = Scope::Principal;
}

async fn visits(browser: &Browser, node: &Node) -> Visits {
    browser.clone().visit(node, async |session| session.get::<Visits>()).await
}

async fn count(session: Session) {
    session.update(|visits: &mut Visits| visits.0 += 1).await.unwrap();
}

/// Runs all at once, on as many threads as there are.
async fn all(tasks: impl IntoIterator<Item = BoxFuture<()>>) {
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, WriteError>) -> WriteErrorKind {
    result.unwrap_err().kind()
}

// Many writers.

// Acceptance 56.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_increments_as_there_are_writers() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let mut handles = Vec::new();
    for _ in 0..64 {
        handles.push(browser.open(&site.node).await);
    }
    all(handles.into_iter().map(|session| Box::pin(count(session)) as BoxFuture<()>)).await;
    assert_eq!(visits(&browser, &site.node).await, Visits(64));
    browser.read(&site.node).await;
    assert_eq!(visits(&browser, &site.cold()).await, Visits(64));
}

// Acceptance 56: among them is the one that makes the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clones_that_write_first_at_once_make_one_session() {
    let site = Site::new();
    let mut browser = Browser::new();
    let write = async |session: Session| {
        all((0..64).map(|_| Box::pin(count(session.clone())) as BoxFuture<()>)).await;
    };
    assert_eq!(browser.told(&site.node, write).await.len(), 1);
    assert_eq!(visits(&browser, &site.cold()).await, Visits(64));
    assert_eq!(site.node.sessions.stats().records, 1);
}

// Acceptance 56: the moment between the look and the making is short, so it takes many rounds to hit it.
#[tokio::test]
async fn threads_that_write_first_in_the_same_moment_make_one_session() {
    const ROUNDS: usize = 500;
    let site = Site::new();
    for _ in 0..ROUNDS {
        let (session, start) = (Browser::new().open(&site.node).await, Arc::new(Barrier::new(2)));
        let writers = [(); 2].map(|()| {
            let (session, start, runtime) = (session.clone(), Arc::clone(&start), Handle::current());
            tokio::task::spawn_blocking(move || {
                start.wait();
                runtime.block_on(count(session));
            })
        });
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(session.get::<Visits>(), Visits(2));
    }
    assert_eq!(site.node.sessions.stats().records, ROUNDS);
}

// Acceptance 56: two nodes over one store, each with a memory of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn increments_on_two_nodes_are_all_counted_by_the_store() {
    let (_, site) = stored();
    let nodes = [site.node.clone(), site.cold()];
    let mut browser = site.dark().await;
    let mut handles = Vec::new();
    for n in 0..64 {
        handles.push(browser.open(&nodes[n % 2]).await);
    }
    all(handles.into_iter().map(|session| Box::pin(count(session)) as BoxFuture<()>)).await;
    assert_eq!(visits(&browser, &site.cold()).await, Visits(64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_take_a_value_one_gets_it() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let got = Arc::new(Semaphore::new(0));
    let mut handles = Vec::new();
    for _ in 0..32 {
        handles.push(browser.open(&site.node).await);
    }
    let take = |session: Session| {
        let got = Arc::clone(&got);
        Box::pin(async move {
            if let Some(theme) = session.take::<Theme>().await.unwrap() {
                assert_eq!(theme, dark());
                got.add_permits(1);
            }
        }) as BoxFuture<()>
    };
    all(handles.into_iter().map(take)).await;
    assert_eq!(got.available_permits(), 1);
    assert_eq!(browser.theme(&site.node).await, Theme::default());
}

#[tokio::test]
async fn what_was_taken_on_one_node_is_not_taken_again_on_another() {
    let (_, site) = stored();
    let mut browser = site.dark().await;
    let take = async |session: Session| session.take::<Theme>().await.unwrap();
    let (node, other) = (&site.node, site.cold());
    assert_eq!(browser.theme(&other).await, dark());
    assert_eq!(browser.clone().visit(node, take).await, Some(dark()));
    assert_eq!(browser.visit(&other, take).await, None);
}

// Acceptance 33, 49.
#[tokio::test]
async fn writers_of_different_values_keep_each_others() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let (one, other) = (browser.open(&site.node).await, browser.open(&site.node).await);
    one.set(Visits(7)).await.unwrap();
    other.set(Theme("light".into())).await.unwrap();
    browser.read(&site.node).await;
    for node in [&site.node, &site.cold()] {
        let both = browser.clone().visit(node, async |session| (session.get::<Theme>(), session.get::<Visits>())).await;
        assert_eq!(both, (Theme("light".into()), Visits(7)));
    }
}

// All or nothing.

#[tokio::test]
async fn a_batch_is_written_whole_or_not_at_all() {
    let site = Site::with(|builder| builder.value::<Bio>());
    let mut browser = site.dark().await;
    let batch = |session: Session| async move {
        session.batch().set(Theme("light".into())).update(|visits: &mut Visits| visits.0 += 2).commit().await
    };
    browser.visit(&site.node, batch).await.unwrap();
    let refused = async |session: Session| {
        let light = || session.batch().set(Theme("no".into()));
        [
            kind(light().set(Visits(9)).set(Division(3)).commit().await),
            kind(light().set(Theme("twice".into())).commit().await),
            kind(light().set(Visits(9)).set(Bio("x".repeat(5000))).commit().await),
            kind(session.batch().set(Division(1)).set(Bio("x".repeat(5000))).commit().await),
            kind(session.batch().set(Bio("x".into())).set(Division(99)).commit().await),
            kind(light().set(User("eve".into())).commit().await),
            kind(light().set(Note("x".into())).commit().await),
        ]
    };
    use WriteErrorKind::{Invalid, TooLarge, Undeclared};
    let kinds = browser.clone().visit(&site.node, refused).await;
    assert_eq!(kinds, [Invalid, Invalid, Invalid, TooLarge, Invalid, Invalid, Undeclared]);
    for node in [&site.node, &site.cold()] {
        let all = async |s: Session| (s.get::<Theme>(), s.get::<Visits>(), s.get::<Division>(), s.find::<Bio>());
        let seen = browser.clone().visit(node, all).await;
        assert_eq!(seen, (Theme("light".into()), Visits(2), Division(-1), None));
    }
}

#[tokio::test]
async fn a_batch_is_one_commit_in_the_store() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    store.take_operations();
    let batch = async |session: Session| {
        session.batch().set(Visits(1)).update(|theme: &mut Theme| theme.0.push('!')).commit().await.unwrap();
    };
    browser.told(&site.node, batch).await;
    assert_eq!(store.take_operations(), [Operation::Write(CommitKind::Update)]);
    assert_eq!(browser.theme(&site.cold()).await, Theme("dark!".into()));
}

// Acceptance 45.
#[tokio::test]
async fn removing_what_is_absent_asks_the_store_for_nothing() {
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

// The browser's budget.

/// Writes the longest value that is taken, and says how long it is.
async fn fill<V: SessionValue>(session: &Session, value: fn(String) -> V) -> usize {
    let (mut fits, mut too_long) = (0, 4096);
    while fits + 1 < too_long {
        let len = (fits + too_long) / 2;
        match session.set(value("x".repeat(len))).await {
            Ok(()) => fits = len,
            Err(error) => {
                assert_eq!((error.kind(), error.names()[0]), (WriteErrorKind::TooLarge, V::NAME), "{error}");
                too_long = len;
            }
        }
    }
    session.set(value("x".repeat(fits))).await.unwrap();
    fits
}

// R20.
#[tokio::test]
async fn whatever_is_accepted_fits_the_cookie_with_both_scopes_filled_to_the_brim() {
    let (ring, clock) = (ring(), ManualClock::new());
    for name in ["a".to_owned(), "n".repeat(64)] {
        let chain = || {
            let cookie = CookieTier::sealed(ring.clone()).name(name.clone());
            let chain = Sessions::builder().tier(MemoryTier::builder().build()).tier(cookie);
            let chain = chain.value::<Theme>().value::<Visits>().value::<Bio>().value::<Division>();
            let chain = chain.identify_by::<User>(|user| Some(Principal::new(&user.0)));
            Node::new(chain.clock(clock.clone()).idle(DAY).absolute(400 * DAY).build().unwrap())
        };
        let node = chain();
        let mut browser = Browser::new();
        let brim = async |session: Session| {
            session.sign_in(User("ada".into())).await.unwrap();
            session.set(Visits(u64::MAX)).await.unwrap();
            session.set(Division(5)).await.unwrap();
            (fill(&session, Theme).await, fill(&session, Bio).await)
        };
        let (headers, (theme, bio)) = browser.visit_seen(&node, brim).await;
        let set = set_cookies(&headers);
        let len = set[0].split(';').next().unwrap().len();
        assert!((3_700..=3_800).contains(&len), "{len}");
        // It is all there on another node, and still fits at another time and under another id.
        clock.advance(DAY / 2);
        let renew = async |session: Session| {
            session.renew().await.unwrap();
            (session.get::<Theme>().0.len(), session.get::<Bio>().0.len())
        };
        let (headers, seen) = browser.visit_seen(&chain(), renew).await;
        assert_eq!(seen, (theme, bio));
        assert!(set_cookies(&headers)[0].split(';').next().unwrap().len() <= 3_800);
        assert_eq!(browser.visit(&chain(), async |session| session.get::<Bio>().0.len()).await, bio);
    }
}

// R7, R20.
#[tokio::test]
async fn what_the_browser_could_not_hold_is_refused_before_anything_is_stored() {
    let store = SpyStore::new();
    let shared = store.clone();
    for site in [Site::new(), Site::with(move |builder| builder.tier(shared.clone()))] {
        let mut browser = Browser::new();
        let too_large = async |session: Session| {
            let error = session.batch().set(Visits(1)).set(Theme("x".repeat(4000))).commit().await.unwrap_err();
            assert_eq!((error.kind(), error.status().as_u16()), (WriteErrorKind::TooLarge, 422));
            assert_eq!(error.names(), ["theme", "visits"], "the largest first");
            assert!(error.to_string().contains("theme"), "{error}");
        };
        assert!(browser.told(&site.node, too_large).await.is_empty());
        assert_eq!(site.node.sessions.stats().records, 0);
        let mut browser = site.dark().await;
        assert!(browser.told(&site.node, too_large).await.is_empty());
        assert_eq!(browser.theme(&site.node).await, dark());
        assert_eq!(visits(&browser, &site.node).await, Visits(0));
    }
    assert_eq!(store.take_operations(), [Operation::Write(CommitKind::Create)]);
}

// R20.
#[tokio::test]
async fn a_sign_in_that_would_not_fit_leaves_everything_as_it_was() {
    let site = Site::with(|builder| builder.value::<Bio>());
    let mut browser = Browser::new();
    let fill = async |session: Session| session.set(Theme("x".repeat(700))).await.unwrap();
    browser.visit(&site.node, fill).await;
    let user = User("u".repeat(800));
    let sign_in = async |session: Session| kind(session.sign_in(user).await);
    let before = browser.clone();
    assert_eq!(browser.visit(&site.node, sign_in).await, WriteErrorKind::TooLarge);
    assert_eq!(browser.token(), before.token());
    let seen = async |session: Session| (session.get::<Theme>().0.len(), session.principal());
    for node in [&site.node, &site.cold()] {
        assert_eq!(browser.clone().visit(node, seen).await, (700, None));
    }
    assert_eq!(site.node.sessions.stats().records, 1);
}

// What a store says.

fn stored() -> (SpyStore, Site) {
    let store = SpyStore::new();
    let shared = store.clone();
    (store, Site::with(move |builder| builder.tier(shared.clone()).value::<Note>()))
}

// Acceptance 50.
#[tokio::test]
async fn a_stores_error_fails_the_write_and_changes_nothing() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    let socket = browser.open(&site.node).await;
    store.fail();
    let failed = [
        kind(socket.set(Theme("light".into())).await),
        kind(socket.update(|visits: &mut Visits| visits.0 += 1).await),
        kind(socket.remove::<Theme>().await),
        kind(socket.take::<Theme>().await),
        kind(socket.clear().await),
        kind(socket.renew().await),
        kind(socket.sign_in(User("ada".into())).await),
        kind(socket.destroy().await),
    ];
    assert_eq!(failed, [WriteErrorKind::Unavailable; 8]);
    drop(socket);
    let (headers, error) =
        Browser::new().visit_seen(&site.node, async |session| session.set(dark()).await.unwrap_err()).await;
    assert_eq!((error.status().as_u16(), set_cookies(&headers).len()), (503, 0));
    assert_eq!(site.node.sessions.stats().records, 1);

    store.heal();
    for node in [&site.node, &site.cold()] {
        assert_eq!(browser.theme(node).await, dark());
        assert_eq!(visits(&browser, node).await, Visits(0));
        let principal = browser.clone().visit(node, async |session| session.principal().is_none()).await;
        assert!(principal);
    }
}

// Acceptance 50.
#[tokio::test]
async fn a_store_that_is_away_fails_the_load_with_503() {
    let (store, site) = stored();
    let browser = site.dark().await;
    let cold = site.cold();
    store.fail();
    let load = service_fn(async |request: http::Request<http_body_util::Full<bytes::Bytes>>| {
        let error = Session::load(request.extensions()).await.unwrap_err();
        Ok::<_, std::convert::Infallible>(http::Response::new(error.kind()))
    });
    let response = LayeredSessionLayer::new(cold.sessions.clone()).layer(load).oneshot(browser.request());
    assert_eq!(response.await.unwrap().into_body(), MissingSessionKind::Unavailable);

    let page = Router::new().route("/", get(async |session: Session| session.get::<Theme>().0));
    let page = page.layer(LayeredSessionLayer::new(cold.sessions.clone()));
    let request = |browser: &Browser| browser.request().map(axum::body::Body::new);
    assert_eq!(page.clone().oneshot(request(&browser)).await.unwrap().status(), 503);
    assert_eq!(page.clone().oneshot(request(&Browser::new())).await.unwrap().status(), 200, "a visitor needs no store");
    store.heal();
    let response = page.oneshot(request(&browser)).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "dark");
}

// R2: the seal is genuine, and the store has never heard of the session.
#[tokio::test]
async fn a_session_that_the_store_does_not_know_is_absent_and_is_not_made_again() {
    let (_, site) = stored();
    let browser = site.dark().await;
    let node = Node::new(builder(&site.ring, &site.clock).tier(SpyStore::new()).build().unwrap());
    assert_eq!(browser.theme(&node).await, Theme::default());
    let mut writing = browser.clone();
    writing.visit(&node, count).await;
    assert_eq!(writing.theme(&node).await, Theme::default());
    assert_ne!(writing.token()[..56], browser.token()[..56], "another id");
}

// R3.
#[tokio::test]
async fn renewal_makes_the_new_before_it_ends_the_old_in_the_store() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    let old = browser.clone();
    store.take_operations();
    browser.visit(&site.node, async |session| session.renew().await.unwrap()).await;
    let expected = [CommitKind::Create, CommitKind::End].map(Operation::Write);
    assert_eq!(store.take_operations(), expected);
    for node in [&site.node, &site.cold()] {
        assert_eq!(browser.theme(node).await, dark());
        assert_eq!(old.theme(node).await, Theme::default());
        let write = async |session: Session| kind(session.set(Visits(1)).await);
        assert_eq!(old.clone().visit(node, write).await, WriteErrorKind::Closed);
    }
}

/// A store whose commits of one kind wait for the test's word.
#[derive(Clone, Debug)]
struct Gated {
    store: SpyStore,
    waits: CommitKind,
    gate: Arc<Semaphore>,
}

impl Tier for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        self.store.read(lookup)
    }

    fn write<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        TierFuture::boxed(async move {
            if commit.kind() == self.waits {
                self.gate.acquire().await?.forget();
            }
            self.store.write(commit).await
        })
    }
}

fn gated(waits: CommitKind) -> (Gated, Site) {
    let gated = Gated { store: SpyStore::new(), waits, gate: Arc::new(Semaphore::new(0)) };
    let shared = gated.clone();
    (gated, Site::with(move |builder| builder.tier(shared.clone())))
}

// Acceptance 56: asked by all at once, the store would turn away all but one each time, and some would give up.
#[tokio::test]
async fn updates_on_one_node_queue_and_ask_the_store_once_each() {
    const UPDATES: usize = 40;
    let (gated, site) = gated(CommitKind::Update);
    let mut browser = site.dark().await;
    let session = browser.open(&site.node).await;
    gated.store.take_operations();
    let updates = (0..UPDATES).map(|n| {
        let session = session.clone();
        async move {
            match n % 2 {
                0 => count(session).await,
                _ => session.batch().update::<Visits>(|visits| visits.0 += 1).commit().await.unwrap(),
            }
        }
    });
    let open = async { gated.gate.add_permits(Semaphore::MAX_PERMITS) };
    tokio::join!(join_all(updates), open);
    assert_eq!(gated.store.take_operations(), [Operation::Write(CommitKind::Update); UPDATES]);
    assert_eq!(visits(&browser, &site.cold()).await, Visits(UPDATES as u64));
}

#[tokio::test]
async fn clones_that_write_while_the_session_is_being_made_wait_for_it() {
    let (gated, site) = gated(CommitKind::Create);
    let mut browser = Browser::new();
    let (store, gate) = (gated.store.clone(), Arc::clone(&gated.gate));
    let write = async move |session: Session| {
        let (one, other) = (session.clone(), session);
        let tasks = [
            tokio::spawn(async move { one.set(dark()).await }),
            tokio::spawn(async move { other.set(Visits(1)).await }),
        ];
        tokio::task::yield_now().await;
        gate.add_permits(2);
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    };
    browser.told(&site.node, write).await;
    assert_eq!(store.take_operations(), [CommitKind::Create, CommitKind::Update].map(Operation::Write));
    assert_eq!((browser.theme(&site.cold()).await, visits(&browser, &site.cold()).await), (dark(), Visits(1)));
}

// Acceptance 56, R4.
#[tokio::test]
async fn logout_during_a_write_stays_logged_out() {
    let (gated, site) = gated(CommitKind::Update);
    let mut browser = site.dark().await;
    let socket = browser.open(&site.node).await;
    let late = browser.clone();
    let writing = tokio::spawn(async move { kind(socket.set(Visits(1)).await) });
    tokio::task::yield_now().await;
    browser.visit(&site.node, async |session| session.sign_out().await.unwrap()).await;
    gated.gate.add_permits(1);
    assert_eq!(writing.await.unwrap(), WriteErrorKind::Closed);
    for node in [&site.node, &site.cold()] {
        assert_eq!(late.theme(node).await, Theme::default());
        assert_eq!(visits(&late, node).await, Visits(0));
    }
}

/// A source that fails or answers.
#[derive(Debug)]
struct Tenant(Result<Theme, &'static str>);

impl Tier for Tenant {
    fn name(&self) -> &'static str {
        "tenant"
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        match &self.0 {
            Ok(theme) => TierFuture::ready(Found::value(theme)),
            Err(error) => TierFuture::boxed(async { Err((*error).into()) }),
        }
    }
}

// Acceptance 50.
#[tokio::test]
async fn a_failing_source_is_traced_and_the_next_tier_answers() {
    for (source, expected, traced) in [(Ok(dark()), "tenant", 0), (Err("the tenants' table is away"), "default", 1)] {
        let (ring, clock) = (ring(), ManualClock::new());
        let chain = Sessions::builder().tier(MemoryTier::builder().build()).tier(CookieTier::sealed(ring));
        let chain = chain.tier(Tenant(source)).tier(DefaultTier::new().value(Theme("plain".into()))).value::<Theme>();
        let node = Node::new(chain.clock(clock).build().unwrap());
        let (trace, _guard) = Trace::begin();
        let origin = Browser::new().visit(&node, async |session| session.origin::<Theme>().tier()).await;
        assert_eq!((origin, trace.lines_with("the tenants' table is away")), (expected, traced));
    }
}

// Where values live.

// Acceptance 57.
#[tokio::test]
async fn a_value_that_the_cookie_does_not_hold_leaves_the_cookie_alone() {
    let (store, site) = stored();
    let mut browser = site.dark().await;
    let note = async |session: Session| session.set(Note("kept by the server".repeat(500))).await.unwrap();
    assert!(browser.told(&site.node, note).await.is_empty());
    store.take_operations();
    let read = async |session: Session| session.get::<Note>().0.len();
    assert_eq!(browser.visit(&site.node, read).await, 9000);
    assert_eq!(store.take_operations(), []);
    assert_eq!(browser.visit(&site.cold(), read).await, 9000);
}

// Acceptance 57.
#[tokio::test]
async fn a_volatile_value_is_kept_in_memory_alone() {
    let site = Site::with(|builder| builder.value::<Scratch>());
    let mut browser = site.dark().await;
    let scratch = async |session: Session| session.set(Scratch("x".repeat(9000))).await.unwrap();
    assert!(browser.told(&site.node, scratch).await.is_empty());
    let read = async |session: Session| session.find::<Scratch>().map(|scratch| scratch.0.len());
    assert_eq!(browser.clone().visit(&site.node, read).await, Some(9000));
    assert_eq!(browser.clone().visit(&site.cold(), read).await, None);
    let remove = async |session: Session| session.remove::<Scratch>().await.unwrap();
    assert!(browser.told(&site.node, remove).await.is_empty());
    assert_eq!(browser.visit(&site.node, read).await, None);
}

// Lives and ends.

// Acceptance 39, R3.
#[tokio::test]
async fn renewal_keeps_the_data_under_another_id_and_ends_the_old_one() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let (old, socket) = (browser.clone(), browser.open(&site.node).await);
    browser.visit(&site.node, async |session| session.renew().await.unwrap()).await;
    assert_ne!(browser.token()[..56], old.token()[..56]);
    assert_eq!(browser.theme(&site.node).await, dark());
    assert_eq!(browser.theme(&site.cold()).await, dark());
    assert_eq!(old.theme(&site.node).await, Theme::default());
    assert_eq!(socket.closed().now_or_never(), Some(Closed::Renewed));
    assert_eq!(kind(socket.set(Visits(1)).await), WriteErrorKind::Closed);
    assert_eq!(socket.get::<Theme>(), Theme::default());
}

// Acceptance 56, R3.
#[tokio::test]
async fn renewal_where_memory_has_lost_the_session_keeps_it() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let old = browser.clone();
    let cold = site.cold();
    browser.visit(&cold, async |session| session.renew().await.unwrap()).await;
    assert_eq!(browser.theme(&cold).await, dark());
    assert_eq!(browser.theme(&site.cold()).await, dark());
    assert_eq!(old.theme(&cold).await, Theme::default());
}

// R3: a browser that never heard of the new id has lost its session.
#[tokio::test]
async fn a_lost_renewal_is_not_healed_by_keeping_the_old_id() {
    let site = Site::new();
    let browser = site.dark().await;
    browser.clone().visit(&site.node, async |session| session.renew().await.unwrap()).await;
    for _ in 0..2 {
        assert_eq!(browser.theme(&site.node).await, Theme::default());
        site.clock.advance(Duration::from_secs(61));
    }
}

// Acceptance 48, R4.
#[tokio::test]
async fn nothing_brings_a_destroyed_session_back_on_a_node_that_knows() {
    let site = Site::with(|builder| builder.idle(6 * DAY).absolute(10 * DAY));
    let mut browser = site.dark().await;
    site.clock.advance(3 * DAY);
    browser.read(&site.node).await;
    let (late, slow) = (browser.clone(), browser.open(&site.node).await);
    let relayed = slow.relay();
    slow.set(Visits(1)).await.unwrap();
    let relay = slow.relay().unwrap();
    assert_eq!(relayed, None);
    browser.visit(&site.node, async |session| session.destroy().await.unwrap()).await;
    let closed = [
        kind(slow.set(Theme("light".into())).await),
        kind(slow.update(|visits: &mut Visits| visits.0 += 1).await),
        kind(slow.remove::<Theme>().await),
        kind(slow.take::<Theme>().await),
        kind(slow.clear().await),
        kind(slow.renew().await),
        kind(slow.sign_in(User("eve".into())).await),
        kind(slow.touch().await),
        kind(slow.batch().set(Visits(2)).commit().await),
    ];
    assert_eq!(closed, [WriteErrorKind::Closed; 9]);
    assert_eq!((slow.get::<Theme>(), slow.closed().now_or_never()), (Theme::default(), Some(Closed::Destroyed)));
    slow.destroy().await.unwrap();
    drop(slow);

    // The old cookie may make no successor for a minute, and has nothing to give to one after it.
    let write = async |session: Session| session.set(Visits(9)).await;
    assert_eq!(kind(late.clone().visit(&site.node, write).await), WriteErrorKind::Closed);
    let writeback = layered_session::SessionWriteback::new(&site.node.sessions);
    let answer: Answer = site.node.writeback(writeback, late.post_json(format!(r#"{{"$relay":"{relay}"}}"#))).await;
    assert_eq!((answer.status.as_u16(), answer.set_cookies()), (409, Vec::new()));
    site.clock.advance(Duration::from_secs(60));
    let mut successor = late.clone();
    successor.visit(&site.node, write).await.unwrap();
    assert_ne!(successor.token()[..56], late.token()[..56]);
    assert_eq!(successor.theme(&site.node).await, Theme::default());

    // For as long as the cookie could open, whatever else happens on this node.
    site.clock.advance(6 * DAY - Duration::from_secs(61));
    for _ in 0..100 {
        site.dark().await;
    }
    assert_eq!(late.theme(&site.node).await, Theme::default());
    assert_eq!(late.theme(&site.cold()).await, dark(), "a node that does not know can't tell");
}

// R6.
#[tokio::test]
async fn all_sessions_of_a_principal_end_at_once_those_that_come_later_too() {
    let site = Site::new();
    let sign_in = async |name: &'static str| {
        let mut browser = site.dark().await;
        browser.visit(&site.node, async move |session| session.sign_in(User(name.into())).await.unwrap()).await;
        browser
    };
    let (ada, bob) = (sign_in("ada").await, sign_in("bob").await);
    let cold = site.cold();
    let mut sockets = Vec::new();
    for browser in [&ada, &bob] {
        sockets.push(browser.clone().open(&site.node).await);
    }
    for node in [&site.node, &cold] {
        node.sessions.end_all(Principal::new("ada")).await.unwrap();
        assert_eq!(ada.theme(node).await, Theme::default());
        assert_eq!(bob.theme(node).await, dark());
        let write = async |session: Session| session.set(Visits(1)).await.map_err(|error| error.kind());
        assert_eq!(ada.clone().visit(node, write).await, Err(WriteErrorKind::Closed));
        let mut again = ada.clone();
        again.visit(node, async |session| session.sign_in(User("ada".into())).await.unwrap()).await;
        let user = async |session: Session| session.principal();
        assert_eq!(again.visit(node, user).await, Some(Principal::new("ada")));
    }
    assert_eq!(sockets[0].closed().now_or_never(), Some(Closed::Revoked));
    assert_eq!(sockets[1].get::<Theme>(), dark());
}

// R7.
#[tokio::test]
async fn thousands_of_visitors_who_write_nothing_leave_nothing() {
    let site = Site::new();
    let nothing = async |session: Session| {
        let _ = (session.get::<Theme>(), session.find::<Division>(), session.is_new(), session.principal());
        let _ = (session.explain::<Theme>(), session.expires_at(), session.relay(), session.changes());
        session.watch::<Division>().next().await;
        session.remove::<Theme>().await.unwrap();
        session.take::<Theme>().await.unwrap();
        session.clear().await.unwrap();
        session.touch().await.unwrap();
        session.renew().await.unwrap();
        session.sign_out().await.unwrap();
    };
    for n in 0..5_000 {
        let mut browser = Browser::new();
        if n % 2 == 0 {
            browser.set("session", &n.to_string());
        }
        assert!(browser.told(&site.node, nothing).await.is_empty());
    }
    let stats = site.node.sessions.stats();
    assert_eq!((stats.records, stats.bytes), (0, 0));
}

// R7: the same where an outer layer says who they are.
#[tokio::test]
async fn thousands_of_users_who_write_nothing_leave_nothing() {
    let (ring, clock) = (ring(), ManualClock::new());
    let chain = Sessions::builder().tier(MemoryTier::builder().build()).tier(CookieTier::sealed(ring));
    let identified = chain.value::<Division>().identify(|head| Some(Principal::new(head.uri.path())));
    let node = Node::new(identified.clock(clock).build().unwrap());
    for n in 0..2_000 {
        let request = Browser::new().request_of(http::Method::GET, &format!("/{n}"), "");
        let read = |session: Session| async move {
            let mut watch = session.watch::<Division>();
            assert_eq!(watch.next().await, Some(Division(-1)));
            session.remove::<Division>().await.unwrap();
            session.sign_out().await.unwrap();
            (http::Response::default(), session.principal())
        };
        let (_, principal) = node.handle(request, read).await;
        assert_eq!(principal, Some(Principal::new(format!("/{n}"))));
    }
    let stats = node.sessions.stats();
    assert_eq!((stats.records, stats.bytes), (0, 0));
}

#[tokio::test]
async fn a_failed_write_has_the_store_asked_once_more_and_then_memory_answers() {
    let write: [fn(Session) -> BoxFuture<WriteErrorKind>; 2] = [
        |session| Box::pin(async move { kind(session.set(Visits(1)).await) }),
        |session| Box::pin(async move { kind(session.set(Division(1)).await) }),
    ];
    for write in write {
        let (store, site) = stored();
        let mut browser = site.dark().await;
        let sign_in = async |session: Session| {
            session.sign_in(User("ada".into())).await.unwrap();
            session.set(Division(2)).await.unwrap();
        };
        browser.visit(&site.node, sign_in).await;
        store.fail();
        assert_eq!(browser.visit(&site.node, write).await, WriteErrorKind::Unavailable);
        store.heal();
        store.take_operations();
        for asked in [1, 0] {
            assert_eq!(browser.visit(&site.node, async |session| session.get::<Division>()).await, Division(2));
            assert_eq!(store.take_operations(), vec![Operation::Read; asked]);
        }
    }
}

// A write dropped before the store's reply may have arrived, whatever other writes come to.
#[tokio::test]
async fn a_dropped_write_is_asked_for_although_another_has_ended_since() {
    let (gated, site) = gated(CommitKind::Update);
    let mut browser = site.dark().await;
    let socket = browser.open(&site.node).await;
    let dropped = tokio::spawn({
        let socket = socket.clone();
        async move { socket.set(Visits(1)).await }
    });
    tokio::task::yield_now().await;
    let other = tokio::spawn(async move { socket.set(Theme("light".into())).await });
    tokio::task::yield_now().await;
    dropped.abort();
    assert!(dropped.await.is_err());
    gated.gate.add_permits(1);
    other.await.unwrap().unwrap();
    gated.store.take_operations();
    browser.theme(&site.node).await;
    assert_eq!(gated.store.take_operations(), [Operation::Read]);
}

// R6: a sign-in on a node whose clock is ahead came before, too.
#[tokio::test]
async fn end_all_ends_a_session_from_a_clock_that_is_ahead() {
    let (site, ahead) = (Site::new(), ManualClock::new());
    ahead.advance(Duration::from_secs(60));
    let mut browser = Browser::new();
    browser.visit(&site.cold_at(&ahead), async |session| session.sign_in(User("ada".into())).await.unwrap()).await;
    let user = async |session: Session| session.principal();
    assert_eq!(browser.clone().visit(&site.node, user).await, Some(Principal::new("ada")));
    site.clock.advance(Duration::from_secs(10));
    site.node.sessions.end_all(Principal::new("ada")).await.unwrap();
    assert_eq!(browser.visit(&site.node, user).await, None);
}
