//! The answer of a [`SessionWriteback`] to each request, and the checks of a request's head: its method, cross-site rule,
//! content type and user.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use http_body_util::BodyExt;
use tower_service::Service;

use super::SessionWriteback;
use crate::{
    cross_site::{RequestKind, page_of},
    error::BoxError,
    node::Node,
    session::{
        Session, commit, loader, read,
        relay::{OpenedRelay, RelayRefused},
        relay_in,
    },
    writeback::{
        asset::Asset,
        body::{self, AcceptedValues, Posted, UnknownNames},
        events::Events,
        reply::{Refusal, WritebackBody, gone, stored, streaming},
        stream::EventStream,
    },
};

static HOOK: Asset = Asset::script(include_str!("../hook.js"));
static HOOK_TYPES: Asset = Asset::new(include_str!("../hook.d.ts"), "text/plain; charset=utf-8");

impl SessionWriteback {
    async fn answer<B>(self, head: Parts, body: B) -> Response<WritebackBody>
    where
        B: Body + Send,
        B::Error: Into<BoxError>,
    {
        let answered = match head.uri.path().strip_prefix(self.prefix.as_str()) {
            Some("" | "/") => self.post(&head, body).await,
            // Without memory, requests share no record, so a stream would see no change of another request.
            Some("/events") if self.serves_events && self.node.memory.is_some() => self.events(&head).await,
            Some("/hook.js") if self.serves_hook => HOOK.answer(&head.method, &head.headers),
            Some("/hook.d.ts") if self.serves_hook => HOOK_TYPES.answer(&head.method, &head.headers),
            _ => Err(Refusal::not_found("writeback")),
        };
        answered.unwrap_or_else(Refusal::into_response)
    }

    async fn post<B>(&self, head: &Parts, body: B) -> Result<Response<WritebackBody>, Refusal>
    where
        B: Body + Send,
        B::Error: Into<BoxError>,
    {
        let Parts { headers, extensions, .. } = head;
        only_own_pages(&self.node, RequestKind::Post, head)?;
        only_json(headers)?;
        let body = body::read(&*self.node.time.clock, headers, body).await?;
        match Posted::parse(&body)? {
            Posted::Relay(token) => {
                // Open the token before the session loads: a page gets the same refusal for a bad token whether or not
                // the session loads.
                let count = |refused: RelayRefused| {
                    refused.count(&self.node);
                    refused
                };
                let relayed = OpenedRelay::open(&self.node, &token, page_of(headers)).map_err(count)?;
                let session = loader::load(extensions, &self.node).await?;
                relay_in::apply_relay(session.shared(), relayed).await.map_err(count)?;
                Ok(stored(&["$relay"], None))
            }
            Posted::Values(values) => {
                let schema = &self.node.config.schema;
                let accepted = AcceptedValues::read(&values, schema, &self.allowed, self.unknown)?;
                let session = loader::load(extensions, &self.node).await?;
                session.shared().flags.touched.set();
                session.shared().check_open()?;
                for_this_user(headers, &session)?;
                let names: Vec<_> = accepted.changes.iter().map(|change| change.name).collect();
                commit::commit_of_owners(session.shared(), accepted.changes.into_iter()).await?;
                let ignored = (self.unknown == UnknownNames::Ignored).then_some(&*accepted.ignored);
                Ok(stored(&names, ignored))
            }
        }
    }

    async fn events(&self, head: &Parts) -> Result<Response<WritebackBody>, Refusal> {
        only_own_pages(&self.node, RequestKind::Events, head)?;
        let session = loader::load(&head.extensions, &self.node).await?;
        let shared = session.shared();
        shared.flags.touched.set();
        // A copy of a session sees no change.
        shared.refuse_degraded()?;
        // An EventSource does not connect again after a 204.
        if shared.close_reason(shared.node.now()).is_some() {
            return Ok(gone());
        }
        let events = Events::new(session, &self.exposed, self.heartbeat);
        Ok(streaming(WritebackBody(EventStream::new(events, self.heartbeat).boxed())))
    }
}

/// Checks the method and the cross-site rule.
pub(crate) fn only_own_pages(node: &Node, kind: RequestKind, head: &Parts) -> Result<(), Refusal> {
    let method = kind.method();
    if head.method != method {
        return Err(Refusal::method(&[method]));
    }
    node.config.cross_site.check(kind, &head.uri, &head.headers).map_err(|refused| {
        node.refusals.tell(&refused, node.now());
        Refusal::new(StatusCode::FORBIDDEN, "cross_site", refused.reason.message())
    })
}

/// Checks the content type of a POST.
fn only_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let essence = match (types.next(), types.next()) {
        (Some(value), None) => value.as_bytes().split(|byte| *byte == b';').next(),
        _ => None,
    };
    if essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json")) {
        return Ok(());
    }
    let message = "the content type of the POST must be application/json";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// The header field with the user mark from the page's last `state` event: the user whose values the page posts.
const SESSION_USER: &str = "session-user";

/// Refuses a page whose user has changed. While the page could not post, another user may have signed in, and the
/// values of one user must not become the other's.
fn for_this_user(headers: &HeaderMap, session: &Session) -> Result<(), Refusal> {
    match headers.get(SESSION_USER) {
        Some(meant) if meant.as_bytes() != read::user_mark(session.shared()).as_bytes() => Err(Refusal::user_changed()),
        _ => Ok(()),
    }
}

impl<B> Service<Request<B>> for SessionWriteback
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<WritebackBody>;
    type Error = Infallible;
    type Future = WritebackFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> WritebackFuture {
        let (head, body) = request.into_parts();
        WritebackFuture(Box::pin(self.clone().answer(head, body)))
    }
}

/// The answer of a [`SessionWriteback`].
///
/// # Cancel safety
///
/// If the future is dropped, the values of each owner are stored all or none, and a token is applied whole or not at
/// all.
#[must_use = "futures do nothing unless polled"]
pub struct WritebackFuture(pub(crate) Pin<Box<dyn Future<Output = Response<WritebackBody>> + Send>>);

impl Future for WritebackFuture {
    type Output = Result<Response<WritebackBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for WritebackFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritebackFuture").finish_non_exhaustive()
    }
}
