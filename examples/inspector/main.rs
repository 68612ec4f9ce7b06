//! The inspector beside a page that changes values: open both in two windows.
//!
//! `cargo run --example inspector --features inspector`, then open the address that it prints. `PORT` (3000) is read
//! from the environment. The page works without a script.

use std::{env, fmt::Write, net::Ipv4Addr, time::Duration};

use axum::{
    Form, Router,
    extract::Path,
    http::header,
    response::{Html, IntoResponse, Redirect},
    routing::{get, post},
};
use layered_session::{
    BuildError, CookieTier, DefaultTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, Scope, Session,
    SessionInspector, SessionValue, Sessions, WriteError, tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// All that the page may load is its own.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The browser's own.
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

fn sessions() -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        // For http on loopback only, under a key that a restart forgets.
        .tier(CookieTier::sealed(KeyRing::generate()?).plain_http())
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
            .map_or_else(|| "Nobody is signed in.".to_owned(), |user| format!("Signed in as {}.", escape(&user.name))),
    );
    ([(header::CONTENT_SECURITY_POLICY, POLICY), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Html(html))
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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
    let sessions = sessions()?;
    let asset = |kind: &'static str, body: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], body))
    };
    let app = Router::new()
        .route("/", get(page))
        .route("/theme/{theme}", post(theme))
        .route("/cart", post(add))
        .route("/cart/empty", post(async |session: Session| session.remove::<Cart>().await.map(|()| Redirect::to("/"))))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(async |session: Session| session.sign_out().await.map(|()| Redirect::to("/"))))
        .nest_service("/inspector", SessionInspector::new(&sessions))
        .route("/page.css", asset("text/css; charset=utf-8", include_str!("page.css")))
        .route("/icon.svg", asset("image/svg+xml", include_str!("icon.svg")))
        .layer(LayeredSessionLayer::new(sessions));
    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
