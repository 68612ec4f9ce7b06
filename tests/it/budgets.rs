//! The budget of the cookie, and deploys that change it.

use layered_session::{CookieTier, KeyRing, MemoryTier, Principal, Session, Sessions, WriteErrorKind};

use crate::{
    app::{App, get, kind, sign_in, signed_in, theme},
    trace::Trace,
    world::{Browser, Division, Node, Theme, User, Visits, ring, set_cookies},
};

/// A deploy whose cookies have a budget of so many bytes, over keys that all deploys share.
fn deploy(ring: &KeyRing, bytes: usize) -> Node {
    let sessions = Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring.clone()).name("session").max_bytes(bytes))
        .value::<Theme>()
        .value::<Visits>()
        .value::<Division>()
        .identify_by::<User>(|user| Some(Principal::new(&user.0)));
    Node::new(sessions.build().unwrap())
}

/// Writes the longest theme that the session takes, and says how long the theme is.
async fn fill(session: Session) -> usize {
    let (mut fits, mut too_long) = (0, 4096);
    while fits + 1 < too_long {
        let len = usize::midpoint(fits, too_long);
        match session.set(theme(&"x".repeat(len))).await {
            Ok(()) => fits = len,
            Err(_) => too_long = len,
        }
    }
    fits
}

// R20.
#[tokio::test]
async fn finished_header_fits_its_budget() {
    for bytes in [1_500, 2_000, 3_000, 3_800] {
        let node = deploy(&ring(), bytes);
        let mut browser = Browser::new();
        let (headers, _) = browser.visit_seen(&node, fill).await;
        let len = set_cookies(&headers)[0].len();
        // Half of the room is the user's, and some is kept for the user's value.
        assert!(len > bytes / 4 && len <= bytes, "{len} of {bytes}");
    }
    let node = App::new().node();
    let mut browser = signed_in(&node, "ada").await;
    let both = async |session: Session| {
        fill(session.clone()).await;
        session.set(Division(3)).await.unwrap();
    };
    let (headers, ()) = browser.visit_seen(&node, both).await;
    assert!(set_cookies(&headers)[0].len() <= 3_000);
}

// R20.
#[tokio::test]
async fn lowered_budget_sends_fuller_cookies_whole() {
    let (trace, _guard) = Trace::begin();
    let ring = ring();
    let (before, after) = (deploy(&ring, 3_800), deploy(&ring, 1_500));
    let mut browser = signed_in(&before, "ada").await;
    let len = browser.visit(&before, fill).await;
    assert_eq!(trace.lines_with("max_bytes"), 0);
    for division in [3, 4] {
        let change = async move |session: Session| session.set(Division(division)).await.unwrap();
        let (headers, ()) = browser.visit_seen(&after, change).await;
        assert!(set_cookies(&headers)[0].len() > 1_500);
        let told = trace.lines_with("a cookie is over `CookieTier::max_bytes`");
        assert_eq!((told, trace.lines_with("largest=\"theme, ")), (1, 1), "{}", trace.text());
    }
    let cold = deploy(&ring, 1_500);
    assert_eq!(get::<Theme>(&mut browser, &cold).await.0.len(), len);
    assert_eq!(get::<Division>(&mut browser, &cold).await, Division(4));
}

// R20.
#[tokio::test]
async fn lowered_budget_refuses_growth_alone() {
    let ring = ring();
    let (before, after) = (deploy(&ring, 3_800), deploy(&ring, 1_500));
    let mut browser = signed_in(&before, "ada").await;
    let len = browser.visit(&before, fill).await;
    let writes = async move |session: Session| {
        let theme = |len: usize| theme(&"y".repeat(len));
        assert_eq!(kind(session.set(theme(len + 1)).await), Some(WriteErrorKind::TooLarge));
        session.set(theme(len)).await.unwrap();
        session.set(theme(len - 1)).await.unwrap();
        assert_eq!(kind(session.set(theme(len)).await), Some(WriteErrorKind::TooLarge));
        assert_eq!(kind(session.set(Visits(1)).await), Some(WriteErrorKind::TooLarge));
        session.batch().set(theme(len - 40)).set(Visits(1)).commit().await.unwrap();
        session.set(Division(3)).await.unwrap();
        session.remove::<Theme>().await.unwrap();
        session.set(Visits(2)).await.unwrap();
    };
    browser.visit(&after, writes).await;
}

#[tokio::test]
async fn lowered_budget_lets_users_sign_in() {
    let ring = ring();
    let (before, after) = (deploy(&ring, 3_800), deploy(&ring, 1_500));
    let mut browser = Browser::new();
    let len = browser.visit(&before, fill).await;
    for user in ["ada", "bob"] {
        sign_in(&mut browser, &after, user).await;
        let seen = browser.visit(&after, async |session| (session.principal(), session.value::<Theme>().0.len())).await;
        assert_eq!(seen, (Some(Principal::new(user)), len));
    }
}
