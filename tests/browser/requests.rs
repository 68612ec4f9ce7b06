//! A record of the requests to a test's server.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    middleware::Next,
    response::Response,
};

use crate::{Result, tab::eventually};

/// The head of a request, and the status of its answer.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The method and the path, as in `GET /events`.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) status: StatusCode,
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Records each request, for `axum::middleware::from_fn_with_state`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests(Arc<Mutex<Vec<Seen>>>);

impl Requests {
    /// Waits for a request whose line begins with this text, and returns the last such request.
    pub(crate) async fn last(&self, line: &str) -> Result<Seen> {
        let find = async || {
            let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(requests.iter().rfind(|seen| seen.line.starts_with(line)).cloned().ok_or("no such request yet")?)
        };
        eventually(&format!("{line} comes"), find).await
    }
}

pub(crate) async fn note(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let (line, headers) = (format!("{} {}", request.method(), request.uri()), request.headers().clone());
    let response = next.run(request).await;
    let seen = Seen { line, headers, status: response.status() };
    requests.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    response
}
