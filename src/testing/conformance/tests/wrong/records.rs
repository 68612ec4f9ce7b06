//! Stores that each break a rule of `records`.

use super::{Conduct, ONLY, RIGHT, Wrong, commits, names, with_kind};
use crate::{
    tier::{Commit, CommitKind, Committed, Snapshot, StoredRecord},
    version::Version,
};

pub(super) const STORES: &[Wrong] = &[
    (
        "unknown_owner_is_absent",
        None,
        Conduct {
            answer: |record, ask, now| match record {
                None => Snapshot::Present(StoredRecord::new(Version::ZERO)),
                Some(record) => record.answer(ask, now),
            },
            ..RIGHT
        },
    ),
    (
        "create_makes_the_record",
        None,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Create => Commit { changes: &[], ..*commit }.apply(record, now),
            _ => commit.apply(record, now),
        }),
    ),
    (
        "create_keeps_existing_record",
        Some(&["one_create_wins"]),
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Create if record.is_some() => with_kind(commit, CommitKind::Upsert).apply(record, now),
            _ => commit.apply(record, now),
        }),
    ),
    (
        "update_needs_a_record",
        Some(&["touch_makes_no_record", "record_expires", "touch_revives_no_record"]),
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Update => with_kind(commit, CommitKind::Upsert).apply(record, now),
            _ => commit.apply(record, now),
        }),
    ),
    (
        "clear_needs_a_record",
        ONLY,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Clear { .. } if record.is_none() => with_kind(commit, CommitKind::Upsert).apply(record, now),
            _ => commit.apply(record, now),
        }),
    ),
    (
        "upsert_makes_the_record",
        None,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Upsert => with_kind(commit, CommitKind::Update).apply(record, now),
            _ => commit.apply(record, now),
        }),
    ),
    (
        "revoke_makes_the_record",
        None,
        commits(|commit, record, now| match commit.kind() {
            CommitKind::Revoke { .. } if record.is_none() => Committed::Absent,
            _ => commit.apply(record, now),
        }),
    ),
    (
        "update_keeps_other_values",
        None,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            if let (CommitKind::Update, Committed::Applied { .. }, Some(record)) = (commit.kind(), &committed, record) {
                record.retain(|name| names(commit, name));
            }
            committed
        }),
    ),
    (
        "upsert_keeps_other_values",
        None,
        commits(|commit, record, now| {
            let committed = commit.apply(record, now);
            if let (CommitKind::Upsert, Committed::Applied { .. }, Some(record)) = (commit.kind(), &committed, record) {
                record.retain(|name| names(commit, name));
            }
            committed
        }),
    ),
    (
        "one_bit_tells_owners_apart",
        ONLY,
        Conduct {
            key: |owner| {
                let mut hash = *owner.as_bytes();
                hash[31] = 0;
                crate::id::OwnerId::from_hash(hash)
            },
            ..RIGHT
        },
    ),
];
