//! The owners of records: session ids, principals, and the hash by which stores know an owner.

use std::fmt;

use rand::TryRng;
use sha2::{Digest, Sha256};

/// The bearer id of one session: 32 bytes from the operating system's generator.
///
/// The id leaves the process only in a token, in the fields in clear and inside the payload. Stores and traces see only
/// the id's hash, and `Debug` prints nothing of the id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId([u8; Self::LEN]);

impl SessionId {
    pub(crate) const LEN: usize = 32;

    /// Makes a new random id.
    ///
    /// # Errors
    ///
    /// Fails if the operating system gives no randomness. There is no fallback to a weaker source.
    pub(crate) fn mint() -> Result<Self, rand::rngs::SysError> {
        let mut bytes = [0; Self::LEN];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub(crate) const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Returns the owner id of this session, in the namespace of one audience.
    pub(crate) fn owner(&self, audience: &str) -> OwnerId {
        OwnerId::hash(b"session", audience, &self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// The signed-in user, by the application's id of the user: a number, a UUID, an address.
///
/// Two principals are equal exactly if their ids have the same `Display` text.
///
/// ```
/// use layered_session::Principal;
/// assert_eq!(Principal::new(7), Principal::new("7"));
/// assert_eq!(format!("{:?}", Principal::new("ada@example.org")), "Principal(..)");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Principal(Box<str>);

impl Principal {
    /// Makes a principal of the `Display` text of an id.
    pub fn new(id: impl fmt::Display) -> Self {
        Self(id.to_string().into())
    }

    /// Returns the text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn owner(&self, audience: &str) -> OwnerId {
        OwnerId::hash(b"principal", audience, self.0.as_bytes())
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Principal(..)")
    }
}

/// The id under which a store keeps a record: the SHA-256 of a session's id or of a principal, separate for each
/// audience.
///
/// A reader of a store can't compute a session's id from the hash, and so can't take over the sessions in the store.
/// `Debug` and `Display` show the first eight hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId([u8; 32]);

/// The first half of a principal's [`OwnerId`], by which sealed tokens and tombstones name principals in half of the
/// room. No two principals have the same tag: 128 bits of SHA-256 don't collide.
pub(crate) type PrincipalTag = [u8; 16];

impl OwnerId {
    fn hash(kind: &[u8], audience: &str, id: &[u8]) -> Self {
        let mut hash = Sha256::new();
        // The length before each part makes the bytes of two different triples differ.
        for part in [b"layered-session owner v1".as_slice(), kind, audience.as_bytes(), id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    pub(crate) const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Returns all 32 bytes, for a store's primary key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns a mark by which a page distinguishes owners: a hash for the purpose, so that the mark leads to no
    /// record.
    pub(crate) fn mark(&self, purpose: &str) -> String {
        let hash = Sha256::new().chain_update(purpose).chain_update(self.0).finalize();
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the tag of a principal's owner id.
    pub(crate) fn tag(&self) -> PrincipalTag {
        self.0.first_chunk().copied().unwrap_or_default()
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerId({self})")
    }
}

/// The index of a record in memory: the session's id itself, or the hash of the principal. Random ids and SHA-256
/// outputs don't collide.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RecordKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_ids_differ_by_kind_and_audience() {
        let id = SessionId::from_bytes([7; 32]);
        let same_bytes = Principal::new(String::from_utf8(vec![7; 32]).unwrap());
        assert_ne!(id.owner("a"), id.owner("b"));
        assert_ne!(id.owner("a"), same_bytes.owner("a"));
        assert_ne!(Principal::new("bc").owner("a"), Principal::new("c").owner("ab"));
        assert_eq!(Principal::new(1).owner("a"), Principal::new("1").owner("a"));
    }

    #[test]
    fn ids_are_unique_and_hidden_in_debug() {
        let ids: Vec<_> = (0..1000).map(|_| *SessionId::mint().unwrap().as_bytes()).collect();
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert_eq!(format!("{:?}", SessionId::from_bytes([9; 32])), "SessionId(..)");
    }
}
