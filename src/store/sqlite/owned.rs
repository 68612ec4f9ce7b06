//! [`OwnedCommit`]: a commit for another thread.

use crate::{
    tier::{Change, Commit, Version},
    value::Json,
};

/// A copy of a [`Commit`] without a borrow.
pub(super) struct OwnedCommit {
    /// The commit without its changes.
    frame: Commit<'static>,
    changes: Vec<OwnedChange>,
}

struct OwnedChange {
    name: String,
    json: Option<Json>,
    version: Option<Version>,
    replaces: Option<Version>,
}

impl OwnedCommit {
    pub(super) fn of(commit: Commit<'_>) -> Self {
        let Commit { owner, kind, changes, life, above, keep, node } = commit;
        let owned = |change: &Change<'_>| OwnedChange {
            name: change.name.to_owned(),
            json: change.json.cloned(),
            version: change.version,
            replaces: change.replaces,
        };
        let changes = changes.iter().map(owned).collect();
        Self { frame: Commit { owner, kind, changes: &[], life, above, keep, node }, changes }
    }

    /// Calls a function with the commit.
    pub(super) fn with<T>(&self, call: impl FnOnce(Commit<'_>) -> T) -> T {
        let changes: Vec<_> = self.changes.iter().map(OwnedChange::borrow).collect();
        call(Commit { changes: &changes, ..self.frame })
    }
}

impl OwnedChange {
    fn borrow(&self) -> Change<'_> {
        let Self { name, json, version, replaces } = self;
        Change { name, json: json.as_ref(), version: *version, replaces: *replaces }
    }
}
