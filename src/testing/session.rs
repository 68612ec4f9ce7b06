//! [`session`]: a handle for unit tests of handlers, without a server.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

use http::{
    Extensions, HeaderName, HeaderValue, Method, Request, Response,
    header::{CONNECTION, COOKIE, ORIGIN, UPGRADE},
    request::Parts,
};

use super::{error::TestError, jar::set_cookies};
use crate::{error::WriteError, session::Session, sessions::Sessions, value::SessionValue};

type Writing<'a> = Pin<Box<dyn Future<Output = Result<(), WriteError>> + Send + 'a>>;
type Write = Box<dyn for<'a> FnOnce(&'a Session) -> Writing<'a> + Send + Sync>;

/// Begins a session for a unit test. Await the builder for the handle.
///
/// The handle behaves as in a handler whose response head has not left: `renew`, `sign_in` and `destroy` work, in chains
/// without memory too. Without [`with`](TestSession::with) and [`signed_in`](TestSession::signed_in) the handle is a first
/// visitor's. Otherwise an earlier request has made the session, and the handle's own request brings the cookie.
///
/// A handle has no response. Assert on the handle after the handler returns; a [`Client`](super::Client) shows
/// `Set-Cookie` and the next request.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, Principal, SessionValue, Sessions, tier::BoxError};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct User(String);
/// # impl SessionValue for User { const NAME: &'static str = "user"; }
/// use layered_session::{Session, WriteError, testing};
///
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
/// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
/// async fn count(session: Session) -> Result<String, WriteError> {
///     let Visits(visits) = session.update(|visits: &mut Visits| visits.0 += 1).await?;
///     Ok(format!("{visits} visits"))
/// }
///
/// # futures_util::future::FutureExt::now_or_never(async {
/// # let sessions = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?)).value::<Visits>()
/// #     .identify_by::<User>(|user| Some(Principal::new(&user.0))).build()?;
/// let ada = User("ada".into());
/// let session = testing::session(&sessions).with(Visits(2)).signed_in(ada).await?;
/// assert_eq!(count(session.clone()).await?, "3 visits");
/// assert_eq!(session.value::<Visits>(), Visits(3));
/// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
/// ```
pub fn session(sessions: &Sessions) -> TestSession {
    TestSession { sessions: sessions.clone(), request: Ok(Request::new(())), sign_in: None, values: Vec::new() }
}

/// A test's session before it is loaded. See [`session`].
#[must_use = "the session exists only once the builder is awaited"]
pub struct TestSession<B = ()> {
    sessions: Sessions,
    request: Result<Request<B>, TestError>,
    sign_in: Option<Write>,
    values: Vec<Write>,
}

impl<B> TestSession<B> {
    /// Writes a value before the test: into the session, or for the user, as the value's scope says.
    pub fn with<V: SessionValue>(mut self, value: V) -> Self {
        self.values.push(writing(move |session| Box::pin(session.set(value))));
        self
    }

    /// Signs a user in by the value that `identify_by` names. The values of [`with`](Self::with) are written as this
    /// user, even if `with` is called first.
    pub fn signed_in<V: SessionValue>(mut self, user: V) -> Self {
        self.sign_in = Some(writing(move |session| session.sign_in(user).into_future()));
        self
    }

    /// Gives the handle's request an extension, where `identify` looks for its user.
    ///
    /// ```
    /// # use layered_session::{CookieTier, KeyRing, Sessions, testing, tier::BoxError};
    /// use layered_session::Principal;
    ///
    /// #[derive(Clone)]
    /// struct CurrentUser(u64);
    ///
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let sessions = Sessions::builder()
    ///     .tier(CookieTier::sealed(KeyRing::generate()?))
    ///     .identify(|head| {
    ///         head.extensions.get::<CurrentUser>().map(|user| Principal::new(user.0))
    ///     })
    ///     .build()?;
    /// let session = testing::session(&sessions).extension(CurrentUser(7)).await?;
    /// assert_eq!(session.principal(), Some(Principal::new(7_u64)));
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, extension: T) -> Self {
        if let Ok(request) = &mut self.request {
            request.extensions_mut().insert(extension);
        }
        self
    }

    /// Gives the handle's request a header field, for `identify`, for defaults and for sources that read the head.
    ///
    /// ```
    /// # use layered_session::{CookieTier, KeyRing, SessionValue, Sessions, testing, tier::BoxError};
    /// # use serde::{Deserialize, Serialize};
    /// use layered_session::DefaultTier;
    ///
    /// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    /// struct Language(String);
    /// # impl SessionValue for Language { const NAME: &'static str = "language"; }
    ///
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let defaults = DefaultTier::new().with::<Language>(|head| {
    ///     let language = head.headers.get("accept-language");
    ///     Language(language.and_then(|text| text.to_str().ok()).unwrap_or("en").into())
    /// });
    /// # let chain = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?));
    /// let sessions = chain.tier(defaults).value::<Language>().build()?;
    /// let session = testing::session(&sessions).header("accept-language", "de").await?;
    /// assert_eq!(session.value::<Language>(), Language("de".into()));
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    pub fn header<K, V>(mut self, name: K, value: V) -> Self
    where
        K: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        let field =
            || Ok::<_, http::Error>((name.try_into().map_err(Into::into)?, value.try_into().map_err(Into::into)?));
        self.request = self.request.and_then(|mut request| {
            let (name, value) = field().map_err(|error| TestError::caused("the request can't be built", error))?;
            request.headers_mut().append(name, value);
            Ok(request)
        });
        self
    }

    /// Replaces the handle's request, which is `GET /` otherwise. Fields and extensions of the request before are dropped.
    ///
    /// Do not combine a request that already brings a session's cookie with [`with`](Self::with) or
    /// [`signed_in`](Self::signed_in): the request would then bring two cookies.
    pub fn request<C>(self, request: Request<C>) -> TestSession<C> {
        let Self { sessions, request: _, sign_in, values } = self;
        TestSession { sessions, request: Ok(request), sign_in, values }
    }

    /// Returns the request with the session in its extensions, as a handler gets the request: for handlers that take a
    /// whole request, and for extractors. Values declared with `resolve` are in the extensions too.
    ///
    /// ```
    /// # use layered_session::{CookieTier, KeyRing, SessionValue, Sessions, testing};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)] struct Visits(u64);
    /// # impl SessionValue for Visits { const NAME: &'static str = "visits"; }
    /// use http::{Request, Response};
    /// use layered_session::{Session, tier::BoxError};
    ///
    /// async fn echo(request: Request<String>) -> Result<Response<String>, BoxError> {
    ///     let session = Session::load(request.extensions()).await?;
    ///     session.set(Visits(7)).await?;
    ///     Ok(Response::new(request.into_body()))
    /// }
    ///
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// # let sessions = Sessions::builder().tier(CookieTier::sealed(KeyRing::generate()?)).value::<Visits>().build()?;
    /// let request = Request::post("/echo").body("hello".to_owned())?;
    /// let request = testing::session(&sessions).request(request).into_request().await?;
    /// let session = Session::load(request.extensions()).await?;
    /// assert_eq!(echo(request).await?.body(), "hello");
    /// assert_eq!(session.value::<Visits>(), Visits(7));
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of awaiting the builder: a shared store that does not answer, a value or a sign-in that is refused,
    /// or a header field that is not valid.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have written the values already. The test has no handle of the session then.
    pub async fn into_request(self) -> Result<Request<B>, TestError> {
        self.prepare().await.map(|(request, _)| request)
    }

    async fn prepare(self) -> Result<(Request<B>, Session), TestError> {
        let Self { sessions, request, sign_in, values } = self;
        let (mut head, body) = request?.into_parts();
        if sign_in.is_some() || !values.is_empty() {
            let writes = sign_in.into_iter().chain(values);
            for pair in earlier(&sessions, head.clone(), writes).await? {
                head.headers.append(COOKIE, pair);
            }
        }
        sessions.enter(&mut head);
        let session = load(&head.extensions).await?;
        sessions.resolved.iter().for_each(|insert| insert(&session, &mut head.extensions));
        Ok((Request::from_parts(head, body), session))
    }
}

/// Boxes a closure that takes a session of any lifetime.
fn writing(write: impl for<'a> FnOnce(&'a Session) -> Writing<'a> + Send + Sync + 'static) -> Write {
    Box::new(write)
}

/// Writes the values in an earlier request: of the same user, by the same page, and never from another site. Returns the cookies of the response, as the next request brings them.
async fn earlier(
    sessions: &Sessions,
    mut head: Parts,
    writes: impl Iterator<Item = Write>,
) -> Result<Vec<HeaderValue>, TestError> {
    head.method = Method::GET;
    for name in [ORIGIN, UPGRADE, CONNECTION, HeaderName::from_static("sec-fetch-site")] {
        head.headers.remove(name);
    }
    let entered = sessions.enter(&mut head);
    let session = load(&head.extensions).await?;
    for write in writes {
        write(&session)
            .await
            .map_err(|error| TestError::caused("the values or the sign-in of the test's session failed", error))?;
    }
    let mut response = Response::new(());
    entered.finish_response(&mut response);
    let sent = set_cookies(response.headers());
    let pairs = sent.iter().filter(|cookie| !cookie.value().is_empty()).map(|cookie| cookie.stripped().to_string());
    Ok(pairs.filter_map(|pair| pair.parse().ok()).collect())
}

async fn load(extensions: &Extensions) -> Result<Session, TestError> {
    Session::load(extensions).await.map_err(|error| TestError::caused("the test's session can't be loaded", error))
}

/// # Errors
///
/// A shared store that does not answer, a value or a sign-in that is refused, or a header field that is not valid.
///
/// # Cancel safety
///
/// A dropped future may have written the values already. The test has no handle of the session then.
impl<B: Send + 'static> IntoFuture for TestSession<B> {
    type Output = Result<Session, TestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.prepare().await.map(|(_, session)| session) })
    }
}

impl<B> fmt::Debug for TestSession<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSession").field("values", &self.values.len()).finish_non_exhaustive()
    }
}
