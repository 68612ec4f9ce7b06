//! The order of the tiers: the tier that answers. An old or expired copy never answers.

use std::time::Duration;

use layered_session::{CookieTier, DefaultTier, Resolution, Session, SessionValue, testing::ManualClock};
use serde::{Deserialize, Serialize};

use crate::support::{
    App, Browser, DAY, Division, Node, TICK, Theme, Visits, at_once, builder, carried, chain, cookie, first_write, get,
    memory, memory_of, ring, seen, set, sign_in, signed_in, socket, theme, visitor,
};

/// A value that ends 31 days after the last write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(String);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(31 * 86_400));
}

/// A node with drafts. The node's sessions outlive the drafts.
fn drafting(app: &App, resolution: Resolution) -> Node {
    let chain = app.chain(DefaultTier::new().value(Draft("blank".into()))).value::<Draft>().value::<Theme>();
    Node::new(chain.resolution(resolution).idle(60 * DAY).absolute(365 * DAY).build().unwrap())
}

// G2: under `Newest` the newer cookie answers, under `FirstHit` the copy in memory. Under both the cookie keeps the
// newer copy.
#[tokio::test]
async fn newest_copy_answers_unless_first_hit() {
    for (resolution, expected) in
        [(Resolution::Newest, (Division(2), "cookie")), (Resolution::FirstHit, (Division(1), "memory"))]
    {
        let app = App::new();
        let (elsewhere, node) = (app.start(), app.start_with(|sessions| sessions.resolution(resolution)));
        let mut browser = signed_in(&elsewhere, "ada").await;
        set(&mut browser, &elsewhere, Division(1)).await;
        get::<Division>(&mut browser, &node).await;
        set(&mut browser, &elsewhere, Division(2)).await;
        assert_eq!(seen(&mut browser, &node).await, expected);
        assert_eq!(carried::<Division>(&browser, &app).await, Division(2), "the older copy replaced the newer copy");
        for visits in [1, 2] {
            set(&mut browser, &node, Visits(visits)).await;
            assert_eq!(carried::<Visits>(&browser, &app).await, Visits(visits));
            assert_eq!(
                carried::<Division>(&browser, &app).await,
                Division(2),
                "a write of another value lost the newer copy"
            );
        }
    }
}

// G2: under `FirstHit` a write beats the newer copies in the cookie that memory hides.
#[tokio::test]
async fn write_beats_hidden_newer_cookie() {
    let app = App::new();
    let (elsewhere, node) = (app.start(), app.start_with(|sessions| sessions.resolution(Resolution::FirstHit)));
    let mut browser = visitor(&elsewhere).await;
    get::<Theme>(&mut browser, &node).await;
    for name in ["a", "b", "c"] {
        set(&mut browser, &elsewhere, theme(name)).await;
    }
    set(&mut browser, &node, theme("mine")).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("mine"));
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("mine"));
}

#[tokio::test]
async fn first_hit_write_beats_newer_cookie() {
    let (ring, ahead, clock) = (ring(), ManualClock::new(), ManualClock::new());
    ahead.advance(Duration::from_secs(300));
    let node = |clock| Node::new(builder(&ring, clock).resolution(Resolution::FirstHit).build().unwrap());
    let (first, second) = (node(&ahead), node(&clock));
    let mut browser = first_write(&second, Theme("old".into())).await;
    browser.visit(&first, async |s| s.set(Theme("newer".into())).await.unwrap()).await;
    browser.visit(&second, async |s| s.set(Theme("last".into())).await.unwrap()).await;
    assert_eq!(browser.visit(&node(&clock), async |s| s.value::<Theme>()).await, Theme("last".into()));
}

// G2: the cookie answers before the default after a restart, and the default answers after a removal.
#[tokio::test]
async fn cookie_answers_before_default() {
    let app = App::new();
    let node = || Node::new(app.chain(DefaultTier::new().value(theme("light"))).value::<Theme>().build().unwrap());
    let (first, restarted) = (node(), node());
    let mut browser = Browser::new();
    assert_eq!(seen(&mut browser, &first).await, (theme("light"), "default"));
    set(&mut browser, &first, theme("dark")).await;
    assert_eq!(seen(&mut browser, &first).await, (theme("dark"), "memory"));
    assert_eq!(seen(&mut browser, &restarted).await, (theme("dark"), "cookie"));
    assert_eq!(seen(&mut browser, &restarted).await, (theme("dark"), "memory"));
    browser.visit(&restarted, async |session| session.remove::<Theme>().await.unwrap()).await;
    assert_eq!(seen(&mut browser, &restarted).await, (theme("light"), "default"));
    assert_eq!(seen(&mut browser, &node()).await, (theme("light"), "default"));
}

// G2: after a restart a socket reads and watches the copy in the cookie of its handshake.
#[tokio::test]
async fn socket_reads_cookie_after_restart() {
    let app = App::new();
    let mut browser = signed_in(&app.start(), "ada").await;
    set(&mut browser, &app.start(), Division(2)).await;
    let live = socket(&browser, &app.start()).await;
    assert_eq!((live.value::<Division>(), live.value_source::<Division>().tier()), (Division(2), "cookie"));
    assert_eq!(at_once(live.watch::<Division>().next()), Some(Some(Division(2))));
}

#[tokio::test]
async fn value_survives_reload_and_deploy() {
    let app = App::new();
    let mut node = app.start();
    let mut browser = visitor(&node).await;
    set(&mut browser, &node, theme("dark")).await;
    for _ in 0..3 {
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"), "a reload");
        app.pass(DAY);
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"), "a visit a day later");
        node = app.start();
        assert_eq!(get::<Theme>(&mut browser, &node).await, theme("dark"), "a deploy");
    }
}

// G3: the copies in memory and in the cookie expire together, 31 days after the write. The session lives on.
#[tokio::test]
async fn max_age_ends_both_copies() {
    let app = App::new();
    let node = drafting(&app, Resolution::Newest);
    let restarted = || drafting(&app, Resolution::Newest);
    let mut browser = visitor(&node).await;
    set(&mut browser, &node, Draft("mine".into())).await;
    app.pass(31 * DAY - Duration::from_millis(1));
    assert_eq!(get::<Draft>(&mut browser, &restarted()).await, Draft("mine".into()));
    assert_eq!(get::<Draft>(&mut browser, &node).await, Draft("mine".into()));
    app.pass(Duration::from_millis(1));
    assert_eq!(seen(&mut browser.clone(), &restarted()).await, (Draft("blank".into()), "default"));
    assert_eq!(seen(&mut browser, &node).await, (Draft("blank".into()), "default"));
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"));
}

// G1, G3: under `FirstHit` an expired copy in memory does not hide the living copy in the cookie.
#[tokio::test]
async fn expired_memory_copy_hides_no_cookie() {
    let app = App::new();
    let (elsewhere, node) = (drafting(&app, Resolution::Newest), drafting(&app, Resolution::FirstHit));
    let mut browser = first_write(&elsewhere, Draft("old".into())).await;
    get::<Draft>(&mut browser, &node).await;
    app.pass(20 * DAY);
    set(&mut browser, &elsewhere, Draft("new".into())).await;
    assert_eq!(seen(&mut browser, &node).await, (Draft("old".into()), "memory"));
    app.pass(11 * DAY);
    assert_eq!(seen(&mut browser, &node).await, (Draft("new".into()), "cookie"));
    app.pass(20 * DAY);
    assert_eq!(seen(&mut browser, &node).await, (Draft("blank".into()), "default"));
}

// G5: a cookie with a later use on another node keeps the session alive on this node.
#[tokio::test]
async fn use_elsewhere_keeps_session_alive() {
    let app = App::new();
    let (elsewhere, node) = (app.start(), app.start());
    let mut browser = visitor(&node).await;
    app.pass(36 * Duration::from_secs(3600));
    set(&mut browser, &elsewhere, Visits(1)).await;
    app.pass(36 * Duration::from_secs(3600));
    let both = async |session: Session| (session.value::<Theme>(), session.value::<Visits>());
    assert_eq!(browser.visit(&node, both).await, (theme("light"), Visits(1)));
}

// G3: the copy in the cookie answers after memory has evicted the record.
#[tokio::test]
async fn cookie_restores_evicted_value() {
    let app = App::new();
    let chain = chain(memory_of(4096), cookie(&app.ring), &app.clock);
    let node = Node::new(chain.value::<Theme>().build().unwrap());
    let mut browser = visitor(&node).await;
    // The record was used longest ago, so these visits make memory evict the record.
    app.pass(Duration::from_secs(1));
    for _ in 0..64 {
        get::<Theme>(&mut visitor(&node).await, &node).await;
    }
    assert!(node.sessions.stats().evicted_clean > 0);
    assert_eq!(seen(&mut browser, &node).await, (theme("light"), "cookie"));
}

#[tokio::test]
async fn overfull_cookie_drops_oldest_value() {
    const NAME: &str = "__Host-session";
    let app = App::new();
    let node = || {
        let cookie = CookieTier::sealed(app.ring.clone()).max_bytes(3_800);
        let chain = chain(memory(), cookie, &app.clock).value::<Draft>().value::<Theme>().value::<Visits>();
        Node::new(chain.build().unwrap())
    };
    let (one, other) = (node(), node());
    let mut browser = first_write(&one, Visits(7)).await;
    let before = browser.cookie(NAME).unwrap().to_owned();
    set(&mut browser, &one, Draft("d".repeat(2000))).await;
    let drafted = browser.cookie(NAME).unwrap().to_owned();
    app.pass(Duration::from_secs(1));
    browser.set(NAME, &before);
    set(&mut browser, &other, theme(&"t".repeat(2000))).await;
    app.pass(Duration::from_secs(1));
    set(&mut browser, &other, Visits(8)).await;
    browser.set(NAME, &drafted);
    assert_eq!(get::<Draft>(&mut browser, &other).await.0.len(), 2000);
    assert_ne!(browser.cookie(NAME), Some(&*drafted), "a response brings what the browser lacks");
    let cold = node();
    assert_eq!(get::<Visits>(&mut browser, &cold).await, Visits(8));
    assert_eq!(get::<Theme>(&mut browser, &cold).await, theme(&"t".repeat(2000)));
    assert_eq!(get::<Draft>(&mut browser, &cold).await, Draft::default());
    assert_eq!(get::<Draft>(&mut browser, &other).await.0.len(), 2000, "memory keeps the draft");
}

/// A node with room for a few sessions. Memory evicts a session last if the session has a change that no browser has.
#[tokio::test]
async fn dropped_cookie_value_stays_in_memory() {
    const NAME: &str = "session";
    let app = App::new();
    let node = |bytes| {
        let chain = chain(memory_of(bytes), cookie(&app.ring).max_bytes(3_800), &app.clock);
        Node::new(chain.value::<Draft>().value::<Theme>().value::<Visits>().build().unwrap())
    };
    let (elsewhere, tight) = (node(1 << 20), node(16 << 10));
    let mut browser = first_write(&elsewhere, Visits(7)).await;
    let before = browser.cookie(NAME).unwrap().to_owned();
    set(&mut browser, &tight, Draft("d".repeat(2000))).await;
    let drafted = browser.cookie(NAME).unwrap().to_owned();
    app.pass(Duration::from_secs(1));
    browser.set(NAME, &before);
    set(&mut browser, &elsewhere, theme(&"t".repeat(2000))).await;
    assert_ne!(browser.cookie(NAME), Some(&*drafted));
    assert_eq!(get::<Draft>(&mut browser, &tight).await.0.len(), 2000);
    app.pass(Duration::from_secs(1));
    for _ in 0..256 {
        set(&mut Browser::new(), &tight, Visits(1)).await;
    }
    let stats = tight.sessions.stats();
    assert!(stats.evicted_clean > 0, "{stats:?}");
    assert_eq!(get::<Draft>(&mut browser, &tight).await.0.len(), 2000, "{stats:?}");
}

// G2, G7: the copy that memory hides belongs to the user's record, from whichever browser the copy comes.
#[tokio::test]
async fn hidden_newer_copy_belongs_to_its_user() {
    let app = App::new();
    let (elsewhere, node) = (app.start(), app.start_with(|sessions| sessions.resolution(Resolution::FirstHit)));
    let [mut first, mut second] = [signed_in(&elsewhere, "ada").await, signed_in(&node, "ada").await];
    let mut other = signed_in(&node, "bob").await;
    set(&mut first, &elsewhere, Division(1)).await;
    get::<Division>(&mut first, &node).await;
    app.pass(TICK);
    set(&mut first, &elsewhere, Division(2)).await;
    for browser in [&mut first, &mut second] {
        assert_eq!(get::<Division>(browser, &node).await, Division(1), "memory answers");
        assert_eq!(carried::<Division>(browser, &app).await, Division(2));
    }
    get::<Division>(&mut other, &node).await;
    sign_in(&mut first, &node, "bob").await;
    for browser in [&first, &other] {
        assert_eq!(carried::<Division>(browser, &app).await, Division(-1));
    }
}

// G2: under `FirstHit` a renewal keeps the newer copy in the cookie, although memory's older copy answers.
#[tokio::test]
async fn hidden_newer_copy_survives_renewal() {
    let app = App::new();
    let (elsewhere, node) = (app.start(), app.start_with(|sessions| sessions.resolution(Resolution::FirstHit)));
    let mut browser = visitor(&elsewhere).await;
    get::<Theme>(&mut browser, &node).await;
    app.pass(TICK);
    set(&mut browser, &elsewhere, theme("newer")).await;
    browser.visit(&node, async |session| session.renew().await.unwrap()).await;
    assert_eq!(get::<Theme>(&mut browser, &node).await, theme("light"), "memory answers");
    assert_eq!(carried::<Theme>(&browser, &app).await, theme("newer"));
}

#[tokio::test]
async fn sign_in_drops_hidden_anonymous_choice() {
    let app = App::new();
    let (elsewhere, node) = (app.start(), app.start_with(|sessions| sessions.resolution(Resolution::FirstHit)));
    let mut browser = first_write(&node, Division(1)).await;
    app.pass(TICK);
    set(&mut browser, &elsewhere, Division(2)).await;
    assert_eq!(get::<Division>(&mut browser.clone(), &node).await, Division(1), "memory answers");
    sign_in(&mut browser, &node, "ada").await;
    // A chain without users shows all values of the cookie.
    let blind = Node::new(app.chain(DefaultTier::new()).value::<Division>().build().unwrap());
    assert_eq!(get::<Division>(&mut browser, &blind).await, Division(-1));
}

#[tokio::test]
async fn explanation_is_one_log_line() {
    let node = App::new().node;
    let mut browser = visitor(&node).await;
    let explained = browser.visit(&node, async |session| session.explain::<Theme>().to_string()).await;
    let (memory, rest) = explained.split_once("; ").unwrap();
    let version = memory.strip_prefix("memory: value ").expect(&explained);
    assert!(version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{version}");
    assert_eq!(rest, "cookie: nothing; default: nothing; answer: memory");
    assert!(!explained.contains("light"), "no value");
    let nothing = Browser::new().visit(&node, async |session| session.explain::<Theme>().to_string()).await;
    assert_eq!(nothing, "memory: nothing; cookie: nothing; default: nothing; answer: default");
}
