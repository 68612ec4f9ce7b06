//! The values of one owner, and the rules by which copies of them meet.
//!
//! Joining by version is commutative, associative and idempotent: any order and repetition of the same carried changes
//! ends in the same values, which is what relays, replays and fills rely on.

use std::{convert::Infallible, time::Duration};

use super::judge::{Judge, Meeting};
use crate::node_clock::NodeClock;
use crate::{
    time::Millis,
    value::{Json, Schema, ValueIndex},
    version::Version,
};

/// One value as a tier has it: bytes, or the tombstone of a removal.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredValue {
    pub(crate) version: Version,
    pub(crate) json: Option<Json>,
    /// When it was written, as far as can be said: see [`NodeClock::written`](super::time::NodeClock::written).
    pub(crate) written: Millis,
}

impl StoredValue {
    pub(crate) const fn new(version: Version, json: Option<Json>, written: Millis) -> Self {
        Self { version, json, written }
    }

    /// Whether a carried copy takes this one's place. At equal versions a removal wins, then the greater bytes, so that
    /// every node decides alike.
    pub(super) fn loses_to(&self, other: &Self) -> bool {
        let rank = |stored: &Self| (stored.version, stored.json.is_none());
        match rank(other).cmp(&rank(self)) {
            std::cmp::Ordering::Equal => other.json > self.json,
            order => order.is_gt(),
        }
    }

    pub(crate) fn expires(&self, max_age: Option<Duration>) -> Option<Millis> {
        max_age.map(|age| self.written.after(age))
    }
}

/// Never the bytes.
impl std::fmt::Debug for StoredValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("version", &self.version)
            .field("bytes", &self.json.as_ref().map(|json| json.len()))
            .finish_non_exhaustive()
    }
}

/// How a change came to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeOrigin {
    /// Written here, by the application or an allowed POST: exactly one node says so of a write.
    Local,
    /// Written elsewhere, or here before a restart, and brought by a cookie, a relay token or the shared store.
    Remote,
}

/// All values of one owner.
///
/// Most sessions hold one value, which stands in place; what few owners have is a pointer away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    slots: Slots,
    rare: Option<Box<RareState>>,
}

/// Declared values, in the order of their numbers.
#[derive(Clone, Debug)]
enum Slots {
    One(ValueSlot),
    Some(Vec<ValueSlot>),
}

#[derive(Clone, Debug)]
struct ValueSlot {
    index: ValueIndex,
    origin: ChangeOrigin,
    /// The count of the record's changes when it came, which tells it from another copy of the same version.
    change: u32,
    value: StoredValue,
}

impl ValueSlot {
    /// Whether this build can read a copy that meets here, if no verdict is needed for that: what was written on this node
    /// it can. So nobody waits for a verdict on what is written again and again.
    fn can_read(&self, stored: &StoredValue, judge: &Judge<'_>) -> Result<bool, (ValueIndex, Json)> {
        let ours = self.origin == ChangeOrigin::Local && std::ptr::eq(&self.value, stored);
        if ours { Ok(true) } else { judge.can_read(self.index, stored) }
    }
}

#[derive(Clone, Debug, Default)]
struct RareState {
    /// What this build can't read: undeclared names, and copies that don't decode. They ride along, so that a rolling
    /// deploy loses nothing.
    undeclared: Vec<(Box<str>, StoredValue)>,
    /// The newest version known of this owner of which there is no copy here.
    newest_seen: Version,
    cleared: Version,
}

impl Default for Slots {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Slots {
    fn as_slice(&self) -> &[ValueSlot] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Some(slots) => slots,
        }
    }

    const fn as_mut_slice(&mut self) -> &mut [ValueSlot] {
        match self {
            Self::One(slot) => std::slice::from_mut(slot),
            Self::Some(slots) => slots.as_mut_slice(),
        }
    }

    fn at(&mut self, at: usize) -> Option<&mut ValueSlot> {
        self.as_mut_slice().get_mut(at)
    }

    fn insert(&mut self, at: usize, slot: ValueSlot) {
        match std::mem::take(self) {
            Self::One(first) => {
                let mut slots = Vec::with_capacity(2);
                slots.push(first);
                slots.insert(at, slot);
                *self = Self::Some(slots);
            }
            Self::Some(slots) if slots.capacity() == 0 => *self = Self::One(slot),
            Self::Some(mut slots) => {
                slots.insert(at, slot);
                *self = Self::Some(slots);
            }
        }
    }

    fn retain(&mut self, mut keep: impl FnMut(&ValueSlot) -> bool) {
        match self {
            Self::One(slot) if !keep(slot) => *self = Self::default(),
            Self::One(_) => {}
            Self::Some(slots) => slots.retain(keep),
        }
    }
}

impl Values {
    pub(crate) fn get(&self, index: ValueIndex) -> Option<&StoredValue> {
        self.slot(index).map(|slot| &slot.value)
    }

    fn slot(&self, index: ValueIndex) -> Option<&ValueSlot> {
        self.position(index).ok().and_then(|at| self.slots.as_slice().get(at))
    }

    /// How a declared value came here, whatever it is now.
    pub(crate) fn origin(&self, index: ValueIndex) -> ChangeOrigin {
        self.slot(index).map_or(ChangeOrigin::Remote, |slot| slot.origin)
    }

    /// Which of its record's changes brought what stands there.
    pub(crate) fn change(&self, index: ValueIndex) -> u32 {
        self.slot(index).map_or(0, |slot| slot.change)
    }

    /// Notes that this node wrote what stands there, though its version came from a store.
    pub(crate) fn mark_local(&mut self, index: ValueIndex) {
        if let Some(slot) = self.position(index).ok().and_then(|at| self.slots.at(at)) {
            slot.origin = ChangeOrigin::Local;
        }
    }

    fn position(&self, index: ValueIndex) -> Result<usize, usize> {
        self.slots.as_slice().binary_search_by_key(&index, |slot| slot.index)
    }

    pub(crate) fn declared(&self) -> impl Iterator<Item = (ValueIndex, &StoredValue)> + Clone {
        self.slots.as_slice().iter().map(|slot| (slot.index, &slot.value))
    }

    pub(crate) fn undeclared(&self) -> impl Iterator<Item = (&str, &StoredValue)> + Clone {
        let opaque = self.rare.as_ref().map_or(&[][..], |rest| &rest.undeclared);
        opaque.iter().map(|(name, stored)| (&**name, stored))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.as_slice().is_empty() && self.undeclared().next().is_none()
    }

    /// The newest version ever known of this owner: fresh writes go above it.
    pub(crate) fn newest(&self) -> Version {
        let observed = self.rare.as_ref().map_or(Version::ZERO, |rest| rest.newest_seen);
        self.newest_stored().max(observed)
    }

    fn newest_stored(&self) -> Version {
        let declared = self.declared().map(|(_, stored)| stored.version);
        declared.chain(self.undeclared().map(|(_, stored)| stored.version)).max().unwrap_or_default()
    }

    /// Notes a version of which nothing may be kept here.
    pub(crate) fn note_version(&mut self, version: Version) {
        if version > self.newest() {
            self.rare().newest_seen = version;
        }
    }

    /// When the application last cleared it.
    pub(crate) fn cleared(&self) -> Version {
        self.rare.as_ref().map_or(Version::ZERO, |rest| rest.cleared)
    }

    pub(crate) fn note_cleared(&mut self, version: Version) {
        self.rare().cleared = version;
    }

    fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// A fresh write: the version is above all others here, so the write replaces any copy, an unreadable copy of the
    /// name too.
    pub(crate) fn write(&mut self, index: ValueIndex, name: &str, stored: StoredValue, change: u32) {
        if let Some(rest) = &mut self.rare {
            rest.undeclared.retain(|(opaque, _)| **opaque != *name);
        }
        let slot = ValueSlot { index, origin: ChangeOrigin::Local, change, value: stored };
        match self.position(index) {
            Ok(at) => {
                if let Some(place) = self.slots.at(at) {
                    *place = slot;
                }
            }
            Err(at) => self.slots.insert(at, slot),
        }
    }

    /// So many are about to come.
    pub(crate) fn reserve(&mut self, copies: usize) {
        if let Slots::Some(slots) = &mut self.slots
            && copies > 1
            && slots.is_empty()
        {
            slots.reserve_exact(copies);
        }
    }

    /// What has to be judged before these copies can be joined.
    pub(crate) fn unjudged(
        &self,
        brought: impl Iterator<Item = (ValueIndex, StoredValue)>,
        judge: &Judge<'_>,
    ) -> Vec<(ValueIndex, Json)> {
        let meets = |(index, stored): (_, StoredValue)| {
            let slot = self.slot(index)?;
            slot.value.meet(&stored, |stored| slot.can_read(stored, judge)).err()
        };
        // Most of what is opened comes to a record that is empty, and isn't copied to be compared with nothing.
        if self.is_empty() { Vec::new() } else { brought.filter_map(meets).collect() }
    }

    /// A carried change: applies only if newer. Says whether anything changed.
    ///
    /// A newer copy that this build can't read does not hide the one that it can: it is kept beside it.
    pub(crate) fn merge(&mut self, index: ValueIndex, stored: StoredValue, change: u32, judge: &Judge<'_>) -> bool {
        let at = match self.position(index) {
            Err(at) => {
                self.slots.insert(at, ValueSlot { index, origin: ChangeOrigin::Remote, change, value: stored });
                return true;
            }
            Ok(at) => at,
        };
        let name = judge.schema.get(index).name;
        let Some(slot) = self.slots.at(at) else { return false };
        // Unjudged is only what came twice at once, which a store should not do: then the newer one stands.
        let readable = |stored: &StoredValue| Ok::<_, Infallible>(slot.can_read(stored, judge).unwrap_or(true));
        let Ok(meeting) = slot.value.meet(&stored, readable);
        match meeting {
            Meeting::Stays => false,
            Meeting::Yields => {
                *slot = ValueSlot { index, origin: ChangeOrigin::Remote, change, value: stored };
                true
            }
            Meeting::Accompanied => self.merge_undeclared(name, stored),
            Meeting::Accompanies => {
                let newer =
                    std::mem::replace(slot, ValueSlot { index, origin: ChangeOrigin::Remote, change, value: stored });
                self.merge_undeclared(name, newer.value);
                true
            }
        }
    }

    pub(crate) fn merge_undeclared(&mut self, name: &str, stored: StoredValue) -> bool {
        let opaque = &mut self.rare().undeclared;
        match opaque.iter_mut().find(|(opaque, _)| **opaque == *name) {
            None => opaque.push((name.into(), stored)),
            Some((_, mine)) if mine.loses_to(&stored) => *mine = stored,
            Some(_) => return false,
        }
        true
    }

    /// Drops what nobody can need any more: values past their own lifetime, and tombstones written before `tombstones`.
    pub(crate) fn prune(&mut self, schema: &Schema, now: Millis, tombstones: Millis) {
        let newest = self.newest();
        self.slots.retain(|ValueSlot { index, value: stored, .. }| {
            let dead = stored.expires(schema.get(*index).max_age).is_some_and(|end| end <= now);
            !dead && (stored.json.is_some() || stored.written >= tombstones)
        });
        if let Some(rest) = &mut self.rare {
            rest.undeclared.retain(|(_, stored)| stored.json.is_some() || stored.written >= tombstones);
        }
        self.note_version(newest);
    }

    /// Gives copies whose versions are further ahead than the allowed skew the version of the time when they were written.
    pub(crate) fn correct_future_versions(&mut self, time: &NodeClock, now: Millis) {
        let bound = time.bound(now);
        if self.newest() <= bound {
            return;
        }
        let right = |stored: &mut StoredValue| {
            if stored.version > bound {
                stored.version = Version::last_at(time.wall(stored.written));
            }
        };
        self.slots.as_mut_slice().iter_mut().for_each(|slot| right(&mut slot.value));
        if let Some(rest) = &mut self.rare {
            rest.undeclared.iter_mut().for_each(|(_, stored)| right(stored));
            rest.newest_seen =
                if rest.newest_seen > bound { Version::last_at(time.wall(now)) } else { rest.newest_seen };
        }
    }

    /// Drops all values, and keeps the tombstones.
    pub(crate) fn clear_keeping_tombstones(&mut self) {
        let newest = self.newest();
        self.slots.retain(|slot| slot.value.json.is_none());
        if let Some(rest) = &mut self.rare {
            rest.undeclared.retain(|(_, stored)| stored.json.is_none());
        }
        self.note_version(newest);
    }

    /// Leaves tombstones for what this build can't read. Says whether there was any.
    pub(crate) fn tombstone_undeclared(&mut self, version: Version, now: Millis) -> bool {
        let Some(rest) = &mut self.rare else { return false };
        let mut living = rest.undeclared.iter_mut().filter(|(_, stored)| stored.json.is_some()).peekable();
        let any = living.peek().is_some();
        living.for_each(|(_, stored)| *stored = StoredValue::new(version, None, now));
        any
    }

    /// Keeps only the values that pass.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(ValueIndex) -> bool) {
        self.slots.retain(|slot| keep(slot.index));
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let json = |stored: &StoredValue| stored.json.as_ref().map_or(0, Json::heap_bytes);
        let slots: usize = self.slots.as_slice().iter().map(|slot| json(&slot.value)).sum();
        let room = match &self.slots {
            Slots::One(_) => 0,
            Slots::Some(slots) => slots.capacity() * size_of::<ValueSlot>(),
        };
        let rest = self.rare.as_ref().map_or(0, |rest| {
            let opaque: usize = rest.undeclared.iter().map(|(name, stored)| name.len() + json(stored)).sum();
            size_of::<RareState>() + opaque + rest.undeclared.capacity() * size_of::<(Box<str>, StoredValue)>()
        });
        slots + room + rest
    }
}

/// Which stored tier answers when several could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// The one with the newest version: a newer cookie beats stale memory.
    #[default]
    Newest,
    /// The first in the chain that has a copy or a tombstone, whatever the others say.
    FirstHit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{SessionValue, ValueSpec};
    use proptest::prelude::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Count(i64);
    impl SessionValue for Count {
        const NAME: &'static str = "count";
    }

    fn schema() -> Schema {
        let mut schema = Schema::default();
        schema.push(ValueSpec::of::<Count>());
        schema
    }

    /// Few versions and bytes, so that they meet: removals, values, and a copy that this build can't read.
    fn copies() -> impl Strategy<Value = Vec<StoredValue>> {
        let json = prop_oneof![Just(None), Just(Some("1")), Just(Some("2")), Just(Some("\"another build's\""))];
        let stored = (1..5u64, json).prop_map(|(version, json)| {
            StoredValue::new(Version::from_u64(version), json.map(|json| Json::from(json.as_bytes())), Millis(0))
        });
        proptest::collection::vec(stored, 1..7)
    }

    fn joined(copies: &[StoredValue]) -> (Option<StoredValue>, Version) {
        let (schema, mut values) = (schema(), Values::default());
        let mut judge = Judge::new(&schema);
        for stored in copies {
            loop {
                let unjudged = values.unjudged([(0, stored.clone())].into_iter(), &judge);
                if unjudged.is_empty() {
                    break;
                }
                judge.learn(unjudged);
            }
            values.merge(0, stored.clone(), 0, &judge);
        }
        let readable =
            |stored: &&StoredValue| stored.json.as_ref().is_none_or(|json| (schema.get(0).check)(json).is_ok());
        (values.get(0).filter(readable).cloned(), values.newest())
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_of_carried_copies_ends_in_the_same_value(
            (copies, shuffled) in copies().prop_flat_map(|copies| (Just(copies.clone()), Just(copies).prop_shuffle())),
        ) {
            let once = joined(&copies);
            prop_assert_eq!(&once, &joined(&shuffled));
            prop_assert_eq!(&once, &joined(&[copies, shuffled].concat()));
        }
    }

    #[test]
    fn nothing_older_takes_the_place_of_anything_newer() {
        let stored = |version, json: Option<&'static str>| {
            StoredValue::new(Version::from_u64(version), json.map(|json| Json::from(json.as_bytes())), Millis(0))
        };
        let (schema, mut values) = (schema(), Values::default());
        let mut judge = Judge::new(&schema);
        judge.trust(0, stored(5, Some("1")));
        assert!(values.merge(0, stored(5, Some("1")), 0, &judge));
        assert!(!values.merge(0, stored(4, Some("9")), 0, &judge));
        assert!(!values.merge(0, stored(4, None), 0, &judge));
        assert!(values.merge(0, stored(5, None), 0, &judge), "a removal wins over a value of the same version");
        assert!(!values.merge(0, stored(5, Some("9")), 0, &judge));
        assert_eq!(values.newest(), Version::from_u64(5));
    }

    #[test]
    fn what_this_node_wrote_needs_no_verdict_whatever_it_meets() {
        let stored =
            |version, json: &str| StoredValue::new(Version::from_u64(version), Some(json.as_bytes().into()), Millis(0));
        let (schema, mut values) = (schema(), Values::default());
        let judge = Judge::new(&schema);
        let late = [(0, stored(4, "9"))];
        values.write(0, schema.get(0).name, stored(5, "1"), 0);
        assert!(values.unjudged(late.clone().into_iter(), &judge).is_empty());
        assert!(values.merge(0, stored(6, "2"), 0, &judge));
        assert_eq!(values.unjudged(late.into_iter(), &judge).len(), 1, "that came from elsewhere");
    }
}
