//! A browser that keeps cookies.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::Full;
use layered_session::{
    Session,
    testing::{self, Cookie, Jar},
};

use super::{node::Node, tokens::set_cookies, values::Theme};

/// A browser with the jar of the testing kit. Cookies in the jar never expire: a server must not trust browsers to drop
/// expired cookies.
#[derive(Clone, Debug)]
pub(crate) struct Browser {
    jar: Jar,
    url: Uri,
    /// A cookie pair that no browser would keep. Any other client can send such a pair.
    forged: String,
}

impl Default for Browser {
    fn default() -> Self {
        // The URL has TLS, so that the browser keeps cookies with and without `Secure`.
        Self::at("https://app.example/")
    }
}

impl Browser {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A browser whose cookies belong to this URL, for requests of any path.
    pub(crate) fn at(url: &'static str) -> Self {
        Self { jar: Jar::new(), url: Uri::from_static(url), forged: String::new() }
    }

    /// The value of a kept cookie.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.jar.get(name).map(Cookie::value)
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.jar.remove(name);
        self.forged.clear();
        self.plant(Cookie::build((name.to_owned(), value.to_owned())).path("/").secure(true).build());
        if self.cookie(name) != Some(value) {
            self.forged = format!("{name}={value}");
        }
    }

    pub(crate) fn request(&self) -> Request<Full<Bytes>> {
        self.request_of(Method::GET, "/", Bytes::new())
    }

    pub(crate) fn request_of(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "app.example");
        let kept = self.jar.field(&self.url, SystemTime::UNIX_EPOCH);
        let pairs = [kept.as_ref().and_then(|kept| kept.to_str().ok()), Some(self.forged.as_str())];
        let pairs: Vec<_> = pairs.into_iter().flatten().filter(|pair| !pair.is_empty()).collect();
        if !pairs.is_empty() {
            request = request.header(header::COOKIE, pairs.join("; "));
        }
        request.body(Full::new(body.into())).expect("a request")
    }

    /// A request of a page of this application.
    pub(crate) fn request_of_page(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = self.request_of(method, path, body);
        request.headers_mut().insert("sec-fetch-site", "same-origin".parse().unwrap());
        request
    }

    /// A POST of the hook in a page of this application.
    pub(crate) fn post_json(&self, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = self.request_of_page(Method::POST, "/", body);
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        request
    }

    /// Takes the response's cookies into the jar.
    pub(crate) fn take(&mut self, headers: &HeaderMap) {
        let set = testing::set_cookies(headers);
        if set.iter().any(|cookie| self.forged.split('=').next() == Some(cookie.name())) {
            self.forged.clear();
        }
        self.jar.take(&self.url, headers, SystemTime::UNIX_EPOCH);
    }

    /// Puts a cookie unchanged into the jar, beside others of the same name.
    pub(crate) fn plant(&mut self, cookie: Cookie<'static>) {
        self.jar.insert(&self.url, cookie, SystemTime::UNIX_EPOCH);
    }

    /// The jar, for tests of several cookies.
    pub(crate) const fn jar(&self) -> &Jar {
        &self.jar
    }

    /// Visits a node: sends a request with the browser's cookies to a handler, and takes the response's cookies into
    /// the jar.
    pub(crate) async fn visit<T>(&mut self, node: &Node, handler: impl AsyncFnOnce(Session) -> T) -> T {
        self.visit_seen(node, handler).await.1
    }

    /// Visits a node, and returns the response's headers too.
    pub(crate) async fn visit_seen<T>(
        &mut self,
        node: &Node,
        handler: impl AsyncFnOnce(Session) -> T,
    ) -> (HeaderMap, T) {
        let (headers, value) = node.ask(self.request(), handler).await;
        self.take(&headers);
        (headers, value)
    }

    /// The theme that a request of this browser reads. The jar ignores the response's cookies.
    pub(crate) async fn theme(&self, node: &Node) -> Theme {
        self.clone().visit(node, async |session| session.value::<Theme>()).await
    }

    /// Visits, and returns the response's `Set-Cookie` fields.
    pub(crate) async fn told(&mut self, node: &Node, handler: impl AsyncFnOnce(Session)) -> Vec<String> {
        set_cookies(&self.visit_seen(node, handler).await.0)
    }

    /// Reads, and returns the response's `Set-Cookie` fields.
    pub(crate) async fn read(&mut self, node: &Node) -> Vec<String> {
        self.told(node, async |session| drop(session.value::<Theme>())).await
    }

    /// Writes a theme, and returns the response's `Set-Cookie` fields.
    pub(crate) async fn write(&mut self, node: &Node, theme: &'static str) -> Vec<String> {
        self.told(node, async move |session| session.set(Theme(theme.into())).await.unwrap()).await
    }

    /// A handle that outlives the request, as a socket's handle does.
    pub(crate) async fn open(&mut self, node: &Node) -> Session {
        self.visit(node, async |session| session).await
    }

    /// The session's cookie.
    pub(crate) fn token(&self) -> &str {
        self.cookie("session").expect("a session's cookie")
    }

    /// A browser with this text alone as the session's cookie.
    pub(crate) fn bringing(token: &str) -> Self {
        let mut browser = Self::new();
        browser.set("session", token);
        browser
    }
}
