//! Why a value is what it is: what each tier says.

use super::core::{Core, Look, Stored};
use crate::{
    chain::{COOKIE, MEMORY},
    value::{self, SessionValue},
    version::Version,
};

/// What each tier of the chain says of one value. See [`Session::explain`](super::Session::explain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    answers: Vec<(&'static str, Answer)>,
    winner: Option<&'static str>,
}

/// What one tier says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It has a valid value, of this version if it is a stored one.
    Value(Option<Version>),
    /// It has bytes that are no valid value.
    NotValid,
    /// It knows that the value was removed: no stored tier answers.
    Removed(Version),
    /// It has nothing.
    Nothing,
}

impl Explanation {
    /// Each tier by name, in the chain's order, with what it says.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, Answer)> + '_ {
        self.answers.iter().copied()
    }

    /// The tier that answers; `None` where `V::default()` stands in.
    pub const fn winner(&self) -> Option<&'static str> {
        self.winner
    }
}

pub(super) fn explain<V: SessionValue>(core: &Core) -> Explanation {
    let mut answers = Vec::new();
    let Some(number) = core.chain.schema.of::<V>() else { return Explanation { answers, winner: None } };
    let now = core.chain.now();
    let judge = |json: &[u8], version| match value::decode::<V>(json) {
        Ok(_) => Answer::Value(version),
        Err(_) => Answer::NotValid,
    };
    let (stored, _) = core.stored(number, now, Look::Use);
    let (tier, answer) = match &stored {
        Stored::Copy { json, version, tier } => (*tier, judge(json, Some(*version))),
        Stored::Tombstone(version) => (MEMORY, Answer::Removed(*version)),
        Stored::Nothing => (MEMORY, Answer::Nothing),
    };
    // The record holds what memory and the cookie have together; the one whose copy it is says so, the other has none
    // that is newer.
    for stored in [MEMORY, COOKIE] {
        if stored == MEMORY && core.chain.memory.is_none() {
            continue;
        }
        answers.push((stored, if stored == tier { answer } else { Answer::Nothing }));
    }
    for computed in &core.chain.computed {
        let said = core.computed(number, now).find(|(name, _)| *name == computed.name());
        answers.push((computed.name(), said.map_or(Answer::Nothing, |(_, json)| judge(json, None))));
    }
    let winner = core.resolve(number, now, Look::Use, |json| value::decode::<V>(json)).0.map(|(_, tier)| tier);
    Explanation { answers, winner }
}
