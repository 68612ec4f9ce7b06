//! One site for the tests of cookies, lifetimes and writes: its keys, its clock, a node, and others with the same keys.

use layered_session::{KeyRing, Session, SessionsBuilder, testing::ManualClock};

use crate::support::world::{Browser, Node, Theme, builder, parsed, ring, set_cookies};

pub(crate) struct Site {
    pub(crate) ring: KeyRing,
    pub(crate) clock: ManualClock,
    /// The node that remembers.
    pub(crate) node: Node,
    settings: Box<dyn Fn(SessionsBuilder) -> SessionsBuilder>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with(settings: impl Fn(SessionsBuilder) -> SessionsBuilder + 'static) -> Self {
        let (ring, clock) = (ring(), ManualClock::new());
        let node = Node::new(settings(builder(&ring, &clock)).build().unwrap());
        Self { ring, clock, node, settings: Box::new(settings) }
    }

    /// Another node, or this one after a restart: the same keys, and nothing in memory.
    pub(crate) fn cold(&self) -> Node {
        self.cold_at(&self.clock)
    }

    /// The same, where another clock goes.
    pub(crate) fn cold_at(&self, clock: &ManualClock) -> Node {
        Node::new((self.settings)(builder(&self.ring, clock)).build().unwrap())
    }

    /// A browser with a session in which the theme is dark.
    pub(crate) async fn dark(&self) -> Browser {
        let mut browser = Browser::new();
        browser.visit(&self.node, async |session| session.set(dark()).await.unwrap()).await;
        browser
    }
}

pub(crate) fn dark() -> Theme {
    Theme("dark".into())
}

impl Browser {
    /// The theme that a request of this browser reads; what the response does to cookies is left aside.
    pub(crate) async fn theme(&self, node: &Node) -> Theme {
        self.clone().visit(node, async |session| session.value::<Theme>()).await
    }

    /// Visits, and says which `Set-Cookie` came.
    pub(crate) async fn told<F, Fut>(&mut self, node: &Node, handler: F) -> Vec<String>
    where
        F: FnOnce(Session) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        set_cookies(&self.visit_seen(node, handler).await.0)
    }

    /// Reads, and says which `Set-Cookie` came.
    pub(crate) async fn read(&mut self, node: &Node) -> Vec<String> {
        self.told(node, async |session| drop(session.value::<Theme>())).await
    }

    /// Writes a theme, and says which `Set-Cookie` came.
    pub(crate) async fn write(&mut self, node: &Node, theme: &'static str) -> Vec<String> {
        self.told(node, async move |session| session.set(Theme(theme.into())).await.unwrap()).await
    }

    /// A handle that outlives its request, as a socket has one.
    pub(crate) async fn open(&mut self, node: &Node) -> Session {
        self.visit(node, async |session| session).await
    }

    /// The session's cookie.
    pub(crate) fn token(&self) -> &str {
        self.cookie("session").expect("a session's cookie")
    }

    /// A browser that holds this and nothing else under the session's name.
    pub(crate) fn bringing(token: &str) -> Self {
        let mut browser = Self::new();
        browser.set("session", token);
        browser
    }
}

/// The seconds of a `Set-Cookie`'s `Max-Age`.
pub(crate) fn max_age(set_cookie: &str) -> Option<u64> {
    parsed(set_cookie).max_age().map(|age| age.whole_seconds().try_into().expect("no negative age"))
}
