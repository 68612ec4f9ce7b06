//! `axum_session`, and the private jar of `axum-extra`.

use std::sync::LazyLock;

use axum_core::response::IntoResponse;
use axum_extra::extract::cookie::{Cookie, Key, PrivateCookieJar};
use axum_session::{SessionConfig, SessionLayer, SessionNullPool, SessionStore};
use http::{Request, Response};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tower::Layer;
use tower_cookies::cookie::{SameSite, time::Duration};

use super::{Call, Handler, Stack, call, finish};
use crate::workload::{COOKIE, DAYS, Number, PART, PARTS, Values, part, typed};

const LIFE: Duration = Duration::days(DAYS as i64);

pub(super) struct Session(SessionLayer<SessionNullPool>);

impl Session {
    /// Uses the default mode, which makes a session for every request without a session.
    pub(super) fn new() -> Self {
        let config = SessionConfig::default()
            .with_session_name(COOKIE)
            .with_secure(true)
            .with_lifetime(LIFE)
            .with_memory_lifetime(LIFE)
            .with_max_age(Some(LIFE));
        let store = finish(SessionStore::new(None, config)).expect("a store");
        Self(SessionLayer::new(store))
    }
}

/// The layer spawns a task that sweeps once an hour. This runtime never polls the task, so the task disturbs no
/// measurement.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

impl Stack for Session {
    type Values = axum_session::Session<SessionNullPool>;

    fn around<H: Handler>(&self, handler: H) -> Call {
        let _guard = RUNTIME.enter();
        call(self.0.layer(handler))
    }
}

impl Values for axum_session::Session<SessionNullPool> {
    async fn of(request: Request<()>) -> Self {
        request.extensions().get::<Self>().cloned().expect("a session")
    }

    async fn count(&self) -> i64 {
        self.get("count").unwrap_or_default()
    }

    async fn set_count(&mut self, count: i64) {
        self.set("count", count);
    }

    async fn fill(&mut self) {
        for (name, of) in PARTS.into_iter().zip(0..) {
            self.set(name, part(of));
        }
    }

    async fn part(&self) -> String {
        self.get(PARTS[PART]).unwrap_or_default()
    }
}

/// Uses no layer: the handler opens the cookie, and a single cookie holds all values.
pub(super) struct Jar;

/// The key, as the application's state.
static KEY: LazyLock<Key> = LazyLock::new(Key::generate);

impl Stack for Jar {
    type Values = Open;

    fn around<H: Handler>(&self, handler: H) -> Call {
        call(handler)
    }
}

pub(super) struct Open(Option<PrivateCookieJar>);

impl Open {
    fn cookie(&self) -> Option<Cookie<'static>> {
        self.0.as_ref()?.get(COOKIE)
    }

    fn set(&mut self, value: impl Serialize) {
        let json = serde_json::to_string(&value).expect("JSON");
        let cookie = Cookie::build((COOKIE, json)).path("/").secure(true).http_only(true);
        let cookie = cookie.same_site(SameSite::Lax).max_age(LIFE);
        self.0 = self.0.take().map(|jar| jar.add(cookie));
    }
}

impl Values for Open {
    async fn of(request: Request<()>) -> Self {
        Self(Some(PrivateCookieJar::from_headers(request.headers(), KEY.clone())))
    }

    async fn count(&self) -> i64 {
        self.cookie().map_or(0, |cookie| serde_json::from_str(cookie.value()).expect("an integer"))
    }

    async fn set_count(&mut self, count: i64) {
        self.set(count);
    }

    async fn fill(&mut self) {
        self.set(std::array::from_fn::<_, { PARTS.len() }, _>(part));
    }

    async fn part(&self) -> String {
        let Some(cookie) = self.cookie() else { return String::new() };
        let mut parts: [String; PARTS.len()] = serde_json::from_str(cookie.value()).expect("eight strings");
        std::mem::take(&mut parts[PART])
    }

    fn respond(self, number: i64) -> Response<Number> {
        let mut response = (self.0, ()).into_response().map(|_| Number(number));
        typed(&mut response);
        response
    }
}
