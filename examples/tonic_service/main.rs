//! Sessions in gRPC: unary and server-streaming methods, the cookie in the metadata, and a client that calls each method.
//!
//! `cargo run --example tonic_service --features testing,tonic-0_14` starts a server on a free port, prints the client's
//! calls with the replies, and ends.

// Generated code, in the generator's own style. The source is `division.proto`, beside this file.
#[allow(missing_docs, unreachable_pub, clippy::exhaustive_structs, clippy::use_self)]
mod division;

use std::{net::Ipv4Addr, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use layered_session::{
    BuildError, CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Scope, Session, SessionValue, Sessions,
    testing::set_cookies, tier::BoxError,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::{Channel, Server, server::TcpIncoming},
};

use crate::division::{
    CurrentRequest, DivisionReply, SignOutReply, SignOutRequest, SwitchRequest, WatchRequest,
    divisions_client::DivisionsClient,
    divisions_server::{Divisions, DivisionsServer},
};

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

struct Service;

#[tonic::async_trait]
impl Divisions for Service {
    async fn current(&self, request: Request<CurrentRequest>) -> Result<Response<DivisionReply>, Status> {
        let session = Session::load(request.extensions()).await?;
        Ok(Response::new(reply(&session)))
    }

    async fn switch(&self, request: Request<SwitchRequest>) -> Result<Response<DivisionReply>, Status> {
        let session = Session::load(request.extensions()).await?;
        session.set(Division(request.get_ref().id)).await?;
        Ok(Response::new(reply(&session)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<DivisionReply, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let session = Session::load(request.extensions()).await?;
        let watched = session.clone();
        let divisions = session.watch::<Division>().map(move |_| Ok(reply(&watched)));
        // The stream of divisions ends with the session; this status tells the client the reason.
        let end = stream::once(async move { Err(Status::aborted(session.closed().await.to_string())) });
        Ok(Response::new(Box::pin(divisions.chain(end))))
    }

    async fn sign_out(&self, request: Request<SignOutRequest>) -> Result<Response<SignOutReply>, Status> {
        let session = Session::load(request.extensions()).await?;
        session.sign_out().await?;
        Ok(Response::new(SignOutReply {}))
    }
}

fn reply(session: &Session) -> DivisionReply {
    let Division(id) = session.value();
    DivisionReply { id, tier: session.value_source::<Division>().tier().to_owned() }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let sessions = sessions()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = Channel::from_shared(format!("http://{}", listener.local_addr()?))?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        // Only keepalive ends the stream of a client that disappeared without closing the connection.
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .layer(LayeredSessionLayer::new(sessions.clone()))
        .add_service(DivisionsServer::new(Service))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), async {
            stopped.await.ok();
        });
    let server = tokio::spawn(server);

    let round = round_trip(DivisionsClient::new(endpoint.connect().await?)).await;
    sessions.shutdown(); // ends the streams, for which the server would wait
    drop(stop);
    server.await??;
    round
}

fn sessions() -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().build())
        // A key for this run, and no `Secure`: both are for development on loopback only.
        .tier(CookieTier::sealed(KeyRing::generate()?).name("session").plain_http())
        .value::<Division>()
        .build()
}

/// Calls each method. A browser keeps cookies by itself; a gRPC client keeps the session's cookie in its metadata.
async fn round_trip(mut client: DivisionsClient<Channel>) -> Result<(), BoxError> {
    let first = client.current(CurrentRequest {}).await?;
    show("no cookie", first.get_ref());
    assert_eq!((first.get_ref().id, cookie(first.metadata())), (-1, None), "a read begins no session");

    let switched = client.switch(SwitchRequest { id: 3 }).await?;
    show("switched", switched.get_ref());
    let cookie = cookie(switched.metadata()).ok_or("a first write sends the cookie, in the initial metadata")?;

    let again = client.current(with(&cookie, CurrentRequest {})).await?.into_inner();
    show("with the cookie", &again);
    assert_eq!(again.id, 3);

    let mut watched = client.watch(with(&cookie, WatchRequest {})).await?.into_inner();
    let now = watched.message().await?.ok_or("the present division comes first")?;
    show("watching", &now);
    client.switch(with(&cookie, SwitchRequest { id: 5 })).await?;
    let then = watched.message().await?.ok_or("each change follows")?;
    show("watching", &then);
    assert_eq!((now.id, then.id), (3, 5));

    let refused = client.switch(with(&cookie, SwitchRequest { id: 6 })).await.err().ok_or("6 is no division")?;
    println!("{:<16} {:?}: {}", "refused", refused.code(), refused.message());

    client.sign_out(with(&cookie, SignOutRequest {})).await?;
    let end = watched.message().await.err().ok_or("the stream ends with its session")?;
    println!("{:<16} {:?}: {}", "signed out", end.code(), end.message());
    assert_eq!(end.code(), Code::Aborted);

    let after = client.current(with(&cookie, CurrentRequest {})).await?.into_inner();
    show("the old cookie", &after);
    assert_eq!(after.id, -1, "an ended session stays ended");
    Ok(())
}

/// A request that carries the cookie.
fn with<T>(cookie: &MetadataValue<Ascii>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("cookie", cookie.clone());
    request
}

/// The cookie of a response: name and value, without the attributes.
fn cookie(metadata: &MetadataMap) -> Option<MetadataValue<Ascii>> {
    set_cookies(metadata.as_ref()).first()?.stripped().to_string().parse().ok()
}

fn show(call: &str, reply: &DivisionReply) {
    println!("{call:<16} division {:>2} from {}", reply.id, reply.tier);
}
