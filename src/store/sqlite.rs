//! [`SqliteStore`]: a shared store in a SQLite file.

use std::{
    fmt, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use self::{
    owned::OwnedCommit,
    worker::{Begin, Now, Worker},
};
use crate::{
    error::{BuildError, BuildErrorKind},
    tier::{Ask, Commit, Committed, NoticeStream, Snapshot, Store, StoreFuture, Touch, notice::hub::NoticeHub},
};

mod failure;
mod open;
mod owned;
mod rows;
mod worker;

/// A shared store in a SQLite file, for the nodes of one machine. Clones are the same store.
///
/// A restart keeps all sessions, also the values that no browser carries
/// ([`Placement::Server`](crate::Placement::Server)), and a sign-out holds after the restart. The file, its log `-wal`
/// and the log's index `-shm` belong on a local disk. The store creates the file for its user alone (mode 0600).
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("sessions.db");
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// use layered_session::{
///     CookieTier, KeyRing, MemoryTier, Placement, Principal, Scope, SessionValue,
///     Sessions, SharedTier, SqliteStore,
/// };
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Quota(u32);
///
/// impl SessionValue for Quota {
///     const NAME: &'static str = "quota";
///     const SCOPE: Scope = Scope::Principal;
///     const PLACEMENT: Placement = Placement::Server;
/// }
///
/// let start = || {
///     Sessions::builder()
///         .tier(MemoryTier::builder().build())
///         .tier(CookieTier::sealed(KeyRing::generate()?))
///         .tier(SharedTier::new(SqliteStore::open(&path)?))
///         .value::<Quota>()
///         .build()
/// };
/// let ada = start()?.for_principal(Principal::new("ada")).await?;
/// ada.set(Quota(3)).await?;
///
/// let restarted = start()?; // another process, or the same process later
/// let ada = restarted.for_principal(Principal::new("ada")).await?;
/// assert_eq!(ada.get::<Quota>(), Some(Quota(3)));
/// # Ok::<_, layered_session::tier::BoxError>(()) })?;
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
///
/// # Durability
///
/// A commit that the store has acknowledged is on the disk, and outlives a crash of the process and a power cut.
/// [`Durability::Normal`] trades the power cut for speed.
///
/// # Threads
///
/// A store has two threads of its own: one for commits, one for reads. The runtime never waits for the disk. All commits
/// that wait go into one transaction with one fsync. The threads end after the commits that have begun, once the last
/// clone is dropped.
///
/// # Several processes
///
/// Several processes of a machine may open the same file. The [notices](Store::notices) of a store tell of the commits
/// of its clones alone, so open a file once in a process and clone the store. A node learns of another process' commit
/// when the node reads the record again.
///
/// # Errors
///
/// A lock of another process that outlasts [`busy_timeout`](SqliteStoreBuilder::busy_timeout) is a
/// [`Timeout`](crate::tier::StoreErrorKind::Timeout), a full disk [`Full`](crate::tier::StoreErrorKind::Full), and a
/// file without write access [`ReadOnly`](crate::tier::StoreErrorKind::ReadOnly): the commit was not made. After a failed
/// fsync the outcome is unknown until the next read.
#[derive(Clone)]
pub struct SqliteStore(Arc<Opened>);

struct Opened {
    path: PathBuf,
    writer: Worker,
    reader: Worker,
    hub: NoticeHub,
}

/// The settings of a [`SqliteStore`].
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("sessions.db");
/// use std::time::Duration;
/// use layered_session::{Durability, SqliteStore};
///
/// let store = SqliteStore::builder(path)
///     .durability(Durability::Normal)
///     .busy_timeout(Duration::from_millis(250))
///     .open()?;
/// # drop(store);
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteStoreBuilder {
    path: PathBuf,
    durability: Durability,
    busy_timeout: Duration,
}

/// The losses that an acknowledged commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A crash of the process, a crash of the machine, and a power cut: each transaction ends with an fsync. SQLite's
    /// `synchronous = FULL`.
    #[default]
    Full,
    /// A crash of the process. A crash of the machine or a power cut may take the last seconds of commits away, sign-outs
    /// included: a session may live again. SQLite's `synchronous = NORMAL`.
    Normal,
}

impl SqliteStore {
    /// Opens a file with the default settings, and creates a missing file. Waits for the disk: call `open` at the start
    /// of the process.
    ///
    /// # Errors
    ///
    /// See [`SqliteStoreBuilder::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, BuildError> {
        Self::builder(path).open()
    }

    /// Begins the settings of a store in this file.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteStoreBuilder {
        let busy_timeout = Duration::from_secs(1);
        SqliteStoreBuilder { path: path.into(), durability: Durability::Full, busy_timeout }
    }
}

impl SqliteStoreBuilder {
    /// Sets the losses that an acknowledged commit survives. The default is [`Durability::Full`].
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the time that a read or a commit waits for a lock of another process, such as a backup. The default is one
    /// second.
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Opens the file, and creates a missing file. Brings the tables of an earlier version of this crate to the present
    /// version. Waits for the disk.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] of the kind [`Store`](BuildErrorKind::Store), which names the file and the remedy:
    ///
    /// - The directory is missing, or this process may not write the file or the directory.
    /// - The file is damaged, or is no SQLite database, or the database of another application.
    /// - A later version of this crate has written the file. The file stays as it is.
    /// - Another process holds a lock for longer than [`busy_timeout`](Self::busy_timeout).
    /// - The file lies on a file system without shared memory, such as a network share.
    pub fn open(self) -> Result<SqliteStore, BuildError> {
        self.open_with(Arc::new(SystemTime::now))
    }

    /// Opens the file for a store with this clock.
    fn open_with(self, now: Now) -> Result<SqliteStore, BuildError> {
        let Self { path, durability, busy_timeout } = self;
        let writer = open::writer(&path, durability, busy_timeout)?;
        let reader = open::reader(&path, busy_timeout)?;
        let no_thread =
            |error: io::Error| BuildErrorKind::Store.error("the SQLite store can't start its threads").caused_by(error);
        let writer = Worker::start("sqlite-commits", writer, Begin::Write, Arc::clone(&now)).map_err(no_thread)?;
        let reader = Worker::start("sqlite-reads", reader, Begin::Read, now).map_err(no_thread)?;
        Ok(SqliteStore(Arc::new(Opened { path, writer, reader, hub: NoticeHub::default() })))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::boxed(async move {
            let asks = asks.to_vec();
            self.0.reader.run(move |rows, now| asks.iter().map(|ask| rows.answer(*ask, now)).collect(), |_| {}).await
        })
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::boxed(async move {
            let (commit, hub) = (OwnedCommit::of(commit), self.0.hub.clone());
            let made = self.0.writer.run(
                move |rows, now| commit.with(|commit| rows.commit(commit, now)),
                move |(_, notice)| notice.iter().for_each(|notice| hub.send(*notice)),
            );
            made.await.map(|(committed, _)| committed)
        })
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(async move {
            let touches = touches.to_vec();
            let touch =
                move |rows: &mut rows::Rows<'_>, now| touches.iter().try_for_each(|touch| rows.touch(*touch, now));
            self.0.writer.run(touch, |()| {}).await
        })
    }

    fn notices(&self) -> Option<NoticeStream> {
        Some(self.0.hub.subscribe())
    }

    fn maintain(&self) -> StoreFuture<'_, bool> {
        StoreFuture::boxed(self.0.writer.run(|rows, now| rows.drop_expired(now), |_| {}))
    }
}

#[cfg(test)]
mod tests;
