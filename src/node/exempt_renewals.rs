//! The exemptions from an end of all sessions: a session that renews itself right afterwards stays open for its
//! renewal.

use crate::{id::RecordKey, sync::Mutex};

/// The sessions between the end of their user's other sessions and their own renewal.
#[derive(Debug, Default)]
pub(crate) struct ExemptRenewals(Mutex<Vec<(RecordKey, HandleId)>>);

/// The id of a handle and its clones: the address of their shared state.
pub(crate) type HandleId = usize;

/// An exemption of a session, which ends when the guard drops.
#[derive(Debug)]
pub(crate) struct Exemption<'a>(&'a ExemptRenewals, RecordKey);

impl ExemptRenewals {
    /// Exempts a session until the guard drops. Only the renewing handle may use the session meanwhile. `None` if another
    /// handle is about to renew the session.
    pub(crate) fn exempt(&self, key: RecordKey, renewer: HandleId) -> Option<Exemption<'_>> {
        let mut exempt = self.0.lock();
        if exempt.iter().any(|(other, _)| *other == key) {
            return None;
        }
        exempt.push((key, renewer));
        Some(Exemption(self, key))
    }

    /// Returns the handle that is about to renew an exempt session.
    pub(crate) fn renewer(&self, key: &RecordKey) -> Option<HandleId> {
        self.0.lock().iter().find(|(exempt, _)| exempt == key).map(|(_, renewer)| *renewer)
    }
}

impl Drop for Exemption<'_> {
    fn drop(&mut self) {
        let mut exempt = self.0.0.lock();
        if let Some(at) = exempt.iter().position(|(key, _)| *key == self.1) {
            exempt.swap_remove(at);
        }
    }
}
