//! The reads of a handle: the stored copy, the answers of computed tiers, and the times at which they end.

use std::sync::Arc;

use super::shared::{Binding, SessionShared, ValueRevision};
use crate::{
    config::{COOKIE, ComputedAnswer, Identity, MEMORY},
    error::CloseReason,
    id::RecordKey,
    memory::record::Record,
    record::{
        state::State,
        values::{ChangeOrigin, StoredValue, ValueSlot},
    },
    tier::default::DefaultRule,
    time::Millis,
    value::{Json, Scope, SessionValue, ValueError, ValueIndex},
    version::Version,
};

/// The copy of a value in memory, the cookie or the store.
#[derive(Debug)]
pub(crate) struct Stored {
    key: RecordKey,
    pub(crate) version: Version,
    /// The bytes; `None` for a removal.
    pub(crate) json: Option<Json>,
    pub(crate) tier: &'static str,
}

/// A look at the copy of a value in memory, the cookie or the store.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) stored: Option<Stored>,
    /// The time at which the copy or its record ends without further use; `None` without a record.
    pub(crate) ends: Option<Millis>,
}

impl Look {
    pub(crate) fn json(&self) -> Option<&Json> {
        self.stored.as_ref()?.json.as_ref()
    }

    pub(crate) fn revision(&self) -> ValueRevision {
        self.stored.as_ref().map(|stored| (stored.key, stored.version))
    }
}

/// Whether a look at a value counts as use. A watch looks at each wake-up of its task. If these looks counted, the
/// session of an open page would never idle out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Touch,
    Peek,
}

/// A value or a removal, as seen last by a stream of changes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct SeenValue {
    pub(crate) index: ValueIndex,
    pub(crate) version: Version,
    /// The number of the change in its record. If two nodes wrote at the same version, the copy with the greater
    /// bytes replaces the other copy: the version stays, and this number rises.
    pub(crate) change: u32,
    pub(crate) is_value: bool,
    pub(crate) origin: ChangeOrigin,
}

/// A record, as seen last by a stream of changes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct SeenRecord {
    pub(crate) key: RecordKey,
    pub(crate) changes: u32,
    pub(crate) cleared: Version,
}

/// Returns the index of a declared value. Traces a value that was not declared: no tier answers for the value.
pub(crate) fn declared_index<V: SessionValue>(shared: &SessionShared) -> Option<ValueIndex> {
    let index = shared.node.config.schema.index_of::<V>();
    if index.is_none() {
        shared.node.traces.undeclared(V::NAME, shared.node.now());
    }
    index
}

/// Looks at the answer of memory, the cookie and the store for a value.
pub(crate) fn stored(shared: &SessionShared, index: ValueIndex, now: Millis, access: Access) -> Look {
    let scope = shared.node.config.schema.get(index).scope;
    // A socket's handler reads after each change, whether or not the user is present.
    let access = if shared.flags.upgrade.is_set() { Access::Peek } else { access };
    let look = |record: &Arc<Record>| {
        let look = look_in(shared, record, Some(index), now)?;
        // Touches after the look, which fails for an expired record: a read must not bring the record back.
        if access == Access::Touch {
            record.touch(now);
        }
        Ok(look)
    };
    if let Some(look) = shared.with_session_record(scope, look) {
        return look.unwrap_or_default();
    }
    if access == Access::Touch && scope == Scope::Principal {
        shared.touch_session(now);
    }
    loop {
        match shared.record_of(scope, now).map(|record| look(&record)) {
            // A clone or another handle renewed the session after `record_of`: the next round finds the new state.
            Some(Err(CloseReason::Renewed)) => {}
            look => return look.and_then(Result::ok).unwrap_or_default(),
        }
    }
}

/// Looks at a value for a watch. One write may wake thousands of watches, so a look takes a single lock if one
/// record decides.
///
/// # Errors
///
/// The reason why the session is over.
pub(crate) fn peek(shared: &SessionShared, index: Option<ValueIndex>, now: Millis) -> Result<Look, CloseReason> {
    let scope = index.map_or(Scope::Session, |index| shared.node.config.schema.get(index).scope);
    let look = |record: &Arc<Record>| look_in(shared, record, index, now);
    if let Some(look) = shared.with_session_record(scope, look) {
        return look;
    }
    if let Some(reason) = shared.close_reason(now) {
        return Err(reason);
    }
    let session = ends(shared, now);
    let look = match shared.record_of(scope, now).map(|record| look(&record)) {
        Some(Ok(look)) => look,
        // A clone renewed the session after this function's first look, or the session ended. No value goes out after
        // an end.
        Some(Err(reason)) if reason != CloseReason::Expired => return peek(shared, index, now),
        // An idled-out record of a principal counts as empty, and does not end the watch.
        Some(Err(_)) | None => Look::default(),
    };
    Ok(Look { ends: [session, look.ends].into_iter().flatten().min(), ..look })
}

fn look_in(
    shared: &SessionShared,
    record: &Record,
    index: Option<ValueIndex>,
    now: Millis,
) -> Result<Look, CloseReason> {
    let schema = &shared.node.config.schema;
    let state = record.read_live(now)?;
    let record_ends = state.deadline(record.used());
    let Some(copy) = index.and_then(|index| state.slot(schema, index, now)) else {
        return Ok(Look { stored: None, ends: Some(record_ends) });
    };
    let ValueSlot { index, value: StoredValue { version, json, .. }, .. } = copy;
    let from_cookie = shared.request_token.from_cookie.contains(&(*index, *version)) || shared.node.memory.is_none();
    // An unread newer copy came with the cookie, and answers only after memory's copy has expired: the tier is then the
    // cookie.
    let tier = if from_cookie || state.values.is_unread(copy) { COOKIE } else { MEMORY };
    let stored = Stored { key: *record.key(), version: *version, json: json.clone(), tier };
    let ends = copy.value.expires(schema.get(*index).max_age).map_or(record_ends, |end| end.min(record_ends));
    Ok(Look { stored: Some(stored), ends: Some(ends) })
}

/// Returns the first answer that `read` accepts, with its tier: the stored copy, or else a computed answer.
pub(crate) fn answer<T>(
    shared: &SessionShared,
    index: ValueIndex,
    look: &Look,
    now: Millis,
    mut read: impl FnMut(&[u8]) -> Result<T, ValueError>,
) -> Option<(T, &'static str)> {
    if let Some(Stored { json: Some(json), tier, .. }) = &look.stored
        && let Some(value) = readable(shared, index, tier, read(json))
    {
        return Some((value, tier));
    }
    let mut computed = computed(shared, index, now);
    computed.find_map(|(tier, json)| Some((readable(shared, index, tier, read(json))?, tier)))
}

fn readable<T>(shared: &SessionShared, index: ValueIndex, tier: &str, read: Result<T, ValueError>) -> Option<T> {
    read.inspect_err(|flaw| {
        let name = shared.node.config.schema.get(index).name;
        shared.node.traces.skipped_copy((index, name), tier, flaw, shared.node.now());
    })
    .ok()
}

/// Returns the answers of the computed tiers for a value, in the order of the chain.
pub(crate) fn computed(
    shared: &SessionShared,
    index: ValueIndex,
    now: Millis,
) -> impl Iterator<Item = (&'static str, &Json)> {
    let answers = move |tier: &'static str| {
        let holds = move |answer: &&ComputedAnswer| {
            answer.tier == tier && answer.index == index && answer.until.is_none_or(|until| now < until)
        };
        shared.computed.iter().filter(holds).map(|answer| &answer.json)
    };
    shared.node.config.computed.iter().flat_map(move |tier| {
        let rules = tier.rules().iter().filter(move |(of, _)| *of == index);
        let constants = rules.filter_map(|(_, rule)| match rule {
            DefaultRule::Constant(json) => json.as_ref().ok(),
            DefaultRule::Computed(_) => None,
        });
        answers(tier.name()).chain(constants).map(move |json| (tier.name(), json))
    })
}

/// Returns the time at which the session ends without further use, or at which the identity value expires, if that is
/// earlier: other values answer from then on.
pub(crate) fn ends(shared: &SessionShared, now: Millis) -> Option<Millis> {
    let Binding::Live(record) = shared.binding() else { return None };
    let session = record.deadline();
    let Identity::Value { index, .. } = &shared.node.config.identity else { return Some(session) };
    Some(value_ends(shared, *index, now).map_or(session, |user| user.min(session)))
}

/// Returns the end of a stored value: by the value's own lifetime, or with its owner's record.
pub(crate) fn value_ends(shared: &SessionShared, index: ValueIndex, now: Millis) -> Option<Millis> {
    let record = shared.record_of(shared.node.config.schema.get(index).scope, now)?;
    let look = look_in(shared, &record, Some(index), now).ok()?;
    look.stored.and(look.ends)
}

/// Returns each stored value and removal visible to this handle, and the records of these values.
pub(crate) fn snapshot(shared: &SessionShared, now: Millis) -> (Vec<SeenRecord>, Vec<SeenValue>) {
    loop {
        let before = shared.bound_key();
        let seen = collect_snapshot(shared, now);
        // If a clone renews the session during the collection, the snapshot may come from the ended record: every value
        // would look removed. So the loop collects again.
        if shared.bound_key() == before {
            return seen;
        }
    }
}

fn collect_snapshot(shared: &SessionShared, now: Millis) -> (Vec<SeenRecord>, Vec<SeenValue>) {
    let schema = &shared.node.config.schema;
    let user = shared.principal(now);
    let session = shared.live(now).ok().map(|record| (record, Scope::Session));
    let principal = user.as_ref().and_then(|user| shared.find_principal(user));
    let principal = principal.map(|record| (record, Scope::Principal));
    let mut values = Vec::new();
    let mut owners = Vec::new();
    for (record, scope) in session.into_iter().chain(principal) {
        let state = record.read();
        owners.push(SeenRecord { key: *record.key(), changes: state.changes, cleared: state.values.cleared() });
        let declared = schema.iter().filter(|(_, of)| user.is_none() || of.scope == scope);
        let over = state.closed(record.used(), now).is_some();
        let slots = declared.filter(|_| !over).filter_map(|(index, _)| state.slot(schema, index, now));
        values.extend(slots.map(|ValueSlot { index, origin, change, value, .. }| SeenValue {
            index: *index,
            version: value.version,
            change: *change,
            is_value: value.json.is_some(),
            origin: *origin,
        }));
    }
    (owners, values)
}

/// Whether memory, the cookie or the store has a value to remove. Computed answers can't be removed, and don't count.
pub(super) fn has_stored(shared: &SessionShared, index: ValueIndex, now: Millis) -> bool {
    let record = shared.record_of(shared.node.config.schema.get(index).scope, now);
    record.is_some_and(|record| {
        let schema = &shared.node.config.schema;
        let live = |state: &State| {
            let copies = [state.slot(schema, index, now), state.values.unread(index)];
            copies.into_iter().flatten().any(|copy| copy.value.json.is_some())
        };
        record.live(now, live).unwrap_or(false)
    })
}

/// Returns the mark of the signed-in user for pages, the same on every node; empty without a user.
pub(crate) fn user_mark(shared: &SessionShared) -> String {
    shared
        .principal(shared.node.now())
        .map_or_else(String::new, |principal| principal.owner.mark("layered-session user mark v1"))
}

/// Returns the mark of the session for pages, the same on every node; empty without a session.
pub(crate) fn session_mark(shared: &SessionShared) -> String {
    let record = shared.live(shared.node.now());
    record.map_or_else(
        |_| String::new(),
        |record| shared.node.config.owner(&record.id()).mark("layered-session session mark v1"),
    )
}

/// Notes the beginning of a watch. In an ordinary request the beginning counts as use, as a read does. The rest of the
/// watch does not count.
pub(crate) fn mark_watched(shared: &SessionShared) {
    shared.flags.touched.set();
    if !shared.flags.upgrade.is_set() {
        shared.touch_session(shared.node.now());
    }
}
