//! The values of one owner, and the rules that merge copies of them.
//!
//! Merging is commutative, associative and idempotent: any order and repetition of the same copies ends in the same
//! values. Relays, replays and fills rely on that.

use std::{cmp::Ordering, time::Duration};

use smallvec::SmallVec;

use crate::{
    node_clock::NodeClock,
    time::Millis,
    value::{Json, Schema, ValueIndex},
    version::Version,
};

/// One value as a tier has it: bytes, which `Debug` never shows, or the tombstone of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredValue {
    pub(crate) version: Version,
    pub(crate) json: Option<Json>,
    /// The best known time of the write: see [`NodeClock::written`](crate::node_clock::NodeClock::written).
    pub(crate) written: Millis,
}

impl StoredValue {
    pub(crate) const fn new(version: Version, json: Option<Json>, written: Millis) -> Self {
        Self { version, json, written }
    }

    /// Returns the rank of this copy among copies of the value: by version, then a removal above a value, then by the
    /// bytes, so that all nodes agree.
    pub(crate) fn rank(&self) -> (Version, bool, Option<&[u8]>) {
        (self.version, self.json.is_none(), self.json.as_deref())
    }

    pub(crate) fn loses_to(&self, other: &Self) -> bool {
        self.rank() < other.rank()
    }

    pub(crate) fn is_expired(&self, max_age: Option<Duration>, now: Millis) -> bool {
        self.expires(max_age).is_some_and(|end| end <= now)
    }

    pub(crate) fn expires(&self, max_age: Option<Duration>) -> Option<Millis> {
        max_age.map(|age| self.written.after(age))
    }
}

/// The rule by which memory, the cookie or a shared store answers if several have a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// The tier with the newest version: a newer cookie beats stale memory.
    #[default]
    Newest,
    /// The first tier of the chain that has a copy or a tombstone, whatever versions the other tiers have.
    FirstHit,
}

/// The origin of a change: this node or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeOrigin {
    /// Written on this node, by the application or an allowed POST. Each write is local on exactly one node.
    Local,
    /// Written on another node, or on this node before a restart, and brought by a cookie, a relay token or the store.
    Remote,
}

/// All values of one owner.
///
/// Most sessions hold one value, stored inline; the rare fields are boxed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    /// Declared values, in the order of their numbers.
    slots: SmallVec<[ValueSlot; 1]>,
    rare: Option<Box<RareState>>,
}

/// A copy of a declared value.
#[derive(Clone, Debug)]
pub(crate) struct ValueSlot {
    pub(crate) index: ValueIndex,
    pub(crate) origin: ChangeOrigin,
    /// Whether this build can read the copy; `None` until the copy meets another copy. The value type's code decides,
    /// and runs under no lock of the record.
    pub(crate) readable: Option<bool>,
    /// The record's count of changes when the copy came: the count distinguishes copies of the same version.
    pub(crate) change: u32,
    pub(crate) value: StoredValue,
}

impl ValueSlot {
    /// Returns a copy that keeps its version, to be merged into a record. A removal is always readable.
    pub(crate) fn incoming(index: ValueIndex, value: StoredValue) -> Self {
        let readable = value.json.is_none().then_some(true);
        Self { index, origin: ChangeOrigin::Remote, readable, change: 0, value }
    }

    /// Returns a copy that this node writes.
    pub(crate) const fn local(index: ValueIndex, value: StoredValue) -> Self {
        Self { index, origin: ChangeOrigin::Local, readable: Some(true), change: 0, value }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.value.rank() == other.value.rank()
    }
}

/// The outcome of a merge: the copy that answers, and the newer copy that stays unread beside the answering copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MergeOutcome {
    KeepCurrent,
    Replace,
    KeepIncomingUnread,
    ReplaceKeepCurrentUnread,
}

/// Decides between the current copy and an incoming copy:
///
/// | the incoming copy is | current readable | incoming readable | outcome |
/// |---|---|---|---|
/// | the first | | | `Replace` |
/// | newer | yes | no, or yes under [`Resolution::FirstHit`] | `KeepIncomingUnread` |
/// | newer | yes | yes | `Replace` |
/// | newer | no | | `Replace` |
/// | equal | | | `KeepCurrent` |
/// | older | no | yes | `ReplaceKeepCurrentUnread` |
/// | older | no | no | `KeepCurrent` |
/// | older | yes | | `KeepCurrent` |
fn merge(current: Option<&ValueSlot>, incoming: &ValueSlot, resolution: Resolution) -> MergeOutcome {
    let Some(current) = current else { return MergeOutcome::Replace };
    // A copy is undecided only if the same value comes twice in one merge, which no store should do: the newer copy
    // answers.
    let [current_readable, incoming_readable] = [current, incoming].map(|copy| copy.readable.unwrap_or(true));
    match (incoming.value.rank().cmp(&current.value.rank()), current_readable, incoming_readable) {
        (Ordering::Greater, true, readable) if !readable || resolution == Resolution::FirstHit => {
            MergeOutcome::KeepIncomingUnread
        }
        (Ordering::Greater, ..) => MergeOutcome::Replace,
        (Ordering::Less, false, true) => MergeOutcome::ReplaceKeepCurrentUnread,
        (Ordering::Less | Ordering::Equal, ..) => MergeOutcome::KeepCurrent,
    }
}

#[derive(Clone, Debug, Default)]
struct RareState {
    /// Values whose names this build doesn't declare. Cookies keep them, so that a rolling deploy loses nothing.
    undeclared: Vec<(Box<str>, StoredValue)>,
    /// Copies that are newer than the slots' copies of the same values, but don't answer. Cookies carry the newer
    /// copies.
    unread: Vec<ValueSlot>,
    /// The newest version known of this owner for which there is no copy here.
    newest_seen: Version,
    cleared: Version,
}

impl Values {
    /// Returns the copy of a declared value that answers.
    pub(crate) fn slot(&self, index: ValueIndex) -> Option<&ValueSlot> {
        self.position(index).ok().and_then(|at| self.slots.get(at))
    }

    /// Returns the newer copy of a declared value beside the copy that answers.
    pub(crate) fn unread(&self, index: ValueIndex) -> Option<&ValueSlot> {
        self.rare.as_ref()?.unread.iter().find(|copy| copy.index == index)
    }

    pub(crate) fn is_unread(&self, copy: &ValueSlot) -> bool {
        self.unread(copy.index).is_some_and(|unread| unread.is_same(copy))
    }

    /// Returns the newest copy of a declared value: the copy for cookies.
    pub(crate) fn newest_copy(&self, index: ValueIndex) -> Option<&StoredValue> {
        self.unread(index).or_else(|| self.slot(index)).map(|copy| &copy.value)
    }

    /// Whether any copy of a declared value holds bytes.
    pub(crate) fn has_json(&self, index: ValueIndex) -> bool {
        let copies = [self.slot(index), self.unread(index)];
        copies.into_iter().flatten().any(|copy| copy.value.json.is_some())
    }

    fn position(&self, index: ValueIndex) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&index, |slot| slot.index)
    }

    pub(crate) fn declared(&self) -> impl Iterator<Item = &ValueSlot> + Clone {
        self.slots.iter()
    }

    pub(crate) fn undeclared(&self) -> impl Iterator<Item = (&str, &StoredValue)> + Clone {
        let undeclared = self.rare.as_ref().map_or(&[][..], |rare| &rare.undeclared);
        undeclared.iter().map(|(name, stored)| (&**name, stored))
    }

    /// Whether there are copies that are never written to a store: undeclared and unread copies.
    pub(crate) fn has_untold(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.undeclared.is_empty() || !rare.unread.is_empty())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.undeclared().next().is_none()
    }

    /// Returns the newest version ever known of this owner: fresh writes get a greater version.
    pub(crate) fn newest(&self) -> Version {
        let declared = self.declared().map(|slot| slot.value.version).max().unwrap_or_default();
        self.rare.as_ref().map_or(declared, |rare| {
            let unread = rare.unread.iter().map(|copy| copy.value.version);
            let undeclared = rare.undeclared.iter().map(|(_, stored)| stored.version);
            unread.chain(undeclared).fold(declared.max(rare.newest_seen), Version::max)
        })
    }

    /// Notes a version whose value this record need not hold.
    pub(crate) fn note_version(&mut self, version: Version) {
        if version > self.newest() {
            self.rare().newest_seen = version;
        }
    }

    /// Returns the version of the application's last `clear`.
    pub(crate) fn cleared(&self) -> Version {
        self.rare.as_ref().map_or(Version::ZERO, |rare| rare.cleared)
    }

    /// Returns a copy that has forgotten the application's last `clear`.
    pub(crate) fn without_clear(&self) -> Self {
        let mut values = self.clone();
        if let Some(rare) = &mut values.rare {
            rare.cleared = Version::ZERO;
        }
        values
    }

    pub(crate) fn note_cleared(&mut self, version: Version) {
        self.rare().cleared = version;
    }

    fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// Replaces the current copy, and returns the replaced copy. A fresh write replaces an unread copy too, since a
    /// fresh version is above all others here.
    pub(crate) fn put(&mut self, slot: ValueSlot) -> Option<ValueSlot> {
        let current = match self.position(slot.index) {
            Ok(at) => self.slots.get_mut(at).map(|place| std::mem::replace(place, slot)),
            Err(at) => {
                self.slots.insert(at, slot);
                None
            }
        };
        self.drop_older_unread();
        current
    }

    /// Drops the unread copies that are not newer than the copies in the slots.
    fn drop_older_unread(&mut self) {
        if let Some(rare) = &mut self.rare {
            let is_newer = |copy: &ValueSlot| {
                self.slots.iter().any(|slot| slot.index == copy.index && slot.value.loses_to(&copy.value))
            };
            rare.unread.retain(is_newer);
        }
    }

    /// Reserves slots for `copies` copies, if there are none yet.
    pub(crate) fn reserve(&mut self, copies: usize) {
        if self.slots.is_empty() {
            self.slots.reserve_exact(copies);
        }
    }

    /// Whether an incoming copy can be merged: the copy meets no other copy, or the readability of both is decided.
    pub(crate) fn is_decided(&self, incoming: &ValueSlot) -> bool {
        let met = self.slot(incoming.index).filter(|current| !current.is_same(incoming));
        met.is_none_or(|current| current.readable.is_some() && incoming.readable.is_some())
    }

    /// Notes whether this build can read a copy, if the copy is still here.
    pub(crate) fn decide(&mut self, copy: &ValueSlot, readable: bool) {
        let current = self.position(copy.index).ok().and_then(|at| self.slots.get_mut(at));
        if let Some(current) = current.filter(|current| current.is_same(copy)) {
            current.readable = Some(readable);
        }
    }

    /// Merges a copy that keeps its version. Returns whether the record changed.
    pub(crate) fn merge(&mut self, incoming: ValueSlot, resolution: Resolution) -> bool {
        match merge(self.slot(incoming.index), &incoming, resolution) {
            MergeOutcome::KeepCurrent => false,
            MergeOutcome::Replace => {
                self.put(incoming);
                true
            }
            MergeOutcome::KeepIncomingUnread => self.keep_unread(incoming),
            MergeOutcome::ReplaceKeepCurrentUnread => self.put(incoming).is_some_and(|newer| self.keep_unread(newer)),
        }
    }

    fn keep_unread(&mut self, copy: ValueSlot) -> bool {
        let unread = &mut self.rare().unread;
        match unread.iter_mut().find(|other| other.index == copy.index) {
            None => unread.push(copy),
            Some(mine) if mine.value.loses_to(&copy.value) => *mine = copy,
            Some(_) => return false,
        }
        true
    }

    pub(crate) fn merge_undeclared(&mut self, name: &str, stored: StoredValue) -> bool {
        let undeclared = &mut self.rare().undeclared;
        match undeclared.iter_mut().find(|(other, _)| **other == *name) {
            None => undeclared.push((name.into(), stored)),
            Some((_, mine)) if mine.loses_to(&stored) => *mine = stored,
            Some(_) => return false,
        }
        true
    }

    /// Drops values past their own lifetime, and tombstones written before `tombstones`.
    pub(crate) fn prune(&mut self, schema: &Schema, now: Millis, tombstones: Millis) {
        self.retain_copies(|index, value| {
            let is_needed = value.json.is_some() || value.written >= tombstones;
            is_needed && !index.is_some_and(|index| value.is_expired(schema.get(index).max_age, now))
        });
    }

    /// Keeps the undeclared copies and the slots' copies that pass `keep`. If a slot's copy fails, the unread copy
    /// beside the slot takes its place if the unread copy passes. An unread copy always stays with the older copy in
    /// the slot: without the unread copy, the next cookie would carry the older copy. The newest version stays known.
    fn retain_copies(&mut self, keep: impl Fn(Option<ValueIndex>, &StoredValue) -> bool) {
        let newest = self.newest();
        if let Some(rare) = &mut self.rare {
            rare.undeclared.retain(|(_, stored)| keep(None, stored));
        }
        let keep = |slot: &ValueSlot| keep(Some(slot.index), &slot.value);
        let mut unread = self.rare.as_mut().map(|rare| &mut rare.unread);
        self.slots.retain(|slot| {
            if keep(slot) {
                return true;
            }
            let newer = unread.as_mut().and_then(|unread| {
                let at = unread.iter().position(|copy| copy.index == slot.index)?;
                Some(unread.swap_remove(at))
            });
            newer.filter(&keep).is_some_and(|newer| {
                *slot = newer;
                true
            })
        });
        self.note_version(newest);
    }

    /// Corrects versions further ahead than the allowed skew: each such copy gets the version of the time of its write.
    pub(crate) fn correct_future_versions(&mut self, time: &NodeClock, now: Millis) {
        let bound = time.bound(now);
        if self.newest() <= bound {
            return;
        }
        let correct = |stored: &mut StoredValue| {
            if stored.version > bound {
                stored.version = Version::last_at(time.wall(stored.written));
            }
        };
        self.slots.iter_mut().for_each(|slot| correct(&mut slot.value));
        if let Some(rare) = &mut self.rare {
            rare.unread.iter_mut().for_each(|copy| correct(&mut copy.value));
            rare.undeclared.iter_mut().for_each(|(_, stored)| correct(stored));
            if rare.newest_seen > bound {
                rare.newest_seen = Version::last_at(time.wall(now));
            }
        }
        self.drop_older_unread();
    }

    /// Drops all values, and keeps the tombstones.
    pub(crate) fn clear_keeping_tombstones(&mut self) {
        let newest = self.newest();
        if let Some(rare) = &mut self.rare {
            rare.unread.retain(|copy| copy.value.json.is_none());
        }
        self.retain_copies(|_, stored| stored.json.is_none());
        self.note_version(newest);
    }

    /// Replaces the values of undeclared names with tombstones. Returns whether there were any values.
    pub(crate) fn tombstone_undeclared(&mut self, version: Version, now: Millis) -> bool {
        let Some(rare) = &mut self.rare else { return false };
        let mut living = rare.undeclared.iter_mut().filter(|(_, stored)| stored.json.is_some()).peekable();
        let any = living.peek().is_some();
        living.for_each(|(_, stored)| *stored = StoredValue::new(version, None, now));
        any
    }

    /// Keeps only the declared values that pass `keep`.
    pub(crate) fn retain(&mut self, keep: impl Fn(ValueIndex) -> bool) {
        self.slots.retain(|slot| keep(slot.index));
        self.drop_older_unread();
    }

    /// Returns the bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let json = |stored: &StoredValue| stored.json.as_ref().map_or(0, Json::heap_bytes);
        let slots: usize = self.slots.iter().map(|slot| json(&slot.value)).sum();
        let spilled = if self.slots.spilled() { self.slots.capacity() } else { 0 };
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let undeclared: usize = rare.undeclared.iter().map(|(name, stored)| name.len() + json(stored)).sum();
            let unread: usize = rare.unread.iter().map(|copy| json(&copy.value)).sum();
            let room = rare.undeclared.capacity() * size_of::<(Box<str>, StoredValue)>()
                + rare.unread.capacity() * size_of::<ValueSlot>();
            size_of::<RareState>() + undeclared + unread + room
        });
        slots + spilled * size_of::<ValueSlot>() + rare
    }
}

#[cfg(test)]
mod tests;
