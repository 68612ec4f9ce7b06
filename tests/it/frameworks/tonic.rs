//! tonic: a unary and a server-streaming method, and the cookie in the metadata.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, header, uri::PathAndQuery};
use http_body_util::Full;
use layered_session::{
    LayeredSessionLayer, RequireLayer, Session, SessionValue, Sessions, SharedTier, WriteError, WriteErrorKind,
    testing::{ManualClock, SpyStore},
};
use serde::{Deserialize, Serialize};
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    client,
    metadata::{MetadataMap, MetadataValue},
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    transport::{Channel, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{Action, Client, Framework, OWN_COOKIE, Outcome, Reply, Server, State, Trouble, Watching, listen, perform};
use crate::support::{Browser, Division, Node, Theme, User, builder, ring};

pub(super) struct Tonic;

impl Framework for Tonic {
    type Client = GrpcClient;

    async fn start(&self, sessions: Sessions) -> (GrpcClient, Server) {
        let (listener, origin) = listen().await;
        let server = Server::run(sessions.clone(), |stopped| async move {
            let stopped = async {
                stopped.await.ok();
            };
            let server = tonic::transport::Server::builder()
                .layer(LayeredSessionLayer::new(sessions))
                .add_service(Divisions)
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped);
            server.await.expect("the server ends without an error");
        });
        let channel = Channel::from_shared(origin).unwrap().connect().await.expect("a connection");
        (GrpcClient(channel), server)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(string, tag = "1")]
    line: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DivisionReply {
    #[prost(sint64, tag = "1")]
    division: i64,
    #[prost(string, tag = "2")]
    tier: String,
    #[prost(uint64, tag = "3")]
    visits: u64,
}

/// A stand-in for a generated server.
#[derive(Clone, Copy, Debug)]
struct Divisions;

impl NamedService for Divisions {
    const NAME: &'static str = "test.Divisions";
}

type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;
type BoxStream = Pin<Box<dyn Stream<Item = Result<DivisionReply, Status>> + Send>>;

impl Service<http::Request<Body>> for Divisions {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<DivisionReply, Line>::default());
            Ok(match request.uri().path() {
                "/test.Divisions/Watch" => grpc.server_streaming(Watch, request).await,
                _ => grpc.unary(Act, request).await,
            })
        })
    }
}

struct Act;

impl UnaryService<Line> for Act {
    type Response = DivisionReply;
    type Future = BoxFuture<Response<DivisionReply>, Status>;

    fn call(&mut self, request: Request<Line>) -> Self::Future {
        Box::pin(async move {
            let line = &request.get_ref().line;
            let reply = if line == "nothing" {
                DivisionReply::default()
            } else {
                let session = Session::load(request.extensions()).await?;
                let State { division, tier, visits } = perform(&session, line).await?;
                DivisionReply { division, tier, visits }
            };
            let mut response = Response::new(reply);
            response.metadata_mut().append("set-cookie", MetadataValue::from_static(OWN_COOKIE));
            Ok(response)
        })
    }
}

struct Watch;

impl ServerStreamingService<Line> for Watch {
    type Response = DivisionReply;
    type ResponseStream = BoxStream;
    type Future = BoxFuture<Response<BoxStream>, Status>;

    fn call(&mut self, request: Request<Line>) -> Self::Future {
        Box::pin(async move {
            let session = Session::load(request.extensions()).await?;
            let reply = |Division(division)| Ok(DivisionReply { division, ..DivisionReply::default() });
            let divisions = session.watch::<Division>().map(reply);
            let end = stream::once(async move { Err(Status::aborted(session.closed().await.to_string())) });
            Ok(Response::new(Box::pin(divisions.chain(end)) as BoxStream))
        })
    }
}

impl From<Trouble> for Status {
    fn from(trouble: Trouble) -> Self {
        let mut status = match trouble {
            Trouble::Refused(error) => Self::from(error),
            Trouble::ToldToFail => Self::internal("told to fail"),
            Trouble::Unknown => Self::unimplemented("no such action"),
        };
        status.metadata_mut().append("set-cookie", MetadataValue::from_static(OWN_COOKIE));
        status
    }
}

#[derive(Clone)]
pub(super) struct GrpcClient(Channel);

impl GrpcClient {
    async fn ready(&self) -> client::Grpc<Channel> {
        let mut grpc = client::Grpc::new(self.0.clone());
        grpc.ready().await.expect("a channel");
        grpc
    }
}

fn request(browser: &Browser, line: String) -> Request<Line> {
    let mut request = Request::new(Line { line });
    if let Some(cookies) = browser.request().headers().get(header::COOKIE) {
        request.metadata_mut().insert("cookie", cookies.to_str().unwrap().parse().unwrap());
    }
    request
}

impl Client for GrpcClient {
    async fn act(&self, browser: &Browser, action: Action) -> Reply {
        let mut grpc = self.ready().await;
        let path = PathAndQuery::from_static("/test.Divisions/Act");
        let answer = grpc.unary(request(browser, action.to_line()), path, ProstCodec::<Line, DivisionReply>::default());
        let (metadata, outcome) = match answer.await {
            Ok(response) => {
                let (metadata, DivisionReply { division, tier, visits }, _) = response.into_parts();
                let nothing = matches!(action, Action::Nothing);
                let state = || Outcome::State(State { division, tier, visits });
                (metadata, if nothing { Outcome::Nothing } else { state() })
            }
            Err(status) => {
                let outcome = match status.code() {
                    Code::InvalidArgument => Outcome::Refused(WriteErrorKind::Invalid),
                    Code::Aborted => Outcome::Refused(WriteErrorKind::Closed),
                    _ => Outcome::Failed,
                };
                (status.metadata().clone(), outcome)
            }
        };
        Reply { outcome, headers: metadata.into_headers() }
    }

    async fn watch(&self, browser: &Browser) -> (HeaderMap, Watching) {
        let mut grpc = self.ready().await;
        let path = PathAndQuery::from_static("/test.Divisions/Watch");
        let codec = ProstCodec::<Line, DivisionReply>::default();
        let answer = grpc.server_streaming(request(browser, "watch".into()), path, codec).await.expect("a stream");
        let (metadata, stream, _): (MetadataMap, _, _) = answer.into_parts();
        let division = |reply: Result<DivisionReply, Status>| match reply {
            Ok(reply) => Ok(reply.division),
            Err(status) => Err(status.message().to_owned()),
        };
        (metadata.into_headers(), stream.map(division).boxed())
    }

    async fn post(&self, _: &Browser, _: &'static str, _: &'static str) -> Option<Reply> {
        None
    }
}

/// A value that no chain declares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Undeclared;

impl SessionValue for Undeclared {
    const NAME: &'static str = "undeclared";
}

fn code(written: Result<(), WriteError>) -> Code {
    Status::from(written.unwrap_err()).code()
}

#[tokio::test]
async fn refused_write_maps_to_status_code() {
    let (ring, clock) = (ring(), ManualClock::new());
    let node = Node::new(builder(&ring, &clock).build().unwrap());
    let codes = async |session: Session| {
        let large = code(session.set(Theme("x".repeat(10_000))).await);
        let (invalid, undeclared) = (code(session.set(Division(9)).await), code(session.set(Undeclared).await));
        session.set(Division(3)).await.unwrap();
        session.destroy().await.unwrap();
        (large, invalid, undeclared, code(session.set(Division(4)).await))
    };
    let expected = (Code::ResourceExhausted, Code::InvalidArgument, Code::Internal, Code::Aborted);
    assert_eq!(Browser::new().visit(&node, codes).await, expected);
}

async fn missing(request: http::Request<Full<Bytes>>) -> Result<http::Response<Status>, Infallible> {
    Ok(http::Response::new(Session::load(request.extensions()).await.unwrap_err().into()))
}

// G6: a store outage has the status `Unavailable`, and a missing layer the status `Internal`.
#[tokio::test]
async fn store_outage_and_missing_layer_differ() {
    let (store, ring, clock) = (SpyStore::new(), ring(), ManualClock::new());
    let node = || Node::new(builder(&ring, &clock).tier(SharedTier::new(store.clone())).build().unwrap());
    let (mut browser, warm, cold) = (Browser::new(), node(), node());
    browser.visit(&warm, async |session| session.set(Division(3)).await.unwrap()).await;
    store.fail();
    assert_eq!(browser.visit(&warm, async |s| code(s.set(Division(4)).await)).await, Code::Unavailable);
    let away =
        LayeredSessionLayer::new(cold.sessions).layer(service_fn(missing)).oneshot(browser.request()).await.unwrap();
    assert_eq!(away.into_body().code(), Code::Unavailable);
    let missing = Status::from(Session::load(&http::Extensions::new()).await.unwrap_err());
    assert_eq!(missing.code(), Code::Internal);
    assert!(missing.message().contains("LayeredSessionLayer"), "{missing}");
}

#[tokio::test]
async fn guard_refuses_call_as_unauthenticated() {
    let sessions = builder(&ring(), &ManualClock::new()).build().unwrap();
    let (listener, origin) = listen().await;
    let server = tonic::transport::Server::builder()
        .layer(LayeredSessionLayer::new(sessions))
        .layer(RequireLayer::<User>::new())
        .add_service(Divisions)
        .serve_with_incoming(TcpIncoming::from(listener));
    let call = async {
        let channel = Channel::from_shared(origin).unwrap().connect().await.expect("a connection");
        let mut grpc = GrpcClient(channel).ready().await;
        let path = PathAndQuery::from_static("/test.Divisions/Act");
        let codec = ProstCodec::<Line, DivisionReply>::default();
        grpc.unary(request(&Browser::new(), "nothing".into()), path, codec).await.unwrap_err().code()
    };
    tokio::select! {
        code = call => assert_eq!(code, Code::Unauthenticated),
        ended = server => panic!("the server ended first: {ended:?}"),
    }
}
