//! [`LayeredSessionLayer`]: the layer of a service stack.

use tower_layer::Layer;

use super::{preload::PreloadLayer, service::LayeredSession};
use crate::sessions::Sessions;

/// Gives every request a session, and every response the cookie that it needs.
///
/// At entry the layer notes the `Cookie` fields and puts a loader into the request's extensions. The loader looks up,
/// opens and stores nothing until a handler asks for the session. The layer awaits nothing and boxes no future, and its
/// bounds on the inner service, the bodies and the error are those of `tower::Service`.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, MemoryTier, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// use http::{Request, Response, header::SET_COOKIE};
/// use layered_session::{LayeredSessionLayer, Session, tier::BoxError};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Theme>();
/// # let sessions = chain.build()?;
/// let service = ServiceBuilder::new()
///     .layer(LayeredSessionLayer::new(sessions))
///     .service_fn(async |request: Request<String>| {
///         let session = Session::load(request.extensions()).await?;
///         session.set(Theme(request.into_body())).await?;
///         Ok::<_, BoxError>(Response::new(()))
///     });
///
/// let response = service.oneshot(Request::new("dark".to_owned())).await?;
/// assert!(response.headers().contains_key(SET_COOKIE));
/// # Ok(()) }
/// ```
///
/// # Several layers
///
/// Layers of two [`Sessions`] in one stack do not disturb each other. The same `Sessions` layered twice, around an
/// application and around a nested router, give a request one session and a response one cookie. The inner layer calls
/// [`identify`](crate::SessionsBuilder::identify) again, since a service between the two layers may have signed a user
/// in. Handles of the inner layer have the new user, and the cookie is sealed for the new user; handles of the service
/// between keep the former user. An inner layer begins anew if the request has other `Cookie` fields there, or if the
/// response head has left.
#[derive(Clone, Debug)]
pub struct LayeredSessionLayer {
    sessions: Sessions,
}

impl LayeredSessionLayer {
    /// Creates a layer of these sessions. Give clones of the same `Sessions` to the writeback and to jobs.
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    /// Returns the variant that loads the session before it calls the inner service: values declared with `resolve` are
    /// in the extensions even if the load waits for a store or source. The inner service must be `Clone`. See
    /// [`PreloadLayer`].
    pub fn preload(self) -> PreloadLayer {
        PreloadLayer { sessions: self.sessions }
    }
}

/// Makes the compiler explain a mistaken `.layer(sessions)`: no service meets the bound, and the compiler shows its
/// message.
#[doc(hidden)]
impl<S: InnerOfSessions> Layer<S> for Sessions {
    type Service = LayeredSession<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LayeredSession::new(inner, self.clone())
    }
}

#[diagnostic::on_unimplemented(
    message = "`Sessions` is not a layer",
    label = "write `LayeredSessionLayer::new(sessions)` here",
    note = "`Sessions` is the configuration that layers, `SessionWriteback` and jobs share"
)]
#[allow(unnameable_types)] // No type implements the trait.
pub trait InnerOfSessions {}

impl<S> Layer<S> for LayeredSessionLayer {
    type Service = LayeredSession<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LayeredSession::new(inner, self.sessions.clone())
    }
}
