//! The testing kit, as tests of an application use the kit.
//!
//! - `client`: requests with the headers and cookies of a browser
//! - `conformance`: the suite over an application's own store
//! - `session`: sessions without a server
//! - `store`: a store that fails, waits or forgets on demand

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use layered_session::{
    CookieTier, LayeredSession, LayeredSessionLayer, MemoryTier, Session, Sessions, SessionsBuilder, tier::BoxError,
};
use tower::{Layer, Service, service_fn};

use crate::support::{Division, Theme, User, named, ring};

mod client;
mod conformance;
mod session;
mod store;

/// A chain with the cookie tier, and optionally memory, which identifies users by [`User`].
fn chain(memory: bool) -> SessionsBuilder {
    let builder = Sessions::builder();
    let builder = if memory { builder.tier(MemoryTier::builder().build()) } else { builder };
    builder.tier(CookieTier::sealed(ring())).value::<Theme>().value::<Division>().identify_by::<User>(named)
}

/// Answers `POST` with the theme of the body after the write, and `GET` with the session's theme.
async fn theme(request: Request<Full<Bytes>>) -> Result<Response<String>, BoxError> {
    let session = Session::load(request.extensions()).await?;
    if request.method() == http::Method::POST {
        let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
        session.set(Theme(String::from_utf8(body.to_vec())?)).await?;
    }
    Ok(Response::new(session.value::<Theme>().0))
}

/// The service of [`theme`] behind its layer.
fn app(
    chain: SessionsBuilder,
) -> LayeredSession<
    impl Service<Request<Full<Bytes>>, Response = Response<String>, Error = BoxError, Future: Send> + Clone + Send,
> {
    LayeredSessionLayer::new(chain.build().unwrap()).layer(service_fn(theme))
}
