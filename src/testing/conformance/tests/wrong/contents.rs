//! Stores that each break a rule of `contents`.

use super::{ONLY, Wrong, commits, edited};
use crate::{
    tier::{Change, Commit},
    value::Json,
};

pub(super) const STORES: &[Wrong] = &[
    (
        "json_keeps_its_bytes",
        ONLY,
        commits(|commit, record, now| {
            edited(commit, record, now, |entry| {
                entry.json = entry.json.as_deref().map(|json| Json::from(json.trim_ascii()))
            })
        }),
    ),
    (
        "long_json_is_kept",
        ONLY,
        commits(|commit, record, now| {
            let cut = |json: &[u8]| Json::from(&json[..json.len().min(0xffff)]);
            edited(commit, record, now, |entry| entry.json = entry.json.as_deref().map(cut))
        }),
    ),
    (
        "names_are_compared_by_bytes",
        ONLY,
        commits(|commit, record, now| {
            let lower: Vec<_> = commit.changes().iter().map(|change| change.name().to_lowercase()).collect();
            let changes: Vec<_> =
                commit.changes().iter().zip(&lower).map(|(change, name)| Change { name, ..*change }).collect();
            Commit { changes: &changes, ..*commit }.apply(record, now)
        }),
    ),
    (
        "many_values_fit_one_commit",
        ONLY,
        commits(|commit, record, now| {
            let changes = commit.changes();
            Commit { changes: &changes[..changes.len().min(64)], ..*commit }.apply(record, now)
        }),
    ),
];
