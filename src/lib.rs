//! Session values resolved through tiers, as Tower middleware.

mod chain;
mod error;
#[cfg(any(feature = "axum", feature = "tonic"))]
mod extract;
mod id;
mod live;
mod resolve;
mod session;
mod sessions;
mod signal;
#[cfg(feature = "testing")]
pub mod testing;
mod tier;
mod value;
mod version;
mod writeback;

#[cfg(feature = "tokio")]
pub use self::version::TokioClock;
pub use self::{
    chain::{Resolution, life::Lifetime},
    error::{
        BoxError, BuildError, BuildErrorKind, MissingSession, MissingSessionKind, TierError, WriteError, WriteErrorKind,
    },
    id::{OwnerId, Principal},
    live::{Changed, Changes, Closed, Watch},
    resolve::{
        future::ResponseFuture,
        layer::LayeredSessionLayer,
        preload::{Preload, PreloadFuture, PreloadLayer},
        service::LayeredSession,
    },
    session::{
        Origin, Session,
        batch::Batch,
        browser::RelayToken,
        explain::{Answer, Explanation},
        turn::SignIn,
    },
    sessions::{IntoTier, Sessions, SessionsBuilder, Stats},
    tier::{
        Change, Commit, CommitKind, Committed, Found, Lookup, Role, Tier, TierFuture,
        cookie::{CookieTier, SameSite, keyring::KeyRing},
        default::DefaultTier,
        memory::{MemoryTier, MemoryTierBuilder},
    },
    value::{Placement, Scope, SessionValue},
    version::{Clock, Sleep, Version},
    writeback::{
        reply::WritebackBody,
        service::{SessionWriteback, WritebackFuture},
    },
};
