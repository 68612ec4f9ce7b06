//! The configuration of a node: what the builder has checked once. Nothing in it changes after `build()`.

use std::{fmt, time::Duration};

use http::request::Parts;

use crate::{
    cookie::{CookieTier, fingerprint::FingerprintKey, header::Name},
    id::{OwnerId, Principal, RecordKey, SessionId},
    record::{budget::Budget, life::Lifetime, values::Resolution},
    tier::{default::DefaultRule, outside::SourceTier},
    time::Millis,
    value::{Json, Schema, ValueIndex},
};

pub(crate) struct Config {
    pub(crate) schema: Schema,
    pub(crate) cookie: CookieTier,
    pub(crate) cookie_name: Name,
    pub(crate) fingerprints: FingerprintKey,
    pub(crate) computed: Vec<ComputedTier>,
    pub(crate) has_sources: bool,
    /// Whether any rule asks the request's head. Kept, since each request asks for it.
    pub(crate) asks_head: bool,
    /// The names that sources are asked for: all.
    pub(crate) names: Vec<&'static str>,
    pub(crate) resolution: Resolution,
    pub(crate) lifetime: Lifetime,
    /// How long a principal's record is kept from its last use.
    pub(crate) principal_idle: Duration,
    pub(crate) audience: Box<str>,
    pub(crate) identity: Identity,
    pub(crate) budget: Budget,
    /// The same of the largest cookie that any deploy sealed: a cookie over the budget is still sent whole.
    pub(crate) max_budget: Budget,
    pub(crate) reads: Reads,
}

/// The word to caches on a response whose request read the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// No shared cache may store the response, unless the handler said otherwise.
    Private,
    /// `Vary: Cookie` alone.
    Vary,
}

/// A tier that computes its answers, in the order of the chain.
pub(crate) enum ComputedTier {
    Default(Vec<(ValueIndex, DefaultRule)>),
    Source(SourceTier),
}

impl ComputedTier {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Default(_) => DEFAULT,
            Self::Source(source) => source.name(),
        }
    }

    pub(crate) fn rules(&self) -> &[(ValueIndex, DefaultRule)] {
        match self {
            Self::Default(rules) => rules,
            Self::Source(_) => &[],
        }
    }

    pub(crate) fn asks_head(&self) -> bool {
        self.is_source() || self.rules().iter().any(|(_, answer)| matches!(answer, DefaultRule::Computed(_)))
    }

    pub(crate) const fn is_source(&self) -> bool {
        matches!(self, Self::Source(_))
    }
}

/// What a computed tier answered for one request.
#[derive(Debug)]
pub(crate) struct ComputedAnswer {
    pub(crate) tier: &'static str,
    pub(crate) index: ValueIndex,
    pub(crate) json: Json,
    /// How long it holds, if not for as long as the handle lives.
    pub(crate) until: Option<Millis>,
}

pub(crate) const MEMORY: &str = "memory";
pub(crate) const COOKIE: &str = "cookie";
pub(crate) const DEFAULT: &str = "default";

/// Who a request's principal is.
pub(crate) enum Identity {
    Nobody,
    /// The request's head says so.
    Head(Box<Identify>),
    /// A session-scope value says so.
    Value {
        index: ValueIndex,
        derive: Box<Derive>,
    },
}

pub(crate) type Identify = dyn Fn(&Parts) -> Option<Principal> + Send + Sync;

pub(crate) type Derive = dyn Fn(&[u8]) -> Option<Principal> + Send + Sync;

/// A principal, and what its record is found by.
#[derive(Debug)]
pub(crate) struct ResolvedPrincipal {
    pub(crate) principal: Principal,
    pub(crate) owner: OwnerId,
}

impl ResolvedPrincipal {
    pub(crate) const fn key(&self) -> RecordKey {
        RecordKey(*self.owner.as_bytes())
    }
}

impl Config {
    pub(crate) fn resolve_principal(&self, principal: Principal) -> ResolvedPrincipal {
        let owner = principal.owner(&self.audience);
        ResolvedPrincipal { principal, owner }
    }

    pub(crate) fn owner(&self, id: &SessionId) -> OwnerId {
        id.owner(&self.audience)
    }

    pub(crate) fn default_rules(&self) -> impl Iterator<Item = &(ValueIndex, DefaultRule)> {
        self.computed.iter().flat_map(ComputedTier::rules)
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &SourceTier> {
        self.computed.iter().filter_map(|tier| match tier {
            ComputedTier::Default(_) => None,
            ComputedTier::Source(source) => Some(source),
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("values", &self.names)
            .field("cookie", &self.cookie)
            .field("computed", &self.computed.iter().map(ComputedTier::name).collect::<Vec<_>>())
            .field("resolution", &self.resolution)
            .finish_non_exhaustive()
    }
}
