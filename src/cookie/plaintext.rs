//! [`PlaintextBuffer`]: a payload before its encryption or after its decryption, in the buffer in which the cipher
//! works.

use std::fmt;

use zeroize::Zeroize;

use super::layout::{MAX_TOKEN_LEN, PAYLOAD_AT, TAG_LEN};

/// A payload in clear, within the bytes of its token. Wiped on drop.
pub(crate) struct PlaintextBuffer(Vec<u8>);

impl PlaintextBuffer {
    /// Makes an empty buffer with room for a payload of `payload` bytes.
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

    /// Returns the bytes, with room for `more` further bytes. A vector that grows by itself would leave an unwiped copy
    /// of its content in freed memory.
    pub(crate) fn with_more(&mut self, more: usize) -> &mut Vec<u8> {
        if more > self.0.capacity() - self.0.len() {
            self.grow(more);
        }
        &mut self.0
    }

    /// Returns the bytes of the whole token, for the seal. The fields in clear stand before the payload.
    pub(super) fn token(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        // Grows at once to the maximum length of all tokens except turn tokens, so that a second growth is rare.
        let mut larger = Vec::with_capacity((self.0.len() + more).max(MAX_TOKEN_LEN));
        larger.extend_from_slice(&self.0);
        drop(std::mem::replace(self, Self(larger)));
    }
}

/// Room behind a payload for the tag, and for the associated data while the cipher works.
const BEHIND: usize = TAG_LEN + 160;

impl Drop for PlaintextBuffer {
    fn drop(&mut self) {
        // Wiped as a slice: `Vec::zeroize` works byte by byte, and would take the larger part of the time of `open`.
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
    fn full_buffer_grows_once() {
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
