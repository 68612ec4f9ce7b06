//! The page: the shelf comes from the server, the cart from the events.

use std::fmt::Write;

use axum::{Router, response::IntoResponse};

use crate::{
    shop::{PRODUCTS, Product},
    site::html::{self, escape},
};

/// The page's own script, which talks to the page's own server.
const SCRIPTS: &str = "script-src 'self'; connect-src 'self'";

/// Renders the page. The HTML is the same for all visitors and needs no session.
pub(crate) async fn page() -> impl IntoResponse {
    html::page(format!(include_str!("page.html"), shelf = shelf()), SCRIPTS)
}

fn shelf() -> String {
    PRODUCTS.iter().fold(String::new(), |mut html, Product { id, name, about, cents, hue }| {
        let name = escape(name);
        let (whole, rest) = (cents / 100, cents % 100);
        let _ = write!(
            html,
            r#"<li class="product card" data-product="{id}" data-name="{name}" data-cents="{cents}" data-hue="{hue}">
  <svg class="leaf" viewBox="0 0 48 48" aria-hidden="true"><use href="/leaf.svg#leaf"/></svg>
  <h3>{name}</h3>
  <p class="about">{about}</p>
  <p class="price">€{whole}.{rest:02} <small>/ 100 g</small></p>
  <button type="button" class="add main button" aria-label="Add {name} to the cart">Add</button>
</li>
"#
        );
        html
    })
}

pub(crate) fn assets() -> Router {
    html::styles(include_str!("page.css"))
        .route("/page.js", html::asset("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/leaf.svg", html::asset("image/svg+xml", include_str!("leaf.svg")))
}
