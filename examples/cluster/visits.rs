//! The visits of a session: a value without a copy in the browser. Only the store and the nodes' memory have the count.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use layered_session::{Placement, Session, SessionValue, WriteError};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Visits(pub(crate) u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
    const PLACEMENT: Placement = Placement::Server;
}

/// Answers with the count. The copy of a session that a node shows without the store may lack the count, and such a
/// session has not zero visits.
pub(crate) async fn show(session: Session) -> Response {
    match session.get() {
        None if session.is_degraded() => {
            (StatusCode::SERVICE_UNAVAILABLE, "the shared store did not answer").into_response()
        }
        visits => answer(visits.unwrap_or_default()).into_response(),
    }
}

/// Adds one. The update is a compare-and-set in the store, so that visits of two nodes at the same time both count.
pub(crate) async fn count(session: Session) -> Result<impl IntoResponse, WriteError> {
    session.update(|Visits(visits)| *visits = visits.saturating_add(1)).await.map(answer)
}

fn answer(Visits(visits): Visits) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], Json(json!({ "visits": visits })))
}
