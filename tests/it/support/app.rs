//! An application: the keys, the clock and the settings that its nodes share.

use std::time::Duration;

use layered_session::{
    CookieTier, DefaultTier, KeyRing, MemoryTier, Principal, Sessions, SessionsBuilder, testing::ManualClock,
};

use super::{
    browser::Browser,
    node::Node,
    values::{Division, Theme, User, Visits, dark},
    visits::first_write,
};

type Settings = Box<dyn Fn(SessionsBuilder) -> SessionsBuilder + Send + Sync>;

pub(crate) struct App {
    pub(crate) ring: KeyRing,
    pub(crate) clock: ManualClock,
    /// The first node.
    pub(crate) node: Node,
    settings: Settings,
}

impl App {
    pub(crate) fn new() -> Self {
        Self::with(|sessions| sessions)
    }

    /// An application whose nodes all have these settings.
    pub(crate) fn with(settings: impl Fn(SessionsBuilder) -> SessionsBuilder + Send + Sync + 'static) -> Self {
        Self::of(ring(), Box::new(settings))
    }

    pub(crate) fn with_keys(ring: KeyRing) -> Self {
        Self::of(ring, Box::new(|sessions| sessions))
    }

    fn of(ring: KeyRing, settings: Settings) -> Self {
        let clock = ManualClock::new();
        let node = Node::new(settings(builder(&ring, &clock)).build().unwrap());
        Self { ring, clock, node, settings }
    }

    /// A new node with an empty memory: another node, or the first node after a restart.
    pub(crate) fn start(&self) -> Node {
        self.start_at(&self.clock)
    }

    /// A new node with another clock.
    pub(crate) fn start_at(&self, clock: &ManualClock) -> Node {
        Node::new((self.settings)(builder(&self.ring, clock)).build().unwrap())
    }

    /// A new node with more settings.
    pub(crate) fn start_with(&self, more: impl FnOnce(SessionsBuilder) -> SessionsBuilder) -> Node {
        Node::new(more((self.settings)(builder(&self.ring, &self.clock))).build().unwrap())
    }

    /// A chain under the same keys that declares no value.
    pub(crate) fn chain(&self, defaults: DefaultTier) -> SessionsBuilder {
        chain(memory(), cookie(&self.ring), &self.clock).tier(defaults)
    }

    /// A browser with a session in which the theme is dark.
    pub(crate) async fn dark(&self) -> Browser {
        first_write(&self.node, dark()).await
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.clock.advance(span);
    }
}

/// Random keys: the source contains no test key.
pub(crate) fn ring() -> KeyRing {
    KeyRing::generate().expect("the system has randomness")
}

pub(crate) fn memory() -> MemoryTier {
    MemoryTier::builder().build()
}

pub(crate) fn memory_of(max_bytes: usize) -> MemoryTier {
    MemoryTier::builder().max_bytes(max_bytes).build()
}

/// The cookie `session`, without `Secure`.
pub(crate) fn cookie(ring: &KeyRing) -> CookieTier {
    CookieTier::sealed(ring.clone()).name("session").plain_http()
}

/// A chain of these tiers that declares no value.
pub(crate) fn chain(memory: MemoryTier, cookie: CookieTier, clock: &ManualClock) -> SessionsBuilder {
    Sessions::builder().tier(memory).tier(cookie).clock(clock.clone())
}

/// A chain without memory that declares no value.
pub(crate) fn bare(ring: &KeyRing, clock: &ManualClock) -> SessionsBuilder {
    Sessions::builder().tier(cookie(ring)).clock(clock.clone())
}

/// A chain of these tiers with the values of every application, identified by [`User`].
pub(crate) fn declared(memory: MemoryTier, cookie: CookieTier, clock: &ManualClock) -> SessionsBuilder {
    let chain = chain(memory, cookie, clock).value::<Division>().value::<Theme>().value::<Visits>();
    chain.identify_by::<User>(named)
}

/// The chain of every application: memory, cookie and default, with a manual clock.
pub(crate) fn builder(ring: &KeyRing, clock: &ManualClock) -> SessionsBuilder {
    declared(memory(), cookie(ring), clock).tier(DefaultTier::new())
}

/// The principal of a user.
pub(crate) fn named(user: &User) -> Option<Principal> {
    Some(Principal::new(&user.0))
}
