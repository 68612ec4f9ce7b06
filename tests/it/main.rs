//! The behaviour of the public API for a user of the crate. Each folder has one subject, and the first lines of the
//! folder's module list the behaviour in each file.
//!
//! A number in a comment, such as G12 or R4, names an entry of the guide's chapter `guarantees`.
#![allow(clippy::unwrap_used)] // A test that can't go on says so best by stopping.

mod api;
mod cookie;
mod frameworks;
mod inspector;
mod lifecycle;
mod live;
mod memory;
mod models;
mod relay;
mod resolution;
mod security;
mod store;
mod support;
mod testing;
mod writeback;
mod writes;
