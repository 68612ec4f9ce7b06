//! The answer of each tier for a value, with the reason in words.

use serde::Serialize;

use crate::{
    config::{COOKIE, DEFAULT, MEMORY},
    session::explain::TierAnswer,
    value::Placement,
};

/// The facts that all values of a session share.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub(super) store: Option<&'static str>,
    pub(super) has_session: bool,
    pub(super) in_step: bool,
}

/// The answer of one tier, and the reason why the answer wins or loses.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    tier: &'static str,
    answer: &'static str,
    version: Option<String>,
    why: String,
}

/// Returns each tier's answer with its reason, in the chain's order. Only this file words the reasons.
pub(super) fn rows(
    answers: &[(&'static str, TierAnswer)],
    winner: Option<&'static str>,
    placement: Placement,
    facts: Facts,
) -> Vec<Row> {
    let is_stored = |tier: &str| matches!(tier, MEMORY | COOKIE);
    // A request merges memory and cookie, so one of the two is the source of a value that both have.
    let source = answers.iter().copied().find(|(tier, answer)| is_stored(tier) && *answer != TierAnswer::Nothing);
    let mut rows = Vec::new();
    for &(tier, answer) in answers {
        let is_source = source.is_some_and(|(source, _)| source == tier);
        let (answer, why) = match (tier, answer) {
            (MEMORY | COOKIE, _) if is_source => (answer, held(answer)),
            (MEMORY | COOKIE, _) => beside(tier, answer, source.map(|(_, answer)| answer), placement, facts),
            (_, _) if winner == Some(tier) => (answer, "answers, since no stored tier does".to_owned()),
            (_, TierAnswer::NotValid) => (answer, "skipped: this tier's answer is not a valid value".to_owned()),
            (DEFAULT, TierAnswer::Nothing) if winner.is_none() => (
                answer,
                "has no default for this value: the type's own default answers, if the type has a default".to_owned(),
            ),
            (DEFAULT, TierAnswer::Nothing) => (answer, "has no default for this value".to_owned()),
            (_, TierAnswer::Nothing) => (answer, "has no answer for this value".to_owned()),
            (_, _) => match winner {
                Some(winner) if !is_stored(winner) => (answer, format!("not asked: the tier {winner} answers first")),
                _ => (answer, "not asked: a stored tier answers".to_owned()),
            },
        };
        rows.push(Row::new(tier, answer, why));
        if tier == COOKIE
            && let Some(store) = facts.store
        {
            let why = "asked when the session was loaded: the session took over the store's copies".to_owned();
            rows.push(Row { tier: store, answer: "not_asked", version: None, why });
        }
    }
    if winner.is_none() && rows.iter().all(|row| row.tier != DEFAULT) {
        let why = "no tier answers: the type's own default answers, if the type has a default".to_owned();
        rows.push(Row::new(DEFAULT, TierAnswer::Nothing, why));
    }
    rows
}

/// Returns the reason for the source of the copy.
fn held(answer: TierAnswer) -> String {
    match answer {
        TierAnswer::Removed(_) => "has the removal of this value: only a source or a default can answer",
        TierAnswer::NotValid => "skipped: this tier's copy is not a valid value",
        TierAnswer::Value(_) | TierAnswer::Nothing => "answers",
    }
    .to_owned()
}

/// Returns the answer and the reason for the other of memory and cookie, beside the source.
fn beside(
    tier: &str,
    answer: TierAnswer,
    source: Option<TierAnswer>,
    placement: Placement,
    facts: Facts,
) -> (TierAnswer, String) {
    let (answer, why) = match (tier, placement, source) {
        (COOKIE, Placement::Server | Placement::Volatile, _) => {
            (answer, "never has this value: the value stays on servers by its placement")
        }
        (_, _, None) if !facts.has_session => (answer, "has no copy: there is no session yet"),
        (_, _, None) => (answer, "has no copy"),
        (COOKIE, _, Some(_)) if answer == TierAnswer::NotValid => {
            (answer, "has a newer copy, which is not a valid value")
        }
        (COOKIE, _, Some(_)) if answer != TierAnswer::Nothing => (answer, "has a newer copy, but memory comes first"),
        (COOKIE, _, Some(source @ TierAnswer::Removed(_))) if facts.in_step => {
            (source, "has the same removal as memory")
        }
        (COOKIE, _, Some(source)) if facts.in_step => (source, "has the same copy as memory"),
        (COOKIE, _, Some(_)) => (answer, "is behind memory: the next response updates the cookie"),
        (_, _, Some(_)) => (answer, "had no newer copy, and has taken over the cookie's copy"),
    };
    (answer, why.to_owned())
}

impl Row {
    fn new(tier: &'static str, answer: TierAnswer, why: String) -> Self {
        let (answer, version) = match answer {
            TierAnswer::Value(version) => ("value", version),
            TierAnswer::NotValid => ("not_valid", None),
            TierAnswer::Removed(version) => ("removed", Some(version)),
            TierAnswer::Nothing => ("nothing", None),
        };
        Self { tier, answer, version: version.map(|version| version.to_string()), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    const FACTS: Facts = Facts { store: None, has_session: true, in_step: true };
    const OLD: Version = Version::from_u64(1 << 16);
    const NEW: Version = Version::from_u64(2 << 16);

    /// Returns each tier's answer, version and reason, as text.
    fn said(answers: &[(&'static str, TierAnswer)], winner: Option<&'static str>, facts: Facts) -> Vec<String> {
        let rows = rows(answers, winner, Placement::Everywhere, facts);
        let text = |Row { tier, answer, version, why }| match version {
            Some(version) => format!("{tier}: {answer} {version}: {why}"),
            None => format!("{tier}: {answer}: {why}"),
        };
        rows.into_iter().map(text).collect()
    }

    #[test]
    fn rows_explain_memory_and_cookie() {
        let (value, nothing) = (TierAnswer::Value(Some(NEW)), TierAnswer::Nothing);
        assert_eq!(
            said(&[(MEMORY, value), (COOKIE, nothing)], Some(MEMORY), FACTS),
            ["memory: value 2.0: answers", "cookie: value 2.0: has the same copy as memory"]
        );
        let behind = Facts { in_step: false, ..FACTS };
        assert_eq!(
            said(&[(MEMORY, value), (COOKIE, nothing)], Some(MEMORY), behind),
            ["memory: value 2.0: answers", "cookie: nothing: is behind memory: the next response updates the cookie"]
        );
        assert_eq!(
            said(&[(MEMORY, nothing), (COOKIE, value)], Some(COOKIE), FACTS),
            ["memory: nothing: had no newer copy, and has taken over the cookie's copy", "cookie: value 2.0: answers"]
        );
        let older = TierAnswer::Value(Some(OLD));
        assert_eq!(
            said(&[(MEMORY, older), (COOKIE, value)], Some(MEMORY), behind),
            ["memory: value 1.0: answers", "cookie: value 2.0: has a newer copy, but memory comes first"]
        );
    }

    #[test]
    fn computed_tiers_answer_after_stored_tiers() {
        let (value, nothing) = (TierAnswer::Value(None), TierAnswer::Nothing);
        let removed = [(MEMORY, TierAnswer::Removed(NEW)), (COOKIE, nothing), ("tenant", value), (DEFAULT, value)];
        assert_eq!(
            said(&removed, Some("tenant"), FACTS),
            [
                "memory: removed 2.0: has the removal of this value: only a source or a default can answer",
                "cookie: removed 2.0: has the same removal as memory",
                "tenant: value: answers, since no stored tier does",
                "default: value: not asked: the tier tenant answers first"
            ]
        );
        let invalid =
            [(MEMORY, TierAnswer::NotValid), (COOKIE, nothing), ("tenant", TierAnswer::NotValid), (DEFAULT, value)];
        assert_eq!(
            said(&invalid, Some(DEFAULT), FACTS),
            [
                "memory: not_valid: skipped: this tier's copy is not a valid value",
                "cookie: not_valid: has the same copy as memory",
                "tenant: not_valid: skipped: this tier's answer is not a valid value",
                "default: value: answers, since no stored tier does"
            ]
        );
        let stored = [(MEMORY, TierAnswer::Value(Some(NEW))), (COOKIE, nothing), ("tenant", nothing), (DEFAULT, value)];
        assert_eq!(
            said(&stored, Some(MEMORY), FACTS)[2..],
            ["tenant: nothing: has no answer for this value", "default: value: not asked: a stored tier answers"]
        );
    }

    #[test]
    fn type_default_answers_last() {
        let nothing = [(MEMORY, TierAnswer::Nothing), (COOKIE, TierAnswer::Nothing)];
        let visitor = Facts { has_session: false, in_step: false, ..FACTS };
        let own = "the type's own default answers, if the type has a default";
        assert_eq!(
            said(&nothing, None, visitor),
            [
                "memory: nothing: has no copy: there is no session yet".to_owned(),
                "cookie: nothing: has no copy: there is no session yet".to_owned(),
                format!("default: nothing: no tier answers: {own}")
            ]
        );
        let without = [nothing[0], nothing[1], (DEFAULT, TierAnswer::Nothing)];
        assert_eq!(
            said(&without, None, FACTS)[1..],
            [
                "cookie: nothing: has no copy".to_owned(),
                format!("default: nothing: has no default for this value: {own}")
            ]
        );
    }

    #[test]
    fn cookie_row_explains_server_placement() {
        let facts = Facts { store: Some("redis"), ..FACTS };
        let answers = [(MEMORY, TierAnswer::Value(Some(NEW))), (COOKIE, TierAnswer::Nothing)];
        let rows = rows(&answers, Some(MEMORY), Placement::Server, facts);
        let said: Vec<_> = rows.iter().map(|row| (row.tier, row.answer, row.why.as_str())).collect();
        assert_eq!(
            said,
            [
                (MEMORY, "value", "answers"),
                (COOKIE, "nothing", "never has this value: the value stays on servers by its placement"),
                ("redis", "not_asked", "asked when the session was loaded: the session took over the store's copies")
            ]
        );
    }
}
