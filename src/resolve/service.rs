//! [`LayeredSession`]: what happens to a request on its way in.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, Method, Request, Response, header};
use tower_service::Service;

use super::future::ResponseFuture;
use crate::{
    chain::Identity,
    session::load::{Arrival, Loader, Loading},
    sessions::Sessions,
    tier::cookie::header::{Scan, scan},
    writeback::origin::same_origin,
};

/// The service that [`LayeredSessionLayer`](super::layer::LayeredSessionLayer) makes.
#[derive(Clone, Debug)]
pub struct LayeredSession<S> {
    inner: S,
    sessions: Sessions,
}

impl<S> LayeredSession<S> {
    /// Wraps a service.
    pub const fn new(inner: S, sessions: Sessions) -> Self {
        Self { inner, sessions }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for LayeredSession<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut request, loader) = self.sessions.enter(request);
        if !self.sessions.resolved.is_empty() {
            self.sessions.insert_resolved(&loader, request.extensions_mut());
        }
        ResponseFuture::new(self.inner.call(request), loader)
    }
}

impl Sessions {
    /// Puts a loader into the extensions, and gives it to whoever sees the response off.
    pub(super) fn enter<B>(&self, mut request: Request<B>) -> (Request<B>, Arc<Loader>) {
        let chain = &self.chain;
        let mut arrival = Arrival {
            cookie: scan(request.headers(), chain.cookie.cookie_name()),
            identified: None,
            defaults: Vec::new(),
            cross_site: is_upgrade(&request) && !same_origin(request.uri(), request.headers(), &self.public_origins),
            head: None,
            outer: request.extensions_mut().remove::<Loading>().map(|loading| loading.0),
        };
        if !matches!(arrival.cookie, Scan::Absent)
            && let header::Entry::Occupied(mut cookies) = request.headers_mut().entry(header::COOKIE)
        {
            cookies.iter_mut().for_each(|cookie| cookie.set_sensitive(true));
        }
        let head = matches!(chain.identity, Identity::Head(_)) || chain.has_computed_defaults() || chain.has_sources();
        let request = if head { self.ask_head(request, &mut arrival) } else { request };
        let loader = Loader::new(Arc::clone(chain), arrival);
        let mut request = request;
        request.extensions_mut().insert(Loading(Arc::clone(&loader)));
        (request, loader)
    }

    /// What is to be learnt from the head, now that it is here.
    fn ask_head<B>(&self, request: Request<B>, arrival: &mut Arrival) -> Request<B> {
        let (head, body) = request.into_parts();
        if let Identity::Head(identify) = &self.chain.identity {
            arrival.identified = identify(&head);
        }
        if self.chain.has_computed_defaults() {
            arrival.defaults = self.chain.compute_defaults(&head);
        }
        if self.chain.has_sources() {
            arrival.head = Some(Box::new(head.clone()));
        }
        Request::from_parts(head, body)
    }

    /// Puts the values declared with `resolve` into the extensions, if the session is there without waiting.
    pub(super) fn insert_resolved(&self, loader: &Loader, extensions: &mut Extensions) {
        match loader.load_now() {
            Some(session) => self.resolved.iter().for_each(|insert| insert(&session, extensions)),
            None => tracing::warn!("values to resolve have to be waited for: use `LayeredSessionLayer::preload`"),
        }
    }
}

/// A WebSocket, or anything else that makes a connection of a request: the browser sends it across sites, with cookies,
/// and lets the page that asked for it read and write (RFC 6455, 10.2). HTTP/2 and 3 use extended CONNECT (RFC 8441).
fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE)
}
