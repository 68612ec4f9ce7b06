//! What the page is told of a session: states, sizes and reasons. Nothing by which a session or a user could be found.

use std::{fmt, time::Duration};

use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};
use serde_json::value::RawValue;

use crate::{
    config::{COOKIE, ComputedTier, DEFAULT, MEMORY},
    node::Node,
    record::{
        life::Lifetime,
        state::{Kind, room::JsonRoom},
        values::Resolution,
    },
    session::{
        Access, Session,
        cookie_size::{self, CookieSize},
        explain::{TierAnswer, explain},
        read,
        shared::SessionShared,
    },
    time::{Millis, Wall},
    value::{Json, Placement, Scope, ValueError, ValueIndex, ValueSpec},
    version::Version,
    writeback::{numbers::is_exact_in_pages, stream::HEARTBEAT_INTERVAL},
};

/// All of it. Times are milliseconds since 1970, as the server's clock tells them.
#[derive(PartialEq, Serialize)]
pub(super) struct Report {
    session: Life,
    token: Token,
    values: Vec<Value>,
    /// How many values ride along that this build does not declare.
    undeclared: usize,
    chain: Vec<&'static str>,
    resolution: &'static str,
    /// The lifetimes of a session that begins now.
    lifetime: Lifetimes,
}

#[derive(PartialEq, Serialize)]
struct Life {
    state: &'static str,
    signed_in: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    lived: Option<Lived>,
}

#[derive(PartialEq, Serialize)]
struct Lived {
    created: u64,
    /// If nobody uses it again.
    expires: u64,
    /// At the latest.
    ends: u64,
    ends_with_browser: bool,
    /// Whether the browser's cookie has all of it, or has it on the way.
    in_step: bool,
}

/// Milliseconds.
#[derive(PartialEq, Serialize)]
struct Lifetimes {
    idle_ms: u64,
    absolute_ms: u64,
    ends_with_browser: bool,
}

#[derive(PartialEq, Serialize)]
struct Token {
    bytes: usize,
    budget: usize,
    session: Share,
    principal: Share,
}

#[derive(PartialEq, Serialize)]
struct Share {
    /// Of the entries, with names and versions.
    bytes: usize,
    budget: usize,
    /// Bytes of JSON that the values have.
    json: usize,
    /// Bytes of JSON by which the values may grow.
    json_free: usize,
}

#[derive(PartialEq, Serialize)]
struct Value {
    name: &'static str,
    scope: &'static str,
    placement: &'static str,
    max_age_ms: Option<u64>,
    /// Where it has a lifetime of its own.
    expires: Option<u64>,
    #[serde(flatten)]
    shown: Shown,
    winner: &'static str,
    tiers: Vec<Row>,
}

/// What one tier says, and why that is not the answer, or is.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    tier: &'static str,
    answer: &'static str,
    #[serde(serialize_with = "as_text")]
    version: Option<Version>,
    why: String,
}

fn as_text<S: Serializer>(version: &Option<Version>, serializer: S) -> Result<S::Ok, S::Error> {
    version.map(|version| version.to_string()).serialize(serializer)
}

/// A value as the type itself writes it, and not as a source laid it out; as a text where a page would round its numbers.
struct Shown {
    /// The answer's bytes, which are compared: a type with a `HashMap` encodes itself otherwise each time.
    answer: Option<Json>,
    normalize: fn(&[u8]) -> Result<Json, ValueError>,
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.answer == other.answer
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = self.answer.as_ref().and_then(|json| (self.normalize)(json).ok());
        let raw = json.as_deref().map(serde_json::from_slice::<&RawValue>).transpose().map_err(S::Error::custom)?;
        let is_exact = json.as_deref().is_none_or(is_exact_in_pages);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("value", &raw.filter(|_| is_exact))?;
        if let Some(raw) = raw.filter(|_| !is_exact) {
            map.serialize_entry("text", raw.get())?;
        }
        map.end()
    }
}

impl Report {
    pub(super) fn of(session: &Session) -> Self {
        let shared = session.shared();
        let node = &shared.node;
        let now = node.now();
        let measured = cookie_size::cookie_size(shared, now);
        let share = |bytes, budget, json: JsonRoom| Share { bytes, budget, json: json.used, json_free: json.free };
        let session = Life::of(shared, &measured, now);
        let store = node.store.as_ref().map(|store| store.name());
        let facts = Facts { store, has_session: session.lived.is_some(), in_step: measured.in_step };
        Self {
            session,
            token: Token {
                bytes: measured.token,
                budget: node.config.cookie.token_budget(),
                session: share(measured.session, node.config.budget.session, measured.session_json),
                principal: share(measured.principal, node.config.budget.principal, measured.principal_json),
            },
            values: node
                .config
                .schema
                .iter()
                .map(|(index, declared)| Value::of(shared, index, declared, facts))
                .collect(),
            undeclared: measured.undeclared,
            chain: tiers(node),
            resolution: match node.config.resolution {
                Resolution::Newest => "newest",
                Resolution::FirstHit => "first_hit",
            },
            lifetime: Lifetimes::of(node.config.lifetime),
        }
    }

    /// As JSON, with the server's time and the heartbeats' interval beside it, in milliseconds.
    pub(super) fn told_at(&self, now: Wall) -> impl fmt::Display {
        #[derive(Serialize)]
        struct Timed<'a> {
            now: u64,
            heartbeat: u64,
            #[serde(flatten)]
            report: &'a Report,
        }
        // Values are JSON already and the rest always encodes.
        serde_json::to_string(&Timed { now: now.0, heartbeat: millis(HEARTBEAT_INTERVAL), report: self })
            .unwrap_or_else(|_| "null".to_owned())
    }
}

/// All tiers' names, in the chain's order.
fn tiers(node: &Node) -> Vec<&'static str> {
    let memory = node.memory.iter().map(|_| MEMORY);
    let store = node.store.iter().map(|store| store.name());
    memory.chain([COOKIE]).chain(store).chain(node.config.computed.iter().map(ComputedTier::name)).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Lifetimes {
    fn of(Lifetime { idle, absolute, ends_with_browser }: Lifetime) -> Self {
        Self { idle_ms: millis(idle), absolute_ms: millis(absolute), ends_with_browser }
    }
}

impl Life {
    fn of(shared: &SessionShared, measured: &CookieSize, now: Millis) -> Self {
        let record = shared.live(now).ok();
        let lived = record.as_ref().and_then(|record| {
            let wall = |at| shared.node.time.wall(at).0;
            let expires = wall(record.deadline());
            let Kind::Session { life, .. } = &record.read().kind else { return None };
            Some(Lived {
                created: wall(life.created()),
                expires,
                ends: wall(life.absolute_deadline()),
                ends_with_browser: life.ends_with_browser(),
                in_step: measured.in_step,
            })
        });
        let state = if lived.is_some() { "live" } else { "none" };
        Self { state, signed_in: shared.principal(now).is_some(), lived }
    }
}

impl Value {
    fn of(shared: &SessionShared, index: ValueIndex, declared: &ValueSpec, facts: Facts) -> Self {
        let now = shared.node.now();
        let explanation = explain(shared, index, Access::Peek);
        let read = |json: &[u8]| (declared.check)(json).map(|()| Json::from(json));
        let (answer, _) = read::resolve(shared, index, now, Access::Peek, read);
        Self {
            name: declared.name,
            scope: match declared.scope {
                Scope::Session => "session",
                Scope::Principal => "principal",
            },
            placement: match declared.placement {
                Placement::Everywhere => "everywhere",
                Placement::Server => "server",
                Placement::Volatile => "volatile",
            },
            max_age_ms: declared.max_age.map(millis),
            expires: declared
                .max_age
                .and_then(|_| read::value_ends(shared, index, now))
                .map(|end| shared.node.time.wall(end).0),
            shown: Shown { answer: answer.map(|(json, _)| json), normalize: declared.normalize },
            winner: explanation.winner().unwrap_or(DEFAULT),
            tiers: rows(&explanation.answers().collect::<Vec<_>>(), explanation.winner(), declared.placement, facts),
        }
    }
}

/// What holds for all values of a session.
#[derive(Clone, Copy)]
struct Facts {
    store: Option<&'static str>,
    has_session: bool,
    in_step: bool,
}

/// Each tier's answer with its reason, in the chain's order. This is the one place that words them.
fn rows(
    answers: &[(&'static str, TierAnswer)],
    winner: Option<&'static str>,
    placement: Placement,
    facts: Facts,
) -> Vec<Row> {
    let is_stored = |tier: &str| matches!(tier, MEMORY | COOKIE);
    // Memory and cookie are joined when a request comes: of what they have together one is the source.
    let source = answers.iter().copied().find(|(tier, answer)| is_stored(tier) && *answer != TierAnswer::Nothing);
    let mut rows = Vec::new();
    for &(tier, answer) in answers {
        let is_source = source.is_some_and(|(source, _)| source == tier);
        let (answer, why) = match (tier, answer) {
            (MEMORY | COOKIE, _) if is_source => (answer, held(answer)),
            (MEMORY | COOKIE, _) => beside(tier, answer, source.map(|(_, answer)| answer), placement, facts),
            (_, _) if winner == Some(tier) => (answer, "answers, since no stored tier does".to_owned()),
            (_, TierAnswer::NotValid) => (answer, "passed over: its answer is not valid".to_owned()),
            (DEFAULT, TierAnswer::Nothing) if winner.is_none() => {
                (answer, "has no rule for it: the type's own default stands in, if it has one".to_owned())
            }
            (DEFAULT, TierAnswer::Nothing) => (answer, "has no rule for it".to_owned()),
            (_, TierAnswer::Nothing) => (answer, "has no answer for it".to_owned()),
            (_, _) => match winner {
                Some(winner) if !is_stored(winner) => (answer, format!("not asked: {winner} comes first")),
                _ => (answer, "not asked: a stored tier answers".to_owned()),
            },
        };
        rows.push(Row::new(tier, answer, why));
        if tier == COOKIE
            && let Some(store) = facts.store
        {
            let why = "asked when the session was loaded: what it had is in memory".to_owned();
            rows.push(Row { tier: store, answer: "not_asked", version: None, why });
        }
    }
    if winner.is_none() && rows.iter().all(|row| row.tier != DEFAULT) {
        let why = "no tier answers: the type's own default stands in, if it has one".to_owned();
        rows.push(Row::new(DEFAULT, TierAnswer::Nothing, why));
    }
    rows
}

/// Of the tier whose copy it is.
fn held(answer: TierAnswer) -> String {
    match answer {
        TierAnswer::Removed(_) => "removed here: no stored tier answers",
        TierAnswer::NotValid => "passed over: its copy is not valid",
        TierAnswer::Value(_) | TierAnswer::Nothing => "answers",
    }
    .to_owned()
}

/// Of the other of the two.
fn beside(
    tier: &str,
    answer: TierAnswer,
    source: Option<TierAnswer>,
    placement: Placement,
    facts: Facts,
) -> (TierAnswer, String) {
    let (answer, why) = match (tier, placement, source) {
        (COOKIE, Placement::Server | Placement::Volatile, _) => (answer, "never has it: it is placed on servers only"),
        (_, _, None) if !facts.has_session => (answer, "has no copy: there is no session yet"),
        (_, _, None) => (answer, "has no copy"),
        (COOKIE, _, Some(_)) if answer == TierAnswer::NotValid => (answer, "newer, but not valid"),
        (COOKIE, _, Some(_)) if answer != TierAnswer::Nothing => (answer, "newer, but memory comes first"),
        (COOKIE, _, Some(source @ TierAnswer::Removed(_))) if facts.in_step => (source, "knows of the removal too"),
        (COOKIE, _, Some(source)) if facts.in_step => (source, "has the same copy"),
        (COOKIE, _, Some(_)) => (answer, "has nothing newer: the next response brings it up to date"),
        (_, _, Some(_)) => (answer, "had nothing newer: it has taken over the cookie's copy"),
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
        Self { tier, answer, version, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts { store: None, has_session: true, in_step: true };
    const OLD: Version = Version::from_u64(1 << 16);
    const NEW: Version = Version::from_u64(2 << 16);

    /// Each tier's answer, version and reason, as text.
    fn said(answers: &[(&'static str, TierAnswer)], winner: Option<&'static str>, facts: Facts) -> Vec<String> {
        let rows = rows(answers, winner, Placement::Everywhere, facts);
        let text = |Row { tier, answer, version, why }| match version {
            Some(version) => format!("{tier}: {answer} {version}: {why}"),
            None => format!("{tier}: {answer}: {why}"),
        };
        rows.into_iter().map(text).collect()
    }

    #[test]
    fn of_memory_and_cookie_one_is_the_source() {
        let (value, nothing) = (TierAnswer::Value(Some(NEW)), TierAnswer::Nothing);
        assert_eq!(
            said(&[(MEMORY, value), (COOKIE, nothing)], Some(MEMORY), FACTS),
            ["memory: value 2.0: answers", "cookie: value 2.0: has the same copy"]
        );
        let behind = Facts { in_step: false, ..FACTS };
        assert_eq!(
            said(&[(MEMORY, value), (COOKIE, nothing)], Some(MEMORY), behind),
            [
                "memory: value 2.0: answers",
                "cookie: nothing: has nothing newer: the next response brings it up to date"
            ]
        );
        assert_eq!(
            said(&[(MEMORY, nothing), (COOKIE, value)], Some(COOKIE), FACTS),
            ["memory: nothing: had nothing newer: it has taken over the cookie's copy", "cookie: value 2.0: answers"]
        );
        let older = TierAnswer::Value(Some(OLD));
        assert_eq!(
            said(&[(MEMORY, older), (COOKIE, value)], Some(MEMORY), behind),
            ["memory: value 1.0: answers", "cookie: value 2.0: newer, but memory comes first"]
        );
    }

    #[test]
    fn what_no_stored_tier_answers_a_computed_one_does() {
        let (value, nothing) = (TierAnswer::Value(None), TierAnswer::Nothing);
        let removed = [(MEMORY, TierAnswer::Removed(NEW)), (COOKIE, nothing), ("tenant", value), (DEFAULT, value)];
        assert_eq!(
            said(&removed, Some("tenant"), FACTS),
            [
                "memory: removed 2.0: removed here: no stored tier answers",
                "cookie: removed 2.0: knows of the removal too",
                "tenant: value: answers, since no stored tier does",
                "default: value: not asked: tenant comes first"
            ]
        );
        let invalid =
            [(MEMORY, TierAnswer::NotValid), (COOKIE, nothing), ("tenant", TierAnswer::NotValid), (DEFAULT, value)];
        assert_eq!(
            said(&invalid, Some(DEFAULT), FACTS),
            [
                "memory: not_valid: passed over: its copy is not valid",
                "cookie: not_valid: has the same copy",
                "tenant: not_valid: passed over: its answer is not valid",
                "default: value: answers, since no stored tier does"
            ]
        );
        let stored = [(MEMORY, TierAnswer::Value(Some(NEW))), (COOKIE, nothing), ("tenant", nothing), (DEFAULT, value)];
        assert_eq!(
            said(&stored, Some(MEMORY), FACTS)[2..],
            ["tenant: nothing: has no answer for it", "default: value: not asked: a stored tier answers"]
        );
    }

    #[test]
    fn where_nothing_answers_the_type_itself_does() {
        let nothing = [(MEMORY, TierAnswer::Nothing), (COOKIE, TierAnswer::Nothing)];
        let visitor = Facts { has_session: false, in_step: false, ..FACTS };
        let own = "the type's own default stands in, if it has one";
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
            ["cookie: nothing: has no copy".to_owned(), format!("default: nothing: has no rule for it: {own}")]
        );
    }

    #[test]
    fn what_a_browser_never_carries_is_not_looked_for_there() {
        let facts = Facts { store: Some("redis"), ..FACTS };
        let answers = [(MEMORY, TierAnswer::Value(Some(NEW))), (COOKIE, TierAnswer::Nothing)];
        let rows = rows(&answers, Some(MEMORY), Placement::Server, facts);
        let said: Vec<_> = rows.iter().map(|row| (row.tier, row.answer, row.why.as_str())).collect();
        assert_eq!(
            said,
            [
                (MEMORY, "value", "answers"),
                (COOKIE, "nothing", "never has it: it is placed on servers only"),
                ("redis", "not_asked", "asked when the session was loaded: what it had is in memory")
            ]
        );
    }
}
