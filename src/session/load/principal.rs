//! The principal of a loaded session: the principal's record in the store, and the end of all sessions of the
//! principal.

use std::sync::Arc;

use crate::{
    config::ResolvedPrincipal,
    error::{CloseReason, TierError},
    memory::record::Record,
    session::shared::{Binding, SessionShared, fenced},
    time::Millis,
    value::Scope,
};

/// Unbinds the handle from its session, if all sessions of the principal were ended.
pub(super) fn drop_if_revoked(shared: &mut SessionShared, now: Millis) {
    if shared.with_session_record(Scope::Session, |_| ()).is_none()
        && let Binding::Live(record) = shared.binding()
        && shared.check_revoked(&record, now).is_err()
    {
        *shared.binding.get_mut() = fenced(&record, now).unwrap_or(Binding::Fenced(CloseReason::Revoked));
    }
}

/// Loads the present principal's record from the store, unless memory holds the store's answer.
pub(super) async fn load(shared: &SessionShared, now: Millis) -> Result<(), TierError> {
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
    let Some(store) = shared.node.store() else { return Ok(None) };
    let known = shared.find_principal(principal);
    if known.as_ref().is_some_and(|record| !record.is_stale() && record.closed(now).is_none()) {
        return Ok(known);
    }
    let abandoned = known.as_ref().map_or(Record::NEVER_LOADED, |record| record.abandoned_writes());
    let stored = store.read(principal.owner).await?.into_record();
    let record = shared.principal_record(principal, now);
    shared.node.merge_stored(&record, stored, Scope::Principal, now);
    // Marks the record found before the store was asked, since each record of an owner counts its own abandoned writes.
    known.as_ref().unwrap_or(&record).mark_read(abandoned);
    // Counted even if empty, so that memory remembers a store without a record of the principal.
    shared.node.account(&record, now);
    Ok(Some(record))
}
