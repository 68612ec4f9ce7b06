//! Rules of the stamp, the newest version and the generation.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    rule::Rule,
    trial::{Draft, Outcome, Trial, ensure, entries, hour_after, same, version},
};
use crate::{tier::StoredLife, version::Version};

pub(super) const RULES: &[Rule] = &[
    Rule::new("stamps_increase", "Each commit of an owner has a greater stamp than the commits before.", |trial| {
        Box::pin(stamps_increase(trial))
    }),
    Rule::new("stamp_is_above_known_versions", "The stamp is greater than `Commit::above`.", |trial| {
        Box::pin(stamp_is_above_known_versions(trial))
    }),
    Rule::new("stamp_is_above_carried_versions", "The stamp is greater than each version in the record.", |trial| {
        Box::pin(stamp_is_above_carried_versions(trial))
    }),
    Rule::new(
        "stamp_follows_the_clock",
        "The stamp is the time of the store's clock, except for an owner whose versions are ahead.",
        |trial| Box::pin(stamp_follows_the_clock(trial)),
    ),
    Rule::new("fresh_changes_get_the_stamp", "Each fresh value and removal has the stamp as its version.", |trial| {
        Box::pin(fresh_changes_get_the_stamp(trial))
    }),
    Rule::new("newest_counts_carried_versions", "The newest version counts a carried version above the stamp.", |t| {
        Box::pin(newest_counts_carried_versions(t))
    }),
    Rule::new("newest_rises_with_each_commit", "Each applied commit raises the record's newest version.", |trial| {
        Box::pin(newest_rises_with_each_commit(trial))
    }),
    Rule::new("generation_is_the_first_stamp", "The generation is the stamp of the first commit, and stays.", |t| {
        Box::pin(generation_is_the_first_stamp(t))
    }),
];

/// Commits of each kind, except the kinds that begin or end a record.
fn drafts() -> [Draft; 6] {
    let life = StoredLife::new(UNIX_EPOCH + Duration::from_secs(4_000_000_000), Duration::from_secs(60), version(9));
    [
        Draft::update().set("theme", "1"),
        Draft::update(),
        Draft::upsert().remove("theme"),
        Draft::revoke(),
        Draft::update().life(life),
        Draft::clear(),
    ]
}

async fn stamps_increase(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let mut newest = owner.applied(Draft::create()).await?.stamp;
    for draft in [drafts(), drafts(), drafts()].into_iter().flatten() {
        let stamp = owner.applied(draft).await?.stamp;
        ensure(stamp > newest, format!("a stamp above {newest}"), stamp)?;
        newest = stamp;
    }
    Ok(())
}

async fn stamp_is_above_known_versions(trial: &Trial<'_>) -> Outcome {
    let clock = trial.owner().applied(Draft::create()).await?.stamp;
    for draft in [Draft::create(), Draft::upsert(), Draft::revoke()] {
        let owner = trial.owner();
        let mut above = hour_after(clock);
        let mut stamp = owner.applied(draft.above(above)).await?.stamp;
        for draft in drafts() {
            ensure(stamp > above, format!("a stamp above {above}"), stamp)?;
            above = hour_after(stamp);
            stamp = owner.applied(draft.above(above)).await?.stamp;
        }
        ensure(stamp > above, format!("a stamp above {above}"), stamp)?;
    }
    Ok(())
}

async fn stamp_is_above_carried_versions(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let first = owner.applied(Draft::create()).await?.stamp;
    let ahead = hour_after(first);
    owner.applied(Draft::update().carry("theme", Some("1"), ahead)).await?;
    let stamp = owner.applied(Draft::update().set("other", "1")).await?.stamp;
    ensure(stamp > ahead, format!("a stamp above the record's version {ahead}"), stamp)
}

async fn stamp_follows_the_clock(trial: &Trial<'_>) -> Outcome {
    const SLACK: u64 = 10_000;
    let millis = |version: Version| version.wall().0;
    let ahead = hour_after(trial.owner().applied(Draft::create()).await?.stamp);
    let lifted = trial.owner().applied(Draft::create().above(ahead)).await?.stamp;
    let near = millis(lifted) < millis(ahead) + SLACK;
    ensure(near, format!("a stamp at most {SLACK} ms after {ahead}, `Commit::above`"), lifted)?;
    let owner = trial.owner();
    let stamp = owner.applied(Draft::create()).await?.stamp;
    owner.retired(Draft::end()).await?;
    let now = crate::time::Wall::of(owner.ended().await?.at());
    let near = millis(stamp).abs_diff(now.0) < SLACK;
    ensure(near, format!("a stamp at most {SLACK} ms from the store's time of an end, {}", now.0), stamp)
}

async fn fresh_changes_get_the_stamp(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let draft = Draft::create().set("one", "1").set("two", "2").remove("three");
    let stamp = owner.applied(draft).await?.stamp;
    let versions: Vec<_> = entries(&owner.present().await?).into_values().map(|(_, version)| version).collect();
    same("the versions of a first commit", versions, vec![stamp; 3])?;
    let stamp = owner.applied(Draft::update().set("one", "3")).await?.stamp;
    same("the version of a changed value", owner.entry("one").await?.map(|(_, version)| version), Some(stamp))
}

async fn newest_counts_carried_versions(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let first = owner.applied(Draft::create()).await?.stamp;
    let ahead = hour_after(first);
    let applied = owner.applied(Draft::update().carry("theme", Some("1"), ahead)).await?;
    same("`Applied::newest` with a carried version above the stamp", applied.newest, ahead)?;
    same("the record's newest version", owner.present().await?.newest(), ahead)
}

async fn newest_rises_with_each_commit(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let mut before = owner.present().await?.newest();
    // The second carried change is older than the first, and so changes no value.
    let carried = [2, 1].map(|older| Draft::update().carry("carried", Some("1"), version(older)));
    for draft in drafts().into_iter().chain(carried) {
        let applied = owner.applied(draft).await?;
        let newest = owner.present().await?.newest();
        ensure(newest > before, format!("a newest version above {before}"), newest)?;
        same("the newest version in the answer and in the record", applied.newest, newest)?;
        before = newest;
    }
    Ok(())
}

async fn generation_is_the_first_stamp(trial: &Trial<'_>) -> Outcome {
    for draft in [Draft::create(), Draft::upsert(), Draft::revoke()] {
        let owner = trial.owner();
        let first = owner.applied(draft).await?;
        same("the generation of the first commit", first.generation, first.stamp)?;
        for draft in drafts() {
            same("the generation of a later commit", owner.applied(draft).await?.generation, first.stamp)?;
            same("the generation of the record", owner.present().await?.generation(), first.stamp)?;
        }
    }
    Ok(())
}
