//! One node: a server as a service.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use layered_session::{LayeredSessionLayer, Session, SessionWriteback, Sessions, WritebackBody, tier::BoxError};
use tower::{Layer, ServiceExt, service_fn};

use super::tokens::set_cookies;

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One node: sessions, and a service that runs a test's handler, with the writeback at `/store_session`.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) sessions: Sessions,
}

impl Node {
    pub(crate) fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    /// Sends a request through the layer to a handler with the loaded session.
    pub(crate) async fn handle<T>(
        &self,
        request: Request<Full<Bytes>>,
        act: impl AsyncFnOnce(Session) -> (Response<Full<Bytes>>, T),
    ) -> (Response<Full<Bytes>>, T) {
        let (slot, act) = (Arc::new(Mutex::new(None)), Mutex::new(Some(act)));
        let out = Arc::clone(&slot);
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            let act = act.lock().unwrap().take().expect("one request, one call");
            let out = Arc::clone(&out);
            async move {
                let session = Session::load(request.extensions()).await?;
                drop(request);
                let (response, value) = act(session).await;
                *out.lock().unwrap() = Some(value);
                Ok::<_, BoxError>(response)
            }
        });
        let response = LayeredSessionLayer::new(self.sessions.clone()).layer(service).oneshot(request).await;
        let value = slot.lock().unwrap().take().expect("the handler ran");
        (response.expect("the handler answers"), value)
    }

    /// Sends a request to a handler, which answers with an empty response. Returns the headers and the handler's
    /// result.
    pub(crate) async fn ask<T>(
        &self,
        request: Request<Full<Bytes>>,
        act: impl AsyncFnOnce(Session) -> T,
    ) -> (HeaderMap, T) {
        let empty = async |session| (Response::new(Full::default()), act(session).await);
        let (response, value) = self.handle(request, empty).await;
        (response.into_parts().0.headers, value)
    }

    /// Sends one request to the writeback.
    pub(crate) async fn writeback<B>(&self, writeback: SessionWriteback, request: Request<B>) -> Answer
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        Answer::of(self.stream(writeback, request).await).await
    }

    /// Sends a request to the writeback, and returns the response before the end of its body.
    pub(crate) async fn stream<B>(&self, writeback: SessionWriteback, request: Request<B>) -> Response<WritebackBody>
    where
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let layer = LayeredSessionLayer::new(self.sessions.clone());
        let response = layer.layer(writeback).oneshot(request).await;
        response.unwrap_or_else(|error: Infallible| match error {})
    }
}

/// A response, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of<B: Body<Data = Bytes, Error = Infallible>>(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a full body").to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn set_cookies(&self) -> Vec<String> {
        set_cookies(&self.headers)
    }
}
