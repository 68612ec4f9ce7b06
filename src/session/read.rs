//! What a handle reads: the stored copy, what computed tiers say, and when either ends.

use super::shared::{Binding, SessionShared, ValueRevision};
use crate::{
    config::{COOKIE, ComputedAnswer, DEFAULT, Identity, MEMORY},
    error::CloseReason,
    id::{PageMark, RecordKey},
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

/// What the stored tiers say of a value.
#[derive(Debug)]
pub(crate) enum Stored {
    Copy { json: Json, version: Version, tier: &'static str },
    Tombstone { version: Version, tier: &'static str },
    Nothing,
}

/// Whether a look at a value counts as use. A watch looks whenever anything wakes its task: if that counted, an open
/// page would keep its session from ever idling out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Touch,
    Peek,
}

/// A stored copy, if there is one, what a change of it changes, and when it or its session ends.
pub(crate) type Peeked = (Option<Json>, ValueRevision, Option<Millis>);

/// The name under which `V::default()` answers.
pub(crate) const FALLBACK_TIER: &str = DEFAULT;

/// A value or a removal as a stream of changes last saw it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct SeenValue {
    pub(crate) index: ValueIndex,
    pub(crate) version: Version,
    /// Which change brought it: where two nodes wrote at the same version, the greater bytes take the others' place under it.
    pub(crate) change: u32,
    pub(crate) is_value: bool,
    pub(crate) origin: ChangeOrigin,
}

/// A record as a stream of changes last saw it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct SeenRecord {
    pub(crate) key: crate::id::RecordKey,
    pub(crate) changes: u32,
    pub(crate) cleared: Version,
}

/// The number of the value that a handle looks at. Traces a value that was not declared, which no tier answers for.
pub(crate) fn declared_index<V: SessionValue>(shared: &SessionShared) -> Option<ValueIndex> {
    let index = shared.node.config.schema.index_of::<V>();
    if index.is_none() {
        shared.node.traces.undeclared(V::NAME, shared.node.now());
    }
    index
}

/// What the stored tiers say, and what a watch is to compare.
pub(crate) fn stored(shared: &SessionShared, index: ValueIndex, now: Millis, look: Access) -> (Stored, ValueRevision) {
    let scope = shared.node.config.schema.get(index).scope;
    // A socket is read whenever anything changes, whether or not a person is there.
    let look = if shared.flags.is_upgrade() { Access::Peek } else { look };
    let touch = |record: &Record| {
        if look == Access::Touch {
            record.touch(now);
        }
    };
    if let Some(stored) =
        shared.with_session_record(scope, |bound| stored_in(shared, *bound.key(), bound, index, now, touch))
    {
        return stored.unwrap_or((Stored::Nothing, None));
    }
    if look == Access::Touch && scope == Scope::Principal {
        shared.touch_session(now);
    }
    loop {
        let Some((key, record)) = shared.record_of(scope, now) else { return (Stored::Nothing, None) };
        match stored_in(shared, key, &record, index, now, touch) {
            Ok(stored) => return stored,
            // Since it was found, and by a clone or for good: looked for again, there is another or none.
            Err(CloseReason::Renewed) => {}
            Err(_) => return (Stored::Nothing, None),
        }
    }
}

fn stored_in(
    shared: &SessionShared,
    key: RecordKey,
    record: &Record,
    index: ValueIndex,
    now: Millis,
    touch: impl FnOnce(&Record),
) -> Result<(Stored, ValueRevision), CloseReason> {
    let stored = record.live(now, |state| {
        let copy = state.slot(&shared.node.config.schema, index, now)?;
        Some((copy.value.clone(), state.values.is_unread(copy)))
    })?;
    // Only now: what is over must not come back because somebody looked.
    touch(record);
    let Some((StoredValue { version, json, .. }, unread)) = stored else { return Ok((Stored::Nothing, None)) };
    let from_cookie = shared.request_token.from_cookie.contains(&(index, version)) || shared.node.memory.is_none();
    // A newer copy beside memory's, which has expired, is the cookie's.
    let tier = if from_cookie || unread { COOKIE } else { MEMORY };
    let stored = match json {
        Some(json) => Stored::Copy { json, version, tier },
        None => Stored::Tombstone { version, tier },
    };
    Ok((stored, Some((key, version))))
}

/// What a watch looks at: the stored copy, what tells it from others, and when that or the session ends. Thousands
/// may do it for one write: under one lock, where one record says it all.
///
/// # Errors
///
/// Why the session is over.
pub(crate) fn peek(shared: &SessionShared, index: Option<ValueIndex>, now: Millis) -> Result<Peeked, CloseReason> {
    let scope = index.map_or(Scope::Session, |index| shared.node.config.schema.get(index).scope);
    if let Some(glance) =
        shared.with_session_record(scope, |bound| peek_record(shared, bound, *bound.key(), index, now))
    {
        return glance;
    }
    if let Some(reason) = shared.close_reason(now) {
        return Err(reason);
    }
    let session = ends(shared, now);
    let glance = shared.record_of(scope, now).map(|(key, record)| peek_record(shared, &record, key, index, now));
    let (stored, mark, until) = match glance {
        Some(Ok(glance)) => glance,
        // Since the look above: renewed by a clone, or ended, and then no value goes out.
        Some(Err(reason)) if reason != CloseReason::Expired => return peek(shared, index, now),
        // A principal's record that idled out holds nothing, and ends nothing.
        Some(Err(_)) | None => Peeked::default(),
    };
    Ok((stored, mark, [session, until].into_iter().flatten().min()))
}

fn peek_record(
    shared: &SessionShared,
    record: &Record,
    key: RecordKey,
    index: Option<ValueIndex>,
    now: Millis,
) -> Result<Peeked, CloseReason> {
    let state = record.read_live(now)?;
    let ends = state.deadline(record.used());
    let schema = &shared.node.config.schema;
    let Some((index, stored)) = index.and_then(|index| Some((index, state.value(schema, index, now)?))) else {
        return Ok((None, None, Some(ends)));
    };
    let until = stored.expires(schema.get(index).max_age).map_or(ends, |end| end.min(ends));
    Ok((stored.json.clone(), Some((key, stored.version)), Some(until)))
}

/// The first answer that a reader takes: the stored copy, else a computed one.
pub(crate) fn answer<T>(
    shared: &SessionShared,
    index: ValueIndex,
    stored: Option<Json>,
    mut read: impl FnMut(&[u8]) -> Result<T, ValueError>,
) -> Option<T> {
    if let Some(json) = &stored
        && let Some(value) = readable(shared, index, MEMORY, read(json))
    {
        return Some(value);
    }
    computed_answer(shared, index, shared.node.now(), read).map(|(value, _)| value)
}

fn readable<T>(shared: &SessionShared, index: ValueIndex, tier: &str, read: Result<T, ValueError>) -> Option<T> {
    read.inspect_err(|flaw| {
        let name = shared.node.config.schema.get(index).name;
        shared.node.traces.skipped_copy((index, name), tier, flaw, shared.node.now());
    })
    .ok()
}

/// The computed tiers' answers for a value, in the chain's order.
pub(crate) fn computed(
    shared: &SessionShared,
    index: ValueIndex,
    now: Millis,
) -> impl Iterator<Item = (&'static str, &Json)> {
    let answers = move |tier: &'static str| {
        let holds = move |said: &&ComputedAnswer| {
            said.tier == tier && said.index == index && said.until.is_none_or(|until| now < until)
        };
        shared.computed.iter().filter(holds).map(|said| &said.json)
    };
    shared.node.config.computed.iter().flat_map(move |tier| {
        let mine = tier.rules().iter().filter(move |(of, _)| *of == index);
        let constants = mine.filter_map(|(_, answer)| match answer {
            DefaultRule::Constant(json) => json.as_ref().ok(),
            DefaultRule::Computed(_) => None,
        });
        answers(tier.name()).chain(constants).map(move |json| (tier.name(), json))
    })
}

/// The first answer that a reader takes, with the tier that gave it.
pub(crate) fn resolve<T>(
    shared: &SessionShared,
    index: ValueIndex,
    now: Millis,
    look: Access,
    mut read: impl FnMut(&[u8]) -> Result<T, ValueError>,
) -> (Option<(T, &'static str)>, ValueRevision) {
    let (stored, mark) = stored(shared, index, now, look);
    if let Stored::Copy { json, tier, .. } = stored
        && let Some(value) = readable(shared, index, tier, read(&json))
    {
        return (Some((value, tier)), mark);
    }
    (computed_answer(shared, index, now, read), mark)
}

fn computed_answer<T>(
    shared: &SessionShared,
    index: ValueIndex,
    now: Millis,
    mut read: impl FnMut(&[u8]) -> Result<T, ValueError>,
) -> Option<(T, &'static str)> {
    let mut computed = computed(shared, index, now);
    computed.find_map(|(tier, json)| Some((readable(shared, index, tier, read(json))?, tier)))
}

/// When the session is over if nobody uses it again, or who is signed in no longer is: then other values answer.
pub(crate) fn ends(shared: &SessionShared, now: Millis) -> Option<Millis> {
    let Binding::Live(bound) = shared.binding() else { return None };
    let session = bound.deadline();
    let Identity::Value { index, .. } = &shared.node.config.identity else { return Some(session) };
    Some(value_ends(shared, *index, now).map_or(session, |user| user.min(session)))
}

/// When a value ends: with its own lifetime, or with its owner's record.
pub(crate) fn value_ends(shared: &SessionShared, index: ValueIndex, now: Millis) -> Option<Millis> {
    let declared = shared.node.config.schema.get(index);
    let (_, record) = shared.record_of(declared.scope, now)?;
    let state = record.read_live(now).ok()?;
    let own = state.value(&shared.node.config.schema, index, now)?.expires(declared.max_age);
    let records = state.deadline(record.used());
    Some(own.map_or(records, |own| own.min(records)))
}

/// Every stored value and removal that this handle sees, and the records that they come from.
pub(crate) fn snapshot(shared: &SessionShared, now: Millis) -> (Vec<SeenRecord>, Vec<SeenValue>) {
    loop {
        let before = shared.bound_key();
        let seen = collect_snapshot(shared, now);
        // A clone's renewal in the middle of it would look like the end of every value.
        if shared.bound_key() == before {
            return seen;
        }
    }
}

fn collect_snapshot(shared: &SessionShared, now: Millis) -> (Vec<SeenRecord>, Vec<SeenValue>) {
    let schema = &shared.node.config.schema;
    let signed = shared.principal(now);
    let session = shared.live(now).ok().map(|bound| (*bound.key(), bound, Scope::Session));
    let principal = signed
        .as_ref()
        .and_then(|signed| shared.find_principal(signed).map(|record| (signed.key(), record, Scope::Principal)));
    let mut values = Vec::new();
    let mut owners = Vec::new();
    for (key, record, scope) in session.into_iter().chain(principal) {
        let state = record.read();
        owners.push(SeenRecord { key, changes: state.changes, cleared: state.values.cleared() });
        let mine = schema.iter().filter(|(_, of)| signed.is_none() || of.scope == scope);
        let over = state.closed(record.used(), now).is_some();
        let slots = mine.filter(|_| !over).filter_map(|(index, _)| state.slot(schema, index, now));
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

/// The stored answers of a source or of defaults don't count as something to remove.
pub(super) fn has_stored(shared: &SessionShared, index: ValueIndex, now: Millis) -> bool {
    let record = shared.record_of(shared.node.config.schema.get(index).scope, now);
    record.is_some_and(|(_, record)| {
        let schema = &shared.node.config.schema;
        let live = |state: &State| {
            let copies = [state.slot(schema, index, now), state.values.unread(index)];
            copies.into_iter().flatten().any(|copy| copy.value.json.is_some())
        };
        record.live(now, live).unwrap_or(false)
    })
}

/// What tells this user from others, the same on every node; empty while nobody is signed in.
pub(crate) fn user_mark(shared: &SessionShared) -> String {
    shared.principal(shared.node.now()).map_or_else(String::new, |signed| signed.owner.mark(PageMark::User))
}

/// What tells this session from others, the same on every node; empty without a session.
pub(crate) fn session_mark(shared: &SessionShared) -> String {
    let record = shared.live(shared.node.now());
    record.map_or_else(|_| String::new(), |record| shared.node.config.owner(&record.id()).mark(PageMark::Session))
}

/// Begins a watch. In an ordinary request the beginning counts as use, as reading does; that the watch goes on does not.
pub(crate) fn mark_watched(shared: &SessionShared) {
    shared.flags.touch();
    if !shared.flags.is_upgrade() {
        shared.touch_session(shared.node.now());
    }
}
