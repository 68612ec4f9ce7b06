//! Stores that each break a rule of `ends`.

use super::{ONLY, Wrong, commits, with_kind};
use crate::{
    tier::{Commit, CommitKind, Committed, StoredLife, StoredRecord},
    version::Version,
};

pub(super) const STORES: &[Wrong] = &[
    (
        "end_answers_the_record",
        ONLY,
        commits(|commit, record, now| match commit.apply(record, now) {
            Committed::Retired(mut before) => {
                before.entries.retain(|entry| entry.json.is_some());
                Committed::Retired(before)
            }
            other => other,
        }),
    ),
    (
        "end_of_absent_record_is_noted",
        ONLY,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            if matches!(committed, Committed::Absent) {
                *record = None;
            }
            committed
        }),
    ),
    (
        "ended_record_stays_ended",
        ONLY,
        commits(|commit, record, now| {
            if commit.kind() == CommitKind::Upsert && record.as_ref().is_some_and(|record| record.end.is_some()) {
                *record = None;
            }
            commit.apply(record, now)
        }),
    ),
    (
        "end_keeps_reason_and_successor",
        ONLY,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::End { reason, .. } => {
                with_kind(commit, CommitKind::End { reason, successor: None }).apply(record, now)
            }
            _ => commit.apply(record, now),
        }),
    ),
    (
        "first_end_counts",
        ONLY,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            if let (CommitKind::End { .. }, Committed::Ended(_), Some(record)) = (commit.kind(), &committed, record) {
                record.end.iter_mut().for_each(|end| end.at = now);
            }
            committed
        }),
    ),
    (
        "revoke_raises_not_before",
        ONLY,
        commits(|commit, record, now| {
            let not_before = record.as_ref().map_or(Version::ZERO, StoredRecord::not_before);
            let committed = commit.apply(record, now);
            if not_before > Version::ZERO && commit.kind() == (CommitKind::Revoke { up_to: None }) {
                record.iter_mut().for_each(|record| record.not_before = not_before);
            }
            committed
        }),
    ),
    (
        "lost_revoke_is_repeated",
        ONLY,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Revoke { .. } => {
                Commit { kind: CommitKind::Revoke { up_to: None }, ..*commit }.apply(record, now)
            }
            _ => commit.apply(record, now),
        }),
    ),
    (
        "revoke_keeps_values",
        ONLY,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            if matches!(commit.kind(), CommitKind::Revoke { .. }) {
                record.iter_mut().for_each(|record| record.entries.retain(|entry| entry.json.is_none()));
            }
            committed
        }),
    ),
    (
        "not_before_stays",
        ONLY,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            if matches!(commit.kind(), CommitKind::Clear { .. }) {
                record.iter_mut().for_each(|record| record.not_before = Version::ZERO);
            }
            committed
        }),
    ),
    (
        "life_is_kept",
        ONLY,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Create => {
                let life = commit.life().map(|life| life.until_browser_closes(false));
                Commit { life, ..*commit }.apply(record, now)
            }
            _ => commit.apply(record, now),
        }),
    ),
    (
        "newer_life_replaces_older",
        ONLY,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            let version = |record: &StoredRecord| record.life().map(StoredLife::version);
            if let Some(record) = record
                && version(record) == commit.life().map(|life| life.version())
            {
                record.life = commit.life();
            }
            committed
        }),
    ),
    (
        "older_life_refuses_the_commit",
        Some(&["refused_commit_prolongs_no_span"]),
        commits(|commit, record, now| {
            let current = record.as_ref().and_then(StoredRecord::life).map(StoredLife::version);
            let is_current = |life: &StoredLife| current.is_none_or(|current| current <= life.version());
            Commit { life: commit.life().filter(is_current), ..*commit }.apply(record, now)
        }),
    ),
    (
        "life_stays",
        ONLY,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            if let (CommitKind::Clear { .. }, Committed::Applied { .. }) = (commit.kind(), &committed) {
                record.iter_mut().for_each(|record| record.life = None);
            }
            committed
        }),
    ),
];
