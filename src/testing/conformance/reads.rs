//! Rules of reads: the order of the answers, and the answer `Unchanged`.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    rule::Rule,
    trial::{Draft, Fault, KEEP, Outcome, Owner, Trial, ensure, entries, hour_after, same, version},
};
use crate::{
    tier::{Ask, Known, Snapshot, StoredLife, Touch},
    version::Version,
};

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "reads_answer_in_order",
        "A read answers each ask in order, also repeated and unknown owners.",
        |trial| Box::pin(reads_answer_in_order(trial)),
    ),
    Rule::new("empty_read_has_no_answers", "A read without asks has no answers.", |trial| {
        Box::pin(empty_read_has_no_answers(trial))
    }),
    Rule::new(
        "known_record_is_answered",
        "A known record is `Unchanged`, or `Present` with the same values.",
        |trial| Box::pin(known_record_is_answered(trial)),
    ),
    Rule::new("unchanged_needs_a_known_version", "Only an ask with `known` is answered `Unchanged`.", |trial| {
        Box::pin(unchanged_needs_a_known_version(trial))
    }),
    Rule::new("changed_value_is_not_unchanged", "A record is not `Unchanged` after a change of a value.", |trial| {
        Box::pin(changed_value_is_not_unchanged(trial))
    }),
    Rule::new("carried_change_is_not_unchanged", "A record is not `Unchanged` after a carried change.", |trial| {
        Box::pin(carried_change_is_not_unchanged(trial))
    }),
    Rule::new(
        "changed_life_is_not_unchanged",
        "A record is not `Unchanged` after a change of its lifetime.",
        |trial| Box::pin(changed_life_is_not_unchanged(trial)),
    ),
    Rule::new("revoked_owner_is_not_unchanged", "A record is not `Unchanged` after a commit of kind `Revoke`.", |t| {
        Box::pin(revoked_owner_is_not_unchanged(t))
    }),
    Rule::new("ended_record_is_not_unchanged", "An ended record is `Ended` for each ask with `known`.", |trial| {
        Box::pin(ended_record_is_not_unchanged(trial))
    }),
    Rule::new("absent_record_is_not_unchanged", "A missing record is `Absent` for each ask with `known`.", |trial| {
        Box::pin(absent_record_is_not_unchanged(trial))
    }),
    Rule::new(
        "other_generation_is_not_unchanged",
        "A record of another generation than known is not `Unchanged`.",
        |t| Box::pin(other_generation_is_not_unchanged(t)),
    ),
    Rule::new(
        "other_newest_is_not_unchanged",
        "A record with another newest version than known is not `Unchanged`.",
        |t| Box::pin(other_newest_is_not_unchanged(t)),
    ),
    Rule::new(
        "present_tells_the_expiry",
        "`Present` has the time of the record's expiry, by the store's clock.",
        |trial| Box::pin(present_tells_the_expiry(trial)),
    ),
    Rule::new(
        "unchanged_tells_the_expiry",
        "`Unchanged` has the time of the record's expiry, also after a touch.",
        |t| Box::pin(unchanged_tells_the_expiry(t)),
    ),
];

/// Describes a snapshot by its kind and by the values of the record.
fn describe(snapshot: &Snapshot) -> String {
    match snapshot {
        Snapshot::Present(record) => format!("Present {:?}", entries(record)),
        Snapshot::Unchanged { .. } => "Unchanged".into(),
        Snapshot::Absent => "Absent".into(),
        Snapshot::Ended(end) => format!("Ended {:?}", end.reason()),
    }
}

async fn reads_answer_in_order(trial: &Trial<'_>) -> Outcome {
    let (one, two, ended, absent) = (trial.owner(), trial.owner(), trial.owner(), trial.owner());
    one.applied(Draft::create().set("theme", "1").remove("removed")).await?;
    two.applied(Draft::create().set("theme", "2")).await?;
    ended.applied(Draft::create()).await?;
    ended.retired(Draft::end()).await?;
    let order = [two, absent, one, ended, one, two, absent, ended];
    let mut expected = Vec::new();
    for owner in order {
        expected.push(describe(&owner.read().await?));
    }
    let asks = order.map(|owner| owner.ask());
    let snapshots = trial.read(&asks).await?;
    same("the answers to asks of several owners", snapshots.iter().map(describe).collect(), expected)
}

async fn empty_read_has_no_answers(trial: &Trial<'_>) -> Outcome {
    same("the answers to a read without asks", trial.read(&[]).await?.len(), 0)
}

async fn known_record_is_answered(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    let record = owner.present().await?;
    match owner.read_unless(record.known()).await? {
        Snapshot::Unchanged { .. } => Ok(()),
        Snapshot::Present(again) => same("the values of a known record", entries(&again), entries(&record)),
        other => Err(Fault::new("`Unchanged` or `Present` for a known record", other)),
    }
}

async fn unchanged_needs_a_known_version(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let known = owner.present().await?.known();
    let asks = [owner.ask().unless(known), owner.ask()];
    for asks in [&asks[..], &asks[1..]] {
        let last = trial.read(asks).await?.pop();
        ensure(matches!(last, Some(Snapshot::Present(_))), "`Present` for an ask without `known`", last)?;
    }
    Ok(())
}

/// Makes a commit, and asks for the record as it was before.
async fn present_after(owner: &Owner<'_>, draft: Draft) -> Outcome {
    let (kind, before) = (draft.kind(), owner.present().await?);
    owner.applied(draft).await?;
    match owner.read_unless(before.known()).await? {
        Snapshot::Present(_) => Ok(()),
        other => Err(Fault::new(format!("`Present` after a commit of kind `{kind:?}`"), other)),
    }
}

async fn changed_value_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    let drafts =
        [Draft::update().set("theme", "2"), Draft::upsert().set("theme", "3"), Draft::update().remove("theme")];
    for draft in drafts.into_iter().chain([Draft::update().set("other", "1"), Draft::clear()]) {
        present_after(&owner, draft).await?;
    }
    Ok(())
}

async fn carried_change_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let first = owner.applied(Draft::create().carry("theme", Some("1"), version(1))).await?.stamp;
    // Older than the record's newest version, and newer than the value.
    present_after(&owner, Draft::update().carry("theme", Some("2"), version(2))).await?;
    present_after(&owner, Draft::update().carry("theme", Some("3"), hour_after(first))).await?;
    // Below the newest version, which is ahead.
    present_after(&owner, Draft::update().carry("other", Some("1"), version(3))).await
}

async fn changed_life_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    let life = |at| StoredLife::new(UNIX_EPOCH + Duration::from_secs(4_000_000_000), Duration::from_secs(60), at);
    let owner = trial.owner();
    owner.applied(Draft::create().life(life(Version::ZERO))).await?;
    present_after(&owner, Draft::update().life(life(version(1)))).await
}

async fn revoked_owner_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert()).await?;
    present_after(&owner, Draft::revoke()).await
}

async fn ended_record_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let known = owner.present().await?.known();
    owner.retired(Draft::end()).await?;
    let later = Known::new(known.generation(), known.newest().next());
    for known in [known, later, Known::new(Version::ZERO, Version::ZERO)] {
        let snapshot = owner.read_unless(known).await?;
        ensure(matches!(snapshot, Snapshot::Ended(_)), "`Ended` for an ended record", snapshot)?;
    }
    Ok(())
}

async fn absent_record_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    for known in [Known::new(version(1), version(2)), Known::new(Version::ZERO, Version::ZERO)] {
        let snapshot = trial.owner().read_unless(known).await?;
        ensure(matches!(snapshot, Snapshot::Absent), "`Absent` for a missing record", snapshot)?;
    }
    Ok(())
}

async fn is_present_unless(owner: &Owner<'_>, known: Known) -> Outcome {
    let ask: Ask = owner.ask().unless(known);
    let snapshot = owner.trial.read(&[ask]).await?.pop();
    ensure(matches!(snapshot, Some(Snapshot::Present(_))), format!("`Present` for an ask unless {known:?}"), snapshot)
}

async fn other_generation_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    let known = owner.present().await?.known();
    let before = Version::from_u64(known.generation().as_u64() - 1);
    for generation in [before, known.generation().next(), Version::ZERO] {
        is_present_unless(&owner, Known::new(generation, known.newest())).await?;
    }
    Ok(())
}

async fn other_newest_is_not_unchanged(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    let known = owner.present().await?.known();
    // A node may know more than a store that has gone back.
    for newest in [Version::from_u64(known.newest().as_u64() - 1), known.newest().next(), hour_after(known.newest())] {
        is_present_unless(&owner, Known::new(known.generation(), newest)).await?;
    }
    Ok(())
}

/// Fails unless `left` may be left of a span that began just now. A store may round the expiry up by a tenth of the span.
fn is_left(left: Duration, span: Duration) -> Outcome {
    const SLACK: Duration = Duration::from_secs(5);
    let holds = span < left + SLACK && left < span + span / 10 + SLACK;
    ensure(holds, format!("{} s until the expiry", span.as_secs()), left)
}

async fn present_tells_the_expiry(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    is_left(owner.present().await?.left(), KEEP)?;
    trial.touch(&[Touch::new(owner.id, 3 * KEEP)]).await?;
    is_left(owner.present().await?.left(), 3 * KEEP)
}

async fn unchanged_tells_the_expiry(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let known = owner.present().await?.known();
    for span in [KEEP, 3 * KEEP] {
        trial.touch(&[Touch::new(owner.id, span)]).await?;
        // A store may answer each ask with `Present`.
        if let Snapshot::Unchanged { left } = owner.read_unless(known).await? {
            is_left(left, span)?;
        }
    }
    Ok(())
}
