//! [`Sqlite`]: a file, which a connection of the test changes beside the nodes.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use layered_session::{Durability, SqliteStore, tier::StoreErrorKind};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use super::Engine;

/// A database. Each node opens the file anew, as the processes of a machine do.
pub(crate) struct Sqlite {
    directory: TempDir,
    beside: Mutex<Connection>,
}

impl Sqlite {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        drop(open(&directory));
        let beside = Connection::open(directory.path().join("sessions.db")).unwrap();
        beside.busy_timeout(Duration::from_secs(5)).unwrap();
        beside
            .execute_batch(
                "CREATE TEMP TABLE kept_owner AS SELECT * FROM ls_owner;
                 CREATE TEMP TABLE kept_value AS SELECT * FROM ls_value;",
            )
            .unwrap();
        Self { directory, beside: Mutex::new(beside) }
    }

    fn run(&self, statements: &str) {
        self.beside.lock().unwrap().execute_batch(statements).unwrap();
    }
}

fn open(directory: &TempDir) -> SqliteStore {
    let settings = SqliteStore::builder(directory.path().join("sessions.db"));
    settings.durability(Durability::Normal).busy_timeout(Duration::from_secs(1)).open().unwrap()
}

impl Engine for Sqlite {
    type Store = SqliteStore;

    /// The lock of another process.
    const REFUSAL: StoreErrorKind = StoreErrorKind::Timeout;

    fn connect(&self) -> SqliteStore {
        open(&self.directory)
    }

    fn pass(&self, span: Duration) {
        let beside = self.beside.lock().unwrap();
        let age = "UPDATE ls_owner SET expires_at = expires_at - ?1, delete_at = delete_at - ?1";
        beside.execute(age, [span.as_millis() as i64]).unwrap();
        beside.execute("DELETE FROM ls_owner WHERE expires_at <= ?1", [millis()]).unwrap();
        beside.execute("DELETE FROM ls_value WHERE owner NOT IN (SELECT owner FROM ls_owner)", params![]).unwrap();
    }

    fn checkpoint(&self) {
        self.run(
            "DELETE FROM kept_owner; INSERT INTO kept_owner SELECT * FROM ls_owner;
             DELETE FROM kept_value; INSERT INTO kept_value SELECT * FROM ls_value;",
        );
    }

    fn rewind(&self) {
        self.run(
            "BEGIN IMMEDIATE;
             DELETE FROM ls_value; DELETE FROM ls_owner;
             INSERT INTO ls_owner SELECT * FROM kept_owner; INSERT INTO ls_value SELECT * FROM kept_value;
             COMMIT;",
        );
    }

    fn refuse_writes(&self) {
        self.run("BEGIN IMMEDIATE");
    }

    fn accept_writes(&self) {
        self.run("COMMIT");
    }

    fn count(&self) -> Option<usize> {
        let beside = self.beside.lock().unwrap();
        let living = "SELECT count(*) FROM ls_owner WHERE expires_at > ?1";
        let count: i64 = beside.query_row(living, [millis()], |row| row.get(0)).unwrap();
        Some(count as usize)
    }
}

fn millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}
