//! What memory answers for the id of a session.

use std::sync::Arc;

use super::{record::Record, tombstones::EndedSession};
use crate::time::Millis;

/// What memory knows of a session.
#[derive(Debug)]
pub(crate) enum SessionLookup {
    /// The record of a session that has not ended, though its lifetime may be over.
    Live(Arc<Record>),
    Ended(EndedSession),
    Unknown,
}

impl SessionLookup {
    pub(super) fn of(record: Arc<Record>, now: Millis) -> Self {
        match record.end_of() {
            Some(end) => Self::Ended(EndedSession::of(end, now)),
            None => Self::Live(record),
        }
    }
}

/// The id of a new session lives already, or has ended.
#[derive(Debug)]
pub(crate) struct IdTaken;
