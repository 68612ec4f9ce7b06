//! Sign-ins and renewals of a session; sign-outs and other ends are in [`end`](super::end). Each of the three is a
//! *turn*: the browser gets another cookie or loses the cookie.
//!
//! The turns of a handle and its clones happen one after the other: each turn takes [`SessionShared::lifecycle_lock`]
//! before the first look at the session, and holds the lock to the end. Therefore no clone mistakes another clone's
//! turn for the turn of another handle.

use super::{
    commit::{self, Attempts, CommitFailure},
    replace::{SessionStart, StartKind, replace_session},
    shared::{Binding, SessionShared},
};
use crate::{
    cross_site::CrossSite,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::SessionId,
    record::{
        change::BudgetShare,
        life::{Lifetime, Predecessor},
        state::Kind,
    },
    time::Millis,
    version::Version,
};

/// The site of the page that a sign-in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Own,
    Another,
}

/// # Errors
///
/// `HeadSent` if no response is left that could bring another cookie to the browser, `Invalid` on a job's handle, and
/// `Unavailable` on a handle with a copy of its session.
pub(super) fn check_can_set_cookie(shared: &SessionShared) -> Result<(), WriteError> {
    shared.refuse_degraded()?;
    if matches!(shared.binding(), Binding::PrincipalOnly) {
        let message = "a handle of `Sessions::for_principal` has no session to sign in, renew or end: use the handle \
                       of a request";
        return Err(WriteError::new(WriteErrorKind::Invalid, message));
    }
    if shared.flags.head_sent.is_set() {
        let message = "the response head has left, so the response can't change the cookie: make a token with \
                       `sign_in(..).by_page()` or `renew_by_page()`, and send the token to the page";
        return Err(WriteError::new(WriteErrorKind::HeadSent, message));
    }
    Ok(())
}

pub(super) async fn touch(shared: &SessionShared) -> Result<(), WriteError> {
    let now = shared.node.now();
    match commit::writable(shared, now)? {
        Some(record) => commit::count_use(shared, &record, now).await,
        None => Ok(()),
    }
}

pub(super) async fn renew(shared: &SessionShared) -> Result<(), WriteError> {
    shared.flags.touched.set();
    check_can_set_cookie(shared)?;
    let _lifecycle = shared.lifecycle_lock().await;
    let kind = StartKind::Renewal { above: Version::ZERO };
    renew_with(shared, &SessionStart { kind, planned: None, changes: &[], adopt: &[] }).await
}

/// Renews the session, or begins a session after the handle's own end. The caller holds
/// [`SessionShared::lifecycle_lock`].
pub(super) async fn renew_with(shared: &SessionShared, start: &SessionStart<'_>) -> Result<(), WriteError> {
    let now = shared.node.now();
    match shared.live(now) {
        Ok(record) => replace_session(shared, &record, start, now).await.map(drop),
        // After its own end a handle may begin a new session, for a page that says "you have been signed out".
        Err(Some(_)) if shared.may_begin_anew() => begin_session(shared, start, now).await,
        Err(Some(reason)) => Err(WriteError::closed(reason)),
        // Without an id there is nothing to renew.
        Err(None) => Ok(()),
    }
}

/// Begins a session for a handle without a living session. The caller has held [`SessionShared::lifecycle_lock`] since
/// before it looked for a session: no first write of a clone begins a session of its own meanwhile.
pub(super) async fn begin_session(
    shared: &SessionShared,
    start: &SessionStart<'_>,
    now: Millis,
) -> Result<(), WriteError> {
    let mut attempts = Attempts::of(&shared.node);
    let (record, _) = loop {
        let (changes, planned, above) = (start.changes, start.planned, start.above());
        let begun = commit::create_session(shared, changes, BudgetShare::Whole, planned, above, now).await;
        if matches!(begun, Err(CommitFailure::Outdated)) && planned.is_some() {
            // A store that finds a planned id in use would find the same at the next attempt, so this call makes no
            // further attempt.
            return Err(WriteError::closed(CloseReason::Renewed));
        }
        if let Some(begun) = attempts.settle(begun).await? {
            break begun;
        }
    };
    if let Some(key) = shared.request_token.key
        && let Kind::Session { life, .. } = &mut record.write().kind
    {
        // Other nodes might not know yet that the request's id has ended: the next cookie names the id as the
        // predecessor, and so ends the id there.
        life.set_predecessor(Predecessor { id: SessionId::from_bytes(key.0), shares_end: false });
    }
    shared.flags.begun_here.set();
    shared.rebind(record);
    shared.forget_own_end();
    Ok(())
}

/// Whether a sign-in may begin a session if the handle's own session is over or refused.
pub(super) fn may_be_followed(shared: &SessionShared, site: Site) -> bool {
    match shared.binding() {
        Binding::Fenced(_) => true,
        Binding::CrossSite(CrossSite::Withheld | CrossSite::Listed) => site == Site::Another,
        _ => shared.may_begin_anew(),
    }
}

pub(super) async fn set_lifetime(shared: &SessionShared, lifetime: Lifetime) -> Result<(), WriteError> {
    shared.flags.touched.set();
    commit::check_head(shared)?;
    let _lifecycle = shared.lifecycle_lock().await;
    let now = shared.node.now();
    match shared.live(now) {
        Ok(record) => {
            commit::set_lifetime(shared, &record, lifetime, now).await?;
        }
        Err(Some(reason)) if !may_be_followed(shared, Site::Another) => return Err(WriteError::closed(reason)),
        Err(_) if matches!(shared.binding(), Binding::PrincipalOnly) => {
            let message = "a handle of `Sessions::for_principal` has no session whose lifetime could be set: call \
                           `set_lifetime` on the handle of a request";
            return Err(WriteError::new(WriteErrorKind::Invalid, message));
        }
        // The handle keeps the lifetime for its next session.
        Err(_) => {}
    }
    shared.node.raise_longest_absolute(lifetime.absolute);
    shared.set_own_lifetime(Some(lifetime));
    Ok(())
}
