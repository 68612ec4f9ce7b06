//! Three live views inside one WebSocket, and a division that stays: in memory for every other page and socket, and in
//! the browser's sealed cookie for the next visit and the next process.
//!
//! `cargo run --example division`, then open the address that it prints. `examples/README.md` names the environment
//! variables.

mod chain;
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

use axum::{
    Router,
    routing::{any, get},
};
use layered_session::{BuildError, LayeredSessionLayer, Session, SessionWriteback, Sessions, tier::BoxError};
use tokio::sync::mpsc;

use crate::{values::Division, views::View};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let sessions = chain::chain(site::keys::key_ring("division")?)?.build()?;
    // Each socket holds a clone of the sender, so the receiver learns of the last socket's end.
    let (open, mut sockets) = mpsc::channel(1);
    site::serve::serve(app(&sessions, open)?, sessions, async move { sockets.recv().await }).await
}

fn app(sessions: &Sessions, open: mpsc::Sender<()>) -> Result<Router, BuildError> {
    let page = |view| get(async move |session: Session| page::page(&session, view, ""));
    Ok(Router::new()
        .route("/live", any(live::upgrade))
        .with_state(open)
        .route("/", page(View::Home))
        .route("/projects", page(View::Projects))
        .route("/costs", page(View::Costs))
        .merge(forms::routes())
        .nest_service("/store_session", SessionWriteback::new(sessions).allow::<Division>()?)
        .merge(page::assets())
        .layer(LayeredSessionLayer::new(sessions.clone()))
        // Added after the layer, so that these routes wait for no session.
        .route("/healthz", get(async || "ok")))
}
