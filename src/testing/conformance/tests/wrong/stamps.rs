//! Stores that each break a rule of `stamps`.

use std::time::Duration;

use super::{ONLY, Wrong, commits};
use crate::{
    tier::{Change, Commit, CommitKind, Committed, StoredRecord},
    time::Wall,
    version::Version,
};

pub(super) const STORES: &[Wrong] = &[
    (
        "stamps_increase",
        None,
        commits(|commit, record, now| {
            let known = record.as_ref().map(StoredRecord::newest);
            let committed = commit.apply(record, now);
            let Committed::Applied { stamp, generation, .. } = committed else { return committed };
            let clock = Version::at(Wall::of(now)).max(commit.above().next());
            if let Some(record) = record.as_mut().filter(|_| known.is_some()) {
                record.newest = clock;
                let fresh = record.entries.iter_mut().filter(|entry| entry.version == stamp);
                fresh.for_each(|entry| entry.version = clock);
                return Committed::Applied { stamp: clock, newest: clock, generation };
            }
            committed
        }),
    ),
    (
        "stamp_is_above_known_versions",
        ONLY,
        commits(|commit, record, now| Commit { above: Version::ZERO, ..*commit }.apply(record, now)),
    ),
    (
        "stamp_is_above_carried_versions",
        ONLY,
        commits(|commit, record, now| {
            if let Some(record) = record {
                record.newest = record.newest.min(Version::last_at(Wall::of(now)));
            }
            commit.apply(record, now)
        }),
    ),
    (
        "stamp_follows_the_clock",
        ONLY,
        commits(|commit, record, now| {
            let ahead = Version::at(Wall::of(now + Duration::from_secs(60)));
            Commit { above: commit.above().max(ahead), ..*commit }.apply(record, now)
        }),
    ),
    (
        "fresh_changes_get_the_stamp",
        ONLY,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            let Committed::Applied { stamp, generation, newest } = committed else { return committed };
            let values = commit.changes().iter().filter(|change| change.version().is_none() && change.json().is_some());
            let Some(second) = values.skip(1).map(Change::name).next() else { return committed };
            let newest = newest.max(stamp.next());
            if let Some(record) = record {
                record.newest = newest;
                let entry = record.entries.iter_mut().find(|entry| entry.name == second);
                entry.into_iter().for_each(|entry| entry.version = stamp.next());
            }
            Committed::Applied { stamp, newest, generation }
        }),
    ),
    (
        "newest_counts_carried_versions",
        ONLY,
        commits(|commit, record, now| match commit.apply(record, now) {
            Committed::Applied { stamp, generation, .. } => Committed::Applied { stamp, newest: stamp, generation },
            other => other,
        }),
    ),
    (
        "newest_rises_with_each_commit",
        ONLY,
        commits(|commit, record, now| {
            let before = record.clone();
            let committed = commit.apply(record, now);
            let Committed::Applied { stamp, generation, .. } = committed else { return committed };
            match (before, record) {
                (Some(before), Some(record)) if !commit.changes().is_empty() && before.entries == record.entries => {
                    record.newest = before.newest;
                    Committed::Applied { stamp, newest: before.newest, generation }
                }
                _ => committed,
            }
        }),
    ),
    (
        "generation_is_the_first_stamp",
        ONLY,
        commits(|commit, record, now| match (commit.kind(), commit.apply(record, now)) {
            (CommitKind::Clear { .. }, Committed::Applied { stamp, newest, .. }) => {
                record.iter_mut().for_each(|record| record.generation = stamp);
                Committed::Applied { stamp, newest, generation: stamp }
            }
            (_, committed) => committed,
        }),
    ),
];
