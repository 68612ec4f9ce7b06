//! `tower-sessions`: the newest version with its memory store, and the previous version, for which the other stores are
//! made.

use http::Request;
use tower::Layer;
use tower_cookies::cookie::{SameSite, time::Duration};
use tower_sessions as newest;
use tower_sessions_14 as previous;
use tower_sessions_cookie_store::{CookieSessionConfig, CookieSessionManagerLayer, Key, PrivateCookie};
use tower_sessions_moka_store::MokaStore;

use super::{Call, Handler, Stack, call};
use crate::workload::{COOKIE, DAYS, PART, PARTS, Values, part};

const LIFE: Duration = Duration::days(DAYS as i64);

/// More than the number of all measured sessions, so that the store evicts no session.
pub(super) const CAPACITY: u64 = 10_000_000;

pub(super) fn memory() -> newest::SessionManagerLayer<newest::MemoryStore> {
    newest::SessionManagerLayer::new(newest::MemoryStore::default())
        .with_name(COOKIE)
        .with_same_site(SameSite::Lax)
        .with_expiry(newest::Expiry::OnInactivity(LIFE))
}

pub(super) fn moka() -> previous::SessionManagerLayer<MokaStore> {
    previous::SessionManagerLayer::new(MokaStore::new(Some(CAPACITY)))
        .with_name(COOKIE)
        .with_same_site(SameSite::Lax)
        .with_expiry(previous::Expiry::OnInactivity(LIFE))
}

pub(super) fn cookie() -> CookieSessionManagerLayer<PrivateCookie> {
    let config = CookieSessionConfig::default()
        .with_name(COOKIE)
        .with_same_site(SameSite::Lax)
        .with_expiry(previous::Expiry::OnInactivity(LIFE));
    CookieSessionManagerLayer::private(Key::generate()).with_config(config)
}

impl Stack for newest::SessionManagerLayer<newest::MemoryStore> {
    type Values = newest::Session;

    fn around<H: Handler>(&self, handler: H) -> Call {
        call(self.layer(handler))
    }
}

impl Stack for previous::SessionManagerLayer<MokaStore> {
    type Values = previous::Session;

    fn around<H: Handler>(&self, handler: H) -> Call {
        call(self.layer(handler))
    }
}

impl Stack for CookieSessionManagerLayer<PrivateCookie> {
    type Values = previous::Session;

    fn around<H: Handler>(&self, handler: H) -> Call {
        call(self.layer(handler))
    }
}

impl Values for newest::Session {
    async fn of(request: Request<()>) -> Self {
        request.extensions().get::<Self>().cloned().expect("a session")
    }

    async fn count(&self) -> i64 {
        self.get("count").await.expect("a read").unwrap_or_default()
    }

    async fn set_count(&mut self, count: i64) {
        self.insert("count", count).await.expect("a write");
    }

    async fn fill(&mut self) {
        for (name, of) in PARTS.into_iter().zip(0..) {
            self.insert(name, part(of)).await.expect("a write");
        }
    }

    async fn part(&self) -> String {
        self.get(PARTS[PART]).await.expect("a read").unwrap_or_default()
    }
}

/// The same code as for the newest version, for the type of the previous version.
impl Values for previous::Session {
    async fn of(request: Request<()>) -> Self {
        request.extensions().get::<Self>().cloned().expect("a session")
    }

    async fn count(&self) -> i64 {
        self.get("count").await.expect("a read").unwrap_or_default()
    }

    async fn set_count(&mut self, count: i64) {
        self.insert("count", count).await.expect("a write");
    }

    async fn fill(&mut self) {
        for (name, of) in PARTS.into_iter().zip(0..) {
            self.insert(name, part(of)).await.expect("a write");
        }
    }

    async fn part(&self) -> String {
        self.get(PARTS[PART]).await.expect("a read").unwrap_or_default()
    }
}
