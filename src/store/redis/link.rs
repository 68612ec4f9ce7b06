//! The one connection of a store, which all calls share.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;

use super::{failure::Failure, script::Script};
use crate::{
    error::StoreError,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::whole_millis,
};

/// The time for making a connection, with the handshake.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// The time for the answer to a call. The deadline of a chain is shorter; this time keeps every other call from hanging.
const ANSWER: Duration = Duration::from_secs(5);

/// The time without any answer after which a connection counts as dead: a peer that has vanished closes nothing.
const DEAD: Duration = Duration::from_secs(2);

/// The time without a call after which a PING checks the connection: a firewall or the server's `timeout` may have closed
/// the connection, and a commit on a closed connection has no known outcome.
const IDLE: Duration = Duration::from_secs(5);

/// The time for the answer to the PING.
const PING: Duration = Duration::from_millis(500);

/// The first and the longest delay before the next attempt to connect.
const DELAYS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// Returns the delay after a number of failed attempts in a row.
pub(super) fn delay(failures: u32) -> Duration {
    let [first, longest] = DELAYS;
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest)
}

/// The connection of a store: made at the first call, and made again after each failure, without an end of attempts.
///
/// Each call that finds no connection polls the same attempt. A dropped call leaves the attempt to the next call, so a
/// handshake that takes longer than the deadline of a call succeeds in the end.
pub(super) struct Link {
    client: Client,
    start: Instant,
    open: Mutex<Option<Arc<Open>>>,
    attempt: tokio::sync::Mutex<Attempt>,
}

type Connecting = Pin<Box<dyn Future<Output = RedisResult<MultiplexedConnection>> + Send>>;

#[derive(Default)]
struct Attempt {
    connecting: Option<Connecting>,
    failures: u32,
    /// The last failure, with the time from which on the next attempt may begin.
    failed: Option<(Failure, Instant)>,
}

/// An open connection.
struct Open {
    connection: MultiplexedConnection,
    /// The time of the first call that no answer has followed, in milliseconds since the start; 0 for none.
    asked: AtomicU64,
    /// The time of the last answer.
    answered: AtomicU64,
}

impl Link {
    /// Checks the URL, and connects to nothing.
    ///
    /// # Errors
    ///
    /// The part of the URL that can't work. The error does not quote the URL.
    pub(super) fn new(url: &str) -> RedisResult<Self> {
        let info = url.into_connection_info()?;
        // Without `nodelay` the kernel holds a call back for as long as an earlier call has no answer.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp))?;
        Ok(Self { client, start: Instant::now(), open: Mutex::default(), attempt: tokio::sync::Mutex::default() })
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the address, without user and password.
    pub(super) fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Returns the time since the link was made.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Runs calls, and returns an answer for each call. Loads the script of the calls into the server if the server does
    /// not know the script, and runs the calls again.
    ///
    /// # Errors
    ///
    /// The failure of the connection. A refusal of the server is an answer: see [`accepted`](Self::accepted).
    pub(super) async fn run(&self, calls: &Pipeline, script: Option<&Script>) -> Result<Vec<Value>, StoreError> {
        let open = self.open().await?;
        let answers = self.send(&open, calls).await?;
        let is_unknown = |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT");
        let Some(script) = script.filter(|_| answers.iter().any(is_unknown)) else { return Ok(answers) };
        let loaded = self.send(&open, &script.load()).await.map_err(StoreError::not_applied)?;
        for answer in loaded {
            self.accepted(answer).map_err(StoreError::not_applied)?;
        }
        self.send(&open, calls).await
    }

    /// Returns an answer that is no error of the server.
    ///
    /// # Errors
    ///
    /// The refusal of the server.
    pub(super) fn accepted(&self, answer: Value) -> Result<Value, StoreError> {
        answer.extract_error().map_err(|error| Failure::new(&error, self.password()).error())
    }

    fn password(&self) -> Option<&str> {
        self.client.get_connection_info().redis_settings().password()
    }

    /// Returns the connection, made anew if there is none.
    ///
    /// # Errors
    ///
    /// If the attempt fails, or if the last attempt has failed a moment ago. No call was sent.
    async fn open(&self) -> Result<Arc<Open>, StoreError> {
        if let Some(open) = self.current().await {
            return Ok(open);
        }
        let mut attempt = self.attempt.lock().await;
        // Another call may have connected meanwhile.
        if let Some(open) = self.open.lock().clone() {
            return Ok(open);
        }
        if let Some((failure, next)) = &attempt.failed
            && Instant::now() < *next
        {
            return Err(failure.clone().error());
        }
        let connecting = attempt.connecting.get_or_insert_with(|| Box::pin(connect(self.client.clone())));
        let connected = connecting.as_mut().await;
        attempt.connecting = None;
        match connected {
            Ok(connection) => {
                (attempt.failures, attempt.failed) = (0, None);
                let answered = AtomicU64::new(self.now());
                let open = Arc::new(Open { connection, asked: AtomicU64::new(0), answered });
                *self.open.lock() = Some(Arc::clone(&open));
                Ok(open)
            }
            Err(error) => {
                let failure = Failure::of_attempt(&error, self.password());
                attempt.failures = attempt.failures.saturating_add(1);
                attempt.failed = Some((failure.clone(), Instant::now() + delay(attempt.failures)));
                Err(failure.error())
            }
        }
    }

    /// Returns the open connection, unless the connection is dead.
    async fn current(&self) -> Option<Arc<Open>> {
        let open = self.open.lock().clone()?;
        let since = |at: u64| Duration::from_millis(self.now().saturating_sub(at));
        let is_alive = match open.asked.load(Ordering::Relaxed) {
            0 if since(open.answered.load(Ordering::Relaxed)) < IDLE => true,
            0 => {
                let mut ping = redis::pipe();
                ping.cmd("PING");
                matches!(timeout(PING, self.send(&open, &ping)).await, Ok(Ok(_)))
            }
            asked => since(asked) < DEAD,
        };
        if !is_alive {
            self.discard(&open);
        }
        is_alive.then_some(open)
    }

    /// Sends calls, and drops the connection if the connection fails.
    async fn send(&self, open: &Arc<Open>, calls: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let _ = open.asked.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        let answers = open.connection.clone().send_packed_commands(calls, 0, calls.len()).await;
        let is_lost = match &answers {
            // A server that became a replica: the name in the URL may lead to the new primary.
            Ok(answers) => answers.iter().any(is_read_only),
            Err(_) => true,
        };
        if is_lost {
            self.discard(open);
        } else {
            open.answered.store(self.now(), Ordering::Relaxed);
            open.asked.store(0, Ordering::Relaxed);
        }
        answers.map_err(|error| Failure::new(&error, self.password()).error())
    }

    /// Returns the milliseconds since the start, from 1 on.
    fn now(&self) -> u64 {
        whole_millis(self.start.elapsed()).saturating_add(1)
    }

    fn discard(&self, open: &Arc<Open>) {
        self.open.lock().take_if(|current| Arc::ptr_eq(current, open));
    }
}

fn is_read_only(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "READONLY")
}

async fn connect(client: Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
    // The client's own time may not cover each step of the handshake.
    let connected = timeout(CONNECT, client.get_multiplexed_async_connection_with_config(&config)).await;
    connected.unwrap_or_else(|_| Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_second() {
        assert_eq!(
            [1, 2, 3, 6, 7, u32::MAX].map(|failures| delay(failures).as_millis()),
            [20, 40, 80, 640, 1000, 1000]
        );
    }
}
