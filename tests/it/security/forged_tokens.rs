//! Cookies, relay tokens, birth tokens and turn tokens that are forged, swapped, replayed or late, in any order and at
//! any node.
//!
//! `TOKEN_CASES=20000 cargo test --release --all-features --test it forged_tokens::no_token` runs more programs.

use http::StatusCode;
use layered_session::Session;
use proptest::{collection::vec, prelude::*, sample::Index};
use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use crate::support::{
    App, Browser, Cluster, Division, Node, PURPOSES, STEP, Tally, Theme, User, Visits, at_once, bring, forge, parts,
    signed_in, socket, under_way, visitor,
};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn theme(length: u8) -> Theme {
    Theme("x".repeat(length.into()))
}

/// The state in which a page opened its socket.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    Visitor,
    User,
    /// Without a cookie: the socket's own write begins the session.
    Newcomer,
    /// Without a cookie: a request signs in, and the response has not left yet.
    NewUser,
}

/// Returns a browser, and the handle of a page's socket in the browser.
async fn page(beginning: Beginning, node: &Node) -> (Browser, Session) {
    let browser = match beginning {
        Beginning::Visitor => visitor(node).await,
        Beginning::User => signed_in(node, "ada").await,
        Beginning::Newcomer | Beginning::NewUser => Browser::new(),
    };
    let live = match beginning {
        Beginning::NewUser => under_way(&browser, node).await,
        _ => socket(&browser, node).await,
    };
    match beginning {
        Beginning::Newcomer => live.set(theme(1)).await.unwrap(),
        Beginning::NewUser => live.sign_in(User("ada".into())).await.unwrap(),
        _ => {}
    }
    (browser, live)
}

/// All declared values.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    theme: Option<Theme>,
    visits: Option<Visits>,
    division: Option<Division>,
    user: Option<User>,
}

fn held(session: &Session) -> Held {
    Held { theme: session.get(), visits: session.get(), division: session.get(), user: session.get() }
}

/// The state of a browser: the values that the next request would read, and the browser's cookie.
#[derive(Debug, PartialEq)]
struct Seen {
    held: Held,
    lives: Option<(SystemTime, SystemTime)>,
    cookie: Option<String>,
    records: usize,
}

async fn seen(browser: &Browser, node: &Node) -> Seen {
    let lives = async |session: Session| (held(&session), session.created_at().zip(session.expires_at()));
    let (held, lives) = browser.clone().visit(node, lives).await;
    let cookie = browser.cookie("session").map(str::to_owned);
    Seen { held, lives, cookie, records: node.sessions.stats().records }
}

/// Ends a session on a socket. Returns the cookie removal, and the browser that still holds the cookie.
async fn removal(node: &Node) -> (Browser, String) {
    let browser = signed_in(node, "ada").await;
    let live = socket(&browser, node).await;
    live.sign_out().await.unwrap();
    (browser, live.relay().unwrap().to_string())
}

// Each purpose has a key of its own, so a token under the prefix of another purpose does not open.
#[test]
fn token_purposes_cannot_be_swapped() {
    let app = App::new();
    let home = app.start();
    let genuine = async {
        let mut genuine = vec![removal(&home).await];
        for beginning in [Beginning::Visitor, Beginning::User, Beginning::Newcomer] {
            let (browser, live) = page(beginning, &home).await;
            live.set(theme(2)).await.unwrap();
            genuine.push((browser.clone(), live.relay().unwrap().to_string()));
            genuine.push((browser.clone(), live.sign_in(User("bob".into())).by_page().unwrap().to_string()));
            genuine.extend(browser.cookie("session").map(|cookie| (browser.clone(), cookie.to_owned())));
        }
        let live = socket(&Browser::new(), &home).await;
        genuine.push((Browser::new(), live.sign_in(User("bob".into())).by_page().unwrap().to_string()));
        genuine
    };
    for (browser, token) in at_once(genuine).unwrap() {
        let (purpose, sealed) = parts(&token);
        for other in PURPOSES {
            let swapped = format!("{other}{sealed}");
            for (mut page, node) in [(browser.clone(), &home), (browser.clone(), &app.start()), (Browser::new(), &home)]
            {
                if other != purpose || other.is_empty() {
                    let answer = at_once(bring(&mut page, node, &swapped)).unwrap();
                    assert_eq!(answer.code(), "relay_invalid", "{token} as {swapped}");
                    assert_eq!(answer.set_cookies(), Vec::<String>::new());
                }
                if other != purpose && other.is_empty() {
                    page.set("session", sealed);
                    let look = async |session: Session| (session.is_new(), session.principal());
                    assert_eq!(at_once(page.visit(node, look)).unwrap(), (true, None), "{token} as a cookie");
                }
            }
        }
    }
}

#[test]
fn forged_token_changes_nothing() {
    let app = App::new();
    let home = app.start();
    let mut tokens = Vec::new();
    let mut more = Vec::new();
    let mut browsers = Vec::new();
    for beginning in [Beginning::User, Beginning::Newcomer] {
        let authored = async {
            let (browser, live) = page(beginning, &home).await;
            live.set(Division(3)).await.unwrap();
            // Three lengths, for the three endings of base64.
            for length in [2, 3, 4] {
                live.set(theme(length)).await.unwrap();
                tokens.push(live.relay().unwrap().to_string());
            }
            more.push(live.sign_in(User("bob".into())).by_page().unwrap().to_string());
            more.push(live.renew_by_page().with(&theme(2)).token().unwrap().to_string());
            more.extend(browser.cookie("session").map(str::to_owned));
            browser
        };
        browsers.push(at_once(authored).unwrap());
    }
    let ends: Vec<_> = tokens.iter().map(|token| token.len() % 4).collect();
    assert!(ends.contains(&0) && ends.contains(&1), "tokens end with two and with four unused bits: {ends:?}");
    let (_, removal) = at_once(removal(&home)).unwrap();
    tokens.extend(more.into_iter().chain([removal]));

    // The first node already has the content of the tokens, so an accepted token would change nothing there. On the
    // cold node an accepted token would show as a change.
    let cold = app.start();
    let mut places = Vec::new();
    for (browser, node) in browsers.iter().flat_map(|browser| [(browser, &home), (browser, &cold)]) {
        let before = at_once(seen(browser, node)).unwrap();
        places.push((browser.clone(), node, before));
    }
    let changes = vec(any::<[u8; 4]>(), 1..3);
    proptest!(config(1024), |(which in any::<Index>(), changes in changes)| {
        let forged = changes.iter().fold(which.get(&tokens).clone(), |token, change| forge(&token, &tokens, *change));
        // Pages must not bring a cookie as a token, genuine or forged.
        if tokens.contains(&forged) && !parts(&forged).0.is_empty() {
            return Ok(());
        }
        for (browser, node, before) in &places {
            let mut browser = browser.clone();
            let answer = at_once(bring(&mut browser, node, &forged)).unwrap();
            let code = answer.code();
            prop_assert_eq!((answer.status, code.as_str()), (StatusCode::BAD_REQUEST, "relay_invalid"), "{:?}", forged);
            prop_assert!(answer.set_cookies().is_empty());
            prop_assert_eq!(&at_once(seen(&browser, node)).unwrap(), before, "{:?}", forged);
        }
    });

    for (mut browser, token) in browsers.into_iter().zip([&tokens[2], &tokens[5]]) {
        assert_eq!(at_once(bring(&mut browser, &cold, token)).unwrap().status, StatusCode::OK);
        assert_eq!(
            at_once(seen(&browser, &cold)).unwrap().held.theme,
            Some(theme(4)),
            "a node accepts the genuine token"
        );
    }
}

/// A change of the session before the page brings a token.
#[derive(Clone, Debug)]
enum Step {
    Theme(u8),
    Visits(u64),
    Division(i64),
    Both(u8, u64),
    RemoveTheme,
    RemoveVisits,
    RemoveDivision,
    Clear,
    /// A write in another browser of Ada's.
    Elsewhere(i64),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..9u8).prop_map(Step::Theme),
        (0..9u64).prop_map(Step::Visits),
        (-1..6i64).prop_map(Step::Division),
        (1..9u8, 0..9u64).prop_map(|(length, visits)| Step::Both(length, visits)),
        Just(Step::RemoveTheme),
        Just(Step::RemoveVisits),
        Just(Step::RemoveDivision),
        Just(Step::Clear),
        (-1..6i64).prop_map(Step::Elsewhere),
        (1..2_000u64).prop_map(Step::Pass),
    ];
    vec(step, 1..9)
}

impl Step {
    async fn take(self, app: &App, live: &Session, elsewhere: &Session) {
        match self {
            Self::Theme(length) => live.set(theme(length)).await,
            Self::Visits(visits) => live.set(Visits(visits)).await,
            Self::Division(id) => live.set(Division(id)).await,
            Self::Both(length, visits) => live.batch().set(theme(length)).set(Visits(visits)).commit().await,
            Self::RemoveTheme => live.remove::<Theme>().await,
            Self::RemoveVisits => live.remove::<Visits>().await,
            Self::RemoveDivision => live.remove::<Division>().await,
            Self::Clear => live.clear().await,
            Self::Elsewhere(id) => elsewhere.set(Division(id)).await,
            Self::Pass(millis) => {
                app.pass(Duration::from_millis(millis));
                Ok(())
            }
        }
        .unwrap();
    }
}

/// The delivery of a token: the token, the node, and whether the node restarted before.
type Delivery = (Index, usize, bool);

const NODES: usize = 3;

fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
    vec((any::<Index>(), 0..NODES, prop::bool::weighted(0.2)), 0..7)
}

fn newest() -> impl Strategy<Value = (Index, usize, bool)> {
    (any::<Index>(), 0..NODES, any::<bool>())
}

fn beginning() -> impl Strategy<Value = Beginning> {
    prop_oneof![Just(Beginning::Visitor), Just(Beginning::User), Just(Beginning::Newcomer), Just(Beginning::NewUser),]
}

async fn deliver(
    beginning: Beginning,
    steps: Vec<Step>,
    deliveries: Vec<Delivery>,
    (last, at, anew): Delivery,
) -> Result<(), TestCaseError> {
    let app = App::new();
    let mut nodes: [Node; NODES] = std::array::from_fn(|_| app.start());
    let (mut browser, live) = page(beginning, &nodes[0]).await;
    let other = signed_in(&nodes[0], "ada").await;
    let elsewhere = socket(&other, &nodes[0]).await;

    let mut tokens = Vec::new();
    for step in steps {
        step.take(&app, &live, &elsewhere).await;
        tokens.extend(live.relay().map(|token| (token.to_string(), held(&live))));
    }
    // Steps without a change give no token.
    let Some(newest) = tokens.len().checked_sub(1) else { return Ok(()) };
    let mut order: Vec<_> = deliveries.iter().map(|(which, at, anew)| (which.index(newest + 1), *at, *anew)).collect();
    order.insert(last.index(order.len() + 1), (newest, at, anew));

    // The socket's node knows all changes already. Any other node knows the changes of the newest token so far.
    let (mut home, mut known) = (true, 0);
    for (which, at, anew) in order {
        if anew {
            nodes[at] = app.start();
            home &= at != 0;
        }
        known = known.max(if at == 0 && home { newest } else { which });
        let answer = bring(&mut browser, &nodes[at], &tokens[which].0).await;
        prop_assert_eq!(answer.status, StatusCode::OK, "{:?}", answer);
        for node in [&nodes[at], &app.start()] {
            prop_assert_eq!(&seen(&browser, node).await.held, &tokens[known].1);
        }
    }
    prop_assert_eq!(&held(&live), &tokens[newest].1, "a token that returns to the socket's node changes nothing there");
    for node in &nodes {
        prop_assert_eq!(seen(&browser, node).await.held, held(&live));
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn any_delivery_order_matches_socket(
        beginning in beginning(),
        steps in steps(),
        deliveries in deliveries(),
        newest in newest(),
    ) {
        at_once(deliver(beginning, steps, deliveries, newest)).expect("nothing waits")?;
    }
}

/// Asserts that the programs met an accepted token of each kind, and three refusals. Programs with refusals alone would
/// prove nothing.
fn assert_met(tally: &Tally) {
    for met in ["r. 200", "b. 200", "t. 200", "removal 200", "forged", "relay_expired", "token_used"] {
        assert!(tally.contains_key(met), "{met} never came: {tally:?}");
    }
}

#[test]
fn no_token_grants_foreign_rights() {
    let cases = std::env::var("TOKEN_CASES").map_or(200, |cases| cases.parse().expect("a number"));
    let tally = RefCell::new(Tally::new());
    let program = vec(any::<[u8; STEP]>(), 1..40);
    let config = ProptestConfig { max_shrink_iters: 4000, ..config(cases) };
    proptest!(config, |(program in program)| {
        let met = at_once(Cluster::run(&program)).expect("nothing waits");
        met.into_iter().for_each(|(name, times)| *tally.borrow_mut().entry(name).or_default() += times);
    });
    // A run of fewer than 200 programs may miss some kind of answer by chance, so only longer runs check the tally.
    if cases >= 200 {
        assert_met(&tally.into_inner());
    }
}
