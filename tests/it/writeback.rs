//! The writeback: the posts of a page, and the effects of the posts.
//!
//! - `requests`: the requests that the writeback answers or refuses
//! - `body`: the length, the time and the JSON of a body
//! - `values`: the names and values that a page may write
//! - `session`: the session of a post, and the tokens that a page brings

mod body;
mod requests;
mod session;
mod values;

use bytes::Bytes;
use http::{Request, header};
use http_body::Body;
use http_body_util::Full;
use layered_session::{
    KeyRing, Placement, RelayToken, Scope, Session, SessionValue, SessionWriteback, Sessions, testing::ManualClock,
    tier::BoxError,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Answer, Browser, Division, Node, Theme, User, builder, ring};

const KIB: usize = 1 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Level(i64);

impl SessionValue for Level {
    const NAME: &'static str = "level";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ratio(f64);

impl SessionValue for Ratio {
    const NAME: &'static str = "ratio";
}

/// A user value, short or long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note(String);

impl SessionValue for Note {
    const NAME: &'static str = "note";
    const SCOPE: Scope = Scope::Principal;
}

/// A value that the cookie does not carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Draft(Vec<Paragraph>);

impl SessionValue for Draft {
    const NAME: &'static str = "draft";
    const PLACEMENT: Placement = Placement::Volatile;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Paragraph {
    text: String,
    alignment: String,
    indentation: u32,
}

/// A page in a browser. The page posts, and reads back through the handle of another request.
struct Page {
    node: Node,
    clock: ManualClock,
    ring: KeyRing,
    browser: Browser,
}

impl Page {
    fn new() -> Self {
        let (ring, clock) = (ring(), ManualClock::new());
        Self { node: Self::start(&ring, &clock), clock, ring, browser: Browser::new() }
    }

    fn start(ring: &KeyRing, clock: &ManualClock) -> Node {
        let values = builder(ring, clock).value::<Level>().value::<Ratio>().value::<Note>().value::<Draft>();
        Node::new(values.public_origins(["https://public.example"]).build().unwrap())
    }

    async fn signed_in() -> Self {
        let mut page = Self::new();
        page.browser.visit(&page.node, async |s| s.sign_in(User("ada".into())).await.unwrap()).await;
        page
    }

    /// Sends a request, and leaves the browser's cookies unchanged.
    async fn send<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        self.node.writeback(allowing(&self.node.sessions), request).await
    }

    async fn post(&mut self, body: impl Into<Bytes>) -> Answer {
        let answer = self.send(self.browser.post_json(body)).await;
        self.browser.take(&answer.headers);
        answer
    }

    async fn read<V: SessionValue>(&mut self) -> Option<V> {
        self.browser.visit(&self.node, async |session| session.get::<V>()).await
    }

    /// Returns a handle that outlives its request, like a socket's.
    async fn socket(&mut self) -> Session {
        self.browser.visit(&self.node, async |session| session).await
    }

    async fn relay(&mut self, theme: &str) -> RelayToken {
        let socket = self.socket().await;
        socket.set(Theme(theme.into())).await.unwrap();
        socket.relay().expect("the browser is behind")
    }
}

/// A writeback for all values except `visits` and the identity value.
fn allowing(sessions: &Sessions) -> SessionWriteback {
    let writeback = SessionWriteback::new(sessions).allow::<Theme>().unwrap().allow::<Division>().unwrap();
    let writeback = writeback.allow::<Level>().unwrap().allow::<Ratio>().unwrap();
    writeback.allow::<Note>().unwrap().allow::<Draft>().unwrap()
}

/// Sends a request to the writeback alone, with no layer around.
async fn send_bare(writeback: SessionWriteback, request: Request<Full<Bytes>>) -> Answer {
    Answer::of(writeback.oneshot(request).await.unwrap()).await
}

fn assert_refused(answer: &Answer, status: u16, code: &str, why: impl std::fmt::Debug) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{why:?}");
    assert!(!answer.json()["message"].as_str().unwrap().is_empty(), "{why:?}");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    assert!(answer.set_cookies().is_empty(), "{why:?}");
}

fn relaying(token: impl std::fmt::Display) -> String {
    json!({ "$relay": token.to_string() }).to_string()
}
