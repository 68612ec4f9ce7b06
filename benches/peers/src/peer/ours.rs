//! This crate.

use http::Request;
use layered_session::{
    CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Placement, Session, SessionValue, Sessions,
    SessionsBuilder,
};
use serde::{Deserialize, Serialize};
use tower::Layer;

use super::{Call, Handler, Stack, call};
use crate::workload::{PART, PARTS, Values, part};

/// The integer, in the cookie too or in memory alone.
#[derive(Default, Serialize, Deserialize)]
pub struct Count<const VOLATILE: bool>(i64);

impl<const VOLATILE: bool> SessionValue for Count<VOLATILE> {
    const NAME: &'static str = "count";
    const PLACEMENT: Placement = if VOLATILE { Placement::Volatile } else { Placement::Everywhere };
}

#[derive(Default, Serialize, Deserialize)]
struct Part<const OF: usize>(String);

impl<const OF: usize> SessionValue for Part<OF> {
    const NAME: &'static str = PARTS[OF];
}

pub struct Ours<const VOLATILE: bool>(pub LayeredSessionLayer);

impl<const VOLATILE: bool> Ours<VOLATILE> {
    pub(super) fn with_memory() -> Self {
        Self::of(Self::builder().tier(memory()))
    }

    pub(super) fn of_cookie_alone() -> Self {
        Self::of(Self::builder())
    }

    fn of(builder: SessionsBuilder) -> Self {
        Self(LayeredSessionLayer::new(chained(builder)))
    }

    pub fn builder() -> SessionsBuilder {
        Sessions::builder()
            .value::<Count<VOLATILE>>()
            .value::<Part<0>>()
            .value::<Part<1>>()
            .value::<Part<2>>()
            .value::<Part<3>>()
            .value::<Part<4>>()
            .value::<Part<5>>()
            .value::<Part<6>>()
            .value::<Part<7>>()
    }
}

/// A memory tier with room for all measured sessions.
pub fn memory() -> MemoryTier {
    MemoryTier::builder().max_bytes(8 << 30).build()
}

/// Adds the tier below memory, if there is any.
pub fn chained(builder: SessionsBuilder) -> Sessions {
    let keys = KeyRing::generate().expect("random bytes");
    builder.tier(CookieTier::sealed(keys)).tier(DefaultTier::new()).build().expect("a configuration that works")
}

impl<const VOLATILE: bool> Stack for Ours<VOLATILE> {
    type Values = Handle<VOLATILE>;

    fn around<H: Handler>(&self, handler: H) -> Call {
        call(self.0.layer(handler))
    }
}

pub struct Handle<const VOLATILE: bool>(Session);

impl<const VOLATILE: bool> Values for Handle<VOLATILE> {
    async fn of(request: Request<()>) -> Self {
        Self(Session::load(request.extensions()).await.expect("a session"))
    }

    async fn count(&self) -> i64 {
        self.0.value::<Count<VOLATILE>>().0
    }

    async fn set_count(&mut self, count: i64) {
        self.0.set(Count::<VOLATILE>(count)).await.expect("a write");
    }

    async fn fill(&mut self) {
        let batch = self.0.batch().set(Part::<0>(part(0))).set(Part::<1>(part(1))).set(Part::<2>(part(2)));
        let batch = batch.set(Part::<3>(part(3))).set(Part::<4>(part(4))).set(Part::<5>(part(5)));
        batch.set(Part::<6>(part(6))).set(Part::<7>(part(7))).commit().await.expect("a write");
    }

    async fn part(&self) -> String {
        self.0.value::<Part<PART>>().0
    }
}
