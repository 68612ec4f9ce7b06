//! [`SignIn`] and [`RenewByPage`]: the sign-in, and the renewal for a page to bring.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use super::{Session, lifecycle::Site, relay::RelayToken, relay_out, sign_in_plan};
use crate::{
    config::Identity,
    error::{WriteError, WriteErrorKind},
    record::change::Mutation,
    value::{self, Scope, SessionValue, ValueIndex},
};

/// The sign-in that [`Session::sign_in`] prepares. Await the sign-in, or let the page bring the sign-in with
/// [`by_page`](Self::by_page).
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions, Principal};
/// # use serde::{Deserialize, Serialize};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// # struct User(String);
/// # impl SessionValue for User { const NAME: &'static str = "user"; }
/// # #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// # struct Mfa(bool);
/// # impl SessionValue for Mfa { const NAME: &'static str = "mfa"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Mfa>().identify_by::<User>(|user| Some(Principal::new(&user.0)));
/// # let layer = LayeredSessionLayer::new(chain.build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// session.sign_in(User("ada".into())).with(&Mfa(true)).await?;
/// assert_eq!(session.principal(), Some(Principal::new("ada")));
/// assert_eq!(session.get(), Some(Mfa(true)));
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # service.oneshot(Request::new(())).await?;
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// A sign-in changes nothing before the first poll. A dropped sign-in has either signed the user in or changed nothing.
/// With a shared store, two further outcomes are possible for a sign-in that is dropped while the store works: the user
/// is signed in without the [adopted](Self::adopt) values, or the old session has ended and no new session has begun.
/// After the second outcome the user must sign in again.
#[must_use = "no user is signed in until the sign-in is awaited, or its `by_page` token is brought"]
#[derive(Debug)]
pub struct SignIn<'a> {
    session: &'a Session,
    user: Result<Mutation, WriteError>,
    adopt: Vec<ValueIndex>,
    grants: Vec<Mutation>,
    site: Site,
}

impl<'a> SignIn<'a> {
    pub(super) fn new<V: SessionValue>(session: &'a Session, user: &V) -> Self {
        let (config, name) = (&session.shared().node.config, V::NAME);
        let undeclared = |message| Err(WriteError::new(WriteErrorKind::Undeclared, message));
        let user = match &config.identity {
            Identity::Value { index, .. } if config.schema.index_of::<V>() == Some(*index) => {
                let json = value::encode(user).map_err(|flaw| flaw.into_write_error(name));
                json.map(|json| Mutation::set(*index, name, json))
            }
            Identity::Value { .. } => {
                undeclared(format!("`{name}` can't sign a user in: use the type that `identify_by` names"))
            }
            Identity::Head(_) | Identity::Nobody => undeclared(format!(
                "`{name}` can't sign a user in: add `.identify_by::<..>(..)` with this type to `Sessions::builder()`"
            )),
        };
        Self { session, user, adopt: Vec::new(), grants: Vec::new(), site: Site::Own }
    }

    /// Copies an anonymous choice to the user, if the user has no `V` yet. Needs a `V` of principal scope. Without
    /// `adopt`, an anonymous choice ends with the anonymous session. If the user's record has no room for the anonymous
    /// choice, the sign-in fails (`TooLarge`) before anything changes. Only a choice that another node writes during the
    /// sign-in may fail later (`TooLarge`): the user is then signed in without the choice.
    pub fn adopt<V: SessionValue>(mut self) -> Self {
        let schema = &self.session.shared().node.config.schema;
        match schema.index_of::<V>().filter(|index| schema.get(*index).scope == Scope::Principal) {
            // An order has room for each name once.
            Some(index) if self.adopt.contains(&index) => {}
            Some(index) => self.adopt.push(index),
            None => {
                let message = format!("`{}` can't be adopted: declare the value with `Scope::Principal`", V::NAME);
                self.user = Err(WriteError::new(WriteErrorKind::Undeclared, message));
            }
        }
        self
    }

    /// Writes a value of session scope in the same step, under the new id alone: a copy of the old cookie never has the
    /// value. The value may take the part of
    /// [`SessionsBuilder::identity_room`](crate::SessionsBuilder::identity_room) that the user value leaves.
    pub fn with<V: SessionValue>(mut self, value: &V) -> Self {
        match grant(self.session, value) {
            Ok(change) => self.grants.push(change),
            Err(error) => self.user = Err(error),
        }
        self
    }

    /// Signs the user in even if another site caused the request and the browser may have withheld the cookie: for
    /// the `form_post` of SAML and OpenID Connect, and under [`SameSite::Strict`](crate::SameSite::Strict) for any
    /// answer of an identity provider. Elsewhere the setting changes nothing, and a cross-site upgrade stays refused.
    ///
    /// **Check first that the answer's `state` (or `RelayState`) was given to this very browser**, by a cookie of the
    /// application's own with `SameSite=None; Secure`. Without this check, any site can sign its visitors in as another
    /// user (login CSRF).
    pub const fn from_another_site(mut self) -> Self {
        self.site = Site::Another;
        self
    }

    /// Returns the sign-in as a token for the page to bring (an *order*), for a handle whose response head has left: on
    /// a socket, in a stream or in a task.
    ///
    /// The page brings the token to [`SessionWriteback`](crate::SessionWriteback), as the hook does with every
    /// [`RelayToken`], and the response to this request signs the user in. Until then nothing has changed. The order is
    /// worth a login: give the token to this handle's own page alone, over this handle's own socket.
    ///
    /// The order lives 60 seconds, begins one session at most, and is refused after a sign-out, after another sign-in,
    /// and after the end of all of the user's sessions. The session begins with the configured lifetime: for another
    /// lifetime call [`Session::set_lifetime`] in a request of the signed-in page. If one node makes an order and
    /// another node carries it out, the clocks of the two must be within a minute of each other. After a step back of
    /// its clock, a node considers its own orders older than they are, until the clock has caught up. Without a shared
    /// store, "at most one session" holds per node and process.
    ///
    /// # Errors
    ///
    /// As a sign-in in a request: `Closed`, `Invalid`, `TooLarge`, `Undeclared`. `TooLarge` also for an order of more
    /// than 12 KiB. `Invalid` on a job's handle, and for a ninth user on one handle, since a sign-out voids eight
    /// orders at most. `NoMemory` on a chain without memory, where no sign-out could end the session that the order
    /// begins.
    pub fn by_page(self) -> Result<RelayToken, WriteError> {
        let Self { session, user, adopt, grants, .. } = self;
        relay_out::order(session.shared(), Some(user?), grants, &adopt)
    }
}

/// A renewal for the page to bring. See [`Session::renew_by_page`].
#[must_use = "nothing happens until `token` makes the token for the page"]
#[derive(Debug)]
pub struct RenewByPage<'a> {
    session: &'a Session,
    grants: Result<Vec<Mutation>, WriteError>,
}

impl<'a> RenewByPage<'a> {
    pub(super) const fn new(session: &'a Session) -> Self {
        Self { session, grants: Ok(Vec::new()) }
    }

    /// Grants a value of session scope with the renewal. The value is sealed into the order, and written under the new
    /// id alone: a copy of the old cookie never has the value.
    pub fn with<V: SessionValue>(mut self, value: &V) -> Self {
        self.grants = self.grants.and_then(|mut grants| {
            grants.push(grant(self.session, value)?);
            Ok(grants)
        });
        self
    }

    /// Returns the renewal as a token for the page to bring, as [`SignIn::by_page`] does for a sign-in.
    ///
    /// # Errors
    ///
    /// `Closed` once the session has ended, `TooLarge` if the granted values would not fit the browser or an order of
    /// 12 KiB, `Undeclared`, `NoMemory` on a chain without memory, and `Invalid` if there is no session to renew, if a
    /// granted value can't be written by `with`, or if the handle has given orders for eight users already.
    pub fn token(self) -> Result<RelayToken, WriteError> {
        relay_out::order(self.session.shared(), None, self.grants?, &[])
    }
}

/// Returns the mutation of a value that a sign-in or a renewal writes.
fn grant<V: SessionValue>(session: &Session, value: &V) -> Result<Mutation, WriteError> {
    let change = session.written(value)?;
    if V::SCOPE != Scope::Session {
        let name = V::NAME;
        let message =
            format!("`with` can't write `{name}` in a sign-in or renewal: declare the value with `Scope::Session`");
        return Err(WriteError::new(WriteErrorKind::Invalid, message).named([V::NAME]));
    }
    Ok(change)
}

impl<'a> IntoFuture for SignIn<'a> {
    type Output = Result<(), WriteError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { session, user, adopt, grants, site } = self;
            sign_in_plan::sign_in(session.shared(), user?, &grants, &adopt, site).await
        })
    }
}
