//! [`Response`]: a response that a [`Client`](super::Client) has read whole.

use bytes::Bytes;
use cookie::Cookie;
use http::{HeaderMap, StatusCode, response::Parts};
use serde::de::DeserializeOwned;

use super::{error::TestError, jar::set_cookies};

/// A response, read whole. Its cookies are in the client's jar already.
///
/// ```
/// # use {http::{Request, Response, header}, bytes::Bytes, http_body_util::Full, tower::service_fn};
/// # use std::convert::Infallible;
/// use layered_session::testing::Client;
///
/// # futures_util::future::FutureExt::now_or_never(async {
/// let service = service_fn(async |_: Request<Full<Bytes>>| {
///     let cookie = "seen=1; Path=/; Secure";
///     let response = Response::builder().header(header::SET_COOKIE, cookie);
///     response.body(Full::new(Bytes::from_static(b"[1, 2]")))
/// });
/// let response = Client::new(service).get("/").await?;
/// assert_eq!((response.status().as_u16(), response.text()?), (200, "[1, 2]"));
/// assert_eq!(response.json::<Vec<u8>>()?, [1, 2]);
/// assert_eq!(response.cookies()[0].secure(), Some(true));
/// # Ok::<_, layered_session::tier::BoxError>(()) }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct Response {
    head: Parts,
    body: Bytes,
}

impl Response {
    pub(super) const fn new(head: Parts, body: Bytes) -> Self {
        Self { head, body }
    }

    /// The status.
    pub const fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The header fields, `Set-Cookie` included.
    pub const fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The cookies that the response sets or removes, with their attributes: also cookies that a browser would refuse.
    pub fn cookies(&self) -> Vec<Cookie<'static>> {
        set_cookies(self.headers())
    }

    /// The body.
    pub const fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// A body that is not UTF-8.
    pub fn text(&self) -> Result<&str, TestError> {
        std::str::from_utf8(&self.body)
            .map_err(|error| TestError::caused("the body of the response is not UTF-8", error))
    }

    /// The value that the body holds as JSON.
    ///
    /// # Errors
    ///
    /// A body that is no JSON of this shape; the message shows the status and the body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, TestError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let body = String::from_utf8_lossy(&self.body);
            TestError::new(format!(
                "the body of the response does not decode as the expected type ({error}): {} {body}",
                self.status()
            ))
        })
    }
}
