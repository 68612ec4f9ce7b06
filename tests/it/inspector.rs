//! The inspector: what it shows of one's own session, as it changes, and what it never shows.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use layered_session::{
    Commit, Committed, CookieTier, DefaultTier, Found, InspectorBody, KeyRing, LayeredSessionLayer, Lookup, OwnerId,
    Placement, Principal, Resolution, Role, SessionInspector, SessionValue, SessionWriteback, Sessions, Tier,
    TierFuture, testing::SpyStore,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use tower::{Layer, ServiceExt};

use crate::{
    app::{App, set, sign_in, signed_in, socket, theme, told, visitor},
    trace::spellings,
    world::{Answer, Browser, DAY, Division, Node, NumberedTheme, Theme, Visits, id_of},
};

const HEARTBEAT: Duration = Duration::from_secs(15);
/// After a change it looks again for whether the browser has it by now.
const SETTLED: Duration = Duration::from_millis(250);

/// It is nowhere but in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(u32);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const PLACEMENT: Placement = Placement::Volatile;
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(60));
}

fn request(browser: &Browser, method: Method, path: &str) -> Request<Full<Bytes>> {
    browser.request_of_page(method, path, "")
}

async fn ask(node: &Node, request: Request<Full<Bytes>>) -> Response<InspectorBody> {
    let inspector = SessionInspector::new(&node.sessions);
    LayeredSessionLayer::new(node.sessions.clone()).layer(inspector).oneshot(request).await.unwrap()
}

/// An answer that is whole, and no stream, which would not end.
async fn refused(node: &Node, request: Request<Full<Bytes>>) -> Answer {
    let response = ask(node, request).await;
    assert_ne!(response.status(), StatusCode::OK);
    Answer::of(response).await
}

/// The inspector's page with its stream open.
struct Page {
    head: HeaderMap,
    stream: InspectorBody,
}

impl Page {
    async fn open(browser: &Browser, node: &Node) -> Self {
        let response = ask(node, request(browser, Method::GET, "/events")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let (head, stream) = response.into_parts();
        Self { head: head.headers, stream }
    }

    /// The same, past the first report.
    async fn opened(browser: &Browser, node: &Node) -> Self {
        let mut page = Self::open(browser, node).await;
        page.report();
        page
    }

    /// All that there is to read now.
    fn told(&mut self) -> String {
        told(&mut self.stream)
    }

    /// The same, by the events' names.
    fn events(&mut self) -> Vec<(String, Value)> {
        let told = self.told();
        let events = told.split_terminator("\n\n").filter(|event| *event != ":");
        let parse = |event: &str| {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            (name.to_owned(), serde_json::from_str(data).unwrap())
        };
        events.map(parse).collect()
    }

    /// The one event that there is to read, a report.
    fn report(&mut self) -> Value {
        match self.events().as_slice() {
            [(name, report)] if name == "report" => report.clone(),
            other => panic!("not one report: {other:?}"),
        }
    }

    /// The report and the changes that there are to read, without the time.
    fn changes(&mut self) -> (Value, Value) {
        match self.events().as_slice() {
            [(report, told), (changes, changed)] if report == "report" && changes == "changes" => {
                (told.clone(), changed["changes"].clone())
            }
            other => panic!("not a report and changes: {other:?}"),
        }
    }
}

async fn report(browser: &Browser, node: &Node) -> Value {
    Page::open(browser, node).await.report()
}

fn value<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["values"].as_array().unwrap().iter().find(|value| value["name"] == name).expect("a declared value")
}

/// What each tier says of a value: the answer and the reason.
fn tiers<'a>(report: &'a Value, name: &str) -> Vec<[&'a str; 3]> {
    let text = |row: &'a Value, field| row[field].as_str().unwrap();
    let rows = value(report, name)["tiers"].as_array().unwrap();
    rows.iter().map(|row| [text(row, "tier"), text(row, "answer"), text(row, "why")]).collect()
}

/// A node with a default for the theme.
fn node(app: &App) -> Node {
    let chain = app.chain(DefaultTier::new().value(theme("light")));
    Node::new(chain.value::<Theme>().value::<Division>().value::<Draft>().build().unwrap())
}

#[tokio::test]
async fn a_visitor_is_shown_what_answers_without_a_session_and_leaves_nothing() {
    let app = App::new();
    let node = node(&app);
    let mut page = Page::open(&Browser::new(), &node).await;
    let report = page.report();
    assert_eq!(report["session"], json!({ "state": "none", "signed_in": false }));
    assert_eq!(report["token"]["bytes"], 0);
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
    let own = "has no rule for it: the type's own default stands in, if it has one";
    assert_eq!(tiers(&report, "current_division_id")[2], ["default", "nothing", own]);
    for _ in 0..3 {
        app.pass(HEARTBEAT);
        assert_eq!(page.told(), ":\n\n");
    }
    assert_eq!((page.head.get(header::SET_COOKIE), node.sessions.stats().records), (None, 0));
}

#[tokio::test]
async fn each_tier_says_what_it_has_and_why_it_does_not_answer() {
    let app = App::new();
    let first = node(&app);
    let mut browser = Browser::new();
    set(&mut browser, &first, theme("dark")).await;
    set(&mut browser, &first, Draft(4)).await;
    let shown = report(&browser, &first).await;
    let stored = ["default", "value", "not asked: a stored tier answers"];
    assert_eq!(
        tiers(&shown, "theme"),
        [["memory", "value", "answers"], ["cookie", "value", "has the same copy"], stored]
    );
    let version = &value(&shown, "theme")["tiers"][0]["version"];
    assert_eq!(version, "1893456000000.0", "as a version prints");
    let draft = value(&shown, "draft");
    assert_eq!(
        (&draft["value"], &draft["placement"], &draft["max_age_ms"]),
        (&json!(4), &json!("volatile"), &json!(60_000))
    );
    assert_eq!(draft["expires"], shown["now"].as_u64().unwrap() + 60_000);
    assert_eq!(tiers(&shown, "draft")[1], ["cookie", "nothing", "never has it: it is placed in memory only"]);

    // After a restart only the cookie has it.
    let second = node(&app);
    let shown = report(&browser, &second).await;
    assert_eq!(
        (&value(&shown, "theme")["winner"], &value(&shown, "theme")["value"]),
        (&json!("cookie"), &json!("dark"))
    );
    assert_eq!(
        tiers(&shown, "theme"),
        [
            ["memory", "nothing", "had nothing newer: it has taken over the cookie's copy"],
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
            ["memory", "removed", "removed here: no stored tier answers"],
            ["cookie", "removed", "knows of the removal too"],
            ["default", "value", "answers, since no stored tier does"]
        ]
    );
}

#[tokio::test]
async fn a_copy_that_is_not_valid_is_said_to_be_and_undeclared_ones_are_counted_and_not_named() {
    let app = App::new();
    let browser = visitor(&app.node()).await;
    let other = Node::new(app.chain(DefaultTier::new()).value::<NumberedTheme>().build().unwrap());
    let shown = report(&browser, &other).await;
    assert_eq!(
        tiers(&shown, "theme"),
        [
            ["memory", "nothing", "had nothing newer: it has taken over the cookie's copy"],
            ["cookie", "not_valid", "passed over: its copy is not valid"],
            ["default", "nothing", "has no rule for it: the type's own default stands in, if it has one"]
        ]
    );
    assert_eq!((&value(&shown, "theme")["value"], &shown["undeclared"]), (&Value::Null, &json!(0)));

    let other = Node::new(app.chain(DefaultTier::new()).value::<Visits>().build().unwrap());
    let mut page = Page::open(&browser, &other).await;
    let told = page.told();
    assert!(told.contains("\"undeclared\":1") && !told.contains("theme") && !told.contains("light"), "{told}");
}

#[tokio::test]
async fn under_first_hit_the_cookies_newer_copy_is_shown_beside_the_one_that_answers() {
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
    assert_eq!((&row["answer"], &row["why"]), (&json!("value"), &json!("newer, but memory comes first")));
    assert_ne!(row["version"], value(&shown, "theme")["tiers"][0]["version"]);
}

#[tokio::test]
async fn each_change_is_shown_whoever_made_it() {
    let app = App::new();
    let node = node(&app);
    let mut browser = visitor(&node).await;
    let mut page = Page::opened(&browser, &node).await;
    set(&mut browser, &node, theme("dark")).await;
    let (report, changes) = page.changes();
    let row = |report: &Value, name: &str| value(report, name)["tiers"][0]["version"].clone();
    let set_to = json!({ "kind": "set", "name": "theme", "version": row(&report, "theme"), "origin": "fresh" });
    assert_eq!((&value(&report, "theme")["value"], changes), (&json!("dark"), json!([set_to])));
    app.pass(SETTLED);
    page.told();

    let live = socket(&browser, &node).await;
    live.remove::<Theme>().await.unwrap();
    let (report, changes) = page.changes();
    let removed = json!({ "kind": "removed", "name": "theme", "version": row(&report, "theme"), "origin": "fresh" });
    assert_eq!((&value(&report, "theme")["value"], changes), (&json!("light"), json!([removed])));
    live.set(Draft(1)).await.unwrap();
    page.told();
    app.pass(Duration::from_secs(60));
    let (report, changes) = page.changes();
    assert_eq!(
        (&value(&report, "draft")["value"], changes),
        (&Value::Null, json!([{ "kind": "expired", "name": "draft" }]))
    );

    live.set(Draft(2)).await.unwrap();
    page.told();
    live.clear().await.unwrap();
    let (_, changes) = page.changes();
    let kinds: Vec<_> = changes.as_array().unwrap().iter().map(|change| change["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["cleared", "removed"]);
    live.renew().await.unwrap();
    assert_eq!(page.told(), "event: closed\ndata: \"renewed\"\n\n");
    assert!(matches!(page.stream.frame().now_or_never(), Some(None)));
}

#[tokio::test]
async fn what_another_node_wrote_is_shown_as_carried() {
    let app = App::new();
    let (here, there) = (node(&app), node(&app));
    let mut browser = visitor(&here).await;
    let mut page = Page::opened(&browser, &here).await;
    app.pass(Duration::from_secs(1));
    set(&mut browser, &there, theme("theirs")).await;
    browser.visit(&here, async |session| session.get::<Theme>()).await;
    let (report, changes) = page.changes();
    assert_eq!((&value(&report, "theme")["value"], &changes[0]["origin"]), (&json!("theirs"), &json!("carried")));
}

#[tokio::test]
async fn it_says_whether_the_browser_has_it_and_brings_it_nothing_itself() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let mut page = Page::opened(&browser, &node).await;
    // By a request, whose response is sealed after the change was told.
    let mut page = browser
        .visit(&node, async move |session| {
            session.set(theme("dark")).await.unwrap();
            assert_eq!(page.changes().0["session"]["in_step"], false);
            page
        })
        .await;
    assert_eq!(page.told(), "");
    app.pass(SETTLED);
    assert_eq!(page.report()["session"]["in_step"], true);
    // On a socket, which has none.
    socket(&browser, &node).await.set(theme("blue")).await.unwrap();
    assert_eq!(page.changes().0["session"]["in_step"], false);
    app.pass(SETTLED);
    assert_eq!(page.told(), "");
    let mut other = Page::open(&browser, &node).await;
    assert_eq!((&other.report()["session"]["in_step"], other.head.get(header::SET_COOKIE)), (&json!(false), None));
    // Nothing rings for that: it is seen at the next heartbeat.
    browser.visit(&node, async |session| session.get::<Theme>()).await;
    app.pass(HEARTBEAT);
    assert_eq!(page.report()["session"]["in_step"], true);
}

#[tokio::test]
async fn an_open_inspector_does_not_keep_a_session_from_idling_out_and_sees_its_use_elsewhere() {
    let app = App::new();
    let node = app.node();
    let mut browser = visitor(&node).await;
    let mut page = Page::open(&browser, &node).await;
    let first = page.report();
    let ms = |report: &Value, field: &str| report["session"][field].as_u64().unwrap();
    let now = first["now"].as_u64().unwrap();
    let (idle, absolute) = (2 * DAY.as_millis() as u64, 30 * DAY.as_millis() as u64);
    assert_eq!([ms(&first, "created"), ms(&first, "expires"), ms(&first, "ends")], [now, now + idle, now + absolute]);
    for _ in 0..24 {
        app.pass(Duration::from_secs(3599));
        assert_eq!(page.told(), ":\n\n");
    }
    browser.visit(&node, async |session| session.get::<Theme>()).await;
    app.pass(HEARTBEAT);
    assert_eq!(ms(&page.report(), "expires"), now + 24 * 3_599_000 + idle);
    app.pass(DAY);
    page.told();
    app.pass(DAY);
    assert_eq!(page.told(), "event: closed\ndata: \"expired\"\n\n");
}

#[tokio::test]
async fn the_token_is_as_long_as_the_one_that_is_sealed() {
    let app = App::new();
    let node = app.node();
    let mut browser = Browser::new();
    let name = "session".len() + 1;
    for step in 0..6 {
        match step {
            0 => set(&mut browser, &node, theme("x")).await,
            1 => set(&mut browser, &node, theme(&"long".repeat(200))).await,
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
        assert_eq!(shown["token"]["budget"], 3_800 - name);
        assert_eq!(shown["session"]["ends_with_browser"], step == 5);
        // Flags, length, name, version, length, JSON.
        let division = 2 + Division::NAME.len() + 8 + 1 + 1;
        assert_eq!(shown["token"]["principal"]["bytes"], if step < 3 { 0 } else { division });
    }
    let token = &report(&browser, &node).await["token"];
    assert_eq!(
        token["session"]["budget"].as_u64().map(|bytes| bytes / 2),
        token["principal"]["budget"].as_u64().map(|bytes| bytes / 2)
    );
}

/// A store that notes whose records it is asked for.
#[derive(Clone, Debug, Default)]
struct Noting(SpyStore, Arc<Mutex<Vec<OwnerId>>>);

impl Tier for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        self.1.lock().unwrap().extend(lookup.owner());
        self.0.read(lookup)
    }

    fn write<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        self.1.lock().unwrap().push(commit.owner());
        self.0.write(commit)
    }
}

// R29, R32, R36.
#[tokio::test]
async fn it_shows_no_id_no_token_no_key_and_nothing_of_anybody_else() {
    let key: [u8; 32] = rand::random();
    let app = App { ring: KeyRing::new([key]).unwrap(), ..App::new() };
    let store = Noting::default();
    let node = app.node_with(|sessions| sessions.tier(store.clone()));
    let (mut ada, mut bob) = (Browser::new(), Browser::new());
    let (mut told, mut tokens, mut pages) = (String::new(), Vec::new(), Vec::new());
    for (browser, user, division, name) in
        [(&mut ada, "canary-ada", 1, "canary-a"), (&mut bob, "canary-bob", 5, "canary-b")]
    {
        sign_in(browser, &node, user).await;
        tokens.extend(browser.cookie("session").map(str::to_owned));
        pages.push(Page::open(browser, &node).await);
        set(browser, &node, Division(division)).await;
        set(browser, &node, theme(name)).await;
        tokens.extend(browser.cookie("session").map(str::to_owned));
    }
    let mut others = pages.pop().unwrap();
    let mut page = pages.pop().unwrap();
    for end in [0, 1] {
        told += &page.told();
        app.pass(HEARTBEAT);
        told += &page.told();
        node.sessions.of(Principal::new("canary-ada")).await.unwrap().set(Division(2 + end)).await.unwrap();
        node.sessions.of(Principal::new("canary-bob")).await.unwrap().set(Division(4)).await.unwrap();
        told += &page.told();
    }
    sign_in(&mut ada, &node, "canary-ada").await;
    tokens.extend(ada.cookie("session").map(str::to_owned));
    told += &page.told();
    told += &Page::open(&ada, &node).await.told();
    told +=
        &String::from_utf8(Answer::of(ask(&node, request(&ada, Method::GET, "/")).await).await.body.into()).unwrap();

    assert!(told.contains("canary-ada") && told.contains("canary-a\"") && told.contains("\"current_division_id\""));
    assert!(others.told().contains("canary-b\""));
    assert!(!told.contains("canary-b"), "another user's");
    let owners = store.1.lock().unwrap().clone();
    assert!(owners.len() > 8 && tokens.len() == 5);
    for token in &tokens {
        assert!(!told.contains(&token[..24]) && !told.contains(&token[60..84]), "a token");
        assert!(spellings(&id_of(token)).iter().all(|id| !told.contains(id)), "a session's id");
    }
    for owner in owners {
        assert!(spellings(owner.as_bytes()).iter().all(|id| !told.contains(id)), "an owner");
    }
    assert!(spellings(&key).iter().all(|key| !told.contains(key)), "a key");
    let shown = report(&ada, &node).await;
    assert_eq!(shown["chain"], json!(["memory", "cookie", "noting", "default"]));
    let asked = "asked when the session was loaded: what it had is in memory";
    assert_eq!(tiers(&shown, "theme")[2], ["noting", "not_asked", asked]);
}

#[tokio::test]
async fn only_who_is_signed_in_is_shown_and_not_as_whom() {
    let app = App::new();
    // Nobody's value names the user here.
    let node = Node::new(
        app.chain(DefaultTier::new()).value::<Division>().identify(|_| Some(Principal::new("canary"))).build().unwrap(),
    );
    let mut browser = Browser::new();
    set(&mut browser, &node, Division(2)).await;
    let told = Page::open(&browser, &node).await.told();
    assert!(told.contains("\"signed_in\":true") && !told.contains("canary"), "{told}");
    let ada = signed_in(&app.node(), "ada").await;
    assert_eq!(report(&ada, &app.node()).await["session"]["signed_in"], true);
}

// R24, R29.
#[tokio::test]
async fn only_a_get_of_a_page_of_the_same_origin_opens_the_stream() {
    let node = App::new().node();
    let browser = visitor(&node).await;
    for path in ["/events", "/?events"] {
        for site in ["cross-site", "same-site", "none", ""] {
            let mut request = request(&browser, Method::GET, path);
            request.headers_mut().insert("sec-fetch-site", site.parse().unwrap());
            if site.is_empty() {
                request.headers_mut().remove("sec-fetch-site");
            }
            let answer = refused(&node, request).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "cross_site"), "{site}");
        }
        for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
            let answer = refused(&node, request(&browser, method, path)).await;
            let allow = &answer.headers[header::ALLOW];
            assert_eq!((answer.status, allow.to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, "GET"));
        }
    }
    let bare = SessionInspector::new(&node.sessions).oneshot(request(&browser, Method::GET, "/events")).await.unwrap();
    assert_eq!(
        (bare.status(), Answer::of(bare).await.code().as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "no_layer")
    );
    let page = Page::open(&browser, &node).await;
    assert_eq!(page.head[header::CONTENT_TYPE], "text/event-stream");
    assert!(page.head[header::CACHE_CONTROL].to_str().unwrap().contains("no-store"));
    assert_eq!(page.head[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
}

// R29.
#[tokio::test]
async fn a_session_that_has_ended_gets_no_stream() {
    let app = App::new();
    let node = app.node();
    let browser = visitor(&node).await;
    socket(&browser, &node).await.destroy().await.unwrap();
    let answer = refused(&node, request(&browser, Method::GET, "/events")).await;
    assert_eq!((answer.status, answer.body.len(), answer.set_cookies()), (StatusCode::NO_CONTENT, 0, vec![]));
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    app.pass(Duration::from_secs(60));
    assert_eq!(report(&browser, &node).await["session"]["state"], "none");
}

#[tokio::test]
async fn without_memory_the_report_is_the_requests_own() {
    let app = App::new();
    let cookie = CookieTier::sealed(app.ring.clone()).name("session").plain_http();
    let sessions = Sessions::builder().tier(cookie).value::<Theme>().clock(app.clock.clone()).build().unwrap();
    let node = Node::new(sessions);
    let mut browser = visitor(&node).await;
    let shown = report(&browser, &node).await;
    assert_eq!((&shown["chain"], &shown["session"]["in_step"]), (&json!(["cookie"]), &json!(true)));
    assert_eq!(tiers(&shown, "theme"), [["cookie", "value", "answers"]]);
    browser.visit(&node, async |session| session.remove::<Theme>().await.unwrap()).await;
    assert_eq!(
        tiers(&report(&browser, &node).await, "theme"),
        [
            ["cookie", "removed", "removed here: no stored tier answers"],
            ["default", "nothing", "no tier answers: the type's own default stands in, if it has one"]
        ]
    );
}

/// Whatever a page is served under, what it refers to is there too.
#[tokio::test]
async fn the_page_finds_its_parts_under_any_mount_with_and_without_a_slash() {
    let node = App::new().node();
    let sessions = || node.sessions.clone();
    let inspector = || SessionInspector::new(&node.sessions);
    let nested = Router::new().nest_service("/inspector", inspector());
    let deep = Router::new().nest("/debug", nested.clone());
    let routed = Router::new().route_service("/inspector", inspector().at("/inspector"));
    let whole = Router::new().fallback_service(inspector().at("/inspector/"));
    for (app, paths) in [
        (nested, &["/inspector", "/inspector/"][..]),
        (deep, &["/debug/inspector", "/debug/inspector/"]),
        (routed, &["/inspector"]),
        (whole, &["/inspector", "/inspector/"]),
    ] {
        let app = app.layer(LayeredSessionLayer::new(sessions()));
        let get = async |url: &str| {
            let request = Request::get(url).header("sec-fetch-site", "same-origin");
            app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap()
        };
        for path in paths {
            let page = get(path).await;
            let kind = |response: &Response<axum::body::Body>| {
                assert_eq!(response.status(), StatusCode::OK, "{path}");
                response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
            };
            assert_eq!(kind(&page), "text/html; charset=utf-8");
            let html = page.into_body().collect().await.unwrap().to_bytes();
            let html = std::str::from_utf8(&html).unwrap();
            let base = url::Url::parse("http://app.example").unwrap().join(path).unwrap();
            let references = ["href=\"", "src=\""].map(|attribute| html.split(attribute).skip(1)).into_iter().flatten();
            let mut found = Vec::new();
            for reference in references.map(|rest| rest.split_once('"').unwrap().0).chain(["?events"]) {
                let url = base.join(reference).unwrap();
                found.push(kind(&get(&url[url::Position::BeforePath..]).await));
            }
            found.sort_unstable();
            found.dedup();
            let kinds =
                ["image/svg+xml", "text/css; charset=utf-8", "text/event-stream", "text/javascript; charset=utf-8"];
            assert_eq!(found, kinds);
        }
    }
}

#[tokio::test]
async fn the_page_may_load_nothing_but_its_own_and_parts_are_asked_for_again_only_once_they_change() {
    let node = App::new().node();
    let browser = Browser::new();
    for path in ["/", "/?utm=1", "/page.js", "/page.css", "/icon.svg", "/?page.js"] {
        let answer = Answer::of(ask(&node, request(&browser, Method::GET, path)).await).await;
        assert_eq!(
            (answer.status, &answer.headers["x-content-type-options"]),
            (StatusCode::OK, &"nosniff".parse().unwrap())
        );
        assert!(answer.headers.get(header::VARY).is_none(), "it depends on nobody");
        let policy = answer.headers.get(header::CONTENT_SECURITY_POLICY).map(|policy| policy.to_str().unwrap());
        if answer.headers[header::CONTENT_TYPE] == "text/html; charset=utf-8" {
            let policy = policy.unwrap();
            assert!(policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"));
            assert!(!policy.contains("unsafe") && !policy.contains('*'));
        }
        let mut again = request(&browser, Method::GET, path);
        again.headers_mut().insert(header::IF_NONE_MATCH, answer.headers[header::ETAG].clone());
        let again = Answer::of(ask(&node, again).await).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
        let head = Answer::of(ask(&node, request(&browser, Method::HEAD, path)).await).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        let post = Answer::of(ask(&node, request(&browser, Method::POST, path)).await).await;
        assert_eq!(
            (post.status, &post.headers[header::ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD".parse().unwrap())
        );
    }
    for path in ["/other", "/events/", "/page.html", "//"] {
        let answer = Answer::of(ask(&node, request(&browser, Method::GET, path)).await).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "not_found"), "{path}");
    }
}

/// JSON as somebody laid it out.
#[derive(Debug, Serialize, Deserialize)]
struct Layout(Box<RawValue>);

impl SessionValue for Layout {
    const NAME: &'static str = "layout";
}

#[tokio::test]
async fn no_value_can_break_out_of_its_event() {
    let app = App::new();
    let node = Node::new(app.chain(DefaultTier::new()).value::<Layout>().build().unwrap());
    let mut browser = Browser::new();
    let laid = || Layout(serde_json::from_str("[1,\n\n\r\"event: closed\\n\"]").unwrap());
    set(&mut browser, &node, laid()).await;
    assert_eq!(value(&report(&browser, &node).await, "layout")["value"], json!([1, "event: closed\n"]));
    let writeback = SessionWriteback::new(&node.sessions).expose::<Layout>().unwrap();
    let mut stream = node.stream(writeback, request(&browser, Method::GET, "/events")).await.into_body();
    let frame = stream.frame().now_or_never().unwrap().unwrap().unwrap();
    let told = std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    assert_eq!((told.matches('\n').count(), told.matches('\r').count()), (3, 0), "{told}");
}

/// It reads no request's body, so that may be anything.
#[tokio::test]
async fn it_takes_any_body() {
    let inspector = SessionInspector::new(&App::new().node().sessions);
    let response = inspector.oneshot(Request::get("/").body(std::rc::Rc::new(())).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}
