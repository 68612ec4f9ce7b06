//! Rules of notices, for stores that have notices.

use std::{future::poll_fn, time::Duration};

use super::{
    rule::Rule,
    trial::{Draft, Fault, Outcome, Owner, Trial, ensure, same},
};
use crate::{
    tier::{Known, Notice, NoticeStream},
    version::Version,
};

pub(super) const RULES: &[Rule] = &[
    Rule::new("notices_begin_with_up", "A stream of notices begins with `Up`.", |trial| {
        Box::pin(notices_begin_with_up(trial))
    }),
    Rule::new("each_commit_is_noticed", "Each commit that a store applies comes as `Changed`.", |trial| {
        Box::pin(each_commit_is_noticed(trial))
    }),
    Rule::new(
        "notice_names_the_record",
        "A notice has the generation and a newest version of the commit or later.",
        |t| Box::pin(notice_names_the_record(t)),
    ),
    Rule::new("notice_names_the_node", "A notice has the node of the commit.", |trial| {
        Box::pin(notice_names_the_node(trial))
    }),
];

/// The time for which a rule waits for a notice.
const PATIENCE: Duration = Duration::from_secs(5);

async fn next(trial: &Trial<'_>, notices: &mut NoticeStream, awaited: &str) -> Result<Notice, Fault> {
    match trial.within(PATIENCE, poll_fn(|cx| notices.as_mut().poll_next(cx))).await {
        Some(Some(notice)) => Ok(notice),
        Some(None) => Err(Fault("expected a stream of notices without an end, got an end".into())),
        None => Err(Fault(format!("expected {awaited} within {} s, got no notice", PATIENCE.as_secs()))),
    }
}

/// Returns a stream of notices for the rule, or `None` for a store without notices.
async fn subscribe(trial: &Trial<'_>) -> Result<Option<NoticeStream>, Fault> {
    let Some(mut notices) = trial.store().notices() else { return Ok(None) };
    while next(trial, &mut notices, "`Up`").await? != Notice::Up {}
    Ok(Some(notices))
}

/// Waits for a notice of the owner's record that the condition accepts.
async fn changed(
    owner: &Owner<'_>,
    notices: &mut NoticeStream,
    awaited: &str,
    accepts: impl Fn(Known) -> bool,
) -> Result<Notice, Fault> {
    loop {
        // Notices of other rules and of other users of the store come in between.
        match next(owner.trial, notices, awaited).await? {
            notice @ Notice::Changed { owner: id, known, .. } if id == owner.id && accepts(known) => return Ok(notice),
            _ => {}
        }
    }
}

async fn notices_begin_with_up(trial: &Trial<'_>) -> Outcome {
    let Some(mut notices) = trial.store().notices() else { return Ok(()) };
    same("the first notice", next(trial, &mut notices, "`Up`").await?, Notice::Up)
}

async fn each_commit_is_noticed(trial: &Trial<'_>) -> Outcome {
    let Some(mut notices) = subscribe(trial).await? else { return Ok(()) };
    let owner = trial.owner();
    let commits =
        [Draft::create(), Draft::update(), Draft::upsert().set("theme", "1"), Draft::revoke(), Draft::clear()];
    let mut newest = Version::ZERO;
    for draft in commits {
        let awaited = format!("a notice of a commit of kind `{:?}`", draft.kind());
        owner.applied(draft).await?;
        changed(&owner, &mut notices, &awaited, |known| known.newest() > newest).await?;
        newest = owner.present().await?.newest();
    }
    owner.retired(Draft::end()).await?;
    changed(&owner, &mut notices, "a notice of an end", |known| known.newest() > newest).await.map(drop)
}

async fn notice_names_the_record(trial: &Trial<'_>) -> Outcome {
    let Some(mut notices) = subscribe(trial).await? else { return Ok(()) };
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let applied = owner.applied(Draft::update().set("theme", "1")).await?;
    loop {
        let notice = changed(&owner, &mut notices, "a notice with the commit's newest version", |_| true).await?;
        let Notice::Changed { known, .. } = notice else { continue };
        same("the generation in a notice", known.generation(), applied.generation)?;
        if known.newest() >= applied.newest {
            return Ok(());
        }
    }
}

async fn notice_names_the_node(trial: &Trial<'_>) -> Outcome {
    let Some(mut notices) = subscribe(trial).await? else { return Ok(()) };
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let notice = changed(&owner, &mut notices, "a notice of a new record", |_| true).await?;
    ensure(matches!(notice, Notice::Changed { node, .. } if node == trial.node), format!("{:?}", trial.node), notice)
}
