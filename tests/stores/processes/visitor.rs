//! A browser at several nodes, and a page's socket.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioExecutor};
use layered_session::testing::{Client, ClientRequest, TestError};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::node::Node;

/// Longer than any step takes on a slow machine. Only a failing test waits until the end.
const PATIENCE: Duration = Duration::from_secs(30);

type Network = BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, legacy::Error>;

/// A browser. Cookies ignore ports, so the nodes share the cookies.
pub(crate) struct Visitor(Client<Network>);

/// An answer, with the time from the request to the answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) took: Duration,
    pub(crate) retry_after: Option<String>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The number of visits.
    pub(crate) fn visits(&self) -> u64 {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.json()["visits"].as_u64().unwrap()
    }

    /// Checks that the store did not answer, and that the node said so within this time.
    pub(crate) fn is_unavailable_within(&self, limit: Duration) {
        assert_eq!(self.status, StatusCode::SERVICE_UNAVAILABLE, "{self:?}");
        assert_eq!(self.json()["code"], "unavailable", "{self:?}");
        assert!(self.json()["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        assert_eq!(self.retry_after.as_deref(), Some("1"), "{self:?}");
        assert!(self.took < limit, "{self:?}");
    }
}

impl Visitor {
    pub(crate) fn new() -> Self {
        let client = legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        // `Client` sends the path, and the node as `Host`.
        let network = client.map_request(|mut request: Request<Full<Bytes>>| {
            let host = request.headers()[header::HOST].to_str().unwrap();
            *request.uri_mut() = format!("http://{host}{}", request.uri()).parse::<Uri>().unwrap();
            request
        });
        Self(Client::new(BoxCloneSyncService::new(network)))
    }

    /// The browser at a node.
    pub(crate) fn at(&self, node: &Node) -> Client<Network> {
        self.0.tab().origin(format!("http://{}", node.address()))
    }

    pub(crate) async fn get(&self, node: &Node, path: &str) -> Answer {
        answer(self.at(node).get(path).header(header::ACCEPT, "application/json")).await
    }

    pub(crate) async fn post(&self, node: &Node, path: &str) -> Answer {
        answer(self.at(node).post(path)).await
    }

    pub(crate) async fn form(&self, node: &Node, path: &str, fields: &[(&str, &str)]) -> Answer {
        answer(self.at(node).post(path).form(fields.iter().copied())).await
    }

    /// Signs a user in.
    pub(crate) async fn sign_in(&self, node: &Node, user: &str) {
        assert_eq!(self.form(node, "/login", &[("user", user)]).await.status, StatusCode::SEE_OTHER);
    }

    /// Switches the division.
    pub(crate) async fn switch(&self, node: &Node, division: i64) {
        let answer = self.form(node, "/division", &[("id", &division.to_string())]).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer:?}");
    }

    /// The user that a node sees.
    pub(crate) async fn user(&self, node: &Node) -> Value {
        self.get(node, "/division").await.json()["user"].clone()
    }

    /// Waits for an answer of a node.
    pub(crate) async fn until(&self, node: &Node, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let begin = Instant::now();
        loop {
            let answer = self.get(node, path).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(begin.elapsed() < PATIENCE, "{path}: {answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens the socket of a page.
    pub(crate) async fn socket(&self, node: &Node) -> Socket {
        let mut request = format!("ws://{}/live", node.address()).into_client_request().unwrap();
        if let Some(cookie) = self.0.cookie("session") {
            request.headers_mut().insert(header::COOKIE, cookie.stripped().to_string().parse().unwrap());
        }
        let (socket, _) = timeout(PATIENCE, connect_async(request)).await.unwrap().unwrap();
        Socket(socket)
    }
}

/// Sends a request, and reads the answer.
pub(crate) async fn answer(request: ClientRequest<Network>) -> Answer {
    let begin = Instant::now();
    let answered: Result<_, TestError> = timeout(PATIENCE, request.into_future()).await.unwrap();
    let response = answered.unwrap();
    let retry_after = response.headers().get(header::RETRY_AFTER);
    Answer {
        status: response.status(),
        text: response.text().unwrap().to_owned(),
        took: begin.elapsed(),
        retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
    }
}

/// The socket of a page.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Waits for the frame of the socket with this division.
    pub(crate) async fn shows(&mut self, division: i64) {
        self.until(|frame| frame["event"] == "division" && frame["id"] == division).await;
    }

    /// Waits for a frame.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            match self.next().await {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if wanted(&frame) {
                        return frame;
                    }
                }
                Message::Close(close) => panic!("the socket was closed: {close:?}"),
                _ => {}
            }
            assert!(begin.elapsed() < PATIENCE, "no such frame");
        }
    }

    /// Switches the division, as a page does.
    pub(crate) async fn switch(&mut self, division: i64) {
        let frame = json!({ "event": "switch-division", "id": division });
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Waits for the end of the session, and returns the reason.
    pub(crate) async fn closed(mut self) -> String {
        let close = async {
            loop {
                if let Message::Close(close) = self.next().await {
                    return close.unwrap().reason.to_string();
                }
            }
        };
        timeout(PATIENCE, close).await.expect("the session goes on")
    }

    async fn next(&mut self) -> Message {
        timeout(PATIENCE, self.0.next()).await.expect("the socket is silent").expect("the socket is open").unwrap()
    }
}
