//! The parts of which rules consist: the stores under test ([`Trial`]), the record of a new owner ([`Owner`]), and the
//! commits ([`Draft`]).

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::wait::within;
use crate::{
    error::CloseReason,
    id::OwnerId,
    tier::{
        Ask, Change, Commit, CommitKind, Committed, Known, NodeId, Snapshot, Store, StoreError, StoredEnd, StoredLife,
        StoredRecord, Touch,
    },
    time::Clock,
    value::Json,
    version::Version,
};

/// The span for which rules keep their records, unless expiry is their subject. The records leave the store afterwards.
pub(super) const KEEP: Duration = Duration::from_secs(60);

/// The difference between a store and its rule.
#[derive(Debug)]
pub(super) struct Fault(pub(super) String);

pub(super) type Outcome = Result<(), Fault>;

impl Fault {
    pub(super) fn new(expected: impl fmt::Display, got: impl fmt::Debug) -> Self {
        Self(format!("expected {expected}, got {got:?}"))
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            message.push_str(&format!(": {source}"));
            cause = source.source();
        }
        Self(message)
    }
}

/// Fails if the two are not equal.
pub(super) fn same<T: PartialEq + fmt::Debug>(subject: &str, got: T, expected: T) -> Outcome {
    if got == expected { Ok(()) } else { Err(Fault(format!("{subject}: expected {expected:?}, got {got:?}"))) }
}

/// Fails unless the claim is true. `claim` ends the sentence "expected …".
pub(super) fn ensure(holds: bool, claim: impl fmt::Display, got: impl fmt::Debug) -> Outcome {
    if holds { Ok(()) } else { Err(Fault::new(claim, got)) }
}

/// The stores under test. The calls of a rule go to all stores in turn, so that no rule depends on one connection.
pub(super) struct Trial<'a> {
    stores: &'a [&'a dyn Store],
    clock: &'a dyn Clock,
    /// Whether the store's records expire with the time of the clock.
    expiry: bool,
    calls: AtomicUsize,
    pub(super) node: NodeId,
}

impl<'a> Trial<'a> {
    pub(super) fn new(stores: &'a [&'a dyn Store], clock: &'a dyn Clock, expiry: bool) -> Self {
        Self { stores, clock, expiry, calls: AtomicUsize::new(0), node: NodeId::random() }
    }

    /// The store for the next call.
    pub(super) fn store(&self) -> &'a dyn Store {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.stores[call % self.stores.len()]
    }

    pub(super) fn stores(&self) -> &'a [&'a dyn Store] {
        self.stores
    }

    /// Makes an owner that no store knows.
    pub(super) fn owner(&self) -> Owner<'_> {
        self.owner_of(rand::random())
    }

    pub(super) const fn owner_of(&self, hash: [u8; 32]) -> Owner<'_> {
        Owner { trial: self, id: OwnerId::from_hash(hash) }
    }

    pub(super) async fn sleep(&self, span: Duration) {
        self.clock.sleep(span).await;
    }

    /// Lets a store's clock show another time, if the clock runs.
    pub(super) async fn let_clock_run(&self) {
        if self.expiry {
            self.sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn within<T>(&self, span: Duration, work: impl Future<Output = T>) -> Option<T> {
        within(self.clock.sleep(span), work).await
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(super) async fn read(&self, asks: &[Ask]) -> Result<Vec<Snapshot>, Fault> {
        Ok(self.store().read(asks).await?)
    }

    pub(super) async fn touch(&self, touches: &[Touch]) -> Outcome {
        Ok(self.store().touch(touches).await?)
    }
}

/// An owner of a rule's own, with the calls for the owner's record.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) trial: &'a Trial<'a>,
    pub(super) id: OwnerId,
}

/// The fields of [`Committed::Applied`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) stamp: Version,
    pub(super) newest: Version,
    pub(super) generation: Version,
}

impl Owner<'_> {
    pub(super) async fn commit(&self, draft: Draft) -> Result<Committed, Fault> {
        let changes = draft.changes();
        Ok(self.trial.store().commit(self.commit_of(&draft, &changes)).await?)
    }

    pub(super) const fn commit_of<'c>(&self, draft: &Draft, changes: &'c [Change<'c>]) -> Commit<'c> {
        let Draft { kind, life, above, keep, .. } = *draft;
        Commit { owner: self.id, kind, changes, life, above, keep, node: self.trial.node }
    }

    /// Makes a commit that the store must apply.
    pub(super) async fn applied(&self, draft: Draft) -> Result<Applied, Fault> {
        let kind = draft.kind;
        match self.commit(draft).await? {
            Committed::Applied { stamp, newest, generation } => Ok(Applied { stamp, newest, generation }),
            other => Err(Fault::new(format!("`Applied` for a commit of kind `{kind:?}`"), other)),
        }
    }

    /// Makes a commit that the store must answer as outdated.
    pub(super) async fn outdated(&self, draft: Draft, case: &str) -> Result<StoredRecord, Fault> {
        match self.commit(draft).await? {
            Committed::Outdated(record) => Ok(record),
            other => Err(Fault::new(format!("`Outdated` for {case}"), other)),
        }
    }

    /// Makes a commit that the store must answer with `Absent`.
    pub(super) async fn absent(&self, draft: Draft) -> Outcome {
        let kind = draft.kind;
        match self.commit(draft).await? {
            Committed::Absent => Ok(()),
            other => Err(Fault::new(format!("`Absent` for a commit of kind `{kind:?}`"), other)),
        }
    }

    /// Ends the record, which must live.
    pub(super) async fn retired(&self, draft: Draft) -> Result<StoredRecord, Fault> {
        match self.commit(draft).await? {
            Committed::Retired(record) => Ok(record),
            other => Err(Fault::new("`Retired` for the end of a record", other)),
        }
    }

    pub(super) const fn ask(&self) -> Ask {
        Ask::new(self.id)
    }

    pub(super) async fn read(&self) -> Result<Snapshot, Fault> {
        self.answer(self.ask()).await
    }

    pub(super) async fn read_unless(&self, known: Known) -> Result<Snapshot, Fault> {
        self.answer(self.ask().unless(known)).await
    }

    async fn answer(&self, ask: Ask) -> Result<Snapshot, Fault> {
        let mut snapshots = self.trial.read(&[ask]).await?;
        match (snapshots.pop(), snapshots.len()) {
            (Some(snapshot), 0) => Ok(snapshot),
            (snapshot, others) => Err(Fault::new("one snapshot for one ask", usize::from(snapshot.is_some()) + others)),
        }
    }

    /// Reads the record, which must live.
    pub(super) async fn present(&self) -> Result<StoredRecord, Fault> {
        match self.read().await? {
            Snapshot::Present(record) => Ok(record),
            other => Err(Fault::new("`Present` for a record that lives", other)),
        }
    }

    /// Reads the end of the record.
    pub(super) async fn ended(&self) -> Result<StoredEnd, Fault> {
        match self.read().await? {
            Snapshot::Ended(end) => Ok(end),
            other => Err(Fault::new("`Ended` for an ended record", other)),
        }
    }

    /// Fails if the store has a record of the owner.
    pub(super) async fn missing(&self, case: &str) -> Outcome {
        match self.read().await? {
            Snapshot::Absent => Ok(()),
            other => Err(Fault::new(format!("`Absent` {case}"), other)),
        }
    }

    /// Reads a value of the record, which must live.
    pub(super) async fn entry(&self, name: &str) -> Result<Option<Entry>, Fault> {
        Ok(entries(&self.present().await?).remove(name))
    }
}

/// The JSON of a value, as faults show the bytes. `None` is a tombstone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Content(pub(super) Option<Vec<u8>>);

impl Content {
    pub(super) const REMOVED: Self = Self(None);

    pub(super) fn of(json: &str) -> Self {
        Self(Some(json.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("a tombstone"),
            Some(json) if json.len() <= 80 => write!(f, "`{}`", String::from_utf8_lossy(json)),
            Some(json) => write!(f, "{} bytes", json.len()),
        }
    }
}

pub(super) type Entry = (Content, Version);

pub(super) fn entries(record: &StoredRecord) -> BTreeMap<String, Entry> {
    let entry = |entry: &crate::tier::StoredEntry| {
        (entry.name().to_owned(), (Content(entry.json().map(<[u8]>::to_vec)), entry.version()))
    };
    record.entries().map(entry).collect()
}

/// The values of a record without their versions.
pub(super) fn contents(record: &StoredRecord) -> BTreeMap<String, Content> {
    entries(record).into_iter().map(|(name, (content, _))| (name, content)).collect()
}

/// A commit of a rule.
#[derive(Clone)]
pub(super) struct Draft {
    kind: CommitKind,
    changes: Vec<Edit>,
    life: Option<StoredLife>,
    above: Version,
    keep: Duration,
}

#[derive(Clone)]
struct Edit {
    name: String,
    json: Option<Json>,
    version: Option<Version>,
    replaces: Option<Version>,
}

impl Edit {
    const fn change(&self) -> Change<'_> {
        let Self { name, json, version, replaces } = self;
        Change { name: name.as_str(), json: json.as_ref(), version: *version, replaces: *replaces }
    }
}

impl Draft {
    pub(super) const fn of(kind: CommitKind) -> Self {
        Self { kind, changes: Vec::new(), life: None, above: Version::ZERO, keep: KEEP }
    }

    pub(super) const fn create() -> Self {
        Self::of(CommitKind::Create)
    }

    pub(super) const fn update() -> Self {
        Self::of(CommitKind::Update)
    }

    pub(super) const fn upsert() -> Self {
        Self::of(CommitKind::Upsert)
    }

    pub(super) const fn clear() -> Self {
        Self::of(CommitKind::Clear { except: None })
    }

    pub(super) const fn revoke() -> Self {
        Self::of(CommitKind::Revoke { up_to: None })
    }

    pub(super) const fn end() -> Self {
        Self::of(CommitKind::End { reason: CloseReason::Destroyed, successor: None })
    }

    pub(super) const fn kind(&self) -> CommitKind {
        self.kind
    }

    fn with(mut self, name: &str, json: Option<&[u8]>, version: Option<Version>) -> Self {
        self.changes.push(Edit { name: name.to_owned(), json: json.map(Json::from), version, replaces: None });
        self
    }

    /// Adds a fresh value.
    pub(super) fn set(self, name: &str, json: impl AsRef<[u8]>) -> Self {
        self.with(name, Some(json.as_ref()), None)
    }

    /// Adds a fresh removal.
    pub(super) fn remove(self, name: &str) -> Self {
        self.with(name, None, None)
    }

    /// Adds a carried value or a carried removal.
    pub(super) fn carry(self, name: &str, json: Option<&str>, version: Version) -> Self {
        self.with(name, json.map(str::as_bytes), Some(version))
    }

    /// Lets the last change replace a version.
    pub(super) fn replacing(mut self, version: Version) -> Self {
        if let Some(last) = self.changes.last_mut() {
            last.replaces = Some(version);
        }
        self
    }

    pub(super) const fn life(mut self, life: StoredLife) -> Self {
        self.life = Some(life);
        self
    }

    pub(super) const fn above(mut self, version: Version) -> Self {
        self.above = version;
        self
    }

    pub(super) const fn keep(mut self, span: Duration) -> Self {
        self.keep = span;
        self
    }

    pub(super) fn changes(&self) -> Vec<Change<'_>> {
        self.changes.iter().map(Edit::change).collect()
    }
}

/// Returns a version of 2024, with all 57 bits in use: a store that keeps versions as floating-point numbers loses the
/// difference between neighbours.
pub(super) const fn version(number: u64) -> Version {
    Version::from_u64(0x018f_0000_0000_0000 + number)
}

/// Returns a version an hour after another version, with a full counter.
pub(super) const fn hour_after(version: Version) -> Version {
    Version::from_u64((version.as_u64() | 0xffff) + (3_600_000 << 16))
}
