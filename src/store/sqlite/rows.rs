//! [`Rows`]: the records of a database, as rows of the tables `ls_owner` and `ls_value`.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};

use super::failure::Failure;
use crate::{
    store::{number_of, reason_of},
    tier::{Ask, Commit, Committed, Notice, OwnerId, Snapshot, StoredEnd, StoredLife, StoredRecord, Touch, Version},
    time::{Millis, Wall},
};

/// The tables. Versions are the 64 bits of a [`Version`], times are milliseconds since 1970, and `json` is `NULL` for a
/// tombstone. A record expires at `expires_at`, which each use moves, and `maintain` deletes the record from `delete_at`
/// on, some time later: most uses leave `delete_at` and its index alone.
///
/// The rows of an owner lie side by side in a table without row ids, so a read of a record is two short searches.
pub(super) const TABLES: &str = "
CREATE TABLE ls_owner (
    owner BLOB NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    reason INTEGER,
    successor BLOB,
    ended_at INTEGER,
    absolute_at INTEGER,
    idle_ms INTEGER,
    flags INTEGER NOT NULL,
    lifetime INTEGER,
    expires_at INTEGER NOT NULL,
    delete_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX ls_owner_delete_at ON ls_owner (delete_at);
CREATE TABLE ls_value (
    owner BLOB NOT NULL REFERENCES ls_owner (owner) ON DELETE CASCADE,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    json BLOB,
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;
";

/// The bit of `flags` for a cookie that ends with the browser.
const ENDS_WITH_BROWSER: i64 = 1;

/// The number of expired records that one step deletes.
pub(super) const STEP: usize = 1000;

/// A record without its values, and the time from which the record may be deleted.
struct Head {
    record: StoredRecord,
    delete_at: SystemTime,
}

/// The records in the database of a connection, with the prepared statements.
pub(super) struct Rows<'c> {
    pub(super) connection: &'c Connection,
    head: Statement<'c>,
    entries: Statement<'c>,
    put_head: Statement<'c>,
    touch: Statement<'c>,
    keep: Statement<'c>,
    drop_head: Statement<'c>,
    put_entry: Statement<'c>,
    drop_entry: Statement<'c>,
    drop_expired: Statement<'c>,
}

impl<'c> Rows<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            head: connection.prepare(
                "SELECT generation, newest, not_before, reason, successor, ended_at, absolute_at, idle_ms, flags,
                        lifetime, expires_at, delete_at
                 FROM ls_owner WHERE owner = ?1",
            )?,
            entries: connection.prepare("SELECT name, version, json FROM ls_value WHERE owner = ?1")?,
            // An existing row keeps `delete_at`: SQLite would write the index even for an equal value.
            put_head: connection.prepare(
                "INSERT INTO ls_owner (owner, generation, newest, not_before, reason, successor, ended_at, absolute_at,
                                       idle_ms, flags, lifetime, expires_at, delete_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                 ON CONFLICT (owner) DO UPDATE SET
                     generation = excluded.generation, newest = excluded.newest, not_before = excluded.not_before,
                     reason = excluded.reason, successor = excluded.successor, ended_at = excluded.ended_at,
                     absolute_at = excluded.absolute_at, idle_ms = excluded.idle_ms, flags = excluded.flags,
                     lifetime = excluded.lifetime, expires_at = excluded.expires_at",
            )?,
            touch: connection.prepare("UPDATE ls_owner SET expires_at = ?2 WHERE owner = ?1")?,
            keep: connection.prepare("UPDATE ls_owner SET delete_at = ?2 WHERE owner = ?1")?,
            drop_head: connection.prepare("DELETE FROM ls_owner WHERE owner = ?1")?,
            put_entry: connection.prepare(
                "INSERT INTO ls_value (owner, name, version, json) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (owner, name) DO UPDATE SET version = excluded.version, json = excluded.json",
            )?,
            drop_entry: connection.prepare("DELETE FROM ls_value WHERE owner = ?1 AND name = ?2")?,
            drop_expired: connection.prepare(
                "DELETE FROM ls_owner WHERE owner IN
                     (SELECT owner FROM ls_owner WHERE delete_at <= ?1 ORDER BY delete_at LIMIT ?2)",
            )?,
        })
    }

    pub(super) fn answer(&mut self, ask: Ask, now: SystemTime) -> Result<Snapshot, Failure> {
        let Some(Head { record, .. }) = self.head(ask.owner())? else { return Ok(Snapshot::Absent) };
        match record.answer(ask, now) {
            Snapshot::Present(record) => self.with_entries(ask.owner(), record).map(Snapshot::Present),
            answer => Ok(answer),
        }
    }

    /// Makes a commit, or judges that the commit can't be made. Returns the notice of a commit that was made.
    pub(super) fn commit(
        &mut self,
        commit: Commit<'_>,
        now: SystemTime,
    ) -> Result<(Committed, Option<Notice>), Failure> {
        let owner = commit.owner();
        let head = self.head(owner)?;
        let has_expired = head.as_ref().is_some_and(|head| head.record.expires() <= now);
        let before = match head.filter(|_| !has_expired) {
            Some(Head { record, delete_at }) => Some(Head { record: self.with_entries(owner, record)?, delete_at }),
            None => None,
        };
        let mut record = before.as_ref().map(|before| before.record.clone());
        let committed = commit.apply(&mut record, now);
        let notice = Notice::of(commit, &committed, record.as_ref());
        if let (Some(after), Some(_)) = (record, notice) {
            if has_expired {
                self.drop_head.execute([owner.as_bytes()])?;
            }
            self.write(owner, before.as_ref(), &after, now)?;
        }
        Ok((committed, notice))
    }

    pub(super) fn touch(&mut self, touch: Touch, now: SystemTime) -> Result<(), Failure> {
        let owner = touch.owner();
        let Some(before) = self.head(owner)? else { return Ok(()) };
        let mut after = before.record.clone();
        after.touch(touch, now);
        if after.expires() != before.record.expires() {
            self.touch.execute(params![owner.as_bytes(), millis_up(after.expires())])?;
            self.keep(owner, &before, &after, now)?;
        }
        Ok(())
    }

    /// Moves the time of the deletion, if the record would be deleted too early or much too late.
    fn keep(&mut self, owner: OwnerId, before: &Head, after: &StoredRecord, now: SystemTime) -> Result<(), Failure> {
        let expires = after.expires();
        if before.delete_at < expires || expires < before.record.expires() {
            self.keep.execute(params![owner.as_bytes(), millis(roomy(expires, now))])?;
        }
        Ok(())
    }

    /// Deletes some expired records. Returns whether there may be more.
    pub(super) fn drop_expired(&mut self, now: SystemTime) -> Result<bool, Failure> {
        Ok(self.drop_expired.execute(params![millis(now), STEP as i64])? == STEP)
    }

    fn head(&mut self, owner: OwnerId) -> Result<Option<Head>, Failure> {
        self.head.query_row([owner.as_bytes()], |row| Ok(decode(row))).optional()?.transpose()
    }

    fn with_entries(&mut self, owner: OwnerId, head: StoredRecord) -> Result<StoredRecord, Failure> {
        let mut rows = self.entries.query([owner.as_bytes()])?;
        let mut record = head;
        while let Some(row) = rows.next()? {
            let json: Option<Vec<u8>> = row.get(2)?;
            record = record.with_entry(row.get::<_, String>(0)?, json.map(Bytes::from), version(row.get(1)?));
        }
        Ok(record)
    }

    fn write(
        &mut self,
        owner: OwnerId,
        before: Option<&Head>,
        after: &StoredRecord,
        now: SystemTime,
    ) -> Result<(), Failure> {
        let id = owner.as_bytes();
        let (life, end) = (after.life(), after.end());
        self.put_head.execute(params![
            id,
            bits(after.generation()),
            bits(after.newest()),
            bits(after.not_before()),
            end.map(|end| number_of(end.reason())),
            end.and_then(StoredEnd::successor).map(|successor| *successor.as_bytes()),
            end.map(|end| millis(end.at())),
            life.map(|life| millis(life.absolute_deadline())),
            life.map(|life| Millis::of_span(life.idle()).0 as i64),
            if life.is_some_and(StoredLife::ends_with_browser) { ENDS_WITH_BROWSER } else { 0 },
            life.map(|life| bits(life.version())),
            millis_up(after.expires()),
            millis(roomy(after.expires(), now)),
        ])?;
        if let Some(before) = before {
            self.keep(owner, before, after, now)?;
        }
        let before = before.map(|before| &before.record);
        let of = |record: &StoredRecord, name: &str| record.entries().find(|entry| entry.name() == name).cloned();
        for entry in after.entries() {
            if before.and_then(|before| of(before, entry.name())).as_ref() != Some(entry) {
                self.put_entry.execute(params![id, entry.name(), bits(entry.version()), entry.json()])?;
            }
        }
        for entry in before.iter().flat_map(|before| before.entries()) {
            if of(after, entry.name()).is_none() {
                self.drop_entry.execute(params![id, entry.name()])?;
            }
        }
        Ok(())
    }
}

/// Returns the time of the deletion of a record: a tenth of its span after the expiry. The commits and touches within
/// the tenth leave the index of deletions alone.
fn roomy(expires: SystemTime, now: SystemTime) -> SystemTime {
    let span = expires.duration_since(now).unwrap_or_default();
    Wall::of(expires).after(span / 10).after(Duration::from_millis(1)).time()
}

const fn bits(version: Version) -> i64 {
    version.as_u64() as i64
}

const fn version(bits: i64) -> Version {
    Version::from_u64(bits as u64)
}

fn millis(time: SystemTime) -> i64 {
    Wall::of(time).0 as i64
}

/// Rounds up: a record stays for the whole span that a commit asks for.
fn millis_up(time: SystemTime) -> i64 {
    let millis = millis(time);
    if Wall(millis as u64).time() < time { millis + 1 } else { millis }
}

fn span(millis: i64, column: &'static str) -> Result<Millis, Failure> {
    let millis = u64::try_from(millis).ok().map(Millis).filter(|millis| *millis <= Millis::MAX);
    millis.ok_or(Failure::Undecodable(column))
}

fn time(millis: i64, column: &'static str) -> Result<SystemTime, Failure> {
    span(millis, column).map(|millis| Wall(millis.0).time())
}

fn decode(row: &Row<'_>) -> Result<Head, Failure> {
    let mut record = StoredRecord::new(version(row.get(0)?))
        .with_newest(version(row.get(1)?))
        .with_not_before(version(row.get(2)?))
        .with_expires(time(row.get(10)?, "expires_at")?);
    if let Some(end) = decode_end(row)? {
        record = record.with_end(end);
    }
    if let Some(life) = decode_life(row)? {
        record = record.with_life(life);
    }
    Ok(Head { record, delete_at: time(row.get(11)?, "delete_at")? })
}

fn decode_end(row: &Row<'_>) -> Result<Option<StoredEnd>, Failure> {
    let Some(number) = row.get::<_, Option<i64>>(3)? else { return Ok(None) };
    let reason = u8::try_from(number).ok().and_then(reason_of).ok_or(Failure::Undecodable("reason"))?;
    let successor = match row.get::<_, Option<Vec<u8>>>(4)? {
        Some(bytes) => {
            let hash = <[u8; 32]>::try_from(bytes).map_err(|_| Failure::Undecodable("successor"))?;
            Some(OwnerId::from_hash(hash))
        }
        None => None,
    };
    let at = time(row.get::<_, Option<i64>>(5)?.unwrap_or(-1), "ended_at")?;
    Ok(Some(StoredEnd::new(reason, at).with_successor(successor)))
}

fn decode_life(row: &Row<'_>) -> Result<Option<StoredLife>, Failure> {
    let Some(absolute_at) = row.get::<_, Option<i64>>(6)? else { return Ok(None) };
    let idle = span(row.get::<_, Option<i64>>(7)?.unwrap_or(-1), "idle_ms")?;
    let lifetime = version(row.get::<_, Option<i64>>(9)?.unwrap_or_default());
    let ends_with_browser = row.get::<_, i64>(8)? & ENDS_WITH_BROWSER != 0;
    let life = StoredLife::new(time(absolute_at, "absolute_at")?, Duration::from_millis(idle.0), lifetime);
    Ok(Some(life.until_browser_closes(ends_with_browser)))
}
