//! The client side of HTTP, as in a browser.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use layered_session::WriteErrorKind;
use serde_json::Value;

use super::{Action, Client, Outcome, Reply, State, Watching};
use crate::support::Browser;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    /// HTTP/2 with prior knowledge, without TLS.
    Http2,
}

#[derive(Clone)]
pub(super) struct HttpClient {
    client: Legacy<HttpConnector, Full<Bytes>>,
    version: Version,
    origin: String,
}

impl HttpClient {
    pub(super) fn new(version: Version, origin: String) -> Self {
        let client = Legacy::builder(TokioExecutor::new()).http2_only(version == Version::Http2).build_http();
        Self { client, version, origin }
    }

    async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: &'static str) -> Response<Incoming> {
        let uri = format!("{}{path}", self.origin);
        let mut request = Request::builder().method(method).uri(uri).body(Full::from(body)).unwrap();
        *request.headers_mut() = headers;
        let response = self.client.request(request).await.expect("an answer");
        let wanted = if self.version == Version::Http2 { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        assert_eq!(response.version(), wanted);
        response
    }

    fn headers(&self, browser: &Browser) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some(cookies) = browser.request().headers().get(header::COOKIE).cloned() else { return headers };
        match self.version {
            Version::Http1 => drop(headers.insert(header::COOKIE, cookies)),
            // Browsers split the `Cookie` field for the sake of compression (RFC 9113, 8.2.3).
            Version::Http2 => {
                for pair in cookies.to_str().unwrap().split("; ") {
                    headers.append(header::COOKIE, pair.parse().unwrap());
                }
            }
        }
        headers
    }
}

impl Client for HttpClient {
    async fn act(&self, browser: &Browser, action: Action) -> Reply {
        let path = format!("/{}", action.to_line());
        reply(self.send(Method::GET, &path, self.headers(browser), "").await).await
    }

    async fn watch(&self, browser: &Browser) -> (HeaderMap, Watching) {
        let response = self.send(Method::GET, "/watch", self.headers(browser), "").await;
        let (head, body) = response.into_parts();
        assert_eq!(head.status, StatusCode::OK);
        (head.headers, lines(body).boxed())
    }

    async fn post(&self, browser: &Browser, site: &'static str, json: &'static str) -> Option<Reply> {
        let mut headers = self.headers(browser);
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        headers.insert("sec-fetch-site", site.parse().unwrap());
        Some(reply(self.send(Method::POST, "/session", headers, json).await).await)
    }
}

async fn reply(response: Response<Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let state = |json: Value| State {
        division: json["division"].as_i64().unwrap(),
        tier: json["tier"].as_str().unwrap().into(),
        visits: json["visits"].as_u64().unwrap(),
    };
    let outcome = match head.status {
        StatusCode::OK if body.starts_with(b"{\"division\"") => {
            Outcome::State(state(serde_json::from_slice(&body).unwrap()))
        }
        StatusCode::OK => Outcome::Nothing,
        StatusCode::CONFLICT => Outcome::Refused(WriteErrorKind::Closed),
        StatusCode::UNPROCESSABLE_ENTITY => Outcome::Refused(WriteErrorKind::Invalid),
        _ => Outcome::Failed,
    };
    Reply { outcome, headers: head.headers }
}

/// The state in the text of both servers.
pub(super) fn json(State { division, tier, visits }: &State) -> String {
    format!(r#"{{"division":{division},"tier":"{tier}","visits":{visits}}}"#)
}

/// The numbers of a body, one in each line. The frames may cut the lines anywhere.
fn lines(body: Incoming) -> impl futures_util::Stream<Item = Result<i64, String>> + Send {
    stream::unfold((body, BytesMut::new()), |(mut body, mut unread)| async move {
        loop {
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line = unread.split_to(end);
                unread.advance(1);
                return Some((Ok(std::str::from_utf8(&line).unwrap().parse().unwrap()), (body, unread)));
            }
            match body.frame().await? {
                Ok(frame) => unread.extend_from_slice(frame.data_ref().expect("data")),
                Err(error) => return Some((Err(error.to_string()), (body, unread))),
            }
        }
    })
}
