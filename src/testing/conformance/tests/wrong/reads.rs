//! Stores that each break a rule of `reads`.

use std::time::Duration;

use super::{Conduct, ONLY, RIGHT, Wrong, unchanged};
use crate::tier::{CommitKind, Known, Snapshot};

pub(super) const STORES: &[Wrong] = &[
    (
        "reads_answer_in_order",
        ONLY,
        Conduct {
            answers: |asks, snapshots| {
                let mut answers: Vec<_> = asks.iter().zip(snapshots).collect();
                answers.sort_by_key(|(ask, _)| ask.owner());
                answers.into_iter().map(|(_, snapshot)| snapshot).collect()
            },
            ..RIGHT
        },
    ),
    (
        "empty_read_has_no_answers",
        ONLY,
        Conduct {
            answers: |_, snapshots| if snapshots.is_empty() { vec![Snapshot::Absent] } else { snapshots },
            ..RIGHT
        },
    ),
    (
        "known_record_is_answered",
        ONLY,
        Conduct {
            answer: |record, ask, now| match (RIGHT.answer)(record, ask, now) {
                Snapshot::Unchanged { .. } => Snapshot::Absent,
                other => other,
            },
            ..RIGHT
        },
    ),
    (
        "unchanged_needs_a_known_version",
        ONLY,
        Conduct {
            answers: |_, snapshots| {
                let unchanged =
                    snapshots.iter().find(|snapshot| matches!(snapshot, Snapshot::Unchanged { .. })).cloned();
                snapshots.into_iter().map(|snapshot| unchanged.clone().unwrap_or(snapshot)).collect()
            },
            ..RIGHT
        },
    ),
    (
        "changed_value_is_not_unchanged",
        ONLY,
        Conduct {
            overlooks: |commit| {
                commit.changes().iter().any(|change| change.json().is_none()) && commit.kind() == CommitKind::Update
            },
            ..RIGHT
        },
    ),
    (
        "carried_change_is_not_unchanged",
        ONLY,
        Conduct { overlooks: |commit| commit.changes().iter().any(|change| change.version().is_some()), ..RIGHT },
    ),
    ("changed_life_is_not_unchanged", ONLY, Conduct { overlooks: |commit| commit.life().is_some(), ..RIGHT }),
    (
        "revoked_owner_is_not_unchanged",
        ONLY,
        Conduct { overlooks: |commit| matches!(commit.kind(), CommitKind::Revoke { .. }), ..RIGHT },
    ),
    (
        "ended_record_is_not_unchanged",
        ONLY,
        Conduct {
            answer: |record, ask, now| match record {
                Some(record) if ask.known() == Some(record.known()) && now < record.expires() => unchanged(record, now),
                _ => (RIGHT.answer)(record, ask, now),
            },
            ..RIGHT
        },
    ),
    (
        "absent_record_is_not_unchanged",
        ONLY,
        Conduct {
            answer: |record, ask, now| match record {
                None if ask.known().is_some() => Snapshot::Unchanged { left: Duration::ZERO },
                _ => (RIGHT.answer)(record, ask, now),
            },
            ..RIGHT
        },
    ),
    (
        "other_generation_is_not_unchanged",
        ONLY,
        Conduct {
            answer: |record, ask, now| match (RIGHT.answer)(record, ask, now) {
                Snapshot::Present(record) if ask.known().map(Known::newest) == Some(record.newest()) => {
                    unchanged(&record, now)
                }
                other => other,
            },
            ..RIGHT
        },
    ),
    (
        "other_newest_is_not_unchanged",
        ONLY,
        Conduct {
            answer: |record, ask, now| match (RIGHT.answer)(record, ask, now) {
                Snapshot::Present(record)
                    if ask.known().is_some_and(|known| {
                        known.generation() == record.generation() && known.newest() >= record.newest()
                    }) =>
                {
                    unchanged(&record, now)
                }
                other => other,
            },
            ..RIGHT
        },
    ),
    (
        "present_tells_the_expiry",
        ONLY,
        Conduct {
            answer: |record, ask, now| match (RIGHT.answer)(record, ask, now) {
                Snapshot::Present(record) => {
                    let left = record.left() + Duration::from_secs(3600);
                    Snapshot::Present(record.with_left(left))
                }
                other => other,
            },
            ..RIGHT
        },
    ),
    (
        "unchanged_tells_the_expiry",
        ONLY,
        Conduct {
            answer: |record, ask, now| match (RIGHT.answer)(record, ask, now) {
                Snapshot::Unchanged { .. } => Snapshot::Unchanged { left: Duration::from_secs(60) },
                other => other,
            },
            ..RIGHT
        },
    ),
];
