//! [`ClientRequest`]: a request of a test's browser, with the fields that browsers send by themselves.

use std::{
    fmt,
    future::{Future, IntoFuture, poll_fn},
    pin::Pin,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_TYPE, COOKIE, HOST, ORIGIN},
    request,
};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use tower_service::Service;

use super::{
    client::Client,
    error::TestError,
    jar::Cause,
    response::Response,
    target::{Relation, Target},
};
use crate::error::BoxError;

/// A request of a [`Client`]: await it for the [`Response`].
#[must_use = "nothing is sent until the request is awaited"]
pub struct ClientRequest<S, B = Full<Bytes>> {
    client: Client<S, B>,
    head: request::Builder,
    body: Result<Bytes, TestError>,
    /// Whether a link or a form causes the request, and not a script.
    navigation: bool,
}

impl<S: Clone, B> Client<S, B> {
    /// Begins a `GET`, as a link does.
    pub fn get(&self, path: &str) -> ClientRequest<S, B> {
        self.request(Method::GET, path)
    }

    /// Begins a `POST`, as a form does unless the body is JSON.
    pub fn post(&self, path: &str) -> ClientRequest<S, B> {
        self.request(Method::POST, path)
    }

    /// Begins a request of any method for a path, which begins with `/` and may have a query.
    pub fn request(&self, method: Method, path: &str) -> ClientRequest<S, B> {
        let navigation = method == Method::GET || method == Method::HEAD || method == Method::POST;
        let head = Request::builder().method(method).uri(path);
        ClientRequest { client: self.tab(), head, body: Ok(Bytes::new()), navigation }
    }
}

impl<S, B> ClientRequest<S, B> {
    /// Adds a header field. The field replaces the field of the same name that the browser sends by itself, such as
    /// `Host`, `Origin` or `Cookie`.
    pub fn header<K, V>(mut self, name: K, value: V) -> Self
    where
        K: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        self.head = self.head.header(name, value);
        self
    }

    /// Gives the request an extension, as an outer layer would.
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self, extension: T) -> Self {
        self.head = self.head.extension(extension);
        self
    }

    /// Sends bytes as they are. Set their content type by [`header`](Self::header).
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Ok(body.into());
        self
    }

    /// Sends the fields of a form.
    ///
    /// ```
    /// # use {http::{Request, Response}, bytes::Bytes, http_body_util::{BodyExt, Full}, tower::service_fn};
    /// # use layered_session::tier::BoxError;
    /// use layered_session::testing::Client;
    ///
    /// let echo = service_fn(async |request: Request<Full<Bytes>>| {
    ///     Ok::<_, BoxError>(Response::new(request.into_body()))
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let form = [("name", "Ada & Bob"), ("city", "Köln")];
    /// let sent = Client::new(echo).post("/").form(form).await?;
    /// assert_eq!(sent.text()?, "name=Ada+%26+Bob&city=K%C3%B6ln");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    pub fn form<K: AsRef<str>, V: AsRef<str>>(mut self, fields: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut body = String::new();
        for (name, value) in fields {
            if !body.is_empty() {
                body.push('&');
            }
            encode(name.as_ref(), &mut body);
            body.push('=');
            encode(value.as_ref(), &mut body);
        }
        self.body = Ok(body.into());
        self.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
    }

    /// Sends a value as JSON, as a page's script does.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        let json = serde_json::to_vec(value).map(Bytes::from);
        self.body = json.map_err(|error| TestError::caused("the value can't be encoded as JSON", error));
        self.navigation = false;
        self.header(CONTENT_TYPE, "application/json")
    }
}

impl<S, B: From<Bytes>> ClientRequest<S, B> {
    /// Sends the request, and returns the response with its body unread: for event streams. The jar already has the
    /// cookies of the response.
    ///
    /// ```
    /// # use {http::{Request, Response}, bytes::Bytes, http_body_util::Full, tower::service_fn};
    /// # use layered_session::tier::BoxError;
    /// use http_body_util::BodyExt;
    /// use layered_session::testing::Client;
    ///
    /// let events = service_fn(async |_: Request<Full<Bytes>>| {
    ///     Ok::<_, BoxError>(Response::new("data: 1\n\n".to_owned()))
    /// });
    /// # futures_util::future::FutureExt::now_or_never(async {
    /// let mut body = Client::new(events).get("/events").stream().await?.into_body();
    /// let frame = body.frame().await.ok_or("the first event")??;
    /// assert_eq!(frame.data_ref().ok_or("data")?, "data: 1\n\n");
    /// # Ok::<_, BoxError>(()) }).unwrap().unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// A request that can't be built, or a service that fails.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the service may have seen the request, and the jar is as before.
    pub async fn stream<R>(self) -> Result<http::Response<R>, TestError>
    where
        S: Service<Request<B>, Response = http::Response<R>, Error: Into<BoxError>> + Clone,
    {
        let Self { mut client, head, body, navigation } = self;
        let none = |error: http::Error| TestError::caused("the request can't be built", error);
        let mut request = head.body(body?.into()).map_err(none)?;
        if !request.uri().path().starts_with('/') || request.uri().host().is_some() {
            return Err(TestError::new(format!("`{}` is not a path: give a path that begins with `/`", request.uri())));
        }
        let target = absolute(&client.origin)?.at(request.uri());
        let page = client.page.as_deref().map(absolute).transpose()?;
        let relation = page.as_ref().map_or(Relation::SameOrigin, |page| page.relation_to(&target));
        let cause = Cause { relation, navigation, safe: request.method().is_safe() };
        let now = client.now();
        let cookies = client.with_jar(|jar| jar.field_for(&target, now, cause));
        dress(&mut request, &target, page.as_ref().unwrap_or(&target), cause, cookies);

        let failed = |error: S::Error| TestError::caused("the service failed", error);
        poll_fn(|cx| client.service.poll_ready(cx)).await.map_err(failed)?;
        let response = client.service.call(request).await.map_err(failed)?;
        let now = client.now();
        client.with_jar(|jar| jar.take_from(&target, response.headers(), now, cause));
        Ok(response)
    }
}

/// # Errors
///
/// A request that can't be built, a service that fails, or a body that ends in an error. A status is no error.
///
/// # Cancel safety
///
/// If the future is dropped, the service may have seen the request. The jar is as before, or has taken the cookies of
/// the response.
impl<S, B, R> IntoFuture for ClientRequest<S, B>
where
    S: Service<Request<B>, Response = http::Response<R>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    B: From<Bytes> + Send + 'static,
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Output = Result<Response, TestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            let (head, body) = self.stream().await?.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| TestError::caused("the body of the response ended with an error", error))?;
            Ok(Response::new(head, body.to_bytes()))
        })
    }
}

/// Reads an origin: a URL of a scheme and a host.
fn absolute(origin: &str) -> Result<Target, TestError> {
    let url: Uri = origin
        .parse()
        .map_err(|error| TestError::caused("the client's origin is not a URL", http::Error::from(error)))?;
    match (url.scheme(), url.host()) {
        (Some(_), Some(_)) => Ok(Target::of(&url)),
        _ => Err(TestError::new(format!(
            "`{origin}` is not an origin: give a scheme and a host, such as `https://example.test`"
        ))),
    }
}

/// Adds the fields that a browser sends by itself (Fetch, 2.2 and 4.6), except for fields that the test has set.
fn dress<B>(request: &mut Request<B>, target: &Target, page: &Target, cause: Cause, cookies: Option<HeaderValue>) {
    let sends_origin = !(request.method() == Method::GET || request.method() == Method::HEAD);
    let headers = request.headers_mut();
    add(headers, HOST, &target.authority);
    if sends_origin || !cause.navigation && cause.relation != Relation::SameOrigin {
        add(headers, ORIGIN, &page.origin());
    }
    if target.is_trustworthy() {
        let (mode, dest) = if cause.navigation { ("navigate", "document") } else { ("cors", "empty") };
        add(headers, HeaderName::from_static("sec-fetch-site"), cause.relation.name());
        add(headers, HeaderName::from_static("sec-fetch-mode"), mode);
        add(headers, HeaderName::from_static("sec-fetch-dest"), dest);
    }
    if let Some(cookies) = cookies {
        headers.entry(COOKIE).or_insert(cookies);
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        headers.entry(name).or_insert(value);
    }
}

/// Encodes text as forms do (URL Standard, `application/x-www-form-urlencoded` serializing).
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => into.push(char::from(byte)),
            b' ' => into.push('+'),
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

impl<S, B> fmt::Debug for ClientRequest<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRequest").field("client", &self.client).field("head", &self.head).finish_non_exhaustive()
    }
}
