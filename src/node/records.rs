//! The records of a node: their look-up in memory, their creation, and the merge of the store's copies.

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

/// The record of a new id before its first write has succeeded. A guard that drops before [`keep`](Self::keep) removes
/// the record from memory: after an error, or when the client leaves while the store works.
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
    /// Returns the record of a session that a token names, and creates the record if memory has none.
    ///
    /// # Errors
    ///
    /// The end of the session, if the session has ended on this node.
    pub(crate) fn session_record(
        &self,
        key: &RecordKey,
        now: Millis,
        make: impl FnOnce() -> Record,
    ) -> Result<Arc<Record>, EndedSession> {
        let Some(memory) = &self.memory else { return Ok(Arc::new(make())) };
        let record = memory.session_or_insert(key, now, make)?;
        // Counts the record and indexes its expiry here: application code runs before the merge of the token, and may
        // panic.
        memory.account_and_sweep(&record, now);
        Ok(record)
    }

    /// Looks up the session of an id in memory.
    pub(crate) fn lookup(&self, id: &SessionId) -> SessionLookup {
        let memory = self.memory.as_ref();
        memory.map_or(SessionLookup::Unknown, |memory| memory.session(&RecordKey(*id.as_bytes()), self.now()))
    }

    /// Whether this node knows an id, of a live or an ended session.
    pub(crate) fn is_known(&self, id: &SessionId) -> bool {
        !matches!(self.lookup(id), SessionLookup::Unknown)
    }

    /// Whether the session is live in memory. The record may know of a later use than a token.
    pub(crate) fn lives(&self, id: &SessionId) -> bool {
        matches!(self.lookup(id), SessionLookup::Live(record) if record.closed(self.now()).is_none())
    }

    /// Returns the reason for the end of an id, if this node knows the end.
    pub(crate) fn end_reason(&self, id: &SessionId) -> Option<CloseReason> {
        match self.lookup(id) {
            SessionLookup::Ended(ended) => Some(ended.reason()),
            SessionLookup::Live(_) | SessionLookup::Unknown => None,
        }
    }

    /// Returns the empty state of a session that a write would begin.
    pub(crate) fn empty_session(&self, now: Millis) -> State {
        let life = SessionLife::begin(Version::ZERO, now, self.config.lifetime);
        State::new(Kind::Session { life, browser: CookieSync::default() })
    }

    /// Puts the record of a new id into memory. The guard removes the record again unless the caller keeps it.
    ///
    /// # Errors
    ///
    /// `Closed` if the id is in use or has ended, for example if an order is carried out a second time.
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

    /// Merges the store's copy of an owner into a record.
    pub(crate) fn merge_stored(&self, record: &Record, stored: StoredRecord, scope: Scope, now: Millis) {
        let schema = &self.config.schema;
        // A longer name is an entry of another program: no build can declare such a name, and no token with such a name
        // could be read.
        let ours = stored.entries.into_iter().filter(|entry| entry.name.len() <= MAX_NAME);
        let values = ours.filter_map(|entry| {
            // The store's version is kept, however far ahead: an update compares with that version.
            self.note_version(entry.version, now);
            let stored = StoredValue::new(entry.version, entry.json, self.time.written(entry.version, now));
            match schema.index_by_name(&entry.name) {
                // A session's record may hold values of either scope. A principal's record holds values of principal
                // scope alone.
                Some(index) if scope == Scope::Principal && schema.get(index).scope == Scope::Session => None,
                Some(index) => Some(IncomingValue::Declared(ValueSlot::incoming(index, stored))),
                None => Some(IncomingValue::Undeclared(entry.name.into(), stored)),
            }
        });
        let values: Vec<_> = values.collect();
        record.merge(IncomingFrom::Store, values.into_iter(), self.write_context(scope, now), None);
    }

    /// Counts the bytes of a changed record, and does a bounded step of the memory tier's sweep and eviction.
    pub(crate) fn account(&self, record: &Arc<Record>, now: Millis) {
        if let Some(memory) = &self.memory {
            memory.account_and_sweep(record, now);
        }
    }
}
