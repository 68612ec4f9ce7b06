//! axum: the extractor, a `Router`, the writeback nested.

use std::convert::Infallible;

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt;
use layered_session::{LayeredSessionLayer, Session, SessionWriteback, Sessions};

use super::{
    Framework, OWN_COOKIE, Server, State, Trouble,
    client::{HttpClient, Version, json},
    listen, perform,
};
use crate::support::Division;

pub(super) struct Axum(pub(super) Version);

impl Framework for Axum {
    type Client = HttpClient;

    async fn start(&self, sessions: Sessions) -> (HttpClient, Server) {
        let (listener, origin) = listen().await;
        let writeback = SessionWriteback::new(&sessions).allow::<Division>().unwrap();
        let app = Router::new()
            .route("/nothing", get(own_cookie))
            .route("/watch", get(watch))
            .route("/{*line}", get(act))
            .nest_service("/session", writeback)
            .layer(LayeredSessionLayer::new(sessions.clone()));
        let server = Server::run(sessions, |stopped| async move {
            let stopped = async {
                stopped.await.ok();
            };
            axum::serve(listener, app).with_graceful_shutdown(stopped).await.expect("the server ends without an error");
        });
        (HttpClient::new(self.0, origin), server)
    }
}

async fn own_cookie() -> [(HeaderName, HeaderValue); 1] {
    [(header::SET_COOKIE, HeaderValue::from_static(OWN_COOKIE))]
}

async fn act(session: Session, Path(line): Path<String>) -> impl IntoResponse {
    (own_cookie().await, perform(&session, &line).await)
}

async fn watch(session: Session) -> Body {
    Body::from_stream(session.watch::<Division>().map(|Division(id)| Ok::<_, Infallible>(format!("{id}\n"))))
}

impl IntoResponse for State {
    fn into_response(self) -> Response {
        json(&self).into_response()
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(error) => error.into_response(),
            Self::ToldToFail => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Self::Unknown => StatusCode::NOT_FOUND.into_response(),
        }
    }
}
