//! What a user can see, through the public API.
#![allow(clippy::unwrap_used)] // A test that can't go on says so best by stopping.

mod app;
mod building;
mod cookies;
mod layers;
mod leaks;
mod lifetimes;
mod live;
mod relay;
mod review;
mod review_store;
mod site;
mod smoke;
mod upgrades;
mod world;
mod writeback;
mod writes;
