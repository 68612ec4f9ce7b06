//! Rules of the span for which a store keeps records: `Commit::keep`, `touch`, expiry and `maintain`.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    rule::Rule,
    trial::{Draft, Fault, KEEP, Outcome, Owner, Trial, contents, ensure, same, version},
    wait::Job,
};
use crate::{
    error::CloseReason,
    tier::{Committed, Snapshot, StoredLife, Touch},
    version::Version,
};

pub(super) const RULES: &[Rule] = &[
    Rule::new("touch_makes_no_record", "A touch makes no record of a missing owner.", |trial| {
        Box::pin(touch_makes_no_record(trial))
    }),
    Rule::new("touch_changes_no_record", "A touch changes no value, no version and no end.", |trial| {
        Box::pin(touch_changes_no_record(trial))
    }),
    Rule::new("maintain_keeps_live_records", "`maintain` comes to an end, and drops no live record.", |trial| {
        Box::pin(maintain_keeps_live_records(trial))
    }),
    Rule::new("record_expires", "A record is absent soon after the span of its commits.", |trial| {
        Box::pin(record_expires(trial))
    })
    .over_time(),
    Rule::new("ended_record_expires", "An end is forgotten soon after the span of its commits.", |trial| {
        Box::pin(ended_record_expires(trial))
    })
    .over_time(),
    Rule::new(
        "expired_record_begins_anew",
        "An expired record is created with a new generation and no old value.",
        |t| Box::pin(expired_record_begins_anew(t)),
    )
    .over_time(),
    Rule::new("commit_prolongs_the_span", "A commit with a later end of its span prolongs the record.", |trial| {
        Box::pin(commit_prolongs_the_span(trial))
    })
    .over_time(),
    Rule::new("commit_shortens_no_span", "A commit with a shorter span leaves the longer span.", |trial| {
        Box::pin(commit_shortens_no_span(trial))
    })
    .over_time(),
    Rule::new("end_prolongs_the_span", "An end stays for the span of its own commit.", |trial| {
        Box::pin(end_prolongs_the_span(trial))
    })
    .over_time(),
    Rule::new("end_shortens_no_span", "An end with a shorter span stays as long as the record would have.", |trial| {
        Box::pin(end_shortens_no_span(trial))
    })
    .over_time(),
    Rule::new("touch_prolongs_the_span", "A touch prolongs each live record that the touch names.", |trial| {
        Box::pin(touch_prolongs_the_span(trial))
    })
    .over_time(),
    Rule::new("touch_shortens_no_span", "A touch with a shorter span leaves the longer span.", |trial| {
        Box::pin(touch_shortens_no_span(trial))
    })
    .over_time(),
    Rule::new("touch_prolongs_no_end", "A touch does not prolong an end.", |trial| {
        Box::pin(touch_prolongs_no_end(trial))
    })
    .over_time(),
    Rule::new("touch_revives_no_record", "A touch does not bring an expired record back.", |trial| {
        Box::pin(touch_revives_no_record(trial))
    })
    .over_time(),
    Rule::new(
        "refused_commit_prolongs_no_span",
        "A commit that is refused for its older lifetime does not prolong the record.",
        |t| Box::pin(refused_commit_prolongs_no_span(t)),
    )
    .over_time(),
    Rule::new(
        "touch_needs_the_current_life",
        "A touch by an older lifetime than the record's does not prolong the record.",
        |t| Box::pin(touch_needs_the_current_life(t)),
    )
    .over_time(),
    Rule::new(
        "new_life_sets_the_span",
        "A commit that replaces the lifetime sets the span, also to a shorter span.",
        |t| Box::pin(new_life_sets_the_span(t)),
    )
    .over_time(),
    Rule::new(
        "equal_life_shortens_no_span",
        "A commit with the lifetime that the record has leaves the longer span.",
        |t| Box::pin(equal_life_shortens_no_span(t)),
    )
    .over_time(),
];

/// The span of a record that is to expire.
const SHORT: Duration = Duration::from_millis(100);

/// The time for which a rule waits until the store has dropped an expired record.
const PATIENCE: Duration = Duration::from_secs(5);

async fn touch_makes_no_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    trial.touch(&[Touch::new(owner.id, KEEP)]).await?;
    trial.touch(&[]).await?;
    owner.missing("after a touch of an owner without record").await?;
    owner.absent(Draft::update()).await
}

async fn touch_changes_no_record(trial: &Trial<'_>) -> Outcome {
    let (live, ended) = (trial.owner(), trial.owner());
    live.applied(Draft::create().set("theme", "1")).await?;
    ended.applied(Draft::create()).await?;
    ended.retired(Draft::end()).await?;
    let (record, end) = (live.present().await?, ended.ended().await?);
    trial.touch(&[Touch::new(live.id, 2 * KEEP), Touch::new(ended.id, 2 * KEEP)]).await?;
    let touched = live.present().await?;
    same("the values after a touch", contents(&touched), contents(&record))?;
    same("the versions after a touch", touched.known(), record.known())?;
    same("an end after a touch", ended.ended().await?, end)
}

async fn maintain_keeps_live_records(trial: &Trial<'_>) -> Outcome {
    let (live, ended) = (trial.owner(), trial.owner());
    live.applied(Draft::create()).await?;
    ended.applied(Draft::create()).await?;
    ended.retired(Draft::end()).await?;
    for store in trial.stores() {
        let mut steps = 0;
        while store.maintain().await? {
            steps += 1;
            ensure(steps < 100_000, "an end of `maintain`", format!("{steps} steps"))?;
        }
    }
    live.present().await?;
    ended.ended().await.map(drop)
}

/// Waits until the store has dropped the owner's record.
async fn gone(owner: &Owner<'_>, case: &str) -> Outcome {
    let begin = owner.trial.elapsed();
    loop {
        match owner.read().await? {
            Snapshot::Absent => return Ok(()),
            other if owner.trial.elapsed().saturating_sub(begin) > PATIENCE => {
                let waited = PATIENCE.as_secs();
                return Err(Fault::new(format!("`Absent` within {waited} s, {case}"), other));
            }
            _ => owner.trial.sleep(SHORT / 5).await,
        }
    }
}

/// Waits until a record with the span surely has expired: until another record with the same span is gone.
async fn pass(trial: &Trial<'_>, span: Duration) -> Outcome {
    let other = trial.owner();
    other.applied(Draft::create().keep(span)).await?;
    trial.sleep(span + SHORT).await;
    gone(&other, "for a record whose span has passed").await
}

/// Makes a record with a short span, and calls the store before the record expires. On a slow machine the record may
/// expire earlier, so `call` returns whether the record lived, and the next attempt has a longer span.
async fn before_expiry<'a>(
    trial: &'a Trial<'a>,
    call: fn(Owner<'a>) -> Job<'a, Result<bool, Fault>>,
) -> Result<(Owner<'a>, Duration), Fault> {
    let mut span = SHORT;
    loop {
        let owner = trial.owner();
        owner.applied(Draft::create().set("theme", "1").life(life(Version::ZERO)).keep(span)).await?;
        if call(owner).await? {
            return Ok((owner, span));
        }
        ensure(span < PATIENCE, "a record that lives for the span of its commit", span)?;
        span *= 2;
    }
}

async fn record_expires(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().keep(SHORT)).await?;
    gone(&owner, "for a record with a span of 100 ms").await?;
    owner.absent(Draft::update()).await
}

async fn ended_record_expires(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.commit(Draft::end().keep(SHORT)).await?;
    gone(&owner, "for an end with a span of 100 ms").await
}

async fn expired_record_begins_anew(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let before = owner.applied(Draft::create().set("theme", "1").remove("removed").keep(SHORT)).await?;
    gone(&owner, "for a record with a span of 100 ms").await?;
    let after = owner.applied(Draft::create().set("other", "1")).await?;
    ensure(after.generation != before.generation, "another generation than before", after.generation)?;
    let names: Vec<_> = contents(&owner.present().await?).into_keys().collect();
    same("the values of a record that begins anew", names, vec!["other".to_owned()])
}

async fn commit_prolongs_the_span(trial: &Trial<'_>) -> Outcome {
    let (owner, span) = before_expiry(trial, |owner| {
        Box::pin(async move {
            let committed = owner.commit(Draft::update().set("theme", "2").keep(KEEP)).await?;
            Ok(matches!(committed, Committed::Applied { .. }))
        })
    })
    .await?;
    pass(trial, span).await?;
    owner.present().await.map(drop)
}

async fn commit_shortens_no_span(trial: &Trial<'_>) -> Outcome {
    let owners =
        [Draft::update(), Draft::upsert(), Draft::clear(), Draft::revoke()].map(|draft| (trial.owner(), draft));
    for (owner, draft) in &owners {
        owner.applied(Draft::create()).await?;
        owner.applied(draft.clone().keep(SHORT)).await?;
    }
    pass(trial, SHORT).await?;
    for (owner, _) in &owners {
        owner.present().await?;
    }
    Ok(())
}

async fn end_prolongs_the_span(trial: &Trial<'_>) -> Outcome {
    let (owner, span) = before_expiry(trial, |owner| {
        Box::pin(async move {
            let committed = owner.commit(Draft::end().keep(KEEP)).await?;
            Ok(matches!(committed, Committed::Retired(_)))
        })
    })
    .await?;
    pass(trial, span).await?;
    same("the end after the span of the record", owner.ended().await?.reason(), CloseReason::Destroyed)
}

async fn end_shortens_no_span(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    owner.retired(Draft::end().keep(SHORT)).await?;
    pass(trial, SHORT).await?;
    owner.ended().await.map(drop)
}

async fn touch_prolongs_the_span(trial: &Trial<'_>) -> Outcome {
    let (owner, span) = before_expiry(trial, |owner| {
        Box::pin(async move {
            let absent = owner.trial.owner();
            let current = Touch::new(owner.id, KEEP).by_lifetime(Some(Version::ZERO));
            owner.trial.touch(&[Touch::new(absent.id, KEEP), current]).await?;
            Ok(matches!(owner.read().await?, Snapshot::Present(_)))
        })
    })
    .await?;
    pass(trial, span).await?;
    owner.present().await.map(drop)
}

async fn touch_shortens_no_span(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    trial.touch(&[Touch::new(owner.id, SHORT)]).await?;
    pass(trial, SHORT).await?;
    owner.present().await.map(drop)
}

async fn touch_prolongs_no_end(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.commit(Draft::end().keep(SHORT)).await?;
    trial.touch(&[Touch::new(owner.id, KEEP)]).await?;
    gone(&owner, "for an end with a span of 100 ms, after a touch").await
}

async fn touch_revives_no_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1").keep(SHORT)).await?;
    // The rule does not read the record meanwhile: a store may drop an expired record at a read.
    pass(trial, SHORT).await?;
    trial.touch(&[Touch::new(owner.id, KEEP)]).await?;
    owner.missing("for an expired record after a touch").await?;
    owner.absent(Draft::update()).await
}

async fn refused_commit_prolongs_no_span(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().life(life(version(7))).keep(SHORT)).await?;
    // A slow store answers `Absent`: the record has expired before.
    owner.commit(Draft::update().set("theme", "1").life(life(version(6))).keep(KEEP)).await?;
    gone(&owner, "for a record with a span of 100 ms, after a refused commit").await
}

async fn touch_needs_the_current_life(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    for older in [Version::ZERO, version(6)] {
        owner.applied(Draft::upsert().life(life(version(7))).keep(SHORT)).await?;
        trial.touch(&[Touch::new(owner.id, KEEP).by_lifetime(Some(older))]).await?;
        gone(&owner, "for a record with a span of 100 ms, after a touch by an older lifetime").await?;
    }
    Ok(())
}

fn life(version: Version) -> StoredLife {
    StoredLife::new(UNIX_EPOCH + Duration::from_secs(4_000_000_000), KEEP, version)
}

async fn new_life_sets_the_span(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().life(life(Version::ZERO))).await?;
    owner.applied(Draft::update().life(life(version(7))).keep(SHORT)).await?;
    gone(&owner, "for a record whose new lifetime came with a span of 100 ms").await
}

async fn equal_life_shortens_no_span(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().life(life(version(7)))).await?;
    owner.applied(Draft::update().life(life(version(7))).keep(SHORT)).await?;
    pass(trial, SHORT).await?;
    owner.present().await.map(drop)
}
