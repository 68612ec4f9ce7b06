//! Stores that each break a rule, in files by the modules of the rules.

use std::time::SystemTime;

use super::Conduct;
use crate::{
    tier::{Change, Commit, CommitKind, Committed, Snapshot, StoredEntry, StoredRecord},
    version::Version,
};

mod changes;
mod contents;
mod ends;
mod expiry;
mod notices;
mod races;
mod reads;
mod records;
mod stamps;

/// A broken rule, the other rules that the same fault breaks (`None`: any others), and the store.
pub(super) type Wrong = (&'static str, Option<&'static [&'static str]>, Conduct);

/// Returns the wrong stores: one for each rule.
pub(super) fn stores() -> impl Iterator<Item = &'static Wrong> {
    let groups = [
        records::STORES,
        contents::STORES,
        stamps::STORES,
        changes::STORES,
        ends::STORES,
        reads::STORES,
        expiry::STORES,
        races::STORES,
        notices::STORES,
    ];
    groups.into_iter().flatten()
}

const RIGHT: Conduct = Conduct::RIGHT;

/// No other rule.
const ONLY: Option<&[&str]> = Some(&[]);

const fn commits(commit: fn(&Commit<'_>, &mut Option<StoredRecord>, SystemTime) -> Committed) -> Conduct {
    Conduct { commit, ..RIGHT }
}

const fn with_kind<'a>(commit: &Commit<'a>, kind: CommitKind) -> Commit<'a> {
    Commit { kind, ..*commit }
}

pub(super) fn unchanged(record: &StoredRecord, now: SystemTime) -> Snapshot {
    Snapshot::Unchanged { left: record.expires().duration_since(now).unwrap_or_default() }
}

/// Whether a commit changes a name.
fn names(commit: &Commit<'_>, name: &str) -> bool {
    commit.changes().iter().any(|change| change.name() == name)
}

/// Applies a commit, and then edits each entry.
fn edited(
    commit: &Commit<'_>,
    record: &mut Option<StoredRecord>,
    now: SystemTime,
    edit: impl FnMut(&mut StoredEntry),
) -> Committed {
    let committed = commit.apply(record, now);
    record.iter_mut().flat_map(|record| &mut record.entries).for_each(edit);
    committed
}

/// Applies a commit without the changes of existing entries that a condition names.
fn without(
    commit: &Commit<'_>,
    record: &mut Option<StoredRecord>,
    now: SystemTime,
    skips: impl Fn(&Change<'_>, &StoredEntry) -> bool,
) -> Committed {
    let stays = |change: &&Change<'_>| {
        let current = record.as_ref().and_then(|record| record.entry(change.name()));
        !current.is_some_and(|current| skips(change, current))
    };
    let changes: Vec<_> = commit.changes().iter().filter(stays).copied().collect();
    Commit { changes: &changes, ..*commit }.apply(record, now)
}

/// Applies a commit, after the store has dropped the entries that a carried change could not replace.
fn forced(
    commit: &Commit<'_>,
    record: &mut Option<StoredRecord>,
    now: SystemTime,
    forces: impl Fn(&Change<'_>, &StoredEntry) -> bool,
) -> Committed {
    let carried = commit.changes().iter().filter(|change| change.version().is_some());
    for change in carried {
        if let Some(record) = record {
            record.entries.retain(|entry| entry.name != change.name() || !forces(change, entry));
        }
    }
    commit.apply(record, now)
}

/// Applies a commit whose changes replace other versions than the commit says.
fn comparing(
    commit: &Commit<'_>,
    record: &mut Option<StoredRecord>,
    now: SystemTime,
    replaces: impl Fn(Version, Option<&StoredEntry>) -> Option<Version>,
) -> Committed {
    let change = |change: &Change<'_>| {
        let current = record.as_ref().and_then(|record| record.entry(change.name));
        change.replaces.and_then(|version| replaces(version, current))
    };
    let replaced: Vec<_> = commit.changes().iter().map(change).collect();
    let changes = commit.changes().iter().zip(replaced).map(|(change, replaces)| Change { replaces, ..*change });
    let changes: Vec<_> = changes.collect();
    Commit { changes: &changes, ..*commit }.apply(record, now)
}

/// Applies a commit, and then sets the expiry of a record that was there before: `expires` gets the expiry before and
/// after the commit. [`SystemTime::UNIX_EPOCH`] stands for the span of the commit alone.
fn spanning(
    commit: &Commit<'_>,
    record: &mut Option<StoredRecord>,
    now: SystemTime,
    expires: fn(&Commit<'_>, SystemTime, SystemTime) -> SystemTime,
) -> Committed {
    let before = record.as_ref().map(StoredRecord::expires);
    let committed = commit.apply(record, now);
    if let (Some(before), Some(record)) = (before, record)
        && matches!(committed, Committed::Applied { .. } | Committed::Retired(_))
    {
        let chosen = expires(commit, before, record.expires);
        record.expires = if chosen == SystemTime::UNIX_EPOCH { now + commit.keep() } else { chosen };
    }
    committed
}
