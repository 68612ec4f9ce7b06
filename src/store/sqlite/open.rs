//! The opening of a database: the private file, the checks, and the migrations.

use std::{
    fs::OpenOptions,
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::{Durability, rows};
use crate::error::{BuildError, BuildErrorKind};

/// The mark of our databases in the file's header: "lses".
const APPLICATION: i64 = 0x6c73_6573;

/// The steps from each version of the tables to the next. The version is the file's `user_version`.
const MIGRATIONS: &[&str] = &[rows::TABLES];

/// Opens the connection of the writer: creates a missing file, and brings the tables to the version of this crate.
pub(super) fn writer(path: &Path, durability: Durability, timeout: Duration) -> Result<Connection, BuildError> {
    create(path).map_err(|error| {
        let message = format!(
            "the SQLite store can't create `{}`: create the directory, and let this process write there",
            path.display()
        );
        BuildErrorKind::Store.error(message).caused_by(error)
    })?;
    let connection = connect(path, timeout)?;
    let failed = |error| failed(path, error);
    // Before any change: a file of a later version, or of another application, stays as it is.
    check(path, &connection)?;
    migrate(path, &connection, timeout)?;
    let mode: String = patiently(timeout, || connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)))
        .map_err(failed)?;
    if mode != "wal" {
        let message = format!(
            "`{}` can't have a write-ahead log, so the SQLite store can't use the file: move the file to a local disk",
            path.display()
        );
        return Err(BuildErrorKind::Store.error(message));
    }
    let level = match durability {
        Durability::Full => "PRAGMA synchronous = FULL",
        Durability::Normal => "PRAGMA synchronous = NORMAL",
    };
    connection.execute_batch(level).map_err(failed)?;
    // Finds tables that another program has changed.
    rows::Rows::prepare(&connection).map_err(failed)?;
    Ok(connection)
}

/// Opens the connection of the reader, to an open database.
pub(super) fn reader(path: &Path, timeout: Duration) -> Result<Connection, BuildError> {
    let connection = connect(path, timeout)?;
    patiently(timeout, || connection.execute_batch("PRAGMA query_only = ON")).map_err(|error| failed(path, error))?;
    Ok(connection)
}

/// Creates the file, if there is none, for this user alone: SQLite would let all users read the sessions' values. The
/// log and the log's index get the rights of the file.
fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

fn connect(path: &Path, timeout: Duration) -> Result<Connection, BuildError> {
    // No URI: `file:` at the beginning of a path belongs to the path. No mutex: one thread has the connection.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| failed(path, error))?;
    connection.busy_timeout(timeout).map_err(|error| failed(path, error))?;
    connection.execute_batch("PRAGMA foreign_keys = ON").map_err(|error| failed(path, error))?;
    Ok(connection)
}

fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.query_row(pragma, [], |row| row.get(0))
}

/// Returns the version of the tables; zero for a new file.
fn check(path: &Path, connection: &Connection) -> Result<usize, BuildError> {
    let found = || -> rusqlite::Result<_> {
        let tables = connection.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(())).optional()?;
        let application = number(connection, "PRAGMA application_id")?;
        Ok((application, number(connection, "PRAGMA user_version")?, tables.is_some()))
    };
    match found().map_err(|error| failed(path, error))? {
        (0, 0, false) => Ok(0),
        (APPLICATION, version, _) => match usize::try_from(version) {
            Ok(version) if version <= MIGRATIONS.len() => Ok(version),
            _ => {
                let message = format!(
                    "`{}` has the tables of a later version of this crate ({version}; this version knows {}): run the \
                     later version, or give the SQLite store another file",
                    path.display(),
                    MIGRATIONS.len()
                );
                Err(BuildErrorKind::Store.error(message))
            }
        },
        _ => {
            let message = format!(
                "`{}` is the database of another application: give the SQLite store a file of its own",
                path.display()
            );
            Err(BuildErrorKind::Store.error(message))
        }
    }
}

/// Brings the tables to the version of this crate, in one transaction. Two processes may open a new file at once.
///
/// Writes the version of a present file too: the write finds a file that can't be written.
fn migrate(path: &Path, connection: &Connection, timeout: Duration) -> Result<(), BuildError> {
    let failed = |error| failed(path, error);
    patiently(timeout, || connection.execute_batch("BEGIN IMMEDIATE")).map_err(failed)?;
    let version = check(path, connection)?;
    for step in MIGRATIONS.iter().skip(version) {
        connection.execute_batch(step).map_err(failed)?;
    }
    let marks = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {}", MIGRATIONS.len());
    connection.execute_batch(&marks).map_err(failed)?;
    patiently(timeout, || connection.execute_batch("COMMIT")).map_err(failed)
}

/// Repeats a step while another process holds a lock. SQLite itself waits for most locks, but not where two processes
/// could wait for each other: at the switch to the log.
fn patiently<T>(timeout: Duration, mut step: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let begun = Instant::now();
    loop {
        match step() {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && begun.elapsed() < timeout => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn failed(path: &Path, error: rusqlite::Error) -> BuildError {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "is locked: end the other process that has the file open, or give `busy_timeout` a longer time"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "can't be written: let this process write the file and the directory, where SQLite keeps its log"
        }
        Some(ErrorCode::NotADatabase) => {
            "is no SQLite database, or is damaged: give the SQLite store another file, or restore the file"
        }
        Some(ErrorCode::DatabaseCorrupt) => "is damaged: restore the file, or begin with a new file",
        Some(ErrorCode::DiskFull) => "can't grow: free some room on the disk",
        _ => "can't be opened: the source has the cause",
    };
    let message = format!("the database `{}` of the SQLite store {remedy}", path.display());
    BuildErrorKind::Store.error(message).caused_by(error)
}
