//! The values of one owner, and the rules by which copies of them meet.
//!
//! Joining by version is commutative, associative and idempotent: any order and repetition of the same carried changes
//! ends in the same values, which is what relays, replays and fills rely on.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    value::{Number, Schema},
    version::{Millis, Version},
};

/// One value as a tier has it: bytes, or the tombstone of a removal.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) version: Version,
    pub(crate) json: Option<Bytes>,
    /// When it was written, as far as can be said: the version's time, never later than when we first saw it, so that
    /// a writer whose clock ran ahead makes nothing live longer.
    pub(crate) written: Millis,
}

impl Kept {
    pub(crate) fn new(version: Version, json: Option<Bytes>, now: Millis) -> Self {
        Self { version, json, written: version.millis().min(now) }
    }

    /// Whether a carried copy takes this one's place. At equal versions a removal wins, then the greater bytes, so that
    /// every node decides alike.
    fn yields_to(&self, other: &Self) -> bool {
        let rank = |kept: &Self| (kept.version, kept.json.is_none());
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
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("version", &self.version)
            .field("bytes", &self.json.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
}

/// How a change came to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeOrigin {
    /// Written here, by the application or an allowed POST: exactly one node says so of a write.
    Fresh,
    /// Written elsewhere, or here before a restart, and brought by a cookie, a relay token or the shared store.
    Carried,
}

/// All values of one owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    /// Declared ones, in the order of their numbers.
    slots: Vec<Slot>,
    /// What this build can't read: undeclared names, and copies that don't decode. They ride along, so that a rolling
    /// deploy loses nothing.
    opaque: Vec<(Box<str>, Kept)>,
    newest: Version,
}

#[derive(Clone, Debug)]
struct Slot {
    number: Number,
    origin: ChangeOrigin,
    kept: Kept,
}

impl Values {
    pub(crate) fn get(&self, number: Number) -> Option<&Kept> {
        self.position(number).ok().map(|at| &self.slots[at].kept)
    }

    /// How a declared value came here, whatever it is now.
    pub(crate) fn origin(&self, number: Number) -> ChangeOrigin {
        self.position(number).map_or(ChangeOrigin::Carried, |at| self.slots[at].origin)
    }

    /// Notes that this node wrote what stands there, though its version came from a store.
    pub(crate) fn own(&mut self, number: Number) {
        if let Ok(at) = self.position(number) {
            self.slots[at].origin = ChangeOrigin::Fresh;
        }
    }

    fn position(&self, number: Number) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&number, |slot| slot.number)
    }

    pub(crate) fn declared(&self) -> impl Iterator<Item = (Number, &Kept)> {
        self.slots.iter().map(|slot| (slot.number, &slot.kept))
    }

    pub(crate) fn opaque(&self) -> impl Iterator<Item = (&str, &Kept)> {
        self.opaque.iter().map(|(name, kept)| (&**name, kept))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.opaque.is_empty()
    }

    /// The newest version ever known of this owner: fresh writes go above it.
    pub(crate) const fn newest(&self) -> Version {
        self.newest
    }

    pub(crate) fn observe(&mut self, version: Version) {
        self.newest = self.newest.max(version);
    }

    /// A fresh write: takes the place of whatever there is, an unreadable copy of the same name too.
    pub(crate) fn put(&mut self, number: Number, name: &str, kept: Kept) {
        self.observe(kept.version);
        self.opaque.retain(|(opaque, _)| **opaque != *name);
        let slot = Slot { number, origin: ChangeOrigin::Fresh, kept };
        match self.position(number) {
            Ok(at) => self.slots[at] = slot,
            Err(at) => self.insert(at, slot),
        }
    }

    /// So many are about to come.
    pub(crate) fn expect(&mut self, copies: usize) {
        if self.slots.is_empty() {
            self.slots.reserve_exact(copies);
        }
    }

    /// Most sessions hold a value or two, and would have room for four at the first.
    fn insert(&mut self, at: usize, slot: Slot) {
        self.slots.reserve_exact(1);
        self.slots.insert(at, slot);
    }

    /// A carried change: applies only if newer. Says whether anything changed.
    ///
    /// A newer copy that this build can't read does not hide the one that it can: it is kept beside it.
    pub(crate) fn join(&mut self, schema: &Schema, number: Number, kept: Kept) -> bool {
        self.observe(kept.version);
        match self.position(number) {
            Err(at) => {
                self.insert(at, Slot { number, origin: ChangeOrigin::Carried, kept });
                true
            }
            Ok(at) => {
                let declared = schema.at(number);
                let unreadable = |kept: &Kept| kept.json.as_ref().is_some_and(|json| (declared.check)(json).is_err());
                let Slot { origin, kept: mine, .. } = &mut self.slots[at];
                // Looked at only where two copies meet, and in either order with the same end.
                match mine.yields_to(&kept) {
                    true if unreadable(&kept) => self.join_opaque(declared.name, kept),
                    true => {
                        (*origin, *mine) = (ChangeOrigin::Carried, kept);
                        true
                    }
                    false if *mine != kept && unreadable(mine) && !unreadable(&kept) => {
                        *origin = ChangeOrigin::Carried;
                        let newer = std::mem::replace(mine, kept);
                        self.join_opaque(declared.name, newer);
                        true
                    }
                    false => false,
                }
            }
        }
    }

    pub(crate) fn join_opaque(&mut self, name: &str, kept: Kept) -> bool {
        self.observe(kept.version);
        match self.opaque.iter_mut().find(|(opaque, _)| **opaque == *name) {
            None => self.opaque.push((name.into(), kept)),
            Some((_, mine)) if mine.yields_to(&kept) => *mine = kept,
            Some(_) => return false,
        }
        true
    }

    /// Drops what nobody can need any more: values past their own lifetime, and tombstones written before `tombstones`.
    pub(crate) fn prune(&mut self, schema: &Schema, now: Millis, tombstones: Millis) {
        self.slots.retain(|Slot { number, kept, .. }| {
            let dead = kept.expires(schema.at(*number).max_age).is_some_and(|end| end <= now);
            !dead && (kept.json.is_some() || kept.written >= tombstones)
        });
        self.opaque.retain(|(_, kept)| kept.json.is_some() || kept.written >= tombstones);
    }

    /// Leaves tombstones for what this build can't read. Says whether there was any.
    pub(crate) fn bury_opaque(&mut self, version: Version, now: Millis) -> bool {
        let mut living = self.opaque.iter_mut().filter(|(_, kept)| kept.json.is_some()).peekable();
        let any = living.peek().is_some();
        living.for_each(|(_, kept)| *kept = Kept::new(version, None, now));
        any
    }

    /// Keeps only the values that pass.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Number) -> bool) {
        self.slots.retain(|slot| keep(slot.number));
    }

    /// Bytes on the heap, near enough to bound memory by.
    pub(crate) fn heap_bytes(&self) -> usize {
        let json = |kept: &Kept| kept.json.as_ref().map_or(0, |json| json.len() + 32);
        let slots: usize = self.slots.iter().map(|slot| json(&slot.kept)).sum();
        let opaque: usize = self.opaque.iter().map(|(name, kept)| name.len() + json(kept)).sum();
        slots + opaque + self.slots.capacity() * size_of::<Slot>() + self.opaque.capacity() * 72
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Declared, SessionValue};
    use proptest::prelude::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Count(i64);
    impl SessionValue for Count {
        const NAME: &'static str = "count";
    }

    fn schema() -> Schema {
        let mut schema = Schema::default();
        schema.push(Declared::of::<Count>());
        schema
    }

    /// Few versions and bytes, so that they meet: removals, values, and a copy that this build can't read.
    fn copies() -> impl Strategy<Value = Vec<Kept>> {
        let json = prop_oneof![Just(None), Just(Some("1")), Just(Some("2")), Just(Some("\"another build's\""))];
        let kept = (1..5u64, json).prop_map(|(version, json)| {
            Kept::new(Version::from_u64(version), json.map(|json| Bytes::from_static(json.as_bytes())), Millis(0))
        });
        proptest::collection::vec(kept, 1..7)
    }

    fn joined(copies: &[Kept]) -> (Option<Kept>, Version) {
        let (schema, mut values) = (schema(), Values::default());
        for kept in copies {
            values.join(&schema, 0, kept.clone());
        }
        let readable = |kept: &&Kept| kept.json.as_ref().is_none_or(|json| (schema.at(0).check)(json).is_ok());
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
        let kept = |version, json: Option<&'static str>| {
            Kept::new(Version::from_u64(version), json.map(|json| Bytes::from_static(json.as_bytes())), Millis(0))
        };
        let (schema, mut values) = (schema(), Values::default());
        assert!(values.join(&schema, 0, kept(5, Some("1"))));
        assert!(!values.join(&schema, 0, kept(4, Some("9"))));
        assert!(!values.join(&schema, 0, kept(4, None)));
        assert!(values.join(&schema, 0, kept(5, None)), "a removal wins over a value of the same version");
        assert!(!values.join(&schema, 0, kept(5, Some("9"))));
        assert_eq!(values.newest(), Version::from_u64(5));
    }
}
