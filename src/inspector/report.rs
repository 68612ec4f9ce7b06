//! The report of a session for the page: states, sizes, reasons and values. The report has no id of a session or a
//! user.

use std::fmt;

use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};
use serde_json::{json, value::RawValue};

use self::rows::{Facts, rows};
use crate::{
    config::{COOKIE, ComputedTier, DEFAULT, MEMORY},
    node::Node,
    record::{life::Lifetime, values::Resolution, write::JsonRoom},
    session::{
        Access, Session,
        cookie_size::{self, CookieSize},
        explain::explain,
        read,
        shared::SessionShared,
    },
    time::{Millis, Wall, whole_millis},
    value::{Json, Placement, Scope, ValueError, ValueIndex, ValueSpec},
    writeback::{body::is_exact_in_pages, stream::HEARTBEAT_INTERVAL},
};

mod rows;

/// The report of a session. Times are milliseconds since 1970 by the server's clock.
#[derive(PartialEq, Serialize)]
pub(super) struct Report {
    /// The report without the values.
    #[serde(flatten)]
    facts: serde_json::Value,
    values: Vec<Value>,
}

impl Report {
    pub(super) fn of(session: &Session) -> Self {
        let shared = session.shared();
        let (node, config) = (&shared.node, &shared.node.config);
        let now = node.now();
        let measured = cookie_size::cookie_size(shared, now);
        // `bytes` counts entries, with names and versions. `json` counts the JSON alone, which can grow by `json_free`.
        let share = |bytes: usize, budget: usize, json: JsonRoom| json!({ "bytes": bytes, "budget": budget, "json": json.used, "json_free": json.free });
        let Lifetime { idle, absolute, ends_with_browser } = config.lifetime;
        let life = life(shared, &measured, now);
        let facts = Facts {
            store: node.store.as_ref().map(|store| store.name()),
            has_session: life["state"] == LIVE,
            in_step: measured.in_step,
        };
        let values = config.schema.iter().map(|(index, declared)| Value::of(shared, index, declared, facts)).collect();
        let facts = json!({
            "session": life,
            "token": {
                "bytes": measured.token,
                "budget": config.cookie.token_budget(),
                "session": share(measured.session, config.budget.session, measured.session_json),
                "principal": share(measured.principal, config.budget.principal, measured.principal_json),
            },
            // The number of values in the cookie that this build does not declare.
            "undeclared": measured.undeclared,
            "chain": tiers(node),
            "resolution": match config.resolution {
                Resolution::Newest => "newest",
                Resolution::FirstHit => "first_hit",
            },
            // The lifetime of a session that begins now.
            "lifetime": {
                "idle_ms": whole_millis(idle),
                "absolute_ms": whole_millis(absolute),
                "ends_with_browser": ends_with_browser,
            },
        });
        Self { facts, values }
    }

    /// Returns the report as JSON, with the server's time and the interval of heartbeats, in milliseconds.
    pub(super) fn told_at(&self, now: Wall) -> impl fmt::Display {
        #[derive(Serialize)]
        struct Timed<'a> {
            now: u64,
            heartbeat: u64,
            #[serde(flatten)]
            report: &'a Report,
        }
        // The values are JSON already, and the facts always encode.
        serde_json::to_string(&Timed { now: now.0, heartbeat: whole_millis(HEARTBEAT_INTERVAL), report: self })
            .unwrap_or_else(|_| "null".to_owned())
    }
}

/// Returns the names of all tiers, in the chain's order.
fn tiers(node: &Node) -> Vec<&'static str> {
    let memory = node.memory.iter().map(|_| MEMORY);
    let store = node.store.iter().map(|store| store.name());
    memory.chain([COOKIE]).chain(store).chain(node.config.computed.iter().map(ComputedTier::name)).collect()
}

/// The state of a live session.
const LIVE: &str = "live";

/// Returns the session's state and times.
fn life(shared: &SessionShared, measured: &CookieSize, now: Millis) -> serde_json::Value {
    let signed_in = shared.principal(now).is_some();
    let none = json!({ "state": "none", "signed_in": signed_in });
    let Ok(record) = shared.live(now) else { return none };
    let wall = |at| shared.node.time.wall(at).0;
    let state = record.read();
    let Some(life) = state.life() else { return none };
    json!({
        "state": LIVE,
        "signed_in": signed_in,
        "created": wall(life.created()),
        // The end without a further use.
        "expires": wall(state.deadline(record.used())),
        // The latest end, however much the session is used.
        "ends": wall(life.absolute_deadline()),
        "ends_with_browser": life.ends_with_browser(),
        // Whether the browser's cookie has the whole session, or gets the whole session by a cookie on the way.
        "in_step": measured.in_step,
    })
}

/// A declared value, with each tier's answer. The type encodes the value, since a source may format its JSON in another
/// way.
struct Value {
    /// The facts about the value, without the value.
    facts: serde_json::Value,
    /// The answer's bytes. Reports compare these: a type with a `HashMap` may encode the same value in another order.
    answer: Option<Json>,
    normalize: fn(&[u8]) -> Result<Json, ValueError>,
}

impl Value {
    fn of(shared: &SessionShared, index: ValueIndex, declared: &ValueSpec, facts: Facts) -> Self {
        let now = shared.node.now();
        let explanation = explain(shared, index, Access::Peek);
        let read = |json: &[u8]| (declared.check)(json).map(|()| Json::from(json));
        let look = read::stored(shared, index, now, Access::Peek);
        let answer = read::answer(shared, index, &look, now, read);
        let expires = declared.max_age.and_then(|_| read::value_ends(shared, index, now));
        let answers: Vec<_> = explanation.answers().collect();
        let facts = json!({
            "name": declared.name,
            "scope": match declared.scope {
                Scope::Session => "session",
                Scope::Principal => "principal",
            },
            "placement": match declared.placement {
                Placement::Everywhere => "everywhere",
                Placement::Server => "server",
                Placement::Volatile => "volatile",
            },
            "max_age_ms": declared.max_age.map(whole_millis),
            // Present for a value with a lifetime of its own.
            "expires": expires.map(|end| shared.node.time.wall(end).0),
            "winner": explanation.winner().unwrap_or(DEFAULT),
            "tiers": rows(&answers, explanation.winner(), declared.placement, facts),
        });
        Self { facts, answer: answer.map(|(json, _)| json), normalize: declared.normalize }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        (&self.facts, &self.answer) == (&other.facts, &other.answer)
    }
}

/// Writes the value as a text (`text`) if a page would round a number in the value.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = self.answer.as_ref().and_then(|json| (self.normalize)(json).ok());
        let raw = json.as_deref().map(serde_json::from_slice::<&RawValue>).transpose().map_err(S::Error::custom)?;
        let is_exact = json.as_deref().is_none_or(is_exact_in_pages);
        let mut map = serializer.serialize_map(None)?;
        self.facts.as_object().into_iter().flatten().try_for_each(|(name, fact)| map.serialize_entry(name, fact))?;
        map.serialize_entry("value", &raw.filter(|_| is_exact))?;
        if let Some(raw) = raw.filter(|_| !is_exact) {
            map.serialize_entry("text", raw.get())?;
        }
        map.end()
    }
}
