//! The principal of a loaded session: the record that the store has of it, and the end of all its sessions.

use std::sync::Arc;

use crate::{
    config::ResolvedPrincipal,
    error::{CloseReason, TierError},
    memory::record::Record,
    session::shared::{Binding, SessionShared, fenced},
    time::Millis,
    value::Scope,
};

/// Takes a session from the handle whose principal's sessions have all ended.
pub(super) fn drop_if_revoked(shared: &mut SessionShared, now: Millis) {
    if shared.with_session_record(Scope::Session, |_| ()).is_none()
        && let Binding::Live(record) = shared.binding()
        && shared.check_revoked(&record, now).is_err()
    {
        *shared.binding.get_mut() = fenced(&record, now).unwrap_or(Binding::Fenced(CloseReason::Revoked));
    }
}

/// Asks the store for the present principal's record, once for as long as memory holds the answer.
pub(super) async fn load(shared: &SessionShared, now: Millis) -> Result<(), TierError> {
    if shared.node.store.is_some()
        && let Some(principal) = shared.principal(now)
        && let Some(record) = load_record(shared, &principal, now).await?
    {
        // Held as long as the handle lives: a record that is made after an eviction would lack what the store has.
        shared.hold_record(record);
    }
    Ok(())
}

/// Returns the record of a principal with what the store has of it. The store is asked unless memory holds its answer.
/// `None` without a store.
pub(in crate::session) async fn load_record(
    shared: &SessionShared,
    principal: &ResolvedPrincipal,
    now: Millis,
) -> Result<Option<Arc<Record>>, TierError> {
    let Some(store) = shared.node.store() else { return Ok(None) };
    let known = shared.find_principal(principal);
    if known.as_ref().is_some_and(|record| !record.is_stale() && record.closed(now).is_none()) {
        return Ok(known);
    }
    let abandoned = known.as_ref().map_or(Record::NEVER_LOADED, |record| record.extras().sync.abandoned_writes());
    let stored = store.read(principal.owner).await?.into_record();
    let record = shared.principal_record(principal, now);
    shared.node.merge_stored(&record, stored, Scope::Principal, now);
    // The very record that was found before the store was asked: another record of this owner counts its own writes.
    known.as_ref().unwrap_or(&record).extras().sync.mark_read(abandoned);
    // That the store has nothing is remembered too.
    shared.node.account(&record, now);
    Ok(Some(record))
}
