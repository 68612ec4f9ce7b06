//! The name of the node, the strip that the pages show, and the figures of `GET /stats`.

use std::{env, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::header,
    response::{IntoResponse, Redirect},
    routing::get,
};
use layered_session::{NoticeLink, Session, Sessions, Stats, WriteError};
use serde_json::json;

use crate::{site::html, values::CurrentUser, visits::Visits};

pub(crate) struct Node {
    name: String,
    sessions: Sessions,
}

impl Node {
    /// Takes the name from `NODE`, else from `PORT`: no two nodes of a machine have the same port.
    pub(crate) fn new(sessions: Sessions) -> Self {
        let name = env::var("NODE").or_else(|_| env::var("PORT")).unwrap_or_else(|_| "3000".into());
        Self { name, sessions }
    }

    /// Renders the node's part of a page, below the navigation bar.
    pub(crate) fn banner(&self, session: &Session) -> String {
        let visits = match session.get() {
            None if session.is_degraded() => "–".to_owned(),
            visits => visits.map_or(0, |Visits(visits)| visits).to_string(),
        };
        let hidden = if session.is_degraded() { "" } else { "hidden" };
        format!(include_str!("banner.html"), node = html::escape(&self.name), visits = visits, copy = hidden)
    }
}

/// The routes that need no session, and go on while the store does not answer.
pub(crate) fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/node", get(name))
        .route("/stats", get(stats))
        .with_state(node)
        .route("/node.css", html::asset("text/css; charset=utf-8", include_str!("node.css")))
        .route("/node.js", html::asset("text/javascript; charset=utf-8", include_str!("node.js")))
}

async fn name(State(node): State<Arc<Node>>) -> impl IntoResponse {
    Json(json!({ "node": node.name }))
}

/// Ends all sessions of the user, on every node. A visitor has no other sessions.
pub(crate) async fn logout_everywhere(session: Session) -> Result<Redirect, WriteError> {
    if session.get::<CurrentUser>().is_some() {
        session.end_all_sessions().await?;
    }
    Ok(Redirect::to("/"))
}

async fn stats(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let Stats {
        records,
        tombstones,
        bytes,
        hits,
        misses,
        expired,
        evicted_clean,
        evicted_dirty,
        revocations_lost,
        capped_cookies,
        skewed_tokens,
        skewed_versions,
        foreign_tokens,
        refused_tokens,
        store_failures,
        degraded_loads,
        store_open,
        notice_link,
        source_failures,
        missing_layers,
        ..
    } = node.sessions.stats();
    let notice_link = match notice_link {
        NoticeLink::None => "none",
        NoticeLink::Up => "up",
        NoticeLink::Down => "down",
        _ => "unknown",
    };
    let body = json!({
        "node": node.name,
        "records": records,
        "tombstones": tombstones,
        "bytes": bytes,
        "hits": hits,
        "misses": misses,
        "expired": expired,
        "evicted_clean": evicted_clean,
        "evicted_dirty": evicted_dirty,
        "revocations_lost": revocations_lost,
        "capped_cookies": capped_cookies,
        "skewed_tokens": skewed_tokens,
        "skewed_versions": skewed_versions,
        "foreign_tokens": foreign_tokens,
        "refused_tokens": refused_tokens,
        "store_failures": store_failures,
        "degraded_loads": degraded_loads,
        "store_open": store_open,
        "notice_link": notice_link,
        "source_failures": source_failures,
        "missing_layers": missing_layers,
    });
    ([(header::CACHE_CONTROL, "no-store")], Json(body))
}
