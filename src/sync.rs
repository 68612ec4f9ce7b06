//! The locks and atomics of records, the memory tier and wake-ups. A test's scheduler can replace them.
//!
//! Under `--cfg shuttle` the types are shuttle's, whose scheduler tries the possible orders of threads: see
//! `tests/README.md`.

#[cfg(not(all(test, shuttle)))]
mod real {
    pub(crate) use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::sync::atomic;
}

#[cfg(all(test, shuttle))]
mod scheduled {
    pub(crate) use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard, atomic};

    /// A mutex with the interface of `parking_lot::Mutex`.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().expect("no test panics under a lock")
        }

        pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().expect("no test panics under a lock")
        }
    }

    /// A lock with the interface of `parking_lot::RwLock`.
    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(shuttle::sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().expect("no test panics under a lock")
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().expect("no test panics under a lock")
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().expect("no test panics under a lock")
        }
    }
}

#[cfg(not(all(test, shuttle)))]
pub(crate) use real::*;
#[cfg(all(test, shuttle))]
pub(crate) use scheduled::*;
