//! The size of what a browser is to carry, for the inspector.

use super::{
    cookie_out::{build_payload, is_behind, is_sealed},
    shared::SessionShared,
};
use crate::{
    cookie::{payload::EntryOwner, seal::sealed_len},
    record::state::room::JsonRoom,
    time::Millis,
    value::Scope,
};

/// What a browser is to carry, by its size.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CookieSize {
    /// Characters of the token.
    pub(crate) token: usize,
    /// Bytes of each owner's entries.
    pub(crate) session: usize,
    pub(crate) principal: usize,
    pub(crate) session_json: JsonRoom,
    pub(crate) principal_json: JsonRoom,
    /// Values among them that this build does not declare.
    pub(crate) undeclared: usize,
    /// The browser has all of it, or has it on the way.
    pub(crate) in_step: bool,
}

/// The size of the token that a response would have to carry now, and of its parts. Nothing is sealed or used.
pub(crate) fn cookie_size(shared: &SessionShared, now: Millis) -> CookieSize {
    let terms = shared.node.write_context(Scope::Principal, now);
    let empty = JsonRoom { used: 0, free: terms.budget };
    let users = shared.principal(now).and_then(|signed| shared.find_principal(&signed));
    let principal_json = users.and_then(|record| record.live(now, |state| state.json_room(terms)).ok());
    let principal_json = principal_json.unwrap_or(empty);
    let terms = shared.node.write_context(Scope::Session, now);
    let Some((bound, parcel)) = shared.live(now).ok().and_then(|bound| {
        let parcel = build_payload(shared, &bound, now)?;
        Some((bound, parcel))
    }) else {
        let session_json = shared.node.empty_session(now).json_room(terms);
        return CookieSize { session_json, principal_json, ..CookieSize::default() };
    };
    let in_step = is_sealed(shared, &bound, now) || !is_behind(shared, &bound, now);
    let session_json = bound.read().json_room(terms);
    let mut measured = CookieSize { session_json, principal_json, in_step, ..CookieSize::default() };
    for entry in parcel.written.entries() {
        match entry.owner {
            EntryOwner::Session => measured.session += entry.len(),
            EntryOwner::Principal => measured.principal += entry.len(),
            EntryOwner::Begun => {}
        }
        let undeclared = entry.json.is_some() && shared.node.config.schema.index_by_bytes(entry.name).is_none();
        measured.undeclared += usize::from(undeclared);
    }
    measured.token = sealed_len(parcel.written.finish().as_slice().len());
    measured
}
