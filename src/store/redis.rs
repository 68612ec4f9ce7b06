//! [`RedisStore`]: a shared store in a Redis server.

use std::fmt;

use redis::{Pipeline, Value};

use self::{
    layout::{Found, HEADER, malformed},
    link::Link,
    script::{Script, Scripts},
};
use crate::{
    error::{BuildError, BuildErrorKind, StoreError, StoreErrorKind},
    throttle::{MINUTE, Throttle},
    tier::{Ask, Commit, Committed, NoticeStream, Snapshot, Store, StoreFuture, StoredRecord, Touch},
    time::Millis,
};

mod failure;
mod layout;
mod link;
mod notices;
mod script;

/// A shared store in a Redis server: each record is a hash, and each write a script.
///
/// The feature `redis` has this store. The server is Redis 7.0 or later, or Valkey.
///
/// ```no_run
/// use layered_session::{
///     CookieTier, KeyRing, MemoryTier, RedisStore, Sessions, SharedTier,
/// };
///
/// let store = RedisStore::new("redis://sessions.internal:6379")?.prefix("shop");
/// let sessions = Sessions::builder()
///     .tier(MemoryTier::builder().build())
///     .tier(CookieTier::sealed(KeyRing::from_env("SESSION_KEYS")?))
///     .tier(SharedTier::new(store))
///     .build()?;
/// # Ok::<_, layered_session::BuildError>(())
/// ```
///
/// # The connection
///
/// All calls share one connection, which the first call makes. The store needs a tokio runtime with its timer and its
/// sockets; the connection has a task on the runtime, which ends with the store or with the connection. A lost connection is
/// made again at the next call, without an end of attempts, at most once a second. Until then each call fails at once,
/// with the cause.
///
/// All reads and writes go to the server of the URL. The server must be the primary: a replica is behind, and a missing
/// record would sign its user out. After a failover the name in the URL leads to the new primary. A node of a cluster
/// serves the keys of its own slots alone, so a cluster needs a proxy; each script has one key, and notices reach every
/// node of a cluster.
///
/// `rediss://` needs TLS, which the application chooses by a feature of the crate `redis`, of the version that this crate
/// uses: `redis = { version = "1", features = ["tokio-rustls-comp"] }`, or `tokio-native-tls-comp`. `redis+unix://` is a
/// socket of the file system.
///
/// # The server's settings
///
/// | setting | reason |
/// |---|---|
/// | `appendonly yes`, `appendfsync everysec` | A killed server loses no write that was answered, as long as the disk is fast: while an fsync is under way, Redis answers writes for up to two seconds before Redis writes them to the file. A power cut loses up to a second of writes, and more on a slow disk; `always` loses none, and each write waits for the disk |
/// | `maxmemory-policy noeviction` or `volatile-ttl` | `noeviction` refuses writes of a full server with [`StoreErrorKind::Full`](crate::tier::StoreErrorKind::Full), but for sign-outs and removals. `volatile-ttl` drops the records that expire first. The `allkeys` policies drop tombstones, and so bring removed values and ended sessions back |
/// | replicas | Redis replicates after its answer, so a failover loses the last writes. `min-replicas-to-write` bounds the loss |
/// | ACL | `~ls1:* &ls1:n1 +@hash +@scripting +del +pexpireat +time +publish +subscribe +ping`, for the prefix `ls1`; with the number of a database also `+select`. Without `&ls1:n1` the writes succeed, and other nodes learn of the writes late |
///
/// The store reads and changes the keys `{prefix}:…` alone, and the channel `{prefix}:n1`. A record expires by the
/// server's clock.
///
/// # Cancel safety
///
/// A dropped call may still reach the server: a commit that was sent is made whole or not at all.
pub struct RedisStore {
    link: Link,
    prefix: String,
    scripts: Scripts,
    silent: Throttle,
}

impl RedisStore {
    /// Makes a store for a server, such as `redis://user:password@host:6379/0`. Connects at the first use.
    ///
    /// # Errors
    ///
    /// For a URL that can't work, with the cause. The error does not quote the URL, which may hold a password.
    pub fn new(url: impl AsRef<str>) -> Result<Self, BuildError> {
        let link = Link::new(url.as_ref()).map_err(|error| {
            let text = "the URL of the `RedisStore` can't work: write `redis://host:6379`, or `rediss://host:6379` with a \
                        TLS feature of the crate `redis`";
            BuildErrorKind::Store.error(text).caused_by(error.to_string())
        })?;
        Ok(Self { link, prefix: "ls1".into(), scripts: Scripts::new(), silent: Throttle::default() })
    }

    /// Sets the first part of all keys, up to the colon: `ls1` without this call. Applications that share a server need a
    /// prefix each.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    async fn snapshots(&self, asks: &[Ask]) -> Result<Vec<Snapshot>, StoreError> {
        let key = |ask: &Ask| layout::key(&self.prefix, &ask.owner());
        let mut calls = redis::pipe();
        calls.cmd("TIME");
        for ask in asks {
            match ask.known() {
                // The header shows whether the record has changed.
                Some(_) => calls.hget(key(ask), HEADER),
                None => calls.hgetall(key(ask)),
            };
        }
        let mut snapshots = Vec::with_capacity(asks.len());
        let (mut changed, mut reread) = (Vec::new(), redis::pipe());
        let mut answers = self.repeat(&calls, None).await?.into_iter();
        let now = layout::server_time(self.link.accepted(answers.next().unwrap_or(Value::Nil))?)?;
        let left = |record: &StoredRecord| record.expires().duration_since(now).unwrap_or_default();
        for (ask, answer) in asks.iter().zip(answers) {
            let answer = self.link.accepted(answer)?;
            let Some(known) = ask.known() else {
                snapshots.push(snapshot(layout::record(answer)?));
                continue;
            };
            let found = match answer {
                Value::Nil => Found::Absent,
                header => layout::header(&layout::bytes(header)?)?,
            };
            snapshots.push(match found {
                Found::Live(record) => {
                    if record.known() != known {
                        changed.push(snapshots.len());
                        reread.hgetall(key(ask));
                    }
                    Snapshot::Unchanged { left: left(&record) }
                }
                found => snapshot(found),
            });
        }
        if !changed.is_empty() {
            for (at, answer) in changed.into_iter().zip(self.repeat(&reread, None).await?) {
                snapshots[at] = snapshot(layout::record(self.link.accepted(answer)?)?);
            }
        }
        for snapshot in &mut snapshots {
            if let Snapshot::Present(record) = snapshot {
                record.left = left(record);
            }
        }
        Ok(snapshots)
    }

    async fn make(&self, commit: Commit<'_>) -> Result<Committed, StoreError> {
        let script = self.scripts.of(&commit);
        let mut calls = redis::pipe();
        calls.add_command(script::commit_call(script, &self.prefix, &commit));
        let mut answers = self.link.run(&calls, Some(script)).await?;
        let answer = answers.pop().ok_or_else(|| malformed("the server gave no answer to a commit"))?;
        let reply = script::reply(self.link.accepted(answer)?)?;
        if !reply.silent.is_empty()
            && let Some(left_out) = self.silent.due(1, Millis::of_span(self.link.elapsed()), MINUTE)
        {
            let error = &*String::from_utf8_lossy(&reply.silent);
            tracing::warn!(error, left_out, "other nodes learn of writes late: the server sends no notices");
        }
        Ok(reply.committed)
    }

    async fn keep(&self, touches: &[Touch]) -> Result<(), StoreError> {
        let mut calls = redis::pipe();
        for touch in touches {
            calls.add_command(script::touch_call(&self.scripts.touch, &self.prefix, touch));
        }
        for answer in self.repeat(&calls, Some(&self.scripts.touch)).await? {
            self.link.accepted(answer)?;
        }
        Ok(())
    }

    /// Runs calls that may be run twice. A lost connection is often a server that has restarted since the last call, so
    /// the calls get a second connection.
    async fn repeat(&self, calls: &Pipeline, script: Option<&Script>) -> Result<Vec<Value>, StoreError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        match self.link.run(calls, script).await {
            Err(error) if error.kind() == StoreErrorKind::Link && error.may_be_applied() => {
                self.link.run(calls, script).await
            }
            answers => answers,
        }
    }
}

fn snapshot(found: Found) -> Snapshot {
    match found {
        Found::Absent => Snapshot::Absent,
        Found::Live(record) => Snapshot::Present(record),
        Found::Ended(end) => Snapshot::Ended(end),
    }
}

impl Store for RedisStore {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::boxed(self.snapshots(asks))
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::boxed(self.make(commit))
    }

    fn touch<'a>(&'a self, touches: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(self.keep(touches))
    }

    /// Returns a stream with a subscription of its own. The first poll connects, and each later poll heals the
    /// connection. Poll the stream or drop it: notices queue in this process meanwhile.
    fn notices(&self) -> Option<NoticeStream> {
        Some(notices::notices(self.link.client().clone(), script::channel(&self.prefix)))
    }
}

/// Shows the address and the prefix, without user and password.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("address", &self.link.address()).field("prefix", &self.prefix).finish()
    }
}

#[cfg(test)]
mod tests;
