//! Sources and stores whose answers are closures.

use std::fmt;

use layered_session::{
    SharedTier,
    tier::{Ask, Commit, Committed, Found, Lookup, OwnerId, Snapshot, Source, Store, StoreFuture, TierFuture, Touch},
};

type Read = Box<dyn for<'a> Fn(Lookup<'a>) -> TierFuture<'a, Found> + Send + Sync>;
type ReadRecord = Box<dyn Fn(OwnerId) -> Snapshot + Send + Sync>;
type Write = Box<dyn Fn(Commit<'_>) -> Committed + Send + Sync>;

pub(crate) struct ScriptedSource {
    name: &'static str,
    read: Read,
}

pub(crate) fn source<R>(name: &'static str, read: R) -> ScriptedSource
where
    R: for<'a> Fn(Lookup<'a>) -> TierFuture<'a, Found> + Send + Sync + 'static,
{
    ScriptedSource { name, read: Box::new(read) }
}

/// A source without a value.
pub(crate) fn empty_source(name: &'static str) -> ScriptedSource {
    source(name, |_| nothing())
}

/// The answer of a source without a value.
pub(crate) fn nothing<'a>() -> TierFuture<'a, Found> {
    TierFuture::ready(Ok(Found::nothing()))
}

impl fmt::Debug for ScriptedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Source for ScriptedSource {
    fn name(&self) -> &'static str {
        self.name
    }

    fn read<'a>(&'a self, lookup: Lookup<'a>) -> TierFuture<'a, Found> {
        (self.read)(lookup)
    }
}

struct ScriptedStore {
    name: &'static str,
    read: ReadRecord,
    write: Write,
}

pub(crate) fn store(
    name: &'static str,
    read: impl Fn(OwnerId) -> Snapshot + Send + Sync + 'static,
    write: impl Fn(Commit<'_>) -> Committed + Send + Sync + 'static,
) -> SharedTier {
    SharedTier::new(ScriptedStore { name, read: Box::new(read), write: Box::new(write) })
}

impl fmt::Debug for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Store for ScriptedStore {
    fn name(&self) -> &'static str {
        self.name
    }

    fn read<'a>(&'a self, asks: &'a [Ask]) -> StoreFuture<'a, Vec<Snapshot>> {
        StoreFuture::ready(Ok(asks.iter().map(|ask| (self.read)(ask.owner())).collect()))
    }

    fn commit<'a>(&'a self, commit: Commit<'a>) -> StoreFuture<'a, Committed> {
        StoreFuture::ready(Ok((self.write)(commit)))
    }

    fn touch<'a>(&'a self, _: &'a [Touch]) -> StoreFuture<'a, ()> {
        StoreFuture::ready(Ok(()))
    }
}
