//! Relay and birth tokens: changes on their way to the browser's cookie, and what a page brings back.

use std::sync::Arc;
use std::{fmt, sync::atomic::Ordering, time::Duration};

use super::{
    cookie_out::trace_unsealable,
    current_token::{CurrentToken, check_current},
    shared::{Binding, SessionShared},
};
use crate::{
    cookie::{OpenedToken, layout::NONCE_LEN, seal::Purpose},
    cross_site::PageOrigin,
    error::{CloseReason, WriteError},
    id::SessionId,
    memory::record::Record,
    node::{Node, accepted_nonces::NotAccepted},
    record::{state::Kind, values::Resolution},
    time::Millis,
};

/// Changes on their way to the browser's cookie, sealed for the page to bring to the writeback endpoint.
///
/// It can be sent over a socket as it is: the page can neither read nor change it, and it applies to its own session
/// only. Bringing it twice, or late, or in another order than it was made changes nothing that is newer.
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
pub struct RelayToken(String);

impl RelayToken {
    pub(super) const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text to send: base64url and a point.
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

/// Why a relay token changed nothing.
#[derive(Debug)]
pub(crate) enum RelayRefused {
    /// Not a token of this chain.
    NotGenuine,
    Expired,
    /// The request's session is another one, or none.
    OtherSession,
    Closed(CloseReason),
    /// A birth token or an order was brought before.
    Used,
    /// Another user than the order's is signed in.
    OtherUser,
    /// Too many birth tokens were brought lately.
    Busy,
    /// The turn failed as a turn in a handler does.
    Write(WriteError),
}

impl RelayRefused {
    /// Counts the refused token. No trace tells of it: a page can bring refused tokens at any rate.
    pub(crate) fn count(&self, node: &Node) {
        let counter = match self {
            Self::NotGenuine => &node.counters.foreign_tokens,
            // The token was taken, and the store or the values stood in the way.
            Self::Write(_) | Self::Busy => return,
            Self::Expired | Self::OtherSession | Self::Closed(_) | Self::Used | Self::OtherUser => {
                &node.counters.refused_tokens
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl From<NotAccepted> for RelayRefused {
    fn from(reason: NotAccepted) -> Self {
        match reason {
            NotAccepted::Used => Self::Used,
            NotAccepted::Full => Self::Busy,
        }
    }
}

impl From<WriteError> for RelayRefused {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// What a page's tokens begin with: the prefix says which of three purposes the token was sealed for.
const RELAY_PREFIX: &str = "r.";
const BIRTH_PREFIX: &str = "b.";
pub(super) const TURN_PREFIX: &str = "t.";

/// A relay token that has been opened: it is genuine and has not expired. Whose session it is stays to be seen.
pub(crate) struct OpenedRelay {
    pub(super) id: SessionId,
    purpose: Purpose,
    pub(super) current: CurrentToken,
    pub(super) nonce: [u8; NONCE_LEN],
    pub(super) page: PageOrigin,
}

impl OpenedRelay {
    /// Opens what a page brings. That takes no session, so that it can be refused before one is loaded.
    pub(crate) fn open(node: &Node, token: &str, page: PageOrigin) -> Result<Self, RelayRefused> {
        let now = node.now();
        let purposes = [(RELAY_PREFIX, Purpose::Relay), (BIRTH_PREFIX, Purpose::Birth), (TURN_PREFIX, Purpose::Turn)];
        let prefixed = purposes.into_iter().find_map(|(prefix, purpose)| Some((purpose, token.strip_prefix(prefix)?)));
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

impl SessionShared {
    /// A relay token, unless this node has meanwhile sealed a cookie that holds all of it, or opened one: then the
    /// browser has it, or has it on the way. Should that response be lost, the next request heals the cookie.
    pub(crate) fn relay_unless_sealed(&self) -> Option<RelayToken> {
        let now = self.node.now();
        let record = self.live(now).ok()?;
        if self.is_sealed(&record, now) && !Self::is_refresh_due_for(&record) { None } else { self.relay() }
    }

    /// Whether the session was used since the last token that this node knows of, by so much that the browser is to be told:
    /// a browser drops its cookie at the end that it was told.
    fn is_refresh_due_for(record: &Arc<Record>) -> bool {
        let due = record.read().cookie().map(|(_, known)| known.refresh_after);
        due.is_some_and(|due| record.used() >= due)
    }

    pub(crate) fn is_refresh_due(&self) -> bool {
        self.live(self.node.now()).is_ok_and(|record| Self::is_refresh_due_for(&record))
    }

    /// How often a stream looks whether the browser's copy is due: a tenth of the idle lifetime, and no more than once a
    /// second.
    pub(crate) fn refresh_interval(&self) -> Option<Duration> {
        let record = self.live(self.node.now()).ok()?;
        match &record.read().kind {
            Kind::Session { life, .. } => Some((life.idle() / 10).max(Duration::from_secs(1))),
            _ => None,
        }
    }

    /// Whether there is anything to bring. A change is brought until a request has shown that the browser has it; mere use
    /// only where no later token tells of it.
    fn lacks_changes(&self, record: &Arc<Record>, now: Millis) -> bool {
        let carried = |in_step| self.cookie_contents_of(record, now).is_held_by(in_step);
        let brought = self.request_token.cookie.as_ref();
        self.is_behind(record, now) && (!brought.is_some_and(carried) || Self::is_refresh_due_for(record))
    }

    /// The changes that this browser's cookie lacks, for the page to bring; none if it lacks none. After this handle's own
    /// end, the removal of the cookie that no response has taken away.
    pub(crate) fn relay(&self) -> Option<RelayToken> {
        self.touch();
        let now = self.node.now();
        let Ok(record) = self.live(now) else {
            return if self.head_has_left() { self.removal() } else { None };
        };
        if !self.lacks_changes(&record, now) {
            return None;
        }
        let birth = !record.is_confirmed();
        let (purpose, prefix) = if birth { (Purpose::Birth, BIRTH_PREFIX) } else { (Purpose::Relay, RELAY_PREFIX) };
        let mut text = Vec::from(prefix);
        let payload = self.build_payload(&record, now)?.written.finish();
        let sealed =
            self.node.config.cookie.seal(&self.node.config.audience, purpose, &record.id(), payload, &mut text);
        sealed.inspect_err(trace_unsealable).ok()?;
        String::from_utf8(text).ok().map(RelayToken)
    }

    /// Takes in what a page brings. The caller has checked that the request is same-origin.
    pub(crate) async fn apply_relay(&self, relayed: OpenedRelay) -> Result<(), RelayRefused> {
        self.touch();
        if let Some(order) = &relayed.current.payload.order {
            return self.apply_turn(order, &relayed).await;
        }
        let now = self.node.now();
        let OpenedRelay { id, purpose, current, nonce, page } = relayed;
        match self.live(now) {
            Ok(record) if record.id() == id => self.take_changes(&record, &current, now),
            Ok(_) => Err(RelayRefused::OtherSession),
            Err(Some(reason)) => Err(RelayRefused::Closed(reason)),
            Err(None) if purpose == Purpose::Birth => {
                self.check_minting(page)?;
                self.bring_birth(id, &current, nonce, now).await
            }
            // The cookie has idled out and proves its id alone: the token tells of a later use.
            Err(None) if self.request_token.cookie_tokens().ids == [id] && self.end_reason(&id).is_none() => {
                let record = self.find_token_record(id, &current, now).await?;
                self.take_changes(&record, &current, now)?;
                self.rebind(record);
                Ok(())
            }
            Err(None) => Err(RelayRefused::OtherSession),
        }
    }

    /// # Errors
    ///
    /// Where a token that is brought without a cookie may give the browser no session: giving one is minting.
    pub(super) fn check_minting(&self, page: PageOrigin) -> Result<(), RelayRefused> {
        if page == PageOrigin::Listed || matches!(self.binding(), Binding::CrossSite(_)) {
            return Err(RelayRefused::Closed(CloseReason::CrossSite));
        }
        Ok(())
    }

    /// Gives the browser the session that was made on its page's socket: once, whoever brings the token.
    async fn bring_birth(
        &self,
        id: SessionId,
        current: &CurrentToken,
        nonce: [u8; NONCE_LEN],
        now: Millis,
    ) -> Result<(), RelayRefused> {
        if !current.is_brief(now) {
            return Err(RelayRefused::Expired);
        }
        let record = self.find_token_record(id, current, now).await?;
        self.node.accepted_nonces.accept(nonce, now)?;
        self.take_changes(&record, current, now)?;
        self.rebind(record);
        Ok(())
    }

    /// Takes what a token of this session holds into the records. Only that says whose session it is: the session is this
    /// handle's once it is known to live.
    pub(super) fn take_changes(
        &self,
        record: &Arc<Record>,
        current: &CurrentToken,
        now: Millis,
    ) -> Result<(), RelayRefused> {
        record.touch_at_least(current.used(now));
        // The newest copy stands whatever the resolution: no cookie would keep a copy that memory leaves out here.
        self.merge_payload(record, current, Resolution::Newest, now);
        self.account(record, now);
        self.check_revoked(record, now).map_err(RelayRefused::Closed)
    }
}
