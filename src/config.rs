//! The configuration of a node, checked once by the builder. No setting changes after `build()`.

use std::{fmt, time::Duration};

use http::request::Parts;

use crate::{
    cookie::{CookieTier, fingerprint::FingerprintKey, header::Name},
    cross_site::CrossSiteRule,
    id::{OwnerId, Principal, RecordKey, SessionId},
    record::{life::Lifetime, values::Resolution, write::Budget},
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
    /// Whether any rule reads the request's head. Computed once, since the layer checks it for each request.
    pub(crate) asks_head: bool,
    /// The names of all values, for which sources are asked.
    pub(crate) names: Vec<&'static str>,
    pub(crate) resolution: Resolution,
    pub(crate) lifetime: Lifetime,
    /// The time from the last use of a principal's record to its expiry.
    pub(crate) principal_idle: Duration,
    pub(crate) audience: Box<str>,
    pub(crate) identity: Identity,
    pub(crate) budget: Budget,
    /// The budget of the largest cookie that any deploy may have sealed: up to this size a cookie over `budget` is sent
    /// whole.
    pub(crate) max_budget: Budget,
    pub(crate) reads: Reads,
    pub(crate) cross_site: CrossSiteRule,
}

/// The fields for caches on a response whose request read the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// `Vary: Cookie`, and no shared cache may store the response unless the handler set its own caching fields.
    Private,
    /// `Vary: Cookie` alone.
    Vary,
}

/// A tier that computes its answers.
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

/// The answer of a computed tier for one value and one request.
#[derive(Clone, Debug)]
pub(crate) struct ComputedAnswer {
    pub(crate) tier: &'static str,
    pub(crate) index: ValueIndex,
    pub(crate) json: Json,
    /// The end of the answer; `None` if the answer holds for as long as the handle lives.
    pub(crate) until: Option<Millis>,
}

pub(crate) const MEMORY: &str = "memory";
pub(crate) const COOKIE: &str = "cookie";
pub(crate) const DEFAULT: &str = "default";

/// The rule that names the principal of a request.
pub(crate) enum Identity {
    Nobody,
    /// The request's head names the principal.
    Head(Box<Identify>),
    /// The identity value of the session names the principal.
    Value {
        index: ValueIndex,
        derive: Box<Derive>,
    },
}

pub(crate) type Identify = dyn Fn(&Parts) -> Option<Principal> + Send + Sync;

pub(crate) type Derive = dyn Fn(&[u8]) -> Option<Principal> + Send + Sync;

/// A principal, and the owner id of its record.
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

    /// Returns the value that names the signed-in user, if a value does.
    pub(crate) const fn identity_index(&self) -> Option<ValueIndex> {
        match &self.identity {
            Identity::Value { index, .. } => Some(*index),
            Identity::Head(_) | Identity::Nobody => None,
        }
    }

    pub(crate) fn owner(&self, id: &SessionId) -> OwnerId {
        id.owner(&self.audience)
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
