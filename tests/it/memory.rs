//! The memory tier.
//!
//! - `bounds`: bytes, the limit, and the order of eviction
//! - `tombstones`: the record of an ended session
//! - `tombstone_eviction`: tombstones under pressure of memory
//! - `locks`: values with code that asks for the session
//! - `panics`: application code that panics

mod bounds;
mod locks;
mod panics;
mod tombstone_eviction;
mod tombstones;
