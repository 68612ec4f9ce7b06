//! Three live views inside one WebSocket, and a division that stays: in memory for every other page and socket, and in
//! the browser's sealed cookie for the next visit and the next process.
//!
//! `cargo run --example division`, then open the address that it prints. `examples/README.md` names the environment
//! variables.

mod forms;
mod live;
mod page;
mod sample;
#[path = "../site/site.rs"]
mod site;
#[path = "../site/store.rs"]
mod store;
mod values;
mod views;

use std::time::Duration;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{any, get, post},
};
use layered_session::{
    BuildError, CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, SessionWriteback, Sessions,
    tier::BoxError,
};
use tokio::sync::mpsc;

use crate::values::{CurrentUser, Division};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const FORM_BYTES: usize = 4 << 10;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let sessions = sessions(site::keys::key_ring("division")?)?;
    // Each socket holds a clone of the sender, so the receiver learns of the last socket's end.
    let (open, mut sockets) = mpsc::channel(1);
    site::serve::serve(app(&sessions, open)?, sessions, async move { sockets.recv().await }).await
}

/// Builds the sessions. The error of a wrong configuration names the remedy.
fn sessions(keys: KeyRing) -> Result<Sessions, BoxError> {
    let chain = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(64 << 20).build())
        // Plain http is for loopback alone: behind TLS, `sealed(keys)` alone gives `__Host-session` with `Secure`.
        .tier(CookieTier::sealed(keys).name("session").plain_http())
        .value::<CurrentUser>()
        .value::<Division>()
        .identify_by::<CurrentUser>(|user| Some(Principal::new(&user.name)))
        .idle(idle())
        .absolute(365 * DAY);
    Ok(store::shared(chain)?.build()?)
}

/// The idle lifetime: `IDLE_SECONDS`, for a quick look at the end of a session, or 31 days.
fn idle() -> Duration {
    let seconds = std::env::var("IDLE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(31 * DAY, Duration::from_secs)
}

fn app(sessions: &Sessions, open: mpsc::Sender<()>) -> Result<Router, BuildError> {
    Ok(Router::new()
        .route("/", get(page::home))
        .route("/projects", get(page::projects))
        .route("/costs", get(page::costs))
        .route("/live", any(live::upgrade))
        // Under `SameSite=Lax` the browser sends no cookie with another site's form, and such a form can't sign a user
        // in.
        .route("/login", post(forms::login))
        .route("/logout", post(forms::logout))
        .route("/division", get(forms::show).post(forms::switch).delete(forms::forget))
        .route("/division-then-fail", post(forms::switch_then_fail))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(open)
        .nest_service("/store_session", SessionWriteback::new(sessions).allow::<Division>()?)
        .merge(page::assets())
        .layer(LayeredSessionLayer::new(sessions.clone()))
        // Added after the layer, so that these routes wait for no session.
        .route("/healthz", get(async || "ok")))
}
