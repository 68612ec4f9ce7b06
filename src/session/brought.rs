//! What a request's cookie held.

use std::sync::Arc;

use crate::{
    chain::values::Kept,
    tier::memory::record::{InStep, Record, RecordKey},
    value::{Number, Scope},
    version::Version,
};

/// What the request's cookie held.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// The session whose token it was.
    pub(super) key: Option<RecordKey>,
    /// Set if it held all that there was.
    pub(super) in_step: Option<InStep>,
    /// The record of its user, if values of that were in it and it was not opened: what isn't here any more when the head
    /// leaves, the next cookie would lack.
    pub(super) principal: Option<Arc<Record>>,
    /// Several tokens of ours opened: none counts, and all are to go.
    pub(super) ambiguous: bool,
    /// What the cookie answered for, with the version.
    pub(super) filled: Box<[(Number, Version)]>,
    /// Under `FirstHit`: copies that are newer than memory's, which the next seal must keep.
    pub(super) newer: Box<[Newer]>,
}

/// A copy that only the cookie has.
#[derive(Debug)]
pub(super) struct Newer {
    pub(super) owner: Owner,
    pub(super) name: Box<str>,
    pub(super) kept: Kept,
}

/// Whose part of a cookie it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The session's, renewed or not.
    Session,
    /// A principal's, by name: another may sign in before the response leaves.
    Principal(RecordKey),
}

impl Owner {
    pub(super) const fn scope(self) -> Scope {
        match self {
            Self::Session => Scope::Session,
            Self::Principal(_) => Scope::Principal,
        }
    }
}
