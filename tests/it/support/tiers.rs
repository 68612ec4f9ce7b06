//! Tiers that follow a script.

use layered_session::tier::{Commit, Committed, Found, Lookup, Role, Tier, TierFuture};

/// A store in which somebody else was always faster, and what they wrote.
#[derive(Debug)]
pub(crate) struct Faster(pub(crate) fn() -> Found);

impl Tier for Faster {
    fn name(&self) -> &'static str {
        "faster"
    }

    fn role(&self) -> Role {
        Role::Store
    }

    fn read<'a>(&'a self, _: Lookup<'a>) -> TierFuture<'a, Found> {
        TierFuture::ready(Ok(Found::nothing()))
    }

    fn write<'a>(&'a self, _: Commit<'a>) -> TierFuture<'a, Committed> {
        TierFuture::ready(Ok(Committed::Outdated((self.0)())))
    }
}
