//! [`Version`]: the order of writes, as hybrid logical clock readings.

use std::fmt;

use crate::time::Wall;

/// The order of writes: 48 bits of milliseconds since 1970, 16 bits of counter.
///
/// A version is a hybrid logical clock reading (Kulkarni et al., 2014): close to the wall clock, and above every
/// version of the same value that the writing node knew. A later write with knowledge of an earlier write always has
/// the higher version, even between nodes whose clocks differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// The version below every write.
    pub const ZERO: Self = Self(0);

    /// Makes a version of the 64 bits that a store keeps.
    pub const fn from_u64(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the 64 bits, which have the order of the versions.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the first version of a millisecond.
    pub(crate) const fn at(wall: Wall) -> Self {
        Self(wall.0 << 16)
    }

    /// Returns the last version of a millisecond.
    pub(crate) const fn last_at(wall: Wall) -> Self {
        Self(wall.0 << 16 | 0xffff)
    }

    /// Returns the next version. The counter carries into the milliseconds, which keeps the order.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the version's millisecond of the wall clock.
    pub(crate) const fn wall(self) -> Wall {
        Wall(self.0 >> 16)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// The state of a record that a node knows from an earlier answer of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub(crate) generation: Version,
    pub(crate) newest: Version,
}

impl Known {
    /// The state of no record.
    pub(crate) const NONE: Self = Self { generation: Version::ZERO, newest: Version::ZERO };

    /// Creates the state from the record's [generation](crate::tier::StoredRecord::generation) and [newest
    /// version](crate::tier::StoredRecord::newest).
    pub const fn new(generation: Version, newest: Version) -> Self {
        Self { generation, newest }
    }

    /// The record's generation.
    pub const fn generation(self) -> Version {
        self.generation
    }

    /// The record's newest version.
    pub const fn newest(self) -> Version {
        self.newest
    }
}
