//! What waits on a record: updates in their order, writes on their way to a store, and handles.

use std::sync::Arc;

use super::Record;
use crate::{
    signal::{Chime, Hub},
    tier::memory::doubt::Doubts,
};

/// What only watched, contended or stored records need.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    hub: Hub,
    turn: tokio::sync::Mutex<()>,
    gate: tokio::sync::RwLock<()>,
    pub(super) doubts: Doubts,
}

impl Record {
    /// One caller at a time: what makes concurrent updates queue instead of losing to each other.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.waiting().turn.lock().await
    }

    /// Held while a write is on its way to a shared store: a renewal, which copies what the store is to have under the new
    /// id, waits for it.
    pub(crate) async fn pass_gate(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.waiting().gate.read().await
    }

    /// Held by a renewal over a shared store: writes that begin meanwhile wait, and go to the new id then.
    pub(crate) async fn shut_gate(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.waiting().gate.write().await
    }

    pub(crate) fn join_hub(&self, chime: &Arc<Chime>) {
        self.waiting().hub.join(chime);
    }

    pub(crate) fn leave_hub(&self, chime: &Arc<Chime>) {
        if let Some(waiting) = self.waiting.get() {
            waiting.hub.leave(chime);
        }
    }

    pub(crate) fn ring(&self) {
        if let Some(waiting) = self.waiting.get() {
            waiting.hub.ring();
        }
    }

    #[cfg(test)]
    pub(crate) fn waiters(&self) -> usize {
        self.waiting.get().map_or(0, |waiting| waiting.hub.len())
    }

    pub(super) fn waiting(&self) -> &Waiting {
        self.waiting.get_or_init(Box::default)
    }
}
