//! [`Redis`]: a server, which scripts of the test change beside the nodes.

use std::time::Duration;

use layered_session::{RedisStore, tier::StoreErrorKind};

use super::Engine;
use crate::redis::server::{Server, server};

/// Makes each record older by `ARGV[1]` milliseconds. The server deletes a key whose expiry has passed.
const PASS: &str = "
for _, key in ipairs(redis.call('KEYS', '*')) do
    local header = redis.call('HGET', key, '@')
    local expires = struct.unpack('>I6', header, 19) - ARGV[1]
    redis.call('HSET', key, '@', header:sub(1, 18) .. struct.pack('>I6', expires) .. header:sub(25))
    redis.call('PEXPIREAT', key, string.format('%.0f', expires - 1))
end";

/// Replaces the records under the prefix `ARGV[2]` by copies of the records under the prefix `ARGV[1]`.
const COPY: &str = "
for _, key in ipairs(redis.call('KEYS', ARGV[2] .. ':*')) do
    redis.call('DEL', key)
end
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
    redis.call('COPY', key, ARGV[2] .. key:sub(#ARGV[1] + 1))
end";

/// A server of one test. The copies of a checkpoint lie under another prefix.
pub(crate) struct Redis(Server);

impl Redis {
    /// Starts a server. Returns `None` if there is no `redis-server`: see [`server`].
    pub(crate) fn start() -> Option<Self> {
        server().map(Self)
    }
}

impl Engine for Redis {
    type Store = RedisStore;

    const REFUSAL: StoreErrorKind = StoreErrorKind::Full;

    fn connect(&self) -> RedisStore {
        RedisStore::new(self.0.url()).unwrap().prefix("live")
    }

    fn pass(&self, span: Duration) {
        self.0.run_words::<()>(&["EVAL", PASS, "0", &span.as_millis().to_string()]);
    }

    fn checkpoint(&self) {
        self.0.run_words::<()>(&["EVAL", COPY, "0", "live", "kept"]);
    }

    fn rewind(&self) {
        self.0.run_words::<()>(&["EVAL", COPY, "0", "kept", "live"]);
    }

    fn refuse_writes(&self) {
        self.0.fill();
    }

    fn accept_writes(&self) {
        self.0.run::<()>("CONFIG SET maxmemory 0");
    }

    fn count(&self) -> Option<usize> {
        Some(self.0.run::<Vec<String>>("KEYS live:*").len())
    }
}
