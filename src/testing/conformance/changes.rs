//! Rules of changes: carried changes, compared versions, and tombstones.

use super::{
    rule::Rule,
    trial::{Content, Draft, Outcome, Owner, Trial, contents, ensure, entries, hour_after, same, version},
};
use crate::{tier::CommitKind, version::Version};

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "newer_carried_change_applies",
        "A carried change applies if its version is newer, and keeps its version.",
        |t| Box::pin(newer_carried_change_applies(t)),
    ),
    Rule::new("older_carried_change_is_ignored", "A carried change with an older version changes no value.", |trial| {
        Box::pin(older_carried_change_is_ignored(trial))
    }),
    Rule::new("tied_removal_wins", "At equal versions a removal beats a value, in either order.", |trial| {
        Box::pin(tied_removal_wins(trial))
    }),
    Rule::new("tied_greater_bytes_win", "At equal versions the greater bytes win, in either order.", |trial| {
        Box::pin(tied_greater_bytes_win(trial))
    }),
    Rule::new(
        "replaces_compares_exactly",
        "A change that replaces another version than the current is refused.",
        |t| Box::pin(replaces_compares_exactly(t)),
    ),
    Rule::new("replaces_current_version", "A change that replaces the current version applies.", |trial| {
        Box::pin(replaces_current_version(trial))
    }),
    Rule::new(
        "replaces_zero_needs_no_entry",
        "A change that replaces `Version::ZERO` needs a name without entry.",
        |t| Box::pin(replaces_zero_needs_no_entry(t)),
    ),
    Rule::new("tombstone_is_compared", "`Change::replaces` compares with the version of a tombstone too.", |trial| {
        Box::pin(tombstone_is_compared(trial))
    }),
    Rule::new("refused_change_refuses_all", "One refused change refuses all changes of the commit.", |trial| {
        Box::pin(refused_change_refuses_all(trial))
    }),
    Rule::new("outdated_answers_the_record", "`Outdated` contains the whole current record.", |trial| {
        Box::pin(outdated_answers_the_record(trial))
    }),
    Rule::new(
        "missing_record_is_outdated",
        "A change that replaces a version of a missing record is `Outdated`.",
        |t| Box::pin(missing_record_is_outdated(t)),
    ),
    Rule::new("removal_leaves_a_tombstone", "A removal leaves a tombstone, also for a name without entry.", |trial| {
        Box::pin(removal_leaves_a_tombstone(trial))
    }),
    Rule::new("tombstone_stays", "A tombstone stays through later commits, and no older value comes back.", |trial| {
        Box::pin(tombstone_stays(trial))
    }),
    Rule::new("clear_removes_each_value", "`Clear` leaves tombstones of all values, undeclared values too.", |trial| {
        Box::pin(clear_removes_each_value(trial))
    }),
    Rule::new("clear_keeps_the_excepted_value", "`Clear` keeps the value that `except` names.", |trial| {
        Box::pin(clear_keeps_the_excepted_value(trial))
    }),
    Rule::new("clear_notes_absent_names", "A removal in a `Clear` leaves a tombstone of a name without entry.", |t| {
        Box::pin(clear_notes_absent_names(t))
    }),
    Rule::new(
        "clear_compares_replaced_versions",
        "A `Clear` whose removal replaces another version is refused.",
        |t| Box::pin(clear_compares_replaced_versions(t)),
    ),
];

/// Makes a record with one carried value or removal.
async fn with_theme<'a>(trial: &'a Trial<'a>, json: Option<&str>, at: u64) -> Result<Owner<'a>, super::trial::Fault> {
    let owner = trial.owner();
    owner.applied(Draft::create().carry("theme", json, version(at))).await?;
    Ok(owner)
}

fn content(json: Option<&str>) -> Content {
    Content(json.map(|json| json.as_bytes().to_vec()))
}

async fn carries(owner: &Owner<'_>, json: Option<&str>, at: u64, expected: (Option<&str>, u64)) -> Outcome {
    let before = owner.entry("theme").await?;
    owner.applied(Draft::update().carry("theme", json, version(at))).await?;
    let subject = format!("{:?} after a carried {:?} of {}", before, content(json), version(at));
    let (json, at) = expected;
    same(&subject, owner.entry("theme").await?, Some((content(json), version(at))))
}

async fn newer_carried_change_applies(trial: &Trial<'_>) -> Outcome {
    for (json, newer) in [(Some("3"), Some("1")), (Some("3"), None), (None, Some("1")), (None, None)] {
        let owner = with_theme(trial, json, 5).await?;
        carries(&owner, newer, 6, (newer, 6)).await?;
    }
    Ok(())
}

async fn older_carried_change_is_ignored(trial: &Trial<'_>) -> Outcome {
    for (json, older) in [(Some("3"), Some("9")), (Some("3"), None), (None, Some("9"))] {
        let owner = with_theme(trial, json, 5).await?;
        carries(&owner, older, 4, (json, 5)).await?;
    }
    Ok(())
}

async fn tied_removal_wins(trial: &Trial<'_>) -> Outcome {
    let owner = with_theme(trial, Some("3"), 5).await?;
    carries(&owner, None, 5, (None, 5)).await?;
    carries(&owner, Some("9"), 5, (None, 5)).await
}

async fn tied_greater_bytes_win(trial: &Trial<'_>) -> Outcome {
    // By bytes, neither by number, nor by length, nor by an alphabet.
    for (smaller, greater) in [("3", "4"), ("10", "9"), ("1", "10"), ("\"B\"", "\"a\""), ("\"z\"", "\"é\"")] {
        let owner = with_theme(trial, Some(smaller), 5).await?;
        carries(&owner, Some(greater), 5, (Some(greater), 5)).await?;
        carries(&owner, Some(smaller), 5, (Some(greater), 5)).await?;
    }
    Ok(())
}

/// Both kinds of commits that change values.
const KINDS: [CommitKind; 2] = [CommitKind::Update, CommitKind::Upsert];

async fn replaces_compares_exactly(trial: &Trial<'_>) -> Outcome {
    for kind in KINDS {
        let owner = with_theme(trial, Some("1"), 5).await?;
        for other in [version(4), version(6), Version::from_u64(5), hour_after(version(5))] {
            let case = format!("a change that replaces {other} instead of {}", version(5));
            owner.outdated(Draft::of(kind).set("theme", "2").replacing(other), &case).await?;
        }
        same("the value after refused changes", owner.entry("theme").await?, Some((Content::of("1"), version(5))))?;
    }
    Ok(())
}

async fn replaces_current_version(trial: &Trial<'_>) -> Outcome {
    for kind in KINDS {
        let owner = with_theme(trial, Some("1"), 5).await?;
        let draft = Draft::of(kind).set("theme", "2").replacing(version(5));
        let stamp = owner.applied(draft).await?.stamp;
        owner.applied(Draft::of(kind).set("theme", "3").replacing(stamp)).await?;
        let theme = owner.entry("theme").await?.map(|(content, _)| content);
        same("the value after two replacements", theme, Some(Content::of("3")))?;
    }
    Ok(())
}

async fn replaces_zero_needs_no_entry(trial: &Trial<'_>) -> Outcome {
    for kind in KINDS {
        let owner = with_theme(trial, Some("1"), 5).await?;
        let taken = Draft::of(kind).set("theme", "2").replacing(Version::ZERO);
        owner.outdated(taken, "a change that replaces `Version::ZERO`, of a name with an entry").await?;
        owner.applied(Draft::of(kind).set("other", "2").replacing(Version::ZERO)).await?;
    }
    let owner = trial.owner();
    owner.applied(Draft::upsert().set("theme", "1").replacing(Version::ZERO)).await.map(drop)
}

async fn tombstone_is_compared(trial: &Trial<'_>) -> Outcome {
    let owner = with_theme(trial, None, 5).await?;
    let zero = Draft::update().set("theme", "2").replacing(Version::ZERO);
    owner.outdated(zero, "a change that replaces `Version::ZERO`, of a name with a tombstone").await?;
    let other = Draft::update().set("theme", "2").replacing(version(4));
    owner.outdated(other, "a change that replaces another version than the tombstone's").await?;
    owner.applied(Draft::update().set("theme", "2").replacing(version(5))).await.map(drop)
}

async fn refused_change_refuses_all(trial: &Trial<'_>) -> Outcome {
    let owner = with_theme(trial, Some("1"), 5).await?;
    let before = owner.present().await?;
    let refused = |draft: Draft| draft.set("theme", "2").replacing(version(4));
    let last = refused(Draft::update().set("first", "1").carry("carried", Some("1"), version(9)));
    let first = refused(Draft::update()).set("last", "1").remove("removed");
    for draft in [last, first] {
        owner.outdated(draft, "a commit with one refused change").await?;
        let after = owner.present().await?;
        same("the values after a refused commit", entries(&after), entries(&before))?;
        same("the record after a refused commit", after.known(), before.known())?;
    }
    Ok(())
}

async fn outdated_answers_the_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert().set("theme", "1").set("undeclared", "[2]").remove("removed")).await?;
    owner.applied(Draft::revoke()).await?;
    let present = owner.present().await?;
    let draft = Draft::upsert().set("theme", "2").replacing(version(4));
    let outdated = owner.outdated(draft, "a change that replaces another version").await?;
    same("the values in `Outdated`", entries(&outdated), entries(&present))?;
    same("the versions in `Outdated`", outdated.known(), present.known())?;
    same("the not-before in `Outdated`", outdated.not_before(), present.not_before())
}

async fn missing_record_is_outdated(trial: &Trial<'_>) -> Outcome {
    for kind in [CommitKind::Upsert, CommitKind::Create] {
        let owner = trial.owner();
        let draft = Draft::of(kind).set("theme", "1").replacing(version(5));
        let record = owner.outdated(draft, "a change that replaces a version of a missing record").await?;
        ensure(entries(&record).is_empty(), "no values in `Outdated` of a missing record", &record)?;
        owner.missing("after a refused commit").await?;
    }
    Ok(())
}

async fn removal_leaves_a_tombstone(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    let stamp = owner.applied(Draft::update().remove("theme").remove("never")).await?.stamp;
    let tombstone = Some((Content::REMOVED, stamp));
    same("a removed value", owner.entry("theme").await?, tombstone.clone())?;
    same("a removed name without entry", owner.entry("never").await?, tombstone)
}

async fn tombstone_stays(trial: &Trial<'_>) -> Outcome {
    let owner = with_theme(trial, None, 5).await?;
    owner.applied(Draft::update().set("other", "1")).await?;
    owner.applied(Draft::revoke()).await?;
    owner.applied(Draft::upsert().carry("theme", Some("1"), version(4))).await?;
    same("a tombstone after three commits", owner.entry("theme").await?, Some((Content::REMOVED, version(5))))
}

async fn clear_removes_each_value(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1").set("of_another_build", "1").set("third", "1")).await?;
    let stamp = owner.applied(Draft::clear().remove("theme")).await?.stamp;
    for name in ["theme", "of_another_build", "third"] {
        same("a value after `Clear`", owner.entry(name).await?, Some((Content::REMOVED, stamp)))?;
    }
    Ok(())
}

async fn clear_keeps_the_excepted_value(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1").set("user", "7").set("username", "8")).await?;
    let user = owner.entry("user").await?;
    let clear = Draft::of(CommitKind::Clear { except: Some("user") });
    owner.applied(clear.clone()).await?;
    same("the excepted value after `Clear`", owner.entry("user").await?, user)?;
    let mut others = contents(&owner.present().await?);
    others.remove("user");
    same("the other values after `Clear`", others.into_values().collect(), vec![Content::REMOVED; 2])?;
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    owner.applied(clear).await?;
    same("an excepted name without entry", owner.entry("user").await?, None)
}

async fn clear_notes_absent_names(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create()).await?;
    let stamp = owner.applied(Draft::clear().remove("never")).await?.stamp;
    same("a name without entry after `Clear`", owner.entry("never").await?, Some((Content::REMOVED, stamp)))
}

async fn clear_compares_replaced_versions(trial: &Trial<'_>) -> Outcome {
    let owner = with_theme(trial, Some("1"), 5).await?;
    let clear = Draft::clear().remove("theme").replacing(version(4));
    owner.outdated(clear, "a `Clear` with a removal that replaces another version").await?;
    same("the value after a refused `Clear`", owner.entry("theme").await?, Some((Content::of("1"), version(5))))
}
