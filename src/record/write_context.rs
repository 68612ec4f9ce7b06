//! What a record is told with a change, and what it answers where it takes none.

use std::{fmt, time::Duration};

use super::values::Resolution;
use crate::{
    error::CloseReason,
    node_clock::NodeClock,
    time::Millis,
    value::{Schema, ValueIndex},
};

/// Why a record took no change.
#[derive(Debug)]
pub(crate) enum CommitRejected {
    Closed(CloseReason),
    /// Another version stands where the change would replace one.
    Outdated,
    /// Over the browser's budget, or over what the budget leaves beside the room that is kept for the user's value.
    TooLarge(Box<Oversize>),
}

/// What a write needs to know beside the changes.
#[derive(Clone, Copy)]
pub(crate) struct WriteContext<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) now: Millis,
    /// Gives the versions.
    pub(crate) time: &'a NodeClock,
    pub(crate) scope: WriteScope,
    /// Bytes that the browser has for this owner's entries.
    pub(crate) budget: usize,
    /// The bytes that a browser could have under the largest budget: an earlier deploy may have filled them.
    pub(crate) max_budget: usize,
    pub(crate) share: BudgetShare,
    /// Bytes of the budget that an ordinary write leaves to the value of the signed-in user.
    pub(crate) reserved: Option<(ValueIndex, usize)>,
    /// A shared store gives the versions: they are taken as they are.
    pub(crate) store_stamps: bool,
    /// How long tombstones are kept at least; a session's for its own idle lifetime and the skew of clocks.
    pub(crate) tombstones: Duration,
}

impl WriteContext<'_> {
    /// The same terms, for a write of this share.
    pub(crate) const fn for_share(self, share: BudgetShare) -> Self {
        Self { share, ..self }
    }
}

/// The bearer of copies that carry their versions. A store's answers go by the version alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncomingFrom {
    Browser(Resolution),
    Store,
}

/// Which part of a budget a write may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetShare {
    /// All but the room that is kept for the user's value.
    Ordinary,
    /// All: a sign-in, or the values that a turn grants.
    Whole,
}

/// How much of a record a write speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteScope {
    /// The values that it names.
    Values,
    /// Everything: its changes are the removals that `clear` comes to.
    ClearAll,
}

/// A write that the browser's cookie has no room for. All sizes are bytes of JSON.
#[derive(Debug)]
pub(crate) struct Oversize {
    /// The largest values of the owner, the written values among them.
    pub(crate) largest: Vec<(&'static str, usize)>,
    /// The values that the write sets.
    pub(super) written: usize,
    /// As much as a write of the same values could set.
    pub(super) fits: usize,
    /// The bytes that are kept for a sign-in, where the write would fit without them.
    pub(super) stored: Option<usize>,
}

impl fmt::Display for Oversize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { largest, written, fits, stored } = self;
        write!(f, "the write has {written} bytes of JSON, and the browser's cookie has room for {fits}")?;
        if let Some(room) = stored {
            write!(f, " beside the {room} bytes that are kept for a sign-in")?;
        }
        f.write_str("; the largest values: ")?;
        for (at, (name, bytes)) in largest.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}`{name}` ({bytes} bytes)")?;
        }
        Ok(())
    }
}
