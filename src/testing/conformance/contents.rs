//! Rules of the bytes: names and JSON come back as they were.

use std::collections::BTreeMap;

use super::{
    rule::Rule,
    trial::{Content, Draft, Outcome, Trial, contents, same},
};

pub(super) const RULES: &[Rule] = &[
    Rule::new(
        "json_keeps_its_bytes",
        "JSON comes back with the same bytes: order, spaces, digits, escapes.",
        |trial| Box::pin(json_keeps_its_bytes(trial)),
    ),
    Rule::new("long_json_is_kept", "JSON of 64 kB comes back whole.", |trial| Box::pin(long_json_is_kept(trial))),
    Rule::new("names_are_compared_by_bytes", "Names of up to 64 bytes differ by each byte, also by case.", |trial| {
        Box::pin(names_are_compared_by_bytes(trial))
    }),
    Rule::new("many_values_fit_one_commit", "A commit of 100 values keeps all of them.", |trial| {
        Box::pin(many_values_fit_one_commit(trial))
    }),
];

/// JSON that a store would change if the store parsed the JSON, or took the bytes for a text of another kind.
const JSON: &[&str] = &[
    "null",
    "false",
    "0",
    "-0",
    "-0.0",
    "1.0",
    "1e400",
    "0.10000000000000000000000001",
    "18446744073709551616",
    "\"\"",
    "{}",
    "[]",
    " [ 1 ,\t2\n] ",
    "{\"b\":1,\"a\":2,\"b\":3}",
    "\"ä 💧 \u{2028} \u{fffd}\"",
    "\"e\u{301} \u{e9}\"",
    "\"\u{7f}\"",
    "\"\\u0000 \\ud83d\\ude00 \\/\"",
    "\"'; drop table -- %s ? $1 {0}\"",
];

async fn json_keeps_its_bytes(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let name = |number: usize| format!("v{number}");
    let draft = (0..).zip(JSON).fold(Draft::create(), |draft, (number, json)| draft.set(&name(number), json));
    owner.applied(draft).await?;
    let mut kept = contents(&owner.present().await?);
    for (number, json) in (0..).zip(JSON) {
        same("JSON in a record", kept.remove(&name(number)), Some(Content::of(json)))?;
    }
    Ok(())
}

async fn long_json_is_kept(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let text: String = (0..8192).map(|number| format!("{number:07} ")).collect();
    let json = format!("\"{text}\"");
    owner.applied(Draft::create().set("long", &json)).await?;
    let kept = owner.entry("long").await?.map(|(content, _)| content == Content::of(&json));
    same("whether 64 kB of JSON are the same in the record", kept, Some(true))
}

async fn names_are_compared_by_bytes(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let longest = format!("a{}", "b".repeat(63));
    let neighbour = format!("a{}c", "b".repeat(62));
    let names = ["theme", "Theme", "THEME", "the", "the.me", "the-me", "the_me", "a", "toString", "id", "version"];
    let names = names.into_iter().chain([&*longest, &*neighbour]);
    // A commit for each name: within one commit, a store could tell two names apart that it stores as one.
    owner.applied(Draft::create()).await?;
    let mut expected = BTreeMap::new();
    for (number, name) in (0..).zip(names) {
        owner.applied(Draft::update().set(name, format!("{number}"))).await?;
        expected.insert(name.to_owned(), Content::of(&format!("{number}")));
    }
    same("the values by name", contents(&owner.present().await?), expected)
}

async fn many_values_fit_one_commit(trial: &Trial<'_>) -> Outcome {
    let owner = trial.owner();
    let values: Vec<_> = (0..100).map(|number| (format!("v{number}"), format!("{number}"))).collect();
    owner.applied(values.iter().fold(Draft::create(), |draft, (name, json)| draft.set(name, json))).await?;
    let expected = values.iter().map(|(name, json)| (name.clone(), Content::of(json))).collect();
    same("the values of one commit", contents(&owner.present().await?), expected)
}
