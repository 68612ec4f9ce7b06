//! The engines over which each test of [`nodes`](crate::nodes) runs: the scripted store, a SQLite file, a Redis server.
//!
//! | file | contents |
//! |---|---|
//! | `clock` | a clock that runs, and that a test also moves forward |
//! | `watched` | a store that notes its calls, and holds calls until the test releases them |
//! | `sqlite`, `redis` | a file, and a server, whose records a test makes older, loses and restores |

use std::time::Duration;

use layered_session::{
    testing::SpyStore,
    tier::{Store, StoreErrorKind},
};

use self::clock::MovedClock;

pub(crate) mod clock;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
pub(crate) mod watched;

/// A store that several nodes share, and the means of a test to change the store from the outside.
pub(crate) trait Engine {
    type Store: Store;

    /// The kind of the error of a write that the store refuses: see [`refuse_writes`](Self::refuse_writes).
    const REFUSAL: StoreErrorKind;

    /// Opens a connection of a node's own.
    fn connect(&self) -> Self::Store;

    /// Makes every record older by a span, and drops each record that has expired then. The store's clock goes on.
    fn pass(&self, span: Duration);

    /// Keeps a copy of all records for [`rewind`](Self::rewind).
    fn checkpoint(&self);

    /// Goes back to the records of the last checkpoint, as after a failover to a late replica. Without a checkpoint the
    /// store loses all records.
    fn rewind(&self);

    /// Lets the store refuse writes of values. The scripted store then refuses reads too.
    fn refuse_writes(&self);

    fn accept_writes(&self);

    /// Returns the number of records that have not expired; `None` for a store that does not tell.
    fn count(&self) -> Option<usize>;
}

/// The scripted store.
pub(crate) struct Scripted {
    store: SpyStore,
    clock: MovedClock,
}

impl Scripted {
    pub(crate) fn new() -> Self {
        let clock = MovedClock::new();
        Self { store: SpyStore::new().expire_by(clock.clone()), clock }
    }
}

impl Engine for Scripted {
    type Store = SpyStore;

    const REFUSAL: StoreErrorKind = StoreErrorKind::Full;

    fn connect(&self) -> SpyStore {
        self.store.clone()
    }

    fn pass(&self, span: Duration) {
        self.clock.advance(span);
    }

    fn checkpoint(&self) {
        self.store.checkpoint();
    }

    fn rewind(&self) {
        self.store.rewind();
    }

    fn refuse_writes(&self) {
        self.store.fail_as(Self::REFUSAL);
    }

    fn accept_writes(&self) {
        self.store.heal();
    }

    fn count(&self) -> Option<usize> {
        None
    }
}

/// Makes a test of each function for each engine, such as `renewal_keeps_values::sqlite`.
macro_rules! over_each_engine {
    ($($behaviour:ident),* $(,)?) => {$(
        mod $behaviour {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn scripted() {
                super::$behaviour($crate::engines::Scripted::new()).await;
            }

            #[cfg(feature = "sqlite")]
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$behaviour($crate::engines::sqlite::Sqlite::new()).await;
            }

            #[cfg(feature = "redis")]
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn redis() {
                let Some(engine) = $crate::engines::redis::Redis::start() else { return };
                super::$behaviour(engine).await;
            }
        }
    )*};
}

pub(crate) use over_each_engine;
