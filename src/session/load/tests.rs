//! The session ids that a request's cookie tokens name, and whether a token could not be read.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header::COOKIE};
use serde::{Deserialize, Serialize};

use crate::{
    cookie::{CookieTier, header::Fields, keyring::KeyRing},
    cross_site::CrossSite,
    id::SessionId,
    memory::MemoryTier,
    session::{
        Session,
        load::token::RequestHead,
        loader::{Arrival, Loader},
        shared::CookieTokens,
    },
    sessions::Sessions,
    testing::ManualClock,
    value::SessionValue,
};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Visits(u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
}

const DAY: Duration = Duration::from_secs(86_400);

fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("no store, so no future waits"),
    }
}

fn node(ring: &KeyRing, clock: &ManualClock) -> Sessions {
    let builder = Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .value::<Visits>();
    builder.clock(clock.clone()).build().unwrap()
}

fn load(node: &Sessions, values: &[&str], cross_site: Option<CrossSite>) -> Session {
    let mut headers = HeaderMap::new();
    let pairs: Vec<_> = values.iter().map(|value| format!("session={value}")).collect();
    if !values.is_empty() {
        headers.insert(COOKIE, HeaderValue::try_from(pairs.join("; ")).unwrap());
    }
    let cookies = Fields::note(&mut headers);
    Loader::new(Arrival {
        head: RequestHead { node: Arc::clone(&node.node), cookies, cross_site, upgrade: false, facts: None },
        refused: None,
        outer: None,
    })
    .load_now()
    .unwrap()
}

/// Begins a session, and returns its id and the token of the response's cookie.
fn begun(node: &Sessions) -> (SessionId, String) {
    let session = load(node, &[], None);
    at_once(session.set(Visits(1))).unwrap();
    (session.shared().live(node.node.now()).unwrap().id(), sealed(node, &session))
}

fn sealed(node: &Sessions, session: &Session) -> String {
    let header = crate::session::cookie_out::set_cookie(session.shared(), node.node.now()).unwrap();
    header.to_str().unwrap().split(['=', ';']).nth(1).unwrap().to_owned()
}

/// Returns the session ids that the tokens of a request name, and whether a token could not be read.
fn brought(node: &Sessions, values: &[&str]) -> (Vec<SessionId>, bool) {
    let CookieTokens { ids, unread, .. } = load(node, values, None).shared().request_token.cookie_tokens();
    (ids, unread)
}

#[test]
fn opened_tokens_name_their_sessions() {
    let (ring, clock) = (KeyRing::generate().unwrap(), ManualClock::new());
    let (warm, cold) = (node(&ring, &clock), || node(&ring, &clock));
    let ((one, first), (other, second)) = (begun(&warm), begun(&warm));
    let (_, foreign) = begun(&node(&KeyRing::generate().unwrap(), &clock));
    let again = load(&warm, &[&first], None);
    let written = [2, 3, 4].map(|visits| {
        at_once(again.set(Visits(visits))).unwrap();
        sealed(&warm, &again)
    });
    let newer = &written[2];
    for node in [&warm, &cold()] {
        assert_eq!(brought(node, &[]), (vec![], false));
        assert_eq!(brought(node, &[newer]), (vec![one], false), "memory knows the token, or the key ring opens it");
        assert_eq!(brought(node, &[&first, newer]), (vec![one], false));
        assert_eq!(brought(node, &[&first, &second]), (vec![one, other], false));
        assert_eq!(brought(node, &[&first, &foreign]), (vec![one], true));
        assert_eq!(brought(node, &[&foreign]), (vec![], true));
        assert_eq!(brought(node, &["1", "2", "3", &first, "5"]), (vec![one], true));
        let four = [&first, &written[0], &written[1], &written[2]].map(String::as_str);
        assert_eq!(brought(node, &four), (vec![one], false));
        assert_eq!(brought(node, &[&four[..], &["5"]].concat()), (vec![one], true), "a fifth value counts as unread");
        assert_eq!(
            brought(node, &[&first, &"x".repeat(16 << 10)]),
            (vec![], true),
            "a header over the cap is not read"
        );
    }
    let five = ["1", "2", "3", "4", &first];
    assert_eq!(brought(&cold(), &five), (vec![], true), "the fifth value is not opened");
}

#[test]
fn idled_out_token_still_names_the_session() {
    let (ring, clock) = (KeyRing::generate().unwrap(), ManualClock::new());
    let warm = node(&ring, &clock);
    let (id, token) = begun(&warm);
    clock.advance(2 * DAY);
    for node in [&warm, &node(&ring, &clock)] {
        let session = load(node, &[&token], None);
        assert!(session.is_new(), "the session has idled out");
        assert_eq!(session.shared().request_token.cookie_tokens().ids, [id]);
    }
    clock.advance(28 * DAY);
    for node in [&warm, &node(&ring, &clock)] {
        assert_eq!(brought(node, &[&token]), (vec![], false), "a token past its absolute deadline names nothing");
    }
}

#[test]
fn ended_sessions_token_still_names_the_session() {
    let (ring, clock) = (KeyRing::generate().unwrap(), ManualClock::new());
    let node = node(&ring, &clock);
    let (id, token) = begun(&node);
    at_once(load(&node, &[&token], None).destroy()).unwrap();
    for span in [0, 61] {
        clock.advance(Duration::from_secs(span));
        assert_eq!(brought(&node, &[&token]), (vec![id], false));
    }
    let withheld = load(&node, &[&token, "garbage"], Some(CrossSite::Withheld)).shared().request_token.cookie_tokens();
    assert_eq!((withheld.ids, withheld.unread), (vec![id], true));
}
