//! When a write happened: hybrid logical versions.

use std::fmt;

use crate::time::Wall;

/// The order of writes: 48 bits of milliseconds since 1970, 16 bits of counter.
///
/// A hybrid logical clock reading (Kulkarni et al., 2014): close to the wall clock, and above every version that its
/// writer had seen, so that a write made in knowledge of another always orders after it, whatever the clocks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Below every write.
    pub const ZERO: Self = Self(0);

    /// A version as a store keeps it.
    pub const fn from_u64(bits: u64) -> Self {
        Self(bits)
    }

    /// All 64 bits, in their order.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The first version of a millisecond.
    pub(crate) const fn at(wall: Wall) -> Self {
        Self(wall.0 << 16)
    }

    /// The last version of a millisecond.
    pub(crate) const fn last_at(wall: Wall) -> Self {
        Self(wall.0 << 16 | 0xffff)
    }

    /// The next version. The counter carries into the milliseconds, which the order survives.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The millisecond of the wall clock that the version names.
    pub(crate) const fn wall(self) -> Wall {
        Wall(self.0 >> 16)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}
