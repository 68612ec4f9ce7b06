//! [`LayeredSession`]: gives a request its loader. [`ResponseFuture`]: adds the session's fields to the response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Extensions, HeaderMap, HeaderName, Method, Request, Response, header, request::Parts};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::caching::{forbid_storing, note_read};
use crate::{
    config::Identity,
    cookie::header::Fields,
    cross_site::{
        CrossSite, RequestKind, drops_secure_cookies,
        refusal::{CrossSiteRefusal, RefusalReason},
    },
    id::Principal,
    session::{
        cookie_out,
        load::token::{HeadFacts, RequestHead},
        loader::{Arrival, Loader, LoaderHandle},
    },
    sessions::Sessions,
};

/// The service of a [`LayeredSessionLayer`](super::layer::LayeredSessionLayer).
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
        let (mut head, body) = request.into_parts();
        let entered = self.sessions.enter(&mut head);
        if !self.sessions.resolved.is_empty() {
            self.sessions.insert_resolved(entered.loader(), &mut head.extensions);
        }
        ResponseFuture::new(self.inner.call(Request::from_parts(head, body)), entered)
    }
}

impl Sessions {
    /// Returns whether the browser keeps our cookie. Once a dropped cookie has been traced, every browser counts as
    /// `Keeps`, since the trace appears only once.
    fn cookie_support(&self, head: &Parts) -> CookieSupport {
        let node = &self.node;
        let drops = node.config.cookie.is_secure()
            && !node.traces.has_told_dropped_cookie()
            && drops_secure_cookies(&head.method, &head.uri, &head.headers);
        if drops { CookieSupport::Drops } else { CookieSupport::Keeps }
    }

    /// Puts a loader into the extensions, and returns the loader for the response's future.
    pub(crate) fn enter(&self, head: &mut Parts) -> Entered {
        let node = &self.node;
        let cookies = Fields::note(&mut head.headers);
        let outer = head.extensions.remove::<LoaderHandle>().map(Box::new);
        let same = outer.as_ref().and_then(|outer| outer.same_request(node, cookies.as_ref()));
        let entered = match same {
            // A layer of these sessions lies around this layer: the request has one session for both layers.
            Some(around) => match self.identify_anew(&around, head) {
                Ok(()) => Entered::Within(around),
                Err(principal) => {
                    let facts = self.head_facts(head, principal);
                    let loader = self.new_loader(head, cookies, Some(facts), Some(Arc::clone(&around)));
                    Entered::Anew { loader, around, browser: self.cookie_support(head) }
                }
            },
            None => {
                let facts = node.config.asks_head.then(|| self.head_facts(head, self.identify(head)));
                Entered::Outermost(self.new_loader(head, cookies, facts, None), self.cookie_support(head))
            }
        };
        let loader = Arc::clone(entered.loader());
        head.extensions.insert(LoaderHandle { loader, outer });
        entered
    }

    fn new_loader(
        &self,
        head: &Parts,
        cookies: Option<Fields>,
        facts: Option<HeadFacts>,
        around: Option<Arc<Loader>>,
    ) -> Arc<Loader> {
        let upgrade = is_upgrade(head);
        let (cross_site, refused) = self.check_cross_site(head, upgrade);
        // Only the loader of the outer layer (`around`) traces the refusal, so that one refusal has one trace.
        let refused = refused.filter(|_| around.is_none());
        let (node, facts) = (Arc::clone(&self.node), facts.map(Box::new));
        let head = RequestHead { node, cookies, cross_site, upgrade, facts };
        Loader::new(Arrival { head, refused, outer: around })
    }

    /// Calls `identify` again, since a service between the two layers may have signed a user in. If the loader has no
    /// handle yet, the loader takes the new principal.
    ///
    /// # Errors
    ///
    /// The new principal, if the loader has handles with another principal: these handles keep their principal.
    fn identify_anew(&self, loader: &Loader, head: &Parts) -> Result<(), Option<Principal>> {
        if !matches!(self.node.config.identity, Identity::Head(_)) {
            return Ok(());
        }
        loader.identify_anew(self.identify(head))
    }

    /// Returns the kind of cross-site request, if the kind decides about the session, and the refusal to trace. Checked
    /// at entry, since the request head is gone when the session is loaded.
    fn check_cross_site(&self, head: &Parts, upgrade: bool) -> (Option<CrossSite>, Option<Box<CrossSiteRefusal>>) {
        let (rule, uri, headers) = (&self.node.config.cross_site, &head.uri, &head.headers);
        if upgrade && let Err(refused) = rule.check(RequestKind::Upgrade, uri, headers) {
            return (Some(CrossSite::Upgrade), Some(Box::new(refused)));
        }
        let cross_site = rule.withheld((&head.method, uri, headers), self.node.config.cookie.same_site);
        let listed = cross_site == Some(CrossSite::Listed);
        (cross_site, listed.then(|| Box::new(CrossSiteRefusal::new(RefusalReason::Withheld, uri, headers))))
    }

    fn identify(&self, head: &Parts) -> Option<Principal> {
        match &self.node.config.identity {
            Identity::Head(identify) => identify(head),
            Identity::Nobody | Identity::Value { .. } => None,
        }
    }

    /// Returns the answers that the chain computes from the request head. Computed at entry, since the request head is
    /// gone when the session is loaded.
    fn head_facts(&self, head: &Parts, identified: Option<Principal>) -> HeadFacts {
        let defaults = self.node.compute_defaults(head);
        HeadFacts { identified, defaults, parts: self.node.config.has_sources.then(|| Arc::new(head.clone())) }
    }

    /// Puts the values declared with `resolve` into the extensions, if the session loads without waiting.
    pub(super) fn insert_resolved(&self, loader: &Arc<Loader>, extensions: &mut Extensions) {
        match Arc::clone(loader).load_now() {
            Some(session) => self.resolved.iter().for_each(|insert| insert(&session, extensions)),
            None => self.node.traces.unresolved(self.node.now()),
        }
    }
}

/// Whether a request opens a WebSocket. A browser sends such a request across sites, with cookies, and lets the page
/// read and write (RFC 6455, 10.2). HTTP/2 and 3 use extended CONNECT (RFC 8441). A request that offers another
/// protocol, such as `h2c`, is an ordinary request.
fn is_upgrade(head: &Parts) -> bool {
    let headers = &head.headers;
    let opens = || lists(headers, &header::UPGRADE, b"websocket") && lists(headers, &header::CONNECTION, b"upgrade");
    head.method == Method::CONNECT || opens()
}

/// Whether a field is a list with this member, in upper or lower case (RFC 9110, 5.6.1).
fn lists(headers: &HeaderMap, name: &HeaderName, member: &[u8]) -> bool {
    let members = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).any(|found| found.eq_ignore_ascii_case(member))
}

pin_project! {
    /// The response of a [`LayeredSession`](LayeredSession).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the handler's writes stay: the browser receives the writes with the response to its
    /// next request. A session that the handler has begun, renewed or signed in never reaches the browser. Without
    /// memory and a shared store the response alone carries the writes, and the writes are lost.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        entered: Entered,
    }
}

/// Whether the browser keeps our cookie, as far as the request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieSupport {
    Keeps,
    /// The cookie is `Secure`, and the page is on plain http.
    Drops,
}

/// The loader of a request, and the layer that finishes the response's head.
pub(crate) enum Entered {
    /// No layer of the same sessions lies around this layer.
    Outermost(Arc<Loader>, CookieSupport),
    /// A layer around this layer owns the loader, and finishes the response head.
    Within(Arc<Loader>),
    /// The request has another principal than the handles of the layer around. This layer finishes the response head,
    /// for the new principal.
    Anew { loader: Arc<Loader>, around: Arc<Loader>, browser: CookieSupport },
}

impl Entered {
    pub(super) const fn loader(&self) -> &Arc<Loader> {
        match self {
            Self::Outermost(loader, _) | Self::Within(loader) | Self::Anew { loader, .. } => loader,
        }
    }

    pub(crate) fn finish_response<B>(&self, response: &mut Response<B>) {
        match self {
            Self::Outermost(loader, browser) => finish_head(loader, response, *browser),
            Self::Within(_) => {}
            Self::Anew { loader, around, browser } => {
                loader.answer_for(around);
                finish_head(loader, response, *browser);
                around.leave_head_to(loader);
            }
        }
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) const fn new(inner: F, entered: Entered) -> Self {
        Self { inner, entered }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx));
        if let Ok(response) = &mut response {
            this.entered.finish_response(response);
        }
        Poll::Ready(response)
    }
}

/// Adds the session's fields for caches and the browser to a response. A request that asked for no session gets no
/// fields.
fn finish_head<B>(loader: &Arc<Loader>, response: &mut Response<B>, browser: CookieSupport) {
    // No handler has asked for the session, and no handler can, since the request's extensions are dropped: the
    // response needs no fields.
    let missed = loader.is_missed();
    if loader.loaded().is_none() && !missed && Arc::strong_count(loader) == 1 {
        return;
    }
    // After a 101 the connection has no further response: the next request's response or a relay token brings the
    // cookie.
    let upgrade = response.status().is_informational();
    // A handler without a session may have given a visitor's answer. A cache must not give that answer to another
    // browser.
    let varies = (loader.note_head_sent() || missed) && !upgrade;
    let headers = response.headers_mut();
    let Some(shared) = loader.loaded() else {
        if varies {
            note_read(headers, loader.reads());
        }
        return;
    };
    let out = cookie_out::response_headers(shared, upgrade);
    if out.cookie.is_some() && browser == CookieSupport::Drops {
        shared.node.traces.dropped_cookie();
    }
    let mut cookies = out.removals.iter().cloned().chain(out.cookie).peekable();
    if cookies.peek().is_some() {
        // The present cookie comes last, for clients that tell cookies apart by name alone.
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie);
        }
        forbid_storing(headers);
    }
    if out.touched || varies {
        note_read(headers, shared.node.config.reads);
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
