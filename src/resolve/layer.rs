//! [`LayeredSessionLayer`].

use tower_layer::Layer;

use super::{preload::PreloadLayer, service::LayeredSession};
use crate::sessions::Sessions;

/// Gives every request a session, and every response the cookie that it needs.
///
/// At entry it notes where the cookie is and puts a loader into the request's extensions: nothing is looked up, opened
/// or stored until the session is asked for. It awaits nothing and boxes nothing, and it asks of the inner service, its
/// bodies and its error only what `tower::Service` does.
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
/// application and around a nested router, give a request one session and a response one cookie. The inner layer asks
/// [`identify`](crate::SessionsBuilder::identify) again, since a service between the two may have signed a user in: handles
/// of the inner layer have the new user, handles that the service between was given keep theirs, and the cookie is sealed
/// for the new user. An inner layer that sees other `Cookie` fields, or a request whose response head has left, begins
/// anew.
#[derive(Clone, Debug)]
pub struct LayeredSessionLayer {
    sessions: Sessions,
}

impl LayeredSessionLayer {
    /// A layer of these sessions. Writeback and jobs take the same.
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    /// The variant that loads the session before it calls the inner service, so that values declared with `resolve`
    /// are in the extensions even where a store or source has to be waited for. The layer asks `S: Clone` for this. See
    /// [`PreloadLayer`].
    pub fn preload(self) -> PreloadLayer {
        PreloadLayer::new(self.sessions)
    }
}

/// Makes `.layer(sessions)` say how it is written: the compiler shows the message of the bound that no service meets.
#[doc(hidden)]
impl<S: InnerOfSessions> Layer<S> for Sessions {
    type Service = LayeredSession<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LayeredSession::new(inner, self.clone())
    }
}

#[diagnostic::on_unimplemented(
    message = "`Sessions` is no layer",
    label = "write `LayeredSessionLayer::new(sessions)` here",
    note = "`Sessions` is the configuration that layers, `SessionWriteback` and jobs share"
)]
#[allow(unnameable_types)] // Nothing implements it.
pub trait InnerOfSessions {}

impl<S> Layer<S> for LayeredSessionLayer {
    type Service = LayeredSession<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LayeredSession::new(inner, self.sessions.clone())
    }
}
