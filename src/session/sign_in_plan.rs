//! A sign-in in two steps: the plan reads and refuses, and the execution changes.

use std::sync::Arc;

use super::{
    commit::{Attempts, PlannedSession, WriteTarget, write},
    lifecycle::{self, Site},
    load,
    replace::{SessionStart, StartKind, chosen, replace_session},
    shared::SessionShared,
};
use crate::{
    config::{Identity, ResolvedPrincipal},
    error::{CloseReason, WriteError, WriteErrorKind},
    memory::record::Record,
    record::{change::Mutation, state::State},
    tier::CommitKind,
    time::Millis,
    value::{Json, Scope, ValueIndex},
    version::Version,
};

/// A sign-in that the application or an order asks for.
pub(super) struct SignInRequest<'a> {
    /// The identity value.
    pub(super) user: Mutation,
    /// Values that are written with the identity value.
    pub(super) grants: &'a [Mutation],
    pub(super) adopt: &'a [ValueIndex],
    pub(super) planned: Option<PlannedSession>,
    /// Whether a session may begin if none lives any more.
    pub(super) may_begin: bool,
}

/// A sign-in that was not refused, with all its changes.
struct SignInPlan {
    principal: Option<Arc<ResolvedPrincipal>>,
    /// The principal's record, read from the store; `None` without a store.
    loaded: Option<Arc<Record>>,
    /// The session that moves to a new id; `None` if a session begins.
    before: Option<Arc<Record>>,
    /// The principal's sessions up to this version have ended.
    above: Version,
    planned: Option<PlannedSession>,
    /// The values of the session, the identity value first.
    changes: Vec<Mutation>,
    /// The anonymous choices that the principal gets: none from the session of a principal.
    adopt: Vec<ValueIndex>,
    now: Millis,
}

pub(super) async fn sign_in(
    shared: &SessionShared,
    user: Mutation,
    grants: &[Mutation],
    adopt: &[ValueIndex],
    site: Site,
) -> Result<(), WriteError> {
    shared.flags.touched.set();
    lifecycle::check_can_set_cookie(shared)?;
    let _lifecycle = shared.lifecycle_lock().await;
    // A sign-in may follow a session that had ended before this request, or that this handle has just ended. If the
    // application allows sign-ins from another site, the request of another site's form has no session either.
    let may_begin = match shared.live(shared.node.now()) {
        Ok(_) => false,
        Err(Some(reason)) if !lifecycle::may_be_followed(shared, site) => return Err(WriteError::closed(reason)),
        Err(_) => true,
    };
    sign_in_with(shared, SignInRequest { user, grants, adopt, planned: None, may_begin }).await
}

/// Signs a user in. The caller holds [`SessionShared::lifecycle_lock`].
pub(super) async fn sign_in_with(shared: &SessionShared, request: SignInRequest<'_>) -> Result<(), WriteError> {
    SignInPlan::prepare(shared, request).await?.execute(shared).await
}

impl SignInPlan {
    /// Decides the sign-in, or refuses it, and changes nothing: also if the store doesn't answer, all stays as it is.
    async fn prepare(shared: &SessionShared, request: SignInRequest<'_>) -> Result<Self, WriteError> {
        let SignInRequest { user, grants, adopt, planned, may_begin } = request;
        let principal = named_principal(shared, &user);
        let loaded = match &principal {
            Some(principal) => {
                // The user's sessions may have ended on another node a moment ago, and this session begins after that end.
                if let Some(store) = shared.node.store() {
                    store.forget_absent(&principal.owner);
                }
                load::read_record(shared, principal, shared.node.now()).await?
            }
            None => None,
        };
        let now = shared.node.now();
        let known = loaded.clone().or_else(|| shared.find_principal(principal.as_deref()?));
        let above = known.as_ref().map_or(Version::ZERO, |record| shared.node.not_before(record, now));
        let before = match shared.live(now) {
            Ok(record) => Some(record),
            Err(_) if may_begin => None,
            Err(reason) => return Err(WriteError::closed(reason.unwrap_or(CloseReason::Expired))),
        };
        let mut adopt = adopt.to_vec();
        match (&before, &principal) {
            (Some(before), Some(principal)) if shared.principal_for(before, now).is_none() => {
                // The record is not held yet: a refused sign-in must not take the present user's record from the
                // watches.
                let new = || Arc::new(Record::principal(principal.key(), shared.node.config.principal_idle, now));
                let chosen = chosen(shared, &before.read(), &adopt, now);
                check_room(shared, &known.unwrap_or_else(new), chosen, now)?;
            }
            // Adopted from an anonymous session alone: the values of two principals are never mixed.
            _ => adopt.clear(),
        }
        let changes = std::iter::once(user).chain(grants.iter().cloned()).collect();
        Ok(Self { principal, loaded, before, above, planned, changes, adopt, now })
    }

    async fn execute(self, shared: &SessionShared) -> Result<(), WriteError> {
        let Self { principal, loaded, before, above, planned, changes, adopt, now } = self;
        let start = SessionStart { kind: StartKind::SignIn { above }, planned, changes: &changes, adopt: &adopt };
        let adopted = match before {
            Some(before) => replace_session(shared, &before, &start, now).await?,
            None => {
                lifecycle::begin_session(shared, &start, now).await?;
                Vec::new()
            }
        };
        if let Some(record) = loaded {
            shared.hold_record(record);
        }
        match principal {
            Some(principal) => give(shared, &principal, adopted, now).await,
            None => Ok(()),
        }
    }
}

/// Returns the mutation that signs a user in.
pub(super) fn user_change(shared: &SessionShared, user: Json) -> Result<Mutation, WriteError> {
    let Identity::Value { index, .. } = &shared.node.config.identity else {
        let message = "no user can sign in, since no value names the user: declare the user's type with `identify_by`";
        return Err(WriteError::new(WriteErrorKind::Undeclared, message));
    };
    Ok(Mutation::set(*index, shared.node.config.schema.get(*index).name, user))
}

/// Returns the principal that the identity value names.
pub(super) fn named_principal(shared: &SessionShared, user: &Mutation) -> Option<Arc<ResolvedPrincipal>> {
    let Identity::Value { derive, .. } = &shared.node.config.identity else { return None };
    derive(user.json.as_deref()?).map(|principal| Arc::new(shared.node.config.resolve_principal(principal)))
}

/// Checks that the principal's record has room for the anonymous choices that the principal lacks.
fn check_room(shared: &SessionShared, record: &Record, chosen: Vec<Mutation>, now: Millis) -> Result<(), WriteError> {
    let has = |state: &State, change: &Mutation| {
        state.value(&shared.node.config.schema, change.index, now).is_some_and(|stored| stored.json.is_some())
    };
    let is_new = |change: &Mutation| !record.live(now, |state| has(state, change)).unwrap_or(false);
    let lacking: Vec<_> = chosen.into_iter().filter(is_new).collect();
    Ok(record.check_budget(&lacking, shared.node.write_context(Scope::Principal, now))?)
}

/// Gives the principal the adopted values. A value that the principal has by then stays.
async fn give(
    shared: &SessionShared,
    principal: &ResolvedPrincipal,
    adopted: Vec<Mutation>,
    now: Millis,
) -> Result<(), WriteError> {
    let record = shared.hold_principal(principal, now);
    let schema = &shared.node.config.schema;
    for change in adopted {
        let target = WriteTarget::principal(Arc::clone(&record));
        let mut attempts = Attempts::of(&shared.node);
        loop {
            let current = record.live(now, |state| state.value(schema, change.index, now).cloned()).ok().flatten();
            if current.as_ref().is_some_and(|stored| stored.json.is_some()) {
                break;
            }
            let replaces = Some(current.map_or(Version::ZERO, |stored| stored.version));
            let change = Mutation { replaces, ..change.clone() };
            match attempts.settle(write(shared, &target, CommitKind::Upsert, &[change], now).await).await {
                Ok(None) => {}
                Err(error) if error.kind() != WriteErrorKind::Contended => return Err(error),
                // The user is signed in: a lost adoption fails no sign-in.
                Ok(Some(_)) | Err(_) => break,
            }
        }
    }
    Ok(())
}
