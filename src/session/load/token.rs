//! The head of a request, and the token in its cookies. Memory knows the bytes of the token, or the token is opened, and
//! its times and versions are checked against this node's clock.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::request::Parts;

use crate::{
    cookie::{
        OpenedToken,
        header::{Fields, Scan},
        keyring::Keys,
        payload::{Entry, EntryOwner, Payload},
        seal::{self, Purpose},
    },
    cross_site::CrossSite,
    id::{Principal, RecordKey, SessionId},
    memory::record::Record,
    node::Node,
    node_clock::NodeClock,
    record::{
        cookie_sync::{CookieSnapshot, TokenFingerprint},
        life::SessionLife,
        state::{Kind, State},
        values::StoredValue,
    },
    session::shared::{Binding, CookieTokens, RequestToken, SessionShared},
    time::{Millis, Wall},
    value::{Json, ValueIndex},
    version::Version,
};

/// The layer's notes of a request's head.
#[derive(Clone)]
pub(crate) struct RequestHead {
    pub(crate) node: Arc<Node>,
    pub(crate) cookies: Option<Fields>,
    /// The kind of cross-site request; `None` if no other site caused the request.
    pub(crate) cross_site: Option<CrossSite>,
    /// Whether the request asks for another protocol, such as WebSocket.
    pub(crate) upgrade: bool,
    pub(crate) facts: Option<Box<HeadFacts>>,
}

/// The answers that the chain computes from the request's head.
#[derive(Clone, Default)]
pub(crate) struct HeadFacts {
    pub(crate) identified: Option<Principal>,
    pub(crate) defaults: Vec<(ValueIndex, Json)>,
    /// The head for sources. Shared, since a copy would run the `Clone` code of the application's extensions.
    pub(crate) parts: Option<Arc<Parts>>,
}

impl RequestHead {
    /// Returns the cookies. The cookies of a cross-site upgrade do not count.
    pub(super) fn counted_cookies(&self) -> Option<&Fields> {
        self.cookies.as_ref().filter(|_| self.cross_site != Some(CrossSite::Upgrade))
    }

    /// Whether a cookie has the name of the session's cookie.
    pub(in crate::session) fn has_token(&self) -> bool {
        let scan = |cookies| self.node.config.cookie_name.scan(cookies);
        self.counted_cookies().is_some_and(|cookies| matches!(scan(cookies), Scan::Found(_)))
    }

    /// Whether the token alone decides the session.
    pub(in crate::session) fn is_plain(&self) -> bool {
        self.facts.is_none() && self.node.revocations.load(Ordering::Acquire) == 0
    }
}

/// A session whose token memory knows by its bytes.
#[derive(Clone)]
pub(in crate::session) struct KnownToken {
    pub(super) record: Arc<Record>,
    pub(super) cookie: CookieSnapshot,
    pub(super) principal: Option<Arc<Record>>,
    /// Whether a plain request needs no call of the store: see [`Node::is_settled`]. Always true without a store.
    pub(in crate::session) is_settled: bool,
}

/// A token that had to be opened.
pub(super) struct OpenedCookie {
    pub(super) id: SessionId,
    pub(super) token: CurrentToken,
    pub(super) old_key: bool,
    pub(super) fingerprint: Option<TokenFingerprint>,
}

/// The session that the cookies of a request name.
pub(super) enum CookieSession {
    Nothing,
    One(OpenedCookie),
    /// The tokens name several sessions. An attacker may have planted a token, and the browser's own session is
    /// unknown.
    Several,
}

/// Returns the session of the request's token, if memory knows the token and the request brings no other token.
pub(in crate::session) fn find_known(head: &RequestHead) -> Option<KnownToken> {
    let config = &head.node.config;
    head.node.memory.as_ref()?;
    match config.cookie_name.scan(head.counted_cookies()?) {
        Scan::Found(candidates) => recognise(&head.node, candidates.only()?, head.node.now()),
        Scan::Absent | Scan::Capped => None,
    }
}

/// Returns the session of a token, if memory knows these bytes and still holds all values of the token: then the token
/// need not be opened.
fn recognise(node: &Node, token: &[u8], now: Millis) -> Option<KnownToken> {
    let memory = node.memory.as_ref()?;
    let record = memory.look_up(&RecordKey(*seal::session_id_of(token)?.as_bytes()))?;
    if !node.vouches(&record, now) {
        return None;
    }
    let fingerprint = node.config.fingerprints.fingerprint(token, node.config.cookie.ring().generation());
    let (cookie, confirmed, mut is_settled) = {
        let state = record.read_live(now).ok()?;
        let Kind::Session { browser, .. } = &state.kind else { return None };
        let (known, cookie) = state.cookie()?;
        let cookie = Some(cookie).filter(|_| known == fingerprint)?;
        // A cookie that was sealed without a user tells nothing of the user's record.
        let unknown_user = cookie.principal.is_none() && has_user(node, &state);
        let is_settled = node.is_settled(&record, state.idle(), now) && !(unknown_user && node.store.is_some());
        (cookie, browser.confirmed, is_settled)
    };
    if cookie.deadline <= now {
        return None;
    }
    let principal = match cookie.principal.as_deref() {
        // A cookie without values of the user is whole in any case. Over a store the load needs the user's record.
        Some((_, 0)) if node.store.is_none() => None,
        Some((key, revision)) => {
            let found = memory.principal(key).filter(|record| node.vouches(record, now));
            let look = |state: &State| (state.revision(), state.idle());
            let found = found.and_then(|record| record.live(now, look).ok().map(|seen| (record, seen)));
            // If the principal's record was evicted, has expired or has changed, memory may lack values of the token:
            // the token must be opened.
            if *revision != 0 && found.as_ref().is_none_or(|(_, (present, _))| present != revision) {
                return None;
            }
            is_settled &= found.as_ref().is_some_and(|(record, (_, idle))| node.is_settled(record, *idle, now));
            found.map(|(record, _)| record)
        }
        None => None,
    };
    if !confirmed {
        record.confirm();
    }
    Some(KnownToken { record, cookie, principal, is_settled })
}

/// Whether a session holds an identity value, which may name a user.
fn has_user(node: &Node, state: &State) -> bool {
    node.config.identity_index().is_some_and(|index| state.values.slot(index).is_some())
}

/// Creates the state of a handle for a session whose token memory knows. The load opens no seal and asks no store.
pub(in crate::session) fn known_session(node: Arc<Node>, known: KnownToken, upgrade: bool) -> SessionShared {
    let KnownToken { record, cookie, principal, .. } = known;
    let key = Some(*record.key());
    let request_token = RequestToken { key, cookie: Some(cookie), principal, ..RequestToken::default() };
    SessionShared::new(node, Binding::Live(record), request_token, upgrade)
}

/// Opens every token, and returns the newest token if all name one session. Also returns the list of the tokens, if the
/// request brought any.
pub(super) fn open(node: &Node, cookies: &Fields, now: Millis) -> (CookieSession, Option<Box<CookieTokens>>) {
    let candidates = match node.config.cookie_name.scan(cookies) {
        Scan::Found(candidates) => candidates,
        Scan::Absent => return (CookieSession::Nothing, None),
        Scan::Capped => {
            node.counters.capped_cookies.fetch_add(1, Ordering::Relaxed);
            return (CookieSession::Nothing, Some(CookieTokens::unread().into()));
        }
    };
    let keys = node.config.cookie.ring().keys();
    let mut opened = OpenedTokens::default();
    opened.brought.unread = candidates.cut;
    for candidate in candidates.iter() {
        opened.add(node, &keys, candidate, now);
    }
    let OpenedTokens { brought, session, several, newest, idle, several_idle } = opened;
    // See `OpenedTokens::idle`.
    let newest = newest.or_else(|| idle.filter(|_| session.is_none() && !several_idle));
    let named = session.or_else(|| candidates.iter().find_map(seal::session_id_of));
    // `recognise` has counted the look-up of a single candidate. For several candidates one look-up counts here, for
    // `Stats::hits`.
    if let (None, Some(memory), Some(id)) = (candidates.only(), &node.memory, named) {
        memory.look_up(&RecordKey(*id.as_bytes()));
    }
    if several {
        node.counters.refused_tokens.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            "a request brought valid cookies of several sessions, so no cookie counts: if the cookie's path or domain \
             has changed, declare the earlier place with `CookieTier::formerly`"
        );
        return (CookieSession::Several, Some(brought.into()));
    }
    (newest.map_or(CookieSession::Nothing, CookieSession::One), Some(brought.into()))
}

/// The tokens of a request that were opened so far.
#[derive(Default)]
struct OpenedTokens {
    brought: CookieTokens,
    /// The session of the tokens that count.
    session: Option<SessionId>,
    several: bool,
    newest: Option<OpenedCookie>,
    /// The newest token whose session seems idle to this node, and may be in use on another node over a store. The token
    /// counts only if no other token does.
    idle: Option<OpenedCookie>,
    /// Whether idle tokens name several sessions: then none of them counts.
    several_idle: bool,
}

impl OpenedTokens {
    fn add(&mut self, node: &Node, keys: &Keys, candidate: &[u8], now: Millis) {
        let opened = node.config.cookie.open(keys, &node.config.audience, Purpose::Cookie, candidate);
        let Some(OpenedToken { id, payload, retired, .. }) = opened else {
            node.counters.foreign_tokens.fetch_add(1, Ordering::Relaxed);
            self.brought.unread = true;
            return;
        };
        let token = check_current(node, payload, now);
        self.brought.add(id, token.is_some());
        let ended = node.end_reason(&id).is_some();
        let is_idle = token.as_ref().is_some_and(|token| token.is_idle(now)) && !ended && !node.lives(&id);
        if is_idle && node.store.is_none() {
            return;
        }
        // An ended id and another id count as several sessions: the other id may be that of a planted cookie.
        if (token.is_some() || ended) && !is_idle {
            self.several |= self.session.replace(id).is_some_and(|other| other != id);
        }
        let Some(token) = token else { return };
        if is_idle && self.idle.as_ref().is_some_and(|other| other.id != id) {
            self.several_idle = true;
        }
        let newest = if is_idle { &mut self.idle } else { &mut self.newest };
        let is_newer = |other: &OpenedCookie| token.payload.head.issued > other.token.payload.head.issued;
        if newest.as_ref().is_none_or(is_newer) {
            let fingerprints = &node.config.fingerprints;
            let fingerprint = node.memory.is_some().then(|| fingerprints.fingerprint(candidate, keys.generation));
            *newest = Some(OpenedCookie { id, token, old_key: retired, fingerprint });
        }
    }
}

/// The life of a token that gives its session to each bearer: a stolen copy must not work for long.
const BRIEFLY: Duration = Duration::from_secs(60);

/// A genuine token before its absolute deadline, with times in node time.
pub(in crate::session) struct CurrentToken {
    pub(in crate::session) payload: Box<Payload>,
    pub(in crate::session) life: SessionLife,
    pub(in crate::session) issued: Millis,
    pub(in crate::session) idle_deadline: Millis,
    /// The time of sealing, no later than now.
    sealed: Wall,
    /// The span by which the time of issue is ahead of this node's clock.
    ahead: Duration,
}

impl CurrentToken {
    /// Returns the life of a record that this token creates.
    pub(in crate::session) fn initial_life(&self) -> SessionLife {
        let mut life = self.life.clone();
        if let Some(predecessor) = self.payload.head.predecessor {
            life.set_predecessor(predecessor);
        }
        life
    }

    /// Whether the token's idle deadline has come. Such a token proves its id and nothing more.
    pub(in crate::session) fn is_idle(&self, now: Millis) -> bool {
        self.idle_deadline <= now
    }

    /// Returns the last use known to the token: the idle deadline minus the idle lifetime. The time of sealing is not a
    /// use.
    pub(in crate::session) fn used(&self, now: Millis) -> Millis {
        self.idle_deadline.before(self.life.idle()).min(now)
    }

    /// Whether a token with a life of one minute may be brought now. A token issued more than a minute ahead of this
    /// node's clock is refused too: such a token would work for as long as the clocks differ.
    pub(in crate::session) fn is_brief(&self, now: Millis) -> bool {
        self.ahead <= BRIEFLY && now < self.issued.after(BRIEFLY)
    }

    /// Returns a version of the token. A version too far ahead counts as written when the token was sealed.
    pub(in crate::session) fn believed_version(&self, version: Version, time: &NodeClock) -> Version {
        time.believed(version, self.sealed)
    }

    /// Returns the copy of a value in an entry.
    pub(in crate::session) fn stored_value(&self, entry: &Entry<'_>, time: &NodeClock, now: Millis) -> StoredValue {
        let version = self.believed_version(entry.version, time);
        StoredValue::new(version, entry.json.map(Json::from), time.written(version, now))
    }
}

/// Corrects the times of a payload. `None` if the token is further ahead than `max_skew` or past its absolute deadline.
pub(in crate::session) fn check_current(node: &Node, payload: Box<Payload>, now: Millis) -> Option<CurrentToken> {
    let (time, head, stamped) = (&node.time, &payload.head, node.store.is_some());
    let wall = time.wall(now);
    if head.issued > wall.after(node.time.max_skew) {
        node.counters.skewed_tokens.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            "a token counts as absent, since its time is further in the future than `max_skew` allows: compare the \
             clocks of the nodes"
        );
        return None;
    }
    note_versions(node, &payload, now);
    let sealed = head.issued.min(wall);
    let lead = time.lead_at(head.issued);
    let node = |at: Wall| Millis(at.0).after(Duration::from_millis(lead));
    let mut life = head.life.map(node);
    if !stamped {
        life.birth = time.believed(life.birth, sealed);
    }
    life.lifetime_version = time.believed(life.lifetime_version, sealed);
    let (mut issued, mut idle_deadline) = (node(head.issued), node(head.idle_deadline));
    if issued > now {
        // The sealing node's clock is ahead, and a session must not live longer for that reason.
        (issued, idle_deadline) = (now, idle_deadline.min(now.after(life.idle)));
    }
    if life.created > now {
        life.absolute_deadline = now.after(life.absolute_deadline.since(life.created));
        life.created = now;
    }
    let ahead = Millis(head.issued.0).since(Millis(wall.0));
    (now < life.absolute_deadline).then(|| CurrentToken {
        life: SessionLife::from(life),
        payload,
        issued,
        idle_deadline,
        sealed,
        ahead,
    })
}

/// Notes all versions of a genuine token, so that fresh writes are above them.
fn note_versions(node: &Node, payload: &Payload, now: Millis) {
    let entries = [EntryOwner::Session, EntryOwner::Principal].into_iter().flat_map(|owner| payload.entries(owner));
    let (life, order_birth) = (&payload.head.life, payload.order.as_ref().map(|order| order.birth));
    let versions = entries.map(|entry| entry.version).chain([life.birth, life.lifetime_version]).chain(order_birth);
    versions.for_each(|version| node.note_version(version, now));
}
