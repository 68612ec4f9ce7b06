//! Changes to apply to a record: the application's changes, and copies from other tiers, browsers and nodes.

use std::borrow::Cow;

use super::values::{StoredValue, ValueSlot};
use crate::{
    value::{Json, ValueIndex},
    version::Version,
};

/// A copy to be merged into a record.
#[derive(Clone, Debug)]
pub(crate) enum IncomingValue<'a> {
    Declared(ValueSlot),
    Undeclared(Cow<'a, str>, StoredValue),
}

impl IncomingValue<'_> {
    pub(crate) const fn value(&self) -> &StoredValue {
        match self {
            Self::Declared(copy) => &copy.value,
            Self::Undeclared(_, value) => value,
        }
    }
}

/// The outcome of a merge.
#[derive(Debug)]
pub(crate) struct MergeResult {
    pub(crate) changed: bool,
    /// Each brought copy is the newest copy of its name now. The record may hold more names.
    pub(crate) same: bool,
    /// The revision of the state after the merge.
    pub(crate) revision: u64,
}

/// A change of one value: a new value or a removal. `Debug` shows the size of the value alone.
#[derive(Clone, Debug)]
pub struct Mutation {
    pub(crate) index: ValueIndex,
    pub(crate) name: &'static str,
    pub(crate) json: Option<Json>,
    pub(crate) version: Option<Version>,
    pub(crate) replaces: Option<Version>,
}

impl Mutation {
    pub(crate) const fn set(index: ValueIndex, name: &'static str, json: Json) -> Self {
        Self { index, name, json: Some(json), version: None, replaces: None }
    }

    pub(crate) const fn remove(index: ValueIndex, name: &'static str) -> Self {
        Self { index, name, json: None, version: None, replaces: None }
    }

    /// The value's wire name.
    pub const fn name(&self) -> &str {
        self.name
    }

    /// The value's JSON bytes; `None` leaves a tombstone.
    pub fn json(&self) -> Option<&[u8]> {
        self.json.as_deref()
    }

    /// The version of a carried change, which applies only if newer than the version in the record. At equal versions a
    /// removal beats a value, and the greater bytes beat the smaller. `None` for a fresh change: the store stamps a
    /// fresh change above every version that the store holds of this owner.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The version that must stand in the record ([`Version::ZERO`]: none), or the store answers
    /// [`Committed::Outdated`](crate::tier::Committed::Outdated).
    pub const fn replaces(&self) -> Option<Version> {
        self.replaces
    }
}
