//! The shared stores of the crate, through the public API.
#![allow(clippy::unwrap_used)] // A test that can't go on says so best by stopping.

#[cfg(feature = "sqlite")]
mod sqlite;
