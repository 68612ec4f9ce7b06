//! A server on a loopback port that stops on the signals of a deploy.

use std::{env, io, net::Ipv4Addr, time::Duration};

use axum::Router;
use layered_session::{Sessions, tier::BoxError};
use tokio::{net::TcpListener, sync::oneshot, time::timeout};
use tracing_subscriber::EnvFilter;

/// The time that open requests, streams and sockets have to end.
const GRACE: Duration = Duration::from_secs(3);

/// Serves on `PORT`, or 3000, until the first SIGTERM or Ctrl-C, and waits a moment for connections and for `ended`.
pub(crate) async fn serve(app: Router, sessions: Sessions, ended: impl Future) -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(io::stderr).init();
    let port = match env::var("PORT") {
        Ok(port) => port.parse::<u16>().map_err(|error| format!("PORT={port}: {error}"))?,
        Err(_) => 3000,
    };
    let terminated = termination()?;
    // With a shared store: follows the writes of the other nodes. Both tasks end with the shutdown.
    tokio::spawn(sessions.follow());
    tokio::spawn(sessions.sweeper());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        stopped.await.ok();
    });
    let server = tokio::spawn(server.into_future());

    terminated.await;
    // Streams and sockets would otherwise stay until their browsers left.
    sessions.shutdown();
    drop(stop);
    if timeout(GRACE, async { (server.await, ended.await) }).await.is_err() {
        tracing::warn!("some connections were still open at the end");
    }
    Ok(())
}

/// Resolves at the first SIGTERM or Ctrl-C. The signals are caught from this call on, not from the first poll.
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
