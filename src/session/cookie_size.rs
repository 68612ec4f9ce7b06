//! The size of a browser's cookie, for the inspector.

use super::{
    cookie_out::{build_payload, is_behind, is_sealed},
    shared::SessionShared,
};
use crate::{
    cookie::{payload::EntryOwner, seal::sealed_len},
    record::write::JsonRoom,
    time::Millis,
    value::Scope,
};

/// The size of the cookie that a browser should have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CookieSize {
    /// Characters of the token.
    pub(crate) token: usize,
    /// Bytes of each owner's entries.
    pub(crate) session: usize,
    pub(crate) principal: usize,
    pub(crate) session_json: JsonRoom,
    pub(crate) principal_json: JsonRoom,
    /// The number of values that this build does not declare.
    pub(crate) undeclared: usize,
    /// Whether the browser has the whole content, or a cookie with the whole content has been sealed for the browser.
    pub(crate) in_step: bool,
}

/// Returns the size of the token that a response would carry now, and of its parts. Nothing is sealed, and the session
/// is not used.
pub(crate) fn cookie_size(shared: &SessionShared, now: Millis) -> CookieSize {
    let context = shared.node.write_context(Scope::Principal, now);
    let record = shared.principal(now).and_then(|principal| shared.find_principal(&principal));
    let principal_json = record.and_then(|record| record.live(now, |state| state.json_room(context)).ok());
    let principal_json = principal_json.unwrap_or(JsonRoom { used: 0, free: context.budget });
    let mut measured = CookieSize { principal_json, ..CookieSize::default() };
    let context = shared.node.write_context(Scope::Session, now);
    let Some((record, payload)) = shared.live(now).ok().and_then(|record| {
        let payload = build_payload(shared, &record, None, now)?;
        Some((record, payload))
    }) else {
        measured.session_json = shared.node.empty_session(now).json_room(context);
        return measured;
    };
    measured.in_step = is_sealed(shared, &record, now) || !is_behind(shared, &record, now);
    measured.session_json = record.read().json_room(context);
    for entry in payload.written.entries() {
        match entry.owner {
            EntryOwner::Session => measured.session += entry.len(),
            EntryOwner::Principal => measured.principal += entry.len(),
            EntryOwner::Begun => {}
        }
        let undeclared = entry.json.is_some() && shared.node.config.schema.index_by_bytes(entry.name).is_none();
        measured.undeclared += usize::from(undeclared);
    }
    measured.token = sealed_len(payload.written.finish().as_slice().len());
    measured
}
