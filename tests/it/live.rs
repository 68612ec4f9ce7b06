//! What goes on after the response: lifetimes, watches, changes, turns and ends of a session.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use http::{StatusCode, header};
use layered_session::{
    ChangeOrigin, Changed, Changes, Clock, Closed, DefaultTier, Lifetime, Principal, Session, SessionValue, Watch,
    WriteError, WriteErrorKind,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::{
    app::{
        App, at_once, bring, carried, get, post, seen, set, sign_in, signed_in, socket, soon, theme, upgrade, visitor,
    },
    world::{Browser, DAY, Division, Node, Theme, User, Visits, set_cookies},
};

const TICK: Duration = Duration::from_millis(1);

const HOUR: Duration = Duration::from_secs(3600);

/// What a stream of changes has to say now.
fn told(changes: &mut Changes) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(Some(changed)) = at_once(changes.next()) {
        told.push(match changed {
            Changed::Set { name, .. } => format!("set {name}"),
            Changed::Removed { name, .. } => format!("removed {name}"),
            Changed::Expired { name, .. } => format!("expired {name}"),
            Changed::Cleared { .. } => "cleared".to_owned(),
            Changed::Closed(reason) => format!("closed: {reason}"),
            other => format!("{other:?}").to_lowercase(),
        });
    }
    told
}

/// A page that waits for a value, and has had its look: from here on only a change wakes it.
async fn waiting_for<V>(mut watch: Watch<V>, value: V) -> JoinHandle<()>
where
    V: SessionValue + Default + PartialEq,
{
    let waiting = tokio::spawn(async move { while watch.next().await.expect("the session lives") != value {} });
    settled().await;
    waiting
}

/// Lets every task go on until it waits.
async fn settled() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn kind(written: Result<(), WriteError>) -> Option<WriteErrorKind> {
    written.err().map(|error| error.kind())
}

/// A visit with a cookie: whether it had no session, what it could write, and whether the response said anything of
/// our cookie.
async fn attempt(browser: &Browser, node: &Node) -> (bool, Option<WriteErrorKind>, bool) {
    let write = async |session: Session| (session.is_new(), kind(session.set(Visits(9)).await));
    let (headers, (is_new, written)) = browser.clone().visit_seen(node, write).await;
    (is_new, written, !set_cookies(&headers).is_empty())
}

/// What a request with a renewed or ended id gets for a minute: no session, no write, no word on the cookie.
const FENCED: (bool, Option<WriteErrorKind>, bool) = (true, Some(WriteErrorKind::Closed), false);

// Lifetimes.

// Acceptance 24.
#[tokio::test]
async fn reads_and_writes_extend_the_two_days_and_the_end_is_on_time() {
    let app = App::new();
    let node = app.node();
    let live = socket(&visitor(&node).await, &node).await;
    for n in 1..=3 {
        app.pass(2 * DAY - TICK);
        live.set(Visits(n)).await.unwrap();
        app.pass(2 * DAY - TICK);
        assert_eq!(live.get::<Theme>(), theme("light"), "after a write");
        app.pass(2 * DAY - TICK);
        live.touch().await.expect("after a read");
    }
    assert_eq!(live.expires_at(), Some(app.clock.now() + 2 * DAY));
    app.pass(2 * DAY);
    assert_eq!((live.find::<Theme>(), live.expires_at()), (None, None));
    assert_eq!(kind(live.touch().await), Some(WriteErrorKind::Closed));
}

// Acceptance 24.
#[tokio::test]
async fn reading_and_writing_what_is_the_users_is_use_of_the_session() {
    let app = App::new();
    let node = app.node();
    let live = socket(&signed_in(&node, "ada").await, &node).await;
    for n in 0..3 {
        assert_eq!(live.get::<Division>(), Division(n - 1));
        app.pass(2 * DAY - TICK);
        live.set(Division(n)).await.unwrap();
        app.pass(2 * DAY - TICK);
    }
    app.pass(TICK);
    assert_eq!(at_once(live.closed()), Some(Closed::Expired));
}

// Acceptance 24.
#[tokio::test]
async fn reading_extends_what_the_browser_carries() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    for _ in 0..3 {
        app.pass(36 * HOUR);
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
    }
    app.pass(2 * DAY - TICK);
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("light"));
    app.pass(TICK);
    assert_eq!(carried::<Theme>(&browser, &app).await, Theme::default());
}

// Acceptance 25.
#[tokio::test]
async fn a_pass_of_expiry_work_drops_what_is_over_and_nothing_else() {
    let app = App::new();
    let node = app.node();
    let mut sweeper = pin!(node.sessions.sweeper());
    let mut sweep = |span| {
        app.pass(span);
        assert!(sweeper.as_mut().now_or_never().is_none());
        node.sessions.stats().records
    };
    assert_eq!(sweep(TICK), 0);
    drop(visitor(&node).await);
    assert_eq!(sweep(DAY), 1);
    let mut later = visitor(&node).await;
    assert_eq!(sweep(HOUR), 2, "nothing was over");
    assert_eq!(sweep(DAY), 1);
    assert_eq!(seen(&mut later, &node).await, (theme("light"), "memory"));
    assert_eq!(sweep(DAY), 1, "it has been used");
    assert_eq!(seen(&mut later, &node).await, (theme("light"), "memory"));
    assert_eq!((sweep(2 * DAY + HOUR), node.sessions.stats().expired), (0, 2));
}

// Acceptance 25.
#[tokio::test]
async fn what_has_expired_is_not_served_before_it_is_dropped() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    app.pass(2 * DAY);
    assert_eq!(node.sessions.stats().records, 1, "still there");
    assert_eq!(seen(&mut browser, &node).await, (Theme::default(), "default"));
}

#[tokio::test]
async fn the_end_of_a_session_wakes_all_who_sleep_on_it() {
    let app = App::new();
    let node = app.node();
    let live = socket(&visitor(&node).await, &node).await;
    let (mut watch, mut changes) = (live.watch::<Theme>(), live.changes());
    assert_eq!(soon(watch.next()).await, Some(theme("light")));
    let closed = tokio::spawn(live.closed());
    let watching = tokio::spawn(async move { watch.next().await });
    let changing = tokio::spawn(async move { changes.next().await });
    tokio::task::yield_now().await;
    app.pass(2 * DAY - TICK);
    tokio::task::yield_now().await;
    assert!(!closed.is_finished() && !watching.is_finished() && !changing.is_finished());
    app.pass(TICK);
    assert_eq!(soon(closed).await.unwrap(), Closed::Expired);
    assert_eq!(soon(watching).await.unwrap(), None);
    assert_eq!(soon(changing).await.unwrap(), Some(Changed::Closed(Closed::Expired)));
}

#[tokio::test]
async fn a_sleeper_follows_a_deadline_that_moves() {
    let app = App::new();
    let node = app.node();
    let live = socket(&visitor(&node).await, &node).await;
    let closed = tokio::spawn(live.closed());
    tokio::task::yield_now().await;
    app.pass(DAY);
    live.touch().await.unwrap();
    app.pass(DAY);
    tokio::task::yield_now().await;
    assert!(!closed.is_finished(), "a touch moved it out");
    live.set_lifetime(Lifetime::new(HOUR, DAY * 30).unwrap()).await.unwrap();
    tokio::task::yield_now().await;
    app.pass(HOUR - TICK);
    tokio::task::yield_now().await;
    assert!(!closed.is_finished(), "it is a use too");
    app.pass(TICK);
    assert_eq!(soon(closed).await.unwrap(), Closed::Expired);
}

#[tokio::test]
async fn a_sleeper_hears_of_a_shorter_life_that_a_cookie_brings() {
    let app = App::new();
    let (here, elsewhere) = (app.node(), app.node());
    let mut browser = visitor(&here).await;
    let closed = tokio::spawn(socket(&browser, &here).await.closed());
    settled().await;
    let shorter = Lifetime::new(HOUR, DAY * 30).unwrap();
    browser.visit(&elsewhere, async move |session| session.set_lifetime(shorter).await.unwrap()).await;
    get::<Theme>(&mut browser, &here).await;
    settled().await;
    app.pass(HOUR);
    assert_eq!(soon(closed).await.unwrap(), Closed::Expired);
}

/// It ends an hour after its last write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Notice(String);
impl SessionValue for Notice {
    const NAME: &'static str = "notice";
    const MAX_AGE: Option<Duration> = Some(HOUR);
}

#[tokio::test]
async fn the_end_of_a_value_wakes_its_watch() {
    let app = App::new();
    let node = Node::new(app.chain(DefaultTier::new()).value::<Notice>().value::<Theme>().build().unwrap());
    let live = socket(&visitor(&node).await, &node).await;
    live.set(Notice("saved".into())).await.unwrap();
    let (mut watch, mut changes) = (live.watch::<Notice>(), live.changes());
    assert_eq!(soon(watch.next()).await, Some(Notice("saved".into())));
    let watching = tokio::spawn(async move { watch.next().await });
    let changing = tokio::spawn(async move { changes.next().await });
    tokio::task::yield_now().await;
    app.pass(HOUR);
    assert_eq!(soon(watching).await.unwrap(), Some(Notice::default()));
    assert!(matches!(soon(changing).await.unwrap(), Some(Changed::Expired { name: "notice", .. })));
    assert_eq!(live.find::<Notice>(), None);
}

#[tokio::test]
async fn the_end_of_a_users_values_is_told_to_who_watches_them() {
    let app = App::new();
    let node = app.node_with(|sessions| sessions.idle(60 * DAY).absolute(365 * DAY));
    let live = socket(&signed_in(&node, "ada").await, &node).await;
    live.set(Division(2)).await.unwrap();
    let (mut watch, mut changes) = (live.watch::<Division>(), live.changes());
    assert_eq!(soon(watch.next()).await, Some(Division(2)));
    let watching = tokio::spawn(async move { watch.next().await });
    let changing = tokio::spawn(async move { changes.next().await });
    tokio::task::yield_now().await;
    app.pass(31 * DAY);
    assert_eq!(soon(watching).await.unwrap(), Some(Division(-1)));
    assert!(matches!(soon(changing).await.unwrap(), Some(Changed::Expired { name: Division::NAME, .. })));
    assert_eq!(live.find::<Division>(), None);
}

// Watches and changes.

// Acceptance 26.
#[tokio::test]
async fn each_of_two_writes_is_told_and_the_second_state_holds_both() {
    let node = App::new().node();
    let live = socket(&Browser::new(), &node).await;
    let (mut changes, mut watch) = (live.changes(), live.watch::<Theme>());
    assert_eq!(soon(watch.next()).await, Some(Theme::default()));
    live.set(theme("dark")).await.unwrap();
    assert_eq!(told(&mut changes), ["set theme"]);
    assert_eq!(soon(watch.next()).await, Some(theme("dark")), "a writer sees its own change");
    live.set(Visits(1)).await.unwrap();
    assert_eq!(told(&mut changes), ["set visits"]);
    assert_eq!((live.get::<Theme>(), live.get::<Visits>()), (theme("dark"), Visits(1)));
    assert_eq!(at_once(watch.next()), None, "another value is none of its business");
}

// Acceptance 27.
#[tokio::test]
async fn what_a_handle_writes_that_follows_nothing_is_read_later() {
    let node = App::new().node();
    let mut browser = visitor(&node).await;
    socket(&browser, &node).await.set(theme("dark")).await.unwrap();
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    assert_eq!(socket(&browser, &node).await.get::<Theme>(), theme("dark"));
}

#[tokio::test]
async fn set_removed_cleared_renewed_and_closed_are_told_apart() {
    let node = App::new().node();
    let browser = visitor(&node).await;
    let (live, other) = (socket(&browser, &node).await, socket(&browser, &node).await);
    let (mut changes, mut others) = (live.changes(), other.changes());
    live.set(Visits(1)).await.unwrap();
    assert_eq!(told(&mut changes), ["set visits"]);
    live.remove::<Visits>().await.unwrap();
    assert_eq!(told(&mut changes), ["removed visits"]);
    live.clear().await.unwrap();
    assert_eq!(told(&mut changes), ["cleared", "removed theme"]);
    live.set(theme("dark")).await.unwrap();
    live.set(Visits(2)).await.unwrap();
    assert_eq!(told(&mut changes), ["set theme", "set visits", "caughtup"]);
    live.renew().await.unwrap();
    assert_eq!(told(&mut changes), ["renewed", "set theme", "set visits"]);
    assert_eq!(told(&mut others), ["closed: renewed"]);
    live.destroy().await.unwrap();
    assert_eq!(told(&mut changes), ["closed: destroyed"]);
    assert_eq!(soon(changes.next()).await, None);
}

/// A task that looks at a stream of changes in the very moment in which it is woken.
struct Prompt(Mutex<(Changes, Vec<String>)>);

impl Wake for Prompt {
    fn wake(self: Arc<Self>) {
        let (changes, seen) = &mut *self.0.lock().unwrap();
        seen.extend(told(changes));
    }
}

#[tokio::test]
async fn nobody_sees_half_of_a_clear() {
    let app = App::new();
    let newer = app.chain(DefaultTier::new()).value::<Theme>().value::<Notice>().build().unwrap();
    let mut browser = visitor(&app.node()).await;
    set(&mut browser, &Node::new(newer), Notice("rides along".into())).await;
    let live = socket(&browser, &app.node()).await;
    live.set(Visits(1)).await.unwrap();
    let prompt = Arc::new(Prompt(Mutex::new((live.changes(), Vec::new()))));
    let mut woken = live.changes();
    assert!(pin!(woken.next()).as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&prompt)))).is_pending());
    live.clear().await.unwrap();
    assert_eq!(prompt.0.lock().unwrap().1, ["cleared", "removed theme", "removed visits"]);
}

#[tokio::test]
async fn a_change_is_fresh_on_the_node_that_made_it_and_carried_on_others() {
    let app = App::new();
    let (here, elsewhere) = (app.node(), app.node());
    let mut browser = visitor(&here).await;
    let mut streams = [socket(&browser, &here).await, socket(&browser, &elsewhere).await].map(|live| live.changes());
    browser
        .visit(&here, async |session| session.batch().set(Visits(1)).remove::<Theme>().commit().await.unwrap())
        .await;
    get::<Visits>(&mut browser, &elsewhere).await;
    let origins = streams.each_mut().map(|changes| {
        let all = std::iter::from_fn(|| at_once(changes.next()).flatten());
        let origin = |changed| match changed {
            Changed::Set { name: "visits", origin, .. } | Changed::Removed { name: "theme", origin, .. } => origin,
            other => panic!("{other:?}"),
        };
        all.map(origin).collect::<Vec<_>>()
    });
    assert_eq!(origins, [[ChangeOrigin::Fresh; 2], [ChangeOrigin::Carried; 2]]);
}

// Acceptance 31.
#[tokio::test]
async fn a_destroyed_session_is_not_an_emptied_one() {
    let node = App::new().node();
    let browser = visitor(&node).await;
    let (live, other) = (socket(&browser, &node).await, socket(&browser, &node).await);
    let (mut watch, mut closed) = (other.watch::<Theme>(), pin!(other.closed()));
    assert_eq!(soon(watch.next()).await, Some(theme("light")));
    live.clear().await.unwrap();
    assert_eq!(soon(watch.next()).await, Some(Theme::default()));
    assert!(closed.as_mut().now_or_never().is_none());
    other.set(Visits(1)).await.unwrap();
    live.destroy().await.unwrap();
    assert_eq!(soon(watch.next()).await, None);
    assert_eq!(soon(closed).await, Closed::Destroyed);
    assert_eq!(kind(other.set(Visits(2)).await), Some(WriteErrorKind::Closed));
}

#[tokio::test]
async fn a_slow_reader_skips_to_the_newest_and_holds_no_writer_up() {
    let node = App::new().node();
    let live = socket(&visitor(&node).await, &node).await;
    let (mut watch, mut changes) = (live.watch::<Visits>(), live.changes());
    for n in 1..=10_000 {
        live.set(Visits(n)).await.unwrap();
    }
    assert_eq!(at_once(watch.next()), Some(Some(Visits(10_000))));
    assert_eq!(at_once(watch.next()), None);
    assert_eq!(told(&mut changes), ["set visits", "caughtup"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_comes_to_the_final_state() {
    const LAST: u64 = 2000;
    let node = App::new().node();
    let browser = visitor(&node).await;
    let mut watching = Vec::new();
    for _ in 0..8 {
        let mut watch = socket(&browser, &node).await.watch::<Visits>();
        watching.push(tokio::spawn(async move {
            let mut before = None;
            loop {
                let Visits(now) = watch.next().await.expect("the session lives");
                assert!(before < Some(now), "{now} after {before:?}");
                if now == LAST {
                    break;
                }
                before = Some(now);
            }
        }));
    }
    let live = socket(&browser, &node).await;
    for n in 1..=LAST {
        live.set(Visits(n)).await.unwrap();
    }
    for watching in watching {
        soon(watching).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_of_one_owner_reaches_anothers_watcher() {
    let node = App::new().node();
    let mut ada = signed_in(&node, "ada").await;
    let bob = socket(&signed_in(&node, "bob").await, &node).await;
    let nobody = socket(&visitor(&node).await, &node).await;
    let mut streams = [bob.changes(), nobody.changes()];
    let mut watches = [bob.watch::<Division>(), nobody.watch::<Division>()];
    for watch in &mut watches {
        assert_eq!(soon(watch.next()).await, Some(Division(-1)));
    }
    set(&mut ada, &node, Division(2)).await;
    set(&mut ada, &node, theme("dark")).await;
    ada.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert!(streams.iter_mut().all(|stream| told(stream).is_empty()));
    assert!(watches.iter_mut().all(|watch| at_once(watch.next()).is_none()));
}

// Acceptance 28.
#[tokio::test]
async fn who_watches_before_there_is_a_session_sees_it_come() {
    let node = App::new().node();
    let live = socket(&Browser::new(), &node).await;
    let (mut watch, mut changes, mut closed) = (live.watch::<Theme>(), live.changes(), pin!(live.closed()));
    assert_eq!(soon(watch.next()).await, Some(Theme::default()));
    assert_eq!((told(&mut changes), node.sessions.stats().records), (vec![], 0));
    live.clone().set(theme("dark")).await.unwrap();
    assert_eq!(soon(watch.next()).await, Some(theme("dark")));
    assert_eq!(told(&mut changes), ["set theme"]);
    let page = waiting_for(watch, theme("light")).await;
    live.set(theme("light")).await.unwrap();
    soon(page).await.unwrap();
    assert!(closed.as_mut().now_or_never().is_none());
    live.destroy().await.unwrap();
    assert_eq!(soon(closed).await, Closed::Destroyed);
}

#[tokio::test]
async fn clones_that_write_first_at_once_make_one_session() {
    let node = App::new().node();
    let live = socket(&Browser::new(), &node).await;
    let (one, other) = tokio::join!(live.set(theme("dark")), live.set(Visits(1)));
    one.and(other).unwrap();
    assert_eq!((live.get::<Theme>(), live.get::<Visits>()), (theme("dark"), Visits(1)));
    assert_eq!(node.sessions.stats().records, 1);
}

// Acceptance 33.
#[tokio::test]
async fn two_sockets_that_write_different_names_keep_both() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let (one, other) = (socket(&browser, &node).await, socket(&browser, &node).await);
    let (first, second) = tokio::join!(one.set(theme("dark")), other.set(Visits(1)));
    first.and(second).unwrap();
    assert_eq!((get(&mut browser, &node).await, get(&mut browser, &node).await), (theme("dark"), Visits(1)));
    assert_eq!((carried(&browser, &app).await, carried(&browser, &app).await), (theme("dark"), Visits(1)));
}

// Acceptance 33.
#[tokio::test]
async fn a_response_never_writes_back_what_its_request_loaded() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let slow = async move |session: Session| {
        let loaded = session.get::<Theme>();
        live.set(theme("dark")).await.unwrap();
        session.set(Visits(1)).await.unwrap();
        loaded
    };
    assert_eq!(browser.visit(&node, slow).await, theme("light"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
}

// Acceptance 34.
#[tokio::test]
async fn ordinary_handlers_read_and_write_as_sockets_do() {
    let node = App::new().node();
    let mut browser = Browser::new();
    let handler = async |session: Session| {
        session.batch().set(theme("dark")).set(Visits(1)).commit().await.unwrap();
        session.update::<Visits>(|visits| visits.0 += 1).await.unwrap();
        session.take::<Theme>().await.unwrap()
    };
    assert_eq!(browser.visit(&node, handler).await, Some(theme("dark")));
    assert_eq!((get(&mut browser, &node).await, get(&mut browser, &node).await), (Theme::default(), Visits(2)));
}

#[tokio::test]
async fn a_shutdown_ends_what_waits_and_no_session() {
    let node = App::new().node();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let (mut watch, mut changes) = (live.watch::<Theme>(), live.changes());
    assert_eq!(soon(watch.next()).await, Some(theme("light")));
    let (closed, watching) = (tokio::spawn(live.closed()), tokio::spawn(async move { watch.next().await }));
    tokio::task::yield_now().await;
    node.sessions.shutdown();
    assert_eq!((soon(closed).await.unwrap(), soon(watching).await.unwrap()), (Closed::Shutdown, None));
    assert_eq!(told(&mut changes), ["closed: shutdown"]);
    live.set(theme("dark")).await.unwrap();
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
}

// Turns: renewed, signed in.

// Acceptance 30.
#[tokio::test]
async fn watches_go_along_with_the_handle_that_renews_and_all_others_end() {
    let node = App::new().node();
    let browser = visitor(&node).await;
    let (live, other) = (socket(&browser, &node).await, socket(&browser, &node).await);
    let (mut mine, mut clones, mut others) =
        (live.watch::<Theme>(), live.clone().watch::<Theme>(), other.watch::<Theme>());
    for watch in [&mut mine, &mut clones, &mut others] {
        assert_eq!(soon(watch.next()).await, Some(theme("light")));
    }
    let (closed, ending) = (tokio::spawn(other.closed()), tokio::spawn(async move { others.next().await }));
    let mut open = pin!(live.closed());
    tokio::task::yield_now().await;
    live.renew().await.unwrap();
    assert_eq!((soon(closed).await.unwrap(), soon(ending).await.unwrap()), (Closed::Renewed, None));
    assert_eq!(kind(other.set(theme("late")).await), Some(WriteErrorKind::Closed));
    assert!(open.as_mut().now_or_never().is_none());
    let waiting = [waiting_for(mine, theme("dark")).await, waiting_for(clones, theme("dark")).await];
    live.set(theme("dark")).await.unwrap();
    for page in waiting {
        soon(page).await.unwrap();
    }
}

// Acceptance 30.
#[tokio::test]
async fn a_page_that_sleeps_through_a_renewal_is_woken_by_what_is_written_after_it() {
    let node = App::new().node();
    let live = socket(&visitor(&node).await, &node).await;
    let page = waiting_for(live.watch::<Theme>(), theme("dark")).await;
    live.renew().await.unwrap();
    settled().await;
    live.set(theme("dark")).await.unwrap();
    soon(page).await.unwrap();
}

// Acceptance 57b.
#[tokio::test]
async fn an_anonymous_choice_is_not_the_users_unless_adopted_and_never_over_the_users_own() {
    for (own, adopts, expected) in
        [(None, false, -1), (None, true, 3), (Some(Division(2)), false, 2), (Some(Division(2)), true, 2)]
    {
        let app = App::new();
        let node = app.node();
        if let Some(own) = own {
            node.sessions.of(Principal::new("ada")).await.unwrap().set(own).await.unwrap();
        }
        let mut browser = Browser::new();
        set(&mut browser, &node, Division(3)).await;
        let sign_in = async move |session: Session| {
            let turn = session.sign_in(User("ada".into()));
            if adopts { turn.adopt::<Division>().await } else { turn.await }
        };
        browser.visit(&node, sign_in).await.unwrap();
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(expected));
        assert_eq!(carried::<Division>(&browser, &app).await, Division(expected));
    }
}

// Acceptance 57b.
#[tokio::test]
async fn an_anonymous_choice_is_gone_after_a_sign_in_though_nobody_is_a_principal() {
    let app = App::new();
    let principal = |user: &User| (user.0 != "guest").then(|| Principal::new(&user.0));
    let node = || app.node_with(|sessions| sessions.identify_by::<User>(principal));
    let (node, restarted) = (node(), node());
    let mut browser = Browser::new();
    set(&mut browser, &node, Division(3)).await;
    set(&mut browser, &node, theme("dark")).await;
    sign_in(&mut browser, &node, "guest").await;
    for node in [node, restarted] {
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1));
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    }
}

// Acceptance 57b.
#[tokio::test]
async fn a_second_tabs_socket_ends_at_sign_in_and_comes_back_signed_in() {
    let node = App::new().node();
    let mut browser = visitor(&node).await;
    let tab = socket(&browser, &node).await;
    let closed = tokio::spawn(tab.closed());
    tokio::task::yield_now().await;
    sign_in(&mut browser, &node, "ada").await;
    assert_eq!(soon(closed).await.unwrap(), Closed::Renewed);
    assert_eq!(tab.principal(), None);
    assert_eq!(socket(&browser, &node).await.principal(), Some(Principal::new("ada")));
}

// Acceptance 57b.
#[tokio::test]
async fn a_post_with_the_cookie_from_before_a_login_leaves_the_login_alone() {
    let node = App::new().node();
    let mut browser = visitor(&node).await;
    let mut late = browser.clone();
    sign_in(&mut browser, &node, "ada").await;
    let answer = post(&mut late, &node, r#"{"theme": "late"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, "session_closed"));
    assert!(answer.set_cookies().is_empty());
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
    assert_eq!(browser.visit(&node, async |s| s.principal()).await, Some(Principal::new("ada")));
}

#[tokio::test]
async fn a_watch_that_signs_in_follows_the_users_own_value() {
    let node = App::new().node();
    let job = node.sessions.of(Principal::new("ada")).await.unwrap();
    job.set(Division(2)).await.unwrap();
    let live = socket(&visitor(&node).await, &node).await;
    live.set(Division(3)).await.unwrap();
    let mut watch = live.watch::<Division>();
    assert_eq!(soon(watch.next()).await, Some(Division(3)));
    live.sign_in(User("ada".into())).await.unwrap();
    assert_eq!(soon(watch.next()).await, Some(Division(2)));
    let (page, other) = (waiting_for(watch, Division(4)).await, live.watch::<Visits>());
    let other = waiting_for(other, Visits(1)).await;
    job.set(Division(4)).await.unwrap();
    live.set(Visits(1)).await.unwrap();
    soon(page).await.unwrap();
    soon(other).await.unwrap();
}

// Ends.

// Acceptance 29.
#[tokio::test]
async fn nothing_written_through_a_handle_after_the_end_brings_the_session_back() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert!(browser.cookie("session").is_none());
    let refused = [
        live.set(theme("late")).await,
        live.update::<Visits>(|visits| visits.0 += 1).await.map(drop),
        live.set(Division(1)).await,
        live.remove::<Theme>().await,
        live.take::<Theme>().await.map(drop),
        live.clear().await,
        live.touch().await,
        live.renew().await,
        live.sign_in(User("ada".into())).await,
        live.set_lifetime(Lifetime::new(DAY, DAY).unwrap()).await,
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert_eq!(kind(refused), Some(WriteErrorKind::Closed), "{at}");
    }
    live.destroy().await.unwrap();
    assert_eq!((live.find::<Theme>(), live.relay(), live.is_new()), (None, None, true));
    drop(live);
    assert_eq!(node.sessions.stats().records, 1, "its tombstone");
    assert_eq!(get::<Theme>(&mut browser, &node).await, Theme::default());
}

#[tokio::test]
async fn a_slow_request_an_older_cookie_and_an_older_token_undo_no_end() {
    let node = App::new().node();
    let mut browser = visitor(&node).await;
    let (mut old, live) = (browser.clone(), socket(&browser, &node).await);
    live.set(theme("dark")).await.unwrap();
    let token = live.relay().unwrap();
    let slow = async move |session: Session| {
        live.destroy().await.unwrap();
        (session.get::<Theme>(), kind(session.set(theme("slow")).await))
    };
    let (headers, answer) = browser.visit_seen(&node, slow).await;
    assert_eq!(answer, (Theme::default(), Some(WriteErrorKind::Closed)));
    assert!(set_cookies(&headers).is_empty());
    assert_eq!(bring(&mut old, &node, token.as_str()).await.status, StatusCode::CONFLICT);
    assert_eq!(bring(&mut Browser::new(), &node, token.as_str()).await.status, StatusCode::CONFLICT);
    assert_eq!(attempt(&old, &node).await, FENCED);
}

#[tokio::test]
async fn an_older_cookie_brings_no_removed_value_back() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let old = browser.clone();
    let late = socket(&browser, &node).await;
    browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await;
    assert_eq!(late.find::<Theme>(), None, "an open socket");
    app.pass(2 * DAY - HOUR);
    set(&mut browser, &node, Visits(1)).await;
    assert_eq!(get::<Theme>(&mut old.clone(), &node).await, Theme::default(), "in memory");
    let restarted = app.node();
    assert_eq!(get::<Visits>(&mut browser, &restarted).await, Visits(1));
    assert_eq!(get::<Theme>(&mut old.clone(), &restarted).await, Theme::default(), "by the newer cookie");
}

#[tokio::test]
async fn a_removal_outlives_every_cookie_of_a_remembered_session() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let remember = async |session: Session| session.set_lifetime(Lifetime::new(30 * DAY, 365 * DAY).unwrap()).await;
    browser.visit(&node, remember).await.unwrap();
    let mut old = browser.clone();
    browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await;
    app.pass(10 * DAY);
    set(&mut browser, &node, Visits(1)).await;
    assert_eq!(get::<Theme>(&mut old, &node).await, Theme::default());
}

#[tokio::test]
async fn for_a_minute_an_id_that_is_over_gets_nothing_and_then_counts_as_no_cookie() {
    let app = App::new();
    for renews in [true, false] {
        let node = app.node();
        let mut browser = visitor(&node).await;
        let old = browser.clone();
        let turn = async move |session: Session| if renews { session.renew().await } else { session.destroy().await };
        browser.visit(&node, turn).await.unwrap();
        app.pass(Duration::from_secs(60) - TICK);
        assert_eq!(attempt(&old, &node).await, FENCED);
        for body in [r#"{"theme": "late"}"#, "{}"] {
            let answer = post(&mut old.clone(), &node, body).await;
            assert_eq!((answer.status, answer.set_cookies()), (StatusCode::CONFLICT, vec![]), "{body}");
        }
        let destroyed = old.clone().visit_seen(&node, async |session| session.destroy().await.unwrap()).await;
        assert!(set_cookies(&destroyed.0).is_empty());
        let live = socket(&old, &node).await;
        assert_eq!(at_once(live.closed()), Some(if renews { Closed::Renewed } else { Closed::Destroyed }));
        app.pass(TICK);
        assert_eq!(attempt(&old, &node).await, (true, None, true));
        let expected = if renews { theme("light") } else { Theme::default() };
        assert_eq!(get::<Theme>(&mut browser, &node).await, expected, "its successor is untouched");
    }
}

#[tokio::test]
async fn a_login_or_renewal_may_follow_an_id_that_has_just_ended() {
    let node = App::new().node();
    let mut browser = visitor(&node).await;
    let old = browser.clone();
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    let mut again = old.clone();
    sign_in(&mut again, &node, "ada").await;
    assert_eq!(again.visit(&node, async |s| s.principal()).await, Some(Principal::new("ada")));
    let mut renewed = old.clone();
    let renew = async |session: Session| {
        session.renew().await.unwrap();
        session.set(Visits(1)).await.unwrap();
    };
    renewed.visit(&node, renew).await;
    assert_eq!((get(&mut renewed, &node).await, get(&mut renewed, &node).await), (Visits(1), Theme::default()));
}

#[tokio::test]
async fn ending_all_sessions_of_a_user_ends_hers_and_no_others() {
    let app = App::new();
    let node = app.node();
    let (mut first, second, mut bob) =
        (signed_in(&node, "ada").await, signed_in(&node, "ada").await, signed_in(&node, "bob").await);
    let live = socket(&second, &node).await;
    let mut watch = live.watch::<Theme>();
    assert_eq!(soon(watch.next()).await, Some(Theme::default()));
    let (closed, watching) = (tokio::spawn(live.closed()), tokio::spawn(async move { watch.next().await }));
    tokio::task::yield_now().await;
    node.sessions.end_all(Principal::new("ada")).await.unwrap();
    assert_eq!((soon(closed).await.unwrap(), soon(watching).await.unwrap()), (Closed::Revoked, None));
    assert_eq!(attempt(&first, &node).await, FENCED);
    assert_eq!(bob.visit(&node, async |s| s.principal()).await, Some(Principal::new("bob")));
    sign_in(&mut first, &node, "ada").await;
    assert_eq!(first.visit(&node, async |s| s.principal()).await, Some(Principal::new("ada")));
    app.pass(Duration::from_secs(61));
    assert_eq!(second.clone().visit(&node, async |s| s.principal()).await, None);
}

#[tokio::test]
async fn a_socket_that_another_site_opened_is_closed_from_the_start() {
    let node = App::new().node();
    let mut request = upgrade(&visitor(&node).await);
    request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    request.headers_mut().insert(header::ORIGIN, "https://evil.example".parse().unwrap());
    let handler = async |session: Session| (http::Response::default(), session);
    let (_, live) = node.handle(request, handler).await;
    assert_eq!((live.find::<Theme>(), live.relay()), (None, None));
    assert_eq!(kind(live.set(theme("evil")).await), Some(WriteErrorKind::Closed));
    assert_eq!(kind(live.remove::<Theme>().await), Some(WriteErrorKind::Closed));
    assert_eq!(at_once(live.closed()), Some(Closed::CrossSite));
}
