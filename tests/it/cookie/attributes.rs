//! The cookie's attributes and path: the configuration decides both, and no request does.

use http::{Method, header};
use layered_session::CookieTier;

use crate::support::{App, Browser, Node, Theme, attributes, chain, id_of, memory, parsed, set_cookies, theme};

/// A node whose cookie has a path of its own.
fn node(app: &App) -> Node {
    let cookie = CookieTier::sealed(app.ring.clone()).name("__Secure-session").path("/app");
    let chain = chain(memory(), cookie, &app.clock);
    Node::new(chain.value::<Theme>().build().unwrap())
}

/// The cookie of the answer to a first write: the token, and the attributes as the header spells them.
async fn first_write(node: &Node, path: &str, fields: &[(&'static str, &str)]) -> (String, String) {
    let mut request = Browser::new().request_of(Method::GET, path, "");
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let write = async |session: layered_session::Session| {
        (http::Response::default(), session.set(theme("dark")).await.unwrap())
    };
    let (response, ()) = node.handle(request, write).await;
    let cookie = set_cookies(response.headers()).remove(0);
    (parsed(&cookie).value().to_owned(), attributes(&cookie).to_owned())
}

#[tokio::test]
async fn attributes_ignore_the_request() {
    let node = node(&App::new());
    // Two days less a minute.
    let expected = "HttpOnly; SameSite=Lax; Secure; Path=/app; Max-Age=172740";
    let host = header::HOST.as_str();
    for (path, fields) in [
        ("/app", &[][..]),
        ("http://app.example/app", &[]),
        ("https://other.example/", &[(host, "other.example:8443")]),
        (
            "/app",
            &[("x-forwarded-proto", "http"), ("x-forwarded-host", "evil.example"), ("x-forwarded-prefix", "/evil")],
        ),
        ("/app", &[("forwarded", "proto=http;host=evil.example"), ("x-forwarded-ssl", "off")]),
        ("/app", &[("origin", "http://app.example")]),
    ] {
        assert_eq!(first_write(&node, path, fields).await.1, expected, "{path} {fields:?}");
    }
}

#[tokio::test]
async fn request_outside_cookie_path_begins_session() {
    let node = node(&App::new());
    let (inside, _) = first_write(&node, "/app/page", &[]).await;
    // The browser does not send the cookie to this path.
    let (outside, attributes) = first_write(&node, "/elsewhere", &[]).await;
    assert!(attributes.contains("Path=/app"), "the new cookie replaces the other cookie");
    assert_ne!(id_of(&inside), id_of(&outside));
    assert_eq!(node.sessions.stats().records, 2);
}
