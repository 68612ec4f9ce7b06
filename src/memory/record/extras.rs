//! What waits on a record: updates in their order, writes on their way to a store, and handles.

use std::sync::Arc;

use super::Record;
use crate::{
    memory::store_sync::StoreSync,
    notify::{HandleWakers, Subscribers},
};

/// What only watched, contended or stored records need.
#[derive(Debug, Default)]
pub(super) struct RecordExtras {
    subscribers: Subscribers,
    update_queue: tokio::sync::Mutex<()>,
    renew_gate: tokio::sync::RwLock<()>,
    pub(super) sync: StoreSync,
}

impl Record {
    /// One caller at a time: what makes concurrent updates queue instead of losing to each other.
    pub(crate) async fn update_queue(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.extras().update_queue.lock().await
    }

    /// Held while a write is on its way to a shared store: a renewal, which copies what the store is to have under the new
    /// id, waits for it.
    pub(crate) async fn renew_gate_shared(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.extras().renew_gate.read().await
    }

    /// Held by a renewal over a shared store: writes that begin meanwhile wait, and go to the new id then.
    pub(crate) async fn renew_gate_exclusive(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.extras().renew_gate.write().await
    }

    pub(crate) fn subscribe(&self, wakers: &Arc<HandleWakers>) {
        self.extras().subscribers.subscribe(wakers);
    }

    pub(crate) fn unsubscribe(&self, wakers: &Arc<HandleWakers>) {
        if let Some(waiting) = self.extras.get() {
            waiting.subscribers.unsubscribe(wakers);
        }
    }

    pub(crate) fn notify_all(&self) {
        if let Some(waiting) = self.extras.get() {
            waiting.subscribers.notify_all();
        }
    }

    #[cfg(test)]
    pub(crate) fn subscribers(&self) -> usize {
        self.extras.get().map_or(0, |waiting| waiting.subscribers.len())
    }

    pub(super) fn extras(&self) -> &RecordExtras {
        self.extras.get_or_init(Box::default)
    }
}
