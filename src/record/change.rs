//! Changes on their way into a record: an application's own, and copies that come from elsewhere.

use std::borrow::Cow;

use super::values::{StoredValue, ValueSlot};
use crate::{
    value::{Json, ValueIndex},
    version::Version,
};

/// A copy on its way into a record.
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

/// What came of taking over changes.
#[derive(Debug)]
pub(crate) struct MergeResult {
    pub(crate) changed: bool,
    /// What was brought is what stands here now, name by name. There may be more here.
    pub(crate) same: bool,
    /// The stamp of the state of which all this is true.
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

    /// The version of a carried change, which applies only if newer than the version that stands. At equal versions a removal
    /// beats a value, and the greater bytes beat the smaller. `None` for a fresh change, which the store stamps above every
    /// version that the store holds of this owner.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The version that must stand in the record ([`Version::ZERO`]: none), or the store answers
    /// [`Committed::Outdated`](crate::tier::Committed::Outdated).
    pub const fn replaces(&self) -> Option<Version> {
        self.replaces
    }
}
