//! Browsers that still send the cookie of a session that another browser, or another tab, has ended.

use layered_session::{Principal, Session, WriteErrorKind};

use crate::support::{App, Browser, Node, Theme, User, get, kind, set_cookies, sign_in, signed_in, theme, under_way};

/// The browser of a user whose sessions have all ended a moment ago, by a call outside of the browser.
async fn revoked(node: &Node) -> Browser {
    let browser = signed_in(node, "ada").await;
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    browser
}

#[tokio::test]
async fn take_on_ended_session_returns_none() {
    let node = App::new().node;
    let mut browser = revoked(&node).await;
    let looks =
        async |session: Session| (session.take::<Theme>().await.unwrap(), kind(session.set(theme("late")).await));
    assert_eq!(browser.visit(&node, looks).await, (None, Some(WriteErrorKind::Closed)));
}

// `take` finds no session in a request that another site caused, for which the browser withholds the cookie, and in a
// request with the cookies of two sessions.
#[tokio::test]
async fn take_without_session_returns_none() {
    let node = App::new().node;
    let mut request = Browser::new().request();
    request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    let looks = async |session: Session| (Default::default(), session.take::<Theme>().await.unwrap());
    assert_eq!(node.handle(request, looks).await.1, None);

    let (one, mut both) = (signed_in(&node, "ada").await, signed_in(&node, "bob").await);
    let token = both.cookie("session").unwrap().to_owned();
    both.set("session", &format!("{token}; session={}", one.cookie("session").unwrap()));
    let looks = async |session: Session| {
        assert_eq!(session.get::<User>(), None);
        (session.take::<Theme>().await.unwrap(), kind(session.remove::<Theme>().await))
    };
    assert_eq!(both.visit(&node, looks).await, (None, Some(WriteErrorKind::Closed)));
}

#[tokio::test]
async fn flash_message_is_stored_after_revocation() {
    let node = App::new().node;
    let mut browser = revoked(&node).await;
    let sign_out = async |session: Session| {
        session.sign_out().await.unwrap();
        session.renew().await.unwrap();
        session.set(theme("bye")).await.unwrap();
    };
    let (headers, ()) = browser.visit_seen(&node, sign_out).await;
    assert_eq!(set_cookies(&headers).len(), 1);
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("bye"));
}

#[tokio::test]
async fn ended_handle_signs_out_and_renews() {
    let node = App::new().node;
    let browser = signed_in(&node, "ada").await;
    let session = under_way(&browser, &node).await;
    node.sessions.end_all_sessions(Principal::new("ada")).await.unwrap();
    assert_eq!(kind(session.renew().await), Some(WriteErrorKind::Closed), "the handle has not signed out yet");
    session.sign_out().await.unwrap();
    session.renew().await.unwrap();
    session.set(theme("bye")).await.unwrap();
    assert_eq!((session.value::<Theme>(), session.principal()), (theme("bye"), None));
}

// The browser already has the cookie of the new sign-in. A late request with the old cookie must not begin a session,
// since the cookie of that session would replace the cookie of the new sign-in. This holds even after a sign-out in the
// late request.
#[tokio::test]
async fn sign_in_elsewhere_forbids_renewal_by_old_cookie() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let late = browser.clone();
    sign_in(&mut browser, &node, "bob").await;
    let session = under_way(&late, &node).await;
    session.sign_out().await.unwrap();
    assert_eq!(kind(session.renew().await), Some(WriteErrorKind::Closed));
}
