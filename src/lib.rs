#![cfg_attr(docsrs, feature(doc_cfg))]
//! Session state that outlives the page, as Tower middleware for axum, hyper and tonic.
//!
//! Values are typed and declared once. Each value is resolved through tiers: memory, a sealed cookie, stores and
//! sources of the application's own, and a default. Every open tab, socket and task of a session sees a change at once.
//! Pages may write the values that the application allows.
//!
#![doc = include_str!("guide/tiers.svg")]
//!
//! ```
//! use axum::{Router, routing::get};
//! use layered_session::{
//!     CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue,
//!     Sessions, WriteError,
//! };
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Division(u32);
//!
//! impl SessionValue for Division {
//!     const NAME: &'static str = "division";
//! }
//!
//! async fn show(session: Session) -> String {
//!     let Division(id) = session.value(); // memory, else the cookie, else the default
//!     format!("division {id}")
//! }
//!
//! async fn switch(session: Session) -> Result<(), WriteError> {
//!     session.set(Division(3)).await // every tab and socket of this browser sees this now
//! }
//!
//! let sessions = Sessions::builder()
//!     .tier(MemoryTier::builder().build())
//!     .tier(CookieTier::sealed(KeyRing::generate()?)) // deployed: KeyRing::from_env
//!     .value::<Division>()
//!     .build()?;
//! let app: Router = Router::new()
//!     .route("/division", get(show).post(switch))
//!     .layer(LayeredSessionLayer::new(sessions));
//! # Ok::<_, layered_session::BuildError>(())
//! ```
//!
//! # Where to begin
//!
//! The [`guide`] begins with [first steps](guide::first_steps): a choice that survives a restart, from an empty
//! directory.
//!
//! | task | types |
//! |---|---|
//! | declare a value: its name, owner, lifetime, validity | [`SessionValue`], [`Scope`], [`Placement`] |
//! | choose tiers and keys | [`Sessions::builder`], [`MemoryTier`], [`CookieTier`], [`KeyRing`], [`DefaultTier`] |
//! | serve | [`LayeredSessionLayer`] |
//! | read, write, sign in and out | [`Session`], and in axum [`Value`] and [`Required`] |
//! | guard routes | [`RequireLayer`] |
//! | follow changes on sockets and in streams | [`Session::watch`], [`Session::changes`], [`Session::closed`] |
//! | let pages read and write | [`SessionWriteback`] |
//! | bring a socket's writes to the browser's cookie | [`Session::relay`], [`RelayToken`] |
//! | serve by hyper or tonic | [`Session::load`], [`guide::without_axum`] |
//! | share sessions among nodes | [`guide::several_nodes`], `RedisStore` (feature `redis`) |
//! | keep sessions in a file | `SqliteStore` (feature `sqlite`) |
//! | read from a database, keep sessions in a store of one's own | [`tier`] |
//! | look into a session | [`Session::explain`], `SessionInspector` (feature `inspector`) |
//! | test | `testing` (feature `testing`) |
//! | know the promises, their limits and the words | [`guide::guarantees`], [`guide::glossary`] |
//!
//! # Features
//!
//! `tokio` and `axum-0_8` are on by default. hyper and tonic need no axum:
//! `default-features = false, features = ["tokio"]`, and `tonic-0_14` for errors as statuses. Without axum
//! [`Session::load`] takes the session from the request's extensions.

mod config;
mod cookie;
mod cross_site;
mod error;
mod frameworks;
pub mod guide;
mod id;
#[cfg(feature = "inspector")]
mod inspector;
mod live;
mod memory;
mod node;
mod node_clock;
mod notify;
mod record;
mod require;
mod resolve;
mod session;
mod sessions;
#[cfg(any(feature = "redis", feature = "sqlite"))]
mod store;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod throttle;
pub mod tier;
mod time;
mod value;
mod version;
mod writeback;

#[cfg(feature = "axum-0_8")]
pub use self::frameworks::axum::{MissingValue, Required, Value};
#[cfg(feature = "inspector")]
pub use self::inspector::service::{InspectorBody, InspectorFuture, SessionInspector};
#[cfg(feature = "redis")]
pub use self::store::redis::RedisStore;
#[cfg(feature = "sqlite")]
pub use self::store::sqlite::{Durability, SqliteStore, SqliteStoreBuilder};
#[cfg(feature = "tokio")]
pub use self::time::TokioClock;
pub use self::{
    cookie::{CookieTier, SameSite, keyring::KeyRing},
    error::{
        BuildError, BuildErrorKind, CloseReason, MissingSession, MissingSessionKind, TierError, WriteError,
        WriteErrorKind,
    },
    id::Principal,
    live::{ChangeEvent, Changes, Watch},
    memory::{MemoryTier, MemoryTierBuilder},
    node::followed::NoticeLink,
    record::{
        life::Lifetime,
        values::{ChangeOrigin, Resolution},
    },
    require::{Require, RequireFuture, RequireLayer},
    resolve::{
        layer::LayeredSessionLayer,
        preload::{Preload, PreloadFuture, PreloadLayer},
        service::{LayeredSession, ResponseFuture},
    },
    session::{
        Session, ValueSource,
        batch::Batch,
        explain::{Explanation, TierAnswer},
        relay::RelayToken,
        sign_in::{RenewByPage, SignIn},
    },
    sessions::{
        Sessions, Stats,
        builder::{IntoTier, SessionsBuilder},
    },
    tier::{default::DefaultTier, shared::SharedTier},
    time::{Clock, Sleep},
    value::{Placement, Scope, SessionValue},
    writeback::{
        reply::WritebackBody,
        service::{SessionWriteback, answer::WritebackFuture},
    },
};

/// The README's programs, which compile with the doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
