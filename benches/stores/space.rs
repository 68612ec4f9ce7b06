//! The bytes of a session in each store.

use futures_util::future::try_join_all;
use layered_session::{Durability, KeyRing, Sessions, SqliteStore, tier::BoxError};
use redis::aio::MultiplexedConnection;
use rusqlite::Connection;

use super::{
    bare::{cmd, connection},
    report,
    site::{Act, Browser, node, redis_node},
};

/// The sessions that begin at once.
const BATCH: usize = 250;

pub(crate) async fn print(port: u16, sessions: usize) -> Result<(), BoxError> {
    println!("\nbytes of a session, over {sessions} sessions");
    let keys = KeyRing::generate()?;
    for (name, act) in [("two short values", Act::Begin), ("a value of 102 bytes and a short value", Act::BeginLong)] {
        let mut connection = connection(port).await?;
        cmd(&["FLUSHALL"]).exec_async(&mut connection).await?;
        let node = redis_node(&keys, port)?;
        let before = used_memory(&mut connection).await?;
        begin(&node, act, sessions).await?;
        let after = used_memory(&mut connection).await?;
        let key: Vec<u8> = cmd(&["RANDOMKEY"]).query_async(&mut connection).await?;
        let record: f64 = cmd(&[&b"MEMORY"[..], b"USAGE", &key]).query_async(&mut connection).await?;
        report::figure(&format!("Redis, {name}, MEMORY USAGE of the key"), record);
        report::figure(&format!("Redis, {name}, growth of used_memory"), (after - before) / sessions as f64);
        report::figure(&format!("SQLite, {name}, file"), in_file(&keys, act, sessions).await?);
    }
    Ok(())
}

async fn begin(node: &Sessions, act: Act, sessions: usize) -> Result<(), BoxError> {
    for _ in 0..sessions / BATCH {
        try_join_all((0..BATCH).map(|_| async move { Browser::default().visit(node, act).await })).await?;
    }
    Ok(())
}

async fn used_memory(connection: &mut MultiplexedConnection) -> Result<f64, BoxError> {
    let info: String = cmd(&["INFO", "memory"]).query_async(connection).await?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).ok_or("no count of memory")?;
    Ok(used.trim().parse()?)
}

/// Returns the bytes of the database file, with all of the log in the file.
async fn in_file(keys: &KeyRing, act: Act, sessions: usize) -> Result<f64, BoxError> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("sessions.db");
    let store = SqliteStore::builder(&path).durability(Durability::Normal).open()?;
    let node = node(keys, Some(store))?;
    begin(&node, act, sessions).await?;
    let connection = Connection::open(&path)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let number = |pragma| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    Ok((number("PRAGMA page_count")? * number("PRAGMA page_size")?) as f64 / sessions as f64)
}
