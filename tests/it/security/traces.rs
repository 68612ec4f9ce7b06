//! Requests that each cause a trace: the layer writes one line a minute, with the number of lines left out. Bad tokens
//! cause no trace; counters report them.

use std::time::Duration;

use http::{Extensions, Method};
use layered_session::{
    Clock, DefaultTier, MissingSessionKind, Session, SessionValue,
    tier::{BoxError, Found, TierFuture},
};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, Node, Theme, Trace, Visits, bring, chain, cookie, first_write, get, memory, set, socket, source,
    theme, visitor,
};

/// A text of the client that `validate` quotes.
const SECRET: &str = "hunter2";

fn short(text: &str) -> Result<(), BoxError> {
    if text.len() == 2 { Ok(()) } else { Err(format!("too long: {text}").into()) }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Lang(String);

impl SessionValue for Lang {
    const NAME: &'static str = "lang";

    fn validate(&self) -> Result<(), BoxError> {
        short(&self.0)
    }
}

/// A later build's type for [`Theme`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct ShortTheme(String);

impl SessionValue for ShortTheme {
    const NAME: &'static str = Theme::NAME;

    fn validate(&self) -> Result<(), BoxError> {
        short(&self.0)
    }
}

fn assert_told(trace: &Trace, told: &[usize]) {
    let text = trace.text();
    let told_of: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(told_of.len(), told.len(), "{told_of:#?}");
    for (line, left_out) in told_of.iter().zip(told) {
        assert!(line.contains(&format!("left_out={left_out}")), "{line} lacks left_out={left_out}");
        assert!(!line.contains(SECRET), "{line} quotes the client");
    }
}

#[tokio::test]
async fn invalid_default_trace_is_limited() {
    let app = App::new();
    let (trace, _guard) = Trace::begin();
    let lang = |head: &http::request::Parts| head.headers["accept-language"].to_str().unwrap().to_owned();
    let defaults = DefaultTier::new().with(move |head| Lang(lang(head))).with(move |head| ShortTheme(lang(head)));
    let node = Node::new(app.chain(defaults).value::<Lang>().value::<ShortTheme>().build().unwrap());
    let flood = async || {
        for _ in 0..50 {
            let mut request = Browser::new().request_of(Method::GET, "/", "");
            request.headers_mut().insert("accept-language", SECRET.parse().unwrap());
            node.handle(request, async |_| Default::default()).await.1
        }
    };
    flood().await;
    assert_told(&trace, &[0, 0]);
    app.pass(Duration::from_secs(60));
    flood().await;
    assert_told(&trace, &[0, 0, 49, 49]);
    assert!(trace.lines_with("DEBUG") > 0 && trace.lines_with(SECRET) == trace.lines_with("too long"));
}

#[tokio::test]
async fn unreadable_copy_trace_is_limited() {
    let app = App::new();
    let after = Node::new(app.chain(DefaultTier::new()).value::<ShortTheme>().build().unwrap());
    let mut browser = first_write(&app.start(), theme(SECRET)).await;
    let (trace, _guard) = Trace::begin();
    for told in [[0].as_slice(), &[0, 49]] {
        for _ in 0..50 {
            get::<ShortTheme>(&mut browser, &after).await;
        }
        assert_told(&trace, told);
        app.pass(Duration::from_secs(60));
    }
}

#[tokio::test]
async fn omitted_value_trace_is_limited() {
    let app = App::new();
    let node = || {
        let chain = chain(memory(), cookie(&app.ring).max_bytes(3_800), &app.clock);
        Node::new(chain.value::<Theme>().value::<Visits>().value::<Draft>().build().unwrap())
    };
    let (one, two) = (node(), node());
    let mut browser = first_write(&one, Visits(1)).await;
    let mut fork = browser.clone();
    set(&mut browser, &one, theme(&"x".repeat(2_000))).await;
    app.pass(Duration::from_secs(1));
    set(&mut fork, &two, Draft("y".repeat(2_000))).await;
    let (trace, _guard) = Trace::begin();
    // Each cookie leaves out two values, the visits and the theme.
    for told in [[0].as_slice(), &[0, 99]] {
        for _ in 0..50 {
            get::<Visits>(&mut fork.clone(), &one).await;
        }
        assert_told(&trace, told);
        app.pass(Duration::from_secs(60));
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(String);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
}

#[tokio::test]
async fn missing_preload_trace_is_limited() {
    let app = App::new();
    let (trace, _guard) = Trace::begin();
    // A source that does not answer at its first poll.
    let later = source("later", |_| {
        TierFuture::boxed(async {
            tokio::task::yield_now().await;
            Ok(Found::nothing())
        })
    });
    let node = Node::new(app.chain(DefaultTier::new()).resolve::<Theme>().tier(later).build().unwrap());
    for told in [[0].as_slice(), &[0, 49]] {
        for _ in 0..50 {
            get::<Theme>(&mut Browser::new(), &node).await;
        }
        assert_told(&trace, told);
        app.pass(Duration::from_secs(60));
    }
}

#[tokio::test]
async fn undeclared_read_trace_is_limited() {
    let app = App::new();
    let (trace, _guard) = Trace::begin();
    let node = Node::new(app.chain(DefaultTier::new()).value::<Theme>().build().unwrap());
    for told in [[0].as_slice(), &[0, 49]] {
        for _ in 0..50 {
            get::<Visits>(&mut Browser::new(), &node).await;
        }
        assert_told(&trace, told);
        app.pass(Duration::from_secs(60));
    }
}

#[tokio::test]
async fn undeclared_access_is_traced() {
    let app = App::new();
    let node = Node::new(app.chain(DefaultTier::new()).value::<Theme>().build().unwrap());
    let looks: [fn(&Session); 4] = [
        |session| assert_eq!(session.get::<Visits>(), None),
        |session| drop(session.watch::<Visits>()),
        |session| drop(session.explain::<Visits>()),
        |session| assert_eq!(session.value_source::<Visits>().tier(), "default"),
    ];
    for (number, look) in looks.into_iter().enumerate() {
        let (trace, _guard) = Trace::begin();
        Browser::new().visit(&node, async move |session| (look(&session), look(&session))).await;
        assert_eq!(
            trace.lines_with("a value that is not declared: add `.value::<..>()` to `Sessions::builder()`"),
            1,
            "look {number}: {}",
            trace.text()
        );
        assert_eq!(trace.lines_with("name=\"visits\""), 1, "{}", trace.text());
        app.pass(Duration::from_secs(60));
    }
}

#[tokio::test]
async fn missing_layer_is_traced_and_counted() {
    let app = App::new();
    let node = app.start();
    let (trace, _guard) = Trace::begin();
    for _ in 0..3 {
        let missing = node.sessions.load(&Extensions::new()).await.unwrap_err();
        assert_eq!(missing.kind(), MissingSessionKind::NoLayer);
    }
    assert_eq!(trace.lines_with("ERROR"), 1, "{}", trace.text());
    assert_eq!(node.sessions.stats().missing_layers, 3);
    // A request without a layer has no chain, so all threads share one limit of this trace: another test may have
    // written the line within this second.
    for _ in 0..200 {
        if trace.lines_with("LayeredSessionLayer") > 1 {
            break;
        }
        assert!(Session::load(&Extensions::new()).await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(trace.lines_with("LayeredSessionLayer"), 2);
}

#[tokio::test]
async fn bad_tokens_are_only_counted() {
    let app = App::new();
    let node = app.start();
    let browser = visitor(&node).await;
    let live = socket(&browser, &node).await;
    live.set(theme("dark")).await.unwrap();
    let token = live.relay().unwrap().to_string();
    let stats = || (node.sessions.stats().foreign_tokens, node.sessions.stats().refused_tokens);
    let (trace, _guard) = Trace::begin();
    let mut foreign = Browser::new();
    foreign.set("session", "made-up");
    get::<Theme>(&mut foreign, &node).await;
    assert_eq!(stats(), (1, 0));
    bring(&mut Browser::new(), &node, "r.made-up").await;
    assert_eq!(stats(), (2, 0));
    let mut other = visitor(&node).await;
    assert_eq!(bring(&mut other, &node, &token).await.code(), "relay_other_session");
    assert_eq!(stats(), (2, 1));
    let mut both = Browser::new();
    both.set(
        "session",
        &format!("{}; session={}", browser.cookie("session").unwrap(), other.cookie("session").unwrap()),
    );
    get::<Theme>(&mut both, &node).await;
    assert_eq!(stats(), (2, 2));
    // The token was sealed further ahead than the allowed clock skew.
    app.clock.set(app.clock.now() - Duration::from_secs(7200));
    get::<Theme>(&mut browser.clone(), &app.start()).await;
    for level in ["WARN", "ERROR"] {
        let clock = |line: &&str| !line.contains("clock was set back");
        let lines: Vec<_> = trace.text().lines().map(str::to_owned).collect();
        assert_eq!(lines.iter().map(String::as_str).filter(clock).filter(|line| line.contains(level)).count(), 0);
    }
}
