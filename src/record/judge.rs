//! What becomes of two copies of a value that meet: for that it has to be known which of them this build can read.
//!
//! The application's code says so, which is not to run under a lock of ours. So what meets is found out under the record's
//! lock, judged outside of it, and joined once nothing is left to judge: most copies meet none but themselves.

use super::values::StoredValue;
use crate::value::{Json, Schema, ValueIndex};

/// What becomes of the copy that stands and of the one that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// It stands.
    Stays,
    /// The one that came takes its place.
    Yields,
    /// It stands, and the one that came, which is newer, rides along unread.
    Accompanied,
    /// The one that came takes its place, and it, which is newer, rides along unread.
    Accompanies,
}

impl StoredValue {
    /// # Errors
    ///
    /// Those of `readable`, which is asked only for what the answer depends on.
    pub(super) fn meet<E>(&self, other: &Self, readable: impl Fn(&Self) -> Result<bool, E>) -> Result<Meeting, E> {
        Ok(match self.loses_to(other) {
            true if readable(other)? => Meeting::Yields,
            true => Meeting::Accompanied,
            false if self == other || readable(self)? || !readable(other)? => Meeting::Stays,
            false => Meeting::Accompanies,
        })
    }
}

/// Knows of some copies whether this build can read them.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    pub(super) schema: &'a Schema,
    known: Vec<(ValueIndex, Json, bool)>,
}

impl<'a> Judge<'a> {
    pub(crate) const fn new(schema: &'a Schema) -> Self {
        Self { schema, known: Vec::new() }
    }

    /// Takes a copy for readable: the application wrote it.
    pub(crate) fn trust(&mut self, index: ValueIndex, stored: StoredValue) {
        self.known.extend(stored.json.map(|json| (index, json, true)));
    }

    /// Runs the application's code.
    pub(crate) fn learn(&mut self, unjudged: Vec<(ValueIndex, Json)>) {
        for (index, json) in unjudged {
            let readable = (self.schema.get(index).check)(&json).is_ok();
            self.known.push((index, json, readable));
        }
    }

    /// # Errors
    ///
    /// What there is to learn first.
    pub(super) fn can_read(&self, index: ValueIndex, stored: &StoredValue) -> Result<bool, (ValueIndex, Json)> {
        let Some(json) = &stored.json else { return Ok(true) };
        let known = self.known.iter().find(|(of, known, _)| *of == index && known == json);
        known.map(|(_, _, readable)| *readable).ok_or_else(|| (index, json.clone()))
    }
}
