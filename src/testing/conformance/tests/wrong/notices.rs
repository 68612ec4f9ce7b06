//! Stores that each break a rule of `notices`.

use super::{Conduct, ONLY, RIGHT, Wrong};
use crate::tier::{CommitKind, Known, NodeId, Notice};

pub(super) const STORES: &[Wrong] = &[
    ("notices_begin_with_up", ONLY, Conduct { first_notices: &[Notice::Down, Notice::Up], ..RIGHT }),
    (
        "each_commit_is_noticed",
        ONLY,
        Conduct {
            notice: |commit, notice| (!matches!(commit.kind(), CommitKind::End { .. })).then_some(notice),
            ..RIGHT
        },
    ),
    (
        "notice_names_the_record",
        ONLY,
        Conduct {
            notice: |_, notice| match notice {
                Notice::Changed { owner, known, node } => {
                    Some(Notice::Changed { owner, known: Known::new(known.newest(), known.newest()), node })
                }
                other => Some(other),
            },
            ..RIGHT
        },
    ),
    (
        "notice_names_the_node",
        ONLY,
        Conduct {
            notice: |_, notice| match notice {
                Notice::Changed { owner, known, .. } => {
                    Some(Notice::Changed { owner, known, node: NodeId::from_u64(0) })
                }
                other => Some(other),
            },
            ..RIGHT
        },
    ),
];
