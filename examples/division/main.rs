//! Three live views inside one WebSocket, and a division that sticks: in memory for every other page and socket, in
//! the browser's sealed cookie for the next visit and the next process.
//!
//! `cargo run --example division --features axum`, then open the address that it prints. `PORT` (3000) and
//! `SESSION_KEYS` (comma-separated hex keys of 32 bytes, the first seals) are read from the environment.

mod forms;
mod keys;
mod live;
mod page;
mod sample;
mod values;
mod views;

use std::{env, io, net::Ipv4Addr, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{any, get, post},
};
use layered_session::{
    BoxError, BuildError, CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, SessionWriteback, Sessions,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing_subscriber::EnvFilter;

use crate::values::{CurrentUser, Division};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long open requests and sockets may take to end.
const GRACE: Duration = Duration::from_secs(3);
const FORM_BYTES: usize = 4 << 10;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(io::stderr).init();
    let port = match env::var("PORT") {
        Ok(port) => port.parse::<u16>().map_err(|error| format!("PORT={port}: {error}"))?,
        Err(_) => 3000,
    };
    let sessions = sessions(keys::key_ring()?)?;
    // Each socket holds a clone of the sender, so the receiver hears of the last one's end.
    let (open, mut sockets) = mpsc::channel(1);
    let app = app(&sessions, open)?;

    let terminated = termination()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        stopped.await.ok();
    });
    let server = tokio::spawn(server.into_future());

    terminated.await;
    // Sockets would otherwise stay until their browsers left.
    sessions.shutdown();
    drop(stop);
    if timeout(GRACE, async { (server.await, sockets.recv().await) }).await.is_err() {
        tracing::warn!("some connections had to be cut");
    }
    Ok(())
}

/// Every misconfiguration is found here, with its remedy in the message.
fn sessions(keys: KeyRing) -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(64 << 20).build())
        // For http on loopback only: behind TLS, `sealed(keys)` alone gives `__Host-session` with `Secure`.
        .tier(CookieTier::sealed(keys).name("session").plain_http())
        .value::<CurrentUser>()
        .value::<Division>()
        .identify_by::<CurrentUser>(|user| Some(Principal::new(&user.name)))
        .idle(31 * DAY)
        .absolute(365 * DAY)
        .build()
}

fn app(sessions: &Sessions, open: mpsc::Sender<()>) -> Result<Router, BuildError> {
    Ok(Router::new()
        .route("/", get(page::home))
        .route("/projects", get(page::projects))
        .route("/costs", get(page::costs))
        .route("/live", any(live::upgrade))
        // `SameSite=Lax` keeps the cookie out of other sites' forms; an application behind a real sign-in adds a layer
        // such as tower-http's `csrf`, so that they can't sign anybody in either.
        .route("/login", post(forms::login))
        .route("/logout", post(forms::logout))
        .route("/division", get(forms::show).post(forms::switch).delete(forms::forget))
        .route("/division-then-fail", post(forms::switch_then_fail))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(open)
        .nest_service("/store_session", SessionWriteback::new(sessions).allow::<Division>()?)
        .merge(page::assets())
        .layer(LayeredSessionLayer::new(sessions.clone()))
        // Added after the layer, so that it has no session to wait for.
        .route("/healthz", get(async || "ok")))
}

/// Resolves at the first SIGTERM or Ctrl-C. They are caught from this call on, not from the first poll.
#[cfg(unix)]
fn termination() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn termination() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        tokio::signal::ctrl_c().await.ok();
    })
}
