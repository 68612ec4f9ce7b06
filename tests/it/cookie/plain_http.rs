//! The trace of a `Secure` cookie that the browser drops because the page came by plain HTTP.

use http::{Method, Response, header};
use layered_session::{CookieTier, SameSite, Session};

use crate::support::{App, Browser, Node, Theme, Trace, chain, memory, set_cookies, theme};

const TRACED: &str = "browsers drop";

/// A node with a cookie configured by the test.
fn node(app: &App, cookie: impl FnOnce(CookieTier) -> CookieTier) -> Node {
    let cookie = cookie(CookieTier::sealed(app.ring.clone()));
    let chain = chain(memory(), cookie, &app.clock);
    Node::new(chain.value::<Theme>().build().unwrap())
}

/// Makes the first write of a page, with these fields. Returns the number of cookies.
async fn write(node: &Node, method: Method, fields: &[(&'static str, &str)]) -> usize {
    let mut request = Browser::new().request_of(method, "/login", "");
    request.headers_mut().remove(header::HOST);
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let write = async |session: Session| (Response::default(), session.set(theme("dark")).await.unwrap());
    let (response, ()) = node.handle(request, write).await;
    set_cookies(response.headers()).len()
}

/// The fields of a form that Chromium posts over plain HTTP to a host other than loopback.
const LAN: &[(&str, &str)] = &[("host", "lan.test:3000"), ("origin", "http://lan.test:3000")];

#[tokio::test]
async fn cookie_dropped_by_browser_is_traced_once() {
    let (trace, _guard) = Trace::begin();
    let node = node(&App::new(), |cookie| cookie);
    for _ in 0..3 {
        assert_eq!(write(&node, Method::POST, LAN).await, 1);
    }
    assert_eq!(trace.lines_with("WARN"), 1, "{}", trace.text());
    for part in [TRACED, "https", "`CookieTier::plain_http`"] {
        assert_eq!(trace.lines_with(part), 1, "no {part:?}: {}", trace.text());
    }
}

#[tokio::test]
async fn plain_http_to_remote_host_is_traced() {
    for (host, origin) in [
        ("192.168.1.5", "http://192.168.1.5"),
        ("192.168.1.5:80", "http://192.168.1.5"),
        ("[2001:db8::1]:3000", "http://[2001:db8::1]:3000"),
        ("localhost.test", "http://localhost.test"),
        ("notlocalhost", "http://notlocalhost"),
        ("128.0.0.1", "http://128.0.0.1"),
    ] {
        let (trace, _guard) = Trace::begin();
        write(&node(&App::new(), |cookie| cookie), Method::POST, &[("host", host), ("origin", origin)]).await;
        assert_eq!(trace.lines_with(TRACED), 1, "{origin}: {}", trace.text());
    }
}

#[tokio::test]
async fn accepted_cookie_is_not_traced() {
    let https = ("origin", "https://lan.test:3000");
    let host = ("host", "lan.test:3000");
    let loopback = |origin: &'static str| [("host", origin.split_once("://").unwrap().1), ("origin", origin)];
    let kept: &[&[(&str, &str)]] = &[
        &[host, https],
        &[host],
        &[host, ("origin", "null")],
        &[host, ("origin", "http://other.test:3000")],
        &[host, ("origin", "http://lan.test:3001")],
        &[host, ("origin", "http://lan.test:3000"), ("origin", "http://lan.test:3000")],
        // Browsers send Fetch Metadata to HTTPS and loopback origins only.
        &[LAN[0], LAN[1], ("sec-fetch-site", "cross-site")],
        &loopback("http://localhost:3000"),
        &loopback("http://LOCALHOST"),
        &loopback("http://app.localhost:3000"),
        &loopback("http://127.0.0.1:3000"),
        &loopback("http://127.8.9.1"),
        &loopback("http://[::1]:3000"),
        // Any client can send these fields. A proxy speaks plain HTTP to the server, also for a browser on HTTPS.
        &[host, ("x-forwarded-proto", "http"), ("forwarded", "proto=http"), https],
    ];
    for fields in kept {
        let (trace, _guard) = Trace::begin();
        // `SameSite::None` turns the cross-site rule off, so that each of these requests gets a cookie.
        let node = node(&App::new(), |cookie| cookie.same_site(SameSite::None));
        assert_eq!(write(&node, Method::POST, fields).await, 1, "{fields:?}");
        assert_eq!(trace.lines_with(TRACED), 0, "{fields:?}: {}", trace.text());
        write(&node, Method::POST, LAN).await;
        assert_eq!(trace.lines_with(TRACED), 1, "the next request of {fields:?}: {}", trace.text());
    }
}

#[tokio::test]
async fn plain_cookie_or_read_traces_nothing() {
    let (trace, _guard) = Trace::begin();
    assert_eq!(write(&node(&App::new(), CookieTier::plain_http), Method::POST, LAN).await, 1);
    let node = node(&App::new(), |cookie| cookie);
    let mut request = Browser::new().request_of(Method::POST, "/", "");
    for (name, value) in LAN {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let read = async |session: Session| (Response::default(), session.get::<Theme>());
    assert_eq!(node.handle(request, read).await.1, None);
    assert_eq!(trace.lines_with(TRACED), 0, "{}", trace.text());
    write(&node, Method::POST, LAN).await;
    assert_eq!(trace.lines_with(TRACED), 1, "{}", trace.text());
}
