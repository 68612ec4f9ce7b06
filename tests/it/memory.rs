//! The memory tier.
//!
//! - `bounds`: bytes, the limit, and the order of eviction
//! - `tombstones`: the record of an ended session
//! - `tombstone_eviction`: tombstones under pressure of memory
//! - `locks`: the code of a value, which runs while the crate holds no lock
//! - `panics`: application code that panics

mod bounds;
mod locks;
mod panics;
mod tombstone_eviction;
mod tombstones;
