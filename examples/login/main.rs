//! A login: passwords, "remember me", messages that show once, sign-out here and in all browsers, and forms that other
//! sites can't send.
//!
//! `cargo run --example login`, then open the address that it prints. The pages need no script.

mod accounts;
mod forms;
mod pages;
#[path = "../site/site.rs"]
mod site;
mod values;

use std::{future, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use layered_session::{
    BuildError, CookieTier, KeyRing, LayeredSessionLayer, Lifetime, MemoryTier, Principal, RequireLayer, Sessions,
    tier::BoxError,
};
use tower_http::csrf::CsrfLayer;

use crate::{
    accounts::Accounts,
    site::{keys, serve},
    values::{Flash, User},
};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const FORM_BYTES: usize = 4 << 10;

/// The days that a browser with "remember me" may stay away.
const REMEMBERED_DAYS: u32 = 31;

#[derive(Clone, Debug)]
struct AppState {
    accounts: Arc<Accounts>,
    remembered: Lifetime,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let sessions = sessions(keys::key_ring("login")?)?;
    let state = AppState {
        accounts: Arc::new(Accounts::of_samples()?),
        remembered: Lifetime::new(REMEMBERED_DAYS * DAY, 365 * DAY)?,
    };
    serve::serve(app(&sessions, state)?, sessions, future::ready(())).await
}

fn sessions(keys: KeyRing) -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(64 << 20).build())
        // Plain http is for loopback alone: behind TLS, `sealed(keys)` alone gives `__Host-session` with `Secure`.
        .tier(CookieTier::sealed(keys).name("session").plain_http())
        .value::<Flash>()
        .identify_by::<User>(|user| Some(Principal::new(&user.name)))
        // The lifetime without "remember me".
        .until_browser_closes()
        .idle(HOUR)
        .absolute(12 * HOUR)
        .build()
}

fn app(sessions: &Sessions, state: AppState) -> Result<Router, BuildError> {
    Ok(Router::new()
        .route("/account", get(pages::account))
        .route("/logout-everywhere", post(forms::logout_everywhere))
        // Guards the routes above: a visitor gets the login page as the answer.
        .route_layer(RequireLayer::<User>::new().redirect("/login")?)
        .route("/", get(pages::home))
        .route("/login", get(pages::login).post(forms::login))
        .route("/logout", post(forms::logout))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(state)
        .merge(pages::assets())
        .layer(LayeredSessionLayer::new(sessions.clone()))
        // Outermost, so that a form of another site reaches neither the session nor a password check. Behind a proxy
        // that rewrites `Host`, the layer needs `add_trusted_origin`.
        .layer(CsrfLayer::new().with_rejection_response(pages::refused)))
}
