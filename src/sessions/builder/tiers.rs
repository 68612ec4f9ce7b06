//! The tiers that an application adds: [`IntoTier`], and the sorting of the tiers into their places in the chain.

use super::SessionsBuilder;
use crate::{
    config::{COOKIE, ComputedTier, DEFAULT, MEMORY},
    cookie::CookieTier,
    error::{BuildError, BuildErrorKind},
    memory::MemoryTier,
    tier::{
        Source,
        default::{DefaultRule, DefaultTier, Rule},
        outside::SourceTier,
        shared::SharedTier,
    },
    value::{Schema, ValueIndex},
};

/// The types for [`SessionsBuilder::tier`]: [`MemoryTier`], [`CookieTier`], [`DefaultTier`], [`SharedTier`], and every
/// [`Source`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tier",
    note = "tiers are `MemoryTier::builder().build()`, `CookieTier::sealed(keys)`, `DefaultTier::new()`, \
            `SharedTier::new(store)` around a type that implements `layered_session::tier::Store`, and types that implement \
            `layered_session::tier::Source`"
)]
pub trait IntoTier {
    #[doc(hidden)]
    fn into_tier(self) -> AddedTier;
}

/// An added tier. No other crate can name this type, so that no other crate can implement [`IntoTier`].
#[allow(unnameable_types)]
#[derive(Debug)]
pub enum AddedTier {
    Memory(MemoryTier),
    Cookie(CookieTier),
    Default(DefaultTier),
    Shared(SharedTier),
    Source(Box<dyn Source>),
}

impl IntoTier for MemoryTier {
    fn into_tier(self) -> AddedTier {
        AddedTier::Memory(self)
    }
}

impl IntoTier for CookieTier {
    fn into_tier(self) -> AddedTier {
        AddedTier::Cookie(self)
    }
}

impl IntoTier for DefaultTier {
    fn into_tier(self) -> AddedTier {
        AddedTier::Default(self)
    }
}

impl IntoTier for SharedTier {
    fn into_tier(self) -> AddedTier {
        AddedTier::Shared(self)
    }
}

impl<S: Source> IntoTier for S {
    fn into_tier(self) -> AddedTier {
        AddedTier::Source(Box::new(self))
    }
}

/// The added tiers by kind. The computed tiers are in the order of the chain.
pub(super) struct Tiers {
    pub(super) memory: Option<MemoryTier>,
    pub(super) cookie: CookieTier,
    pub(super) store: Option<SharedTier>,
    pub(super) computed: Vec<ComputedTier>,
}

impl SessionsBuilder {
    pub(super) fn sort_tiers(&mut self, schema: &Schema) -> Result<Tiers, BuildError> {
        let (mut memory, mut cookie, mut store) = (None, None, None::<SharedTier>);
        let mut computed: Vec<ComputedTier> = Vec::new();
        for tier in self.tiers.drain(..) {
            match tier {
                AddedTier::Memory(_) if memory.is_some() => return Err(BuildErrorKind::Chain.error(ONE_OF_EACH)),
                AddedTier::Cookie(_) if cookie.is_some() => return Err(BuildErrorKind::Chain.error(ONE_OF_EACH)),
                AddedTier::Memory(_) if cookie.is_some() => {
                    return Err(BuildErrorKind::Chain.error(
                        "the cookie tier comes before the memory tier, and would hide each change of another tab: add \
                         the memory tier before the cookie tier",
                    ));
                }
                AddedTier::Memory(tier) => memory = Some(tier),
                AddedTier::Cookie(tier) => cookie = Some(tier),
                AddedTier::Shared(tier) => {
                    if let Some(first) = &store {
                        let message = format!("`{}` and `{}` are both shared stores", first.name(), tier.name());
                        return Err(BuildErrorKind::Chain
                            .error(message + ": a chain has one shared store at most, so leave the other out"));
                    }
                    store = Some(tier);
                }
                AddedTier::Default(_) if computed.iter().any(|tier| !tier.is_source()) => {
                    return Err(
                        BuildErrorKind::Chain.error("the chain has two default tiers: put all defaults into one")
                    );
                }
                AddedTier::Default(tier) => computed.push(ComputedTier::Default(rules(tier, schema)?)),
                AddedTier::Source(source) => {
                    let name = source.name();
                    if [MEMORY, COOKIE, DEFAULT].contains(&name) || computed.iter().any(|tier| tier.name() == name) {
                        let message = format!(
                            "two tiers are named `{name}`, so traces and `value_source` could not tell the tiers \
                             apart: rename one of them"
                        );
                        return Err(BuildErrorKind::Chain.error(message));
                    }
                    computed.push(ComputedTier::Source(SourceTier::new(source, self.source_deadline)));
                }
            }
        }
        let cookie = cookie.ok_or_else(|| {
            BuildErrorKind::Chain.error("no cookie tier carries the session's id: add `.tier(CookieTier::sealed(..))`")
        })?;
        Ok(Tiers { memory, cookie, store, computed })
    }
}

const ONE_OF_EACH: &str = "a chain has one memory tier and one cookie tier at most: leave the second out";

fn rules(tier: DefaultTier, schema: &Schema) -> Result<Vec<(ValueIndex, DefaultRule)>, BuildError> {
    let numbered = |Rule { type_id, name, answer }: Rule| {
        let index = schema.index_of_type(type_id).ok_or_else(|| {
            BuildErrorKind::Value.error(format!(
                "the default tier has a default for `{name}`, which is not declared: add `.value::<..>()`"
            ))
        })?;
        match answer {
            DefaultRule::Constant(Err(flaw)) => {
                let message = format!("the default for `{name}` can't be used: `{name}` {flaw}");
                let error = BuildErrorKind::Value.error(message);
                Err(match flaw.into_source() {
                    Some(source) => error.caused_by(source),
                    None => error,
                })
            }
            answer => Ok((index, answer)),
        }
    };
    tier.rules.into_iter().map(numbered).collect()
}
