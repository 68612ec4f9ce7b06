//! The state of a record: pruning of removals and expired values, the copy that the cookie carries, the change count.

use std::sync::{Arc, LazyLock};

use super::*;
use crate::{
    id::RecordKey,
    memory::record::Record,
    node_clock::NodeClock,
    record::{
        change::{BudgetShare, Mutation, WriteContext, WriteScope},
        life::Lifetime,
    },
    time::Wall,
    value::{Json, SessionValue},
};

#[derive(serde::Serialize, serde::Deserialize)]
struct Text(String);

impl SessionValue for Text {
    const NAME: &'static str = "text";
}

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const NOW: Millis = Millis(10_000 * DAY);
/// The version of the last write of [`removed`].
const NEWEST: Version = Version::at(Wall(NOW.0 + 1));

static TIME: LazyLock<NodeClock> =
    LazyLock::new(|| NodeClock::new(Arc::new(crate::time::TokioClock), Duration::from_millis(HOUR)));

fn schema() -> Schema {
    let mut schema = Schema::default();
    schema.push(ValueSpec::of::<Text>());
    schema
}

fn context(schema: &Schema, now: u64) -> WriteContext<'_> {
    WriteContext {
        schema,
        now: Millis(NOW.0 + now),
        time: &TIME,
        scope: WriteScope::Values,
        budget: 1 << 20,
        max_budget: 1 << 20,
        share: BudgetShare::Ordinary,
        reserved: None,
        store_stamps: false,
        stamp: None,
        tombstones: Duration::from_millis(DAY + HOUR),
    }
}

fn life(idle: u64) -> SessionLife {
    let lifetime = Lifetime::new(Duration::from_millis(idle), Duration::from_millis(90 * DAY)).unwrap();
    SessionLife::begin(Version::at(Wall(NOW.0)), NOW, lifetime)
}

fn session(life: SessionLife) -> State {
    State::new(Kind::Session { life, browser: CookieSync::default() })
}

fn kept(version: Version, json: Option<&str>) -> StoredValue {
    StoredValue::new(version, json.map(|json| Json::from(json.as_bytes())), NOW)
}

/// A copy that this build can't read.
fn unreadable(version: Version) -> ValueSlot {
    ValueSlot { readable: Some(false), ..ValueSlot::incoming(0, kept(version, Some("1"))) }
}

fn change(json: Option<&str>) -> Mutation {
    let json = json.map(|json| Json::from(json.as_bytes()));
    Mutation { index: 0, name: Text::NAME, json, version: None, replaces: None }
}

/// A session after the removal of a declared and an undeclared value.
fn removed(life: SessionLife) -> State {
    let mut state = session(life);
    state.values.put(ValueSlot::local(0, kept(Version::at(Wall(NOW.0)), None)));
    state.values.merge_undeclared("other", kept(NEWEST, None));
    state
}

#[test]
fn tombstones_outlast_longest_cookie() {
    let schema = schema();
    for (idle, longest) in [(HOUR, DAY + HOUR), (5 * DAY, 5 * DAY + HOUR)] {
        let mut state = removed(life(idle));
        state.prune(context(&schema, longest));
        assert!(state.values.slot(0).is_some() && state.values.undeclared().next().is_some(), "{idle}");
        state.prune(context(&schema, longest + 1));
        assert!(state.values.is_empty(), "{idle}");
        assert_eq!(state.values.newest(), NEWEST, "the newest version outlives its removal");
    }
}

#[test]
fn tombstones_outlast_cookies_of_previous_lifetime() {
    let schema = schema();
    let mut life = life(30 * DAY);
    let short = Lifetime::new(Duration::from_millis(HOUR), Duration::from_millis(60 * DAY)).unwrap();
    life.set_lifetime(short, Version::at(Wall(NOW.0)), Millis(NOW.0 + 30 * DAY));
    let mut state = removed(life);
    state.prune(context(&schema, 30 * DAY - 1));
    assert!(state.values.slot(0).is_some() && state.values.undeclared().next().is_some());
    state.prune(context(&schema, 30 * DAY));
    assert!(state.values.is_empty());
}

#[test]
fn expired_value_keeps_its_version() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Brief(u8);
    impl SessionValue for Brief {
        const NAME: &'static str = "brief";
        const MAX_AGE: Option<Duration> = Some(Duration::from_secs(1));
    }
    let mut schema = Schema::default();
    schema.push(ValueSpec::of::<Brief>());
    let mut state = session(life(DAY));
    state.values.put(ValueSlot::local(0, kept(Version::at(Wall(NOW.0)), Some("1"))));
    state.prune(context(&schema, 1000));
    assert!(state.values.is_empty());
    assert_eq!(state.values.newest(), Version::at(Wall(NOW.0)));
}

#[test]
fn cookie_carries_newest_copy() {
    let schema = schema();
    for (declared, unread) in [(1, 2), (2, 1), (1, 1)] {
        let version = Version::from_u64;
        let mut state = session(life(DAY));
        state.values.put(ValueSlot::local(0, kept(version(declared), Some("\"a\""))));
        state.values.merge(unreadable(version(unread)), Resolution::Newest);
        let carried: Vec<_> = state.cookie_entries(&schema).map(|(name, stored)| (name, stored.version)).collect();
        assert_eq!(carried, [(Text::NAME, version(declared.max(unread)))]);
    }
}

#[test]
fn write_drops_unreadable_copy() {
    let schema = schema();
    let mut state = session(life(DAY));
    state.values.put(ValueSlot::local(0, kept(Version::at(Wall(NOW.0)), Some("\"b\""))));
    state.values.merge(unreadable(NEWEST), Resolution::Newest);
    state.values.merge_undeclared("other", kept(NEWEST, Some("1")));
    assert!(state.values.unread(0).is_some());
    state.apply(&[change(Some("\"a\""))], NEWEST.next(), context(&schema, 2));
    assert_eq!(state.values.undeclared().map(|(name, _)| name).collect::<Vec<_>>(), ["other"]);
    assert!(state.values.unread(0).is_none());
}

#[test]
fn successor_keeps_the_change_count() {
    let mut state = session(life(DAY));
    (0..3).for_each(|_| state.count_change());
    assert_eq!(state.successor_state(life(DAY)).changes, 3);
}

#[test]
fn commit_prunes_expired_removals() {
    let schema = schema();
    let key = RecordKey([1; 32]);
    let record = Record::session(key, life(50 * DAY), NOW);
    record.write().values.merge_undeclared("other", kept(NEWEST, None));
    record.commit(&[change(Some("\"a\""))], context(&schema, DAY)).unwrap();
    assert!(record.read().values.undeclared().next().is_some());
    record.touch(Millis(NOW.0 + 40 * DAY));
    record.commit(&[change(Some("\"b\""))], context(&schema, 51 * DAY)).unwrap();
    assert!(record.read().values.undeclared().next().is_none());
}
