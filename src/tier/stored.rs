//! The record of one owner in a store: [`StoredRecord`].

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{Ask, Known, OwnerId, Snapshot, Touch};
use crate::{error::CloseReason, value::Json, version::Version};

/// The record of one owner in a store: values with their versions, and the state of the owner.
///
/// A store that keeps records as rows builds a record from its columns:
///
/// ```
/// use layered_session::tier::{StoredRecord, Version};
///
/// let version = Version::from_u64(7);
/// let record = StoredRecord::new(version).with_newest(version);
/// let record = record.with_entry("theme", Some("\"dark\"".into()), version);
/// assert_eq!(record.entries().next().map(|entry| entry.name()), Some("theme"));
/// ```
#[derive(Clone)]
pub struct StoredRecord {
    pub(crate) generation: Version,
    pub(crate) newest: Version,
    pub(crate) not_before: Version,
    pub(crate) life: Option<StoredLife>,
    pub(crate) end: Option<StoredEnd>,
    pub(crate) expires: SystemTime,
    pub(crate) left: Duration,
    pub(crate) entries: Vec<StoredEntry>,
}

impl StoredRecord {
    /// Creates a record without values. `generation` is the stamp of the commit that created the record.
    pub const fn new(generation: Version) -> Self {
        Self {
            generation,
            newest: generation,
            not_before: Version::ZERO,
            life: None,
            end: None,
            expires: UNIX_EPOCH,
            left: Duration::ZERO,
            entries: Vec::new(),
        }
    }

    /// The stamp of the commit that created the record. A record that the store has lost and that a later write creates
    /// again has another generation.
    pub const fn generation(&self) -> Version {
        self.generation
    }

    /// The newest version of the record. Each commit raises this version, also a commit that only ends a session or
    /// sets a lifetime.
    pub const fn newest(&self) -> Version {
        self.newest
    }

    /// In a principal's record: the version up to which the principal's sessions have ended. A session has ended if its
    /// birth (the version at which the session got its id) is equal to or older than this version. In a session's
    /// record: always [`Version::ZERO`].
    pub const fn not_before(&self) -> Version {
        self.not_before
    }

    /// The lifetime of a session; `None` for a principal.
    pub const fn life(&self) -> Option<&StoredLife> {
        self.life.as_ref()
    }

    /// The end of the session; `None` while the session lives.
    pub const fn end(&self) -> Option<&StoredEnd> {
        self.end.as_ref()
    }

    /// The time at which the store may drop the record, by the store's clock.
    pub const fn expires(&self) -> SystemTime {
        self.expires
    }

    /// The span until the record expires, at the time of the store's answer. A touch on any node extends this span, so a
    /// node computes the last use of a session from the span: the clocks of the store and of the node may differ.
    pub const fn left(&self) -> Duration {
        self.left
    }

    /// The values and tombstones, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &StoredEntry> {
        self.entries.iter()
    }

    /// Sets the newest version of the record.
    #[must_use]
    pub const fn with_newest(mut self, newest: Version) -> Self {
        self.newest = newest;
        self
    }

    /// Sets [`not_before`](Self::not_before): the principal's sessions with a birth equal to or older than `version`
    /// have ended.
    #[must_use]
    pub const fn with_not_before(mut self, version: Version) -> Self {
        self.not_before = version;
        self
    }

    /// Sets the lifetime of a session.
    #[must_use]
    pub const fn with_life(mut self, life: StoredLife) -> Self {
        self.life = Some(life);
        self
    }

    /// Marks the session as ended.
    #[must_use]
    pub const fn with_end(mut self, end: StoredEnd) -> Self {
        self.end = Some(end);
        self
    }

    /// Sets the time at which the store may drop the record.
    #[must_use]
    pub const fn with_expires(mut self, at: SystemTime) -> Self {
        self.expires = at;
        self
    }

    /// Sets the span until the record expires. [`answer`](Self::answer) sets the span by the store's clock.
    #[must_use]
    pub const fn with_left(mut self, left: Duration) -> Self {
        self.left = left;
        self
    }

    /// Adds a value as JSON bytes, or a tombstone (`None`), with its version.
    #[must_use]
    pub fn with_entry(mut self, name: impl Into<String>, json: Option<Bytes>, version: Version) -> Self {
        self.entries.push(StoredEntry { name: name.into(), json: json.as_deref().map(Json::from), version });
        self
    }

    /// Returns the state by which a later [`Ask`](super::Ask) names this record.
    pub const fn known(&self) -> Known {
        Known { generation: self.generation, newest: self.newest }
    }

    /// Answers an ask for this record, at a time of the store's clock. An expired record counts as absent.
    ///
    /// This method is the whole contract of [`Store::read`](super::Store::read) as code.
    pub fn answer(&self, ask: Ask, now: SystemTime) -> Snapshot {
        let left = self.expires.duration_since(now).unwrap_or_default();
        match self.end {
            _ if left.is_zero() => Snapshot::Absent,
            Some(end) => Snapshot::Ended(end),
            None if ask.known() == Some(self.known()) => Snapshot::Unchanged { left },
            None => Snapshot::Present(self.clone().with_left(left)),
        }
    }

    /// Moves the expiry of a live record to a later time: the contract of [`Store::touch`](super::Store::touch) as code.
    pub fn touch(&mut self, touch: Touch, now: SystemTime) {
        if self.end.is_none() && now < self.expires && !self.has_life_above(touch.lifetime_version()) {
            self.expires = self.expires.max(now + touch.keep());
        }
    }

    /// Whether the record has a newer lifetime than the lifetime of this version.
    pub(crate) fn has_life_above(&self, version: Option<Version>) -> bool {
        self.life.is_some_and(|life| version.is_some_and(|version| version < life.version))
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|entry| keep(&entry.name));
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = StoredEntry> {
        self.entries.into_iter()
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&StoredEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// Shows no value: the values may be private.
impl fmt::Debug for StoredRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRecord")
            .field("generation", &self.generation)
            .field("newest", &self.newest)
            .field("end", &self.end)
            .field("names", &self.entries.iter().map(|entry| &entry.name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A value or a tombstone of a [`StoredRecord`].
#[derive(Clone, PartialEq, Eq)]
pub struct StoredEntry {
    pub(crate) name: String,
    pub(crate) json: Option<Json>,
    pub(crate) version: Version,
}

impl StoredEntry {
    /// The wire name of the value.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The JSON bytes of the value; `None` for a tombstone.
    pub fn json(&self) -> Option<&[u8]> {
        self.json.as_deref()
    }

    /// The version of the write.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Returns the rank of this copy among copies of the value: by version, then a tombstone above a value, then by the
    /// bytes.
    pub(crate) fn rank(&self) -> (Version, bool, Option<&[u8]>) {
        (self.version, self.json.is_none(), self.json.as_deref())
    }
}

/// Shows no value: the value may be private.
impl fmt::Debug for StoredEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredEntry")
            .field("name", &self.name)
            .field("bytes", &self.json.as_ref().map(|json| json.len()))
            .field("version", &self.version)
            .finish()
    }
}

/// The lifetime of a session in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredLife {
    pub(crate) absolute_deadline: SystemTime,
    pub(crate) idle: Duration,
    pub(crate) ends_with_browser: bool,
    pub(crate) version: Version,
}

impl StoredLife {
    /// Creates a lifetime: the absolute deadline, the idle lifetime, and the version of the change that set the
    /// lifetime.
    pub const fn new(absolute_deadline: SystemTime, idle: Duration, version: Version) -> Self {
        Self { absolute_deadline, idle, ends_with_browser: false, version }
    }

    /// Sets whether the cookie ends when the browser closes.
    #[must_use]
    pub const fn until_browser_closes(mut self, ends: bool) -> Self {
        self.ends_with_browser = ends;
        self
    }

    /// The absolute deadline.
    pub const fn absolute_deadline(&self) -> SystemTime {
        self.absolute_deadline
    }

    /// The idle lifetime.
    pub const fn idle(&self) -> Duration {
        self.idle
    }

    /// Whether the cookie ends when the browser closes.
    pub const fn ends_with_browser(&self) -> bool {
        self.ends_with_browser
    }

    /// The version of the change that set the lifetime; [`Version::ZERO`] for the configured lifetime.
    pub const fn version(&self) -> Version {
        self.version
    }
}

/// The end of a session in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredEnd {
    pub(crate) reason: CloseReason,
    pub(crate) successor: Option<OwnerId>,
    pub(crate) at: SystemTime,
}

impl StoredEnd {
    /// Creates an end with its reason and its time by the store's clock.
    pub const fn new(reason: CloseReason, at: SystemTime) -> Self {
        Self { reason, successor: None, at }
    }

    /// Sets the owner id of the session that a renewal began in place of this session, as the commit of kind
    /// [`End`](super::CommitKind::End) gives it: see [`successor`](Self::successor).
    #[must_use]
    pub const fn with_successor(mut self, successor: Option<OwnerId>) -> Self {
        self.successor = successor;
        self
    }

    /// The reason that the commit of kind [`End`](super::CommitKind::End) gave.
    pub const fn reason(&self) -> CloseReason {
        self.reason
    }

    /// The owner id of the session that a renewal began in place of this session, if the principal stayed the same;
    /// `None` otherwise. A sign-out with this session's cookie also ends that new session: see
    /// [`End`](super::CommitKind::End).
    pub const fn successor(&self) -> Option<OwnerId> {
        self.successor
    }

    /// The time of the end, by the store's clock.
    pub const fn at(&self) -> SystemTime {
        self.at
    }
}
