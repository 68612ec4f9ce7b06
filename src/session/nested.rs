//! Handles of two layers of the same sessions, around each other, with a principal each.

use super::shared::{Binding, SessionShared};
use crate::sync::RwLock;

/// Takes the session that a handle of an outer layer stands for: the handle may have made or renewed the session.
pub(super) fn share_session(shared: &mut SessionShared, around: Option<&SessionShared>) {
    let Some(around) = around else { return };
    if matches!(shared.binding(), Binding::Fenced(_)) {
        return;
    }
    shared.binding = RwLock::new(around.binding());
    shared.flags.set_begun_here(around.flags.begun_here());
}

/// Leaves the response head to the handle of an inner layer, and takes the session that the handle has begun.
pub(super) fn leave_head_to(shared: &SessionShared, within: &SessionShared) {
    if let (Binding::Anonymous, Binding::Live(begun)) = (shared.binding(), within.binding()) {
        shared.flags.set_begun_here(true);
        shared.rebind(begun);
    }
    *shared.lazy().left_to_inner.lock() = within.bound_key();
}

/// Whether an inner layer has seen this handle's session off.
pub(super) fn is_left_to_inner(shared: &SessionShared) -> bool {
    let seen_off = shared.lazy.get().and_then(|seldom| *seldom.left_to_inner.lock());
    seen_off.is_some() && seen_off == shared.bound_key() && !shared.has_ended_own()
}
