//! [`Client`]: a browser for tests, over a service instead of a network.

use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use bytes::Bytes;
use cookie::Cookie;
use http_body_util::Full;

use super::{jar::Jar, lock};
use crate::time::Clock;

/// A browser with a cookie jar, over any service of the application's.
///
/// A client asks the service as a page of `https://example.test` does: with the jar's cookies, `Host` and
/// `Sec-Fetch-Site`, and with `Origin` for all methods except `GET` and `HEAD`. The client does not follow redirects: a
/// test asserts on `Location`.
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
    pub(super) service: S,
    jar: Arc<Mutex<Jar>>,
    clock: Option<Arc<dyn Clock>>,
    pub(super) origin: String,
    /// The origin of another page that causes the requests.
    pub(super) page: Option<String>,
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
    /// Sends requests with another type of body, for services that take only that other type.
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

    /// Lets cookies expire by a clock, such as the clock of the test's `Sessions`. Without this call cookies expire by
    /// the system's time.
    ///
    /// ```
    /// # use {http::{Request, Response}, bytes::Bytes, http_body_util::Full, tower::service_fn};
    /// # use layered_session::tier::BoxError;
    /// use std::time::Duration;
    /// use layered_session::testing::{Client, ManualClock};
    ///
    /// let service = service_fn(async |request: Request<Full<Bytes>>| {
    ///     let seen = request.headers().contains_key("cookie").to_string();
    ///     let response = Response::builder().header("set-cookie", "seen=1; Max-Age=60");
    ///     Ok::<_, BoxError>(response.body(seen)?)
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let clock = ManualClock::new();
    /// let browser = Client::new(service).clock(clock.clone());
    /// assert_eq!(browser.get("/").await?.text()?, "false");
    /// assert_eq!(browser.get("/").await?.text()?, "true");
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(browser.get("/").await?.text()?, "false");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
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
    ///
    /// ```
    /// # use {http::{Request, Response}, bytes::Bytes, http_body_util::Full, tower::service_fn};
    /// # use layered_session::tier::BoxError;
    /// use layered_session::testing::Client;
    ///
    /// let service = service_fn(async |request: Request<Full<Bytes>>| {
    ///     let cookie = request.headers().get("cookie").map_or("none", |_| "some").to_owned();
    ///     let response = Response::builder().header("set-cookie", "seen=1");
    ///     Ok::<_, BoxError>(response.body(cookie)?)
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let browser = Client::new(service.clone());
    /// browser.get("/").await?;
    /// let thief = Client::new(service).jar(browser.cookies());
    /// browser.close();
    /// assert_eq!(thief.get("/").await?.text()?, "some");
    /// assert_eq!(browser.get("/").await?.text()?, "none");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    pub fn jar(mut self, jar: Jar) -> Self {
        self.jar = Arc::new(Mutex::new(jar));
        self
    }

    /// Returns a copy of the cookies that the browser has now, expired cookies included.
    pub fn cookies(&self) -> Jar {
        lock(&self.jar).clone()
    }

    /// Returns the browser's cookie of this name, for any host and path; the oldest of several.
    pub fn cookie(&self, name: &str) -> Option<Cookie<'static>> {
        lock(&self.jar).get(name).cloned()
    }

    /// Closes the browser and opens it again: cookies without `Max-Age` and `Expires` are gone.
    pub fn close(&self) {
        lock(&self.jar).close();
    }
}

impl<S: Clone, B> Client<S, B> {
    /// Returns another tab of this browser. All tabs share the cookies.
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

    /// Returns a tab of this browser that shows a page of another site, such as `https://evil.example`. The page's
    /// links and forms cause the requests: `SameSite` decides which cookies come along.
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
}

impl<S, B> Client<S, B> {
    /// Reads or changes the cookies that all tabs share.
    pub(super) fn with_jar<T>(&self, look: impl FnOnce(&mut Jar) -> T) -> T {
        look(&mut lock(&self.jar))
    }

    pub(super) fn now(&self) -> SystemTime {
        self.clock.as_ref().map_or_else(SystemTime::now, |clock| clock.now())
    }
}

impl<S, B> fmt::Debug for Client<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("origin", &self.origin).field("page", &self.page).finish_non_exhaustive()
    }
}
