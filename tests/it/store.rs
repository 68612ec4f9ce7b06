//! A shared store behind the memory tier.
//!
//! - `commits`: the calls that a store gets, and its refusals
//! - `outdated_writes`: a store that finds each write outdated
//! - `outages`: a store that is down
//! - `eviction`: memory under pressure over a store
//! - `limits`: news that a node gets late or never
//! - `retention`: how long a record stays in the store

mod commits;
mod eviction;
mod limits;
mod outages;
mod outdated_writes;
mod retention;
