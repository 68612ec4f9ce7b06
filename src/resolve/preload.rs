//! [`PreloadLayer`]: the variant of the layer that loads the session before it calls the inner service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::service::{Entered, ResponseFuture};
use crate::{session::loader::LoadFuture, sessions::Sessions};

/// A layer that loads each session before it calls the inner service. See
/// [`LayeredSessionLayer::preload`](super::layer::LayeredSessionLayer::preload).
///
/// ```
/// use http::{Request, Response};
/// use layered_session::tier::{BoxError, Found, Lookup, Source, TierFuture};
/// use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier};
/// use layered_session::{SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
///
/// #[derive(Debug)]
/// struct Tenants;
///
/// impl Source for Tenants {
///     fn name(&self) -> &'static str {
///         "tenants"
///     }
///
///     fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
///         TierFuture::boxed(async {
///             tokio::task::yield_now().await; // stands for a query
///             Found::value(&Theme("red".into()))
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let sessions = Sessions::builder()
///     .tier(MemoryTier::builder().build())
///     .tier(CookieTier::sealed(KeyRing::generate()?))
///     .tier(Tenants)
///     .resolve::<Theme>() // declares the theme, and puts it into the extensions
///     .build()?;
/// let service = ServiceBuilder::new()
///     .layer(LayeredSessionLayer::new(sessions).preload())
///     .service_fn(async |request: Request<()>| {
///         Ok::<_, BoxError>(Response::new(request.extensions().get::<Theme>().cloned()))
///     });
///
/// let response = service.oneshot(Request::new(())).await?;
/// assert_eq!(response.into_body(), Some(Theme("red".into())));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PreloadLayer {
    pub(super) sessions: Sessions,
}

impl<S> Layer<S> for PreloadLayer {
    type Service = Preload<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Preload { inner, sessions: self.sessions.clone() }
    }
}

/// The service of a [`PreloadLayer`]. The docs of the layer have an example.
#[derive(Clone, Debug)]
pub struct Preload<S> {
    inner: S,
    sessions: Sessions,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Preload<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = PreloadFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let entered = self.sessions.enter(&mut head);
        let request = Request::from_parts(head, body);
        // Calls the service that was polled ready, and leaves a clone in its place.
        let ready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, ready);
        let load = Arc::clone(entered.loader()).load();
        PreloadFuture { state: State::Loading { load, next: Some((inner, request, entered, self.sessions.clone())) } }
    }
}

pin_project! {
    /// The response of a [`Preload`].
    ///
    /// # Cancel safety
    ///
    /// A future dropped during the load has not called the inner service. After the load the future is as cancel safe
    /// as a [`ResponseFuture`](crate::ResponseFuture).
    #[must_use = "futures do nothing unless polled"]
    pub struct PreloadFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        Loading { load: LoadFuture, next: Option<(S, Request<B>, Entered, Sessions)> },
        Calling { #[pin] response: ResponseFuture<S::Future> },
    }
}

impl<S, ReqBody, ResBody> Future for PreloadFuture<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut state = self.as_mut().project().state;
            let (mut inner, request, entered) = match state.as_mut().project() {
                StateProjection::Calling { response } => return response.poll(cx),
                StateProjection::Loading { load, next } => {
                    let loaded = ready!(Pin::new(load).poll(cx));
                    // `next` is taken once: the state is `Calling` from then on.
                    let Some((inner, mut request, entered, sessions)) = next.take() else { return Poll::Pending };
                    match loaded {
                        Ok(session) => {
                            sessions.resolved.iter().for_each(|insert| insert(&session, request.extensions_mut()));
                        }
                        // A handler that loads the session gets the error too.
                        Err(error) => tracing::debug!(%error, "`preload` could not load the session: the request goes \
                                                               on to the handler, whose own load tries again"),
                    }
                    (inner, request, entered)
                }
            };
            let response = ResponseFuture::new(inner.call(request), entered);
            state.set(State::Calling { response });
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for PreloadFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreloadFuture").finish_non_exhaustive()
    }
}
