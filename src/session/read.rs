//! What a handle reads: the stored copy, what computed tiers say, and when either ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shared::{Binding, SessionShared, ValueRevision};
use crate::{
    config::{COOKIE, ComputedAnswer, DEFAULT, Identity, MEMORY},
    error::CloseReason,
    id::RecordKey,
    memory::record::Record,
    record::values::{ChangeOrigin, StoredValue, ValueSlot},
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

impl SessionShared {
    /// The number of the value that a handle looks at. Traces a value that was not declared, which no tier answers for.
    pub(crate) fn declared_index<V: SessionValue>(&self) -> Option<ValueIndex> {
        let index = self.node.config.schema.index_of::<V>();
        if index.is_none() {
            self.node.traces.undeclared(V::NAME, self.node.now());
        }
        index
    }

    /// What the stored tiers say, and what a watch is to compare.
    pub(crate) fn stored(&self, index: ValueIndex, now: Millis, look: Access) -> (Stored, ValueRevision) {
        let scope = self.node.config.schema.get(index).scope;
        // A socket is read whenever anything changes, whether or not a person is there.
        let look = if self.is_upgrade() { Access::Peek } else { look };
        let touch = |record: &Record| {
            if look == Access::Touch {
                record.touch(now);
            }
        };
        if let Some(stored) =
            self.with_session_record(scope, |bound| self.stored_in(*bound.key(), bound, index, now, touch))
        {
            return stored.unwrap_or((Stored::Nothing, None));
        }
        if look == Access::Touch && scope == Scope::Principal {
            self.touch_session(now);
        }
        loop {
            let Some((key, record)) = self.record_of(scope, now) else { return (Stored::Nothing, None) };
            match self.stored_in(key, &record, index, now, touch) {
                Ok(stored) => return stored,
                // Since it was found, and by a clone or for good: looked for again, there is another or none.
                Err(CloseReason::Renewed) => {}
                Err(_) => return (Stored::Nothing, None),
            }
        }
    }

    fn stored_in(
        &self,
        key: RecordKey,
        record: &Record,
        index: ValueIndex,
        now: Millis,
        touch: impl FnOnce(&Record),
    ) -> Result<(Stored, ValueRevision), CloseReason> {
        let stored = record.live(now, |state| {
            let copy = state.slot(&self.node.config.schema, index, now)?;
            Some((copy.value.clone(), state.values.is_unread(copy)))
        })?;
        // Only now: what is over must not come back because somebody looked.
        touch(record);
        let Some((StoredValue { version, json, .. }, unread)) = stored else { return Ok((Stored::Nothing, None)) };
        let from_cookie = self.request_token.from_cookie.contains(&(index, version)) || self.node.memory.is_none();
        // A newer copy beside memory's, which has expired, is the cookie's.
        let tier = if from_cookie || unread { COOKIE } else { MEMORY };
        let stored = match json {
            Some(json) => Stored::Copy { json, version, tier },
            None => Stored::Tombstone { version, tier },
        };
        Ok((stored, Some((key, version))))
    }

    /// Looks at the handle's own session in place, where nothing else has a say in a value of this scope: the session is
    /// not a fenced or refused one, no principal's sessions were ended since the last look, and a value of principal scope
    /// is the browser's while nobody is signed in, which nobody can do through this handle while its binding is locked.
    pub(super) fn with_session_record<T>(&self, scope: Scope, look: impl FnOnce(&Arc<Record>) -> T) -> Option<T> {
        let settled = self.revocations.load(Ordering::Relaxed) == self.node.revocations.load(Ordering::Acquire);
        if !settled {
            return None;
        }
        match &*self.binding.read() {
            Binding::Live(record) if scope == Scope::Session || self.is_anonymous(record) => Some(look(record)),
            _ => None,
        }
    }

    /// Whether nobody is signed in, as far as that shows at a glance: a value that no longer says who it is may stand.
    fn is_anonymous(&self, bound: &Arc<Record>) -> bool {
        match &self.node.config.identity {
            Identity::Value { index, .. } => bound.read().values.slot(*index).is_none(),
            Identity::Nobody | Identity::Head(_) => self.head_principal.is_none(),
        }
    }

    /// What a watch looks at: the stored copy, what tells it from others, and when that or the session ends. Thousands
    /// may do it for one write: under one lock, where one record says it all.
    ///
    /// # Errors
    ///
    /// Why the session is over.
    pub(crate) fn peek(&self, index: Option<ValueIndex>, now: Millis) -> Result<Peeked, CloseReason> {
        let scope = index.map_or(Scope::Session, |index| self.node.config.schema.get(index).scope);
        if let Some(glance) = self.with_session_record(scope, |bound| self.peek_record(bound, *bound.key(), index, now))
        {
            return glance;
        }
        if let Some(reason) = self.close_reason(now) {
            return Err(reason);
        }
        let session = self.ends(now);
        let glance = self.record_of(scope, now).map(|(key, record)| self.peek_record(&record, key, index, now));
        let (stored, mark, until) = match glance {
            Some(Ok(glance)) => glance,
            // Since the look above: renewed by a clone, or ended, and then no value goes out.
            Some(Err(reason)) if reason != CloseReason::Expired => return self.peek(index, now),
            // A principal's record that idled out holds nothing, and ends nothing.
            Some(Err(_)) | None => Peeked::default(),
        };
        Ok((stored, mark, [session, until].into_iter().flatten().min()))
    }

    fn peek_record(
        &self,
        record: &Record,
        key: RecordKey,
        index: Option<ValueIndex>,
        now: Millis,
    ) -> Result<Peeked, CloseReason> {
        let state = record.read_live(now)?;
        let ends = state.deadline(record.used());
        let schema = &self.node.config.schema;
        let Some((index, stored)) = index.and_then(|index| Some((index, state.value(schema, index, now)?))) else {
            return Ok((None, None, Some(ends)));
        };
        let until = stored.expires(schema.get(index).max_age).map_or(ends, |end| end.min(ends));
        Ok((stored.json.clone(), Some((key, stored.version)), Some(until)))
    }

    /// The first answer that a reader takes: the stored copy, else a computed one.
    pub(crate) fn answer<T>(
        &self,
        index: ValueIndex,
        stored: Option<Json>,
        mut read: impl FnMut(&[u8]) -> Result<T, ValueError>,
    ) -> Option<T> {
        if let Some(json) = &stored
            && let Some(value) = self.readable(index, MEMORY, read(json))
        {
            return Some(value);
        }
        self.computed_answer(index, self.node.now(), read).map(|(value, _)| value)
    }

    fn readable<T>(&self, index: ValueIndex, tier: &str, read: Result<T, ValueError>) -> Option<T> {
        read.inspect_err(|flaw| {
            let name = self.node.config.schema.get(index).name;
            self.node.traces.skipped_copy((index, name), tier, flaw, self.node.now());
        })
        .ok()
    }

    /// The computed tiers' answers for a value, in the chain's order.
    pub(crate) fn computed(&self, index: ValueIndex, now: Millis) -> impl Iterator<Item = (&'static str, &Json)> {
        let answers = move |tier: &'static str| {
            let holds = move |said: &&ComputedAnswer| {
                said.tier == tier && said.index == index && said.until.is_none_or(|until| now < until)
            };
            self.computed.iter().filter(holds).map(|said| &said.json)
        };
        self.node.config.computed.iter().flat_map(move |tier| {
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
        &self,
        index: ValueIndex,
        now: Millis,
        look: Access,
        mut read: impl FnMut(&[u8]) -> Result<T, ValueError>,
    ) -> (Option<(T, &'static str)>, ValueRevision) {
        let (stored, mark) = self.stored(index, now, look);
        if let Stored::Copy { json, tier, .. } = stored
            && let Some(value) = self.readable(index, tier, read(&json))
        {
            return (Some((value, tier)), mark);
        }
        (self.computed_answer(index, now, read), mark)
    }

    fn computed_answer<T>(
        &self,
        index: ValueIndex,
        now: Millis,
        mut read: impl FnMut(&[u8]) -> Result<T, ValueError>,
    ) -> Option<(T, &'static str)> {
        let mut computed = self.computed(index, now);
        computed.find_map(|(tier, json)| Some((self.readable(index, tier, read(json))?, tier)))
    }

    /// When the session is over if nobody uses it again, or who is signed in no longer is: then other values answer.
    pub(crate) fn ends(&self, now: Millis) -> Option<Millis> {
        let Binding::Live(bound) = self.binding() else { return None };
        let session = bound.deadline();
        let Identity::Value { index, .. } = &self.node.config.identity else { return Some(session) };
        Some(self.value_ends(*index, now).map_or(session, |user| user.min(session)))
    }

    /// When a value ends: with its own lifetime, or with its owner's record.
    pub(crate) fn value_ends(&self, index: ValueIndex, now: Millis) -> Option<Millis> {
        let declared = self.node.config.schema.get(index);
        let (_, record) = self.record_of(declared.scope, now)?;
        let state = record.read_live(now).ok()?;
        let own = state.value(&self.node.config.schema, index, now)?.expires(declared.max_age);
        let records = state.deadline(record.used());
        Some(own.map_or(records, |own| own.min(records)))
    }

    /// Every stored value and removal that this handle sees, and the records that they come from.
    pub(crate) fn snapshot(&self, now: Millis) -> (Vec<SeenRecord>, Vec<SeenValue>) {
        loop {
            let before = self.bound_key();
            let seen = self.collect_snapshot(now);
            // A clone's renewal in the middle of it would look like the end of every value.
            if self.bound_key() == before {
                return seen;
            }
        }
    }

    fn collect_snapshot(&self, now: Millis) -> (Vec<SeenRecord>, Vec<SeenValue>) {
        let schema = &self.node.config.schema;
        let signed = self.principal(now);
        let session = self.live(now).ok().map(|bound| (*bound.key(), bound, Scope::Session));
        let principal = signed
            .as_ref()
            .and_then(|signed| self.find_principal(signed).map(|record| (signed.key(), record, Scope::Principal)));
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
}

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
