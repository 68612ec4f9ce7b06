//! The answers to refused requests: JSON for scripts, and a page for a person.

use axum::{
    Json,
    body::to_bytes,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tower_http::csrf::ProtectionError;

use crate::site::html;

/// The longest message of an error of the crate, in bytes.
const MESSAGE: usize = 4 << 10;

/// Turns each 503 into JSON with a code and a message, or into a page where a person asked for a page. The errors of the
/// crate answer with text and `Retry-After`, and the writeback answers with JSON of its own.
pub(crate) async fn explain(request: Request, next: Next) -> Response {
    let wants_page = is(request.headers(), header::ACCEPT, "text/html");
    let response = next.run(request).await;
    if response.status() != StatusCode::SERVICE_UNAVAILABLE
        || is(response.headers(), header::CONTENT_TYPE, "application/json")
    {
        return response;
    }
    let body = to_bytes(response.into_body(), MESSAGE).await.unwrap_or_default();
    let message = String::from_utf8_lossy(&body);
    let headers = [(header::RETRY_AFTER, "1"), (header::CACHE_CONTROL, "no-store")];
    match wants_page {
        true => (StatusCode::SERVICE_UNAVAILABLE, headers, page(&message)).into_response(),
        false => {
            let body = json!({ "code": "unavailable", "message": message });
            (StatusCode::SERVICE_UNAVAILABLE, headers, Json(body)).into_response()
        }
    }
}

/// Whether a field names a type of content.
fn is(headers: &HeaderMap, field: header::HeaderName, kind: &str) -> bool {
    headers.get(field).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(kind))
}

fn page(message: &str) -> impl IntoResponse + use<> {
    html::page(format!(include_str!("outage.html"), message = html::escape(message)), "script-src 'none'")
}

/// Answers a request that a page of another site has caused.
pub(crate) fn cross_site(_: ProtectionError) -> Response {
    let body = json!({ "code": "cross_site", "message": "another site caused this request" });
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}
