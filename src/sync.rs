//! The locks and atomics of records, the memory tier and wake-ups. A test's scheduler can replace them.
//!
//! Under `--cfg shuttle` the types are shuttle's, whose scheduler tries the possible orders of threads: see
//! `tests/README.md`.

#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::atomic;

#[cfg(all(test, shuttle))]
mod schedules;
#[cfg(all(test, shuttle))]
pub(crate) use schedules::*;
