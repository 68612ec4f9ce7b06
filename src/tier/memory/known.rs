//! What memory answers for the id of a session.

use std::sync::Arc;

use super::{record::Record, tombstones::Ended};
use crate::version::Millis;

/// What memory knows of a session.
#[derive(Debug)]
pub(crate) enum Known {
    /// The record of a session that has not ended, though its lifetime may be over.
    Living(Arc<Record>),
    Ended(Ended),
    Unknown,
}

impl Known {
    pub(super) fn of(record: Arc<Record>, now: Millis) -> Self {
        match record.end_of() {
            Some(end) => Self::Ended(Ended::of(end, now)),
            None => Self::Living(record),
        }
    }
}

/// The id of a new session lives already, or has ended.
#[derive(Debug)]
pub(crate) struct Taken;
