//! Stores that each break a rule of `races`.

use super::{Conduct, ONLY, RIGHT, Wrong};
use crate::tier::CommitKind;

pub(super) const STORES: &[Wrong] = &[
    (
        "updates_are_not_lost",
        ONLY,
        Conduct { tears: |commit| commit.changes().iter().any(|change| change.replaces().is_some()), ..RIGHT },
    ),
    ("one_create_wins", ONLY, Conduct { tears: |commit| commit.kind() == CommitKind::Create, ..RIGHT }),
    (
        "concurrent_stamps_differ",
        ONLY,
        Conduct {
            tears: |commit| {
                commit.kind() == CommitKind::Upsert && commit.changes().iter().all(|change| change.replaces().is_none())
            },
            ..RIGHT
        },
    ),
    ("end_answers_each_applied_write", ONLY, Conduct { tears: |commit| commit.kind() == CommitKind::Update, ..RIGHT }),
    ("unpolled_commit_changes_nothing", ONLY, Conduct { eager: true, ..RIGHT }),
    (
        "dropped_commit_is_whole_or_nothing",
        ONLY,
        Conduct {
            steps: |commit| {
                commit.changes().len() > 1
                    && commit.kind() == CommitKind::Update
                    && commit.changes().iter().all(|change| change.replaces().is_none() && change.version().is_none())
            },
            ..RIGHT
        },
    ),
];
