//! [`ResponseFuture`]: what happens to a response on its way out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Response, header};
use pin_project_lite::pin_project;

use super::caching::{forbid_storing, note_read};
use crate::session::{cookie_out, loader::Loader};

pin_project! {
    /// The response of a [`LayeredSession`](super::service::LayeredSession).
    ///
    /// # Cancel safety
    ///
    /// A dropped response leaves the writes of its handlers as they are: the browser receives them with the response to its
    /// next request. A session that such a handler has begun, renewed or signed in reaches the browser no more. Without memory
    /// and a shared store nothing but the response keeps the writes, and they are lost.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        entered: Entered,
    }
}

/// The fate of our cookie in the browser, as far as the request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieSupport {
    Keeps,
    /// The cookie is `Secure`, and the page is on plain http.
    Drops,
}

/// The loader of a request, and which layer sees the response's head off.
pub(crate) enum Entered {
    /// No layer of the same sessions lies around this layer.
    Outermost(Arc<Loader>, CookieSupport),
    /// The loader is that of a layer around this layer, which sees the head off.
    Within(Arc<Loader>),
    /// The request has another principal than the handles of the layer around: this layer sees the session off, for the
    /// new principal.
    Anew { loader: Arc<Loader>, around: Arc<Loader>, browser: CookieSupport },
}

impl Entered {
    pub(super) const fn loader(&self) -> &Arc<Loader> {
        match self {
            Self::Outermost(loader, _) | Self::Within(loader) | Self::Anew { loader, .. } => loader,
        }
    }

    fn finish_response<B>(&self, response: &mut Response<B>) {
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

/// Adds the session's fields to a response, for caches and the browser. A request that did not ask for its session gets none.
fn finish_head<B>(loader: &Arc<Loader>, response: &mut Response<B>, browser: CookieSupport) {
    // No handler has asked for the session, and with the request's extensions gone no handler can.
    let missed = loader.is_missed();
    if loader.loaded().is_none() && !missed && Arc::strong_count(loader) == 1 {
        return;
    }
    // After a 101 the connection is the protocol's: the next response or a relay token brings the missing cookie.
    let upgrade = response.status().is_informational();
    // A handler that got no session may have answered as for a visitor: the next browser must not get that from a cache.
    let varies = (loader.note_head_sent() || missed) && !upgrade;
    let headers = response.headers_mut();
    let Some(core) = loader.loaded() else {
        if varies {
            note_read(headers, loader.reads());
        }
        return;
    };
    let out = cookie_out::response_headers(core, upgrade);
    if out.cookie.is_some() && browser == CookieSupport::Drops {
        core.node.traces.dropped_cookie();
    }
    let mut cookies = out.removals.iter().cloned().chain(out.cookie).peekable();
    if cookies.peek().is_some() {
        // The present one last, for clients that know cookies by their names alone.
        for cookie in cookies {
            headers.append(header::SET_COOKIE, cookie);
        }
        forbid_storing(headers);
    }
    if out.touched || varies {
        note_read(headers, core.node.config.reads);
    }
}

impl<F> std::fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
