//! The load of a session, from a request's head to the state of a handle. [`run`] is the driver; read it from the top.

use std::sync::Arc;

use http::request::Parts;
use smallvec::SmallVec;

use self::{
    admit::Admission,
    merge::TokenMerge,
    token::{CookieSession, KnownToken, OpenedCookie, RequestHead},
};
use super::shared::{Binding, RequestToken, SessionShared, fenced};
use crate::{
    config::{ComputedAnswer, DEFAULT, ResolvedPrincipal},
    cross_site::CrossSite,
    error::{CloseReason, TierError},
    id::{Principal, RecordKey},
    memory::record::Record,
    node::{Node, store::Reading},
    record::state::State,
    tier::{Lookup, Snapshot, outside::WaitPolicy, shared::SharedTier},
    time::Millis,
    value::{Json, Scope},
};

mod admit;
mod degraded;
pub(super) mod merge;
#[cfg(feature = "testing")]
#[cfg(test)]
mod tests;
pub(crate) mod token;

/// Loads a session. While the store does not answer, memory and the cookie answer instead, if the chain degrades.
pub(super) async fn run(
    head: RequestHead,
    known: Option<KnownToken>,
    answers: Vec<ComputedAnswer>,
) -> Result<SessionShared, TierError> {
    if !head.node.store.as_ref().is_some_and(SharedTier::degrades) {
        return run_with_store(&head, known, answers).await;
    }
    match run_with_store(&head, known, answers.clone()).await {
        Err(error) => degraded::run(&head, answers).ok_or(error),
        loaded => loaded,
    }
}

/// Loads a session: the cookies name a token, memory and the store give the token's record, the token's values are
/// merged into the record, and the principal's record is loaded.
async fn run_with_store(
    head: &RequestHead,
    known: Option<KnownToken>,
    answers: Vec<ComputedAnswer>,
) -> Result<SessionShared, TierError> {
    let now = head.node.now();
    let is_known = known.is_some();
    let mut shared = match known {
        Some(known) => token::known_session(Arc::clone(&head.node), known, head.upgrade),
        None => SessionShared::new(Arc::clone(&head.node), Binding::Anonymous, RequestToken::default(), head.upgrade),
    };
    add_answers(&mut shared, head, answers);
    let merging = if is_known { None } else { open_session(&mut shared, head, now).await? };
    drop_if_revoked(&mut shared, now);
    load_principal(&shared, now).await?;
    // Checks again: while the store was asked, all of the principal's sessions may have been ended.
    drop_if_revoked(&mut shared, now);
    if let Some(merging) = merging {
        merging.finish(&mut shared, now);
    }
    pay_debts(&shared, now).await;
    tell_use(&shared, now).await;
    Ok(shared)
}

/// Loads a session whose token memory knows, without any call of the store. `None` if the store must be asked, or told
/// of a use: then [`run`] loads the session.
pub(super) fn run_in_memory(head: &RequestHead, known: &KnownToken) -> Option<SessionShared> {
    let now = head.node.now();
    let settled =
        |record: &Record| record.live(now, State::idle).is_ok_and(|idle| head.node.is_settled(record, idle, now));
    let mut shared = token::known_session(Arc::clone(&head.node), known.clone(), head.upgrade);
    add_answers(&mut shared, head, Vec::new());
    drop_if_revoked(&mut shared, now);
    if let Ok(record) = shared.live(now)
        && !settled(&record)
    {
        return None;
    }
    if let Some(principal) = shared.principal(now) {
        let record = shared.find_principal(&principal).filter(|record| settled(record))?;
        shared.hold_record(record);
    }
    Some(shared)
}

/// Loads the handle of a job for a principal's values, outside of any request.
pub(super) async fn job(node: &Arc<Node>, principal: Principal) -> Result<SessionShared, TierError> {
    let answers = ask_sources(node, None, WaitPolicy::UntilDeadline).await;
    let mut shared = SessionShared::new(Arc::clone(node), Binding::PrincipalOnly, RequestToken::default(), false);
    shared.head_principal = Some(Arc::new(node.config.resolve_principal(principal)));
    shared.computed = answers.into();
    let now = node.now();
    load_principal(&shared, now).await?;
    pay_debts(&shared, now).await;
    tell_use(&shared, now).await;
    if node.store.is_none() && node.memory.is_none() {
        // A job has no response whose cookie could keep a write. In a chain with neither memory nor a store the write
        // would thus be lost at once: the flag makes each write of the job fail with `HeadSent`.
        shared.flags.head_sent.set();
    }
    Ok(shared)
}

/// Adds the answers of sources and defaults, and the principal that the request head names.
fn add_answers(shared: &mut SessionShared, head: &RequestHead, mut answers: Vec<ComputedAnswer>) {
    if let Some(facts) = &head.facts {
        let resolve = |principal| Arc::new(head.node.config.resolve_principal(principal));
        shared.head_principal = facts.identified.clone().map(resolve);
        let default = |(index, json): &(_, Json)| ComputedAnswer {
            tier: DEFAULT,
            index: *index,
            json: json.clone(),
            until: None,
        };
        answers.extend(facts.defaults.iter().map(default));
    }
    shared.computed = answers.into();
}

/// Opens the tokens of a request. Returns the token of the session that they name, or binds the handle if the tokens name
/// no session or several sessions.
fn open_tokens(shared: &mut SessionShared, head: &RequestHead, now: Millis) -> Option<OpenedCookie> {
    let opened = head.counted_cookies().map(|cookies| token::open(&head.node, cookies, now));
    let (session, brought) = opened.unwrap_or((CookieSession::Nothing, None));
    shared.request_token.cookie_tokens = brought;
    let several = match session {
        CookieSession::One(opened) => return Some(opened),
        CookieSession::Several => true,
        CookieSession::Nothing => false,
    };
    // A token of one session shows that the browser has withheld no cookie, so such a request is not refused.
    if let Some(cross_site) = head.cross_site {
        trace_withheld(cross_site);
        shared.bind(Binding::CrossSite(cross_site));
    } else if several {
        shared.bind(Binding::Fenced(CloseReason::Ambiguous));
    }
    None
}

/// Opens the tokens of a request and binds the handle to the session that they name.
async fn open_session(
    shared: &mut SessionShared,
    head: &RequestHead,
    now: Millis,
) -> Result<Option<TokenMerge>, TierError> {
    let Some(opened) = open_tokens(shared, head, now) else { return Ok(None) };
    let key = Some(RecordKey(*opened.id.as_bytes()));
    match admit::admit(shared, opened, now).await? {
        Admission::Unknown => return Ok(None),
        Admission::Over(binding) => shared.bind(binding),
        Admission::Live(record, accepted) => {
            shared.bind(Binding::Live(Arc::clone(&record)));
            shared.request_token.key = key;
            return Ok(accepted.map(|opened| merge::merge_token(shared, &record, opened, now)));
        }
    }
    shared.request_token.key = key;
    Ok(None)
}

/// Unbinds the handle from its session, if all sessions of the principal were ended.
fn drop_if_revoked(shared: &mut SessionShared, now: Millis) {
    if shared.with_session_record(Scope::Session, |_| ()).is_none()
        && let Binding::Live(record) = shared.binding()
        && shared.check_revoked(&record, now).is_err()
    {
        *shared.binding.get_mut() = fenced(&record, now).unwrap_or(Binding::Fenced(CloseReason::Revoked));
    }
}

/// Loads the present principal's record from the store, unless memory holds the store's answer.
async fn load_principal(shared: &SessionShared, now: Millis) -> Result<(), TierError> {
    if shared.node.store.is_some()
        && let Some(principal) = shared.principal(now)
        && let Some(record) = load_record(shared, &principal, now).await?
    {
        // Held as long as the handle lives: a record created after an eviction would lack the store's values.
        shared.hold_record(record);
    }
    Ok(())
}

/// Returns the record of a principal, merged with the store's copy. Asks the store unless memory holds the store's
/// answer. `None` without a store.
pub(in crate::session) async fn load_record(
    shared: &SessionShared,
    principal: &ResolvedPrincipal,
    now: Millis,
) -> Result<Option<Arc<Record>>, TierError> {
    match find_vouched(shared, principal, now) {
        Some(known) => Ok(Some(known).filter(|_| shared.node.store.is_some())),
        None => read_record(shared, principal, now).await,
    }
}

/// Returns the record of a principal, if memory may answer without a read of the store.
fn find_vouched(shared: &SessionShared, principal: &ResolvedPrincipal, now: Millis) -> Option<Arc<Record>> {
    let known = shared.find_principal(principal);
    known.filter(|record| shared.node.vouches(record, now) && record.closed(now).is_none())
}

/// Reads a principal's record from the store, and merges the store's copy. `None` without a store.
pub(in crate::session) async fn read_record(
    shared: &SessionShared,
    principal: &ResolvedPrincipal,
    now: Millis,
) -> Result<Option<Arc<Record>>, TierError> {
    let Some(store) = shared.node.store() else { return Ok(None) };
    loop {
        let reading = PrincipalReading::begin(shared, principal);
        let snapshot = store.read(principal.owner, reading.reading.known()).await?;
        if let Some(record) = reading.finish(shared, principal, snapshot, now) {
            return Ok(Some(record));
        }
    }
}

/// A read of a principal's record. Begin the reading before the store is asked.
struct PrincipalReading {
    known: Option<Arc<Record>>,
    reading: Reading,
}

impl PrincipalReading {
    fn begin(shared: &SessionShared, principal: &ResolvedPrincipal) -> Self {
        let known = shared.find_principal(principal);
        Self { reading: shared.node.begin_read(known.as_deref(), &principal.owner), known }
    }

    /// Merges the store's answer into the record. `None` if the store must be asked again: memory has evicted the known
    /// record meanwhile. Each record of an owner counts its own abandoned writes, and `Unchanged` tells nothing to
    /// another record.
    fn finish(
        self,
        shared: &SessionShared,
        principal: &ResolvedPrincipal,
        snapshot: Snapshot,
        now: Millis,
    ) -> Option<Arc<Record>> {
        let record = shared.principal_record(principal, now);
        if self.known.is_some_and(|known| !Arc::ptr_eq(&known, &record)) {
            return None;
        }
        shared.node.merge_answer(&record, (self.reading, snapshot), Scope::Principal, now);
        // Counted even if empty, so that memory remembers a store without a record of the principal.
        shared.node.account(&record, now);
        Some(record)
    }
}

/// Brings the store what its records lack. A failure is no failure of the load: a later load tries again.
async fn pay_debts(shared: &SessionShared, now: Millis) {
    let Some(store) = shared.node.store() else { return };
    let user = shared.principal(now).and_then(|principal| shared.find_principal(&principal));
    for record in shared.live(now).ok().iter().chain(&user) {
        let _ = store.pay_debt(record, now).await;
    }
}

/// Tells the store that the session and its principal are in use. An upgrade request is no use of the session.
async fn tell_use(shared: &SessionShared, now: Millis) {
    let Some(store) = shared.node.store() else { return };
    let config = &shared.node.config;
    let principal = shared.principal(now);
    let principal = principal.and_then(|principal| Some((principal.owner, shared.find_principal(&principal)?)));
    let session = shared.live(now).ok().filter(|_| !shared.flags.upgrade.is_set());
    let session = session.map(|record| (config.owner(&record.id()), record));
    let uses: SmallVec<[_; 2]> = session.iter().chain(&principal).map(|(owner, record)| (*owner, &**record)).collect();
    store.touch(&uses, now).await;
}

/// Traces a request without a session that another site caused. The loader traces the other refusals, with their
/// remedies.
fn trace_withheld(cross_site: CrossSite) {
    // At `debug`, since each image and form of another site's page comes here.
    if cross_site == CrossSite::Withheld {
        tracing::debug!(
            "another site caused a request without a session cookie, which the browser may have withheld, so the \
             request begins no session; for a sign-in by `form_post` call `from_another_site()`"
        );
    }
}

/// Returns the answers of the sources for one request, or for a job.
pub(super) async fn ask_sources(node: &Node, head: Option<&Parts>, patience: WaitPolicy) -> Vec<ComputedAnswer> {
    let mut answers = Vec::new();
    for source in node.config.sources() {
        let found = source.read(Lookup::new(&node.config.names, head), patience, &node.time).await;
        let until = found.expires_in.map(|span| node.now().after(span));
        let declared = |(name, json): (String, Json)| {
            let index = node.config.schema.index_by_name(&name)?;
            Some(ComputedAnswer { tier: source.name(), index, json, until })
        };
        answers.extend(found.entries.into_iter().filter_map(declared));
    }
    answers
}
