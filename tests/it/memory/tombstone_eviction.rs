//! Tombstones under pressure of memory: their limit, and the order of their eviction.

use std::time::Duration;

use http::StatusCode;
use layered_session::{
    CloseReason, KeyRing, Principal, Session, SessionWriteback, Stats, WriteErrorKind, testing::ManualClock,
};

use crate::support::{
    Browser, DAY, Node, Theme, User, at_once, cookie, declared, kind, memory_of, ring, set_cookies, socket,
};

struct Tier {
    clock: ManualClock,
    node: Node,
}

impl Tier {
    fn new(max_bytes: usize) -> Self {
        Self::of(&ring(), ManualClock::new(), max_bytes)
    }

    /// A node that shares keys and time with other nodes.
    fn of(ring: &KeyRing, clock: ManualClock, max_bytes: usize) -> Self {
        let sessions = declared(memory_of(max_bytes), cookie(ring), &clock).build().unwrap();
        Self { node: Node::new(sessions), clock }
    }

    fn stats(&self) -> Stats {
        self.node.sessions.stats()
    }

    fn visit<T>(&self, browser: &mut Browser, handler: impl AsyncFnOnce(Session) -> T) -> T {
        at_once(browser.visit(&self.node, handler)).expect("nothing to wait for")
    }

    fn visitor(&self) -> Browser {
        let mut browser = Browser::new();
        self.visit(&mut browser, async |session| session.set(Theme("dark".into())).await.unwrap());
        browser
    }

    fn user(&self, name: &'static str) -> Browser {
        let mut browser = Browser::new();
        self.visit(&mut browser, async move |session| session.sign_in(User(name.into())).await.unwrap());
        browser
    }

    /// Ends a session. Returns a browser that kept the old cookie.
    fn end(&self, browser: Browser) -> Browser {
        self.visit(&mut browser.clone(), async |session| session.sign_out().await.unwrap());
        browser
    }

    /// Brings a token from a copy of a browser.
    fn bring(&self, browser: &Browser, token: &str) -> StatusCode {
        let body = serde_json::json!({ "$relay": token }).to_string();
        let writeback = SessionWriteback::new(&self.node.sessions);
        at_once(self.node.writeback(writeback, browser.post_json(body))).expect("nothing to wait for").status
    }

    fn sweep(&self) {
        let mut sweeper = Box::pin(self.node.sessions.sweeper());
        assert_eq!(at_once(sweeper.as_mut()), None);
        self.clock.advance(Duration::from_secs(60));
        (0..100).for_each(|_| assert_eq!(at_once(sweeper.as_mut()), None));
    }

    /// Whether memory holds the session's record, so that the answer does not come from the cookie.
    fn is_here(&self, browser: &Browser) -> bool {
        let before = self.stats().hits;
        self.visit(&mut browser.clone(), async |session| drop(session.get::<Theme>()));
        self.stats().hits > before
    }

    fn principal(&self, browser: &Browser) -> Option<Principal> {
        self.visit(&mut browser.clone(), async |session| session.principal())
    }
}

/// A memory limit with room for 250 tombstones, in bytes.
const SMALL: usize = 40_000;

#[test]
fn tombstones_evict_no_living_session() {
    let tier = Tier::new(100_000);
    let living: Vec<_> = (0..200).map(|_| tier.visitor()).collect();
    tier.clock.advance(Duration::from_secs(1));
    (0..3000).for_each(|_| drop(tier.end(tier.visitor())));
    assert!(living.iter().all(|browser| tier.is_here(browser)), "{:?}", tier.stats());
}

#[test]
fn user_cannot_erase_other_users_tombstone() {
    let tier = Tier::new(SMALL);
    let ada = tier.end(tier.user("ada"));
    (0..2500).for_each(|_| drop(tier.end(tier.user("eve"))));
    assert_eq!(tier.principal(&ada), None);
    assert!(tier.stats().revocations_lost > 2000, "{:?}", tier.stats());
}

#[test]
fn visitors_erase_no_user_tombstone() {
    let tier = Tier::new(SMALL);
    let ada = tier.end(tier.user("ada"));
    (0..2500).for_each(|_| drop(tier.end(tier.visitor())));
    assert_eq!(tier.principal(&ada), None);
    assert!(tier.stats().revocations_lost > 2000, "{:?}", tier.stats());
}

/// Two nodes without a store. The second node has the small limit.
fn two_nodes() -> (Tier, Tier) {
    let (ring, clock) = (ring(), ManualClock::new());
    (Tier::of(&ring, clock.clone(), 1 << 20), Tier::of(&ring, clock, SMALL))
}

/// Ends enough visitors' sessions to fill the small limit with tombstones ten times.
fn flood(tier: &Tier) {
    (0..2500).for_each(|_| drop(tier.end(tier.visitor())));
    assert!(tier.stats().revocations_lost > 2000, "{:?}", tier.stats());
}

#[test]
fn visitors_erase_no_tombstone_of_remote_renewal() {
    let (first, second) = two_nodes();
    let mut ada = first.user("ada");
    let old = ada.clone();
    first.visit(&mut ada, async |session| session.renew().await.unwrap());
    assert!(second.principal(&ada).is_some(), "the new cookie names the old id");
    flood(&second);
    assert_eq!(second.principal(&old), None);
}

// The second node learns of the cancelled sign-in order from the removal token alone, and still refuses the order after
// thousands of visitors' sessions have ended.
#[test]
fn cancelled_sign_in_order_stays_cancelled() {
    let (first, second) = two_nodes();
    for ended_before in [false, true] {
        let browser = first.visitor();
        let live = at_once(socket(&browser, &first.node)).unwrap();
        if ended_before {
            at_once(live.destroy()).unwrap().unwrap();
        }
        let order = live.sign_in(User("ada".into())).by_page().unwrap();
        at_once(live.destroy()).unwrap().unwrap();
        let removal = live.relay().unwrap();
        assert_eq!(second.bring(&browser, removal.as_str()), StatusCode::OK);
        flood(&second);
        assert_eq!(second.bring(&browser, order.as_str()), StatusCode::CONFLICT);
    }
}

// Ada's handle signed out on the first node, and then ordered a sign-in. The token of this order also names the ended
// session, and is all that tells the second node of the end. The second node still knows the end after thousands of
// visitors' sessions have ended.
#[test]
fn end_told_by_order_survives_visitors_ends() {
    let (first, second) = two_nodes();
    let ada = first.user("ada");
    let live = at_once(socket(&ada, &first.node)).unwrap();
    at_once(live.sign_out()).unwrap().unwrap();
    let order = live.sign_in(User("ada".into())).by_page().unwrap();
    assert_eq!(second.bring(&Browser::new(), order.as_str()), StatusCode::OK);
    flood(&second);
    assert_eq!(second.principal(&ada), None);
}

// G12, G13: an ended id has no session after any sweep, and a write after the minute begins a session with a new id.
#[test]
fn ended_id_never_lives_again() {
    let tier = Tier::new(1 << 20);
    let ended = tier.end(tier.visitor());
    for _ in 0..3 {
        tier.sweep();
        let late = async |session: Session| (session.get::<Theme>(), session.is_new());
        assert_eq!(tier.visit(&mut ended.clone(), late), (None, true));
    }
    let write = async |session: Session| kind(session.set(Theme("light".into())).await);
    let mut again = ended.clone();
    let (headers, written) = at_once(again.visit_seen(&tier.node, write)).unwrap();
    assert_eq!((written, set_cookies(&headers).len()), (None, 1), "the old cookie counts as no cookie");
    assert_ne!(again.token()[..56], ended.token()[..56]);
}

#[test]
fn open_handle_keeps_close_reason() {
    let tier = Tier::new(1 << 20);
    let mut browser = tier.visitor();
    let open = tier.visit(&mut browser, async |session| session);
    tier.end(browser);
    for _ in 0..3 {
        tier.sweep();
        assert_eq!(at_once(open.closed()), Some(CloseReason::Destroyed));
        assert_eq!(at_once(open.set(Theme("late".into()))).map(kind), Some(Some(WriteErrorKind::Closed)));
        assert_eq!(at_once(open.destroy()).map(kind), Some(None));
    }
    assert_eq!((tier.stats().records, tier.stats().tombstones), (1, 1));
    drop(open);
    assert_eq!((tier.stats().records, tier.stats().bytes), (1, 40), "no record is left beside its tombstone");
}

#[test]
fn expired_session_leaves_no_tombstone() {
    let tier = Tier::new(1 << 20);
    tier.visitor();
    tier.end(tier.visitor());
    assert_eq!((tier.stats().records, tier.stats().tombstones), (2, 1));
    tier.clock.advance(2 * DAY);
    tier.sweep();
    tier.sweep();
    assert_eq!((tier.stats().records, tier.stats().tombstones), (1, 1));
    tier.clock.advance(28 * DAY);
    tier.sweep();
    assert_eq!((tier.stats().records, tier.stats().bytes, tier.stats().expired), (0, 0, 2));
}

// R6: thousands of visitors' sessions and tombstones make memory forget no end of all of a user's sessions.
#[test]
fn visitors_erase_no_end_all() {
    let tier = Tier::new(SMALL);
    let ada = tier.user("ada");
    at_once(tier.node.sessions.end_all_sessions(Principal::new("ada"))).unwrap().unwrap();
    (0..2500).for_each(|_| drop(tier.end(tier.visitor())));
    (0..500).for_each(|_| drop(tier.visitor()));
    assert_eq!(tier.principal(&ada), None);
}

#[test]
fn renewals_leave_only_tombstones() {
    let tier = Tier::new(1 << 20);
    let mut browser = tier.visitor();
    (0..50).for_each(|_| tier.visit(&mut browser, async |session| session.renew().await.unwrap()));
    let stats = tier.stats();
    assert_eq!((stats.records, stats.tombstones), (51, 50));
    assert!(stats.bytes < 400 + 50 * 190, "{stats:?}");
}
