//! The locks for tests of thread schedules: those of shuttle, without poisoning.

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
