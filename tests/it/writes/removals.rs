//! Removals of user values: memory keeps a removal for as long as a cookie could bring the removed value back.

use layered_session::{Lifetime, Principal, Session};
use proptest::prelude::*;

use crate::support::{App, Browser, DAY, Division, HOUR, Node, User, at_once, get, set, signed_in, visitor};

/// Returns ada's browser, signed in for a year, with a user value.
async fn remembered(node: &Node) -> Browser {
    let mut browser = signed_in(node, "ada").await;
    let year = Lifetime::new(365 * DAY, 365 * DAY).unwrap();
    browser.visit(node, async move |session| session.set_lifetime(year).await.unwrap()).await;
    set(&mut browser, node, Division(3)).await;
    browser
}

async fn ada(node: &Node) -> Session {
    node.sessions.for_principal(Principal::new("ada")).await.unwrap()
}

#[tokio::test]
async fn removal_outlives_principal_idle_time() {
    for crowd in [0, 8] {
        let app = App::new();
        let node = app.start();
        let mut browser = remembered(&node).await;
        ada(&node).await.remove::<Division>().await.unwrap();
        app.pass(364 * DAY);
        for _ in 0..crowd {
            visitor(&node).await;
        }
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1), "{crowd}");
        assert_eq!(ada(&node).await.get::<Division>(), None);
    }
}

#[tokio::test]
async fn clear_outlives_principal_idle_time() {
    let app = App::new();
    let node = app.start();
    let mut browser = remembered(&node).await;
    ada(&node).await.clear().await.unwrap();
    app.pass(40 * DAY);
    visitor(&node).await;
    assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1));
}

#[tokio::test]
async fn removal_from_cookie_outlives_principal_idle_time() {
    let app = App::new();
    let (here, there) = (app.start(), app.start());
    let mut old = remembered(&here).await;
    let mut browser = old.clone();
    browser.visit(&here, async |session| session.remove::<Division>().await.unwrap()).await;
    assert_eq!(get::<Division>(&mut browser, &there).await, Division(-1));
    app.pass(40 * DAY);
    visitor(&there).await;
    assert_eq!(get::<Division>(&mut old, &there).await, Division(-1));
}

#[tokio::test]
async fn user_record_expires_after_last_cookie() {
    let app = App::new();
    let node = app.start();
    remembered(&node).await;
    ada(&node).await.remove::<Division>().await.unwrap();
    let records = async || {
        for _ in 0..3 {
            visitor(&node).await;
        }
        node.sessions.stats().records - 3
    };
    assert_eq!(records().await, 2, "the session and the user");
    app.pass(365 * DAY + HOUR / 2);
    assert_eq!(records().await, 1, "the allowed clock skew keeps the user's record");
    app.pass(3 * DAY);
    assert_eq!(records().await, 0);
}

// A removal keeps the user's record past the idle lifetime. The values of the record expire at the idle lifetime.
#[tokio::test]
async fn removal_revives_no_expired_value() {
    let app = App::new();
    let node = app.start_with(|sessions| sessions.principal_idle(HOUR));
    ada(&node).await.set(Division(3)).await.unwrap();
    ada(&node).await.remove::<Division>().await.unwrap();
    ada(&node).await.set(Division(4)).await.unwrap();
    app.pass(2 * HOUR);
    visitor(&node).await;
    assert_eq!(ada(&node).await.get::<Division>(), None);
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(ada(&node).await.get::<Division>(), None, "an end of all sessions is not a use of the values");
}

#[tokio::test]
async fn adopted_choice_replaces_expired_user_value() {
    let app = App::new();
    let node = app.start_with(|sessions| sessions.principal_idle(HOUR));
    ada(&node).await.set(Division(3)).await.unwrap();
    app.pass(HOUR);
    let adopt = async |session: Session| {
        session.set(Division(5)).await.unwrap();
        session.sign_in(User("ada".into())).adopt::<Division>().await.unwrap();
        session.get::<Division>()
    };
    assert_eq!(Browser::new().visit(&node, adopt).await, Some(Division(5)));
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, i64),
    Remove(usize),
    Read(usize),
    /// A wait in days.
    Wait(u32),
}

const BROWSERS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..BROWSERS, 0..6i64).prop_map(|(browser, to)| Step::Set(browser, to)),
        2 => (0..BROWSERS).prop_map(Step::Remove),
        3 => (0..BROWSERS).prop_map(Step::Read),
        3 => proptest::sample::select(vec![1, 20, 32, 200]).prop_map(Step::Wait),
    ]
}

// A browser that stayed away brings old copies of the value. After a removal, a copy from before the removal never
// answers. A value that expired without a removal may answer again from a browser's copy, so the test does not check
// expired values.
#[test]
fn removed_value_never_returns() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..30))| {
        let app = App::new();
        let node = app.start();
        let mut browsers: Vec<_> =
            (0..BROWSERS).map(|_| at_once(remembered(&node)).expect("nothing to wait for")).collect();
        let mut removed = false;
        for step in steps {
            let mut visit = |browser: usize, to: Option<Option<i64>>| {
                let handler = async move |session: Session| {
                    match to {
                        Some(Some(value)) => session.set(Division(value)).await.unwrap(),
                        Some(None) => session.remove::<Division>().await.unwrap(),
                        None => {}
                    }
                    (session.principal().is_some(), session.get::<Division>())
                };
                at_once(browsers[browser].visit(&node, handler)).expect("nothing to wait for")
            };
            match step {
                Step::Set(browser, value) if visit(browser, None).0 => {
                    visit(browser, Some(Some(value)));
                    removed = false;
                }
                // A removal of an absent value writes nothing, though another browser may have a copy.
                Step::Remove(browser) if matches!(visit(browser, None), (true, Some(_))) => {
                    visit(browser, Some(None));
                    removed = true;
                }
                Step::Set(..) | Step::Remove(_) => {}
                Step::Read(browser) => {
                    let (signed_in, found) = visit(browser, None);
                    prop_assert!(!(signed_in && removed) || found.is_none(), "{found:?} was removed");
                }
                Step::Wait(days) => {
                    app.pass(DAY * days);
                    at_once(visitor(&node)).expect("nothing to wait for");
                }
            }
        }
    });
}
