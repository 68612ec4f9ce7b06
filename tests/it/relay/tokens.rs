//! Relay and birth tokens: a page brings the changes of a socket to the writeback, and the answer updates the cookie.

use std::time::Duration;

use http::StatusCode;
use layered_session::{Resolution, Session, SessionWriteback};

use crate::support::{
    Answer, App, Browser, DAY, Division, HOUR, Node, Theme, User, Visits, bring, carried, get, set, sign_in, signed_in,
    socket, theme, under_way, visitor,
};

/// Writes on a socket. Returns the token for the page to bring.
async fn switch(live: &Session, name: &str) -> String {
    live.set(theme(name)).await.unwrap();
    live.relay().expect("the cookie lacks the theme").to_string()
}

/// Asserts a refusal without a `Set-Cookie` of the session.
fn assert_refused(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code));
    assert!(answer.set_cookies().is_empty());
}

/// The token of a socket's first write, which began the session.
async fn born(node: &Node) -> (Session, String) {
    let live = socket(&Browser::new(), node).await;
    let token = switch(&live, "dark").await;
    (live, token)
}

#[tokio::test]
async fn relay_token_carries_all_changes() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let live = socket(&browser, &node).await;
    assert_eq!(live.relay(), None, "the cookie lacks nothing");
    live.set(Division(4)).await.unwrap();
    live.set(Visits(1)).await.unwrap();
    let token = switch(&live, "dark").await;
    let answer = bring(&mut browser, &node, &token).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, serde_json::json!({ "stored": ["$relay"] })));
    assert_eq!(carried::<Division>(&browser, &app).await, Division(4));
    assert_eq!(carried::<Visits>(&browser, &app).await, Visits(1));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
    assert_eq!(socket(&browser, &node).await.relay(), None);
}

// Under `FirstHit` memory answers first. A relay token updates the other node's memory, since the socket's write is
// newer.
#[tokio::test]
async fn first_hit_accepts_relayed_values() {
    let app = App::new();
    let [first, second] = [(); 2].map(|()| app.start_with(|sessions| sessions.resolution(Resolution::FirstHit)));
    let mut browser = signed_in(&first, "ada").await;
    set(&mut browser, &first, theme("light")).await;
    set(&mut browser, &first, Division(1)).await;
    assert_eq!(get::<Theme>(&mut browser, &second).await, theme("light"));
    app.pass(Duration::from_secs(1));
    let live = socket(&browser, &first).await;
    live.set(Division(2)).await.unwrap();
    let token = switch(&live, "dark").await;
    assert_eq!(bring(&mut browser, &second, &token).await.status, StatusCode::OK);
    assert_eq!(get::<Theme>(&mut browser, &second).await, theme("dark"));
    assert_eq!(get::<Division>(&mut browser, &second).await, Division(2));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
}

#[tokio::test]
async fn restarted_node_accepts_relay_token() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let token = switch(&socket(&browser, &node).await, "dark").await;
    drop(node);
    let restarted = app.start();
    assert_eq!(bring(&mut browser, &restarted, &token).await.status, StatusCode::OK);
    assert_eq!(get::<Theme>(&mut browser.clone(), &restarted).await, theme("dark"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
}

#[tokio::test]
async fn relay_token_needs_own_living_session() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let token = switch(&socket(&browser, &node).await, "dark").await;
    let mut other = visitor(&node).await;
    assert_refused(&bring(&mut other, &node, &token).await, StatusCode::CONFLICT, "relay_other_session");
    assert_eq!(get::<Theme>(&mut other, &node).await, theme("light"));
    let answer = bring(&mut Browser::new(), &node, &token).await;
    assert_refused(&answer, StatusCode::CONFLICT, "relay_other_session");
    let old = browser.clone();
    sign_in(&mut browser, &node, "ada").await;
    assert_refused(&bring(&mut browser, &node, &token).await, StatusCode::CONFLICT, "relay_other_session");
    assert_refused(&bring(&mut old.clone(), &node, &token).await, StatusCode::CONFLICT, "session_closed");
    app.pass(Duration::from_secs(61));
    assert_refused(&bring(&mut old.clone(), &node, &token).await, StatusCode::CONFLICT, "relay_other_session");
}

#[tokio::test]
async fn relay_token_expires_with_cookie() {
    for (left, expected) in [(Duration::from_millis(1), StatusCode::OK), (Duration::ZERO, StatusCode::CONFLICT)] {
        let app = App::new();
        let node = app.start();
        let mut browser = visitor(&node).await;
        let token = switch(&socket(&browser, &node).await, "dark").await;
        app.pass(DAY);
        let restarted = app.start();
        get::<Theme>(&mut browser, &restarted).await;
        app.pass(DAY - left);
        let answer = bring(&mut browser, &restarted, &token).await;
        assert_eq!(answer.status, expected);
        let refused = expected == StatusCode::CONFLICT;
        assert_eq!(answer.code(), if refused { "relay_expired" } else { "" });
        let kept = if refused { theme("light") } else { theme("dark") };
        assert_eq!(carried::<Theme>(&browser, &app).await, kept);
    }
}

// G19: late, repeated and reordered relay tokens end in the same state.
#[tokio::test]
async fn reordered_relay_tokens_end_in_same_state() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let tokens = [switch(&live, "first").await, switch(&live, "second").await, switch(&live, "third").await];
    for order in [[0, 1, 2, 2], [2, 1, 0, 1], [1, 2, 0, 2], [2, 0, 1, 0]] {
        let (restarted, mut browser) = (app.start(), browser.clone());
        for at in order {
            assert_eq!(bring(&mut browser, &restarted, &tokens[at]).await.status, StatusCode::OK);
        }
        assert_eq!(get::<Theme>(&mut browser, &restarted).await, theme("third"), "{order:?}");
        assert_eq!(carried::<Theme>(&browser, &app).await, theme("third"), "{order:?}");
    }
}

// G12: neither an older cookie nor an older relay token brings a removed value back.
#[tokio::test]
async fn older_relay_token_restores_no_removed_value() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    let older_token = switch(&live, "dark").await;
    let older_cookie = browser.clone();
    live.remove::<Theme>().await.unwrap();
    bring(&mut browser, &node, live.relay().unwrap().as_str()).await;
    for node in [node, app.start()] {
        assert_eq!(get::<Theme>(&mut browser, &node).await, Theme::default());
        assert_eq!(get::<Theme>(&mut older_cookie.clone(), &node).await, Theme::default(), "the older cookie");
        assert_eq!(bring(&mut browser, &node, &older_token).await.status, StatusCode::OK);
        assert_eq!(get::<Theme>(&mut browser, &node).await, Theme::default(), "the older token");
    }
}

#[tokio::test]
async fn token_of_other_purpose_is_refused() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let token = switch(&socket(&browser, &node).await, "dark").await;
    let (_, birth) = born(&node).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"), "nothing is left to heal");
    let cookie = browser.cookie("session").unwrap().to_owned();
    let (relay_prefix, relay) = token.split_once('.').unwrap();
    let (birth_prefix, birth) = birth.split_once('.').unwrap();
    let swapped = [
        format!("{birth_prefix}.{relay}"),
        format!("{relay_prefix}.{birth}"),
        format!("{relay_prefix}.{cookie}"),
        format!("{birth_prefix}.{cookie}"),
    ];
    for other in swapped {
        let answer = bring(&mut browser, &node, &other).await;
        assert_refused(&answer, StatusCode::BAD_REQUEST, "relay_invalid");
    }
    for sealed in [relay, birth] {
        let mut thief = Browser::new();
        thief.set("session", sealed);
        assert_eq!(get::<Theme>(&mut thief, &node).await, Theme::default(), "a token is no cookie");
    }
    assert_eq!(bring(&mut browser, &App::new().node, &token).await.code(), "relay_invalid", "other keys");
}

// G19: a birth token gives the browser the cookie of a session that began on the page's socket.
#[tokio::test]
async fn socket_born_session_survives_restart() {
    let app = App::new();
    let node = app.start();
    let mut browser = Browser::new();
    assert_eq!(get::<Theme>(&mut browser, &node).await, Theme::default());
    let live = socket(&browser, &node).await;
    assert_eq!(live.relay(), None, "there is nothing to bring");
    let token = switch(&live, "dark").await;
    assert!(browser.cookie("session").is_none());
    let answer = bring(&mut browser, &node, &token).await;
    assert_eq!((answer.status, answer.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
    set(&mut browser, &node, theme("light")).await;
    assert_eq!(live.value::<Theme>(), theme("light"), "the browser has the socket's session");
}

#[tokio::test]
async fn birth_token_works_after_restart() {
    let app = App::new();
    let node = app.start();
    let live = under_way(&Browser::new(), &node).await;
    let token = switch(&live, "dark").await;
    live.sign_in(User("ada".into())).await.unwrap();
    live.set(Division(2)).await.unwrap();
    let signed = live.relay().unwrap();
    let (restarted, mut browser) = (app.start(), Browser::new());
    assert_eq!(bring(&mut browser, &restarted, signed.as_str()).await.status, StatusCode::OK);
    assert_eq!(get::<Division>(&mut browser, &restarted).await, Division(2));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("dark"));
    let refused = bring(&mut Browser::new(), &node, &token).await;
    assert_refused(&refused, StatusCode::CONFLICT, "session_closed");
}

#[tokio::test]
async fn birth_token_expires_after_one_minute() {
    let app = App::new();
    let node = app.start();
    let (_live, token) = born(&node).await;
    app.pass(Duration::from_millis(59_999));
    let (mut browser, mut late) = (Browser::new(), Browser::new());
    assert_eq!(bring(&mut browser, &node, &token).await.status, StatusCode::OK);
    app.pass(Duration::from_millis(1));
    for node in [&node, &app.start()] {
        assert_refused(&bring(&mut late, node, &token).await, StatusCode::CONFLICT, "relay_expired");
    }
    assert!(late.cookie("session").is_none());
    let with_cookie = bring(&mut browser, &node, &token).await;
    assert_eq!(
        with_cookie.status,
        StatusCode::OK,
        "beside the session's cookie a birth token is an ordinary relay token"
    );
}

#[tokio::test]
async fn birth_token_replaces_no_other_session() {
    let app = App::new();
    let node = app.start();
    let (_live, token) = born(&node).await;
    let mut other = visitor(&node).await;
    let before = other.clone();
    for node in [&node, &app.start()] {
        assert_refused(&bring(&mut other, node, &token).await, StatusCode::CONFLICT, "relay_other_session");
    }
    assert_eq!(other.cookie("session"), before.cookie("session"));
    assert_eq!(get::<Theme>(&mut other, &node).await, theme("light"));
    other.visit(&node, async |session| session.destroy().await.unwrap()).await;
    assert_refused(&bring(&mut before.clone(), &node, &token).await, StatusCode::CONFLICT, "session_closed");
}

#[tokio::test]
async fn repeated_birth_token_begins_no_second_session() {
    let app = App::new();
    let node = app.start();
    let (live, token) = born(&node).await;
    let newer = switch(&live, "light").await;
    let mut browser = Browser::new();
    for token in [&token, &newer, &token] {
        assert_eq!(bring(&mut browser, &node, token).await.status, StatusCode::OK);
    }
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("light"));
    assert_eq!(node.sessions.stats().records, 1);
}

#[tokio::test]
async fn confirmed_cookie_ends_birth_tokens() {
    let app = App::new();
    let node = app.start();
    let (live, token) = born(&node).await;
    let mut browser = Browser::new();
    bring(&mut browser, &node, &token).await;
    get::<Theme>(&mut browser, &node).await;
    let token = switch(&live, "light").await;
    let refused = bring(&mut Browser::new(), &node, &token).await;
    assert_refused(&refused, StatusCode::CONFLICT, "relay_other_session");
    assert_eq!(bring(&mut browser, &node, &token).await.status, StatusCode::OK);
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("light"));
}

#[tokio::test]
async fn writeback_refuses_cross_site_token() {
    let node = App::new().node;
    let (_live, token) = born(&node).await;
    let mut request = Browser::new().post_json(serde_json::json!({ "$relay": token }).to_string());
    for site in ["cross-site", "same-site", "none"] {
        request.headers_mut().insert("sec-fetch-site", site.parse().unwrap());
        let answer = node.writeback(SessionWriteback::new(&node.sessions), request.clone()).await;
        assert_refused(&answer, StatusCode::FORBIDDEN, "cross_site");
    }
}

#[tokio::test]
async fn ended_session_refuses_birth_token() {
    let app = App::new();
    let node = app.start();
    let (live, token) = born(&node).await;
    live.destroy().await.unwrap();
    let removal = live.relay().expect("the browser may have the cookie");
    assert!(removal.as_str().starts_with("t."));
    for span in [Duration::ZERO, Duration::from_millis(59_999)] {
        app.pass(span);
        let refused = bring(&mut Browser::new(), &node, &token).await;
        assert_refused(&refused, StatusCode::CONFLICT, "session_closed");
    }
}

// G19: the answer to a relay token sets the cookie with the socket's write.
#[tokio::test]
async fn page_brings_socket_write_to_cookie() {
    let app = App::new();
    let node = app.start();
    let mut browser = signed_in(&node, "ada").await;
    let live = socket(&browser, &node).await;
    live.set(Division(4)).await.unwrap();
    assert_eq!(socket(&browser, &node).await.value::<Division>(), Division(4));
    assert_eq!(carried::<Division>(&browser, &app).await, Division(-1));
    let answer = bring(&mut browser, &node, live.relay().unwrap().as_str()).await;
    assert_eq!((answer.status, answer.set_cookies().len()), (StatusCode::OK, 1));
    assert_eq!(carried::<Division>(&browser, &app).await, Division(4));
}

// The use in a relay token extends the session, also on a node where the session has idled out.
#[tokio::test]
async fn relay_token_carries_socket_use() {
    for hours in [7, 9] {
        let app = App::new();
        let (here, there) = (app.start(), app.start());
        let mut browser = visitor(&here).await;
        let live = socket(&browser, &here).await;
        assert_eq!(get::<Theme>(&mut browser, &there).await, theme("light"));
        app.pass(40 * HOUR);
        live.touch().await.unwrap();
        let token = live.relay().unwrap();
        app.pass(hours * HOUR);
        assert_eq!(bring(&mut browser, &there, token.as_str()).await.status, StatusCode::OK, "{hours}");
        app.pass(13 * HOUR);
        assert_eq!(get::<Theme>(&mut browser, &there).await, theme("light"), "{hours}");
    }
}

#[tokio::test]
async fn relayed_values_are_counted_in_bytes() {
    let app = App::new();
    let (here, there) = (app.start(), app.start());
    let mut browser = visitor(&here).await;
    let live = socket(&browser, &here).await;
    assert_eq!(get::<Theme>(&mut browser, &there).await, theme("light"));
    live.set(theme(&"x".repeat(700))).await.unwrap();
    let token = live.relay().unwrap();
    let before = there.sessions.stats().bytes;
    assert_eq!(bring(&mut browser, &there, token.as_str()).await.status, StatusCode::OK);
    assert!(there.sessions.stats().bytes >= before + 600);
}
