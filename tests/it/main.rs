//! What a user can see, through the public API.
//!
//! `Acceptance n`, `Gn` and `Rn` in comments are the numbers of the project's acceptance cases, guarantees and security
//! requirements.
#![allow(clippy::unwrap_used)] // A test that can't go on says so best by stopping.

mod ambiguous;
mod app;
mod auto_traits;
mod building;
mod clock_skew;
mod clock_steps;
mod cookies;
mod cross_site;
mod ends;
mod engine;
mod events;
mod expiry;
mod forge;
mod formerly;
mod frameworks;
mod handles;
mod healing;
mod inspector;
mod judged;
mod leaks;
mod lifetimes;
mod listed_origins;
mod live;
mod meanwhile;
mod memory;
mod outdated;
mod panics;
mod principals;
mod relay;
mod renewal;
mod resolution;
mod revocations;
mod same_version;
mod sign_outs;
mod site;
mod smoke;
mod socket_use;
mod stacking;
mod store_life;
mod stored;
mod threads;
mod tokens;
mod tombstones;
mod trace;
mod turns;
mod untrusted;
mod upgrades;
mod users;
mod validity;
mod world;
mod writeback;
mod writes;
