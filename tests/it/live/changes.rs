//! Watches, changes and writes of handles that outlive their request.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use layered_session::{
    ChangeEvent, ChangeOrigin, Changes, CloseReason, DefaultTier, Session, SessionValue, WriteErrorKind,
    testing::ManualClock,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, DAY, Division, HOUR, Node, Theme, Visits, at_once, builder, carried, get, kind, ring, set, signed_in,
    socket, soon, theme, under_way, visitor, waiting_for,
};

/// The events that a stream of changes has ready.
fn told(changes: &mut Changes) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(Some(changed)) = at_once(changes.next()) {
        told.push(match changed {
            ChangeEvent::Set { name, .. } => format!("set {name}"),
            ChangeEvent::Removed { name, .. } => format!("removed {name}"),
            ChangeEvent::Expired { name, .. } => format!("expired {name}"),
            ChangeEvent::Cleared { .. } => "cleared".to_owned(),
            ChangeEvent::Closed(reason) => format!("closed: {reason}"),
            other => format!("{other:?}").to_lowercase(),
        });
    }
    told
}

/// A value that expires an hour after its last write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Notice(String);

impl SessionValue for Notice {
    const NAME: &'static str = "notice";
    const MAX_AGE: Option<Duration> = Some(HOUR);
}

// Tests of watches and changes.

// G18: each write is one change, and a watch of one value ignores the writes of other values.
#[tokio::test]
async fn two_writes_cause_two_changes() {
    let node = App::new().node;
    let live = socket(&Browser::new(), &node).await;
    let (mut changes, mut watch) = (live.changes(), live.watch::<Theme>());
    assert_eq!(soon(watch.next()).await, Some(Theme::default()));
    live.set(theme("dark")).await.unwrap();
    assert_eq!(told(&mut changes), ["set theme"]);
    assert_eq!(soon(watch.next()).await, Some(theme("dark")), "a writer sees its own change");
    live.set(Visits(1)).await.unwrap();
    assert_eq!(told(&mut changes), ["set visits"]);
    assert_eq!((live.value::<Theme>(), live.value::<Visits>()), (theme("dark"), Visits(1)));
    assert_eq!(at_once(watch.next()), None, "a watch of the theme ignores other values");
}

#[tokio::test]
async fn changes_name_their_kind() {
    let node = App::new().node;
    let browser = visitor(&node).await;
    let (live, other) = (under_way(&browser, &node).await, socket(&browser, &node).await);
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

/// A task that reads a stream of changes at the very moment of the wake-up.
struct Prompt(Mutex<(Changes, Vec<String>)>);

impl Wake for Prompt {
    fn wake(self: Arc<Self>) {
        let (changes, seen) = &mut *self.0.lock().unwrap();
        seen.extend(told(changes));
    }
}

#[tokio::test]
async fn no_watcher_sees_partial_clear() {
    let app = App::new();
    let newer = app.chain(DefaultTier::new()).value::<Theme>().value::<Notice>().build().unwrap();
    let mut browser = visitor(&app.start()).await;
    set(&mut browser, &Node::new(newer), Notice("rides along".into())).await;
    let live = socket(&browser, &app.start()).await;
    live.set(Visits(1)).await.unwrap();
    let prompt = Arc::new(Prompt(Mutex::new((live.changes(), Vec::new()))));
    let mut woken = live.changes();
    assert!(pin!(woken.next()).as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&prompt)))).is_pending());
    live.clear().await.unwrap();
    assert_eq!(prompt.0.lock().unwrap().1, ["cleared", "removed theme", "removed visits"]);
}

#[tokio::test]
async fn change_origin_is_local_or_remote() {
    let app = App::new();
    let (here, elsewhere) = (app.start(), app.start());
    let mut browser = visitor(&here).await;
    let mut streams = [socket(&browser, &here).await, socket(&browser, &elsewhere).await].map(|live| live.changes());
    browser
        .visit(&here, async |session| session.batch().set(Visits(1)).remove::<Theme>().commit().await.unwrap())
        .await;
    get::<Visits>(&mut browser, &elsewhere).await;
    let origins = streams.each_mut().map(|changes| {
        let all = std::iter::from_fn(|| at_once(changes.next()).flatten());
        let origin = |changed| match changed {
            ChangeEvent::Set { name: "visits", origin, .. } | ChangeEvent::Removed { name: "theme", origin, .. } => {
                origin
            }
            other => panic!("{other:?}"),
        };
        all.map(origin).collect::<Vec<_>>()
    });
    assert_eq!(origins, [[ChangeOrigin::Local; 2], [ChangeOrigin::Remote; 2]]);
}

// G18: after `clear` a watch goes on with the default. After `destroy` the watch ends, and `closed` gives the reason.
#[tokio::test]
async fn clear_and_destroy_notify_differently() {
    let node = App::new().node;
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
    assert_eq!(soon(closed).await, CloseReason::Destroyed);
    assert_eq!(kind(other.set(Visits(2)).await), Some(WriteErrorKind::Closed));
}

#[tokio::test]
async fn slow_reader_skips_to_newest() {
    let node = App::new().node;
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
async fn every_watcher_sees_final_value() {
    const LAST: u64 = 2000;
    let node = App::new().node;
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
async fn watchers_see_only_own_values() {
    let node = App::new().node;
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

// G18: a watch of a visitor's handle sees the first write, which begins the session, and each later write.
#[tokio::test]
async fn watch_sees_session_begin() {
    let node = App::new().node;
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
    assert_eq!(soon(closed).await, CloseReason::Destroyed);
}

// G18: a new watch begins with the newest value, not with the value that an earlier watch saw.
#[tokio::test]
async fn new_watch_begins_with_newest_value() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let mut first_view = live.watch::<Theme>();
    assert_eq!(at_once(first_view.next()), Some(Some(theme("light"))));
    set(&mut browser, &node, theme("dark")).await;
    drop(first_view);
    assert_eq!(live.value::<Theme>(), theme("dark"));
    assert_eq!(at_once(live.watch::<Theme>().next()), Some(Some(theme("dark"))));
}

#[tokio::test]
async fn value_expiry_wakes_watch() {
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
    assert!(matches!(soon(changing).await.unwrap(), Some(ChangeEvent::Expired { name: "notice", .. })));
    assert_eq!(live.get::<Notice>(), None);
}

#[tokio::test]
async fn watch_sees_user_values_expire() {
    let app = App::new();
    let node = app.start_with(|sessions| sessions.idle(60 * DAY).absolute(365 * DAY));
    let live = socket(&signed_in(&node, "ada").await, &node).await;
    live.set(Division(2)).await.unwrap();
    let (mut watch, mut changes) = (live.watch::<Division>(), live.changes());
    assert_eq!(soon(watch.next()).await, Some(Division(2)));
    let watching = tokio::spawn(async move { watch.next().await });
    let changing = tokio::spawn(async move { changes.next().await });
    tokio::task::yield_now().await;
    app.pass(31 * DAY);
    assert_eq!(soon(watching).await.unwrap(), Some(Division(-1)));
    assert!(matches!(soon(changing).await.unwrap(), Some(ChangeEvent::Expired { name: Division::NAME, .. })));
    assert_eq!(live.get::<Division>(), None);
}

// G18: a watch sees the winner of two writes with equal versions, the value with the greater bytes.
#[tokio::test]
async fn watch_sees_greater_bytes_at_equal_versions() {
    let (ring, clock) = (ring(), ManualClock::new());
    let nodes = [(); 2].map(|()| Node::new(builder(&ring, &clock).build().unwrap()));
    let mut browser = visitor(&nodes[0]).await;
    let socket = browser.clone().visit(&nodes[0], async |session| session).await;
    // Neither node has written yet, and both write at the same moment.
    set(&mut browser.clone(), &nodes[0], Visits(1)).await;
    set(&mut browser, &nodes[1], Visits(2)).await;
    let (mut watch, mut changes) = (socket.watch::<Visits>(), socket.changes());
    assert_eq!(at_once(watch.next()), Some(Some(Visits(1))));
    get::<Visits>(&mut browser, &nodes[0]).await;
    assert_eq!(at_once(watch.next()), Some(Some(Visits(2))));
    assert!(matches!(at_once(changes.next()), Some(Some(ChangeEvent::Set { .. }))));
}

#[tokio::test]
async fn shutdown_ends_sweeper() {
    let node = App::new().node;
    let sweeper = tokio::spawn(node.sessions.sweeper());
    tokio::task::yield_now().await;
    assert!(!sweeper.is_finished());
    node.sessions.shutdown();
    soon(sweeper).await.unwrap();
    soon(node.sessions.sweeper()).await;
}

#[tokio::test]
async fn shutdown_ends_waits_but_no_session() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let (mut watch, mut changes) = (live.watch::<Theme>(), live.changes());
    assert_eq!(soon(watch.next()).await, Some(theme("light")));
    let (closed, watching) = (tokio::spawn(live.closed()), tokio::spawn(async move { watch.next().await }));
    tokio::task::yield_now().await;
    node.sessions.shutdown();
    assert_eq!((soon(closed).await.unwrap(), soon(watching).await.unwrap()), (CloseReason::Shutdown, None));
    assert_eq!(told(&mut changes), ["closed: shutdown"]);
    live.set(theme("dark")).await.unwrap();
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
}

// Tests of the writes of open handles.

// G9: the next request and the next socket read a socket's write, although no watch was open.
#[tokio::test]
async fn unwatched_write_reaches_next_request() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    socket(&browser, &node).await.set(theme("dark")).await.unwrap();
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    assert_eq!(socket(&browser, &node).await.value::<Theme>(), theme("dark"));
}

#[tokio::test]
async fn concurrent_first_writes_make_one_session() {
    let node = App::new().node;
    let live = socket(&Browser::new(), &node).await;
    let (one, other) = tokio::join!(live.set(theme("dark")), live.set(Visits(1)));
    one.and(other).unwrap();
    assert_eq!((live.value::<Theme>(), live.value::<Visits>()), (theme("dark"), Visits(1)));
    assert_eq!(node.sessions.stats().records, 1);
}

// G8: concurrent writes of different values on two sockets both stay.
#[tokio::test]
async fn concurrent_socket_writes_both_stay() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let (one, other) = (socket(&browser, &node).await, socket(&browser, &node).await);
    let (first, second) = tokio::join!(one.set(theme("dark")), other.set(Visits(1)));
    first.and(second).unwrap();
    assert_eq!((get(&mut browser, &node).await, get(&mut browser, &node).await), (theme("dark"), Visits(1)));
    assert_eq!((carried(&browser, &app).await, carried(&browser, &app).await), (theme("dark"), Visits(1)));
}

// G8: a response carries another writer's newer value, not the older value that the handler loaded.
#[tokio::test]
async fn slow_response_overwrites_no_socket_write() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let slow = async move |session: Session| {
        let loaded = session.value::<Theme>();
        live.set(theme("dark")).await.unwrap();
        session.set(Visits(1)).await.unwrap();
        loaded
    };
    assert_eq!(browser.visit(&node, slow).await, theme("light"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
}

#[tokio::test]
async fn plain_request_updates_and_takes_values() {
    let node = App::new().node;
    let mut browser = Browser::new();
    let handler = async |session: Session| {
        session.batch().set(theme("dark")).set(Visits(1)).commit().await.unwrap();
        session.update::<Visits>(|visits| visits.0 += 1).await.unwrap();
        session.take::<Theme>().await.unwrap()
    };
    assert_eq!(browser.visit(&node, handler).await, Some(theme("dark")));
    assert_eq!((get(&mut browser, &node).await, get(&mut browser, &node).await), (Theme::default(), Visits(2)));
}
