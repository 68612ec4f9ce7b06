//! The budget of the cookie, and deploys that change the budget.

use layered_session::{
    CookieTier, KeyRing, Principal, Scope, Session, SessionValue, Sessions, SessionsBuilder, WriteErrorKind,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, Division, Node, Theme, Trace, User, Visits, get, kind, memory, named, ring, set_cookies, sign_in,
    signed_in, theme,
};

/// A deploy with a cookie budget of `bytes`. All deploys share the keys.
fn deploy(ring: &KeyRing, bytes: usize) -> Node {
    let sessions = Sessions::builder()
        .tier(memory())
        .tier(CookieTier::sealed(ring.clone()).name("session").max_bytes(bytes))
        .value::<Theme>()
        .value::<Visits>()
        .value::<Division>()
        .identify_by::<User>(named);
    Node::new(sessions.build().unwrap())
}

/// Writes the longest theme that the session accepts, and returns the theme's length.
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

// R20: the finished `Set-Cookie` fits each configured budget, also with the values of a session and of a user.
#[tokio::test]
async fn set_cookie_header_fits_budget() {
    for bytes in [1_500, 2_000, 3_000, 3_800] {
        let node = deploy(&ring(), bytes);
        let mut browser = Browser::new();
        let (headers, _) = browser.visit_seen(&node, fill).await;
        let len = set_cookies(&headers)[0].len();
        // The user's part is half of the room, and the session keeps a reserve for the user's value.
        assert!(len > bytes / 4 && len <= bytes, "{len} of {bytes}");
    }
    let node = App::new().node;
    let mut browser = signed_in(&node, "ada").await;
    let both = async |session: Session| {
        fill(session.clone()).await;
        session.set(Division(3)).await.unwrap();
    };
    let (headers, ()) = browser.visit_seen(&node, both).await;
    assert!(set_cookies(&headers)[0].len() <= 3_000);
}

// R20: after a deploy with a lower budget a larger cookie keeps all values, and one trace names the largest value.
#[tokio::test]
async fn larger_cookie_keeps_values_under_lowered_budget() {
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
        let told = trace.lines_with("a session's cookie is longer than `CookieTier::max_bytes`");
        assert_eq!((told, trace.lines_with("largest=\"theme, ")), (1, 1), "{}", trace.text());
    }
    let cold = deploy(&ring, 1_500);
    assert_eq!(get::<Theme>(&mut browser, &cold).await.0.len(), len);
    assert_eq!(get::<Division>(&mut browser, &cold).await, Division(4));
}

// R20: over a lowered budget, only a write that makes the cookie longer is refused.
#[tokio::test]
async fn lowered_budget_refuses_only_growth() {
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
async fn lowered_budget_permits_sign_in() {
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

/// The quotes around a theme's text in JSON, in bytes.
const QUOTES: usize = 2;

/// Asserts that the error's limit is exact: a theme of `fits` bytes of JSON is accepted, and one more byte is refused.
async fn assert_fits_as_told(session: &Session, fits: usize) {
    let theme = |json: usize| theme(&"x".repeat(json - QUOTES));
    let refused = session.set(theme(fits + 1)).await.unwrap_err();
    let told = format!("the write has {} bytes of JSON, and the browser's cookie has room for {fits}", fits + 1);
    assert!(refused.to_string().starts_with(&told), "{refused}");
    session.set(theme(fits)).await.unwrap();
}

/// The room for JSON in the browser's cookie, in bytes, as the error of a write of 4,000 bytes states.
async fn told_room(session: &Session) -> usize {
    let refused = session.set(theme(&"x".repeat(4_000))).await.unwrap_err().to_string();
    let (_, room) = refused.split_once("has room for ").unwrap();
    room.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A value of principal scope whose name is as long as the name of [`Theme`].
#[derive(Debug, Default, Serialize, Deserialize)]
struct Prefs(String);

impl SessionValue for Prefs {
    const NAME: &'static str = "prefs";
    const SCOPE: Scope = Scope::Principal;
}

/// The default cookie, with a key ring of its own.
fn by_default() -> SessionsBuilder {
    Sessions::builder().tier(memory()).tier(CookieTier::sealed(ring())).value::<Theme>()
}

/// A number in the spelling of the docs: `1,234`.
fn grouped(number: usize) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    }
}

#[tokio::test]
async fn default_room_matches_docs() {
    let by_head = |chain: SessionsBuilder| chain.identify(|_| Some(Principal::new("ada")));
    let by_value = |chain: SessionsBuilder| chain.identify_by::<User>(named);
    let head = Node::new(by_head(by_default().value::<Prefs>()).build().unwrap());
    let mut rooms = Vec::new();
    for sessions in [by_default(), by_value(by_default()), by_value(by_default().value::<Prefs>())] {
        let node = Node::new(sessions.build().unwrap());
        let fill = async |session: Session| {
            let room = told_room(&session).await;
            assert_fits_as_told(&session, room).await;
            room
        };
        rooms.push(Browser::new().visit(&node, fill).await);
    }
    let users = async |session: Session| {
        let prefs = |json: usize| Prefs("x".repeat(json - QUOTES));
        let refused = session.set(prefs(4_000)).await.unwrap_err().to_string();
        let (_, room) = refused.split_once("has room for ").unwrap();
        let room: usize = room.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
        assert_eq!(kind(session.set(prefs(room + 1)).await), Some(WriteErrorKind::TooLarge));
        session.set(prefs(room)).await.unwrap();
        room
    };
    rooms.push(Browser::new().visit(&head, users).await);
    rooms.push(Browser::new().visit(&head, async |session: Session| told_room(&session).await).await);
    for docs in [include_str!("../../../src/cookie.rs"), include_str!("../../../src/guide/tiers.md")] {
        for room in &rooms {
            assert!(docs.contains(&grouped(*room)), "{rooms:?} bytes of JSON fit");
        }
    }
}

#[tokio::test]
async fn refusal_states_available_room() {
    let node = deploy(&ring(), 2_000);
    let mut browser = signed_in(&node, "ada").await;
    let writes = async |session: Session| {
        let alone = told_room(&session).await;
        assert_fits_as_told(&session, alone).await;
        // A write over the present value may use the bytes of that value too.
        assert_eq!(told_room(&session).await, alone);
        session.set(theme("x")).await.unwrap();
        session.set(Visits(12_345)).await.unwrap();
        let beside = told_room(&session).await;
        // The entry of the visits: flags, length, name, version, length, JSON.
        assert_eq!(alone - beside, 2 + Visits::NAME.len() + 8 + 2 + 5);
        assert_fits_as_told(&session, beside).await;
        let batch =
            async |json: usize| session.batch().set(theme(&"x".repeat(json - QUOTES))).set(Visits(1)).commit().await;
        let refused = batch(4_000).await.unwrap_err().to_string();
        let fits = format!("the write has 4001 bytes of JSON, and the browser's cookie has room for {}", beside + 5);
        assert!(refused.starts_with(&fits), "{refused}");
        assert!(refused.ends_with("the largest values: `theme` (4000 bytes), `user` (5 bytes), `visits` (1 bytes)"));
        assert_eq!(kind(batch(beside + 5).await), Some(WriteErrorKind::TooLarge));
        batch(beside + 5 - 1).await.unwrap();
    };
    browser.visit(&node, writes).await;
}
