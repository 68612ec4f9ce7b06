//! The sessions that are renewed right after all sessions of their user have ended.

use crate::{id::RecordKey, sync::Mutex};

/// Sessions between the end of their user's other sessions and their own renewal.
#[derive(Debug, Default)]
pub(crate) struct ExemptRenewals(Mutex<Vec<(RecordKey, HandleId)>>);

/// The handle that renews a session, with its clones: the address of the state that they share.
pub(crate) type HandleId = usize;

/// Spares a session for as long as it lives.
#[derive(Debug)]
pub(crate) struct Exemption<'a>(&'a ExemptRenewals, RecordKey);

impl ExemptRenewals {
    pub(crate) fn exempt(&self, key: RecordKey, renewer: HandleId) -> Exemption<'_> {
        self.0.lock().push((key, renewer));
        Exemption(self, key)
    }

    /// The handle that is about to renew a session.
    pub(crate) fn renewer(&self, key: &RecordKey) -> Option<HandleId> {
        self.0.lock().iter().find(|(spared, _)| spared == key).map(|(_, renewer)| *renewer)
    }
}

impl Drop for Exemption<'_> {
    fn drop(&mut self) {
        let mut spared = self.0.0.lock();
        if let Some(at) = spared.iter().position(|(key, _)| *key == self.1) {
            spared.swap_remove(at);
        }
    }
}
