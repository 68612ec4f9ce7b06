//! The report of a session to the page: states, sizes and reasons. Nothing in the report identifies a session or a user.

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
    record::{
        life::Lifetime,
        state::{Kind, room::JsonRoom},
        values::Resolution,
    },
    session::{
        Access, Session,
        cookie_size::{self, CookieSize},
        explain::explain,
        read,
        shared::SessionShared,
    },
    time::{Millis, Wall, whole_millis},
    value::{Json, Placement, Scope, ValueError, ValueIndex, ValueSpec},
    writeback::{numbers::is_exact_in_pages, stream::HEARTBEAT_INTERVAL},
};

mod rows;

/// The report of a session. Times are milliseconds since 1970, as the server's clock tells them.
#[derive(PartialEq, Serialize)]
pub(super) struct Report {
    /// All but the values.
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
        // The bytes are those of the entries, with names and versions; the others those of JSON, which may grow by so many.
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
            // How many values ride along that this build does not declare.
            "undeclared": measured.undeclared,
            "chain": tiers(node),
            "resolution": match config.resolution {
                Resolution::Newest => "newest",
                Resolution::FirstHit => "first_hit",
            },
            // Of a session that begins now.
            "lifetime": {
                "idle_ms": whole_millis(idle),
                "absolute_ms": whole_millis(absolute),
                "ends_with_browser": ends_with_browser,
            },
        });
        Self { facts, values }
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
        serde_json::to_string(&Timed { now: now.0, heartbeat: whole_millis(HEARTBEAT_INTERVAL), report: self })
            .unwrap_or_else(|_| "null".to_owned())
    }
}

/// All tiers' names, in the chain's order.
fn tiers(node: &Node) -> Vec<&'static str> {
    let memory = node.memory.iter().map(|_| MEMORY);
    let store = node.store.iter().map(|store| store.name());
    memory.chain([COOKIE]).chain(store).chain(node.config.computed.iter().map(ComputedTier::name)).collect()
}

/// The state of a session that lives.
const LIVE: &str = "live";

/// The session's state and times.
fn life(shared: &SessionShared, measured: &CookieSize, now: Millis) -> serde_json::Value {
    let signed_in = shared.principal(now).is_some();
    let none = json!({ "state": "none", "signed_in": signed_in });
    let Ok(record) = shared.live(now) else { return none };
    let wall = |at| shared.node.time.wall(at).0;
    let expires = wall(record.deadline());
    let Kind::Session { life, .. } = &record.read().kind else { return none };
    json!({
        "state": LIVE,
        "signed_in": signed_in,
        "created": wall(life.created()),
        // If nobody uses it again.
        "expires": expires,
        // At the latest.
        "ends": wall(life.absolute_deadline()),
        "ends_with_browser": life.ends_with_browser(),
        // Whether the browser's cookie has all of it, or has it on the way.
        "in_step": measured.in_step,
    })
}

/// A declared value, as the type itself writes it and not as a source laid it out, with what each tier says of it.
struct Value {
    /// All but the value.
    facts: serde_json::Value,
    /// The answer's bytes, which are compared: a type with a `HashMap` encodes itself otherwise each time.
    answer: Option<Json>,
    normalize: fn(&[u8]) -> Result<Json, ValueError>,
}

impl Value {
    fn of(shared: &SessionShared, index: ValueIndex, declared: &ValueSpec, facts: Facts) -> Self {
        let now = shared.node.now();
        let explanation = explain(shared, index, Access::Peek);
        let read = |json: &[u8]| (declared.check)(json).map(|()| Json::from(json));
        let look = read::stored(shared, index, now, Access::Peek);
        let answer = read::answer(shared, index, &look.stored, now, read);
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
            // For a value with a lifetime of its own.
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

/// The value is a text where a page would round its numbers.
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
