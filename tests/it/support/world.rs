//! What the tests share: values, a server that is a service, and a browser that keeps cookies.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use layered_session::{
    CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, Scope, Session, SessionValue,
    SessionWriteback, Sessions, SessionsBuilder, WritebackBody,
    testing::{self, Cookie, Jar, ManualClock},
    tier::{BoxError, Commit, Committed, Found, Lookup, Role, Tier, TierFuture},
};
use serde::{Deserialize, Serialize};
use tower::{Layer, ServiceExt, service_fn};

/// The least by which a deadline can be missed.
pub(crate) const TICK: Duration = Duration::from_millis(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// The principal's: -1 for all, else 0 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Division(pub(crate) i64);

impl Default for Division {
    fn default() -> Self {
        Self(-1)
    }
}

impl SessionValue for Division {
    const NAME: &'static str = "current_division_id";
    const SCOPE: Scope = Scope::Principal;

    fn validate(&self) -> Result<(), BoxError> {
        if (-1..=5).contains(&self.0) { Ok(()) } else { Err("no such division".into()) }
    }
}

/// The session's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Theme(pub(crate) String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// What another build of the application keeps under the name of [`Theme`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NumberedTheme(pub(crate) u32);

impl SessionValue for NumberedTheme {
    const NAME: &'static str = Theme::NAME;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Visits(pub(crate) u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
}

/// Who is signed in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct User(pub(crate) String);

impl SessionValue for User {
    const NAME: &'static str = "user";
}

/// Test keys are made, never written down.
pub(crate) fn ring() -> KeyRing {
    KeyRing::generate().expect("the system has randomness")
}

/// Memory, cookie and default over a clock that moves by hand, with every value above, identified by [`User`].
pub(crate) fn builder(ring: &KeyRing, clock: &ManualClock) -> SessionsBuilder {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .tier(DefaultTier::new())
        .value::<Division>()
        .value::<Theme>()
        .value::<Visits>()
        .identify_by::<User>(|user| Some(Principal::new(&user.0)))
        .clock(clock.clone())
}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type Handler = Arc<dyn Fn(Session, Request<Full<Bytes>>) -> BoxFuture<Response<Full<Bytes>>> + Send + Sync>;

/// One node: sessions, and a service that runs whatever handler a test gives, with the writeback at `/store_session`.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) sessions: Sessions,
}

impl Node {
    pub(crate) fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    /// Sends one request through the layer to a handler, which has the loaded session.
    pub(crate) async fn handle<F, Fut, T>(
        &self,
        request: Request<Full<Bytes>>,
        handler: F,
    ) -> (Response<Full<Bytes>>, T)
    where
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = (Response<Full<Bytes>>, T)> + Send + 'static,
        T: Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        let (out, handler) = (Arc::clone(&slot), Mutex::new(Some(handler)));
        let handler: Handler = Arc::new(move |session, _| {
            let handler = handler.lock().unwrap().take().expect("one request, one call");
            let out = Arc::clone(&out);
            Box::pin(async move {
                let (response, value) = handler(session).await;
                *out.lock().unwrap() = Some(value);
                response
            })
        });
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            let handler = Arc::clone(&handler);
            async move {
                let session = Session::load(request.extensions()).await?;
                Ok::<_, BoxError>(handler(session, request).await)
            }
        });
        let response = LayeredSessionLayer::new(self.sessions.clone()).layer(service).oneshot(request).await;
        let value = slot.lock().unwrap().take().expect("the handler ran");
        (response.expect("the handler answers"), value)
    }

    /// Sends one request to the writeback.
    pub(crate) async fn writeback<B>(&self, writeback: SessionWriteback, request: Request<B>) -> Answer
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Answer::of(self.stream(writeback, request).await).await
    }

    /// The same, where the body may go on.
    pub(crate) async fn stream<B>(&self, writeback: SessionWriteback, request: Request<B>) -> Response<WritebackBody>
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let layer = LayeredSessionLayer::new(self.sessions.clone());
        let response = layer.layer(writeback).oneshot(request).await;
        response.unwrap_or_else(|error: Infallible| match error {})
    }
}

/// A store in which somebody else was always faster, and what they wrote.
#[derive(Debug)]
pub(crate) struct Faster(pub(crate) fn() -> Found);

impl Tier for Faster {
    fn name(&self) -> &'static str {
        "faster"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::ready(Ok(Found::nothing()))
    }

    fn write<'a>(&'a self, _: Commit<'a>) -> TierFuture<'a, Committed> {
        TierFuture::ready(Ok(Committed::Outdated((self.0)())))
    }
}

/// A response, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of<B: Body<Data = Bytes, Error = Infallible>>(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a full body").to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn set_cookies(&self) -> Vec<String> {
        set_cookies(&self.headers)
    }
}

pub(crate) fn set_cookies(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// The session's id, which a token has in clear after its version and the key's id.
pub(crate) fn id_of(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token).expect("a token")[5..37].to_vec()
}

/// Reads a `Set-Cookie` as a browser does.
pub(crate) fn parsed(set_cookie: &str) -> Cookie<'static> {
    Cookie::parse(set_cookie.to_owned()).expect("a cookie")
}

/// The attributes of a `Set-Cookie` as they stand.
pub(crate) fn attributes(set_cookie: &str) -> &str {
    let pair = parsed(set_cookie).stripped().to_string();
    set_cookie.strip_prefix(&pair).and_then(|rest| rest.strip_prefix("; ")).expect("attributes after the pair")
}

/// A browser with the jar of the testing kit. Its cookies never expire: a server must not trust browsers to drop them.
#[derive(Clone, Debug)]
pub(crate) struct Browser {
    jar: Jar,
    url: Uri,
    /// A pair that no browser would keep, which any other client can send.
    forged: String,
}

impl Default for Browser {
    fn default() -> Self {
        // Over TLS, so that the browser keeps cookies with and without `Secure`.
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

    /// A POST as the hook in such a page sends it.
    pub(crate) fn post_json(&self, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = self.request_of_page(Method::POST, "/", body);
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        request
    }

    /// Does what a response says about cookies.
    pub(crate) fn take(&mut self, headers: &HeaderMap) {
        let set = testing::set_cookies(headers);
        if set.iter().any(|cookie| self.forged.split('=').next() == Some(cookie.name())) {
            self.forged.clear();
        }
        self.jar.take(&self.url, headers, SystemTime::UNIX_EPOCH);
    }

    /// Keeps a cookie as it is, beside others of its name.
    pub(crate) fn plant(&mut self, cookie: Cookie<'static>) {
        self.jar.insert(&self.url, cookie, SystemTime::UNIX_EPOCH);
    }

    /// The jar, for tests of several cookies.
    pub(crate) const fn jar(&self) -> &Jar {
        &self.jar
    }

    /// One visit: a request with its cookies, a handler, and the response's cookies into the jar.
    pub(crate) async fn visit<F, Fut, T>(&mut self, node: &Node, handler: F) -> T
    where
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        self.visit_seen(node, handler).await.1
    }

    /// The same, with the response's headers.
    pub(crate) async fn visit_seen<F, Fut, T>(&mut self, node: &Node, handler: F) -> (HeaderMap, T)
    where
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let answered = async move |session| (Response::new(Full::default()), handler(session).await);
        let (response, value) =
            node.handle(self.request(), |session| Box::pin(answered(session)) as BoxFuture<_>).await;
        self.take(response.headers());
        (response.headers().clone(), value)
    }
}
