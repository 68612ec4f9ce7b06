//! The values that a page may write. The writeback stores all values of a post or none.

use http::StatusCode;
use layered_session::{BuildErrorKind, Session, SessionValue, SessionWriteback, testing::ManualClock};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Draft, KIB, Level, Note, Page, Paragraph, Ratio, allowing, assert_refused};
use crate::support::{App, Browser, Division, Node, Theme, User, Visits, builder, post, ring, theme, visitor};

// R28: the answer lists the stored names, in the order of the body.
#[tokio::test]
async fn response_lists_stored_names() {
    let mut page = Page::signed_in().await;
    for body in [
        r#"{"theme":"dark","current_division_id":3,"level":1}"#,
        r#"{"level":2,"theme":"light","current_division_id":4}"#,
        r#" { "current_division_id" : 5 , "ratio":0.5, "theme" : "blue" } "#,
    ] {
        let names: Vec<_> = body.split('"').filter(|part| part.contains(char::is_alphabetic)).collect();
        let names: Vec<_> = names.into_iter().filter(|part| !["dark", "light", "blue"].contains(part)).collect();
        let answer = page.post(body).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "stored": names })));
    }
    let read = (page.read::<Theme>().await, page.read::<Division>().await, page.read::<Level>().await);
    assert_eq!(read, (Some(Theme("blue".into())), Some(Division(5)), Some(Level(2))));
    assert_eq!(page.read::<Ratio>().await, Some(Ratio(0.5)));
}

// R28: the store receives the type's own encoding, so that a page can't choose the bytes.
#[tokio::test]
async fn stored_value_uses_type_encoding() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Raw(serde_json::Value);
    impl SessionValue for Raw {
        const NAME: &'static str = Draft::NAME;
    }
    let (ring, clock) = (ring(), ManualClock::new());
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Carried(Vec<Paragraph>);
    impl SessionValue for Carried {
        const NAME: &'static str = Draft::NAME;
    }
    let node = Node::new(builder(&ring, &clock).value::<Carried>().build().unwrap());
    let writeback = SessionWriteback::new(&node.sessions).allow::<Carried>().unwrap();
    let mut browser = Browser::new();
    let answer = node.writeback(writeback, browser.post_json(r#"{"draft":[{"text":"a","planted":"b"}]}"#)).await;
    browser.take(&answer.headers);
    let other = Node::new(builder(&ring, &clock).value::<Raw>().build().unwrap());
    let stored = browser.visit(&other, async |s| s.get::<Raw>()).await.expect("the post stored the value").0;
    assert_eq!(stored, json!([{ "text": "a", "alignment": "", "indentation": 0 }]));
}

// R28: an unknown or disallowed name is answered with 422 and the name, and the POST stores nothing.
#[tokio::test]
async fn forbidden_name_changes_nothing() {
    let mut page = Page::new();
    for (body, names) in [
        (r#"{"theme":"dark","visits":7}"#, &["visits"][..]),
        (r#"{"nobody":1,"theme":"dark","Theme":"x","theme ":"y"}"#, &["nobody", "Theme", "theme "]),
        (r#"{"theme":"dark","":0}"#, &[""]),
        (r#"{"user":"eve","theme":"dark"}"#, &["user"]),
        (r#"{"$lifetime":1,"$version":9,"generation":2}"#, &["$lifetime", "$version", "generation"]),
        (r#"{"__proto__":{"theme":"x"},"constructor":1}"#, &["__proto__", "constructor"]),
    ] {
        let answer = page.post(body).await;
        assert_refused(&answer, 422, "not_allowed", body);
        assert_eq!(answer.json()["names"], json!(names), "{body}");
    }
    assert_eq!(page.read::<Theme>().await, None);
    assert_eq!(page.read::<User>().await, None);
    assert_eq!(page.node.sessions.stats().records, 0);
}

// R28: an invalid value refuses the whole POST, also the valid values of the other owner.
#[tokio::test]
async fn one_invalid_value_refuses_post() {
    let mut page = Page::signed_in().await;
    page.post(r#"{"theme":"before","current_division_id":1}"#).await;
    for wrong in [
        r#""current_division_id":99"#,
        r#""current_division_id":"3""#,
        r#""current_division_id":null"#,
        r#""current_division_id":3.5"#,
        r#""current_division_id":[3]"#,
        r#""current_division_id":true"#,
    ] {
        for body in [format!(r#"{{"theme":"after",{wrong}}}"#), format!(r#"{{{wrong},"theme":"after"}}"#)] {
            let answer = page.post(body.clone()).await;
            assert_refused(&answer, 422, "invalid_value", &body);
            assert_eq!(answer.json()["names"], json!(["current_division_id"]));
        }
    }
    assert_eq!(page.read::<Theme>().await, Some(Theme("before".into())));
    assert_eq!(page.read::<Division>().await, Some(Division(1)));
}

// R28: the writeback commits one owner after the other: a refusal leaves that owner's values unchanged.
#[tokio::test]
async fn owner_values_are_all_or_nothing() {
    let mut page = Page::signed_in().await;
    let long = "x".repeat(4 * KIB);
    let answer = page.post(json!({ "theme": long, "level": 1 }).to_string()).await;
    assert_refused(&answer, 422, "value_too_large", "the session's");
    assert!(answer.json()["names"].as_array().unwrap().contains(&json!("theme")));
    assert_eq!((page.read::<Theme>().await, page.read::<Level>().await), (None, None));

    let answer = page.post(json!({ "note": long, "current_division_id": 2 }).to_string()).await;
    assert_refused(&answer, 422, "value_too_large", "the principal's");
    assert_eq!((page.read::<Note>().await, page.read::<Division>().await), (None, None));
}

// R28: `ignore_unknown` passes over unknown and disallowed names and reports the names. An invalid value is still
// refused.
#[tokio::test]
async fn unknown_names_can_be_ignored() {
    let mut page = Page::new();
    let writeback = || allowing(&page.node.sessions).ignore_unknown();
    let request = page.browser.post_json(r#"{"newer":[1],"theme":"dark","visits":7,"user":"eve"}"#);
    let answer = page.node.writeback(writeback(), request).await;
    let told = json!({ "stored": ["theme"], "ignored": ["newer", "visits", "user"] });
    assert_eq!((answer.status.as_u16(), answer.json()), (200, told));
    let invalid = page.node.writeback(writeback(), page.browser.post_json(r#"{"newer":1,"level":"x"}"#)).await;
    assert_refused(&invalid, 422, "invalid_value", "`ignore_unknown` passes over names, not over values");
    page.browser.take(&answer.headers);
    let read = (page.read::<Theme>().await, page.read::<Visits>().await, page.read::<User>().await);
    assert_eq!(read, (Some(Theme("dark".into())), None, None));
}

// G20: `allow` refuses the identity value, and a value that no chain declares.
#[test]
fn identity_value_cannot_be_allowed() {
    let page = Page::new();
    let plain = || SessionWriteback::new(&page.node.sessions);
    assert!(plain().allow::<User>().unwrap_err().to_string().contains("the signed-in user"));
    #[derive(Serialize, Deserialize)]
    struct Undeclared;
    impl SessionValue for Undeclared {
        const NAME: &'static str = "undeclared";
    }
    assert!(plain().allow::<Undeclared>().unwrap_err().to_string().contains("declare"));
}

// R28: posts with thousands of unknown names are refused, and leave no record.
#[tokio::test]
async fn refused_names_use_no_memory() {
    let mut page = Page::new();
    let names = |from: usize, to: usize| (from..to).map(|n| format!(r#""n{n}":{n}"#)).collect::<Vec<_>>().join(",");
    for from in (0..1_000).step_by(50) {
        let answer = page.post(format!("{{{}}}", names(from, from + 50))).await;
        assert_refused(&answer, 422, "not_allowed", from);
    }
    assert_refused(&page.post(format!("{{{}}}", names(0, 1_000))).await, 400, "too_many_names", 1_000);
    let long = page.post(format!(r#"{{"{}":1}}"#, "n".repeat(10_000))).await;
    assert_refused(&long, 422, "not_allowed", "a name of 10 kB");
    let stats = page.node.sessions.stats();
    assert_eq!((stats.records, stats.bytes), (0, 0));
}

// R28: a refusal shortens the names that the client sent.
#[tokio::test]
async fn refusal_lists_sixteen_shortened_names() {
    let page = Page::new();
    let names: Vec<_> = (0..60).map(|n| format!("{n}{}", "é".repeat(100))).collect();
    let said: Vec<String> = names.iter().take(16).map(|name| name.chars().take(64).collect()).collect();
    let members: Vec<_> = names.iter().map(|name| format!(r#""{name}":0"#)).collect();
    let body = format!("{{{}}}", members.join(","));
    let strict = allowing(&page.node.sessions);
    let lenient = strict.clone().ignore_unknown();
    let refused = page.node.writeback(strict, page.browser.post_json(body.clone())).await;
    assert_refused(&refused, 422, "not_allowed", "sixty names");
    assert_eq!(refused.json()["names"], json!(said));
    let ignored = page.node.writeback(lenient, page.browser.post_json(body)).await;
    assert_eq!(ignored.json(), json!({ "stored": [], "ignored": said }));
}

// R26: a value that the cookie does not carry is limited by the length of the body, and again by the length of the
// type's own encoding.
#[tokio::test]
async fn oversized_server_value_is_refused() {
    let mut page = Page::new();
    let text = |len: usize| json!({ "draft": [{ "text": "x".repeat(len) }] }).to_string();
    assert_eq!(page.post(text(15 * KIB)).await.status, StatusCode::OK);
    let kept = page.read::<Draft>().await.expect("the draft is in memory");
    assert_eq!(kept.0[0].text.len(), 15 * KIB);
    assert_refused(&page.post(text(16 * KIB)).await, 413, "too_large", "sent");
    // Each element has three bytes in the post, and twelve times as many with its defaults.
    let grown = format!(r#"{{"theme":"dark","draft":[{}{{}}]}}"#, "{},".repeat(4 * KIB));
    let answer = page.post(grown).await;
    assert_refused(&answer, 422, "value_too_large", "encoded");
    assert_eq!(answer.json()["names"], json!(["draft"]));
    assert_eq!(page.read::<Draft>().await, Some(kept));
    assert_eq!(page.read::<Theme>().await, None);
}

// G20: a POST stores allowed names alone, and a name that is not allowed refuses the POST.
#[tokio::test]
async fn post_stores_only_allowed_names() {
    let app = App::new();
    let node = app.start();
    let mut browser = Browser::new();
    let answer = post(&mut browser, &node, r#"{"theme": "dark", "visits": 3}"#).await;
    assert_eq!(answer.json(), serde_json::json!({ "stored": ["theme", "visits"] }));
    let answer = post(&mut browser, &node, r#"{"theme": "light", "user": "eve"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "not_allowed"));
    assert_eq!(answer.json()["names"], serde_json::json!(["user"]));
    for node in [node, app.start()] {
        let all = async |session: Session| (session.value::<Theme>(), session.value::<Visits>(), session.get::<User>());
        assert_eq!(browser.visit(&node, all).await, (theme("dark"), Visits(3), None));
        let error = SessionWriteback::new(&node.sessions).allow::<User>().unwrap_err();
        assert_eq!(error.kind(), BuildErrorKind::Value);
    }
}

// R28: unknown names, refused or ignored, add no byte to memory and change no cookie.
#[tokio::test]
async fn unknown_names_use_no_memory() {
    let app = App::new();
    let node = app.start();
    let mut browser = visitor(&node).await;
    let (before, cookie) = (node.sessions.stats(), browser.clone());
    let object = |names: std::ops::Range<u32>| {
        let names: Vec<_> = names.map(|n| format!(r#""n{n}":1"#)).collect();
        format!("{{{}}}", names.join(","))
    };
    assert_eq!(post(&mut browser, &node, object(0..1000)).await.status, StatusCode::BAD_REQUEST);
    for start in (0..1000).step_by(50) {
        let answer = post(&mut browser, &node, object(start..start + 50)).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let lenient = SessionWriteback::new(&node.sessions).allow::<Theme>().unwrap().ignore_unknown();
        let answer = node.writeback(lenient, browser.post_json(object(start..start + 50))).await;
        assert_eq!(answer.json()["stored"], serde_json::json!([]));
        assert_eq!(answer.json()["ignored"].as_array().unwrap().len(), 16, "the answer lists at most 16 names");
    }
    let after = node.sessions.stats();
    assert_eq!((after.records, after.bytes), (before.records, before.bytes));
    assert_eq!(browser.cookie("session"), cookie.cookie("session"));
}

// R28: a name of 10 kB is refused, and stores nothing.
#[tokio::test]
async fn long_name_is_refused() {
    let node = App::new().node;
    let name = "n".repeat(10_000);
    let answer = post(&mut Browser::new(), &node, format!(r#"{{"{name}": 1}}"#)).await;
    assert!(answer.status.is_client_error());
    assert_eq!((answer.set_cookies(), node.sessions.stats().records), (vec![], 0));
}
