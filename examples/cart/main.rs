//! A cart that stays the same in every open page of a browser: plain HTTP writes the cart, server-sent events update
//! the pages, and the sealed cookie keeps the cart over a restart.
//!
//! `cargo run --example cart`, then open the address that it prints, twice.

mod page;
mod shop;
#[path = "../site/site.rs"]
mod site;
#[path = "../site/store.rs"]
mod store;

use std::time::Duration;

use axum::{
    Json, Router,
    extract::Path,
    http::header,
    response::{IntoResponse, Redirect},
    routing::{delete, get, post},
};
use layered_session::{
    BuildError, CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionWriteback, Sessions, WriteError,
    tier::BoxError,
};
use serde::Deserialize;

use crate::shop::Cart;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let sessions = sessions(site::keys::key_ring("cart")?)?;
    site::serve::serve(app(&sessions)?, sessions, std::future::ready(())).await
}

fn sessions(keys: KeyRing) -> Result<Sessions, BoxError> {
    let chain = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(64 << 20).build())
        // Plain http is for loopback alone: behind TLS, `sealed(keys)` alone gives `__Host-session` with `Secure`.
        .tier(CookieTier::sealed(keys).name("session").plain_http())
        .value::<Cart>()
        .idle(14 * DAY)
        .absolute(90 * DAY);
    Ok(store::shared(chain)?.build()?)
}

fn app(sessions: &Sessions) -> Result<Router, BuildError> {
    Ok(Router::new()
        .route("/", get(page::page))
        .route("/cart", get(show).post(add).delete(empty))
        .route("/cart/{product_id}", delete(remove))
        .route("/cart/{product_id}/reduce", post(reduce))
        .route("/logout", post(logout))
        // `expose` lets pages only read the cart. Pages change the cart through the routes above.
        .nest_service("/session", SessionWriteback::new(sessions).expose::<Cart>()?)
        .merge(page::assets())
        .layer(LayeredSessionLayer::new(sessions.clone()))
        .route("/healthz", get(async || "ok")))
}

async fn show(session: Session) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], Json(session.value::<Cart>()))
}

#[derive(Deserialize)]
struct Addition {
    product_id: u32,
}

/// Adds a piece. The update is a compare-and-set, so that two tabs that add at once both count.
async fn add(session: Session, Json(Addition { product_id }): Json<Addition>) -> Result<Json<Cart>, WriteError> {
    session.update::<Cart>(|cart| cart.add(product_id)).await.map(Json)
}

/// Takes a piece out. The change is relative, as in `add`: if two tabs each take a piece out, both changes count.
async fn reduce(session: Session, Path(product_id): Path<u32>) -> Result<Json<Cart>, WriteError> {
    session.update::<Cart>(|cart| cart.reduce(product_id)).await.map(Json)
}

async fn remove(session: Session, Path(product_id): Path<u32>) -> Result<Json<Cart>, WriteError> {
    session.update::<Cart>(|cart| cart.remove(product_id)).await.map(Json)
}

async fn empty(session: Session) -> Result<Json<Cart>, WriteError> {
    session.remove::<Cart>().await?;
    Ok(Json(Cart::default()))
}

async fn logout(session: Session) -> Result<Redirect, WriteError> {
    session.destroy().await?;
    Ok(Redirect::to("/"))
}
