//! [`RequireLayer`]: the guard before routes that need a value, such as the signed-in user.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    error::{BuildError, BuildErrorKind, MissingSession, retry_after},
    session::loader::{LoadFuture, LoaderHandle},
    tier::outside::note_missing_layer,
    value::SessionValue,
};

/// Lets a request through only if its session has a value of `V`: the login guard, if `V` is the signed-in user.
///
/// Without the value the inner service isn't called. The answer is 401, or after [`redirect`](Self::redirect) 303 to
/// the login page. Without a [`LayeredSessionLayer`](crate::LayeredSessionLayer) around the guard, and for a type that
/// was not declared, the answer is 500. If a shared store doesn't answer, the answer is 503 with `Retry-After`. Each answer has an
/// empty body, the body type's `Default`.
///
/// The guard stands inside the session layer, and inside a CORS layer: a preflight request brings no cookie, so the
/// guard would refuse the preflight. In axum `route_layer` puts the guard before all routes that were added so far, and
/// leaves unknown paths a 404:
///
/// ```
/// use axum::{Router, body::Body, http::{Request, StatusCode}, routing::get};
/// use layered_session::{
///     CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, RequireLayer,
///     Required, SessionValue, Sessions,
/// };
/// use serde::{Deserialize, Serialize};
/// # use tower::ServiceExt;
///
/// #[derive(Serialize, Deserialize)]
/// struct User(String);
///
/// impl SessionValue for User {
///     const NAME: &'static str = "user";
/// }
///
/// async fn account(Required(User(name)): Required<User>) -> String {
///     format!("The account of {name}")
/// }
///
/// let sessions = Sessions::builder()
///     .tier(MemoryTier::builder().build())
///     .tier(CookieTier::sealed(KeyRing::generate()?))
///     .identify_by::<User>(|User(name)| Some(Principal::new(name)))
///     .build()?;
/// let app: Router = Router::new()
///     .route("/account", get(account))
///     .route_layer(RequireLayer::<User>::new().redirect("/login")?)
///     .route("/login", get(async || "the login form"))
///     .layer(LayeredSessionLayer::new(sessions));
///
/// # futures_util::FutureExt::now_or_never(async {
/// let stranger = Request::get("/account").body(Body::empty())?;
/// let response = app.oneshot(stranger).await?;
/// assert_eq!(response.status(), StatusCode::SEE_OTHER);
/// assert_eq!(response.headers()["location"], "/login");
/// # Ok::<_, layered_session::tier::BoxError>(()) }).ok_or("waits for nothing")??;
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
pub struct RequireLayer<V> {
    login: Option<HeaderValue>,
    value: PhantomData<fn() -> V>,
}

impl<V: SessionValue> RequireLayer<V> {
    /// Creates a guard that answers 401 if the value is missing.
    pub const fn new() -> Self {
        Self { login: None, value: PhantomData }
    }

    /// Redirects a navigation without the value to the login page, with 303 (See Other). After 303 the browser loads
    /// the page by GET, also if it sent a form.
    ///
    /// A request of a script still gets 401: `fetch` would follow the redirect, and take the login form for its answer.
    /// Browsers tell the two apart in `Sec-Fetch-Mode`; a request without this field is redirected. Browsers send no
    /// such field on plain http to a host other than loopback. Don't redirect before gRPC services: 401 ends a call
    /// with `UNAUTHENTICATED`, and 303 with `UNKNOWN`.
    ///
    /// # Errors
    ///
    /// `Setting` for an empty location, which would lead the browser back to the guard, and for a location with other
    /// characters than visible ASCII.
    pub fn redirect(mut self, location: &str) -> Result<Self, BuildError> {
        let refused = BuildErrorKind::Setting.error(
            "the location of the redirect is empty, or has other characters than visible ASCII: give a path or a URL, \
             such as `/login`",
        );
        if location.is_empty() || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused);
        }
        self.login = Some(HeaderValue::from_str(location).map_err(|error| refused.caused_by(error))?);
        Ok(self)
    }
}

impl<V: SessionValue> Default for RequireLayer<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Clone for RequireLayer<V> {
    fn clone(&self) -> Self {
        Self { login: self.login.clone(), value: PhantomData }
    }
}

impl<V: SessionValue> fmt::Debug for RequireLayer<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireLayer").field("value", &V::NAME).field("login", &self.login).finish()
    }
}

impl<S, V> Layer<S> for RequireLayer<V> {
    type Service = Require<S, V>;

    fn layer(&self, inner: S) -> Self::Service {
        Require { inner, layer: self.clone() }
    }
}

/// The service that [`RequireLayer`] makes.
pub struct Require<S, V> {
    inner: S,
    layer: RequireLayer<V>,
}

impl<S: Clone, V> Clone for Require<S, V> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, V: SessionValue> fmt::Debug for Require<S, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Require").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, V, ReqBody, ResBody> Service<Request<ReqBody>> for Require<S, V>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    V: SessionValue,
    ResBody: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RequireFuture<S, V, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The ready service is called, and its clone takes its place: a clone need not be ready.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let load = request.extensions().get::<LoaderHandle>().map(|loading| Arc::clone(&loading.loader).load());
        let login = self.layer.login.clone().filter(|_| is_navigation(request.headers()));
        RequireFuture { state: State::Loading { load, next: Some((inner, request)) }, login, value: PhantomData }
    }
}

/// Returns whether a browser shows the answer as a page. Clients without `Sec-Fetch-Mode` are old browsers or no
/// browsers.
fn is_navigation(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
}

pin_project! {
    /// The response of a [`Require`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while the session loads, the inner service has not been called. After the load, the
    /// drop also drops the inner service's future.
    #[must_use = "futures do nothing unless polled"]
    pub struct RequireFuture<S, V, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
        login: Option<HeaderValue>,
        value: PhantomData<fn() -> V>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        Loading { load: Option<LoadFuture>, next: Option<(S, Request<B>)> },
        Calling { #[pin] response: S::Future },
    }
}

impl<S, V, ReqBody, ResBody> Future for RequireFuture<S, V, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    V: SessionValue,
    ResBody: Default,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (mut inner, request) = match this.state.as_mut().project() {
                StateProjection::Calling { response } => return response.poll(cx),
                StateProjection::Loading { load, next } => {
                    let loaded = match load {
                        Some(load) => ready!(Pin::new(load).poll(cx)),
                        None => {
                            note_missing_layer();
                            Err(MissingSession::no_layer())
                        }
                    };
                    let refused = match loaded {
                        Ok(session) if session.get::<V>().is_some() => None,
                        // An undeclared type is a mistake of the application: no request could ever pass.
                        Ok(session) if !session.declares::<V>() => Some(empty(StatusCode::INTERNAL_SERVER_ERROR)),
                        // The login could not reach the store either.
                        Ok(session) if session.is_degraded() => Some(empty(StatusCode::SERVICE_UNAVAILABLE)),
                        Ok(_) => Some(without_value(this.login.take())),
                        Err(missing) => Some(empty(missing.status())),
                    };
                    // Empty after the answer: a future that is polled again stays pending for ever.
                    let Some(next) = next.take() else { return Poll::Pending };
                    match refused {
                        Some(response) => return Poll::Ready(Ok(response)),
                        None => next,
                    }
                }
            };
            let response = inner.call(request);
            this.state.set(State::Calling { response });
        }
    }
}

fn empty<B: Default>(status: StatusCode) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = status;
    response.headers_mut().extend(retry_after(status));
    response
}

fn without_value<B: Default>(login: Option<HeaderValue>) -> Response<B> {
    let mut response = empty(if login.is_some() { StatusCode::SEE_OTHER } else { StatusCode::UNAUTHORIZED });
    response.headers_mut().extend(login.map(|location| (header::LOCATION, location)));
    response
}

impl<S: Service<Request<B>>, V, B> fmt::Debug for RequireFuture<S, V, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireFuture").finish_non_exhaustive()
    }
}
