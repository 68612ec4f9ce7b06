//! Three nodes that share keys and a clock, with browsers and sockets. Tokens of all four purposes come forged,
//! swapped, replayed, late, and in any order. Nodes restart meanwhile.
//!
//! [`Cluster::run`] runs a program of steps and asserts the properties of every answer, without a model of the session.
//! The fuzz target uses the cluster too.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderValue, StatusCode};
use layered_session::{Principal, Session};

use crate::support::{
    app::App,
    browser::Browser,
    forgery::{forge, parts},
    history::{Facts, Id, Kind, MINUTE, Name, Ordered, Token, USERS},
    node::Node,
    tokens::{id_of, set_cookies},
    values::{Division, Theme, User, theme},
    visits::{bring, sign_in, signed_in, socket, visitor},
    waiting::at_once,
};

/// The bytes of a step: the act, the browser, the node, the socket or token, and four bytes for the variant of the act.
pub(crate) const STEP: usize = 8;

/// The number of times that each answer came.
pub(crate) type Tally = BTreeMap<String, usize>;

const NODES: usize = 3;

/// A node, and the number of its process: each restart begins another process.
struct Place {
    node: Node,
    process: usize,
}

/// An open socket of a browser's page.
struct Socket {
    live: Session,
    browser: usize,
    process: usize,
    /// Whether the handshake brought the cookie of a living session.
    had_cookie: bool,
    /// The session's id, if the cookie or a token has told the id.
    id: Option<Id>,
    /// The series of the next order.
    series: usize,
    /// Whether this handle has signed out.
    has_ended: bool,
}

pub(crate) struct Cluster {
    app: App,
    now: Duration,
    step: usize,
    processes: usize,
    places: Vec<Place>,
    /// The browsers of ada, of a visitor, and of a stranger without a cookie.
    browsers: [Browser; 3],
    sockets: Vec<Socket>,
    series: usize,
    tokens: Vec<Token>,
    /// All sealed texts since the beginning.
    genuine: Vec<String>,
    facts: Facts,
    tally: Tally,
}

fn jar(browser: &Browser) -> Option<Id> {
    browser.cookie("session").map(id_of)
}

fn user_of(principal: Option<Principal>) -> Name {
    principal.map(|principal| *USERS.iter().find(|user| principal == Principal::new(**user)).expect("a user of ours"))
}

/// A request's view: whether a session lives, the user, and two values.
type Seen = (bool, Name, Option<Theme>, Option<Division>);

async fn seen(browser: &Browser, node: &Node) -> Seen {
    let look = async |session: Session| (session.is_new(), session.principal(), session.get(), session.get());
    let (is_new, principal, theme, division) = browser.clone().visit(node, look).await;
    (is_new, user_of(principal), theme, division)
}

impl Cluster {
    pub(crate) async fn run(program: &[[u8; STEP]]) -> Tally {
        let mut cluster = Self::new().await;
        for step in program {
            cluster.step += 1;
            cluster.take(*step).await;
            cluster.note_cookies();
        }
        for browser in 0..cluster.browsers.len() {
            for place in 0..NODES {
                cluster.look(browser, place).await;
            }
            cluster.converge(browser).await;
        }
        cluster.tally
    }

    async fn new() -> Self {
        let app = App::new();
        let places: Vec<_> = (0..NODES).map(|process| Place { node: app.start(), process }).collect();
        let home = &places[0].node;
        let browsers = [signed_in(home, "ada").await, visitor(home).await, Browser::new()];
        let mut cluster = Self {
            app,
            now: Duration::ZERO,
            step: 0,
            processes: NODES,
            places,
            browsers,
            sockets: Vec::new(),
            series: 0,
            tokens: Vec::new(),
            genuine: Vec::new(),
            facts: Facts::default(),
            tally: Tally::new(),
        };
        for (browser, user) in [Some("ada"), None].into_iter().enumerate() {
            let id = jar(&cluster.browsers[browser]).expect("a session");
            cluster.facts.begin(&id, user, 0);
        }
        cluster.note_cookies();
        for browser in 0..cluster.browsers.len() {
            cluster.open(browser, 0).await;
        }
        cluster
    }

    fn note_cookies(&mut self) {
        for cookie in self.browsers.iter().filter_map(|browser| browser.cookie("session")) {
            if !self.genuine.iter().any(|known| known == cookie) {
                self.genuine.push(cookie.to_owned());
            }
        }
    }

    fn count(&mut self, met: &str) {
        *self.tally.entry(met.to_owned()).or_default() += 1;
    }

    async fn take(&mut self, [what, who, place, which, change @ ..]: [u8; STEP]) {
        let (browser, place) = (usize::from(who) % self.browsers.len(), usize::from(place) % NODES);
        // The newest three tokens are the most likely.
        let pick = |len: usize| match usize::from(which) {
            new @ 0..128 => len.saturating_sub(1 + new % 3),
            old => old % len,
        };
        let [how, ..] = change;
        let socket = pick(self.sockets.len());
        match what % 24 {
            0 | 1 => self.open(browser, place).await,
            2 | 3 => self.write(socket, how).await,
            4..=7 => self.order(socket),
            8 => self.end(socket).await,
            9 => self.request(browser, place, how).await,
            10 => {
                let user = USERS[usize::from(how) % USERS.len()];
                self.places[place]
                    .node
                    .sessions
                    .end_all_sessions(Principal::new(user))
                    .await
                    .expect("memory keeps the end");
                self.facts.stamps.insert((self.places[place].process, user), self.step);
                self.pass(Duration::from_millis(1));
            }
            11 => {
                let from = self.browsers[usize::from(how) % self.browsers.len()].clone();
                self.browsers[browser] = from;
            }
            12 => self.pass(Duration::from_millis([1, 900, 20_000, 59_998, 60_000][usize::from(how) % 5])),
            13 => {
                self.places[place] = Place { node: self.app.start(), process: self.processes };
                self.processes += 1;
            }
            14 => self.look(browser, place).await,
            15 | 16 => self.forge(browser, place, usize::from(which), change).await,
            _ if self.tokens.is_empty() => {}
            _ => {
                let token = self.tokens[pick(self.tokens.len())].clone();
                let browser = if how < 192 { token.browser } else { browser };
                let before = self.browsers[browser].clone();
                self.bring(browser, place, token).await;
                if how % 4 == 0 {
                    // The browser loses the response.
                    self.browsers[browser] = before;
                }
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        self.app.pass(span);
        self.now += span;
    }

    async fn open(&mut self, browser: usize, place: usize) {
        let Place { node, process } = &self.places[place];
        let live = socket(&self.browsers[browser], node).await;
        let had_cookie = live.created_at().is_some();
        let id = jar(&self.browsers[browser]).filter(|_| had_cookie);
        assert!(id.as_ref().is_none_or(|id| !self.facts.has_ended(*process, id)), "a socket of an ended session");
        self.series += 1;
        let (process, series) = (*process, self.series);
        self.sockets.push(Socket { live, browser, process, had_cookie, id, series, has_ended: false });
    }

    /// Keeps a token of a socket.
    fn keep(&mut self, socket: usize, text: String, kind: Kind) {
        let socket = &mut self.sockets[socket];
        let id = id_of(parts(&text).1);
        if matches!(kind, Kind::Relay | Kind::Birth) {
            socket.id = Some(id.clone());
        }
        self.genuine.push(text.clone());
        self.tokens.push(Token { text, id, browser: socket.browser, made: self.now, kind });
    }

    async fn write(&mut self, socket: usize, how: u8) {
        let live = &self.sockets[socket].live;
        // A refused write changes nothing.
        let _ = match how % 4 {
            0 => live.set(theme(&format!("{}", self.step))).await,
            1 => live.set(Division(self.step as i64 % 6)).await,
            2 => live.remove::<Theme>().await,
            _ => live.batch().set(theme("both")).set(Division(0)).commit().await,
        };
        let Some(text) = live.relay().map(|token| token.to_string()) else { return };
        let kind = match parts(&text).0 {
            "r." => Kind::Relay,
            "b." => {
                self.facts.begin(&id_of(parts(&text).1), None, self.step);
                Kind::Birth
            }
            // The text is the removal again.
            _ => return,
        };
        self.keep(socket, text, kind);
    }

    /// Orders a sign-in, or a renewal that grants a value. All orders of one series ask for the same turn.
    fn order(&mut self, socket: usize) {
        let Socket { live, had_cookie, series, has_ended, .. } = &self.sockets[socket];
        let signs_in = USERS.get(series % (USERS.len() + 1)).copied();
        let living = live.created_at().is_some() || !has_ended && at_once(live.closed()).is_none();
        let present = user_of(live.principal());
        let token = match signs_in {
            Some(user) => live.sign_in(User(user.into())).by_page(),
            None => live.renew_by_page().with(&theme("granted")).token(),
        };
        let Ok(token) = token else { return };
        let needs_cookie = *had_cookie && !has_ended;
        let (series, step) = (*series, self.step);
        let ordered = Ordered { series, step, user: signs_in.or(present), present, living, needs_cookie };
        self.keep(socket, token.to_string(), Kind::Order(ordered));
    }

    async fn end(&mut self, socket: usize) {
        self.series += 1;
        let next = self.series;
        let Socket { live, process, id, series, has_ended, .. } = &mut self.sockets[socket];
        live.sign_out().await.expect("a sign-out");
        assert!(at_once(live.closed()).is_some() || id.is_none(), "an open socket of an ended session");
        self.facts.voided.insert((*process, *series));
        self.facts.ended.extend(id.iter().map(|id| (*process, id.clone())));
        let series = std::mem::replace(series, next);
        let removal = live.relay().map(|token| token.to_string());
        *has_ended |= removal.is_some();
        if let Some(text) = removal {
            assert_eq!(parts(&text).0, "t.", "an ended handle gives a removal alone");
            self.keep(socket, text, Kind::Removal { series });
        }
    }

    /// Sends a request with a turn or a write of the request's own.
    async fn request(&mut self, browser: usize, place: usize, how: u8) {
        let Place { node, process } = &self.places[place];
        let page = &mut self.browsers[browser];
        let before = jar(page);
        let user = USERS[usize::from(how >> 4) % USERS.len()];
        let kept = before.as_ref().and_then(|id| self.facts.users.get(id).copied()).flatten();
        let (done, user) = match how % 4 {
            0 => (page.visit(node, async |session| session.set(theme("light")).await.is_ok()).await, None),
            1 => (page.visit(node, async |session| session.renew().await.is_ok()).await, kept),
            2 => (page.visit(node, async |session| session.sign_out().await.is_ok()).await, None),
            _ => {
                sign_in(page, node, user).await;
                (true, Some(user))
            }
        };
        let after = jar(page);
        let turned = done && !how.is_multiple_of(4);
        self.facts.ended.extend(before.clone().filter(|_| turned).map(|id| (*process, id)));
        if let Some(id) = after.filter(|id| Some(id) != before.as_ref()) {
            self.facts.begin(&id, user, self.step);
        }
    }

    /// Reads a browser's values, and asserts that no value of another user is among them.
    async fn look(&mut self, browser: usize, place: usize) {
        let (Place { node, process }, page) = (&self.places[place], &mut self.browsers[browser]);
        let before = jar(page);
        let (is_new, principal) = page.visit(node, async |session| (session.is_new(), session.principal())).await;
        assert_eq!(jar(page), before, "a read changes no session");
        let Some(id) = before else { return assert_eq!((is_new, principal), (true, None)) };
        let user = user_of(principal);
        assert!(user.is_none() || user == self.facts.users[&id], "{user:?} in a session of another user");
        if self.facts.has_ended(*process, &id) {
            assert_eq!((is_new, user), (true, None), "an ended session");
        }
    }

    async fn forge(&mut self, browser: usize, place: usize, which: usize, change: [u8; 4]) {
        let forged = forge(&self.genuine[which % self.genuine.len()], &self.genuine, change);
        let is_genuine = self.genuine.contains(&forged);
        let node = &self.places[place].node;
        let mut before = Vec::new();
        // The loop runs twice: the cookie of one browser may tell the node of a change after another browser has read
        // already.
        for page in self.browsers.iter().chain(&self.browsers) {
            before.push(seen(page, node).await);
        }
        let before = before.split_off(self.browsers.len());
        // A cookie is no token for a page to bring, genuine or not.
        if !is_genuine || parts(&forged).0.is_empty() {
            let answer = bring(&mut self.browsers[browser].clone(), node, &forged).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "relay_invalid"), "{forged}");
            assert_eq!(answer.set_cookies(), Vec::<String>::new());
        }
        let is_cookie = forged.split(';').any(|part| self.genuine.iter().any(|known| known == part.trim()));
        let mut forger = Browser::new();
        forger.set("session", &forged);
        // A cookie with a genuine text is no forgery. Some texts can't stand in a header.
        if !is_cookie && HeaderValue::from_str(&forged).is_ok() {
            let look = async |session: Session| (session.is_new(), session.principal());
            let (headers, seen) = forger.visit_seen(node, look).await;
            assert_eq!((seen, set_cookies(&headers)), ((true, None), vec![]), "{forged}");
        }
        for (page, before) in self.browsers.iter().zip(before) {
            assert_eq!(seen(page, node).await, before, "{forged}");
        }
        self.count("forged");
    }

    /// Brings a genuine token, and asserts that the token gives no more than its own content.
    async fn bring(&mut self, browser: usize, place: usize, token: Token) {
        let (old, process) = (self.browsers[browser].clone(), self.places[place].process);
        let answer = bring(&mut self.browsers[browser], &self.places[place].node, &token.text).await;
        let (from, to) = (jar(&old), jar(&self.browsers[browser]));
        let removes = matches!(token.kind, Kind::Removal { .. });
        let (purpose, code) = (if removes { "removal" } else { parts(&token.text).0 }, answer.code());
        self.count(if code.is_empty() { "ok" } else { &code });
        self.count(&format!("{purpose} {}", answer.status.as_u16()));
        if answer.status != StatusCode::OK {
            assert!(matches!(answer.status.as_u16(), 409 | 503), "{answer:?}");
            assert_eq!(from, to, "a refusal changes no session: {answer:?}");
            if let (Kind::Removal { series }, Some(id)) = (&token.kind, from) {
                let is_named = id == token.id || self.facts.begun.get(series) == Some(&id);
                let (is_new, ..) = seen(&old, &self.places[place].node).await;
                assert!(!is_named || is_new, "a removal spares the session that it names");
            }
            return;
        }
        let has_own = from.as_ref() == Some(&token.id);
        let is_late = self.now >= token.made + MINUTE;
        if !matches!(token.kind, Kind::Removal { .. } | Kind::Order(_)) {
            assert!(!self.facts.has_ended(process, &token.id), "a node accepts a token of an ended session");
            assert_eq!(to.as_ref(), Some(&token.id), "the token's own session");
        }
        match &token.kind {
            Kind::Relay => assert!(has_own, "a relay token gives no session"),
            Kind::Birth if has_own => {}
            Kind::Birth => {
                assert!(!is_late, "a late birth token gives a session");
                assert!(self.facts.minted.insert((process, token.text.clone())), "a birth token gives a session twice");
            }
            Kind::Order(ordered) => self.carried_out(process, &token, ordered, from.as_ref(), to),
            Kind::Removal { series } => {
                assert_eq!(to, None, "a removal removes the cookie");
                if from.is_some() {
                    self.facts.ended.insert((process, token.id.clone()));
                    self.facts.voided.insert((process, *series));
                }
            }
        }
        if !has_own || !matches!(token.kind, Kind::Relay | Kind::Birth) {
            let (is_new, user, ..) = seen(&old, &self.places[place].node).await;
            assert_eq!((is_new, user), (true, None), "the cookie before the order belongs to a living session");
        }
        self.look(browser, place).await;
    }

    fn carried_out(&mut self, process: usize, token: &Token, ordered: &Ordered, from: Option<&Id>, to: Option<Id>) {
        let refused = self.facts.refuses(process, token, ordered, self.now);
        assert_eq!(refused, None, "a node carries an order out that every node must refuse");
        assert!(from == Some(&token.id) || !ordered.needs_cookie, "the order of another browser's session");
        let id = to.expect("the begun session");
        assert_ne!(from, Some(&id), "the order begins another session");
        let begun = self.facts.begun.entry(ordered.series).or_insert_with(|| id.clone());
        assert_eq!(*begun, id, "the orders of one handle begin one session");
        self.facts.carried_out.insert((process, ordered.series));
        self.facts.ended.extend(from.map(|id| (process, id.clone())));
        self.facts.begin(&id, ordered.user, ordered.step);
    }

    /// Asserts that relay tokens end in the same state on a fresh node if they come in another order, and twice.
    async fn converge(&self, browser: usize) {
        let page = &self.browsers[browser];
        let Some(id) = jar(page) else { return };
        let own = |token: &&Token| token.id == id && matches!(token.kind, Kind::Relay | Kind::Birth);
        let tokens: Vec<_> = self.tokens.iter().filter(own).collect();
        let backwards = tokens.iter().rev().chain(&tokens).chain(tokens.iter().rev());
        let mut ends = Vec::new();
        for deliveries in [tokens.iter().collect::<Vec<_>>(), backwards.collect()] {
            let (mut page, node) = (page.clone(), self.app.start());
            for token in deliveries {
                assert_eq!(bring(&mut page, &node, &token.text).await.status, StatusCode::OK);
            }
            ends.push(seen(&page, &node).await);
        }
        assert_eq!(ends[0], ends[1], "the order of deliveries matters");
    }
}
