//! Stores that each break a rule of `changes`.

use std::time::Duration;

use super::{ONLY, Wrong, commits, comparing, forced, names, with_kind, without};
use crate::{
    tier::{Change, Commit, CommitKind, Committed, StoredEntry, StoredRecord},
    time::Wall,
    version::Version,
};

pub(super) const STORES: &[Wrong] = &[
    (
        "newer_carried_change_applies",
        ONLY,
        commits(|commit, record, now| {
            without(commit, record, now, |change, current| {
                change.version().is_some() && change.json().is_some() && current.json.is_none()
            })
        }),
    ),
    (
        "older_carried_change_is_ignored",
        ONLY,
        commits(|commit, record, now| {
            forced(commit, record, now, |change, current| {
                change.version() < Some(current.version) && current.json.is_some()
            })
        }),
    ),
    (
        "tied_removal_wins",
        ONLY,
        commits(|commit, record, now| {
            without(commit, record, now, |change, current| {
                change.version() == Some(current.version) && change.json().is_none()
            })
        }),
    ),
    (
        "tied_greater_bytes_win",
        ONLY,
        commits(|commit, record, now| {
            without(commit, record, now, |change, current| {
                change.version() == Some(current.version) && change.json().is_some() && current.json.is_some()
            })
        }),
    ),
    (
        "replaces_compares_exactly",
        ONLY,
        commits(|commit, record, now| {
            comparing(commit, record, now, |replaces, current| match current {
                Some(current) if replaces > current.version => None,
                _ => Some(replaces),
            })
        }),
    ),
    (
        "replaces_current_version",
        None,
        commits(|commit, record, now| {
            comparing(commit, record, now, |replaces, current| match current {
                // The store rounds to milliseconds.
                Some(current) if current.json.is_some() => Some(Version::at(replaces.wall())),
                _ => Some(replaces),
            })
        }),
    ),
    (
        "replaces_zero_needs_no_entry",
        ONLY,
        commits(|commit, record, now| {
            let compares = commit.changes().iter().any(|change| change.replaces().is_some());
            match (commit.kind(), &record) {
                (CommitKind::Upsert, None) if compares => Committed::Outdated(StoredRecord::new(Version::ZERO)),
                _ => commit.apply(record, now),
            }
        }),
    ),
    (
        "tombstone_is_compared",
        ONLY,
        commits(|commit, record, now| {
            comparing(commit, record, now, |replaces, current| match current {
                Some(current) if current.json.is_none() && replaces == Version::ZERO => None,
                _ => Some(replaces),
            })
        }),
    ),
    (
        "refused_change_refuses_all",
        ONLY,
        commits(|commit, record, now| match commit.apply(record, now) {
            Committed::Outdated(current) if commit.kind() == CommitKind::Update => {
                let changes = commit.changes().iter().filter(|change| change.replaces().is_none());
                let changes: Vec<_> = changes.copied().collect();
                if !changes.is_empty() {
                    Commit { changes: &changes, ..*commit }.apply(record, now);
                }
                Committed::Outdated(current)
            }
            other => other,
        }),
    ),
    (
        "outdated_answers_the_record",
        ONLY,
        commits(|commit, record, now| match commit.apply(record, now) {
            Committed::Outdated(mut current) => {
                current.retain(|name| names(commit, name));
                Committed::Outdated(current)
            }
            other => other,
        }),
    ),
    (
        "missing_record_is_outdated",
        ONLY,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Create => comparing(commit, record, now, |_, _| None),
            _ => commit.apply(record, now),
        }),
    ),
    (
        "removal_leaves_a_tombstone",
        ONLY,
        commits(|commit, record, now| {
            let missing = |change: &&Change<'_>| {
                let known = record.as_ref().is_some_and(|record| record.entry(change.name()).is_some());
                known || change.json().is_some() || commit.kind() != CommitKind::Update
            };
            let changes: Vec<_> = commit.changes().iter().filter(missing).copied().collect();
            Commit { changes: &changes, ..*commit }.apply(record, now)
        }),
    ),
    (
        "tombstone_stays",
        ONLY,
        commits(|commit, record, now| {
            if let (CommitKind::Upsert, Some(record)) = (commit.kind(), &mut *record) {
                // The store drops tombstones after a day.
                let yesterday = Version::at(Wall::of(now - Duration::from_secs(86_400)));
                record.entries.retain(|entry| entry.json.is_some() || entry.version > yesterday);
            }
            commit.apply(record, now)
        }),
    ),
    (
        "clear_removes_each_value",
        ONLY,
        commits(|commit, record, now| {
            let stays = |entry: &&StoredEntry| entry.name == "of_another_build";
            let stays = record.as_ref().and_then(|record| record.entries.iter().find(stays).cloned());
            let committed = commit.apply(record, now);
            if let (CommitKind::Clear { .. }, Some(record), Some(stays)) = (commit.kind(), record, stays) {
                record.entries.retain(|entry| entry.name != stays.name);
                record.entries.push(stays);
            }
            committed
        }),
    ),
    (
        "clear_keeps_the_excepted_value",
        ONLY,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Clear { .. } => with_kind(commit, CommitKind::Clear { except: None }).apply(record, now),
            _ => commit.apply(record, now),
        }),
    ),
    (
        "clear_notes_absent_names",
        ONLY,
        commits(|commit, record, now| {
            let known = record.clone();
            let committed = commit.apply(record, now);
            if let (CommitKind::Clear { .. }, Some(known), Some(record)) = (commit.kind(), known, record) {
                record.retain(|name| known.entry(name).is_some());
            }
            committed
        }),
    ),
    (
        "clear_compares_replaced_versions",
        ONLY,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Clear { .. } => comparing(commit, record, now, |_, _| None),
            _ => commit.apply(record, now),
        }),
    ),
];
