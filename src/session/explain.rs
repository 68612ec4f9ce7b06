//! Why a value is what it is: what each tier says.

use std::fmt;

use super::{
    read::{self, Access, FALLBACK_TIER, Stored},
    shared::SessionShared,
};
use crate::{
    config::{COOKIE, MEMORY},
    record::values::StoredValue,
    value::ValueIndex,
    version::Version,
};

/// What each tier of the chain says of one value. See [`Session::explain`](super::Session::explain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    answers: Vec<(&'static str, TierAnswer)>,
    winner: Option<&'static str>,
}

/// What one tier says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TierAnswer {
    /// It has a valid value, of this version if it is a stored one.
    Value(Option<Version>),
    /// It has bytes that are no valid value.
    NotValid,
    /// It knows that the value was removed: no stored tier answers.
    Removed(Version),
    /// The tier has nothing. Of a cookie beside memory: no copy that is newer than memory's. Memory vouches for a cookie that it
    /// recognises, and such a cookie is not opened again.
    Nothing,
}

impl Explanation {
    /// Of a value that the chain does not know.
    pub(super) const fn of_nothing() -> Self {
        Self { answers: Vec::new(), winner: None }
    }

    /// Each tier by name, in the chain's order, with what it says.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, TierAnswer)> + '_ {
        self.answers.iter().copied()
    }

    /// The tier that answers; `None` where `V::default()` stands in.
    pub const fn winner(&self) -> Option<&'static str> {
        self.winner
    }
}

/// A line for logs: `memory: removed 1893456000000.0; cookie: nothing; tenants: value; answer: tenants`. The numbers are
/// versions; no text of a value is in the line.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (tier, answer) in &self.answers {
            write!(f, "{tier}: {answer}; ")?;
        }
        write!(f, "answer: {}", self.winner.unwrap_or(FALLBACK_TIER))
    }
}

impl fmt::Display for TierAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(Some(version)) => write!(f, "value {version}"),
            Self::Value(None) => f.write_str("value"),
            Self::NotValid => f.write_str("not valid"),
            Self::Removed(version) => write!(f, "removed {version}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

pub(crate) fn explain(shared: &SessionShared, index: ValueIndex, look: Access) -> Explanation {
    let now = shared.node.now();
    let declared = shared.node.config.schema.get(index);
    let judge = |json: &[u8], version| match (declared.check)(json) {
        Ok(()) => TierAnswer::Value(version),
        Err(_) => TierAnswer::NotValid,
    };
    let stored = read::stored(shared, index, now, look).stored;
    let record = shared.record_of(declared.scope, now).filter(|_| declared.in_cookie());
    let unread = record.and_then(|record| record.read().values.unread(index).map(|copy| copy.value.clone()));
    let (tier, answer) = match &stored {
        Stored::Copy { json, version, tier } => (*tier, judge(json, Some(*version))),
        Stored::Tombstone { version, tier } => (*tier, TierAnswer::Removed(*version)),
        Stored::Nothing => (MEMORY, TierAnswer::Nothing),
    };
    let mut answers = Vec::new();
    // The record holds what memory and the cookie have together: the tier whose copy answers says so, and the cookie says
    // what it has that is newer.
    for name in [MEMORY, COOKIE] {
        let answer = match (name, &unread) {
            (MEMORY, _) if shared.node.memory.is_none() => continue,
            (name, _) if name == tier => answer,
            (COOKIE, Some(StoredValue { version, json: Some(json), .. })) => judge(json, Some(*version)),
            (COOKIE, Some(StoredValue { version, json: None, .. })) => TierAnswer::Removed(*version),
            _ => TierAnswer::Nothing,
        };
        answers.push((name, answer));
    }
    for computed in &shared.node.config.computed {
        let said = read::computed(shared, index, now).find(|(name, _)| *name == computed.name());
        answers.push((computed.name(), said.map_or(TierAnswer::Nothing, |(_, json)| judge(json, None))));
    }
    let winner = read::answer(shared, index, &stored, now, |json| (declared.check)(json)).map(|(_, tier)| tier);
    Explanation { answers, winner }
}
