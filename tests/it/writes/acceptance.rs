//! Writes: the promise of `Ok`, and the state that an error leaves unchanged.

use layered_session::{
    CookieTier, Placement, Principal, Scope, Session, SessionValue, SharedTier, WriteErrorKind,
    testing::{ManualClock, Operation, SpyStore},
};
use serde::{Deserialize, Serialize};

use super::{Note, stored, visits};
use crate::support::{
    App, Browser, DAY, Division, Node, Theme, User, Visits, bare, builder, chain, cookie, dark, declared, first_write,
    kind, memory, named, ring, set_cookies,
};

/// A value in memory alone, which a restart loses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Scratch(String);

impl SessionValue for Scratch {
    const NAME: &'static str = "scratch";
    const PLACEMENT: Placement = Placement::Volatile;
}

/// A user value of any size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Bio(String);

impl SessionValue for Bio {
    const NAME: &'static str = "bio";
    const SCOPE: Scope = Scope::Principal;
}

// Tests of writes that apply as a whole or not at all.

#[tokio::test]
async fn batch_is_all_or_nothing() {
    let app = App::with(|builder| builder.value::<Bio>());
    let mut browser = app.dark().await;
    let batch = |session: Session| async move {
        session.batch().set(Theme("light".into())).update(|visits: &mut Visits| visits.0 += 2).commit().await
    };
    browser.visit(&app.node, batch).await.unwrap();
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
    let kinds = browser.clone().visit(&app.node, refused).await;
    assert_eq!(kinds, [Invalid, Invalid, Invalid, TooLarge, Invalid, Invalid, Undeclared].map(Some));
    for node in [&app.node, &app.start()] {
        let all = async |s: Session| (s.value::<Theme>(), s.value::<Visits>(), s.value::<Division>(), s.get::<Bio>());
        let seen = browser.clone().visit(node, all).await;
        assert_eq!(seen, (Theme("light".into()), Visits(2), Division(-1), None));
    }
}

// Tests of the browser's budget.

/// Writes the longest value that the session accepts, and returns its length.
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

// R20: values that were all accepted fit the budget of the cookie, also after a renewal on another node.
#[tokio::test]
async fn accepted_values_fit_cookie() {
    let (ring, clock) = (ring(), ManualClock::new());
    for name in ["a".to_owned(), "n".repeat(64)] {
        let chain = || {
            let cookie = CookieTier::sealed(ring.clone()).name(name.clone());
            let chain = declared(memory(), cookie, &clock).value::<Bio>();
            Node::new(chain.idle(DAY).absolute(400 * DAY).build().unwrap())
        };
        let node = chain();
        let mut browser = Browser::new();
        let brim = async |session: Session| {
            // The entry of the user is as long as the reserved room.
            session.sign_in(User("u".repeat(238))).await.unwrap();
            session.set(Visits(u64::MAX)).await.unwrap();
            session.set(Division(5)).await.unwrap();
            (fill(&session, Theme).await, fill(&session, Bio).await)
        };
        let (headers, (theme, bio)) = browser.visit_seen(&node, brim).await;
        let set = set_cookies(&headers);
        assert!((2_900..=3_000).contains(&set[0].len()), "{}", set[0].len());
        // Another node reads every value, and the cookie still fits at another time and under another id.
        clock.advance(DAY / 2);
        let renew = async |session: Session| {
            session.renew().await.unwrap();
            (session.value::<Theme>().0.len(), session.value::<Bio>().0.len())
        };
        let (headers, seen) = browser.visit_seen(&chain(), renew).await;
        assert_eq!(seen, (theme, bio));
        assert!(set_cookies(&headers)[0].len() <= 3_000);
        assert_eq!(browser.visit(&chain(), async |session| session.value::<Bio>().0.len()).await, bio);
    }
}

// R7, R20: a write that does not fit the cookie is refused before the store gets the write, and begins no session.
#[tokio::test]
async fn oversized_write_never_reaches_store() {
    let store = SpyStore::new();
    let shared = store.clone();
    for app in [App::new(), App::with(move |builder| builder.tier(SharedTier::new(shared.clone())))] {
        let mut browser = Browser::new();
        let too_large = async |session: Session| {
            let error = session.batch().set(Visits(1)).set(Theme("x".repeat(4000))).commit().await.unwrap_err();
            assert_eq!((error.kind(), error.status().as_u16()), (WriteErrorKind::TooLarge, 422));
            assert_eq!(error.names(), ["theme", "visits"], "the largest value comes first");
            assert!(error.to_string().contains("theme"), "{error}");
        };
        assert!(browser.told(&app.node, too_large).await.is_empty());
        assert_eq!(app.node.sessions.stats().records, 0);
        let mut browser = app.dark().await;
        assert!(browser.told(&app.node, too_large).await.is_empty());
        assert_eq!(browser.theme(&app.node).await, dark());
        assert_eq!(visits(&browser, &app.node).await, Visits(0));
    }
    assert_eq!(store.take_operations(), [Operation::Create]);
}

// R20: a sign-in with a user that does not fit the cookie is refused, and keeps the session and its cookie.
#[tokio::test]
async fn oversized_sign_in_changes_nothing() {
    let app = App::with(|builder| builder.value::<Bio>());
    let mut browser = Browser::new();
    let fill = async |session: Session| session.set(Theme("x".repeat(700))).await.unwrap();
    browser.visit(&app.node, fill).await;
    let user = User("u".repeat(800));
    let sign_in = async |session: Session| kind(session.sign_in(user).await);
    let before = browser.clone();
    assert_eq!(browser.visit(&app.node, sign_in).await, Some(WriteErrorKind::TooLarge));
    assert_eq!(browser.token(), before.token());
    let seen = async |session: Session| (session.value::<Theme>().0.len(), session.principal());
    for node in [&app.node, &app.start()] {
        assert_eq!(browser.clone().visit(node, seen).await, (700, None));
    }
    assert_eq!(app.node.sessions.stats().records, 1);
}

#[tokio::test]
async fn server_values_ignore_cookie_budget() {
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Draft(String);
    impl SessionValue for Draft {
        const NAME: &'static str = "draft";
    }
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Cursor(u32);
    impl SessionValue for Cursor {
        const NAME: &'static str = "cursor";
        const PLACEMENT: Placement = Placement::Volatile;
    }
    let (ring, clock) = (ring(), ManualClock::new());
    let node = || Node::new(builder(&ring, &clock).value::<Draft>().value::<Cursor>().build().unwrap());
    let (one, two) = (node(), node());
    let mut browser = first_write(&one, Visits(1)).await;
    let mut twin = browser.clone();
    browser.visit(&one, async |s| s.set(Draft("x".repeat(600))).await.unwrap()).await;
    twin.visit(&two, async |s| s.set(Theme("x".repeat(600))).await.unwrap()).await;
    twin.visit(&one, async |s| s.set(Cursor(7)).await.unwrap()).await;
    assert_eq!(twin.visit(&one, async |s| s.value::<Cursor>()).await, Cursor(7));
}

// Tests of the placement of values.

// G15: a value that the cookie does not carry sets no cookie, and other nodes read the value from the store.
#[tokio::test]
async fn server_value_changes_no_cookie() {
    let (store, app) = stored();
    let mut browser = app.dark().await;
    let note = async |session: Session| session.set(Note("kept by the server".repeat(500))).await.unwrap();
    assert!(browser.told(&app.node, note).await.is_empty());
    store.take_operations();
    let read = async |session: Session| session.value::<Note>().0.len();
    assert_eq!(browser.visit(&app.node, read).await, 9000);
    assert_eq!(store.take_operations(), []);
    assert_eq!(browser.visit(&app.start(), read).await, 9000);
}

// G15: a value in memory alone sets no cookie, and a restart loses the value.
#[tokio::test]
async fn volatile_value_stays_in_memory() {
    let app = App::with(|builder| builder.value::<Scratch>());
    let mut browser = app.dark().await;
    let scratch = async |session: Session| session.set(Scratch("x".repeat(9000))).await.unwrap();
    assert!(browser.told(&app.node, scratch).await.is_empty());
    let read = async |session: Session| session.get::<Scratch>().map(|scratch| scratch.0.len());
    assert_eq!(browser.clone().visit(&app.node, read).await, Some(9000));
    assert_eq!(browser.clone().visit(&app.start(), read).await, None);
    let remove = async |session: Session| session.remove::<Scratch>().await.unwrap();
    assert!(browser.told(&app.node, remove).await.is_empty());
    assert_eq!(browser.visit(&app.node, read).await, None);
}

#[tokio::test]
async fn job_without_memory_refuses_writes() {
    let chain = bare(&ring(), &ManualClock::new()).value::<Division>();
    let sessions = chain.identify_by::<User>(named).build().unwrap();
    let job = sessions.for_principal(Principal::new("ada")).await.unwrap();
    job.set(Division(3)).await.unwrap_err();
}

// Tests of visits without a write.

// R7: visitors that write no value leave no record and get no cookie.
#[tokio::test]
async fn reading_visitors_leave_no_records() {
    let app = App::new();
    let nothing = async |session: Session| {
        let _ = (session.value::<Theme>(), session.get::<Division>(), session.is_new(), session.principal());
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
        assert!(browser.told(&app.node, nothing).await.is_empty());
    }
    let stats = app.node.sessions.stats();
    assert_eq!((stats.records, stats.bytes), (0, 0));
}

// R7: users that the request head names leave no record either, as long as they write no value.
#[tokio::test]
async fn reading_users_leave_no_records() {
    let chain = chain(memory(), cookie(&ring()), &ManualClock::new()).value::<Division>();
    let identified = chain.identify(|head| Some(Principal::new(head.uri.path())));
    let node = Node::new(identified.build().unwrap());
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
