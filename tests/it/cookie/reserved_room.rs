//! The room reserved for the user's value, so that a full session can still sign in.

use layered_session::{
    BuildErrorKind, DefaultTier, Placement, Principal, Session, SessionValue, SharedTier, WriteError, WriteErrorKind,
    testing::SpyStore,
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, Mfa, Node, Theme, User, Visits, bring_ok, get, kind, mfa_node, named, post, socket, theme, user,
    visitor,
};

/// The overhead of an entry beside the name and the JSON, in bytes.
const ENTRY: usize = 2 + 8 + 2;

/// The default reserved room, in bytes.
const ROOM: usize = 256;

/// A user whose entry takes `bytes`: overhead, name, and a JSON string with its quotes.
fn user_of(bytes: usize) -> User {
    user(&"u".repeat(bytes - ENTRY - User::NAME.len() - 2))
}

/// A single node, two nodes that share keys alone, and two nodes over one store. All know [`Mfa`].
fn settings() -> [(Node, Node); 3] {
    let (one, two, stored) = (App::new(), App::new(), App::new());
    let node = mfa_node(&one);
    let store = SpyStore::new();
    let over_store = || stored.start_with(|sessions| sessions.tier(SharedTier::new(store.clone())).value::<Mfa>());
    [(node.clone(), node), (mfa_node(&two), mfa_node(&two)), (over_store(), over_store())]
}

/// Writes the longest theme that the session accepts, and returns the theme's length.
async fn fill(session: &Session) -> usize {
    let (mut fits, mut too_long) = (0, 4096);
    while fits + 1 < too_long {
        let len = usize::midpoint(fits, too_long);
        match session.set(theme(&"x".repeat(len))).await {
            Ok(()) => fits = len,
            Err(error) => {
                assert_eq!((error.kind(), error.names()[0]), (WriteErrorKind::TooLarge, Theme::NAME));
                too_long = len;
            }
        }
    }
    fits
}

async fn full(node: &Node) -> Browser {
    let mut browser = Browser::new();
    browser
        .visit(node, async |session| {
            fill(&session).await;
        })
        .await;
    browser
}

async fn signs_in(browser: &mut Browser, node: &Node, user: User) -> Result<(), WriteError> {
    browser.visit(node, async |session| session.sign_in(user).await).await
}

#[tokio::test]
async fn full_session_can_sign_in() {
    for (node, other) in settings() {
        let mut browser = full(&node).await;
        signs_in(&mut browser, &node, user_of(ROOM)).await.unwrap();
        let too_long = signs_in(&mut browser, &node, user_of(ROOM + 1)).await;
        assert_eq!(kind(too_long), Some(WriteErrorKind::TooLarge));
        for node in [&node, &other] {
            let seen = async |session: Session| (session.principal(), session.value::<Theme>().0.len() > 700);
            let User(name) = user_of(ROOM);
            assert_eq!(browser.clone().visit(node, seen).await, (Some(Principal::new(name)), true));
        }
    }
}

#[tokio::test]
async fn full_session_accepts_next_user() {
    for (node, other) in settings() {
        let mut browser = Browser::new();
        signs_in(&mut browser, &node, user("ada")).await.unwrap();
        browser
            .visit(&node, async |session| {
                fill(&session).await;
            })
            .await;
        signs_in(&mut browser, &other, user_of(ROOM)).await.unwrap();
        // The longer user fits the reserved room, so the session is as full as before.
        let grow = async |session: Session| kind(session.set(Visits(1)).await);
        assert_eq!(browser.visit(&node, grow).await, Some(WriteErrorKind::TooLarge));
    }
}

#[tokio::test]
async fn sign_in_takes_no_room_from_writes() {
    let app = App::new();
    let node = app.start();
    let mut browser = Browser::new();
    let anonymous = async |session: Session| fill(&session).await;
    let before = browser.visit(&node, anonymous).await;
    for user in [user("ada"), user_of(ROOM)] {
        signs_in(&mut browser, &node, user).await.unwrap();
        assert_eq!(browser.visit(&node, anonymous).await, before);
    }
}

#[tokio::test]
async fn granted_value_uses_reserved_room() {
    for (node, _) in settings() {
        let mut browser = full(&node).await;
        let granted = async |session: Session| session.sign_in(user("ada")).with(&Mfa(true)).await;
        browser.visit(&node, granted).await.unwrap();
        assert!(get::<Mfa>(&mut browser, &node).await.0);
        // The grant uses the reserved room: a write as long as the present value is still accepted.
        let rewrite = async |session: Session| {
            let Theme(theme) = session.value();
            session.set(Theme(theme.replace('x', "y"))).await.unwrap();
            kind(session.set(Visits(1)).await)
        };
        assert_eq!(browser.visit(&node, rewrite).await, Some(WriteErrorKind::TooLarge));
        let too_much = async |session: Session| kind(session.sign_in(user_of(ROOM)).with(&Mfa(true)).await);
        assert_eq!(browser.visit(&node, too_much).await, Some(WriteErrorKind::TooLarge));
    }
}

#[tokio::test]
async fn sign_in_order_fits_full_session() {
    for (node, other) in settings() {
        let mut browser = full(&node).await;
        let live = socket(&browser, &node).await;
        assert_eq!(kind(live.sign_in(user_of(ROOM + 1)).by_page()), Some(WriteErrorKind::TooLarge));
        let token = live.sign_in(user_of(ROOM)).by_page().unwrap();
        bring_ok(&mut browser, &other, token.as_str()).await;
        let mut browser = full(&node).await;
        let live = socket(&browser, &node).await;
        let token = live.renew_by_page().with(&Mfa(true)).token().unwrap();
        bring_ok(&mut browser, &other, token.as_str()).await;
        assert!(get::<Mfa>(&mut browser, &other).await.0);
    }
}

#[tokio::test]
async fn visitor_sign_in_may_fill_cookie() {
    let app = App::new();
    let node = app.start();
    let whole = {
        let without = app.start_with(|sessions| sessions.identity_room(0));
        Browser::new().visit(&without, async |session| fill(&session).await).await
    };
    let live = socket(&Browser::new(), &node).await;
    // An entry as long as the entry of the longest theme.
    let longest = user(&"u".repeat(whole + Theme::NAME.len() - User::NAME.len()));
    let token = live.sign_in(longest.clone()).by_page().unwrap();
    bring_ok(&mut Browser::new(), &node, token.as_str()).await;
    signs_in(&mut Browser::new(), &node, longest).await.unwrap();
    let live = socket(&Browser::new(), &node).await;
    let User(longest) = user(&"u".repeat(whole + Theme::NAME.len() - User::NAME.len() + 1));
    assert_eq!(kind(live.sign_in(user(&longest)).by_page()), Some(WriteErrorKind::TooLarge));
    assert_eq!(kind(signs_in(&mut Browser::new(), &node, user(&longest)).await), Some(WriteErrorKind::TooLarge));
}

#[tokio::test]
async fn reserved_room_follows_setting() {
    let app = App::new();
    let mut lens = Vec::new();
    for room in [0, 100, ROOM] {
        let node = app.start_with(|sessions| sessions.identity_room(room));
        lens.push(Browser::new().visit(&node, async |session| fill(&session).await).await + room);
    }
    let node = app.start();
    lens.push(Browser::new().visit(&node, async |session| fill(&session).await).await + ROOM);
    assert_eq!(lens, [lens[0]; 4]);
}

#[tokio::test]
async fn only_cookie_identity_reserves_room() {
    /// A user value that stays on the server.
    #[derive(Debug, Serialize, Deserialize)]
    struct Account(String);
    impl SessionValue for Account {
        const NAME: &'static str = "account";
        const PLACEMENT: Placement = Placement::Volatile;
    }
    let app = App::new();
    let chain = || app.chain(DefaultTier::new()).value::<Theme>();
    let kept_apart = chain().identify_by::<Account>(|account| Some(Principal::new(&account.0)));
    let with_room = chain().identify_by::<User>(named);
    let mut lens = Vec::new();
    for sessions in [chain(), chain().identity_room(500), kept_apart, with_room] {
        let node = Node::new(sessions.build().unwrap());
        lens.push(Browser::new().visit(&node, async |session| fill(&session).await).await);
    }
    assert_eq!(lens, [lens[0], lens[0], lens[0], lens[0] - ROOM]);
}

#[tokio::test]
async fn refusal_names_reserved_room() {
    let app = App::new();
    let node = app.start();
    let mut browser = full(&node).await;
    let error = browser.visit(&node, async |session| session.set(Visits(1)).await.unwrap_err()).await;
    assert_eq!((error.kind(), error.names()), (WriteErrorKind::TooLarge, &["theme", "visits"][..]));
    assert!(error.to_string().contains("256 bytes") && error.to_string().contains("theme"), "{error}");
    let error = browser.visit(&node, async |session| session.set(theme(&"x".repeat(4_000))).await.unwrap_err()).await;
    assert!(!error.to_string().contains("256 bytes"), "{error}");
    let answer = post(&mut browser, &node, r#"{"visits": 1}"#).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "value_too_large"));
}

#[tokio::test]
async fn full_session_accepts_removals() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let remove = async |session: Session| {
        session.set(Visits(1)).await.unwrap();
        fill(&session).await;
        session.remove::<Visits>().await.unwrap();
        session.remove::<Theme>().await.unwrap();
        session.set(Visits(2)).await
    };
    browser.visit(&node, remove).await.unwrap();
}

#[tokio::test]
async fn room_above_budget_is_refused() {
    let app = App::new();
    let built = |room| app.chain(DefaultTier::new()).identify_by::<User>(|_| None).identity_room(room).build();
    assert!(built(1_000).is_ok());
    let error = built(4_000).unwrap_err();
    assert_eq!(error.kind(), BuildErrorKind::Setting);
    assert!(error.to_string().contains("identity_room"), "{error}");
}
