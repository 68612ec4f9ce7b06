//! The frame of a page: its headers, its styles, and text made safe for HTML.

use axum::{
    Router,
    http::header,
    response::{Html, IntoResponse},
    routing::{MethodRouter, get},
};

/// Limits a page to the parts of its own server. `frame-ancestors` keeps the page out of other sites' frames, where a click
/// could hit a hidden button.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// A page under the policy, with the directives for scripts and connections.
pub(crate) fn page(html: String, scripts: &str) -> impl IntoResponse + use<> {
    let policy = format!("{POLICY}; {scripts}");
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned())];
    (headers, Html(html))
}

/// The styles that all examples share, as `/base.css`, and the styles of one example, as `/page.css`.
pub(crate) fn styles(page: &'static str) -> Router {
    const CSS: &str = "text/css; charset=utf-8";
    Router::new().route("/base.css", asset(CSS, include_str!("base.css"))).route("/page.css", asset(CSS, page))
}

/// A file of the program. `no-cache` makes the browser ask again, since the next build may bring another file.
pub(crate) fn asset(kind: &'static str, body: &'static str) -> MethodRouter {
    get(async move || ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], body))
}

/// Makes text safe for HTML text and attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(char),
        }
    }
    safe
}
