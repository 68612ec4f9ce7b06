//! What a user can see, through the public API.
//!
//! `Acceptance n` and `Rn` in comments are the numbers of the project's acceptance cases and security requirements.
#![allow(clippy::unwrap_used)] // A test that can't go on says so best by stopping.

mod app;
mod auto_traits;
mod building;
mod cookies;
mod engine;
mod events;
mod forge;
mod frameworks;
mod handles;
mod inspector;
mod layers;
mod leaks;
mod lifetimes;
mod live;
mod meanwhile;
mod memory;
mod relay;
mod review;
mod review_store;
mod site;
mod smoke;
mod stacking;
mod threads;
mod tokens;
mod upgrades;
mod users;
mod world;
mod writeback;
mod writes;
