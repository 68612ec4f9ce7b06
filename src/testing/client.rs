//! [`Client`]: a browser for tests, over a service instead of a network.

use std::{
    fmt,
    future::{Future, IntoFuture, poll_fn},
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use bytes::Bytes;
use cookie::Cookie;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_TYPE, COOKIE, HOST, ORIGIN},
    request,
};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use tower_service::Service;

use super::{
    error::TestError,
    jar::{Cause, Jar},
    lock,
    response::Response,
    target::{Relation, Target},
};
use crate::{error::BoxError, version::Clock};

/// A browser with a cookie jar, over any service of the application's.
///
/// A client asks the service as a page of `https://example.test` does: with the jar's cookies, `Host`, `Sec-Fetch-Site`
/// and, beside `GET` and `HEAD`, `Origin`. Redirects are not followed: a test asserts on `Location`.
///
/// - [`tab`](Self::tab) is another tab of the same browser, `Client::new` another browser.
/// - [`close`](Self::close) closes the browser, and [`clock`](Self::clock) lets cookies expire in the test's time.
/// - [`from_site`](Self::from_site) asks as a page of another site does.
///
/// The body of the requests is `Full<Bytes>`, which axum's `Router` takes too; [`sending`](Self::sending) chooses
/// another.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, Session, SessionValue, Sessions, tier::BoxError};
/// # use {bytes::Bytes, http::{Request, Response}, http_body_util::Full, tower::{ServiceBuilder, service_fn}};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
/// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
/// use layered_session::testing::Client;
///
/// async fn count(request: Request<Full<Bytes>>) -> Result<Response<String>, BoxError> {
///     let session = Session::load(request.extensions()).await?;
///     let Visits(visits) = session.update(|visits: &mut Visits| visits.0 += 1).await?;
///     Ok(Response::new(visits.to_string()))
/// }
///
/// # futures_util::future::FutureExt::now_or_never(async {
/// # let sessions = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?)).value::<Visits>().build()?;
/// let layer = LayeredSessionLayer::new(sessions);
/// let app = ServiceBuilder::new().layer(layer).service(service_fn(count));
/// let browser = Client::new(app.clone());
/// assert_eq!(browser.get("/").await?.text()?, "1");
/// assert_eq!(browser.tab().get("/").await?.text()?, "2");
/// assert_eq!(Client::new(app).get("/").await?.text()?, "1", "another browser");
/// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
/// ```
pub struct Client<S, B = Full<Bytes>> {
    service: S,
    jar: Arc<Mutex<Jar>>,
    clock: Option<Arc<dyn Clock>>,
    origin: String,
    /// The origin of another page that causes the requests.
    page: Option<String>,
    body: PhantomData<fn() -> B>,
}

impl<S> Client<S> {
    /// Returns a browser without cookies.
    pub fn new(service: S) -> Self {
        Self {
            service,
            jar: Arc::default(),
            clock: None,
            origin: "https://example.test".to_owned(),
            page: None,
            body: PhantomData,
        }
    }
}

impl<S, B> Client<S, B> {
    /// Sends requests with another type of body, for services that take only that type.
    ///
    /// ```
    /// # use {http::{Request, Response}, tower::service_fn, layered_session::tier::BoxError};
    /// use bytes::Bytes;
    /// use layered_session::testing::Client;
    ///
    /// struct Upload(Bytes);
    ///
    /// impl From<Bytes> for Upload {
    ///     fn from(bytes: Bytes) -> Self { Self(bytes) }
    /// }
    ///
    /// let service = service_fn(async |request: Request<Upload>| {
    ///     Ok::<_, BoxError>(Response::new(request.into_body().0.len().to_string()))
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let browser = Client::new(service).sending::<Upload>();
    /// assert_eq!(browser.post("/").body("four").await?.text()?, "4");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    pub fn sending<C: From<Bytes>>(self) -> Client<S, C> {
        let Self { service, jar, clock, origin, page, body: _ } = self;
        Client { service, jar, clock, origin, page, body: PhantomData }
    }

    /// Lets cookies expire by this clock: the one of the test's `Sessions`. Otherwise cookies expire by the system's time.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Asks another origin than `https://example.test`. Plain http, loopback included, gets no `Secure` cookies: see
    /// [`CookieTier::plain_http`](crate::CookieTier::plain_http).
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Begins with the cookies of a jar: a stolen copy, or a browser that was saved.
    pub fn jar(mut self, jar: Jar) -> Self {
        self.jar = Arc::new(Mutex::new(jar));
        self
    }

    /// A copy of the cookies that the browser has now, expired ones included.
    pub fn cookies(&self) -> Jar {
        lock(&self.jar).clone()
    }

    /// The cookie of this name that the browser has, wherever it is sent; the oldest of several.
    pub fn cookie(&self, name: &str) -> Option<Cookie<'static>> {
        lock(&self.jar).get(name).cloned()
    }

    /// Closes the browser and opens it again: cookies without `Max-Age` and `Expires` are gone.
    pub fn close(&self) {
        lock(&self.jar).close();
    }
}

impl<S: Clone, B> Client<S, B> {
    /// Another tab of this browser: the two share their cookies.
    pub fn tab(&self) -> Self {
        Self {
            service: self.service.clone(),
            jar: Arc::clone(&self.jar),
            clock: self.clock.clone(),
            origin: self.origin.clone(),
            page: self.page.clone(),
            body: PhantomData,
        }
    }

    /// A tab of this browser that shows a page of another site, such as `https://evil.example`. The page's links and forms
    /// cause the requests: `SameSite` decides which cookies come along.
    ///
    /// ```
    /// # use {http::{Request, Response}, bytes::Bytes, http_body_util::Full, tower::service_fn, layered_session::tier::BoxError};
    /// use layered_session::testing::Client;
    ///
    /// let service = service_fn(async |request: Request<Full<Bytes>>| {
    ///     let site = request.headers()["sec-fetch-site"].to_str()?.to_owned();
    ///     Ok::<_, BoxError>(Response::new(site))
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let evil = Client::new(service).from_site("https://evil.example");
    /// assert_eq!(evil.post("/transfer").await?.text()?, "cross-site");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    pub fn from_site(&self, origin: impl Into<String>) -> Self {
        Self { page: Some(origin.into()), ..self.tab() }
    }

    /// Begins a `GET`, as a link does.
    pub fn get(&self, path: &str) -> ClientRequest<S, B> {
        self.request(Method::GET, path)
    }

    /// Begins a `POST`, as a form does unless the body is JSON.
    pub fn post(&self, path: &str) -> ClientRequest<S, B> {
        self.request(Method::POST, path)
    }

    /// Begins a request of any method for a path, which begins with `/` and may have a query.
    pub fn request(&self, method: Method, path: &str) -> ClientRequest<S, B> {
        let navigation = method == Method::GET || method == Method::HEAD || method == Method::POST;
        let head = Request::builder().method(method).uri(path);
        ClientRequest { client: self.tab(), head, body: Ok(Bytes::new()), navigation }
    }

    fn now(&self) -> SystemTime {
        self.clock.as_ref().map_or_else(SystemTime::now, |clock| clock.now())
    }
}

/// A request of a [`Client`]: await it for the [`Response`].
#[must_use = "nothing is sent until the request is awaited"]
pub struct ClientRequest<S, B = Full<Bytes>> {
    client: Client<S, B>,
    head: request::Builder,
    body: Result<Bytes, TestError>,
    /// The request comes of a link or a form, not of a script.
    navigation: bool,
}

impl<S, B> ClientRequest<S, B> {
    /// Adds a header field. A field of the browser's own, such as `Host`, `Origin` or `Cookie`, is replaced by this one.
    pub fn header<K, V>(mut self, name: K, value: V) -> Self
    where
        HeaderName: TryFrom<K>,
        <HeaderName as TryFrom<K>>::Error: Into<http::Error>,
        HeaderValue: TryFrom<V>,
        <HeaderValue as TryFrom<V>>::Error: Into<http::Error>,
    {
        self.head = self.head.header(name, value);
        self
    }

    /// Gives the request an extension, as an outer layer would.
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, extension: T) -> Self {
        self.head = self.head.extension(extension);
        self
    }

    /// Sends bytes as they are; their type is for [`header`](Self::header) to say.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Ok(body.into());
        self
    }

    /// Sends the fields of a form.
    ///
    /// ```
    /// # use {http::{Request, Response}, bytes::Bytes, http_body_util::{BodyExt, Full}, tower::service_fn};
    /// # use layered_session::tier::BoxError;
    /// use layered_session::testing::Client;
    ///
    /// let echo = service_fn(async |request: Request<Full<Bytes>>| {
    ///     Ok::<_, BoxError>(Response::new(request.into_body()))
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let form = [("name", "Ada & Bob"), ("city", "Köln")];
    /// let sent = Client::new(echo).post("/").form(form).await?;
    /// assert_eq!(sent.text()?, "name=Ada+%26+Bob&city=K%C3%B6ln");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    pub fn form<K: AsRef<str>, V: AsRef<str>>(mut self, fields: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut body = String::new();
        for (name, value) in fields {
            if !body.is_empty() {
                body.push('&');
            }
            encode(name.as_ref(), &mut body);
            body.push('=');
            encode(value.as_ref(), &mut body);
        }
        self.body = Ok(body.into());
        self.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
    }

    /// Sends a value as JSON, as a page's script does.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        let json = serde_json::to_vec(value).map(Bytes::from);
        self.body = json.map_err(|error| TestError::caused("the value has no JSON", error));
        self.navigation = false;
        self.header(CONTENT_TYPE, "application/json")
    }
}

impl<S, B: From<Bytes>> ClientRequest<S, B> {
    /// Sends the request, and returns the response with its body unread: for event streams. The jar has the cookies
    /// already.
    ///
    /// ```
    /// # use {http::{Request, Response}, bytes::Bytes, http_body_util::Full, tower::service_fn};
    /// # use layered_session::tier::BoxError;
    /// use http_body_util::BodyExt;
    /// use layered_session::testing::Client;
    ///
    /// let events = service_fn(async |_: Request<Full<Bytes>>| {
    ///     Ok::<_, BoxError>(Response::new("data: 1\n\n".to_owned()))
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let mut body = Client::new(events).get("/events").stream().await?.into_body();
    /// let frame = body.frame().await.ok_or("the first event")??;
    /// assert_eq!(frame.data_ref().ok_or("data")?, "data: 1\n\n");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// A request that is none, or a service that fails.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the service may have seen the request; the jar is as before.
    pub async fn stream<R>(self) -> Result<http::Response<R>, TestError>
    where
        S: Service<Request<B>, Response = http::Response<R>, Error: Into<BoxError>> + Clone,
    {
        let Self { mut client, head, body, navigation } = self;
        let none = |error: http::Error| TestError::caused("the request is none", error);
        let mut request = head.body(body?.into()).map_err(none)?;
        if !request.uri().path().starts_with('/') || request.uri().host().is_some() {
            return Err(TestError::new(format!("`{}` is no path: begin with `/`", request.uri())));
        }
        let target = absolute(&client.origin)?.at(request.uri());
        let page = client.page.as_deref().map(absolute).transpose()?;
        let relation = page.as_ref().map_or(Relation::SameOrigin, |page| page.relation_to(&target));
        let cause = Cause { relation, navigation, safe: request.method().is_safe() };
        let now = client.now();
        let cookies = lock(&client.jar).field_for(&target, now, cause);
        dress(&mut request, &target, page.as_ref().unwrap_or(&target), cause, cookies);

        let failed = |error: S::Error| TestError::caused("the service failed", error);
        poll_fn(|cx| client.service.poll_ready(cx)).await.map_err(failed)?;
        let response = client.service.call(request).await.map_err(failed)?;
        lock(&client.jar).take_from(&target, response.headers(), client.now(), cause);
        Ok(response)
    }
}

/// # Errors
///
/// A request that is none, a service that fails, or a body that ends in an error. A status is no error.
///
/// # Cancel safety
///
/// Dropped, the service may have seen the request; the jar is as before, or has taken the cookies of the response.
impl<S, B, R> IntoFuture for ClientRequest<S, B>
where
    S: Service<Request<B>, Response = http::Response<R>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    B: From<Bytes> + Send + 'static,
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Output = Result<Response, TestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            let (head, body) = self.stream().await?.into_parts();
            let body = body.collect().await.map_err(|error| TestError::caused("the body broke off", error))?;
            Ok(Response::new(head, body.to_bytes()))
        })
    }
}

/// The origin in a URL of a scheme and a host.
fn absolute(origin: &str) -> Result<Target, TestError> {
    let url: Uri =
        origin.parse().map_err(|error| TestError::caused("the origin is no URL", http::Error::from(error)))?;
    match (url.scheme(), url.host()) {
        (Some(_), Some(_)) => Ok(Target::of(&url)),
        _ => Err(TestError::new(format!("`{origin}` is no origin: give a scheme and a host, `https://example.test`"))),
    }
}

/// Adds the fields that a browser sends by itself (Fetch, 2.2 and 4.6), where the test has not given them.
fn dress<B>(request: &mut Request<B>, target: &Target, page: &Target, cause: Cause, cookies: Option<HeaderValue>) {
    let sends_origin = !(request.method() == Method::GET || request.method() == Method::HEAD);
    let headers = request.headers_mut();
    add(headers, HOST, target.authority());
    if sends_origin || !cause.navigation && cause.relation != Relation::SameOrigin {
        add(headers, ORIGIN, &page.origin());
    }
    if target.is_trustworthy() {
        let (mode, dest) = if cause.navigation { ("navigate", "document") } else { ("cors", "empty") };
        add(headers, HeaderName::from_static("sec-fetch-site"), cause.relation.name());
        add(headers, HeaderName::from_static("sec-fetch-mode"), mode);
        add(headers, HeaderName::from_static("sec-fetch-dest"), dest);
    }
    if let Some(cookies) = cookies {
        headers.entry(COOKIE).or_insert(cookies);
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        headers.entry(name).or_insert(value);
    }
}

/// Encodes as forms do (URL Standard, `application/x-www-form-urlencoded` serializing).
fn encode(text: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => into.push(char::from(byte)),
            b' ' => into.push('+'),
            _ => into.extend(['%', char::from(HEX[usize::from(byte >> 4)]), char::from(HEX[usize::from(byte & 15)])]),
        }
    }
}

impl<S, B> fmt::Debug for Client<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("origin", &self.origin).field("page", &self.page).finish_non_exhaustive()
    }
}

impl<S, B> fmt::Debug for ClientRequest<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRequest").field("client", &self.client).field("head", &self.head).finish_non_exhaustive()
    }
}
