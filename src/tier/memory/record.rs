//! One owner's record in this process: the values, the session's life, and who waits for changes.
//!
//! Lock order: the map's shard, then the record. While a record's lock is held no other lock of ours is taken, but for a
//! new record's that nobody else can reach yet. Nothing of the application's runs under it, and nothing is awaited.

use std::{
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    chain::{
        life::{End, Life},
        values::{Kept, Values},
    },
    live::Closed,
    signal::{Chime, Hub},
    tier::{Change, cookie::payload::entry_len},
    value::{Declared, Number, Schema, Scope},
    version::{Millis, Version},
};

/// What a record is found by: the session's id itself, or the hash of the principal. Random ids and SHA-256 outputs
/// don't meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RecordKey(pub(crate) [u8; 32]);

#[derive(Debug)]
pub(crate) struct Record {
    state: RwLock<State>,
    /// Last use, in milliseconds. Apart from the lock, so that a read stays a read.
    used: AtomicU64,
    /// Bytes as last counted towards the tier's bound.
    pub(super) counted: AtomicUsize,
    pub(super) indexed: AtomicBool,
    waiting: OnceLock<Box<Waiting>>,
    /// Writes to the shared store whose answers are not here yet.
    writing: AtomicUsize,
    /// Those whose answers nobody waits for any more.
    abandoned: AtomicUsize,
}

/// What only watched or contended records need.
#[derive(Debug, Default)]
struct Waiting {
    hub: Hub,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) values: Values,
    pub(crate) kind: Kind,
    /// Stamps the last change of what browsers carry; drawn from one counter of the process, so that no two states of
    /// any records share one.
    pub(crate) carried: u64,
    /// How many changes there were, for streams that skipped some.
    pub(crate) changes: u64,
    /// When the application last cleared it.
    pub(crate) cleared: Version,
    /// It has held values that no browser carries.
    pub(crate) uncarried: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Session { life: Life, browser: Browser },
    Principal { idle: Duration, not_before: Version },
    Ended(End),
}

/// What this node knows of the browser that holds a session.
#[derive(Debug, Default)]
pub(crate) struct Browser {
    /// A request has brought this session's cookie.
    pub(crate) confirmed: bool,
    pub(crate) known: Option<KnownToken>,
    /// Until when a token could open that was sealed for a lifetime which is no longer the session's.
    pub(crate) earlier: Millis,
}

/// The exact token that was last sealed for or opened from the browser, by digest, and what it held.
#[derive(Clone, Debug)]
pub(crate) struct KnownToken {
    pub(crate) digest: [u8; 16],
    pub(crate) ring: u64,
    pub(crate) deadline: Millis,
    pub(crate) brought: InStep,
}

/// A token that held all that there was, and when that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InStep {
    pub(crate) issued: Millis,
    pub(crate) session: u64,
    pub(crate) principal: Option<(RecordKey, u64)>,
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

fn stamp() -> u64 {
    static STAMPS: AtomicU64 = AtomicU64::new(1);
    STAMPS.fetch_add(1, Ordering::Relaxed)
}

/// Why a record took no change.
#[derive(Debug)]
pub(crate) enum Refused {
    Closed(Closed),
    /// Another version stands where the change would replace one.
    Outdated,
    /// Over the browser's budget; the largest values.
    TooLarge(Vec<&'static str>),
}

/// What a write needs to know beside the changes.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) now: Millis,
    /// Bytes that the browser has for this owner's entries.
    pub(crate) budget: usize,
    /// A version that the write must be above, whatever this record knows.
    pub(crate) above: Version,
    /// How long tombstones are kept at least; a session's for its own idle lifetime and the skew of clocks.
    pub(crate) tombstones: Duration,
    pub(crate) skew: Duration,
}

impl Record {
    pub(crate) fn session(life: Life, used: Millis) -> Self {
        Self::new(Kind::Session { life, browser: Browser::default() }, used)
    }

    pub(crate) fn principal(idle: Duration, now: Millis) -> Self {
        Self::new(Kind::Principal { idle, not_before: Version::ZERO }, now)
    }

    fn new(kind: Kind, used: Millis) -> Self {
        let state = State::new(kind);
        Self {
            state: RwLock::new(state),
            used: AtomicU64::new(used.0),
            counted: AtomicUsize::new(0),
            indexed: AtomicBool::new(false),
            waiting: OnceLock::new(),
            writing: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic can't leave it half changed: nothing that can panic runs between two steps of a change.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn used(&self) -> Millis {
        Millis(self.used.load(Ordering::Relaxed))
    }

    pub(crate) fn touch(&self, now: Millis) {
        // Stored, not raised: a clock that ran ahead and came back must not leave the session alive for longer.
        self.used.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn touch_at_least(&self, used: Millis) {
        self.used.fetch_max(used.0, Ordering::Relaxed);
    }

    /// Notes that a request has brought the session's cookie. Once: later requests only read.
    pub(crate) fn confirm(&self) {
        let known = match &self.read().kind {
            Kind::Session { browser, .. } => browser.confirmed,
            _ => true,
        };
        if known {
            return;
        }
        if let Kind::Session { browser, .. } = &mut self.write().kind {
            browser.confirmed = true;
        }
    }

    /// Why it can't be used any more.
    pub(crate) fn closed(&self, now: Millis) -> Option<Closed> {
        self.read().closed(self.used(), now)
    }

    /// When it is over if nobody uses it again.
    pub(crate) fn deadline(&self) -> Millis {
        self.read().deadline(self.used())
    }

    /// When nothing that somebody may still hold of it can matter any more.
    pub(crate) fn until(&self) -> Millis {
        self.read().until(self.used())
    }

    /// Runs a reader on the state if it is not closed.
    pub(crate) fn live<T>(&self, now: Millis, read: impl FnOnce(&State) -> T) -> Result<T, Closed> {
        self.read_live(now).map(|state| read(&state))
    }

    /// Makes changes that the application asks for, all or none, and tells who waits. Returns the version they got.
    pub(crate) fn commit(&self, changes: &[Change], terms: Terms<'_>) -> Result<Version, Refused> {
        let version = {
            let mut state = self.write();
            self.begin_anew(&mut state, terms.now);
            if let Some(closed) = state.closed(self.used(), terms.now) {
                return Err(Refused::Closed(closed));
            }
            state.prune(terms);
            state.admit(changes, terms)?;
            let version = Version::fresh(terms.now, state.values.newest().max(terms.above));
            state.apply(changes, version, terms);
            self.touch(terms.now);
            version
        };
        self.ring();
        Ok(version)
    }

    /// Empties a principal's record that was not used for its idle time: whatever is written or brought now begins
    /// another. To be called before anything counts as use of it, which would bring the old one back.
    pub(crate) fn begin_anew(&self, state: &mut State, now: Millis) {
        if matches!(state.kind, Kind::Principal { .. }) && state.deadline(self.used()) <= now {
            let newest = state.values.newest();
            state.values = Values::default();
            state.values.observe(newest);
            state.restamp();
            self.touch(now);
        }
    }

    /// Whether the changes would be taken, without making them.
    pub(crate) fn admit(&self, changes: &[Change], terms: Terms<'_>) -> Result<(), Refused> {
        let state = self.read();
        match state.closed(self.used(), terms.now) {
            Some(closed) if !matches!(state.kind, Kind::Principal { .. }) => Err(Refused::Closed(closed)),
            _ => state.admit(changes, terms),
        }
    }

    /// Marks the record as not to be relied on: until the write that begins is answered, or, if it is dropped before,
    /// until the store has been asked again. Each write has a mark of its own.
    pub(crate) fn doubt(&self) -> Doubt<'_> {
        self.writing.fetch_add(1, Ordering::AcqRel);
        Doubt { record: self, answered: false }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.writing.load(Ordering::Acquire) + self.abandoned.load(Ordering::Acquire) > 0
    }

    /// How many writes were abandoned: to be asked before the store is.
    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned.load(Ordering::Acquire)
    }

    /// What the store holds is here now, so many abandoned writes later.
    pub(crate) fn reassure(&self, abandoned: usize) {
        let left = |now: usize| Some(now.saturating_sub(abandoned));
        let _ = self.abandoned.fetch_update(Ordering::AcqRel, Ordering::Acquire, left);
    }

    /// Takes over changes that carry their versions. Entries are of this record's owner, declared ones by number. A
    /// session that is over takes none.
    pub(crate) fn join(&self, entries: Vec<Carried>, terms: Terms<'_>) -> Joined {
        let joined = {
            let mut state = self.write();
            self.begin_anew(&mut state, terms.now);
            if state.closed(self.used(), terms.now).is_some() {
                return Joined { changed: false, equal: false, filled: Vec::new(), carried: state.carried };
            }
            let (mut changed, mut equal, mut filled) = (false, true, Vec::new());
            for Carried { number, name, kept } in entries {
                let brought = kept.clone();
                let stands = match number {
                    Some(number) => {
                        let declared = terms.schema.at(number);
                        let over = kept.expires(declared.max_age).is_some_and(|end| end <= terms.now);
                        if !over && state.values.join(terms.schema, number, kept) {
                            changed = true;
                            filled.push((number, brought.version));
                        }
                        state.values.get(number)
                    }
                    None => {
                        changed |= state.values.join_opaque(&name, kept);
                        None
                    }
                };
                let riding = || state.values.opaque().find(|(opaque, _)| **opaque == *name).map(|(_, kept)| kept);
                let newest = [stands, riding()].into_iter().flatten().max_by_key(|kept| kept.version);
                // By the bytes too: two nodes can have written at the same version, and the one that lost is to be healed.
                equal &= newest.is_some_and(|kept| kept.version == brought.version && kept.json == brought.json);
            }
            if changed {
                state.carried = stamp();
                state.changes += 1;
            }
            Joined { changed, equal, filled, carried: state.carried }
        };
        if joined.changed {
            self.ring();
        }
        joined
    }

    /// Ends the record, unless it is over already. What waits on it is told.
    pub(crate) fn end(&self, reason: Closed, now: Millis) -> Result<(), Closed> {
        let ended = self.retire(reason, now, |_| Ok(()));
        self.ring();
        ended.map_err(|refused| match refused {
            Refused::Closed(closed) => closed,
            Refused::Outdated | Refused::TooLarge(_) => reason,
        })
    }

    /// Ends the record if `succeed`, which sees it as it is, has put a successor in its place. Nobody is told yet.
    pub(crate) fn retire(
        &self,
        reason: Closed,
        now: Millis,
        succeed: impl FnOnce(&State) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut state = self.write();
        if let Some(closed) = state.closed(self.used(), now) {
            return Err(Refused::Closed(closed));
        }
        succeed(&state)?;
        let until = state.absolute_deadline().unwrap_or(now).max(state.until(self.used()));
        let changes = state.changes + 1;
        *state = State { changes, ..State::new(Kind::Ended(End { reason, at: now, until })) };
        Ok(())
    }

    pub(crate) fn read_live(&self, now: Millis) -> Result<RwLockReadGuard<'_, State>, Closed> {
        let state = self.read();
        match state.closed(self.used(), now) {
            None => Ok(state),
            Some(closed) => Err(closed),
        }
    }

    /// One caller at a time: what makes concurrent updates queue instead of losing to each other.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.waiting().turn.lock().await
    }

    pub(crate) fn join_hub(&self, chime: &Arc<Chime>) {
        self.waiting().hub.join(chime);
    }

    pub(crate) fn leave_hub(&self, chime: &Arc<Chime>) {
        if let Some(waiting) = self.waiting.get() {
            waiting.hub.leave(chime);
        }
    }

    pub(crate) fn ring(&self) {
        if let Some(waiting) = self.waiting.get() {
            waiting.hub.ring();
        }
    }

    fn waiting(&self) -> &Waiting {
        self.waiting.get_or_init(Box::default)
    }
}

/// See [`Record::doubt`].
#[must_use]
#[derive(Debug)]
pub(crate) struct Doubt<'a> {
    record: &'a Record,
    answered: bool,
}

impl Doubt<'_> {
    pub(crate) fn clear(mut self) {
        self.answered = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        // In this order: there is no moment at which the record looks sound.
        if !self.answered {
            self.record.abandoned.fetch_add(1, Ordering::AcqRel);
        }
        self.record.writing.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A value on its way into a record.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) number: Option<Number>,
    pub(crate) name: Box<str>,
    pub(crate) kept: Kept,
}

/// What came of taking over changes.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) changed: bool,
    /// The declared values that changed.
    pub(crate) filled: Vec<(Number, Version)>,
    /// What was brought is what stands here now, name by name. There may be more here.
    pub(crate) equal: bool,
    /// The stamp of the state of which all this is true.
    pub(crate) carried: u64,
}

impl State {
    pub(crate) fn new(kind: Kind) -> Self {
        let (values, carried) = (Values::default(), stamp());
        Self { values, kind, carried, changes: 0, cleared: Version::ZERO, uncarried: false }
    }

    pub(super) const fn all_carried(&self) -> bool {
        !self.uncarried
    }

    /// Marks that what browsers carry of it has changed.
    pub(crate) fn restamp(&mut self) {
        self.carried = stamp();
        self.changes += 1;
    }

    pub(crate) fn closed(&self, used: Millis, now: Millis) -> Option<Closed> {
        match &self.kind {
            Kind::Ended(end) => Some(end.reason),
            _ if self.deadline(used) <= now => Some(Closed::Expired),
            _ => None,
        }
    }

    pub(crate) fn deadline(&self, used: Millis) -> Millis {
        match &self.kind {
            Kind::Session { life, .. } => life.deadline(used),
            Kind::Principal { idle, .. } => used.after(*idle),
            Kind::Ended(end) => end.until,
        }
    }

    /// A session that was given a shorter life is remembered to be over for as long as tokens of the longer one open.
    pub(crate) fn until(&self, used: Millis) -> Millis {
        let earlier = match &self.kind {
            Kind::Session { browser, .. } => browser.earlier,
            _ => Millis::default(),
        };
        self.deadline(used).max(earlier)
    }

    /// Changes a session's lifetime, if `change` says that it did.
    pub(crate) fn change_lifetime(&mut self, now: Millis, change: impl FnOnce(&mut Life) -> bool) {
        let Kind::Session { life, browser } = &mut self.kind else { return };
        let before = life.deadline(now);
        if change(life) {
            browser.earlier = browser.earlier.max(before);
            self.restamp();
        }
    }

    pub(crate) fn absolute_deadline(&self) -> Option<Millis> {
        match &self.kind {
            Kind::Session { life, .. } => Some(life.absolute_deadline),
            _ => None,
        }
    }

    /// Sessions of this principal whose id was minted up to then have ended.
    pub(crate) fn not_before(&self) -> Version {
        match self.kind {
            Kind::Principal { not_before, .. } => not_before,
            _ => Version::ZERO,
        }
    }

    /// The stamp of what browsers carry of it; 0 for a principal's record that holds nothing, which is there or not.
    pub(crate) fn stamp(&self) -> u64 {
        if self.is_vacant() { 0 } else { self.carried }
    }

    /// A principal's record that holds nothing: it is there only for who waits on it.
    pub(crate) fn is_vacant(&self) -> bool {
        matches!(self.kind, Kind::Principal { not_before: Version::ZERO, .. }) && self.values.is_empty()
    }

    /// The live copy or tombstone of a value, unless past the value's own lifetime.
    pub(crate) fn kept(&self, schema: &Schema, number: Number, now: Millis) -> Option<&Kept> {
        let kept = self.values.get(number)?;
        let over = kept.expires(schema.at(number).max_age).is_some_and(|end| end <= now);
        (!over).then_some(kept)
    }

    /// What the browser carries of this record: its readable values and what rides along, the newest of each name. Of
    /// a session that is also what somebody chose before an outer layer said who it was: it is the browser's own.
    pub(crate) fn carried_entries<'a>(&'a self, schema: &'a Schema) -> impl Iterator<Item = (&'a str, &'a Kept)> {
        let opaque = move |name: &str| self.values.opaque().find(|(opaque, _)| *opaque == name);
        let session = matches!(self.kind, Kind::Session { .. });
        let declared = self.values.declared().filter_map(move |(number, kept)| {
            let declared: &Declared = schema.at(number);
            let newest = opaque(declared.name).is_none_or(|(_, other)| other.version <= kept.version);
            let ours = session || declared.scope == Scope::Principal;
            (declared.carried() && newest && ours).then_some((declared.name, kept))
        });
        let riding = self.values.opaque().filter(move |(name, kept)| {
            let slot = schema.named(name).and_then(|number| self.values.get(number));
            slot.is_none_or(|slot| slot.version < kept.version)
        });
        declared.chain(riding)
    }

    fn prune(&mut self, terms: Terms<'_>) {
        let mut horizon = terms.now.before(terms.tombstones);
        if let Kind::Session { life, browser } = &self.kind {
            horizon = horizon.min(terms.now.before(life.lifetime.idle.saturating_add(terms.skew)));
            if terms.now < browser.earlier {
                horizon = Millis::default();
            }
        }
        self.values.prune(terms.schema, terms.now, horizon);
    }

    pub(crate) fn admit(&self, changes: &[Change], terms: Terms<'_>) -> Result<(), Refused> {
        for change in changes {
            if let Some(expected) = change.replaces {
                let stands = self.kept(terms.schema, change.number, terms.now).map(|kept| kept.version);
                if stands.unwrap_or_default() != expected {
                    return Err(Refused::Outdated);
                }
            }
        }
        let changed = |name: &str| changes.iter().any(|change| change.name == name);
        let stays = self.carried_entries(terms.schema).filter(|(name, _)| !changed(name));
        let comes = changes.iter().filter(|change| terms.schema.at(change.number).carried());
        let mut sizes: Vec<(usize, &str)> = stays
            .map(|(name, kept)| (entry_len(name, kept.json.as_ref()), name))
            .chain(comes.map(|change| (entry_len(change.name, change.json.as_ref()), change.name)))
            .collect();
        // A removal always fits in the place of the value that it removes, and must never be refused; neither must
        // what stays on the server, whatever two nodes together have made of the rest.
        let set = |change: &Change| change.json.is_some() && terms.schema.at(change.number).carried();
        if !changes.iter().any(set) || sizes.iter().map(|(size, _)| size).sum::<usize>() <= terms.budget {
            return Ok(());
        }
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let largest = sizes.iter().take(3).filter_map(|(_, name)| terms.schema.named(name));
        Err(Refused::TooLarge(largest.map(|number| terms.schema.at(number).name).collect()))
    }

    pub(crate) fn apply(&mut self, changes: &[Change], version: Version, terms: Terms<'_>) {
        for change in changes {
            let kept = |version| Kept::new(version, change.json.clone(), terms.now);
            match change.version {
                // Stamped by a store, whose order counts: another write may have come past it on the way here.
                Some(stamped) => drop(self.values.join(terms.schema, change.number, kept(stamped))),
                None => self.values.put(change.number, change.name, kept(version)),
            }
            match terms.schema.at(change.number).carried() {
                true => self.carried = stamp(),
                false => self.uncarried = true,
            }
        }
        self.changes += 1;
    }

    /// Bytes that this record takes, near enough to bound memory by.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Record>() + 96 + self.values.heap_bytes()
    }
}
