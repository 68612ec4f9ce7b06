//! Genuine tokens, whole or forged, at nodes that do not know the content of the tokens. The input is a program: the
//! first byte selects the browser, and each following [`STEP`] bytes are the delivery of one token.
//!
//! Each process seals the tokens anew. The same input therefore changes the same positions of different bytes.
#![no_main]

#[allow(dead_code)]
#[path = "../../it/support"]
mod support {
    pub(crate) mod app;
    pub(crate) mod browser;
    pub(crate) mod forgery;
    pub(crate) mod node;
    pub(crate) mod tokens;
    pub(crate) mod values;
    pub(crate) mod visits;
    pub(crate) mod waiting;
}

use std::sync::LazyLock;

use http::StatusCode;
use layered_session::{KeyRing, Session};
use libfuzzer_sys::fuzz_target;

use crate::support::{
    app::App,
    browser::Browser,
    forgery::forge,
    node::{Answer, Node},
    values::{Division, Theme, User, Visits},
    visits::{bring, signed_in, socket},
    waiting::at_once,
};

const STEP: usize = 6;
const MAX_STEPS: usize = 24;
/// A longer token, doubled several times and with every character escaped, could exceed the body limit, which is a
/// different refusal.
const LONGEST: usize = 1024;

/// Flags of a step's second byte.
const OTHER_NODE: u8 = 1;
const FORGED: u8 = 2;
/// Forges the previous step's token once more.
const AGAIN: u8 = 4;
const RESTARTED: u8 = 8;

type Held = (Option<Theme>, Option<Visits>, Option<Division>, Option<User>);

fn held(session: &Session) -> Held {
    (session.get(), session.get(), session.get(), session.get())
}

/// A browser before its first delivery, and the page's tokens, each with the session's values at that time.
struct Page {
    browser: Browser,
    before: Held,
    tokens: Vec<(String, Held)>,
}

impl Page {
    async fn new(app: &App, browser: Browser) -> Self {
        let node = app.start();
        let live = socket(&browser, &node).await;
        let before = held(&live);
        let mut tokens = Vec::new();
        for step in 0..8 {
            match step {
                0 => live.set(Theme("dark".into())).await,
                1 => live.set(Division(3)).await,
                2 => live.batch().set(Visits(1)).set(Theme("darker".into())).commit().await,
                3 => live.remove::<Theme>().await,
                4 => live.remove::<Division>().await,
                5 => live.set(Theme("light".into())).await,
                6 => live.clear().await,
                _ => live.set(Visits(2)).await,
            }
            .expect("the write succeeds");
            tokens.push((live.relay().expect("the cookie lacks the write").to_string(), held(&live)));
        }
        Self { browser, before, tokens }
    }
}

struct Made {
    ring: KeyRing,
    /// A page with a cookie and relay tokens, and a page without a cookie and with birth tokens.
    pages: [Page; 2],
    /// The tokens of both pages, orders for another page's session, and cookies.
    all: Vec<String>,
}

/// Returns tokens that no page brings with success: two orders of a session whose cookie neither page has, and a
/// cookie.
async fn foreign(app: &App) -> [String; 3] {
    let (node, browser) = (app.start(), signed_in(&app.start(), "bob").await);
    let live = socket(&browser, &node).await;
    let login = live.sign_in(User("ada".into())).by_page().expect("an order");
    let renewal = live.renew_by_page().with(&Visits(7)).token().expect("an order");
    [login.to_string(), renewal.to_string(), browser.cookie("session").expect("a cookie").to_owned()]
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let key: [u8; 32] = std::array::from_fn(|n| (n as u8).wrapping_mul(151) ^ 0xa5);
    let app = App::with_keys(KeyRing::new([key]).expect("a key"));
    let made = async {
        let user = signed_in(&app.start(), "ada").await;
        ([Page::new(&app, user).await, Page::new(&app, Browser::new()).await], foreign(&app).await)
    };
    let (pages, foreign) = at_once(made).expect("nothing waits");
    let cookie = pages[0].browser.cookie("session").map(str::to_owned);
    let tokens = pages.iter().flat_map(|page| &page.tokens).map(|(token, _)| token.clone());
    let all = tokens.chain(foreign).chain(cookie).collect();
    Made { ring: app.ring, pages, all }
});

fn assert_refused(answer: &Answer, status: StatusCode, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code));
    assert!(answer.set_cookies().is_empty());
}

async fn run(program: &[u8]) {
    let Some((which, program)) = program.split_first() else { return };
    let Made { ring, pages, all } = &*MADE;
    let page = &pages[usize::from(which % 2)];
    let app = App::with_keys(ring.clone());
    let mut nodes: [Node; 2] = std::array::from_fn(|_| app.start());
    let mut browser = page.browser.clone();
    let mut known: Option<usize> = None;
    let mut text = String::new();
    for step in program.chunks_exact(STEP).take(MAX_STEPS) {
        let &[which, flags, ref change @ ..] = step else { unreachable!("all chunks have the same length") };
        let node = &mut nodes[usize::from(flags & OTHER_NODE)];
        if flags & RESTARTED != 0 {
            *node = app.start();
        }
        if flags & AGAIN == 0 || text.is_empty() || text.len() > LONGEST {
            text.clone_from(&all[usize::from(which) % all.len()]);
        }
        if flags & FORGED != 0 {
            text = forge(&text, all, change.try_into().expect("four bytes"));
        }
        let cookie = browser.cookie("session").map(str::to_owned);
        let answer = bring(&mut browser, node, &text).await;
        match page.tokens.iter().position(|(token, _)| *token == text) {
            Some(brought) => {
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                known = known.max(Some(brought));
            }
            None => {
                // Pages must not bring a cookie as a token, genuine or forged.
                match all.contains(&text) && text.contains('.') {
                    true => assert_refused(&answer, StatusCode::CONFLICT, "relay_other_session"),
                    false => assert_refused(&answer, StatusCode::BAD_REQUEST, "relay_invalid"),
                }
                assert_eq!(browser.cookie("session").map(str::to_owned), cookie);
            }
        }
        let expected = known.map_or(&page.before, |known| &page.tokens[known].1);
        for node in [node, &app.start()] {
            let found = browser.clone().visit(node, async |session| held(&session)).await;
            assert_eq!(&found, expected, "{text:?}");
        }
    }
}

fuzz_target!(|program: &[u8]| at_once(run(program)).expect("nothing waits"));
