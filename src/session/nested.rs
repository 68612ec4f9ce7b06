//! Handles of two layers of the same sessions, outer each other, with a principal each.

use super::shared::{Binding, SessionShared};

/// Takes the session that a handle of an outer layer stands for: the handle may have made or renewed the session.
pub(super) fn share_session(shared: &mut SessionShared, outer: Option<&SessionShared>) {
    let Some(outer) = outer else { return };
    if matches!(shared.binding(), Binding::Fenced(_)) {
        return;
    }
    shared.bind(outer.binding());
    shared.flags.set_begun_here(outer.flags.begun_here());
}

/// Leaves the response head to the handle of an inner layer, and takes the session that the handle has begun.
pub(super) fn leave_head_to(shared: &SessionShared, inner: &SessionShared) {
    if let (Binding::Anonymous, Binding::Live(begun)) = (shared.binding(), inner.binding()) {
        shared.flags.set_begun_here(true);
        shared.rebind(begun);
    }
    *shared.lazy().left_to_inner.lock() = inner.bound_key();
}

/// Whether an inner layer has seen this handle's session off.
pub(super) fn is_left_to_inner(shared: &SessionShared) -> bool {
    let seen_off = shared.lazy.get().and_then(|lazy| *lazy.left_to_inner.lock());
    seen_off.is_some() && seen_off == shared.bound_key() && !shared.has_ended_own()
}
