//! Stores that each break a rule of `expiry`.

use std::time::SystemTime;

use super::{Conduct, ONLY, RIGHT, Wrong, commits, spanning};
use crate::{
    tier::{CommitKind, Committed, Snapshot, StoredRecord},
    time::Wall,
    version::Version,
};

pub(super) const STORES: &[Wrong] =
    &[
        (
            "touch_makes_no_record",
            ONLY,
            Conduct {
                touch: |records, touches, now| {
                    for touch in touches {
                        let made = || StoredRecord::new(Version::at(Wall::of(now))).with_expires(now + touch.keep());
                        records.entry(touch.owner()).or_insert_with(made).touch(*touch, now);
                    }
                },
                ..RIGHT
            },
        ),
        (
            "touch_changes_no_record",
            ONLY,
            Conduct {
                touch: |records, touches, now| {
                    (RIGHT.touch)(records, touches, now);
                    for touch in touches {
                        records.entry(touch.owner()).and_modify(|record| record.newest = record.newest.next());
                    }
                },
                ..RIGHT
            },
        ),
        (
            "maintain_keeps_live_records",
            ONLY,
            Conduct { maintain: |records| records.retain(|_, record| record.end.is_none()), ..RIGHT },
        ),
        (
            "record_expires",
            None,
            Conduct { answer: |record, ask, _| (RIGHT.answer)(record, ask, SystemTime::UNIX_EPOCH), ..RIGHT },
        ),
        (
            "ended_record_expires",
            Some(&["touch_prolongs_no_end"]),
            Conduct {
                answer: |record, ask, now| match record.and_then(StoredRecord::end) {
                    Some(end) => Snapshot::Ended(*end),
                    None => (RIGHT.answer)(record, ask, now),
                },
                ..RIGHT
            },
        ),
        (
            "expired_record_begins_anew",
            ONLY,
            commits(|commit, record, now| {
                let before = record.clone();
                let committed = commit.apply(record, now);
                if let (CommitKind::Create, Committed::Applied { .. }, Some(before)) =
                    (commit.kind(), &committed, before)
                {
                    record.iter_mut().for_each(|record| record.entries.extend(before.entries.clone()));
                }
                committed
            }),
        ),
        (
            "commit_prolongs_the_span",
            ONLY,
            commits(|commit, record, now| {
                spanning(commit, record, now, |commit, before, after| {
                    if commit.kind() == CommitKind::Update && commit.life().is_none() { before } else { after }
                })
            }),
        ),
        (
            "commit_shortens_no_span",
            ONLY,
            commits(|commit, record, now| {
                spanning(commit, record, now, |commit, _, after| {
                    if matches!(commit.kind(), CommitKind::Revoke { .. }) { SystemTime::UNIX_EPOCH } else { after }
                })
            }),
        ),
        (
            "end_prolongs_the_span",
            ONLY,
            commits(|commit, record, now| {
                spanning(commit, record, now, |commit, before, after| {
                    if matches!(commit.kind(), CommitKind::End { .. }) { before } else { after }
                })
            }),
        ),
        (
            "end_shortens_no_span",
            ONLY,
            commits(|commit, record, now| {
                spanning(commit, record, now, |commit, _, after| {
                    if matches!(commit.kind(), CommitKind::End { .. }) { SystemTime::UNIX_EPOCH } else { after }
                })
            }),
        ),
        (
            "touch_prolongs_the_span",
            ONLY,
            Conduct {
                touch: |records, touches, now| (RIGHT.touch)(records, &touches[..touches.len().min(1)], now),
                ..RIGHT
            },
        ),
        (
            "touch_shortens_no_span",
            ONLY,
            Conduct {
                touch: |records, touches, now| {
                    for touch in touches {
                        let record = records
                            .get_mut(&touch.owner())
                            .filter(|record| record.end.is_none() && now < record.expires)
                            .filter(|record| !record.has_life_above(touch.lifetime_version()));
                        record.into_iter().for_each(|record| record.expires = now + touch.keep());
                    }
                },
                ..RIGHT
            },
        ),
        (
            "touch_prolongs_no_end",
            ONLY,
            Conduct {
                touch: |records, touches, now| {
                    for touch in touches {
                        let record = records
                            .get_mut(&touch.owner())
                            .filter(|record| now < record.expires)
                            .filter(|record| !record.has_life_above(touch.lifetime_version()));
                        record.into_iter().for_each(|record| record.expires = record.expires.max(now + touch.keep()));
                    }
                },
                ..RIGHT
            },
        ),
        (
            "touch_revives_no_record",
            ONLY,
            Conduct {
                touch: |records, touches, now| {
                    for touch in touches {
                        let record = records
                            .get_mut(&touch.owner())
                            .filter(|record| record.end.is_none())
                            .filter(|record| !record.has_life_above(touch.lifetime_version()));
                        record.into_iter().for_each(|record| record.expires = record.expires.max(now + touch.keep()));
                    }
                },
                ..RIGHT
            },
        ),
        (
            "refused_commit_prolongs_no_span",
            ONLY,
            commits(|commit, record, now| {
                let committed = commit.apply(record, now);
                if let (Committed::Outdated(_), Some(record)) = (&committed, record) {
                    record.expires = record.expires.max(now + commit.keep());
                }
                committed
            }),
        ),
        (
            "touch_needs_the_current_life",
            ONLY,
            Conduct {
                touch: |records, touches, now| {
                    for touch in touches {
                        let record = records.get_mut(&touch.owner());
                        record.into_iter().for_each(|record| record.touch(touch.by_lifetime(None), now));
                    }
                },
                ..RIGHT
            },
        ),
        (
            "new_life_sets_the_span",
            ONLY,
            commits(|commit, record, now| {
                spanning(
                    commit,
                    record,
                    now,
                    |commit, before, after| {
                        if commit.life().is_some() { before.max(after) } else { after }
                    },
                )
            }),
        ),
        (
            "equal_life_shortens_no_span",
            ONLY,
            commits(|commit, record, now| {
                spanning(
                    commit,
                    record,
                    now,
                    |commit, _, after| {
                        if commit.life().is_some() { SystemTime::UNIX_EPOCH } else { after }
                    },
                )
            }),
        ),
    ];
