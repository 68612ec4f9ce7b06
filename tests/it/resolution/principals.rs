//! The owner of a value: the session or a user. A value or the request head names the user.

use layered_session::{
    ChangeEvent, DefaultTier, Principal, Scope, Session, SessionValue, SessionsBuilder, SharedTier, WriteErrorKind,
    testing::{ManualClock, SpyStore},
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, Division, HOUR, Node, TICK, Theme, User, Visits, at_once, builder, carried, dark, get, post, ring,
    seen, set, signed_in, socket, under_way, visit_as,
};

/// Another value of the user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Language(String);

impl SessionValue for Language {
    const NAME: &'static str = "language";
    const SCOPE: Scope = Scope::Principal;
}

// G2, G7, G9: a sign-in loads the values of the user from the store. The first write or removal after the sign-in hides
// no other value of the user.
#[tokio::test]
async fn sign_in_loads_stored_user_values() {
    let app = App::new();
    let store = SpyStore::new();
    let node = || app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())).value::<Language>());
    let ada = async |node: &Node| node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    let elsewhere = node();
    ada(&elsewhere).await.set(Division(3)).await.unwrap();
    let sign_in = async |session: &Session| session.sign_in(User("ada".into())).await.unwrap();

    let at_once = async move |session: Session| {
        sign_in(&session).await;
        (session.value::<Division>(), session)
    };
    let (here, mut browser) = (node(), Browser::new());
    let (found, socket) = browser.visit(&here, at_once).await;
    assert_eq!((found, socket.value()), (Division(3), Division(3)));
    assert_eq!(browser.visit(&here, async |session| session.value::<Division>()).await, Division(3));

    // The first write does not hide the other values.
    let writes = async move |session: Session| {
        sign_in(&session).await;
        session.set(Language("de".into())).await.unwrap();
    };
    let (here, mut browser) = (node(), Browser::new());
    browser.visit(&here, writes).await;
    assert_eq!(browser.visit(&here, async |session| session.value::<Division>()).await, Division(3));

    let removes = async move |session: Session| {
        sign_in(&session).await;
        session.remove::<Division>().await.unwrap();
    };
    Browser::new().visit(&node(), removes).await;
    assert_eq!(ada(&node()).await.get::<Division>(), None);
}

// G9: a sign-in without an answer of the store fails, and changes neither the user nor a value.
#[tokio::test]
async fn store_outage_refuses_sign_in() {
    let app = App::new();
    let store = SpyStore::new();
    let node = app.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())));
    let session = under_way(&Browser::new(), &node).await;
    session.set(Theme("dark".into())).await.unwrap();
    store.fail();
    let refused = session.sign_in(User("ada".into())).await.unwrap_err();
    store.heal();
    assert_eq!((refused.kind(), session.principal(), session.value()), (WriteErrorKind::Unavailable, None, dark()));
}

// G7: without a signed-in user, a written value of principal scope belongs to the session, and changes no user's value.
#[tokio::test]
async fn anonymous_choice_changes_no_user() {
    let app = App::new();
    let node = app.start();
    let ada = async || node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    ada().await.set(Division(2)).await.unwrap();
    let mut browser = Browser::new();
    assert_eq!(seen(&mut browser, &node).await, (Division(-1), "default"));
    set(&mut browser, &node, Division(3)).await;
    assert_eq!(seen(&mut browser, &node).await, (Division(3), "memory"));
    assert_eq!(seen(&mut browser, &app.start()).await, (Division(3), "cookie"));
    assert_eq!(ada().await.value::<Division>(), Division(2));
    assert_eq!(node.sessions.stats().records, 2, "one session and one user");
}

// G16: the next response updates the cookie of the user's other browser.
#[tokio::test]
async fn user_change_reaches_other_browser() {
    let app = App::new();
    let node = app.start();
    let (mut first, mut second) = (signed_in(&node, "ada").await, signed_in(&node, "ada").await);
    set(&mut first, &node, Division(1)).await;
    assert_eq!(get::<Division>(&mut second, &node).await, Division(1));
    set(&mut first, &node, Division(2)).await;
    assert_eq!(carried::<Division>(&second, &app).await, Division(1));
    assert_eq!(seen(&mut second, &node).await, (Division(2), "memory"));
    assert_eq!(carried::<Division>(&second, &app).await, Division(2));
}

// G18: a watch of a user value sees the writes of the user's other browser, of the writeback and of a job.
#[tokio::test]
async fn user_pages_see_all_changes() {
    let app = App::new();
    let node = app.start();
    let (mut first, second) = (signed_in(&node, "ada").await, signed_in(&node, "ada").await);
    let mut page = socket(&second, &node).await.watch::<Division>();
    assert_eq!(at_once(page.next()), Some(Some(Division(-1))));
    set(&mut first, &node, Division(1)).await;
    assert_eq!(at_once(page.next()), Some(Some(Division(1))));
    post(&mut first, &node, r#"{"current_division_id": 2}"#).await;
    assert_eq!(at_once(page.next()), Some(Some(Division(2))));
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(3)).await.unwrap();
    assert_eq!(at_once(page.next()), Some(Some(Division(3))));
}

// R35: a session with values and without a sign-in has no user and no principal.
#[tokio::test]
async fn session_alone_is_no_login() {
    let node = Node::new(builder(&ring(), &ManualClock::new()).build().unwrap());
    let mut browser = Browser::new();
    for theme in ["first", "second"] {
        let (user, principal) = browser
            .visit(&node, async move |s| {
                s.set(Theme(theme.into())).await.unwrap();
                (s.get::<User>(), s.principal())
            })
            .await;
        assert_eq!((user, principal), (None, None), "{theme}");
    }
}

// Tests of chains in which the request head names the user.

/// A chain behind an outer layer that names the signed-in user in a header.
fn identified_by_head(app: &App) -> SessionsBuilder {
    app.chain(DefaultTier::new())
        .value::<Division>()
        .value::<Theme>()
        .value::<Visits>()
        .identify(|head| head.headers.get("x-user").map(|user| Principal::new(user.to_str().unwrap())))
}

/// Visits as the user in the head, or without a user, and writes a division.
async fn choose(browser: &mut Browser, node: &Node, user: Option<&str>, division: Division) {
    visit_as(browser, node, user, async move |session| session.set(division).await.unwrap()).await;
}

async fn chosen(browser: &mut Browser, node: &Node, user: Option<&str>) -> Division {
    visit_as(browser, node, user, async |session| session.value::<Division>()).await
}

// G7: a user of a browser reads no value of the browser's user before, from memory or from the cookie.
#[tokio::test]
async fn users_share_no_cookie_values() {
    let app = App::new();
    let start = || Node::new(identified_by_head(&app).build().unwrap());
    let (node, mut browser) = (start(), Browser::new());
    choose(&mut browser, &node, Some("ada"), Division(2)).await;
    for user in [Some("bob"), None] {
        assert_eq!(chosen(&mut browser.clone(), &start(), user).await, Division(-1), "{user:?} by cookie");
        assert_eq!(chosen(&mut browser, &node, user).await, Division(-1), "{user:?}");
    }
    choose(&mut browser, &node, Some("bob"), Division(4)).await;
    assert_eq!(chosen(&mut browser.clone(), &start(), Some("ada")).await, Division(-1));
    assert_eq!(chosen(&mut browser, &node, Some("ada")).await, Division(2));
    assert_eq!(chosen(&mut browser, &node, Some("bob")).await, Division(4));
}

// G7: a user's write leaves the anonymous choice of the same browser unchanged, in memory and in the cookie.
#[tokio::test]
async fn user_write_changes_no_anonymous_choice() {
    let app = App::new();
    let start = || Node::new(identified_by_head(&app).build().unwrap());
    let (node, mut browser) = (start(), Browser::new());
    choose(&mut browser, &node, None, Division(3)).await;
    choose(&mut browser, &node, Some("ada"), Division(2)).await;
    assert_eq!(chosen(&mut browser, &node, None).await, Division(3));
    assert_eq!(chosen(&mut browser, &start(), None).await, Division(3));
}

#[tokio::test]
async fn anonymous_request_removes_no_user_values() {
    let app = App::new();
    let mut browser = Browser::new();
    let node = Node::new(identified_by_head(&app).build().unwrap());
    choose(&mut browser, &node, Some("ada"), Division(3)).await;

    let node = Node::new(identified_by_head(&app).build().unwrap());
    let theme = visit_as(&mut browser, &node, None, async |s| s.value::<Theme>()).await;
    assert_eq!(theme, Theme::default());
    assert_eq!(chosen(&mut browser, &node, Some("ada")).await, Division(3));
}

#[tokio::test]
async fn end_all_ends_no_later_session() {
    let app = App::new();
    let node = Node::new(identified_by_head(&app).build().unwrap());
    let mut before = Browser::new();
    choose(&mut before, &node, Some("ada"), Division(3)).await;
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    let mut after = Browser::new();
    visit_as(&mut after, &node, Some("ada"), async |s| s.set(Theme("dark".into())).await.unwrap()).await;
    let theme = visit_as(&mut after, &node, Some("ada"), async |s| s.value::<Theme>()).await;
    assert_eq!(theme, Theme("dark".into()));
}

#[tokio::test]
async fn refused_user_write_begins_no_session() {
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Notes(String);
    impl SessionValue for Notes {
        const NAME: &'static str = "notes";
        const SCOPE: Scope = Scope::Principal;
    }
    let app = App::new();
    let node = Node::new(identified_by_head(&app).value::<Notes>().build().unwrap());
    let mut browser = Browser::new();
    let refused = visit_as(&mut browser, &node, Some("ada"), async |s| s.set(Notes("x".repeat(9_000))).await).await;
    assert_eq!(refused.unwrap_err().kind(), WriteErrorKind::TooLarge);
    assert_eq!(browser.cookie("session"), None);
    assert_eq!(node.sessions.stats().records, 0);
}

#[tokio::test]
async fn first_session_reports_no_renewal() {
    let app = App::new();
    let node = Node::new(identified_by_head(&app).build().unwrap());
    let told = async |s: Session| {
        let mut changes = s.changes();
        s.set(Theme("dark".into())).await.unwrap();
        changes.next().await.unwrap()
    };
    let first = visit_as(&mut Browser::new(), &node, Some("ada"), told).await;
    assert!(matches!(first, ChangeEvent::Set { name: "theme", .. }), "{first:?}");
}

#[tokio::test]
async fn store_loads_user_named_by_head() {
    let (app, store) = (App::new(), SpyStore::new());
    let node = || Node::new(identified_by_head(&app).tier(SharedTier::new(store.clone())).build().unwrap());
    node().sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(3)).await.unwrap();
    assert_eq!(chosen(&mut Browser::new(), &node(), Some("ada")).await, Division(3));
}

// G15: a request without a user sets no cookie, so the cookie keeps the user's values for the next request of that
// user.
#[tokio::test]
async fn anonymous_request_rewrites_no_cookie() {
    let app = App::new();
    let node = Node::new(identified_by_head(&app).build().unwrap());
    let mut browser = Browser::new();
    choose(&mut browser, &node, Some("ada"), Division(3)).await;
    let before = browser.cookie("session").unwrap().to_owned();
    assert_eq!(chosen(&mut browser, &node, None).await, Division(-1));
    assert_eq!(browser.cookie("session"), Some(&*before));
}

#[tokio::test]
async fn cookie_drops_other_users_values() {
    let app = App::new();
    let start = || Node::new(identified_by_head(&app).build().unwrap());
    let mut browser = Browser::new();
    choose(&mut browser, &start(), Some("ada"), Division(2)).await;
    let node = start();
    let bob = node.sessions.for_principal(Principal::new("bob")).await.unwrap();
    bob.set(Division(4)).await.unwrap();
    assert_eq!(chosen(&mut browser, &node, Some("bob")).await, Division(4));
    assert_eq!(chosen(&mut browser.clone(), &start(), Some("bob")).await, Division(4), "by the cookie");
    assert_eq!(chosen(&mut browser, &start(), Some("ada")).await, Division(-1));
}

#[tokio::test]
async fn use_in_cookie_extends_user_record() {
    let app = App::new();
    let node = || app.start_with(|sessions| sessions.principal_idle(HOUR));
    let (here, there) = (node(), node());
    let mut browser = signed_in(&here, "ada").await;
    browser.visit(&here, async |session| session.set(Division(3)).await.unwrap()).await;
    assert_eq!(get::<Division>(&mut browser, &there).await, Division(3));
    app.pass(HOUR - TICK);
    set(&mut browser, &here, Theme("dark".into())).await;
    browser.visit(&there, async |_| ()).await;
    app.pass(HOUR - TICK);
    assert_eq!(there.sessions.for_principal(Principal::new("ada")).await.unwrap().get::<Division>(), Some(Division(3)));
}

// The earlier build takes the guest for a visitor without a user, so the session has the guest's division. The present
// build takes the guest for a user, and the next user does not adopt another user's division.
#[tokio::test]
async fn only_anonymous_choice_is_adopted() {
    let app = App::new();
    let guests = app.chain(DefaultTier::new()).value::<Division>();
    let guests = guests.identify_by::<User>(|user| (user.0 != "guest").then(|| Principal::new(&user.0)));
    let earlier = Node::new(guests.build().unwrap());
    let mut browser = signed_in(&earlier, "guest").await;
    set(&mut browser, &earlier, Division(2)).await;
    let node = app.start();
    let turn = async |session: Session| {
        let before = session.principal();
        session.sign_in(User("ada".into())).adopt::<Division>().await.unwrap();
        (before, session.principal(), session.get::<Division>())
    };
    let (before, after, division) = browser.visit(&node, turn).await;
    assert_eq!((before, after), (Some(Principal::new("guest")), Some(Principal::new("ada"))));
    assert_eq!(division, None);
}

#[tokio::test]
async fn user_stays_signed_in_after_clear() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    set(&mut browser, &node, dark()).await;
    browser.visit(&node, async |session| session.clear().await.unwrap()).await;
    let seen = browser.visit(&node, async |session| (session.principal(), session.value::<Theme>())).await;
    assert_eq!(seen, (Some(Principal::new("ada")), Theme::default()));
}

#[tokio::test]
async fn sign_in_fails_without_room_for_adopted_value() {
    let node = App::new().start_with(|sessions| sessions.value::<Language>());
    let ada = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    let mut length = 4000;
    while ada.set(Language("x".repeat(length))).await.is_err() {
        length -= 1;
    }
    let turn = async |session: Session| {
        session.set(Division(2)).await.unwrap();
        let refused = session.sign_in(User("ada".into())).adopt::<Division>().await;
        (refused.map_err(|error| error.kind()), session.principal())
    };
    assert_eq!(Browser::new().visit(&node, turn).await, (Err(WriteErrorKind::TooLarge), None));
}

// G13: where `identify` names the user, a sign-out on another node ends no renewed session, since the next request may
// name another user.
#[tokio::test]
async fn sign_out_elsewhere_ends_no_head_identified_renewal() {
    let app = App::new();
    let start = || Node::new(identified_by_head(&app).build().unwrap());
    let (node, other, mut browser) = (start(), start(), Browser::new());
    let ada = Some("ada");
    visit_as(&mut browser, &node, ada, async |session| session.set(dark()).await.unwrap()).await;
    let mut old = browser.clone();
    visit_as(&mut browser, &node, ada, async |session| session.renew().await.unwrap()).await;
    visit_as(&mut old, &other, ada, async |session| session.destroy().await.unwrap()).await;
    assert_eq!(visit_as(&mut browser, &other, ada, async |session| session.value::<Theme>()).await, dark());
}

// The user has a division already. The longer anonymous choice of the browser is not adopted, and needs no room.
#[tokio::test]
async fn adopt_without_effect_needs_no_room() {
    let node = App::new().start_with(|sessions| sessions.value::<Language>());
    let ada = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    ada.set(Division(1)).await.unwrap();
    let mut length = 4000;
    while ada.set(Language("x".repeat(length))).await.is_err() {
        length -= 1;
    }
    let turn = async |session: Session| {
        session.set(Division(-1)).await.unwrap();
        session.sign_in(User("ada".into())).adopt::<Division>().await.unwrap();
        session.value::<Division>()
    };
    assert_eq!(Browser::new().visit(&node, turn).await, Division(1));
}
