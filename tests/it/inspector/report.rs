//! The report of each value: the answer of each tier, and the tier that answers the chain.

use std::time::Duration;

use http::header;
use layered_session::{DefaultTier, Resolution, Session, SessionValue, WriteErrorKind};
use serde_json::{Value, json};

use super::{Draft, HEARTBEAT, Page, node, report, tiers, value};
use crate::support::{
    App, BEAT, Browser, DAY, Division, Node, NumberedTheme, Theme, Visits, bare, first_write, kind, set, sign_in,
    theme, visitor,
};

#[tokio::test]
async fn visitor_sees_defaults_without_record() {
    let app = App::new();
    let node = node(&app);
    let mut page = Page::open(&Browser::new(), &node).await;
    let report = page.report();
    assert_eq!(report["session"], json!({ "state": "none", "signed_in": false }));
    assert_eq!(report["token"]["bytes"], 0);
    assert_eq!(report["heartbeat"], json!(HEARTBEAT.as_millis() as u64));
    let (idle, absolute) = (2 * DAY.as_millis() as u64, 30 * DAY.as_millis() as u64);
    assert_eq!(report["lifetime"], json!({ "idle_ms": idle, "absolute_ms": absolute, "ends_with_browser": false }));
    assert_eq!((&report["chain"], &report["resolution"]), (&json!(["memory", "cookie", "default"]), &json!("newest")));
    let no_copy = "has no copy: there is no session yet";
    assert_eq!(
        value(&report, "theme"),
        &json!({
            "name": "theme",
            "scope": "session",
            "placement": "everywhere",
            "max_age_ms": null,
            "expires": null,
            "value": "light",
            "winner": "default",
            "tiers": [
                { "tier": "memory", "answer": "nothing", "version": null, "why": no_copy },
                { "tier": "cookie", "answer": "nothing", "version": null, "why": no_copy },
                { "tier": "default", "answer": "value", "version": null, "why": "answers, since no stored tier does" },
            ],
        })
    );
    let division = value(&report, "current_division_id");
    assert_eq!((&division["value"], &division["winner"]), (&Value::Null, &json!("default")));
    let own = "has no default for this value: the type's own default answers, if the type has a default";
    assert_eq!(tiers(&report, "current_division_id")[2], ["default", "nothing", own]);
    for _ in 0..3 {
        app.pass(HEARTBEAT);
        assert_eq!(page.told(), BEAT);
    }
    assert_eq!((page.head.get(header::SET_COOKIE), node.sessions.stats().records), (None, 0));
}

#[tokio::test]
async fn report_explains_each_tier() {
    let app = App::new();
    let first = node(&app);
    let mut browser = first_write(&first, theme("dark")).await;
    set(&mut browser, &first, Draft(4)).await;
    let shown = report(&browser, &first).await;
    let stored = ["default", "value", "not asked: a stored tier answers"];
    assert_eq!(
        tiers(&shown, "theme"),
        [["memory", "value", "answers"], ["cookie", "value", "has the same copy as memory"], stored]
    );
    let version = &value(&shown, "theme")["tiers"][0]["version"];
    assert_eq!(version, "1893456000000.1", "the version has the format of `Version`");
    let draft = value(&shown, "draft");
    assert_eq!(
        (&draft["value"], &draft["placement"], &draft["max_age_ms"]),
        (&json!(4), &json!("volatile"), &json!(60_000))
    );
    assert_eq!(draft["expires"], shown["now"].as_u64().unwrap() + 60_000);
    assert_eq!(
        tiers(&shown, "draft")[1],
        ["cookie", "nothing", "never has this value: the value stays on servers by its placement"]
    );

    // After a restart only the cookie has the value.
    let second = node(&app);
    let shown = report(&browser, &second).await;
    assert_eq!(
        (&value(&shown, "theme")["winner"], &value(&shown, "theme")["value"]),
        (&json!("cookie"), &json!("dark"))
    );
    assert_eq!(
        tiers(&shown, "theme"),
        [
            ["memory", "nothing", "had no newer copy, and has taken over the cookie's copy"],
            ["cookie", "value", "answers"],
            stored
        ]
    );
    assert_eq!(value(&shown, "theme")["tiers"][1]["version"], *version);

    browser.visit(&second, async |session| session.remove::<Theme>().await.unwrap()).await;
    let shown = report(&browser, &second).await;
    assert_eq!(
        (&value(&shown, "theme")["winner"], &value(&shown, "theme")["value"]),
        (&json!("default"), &json!("light"))
    );
    assert_eq!(
        tiers(&shown, "theme"),
        [
            ["memory", "removed", "has the removal of this value: only a source or a default can answer"],
            ["cookie", "removed", "has the same removal as memory"],
            ["default", "value", "answers, since no stored tier does"]
        ]
    );
}

#[tokio::test]
async fn report_shows_invalid_copies() {
    let app = App::new();
    let browser = visitor(&app.start()).await;
    let other = Node::new(app.chain(DefaultTier::new()).value::<NumberedTheme>().build().unwrap());
    let shown = report(&browser, &other).await;
    assert_eq!(
        tiers(&shown, "theme"),
        [
            ["memory", "nothing", "had no newer copy, and has taken over the cookie's copy"],
            ["cookie", "not_valid", "skipped: this tier's copy is not a valid value"],
            [
                "default",
                "nothing",
                "has no default for this value: the type's own default answers, if the type has a default"
            ]
        ]
    );
    assert_eq!((&value(&shown, "theme")["value"], &shown["undeclared"]), (&Value::Null, &json!(0)));

    let other = Node::new(app.chain(DefaultTier::new()).value::<Visits>().build().unwrap());
    let mut page = Page::open(&browser, &other).await;
    let told = page.told();
    assert!(told.contains("\"undeclared\":1") && !told.contains("theme") && !told.contains("light"), "{told}");
}

#[tokio::test]
async fn first_hit_shows_newer_cookie() {
    let app = App::new();
    let start =
        || Node::new(app.chain(DefaultTier::new()).value::<Theme>().resolution(Resolution::FirstHit).build().unwrap());
    let (first, second) = (start(), start());
    let mut browser = visitor(&first).await;
    app.pass(Duration::from_secs(1));
    set(&mut browser, &second, theme("newer")).await;
    let shown = report(&browser, &first).await;
    assert_eq!((&value(&shown, "theme")["value"], &shown["resolution"]), (&json!("light"), &json!("first_hit")));
    let row = &value(&shown, "theme")["tiers"][1];
    assert_eq!((&row["answer"], &row["why"]), (&json!("value"), &json!("has a newer copy, but memory comes first")));
    assert_ne!(row["version"], value(&shown, "theme")["tiers"][0]["version"]);
}

#[tokio::test]
async fn reported_token_length_is_exact() {
    let app = App::new();
    let node = app.start();
    let mut browser = Browser::new();
    let name = "session".len() + 1;
    for step in 0..6 {
        match step {
            0 => set(&mut browser, &node, theme("x")).await,
            1 => set(&mut browser, &node, theme(&"long".repeat(150))).await,
            2 => sign_in(&mut browser, &node, "ada").await,
            3 => set(&mut browser, &node, Division(3)).await,
            4 => browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await,
            _ => {
                let lifetime = layered_session::Lifetime::new(DAY, 9 * DAY).unwrap().until_browser_closes();
                browser.visit(&node, async move |session| session.set_lifetime(lifetime).await.unwrap()).await;
            }
        }
        let shown = report(&browser, &node).await;
        let sealed = browser.cookie("session").unwrap().len();
        assert_eq!(shown["token"]["bytes"], sealed, "step {step}");
        let attributes = "; HttpOnly; SameSite=Lax; Path=/; Max-Age=34560000".len();
        assert_eq!(shown["token"]["budget"], 3_000 - name - attributes);
        assert_eq!(shown["session"]["ends_with_browser"], step == 5);
        // The bytes of flags, length, name, version, length and JSON.
        let division = 2 + Division::NAME.len() + 8 + 2 + 1;
        assert_eq!(shown["token"]["principal"]["bytes"], if step < 3 { 0 } else { division });
    }
    let token = &report(&browser, &node).await["token"];
    assert_eq!(
        token["session"]["budget"].as_u64().map(|bytes| bytes / 2),
        token["principal"]["budget"].as_u64().map(|bytes| bytes / 2)
    );
}

#[tokio::test]
async fn report_works_without_memory() {
    let app = App::new();
    let node = Node::new(bare(&app.ring, &app.clock).value::<Theme>().build().unwrap());
    let mut browser = visitor(&node).await;
    let shown = report(&browser, &node).await;
    assert_eq!((&shown["chain"], &shown["session"]["in_step"]), (&json!(["cookie"]), &json!(true)));
    assert_eq!(tiers(&shown, "theme"), [["cookie", "value", "answers"]]);
    browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await;
    assert_eq!(
        tiers(&report(&browser, &node).await, "theme"),
        [
            ["cookie", "removed", "has the removal of this value: only a source or a default can answer"],
            ["default", "nothing", "no tier answers: the type's own default answers, if the type has a default"]
        ]
    );
}

#[tokio::test]
async fn reported_free_space_is_exact() {
    let app = App::new();
    let node = app.start();
    let json = |token: &Value, owner: &str| {
        let bytes = |key: &str| usize::try_from(token[owner][key].as_u64().unwrap()).unwrap();
        (bytes("json"), bytes("json_free"))
    };
    let nothing = report(&Browser::new(), &node).await["token"].clone();
    let mut browser = first_write(&node, theme("x")).await;
    let before = report(&browser, &node).await["token"].clone();
    let entry = 2 + Theme::NAME.len() + 8 + 2 + "\"x\"".len();
    assert_eq!(json(&nothing, "session"), (0, json(&before, "session").1 + entry));
    assert_eq!(json(&nothing, "principal"), json(&before, "principal"));

    sign_in(&mut browser, &node, "ada").await;
    set(&mut browser, &node, Division(3)).await;
    let token = report(&browser, &node).await["token"].clone();
    let (used, free) = json(&token, "session");
    // The identity value takes the room that the budget keeps free for an identity value.
    assert_eq!((used, free), ("\"x\"\"ada\"".len(), json(&before, "session").1));
    assert_eq!(json(&token, "principal").0, "3".len());
    let grow = async move |session: Session| {
        let grown = |by: usize| theme(&"x".repeat(1 + by));
        assert_eq!(kind(session.set(grown(free + 1)).await), Some(WriteErrorKind::TooLarge));
        session.set(grown(free)).await.unwrap();
    };
    browser.visit(&node, grow).await;
    assert_eq!(json(&report(&browser, &node).await["token"], "session"), (used + free, 0));
}
