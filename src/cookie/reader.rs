//! Reads fields from the front of an opened payload.

use crate::{time::Wall, value::MAX_NAME, version::Version};

/// The length of a time, in bytes.
pub(super) const TIME_LEN: usize = 6;

/// The unread rest of a payload. Each method reads a field from the front, or returns `None` if the rest is too short.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn version(&mut self) -> Option<Version> {
        self.array().map(|bytes| Version::from_u64(u64::from_be_bytes(bytes)))
    }

    pub(super) fn wall(&mut self) -> Option<Wall> {
        let [a, b, c, d, e, f] = self.array::<TIME_LEN>()?;
        Some(Wall(u64::from_be_bytes([0, 0, a, b, c, d, e, f])))
    }

    /// Reads the name of a value, with the length before the name.
    pub(super) fn name(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?);
        if len > MAX_NAME { None } else { self.take(len) }
    }
}
