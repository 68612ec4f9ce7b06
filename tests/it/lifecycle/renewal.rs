//! Renewal and sign-in: the data that moves to the new id, the data that stays behind, and the end of the old id.

use std::{pin::pin, time::Duration};

use futures_util::FutureExt;
use http::StatusCode;
use layered_session::{CloseReason, Principal, Resolution, Session, WriteErrorKind, testing::ManualClock};

use crate::support::{
    App, Division, Node, Theme, User, Visits, builder, carried, dark, first_write, get, kind, post, ring, set, settled,
    sign_in, signed_in, socket, soon, theme, under_way, visitor, waiting_for,
};

// Tests of renewals.

// R3: a renewal moves the values to a new id, and ends the old id with its sockets at once.
#[tokio::test]
async fn renewal_moves_values_to_new_id() {
    let app = App::new();
    let mut browser = app.dark().await;
    let (old, socket) = (browser.clone(), browser.open(&app.node).await);
    browser.visit(&app.node, async |session| session.renew().await.unwrap()).await;
    assert_ne!(browser.token()[..56], old.token()[..56]);
    assert_eq!(browser.theme(&app.node).await, dark());
    assert_eq!(browser.theme(&app.start()).await, dark());
    assert_eq!(old.theme(&app.node).await, Theme::default());
    assert_eq!(socket.closed().now_or_never(), Some(CloseReason::Renewed));
    assert_eq!(kind(socket.set(Visits(1)).await), Some(WriteErrorKind::Closed));
    assert_eq!(socket.value::<Theme>(), Theme::default());
}

// R3: a renewal on a node whose memory lacks the session moves the values, and ends the old id.
#[tokio::test]
async fn renewal_survives_lost_memory() {
    let app = App::new();
    let mut browser = app.dark().await;
    let old = browser.clone();
    let cold = app.start();
    browser.visit(&cold, async |session| session.renew().await.unwrap()).await;
    assert_eq!(browser.theme(&cold).await, dark());
    assert_eq!(browser.theme(&app.start()).await, dark());
    assert_eq!(old.theme(&cold).await, Theme::default());
}

// R3: a browser that did not receive the new id has lost its session.
#[tokio::test]
async fn lost_renewal_response_loses_session() {
    let app = App::new();
    let browser = app.dark().await;
    browser.clone().visit(&app.node, async |session| session.renew().await.unwrap()).await;
    for _ in 0..2 {
        assert_eq!(browser.theme(&app.node).await, Theme::default());
        app.clock.advance(Duration::from_secs(61));
    }
}

// G12: a renewal takes the calling handle, its clones and its watches to the new id, and ends all others.
#[tokio::test]
async fn renewal_keeps_only_own_watches() {
    let node = App::new().node;
    let browser = visitor(&node).await;
    let (live, other) = (under_way(&browser, &node).await, socket(&browser, &node).await);
    let (mut mine, mut clones, mut others) =
        (live.watch::<Theme>(), live.clone().watch::<Theme>(), other.watch::<Theme>());
    for watch in [&mut mine, &mut clones, &mut others] {
        assert_eq!(soon(watch.next()).await, Some(theme("light")));
    }
    let (closed, ending) = (tokio::spawn(other.closed()), tokio::spawn(async move { others.next().await }));
    let mut open = pin!(live.closed());
    tokio::task::yield_now().await;
    live.renew().await.unwrap();
    assert_eq!((soon(closed).await.unwrap(), soon(ending).await.unwrap()), (CloseReason::Renewed, None));
    assert_eq!(kind(other.set(theme("late")).await), Some(WriteErrorKind::Closed));
    assert!(open.as_mut().now_or_never().is_none());
    let waiting = [waiting_for(mine, theme("dark")).await, waiting_for(clones, theme("dark")).await];
    live.set(theme("dark")).await.unwrap();
    for page in waiting {
        soon(page).await.unwrap();
    }
}

// G12: a watch that waits during a renewal wakes at the next write under the new id.
#[tokio::test]
async fn watch_wakes_after_renewal() {
    let node = App::new().node;
    let live = under_way(&visitor(&node).await, &node).await;
    let page = waiting_for(live.watch::<Theme>(), theme("dark")).await;
    live.renew().await.unwrap();
    settled().await;
    live.set(theme("dark")).await.unwrap();
    soon(page).await.unwrap();
}

#[tokio::test]
async fn only_handle_that_ended_session_may_renew() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let old = browser.clone();
    browser.visit(&node, async |session| session.destroy().await.unwrap()).await;
    let mut again = old.clone();
    sign_in(&mut again, &node, "ada").await;
    assert_eq!(again.visit(&node, async |s| s.principal()).await, Some(Principal::new("ada")));
    let refused = old.clone().visit(&node, async |session| session.renew().await).await;
    assert_eq!(kind(refused), Some(WriteErrorKind::Closed));
    let mut renewed = visitor(&node).await;
    let renew = async |session: Session| {
        session.destroy().await.unwrap();
        session.renew().await.unwrap();
        session.set(Visits(1)).await.unwrap();
    };
    renewed.visit(&node, renew).await;
    assert_eq!((get(&mut renewed, &node).await, get(&mut renewed, &node).await), (Visits(1), Theme::default()));
}

// Tests of sign-ins.

// G7: `adopt` copies the anonymous choice only to a user without a value of the type.
#[tokio::test]
async fn adopt_replaces_no_existing_user_value() {
    for (own, adopts, expected) in
        [(None, false, -1), (None, true, 3), (Some(Division(2)), false, 2), (Some(Division(2)), true, 2)]
    {
        let app = App::new();
        let node = app.start();
        if let Some(own) = own {
            node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(own).await.unwrap();
        }
        let mut browser = first_write(&node, Division(3)).await;
        let sign_in = async move |session: Session| {
            let turn = session.sign_in(User("ada".into()));
            if adopts { turn.adopt::<Division>().await } else { turn.await }
        };
        browser.visit(&node, sign_in).await.unwrap();
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(expected));
        assert_eq!(carried::<Division>(&browser, &app).await, Division(expected));
    }
}

// G7: a sign-in without `adopt` removes the anonymous choice of a user value, and keeps the values of the session.
#[tokio::test]
async fn sign_in_removes_anonymous_choice() {
    let app = App::new();
    let principal = |user: &User| (user.0 != "guest").then(|| Principal::new(&user.0));
    let node = || app.start_with(|sessions| sessions.identify_by::<User>(principal));
    let (node, restarted) = (node(), node());
    let mut browser = first_write(&node, Division(3)).await;
    set(&mut browser, &node, theme("dark")).await;
    sign_in(&mut browser, &node, "guest").await;
    for node in [node, restarted] {
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(-1));
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    }
}

// G12: a sign-in ends the sockets of other tabs with the reason `Renewed`.
#[tokio::test]
async fn sign_in_closes_sockets_of_other_tabs() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let tab = socket(&browser, &node).await;
    let closed = tokio::spawn(tab.closed());
    tokio::task::yield_now().await;
    sign_in(&mut browser, &node, "ada").await;
    assert_eq!(soon(closed).await.unwrap(), CloseReason::Renewed);
    assert_eq!(tab.principal(), None);
    assert_eq!(socket(&browser, &node).await.principal(), Some(Principal::new("ada")));
}

// G13: a late POST with the old cookie is refused, and does not replace the sign-in.
#[tokio::test]
async fn post_with_old_cookie_undoes_no_sign_in() {
    let node = App::new().node;
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
async fn watch_follows_signed_in_user() {
    let node = App::new().node;
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    job.set(Division(2)).await.unwrap();
    let live = under_way(&visitor(&node).await, &node).await;
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

#[tokio::test]
async fn refused_sign_in_ends_no_watch() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let browser = signed_in(&node, "ada").await;
    let session = under_way(&browser, &node).await;
    let mut divisions = session.watch::<Division>();
    assert_eq!(divisions.next().await, Some(Division(-1)));
    let refused = session.sign_in(User("x".repeat(9_000))).await;
    assert_eq!(kind(refused), Some(WriteErrorKind::TooLarge));
    let woken = tokio::spawn(async move { divisions.next().await });
    tokio::task::yield_now().await;
    node.sessions.for_principal(Principal::new("ada")).await.unwrap().set(Division(4)).await.unwrap();
    let woken = tokio::time::timeout(Duration::from_secs(2), woken).await;
    assert_eq!(woken.expect("the watch is notified").unwrap(), Some(Division(4)));
}

#[tokio::test]
async fn first_hit_sign_in_drops_earlier_users_values() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = || Node::new(builder(&ring, &clock).resolution(Resolution::FirstHit).build().unwrap());
    let (first, second) = (node(), node());
    let mut browser = signed_in(&first, "ada").await;
    browser.visit(&first, async |s| s.set(Division(1)).await.unwrap()).await;
    browser.visit(&second, async |s| s.value::<Division>()).await;
    clock.advance(Duration::from_secs(1));
    browser.visit(&first, async |s| s.set(Division(2)).await.unwrap()).await;
    browser.visit(&second, async |s| s.sign_in(User("bob".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&node(), async |s| s.value::<Division>()).await, Division(-1));
}

// G7: the next user of a browser reads no value of the user before, with and without a sign-out in between.
#[tokio::test]
async fn next_user_sees_no_earlier_values() {
    for signs_out in [true, false] {
        let app = App::new();
        let node = app.start();
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
        assert_eq!(get::<Division>(&mut browser, &node).await, Division(2), "ada still has her value");
    }
}
