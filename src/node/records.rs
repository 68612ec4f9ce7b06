//! The records of a node: those that memory holds, and those that a store's answer or a new id becomes.

use std::sync::Arc;

use super::Node;
use crate::{
    error::{CloseReason, WriteError},
    id::{RecordKey, SessionId},
    memory::{EndedSession, Memory, SessionLookup, record::Record},
    record::{
        change::IncomingValue,
        cookie_sync::CookieSync,
        life::SessionLife,
        state::{Kind, State},
        values::{StoredValue, ValueSlot},
        write_context::IncomingFrom,
    },
    tier::StoredRecord,
    time::Millis,
    value::{MAX_NAME, Scope},
    version::Version,
};

/// A record of which nobody knows yet. Dropped, by an error or by a client that leaves while a store thinks, it goes.
#[must_use]
pub(crate) struct InsertGuard<'a> {
    memory: Option<&'a Memory>,
    key: RecordKey,
}

impl InsertGuard<'_> {
    pub(crate) fn keep(mut self) {
        self.memory = None;
    }
}

impl Drop for InsertGuard<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory {
            memory.forget(&self.key);
        }
    }
}

impl Node {
    /// The record of a session that a token names, made if there is none.
    ///
    /// # Errors
    ///
    /// Where the session has ended on this node.
    pub(crate) fn session_record(
        &self,
        key: &RecordKey,
        now: Millis,
        make: impl FnOnce() -> Record,
    ) -> Result<Arc<Record>, EndedSession> {
        let Some(memory) = &self.memory else { return Ok(Arc::new(make())) };
        let record = memory.session_or_insert(key, now, make)?;
        // Counted, and to expire, from here on: application code runs before the token is taken in, and may panic.
        memory.account_and_sweep(&record, now);
        Ok(record)
    }

    /// What this node knows of the session of an id.
    pub(crate) fn lookup(&self, id: &SessionId) -> SessionLookup {
        let memory = self.memory.as_ref();
        memory.map_or(SessionLookup::Unknown, |memory| memory.session(&RecordKey(*id.as_bytes()), self.now()))
    }

    /// Whether this node knows an id, alive or ended.
    pub(crate) fn is_known(&self, id: &SessionId) -> bool {
        !matches!(self.lookup(id), SessionLookup::Unknown)
    }

    /// Whether this node knows of a use of the session within its idle lifetime, whatever a token tells of.
    pub(crate) fn lives(&self, id: &SessionId) -> bool {
        matches!(self.lookup(id), SessionLookup::Live(record) if record.closed(self.now()).is_none())
    }

    /// Why the session of an id has ended, as far as this node knows.
    pub(crate) fn end_reason(&self, id: &SessionId) -> Option<CloseReason> {
        match self.lookup(id) {
            SessionLookup::Ended(ended) => Some(ended.reason()),
            SessionLookup::Live(_) | SessionLookup::Unknown => None,
        }
    }

    /// The state of a session that a write would begin.
    pub(crate) fn empty_session(&self, now: Millis) -> State {
        let life = SessionLife::begin(Version::ZERO, now, self.config.lifetime);
        State::new(Kind::Session { life, browser: CookieSync::default() })
    }

    /// Puts the record of a new id into memory, to be taken out again unless it is kept.
    ///
    /// # Errors
    ///
    /// Where the id is in use already, or has ended: an order that is carried out a second time.
    pub(crate) fn insert_record(
        &self,
        id: SessionId,
        life: SessionLife,
        now: Millis,
    ) -> Result<(Arc<Record>, InsertGuard<'_>), WriteError> {
        let key = RecordKey(*id.as_bytes());
        let memory = self.memory.as_ref();
        let make = || Record::session(key, life, now);
        let record = match memory {
            Some(memory) => memory.create(&key, now, make).ok_or_else(|| WriteError::closed(CloseReason::Renewed))?,
            None => Arc::new(make()),
        };
        Ok((record, InsertGuard { memory, key }))
    }

    /// Merges a store's copy of a record's owner.
    pub(crate) fn merge_stored(&self, record: &Record, stored: StoredRecord, scope: Scope, now: Millis) {
        let schema = &self.config.schema;
        // An entry of another program, if no build of this one can have declared it; no token that carried it could be read.
        let ours = stored.entries.into_iter().filter(|entry| entry.name.len() <= MAX_NAME);
        let values = ours.filter_map(|entry| {
            // The store's order counts, whatever clock it goes by: an update compares with its version.
            self.note_version(entry.version, now);
            let stored = StoredValue::new(entry.version, entry.json, self.time.written(entry.version, now));
            match schema.index_by_name(&entry.name) {
                // A session's record may hold values of either scope, a principal's only its own.
                Some(index) if scope == Scope::Principal && schema.get(index).scope == Scope::Session => None,
                Some(index) => Some(IncomingValue::Declared(ValueSlot::incoming(index, stored))),
                None => Some(IncomingValue::Undeclared(entry.name.into(), stored)),
            }
        });
        let values: Vec<_> = values.collect();
        record.merge(IncomingFrom::Store, values.into_iter(), self.write_context(scope, now), None);
    }

    /// Counts a change of a record and does the memory tier's share of work.
    pub(crate) fn account(&self, record: &Arc<Record>, now: Millis) {
        if let Some(memory) = &self.memory {
            memory.account_and_sweep(record, now);
        }
    }
}
