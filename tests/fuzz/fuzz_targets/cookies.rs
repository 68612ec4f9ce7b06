//! Arbitrary bytes as the `Cookie` header and as the body of the writeback: no browser gains a session, and nothing
//! fails.
//!
//! The first byte of the input selects the use of the rest, and the next two bytes give the length of the header's
//! part.
#![no_main]

#[allow(dead_code)]
#[path = "../../it/support"]
mod support {
    pub(crate) mod app;
    pub(crate) mod browser;
    pub(crate) mod node;
    pub(crate) mod tokens;
    pub(crate) mod values;
    pub(crate) mod visits;
    pub(crate) mod waiting;
}

use std::sync::LazyLock;

use http::{HeaderValue, Response, header};
use http_body_util::Full;
use layered_session::{KeyRing, Session, SessionWriteback};
use libfuzzer_sys::fuzz_target;

use crate::support::{
    app::App,
    browser::Browser,
    node::Node,
    tokens::set_cookies,
    values::{Division, Theme, User, Visits},
    waiting::at_once,
};

/// Flags of the first byte: the header's part is the value of a cookie of our name, the body's part is a relay token or
/// one value.
const OUR_NAME: u8 = 1;
const RELAY: u8 = 2;
const VALUE: u8 = 4;

static APP: LazyLock<App> = LazyLock::new(|| {
    let key: [u8; 32] = std::array::from_fn(|n| (n as u8).wrapping_mul(151) ^ 0xa5);
    App::with_keys(KeyRing::new([key]).expect("a key"))
});

/// Asserts that a browser with this header has no session and receives no cookie.
async fn assert_anonymous(node: &Node, cookie: &HeaderValue) {
    let mut request = Browser::new().request();
    request.headers_mut().insert(header::COOKIE, cookie.clone());
    let look = |session: Session| async move {
        let held = (session.get::<Theme>(), session.get::<Visits>(), session.get::<Division>());
        assert_eq!(held, (None, None, None));
        assert_eq!((session.is_new(), session.created_at(), session.get::<User>()), (true, None, None));
        assert_eq!((session.principal(), session.relay()), (None, None));
        (Response::new(Full::default()), ())
    };
    let (response, ()) = node.handle(request, look).await;
    assert!(set_cookies(response.headers()).is_empty());
}

async fn run(input: &[u8]) {
    let Some((&[flags, high, low], rest)) = input.split_first_chunk() else { return };
    let (cookie, body) = rest.split_at(usize::from(u16::from_be_bytes([high, low])) % (rest.len() + 1));
    let name: &[u8] = if flags & OUR_NAME != 0 { b"session=" } else { b"" };
    let Ok(cookie) = HeaderValue::from_bytes(&[name, cookie].concat()) else { return };
    let node = APP.start();
    assert_anonymous(&node, &cookie).await;

    let body = match flags & (RELAY | VALUE) {
        0 => body.to_vec(),
        VALUE => [b"{\"theme\":", body, b"}"].concat(),
        _ => serde_json::json!({ "$relay": String::from_utf8_lossy(body) }).to_string().into(),
    };
    let mut request = Browser::new().post_json(body);
    request.headers_mut().insert(header::COOKIE, cookie.clone());
    let writeback = SessionWriteback::new(&node.sessions).allow::<Division>().and_then(|all| all.allow::<Theme>());
    let answer = node.writeback(writeback.expect("the values are declared"), request).await;
    let status = answer.status.as_u16();
    assert!(matches!(status, 200 | 400 | 413 | 422), "{answer:?}");
    assert!(status == 200 || answer.set_cookies().is_empty(), "{answer:?}");
    assert!(status == 200 || node.sessions.stats().records == 0, "{answer:?}");
    // The request may have begun a session, whose cookie is in the answer. The cookie of the request still opens no
    // session.
    assert_anonymous(&node, &cookie).await;
}

fuzz_target!(|input: &[u8]| at_once(run(input)).expect("nothing waits"));
