//! Changes to apply to a record, from the application or as copies from other tiers, browsers and nodes, with the context
//! of a write and the reasons of a rejection.

use std::{borrow::Cow, fmt, time::Duration};

use super::values::{Resolution, StoredValue, ValueSlot};
use crate::{
    error::CloseReason,
    node_clock::NodeClock,
    time::Millis,
    value::{Json, Schema, ValueIndex},
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
    /// Whether each brought copy is now the newest copy of its name. The record may hold more names.
    pub(crate) same: bool,
    /// The revision of the state after the merge.
    pub(crate) revision: u64,
}

/// A change of one value: a new value or a removal.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) index: ValueIndex,
    pub(crate) name: &'static str,
    /// The JSON bytes; `None` leaves a tombstone.
    pub(crate) json: Option<Json>,
    /// The version of a carried change; `None` for a fresh change.
    pub(crate) version: Option<Version>,
    /// The version that the value must have in the record for the change to apply ([`Version::ZERO`]: no entry).
    pub(crate) replaces: Option<Version>,
}

impl Mutation {
    pub(crate) const fn set(index: ValueIndex, name: &'static str, json: Json) -> Self {
        Self { index, name, json: Some(json), version: None, replaces: None }
    }

    pub(crate) const fn remove(index: ValueIndex, name: &'static str) -> Self {
        Self { index, name, json: None, version: None, replaces: None }
    }
}

/// The reason why a record rejected a change.
#[derive(Debug)]
pub(crate) enum CommitRejected {
    Closed(CloseReason),
    /// The value has another version in the record than the change expects.
    Outdated,
    /// The record would exceed the browser's budget, or the part of the budget beside the room for the identity value.
    TooLarge(Box<Oversize>),
}

/// The inputs of a write beside the changes.
#[derive(Clone, Copy)]
pub(crate) struct WriteContext<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) now: Millis,
    /// The clock that gives the versions.
    pub(crate) time: &'a NodeClock,
    pub(crate) scope: WriteScope,
    /// Bytes that the browser has for this owner's entries.
    pub(crate) budget: usize,
    /// The bytes that a browser has under the largest possible budget: an earlier deploy may have filled all of these
    /// bytes.
    pub(crate) max_budget: usize,
    pub(crate) share: BudgetShare,
    /// Bytes of the budget that an ordinary write leaves to the value of the signed-in user.
    pub(crate) reserved: Option<(ValueIndex, usize)>,
    /// Whether a shared store gives the versions: such versions are kept unchanged.
    pub(crate) store_stamps: bool,
    /// The store's stamp of the commit whose changes memory takes.
    pub(crate) stamp: Option<Version>,
    /// The shortest time to keep tombstones. A session keeps its tombstones at least for its idle lifetime and the
    /// clock skew.
    pub(crate) tombstones: Duration,
}

impl WriteContext<'_> {
    /// Returns the same context for a write of this share.
    pub(crate) const fn for_share(self, share: BudgetShare) -> Self {
        Self { share, ..self }
    }
}

/// The origin of copies that keep their versions. Copies from a store are merged by version alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncomingFrom {
    Browser(Resolution),
    Store,
}

/// The part of a budget that a write may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetShare {
    /// All except the room reserved for the identity value.
    Ordinary,
    /// All: for a sign-in, or for the values that a renewal grants.
    Whole,
}

/// The part of a record that a write affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteScope {
    /// The values that the write names.
    Values,
    /// All values: the changes are the removals of a `clear`.
    ClearAll,
}

/// A write without room in the browser's cookie. All sizes are bytes of JSON.
#[derive(Debug)]
pub(crate) struct Oversize {
    /// The largest values of the owner, the written values among them.
    pub(crate) largest: Vec<(&'static str, usize)>,
    /// The values that the write sets.
    pub(super) written: usize,
    /// The maximum that a write of the same values could set.
    pub(super) fits: usize,
    /// The bytes reserved for a later sign-in, if the write would fit without the reserve.
    pub(super) stored: Option<usize>,
}

impl fmt::Display for Oversize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { largest, written, fits, stored } = self;
        write!(f, "the write has {written} bytes of JSON, and the browser's cookie has room for {fits}")?;
        if let Some(room) = stored {
            write!(f, " beside the {room} bytes that are reserved for a later sign-in")?;
        }
        f.write_str("; the largest values: ")?;
        for (at, (name, bytes)) in largest.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}`{name}` ({bytes} bytes)")?;
        }
        Ok(())
    }
}
