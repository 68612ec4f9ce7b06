//! A service, and the browsers that use it.

use bytes::BytesMut;
use http::{HeaderValue, Request, Response, header};
use layered_session::testing::set_cookies;

use crate::{
    peer::{Call, Peer},
    workload::{COOKIE, Number, OTHERS, PART, Workload, part},
};

/// The number of browsers, which take turns.
pub const BROWSERS: usize = 1024;

pub struct Subject {
    peer: Peer,
    workload: Workload,
    call: Call,
    browsers: Vec<Browser>,
    /// The indices of the browsers in the order of their requests.
    order: Vec<u32>,
    turn: usize,
}

struct Browser {
    cookies: Option<HeaderValue>,
    /// The integer in the browser's session.
    count: i64,
}

impl Subject {
    /// Begins each browser's session and sends one request of each browser, so that all caches are warm.
    ///
    /// # Panics
    ///
    /// Panics if the peer does not do the work.
    pub fn new(peer: Peer, workload: Workload, browsers: usize) -> Self {
        let open = peer.open();
        let mut begin = open(workload.beginning());
        let browser = |_| {
            let cookies = match workload {
                Workload::NoCookie => None,
                Workload::CookiesButNotOurs => Some(HeaderValue::from_static(OTHERS)),
                _ => Some(cookies(peer, &begin(Request::new(()))).expect("a write sends the cookie")),
            };
            Browser { cookies, count: 1 }
        };
        let browsers = (0..browsers).map(browser).collect::<Vec<_>>();
        let order = (0..browsers.len() as u32).collect();
        let call = open(workload.task());
        let mut subject = Self { peer, workload, call, browsers, order, turn: 0 };
        for _ in 0..subject.browsers.len() {
            let (browser, request) = subject.request();
            // Calls the service past `measured`, so that a profiler that selects `measured` does not count these
            // requests.
            let response = (subject.call)(request);
            subject.keep(browser, &response);
        }
        subject
    }

    /// Shuffles the browsers, so that no cache prefetches the next browser's session.
    pub fn shuffled(mut self) -> Self {
        // The same seed for every peer.
        fastrand::Rng::with_seed(1).shuffle(&mut self.order);
        self
    }

    /// Makes the next browser's request.
    pub fn request(&mut self) -> (usize, Request<()>) {
        let browser = self.order[self.turn % self.order.len()] as usize;
        self.turn += 1;
        let mut request = Request::new(());
        if let Some(cookies) = &self.browsers[browser].cookies {
            request.headers_mut().insert(header::COOKIE, as_received(cookies));
        }
        (browser, request)
    }

    pub fn send(&mut self, request: Request<()>) -> Response<Number> {
        measured(&mut self.call, request)
    }

    /// Checks an answer, and stores or drops the cookie as the answer says.
    pub fn keep(&mut self, browser: usize, response: &Response<Number>) {
        let (peer, workload) = (self.peer, self.workload);
        let browser = &mut self.browsers[browser];
        let expected = match workload {
            _ if peer == Peer::Bare => 0,
            Workload::NoCookie | Workload::CookiesButNotOurs | Workload::Untouched => 0,
            Workload::Read | Workload::Bump => browser.count,
            Workload::ReadPart => part(PART).len() as i64,
        };
        assert_eq!(response.body().0, expected, "{} in {}", peer.name(), workload.name());
        if workload == Workload::Bump {
            browser.count += 1;
        }
        if workload.has_session() && peer != Peer::Bare {
            browser.cookies = cookies(peer, response).or_else(|| browser.cookies.take());
        }
    }
}

/// The measured call. Not inlined, so that profilers can tell the call from the rest.
#[inline(never)]
pub fn measured(call: &mut Call, request: Request<()>) -> Response<Number> {
    call(request)
}

/// Makes a header field as a server does: fresh bytes, part of the read buffer.
pub fn as_received(field: &HeaderValue) -> HeaderValue {
    let mut buffer = BytesMut::from(field.as_bytes());
    let bytes = buffer.split_to(field.len()).freeze();
    HeaderValue::from_maybe_shared(bytes).expect("bytes of a header")
}

/// The `Cookie` header of a browser after a response, if the response sets the session's cookie.
pub fn cookies(peer: Peer, response: &Response<Number>) -> Option<HeaderValue> {
    let pair = match peer {
        // The bare service reads no cookie.
        Peer::Bare => format!("{COOKIE}=AAAAAAAAAAAAAAAAAAAAAA"),
        _ => {
            let set = set_cookies(response.headers());
            set.iter().find(|cookie| cookie.name().starts_with(COOKIE))?.stripped().to_string()
        }
    };
    format!("{OTHERS}; {pair}").parse().ok()
}
