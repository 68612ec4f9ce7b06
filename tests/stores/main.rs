//! The shared stores of the crate, through the public API, over real servers and files.
//!
//! | module | behaviour |
//! |---|---|
//! | `nodes` | several nodes over one store: each test over the scripted store, a SQLite file and a Redis server |
//! | `engines`, `site` | these three stores, and the nodes and browsers of `nodes` |
//! | `redis` | `RedisStore` alone: servers that fail, a cluster, random programs |
//! | `sqlite` | `SqliteStore` alone: restarts, and files that can't be used |
//! | `processes` | two processes of the example `cluster` |
#![allow(clippy::unwrap_used)] // A test that can't go on says so best by stopping.

mod engines;
mod nodes;
#[cfg(all(feature = "redis", feature = "tokio"))]
#[path = "../browser/port.rs"]
mod port;
#[cfg(all(feature = "redis", feature = "sqlite", feature = "axum-0_8"))]
mod processes;
#[cfg(all(feature = "redis", feature = "tokio"))]
mod redis;
mod site;
#[cfg(feature = "sqlite")]
mod sqlite;
