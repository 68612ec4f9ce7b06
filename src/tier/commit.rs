//! A change of one owner's record: the [`Commit`], its conditions, and its [outcome](Committed).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{NodeId, OwnerId, StoredEnd, StoredEntry, StoredLife, StoredRecord};
use crate::{error::CloseReason, time::Wall, value::Json, version::Version};

/// A change of one owner's record, which the store makes whole or not at all.
///
/// [`apply`](Self::apply) is the reference for every store.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    pub(crate) owner: OwnerId,
    pub(crate) kind: CommitKind,
    pub(crate) changes: &'a [Change<'a>],
    pub(crate) life: Option<StoredLife>,
    pub(crate) above: Version,
    pub(crate) keep: Duration,
    pub(crate) node: NodeId,
}

/// The effect of a [`Commit`] on the record, and the commit's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitKind {
    /// Creates the record. A store that has the record answers [`Committed::Outdated`] or [`Committed::Ended`].
    Create,
    /// Changes the record. A store without the record answers [`Committed::Absent`].
    Update,
    /// Changes the record, and creates a missing record. For principals, whose records have no commit of kind `Create`.
    Upsert,
    /// Removes each value of the record, also the values that this build does not declare. A store without the record
    /// answers [`Committed::Absent`].
    Clear {
        /// The name of the value that stays: the value of the signed-in user.
        except: Option<&'static str>,
    },
    /// Ends all sessions of a principal that began before this commit: raises [`StoredRecord::not_before`] to the
    /// commit's stamp. Creates a missing record.
    Revoke {
        /// The version to raise `not_before` to, instead of the stamp: the stamp of an earlier commit of this kind that
        /// the store has lost. A greater `not_before` stays.
        up_to: Option<Version>,
    },
    /// Ends the record, and drops its values: from now on the store answers [`Snapshot::Ended`](super::Snapshot), until
    /// the record expires. A store without the record notes the end too, and answers [`Committed::Absent`].
    End {
        /// The reason: `Destroyed`, `Renewed` or `Revoked`.
        reason: CloseReason,
        /// The owner id of the session that a renewal began in place of this session, if the principal stayed the same.
        /// A sign-out with the cookie of the ended session also ends the new session. A sign-in has no successor: an
        /// attacker may have planted the old cookie before the login (session fixation).
        successor: Option<OwnerId>,
    },
}

impl<'a> Commit<'a> {
    /// The owner of the record.
    pub const fn owner(&self) -> OwnerId {
        self.owner
    }

    /// The effect on the record.
    pub const fn kind(&self) -> CommitKind {
        self.kind
    }

    /// The changes of values. Of a commit of kind `Clear` removals alone; empty for a commit of kind `Revoke` or `End`.
    pub const fn changes(&self) -> &'a [Change<'a>] {
        self.changes
    }

    /// The node's copy of the session's lifetime; `None` for a principal, and for a commit that leaves the lifetime alone.
    /// Replaces an older lifetime of the record. A store whose record has a newer lifetime answers
    /// [`Committed::Outdated`]: the node has computed [`keep`](Self::keep) from a lifetime that no longer holds.
    pub const fn life(&self) -> Option<StoredLife> {
        self.life
    }

    /// The newest version of this owner that the node knows, from memory or a cookie. The store stamps the commit above
    /// this version, even if the store has lost the record.
    pub const fn above(&self) -> Version {
        self.above
    }

    /// The minimum span for which the store keeps the record, counted from the commit. A commit never shortens the span
    /// that an earlier commit or touch has set. The only exception is a commit that replaces the lifetime: the record
    /// then stays for exactly this span.
    pub const fn keep(&self) -> Duration {
        self.keep
    }

    /// The node that makes the commit, for the [notice](super::Notice::Changed) of the commit.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Applies the commit to a record (`None`: the store has no record), at a time of the store's clock.
    ///
    /// This method is the whole contract of [`Store::commit`](super::Store::commit) as code. A store that can run Rust
    /// under a lock or in a transaction reads the record, calls `apply`, and writes the record back. The record is
    /// unchanged unless the outcome is [`Applied`](Committed::Applied), [`Retired`](Committed::Retired), or, for an end,
    /// [`Absent`](Committed::Absent). An expired record counts as absent, and is dropped.
    pub fn apply(&self, record: &mut Option<StoredRecord>, now: SystemTime) -> Committed {
        if record.as_ref().is_some_and(|record| record.expires <= now) {
            *record = None;
        }
        if let Some(refused) = self.refuse(record.as_ref()) {
            return refused;
        }
        let before = record.take();
        let newest = before.as_ref().map_or(Version::ZERO, StoredRecord::newest);
        let stamp = Version::at(Wall::of(now)).max(newest.max(self.above).next());
        let mut next = before.clone().unwrap_or_else(|| StoredRecord::new(stamp));
        next.expires = next.expires.max(now + self.keep);
        next.newest = stamp;
        if let Some(life) = self.life
            && next.life.is_none_or(|current| current.version < life.version)
        {
            (next.life, next.expires) = (Some(life), now + self.keep);
        }
        match self.kind {
            CommitKind::Create | CommitKind::Update | CommitKind::Upsert => {
                self.changes.iter().for_each(|change| change.apply(&mut next, stamp));
            }
            CommitKind::Clear { except } => {
                let cleared = next.entries.iter_mut().filter(|entry| Some(&*entry.name) != except);
                cleared.for_each(|entry| (entry.json, entry.version) = (None, stamp));
                self.changes.iter().for_each(|change| change.apply(&mut next, stamp));
            }
            CommitKind::Revoke { up_to } => next.not_before = next.not_before.max(up_to.unwrap_or(stamp)),
            CommitKind::End { reason, successor } => {
                next.entries.clear();
                next.end = Some(StoredEnd { reason, successor, at: now });
            }
        }
        let StoredRecord { newest, generation, .. } = *record.insert(next);
        match self.kind {
            CommitKind::End { .. } => before.map_or(Committed::Absent, Committed::Retired),
            _ => Committed::Applied { stamp, newest, generation },
        }
    }

    /// Returns the refusal, if the record does not meet the commit's conditions.
    fn refuse(&self, record: Option<&StoredRecord>) -> Option<Committed> {
        match (self.kind, record) {
            (_, Some(StoredRecord { end: Some(end), .. })) => return Some(Committed::Ended(*end)),
            (CommitKind::Create, Some(record)) => return Some(Committed::Outdated(record.clone())),
            (CommitKind::Update | CommitKind::Clear { .. }, None) => return Some(Committed::Absent),
            _ => {}
        }
        let is_current = |change: &Change<'_>| {
            let current = record.and_then(|record| record.entry(change.name));
            change.replaces.is_none_or(|replaces| current.map_or(Version::ZERO, |entry| entry.version) == replaces)
        };
        let version = self.life.as_ref().map(StoredLife::version);
        let has_newer_life = record.is_some_and(|record| record.has_life_above(version));
        let outdated = || Committed::Outdated(record.cloned().unwrap_or_else(|| StoredRecord::new(Version::ZERO)));
        (has_newer_life || !self.changes.iter().all(is_current)).then(outdated)
    }
}

/// A change of one value: a new value or a removal.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    pub(crate) name: &'a str,
    pub(crate) json: Option<&'a Json>,
    pub(crate) version: Option<Version>,
    pub(crate) replaces: Option<Version>,
}

impl<'a> Change<'a> {
    /// The value's wire name.
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// The value's JSON bytes; `None` leaves a tombstone.
    pub fn json(&self) -> Option<&'a [u8]> {
        self.json.map(|json| &**json)
    }

    /// The version of a carried change, which applies only if newer than the version in the record. At equal versions a
    /// removal beats a value, and the greater bytes beat the smaller. `None` for a fresh change: the store stamps a
    /// fresh change above every version of this owner.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The version that the value must have in the record ([`Version::ZERO`]: the record must have no entry of the
    /// value). For another version the store answers [`Committed::Outdated`].
    pub const fn replaces(&self) -> Option<Version> {
        self.replaces
    }

    fn apply(&self, record: &mut StoredRecord, stamp: Version) {
        let version = self.version.unwrap_or(stamp);
        let entry = StoredEntry { name: self.name.to_owned(), json: self.json.cloned(), version };
        record.newest = record.newest.max(version);
        match record.entries.iter_mut().find(|current| current.name == self.name) {
            None => record.entries.push(entry),
            Some(current) if current.rank() < entry.rank() => *current = entry,
            Some(_) => {}
        }
    }
}

/// Shows the size of the value alone: the value may be private.
impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("name", &self.name)
            .field("bytes", &self.json.map(|json| json.len()))
            .field("version", &self.version)
            .field("replaces", &self.replaces)
            .finish()
    }
}

/// The outcome of a [`Commit`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Committed {
    /// The store made the changes.
    Applied {
        /// The version of the fresh changes.
        stamp: Version,
        /// The record's newest version. A carried change may be newer than the stamp.
        newest: Version,
        /// The record's [generation](StoredRecord::generation).
        generation: Version,
    },
    /// The store ended the record. Contains the record as it was before the end.
    Retired(StoredRecord),
    /// The store made no change: a change replaces a version that is no longer current, the record has a newer lifetime,
    /// or the record to create exists. Contains the current record.
    Outdated(StoredRecord),
    /// The store has no such record, and made no change. The only exception is a commit of kind `End`: the store notes
    /// the end.
    Absent,
    /// The record has ended, and the store made no change.
    Ended(StoredEnd),
}

#[cfg(test)]
mod tests;
