//! The inspector beside a page that changes values: open both in two windows.
//!
//! `cargo run --example inspector --features inspector`, then open the address that it prints. The page works without a
//! script.

#[path = "../site/site.rs"]
mod site;

use std::{fmt::Write, future, time::Duration};

use axum::{
    Form, Router,
    extract::Path,
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use layered_session::{
    BuildError, CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, Scope, Session,
    SessionInspector, SessionValue, Sessions, WriteError, tier::BoxError,
};
use serde::{Deserialize, Serialize};

use crate::site::{
    html::{self, escape},
    keys, serve,
};

/// A value of the browser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Theme {
    #[default]
    Auto,
    Light,
    Dark,
}

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// A value of the user, in every browser.
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

/// Expires a minute after each write.
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

fn sessions(keys: KeyRing) -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        // Plain http is for loopback alone.
        .tier(CookieTier::sealed(keys).plain_http())
        .tier(DefaultTier::new().value(Theme::Auto))
        .value::<Theme>()
        .value::<Cart>()
        .value::<Flash>()
        .identify_by::<User>(|user| Some(Principal::new(&user.name)))
        .build()
}

async fn page(session: Session) -> impl IntoResponse {
    let (theme, user) = (session.value(), session.get::<User>());
    let pressed = |of| if theme == of { "true" } else { "false" };
    let html = format!(
        include_str!("page.html"),
        theme = match theme {
            Theme::Auto => "auto",
            Theme::Light => "light",
            Theme::Dark => "dark",
        },
        auto = pressed(Theme::Auto),
        light = pressed(Theme::Light),
        dark = pressed(Theme::Dark),
        flash = escape(&session.get::<Flash>().map_or_else(String::new, |Flash(text)| text)),
        items = items(&session.value()),
        user = user
            .map_or_else(|| "No user is signed in.".to_owned(), |user| format!("Signed in as {}.", escape(&user.name))),
    );
    html::page(html, "script-src 'none'")
}

fn items(Cart(items): &Cart) -> String {
    if items.is_empty() {
        return r#"<li class="none">Nothing in it yet.</li>"#.to_owned();
    }
    items.iter().fold(String::new(), |mut html, Item { name, count }| {
        let _ = write!(html, "<li><span>{}</span> <b>{count}</b></li>", escape(name));
        html
    })
}

async fn add(session: Session, Form(item): Form<Item>) -> Result<Redirect, WriteError> {
    session.set(Flash(format!("Added to the cart: {} × {}", item.count, item.name))).await?;
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
    let sessions = sessions(keys::key_ring("inspector")?)?;
    let app = Router::new()
        .route("/", get(page))
        .route("/theme/{theme}", post(theme))
        .route("/cart", post(add))
        .route("/cart/empty", post(async |session: Session| session.remove::<Cart>().await.map(|()| Redirect::to("/"))))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(async |session: Session| session.sign_out().await.map(|()| Redirect::to("/"))))
        .nest_service("/inspector", SessionInspector::new(&sessions))
        .route("/icon.svg", html::asset("image/svg+xml", include_str!("icon.svg")))
        .merge(html::styles(include_str!("page.css")))
        .layer(LayeredSessionLayer::new(sessions.clone()));
    serve::serve(app, sessions, future::ready(())).await
}
