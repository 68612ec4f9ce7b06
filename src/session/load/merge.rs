//! The merge of a token's values into the records, and the check that the token held all values for its browser.

use std::sync::Arc;

use super::token::{CurrentToken, OpenedCookie};
use crate::{
    cookie::payload::EntryOwner,
    memory::record::Record,
    record::{
        change::{IncomingFrom, IncomingValue},
        cookie_sync::CookieSnapshot,
        life::SessionLife,
        state::{Kind, State},
        values::{Resolution, ValueSlot},
    },
    session::shared::{Binding, SessionShared},
    time::Millis,
    value::{Schema, Scope, ValueIndex},
    version::Version,
};

/// The merge of a request's token. [`finish`](Self::finish) follows after the load of the principal's record.
pub(super) struct TokenMerge {
    opened: OpenedCookie,
    payload: PayloadMerge,
}

/// The outcome of merging a payload.
pub(in crate::session) struct PayloadMerge {
    session: OwnerMerge,
    /// `None` if the payload's principal is not signed in: the principal's entries went into no record.
    principal: Option<OwnerMerge>,
    /// The values that the records took from the payload, with their versions.
    filled: Vec<(ValueIndex, Version)>,
}

/// The outcome of merging the entries of one owner.
#[derive(Default)]
pub(super) struct OwnerMerge {
    entries: usize,
    /// The revision of the state with which the entries were compared; `None` without entries to compare.
    revision: Option<u64>,
    /// Whether each entry is equal to the record's copy.
    same: bool,
    /// Whether the record took something from the payload: over a store, something that the store may lack.
    is_newer: bool,
}

impl OwnerMerge {
    /// Whether a browser with exactly these entries has all entries of a state. The revision must be the compared
    /// revision, since the browser lacks each later write.
    fn is_complete(&self, state: &State, schema: &Schema) -> bool {
        self.same
            && self.revision.is_none_or(|revision| revision == state.revision())
            && state.cookie_entries(schema).count() == self.entries
    }
}

/// Merges the token's copy of a session. The store's copy is in the record already.
pub(super) fn merge_token(
    shared: &SessionShared,
    record: &Arc<Record>,
    opened: OpenedCookie,
    now: Millis,
) -> TokenMerge {
    let payload = merge_payload(shared, record, &opened.token, shared.node.config.resolution, now);
    payload.note_debts(shared, record, now);
    TokenMerge { opened, payload }
}

impl TokenMerge {
    /// Notes the state of the browser in the record, so that the next request with the same token need not open the
    /// token.
    pub(super) fn finish(self, shared: &mut SessionShared, now: Millis) {
        let Self { opened: OpenedCookie { token, old_key, fingerprint, .. }, payload } = self;
        let Binding::Live(record) = shared.binding() else { return };
        let cookie = cookie_snapshot(shared, &record, &token, &payload, now).filter(|_| !old_key);
        let whole = payload.principal.is_some() || token.payload.count(EntryOwner::Principal) == 0;
        if let (Some(fingerprint), Some(cookie), true) = (fingerprint, cookie.clone(), whole) {
            record.write().set_cookie(fingerprint, cookie);
        }
        shared.node.account(&record, now);
        shared.request_token.cookie = cookie;
        shared.request_token.from_cookie = payload.filled.into();
    }
}

impl PayloadMerge {
    /// Notes a debt for each record that took a value or a lifetime from the payload. If this load has read the record,
    /// the store's record is older than the payload. Otherwise the next read gets the whole record of the store, and its
    /// answer shows the debt. Call this before another read of the store, whose answer may be as new as the payload.
    pub(in crate::session) fn note_debts(&self, shared: &SessionShared, session: &Arc<Record>, now: Millis) {
        if shared.node.store.is_none() {
            return;
        }
        let note = |record: &Record| match record.sync() {
            Some(sync) if sync.was_read_at(now) => sync.owe(),
            Some(sync) => sync.forget_known(),
            None => {}
        };
        if self.session.is_newer {
            note(session);
        }
        if self.principal.as_ref().is_some_and(|merged| merged.is_newer)
            && let Some(user) = shared.principal_for(session, now)
            && let Some(record) = shared.find_principal(&user)
        {
            note(&record);
        }
    }
}

/// Merges a genuine payload of this session into the records of the session and of its present principal.
pub(in crate::session) fn merge_payload(
    shared: &SessionShared,
    record: &Arc<Record>,
    token: &CurrentToken,
    resolution: Resolution,
    now: Millis,
) -> PayloadMerge {
    let has_newer_life = record.merge_life(&token.life, SessionLife::merge, now);
    let mut filled = Vec::new();
    let mut session = merge_entries(shared, (Scope::Session, record), token, resolution, &mut filled, now);
    session.is_newer |= has_newer_life;
    let signed_in = shared.principal_for(record, now);
    let own = signed_in.filter(|principal| token.payload.head.principal == Some(principal.owner.tag()));
    let principal = own.map(|principal| {
        if token.payload.count(EntryOwner::Principal) == 0 {
            return OwnerMerge { same: true, ..OwnerMerge::default() };
        }
        let record = shared.hold_principal(&principal, now);
        let merged = merge_entries(shared, (Scope::Principal, &record), token, resolution, &mut filled, now);
        record.touch(now);
        shared.node.account(&record, now);
        merged
    });
    PayloadMerge { session, principal, filled }
}

pub(super) fn merge_entries(
    shared: &SessionShared,
    (scope, record): (Scope, &Record),
    token: &CurrentToken,
    resolution: Resolution,
    filled: &mut Vec<(ValueIndex, Version)>,
    now: Millis,
) -> OwnerMerge {
    let (schema, time) = (&shared.node.config.schema, &shared.node.time);
    let owner = match scope {
        Scope::Session => EntryOwner::Session,
        Scope::Principal => EntryOwner::Principal,
    };
    let values = token.payload.entries(owner).map(|entry| {
        let value = token.stored_value(&entry, time, now);
        match schema.index_by_bytes(entry.name) {
            Some(index) => IncomingValue::Declared(ValueSlot::incoming(index, value)),
            None => IncomingValue::Undeclared(entry.text().into(), value),
        }
    });
    let before = filled.len();
    // With neither memory nor a store the cookie alone answers, and no list of its values is needed.
    let list = (shared.node.memory.is_some() || shared.node.store.is_some()).then_some(&mut *filled);
    let from = IncomingFrom::Browser(resolution);
    let merged = record.merge(from, values, shared.node.write_context(scope, now), list);
    OwnerMerge {
        entries: token.payload.count(owner),
        revision: Some(merged.revision),
        same: merged.same,
        is_newer: filled.len() > before,
    }
}

/// Returns the state that the browser has, if the token held all that the browser is to carry.
fn cookie_snapshot(
    shared: &SessionShared,
    record: &Arc<Record>,
    token: &CurrentToken,
    merged: &PayloadMerge,
    now: Millis,
) -> Option<CookieSnapshot> {
    let schema = &shared.node.config.schema;
    let (deadline, sealed) = (token.idle_deadline.min(token.life.absolute_deadline()), token.issued);
    let (session, refresh_after) = {
        let state = record.read();
        let Kind::Session { life, .. } = &state.kind else { return None };
        // A token with an earlier lifetime is not complete: the response with the new lifetime was lost.
        let complete = merged.session.is_complete(&state, schema) && life.lifetime_rank() == token.life.lifetime_rank();
        complete.then(|| (state.revision(), life.refresh_after(deadline, sealed)))?
    };
    let principal = match shared.principal_for(record, now) {
        None => None,
        Some(principal) => {
            let merged = merged.principal.as_ref()?;
            let revision = shared.find_principal(&principal).map_or(Some(0), |record| {
                let complete = |state: &State| merged.is_complete(state, schema).then(|| state.cookie_revision());
                record.live(now, complete).unwrap_or(Some(0))
            })?;
            Some(Arc::new((principal.key(), revision)))
        }
    };
    Some(CookieSnapshot { deadline, sealed, refresh_after, session, principal })
}
