#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! The entry point is [`LayeredSessionLayer`], made from [`Sessions`]. Handlers work with a [`Session`]; values are types
//! that implement [`SessionValue`]. Stores and read-only sources of one's own implement [`Tier`](tier::Tier). Pages write through
//! [`SessionWriteback`].

mod chain;
mod error;
mod frameworks;
mod id;
#[cfg(feature = "inspector")]
mod inspector;
mod live;
mod require;
mod resolve;
mod session;
mod sessions;
mod signal;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod throttle;
pub mod tier;
mod value;
mod version;
mod writeback;

#[cfg(feature = "axum-0_8")]
pub use self::frameworks::axum::{MissingValue, Required, Value};
#[cfg(feature = "inspector")]
pub use self::inspector::service::{InspectorBody, InspectorFuture, SessionInspector};
#[cfg(feature = "tokio")]
pub use self::version::TokioClock;
pub use self::{
    chain::{Resolution, life::Lifetime, values::ChangeOrigin},
    error::{BuildError, BuildErrorKind, MissingSession, MissingSessionKind, TierError, WriteError, WriteErrorKind},
    id::Principal,
    live::{Changed, Changes, Closed, Watch},
    require::{Require, RequireFuture, RequireLayer},
    resolve::{
        future::ResponseFuture,
        layer::LayeredSessionLayer,
        preload::{Preload, PreloadFuture, PreloadLayer},
        service::LayeredSession,
    },
    session::{
        Origin, Session,
        batch::Batch,
        explain::{Answer, Explanation},
        relay::RelayToken,
        sign_in::{RenewByPage, SignIn},
    },
    sessions::{Sessions, Stats, builder::SessionsBuilder},
    tier::{
        cookie::{CookieTier, SameSite, keyring::KeyRing},
        default::DefaultTier,
        memory::{MemoryTier, MemoryTierBuilder},
    },
    value::{Placement, Scope, SessionValue},
    version::{Clock, Sleep},
    writeback::{
        reply::WritebackBody,
        service::{SessionWriteback, WritebackFuture},
    },
};
