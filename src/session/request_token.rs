//! What a request's cookie held.

use std::sync::Arc;

use crate::{
    id::{RecordKey, SessionId},
    memory::record::Record,
    record::cookie_sync::CookieSnapshot,
    value::ValueIndex,
    version::Version,
};

/// What the request's cookie held.
#[derive(Debug, Default)]
pub(super) struct RequestToken {
    /// The session whose token it was.
    pub(super) key: Option<RecordKey>,
    /// Set if it held all that there was.
    pub(super) cookie: Option<CookieSnapshot>,
    /// The record of its user, if values of that were in it and it was not opened: what isn't here any more when the head
    /// leaves, the next cookie would lack.
    pub(super) principal: Option<Arc<Record>>,
    /// The tokens that came, unless that was a single one, of the session above.
    pub(super) cookie_tokens: Option<Box<CookieTokens>>,
    /// What the cookie answered for, with the version.
    pub(super) from_cookie: Box<[(ValueIndex, Version)]>,
}

impl RequestToken {
    /// The tokens that the request brought. Of an upgrade that another site caused none was looked at.
    pub(super) fn cookie_tokens(&self) -> CookieTokens {
        let only = || self.key.map(|key| SessionId::from_bytes(key.0)).into_iter().collect();
        let single = || CookieTokens { ids: only(), unread: false, opened: self.opened() };
        self.cookie_tokens.as_deref().cloned().unwrap_or_else(single)
    }

    /// How many tokens of ours opened.
    pub(super) fn opened(&self) -> usize {
        self.cookie_tokens.as_ref().map_or_else(|| usize::from(self.key.is_some()), |came| came.opened)
    }
}

/// The tokens that a request brought under our cookie's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CookieTokens {
    /// The sessions of genuine tokens whose absolute deadline has not come, each once, whatever the seal's idle deadline.
    pub(super) ids: Vec<SessionId>,
    /// Whether any value did not open, or was not tried: more values than four, more bytes or pairs than are read.
    pub(super) unread: bool,
    /// How many tokens opened, whatever their deadlines.
    opened: usize,
}

impl CookieTokens {
    /// Values of which nothing is known.
    pub(super) fn unread() -> Self {
        Self { unread: true, ..Self::default() }
    }

    pub(super) const fn is_nothing(&self) -> bool {
        self.ids.is_empty() && !self.unread
    }

    /// Notes a token that opened. `lives` says whether its absolute deadline has yet to come.
    pub(super) fn add(&mut self, id: SessionId, lives: bool) {
        self.opened += 1;
        if lives && !self.ids.contains(&id) {
            self.ids.push(id);
        }
    }
}

#[cfg(feature = "testing")]
#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use http::{HeaderMap, HeaderValue, header::COOKIE};
    use serde::{Deserialize, Serialize};

    use super::CookieTokens;
    use crate::{
        cookie::{CookieTier, header::Fields, keyring::KeyRing},
        cross_site::CrossSite,
        id::SessionId,
        memory::MemoryTier,
        session::{
            Session,
            load::head::RequestHead,
            loader::{Arrival, Loader},
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
            Poll::Pending => unreachable!("nothing to wait for"),
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

    /// A new session, and the token that its response carries.
    fn begun(node: &Sessions) -> (SessionId, String) {
        let session = load(node, &[], None);
        at_once(session.set(Visits(1))).unwrap();
        (session.shared().live(node.node.now()).unwrap().id(), sealed(node, &session))
    }

    fn sealed(node: &Sessions, session: &Session) -> String {
        let header = crate::session::cookie_out::set_cookie(session.shared(), node.node.now()).unwrap();
        header.to_str().unwrap().split(['=', ';']).nth(1).unwrap().to_owned()
    }

    fn brought(node: &Sessions, values: &[&str]) -> (Vec<SessionId>, bool) {
        let CookieTokens { ids, unread, .. } = load(node, values, None).shared().request_token.cookie_tokens();
        (ids, unread)
    }

    #[test]
    fn tokens_brought_are_named() {
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
            assert_eq!(brought(node, &[newer]), (vec![one], false), "recognised or opened");
            assert_eq!(brought(node, &[&first, newer]), (vec![one], false));
            assert_eq!(brought(node, &[&first, &second]), (vec![one, other], false));
            assert_eq!(brought(node, &[&first, &foreign]), (vec![one], true));
            assert_eq!(brought(node, &[&foreign]), (vec![], true));
            assert_eq!(brought(node, &["1", "2", "3", &first, "5"]), (vec![one], true));
            let four = [&first, &written[0], &written[1], &written[2]].map(String::as_str);
            assert_eq!(brought(node, &four), (vec![one], false));
            assert_eq!(brought(node, &[&four[..], &["5"]].concat()), (vec![one], true), "a fifth came");
            assert_eq!(brought(node, &[&first, &"x".repeat(16 << 10)]), (vec![], true), "over the cap");
        }
        let five = ["1", "2", "3", "4", &first];
        assert_eq!(brought(&cold(), &five), (vec![], true), "the fifth is not tried");
    }

    #[test]
    fn tokens_brought_outlive_idleness_alone() {
        let (ring, clock) = (KeyRing::generate().unwrap(), ManualClock::new());
        let warm = node(&ring, &clock);
        let (id, token) = begun(&warm);
        clock.advance(2 * DAY);
        for node in [&warm, &node(&ring, &clock)] {
            let session = load(node, &[&token], None);
            assert!(session.is_new(), "idled out");
            assert_eq!(session.shared().request_token.cookie_tokens().ids, [id]);
        }
        clock.advance(28 * DAY);
        for node in [&warm, &node(&ring, &clock)] {
            assert_eq!(brought(node, &[&token]), (vec![], false), "genuine, and past its absolute deadline");
        }
    }

    #[test]
    fn tokens_brought_name_ended_ids() {
        let (ring, clock) = (KeyRing::generate().unwrap(), ManualClock::new());
        let node = node(&ring, &clock);
        let (id, token) = begun(&node);
        at_once(load(&node, &[&token], None).destroy()).unwrap();
        for span in [0, 61] {
            clock.advance(Duration::from_secs(span));
            assert_eq!(brought(&node, &[&token]), (vec![id], false));
        }
        let withheld =
            load(&node, &[&token, "garbage"], Some(CrossSite::Withheld)).shared().request_token.cookie_tokens();
        assert_eq!((withheld.ids, withheld.unread), (vec![id], true));
    }
}
