//! Rules of the end of a session, of the end of all sessions of a principal, and of lifetimes.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    rule::Rule,
    trial::{Content, Draft, Fault, Outcome, Trial, contents, ensure, entries, same, version},
};
use crate::{
    error::CloseReason,
    tier::{CommitKind, Committed, StoredEnd, StoredLife},
    version::Version,
};

pub(super) const RULES: &[Rule] = &[
    Rule::new("end_answers_the_record", "`End` answers `Retired` with the whole record as it was.", |trial| {
        Box::pin(end_answers_the_record(trial))
    }),
    Rule::new("end_of_absent_record_is_noted", "`End` of a missing record answers `Absent`, and the end stays.", |t| {
        Box::pin(end_of_absent_record_is_noted(t))
    }),
    Rule::new("ended_record_stays_ended", "An ended record refuses each kind of commit with `Ended`.", |trial| {
        Box::pin(ended_record_stays_ended(trial))
    }),
    Rule::new("end_keeps_reason_and_successor", "The end keeps its reason and its successor.", |trial| {
        Box::pin(end_keeps_reason_and_successor(trial))
    }),
    Rule::new("first_end_counts", "A second `End` changes neither the reason, the successor nor the time.", |trial| {
        Box::pin(first_end_counts(trial))
    }),
    Rule::new("revoke_raises_not_before", "`Revoke` raises the not-before to its stamp.", |trial| {
        Box::pin(revoke_raises_not_before(trial))
    }),
    Rule::new(
        "lost_revoke_is_repeated",
        "`Revoke` with `up_to` raises the not-before to that version, and leaves a greater not-before.",
        |trial| Box::pin(lost_revoke_is_repeated(trial)),
    ),
    Rule::new("revoke_keeps_values", "`Revoke` changes no value.", |trial| Box::pin(revoke_keeps_values(trial))),
    Rule::new("not_before_stays", "The not-before stays through commits of each kind, `Clear` too.", |trial| {
        Box::pin(not_before_stays(trial))
    }),
    Rule::new("life_is_kept", "The lifetime of a new record comes back whole, or is `None`.", |trial| {
        Box::pin(life_is_kept(trial))
    }),
    Rule::new(
        "newer_life_replaces_older",
        "A lifetime replaces a lifetime with an older version, and no other.",
        |t| Box::pin(newer_life_replaces_older(t)),
    ),
    Rule::new(
        "older_life_refuses_the_commit",
        "A commit with an older lifetime than the record's changes nothing and is `Outdated`.",
        |t| Box::pin(older_life_refuses_the_commit(t)),
    ),
    Rule::new(
        "life_stays",
        "A commit without a lifetime keeps the lifetime, and a lifetime changes no value.",
        |trial| Box::pin(life_stays(trial)),
    ),
];

/// Returns a lifetime of whole seconds and milliseconds, which each store can keep.
fn life(days: u64, version: Version) -> StoredLife {
    let deadline = UNIX_EPOCH + Duration::from_millis(4_000_000_000_123) + Duration::from_secs(days * 86_400);
    StoredLife::new(deadline, Duration::from_secs(days * 3600 + 1), version)
}

const fn end_with(reason: CloseReason) -> Draft {
    Draft::of(CommitKind::End { reason, successor: None })
}

async fn end_answers_the_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let values = Draft::create().set("theme", "1").set("of_another_build", "[2]").remove("removed");
    owner.applied(values.life(life(1, version(1)))).await?;
    owner.applied(Draft::revoke()).await?;
    let before = owner.present().await?;
    let retired = owner.retired(Draft::end()).await?;
    same("the values in `Retired`", entries(&retired), entries(&before))?;
    same("the versions in `Retired`", retired.known(), before.known())?;
    same("the not-before in `Retired`", retired.not_before(), before.not_before())?;
    same("the lifetime in `Retired`", retired.life(), before.life())
}

async fn end_of_absent_record_is_noted(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.absent(end_with(CloseReason::Revoked)).await?;
    same("the reason of an end without record", owner.ended().await?.reason(), CloseReason::Revoked)
}

async fn ended_record_stays_ended(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    owner.retired(Draft::end()).await?;
    let outdated = Draft::upsert().set("theme", "2").replacing(version(4));
    let kinds = [Draft::create(), Draft::update(), Draft::upsert(), Draft::clear(), Draft::revoke(), Draft::end()];
    for draft in kinds.map(|draft| draft.life(life(2, version(9)))).into_iter().chain([outdated]) {
        let kind = draft.kind();
        match owner.commit(draft).await? {
            Committed::Ended(_) => {}
            other => return Err(Fault::new(format!("`Ended` for a commit of kind `{kind:?}`"), other)),
        }
        owner.ended().await?;
    }
    Ok(())
}

/// The fields of an end that its commit gives.
const fn given(end: StoredEnd) -> (CloseReason, Option<crate::id::OwnerId>) {
    (end.reason(), end.successor())
}

async fn end_keeps_reason_and_successor(trial: &Trial<'_>) -> Outcome {
    let successor = trial.owner().id;
    for (reason, successor) in [
        (CloseReason::Destroyed, None),
        (CloseReason::Renewed, Some(successor)),
        (CloseReason::Renewed, None),
        (CloseReason::Revoked, None),
    ] {
        let owner = trial.owner();
        owner.applied(Draft::create()).await?;
        owner.retired(Draft::of(CommitKind::End { reason, successor })).await?;
        same("the reason and the successor of an end", given(owner.ended().await?), (reason, successor))?;
        if let Committed::Ended(end) = owner.commit(Draft::update()).await? {
            same("the reason and the successor in `Ended`", given(end), (reason, successor))?;
        }
    }
    Ok(())
}

async fn first_end_counts(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let successor = Some(trial.owner().id);
    owner.retired(Draft::of(CommitKind::End { reason: CloseReason::Renewed, successor })).await?;
    let first = owner.ended().await?;
    trial.let_clock_run().await;
    let second = Draft::of(CommitKind::End { reason: CloseReason::Revoked, successor: None });
    owner.commit(second).await?;
    same("the end after a second `End`", owner.ended().await?, first)
}

async fn revoke_raises_not_before(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert()).await?;
    same("the not-before of a record without `Revoke`", owner.present().await?.not_before(), Version::ZERO)?;
    for _ in 0..2 {
        let stamp = owner.applied(Draft::revoke()).await?.stamp;
        same("the not-before after `Revoke`", owner.present().await?.not_before(), stamp)?;
    }
    Ok(())
}

async fn lost_revoke_is_repeated(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let earlier = owner.applied(Draft::upsert().set("theme", "1")).await?.stamp;
    for (up_to, expected) in [(earlier, earlier), (earlier.next(), earlier.next()), (earlier, earlier.next())] {
        owner.applied(Draft::of(CommitKind::Revoke { up_to: Some(up_to) })).await?;
        same("the not-before after `Revoke` with `up_to`", owner.present().await?.not_before(), expected)?;
    }
    Ok(())
}

async fn revoke_keeps_values(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert().set("theme", "1").remove("removed")).await?;
    let before = entries(&owner.present().await?);
    owner.applied(Draft::revoke()).await?;
    same("the values after `Revoke`", entries(&owner.present().await?), before)
}

async fn not_before_stays(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let stamp = owner.applied(Draft::revoke()).await?.stamp;
    for draft in [Draft::upsert().set("theme", "1"), Draft::update().remove("theme"), Draft::clear()] {
        let kind = draft.kind();
        owner.applied(draft).await?;
        let subject = format!("the not-before after a commit of kind `{kind:?}`");
        same(&subject, owner.present().await?.not_before(), stamp)?;
    }
    Ok(())
}

async fn life_is_kept(trial: &Trial<'_>) -> Outcome {
    for kept in [life(30, Version::ZERO), life(1, version(7)), life(2, version(8)).until_browser_closes(true)] {
        let owner = trial.owner();
        owner.applied(Draft::create().life(kept)).await?;
        same("the lifetime of a new record", owner.present().await?.life().copied(), Some(kept))?;
    }
    let owner = trial.owner();
    owner.applied(Draft::upsert()).await?;
    same("the lifetime of a record without lifetime", owner.present().await?.life().copied(), None)
}

async fn newer_life_replaces_older(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let mut current = life(30, Version::ZERO);
    owner.applied(Draft::create().life(current)).await?;
    let newer = life(1, version(7)).until_browser_closes(true);
    for told in [life(9, Version::ZERO), newer, life(60, version(7)), life(2, version(8))] {
        owner.applied(Draft::update().life(told)).await?;
        if told.version() > current.version() {
            current = told;
        }
        let subject = format!("the lifetime after a lifetime of version {}", told.version());
        same(&subject, owner.present().await?.life().copied(), Some(current))?;
    }
    Ok(())
}

async fn older_life_refuses_the_commit(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1").life(life(30, version(7)))).await?;
    let before = owner.present().await?;
    for older in [Version::ZERO, version(6)] {
        for draft in [Draft::update().set("theme", "2"), Draft::upsert().remove("theme"), Draft::clear()] {
            let case = format!("for a commit of kind `{:?}` with an older lifetime", draft.kind());
            let answered = owner.outdated(draft.life(life(60, older)), &case).await?;
            same("the lifetime in `Outdated`", answered.life(), before.life())?;
            let record = owner.present().await?;
            same("the values after a refused commit", entries(&record), entries(&before))?;
            same("the versions after a refused commit", record.known(), before.known())?;
            same("the lifetime after a refused commit", record.life(), before.life())?;
        }
    }
    Ok(())
}

async fn life_stays(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let kept = life(3, version(7));
    owner.applied(Draft::create().set("theme", "1").life(life(30, Version::ZERO))).await?;
    owner.applied(Draft::update().life(kept)).await?;
    same(
        "the values after a lifetime",
        contents(&owner.present().await?),
        [("theme".into(), Content::of("1"))].into(),
    )?;
    for draft in [Draft::update().set("theme", "2"), Draft::upsert(), Draft::clear()] {
        let kind = draft.kind();
        owner.applied(draft).await?;
        let now = owner.present().await?.life().copied();
        ensure(now == Some(kept), format!("{kept:?} after a commit of kind `{kind:?}`"), now)?;
    }
    Ok(())
}
