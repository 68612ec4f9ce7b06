//! Rules of the commits that make and change records: `Create`, `Update`, `Upsert`, and the conditions of the others.

use super::{
    rule::Rule,
    trial::{Content, Draft, Fault, Outcome, Trial, contents, entries, same},
};
use crate::version::Version;

pub(super) const RULES: &[Rule] = &[
    Rule::new("unknown_owner_is_absent", "The store has no record of an owner without commits.", |trial| {
        Box::pin(unknown_owner_is_absent(trial))
    }),
    Rule::new("create_makes_the_record", "A commit of kind `Create` makes a missing record.", |trial| {
        Box::pin(create_makes_the_record(trial))
    }),
    Rule::new(
        "create_keeps_existing_record",
        "A commit of kind `Create` for an existing record changes nothing and is `Outdated`.",
        |trial| Box::pin(create_keeps_existing_record(trial)),
    ),
    Rule::new("update_needs_a_record", "A commit of kind `Update` makes no record: the store answers `Absent`.", |t| {
        Box::pin(needs_a_record(t, Draft::update()))
    }),
    Rule::new("clear_needs_a_record", "A commit of kind `Clear` makes no record: the store answers `Absent`.", |t| {
        Box::pin(needs_a_record(t, Draft::clear()))
    }),
    Rule::new("upsert_makes_the_record", "A commit of kind `Upsert` makes a missing record.", |trial| {
        Box::pin(upsert_makes_the_record(trial))
    }),
    Rule::new("revoke_makes_the_record", "A commit of kind `Revoke` makes a missing record.", |trial| {
        Box::pin(revoke_makes_the_record(trial))
    }),
    Rule::new("update_keeps_other_values", "A commit of kind `Update` changes no value that it does not name.", |t| {
        Box::pin(keeps_other_values(t, Draft::update()))
    }),
    Rule::new("upsert_keeps_other_values", "A commit of kind `Upsert` changes no value that it does not name.", |t| {
        Box::pin(keeps_other_values(t, Draft::upsert()))
    }),
    Rule::new("one_bit_tells_owners_apart", "Owners that differ in one of the 256 bits have separate records.", |t| {
        Box::pin(one_bit_tells_owners_apart(t))
    }),
];

async fn unknown_owner_is_absent(trial: &Trial<'_>) -> Outcome {
    trial.owner().missing("for an owner without commits").await
}

async fn create_makes_the_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::create().set("theme", "1")).await?;
    same("the record's values", contents(&owner.present().await?), [("theme".into(), Content::of("1"))].into())
}

async fn create_keeps_existing_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert().set("theme", "1")).await?;
    let before = owner.present().await?;
    owner.outdated(Draft::create().set("theme", "2").set("other", "3"), "a second `Create`").await?;
    let after = owner.present().await?;
    same("the values after a second `Create`", entries(&after), entries(&before))?;
    same("the record after a second `Create`", after.known(), before.known())
}

async fn needs_a_record(trial: &Trial<'_>, draft: Draft) -> Outcome {
    let owner = trial.owner();
    owner.absent(draft.remove("theme")).await?;
    owner.missing("after a commit that makes no record").await
}

async fn upsert_makes_the_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert().set("theme", "1")).await?;
    same("the record's values", contents(&owner.present().await?), [("theme".into(), Content::of("1"))].into())
}

async fn revoke_makes_the_record(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::revoke()).await?;
    match owner.present().await? {
        record if record.not_before() > Version::ZERO => Ok(()),
        record => Err(Fault::new("a record with a not-before", record.not_before())),
    }
}

async fn keeps_other_values(trial: &Trial<'_>, draft: Draft) -> Outcome {
    let owner = trial.owner();
    owner.applied(Draft::upsert().set("kept", "1").set("theme", "1")).await?;
    let kept = owner.entry("kept").await?;
    owner.applied(draft.set("theme", "2")).await?;
    same("a value that the commit does not name", owner.entry("kept").await?, kept)?;
    let theme = owner.entry("theme").await?.map(|(content, _)| content);
    same("the value that the commit names", theme, Some(Content::of("2")))
}

async fn one_bit_tells_owners_apart(trial: &Trial<'_>) -> Outcome {
    let hash: [u8; 32] = rand::random();
    trial.owner_of(hash).applied(Draft::create().set("theme", "1")).await?;
    for bit in [0, 7, 63, 64, 127, 128, 200, 248, 255] {
        let mut other = hash;
        other[bit / 8] ^= 1 << (bit % 8);
        trial.owner_of(other).missing(&format!("for an owner that differs in bit {bit}")).await?;
    }
    Ok(())
}
