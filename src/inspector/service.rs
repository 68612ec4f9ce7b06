//! [`SessionInspector`]: the endpoint that serves the page and its events.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header, request::Parts};
use http_body_util::BodyExt;
use tower_service::Service;

use super::events::Reports;
use crate::{
    cross_site::RequestKind,
    node::Node,
    session::loader,
    sessions::Sessions,
    writeback::{
        asset::Asset,
        reply::{Refusal, WritebackBody, gone, streaming},
        service::answer::{WritebackFuture, only_own_pages},
        stream::{EventStream, HEARTBEAT_INTERVAL},
    },
};

static PAGE: Asset = Asset::new(include_str!("page.html"), "text/html; charset=utf-8");
static SCRIPT: Asset = Asset::new(include_str!("page.js"), "text/javascript; charset=utf-8");
static STYLE: Asset = Asset::new(include_str!("page.css"), "text/css; charset=utf-8");
static ICON: Asset = Asset::new(include_str!("icon.svg"), "image/svg+xml");

/// The content security policy of the page: the page loads only its own parts.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Shows the visitor's own session on a live page: each declared value, the tier that answers and the reason why the
/// others do not, the versions, the used and the free bytes of JSON in the cookie, and changes as they happen.
///
/// **The page shows every visitor the values of their own session**, including values that the application shows to no
/// user, such as the identity value. Mount the inspector in development, or behind a gate of your own. The page shows
/// no value of another session or user, and never an id, a token or a key. The inspector changes nothing.
///
/// Mount the inspector inside a [`LayeredSessionLayer`](crate::LayeredSessionLayer) of the same [`Sessions`]: with
/// `nest_service("/inspector", ..)` under axum, which removes the path, or with [`mount_path`](Self::mount_path) if
/// no router removes the path. The page is the same with and without a slash at the end.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Sessions, SessionInspector};
/// use axum::Router;
///
/// # let sessions = Sessions::builder()
/// #     .tier(MemoryTier::builder().build())
/// #     .tier(CookieTier::sealed(KeyRing::generate()?))
/// #     .build()?;
/// let mut app = Router::new();
/// if cfg!(debug_assertions) {
///     app = app.nest_service("/inspector", SessionInspector::new(&sessions));
/// }
/// let app: Router = app.layer(LayeredSessionLayer::new(sessions));
///
/// # use {http::Request, tower::ServiceExt};
/// # futures_util::FutureExt::now_or_never(async {
/// let get = Request::get("/inspector").body(axum::body::Body::empty())?;
/// let page = app.oneshot(get).await?;
/// assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
/// # Ok::<_, layered_session::tier::BoxError>(())
/// # }).ok_or("it waits for nothing")??;
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
///
/// | request | answer |
/// |---|---|
/// | `GET /` | the page; `page.js`, `page.css` and `icon.svg` are its parts |
/// | `GET /events` | server-sent events; 204 if the session has ended |
///
/// Each part is also served with its name as the query (`?events`). The page requests the query, since the page does
/// not know the path at which the inspector is mounted.
///
/// # Events
///
/// Only pages of the same origin may open the stream, as with a [`SessionWriteback`](crate::SessionWriteback). The
/// request that opens the stream is a request like any other. An open stream does not count as a use of the session,
/// and its events set no cookie.
///
/// | event | data |
/// |---|---|
/// | `report` | first, and after each change of the report: `now`, `heartbeat`, `session`, `token`, `values`, `undeclared`, `chain`, `resolution` and `lifetime`. The format is internal to the page, and may change |
/// | `changes` | `{"now": …, "changes": [{"kind": "set", "name": "…", "version": "…", "origin": "fresh"}, …]}`: each [`ChangeEvent`](crate::ChangeEvent), after the report with the outcome |
/// | `heartbeat` | `null`, after 15 seconds without another event. The page closes a stream that is silent for two and a half intervals |
/// | `closed` | `"renewed"`, `"destroyed"`, `"expired"`, `"revoked"` or `"shutdown"`, last |
///
/// The stream of a visitor without a session does not show a later session: the page opens another stream. Without a
/// memory tier the report shows the state of the request that opened the stream, and no later changes.
#[derive(Clone)]
pub struct SessionInspector {
    node: Arc<Node>,
    prefix: String,
}

impl SessionInspector {
    /// Creates an inspector for sessions of this chain.
    pub fn new(sessions: &Sessions) -> Self {
        Self { node: Arc::clone(&sessions.node), prefix: String::new() }
    }

    /// Sets the path at which the application mounts the inspector, such as `/inspector`. Call `mount_path` only if no
    /// router removes this path before it calls the inspector: axum's `nest_service` does remove the path.
    #[must_use]
    pub fn mount_path(mut self, path: &str) -> Self {
        path.trim_end_matches('/').clone_into(&mut self.prefix);
        self
    }

    async fn answer(self, head: Parts) -> Response<InspectorBody> {
        let Parts { method, uri, headers, .. } = &head;
        let path = uri.path().strip_prefix(self.prefix.as_str());
        let is_root = matches!(path, Some("" | "/"));
        // A router that strips the path does not tell whether the path had a slash at the end. No relative path is
        // right in both cases, but a query alone is.
        let part = if is_root { uri.query() } else { path.and_then(|path| path.strip_prefix('/')) };
        let answered = match part {
            Some("page.js") => SCRIPT.answer(method, headers),
            Some("page.css") => STYLE.answer(method, headers),
            Some("icon.svg") => ICON.answer(method, headers),
            Some("events") => self.events(&head).await,
            _ if is_root => PAGE.answer(method, headers).map(with_policy),
            _ => Err(Refusal::not_found("inspector")),
        };
        answered.unwrap_or_else(Refusal::into_response)
    }

    async fn events(&self, head: &Parts) -> Result<Response<InspectorBody>, Refusal> {
        only_own_pages(&self.node, RequestKind::Events, head)?;
        let session = loader::load(&head.extensions, &self.node).await?;
        let shared = session.shared();
        if shared.close_reason(shared.node.now()).is_some() {
            return Ok(gone());
        }
        Ok(streaming(WritebackBody(EventStream::new(Reports::new(session), HEARTBEAT_INTERVAL).boxed())))
    }
}

fn with_policy(mut page: Response<InspectorBody>) -> Response<InspectorBody> {
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    page
}

impl<B> Service<Request<B>> for SessionInspector {
    type Response = Response<InspectorBody>;
    type Error = Infallible;
    type Future = InspectorFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> InspectorFuture {
        let (head, _) = request.into_parts();
        WritebackFuture(Box::pin(self.clone().answer(head)))
    }
}

/// The answer of a [`SessionInspector`].
///
/// # Cancel safety
///
/// A dropped future has changed nothing: the inspector writes nothing.
pub type InspectorFuture = WritebackFuture;

/// The body of an answer of the inspector: whole, or a stream of events that goes on until the session is over.
pub type InspectorBody = WritebackBody;

impl fmt::Debug for SessionInspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInspector").field("at", &self.prefix).finish_non_exhaustive()
    }
}
