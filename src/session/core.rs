//! What a handle and its clones share: which session they are bound to, and how they read it.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::{
    chain::{COOKIE, Chain, Computation, Computed, DEFAULT, Identity, MEMORY, Resolution, Signed, values::Kept},
    error::{WriteError, WriteErrorKind},
    id::SessionId,
    live::{self, Closed},
    signal::{Bell, Chime},
    tier::memory::record::{InStep, Kind, Record, RecordKey, State},
    value::{Number, Scope},
    version::{Millis, Version},
};

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) chain: Arc<Chain>,
    pub(super) binding: RwLock<Binding>,
    /// Held while a session is made, so that clones that write at once make one.
    pub(super) minting: tokio::sync::Mutex<()>,
    who: Who,
    /// The principal's record, once this handle holds it.
    principal: Mutex<Option<Held>>,
    /// The principal that a session's value names, by the session and the value's version.
    derived: Mutex<Option<(Mark, Option<Arc<Signed>>)>>,
    /// The count of `end_all` up to which the principal was looked at.
    revocations: AtomicU64,
    pub(super) computed: Vec<Computation>,
    pub(super) brought: Brought,
    pub(super) marks: Marks,
    /// Made for the first watch: most handles have none.
    chime: OnceLock<Arc<Chime>>,
}

/// Which session a handle stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// None yet: a write makes one.
    Anonymous,
    Live(Bound),
    /// The request brought an id that has just ended: none, and a plain write may not make one.
    Fenced(Closed),
    /// An upgrade that another site caused: none, and nothing makes one.
    Refused,
    /// A job's: a principal's record alone.
    Job,
}

#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) id: SessionId,
    pub(crate) record: Arc<Record>,
}

impl Bound {
    pub(crate) const fn key(&self) -> RecordKey {
        RecordKey(*self.id.as_bytes())
    }
}

/// How the principal is known.
#[derive(Debug)]
pub(super) enum Who {
    /// The head said it, or the job.
    Given(Option<Arc<Signed>>),
    /// A value of the session says it.
    Value,
}

/// A principal's record held by this handle; one that holds nothing goes with its last holder.
#[derive(Debug)]
struct Held {
    key: RecordKey,
    record: Arc<Record>,
}

/// What the request's cookie held.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// The session whose token it was.
    pub(super) key: Option<RecordKey>,
    /// Set if it held all that there was.
    pub(super) in_step: Option<InStep>,
    /// Several tokens of ours opened: none counts, and all are to go.
    pub(super) ambiguous: bool,
    /// What the cookie answered for, with the version.
    pub(super) filled: Vec<(Number, Version)>,
    /// Under `FirstHit`: copies that are newer than memory's, which the next seal must keep.
    pub(super) newer: Vec<Newer>,
}

/// A copy that only the cookie has.
#[derive(Debug)]
pub(super) struct Newer {
    pub(super) owner: Owner,
    pub(super) name: Box<str>,
    pub(super) kept: Kept,
}

/// Whose part of a cookie it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The session's, renewed or not.
    Session,
    /// A principal's, by name: another may sign in before the response leaves.
    Principal(RecordKey),
}

impl Owner {
    pub(super) const fn scope(self) -> Scope {
        match self {
            Self::Session => Scope::Session,
            Self::Principal(_) => Scope::Principal,
        }
    }
}

/// What has happened to the request's session so far.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// It was read, written or watched.
    pub(super) touched: AtomicBool,
    pub(super) head_sent: AtomicBool,
    /// This handle ended its session: the cookie is to go.
    pub(super) ended_here: AtomicBool,
    /// The session was made here.
    pub(super) minted: AtomicBool,
}

/// What the stored tiers say of a value.
#[derive(Debug)]
pub(crate) enum Stored {
    Copy { json: Bytes, version: Version, tier: &'static str },
    Tombstone { version: Version, tier: &'static str },
    Nothing,
}

/// Whether a look at a value counts as use. A watch looks whenever anything wakes its task: if that counted, an open
/// page would keep its session from ever idling out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Use,
    Glance,
}

/// A stored copy, if there is one, what a change of it changes, and when it or its session ends.
pub(crate) type Glance = (Option<Bytes>, Mark, Option<Millis>);

/// What a change of a value changes: whose record it comes from, and its version there. Computed answers have none.
pub(crate) type Mark = Option<(RecordKey, Version)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(super) fn new(
        chain: Arc<Chain>,
        binding: Binding,
        who: Who,
        brought: Brought,
        computed: Vec<Computation>,
    ) -> Self {
        Self {
            binding: RwLock::new(binding),
            minting: tokio::sync::Mutex::default(),
            who,
            principal: Mutex::default(),
            derived: Mutex::default(),
            revocations: AtomicU64::new(0),
            computed,
            brought,
            marks: Marks::default(),
            chime: OnceLock::new(),
            chain,
        }
    }

    pub(crate) fn binding(&self) -> Binding {
        self.binding.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Binds the handle to another session. Its watches go along.
    pub(super) fn rebind(&self, bound: Bound) {
        let Ok(()) = self.rebind_if(bound, || Ok::<_, std::convert::Infallible>(()));
    }

    /// Binds the handle to another session if `turn` has ended the one before, in one step: clones look at the binding
    /// first and then at its record, and are not to take the turn that they go along with for an end.
    pub(super) fn rebind_if<E>(&self, bound: Bound, turn: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let before = {
            let mut binding = self.binding.write().unwrap_or_else(PoisonError::into_inner);
            turn()?;
            std::mem::replace(&mut *binding, Binding::Live(bound))
        };
        if let Some(chime) = self.chime.get() {
            if let Binding::Live(old) = before {
                old.record.leave_hub(chime);
            }
            self.join_hubs(chime);
            chime.ring();
        }
        Ok(())
    }

    pub(crate) fn touch(&self) {
        // A load first: most requests touch more than once, and a store would take the line from other clones.
        if !self.marks.touched.load(Ordering::Relaxed) {
            self.marks.touched.store(true, Ordering::Relaxed);
        }
    }

    /// The session if it lives; else why not, if it ever did.
    pub(crate) fn live(&self, now: Millis) -> Result<Bound, Option<Closed>> {
        let bound = loop {
            let bound = match self.binding() {
                Binding::Live(bound) => bound,
                Binding::Fenced(reason) => return Err(Some(reason)),
                Binding::Refused => return Err(Some(Closed::CrossSite)),
                Binding::Anonymous | Binding::Job => return Err(None),
            };
            match bound.record.closed(now) {
                None => break bound,
                // A clone has renewed it between the two looks, and this handle went along.
                Some(Closed::Renewed) if self.bound_key() != Some(bound.key()) => {}
                Some(closed) => return Err(Some(closed)),
            }
        };
        self.obey_revocations(&bound, now).map_err(Some)?;
        Ok(bound)
    }

    /// Why the handle can't be used any more; `None` if it can.
    pub(crate) fn closed(&self, now: Millis) -> Option<Closed> {
        self.live(now).err().flatten()
    }

    /// # Errors
    ///
    /// `Closed` if the handle can't be used any more.
    pub(crate) fn open(&self) -> Result<(), WriteError> {
        self.closed(self.chain.now()).map_or(Ok(()), |reason| Err(WriteError::closed(reason)))
    }

    /// Ends the session if all of its principal's were ended after its id was minted.
    pub(super) fn obey_revocations(&self, bound: &Bound, now: Millis) -> Result<(), Closed> {
        let revocations = self.chain.revocations.load(Ordering::Acquire);
        if self.revocations.load(Ordering::Relaxed) == revocations {
            return Ok(());
        }
        if let Some(signed) = self.signed_of(bound, now)
            && let Some(record) = self.find_principal(&signed)
        {
            let Kind::Principal { not_before, .. } = record.read().kind else { return Ok(()) };
            let birth = bound.record.read().birth();
            if birth.is_some_and(|birth| birth <= not_before) {
                // Another handle may have been faster; either way it is over.
                let _ = bound.record.end(Closed::Revoked, now);
                return Err(Closed::Revoked);
            }
        }
        self.revocations.store(revocations, Ordering::Relaxed);
        Ok(())
    }

    /// The principal, if one is signed in and the session has not ended.
    pub(crate) fn signed(&self, now: Millis) -> Option<Arc<Signed>> {
        match (self.binding(), &self.who) {
            (Binding::Refused, _) => None,
            (Binding::Live(_), _) => self.live(now).ok().and_then(|bound| self.signed_of(&bound, now)),
            (_, Who::Given(signed)) => signed.clone(),
            (_, Who::Value) => None,
        }
    }

    /// What tells this user from others, the same on every node; empty while nobody is signed in.
    pub(crate) fn user_mark(&self) -> String {
        self.signed(self.chain.now()).map_or_else(String::new, |signed| signed.owner.mark())
    }

    pub(super) fn signed_of(&self, bound: &Bound, now: Millis) -> Option<Arc<Signed>> {
        match &self.who {
            Who::Given(signed) => signed.clone(),
            Who::Value => self.derive(bound, now),
        }
    }

    fn derive(&self, bound: &Bound, now: Millis) -> Option<Arc<Signed>> {
        let Identity::Value { number, derive } = &self.chain.identity else { return None };
        let (mark, json) = {
            let state = bound.record.read();
            let kept = state.kept(&self.chain.schema, *number, now)?;
            (Some((bound.key(), kept.version)), kept.json.clone()?)
        };
        if let Some((known, signed)) = &*lock(&self.derived)
            && *known == mark
        {
            return signed.clone();
        }
        // Outside of the lock: the application's own code runs here.
        let signed = derive(&json).map(|principal| self.chain.signed(principal));
        *lock(&self.derived) = Some((mark, signed.clone()));
        signed
    }

    /// The principal's record if there is one on this node. Reading makes none.
    pub(super) fn find_principal(&self, signed: &Signed) -> Option<Arc<Record>> {
        let key = signed.key();
        if let Some(held) = &*lock(&self.principal)
            && held.key == key
        {
            return Some(Arc::clone(&held.record));
        }
        self.chain.memory.as_ref()?.find(&key)
    }

    /// The principal's record, made if there is none, and held until the handle goes.
    pub(super) fn hold_principal(&self, signed: &Signed, now: Millis) -> Arc<Record> {
        let key = signed.key();
        let mut principal = lock(&self.principal);
        if let Some(held) = &*principal
            && held.key == key
        {
            return Arc::clone(&held.record);
        }
        let make = || Record::principal(self.chain.principal_idle, now);
        let record = match &self.chain.memory {
            Some(memory) => memory.find_or_insert(key, make),
            None => Arc::new(make()),
        };
        let before = principal.replace(Held { key, record: Arc::clone(&record) });
        drop(principal);
        if before.is_some() {
            self.release(before);
            // A clone may have signed somebody else in since the caller asked who it is: the watches follow who is now.
            if let Some(chime) = self.chime.get() {
                self.join_hubs(chime);
            }
        }
        record
    }

    fn release(&self, held: Option<Held>) {
        if let Some(Held { key, record }) = held {
            if let Some(chime) = self.chime.get() {
                record.leave_hub(chime);
            }
            if let Some(memory) = &self.chain.memory {
                memory.release(&key, record);
            }
        }
    }

    /// Counts a change of a record and does the memory tier's share of work.
    pub(super) fn settle(&self, key: RecordKey, record: &Record, now: Millis) {
        if let Some(memory) = &self.chain.memory {
            memory.settle(key, record, now);
        }
    }

    /// A bell that rings at whatever can change what this handle sees.
    pub(crate) fn listen(&self) -> Bell {
        let chime = self.chime.get_or_init(Arc::default);
        // The bell hangs before the hubs are joined, and both before anything is read: no change falls between.
        let bell = chime.hang();
        self.join_hubs(chime);
        bell
    }

    fn join_hubs(&self, chime: &Arc<Chime>) {
        let now = self.chain.now();
        self.chain.hub.join(chime);
        if let Binding::Live(bound) = self.binding() {
            bound.record.join_hub(chime);
        }
        if let Some(signed) = self.signed(now) {
            self.hold_principal(&signed, now);
            // What is held now, by whomever: what is let go of is left under the same lock or after it.
            if let Some(held) = &*lock(&self.principal) {
                held.record.join_hub(chime);
            }
        }
    }

    /// Whose record a value of a scope is in now, if there is one.
    pub(super) fn record_of(&self, scope: Scope, now: Millis) -> Option<(RecordKey, Arc<Record>)> {
        if scope == Scope::Principal
            && let Some(signed) = self.signed(now)
        {
            return self.find_principal(&signed).map(|record| (signed.key(), record));
        }
        self.live(now).ok().map(|bound| (bound.key(), bound.record))
    }

    /// Somebody begins to watch. That counts as use, as reading does; that the watch goes on does not.
    pub(crate) fn follow(&self) {
        self.touch();
        self.use_session(self.chain.now());
    }

    /// Using what is the principal's is use of the session too.
    pub(super) fn use_session(&self, now: Millis) {
        if let Ok(bound) = self.live(now) {
            bound.record.touch(now);
        }
    }

    /// What the stored tiers say, and what a watch is to compare.
    pub(crate) fn stored(&self, number: Number, now: Millis, look: Look) -> (Stored, Mark) {
        let scope = self.chain.schema.at(number).scope;
        if let Some(stored) =
            self.of_session(scope, |bound| self.stored_in(bound.key(), &bound.record, number, now, look))
        {
            return stored.unwrap_or((Stored::Nothing, None));
        }
        if look == Look::Use && scope == Scope::Principal {
            self.use_session(now);
        }
        loop {
            let Some((key, record)) = self.record_of(scope, now) else { return (Stored::Nothing, None) };
            match self.stored_in(key, &record, number, now, look) {
                Ok(stored) => return stored,
                // Since it was found, and by a clone or for good: looked for again, there is another or none.
                Err(Closed::Renewed) => {}
                Err(_) => return (Stored::Nothing, None),
            }
        }
    }

    fn stored_in(
        &self,
        key: RecordKey,
        record: &Record,
        number: Number,
        now: Millis,
        look: Look,
    ) -> Result<(Stored, Mark), Closed> {
        let kept = record.live(now, |state| state.kept(&self.chain.schema, number, now).cloned())?;
        // Only now: what is over must not come back because somebody looked.
        if look == Look::Use {
            record.touch(now);
        }
        let Some(Kept { version, json, .. }) = kept else { return Ok((Stored::Nothing, None)) };
        let from_cookie = self.brought.filled.contains(&(number, version)) || self.chain.memory.is_none();
        let tier = if from_cookie { COOKIE } else { MEMORY };
        let stored = match json {
            Some(json) => Stored::Copy { json, version, tier },
            None => Stored::Tombstone { version, tier },
        };
        Ok((stored, Some((key, version))))
    }

    /// Looks at the handle's own session in place, where nothing else has a say in a value of this scope: the session is
    /// not a fenced or refused one, and no principal's sessions were ended since the last look.
    pub(super) fn of_session<T>(&self, scope: Scope, look: impl FnOnce(&Bound) -> T) -> Option<T> {
        let settled = self.revocations.load(Ordering::Relaxed) == self.chain.revocations.load(Ordering::Acquire);
        if !settled || scope != Scope::Session {
            return None;
        }
        match &*self.binding.read().unwrap_or_else(PoisonError::into_inner) {
            Binding::Live(bound) => Some(look(bound)),
            _ => None,
        }
    }

    /// What a watch looks at: the stored copy, what tells it from others, and when that or the session ends. Thousands
    /// may do it for one write: under one lock, where one record says it all.
    ///
    /// # Errors
    ///
    /// Why the session is over.
    pub(crate) fn glance(&self, number: Option<Number>, now: Millis) -> Result<Glance, Closed> {
        let scope = number.map_or(Scope::Session, |number| self.chain.schema.at(number).scope);
        if let Some(glance) = self.of_session(scope, |bound| self.glance_at(&bound.record, bound.key(), number, now)) {
            return glance;
        }
        if let Some(reason) = self.closed(now) {
            return Err(reason);
        }
        let session = self.ends(now);
        let glance = self.record_of(scope, now).map(|(key, record)| self.glance_at(&record, key, number, now));
        let (kept, mark, until) = match glance {
            Some(Ok(glance)) => glance,
            // Since the look above: renewed by a clone, or ended, and then no value goes out.
            Some(Err(reason)) if reason != Closed::Expired => return self.glance(number, now),
            // A principal's record that idled out holds nothing, and ends nothing.
            Some(Err(_)) | None => Glance::default(),
        };
        Ok((kept, mark, [session, until].into_iter().flatten().min()))
    }

    fn glance_at(
        &self,
        record: &Record,
        key: RecordKey,
        number: Option<Number>,
        now: Millis,
    ) -> Result<Glance, Closed> {
        let state = record.read_live(now)?;
        let ends = state.deadline(record.used());
        let schema = &self.chain.schema;
        let Some((number, kept)) = number.and_then(|number| Some((number, state.kept(schema, number, now)?))) else {
            return Ok((None, None, Some(ends)));
        };
        let until = kept.expires(schema.at(number).max_age).map_or(ends, |end| end.min(ends));
        Ok((kept.json.clone(), Some((key, kept.version)), Some(until)))
    }

    /// The first answer that a reader takes: the stored copy, else a computed one.
    pub(crate) fn answer<T, E: std::fmt::Display>(
        &self,
        number: Number,
        stored: Option<Bytes>,
        mut read: impl FnMut(&Bytes) -> Result<T, E>,
    ) -> Option<T> {
        if let Some(json) = &stored
            && let Some(value) = self.readable(number, MEMORY, read(json))
        {
            return Some(value);
        }
        let mut computed = self.computed(number, self.chain.now());
        computed.find_map(|(tier, json)| self.readable(number, tier, read(json)))
    }

    fn readable<T, E: std::fmt::Display>(&self, number: Number, tier: &str, read: Result<T, E>) -> Option<T> {
        read.inspect_err(|flaw| {
            let name = self.chain.schema.at(number).name;
            tracing::warn!(name, tier, %flaw, "skipped a copy that is no valid value");
        })
        .ok()
    }

    /// The computed tiers' answers for a value, in the chain's order.
    pub(crate) fn computed(&self, number: Number, now: Millis) -> impl Iterator<Item = (&'static str, &Bytes)> {
        let answers = move |tier: &'static str| {
            let holds = move |said: &&Computation| {
                said.tier == tier && said.number == number && said.until.is_none_or(|until| now < until)
            };
            self.computed.iter().filter(holds).map(|said| &said.json)
        };
        self.chain.computed.iter().flat_map(move |tier| {
            let constants = match tier {
                Computed::Default(rules) => rules.as_slice(),
                Computed::Source(_) => &[],
            };
            let constants =
                constants.iter().filter(move |(of, _)| *of == number).filter_map(|(_, answer)| match answer {
                    crate::tier::default::Answer::Constant(json) => json.as_ref().ok(),
                    crate::tier::default::Answer::Computed(_) => None,
                });
            answers(tier.name()).chain(constants).map(move |json| (tier.name(), json))
        })
    }

    /// The first answer that a reader takes, with the tier that gave it.
    pub(crate) fn resolve<T, E: std::fmt::Display>(
        &self,
        number: Number,
        now: Millis,
        look: Look,
        mut read: impl FnMut(&Bytes) -> Result<T, E>,
    ) -> (Option<(T, &'static str)>, Mark) {
        let (stored, mark) = self.stored(number, now, look);
        let stored = match &stored {
            Stored::Copy { json, tier, .. } => Some((*tier, json)),
            Stored::Tombstone { .. } | Stored::Nothing => None,
        };
        let mut answers = stored.into_iter().chain(self.computed(number, now));
        let answer = answers.find_map(|(tier, json)| Some((self.readable(number, tier, read(json))?, tier)));
        (answer, mark)
    }

    /// When the session is over if nobody uses it again, or who is signed in no longer is: then other values answer.
    pub(crate) fn ends(&self, now: Millis) -> Option<Millis> {
        let Binding::Live(bound) = self.binding() else { return None };
        let session = bound.record.deadline();
        let Identity::Value { number, .. } = &self.chain.identity else { return Some(session) };
        Some(self.value_ends(*number, now).map_or(session, |user| user.min(session)))
    }

    /// When a value ends: with its own lifetime, or with its owner's record.
    pub(crate) fn value_ends(&self, number: Number, now: Millis) -> Option<Millis> {
        let declared = self.chain.schema.at(number);
        let (_, record) = self.record_of(declared.scope, now)?;
        let state = record.read_live(now).ok()?;
        let own = state.kept(&self.chain.schema, number, now)?.expires(declared.max_age);
        let records = state.deadline(record.used());
        Some(own.map_or(records, |own| own.min(records)))
    }

    /// Every stored value and removal that this handle sees, and the records that they come from.
    pub(crate) fn survey(&self, now: Millis) -> (Vec<live::Owner>, Vec<live::Seen>) {
        loop {
            let bound = self.bound_key();
            let seen = self.look_over(now);
            // A clone's renewal in the middle of it would look like the end of every value.
            if self.bound_key() == bound {
                return seen;
            }
        }
    }

    fn look_over(&self, now: Millis) -> (Vec<live::Owner>, Vec<live::Seen>) {
        let schema = &self.chain.schema;
        let signed = self.signed(now);
        let session = self.live(now).ok().map(|bound| (bound.key(), bound.record, Scope::Session));
        let principal = signed
            .as_ref()
            .and_then(|signed| self.find_principal(signed).map(|record| (signed.key(), record, Scope::Principal)));
        let mut values = Vec::new();
        let mut owners = Vec::new();
        for (key, record, scope) in session.into_iter().chain(principal) {
            let state = record.read();
            owners.push(live::Owner { key, changes: state.changes, cleared: state.cleared });
            let mine = schema.iter().filter(|(_, of)| signed.is_none() || of.scope == scope);
            let over = state.closed(record.used(), now).is_some();
            let kept =
                mine.filter(|_| !over).filter_map(|(number, _)| Some((number, state.kept(schema, number, now)?)));
            values.extend(kept.map(|(number, kept)| {
                let origin = state.values.origin(number);
                live::Seen { number, version: kept.version, is_value: kept.json.is_some(), origin }
            }));
        }
        (owners, values)
    }

    /// Whether a write can still have an effect.
    pub(super) fn check_head(&self) -> Result<(), WriteError> {
        if self.chain.memory.is_none() && self.marks.head_sent.load(Ordering::Acquire) {
            return Err(WriteError::new(
                WriteErrorKind::HeadSent,
                "the response head is gone: without a memory tier nothing is kept past it",
            ));
        }
        Ok(())
    }

    pub(super) fn first_hit(&self) -> bool {
        self.chain.resolution == Resolution::FirstHit
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(chime) = self.chime.get() {
            self.chain.hub.leave(chime);
            if let Binding::Live(bound) = self.binding() {
                bound.record.leave_hub(chime);
            }
        }
        let held = lock(&self.principal).take();
        self.release(held);
    }
}

impl State {
    /// When the session's id was minted.
    pub(crate) fn birth(&self) -> Option<Version> {
        match &self.kind {
            Kind::Session { life, .. } => Some(life.birth),
            _ => None,
        }
    }
}

/// The name under which `V::default()` answers.
pub(crate) const STAND_IN: &str = DEFAULT;
