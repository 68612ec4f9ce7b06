//! hyper alone: no router, no extractor, and one service for both versions of HTTP.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use layered_session::{LayeredSessionLayer, Session, SessionWriteback, Sessions, tier::BoxError};
use tokio::{net::TcpListener, sync::oneshot};
use tower::{ServiceBuilder, ServiceExt};

use super::{
    Framework, OWN_COOKIE, Server, Trouble,
    client::{HttpClient, Version, json},
    listen, perform,
};
use crate::support::Division;

pub(super) struct Hyper(pub(super) Version);

impl Framework for Hyper {
    type Client = HttpClient;

    async fn start(&self, sessions: Sessions) -> (HttpClient, Server) {
        let (listener, origin) = listen().await;
        let server = Server::run(sessions.clone(), |stopped| serve(listener, sessions, stopped));
        (HttpClient::new(self.0, origin), server)
    }
}

async fn serve(listener: TcpListener, sessions: Sessions, mut stopped: oneshot::Receiver<()>) {
    let writeback = SessionWriteback::new(&sessions).allow::<Division>().unwrap().mount_path("/session");
    let service = ServiceBuilder::new()
        .layer(LayeredSessionLayer::new(sessions))
        .service_fn(move |request| answer(writeback.clone(), request));
    let service = TowerToHyperService::new(service);
    let (server, graceful) = (auto::Builder::new(TokioExecutor::new()), GracefulShutdown::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection"),
            _ = &mut stopped => break,
        };
        let io = TokioIo::new(accepted.0);
        let connection = server.serve_connection(io, service.clone()).into_owned();
        tokio::spawn(graceful.watch(connection));
    }
    graceful.shutdown().await;
}

type Answer = Response<BoxBody<Bytes, BoxError>>;

async fn answer(writeback: SessionWriteback, request: Request<Incoming>) -> Result<Answer, BoxError> {
    let line = request.uri().path().trim_start_matches('/').to_owned();
    if line == "session" {
        return Ok(writeback.oneshot(request).await?.map(|body| body.map_err(Into::into).boxed()));
    }
    let mut response = match line.as_str() {
        "nothing" => Response::new(Empty::new().map_err(Into::into).boxed()),
        "watch" => watch(Session::load(request.extensions()).await?),
        _ => act(&Session::load(request.extensions()).await?, &line).await,
    };
    response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(OWN_COOKIE));
    Ok(response)
}

async fn act(session: &Session, line: &str) -> Answer {
    let (status, body) = match perform(session, line).await {
        Ok(state) => (StatusCode::OK, json(&state)),
        Err(Trouble::Refused(error)) => (error.status(), error.to_string()),
        Err(Trouble::ToldToFail) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        Err(Trouble::Unknown) => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::from(body).map_err(Into::into).boxed());
    *response.status_mut() = status;
    response
}

fn watch(session: Session) -> Answer {
    let lines = session.watch::<Division>().map(|Division(id)| Ok(Frame::data(format!("{id}\n").into())));
    Response::new(BodyExt::boxed(StreamBody::new(lines)))
}
