//! Rules of concurrent commits, and of commits that the caller drops.

use super::{
    rule::Rule,
    trial::{Content, Draft, Fault, Outcome, Owner, Trial, contents, ensure, same},
    wait::{Job, join, pause, polled},
};
use crate::{
    tier::{Committed, Snapshot},
    version::Version,
};

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "updates_are_not_lost",
        "Concurrent updates that replace the version they have read all count.",
        |trial| Box::pin(updates_are_not_lost(trial)),
    ),
    Rule::new(
        "one_create_wins",
        "Of concurrent commits of kind `Create` one applies, and the others are `Outdated`.",
        |t| Box::pin(one_create_wins(t)),
    ),
    Rule::new("concurrent_stamps_differ", "Concurrent commits of one owner have different stamps.", |trial| {
        Box::pin(concurrent_stamps_differ(trial))
    }),
    Rule::new(
        "end_answers_each_applied_write",
        "An `End` beside writes answers each write that was applied.",
        |trial| Box::pin(end_answers_each_applied_write(trial)),
    ),
    Rule::new(
        "unpolled_commit_changes_nothing",
        "A commit that was dropped before its first poll changes nothing.",
        |t| Box::pin(unpolled_commit_changes_nothing(t)),
    ),
    Rule::new(
        "dropped_commit_is_whole_or_nothing",
        "A dropped commit is made whole or not at all, and blocks no later commit.",
        |t| Box::pin(dropped_commit_is_whole_or_nothing(t)),
    ),
];

/// The number of concurrent writers.
const WRITERS: u32 = 6;

/// The number of writes of each writer.
const WRITES: u32 = 8;

/// Runs the writers at once. Fails with the fault of the first writer that failed.
async fn all<'a, T: Send>(jobs: impl Iterator<Item = Job<'a, Result<T, Fault>>>) -> Result<Vec<T>, Fault> {
    join(jobs.collect()).await.into_iter().collect()
}

/// Adds one to the count, however often other writers are faster.
async fn increment(owner: Owner<'_>) -> Outcome {
    for _ in 0..10_000 {
        let (count, replaces) = match owner.entry("count").await? {
            Some((Content(json), version)) => (number(json.as_deref())?, version),
            None => (0, Version::ZERO),
        };
        pause().await;
        let draft = Draft::upsert().set("count", (count + 1).to_string()).replacing(replaces);
        match owner.commit(draft).await? {
            Committed::Applied { .. } => return Ok(()),
            Committed::Outdated(_) => pause().await,
            other => return Err(Fault::new("`Applied` or `Outdated` for an update", other)),
        }
    }
    Err(Fault::new("an update that applies within 10000 attempts", Committed::Absent))
}

fn number(json: Option<&[u8]>) -> Result<u32, Fault> {
    let text = json.and_then(|json| std::str::from_utf8(json).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| Fault::new("a number", text))
}

async fn updates_are_not_lost(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert()).await?;
    let writer = |_| -> Job<'_, Outcome> {
        Box::pin(async move {
            for _ in 0..WRITES {
                increment(owner).await?;
            }
            Ok(())
        })
    };
    all((0..WRITERS).map(writer)).await?;
    let count = owner.entry("count").await?.map(|(content, _)| content);
    same("the count after concurrent updates", count, Some(Content::of(&(WRITERS * WRITES).to_string())))
}

async fn one_create_wins(trial: &Trial<'_>) -> Outcome {
    for _ in 0..WRITES {
        let owner = trial.owner();
        let create = |number: u32| -> Job<'_, Result<Option<u32>, Fault>> {
            Box::pin(async move {
                match owner.commit(Draft::create().set("number", number.to_string())).await? {
                    Committed::Applied { .. } => Ok(Some(number)),
                    Committed::Outdated(_) => Ok(None),
                    other => Err(Fault::new("`Applied` or `Outdated` for `Create`", other)),
                }
            })
        };
        let winners: Vec<_> = all((0..WRITERS).map(create)).await?.into_iter().flatten().collect();
        let [winner] = *winners else { return Err(Fault::new("one commit of kind `Create` that applies", winners)) };
        let kept = owner.entry("number").await?.map(|(content, _)| content);
        same("the value of the commit that applied", kept, Some(Content::of(&winner.to_string())))?;
    }
    Ok(())
}

async fn concurrent_stamps_differ(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let writer = |number: u32| -> Job<'_, Result<Vec<Version>, Fault>> {
        Box::pin(async move {
            let mut stamps = Vec::new();
            for _ in 0..WRITES {
                stamps.push(owner.applied(Draft::upsert().set(&format!("v{number}"), "1")).await?.stamp);
            }
            Ok(stamps)
        })
    };
    let mut stamps = all((0..WRITERS).map(writer)).await?.concat();
    stamps.sort_unstable();
    let equal: Vec<_> = stamps.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    same("the stamps that two commits got", equal, Vec::new())
}

async fn end_answers_each_applied_write(trial: &Trial<'_>) -> Outcome {
    for turn in 0..WRITES {
        let owner = trial.owner();
        owner.applied(Draft::create()).await?;
        // Each writer writes until the end, and returns its last applied write.
        let writer = |number: u32| -> Job<'_, Result<Option<(String, u32)>, Fault>> {
            Box::pin(async move {
                let (name, mut last) = (format!("v{number}"), None);
                for count in 0..10 * WRITES {
                    match owner.commit(Draft::update().set(&name, count.to_string())).await? {
                        Committed::Applied { .. } => last = Some((name.clone(), count)),
                        Committed::Ended(_) => break,
                        other => return Err(Fault::new("`Applied` or `Ended` for a write beside an `End`", other)),
                    }
                    pause().await;
                }
                Ok(last)
            })
        };
        let retired = std::sync::OnceLock::new();
        let end: Job<'_, Result<Option<(String, u32)>, Fault>> = Box::pin(async {
            for _ in 0..=turn {
                pause().await;
            }
            // Set once, by this job alone.
            let _ = retired.set(owner.retired(Draft::end()).await?);
            Ok(None)
        });
        let last = all((0..WRITERS).map(writer).chain([end])).await?;
        let retired = retired.get().map(contents).unwrap_or_default();
        for (name, count) in last.into_iter().flatten() {
            let subject = format!("the value in `Retired` whose write was applied, {name}");
            same(&subject, retired.get(&name), Some(&Content::of(&count.to_string())))?;
        }
        owner.ended().await?;
    }
    Ok(())
}

async fn unpolled_commit_changes_nothing(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let draft = Draft::upsert().set("theme", "1");
    let changes = draft.changes();
    drop(trial.store().commit(owner.commit_of(&draft, &changes)));
    for _ in 0..10 {
        pause().await;
        owner.missing("after a commit that was never polled").await?;
    }
    Ok(())
}

async fn dropped_commit_is_whole_or_nothing(trial: &Trial<'_>) -> Outcome {
    const NAMES: [&str; 3] = ["one", "two", "three"];
    let owner = trial.owner();
    owner.applied(NAMES.iter().fold(Draft::create(), |draft, name| draft.set(name, "0"))).await?;
    for attempt in 1..=12 {
        let draft = NAMES.iter().fold(Draft::update(), |draft, name| draft.set(name, attempt.to_string()));
        let changes = draft.changes();
        let polls = 1 << (attempt - 1);
        polled(polls, trial.store().commit(owner.commit_of(&draft, &changes))).await.transpose()?;
        for _ in 0..3 {
            let Snapshot::Present(record) = owner.read().await? else {
                return Err(Fault("expected the record to stay after a dropped commit".into()));
            };
            let found = contents(&record);
            let first = found.get(NAMES[0]);
            let whole = NAMES.iter().all(|name| found.get(*name) == first);
            ensure(whole, format!("all changes or none, of a commit dropped after {polls} polls"), &found)?;
            owner.applied(Draft::update().set("after", "1")).await?;
        }
    }
    Ok(())
}
