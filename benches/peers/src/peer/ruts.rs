//! `ruts`.

use std::sync::Arc;

use axum_core::extract::FromRequestParts;
use http::Request;
use ruts::{
    CookieOptions, Session, SessionLayer,
    store::{
        Ttl,
        moka::{MokaStore, MokaStoreBuilder},
    },
};
use tower::Layer;
use tower_cookies::{CookieManagerLayer, cookie::SameSite};

use super::{Call, Handler, Stack, call, tower_sessions::CAPACITY};
use crate::workload::{COOKIE, DAYS, PART, PARTS, Values, part};

const LIFE: i64 = DAYS as i64 * 86_400;

pub(super) struct Ruts(SessionLayer<MokaStore>);

impl Ruts {
    pub(super) fn new() -> Self {
        let store = MokaStoreBuilder::new().max_capacity(CAPACITY).build();
        let cookie = CookieOptions::build().name(COOKIE).same_site(SameSite::Lax).max_age(LIFE as u64).path("/");
        Self(SessionLayer::new(Arc::new(store)).with_cookie_options(cookie))
    }
}

impl Stack for Ruts {
    type Values = Session<MokaStore>;

    fn around<H: Handler>(&self, handler: H) -> Call {
        call(CookieManagerLayer::new().layer(self.0.layer(handler)))
    }
}

fn life() -> Ttl {
    Ttl::new(LIFE).expect("two days of seconds")
}

impl Values for Session<MokaStore> {
    /// The extractor is the only way to the session.
    async fn of(request: Request<()>) -> Self {
        Self::from_request_parts(&mut request.into_parts().0, &()).await.expect("a session")
    }

    async fn count(&self) -> i64 {
        self.get("count").await.expect("a read").unwrap_or_default()
    }

    async fn set_count(&mut self, count: i64) {
        self.set("count", &count, life(), None).await.expect("a write");
    }

    async fn fill(&mut self) {
        for (name, of) in PARTS.into_iter().zip(0..) {
            self.set(name, &part(of), life(), None).await.expect("a write");
        }
    }

    async fn part(&self) -> String {
        self.get(PARTS[PART]).await.expect("a read").unwrap_or_default()
    }
}
