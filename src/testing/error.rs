//! [`TestError`]: the failure of a test's request or session.

use std::{borrow::Cow, error::Error, fmt};

use crate::error::BoxError;

/// The failure of a test's own request, response or session, with its cause as the source.
///
/// The status of a response is never an error: a test asserts on [`Response::status`](super::Response::status).
///
/// ```
/// # use {http::{Request, Response}, bytes::Bytes, http_body_util::Full, tower::service_fn};
/// use layered_session::{testing::{Client, TestError}, tier::BoxError};
///
/// # futures_util::future::FutureExt::now_or_never(async {
/// let broken = service_fn(async |_: Request<Full<Bytes>>| {
///     Err::<Response<Full<Bytes>>, BoxError>("the database is away".into())
/// });
/// let error: TestError = Client::new(broken).get("/").await.unwrap_err();
/// assert_eq!(error.to_string(), "the service failed: the database is away");
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct TestError {
    message: Cow<'static, str>,
    source: Option<BoxError>,
}

impl TestError {
    pub(super) fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), source: None }
    }

    pub(super) fn caused(message: &'static str, source: impl Into<BoxError>) -> Self {
        Self { message: message.into(), source: Some(source.into()) }
    }
}

/// The cause is part of the message, since a failing test shows nothing else.
impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl Error for TestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
