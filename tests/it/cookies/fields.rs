//! Where our cookie is found among all that a browser sends, and what is made of several.

use http::{Response, StatusCode};
use http_body_util::Full;
use layered_session::Session;

use super::{bringing, nobody, outcome, token_of};
use crate::{
    site::{Site, attribute, dark},
    trace::Trace,
    world::{Browser, Theme, set_cookies},
};

// Acceptance 55, R16.
#[tokio::test]
async fn our_cookie_is_found_in_any_field_beside_any_garbage() {
    let site = Site::new();
    let browser = site.dark().await;
    let ours = format!("session={}", browser.token());
    let upper = ours.replacen("session", "Session", 1);
    for fields in [
        vec!["a=b", "c=d", &ours],
        vec!["=; ;;=x; \"; Session=x; $Version=1", &ours, "a=b"],
        vec![&format!("a=\"b; \t{ours}\t ;c"), "session2=x"],
        vec![&upper, "%73ession=x", "\u{a0}session=x", &ours],
    ] {
        for node in [&site.node, &site.cold()] {
            let (status, set, theme, ..) = outcome(node, bringing(&fields)).await;
            assert_eq!((status, set.len(), theme), (StatusCode::OK, 0, dark()), "{fields:?}");
        }
    }
    let encoded = ours.replacen('s', "%73", 1);
    for others in [&upper, &encoded, &format!("\u{a0}{ours}"), &format!("={ours}")] {
        assert_eq!(outcome(&site.node, bringing([others])).await, nobody(), "{others}");
    }
}

// R17.
#[tokio::test]
async fn of_several_tokens_one_distinct_that_opens_counts_and_more_are_none_and_removed() {
    let site = Site::new();
    let mut browser = site.dark().await;
    let first = format!("session={}", browser.token());
    browser.write(&site.node, "light").await;
    let (newer, other) = (format!("session={}", browser.token()), format!("session={}", site.dark().await.token()));
    let garbage: Vec<_> = (0..4).map(|n| format!("session={n}")).collect();
    for node in [&site.node, &site.cold()] {
        for one in [vec![&newer, &newer], vec![&garbage[0], &newer, &garbage[1], &newer, &garbage[2]]] {
            let (status, set, theme, ..) = outcome(node, bringing(&one)).await;
            assert_eq!((status, set, theme), (StatusCode::OK, Vec::new(), Theme("light".into())), "{one:?}");
        }
        // Two of one session, too: which of them the browser means can't be told.
        for several in [[&newer, &other], [&other, &newer], [&first, &newer]] {
            let (trace, _guard) = Trace::begin();
            let (status, set, theme, ..) = outcome(node, bringing(several)).await;
            assert_eq!((status, theme), (StatusCode::OK, Theme::default()));
            assert_eq!(set.iter().map(|set| attribute(set, "Max-Age")).collect::<Vec<_>>(), [Some("0")]);
            assert_eq!(trace.lines_with("several session cookies"), 1);
        }
        let behind_four = garbage.iter().chain([&newer]);
        assert_eq!(outcome(node, bringing(behind_four)).await, nobody());
    }
}

// R17.
#[tokio::test]
async fn several_tokens_are_removed_though_nobody_reads_what_was_loaded() {
    let site = Site::new();
    let tokens = [site.dark().await, site.dark().await].map(|browser| format!("session={}", browser.token()));
    let idle = |_: Session| async { (Response::new(Full::default()), ()) };
    let (response, ()) = site.node.handle(bringing(&tokens), idle).await;
    let set = set_cookies(response.headers());
    assert_eq!(set.iter().map(|set| attribute(set, "Max-Age")).collect::<Vec<_>>(), [Some("0")]);
}

// R17.
#[tokio::test]
async fn a_write_among_several_tokens_makes_a_session_of_its_own() {
    let site = Site::new();
    let tokens = [site.dark().await, site.dark().await].map(|browser| format!("session={}", browser.token()));
    let write = |session: Session| async move {
        (Response::new(Full::default()), session.set(Theme("third".into())).await.unwrap())
    };
    let (response, ()) = site.node.handle(bringing(&tokens), write).await;
    let set = set_cookies(response.headers());
    assert_eq!(set.len(), 1);
    assert_eq!(Browser::bringing(token_of(&set[0])).theme(&site.cold()).await, Theme("third".into()));
    for token in tokens {
        assert_eq!(outcome(&site.node, bringing([token])).await.2, dark());
    }
}

// R18.
#[tokio::test]
async fn beyond_the_caps_nobody_is_seen_and_it_is_counted() {
    let site = Site::new();
    let ours = format!("session={}", site.dark().await.token());
    let most = "y".repeat((16 << 10) - ours.len());
    let pairs = "a=b;".repeat(179);
    for within in [[&ours, &most], [&most, &ours], [&ours, &pairs], [&pairs, &ours]] {
        assert_eq!(outcome(&site.node, bringing(within)).await.2, dark());
    }
    assert_eq!(site.node.sessions.stats().capped_cookies, 0);
    for beyond in [[&ours, &most, "z"], [&ours, &pairs, "z"]] {
        assert_eq!(outcome(&site.node, bringing(beyond)).await, nobody());
    }
    assert_eq!(site.node.sessions.stats().capped_cookies, 2);
}
