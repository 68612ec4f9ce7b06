//! A payload before it is sealed and after it was opened: it is written where it is sealed, and read where it was opened.

use std::fmt;

use zeroize::Zeroize;

use super::layout::{MAX_TOKEN_LEN, PAYLOAD_AT, TAG_LEN};

/// A payload in clear, within the bytes of its token. Wiped when it goes.
pub(crate) struct PlaintextBuffer(Vec<u8>);

impl PlaintextBuffer {
    /// An empty one, with room for so much.
    pub(crate) fn with_room(payload: usize) -> Self {
        let mut bytes = Vec::with_capacity(PAYLOAD_AT + payload + BEHIND);
        bytes.resize(PAYLOAD_AT, 0);
        Self(bytes)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0[PAYLOAD_AT..]
    }

    pub(crate) fn extend(&mut self, part: &[u8]) {
        self.with_more(part.len()).extend_from_slice(part);
    }

    /// To add so much to. A vector that grows by itself leaves a copy of its content behind, which nothing wipes.
    pub(crate) fn with_more(&mut self, more: usize) -> &mut Vec<u8> {
        if more > self.0.capacity() - self.0.len() {
            self.grow(more);
        }
        &mut self.0
    }

    /// The whole token, for the seal: the part in clear stands before the payload.
    pub(super) fn token(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        // At once as much as most tokens can hold.
        let mut larger = Vec::with_capacity((self.0.len() + more).max(MAX_TOKEN_LEN));
        larger.extend_from_slice(&self.0);
        drop(std::mem::replace(self, Self(larger)));
    }
}

/// Room behind a payload for what sealing adds: the tag, and the associated data while the cipher works.
const BEHIND: usize = TAG_LEN + 160;

impl Drop for PlaintextBuffer {
    fn drop(&mut self) {
        // As a slice: byte by byte, as a vector's are, it would be the larger part of opening.
        self.0.as_mut_slice().zeroize();
    }
}

impl fmt::Debug for PlaintextBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlaintextBuffer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_outgrows_its_room_is_whole_and_grows_once() {
        let mut unsealed = PlaintextBuffer::with_room(0);
        let parts: Vec<_> = (0..=u8::MAX).map(|n| vec![n; usize::from(n) % 17]).collect();
        let mut rooms = std::collections::BTreeSet::new();
        for part in &parts {
            unsealed.extend(part);
            rooms.insert(unsealed.token().capacity());
        }
        assert_eq!((unsealed.as_slice(), rooms.len()), (parts.concat().as_slice(), 2));
        assert_eq!(format!("{unsealed:?}"), "PlaintextBuffer(..)");
    }
}
