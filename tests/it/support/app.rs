//! An application: the keys, the clock and the settings that its nodes share.

use std::time::Duration;

use layered_session::{
    CookieTier, DefaultTier, KeyRing, MemoryTier, Principal, Sessions, SessionsBuilder, testing::ManualClock,
};

use super::{
    browser::Browser,
    node::Node,
    values::{Division, Theme, User, Visits, dark},
    visits::set,
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

    /// Another node, or the first after a restart: nothing in memory.
    pub(crate) fn start(&self) -> Node {
        self.start_at(&self.clock)
    }

    /// The same by another clock.
    pub(crate) fn start_at(&self, clock: &ManualClock) -> Node {
        Node::new((self.settings)(builder(&self.ring, clock)).build().unwrap())
    }

    /// The same with more settings.
    pub(crate) fn start_with(&self, more: impl FnOnce(SessionsBuilder) -> SessionsBuilder) -> Node {
        Node::new(more((self.settings)(builder(&self.ring, &self.clock))).build().unwrap())
    }

    /// A chain under the same keys that declares nothing yet.
    pub(crate) fn chain(&self, defaults: DefaultTier) -> SessionsBuilder {
        Sessions::builder()
            .tier(MemoryTier::builder().build())
            .tier(CookieTier::sealed(self.ring.clone()).name("session").plain_http())
            .tier(defaults)
            .clock(self.clock.clone())
    }

    /// A browser with a session in which the theme is dark.
    pub(crate) async fn dark(&self) -> Browser {
        let mut browser = Browser::new();
        set(&mut browser, &self.node, dark()).await;
        browser
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.clock.advance(span);
    }
}

/// Test keys are made, never written down.
pub(crate) fn ring() -> KeyRing {
    KeyRing::generate().expect("the system has randomness")
}

/// Memory, cookie and default over a clock that moves by hand, with every value above, identified by [`User`].
pub(crate) fn builder(ring: &KeyRing, clock: &ManualClock) -> SessionsBuilder {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .tier(DefaultTier::new())
        .value::<Division>()
        .value::<Theme>()
        .value::<Visits>()
        .identify_by::<User>(|user| Some(Principal::new(&user.0)))
        .clock(clock.clone())
}
