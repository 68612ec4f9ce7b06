//! The shared stores of the crate, through the public API, over real servers and files.
#![allow(clippy::unwrap_used)] // A test that can't go on says so best by stopping.

#[cfg(all(feature = "redis", feature = "tokio"))]
#[path = "../browser/port.rs"]
mod port;
#[cfg(all(feature = "redis", feature = "sqlite", feature = "axum-0_8"))]
mod processes;
#[cfg(all(feature = "redis", feature = "tokio"))]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;
