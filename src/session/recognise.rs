//! Whose cookie a request brings: memory knows its very bytes, or it is opened, and then it is believed or not.

use std::sync::{Arc, atomic::Ordering};

use super::{
    arrive::{self, AcceptedToken},
    current_token::{CurrentToken, check_current},
    request_token::{CookieTokens, RequestToken},
    shared::{Binding, SessionShared, fenced},
};
use crate::{
    cookie::{
        OpenedToken,
        header::{Fields, Scan},
        seal::{self, Purpose},
    },
    cross_site::CrossSite,
    error::{CloseReason, TierError},
    id::{RecordKey, SessionId},
    memory::{EndedSession, Memory, SessionLookup, record::Record},
    node::Node,
    record::{
        cookie_sync::{CookieSnapshot, TokenFingerprint},
        life::{End, Predecessor, Successor},
        state::{Kind, State},
    },
    sync::RwLock,
    tier::Snapshot,
    time::Millis,
};

/// A session whose token memory knows by its very bytes.
pub(super) struct KnownToken {
    record: Arc<Record>,
    in_step: CookieSnapshot,
    principal: Option<Arc<Record>>,
}

/// A token that had to be opened.
pub(super) struct ChosenToken {
    id: SessionId,
    current: CurrentToken,
    old_key: bool,
    fingerprint: Option<TokenFingerprint>,
}

/// What a request came with whose token memory does not know.
pub(super) struct UnopenedTokens {
    pub(super) cookies: Option<Fields>,
    /// How another site caused the request, if one did.
    pub(super) cross_site: Option<CrossSite>,
}

/// The session whose token memory knows, if that is the only one. Without memory nobody looks for one.
pub(super) fn find_known_token(node: &Node, cookies: &Fields, now: Millis) -> Option<KnownToken> {
    let memory = node.memory.as_ref()?;
    match node.config.cookie_name.scan(cookies) {
        Scan::Found(candidates) => recognise(node, memory, candidates.only()?, now),
        Scan::Absent | Scan::Capped => None,
    }
}

/// The session whose token memory knows by these very bytes, if memory still holds everything that they do: then the
/// seal needn't be opened.
fn recognise(node: &Node, memory: &Memory, token: &[u8], now: Millis) -> Option<KnownToken> {
    let record = memory.look_up(&RecordKey(*seal::session_id_of(token)?.as_bytes()))?;
    if record.is_stale() {
        return None;
    }
    let fingerprint = node.config.fingerprints.fingerprint(token, node.config.cookie.ring().generation());
    let (in_step, confirmed) = {
        let state = record.read_live(now).ok()?;
        let Kind::Session { browser, .. } = &state.kind else { return None };
        let (known, in_step) = state.cookie()?;
        (Some(in_step).filter(|_| known == fingerprint)?, browser.confirmed)
    };
    if in_step.deadline <= now {
        return None;
    }
    let principal = match in_step.principal.as_deref() {
        // An evicted, expired or newer record of the principal may lack what the token has.
        Some((key, carried)) if *carried != 0 => {
            Some(memory.principal(key).filter(|record| record.live(now, State::revision) == Ok(*carried))?)
        }
        _ => None,
    };
    if !confirmed {
        record.confirm();
    }
    Some(KnownToken { record, in_step, principal })
}

impl KnownToken {
    fn brings(self) -> (Arc<Record>, RequestToken) {
        let Self { record, in_step, principal } = self;
        let brought =
            RequestToken { key: Some(*record.key()), cookie: Some(in_step), principal, ..RequestToken::default() };
        (record, brought)
    }
}

/// The state of a handle of a session that memory knows.
pub(super) fn from_known_token(node: Arc<Node>, familiar: KnownToken, upgrade: bool) -> SessionShared {
    let (record, brought) = familiar.brings();
    let core = SessionShared::new(node, Binding::Live(record), brought);
    core.flags.set_upgrade(upgrade);
    core
}

/// Finds whose session it is, if cookies have to be opened for that, and what the store has of its user.
pub(super) async fn resolve_token(
    shared: &mut SessionShared,
    unopened: Option<UnopenedTokens>,
    now: Millis,
) -> Result<(), TierError> {
    if let Some(UnopenedTokens { cookies, cross_site }) = unopened {
        if let Some(opened) = cookies.and_then(|cookies| open_tokens(shared, &cookies, now)) {
            return accept_token(shared, opened, now).await;
        }
        refuse_cross_site(shared, cross_site);
    }
    arrive::drop_if_revoked(shared, now);
    arrive::load_principal(shared, now).await
}

/// Keeps a request without a session from getting one, if another site caused it: a token of ours that had opened
/// would have shown that the browser withheld nothing.
fn refuse_cross_site(shared: &mut SessionShared, cross_site: Option<CrossSite>) {
    let Some(cross_site) = cross_site else { return };
    // Common: each image or form of another site's page. The other refusals are traced with their remedies.
    if cross_site == CrossSite::Withheld {
        tracing::debug!(
            "another site caused a request without a session cookie: its handler reads computed tiers and begins no \
             session; a sign-in by `form_post` needs `from_another_site()`"
        );
    }
    shared.binding = RwLock::new(Binding::CrossSite(cross_site));
}

/// Takes in a token that had to be opened.
async fn accept_token(shared: &mut SessionShared, opened: ChosenToken, now: Millis) -> Result<(), TierError> {
    let (binding, brought, arrived) = find_record(shared, opened, now).await?;
    let came = shared.request_token.cookie_tokens.take();
    (shared.binding, shared.request_token) = (RwLock::new(binding), RequestToken { cookie_tokens: came, ..brought });
    if let Some(arrived) = arrived {
        return arrive::merge_token(shared, arrived, now).await;
    }
    arrive::drop_if_revoked(shared, now);
    arrive::load_principal(shared, now).await
}

/// Opens every token and gives the newest of the one session that they are of. Tokens of several sessions are of
/// none: one of them may have been planted, and which the browser means can't be told.
fn open_tokens(shared: &mut SessionShared, cookies: &Fields, now: Millis) -> Option<ChosenToken> {
    let node = Arc::clone(&shared.node);
    let candidates = match node.config.cookie_name.scan(cookies) {
        Scan::Found(candidates) => candidates,
        Scan::Absent => return None,
        Scan::Capped => {
            node.counters.capped_cookies.fetch_add(1, Ordering::Relaxed);
            shared.request_token.cookie_tokens = Some(CookieTokens::unread().into());
            return None;
        }
    };
    let keys = node.config.cookie.ring().keys();
    let mut came = if candidates.is_cut() { CookieTokens::unread() } else { CookieTokens::default() };
    let mut newest: Option<ChosenToken> = None;
    let mut counted: Option<SessionId> = None;
    let mut ambiguous = false;
    for candidate in candidates.iter() {
        let opened = node.config.cookie.open(&keys, &node.config.audience, Purpose::Cookie, candidate);
        let Some(OpenedToken { id, payload, retired, .. }) = opened else {
            node.counters.foreign_tokens.fetch_add(1, Ordering::Relaxed);
            came.unread = true;
            continue;
        };
        let current = check_current(&node, payload, now);
        came.add(id, current.is_some());
        let ended = shared.node.end_reason(&id).is_some();
        let current = current.filter(|current| !current.is_idle(now) || ended || lives_here(shared, &id, now));
        // An id that has ended here counts beside another one, which a cookie that was planted before may name.
        if current.is_some() || ended {
            ambiguous |= counted.replace(id).is_some_and(|other| other != id);
        }
        let Some(current) = current else { continue };
        let is_newer = |other: &ChosenToken| current.payload.head.issued > other.current.payload.head.issued;
        if newest.as_ref().is_none_or(is_newer) {
            let seen = node.memory.is_some().then(|| node.config.fingerprints.fingerprint(candidate, keys.generation));
            newest = Some(ChosenToken { id, current, old_key: retired, fingerprint: seen });
        }
    }
    let named = counted.or_else(|| candidates.iter().find_map(seal::session_id_of));
    // Memory was asked for the only one before it came to this. Of several it is asked once for the request.
    if let (None, Some(memory), Some(id)) = (candidates.only(), &node.memory, named) {
        memory.look_up(&RecordKey(*id.as_bytes()));
    }
    shared.request_token.cookie_tokens = Some(came.into());
    if ambiguous {
        node.counters.refused_tokens.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a request brought valid cookies of several sessions: none counts, see `CookieTier::formerly`");
        shared.binding = RwLock::new(Binding::Fenced(CloseReason::Ambiguous));
        return None;
    }
    newest
}

/// Whether this node knows of a use of the session within its idle lifetime, whatever a token tells of.
fn lives_here(shared: &SessionShared, id: &SessionId, now: Millis) -> bool {
    match shared.node.memory.as_ref().map(|memory| memory.session(&RecordKey(*id.as_bytes()), now)) {
        Some(SessionLookup::Live(record)) => record.closed(now).is_none(),
        Some(SessionLookup::Ended(_) | SessionLookup::Unknown) | None => false,
    }
}

/// The session that a genuine token names, if it is to be believed.
async fn find_record(
    shared: &SessionShared,
    ChosenToken { id, current, old_key: retired, fingerprint: seen }: ChosenToken,
    now: Millis,
) -> Result<(Binding, RequestToken, Option<AcceptedToken>), TierError> {
    let nothing = |brought| Ok((Binding::Anonymous, brought, None));
    let key = RecordKey(*id.as_bytes());
    let brought = RequestToken { key: Some(key), ..RequestToken::default() };
    let known = match shared.node.memory.as_ref().map(|memory| memory.session(&key, now)) {
        Some(SessionLookup::Ended(ended)) => return Ok((ended.into(), brought, None)),
        Some(SessionLookup::Live(record)) => Some(record),
        Some(SessionLookup::Unknown) | None => None,
    };
    let stored = match shared.node.store() {
        Some(store) if known.as_ref().is_none_or(|record| record.is_stale()) => {
            let abandoned = known.as_ref().map_or(0, |record| record.sync().abandoned_writes());
            Some((store.read(shared.node.config.owner(&id)).await?, abandoned))
        }
        _ => None,
    };
    if let Some((Snapshot::Absent, _)) = stored {
        // What is open on this node learns of it too.
        if let Some(record) = &known {
            let _ = shared.end(record, CloseReason::Destroyed, now);
        }
        return nothing(RequestToken::default());
    }
    let make = || Record::session(key, current.initial_life(), current.used(now));
    let record = match known.map_or_else(|| shared.node.session_record(&key, now, make), Ok) {
        Ok(record) => record,
        Err(ended) => return Ok((ended.into(), brought, None)),
    };
    record.confirm();
    if let Some(predecessor) = current.payload.head.predecessor {
        end_predecessor(shared, &record, predecessor, &current, now);
    }
    if let Some((Snapshot::Ended(_), _)) = stored {
        // As of now: nobody says since when, and after a minute it is to count as no cookie.
        let _ = shared.end_as(&record, CloseReason::Destroyed, Successor::Unknown, now);
    }
    let life = &current.life;
    shared.node.raise_longest_absolute(life.absolute_deadline().since(life.created()));
    record.touch_at_least(current.used(now));
    // Ended between the first look and now.
    if let Some(reason) = fenced(&record, now) {
        return Ok((reason, brought, None));
    }
    // Over by a lifetime that it was given after this token was sealed.
    if record.closed(now).is_some() {
        return nothing(brought);
    }
    if current.is_idle(now) {
        // The token proves its id alone: no tombstone waits for the values of so old a token.
        record.merge_life(&current.life, now);
        return Ok((Binding::Live(record), brought, None));
    }
    let stored = stored.map(|(snapshot, abandoned)| (snapshot.into_record(), abandoned));
    let arrived = AcceptedToken { current, old_key: retired, fingerprint: seen, stored };
    Ok((Binding::Live(record), brought, Some(arrived)))
}

/// Ends the id that a session had before its last turn, which may have happened on another node: whoever holds that
/// id here, in a socket or a copied cookie, has no session any more.
fn end_predecessor(
    shared: &SessionShared,
    record: &Arc<Record>,
    predecessor: Predecessor,
    current: &CurrentToken,
    now: Millis,
) {
    let Some(memory) = &shared.node.memory else { return };
    let key = RecordKey(*predecessor.id.as_bytes());
    let CurrentToken { life, payload, .. } = current;
    let (at, until) = (shared.node.time.written(life.birth(), now), life.absolute_deadline());
    // Filed under the principal of the cookie: the ends of visitors push out no user's.
    let principal = payload.head.principal;
    // A sign-out of the predecessor that is late ends this session: see `follow`.
    let sequel = match predecessor.shares_end {
        true => Successor::Session(Box::new(*record.key())),
        false => Successor::None,
    };
    let end = End { reason: CloseReason::Renewed, at, until, principal, successor: sequel.clone() };
    let signed_out = match memory.end_id(&key, end, now) {
        SessionLookup::Live(before) => {
            let _ = shared.end_as(&before, CloseReason::Renewed, sequel, now);
            false
        }
        SessionLookup::Ended(EndedSession::Recently(end)) => end.is_sign_out(),
        SessionLookup::Ended(EndedSession::LongAgo) | SessionLookup::Unknown => false,
    };
    if predecessor.shares_end && signed_out {
        // The sign-out came to this node before the renewal did.
        let _ = shared.end(record, CloseReason::Destroyed, now);
    }
}
