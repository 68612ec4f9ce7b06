//! hyper alone: no framework, no router, the same values and the same writeback.
//!
//! `cargo run --example hyper_server`, then
//!
//! ```text
//! curl -c jar -b jar http://127.0.0.1:3000/division                       -1 from default
//! curl -c jar -b jar -X PUT http://127.0.0.1:3000/division/3              3 from memory
//! curl -c jar -b jar -H 'sec-fetch-site: same-origin' --json '{"current_division_id": 4}' \
//!      http://127.0.0.1:3000/store_session                                {"stored":["current_division_id"]}
//! ```
//!
//! The environment variables are `PORT` (3000 by default) and `SESSION_KEYS` (without the variable, sessions end with
//! the process).

use std::{env, net::Ipv4Addr, time::Duration};

use http_body_util::Either;
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use layered_session::{
    BuildError, CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Scope, Session, SessionValue, SessionWriteback,
    Sessions, WritebackBody, tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, time::timeout};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Division(i64);

impl Default for Division {
    fn default() -> Self {
        Self(-1)
    }
}

impl SessionValue for Division {
    const NAME: &'static str = "current_division_id";
    const SCOPE: Scope = Scope::Principal;

    fn validate(&self) -> Result<(), BoxError> {
        match self.0 {
            -1..=5 => Ok(()),
            id => Err(format!("there is no division {id}").into()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let sessions = sessions()?;
    let writeback = SessionWriteback::new(&sessions).allow::<Division>()?.mount_path("/store_session");
    let app = ServiceBuilder::new()
        .layer(LayeredSessionLayer::new(sessions.clone()))
        .service(service_fn(move |request| route(request, writeback.clone())));
    let app = TowerToHyperService::new(app);

    let port = env::var("PORT").map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()); // hyper cuts off a request head that never ends
    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue }; // the browser has left already
                let connection = server.serve_connection(TokioIo::new(stream), app.clone()).into_owned();
                let connection = connections.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(error, "a connection failed");
                    }
                });
            }
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                break;
            }
        }
    }
    sessions.shutdown();
    timeout(Duration::from_secs(3), connections.shutdown()).await.ok();
    Ok(())
}

fn sessions() -> Result<Sessions, BuildError> {
    let keys = match env::var_os("SESSION_KEYS") {
        Some(_) => KeyRing::from_env("SESSION_KEYS")?,
        None => KeyRing::generate()?,
    };
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        .tier(CookieTier::sealed(keys).name("session").plain_http()) // loopback only: no `Secure`
        .value::<Division>()
        .build()
}

/// Joins the writeback's body type and the handler's into one type, by `Either`.
async fn route(
    request: Request<Incoming>,
    writeback: SessionWriteback,
) -> Result<Response<Either<String, WritebackBody>>, BoxError> {
    if request.uri().path().starts_with("/store_session") {
        return Ok(writeback.oneshot(request).await?.map(Either::Right));
    }
    let (status, text) = page(&request).await?;
    let mut response = Response::new(Either::Left(text));
    *response.status_mut() = status;
    Ok(response)
}

async fn page(request: &Request<Incoming>) -> Result<(StatusCode, String), BoxError> {
    let session = Session::load(request.extensions()).await?;
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/division") => {}
        (&Method::PUT, path) if path.starts_with("/division/") => {
            let Ok(id) = path["/division/".len()..].parse() else {
                return Ok((StatusCode::BAD_REQUEST, "a division is a number\n".to_owned()));
            };
            if let Err(error) = session.set(Division(id)).await {
                return Ok((error.status(), format!("{error}\n")));
            }
        }
        _ => return Ok((StatusCode::NOT_FOUND, "try /division\n".to_owned())),
    }
    let Division(id) = session.value();
    Ok((StatusCode::OK, format!("{id} from {}\n", session.value_source::<Division>().tier())))
}
