//! Handles of two layers of the same sessions, around each other, with a principal each.

use std::sync::atomic::Ordering;

use super::shared::{Binding, SessionShared};
use crate::sync::RwLock;

impl SessionShared {
    /// Takes the session that a handle of an outer layer stands for: the handle may have made or renewed the session.
    pub(super) fn share_session(&mut self, around: Option<&Self>) {
        let Some(around) = around else { return };
        if matches!(self.binding(), Binding::Fenced(_)) {
            return;
        }
        self.binding = RwLock::new(around.binding());
        *self.flags.begun_here.get_mut() = around.flags.begun_here.load(Ordering::Relaxed);
    }

    /// Leaves the response head to the handle of an inner layer, and takes the session that the handle has begun.
    pub(super) fn leave_head_to(&self, within: &Self) {
        if let (Binding::Anonymous, Binding::Live(begun)) = (self.binding(), within.binding()) {
            self.flags.begun_here.store(true, Ordering::Relaxed);
            self.rebind(begun);
        }
        *self.lazy().left_to_inner.lock() = within.bound_key();
    }

    /// Whether an inner layer has seen this handle's session off.
    pub(super) fn is_left_to_inner(&self) -> bool {
        let seen_off = self.lazy.get().and_then(|seldom| *seldom.left_to_inner.lock());
        seen_off.is_some() && seen_off == self.bound_key() && !self.has_ended_own()
    }
}
