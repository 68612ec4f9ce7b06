//! Which tier answers, and that nothing wrong, old or foreign does.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use layered_session::{
    BuildErrorKind, CookieTier, DefaultTier, MemoryTier, Principal, Resolution, Scope, Session, SessionValue,
    SessionWriteback, Sessions, WriteError, WriteErrorKind,
};
use serde::{Deserialize, Serialize};

use crate::{
    app::{App, at_once, bring, carried, get, post, seen, set, sign_in, signed_in, socket, theme, visitor},
    world::{Browser, DAY, Division, Node, NumberedTheme, Theme, User, Visits, set_cookies},
};

/// It ends 31 days after its last write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(String);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(31 * 86_400));
}

/// A node with drafts, whose sessions outlive them.
fn drafting(app: &App, resolution: Resolution) -> Node {
    let chain = app.chain(DefaultTier::new().value(Draft("blank".into()))).value::<Draft>().value::<Theme>();
    Node::new(chain.resolution(resolution).idle(60 * DAY).absolute(365 * DAY).build().unwrap())
}

// Acceptance 1 and 18.
#[tokio::test]
async fn the_newest_copy_answers_unless_the_first_hit_is_asked_for() {
    for (resolution, expected) in
        [(Resolution::Newest, (Division(2), "cookie")), (Resolution::FirstHit, (Division(1), "memory"))]
    {
        let app = App::new();
        let (elsewhere, node) = (app.node(), app.node_with(|sessions| sessions.resolution(resolution)));
        let mut browser = signed_in(&elsewhere, "ada").await;
        set(&mut browser, &elsewhere, Division(1)).await;
        get::<Division>(&mut browser, &node).await;
        set(&mut browser, &elsewhere, Division(2)).await;
        assert_eq!(seen(&mut browser, &node).await, expected);
        assert_eq!(carried::<Division>(&browser, &app).await, Division(2), "the older one overwrote the newer");
        for visits in [1, 2] {
            set(&mut browser, &node, Visits(visits)).await;
            assert_eq!(carried::<Visits>(&browser, &app).await, Visits(visits));
            assert_eq!(carried::<Division>(&browser, &app).await, Division(2), "a write of another value lost it");
        }
    }
}

// Acceptance 1.
#[tokio::test]
async fn a_write_wins_over_a_newer_cookie_that_the_first_hit_hides() {
    let app = App::new();
    let (elsewhere, node) = (app.node(), app.node_with(|sessions| sessions.resolution(Resolution::FirstHit)));
    let mut browser = visitor(&elsewhere).await;
    get::<Theme>(&mut browser, &node).await;
    for name in ["a", "b", "c"] {
        set(&mut browser, &elsewhere, theme(name)).await;
    }
    set(&mut browser, &node, theme("mine")).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("mine"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("mine"));
}

#[tokio::test]
async fn what_two_nodes_accepted_apart_and_is_too_much_together_loses_the_oldest_from_the_cookie() {
    const NAME: &str = "__Host-session";
    let app = App::new();
    let node = || {
        let chain = Sessions::builder().clock(app.clock.clone()).value::<Draft>().value::<Theme>().value::<Visits>();
        let chain = chain.tier(MemoryTier::builder().build()).tier(CookieTier::sealed(app.ring.clone()));
        Node::new(chain.tier(DefaultTier::new()).build().unwrap())
    };
    let (one, other) = (node(), node());
    let mut browser = Browser::new();
    set(&mut browser, &one, Visits(7)).await;
    let before = browser.cookie(NAME).unwrap().to_owned();
    set(&mut browser, &one, Draft("d".repeat(2000))).await;
    let drafted = browser.cookie(NAME).unwrap().to_owned();
    app.pass(Duration::from_secs(1));
    browser.set(NAME, &before);
    set(&mut browser, &other, theme(&"t".repeat(2000))).await;
    app.pass(Duration::from_secs(1));
    set(&mut browser, &other, Visits(8)).await;
    browser.set(NAME, &drafted);
    assert_eq!(get::<Draft>(&mut browser, &other).await.0.len(), 2000);
    assert_ne!(browser.cookie(NAME), Some(&*drafted), "a response brings what the browser lacks");
    let cold = node();
    assert_eq!(get::<Visits>(&mut browser, &cold).await, Visits(8));
    assert_eq!(get::<Theme>(&mut browser, &cold).await, theme(&"t".repeat(2000)));
    assert_eq!(get::<Draft>(&mut browser, &cold).await, Draft::default());
    assert_eq!(get::<Draft>(&mut browser, &other).await.0.len(), 2000, "it stays where it is");
}

/// As above on a node that has room for a few sessions: one that has what no browser has goes after all others.
#[tokio::test]
async fn what_stays_on_the_server_is_not_evicted_as_if_the_browser_had_it() {
    const NAME: &str = "session";
    let app = App::new();
    let node = |bytes| {
        let memory = MemoryTier::builder().max_bytes(bytes).build();
        let chain = Sessions::builder().clock(app.clock.clone()).value::<Draft>().value::<Theme>().value::<Visits>();
        let cookie = CookieTier::sealed(app.ring.clone()).name(NAME).plain_http();
        Node::new(chain.tier(memory).tier(cookie).build().unwrap())
    };
    let (elsewhere, tight) = (node(1 << 20), node(16 << 10));
    let mut browser = Browser::new();
    set(&mut browser, &elsewhere, Visits(7)).await;
    let before = browser.cookie(NAME).unwrap().to_owned();
    set(&mut browser, &tight, Draft("d".repeat(2000))).await;
    let drafted = browser.cookie(NAME).unwrap().to_owned();
    app.pass(Duration::from_secs(1));
    browser.set(NAME, &before);
    set(&mut browser, &elsewhere, theme(&"t".repeat(2000))).await;
    assert_ne!(browser.cookie(NAME), Some(&*drafted));
    assert_eq!(get::<Draft>(&mut browser, &tight).await.0.len(), 2000);
    app.pass(Duration::from_secs(1));
    for _ in 0..256 {
        set(&mut Browser::new(), &tight, Visits(1)).await;
    }
    let stats = tight.sessions.stats();
    assert!(stats.evicted_saved > 0, "{stats:?}");
    assert_eq!(get::<Draft>(&mut browser, &tight).await.0.len(), 2000, "{stats:?}");
}

// Acceptance 2 and 3.
#[tokio::test]
async fn the_cookie_answers_what_memory_lacks_and_the_default_what_both_lack() {
    let app = App::new();
    let node = || Node::new(app.chain(DefaultTier::new().value(theme("light"))).value::<Theme>().build().unwrap());
    let (first, restarted) = (node(), node());
    let mut browser = Browser::new();
    assert_eq!(seen(&mut browser, &first).await, (theme("light"), "default"));
    set(&mut browser, &first, theme("dark")).await;
    assert_eq!(seen(&mut browser, &first).await, (theme("dark"), "memory"));
    assert_eq!(seen(&mut browser, &restarted).await, (theme("dark"), "cookie"));
    assert_eq!(seen(&mut browser, &restarted).await, (theme("dark"), "memory"));
    browser.visit(&restarted, async |session| session.remove::<Theme>().await.unwrap()).await;
    assert_eq!(seen(&mut browser, &restarted).await, (theme("light"), "default"));
    assert_eq!(seen(&mut browser, &node()).await, (theme("light"), "default"));
}

// Acceptance 4.
#[tokio::test]
async fn while_nobody_is_signed_in_the_browsers_own_choice_answers_and_no_users_is_touched() {
    let app = App::new();
    let node = app.node();
    let ada = async || node.sessions.of(Principal::new("ada")).await.unwrap();
    ada().await.set(Division(2)).await.unwrap();
    let mut browser = Browser::new();
    assert_eq!(seen(&mut browser, &node).await, (Division(-1), "default"));
    set(&mut browser, &node, Division(3)).await;
    assert_eq!(seen(&mut browser, &node).await, (Division(3), "memory"));
    assert_eq!(seen(&mut browser, &app.node()).await, (Division(3), "cookie"));
    assert_eq!(ada().await.get::<Division>(), Division(2));
    assert_eq!(node.sessions.stats().records, 2, "one session and one user");
}

// Acceptance 5.
#[tokio::test]
async fn a_users_switch_in_one_browser_is_seen_in_the_other_and_heals_its_cookie() {
    let app = App::new();
    let node = app.node();
    let (mut first, mut second) = (signed_in(&node, "ada").await, signed_in(&node, "ada").await);
    set(&mut first, &node, Division(1)).await;
    assert_eq!(get::<Division>(&mut second, &node).await, Division(1));
    set(&mut first, &node, Division(2)).await;
    assert_eq!(carried::<Division>(&second, &app).await, Division(1));
    assert_eq!(seen(&mut second, &node).await, (Division(2), "memory"));
    assert_eq!(carried::<Division>(&second, &app).await, Division(2));
}

// Acceptance 6.
#[tokio::test]
async fn a_switch_on_a_socket_is_in_memory_at_once_and_reaches_the_cookie_through_the_page() {
    let app = App::new();
    let node = app.node();
    let mut browser = signed_in(&node, "ada").await;
    let live = socket(&browser, &node).await;
    live.set(Division(4)).await.unwrap();
    assert_eq!(socket(&browser, &node).await.get::<Division>(), Division(4));
    assert_eq!(carried::<Division>(&browser, &app).await, Division(-1));
    let answer = bring(&mut browser, &node, live.relay().unwrap().as_str()).await;
    assert_eq!((answer.status, answer.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(carried::<Division>(&browser, &app).await, Division(4));
}

// Acceptance 7.
#[tokio::test]
async fn a_post_stores_every_allowed_name_and_never_another() {
    let app = App::new();
    let node = app.node();
    let mut browser = Browser::new();
    let answer = post(&mut browser, &node, r#"{"theme": "dark", "visits": 3}"#).await;
    assert_eq!(answer.json(), serde_json::json!({ "stored": ["theme", "visits"] }));
    let answer = post(&mut browser, &node, r#"{"theme": "light", "user": "eve"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "not_allowed"));
    assert_eq!(answer.json()["names"], serde_json::json!(["user"]));
    for node in [node, app.node()] {
        let all = async |session: Session| (session.get::<Theme>(), session.get::<Visits>(), session.find::<User>());
        assert_eq!(browser.visit(&node, all).await, (theme("dark"), Visits(3), None));
        let error = SessionWriteback::new(&node.sessions).allow::<User>().unwrap_err();
        assert_eq!(error.kind(), BuildErrorKind::Value);
    }
}

// Acceptance 8.
#[tokio::test]
async fn after_a_restart_a_socket_resolves_from_the_cookie_of_its_handshake() {
    let app = App::new();
    let mut browser = signed_in(&app.node(), "ada").await;
    set(&mut browser, &app.node(), Division(2)).await;
    let live = socket(&browser, &app.node()).await;
    assert_eq!((live.get::<Division>(), live.origin::<Division>().tier()), (Division(2), "cookie"));
    assert_eq!(at_once(live.watch::<Division>().next()), Some(Some(Division(2))));
}

// Acceptance 9.
#[tokio::test]
async fn the_next_view_of_a_socket_begins_with_the_newest_value() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let mut first_view = live.watch::<Theme>();
    assert_eq!(at_once(first_view.next()), Some(Some(theme("light"))));
    set(&mut browser, &node, theme("dark")).await;
    drop(first_view);
    assert_eq!(live.get::<Theme>(), theme("dark"));
    assert_eq!(at_once(live.watch::<Theme>().next()), Some(Some(theme("dark"))));
}

// Acceptance 10 and 35.
#[tokio::test]
async fn a_value_is_kept_over_reload_revisit_deploy_and_another_node() {
    let app = App::new();
    let mut node = app.node();
    let mut browser = visitor(&node).await;
    set(&mut browser, &node, theme("dark")).await;
    for _ in 0..3 {
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"), "a reload");
        app.pass(DAY);
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"), "a visit a day later");
        node = app.node();
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"), "a deploy");
    }
}

// Acceptance 11.
#[tokio::test]
async fn a_users_open_pages_are_told_wherever_the_switch_was_made() {
    let app = App::new();
    let node = app.node();
    let (mut first, second) = (signed_in(&node, "ada").await, signed_in(&node, "ada").await);
    let mut page = socket(&second, &node).await.watch::<Division>();
    assert_eq!(at_once(page.next()), Some(Some(Division(-1))));
    set(&mut first, &node, Division(1)).await;
    assert_eq!(at_once(page.next()), Some(Some(Division(1))));
    post(&mut first, &node, r#"{"current_division_id": 2}"#).await;
    assert_eq!(at_once(page.next()), Some(Some(Division(2))));
    node.sessions.of(Principal::new("ada")).await.unwrap().set(Division(3)).await.unwrap();
    assert_eq!(at_once(page.next()), Some(Some(Division(3))));
}

// Acceptance 12.
#[tokio::test]
async fn a_value_ends_with_its_own_lifetime_in_memory_and_in_the_cookie() {
    let app = App::new();
    let node = drafting(&app, Resolution::Newest);
    let restarted = || drafting(&app, Resolution::Newest);
    let mut browser = visitor(&node).await;
    set(&mut browser, &node, Draft("mine".into())).await;
    app.pass(31 * DAY - Duration::from_millis(1));
    assert_eq!(get::<Draft>(&mut browser, &restarted()).await, Draft("mine".into()));
    assert_eq!(get::<Draft>(&mut browser, &node).await, Draft("mine".into()));
    app.pass(Duration::from_millis(1));
    assert_eq!(seen(&mut browser.clone(), &restarted()).await, (Draft("blank".into()), "default"));
    assert_eq!(seen(&mut browser, &node).await, (Draft("blank".into()), "default"));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
}

// Acceptance 12.
#[tokio::test]
async fn a_users_values_are_kept_31_days_from_their_last_use() {
    let app = App::new();
    let node = app.node();
    let ada = async || node.sessions.of(Principal::new("ada")).await.unwrap().get::<Division>();
    node.sessions.of(Principal::new("ada")).await.unwrap().set(Division(2)).await.unwrap();
    for _ in 0..2 {
        app.pass(31 * DAY - Duration::from_millis(1));
        assert_eq!(ada().await, Division(2));
    }
    app.pass(31 * DAY);
    assert_eq!(ada().await, Division(-1));
}

// Acceptance 13 and 19.
#[tokio::test]
async fn an_expired_copy_in_memory_hides_nothing_below_it() {
    let app = App::new();
    let (elsewhere, node) = (drafting(&app, Resolution::Newest), drafting(&app, Resolution::FirstHit));
    let mut browser = Browser::new();
    set(&mut browser, &elsewhere, Draft("old".into())).await;
    get::<Draft>(&mut browser, &node).await;
    app.pass(20 * DAY);
    set(&mut browser, &elsewhere, Draft("new".into())).await;
    assert_eq!(seen(&mut browser, &node).await, (Draft("old".into()), "memory"));
    app.pass(11 * DAY);
    assert_eq!(seen(&mut browser, &node).await, (Draft("new".into()), "cookie"));
    app.pass(20 * DAY);
    assert_eq!(seen(&mut browser, &node).await, (Draft("blank".into()), "default"));
}

// Acceptance 19.
#[tokio::test]
async fn a_session_that_idled_out_here_but_was_used_elsewhere_lives() {
    let app = App::new();
    let (elsewhere, node) = (app.node(), app.node());
    let mut browser = visitor(&node).await;
    app.pass(36 * Duration::from_secs(3600));
    set(&mut browser, &elsewhere, Visits(1)).await;
    app.pass(36 * Duration::from_secs(3600));
    let both = async |session: Session| (session.get::<Theme>(), session.get::<Visits>());
    assert_eq!(browser.visit(&node, both).await, (theme("light"), Visits(1)));
}

// Acceptance 19.
#[tokio::test]
async fn what_was_evicted_comes_from_the_cookie() {
    let app = App::new();
    let tight = MemoryTier::builder().max_bytes(4096).build();
    let chain = Sessions::builder().tier(tight).tier(CookieTier::sealed(app.ring.clone()).name("session").plain_http());
    let node = Node::new(chain.value::<Theme>().clock(app.clock.clone()).build().unwrap());
    let mut browser = visitor(&node).await;
    // Used longest ago, so that it goes as soon as it is looked at; and after so many evictions it has been.
    app.pass(Duration::from_secs(1));
    for _ in 0..64 {
        get::<Theme>(&mut visitor(&node).await, &node).await;
    }
    assert!(node.sessions.stats().evicted_saved > 0);
    assert_eq!(seen(&mut browser, &node).await, (theme("light"), "cookie"));
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Flag(bool);
impl SessionValue for Flag {
    const NAME: &'static str = "flag";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Choice(Option<u8>);
impl SessionValue for Choice {
    const NAME: &'static str = "choice";
}

// Acceptance 14.
#[tokio::test]
async fn false_zero_empty_and_null_are_answers() {
    let app = App::new();
    let defaults = || DefaultTier::new().value(Flag(true)).value(Visits(7)).value(theme("x")).value(Choice(Some(1)));
    let node = || {
        let chain = app.chain(defaults()).value::<Flag>().value::<Visits>().value::<Theme>().value::<Choice>();
        Node::new(chain.build().unwrap())
    };
    let all = async |session: Session| {
        (session.get::<Flag>().0, session.get::<Visits>().0, session.get::<Theme>().0, session.get::<Choice>().0)
    };
    let (first, mut browser) = (node(), Browser::new());
    assert_eq!(browser.visit(&first, all).await, (true, 7, "x".into(), Some(1)));
    let falsy = async |session: Session| {
        session.batch().set(Flag(false)).set(Visits(0)).set(theme("")).set(Choice(None)).commit().await.unwrap();
    };
    browser.visit(&first, falsy).await;
    for node in [first, node()] {
        assert_eq!(browser.visit(&node, all).await, (false, 0, String::new(), None));
    }
}

// Acceptance 15.
#[tokio::test]
async fn a_thousand_unknown_names_leave_nothing_behind() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let (before, cookie) = (node.sessions.stats(), browser.clone());
    let object = |names: std::ops::Range<u32>| {
        let names: Vec<_> = names.map(|n| format!(r#""n{n}":1"#)).collect();
        format!("{{{}}}", names.join(","))
    };
    assert_eq!(post(&mut browser, &node, object(0..1000)).await.status, StatusCode::BAD_REQUEST);
    for start in (0..1000).step_by(50) {
        let answer = post(&mut browser, &node, object(start..start + 50)).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let lenient = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap().ignore_unknown();
        let answer = node.writeback(lenient, browser.post_json(object(start..start + 50))).await;
        assert_eq!(answer.json()["stored"], serde_json::json!([]));
        assert_eq!(answer.json()["ignored"].as_array().unwrap().len(), 16, "an echo has its bounds");
    }
    let after = node.sessions.stats();
    assert_eq!((after.records, after.bytes), (before.records, before.bytes));
    assert_eq!(browser.cookie("session"), cookie.cookie("session"));
}

// Acceptance 16.
#[tokio::test]
async fn a_name_of_10_kb_is_refused() {
    let node = App::new().node();
    let name = "n".repeat(10_000);
    let answer = post(&mut Browser::new(), &node, format!(r#"{{"{name}": 1}}"#)).await;
    assert!(answer.status.is_client_error());
    assert_eq!((answer.set_cookies(), node.sessions.stats().records), (vec![], 0));
}

// Acceptance 17.
#[tokio::test]
async fn a_wrong_typed_value_is_refused_in_a_post_and_skipped_in_a_cookie() {
    let app = App::new();
    let earlier = Node::new(app.chain(DefaultTier::new()).value::<NumberedTheme>().value::<Visits>().build().unwrap());
    let chain = app.chain(DefaultTier::new().value(theme("light"))).value::<Theme>().value::<Visits>();
    let (node, mut browser) = (Node::new(chain.value::<Division>().build().unwrap()), Browser::new());
    set(&mut browser, &earlier, NumberedTheme(7)).await;
    set(&mut browser, &earlier, Visits(2)).await;
    for _ in 0..3 {
        assert_eq!(seen(&mut browser, &node).await, (theme("light"), "default"));
        assert_eq!(get::<Visits>(&mut browser, &node).await, Visits(2), "it took another value along");
    }
    for body in [r#"{"theme": 7}"#, r#"{"theme": null}"#, r#"{"visits": -1}"#, r#"{"visits": "2"}"#] {
        let answer = post(&mut browser, &node, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "invalid_value"));
    }
    set(&mut browser, &node, Visits(3)).await;
    assert_eq!(get::<NumberedTheme>(&mut browser, &earlier).await, NumberedTheme(7), "skipping deleted it");
    set(&mut browser, &node, theme("dark")).await;
    for node in [node, app.node()] {
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    }
}

// Acceptance 17.
#[tokio::test]
async fn a_watch_skips_a_wrong_typed_value_as_a_read_does() {
    let app = App::new();
    let earlier = Node::new(app.chain(DefaultTier::new()).value::<NumberedTheme>().build().unwrap());
    let node = Node::new(app.chain(DefaultTier::new().value(theme("light"))).value::<Theme>().build().unwrap());
    let mut browser = Browser::new();
    set(&mut browser, &earlier, NumberedTheme(7)).await;
    let mut page = socket(&browser, &node).await.watch::<Theme>();
    assert_eq!(at_once(page.next()), Some(Some(theme("light"))));
    set(&mut browser, &node, theme("dark")).await;
    assert_eq!(at_once(page.next()), Some(Some(theme("dark"))));
}

/// As [`Division`] before its bounds were drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct AnyDivision(i64);
impl SessionValue for AnyDivision {
    const NAME: &'static str = Division::NAME;
    const SCOPE: Scope = Scope::Principal;
}

// Acceptance 20.
#[tokio::test]
async fn one_type_decides_what_is_valid_on_every_path() {
    let app = App::new();
    let twice = app.chain(DefaultTier::new()).value::<Division>().value::<AnyDivision>().build().unwrap_err();
    assert_eq!(twice.kind(), BuildErrorKind::Value);
    let lax = Node::new(app.chain(DefaultTier::new()).value::<AnyDivision>().build().unwrap());
    let (node, mut browser) = (app.node(), Browser::new());
    set(&mut browser, &lax, AnyDivision(9)).await;
    assert_eq!(seen(&mut browser, &node).await, (Division(-1), "default"), "out of the cookie");
    assert_eq!(post(&mut browser, &node, r#"{"current_division_id": 9}"#).await.code(), "invalid_value");
    let kinds = async |session: Session| {
        let kind = |error: WriteError| error.kind();
        let set = session.set(Division(9)).await.map_err(kind);
        let update = session.update::<Division>(|division| division.0 = 9).await.map_err(kind);
        let other = session.set(AnyDivision(9)).await.map_err(kind);
        (set.unwrap_err(), update.unwrap_err(), other.unwrap_err())
    };
    let (invalid, undeclared) = (WriteErrorKind::Invalid, WriteErrorKind::Undeclared);
    assert_eq!(browser.visit(&node, kinds).await, (invalid, invalid, undeclared));
    post(&mut browser, &node, r#"{"current_division_id": 5}"#).await;
    assert_eq!(get::<Division>(&mut browser, &node).await, Division(5));
    assert_eq!(get::<AnyDivision>(&mut browser, &lax).await, AnyDivision(5));
}

// Acceptance 21.
#[tokio::test]
async fn of_two_quick_switches_the_last_one_wins_not_the_last_response() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let switch = async |name: &'static str| {
        browser.clone().visit_seen(&node, async move |session| session.set(theme(name)).await.unwrap()).await.0
    };
    let (first, second) = (switch("first").await, switch("second").await);
    browser.take(&second);
    browser.take(&first);
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("first"));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("second"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("second"));
}

// Acceptance 22.
#[tokio::test]
async fn the_next_user_of_a_browser_sees_nothing_of_the_last_ones() {
    for signs_out in [true, false] {
        let app = App::new();
        let node = app.node();
        let mut browser = signed_in(&node, "ada").await;
        set(&mut browser, &node, Division(2)).await;
        if signs_out {
            browser.visit(&node, async |session| session.sign_out().await.unwrap()).await;
            assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1));
        }
        sign_in(&mut browser, &node, "bob").await;
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1));
        assert_eq!(carried::<Division>(&browser, &app).await, Division(-1));
        sign_in(&mut browser, &node, "ada").await;
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(2), "hers are hers");
    }
}

/// A node whose outer layer says in a header who is signed in.
fn headed(app: &App) -> Node {
    let user =
        |head: &http::request::Parts| head.headers.get("x-user").map(|user| Principal::new(user.to_str().unwrap()));
    Node::new(app.chain(DefaultTier::new()).value::<Division>().value::<Theme>().identify(user).build().unwrap())
}

/// A visit of the user of that name, or of nobody where it is empty: sets a division, if one is given, and reads it.
async fn visit_as(browser: &mut Browser, node: &Node, user: &str, division: Option<Division>) -> Division {
    let mut request = browser.request();
    if !user.is_empty() {
        request.headers_mut().insert("x-user", user.parse().unwrap());
    }
    let handler = async move |session: Session| {
        if let Some(division) = division {
            session.set(division).await.unwrap();
        }
        (Response::new(Full::<Bytes>::default()), session.get::<Division>())
    };
    let (response, division) = node.handle(request, handler).await;
    browser.take(response.headers());
    division
}

// Acceptance 22.
#[tokio::test]
async fn users_who_share_one_session_cookie_share_no_values() {
    let app = App::new();
    let (node, mut browser) = (headed(&app), Browser::new());
    visit_as(&mut browser, &node, "ada", Some(Division(2))).await;
    for user in ["bob", ""] {
        assert_eq!(visit_as(&mut browser.clone(), &headed(&app), user, None).await, Division(-1), "{user} by cookie");
        assert_eq!(visit_as(&mut browser, &node, user, None).await, Division(-1), "{user}");
    }
    visit_as(&mut browser, &node, "bob", Some(Division(4))).await;
    assert_eq!(visit_as(&mut browser.clone(), &headed(&app), "ada", None).await, Division(-1));
    assert_eq!(visit_as(&mut browser, &node, "ada", None).await, Division(2));
    assert_eq!(visit_as(&mut browser, &node, "bob", None).await, Division(4));
}

// Acceptance 4 and 10.
#[tokio::test]
async fn a_browsers_own_choice_outlasts_a_user_and_a_deploy() {
    let app = App::new();
    let (node, mut browser) = (headed(&app), Browser::new());
    visit_as(&mut browser, &node, "", Some(Division(3))).await;
    visit_as(&mut browser, &node, "ada", Some(Division(2))).await;
    assert_eq!(visit_as(&mut browser, &node, "", None).await, Division(3));
    assert_eq!(visit_as(&mut browser, &headed(&app), "", None).await, Division(3));
}

#[tokio::test]
async fn a_browser_that_is_behind_is_healed_by_whatever_asks_for_the_session() {
    type Ask = fn(Session) -> crate::world::BoxFuture<()>;
    let asks: [(&str, Ask); 3] = [
        ("read", |session| Box::pin(async move { _ = session.get::<Visits>() })),
        ("written", |session| Box::pin(async move { session.set(Visits(1)).await.unwrap() })),
        ("watched", |session| Box::pin(async move { drop(session.watch::<Visits>()) })),
    ];
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    socket(&browser, &node).await.set(theme("dark")).await.unwrap();
    let (headers, ()) = browser.visit_seen(&node, async |_| ()).await;
    assert!(set_cookies(&headers).is_empty(), "nobody asked");
    for (what, ask) in asks {
        let mut browser = browser.clone();
        browser.visit(&node, ask).await;
        assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"), "{what}");
    }
    let answer = post(&mut browser, &node, "{}").await;
    assert_eq!(answer.json(), serde_json::json!({ "stored": [] }));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"), "posted nothing");
    assert!(set_cookies(&browser.visit_seen(&node, async |session| session.get::<Theme>()).await.0).is_empty());
}

// Acceptance 57c.
#[tokio::test]
async fn a_value_written_by_a_handler_that_then_fails_is_kept() {
    let app = App::new();
    let (node, mut browser) = (app.node(), Browser::new());
    let failing = async |session: Session| {
        session.set(theme("dark")).await.unwrap();
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        (response, ())
    };
    let (response, ()) = node.handle(browser.request(), failing).await;
    browser.take(response.headers());
    assert_eq!(seen(&mut browser, &node).await, (theme("dark"), "memory"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
}
