//! The sessions of memory by owner. A notice of a store names the owner, which is a hash of the session's id, and memory
//! has sessions by id.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::{
    id::{OwnerId, RecordKey},
    sync::Mutex,
};

/// The ids of sessions by the first eight bytes of the owner, each with the number of its entries.
#[derive(Debug, Default)]
pub(crate) struct Owners(Mutex<HashMap<u64, (RecordKey, u32)>>);

impl Owners {
    /// Lists a session under its owner for as long as the entry lives.
    pub(crate) fn list(self: &Arc<Self>, owner: &OwnerId, key: RecordKey) -> ListedOwner {
        let prefix = prefix(owner);
        let mut owners = self.0.lock();
        let listed = owners.entry(prefix).or_insert((key, 0));
        *listed = (key, listed.1 + 1);
        drop(owners);
        ListedOwner { owners: Arc::clone(self), prefix }
    }

    /// Returns the id of the session that an owner names, if memory may have the session.
    pub(crate) fn session_of(&self, owner: &OwnerId) -> Option<RecordKey> {
        self.0.lock().get(&prefix(owner)).map(|(key, _)| *key)
    }
}

fn prefix(owner: &OwnerId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *owner.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The entry of a session. A record that memory has evicted and loaded again may have two entries for a moment.
#[derive(Debug)]
pub(crate) struct ListedOwner {
    owners: Arc<Owners>,
    prefix: u64,
}

impl Drop for ListedOwner {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.owners.0.lock().entry(self.prefix) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_is_listed_until_its_last_entry_drops() {
        let (owners, owner) = (Arc::<Owners>::default(), OwnerId::from_hash([7; 32]));
        let first = owners.list(&owner, RecordKey([1; 32]));
        let second = owners.list(&owner, RecordKey([1; 32]));
        drop(first);
        assert!(owners.session_of(&owner) == Some(RecordKey([1; 32])));
        drop(second);
        assert!(owners.session_of(&owner).is_none());
        assert!(owners.0.lock().is_empty());
    }
}
