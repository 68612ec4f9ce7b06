//! axum: extractors of the session and of single values, and the errors as responses.

use std::{error::Error, fmt};

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use crate::{
    error::{MissingSession, WriteError, retry_after},
    session::{Session, loader::LoaderHandle},
    value::SessionValue,
};

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = MissingSession;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingSession> {
        Self::load(&parts.extensions).await
    }
}

/// Extracts `None` without a layer. A shared store that doesn't answer is still a rejection: 503.
impl<S: Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = MissingSession;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, MissingSession> {
        // `Session::load` would trace a missing layer as a mistake of the application.
        if parts.extensions.get::<LoaderHandle>().is_none() {
            return Ok(None);
        }
        Self::load(&parts.extensions).await.map(Some)
    }
}

/// Extracts a value of the session in axum: the chain's answer, else `V::default()`, as [`Session::value`] does.
///
/// `Option<Value<V>>` extracts the chain's answer alone, as [`Session::get`] does, and needs no `Default`.
/// [`Required`] answers 401 if the value is missing. A handler can't take a bare `V`: axum offers a crate no way to
/// extract foreign types.
///
/// The extracted value is a copy of that moment. A handler that writes takes the [`Session`].
///
/// # Errors
///
/// [`MissingSession`]: 500 without a layer, 503 if the shared store doesn't answer.
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use layered_session::{
///     CookieTier, KeyRing, LayeredSessionLayer, SessionValue, Sessions, Value,
/// };
/// use serde::{Deserialize, Serialize};
/// # use {http_body_util::BodyExt, tower::ServiceExt};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Division(i64);
///
/// impl SessionValue for Division {
///     const NAME: &'static str = "division";
/// }
///
/// async fn page(Value(Division(id)): Value<Division>) -> String {
///     format!("division {id}")
/// }
///
/// let sessions = Sessions::builder()
///     .tier(CookieTier::sealed(KeyRing::generate()?))
///     .value::<Division>()
///     .build()?;
/// let app: Router = Router::new()
///     .route("/", get(page))
///     .layer(LayeredSessionLayer::new(sessions));
///
/// # futures_util::FutureExt::now_or_never(async {
/// let response = app.oneshot(Request::get("/").body(Body::empty())?).await?;
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "division 0");
/// # Ok::<_, layered_session::tier::BoxError>(()) }).ok_or("waits for nothing")??;
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // Handlers destructure the value in their arguments.
pub struct Value<V>(pub V);

impl<S: Sync, V: SessionValue + Default> FromRequestParts<S> for Value<V> {
    type Rejection = MissingSession;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingSession> {
        Session::load(&parts.extensions).await.map(|session| Self(session.value()))
    }
}

impl<S: Sync, V: SessionValue> OptionalFromRequestParts<S> for Value<V> {
    type Rejection = MissingSession;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, MissingSession> {
        Session::load(&parts.extensions).await.map(|session| session.get().map(Self))
    }
}

/// Extracts a value that a handler needs in axum, such as the signed-in user. A request without the value gets 401.
///
/// [`RequireLayer`](crate::RequireLayer) guards whole routers, and redirects to the login page. Behind the guard
/// `Required` hands the value to the handler.
///
/// # Errors
///
/// [`MissingValue`]: 401 without the value, 500 without a layer or for a type that was not declared, 503 if the
/// shared store doesn't answer. A handler that takes `Result<Required<V>, MissingValue>` answers by itself.
///
/// ```
/// use axum::{http::StatusCode, response::{IntoResponse, Redirect, Response}};
/// use layered_session::{MissingValue, Required, SessionValue};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct User(String);
///
/// impl SessionValue for User {
///     const NAME: &'static str = "user";
/// }
///
/// /// 401 for a stranger.
/// async fn account(Required(User(name)): Required<User>) -> String {
///     format!("The account of {name}")
/// }
///
/// /// The login page for a stranger, and a failure for a failure.
/// async fn basket(user: Result<Required<User>, MissingValue>) -> Response {
///     match user {
///         Ok(Required(User(name))) => name.into_response(),
///         Err(missing) if missing.status() == StatusCode::UNAUTHORIZED => {
///             Redirect::to("/login").into_response()
///         }
///         Err(missing) => missing.into_response(),
///     }
/// }
/// # let _: axum::Router = axum::Router::new()
/// #     .route("/account", axum::routing::get(account))
/// #     .route("/basket", axum::routing::get(basket));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // Handlers destructure the value in their arguments.
pub struct Required<V>(pub V);

impl<S: Sync, V: SessionValue> FromRequestParts<S> for Required<V> {
    type Rejection = MissingValue;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingValue> {
        let missing = |cause| MissingValue { name: V::NAME, cause };
        let session = Session::load(&parts.extensions).await.map_err(|error| missing(Cause::Session(error)))?;
        let cause = match session.declares::<V>() {
            true if session.is_degraded() => Cause::Store,
            true => Cause::Value,
            false => Cause::Declaration,
        };
        session.get().map(Self).ok_or_else(|| missing(cause))
    }
}

/// A request without the value of [`Required`]: the session lacks the value, or no session could be loaded.
#[derive(Debug)]
pub struct MissingValue {
    name: &'static str,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// The session lacks the value.
    Value,
    /// The session lacks the value, and the shared store did not answer.
    Store,
    /// The chain does not declare the value.
    Declaration,
    Session(MissingSession),
}

impl MissingValue {
    /// Returns the value's wire name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns 401 without the value; 500 without a layer and for a type that was not declared; 503 if the shared
    /// store doesn't answer.
    pub const fn status(&self) -> StatusCode {
        match &self.cause {
            Cause::Value => StatusCode::UNAUTHORIZED,
            Cause::Store => StatusCode::SERVICE_UNAVAILABLE,
            Cause::Declaration => StatusCode::INTERNAL_SERVER_ERROR,
            Cause::Session(missing) => missing.status(),
        }
    }
}

impl fmt::Display for MissingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Value => {
                write!(f, "the session has no value `{}`: a sign-in or a write must set the value first", self.name)
            }
            Cause::Store => {
                write!(f, "the shared store did not answer, so the session has no value `{}` for now", self.name)
            }
            Cause::Declaration => {
                write!(f, "`{}` is not declared: add `.value::<..>()` to `Sessions::builder()`", self.name)
            }
            Cause::Session(missing) => missing.fmt(f),
        }
    }
}

impl Error for MissingValue {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Session(missing) => missing.source(),
            Cause::Value | Cause::Store | Cause::Declaration => None,
        }
    }
}

/// Answers with the status of [`MissingValue::status`] and the message, and `Retry-After` beside 503.
impl IntoResponse for MissingValue {
    fn into_response(self) -> Response {
        response(self.status(), &self)
    }
}

/// Answers with the status of [`MissingSession::status`] and the message, and `Retry-After` beside 503.
impl IntoResponse for MissingSession {
    fn into_response(self) -> Response {
        response(self.status(), &self)
    }
}

/// Answers with the status of [`WriteError::status`] and the message, and `Retry-After` beside 503.
impl IntoResponse for WriteError {
    fn into_response(self) -> Response {
        response(self.status(), &self)
    }
}

fn response(status: StatusCode, error: &impl Error) -> Response {
    let mut response = (status, error.to_string()).into_response();
    response.headers_mut().extend(retry_after(status));
    response
}
