//! [`LayeredSession`]: what happens to a request on its way in.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, Method, Request, Response, header, request::Parts};
use tower_service::Service;

use super::future::ResponseFuture;
use crate::{
    chain::Identity,
    session::load::{Arrival, Loader, Loading},
    sessions::Sessions,
    tier::cookie::header::Scan,
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

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let loader = self.sessions.enter(&mut request);
        if !self.sessions.resolved.is_empty() {
            self.sessions.insert_resolved(&loader, request.extensions_mut());
        }
        ResponseFuture::new(self.inner.call(request), loader)
    }
}

impl Sessions {
    /// Puts a loader into the extensions, and gives it to whoever sees the response off.
    pub(super) fn enter<B>(&self, request: &mut Request<B>) -> Arc<Loader> {
        let chain = &self.chain;
        let mut arrival = Arrival {
            cookie: chain.cookie_name.scan(request.headers()),
            identified: None,
            defaults: Vec::new(),
            cross_site: is_upgrade(request) && !same_origin(request.uri(), request.headers(), &self.public_origins),
            head: None,
            outer: request.extensions_mut().remove::<Loading>().map(|loading| loading.0),
        };
        if !matches!(arrival.cookie, Scan::Absent) {
            mark_sensitive(request.headers_mut());
        }
        if matches!(chain.identity, Identity::Head(_)) || chain.has_computed_defaults() || chain.has_sources() {
            self.ask_head(request, &mut arrival);
        }
        let loader = Loader::new(Arc::clone(chain), arrival);
        request.extensions_mut().insert(Loading(Arc::clone(&loader)));
        loader
    }

    /// What is to be learnt from the head, now that it is here. It is lent out for that as the closures see it.
    fn ask_head<B>(&self, request: &mut Request<B>, arrival: &mut Arrival) {
        let (mut head, ()) = Request::new(()).into_parts();
        swap_head(request, &mut head);
        if let Identity::Head(identify) = &self.chain.identity {
            arrival.identified = identify(&head);
        }
        if self.chain.has_computed_defaults() {
            arrival.defaults = self.chain.compute_defaults(&head);
        }
        if self.chain.has_sources() {
            arrival.head = Some(Box::new(head.clone()));
        }
        swap_head(request, &mut head);
    }

    /// Puts the values declared with `resolve` into the extensions, if the session is there without waiting.
    pub(super) fn insert_resolved(&self, loader: &Loader, extensions: &mut Extensions) {
        match loader.load_now() {
            Some(session) => self.resolved.iter().for_each(|insert| insert(&session, extensions)),
            None => tracing::warn!("values to resolve have to be waited for: use `LayeredSessionLayer::preload`"),
        }
    }
}

/// Exchanges everything of a request but its body.
fn swap_head<B>(request: &mut Request<B>, head: &mut Parts) {
    mem::swap(request.method_mut(), &mut head.method);
    mem::swap(request.uri_mut(), &mut head.uri);
    mem::swap(request.version_mut(), &mut head.version);
    mem::swap(request.headers_mut(), &mut head.headers);
    mem::swap(request.extensions_mut(), &mut head.extensions);
}

/// Keeps the cookies out of whatever prints headers, and HTTP/2's header tables (RFC 7541, 7.1.3).
fn mark_sensitive(headers: &mut HeaderMap) {
    if let header::Entry::Occupied(mut cookies) = headers.entry(header::COOKIE) {
        cookies.iter_mut().for_each(|cookie| cookie.set_sensitive(true));
    }
}

/// A WebSocket, or anything else that makes a connection of a request: the browser sends it across sites, with cookies,
/// and lets the page that asked for it read and write (RFC 6455, 10.2). HTTP/2 and 3 use extended CONNECT (RFC 8441).
fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE)
}
