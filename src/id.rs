//! Who a record belongs to: session ids, principals, and the hash under which stores see them.

use std::fmt;

use rand::TryRng;
use sha2::{Digest, Sha256};

/// The bearer name of one session: 32 bytes from the operating system's generator.
///
/// It never leaves the process except inside a seal's clear part; stores, traces and `Debug` see only its hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId([u8; Self::LEN]);

impl SessionId {
    pub(crate) const LEN: usize = 32;

    /// Mints an id.
    ///
    /// # Errors
    ///
    /// Where the operating system has no randomness to give. There is no weaker source to fall back to.
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

    /// The owner that this id names, in the namespace of one audience.
    pub(crate) fn owner(&self, audience: &str) -> OwnerId {
        OwnerId::hash(b"session", audience, &self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// The signed-in user, by whatever the application calls one: a number, a UUID, an address.
///
/// Two principals are the same exactly if their ids print the same.
///
/// ```
/// use layered_session::Principal;
/// assert_eq!(Principal::new(7), Principal::new("7"));
/// assert_eq!(format!("{:?}", Principal::new("ada@example.org")), "Principal(..)");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Principal(Box<str>);

impl Principal {
    /// Names a principal.
    pub fn new(id: impl fmt::Display) -> Self {
        Self(id.to_string().into())
    }

    /// The id as it was given.
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

/// What a record is stored under: the SHA-256 of a session's id or of a principal, apart for each audience.
///
/// Neither can be had back from it, so that whoever reads a store can't ride the sessions in it.
/// `Debug` and `Display` show its first eight hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId([u8; 32]);

/// The first half of a principal's [`OwnerId`]: sealed tokens and tombstones name principals by it, in half the room, and
/// no two principals meet.
pub(crate) type PrincipalTag = [u8; 16];

/// The two marks that a page is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PageMark {
    User,
    Session,
}

impl OwnerId {
    fn hash(kind: &[u8], audience: &str, id: &[u8]) -> Self {
        let mut hash = Sha256::new();
        // Lengths go in, so that no two different triples give the same bytes.
        for part in [b"layered-session owner v1".as_slice(), kind, audience.as_bytes(), id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    pub(crate) const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// All 32 bytes, for a store's own key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A mark by which a page tells owners apart: a hash under the purpose, so that the mark leads to no record.
    pub(crate) fn mark(&self, purpose: PageMark) -> String {
        let purpose: &[u8] = match purpose {
            PageMark::User => b"layered-session user mark v1",
            PageMark::Session => b"layered-session session mark v1",
        };
        let hash = Sha256::new().chain_update(purpose).chain_update(self.0).finalize();
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The tag of a principal's owner id.
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

/// What a record is found by: the session's id itself, or the hash of the principal. Random ids and SHA-256 outputs
/// don't meet.
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
    fn owners_of_different_kinds_and_audiences_never_meet() {
        let id = SessionId::from_bytes([7; 32]);
        let same_bytes = Principal::new(String::from_utf8(vec![7; 32]).unwrap());
        assert_ne!(id.owner("a"), id.owner("b"));
        assert_ne!(id.owner("a"), same_bytes.owner("a"));
        assert_ne!(Principal::new("bc").owner("a"), Principal::new("c").owner("ab"));
        assert_eq!(Principal::new(1).owner("a"), Principal::new("1").owner("a"));
    }

    #[test]
    fn ids_are_all_different_and_print_nothing() {
        let ids: Vec<_> = (0..1000).map(|_| *SessionId::mint().unwrap().as_bytes()).collect();
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
        assert_eq!(format!("{:?}", SessionId::from_bytes([9; 32])), "SessionId(..)");
    }
}
