//! `handle.set` over a file, beside bare transactions of the same rows.

use std::{ops::Range, time::Instant};

use futures_util::future::try_join_all;
use layered_session::{Durability, KeyRing, Session, SqliteStore, tier::BoxError};
use rusqlite::{Connection, Statement, params};
use tempfile::TempDir;

use super::{
    report::{self, Samples},
    site::{Act, Browser, Count, FIRST, node},
};

/// The writers of the measurement at once.
const WRITERS: usize = 64;

pub(crate) async fn print(rounds: usize) -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    for (durability, level, rounds) in
        [(Durability::Full, "FULL", rounds / 100), (Durability::Normal, "NORMAL", rounds / 4)]
    {
        report::title(&format!("SQLite, synchronous = {level}, us"));
        let (_, ours) = handles(&directory, &format!("ours-{level}"), durability).await?;
        let (path, closed) = handles(&directory, &format!("bare-{level}"), durability).await?;
        drop(closed);
        let connection = open(&path, level)?;
        let mut bare = Rows::new(&connection)?;

        let mut samples: [Samples; 5] = Default::default();
        for round in 0..rounds.max(5) {
            for turn in 0..5 {
                let (subject, number) = ((round + turn) % 5, FIRST + round as u64);
                let start = Instant::now();
                match subject {
                    0 => ours[0].set(Count(number)).await?,
                    1 => bare.write_one(number)?,
                    2 => drop(try_join_all(ours.iter().map(|session| session.set(Count(number)))).await?),
                    3 => bare.write_each(number)?,
                    _ => bare.write_together(number)?,
                }
                samples[subject].push(start.elapsed().as_nanos() as f64 / 1e3);
            }
        }
        let [one, bare_one, all, each, together] = samples.map(|mut samples| samples.median());
        report::compare("handle.set / a bare transaction", one, bare_one, None);
        report::compare("64 handles set at once / 64 bare transactions", all, each, None);
        report::compare("64 handles set at once / a bare transaction of all 64 rows", all, together, None);
    }
    Ok(())
}

/// Begins sessions in a new file.
async fn handles(directory: &TempDir, name: &str, durability: Durability) -> Result<(String, Vec<Session>), BoxError> {
    let path = directory.path().join(name).display().to_string();
    let store = SqliteStore::builder(&path).durability(durability).open()?;
    let node = node(&KeyRing::generate()?, Some(store))?;
    let mut sessions = Vec::with_capacity(WRITERS);
    for _ in 0..WRITERS {
        sessions.push(Browser::default().visit(&node, Act::Begin).await?);
    }
    Ok((path, sessions))
}

fn open(path: &str, level: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.execute_batch(&format!("PRAGMA synchronous = {level}; PRAGMA foreign_keys = ON"))?;
    Ok(connection)
}

/// The rows of the sessions in a file, with prepared statements.
struct Rows<'c> {
    connection: &'c Connection,
    owners: Vec<Vec<u8>>,
    owner: Statement<'c>,
    value: Statement<'c>,
}

impl<'c> Rows<'c> {
    fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let mut owners = connection.prepare("SELECT owner FROM ls_owner")?;
        let owners: Vec<_> = owners.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        assert_eq!(owners.len(), WRITERS);
        Ok(Self {
            connection,
            owners,
            owner: connection
                .prepare("UPDATE ls_owner SET newest = ?2, expires_at = expires_at + 1 WHERE owner = ?1")?,
            value: connection
                .prepare("UPDATE ls_value SET version = ?2, json = ?3 WHERE owner = ?1 AND name = 'count'")?,
        })
    }

    fn write_one(&mut self, number: u64) -> rusqlite::Result<()> {
        self.transact(0..1, number)
    }

    fn write_each(&mut self, number: u64) -> rusqlite::Result<()> {
        (0..WRITERS).try_for_each(|owner| self.transact(owner..owner + 1, number))
    }

    fn write_together(&mut self, number: u64) -> rusqlite::Result<()> {
        self.transact(0..WRITERS, number)
    }

    /// Writes the columns that a commit of one value changes.
    fn transact(&mut self, owners: Range<usize>, number: u64) -> rusqlite::Result<()> {
        let json = number.to_string();
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        for owner in &self.owners[owners] {
            self.owner.execute(params![owner, number as i64])?;
            self.value.execute(params![owner, number as i64, json.as_bytes()])?;
        }
        self.connection.execute_batch("COMMIT")
    }
}
