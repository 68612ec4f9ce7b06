//! The sessions that are renewed right after all sessions of their user have ended.

use crate::{sync::Mutex, tier::memory::record::RecordKey};

/// Sessions between the end of their user's other sessions and their own renewal.
#[derive(Debug, Default)]
pub(crate) struct Spared(Mutex<Vec<(RecordKey, Renewer)>>);

/// The handle that renews a session, with its clones: the address of the state that they share.
pub(crate) type Renewer = usize;

/// Spares a session for as long as it lives.
#[derive(Debug)]
pub(crate) struct Sparing<'a>(&'a Spared, RecordKey);

impl Spared {
    pub(crate) fn spare(&self, key: RecordKey, renewer: Renewer) -> Sparing<'_> {
        self.0.lock().push((key, renewer));
        Sparing(self, key)
    }

    /// The handle that is about to renew a session.
    pub(crate) fn renewer(&self, key: &RecordKey) -> Option<Renewer> {
        self.0.lock().iter().find(|(spared, _)| spared == key).map(|(_, renewer)| *renewer)
    }
}

impl Drop for Sparing<'_> {
    fn drop(&mut self) {
        let mut spared = self.0.0.lock();
        if let Some(at) = spared.iter().position(|(key, _)| *key == self.1) {
            spared.swap_remove(at);
        }
    }
}
