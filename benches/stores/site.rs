//! The application of the bench: the values, the nodes and the browsers.

use http::{HeaderValue, Request, Response, header};
use layered_session::{
    CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, NoticeLink, Principal, RedisStore, Scope, Session,
    SessionValue, Sessions, SharedTier,
    testing::set_cookies,
    tier::{BoxError, Store},
};
use serde::{Deserialize, Serialize};
use tower::{Layer, ServiceExt, service_fn};

/// A short value that the measured writes change. The numbers have seven digits, so that all writes have equally many
/// bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Count(pub(crate) u64);

impl SessionValue for Count {
    const NAME: &'static str = "count";
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Theme(pub(crate) String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// A value of the signed-in user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quota(pub(crate) u64);

impl SessionValue for Quota {
    const NAME: &'static str = "quota";
    const SCOPE: Scope = Scope::Principal;
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct User(pub(crate) String);

impl SessionValue for User {
    const NAME: &'static str = "user";
}

/// The number before the first measured write.
pub(crate) const FIRST: u64 = 1_000_000;

/// Starts a node with a memory of its own, over a store or without a store.
pub(crate) fn node<S: Store>(keys: &KeyRing, store: Option<S>) -> Result<Sessions, BoxError> {
    let builder = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(1 << 30).build())
        .tier(CookieTier::sealed(keys.clone()));
    let builder = match store {
        Some(store) => builder.tier(SharedTier::new(store)),
        None => builder,
    };
    let builder = builder.value::<Count>().value::<Theme>().value::<Quota>();
    Ok(builder.identify_by::<User>(|user| Some(Principal::new(&user.0))).build()?)
}

pub(crate) fn redis_node(keys: &KeyRing, port: u16) -> Result<Sessions, BoxError> {
    node(keys, Some(RedisStore::new(format!("redis://127.0.0.1:{port}"))?))
}

/// Polls the notices of a node until the end of the runtime, and waits until notices arrive.
pub(crate) async fn follow(node: &Sessions) {
    tokio::spawn(node.follow());
    while node.stats().notice_link != NoticeLink::Up {
        tokio::task::yield_now().await;
    }
}

/// The work of a request's handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Sets the two short values.
    Begin,
    /// Sets the two short values, the first of them longer than 64 bytes.
    BeginLong,
    Nothing,
    Read,
    Set,
    Update,
    SignIn,
    /// Sets a value of the signed-in user.
    SetOfUser,
    Renew,
    SignOut,
}

async fn perform(session: &Session, act: Act) -> Result<(), BoxError> {
    match act {
        Act::Begin => session.batch().set(Theme("dark".into())).set(Count(FIRST)).commit().await?,
        Act::BeginLong => session.batch().set(Theme("dark ".repeat(20))).set(Count(FIRST)).commit().await?,
        Act::Nothing => {}
        Act::Read => read(session),
        Act::Set => session.set(Count(FIRST + 1)).await?,
        Act::Update => drop(session.update(|count: &mut Count| count.0 += 1).await?),
        Act::SignIn => session.sign_in(User("ada".into())).await?,
        Act::SetOfUser => session.set(Quota(3)).await?,
        Act::Renew => session.renew().await?,
        Act::SignOut => session.sign_out().await?,
    }
    Ok(())
}

/// Reads three values: two of the session, and one of the user if a user is signed in.
pub(crate) fn read(session: &Session) {
    std::hint::black_box((session.get::<Count>(), session.get::<Theme>(), session.get::<Quota>()));
}

/// A browser that keeps the session's cookie.
#[derive(Clone, Debug, Default)]
pub(crate) struct Browser {
    cookie: Option<HeaderValue>,
}

impl Browser {
    /// A browser after visits for these acts.
    pub(crate) async fn after(node: &Sessions, acts: &[Act]) -> Result<Self, BoxError> {
        let mut browser = Self::default();
        for &act in acts {
            browser.visit(node, act).await?;
        }
        Ok(browser)
    }

    pub(crate) fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(header::COOKIE, cookie.clone());
        }
        request
    }

    /// Sends a request to a node, keeps the response's cookie, and returns a handle of the session.
    pub(crate) async fn visit(&mut self, node: &Sessions, act: Act) -> Result<Session, BoxError> {
        let service = service_fn(async |request: Request<()>| {
            let session = Session::load(request.extensions()).await?;
            perform(&session, act).await?;
            Ok::<_, BoxError>(Response::new(session))
        });
        let layer = LayeredSessionLayer::new(node.clone());
        let response = layer.layer(service).oneshot(self.request()).await?;
        if let Some(cookie) = set_cookies(response.headers()).first() {
            self.cookie = Some(cookie.stripped().to_string().parse()?);
        }
        Ok(response.into_body())
    }
}
