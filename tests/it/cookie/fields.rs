//! The search for our cookie among all `Cookie` fields of a request, and the choice among several.

use http::StatusCode;

use super::{bringing, nobody, outcome};
use crate::support::{App, TICK, Theme, Trace, dark};

// R16: the reader finds the exact cookie name among garbage, and accepts no other spelling of the name.
#[tokio::test]
async fn cookie_is_found_among_garbage() {
    let app = App::new();
    let browser = app.dark().await;
    let ours = format!("session={}", browser.token());
    let quoted = format!("$Version=\"1\"; session=\"{}\";$Path=\"/\"", browser.token());
    let upper = ours.replacen("session", "Session", 1);
    for fields in [
        vec!["a=b", "c=d", &ours],
        vec![&quoted],
        vec!["=; ;;=x; \"; Session=x; $Version=1", &ours, "a=b"],
        vec![&format!("a=\"b; \t{ours}\t ;c"), "session2=x"],
        vec![&upper, "%73ession=x", "\u{a0}session=x", &ours],
    ] {
        for node in [&app.node, &app.start()] {
            let (status, set, theme, ..) = outcome(node, bringing(&fields)).await;
            assert_eq!((status, set.len(), theme), (StatusCode::OK, 0, dark()), "{fields:?}");
        }
    }
    let encoded = ours.replacen('s', "%73", 1);
    for others in [&upper, &encoded, &format!("\u{a0}{ours}"), &format!("={ours}")] {
        assert_eq!(outcome(&app.node, bringing([others])).await, nobody(), "{others}");
    }
}

// R17: tokens of several sessions load no session, and a token behind four other values is not tried.
#[tokio::test]
async fn several_valid_ids_load_no_session() {
    let app = App::new();
    let mut browser = app.dark().await;
    let first = format!("session={}", browser.token());
    browser.write(&app.node, "light").await;
    let (newer, other) = (format!("session={}", browser.token()), format!("session={}", app.dark().await.token()));
    let garbage: Vec<_> = (0..4).map(|n| format!("session={n}")).collect();
    for node in [&app.node, &app.start()] {
        for one in [vec![&newer, &newer], vec![&garbage[0], &newer, &garbage[1], &newer, &garbage[2]]] {
            let (status, set, theme, ..) = outcome(node, bringing(&one)).await;
            assert_eq!((status, set, theme), (StatusCode::OK, Vec::new(), Theme("light".into())), "{one:?}");
        }
        for several in [vec![&newer, &other], vec![&other, &newer], vec![&first, &other, &newer]] {
            let (trace, _guard) = Trace::begin();
            let (status, set, theme, ..) = outcome(node, bringing(several)).await;
            assert_eq!((status, set, theme), (StatusCode::OK, Vec::new(), Theme::default()));
            assert_eq!(trace.lines_with("valid cookies of several sessions"), 1);
        }
        let behind_four = garbage.iter().chain([&newer]);
        assert_eq!(outcome(node, bringing(behind_four)).await, nobody());
    }
}

// R17: of several tokens of one session the newest token counts.
#[tokio::test]
async fn newest_token_of_session_counts() {
    let app = App::new();
    let mut browser = app.dark().await;
    let mut tokens = vec![format!("session={}", browser.token())];
    for theme in ["green", "light"] {
        app.clock.advance(TICK);
        browser.write(&app.node, theme).await;
        tokens.push(format!("session={}", browser.token()));
    }
    let [dark, green, light] = &tokens[..] else { unreachable!() };
    for several in [vec![green, light], vec![light, green], vec![green, dark], vec![dark, light, green]] {
        let newest = if several.contains(&light) { "light" } else { "green" };
        let (status, set, theme, ..) = outcome(&app.start(), bringing(&several)).await;
        assert_eq!((status, set, theme), (StatusCode::OK, Vec::new(), Theme(newest.into())), "{several:?}");
        // This node knows a still newer value, and sends the value to the browser.
        let (status, set, theme, ..) = outcome(&app.node, bringing(&several)).await;
        assert_eq!((status, theme), (StatusCode::OK, Theme("light".into())));
        assert_eq!(set.len(), usize::from(newest == "green"), "{several:?}");
    }
}

// R18: a request with cookies beyond 16 KiB or 180 pairs has no session, and is counted.
#[tokio::test]
async fn cookies_beyond_limits_are_ignored() {
    let app = App::new();
    let ours = format!("session={}", app.dark().await.token());
    let most = "y".repeat((16 << 10) - ours.len());
    let pairs = "a=b;".repeat(179);
    for within in [[&ours, &most], [&most, &ours], [&ours, &pairs], [&pairs, &ours]] {
        assert_eq!(outcome(&app.node, bringing(within)).await.2, dark());
    }
    assert_eq!(app.node.sessions.stats().capped_cookies, 0);
    for beyond in [[&ours, &most, "z"], [&ours, &pairs, "z"]] {
        assert_eq!(outcome(&app.node, bringing(beyond)).await, nobody());
    }
    assert_eq!(app.node.sessions.stats().capped_cookies, 2);
}
