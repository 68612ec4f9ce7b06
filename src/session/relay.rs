//! Relay, birth and turn tokens: the tokens that a page brings to the writeback endpoint.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use super::{
    load::{
        merge,
        token::{CurrentToken, check_current},
    },
    shared::{Binding, SessionShared},
};
use crate::{
    cookie::{OpenedToken, layout::NONCE_LEN, seal::Purpose},
    cross_site::PageOrigin,
    error::{CloseReason, WriteError},
    id::{RecordKey, SessionId},
    memory::{SessionLookup, record::Record},
    node::Node,
    record::values::Resolution,
    tier::Snapshot,
    time::Millis,
};

/// Changes on their way to the browser's cookie, sealed for the page to bring to the writeback endpoint.
///
/// The token can be sent over a socket as it is: the page can neither read nor change the token, and the token applies
/// to its own session only. A token that the page brings twice, late, or after a later token changes nothing that is
/// newer.
///
/// The hook posts the token with `session.relay(token)`. A client that is no browser posts the token as JSON, with its
/// cookie and with `Sec-Fetch-Site: same-origin` or the application's `Origin`; else the answer is 403 `cross_site`:
///
/// ```text
/// curl -b jar -c jar -H 'Sec-Fetch-Site: same-origin' \
///      --json '{"$relay": "…"}' https://shop.example/session
/// ```
///
/// ```
/// # use http::Response;
/// # use layered_session::{CookieTier, KeyRing, MemoryTier, Session, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # use tower::{Layer, service_fn};
/// use axum::{Router, body::Body};
/// use http::{Request, header::SET_COOKIE};
/// use layered_session::{LayeredSessionLayer, SessionWriteback};
/// use tower::ServiceExt;
///
/// # #[derive(Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Theme>();
/// # let sessions = chain.build()?;
/// let layer = LayeredSessionLayer::new(sessions.clone());
/// # let socket = layer.layer(service_fn(async |request: Request<()>| {
/// #     Ok::<_, layered_session::MissingSession>(Response::new(Session::load(request.extensions()).await?))
/// # }));
/// # let session = socket.oneshot(Request::new(())).await?.into_body();
/// let writeback = SessionWriteback::new(&sessions);
/// let app: Router = Router::new().nest_service("/session", writeback).layer(layer);
///
/// session.set(Theme("dark".into())).await?; // on a socket: no response is left
/// let token = session.relay().ok_or("the browser's cookie lacks the theme")?;
///
/// // The page posts the token, and the response carries the cookie:
/// let post = Request::post("/session")
///     .header("content-type", "application/json")
///     .header("sec-fetch-site", "same-origin")
///     .body(Body::from(format!(r#"{{"$relay": "{token}"}}"#)))?;
/// let response = app.oneshot(post).await?;
/// assert!(response.headers().contains_key(SET_COOKIE));
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RelayToken(pub(super) String);

impl RelayToken {
    /// Returns the text to send: a letter, a point, and base64url.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelayToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelayToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayToken(..)")
    }
}

/// The reason why a relay token changed nothing.
#[derive(Debug)]
pub(crate) enum RelayRefused {
    /// The text is no token of this chain.
    NotGenuine,
    Expired,
    /// The request has another session, or none.
    OtherSession,
    Closed(CloseReason),
    /// A request has brought the birth token or the order before.
    Used,
    /// The signed-in user is not the user of the order.
    OtherUser,
    /// Requests have brought too many birth tokens lately.
    Busy,
    /// The sign-in, the renewal or another write failed, as in a handler.
    Write(WriteError),
}

impl RelayRefused {
    /// Counts the refused token. Nothing is traced: a page can bring refused tokens at any rate.
    pub(crate) fn count(&self, node: &Node) {
        let counter = match self {
            Self::NotGenuine => &node.counters.foreign_tokens,
            // Not counted: the token is genuine and current, and the refusal came from the store, the values or a limit
            // of this node.
            Self::Write(_) | Self::Busy => return,
            Self::Expired | Self::OtherSession | Self::Closed(_) | Self::Used | Self::OtherUser => {
                &node.counters.refused_tokens
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl From<WriteError> for RelayRefused {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// A kind of a page's tokens: the prefix, and the purpose for which the token is sealed.
pub(super) type TokenKind = (&'static str, Purpose);
pub(super) const RELAY: TokenKind = ("r.", Purpose::Relay);
pub(super) const BIRTH: TokenKind = ("b.", Purpose::Birth);
pub(super) const TURN: TokenKind = ("t.", Purpose::Turn);

/// A relay token that has been opened: genuine and not expired. Its session has not been compared with the request's.
pub(crate) struct OpenedRelay {
    pub(super) id: SessionId,
    pub(super) purpose: Purpose,
    pub(super) current: CurrentToken,
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) page: PageOrigin,
}

impl OpenedRelay {
    /// Opens a token that a page brings. No session is needed, so that a token can be refused before the load.
    pub(crate) fn open(node: &Node, token: &str, page: PageOrigin) -> Result<Self, RelayRefused> {
        let now = node.now();
        let mut kinds = [RELAY, BIRTH, TURN].into_iter();
        let prefixed = kinds.find_map(|(prefix, purpose)| Some((purpose, token.strip_prefix(prefix)?)));
        let (purpose, sealed) = prefixed.ok_or(RelayRefused::NotGenuine)?;
        let keys = node.config.cookie.ring().keys();
        let opened = node.config.cookie.open(&keys, &node.config.audience, purpose, sealed.as_bytes());
        let OpenedToken { id, payload, nonce, .. } = opened.ok_or(RelayRefused::NotGenuine)?;
        let current = check_current(node, payload, now).filter(|current| !current.is_idle(now));
        let current = current.ok_or(RelayRefused::Expired)?;
        if current.payload.order.is_some() != (purpose == Purpose::Turn) {
            return Err(RelayRefused::NotGenuine);
        }
        Ok(Self { id, purpose, current, nonce, page })
    }
}

/// # Errors
///
/// `Closed(CrossSite)` if a token must not give its session to a browser without the cookie: such a token begins a
/// session in the browser.
pub(super) fn check_minting(shared: &SessionShared, page: PageOrigin) -> Result<(), RelayRefused> {
    if page == PageOrigin::Listed || matches!(shared.binding(), Binding::CrossSite(_)) {
        return Err(RelayRefused::Closed(CloseReason::CrossSite));
    }
    Ok(())
}

/// Merges the content of a session's token into the records. Only the content names the principal: check for revocation
/// before binding the session to the handle.
pub(super) fn take_changes(
    shared: &SessionShared,
    record: &Arc<Record>,
    current: &CurrentToken,
    now: Millis,
) -> Result<(), RelayRefused> {
    record.touch(current.used(now));
    // `Newest` also in a chain with `FirstHit`: under `FirstHit` this node would go on to answer from its older memory,
    // and the socket's write would have no effect here.
    merge::merge_payload(shared, record, current, Resolution::Newest, now).note_debts(shared, record, now);
    shared.node.account(record, now);
    shared.check_revoked(record, now).map_err(RelayRefused::Closed)
}

/// Returns the record of an opened token's session, on a node that might not know the session yet. A shared store
/// decides whether the session exists; the store's values are read later, when they are needed.
pub(super) async fn find_token_record(
    shared: &SessionShared,
    id: SessionId,
    current: &CurrentToken,
    now: Millis,
) -> Result<Arc<Record>, RelayRefused> {
    let (node, key) = (&shared.node, RecordKey(*id.as_bytes()));
    let mut life = None;
    if let Some(store) = node.store()
        // The store is not asked if memory has the store's last answer.
        && !matches!(node.lookup(&id), SessionLookup::Live(record) if node.vouches(&record, now))
    {
        match store.read(node.config.owner(&id), None).await.map_err(WriteError::from)? {
            Snapshot::Present(stored) => life = stored.life().copied(),
            Snapshot::Unchanged { .. } => {}
            Snapshot::Absent => return Err(RelayRefused::OtherSession),
            Snapshot::Ended(end) => return Err(RelayRefused::Closed(end.reason())),
        }
    }
    let make = || {
        let record = Record::session(key, current.initial_life(), current.used(now));
        if node.store.is_some() { record.never_loaded() } else { record }
    };
    let record = node.session_record(&key, now, make).map_err(|ended| RelayRefused::Closed(ended.reason()))?;
    if let Some(life) = life {
        // Another node may have shortened the lifetime.
        node.merge_stored_life(&record, &life, now);
    }
    record.touch(current.used(now));
    match record.closed(now) {
        Some(reason) => Err(RelayRefused::Closed(reason)),
        None => Ok(record),
    }
}
