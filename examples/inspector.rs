//! The inspector beside a page that changes values: open both in two windows.
//!
//! `cargo run --example inspector --features axum,inspector`, then open the address that it prints. `PORT` (3000) is read
//! from the environment.

use std::{env, net::Ipv4Addr, time::Duration};

use axum::{
    Form, Router,
    extract::Path,
    response::{Html, Redirect},
    routing::{get, post},
};
use layered_session::{
    BoxError, BuildError, CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, Scope, Session,
    SessionInspector, SessionValue, Sessions, WriteError,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// The browser's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Theme(String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// The user's, in every browser.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cart(Vec<Item>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    name: String,
    count: u32,
}

impl SessionValue for Cart {
    const NAME: &'static str = "cart";
    const SCOPE: Scope = Scope::Principal;
}

/// Soon out of date.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flash(String);

impl SessionValue for Flash {
    const NAME: &'static str = "flash";
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(60));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
}

impl SessionValue for User {
    const NAME: &'static str = "user";
}

const PAGE: &str = r#"<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">
<title>A shop</title><style>:root { color-scheme: light dark; font: 1rem/1.6 system-ui } body { margin: 2rem }</style>
<h1>A shop</h1><p>Change something here, and see it in <a href="/inspector" target="inspector">the inspector</a>.</p>
<form method="post"><button formaction="/theme/dark">Dark</button> <button formaction="/theme/light">Light</button></form>
<form method="post" action="/cart"><input name="name" value="pear" required maxlength="40" aria-label="Item">
  <input name="count" type="number" min="1" max="99" value="3" aria-label="Count"> <button>Add</button>
  <button formaction="/cart/empty" formnovalidate>Empty the cart</button></form>
<form method="post" action="/sign-in"><input name="name" value="ada" required maxlength="40" aria-label="Name">
  <button>Sign in</button> <button formaction="/sign-out" formnovalidate>Sign out</button></form>"#;

fn sessions() -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        // For http on loopback only, under a key that a restart forgets.
        .tier(CookieTier::sealed(KeyRing::generate()?).plain_http())
        .tier(DefaultTier::new().value(Theme("light".into())))
        .value::<Theme>()
        .value::<Cart>()
        .value::<Flash>()
        .identify_by::<User>(|user| Some(Principal::new(&user.name)))
        .build()
}

async fn add(session: Session, Form(item): Form<Item>) -> Result<Redirect, WriteError> {
    session.set(Flash(format!("{} of {} added", item.count, item.name))).await?;
    session.update(|Cart(items)| items.push(item.clone())).await?;
    Ok(Redirect::to("/"))
}

async fn theme(session: Session, Path(theme): Path<Theme>) -> Result<Redirect, WriteError> {
    session.set(theme).await?;
    Ok(Redirect::to("/"))
}

async fn sign_in(session: Session, Form(user): Form<User>) -> Result<Redirect, WriteError> {
    session.sign_in(user).adopt::<Cart>().await?;
    Ok(Redirect::to("/"))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let sessions = sessions()?;
    let app = Router::new()
        .route("/", get(Html(PAGE)))
        .route("/theme/{theme}", post(theme))
        .route("/cart", post(add))
        .route("/cart/empty", post(async |session: Session| session.remove::<Cart>().await.map(|()| Redirect::to("/"))))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(async |session: Session| session.sign_out().await.map(|()| Redirect::to("/"))))
        .nest_service("/inspector", SessionInspector::new(&sessions))
        .layer(LayeredSessionLayer::new(sessions));
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
