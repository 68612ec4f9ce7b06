//! The methods of [`Session`] for the life of a session: use, lifetimes, sign-ins, renewals and ends.

use super::{
    Session, end, lifecycle,
    sign_in::{RenewByPage, SignIn},
};
use crate::{error::WriteError, record::life::Lifetime, value::SessionValue};

impl Session {
    /// Counts as a use of the session, as reads and writes do: for a socket whose frames show that a person is there.
    ///
    /// # Errors
    ///
    /// `Closed` once the session has ended, and if this request can't begin a session. Without a session `touch` does
    /// nothing.
    ///
    /// # Cancel safety
    ///
    /// The call waits only for a shared store, once per tenth of the idle lifetime, and a call that is dropped while it
    /// waits may not have counted the use. Otherwise the first poll completes the call.
    pub async fn touch(&self) -> Result<(), WriteError> {
        lifecycle::touch(self.touched()).await
    }

    /// Gives the session a lifetime of its own ("remember me"). Renewals keep the lifetime. The absolute part counts
    /// from the session's creation.
    ///
    /// A sign-in begins with the configured lifetime, or with the lifetime that this handle or a clone was given
    /// before: the "remember me" of one user ends at a sign-in of the next user.
    ///
    /// ```
    /// # use layered_session::{Lifetime, Session, SessionValue, WriteError};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct CurrentUser(u64);
    /// # impl SessionValue for CurrentUser { const NAME: &'static str = "user"; }
    /// async fn log_in(
    ///     session: Session,
    ///     user: CurrentUser,
    ///     remember_me: Option<Lifetime>,
    /// ) -> Result<(), WriteError> {
    ///     if let Some(lifetime) = remember_me {
    ///         session.set_lifetime(lifetime).await?;
    ///     }
    ///     session.sign_in(user).await
    /// }
    /// ```
    ///
    /// Without a session `set_lifetime` makes neither a record nor a cookie. The handle remembers the lifetime for the
    /// session that the handle begins next, by a first write or a sign-in. The handle forgets this lifetime at its own
    /// [`destroy`](Self::destroy). A session that a page's order begins ([`SignIn::by_page`]) gets the configured
    /// lifetime.
    ///
    /// # Errors
    ///
    /// `Closed` once the session has ended and this handle can't begin another session; `Invalid` on a job's handle;
    /// `HeadSent` in a chain without memory, once the response head has left; `Unavailable` if a shared store does not
    /// answer.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has either set the lifetime or changed nothing. With a shared store the store decides, and the next
    /// load asks the store.
    pub async fn set_lifetime(&self, lifetime: Lifetime) -> Result<(), WriteError> {
        lifecycle::set_lifetime(self.shared(), lifetime).await
    }

    /// Moves the session to a new id. Call `renew` whenever rights change (OWASP ASVS 7.2.4). The values and the
    /// lifetime stay. This handle, its clones and watches go along. Every other handle of the old id ends with
    /// [`CloseReason::Renewed`](crate::CloseReason::Renewed). The old id is dead at once, also if the response is lost:
    /// a browser that does not get the new id has lost its session.
    ///
    /// Without a session `renew` does nothing: no attacker could have planted an id. After this handle's own
    /// [`destroy`](Self::destroy) `renew` begins a new, empty session, even if the session had ended elsewhere
    /// before.
    ///
    /// # Errors
    ///
    /// - `Closed` once the session has ended otherwise: of two renewals at once the second gets `Closed(Renewed)`.
    ///   `Closed` too if the request can't begin a session: another site caused the request, or the request brought
    ///   tokens of several sessions.
    /// - `HeadSent` if the response head has left, on a socket or in a stream: no cookie can follow. See
    ///   [`renew_by_page`](Self::renew_by_page).
    /// - `Invalid` on a job's handle.
    /// - `Unavailable` if a shared store did not answer, or did not take the renewed session.
    ///
    /// # Cancel safety
    ///
    /// A dropped `renew` has either moved the session or changed nothing. With a shared store, a third outcome is
    /// possible for a `renew` that is dropped while the store ends the old id: the session has ended, and the user must
    /// sign in again.
    pub async fn renew(&self) -> Result<(), WriteError> {
        lifecycle::renew(self.shared()).await
    }

    /// Begins a renewal for the page to bring, for a handle whose response head has left: on a socket, in a stream or
    /// in a task. The page posts the renewal's token to the writeback endpoint, and the session moves to its new id
    /// there.
    ///
    /// Grant the rights that come with the renewal by [`with`](RenewByPage::with). Never `set` a right on a socket: the
    /// old id would have the right too, and an attacker may hold a cookie of the old id.
    ///
    /// ```
    /// # use layered_session::{RelayToken, Session, SessionValue, WriteError};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize)]
    /// struct Mfa(bool);
    /// # impl SessionValue for Mfa { const NAME: &'static str = "mfa"; }
    ///
    /// fn second_factor(live: &Session) -> Result<RelayToken, WriteError> {
    ///     live.renew_by_page().with(&Mfa(true)).token()
    /// }
    /// ```
    pub const fn renew_by_page(&self) -> RenewByPage<'_> {
        RenewByPage::new(self)
    }

    /// Signs a user in: renews the session and sets the value that `identify_by` names, in one step. The session's life
    /// begins anew, with the configured lifetime or with the lifetime that [`set_lifetime`](Self::set_lifetime) gave
    /// this handle before. An anonymous choice ends with the anonymous session, unless the sign-in adopts the choice:
    /// `session.sign_in(user).adopt::<Division>().await?`.
    ///
    /// On a socket or stream the page brings the sign-in: `session.sign_in(user).by_page()?` returns an order, the
    /// token that the page posts.
    ///
    /// A browser that loses the response keeps the cookie of the ended session. A second click on the login then signs
    /// the user in again, in a new session. The user's own values are there; the values of the session before are lost.
    ///
    /// A form of another site signs no user in: see [`SameSite`](crate::SameSite), and
    /// [`from_another_site`](SignIn::from_another_site) for the answer of an identity provider.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set). A user value beyond the room that
    /// [`identity_room`](crate::SessionsBuilder::identity_room) keeps may be `TooLarge` for a full session; a smaller
    /// user value is not. `Undeclared` if `identify_by` names another type or none; `HeadSent` if the response
    /// head has left; `Invalid` on a job's handle. The sign-in first reads the user's record from a shared store: while
    /// the store does not answer, no sign-in succeeds.
    ///
    /// # Cancel safety
    ///
    /// A dropped sign-in has either signed the user in or changed nothing, with two exceptions over a shared store: see
    /// [`SignIn`].
    pub fn sign_in<V: SessionValue>(&self, user: V) -> SignIn<'_> {
        SignIn::new(self, &user)
    }

    /// Signs out: another name of [`destroy`](Self::destroy).
    ///
    /// Write a message for the next page into a new session, even if the
    /// [session had ended elsewhere](crate::guide::login#a-browser-whose-session-was-ended-elsewhere):
    ///
    /// ```
    /// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions};
    /// # use serde::{Deserialize, Serialize};
    /// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
    /// #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// struct Flash(String);
    /// # impl SessionValue for Flash { const NAME: &'static str = "flash"; }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), layered_session::tier::BoxError> {
    /// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
    /// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).value::<Flash>();
    /// # let layer = LayeredSessionLayer::new(chain.build()?);
    /// # let service = layer.layer(service_fn(async |request: Request<()>| {
    /// # let session = Session::load(request.extensions()).await?;
    /// session.sign_out().await?;
    /// session.renew().await?; // a new, empty session
    /// session.set(Flash("Goodbye".into())).await?;
    /// assert_eq!(session.get(), Some(Flash("Goodbye".into())));
    /// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
    /// # service.oneshot(Request::new(())).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`destroy`](Self::destroy).
    ///
    /// # Cancel safety
    ///
    /// As [`destroy`](Self::destroy).
    pub async fn sign_out(&self) -> Result<(), WriteError> {
        self.destroy().await
    }

    /// Ends the session for good, on every tier, and removes the cookie with this response. From then on every handle
    /// of the session answers `Closed`, and every watch ends. Only this handle and its clones may
    /// [`renew`](Self::renew) or [`sign_in`](Self::sign_in) afterwards. The principal's own values stay. Without a
    /// session, or with a session that is over, `destroy` ends nothing.
    ///
    /// In a chain with neither memory nor a shared store only the removal of the cookie ends the session: a copy of
    /// the cookie opens until it expires.
    ///
    /// If the response head has left, the session ends at once, and [`relay`](Self::relay) of this handle gives the
    /// removal of the cookie for the page to bring. All orders of this handle ([`SignIn::by_page`],
    /// [`renew_by_page`](Self::renew_by_page)) become void.
    ///
    /// For a minute after a renewal by another request, a sign-out with the old id ends the renewed session. This holds
    /// on the node of the renewal and, over a shared store, on every node, and only if the same user was signed in
    /// before and after the renewal. With `identify`, this holds on the node of the renewal alone, and the request must
    /// be of the same user too. A session that a sign-in began stays.
    ///
    /// # Errors
    ///
    /// - `Closed` if the request brought cookies of several sessions, so that the user's own session is not known:
    ///   all of these sessions live on.
    /// - `Unavailable` if a shared store did not answer: the session may live on.
    /// - `HeadSent` in a chain without memory, once the response head has left.
    ///
    /// # Cancel safety
    ///
    /// A dropped `destroy` has either ended the session or left the session alive. With a shared store the store
    /// decides, and some orders of this handle may be void already: call `destroy` again.
    pub async fn destroy(&self) -> Result<(), WriteError> {
        end::destroy(self.shared()).await
    }

    /// Ends all sessions of this handle's principal, this session too: "sign out everywhere". The end of this session
    /// counts as this handle's own [`destroy`](Self::destroy), and also ends a session that another tab has just
    /// renewed. Other handles end with [`CloseReason::Revoked`](crate::CloseReason::Revoked).
    ///
    /// # Errors
    ///
    /// - `Invalid` if no user is signed in, and on a job's handle (see
    ///   [`Sessions::end_all_sessions`](crate::Sessions::end_all_sessions)).
    /// - `NoMemory` in a chain with neither a memory tier nor a shared store, before anything has changed.
    /// - `Closed` once the session has ended, and the errors of `destroy`.
    /// - `Unavailable` where a shared store did not answer. This session may have ended alone:
    ///   [`Sessions::end_all_sessions`](crate::Sessions::end_all_sessions) ends the others.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has ended all of the sessions or none. With a shared store the call may have ended this session
    /// alone: [`Sessions::end_all_sessions`](crate::Sessions::end_all_sessions) ends the others.
    pub async fn end_all_sessions(&self) -> Result<(), WriteError> {
        end::end_all_sessions(self.shared()).await
    }

    /// Ends all other sessions of this handle's principal and renews this session: "change the password and stay signed
    /// in". Copies of this session's old cookie no longer open either. Ask for the password again first (OWASP ASVS
    /// 7.5.2): otherwise the holder of a stolen session can sign the user out.
    ///
    /// The other sessions end first. A failure between the two steps ends this session too. So does another sign-in,
    /// renewal or sign-out of this session between the two steps, over a shared store only by another node: the call then
    /// fails with `Closed`. Of two such calls for one session, the second call of a node fails with `Closed`, and ends no
    /// session.
    ///
    /// # Errors
    ///
    /// As [`renew`](Self::renew), and as [`end_all_sessions`](Self::end_all_sessions).
    ///
    /// # Cancel safety
    ///
    /// A dropped call has done both steps or none. With a shared store the call may have ended the other sessions
    /// without the renewal; then this session has ended too.
    pub async fn end_other_sessions(&self) -> Result<(), WriteError> {
        end::end_other_sessions(self.shared()).await
    }
}
