//! The end of all sessions of a user, called from one of the sessions.

use layered_session::{CloseReason, Principal, Session, WriteErrorKind};

use crate::support::{
    App, Division, Theme, at_once, get, is_ada, kind, principal, signed_in, socket, theme, user, visitor,
};

#[tokio::test]
async fn end_all_signs_out_everywhere() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let (other, bob) = (signed_in(&node, "ada").await, signed_in(&node, "bob").await);
    let (live, same) = (socket(&other, &node).await, socket(&browser, &node).await);
    let end = async |session: Session| {
        session.end_all_sessions().await.unwrap();
        let refused = kind(session.set(theme("dark")).await);
        (refused, at_once(session.closed()), session.principal())
    };
    let ended = browser.visit(&node, end).await;
    assert_eq!(ended, (Some(WriteErrorKind::Closed), Some(CloseReason::Revoked), None));
    assert_eq!(browser.cookie("session"), None);
    assert_eq!(at_once(live.closed()), Some(CloseReason::Revoked));
    assert_eq!(at_once(same.closed()), Some(CloseReason::Revoked));
    assert_eq!(kind(same.set(theme("dark")).await), Some(WriteErrorKind::Closed));
    assert_eq!((principal(&other, &node).await, principal(&bob, &node).await), (None, Some(Principal::new("bob"))));
}

#[tokio::test]
async fn handle_signs_in_after_end_all() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let end = async |session: Session| {
        session.end_all_sessions().await.unwrap();
        session.sign_in(user("ada")).await.unwrap();
    };
    browser.visit(&node, end).await;
    assert!(is_ada(principal(&browser, &node).await));
}

#[tokio::test]
async fn password_change_ends_other_sessions() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    browser.visit(&node, async |s| s.set(theme("dark")).await.unwrap()).await;
    browser.visit(&node, async |s| s.set(Division(2)).await.unwrap()).await;
    let (other, old) = (signed_in(&node, "ada").await, browser.clone());
    let live = socket(&other, &node).await;
    browser.visit(&node, async |session| session.end_other_sessions().await.unwrap()).await;
    assert!(is_ada(principal(&browser, &node).await));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    assert_eq!(get::<Division>(&mut browser, &node).await, Division(2));
    assert_eq!((principal(&other, &node).await, at_once(live.closed())), (None, Some(CloseReason::Revoked)));
    assert_eq!(principal(&old, &node).await, None, "a copy of this session's old cookie");
    assert!(is_ada(principal(&browser, &app.start()).await), "after a restart");
}

#[tokio::test]
async fn end_all_needs_signed_in_user() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let both =
        async |session: Session| (kind(session.end_all_sessions().await), kind(session.end_other_sessions().await));
    let invalid = Some(WriteErrorKind::Invalid);
    assert_eq!(browser.visit(&node, both).await, (invalid, invalid), "nobody is signed in");
    let job = node.sessions.for_principal(Principal::new("ada")).await.unwrap();
    assert_eq!(both(job).await, (invalid, invalid));
    let browser = signed_in(&node, "ada").await;
    let live = socket(&browser, &node).await;
    assert_eq!(kind(live.end_other_sessions().await), Some(WriteErrorKind::HeadSent));
    assert!(is_ada(principal(&browser, &node).await));
    live.end_all_sessions().await.unwrap();
    assert_eq!(principal(&browser, &node).await, None);
    assert!(live.relay().is_some_and(|token| token.as_str().starts_with("t.")), "the removal of the cookie");
}

#[tokio::test]
async fn end_all_removes_cookie() {
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    browser.visit(&node, async |session| session.end_all_sessions().await.unwrap()).await;
    assert_eq!(browser.cookie("session"), None);
}
