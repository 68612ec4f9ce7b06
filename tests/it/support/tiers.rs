//! Tiers whose answers are closures.

use std::fmt;

use layered_session::tier::{Commit, Committed, Found, Lookup, Role, Tier, TierFuture};

type Read = Box<dyn for<'a> Fn(Lookup<'a>) -> TierFuture<'a, Found> + Send + Sync>;
type Write = Box<dyn for<'a> Fn(Commit<'a>) -> TierFuture<'a, Committed> + Send + Sync>;

pub(crate) struct Scripted {
    name: &'static str,
    read: Read,
    write: Option<Write>,
}

/// A computed tier.
pub(crate) fn source<R>(name: &'static str, read: R) -> Scripted
where
    R: for<'a> Fn(Lookup<'a>) -> TierFuture<'a, Found> + Send + Sync + 'static,
{
    Scripted { name, read: Box::new(read), write: None }
}

/// A computed tier that has no value.
pub(crate) fn empty_source(name: &'static str) -> Scripted {
    source(name, |_| nothing())
}

/// A shared store.
pub(crate) fn store<R, W>(name: &'static str, read: R, write: W) -> Scripted
where
    R: for<'a> Fn(Lookup<'a>) -> TierFuture<'a, Found> + Send + Sync + 'static,
    W: for<'a> Fn(Commit<'a>) -> TierFuture<'a, Committed> + Send + Sync + 'static,
{
    Scripted { write: Some(Box::new(write)), ..source(name, read) }
}

/// The answer of a tier that has no value.
pub(crate) fn nothing<'a>() -> TierFuture<'a, Found> {
    TierFuture::ready(Ok(Found::nothing()))
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Tier for Scripted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn role(&self) -> Role {
        if self.write.is_some() { Role::Store } else { Role::Source }
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        (self.read)(lookup)
    }

    fn write<'a>(&'a self, commit: Commit<'a>) -> TierFuture<'a, Committed> {
        match &self.write {
            Some(write) => write(commit),
            None => TierFuture::ready(Ok(Committed::ReadOnly)),
        }
    }
}
