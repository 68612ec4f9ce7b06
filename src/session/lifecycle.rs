//! The turns of a session: a sign-in and a renewal here, an end in [`end`](super::end). A turn gives the browser another
//! cookie or takes the cookie away.
//!
//! All turns of a handle and its clones happen one after the other: each holds [`SessionShared::lifecycle_lock`], since before it looks at
//! the session. So no clone takes another clone's turn for somebody else's.

use std::sync::Arc;

use super::{
    arrive,
    commit::{self, CommitFailure, MAX_ATTEMPTS, WriteTarget, new_session_id, retry_outdated},
    shared::{Binding, SessionShared},
    sign_in::Site,
};
use crate::{
    config::{Identity, ResolvedPrincipal},
    cross_site::CrossSite,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{PrincipalTag, SessionId},
    memory::record::Record,
    record::{
        change::Mutation,
        life::{LifeFields, Lifetime, Predecessor, SessionLife, Successor},
        state::{Kind, State},
        values::ValueSlot,
        write_context::{BudgetShare, CommitRejected},
    },
    tier::{Commit, CommitKind, Committed, outside::SharedTier},
    time::Millis,
    value::{Json, Scope, ValueIndex},
    version::Version,
};

/// What the session of a turn begins with.
pub(super) struct SessionStart<'a> {
    pub(super) kind: StartKind,
    /// The id and the birth that an order has drawn; without an order the turn draws both.
    pub(super) planned: Option<PlannedSession>,
    /// Values that are written under the new id: the user's own first, if somebody signs in.
    pub(super) changes: &'a [Mutation],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartKind {
    /// Everything goes along, the lifetime too.
    Renewal,
    /// The session's own values go along, without what was chosen anonymously. The life begins anew, with the configured
    /// lifetime or the handle's.
    SignIn {
        /// The user's sessions up to this version have ended.
        above: Version,
    },
}

/// The id and the birth of a session that an order begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedSession {
    pub(super) id: SessionId,
    pub(super) birth: Version,
}

/// A sign-in as the application or an order asks for it.
pub(super) struct SignInRequest<'a> {
    pub(super) user: Json,
    /// Values that are written with the user's own.
    pub(super) grants: &'a [Mutation],
    pub(super) adopt: &'a [ValueIndex],
    pub(super) planned: Option<PlannedSession>,
    /// Whether a session may begin where none lives any more.
    pub(super) may_begin: bool,
}

/// A turn from one id to the next.
pub(super) struct Replacement<'a> {
    pub(super) start: &'a SessionStart<'a>,
    pub(super) predecessor: Predecessor,
}

impl Replacement<'_> {
    /// Whether a sign-out with the old id ends the new session too. A sign-in is never followed: the old cookie may be one
    /// that somebody planted before the login.
    fn is_followed(&self, principal: Option<PrincipalTag>) -> bool {
        self.start.kind == StartKind::Renewal && principal.is_some()
    }
}

impl SessionStart<'_> {
    const fn above(&self) -> Version {
        match self.kind {
            StartKind::Renewal => Version::ZERO,
            StartKind::SignIn { above } => above,
        }
    }
}

pub(super) const fn removal(index: ValueIndex, name: &'static str) -> Mutation {
    Mutation { index, name, json: None, version: None, replaces: None }
}

pub(super) fn signs_in(shared: &SessionShared, user: &Mutation) -> Option<Arc<ResolvedPrincipal>> {
    let Identity::Value { derive, .. } = &shared.node.config.identity else { return None };
    derive(user.json.as_deref()?).map(|principal| Arc::new(shared.node.config.resolve_principal(principal)))
}

/// The change that signs a user in.
pub(super) fn user_change(shared: &SessionShared, user: Json) -> Result<Mutation, WriteError> {
    let Identity::Value { index, .. } = &shared.node.config.identity else {
        let message = "nobody can sign in: declare the user's type with `identify_by`";
        return Err(WriteError::new(WriteErrorKind::Undeclared, message));
    };
    let name = shared.node.config.schema.get(*index).name;
    Ok(Mutation { index: *index, name, json: Some(user), version: None, replaces: None })
}

/// # Errors
///
/// Where no response is left that could take a turn to the browser.
pub(super) fn check_can_set_cookie(shared: &SessionShared) -> Result<(), WriteError> {
    if matches!(shared.binding(), Binding::PrincipalOnly) {
        let message = "a handle of `Sessions::for_principal` has no session to sign in, renew or end";
        return Err(WriteError::new(WriteErrorKind::Invalid, message));
    }
    if shared.flags.head_has_left() {
        let message = "the response head has left, so no cookie can follow: give the page an order, \
                       with `sign_in(..).by_page()` or `renew_by_page()`";
        return Err(WriteError::new(WriteErrorKind::HeadSent, message));
    }
    Ok(())
}

pub(super) async fn renew(shared: &SessionShared) -> Result<(), WriteError> {
    shared.flags.touch();
    check_can_set_cookie(shared)?;
    let _turning = shared.lifecycle_lock().await;
    renew_with(shared, &SessionStart { kind: StartKind::Renewal, planned: None, changes: &[] }).await
}

/// The caller holds [`turning`](Self::lifecycle_lock).
pub(super) async fn renew_with(shared: &SessionShared, beginning: &SessionStart<'_>) -> Result<(), WriteError> {
    let now = shared.node.now();
    match shared.live(now) {
        Ok(record) => replace_session(shared, &record, beginning, now).await,
        // After its own end a handle may begin a new session: a page that says "you have been signed out".
        Err(Some(_)) if shared.may_begin_anew() => begin_session(shared, beginning, now).await,
        Err(Some(reason)) => Err(WriteError::closed(reason)),
        // No id, nothing to renew.
        Err(None) => Ok(()),
    }
}

/// Begins a session where none lives. The caller holds [`turning`](Self::lifecycle_lock), since before it looked: what a
/// clone writes first is to be in the session.
pub(super) async fn begin_session(
    shared: &SessionShared,
    beginning: &SessionStart<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let begun = || {
        commit::create_session(shared, beginning.changes, BudgetShare::Whole, beginning.planned, beginning.above(), now)
    };
    let (record, _) = match beginning.planned {
        // A store that finds a drawn id in use would find the same again.
        Some(_) => begun().await.map_err(|loss| match loss {
            CommitFailure::Outdated => WriteError::closed(CloseReason::Renewed),
            CommitFailure::Error(error) => error,
        })?,
        None => retry_outdated(begun).await?,
    };
    if let Some(key) = shared.request_token.key
        && let Kind::Session { life, .. } = &mut record.write().kind
    {
        // Other nodes may not know yet that the id which the request brought has ended.
        life.set_predecessor(Predecessor { id: SessionId::from_bytes(key.0), shares_end: false });
    }
    shared.flags.set_begun_here(true);
    shared.rebind(record);
    shared.forget_own_end();
    Ok(())
}

pub(super) async fn sign_in(
    shared: &SessionShared,
    user: Json,
    grants: &[Mutation],
    adopt: &[ValueIndex],
    site: Site,
) -> Result<(), WriteError> {
    shared.flags.touch();
    check_can_set_cookie(shared)?;
    let _turning = shared.lifecycle_lock().await;
    // A session that had ended before this request, or that this handle has just ended, may be followed. The
    // application may also answer for another site's form, which has no session.
    let may_begin = match shared.live(shared.node.now()) {
        Ok(_) => false,
        Err(Some(reason)) if !may_be_followed(shared, site) => return Err(WriteError::closed(reason)),
        Err(_) => true,
    };
    sign_in_with(shared, SignInRequest { user, grants, adopt, planned: None, may_begin }).await
}

/// The caller holds [`turning`](Self::lifecycle_lock).
pub(super) async fn sign_in_with(
    shared: &SessionShared,
    SignInRequest { user, grants, adopt, planned: drawn, may_begin }: SignInRequest<'_>,
) -> Result<(), WriteError> {
    let Identity::Value { index, derive } = &shared.node.config.identity else {
        let message = "nobody can sign in: declare the user's type with `identify_by`";
        return Err(WriteError::new(WriteErrorKind::Undeclared, message));
    };
    let name = shared.node.config.schema.get(*index).name;
    let signed = derive(&user).map(|principal| Arc::new(shared.node.config.resolve_principal(principal)));
    let user = Mutation { index: *index, name, json: Some(user), version: None, replaces: None };
    let changes: Vec<_> = std::iter::once(user).chain(grants.iter().cloned()).collect();
    // First, so that a store that doesn't answer leaves everything as it is.
    let asked = match &signed {
        Some(signed) => arrive::load_principal_record(shared, signed, shared.node.now()).await?,
        None => None,
    };
    let now = shared.node.now();
    let known = asked.clone().or_else(|| shared.find_principal(signed.as_deref()?));
    let above = known.as_ref().map_or(Version::ZERO, |record| record.not_before(&shared.node.time, now));
    let before = shared.live(now);
    // Only what nobody's principal chose: owners are never merged.
    let adopted = match (&before, &signed) {
        (Ok(bound), Some(signed)) if shared.principal_for(bound, now).is_none() => {
            // Not held before it is done: a refused sign-in must not take the present user's record from the watches.
            let new = || Arc::new(Record::principal(signed.key(), shared.node.config.principal_idle, now));
            adoptable(shared, &known.unwrap_or_else(new), chosen(shared, bound, adopt, now), now)?
        }
        _ => Vec::new(),
    };
    let beginning = SessionStart { kind: StartKind::SignIn { above }, planned: drawn, changes: &changes };
    match before {
        Ok(bound) => replace_session(shared, &bound, &beginning, now).await?,
        Err(reason) if !may_begin => return Err(WriteError::closed(reason.unwrap_or(CloseReason::Expired))),
        Err(_) => begin_session(shared, &beginning, now).await?,
    }
    if let Some(record) = asked {
        shared.hold_record(record);
    }
    if let Some(signed) = signed {
        adopt_values(shared, &signed, adopted, now).await?;
    }
    Ok(())
}

/// The browser's own choices among the values to adopt.
fn chosen(shared: &SessionShared, bound: &Arc<Record>, adopt: &[ValueIndex], now: Millis) -> Vec<Mutation> {
    let schema = &shared.node.config.schema;
    let state = bound.read();
    let json = |index: ValueIndex| state.value(schema, index, now).and_then(|stored| stored.json.clone());
    let change = |index: &ValueIndex| {
        let name = schema.get(*index).name;
        Some(Mutation { index: *index, name, json: Some(json(*index)?), version: None, replaces: None })
    };
    adopt.iter().filter_map(change).collect()
}

/// The choices of which the user has none yet, and for which the user's record has room.
fn adoptable(
    shared: &SessionShared,
    record: &Record,
    chosen: Vec<Mutation>,
    now: Millis,
) -> Result<Vec<Mutation>, WriteError> {
    let has = |state: &State, change: &Mutation| {
        state.value(&shared.node.config.schema, change.index, now).is_some_and(|stored| stored.json.is_some())
    };
    let is_new = |change: &Mutation| !record.live(now, |state| has(state, change)).unwrap_or(false);
    let adopted: Vec<_> = chosen.into_iter().filter(is_new).collect();
    let terms = shared.node.write_context(Scope::Principal, now);
    record.check_budget(&adopted, terms).map_err(|refused| WriteError::from(refused.into_failure()))?;
    Ok(adopted)
}

fn may_be_followed(shared: &SessionShared, site: Site) -> bool {
    match shared.binding() {
        Binding::Fenced(_) => true,
        Binding::CrossSite(CrossSite::Withheld | CrossSite::Listed) => site == Site::Another,
        _ => shared.may_begin_anew(),
    }
}

/// Gives the principal what it does not have. Losing to another value is as it should be.
async fn adopt_values(
    shared: &SessionShared,
    signed: &ResolvedPrincipal,
    chosen: Vec<Mutation>,
    now: Millis,
) -> Result<(), WriteError> {
    let record = shared.hold_principal(signed, now);
    let stands = |index| {
        let stored = record.live(now, |state| state.value(&shared.node.config.schema, index, now).cloned());
        stored.ok().flatten()
    };
    for mut change in chosen {
        let target = WriteTarget::principal(Arc::clone(&record));
        // Outdated by a removal too, or by the end of an old one: looked at again, there is a value or none.
        for _ in 0..MAX_ATTEMPTS {
            let stands = stands(change.index);
            if stands.as_ref().is_some_and(|stored| stored.json.is_some()) {
                break;
            }
            change.replaces = Some(stands.map_or(Version::ZERO, |stored| stored.version));
            match commit::write(shared, &target, CommitKind::Upsert, std::slice::from_ref(&change), now).await {
                Ok(_) => break,
                Err(CommitFailure::Outdated) => {}
                Err(loss) => return Err(loss.into()),
            }
        }
    }
    Ok(())
}

/// Moves the session to a new id: the new record is there before the old one goes.
pub(super) async fn replace_session(
    shared: &SessionShared,
    bound: &Arc<Record>,
    beginning: &SessionStart<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let id = beginning.planned.map_or_else(new_session_id, |drawn| Ok(drawn.id))?;
    let life = SessionLife::begin(Version::ZERO, now, shared.node.config.lifetime);
    let (next, made) = shared.node.insert_record(id, life, now)?;
    // Asked outside of all locks: the application's own code says who is signed in.
    let principal = shared.principal_for(bound, now).map(|signed| signed.owner.tag());
    let by_value = matches!(shared.node.config.identity, Identity::Value { .. });
    let stays = beginning.kind == StartKind::Renewal && by_value && principal.is_some();
    let succession = Replacement { start: beginning, predecessor: Predecessor { id: bound.id(), shares_end: stays } };
    let _shut = match &shared.node.store {
        Some(store) => {
            let shut = bound.renew_gate_exclusive().await;
            // Copied first, retired last: whatever fails between leaves the old one whole.
            replace_in_store(shared, store, (bound, principal), &next, &succession, now).await?;
            Some(shut)
        }
        None => None,
    };
    shared.rebind_if(next.clone(), || swap_records(shared, (bound, principal), &next, &succession, now))?;
    made.keep();
    shared.node.account(bound, now);
    shared.node.account(&next, now);
    // Arc<Record> first: what still waits on the old record then sees that it is this handle's own renewal.
    bound.notify_all();
    Ok(())
}

/// In memory: the old record's values become the new one's, and the old one ends, in one step.
fn swap_records(
    shared: &SessionShared,
    (bound, principal): (&Arc<Record>, Option<PrincipalTag>),
    next: &Arc<Record>,
    succession: &Replacement<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let retired = bound.end_with(CloseReason::Renewed, principal, now, |state| {
        let successor = successor_state(shared, state, succession, now)?;
        *next.write() = successor;
        Ok(match succession.is_followed(principal) {
            true => Successor::Session(Box::new(*next.key())),
            false => Successor::None,
        })
    });
    retired.map_err(|refused| refused.into_failure().into())
}

/// # Errors
///
/// Where the values that the turn writes do not fit beside those that go along.
pub(super) fn successor_state(
    shared: &SessionShared,
    state: &State,
    Replacement { start: beginning, predecessor }: &Replacement<'_>,
    now: Millis,
) -> Result<State, CommitRejected> {
    let Kind::Session { life, .. } = &state.kind else { return Err(CommitRejected::Closed(CloseReason::Expired)) };
    // Above the one before, which no `end_all_sessions` has reached, as all that this node has seen.
    let fresh = |above| shared.node.time.fresh(now, above);
    let birth = beginning.planned.map_or_else(|| fresh(beginning.above()), |drawn| drawn.birth);
    let told = match beginning.kind {
        StartKind::Renewal => LifeFields { birth, ..life.fields() },
        StartKind::SignIn { .. } => {
            LifeFields { generation: life.fields().generation, ..commit::begin_life(shared, birth, now).fields() }
        }
    };
    let mut life = SessionLife::from(told);
    life.set_predecessor(*predecessor);
    let mut next = state.successor_state(life);
    if beginning.kind != StartKind::Renewal {
        next.values.retain(|index| shared.node.config.schema.get(index).scope == Scope::Session);
    }
    if beginning.changes.is_empty() {
        return Ok(next);
    }
    let terms = shared.node.write_context(Scope::Session, now).for_share(BudgetShare::Whole);
    let version = shared.node.time.fresh(now, state.values.newest());
    // As if the store had stamped it: it takes what it is told of a successor as it is.
    let stamp = shared.node.store.as_ref().map(|_| version);
    let changes: Vec<_> =
        beginning.changes.iter().map(|change| Mutation { version: stamp, ..change.clone() }).collect();
    next.check_budget(&changes, terms)?;
    next.apply(&changes, version, terms);
    Ok(next)
}

async fn replace_in_store(
    shared: &SessionShared,
    store: &SharedTier,
    (bound, principal): (&Arc<Record>, Option<PrincipalTag>),
    next: &Arc<Record>,
    succession: &Replacement<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let successor = bound
        .live(now, |state| successor_state(shared, state, succession, now))
        .map_err(WriteError::closed)?
        .map_err(|refused| WriteError::from(refused.into_failure()))?;
    let schema = &shared.node.config.schema;
    let changes: Vec<_> = successor
        .values
        .declared()
        .map(|ValueSlot { index, value, .. }| Mutation {
            index: *index,
            name: schema.get(*index).name,
            json: value.json.clone(),
            version: Some(value.version),
            replaces: None,
        })
        .collect();
    let expires = shared.node.time.wall(successor.absolute_deadline().unwrap_or(now)).time();
    let create = Commit::new(shared.node.config.owner(&next.id()), CommitKind::Create, &changes, expires);
    let refused = || WriteError::new(WriteErrorKind::Unavailable, "the shared store did not take the renewed session");
    match store.commit(create, &shared.node.time).await? {
        Committed::Applied(_) => {}
        // Another node has carried the order out.
        _ if succession.start.planned.is_some() => return Err(WriteError::closed(CloseReason::Renewed)),
        _ => return Err(refused()),
    }
    let expires = shared.node.time.wall(bound.read().absolute_deadline().unwrap_or(now)).time();
    let kind = CommitKind::End {
        reason: CloseReason::Renewed,
        successor: succession.is_followed(principal).then(|| shared.node.config.owner(&next.id())),
    };
    let end = Commit::new(shared.node.config.owner(&bound.id()), kind, &[], expires);
    let doubt = bound.begin_store_write();
    let ended = store.commit(end, &shared.node.time).await?;
    doubt.confirmed();
    match ended {
        Committed::Applied(_) => Ok(()),
        Committed::Absent | Committed::Ended(_) => {
            let _ = shared.end(bound, CloseReason::Destroyed, now);
            Err(WriteError::closed(CloseReason::Destroyed))
        }
        _ => Err(refused()),
    }
}

pub(super) async fn set_lifetime(shared: &SessionShared, lifetime: Lifetime) -> Result<(), WriteError> {
    shared.flags.touch();
    commit::check_head(shared)?;
    let _turning = shared.lifecycle_lock().await;
    let now = shared.node.now();
    match shared.live(now) {
        Ok(bound) => {
            bound.set_lifetime(lifetime, &shared.node.time, now).map_err(WriteError::closed)?;
            shared.node.account(&bound, now);
        }
        Err(Some(reason)) if !may_be_followed(shared, Site::Another) => return Err(WriteError::closed(reason)),
        Err(_) if matches!(shared.binding(), Binding::PrincipalOnly) => {
            let message = "a handle of `Sessions::for_principal` has no session that a lifetime could be set for";
            return Err(WriteError::new(WriteErrorKind::Invalid, message));
        }
        // The next session of this handle begins with the lifetime.
        Err(_) => {}
    }
    shared.node.raise_longest_absolute(lifetime.absolute);
    shared.set_own_lifetime(Some(lifetime));
    Ok(())
}
