//! [`PreloadLayer`]: the variant that has the session loaded before the inner service is called.

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

use super::future::{Entered, ResponseFuture};
use crate::{session::load::Load, sessions::Sessions};

/// A layer that loads each session before it calls the inner service. See
/// [`LayeredSessionLayer::preload`](super::layer::LayeredSessionLayer::preload).
#[derive(Clone, Debug)]
pub struct PreloadLayer {
    sessions: Sessions,
}

impl PreloadLayer {
    pub(super) const fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }
}

impl<S> Layer<S> for PreloadLayer {
    type Service = Preload<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Preload { inner, sessions: self.sessions.clone() }
    }
}

/// The service that [`PreloadLayer`] makes.
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

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let entered = self.sessions.enter(&mut request);
        // The one that was polled ready is the one to call; the clone takes its place.
        let ready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, ready);
        let load = Arc::clone(entered.loader()).load();
        PreloadFuture { state: State::Loading { load, next: Some((inner, request, entered, self.sessions.clone())) } }
    }
}

pin_project! {
    /// The response of a [`Preload`].
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
        Loading { load: Load, next: Option<(S, Request<B>, Entered, Sessions)> },
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
                    // It is there until the inner service is called, and then the state is another.
                    let Some((inner, mut request, entered, sessions)) = next.take() else { return Poll::Pending };
                    match loaded {
                        Ok(session) => {
                            sessions.resolved.iter().for_each(|insert| insert(&session, request.extensions_mut()));
                        }
                        // The handler that asks will hear of it, and one that doesn't ask has no need to.
                        Err(error) => tracing::debug!(%error, "the session could not be preloaded"),
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
