//! The new cookie tells other nodes of a turn: the cookie names the old id for a minute.

use std::time::Duration;

use layered_session::{CloseReason, Lifetime, Session};

use crate::support::{
    App, DAY, Theme, at_once, get, is_ada, principal, sign_in, signed_in, socket, soon, theme, user, visitor,
};

#[tokio::test]
async fn new_cookie_ends_old_id_elsewhere() {
    for signs_in in [true, false] {
        let app = App::new();
        let (node, other) = (app.start(), app.start());
        let mut browser = visitor(&node).await;
        let old = browser.clone();
        let live = socket(&old, &other).await;
        let closed = tokio::spawn(live.closed());
        match signs_in {
            true => sign_in(&mut browser, &node, "ada").await,
            false => browser.visit(&node, async |session| session.renew().await.unwrap()).await,
        }
        assert_eq!(at_once(live.closed()), None, "the other node does not know of the new id yet");
        assert_eq!(get::<Theme>(&mut browser, &other).await, theme("light"));
        assert_eq!(soon(closed).await.unwrap(), CloseReason::Renewed);
        assert_eq!(get::<Theme>(&mut old.clone(), &other).await, Theme::default());
        let unseen = app.start();
        get::<Theme>(&mut browser.clone(), &unseen).await;
        assert_eq!(
            get::<Theme>(&mut old.clone(), &unseen).await,
            Theme::default(),
            "the node had no record of the old id"
        );
    }
}

#[tokio::test]
async fn cookie_names_old_id_for_one_minute() {
    for (passed, named) in [(59_999, true), (60_000, false)] {
        let app = App::new();
        let (node, other) = (app.start(), app.start());
        let mut browser = visitor(&node).await;
        let old = browser.clone();
        browser.visit(&node, async |session| session.renew().await.unwrap()).await;
        app.pass(Duration::from_millis(passed));
        browser.visit(&node, async |session| session.set(theme("dark")).await.unwrap()).await;
        get::<Theme>(&mut browser.clone(), &other).await;
        let expected = if named { Theme::default() } else { theme("light") };
        assert_eq!(get::<Theme>(&mut old.clone(), &other).await, expected, "{passed}");
    }
}

#[tokio::test]
async fn sign_out_under_old_id_ends_renewed_session() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = signed_in(&node, "ada").await;
    let old = browser.clone();
    let renew = async |session: Session| session.renew().await.unwrap();
    browser.visit(&node, renew).await;
    old.clone().visit(&other, async |session| session.sign_out().await.unwrap()).await;
    assert_eq!(principal(&browser, &other).await, None, "signed out under the old id");
    let mut anonymous = visitor(&node).await;
    let planted = anonymous.clone();
    anonymous.visit(&node, renew).await;
    planted.clone().visit(&other, async |session| session.sign_out().await.unwrap()).await;
    assert_eq!(
        get::<Theme>(&mut anonymous, &other).await,
        theme("light"),
        "a visitor's sign-out ends no renewed session"
    );
    let mut signed = visitor(&node).await;
    let planted = signed.clone();
    sign_in(&mut signed, &node, "ada").await;
    planted.clone().visit(&other, async |session| session.sign_out().await.unwrap()).await;
    assert!(is_ada(principal(&signed, &other).await), "a sign-out with a planted id ends no later sign-in");
}

// A node that learned of a renewal from a cookie names the old id in its own cookies too, also after a change of the
// lifetime.
#[tokio::test]
async fn cookies_of_other_nodes_name_old_id() {
    let app = App::new();
    let [first, second, third] = [(); 3].map(|()| app.start());
    let mut browser = signed_in(&first, "ada").await;
    let old = browser.clone();
    browser.visit(&first, async |session| session.renew().await.unwrap()).await;
    let long = Lifetime::new(10 * DAY, 30 * DAY).unwrap();
    browser.visit(&second, async move |session| session.set_lifetime(long).await.unwrap()).await;
    for node in [&third, &second, &first] {
        assert!(is_ada(principal(&browser, node).await), "no node takes the renewal for a sign-out");
        assert_eq!(principal(&old, node).await, None);
    }
}

#[tokio::test]
async fn sign_in_after_destroy_names_old_id() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &other).await;
    let turn = async |session: Session| {
        session.destroy().await.unwrap();
        session.sign_in(user("ada")).await.unwrap();
    };
    browser.visit(&node, turn).await;
    assert!(is_ada(principal(&browser, &other).await));
    assert_eq!(at_once(live.closed()), Some(CloseReason::Renewed));
}

#[tokio::test]
async fn old_id_cannot_sign_out_next_user() {
    let app = App::new();
    let (node, other) = (app.start(), app.start());
    let mut browser = signed_in(&node, "bob").await;
    let old = browser.clone();
    sign_in(&mut browser, &node, "ada").await;
    old.clone().visit(&other, async |session| session.sign_out().await.unwrap()).await;
    assert!(is_ada(principal(&browser, &other).await));
}
