//! [`ResponseFuture`]: adds the session's fields to a response.

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
    /// A dropped response keeps the writes of its handlers: the browser receives the writes with the response to its
    /// next request. A session that such a handler has begun, renewed or signed in never reaches the browser. Without
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
    /// A layer around this layer owns the loader, and finishes the head.
    Within(Arc<Loader>),
    /// The request has another principal than the handles of the layer around. This layer finishes the head, for the
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

/// Adds the session's fields for caches and the browser to a response. A request that asked for no session gets no
/// fields.
fn finish_head<B>(loader: &Arc<Loader>, response: &mut Response<B>, browser: CookieSupport) {
    // No handler has asked for the session, and no handler can: the request's extensions are dropped.
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

impl<F> std::fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
