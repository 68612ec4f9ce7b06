//! The explanation of a value's answer: the answer of each tier, and the tier that wins.

use std::fmt;

use super::{
    read::{self, Access},
    shared::SessionShared,
};
use crate::{
    config::{COOKIE, DEFAULT, MEMORY},
    record::values::StoredValue,
    value::{Json, ValueIndex},
    version::Version,
};

/// The answers of each tier for one value. See [`Session::explain`](super::Session::explain).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    answers: Vec<(&'static str, TierAnswer)>,
    winner: Option<&'static str>,
}

/// The answer of one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TierAnswer {
    /// The tier has a valid value. A value in memory or in the cookie has a version.
    Value(Option<Version>),
    /// The tier has bytes that are no valid value.
    NotValid,
    /// The value was removed, with this version. Only a computed tier can answer.
    Removed(Version),
    /// The tier has no answer. In a chain with memory, the cookie also has no answer if its copy is not newer than
    /// memory's copy: memory knows such a cookie by its bytes, and the cookie is not opened again.
    Nothing,
}

impl Explanation {
    /// Returns each tier's name and answer, in the order of the chain.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, TierAnswer)> + '_ {
        self.answers.iter().copied()
    }

    /// Returns the name of the tier that answers; `None` if the answer is `V::default()`.
    pub const fn winner(&self) -> Option<&'static str> {
        self.winner
    }
}

/// Writes a line for logs: `memory: removed 1893456000000.0; cookie: nothing; tenants: value; answer: tenants`. The
/// numbers are versions; no text of a value is in the line.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (tier, answer) in &self.answers {
            write!(f, "{tier}: {answer}; ")?;
        }
        write!(f, "answer: {}", self.winner.unwrap_or(DEFAULT))
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

pub(crate) fn explain(shared: &SessionShared, index: ValueIndex, access: Access) -> Explanation {
    let now = shared.node.now();
    let declared = shared.node.config.schema.get(index);
    let judge = |json: &[u8], version| match (declared.check)(json) {
        Ok(()) => TierAnswer::Value(version),
        Err(_) => TierAnswer::NotValid,
    };
    let of_copy = |json: Option<&Json>, version| match json {
        Some(json) => judge(json, Some(version)),
        None => TierAnswer::Removed(version),
    };
    let look = read::stored(shared, index, now, access);
    let record = shared.record_of(declared.scope, now).filter(|_| declared.in_cookie());
    let unread = record.and_then(|record| record.read().values.unread(index).map(|copy| copy.value.clone()));
    let (tier, answer) = look
        .stored
        .as_ref()
        .map_or((MEMORY, TierAnswer::Nothing), |stored| (stored.tier, of_copy(stored.json.as_ref(), stored.version)));
    let mut answers = Vec::new();
    // The record holds the copies of memory and of the cookie together. The tier of the winning copy gets the answer,
    // and the cookie gets an unread newer copy.
    for name in [MEMORY, COOKIE] {
        let answer = match (name, &unread) {
            (MEMORY, _) if shared.node.memory.is_none() => continue,
            (name, _) if name == tier => answer,
            (COOKIE, Some(StoredValue { version, json, .. })) => of_copy(json.as_ref(), *version),
            _ => TierAnswer::Nothing,
        };
        answers.push((name, answer));
    }
    for computed in &shared.node.config.computed {
        let answer = read::computed(shared, index, now).find(|(name, _)| *name == computed.name());
        answers.push((computed.name(), answer.map_or(TierAnswer::Nothing, |(_, json)| judge(json, None))));
    }
    let winner = read::answer(shared, index, &look, now, |json| (declared.check)(json)).map(|(_, tier)| tier);
    Explanation { answers, winner }
}
