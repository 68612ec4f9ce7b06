//! The page: the shelf comes from the server, the cart from the events.

use std::fmt::Write;

use axum::{
    Router,
    http::header,
    response::{Html, IntoResponse},
    routing::get,
};

use crate::shop::{PRODUCTS, Product};

/// All that the page may load is its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The same for everybody, so that it needs no session.
pub(crate) async fn page() -> impl IntoResponse {
    let html = format!(include_str!("page.html"), shelf = shelf());
    ([(header::CONTENT_SECURITY_POLICY, POLICY), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Html(html))
}

fn shelf() -> String {
    PRODUCTS.iter().fold(String::new(), |mut html, Product { id, name, about, cents, hue }| {
        let name = name.replace('&', "&amp;");
        let (whole, rest) = (cents / 100, cents % 100);
        let _ = write!(
            html,
            r#"<li class="product" data-product="{id}" data-name="{name}" data-cents="{cents}" data-hue="{hue}">
  <svg class="leaf" viewBox="0 0 48 48" aria-hidden="true"><use href="/leaf.svg#leaf"/></svg>
  <h3>{name}</h3>
  <p class="about">{about}</p>
  <p class="price">€{whole}.{rest:02} <small>/ 100 g</small></p>
  <button type="button" class="add" aria-label="Add {name} to the cart">Add</button>
</li>
"#
        );
        html
    })
}

pub(crate) fn assets() -> Router {
    let asset = |kind: &'static str, body: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], body))
    };
    Router::new()
        .route("/page.css", asset("text/css; charset=utf-8", include_str!("page.css")))
        .route("/page.js", asset("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/leaf.svg", asset("image/svg+xml", include_str!("leaf.svg")))
}
