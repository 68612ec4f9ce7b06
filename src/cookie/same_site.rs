//! [`SameSite`]: the requests of other sites with which a browser sends the cookie.

/// The requests of other sites with which a browser sends the cookie.
///
/// A browser that withholds the cookie may still hold a signed-in session, and a new session of such a request would
/// replace the signed-in session. Under `Lax` and `Strict`, a request that another site caused, and that brings no
/// valid token, reads computed tiers and begins no session: writes, `renew` and `sign_in` fail with
/// [`CloseReason::CrossSite`](crate::CloseReason::CrossSite). The rule prevents login CSRF too. For an identity
/// provider's answer see [`SignIn::from_another_site`](crate::SignIn::from_another_site).
///
/// `Sec-Fetch-Site` tells the requests of other sites. Without this field (old browsers, plain http to a host other
/// than loopback), an `Origin` that is neither the request's own authority nor a listed public origin counts as another
/// site's. The `Origin` `null`, which a page with `Referrer-Policy: no-referrer` sends, counts as another site's too. A
/// request with neither field may begin a session: an old browser's `<img>` passes, so a `GET` should write nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// Browsers send the cookie with links and other top-level navigation by `GET` or `HEAD`. A first visit by a link
    /// may begin a session.
    #[default]
    Lax,
    /// Browsers send the cookie with no request of another site. A link from another site arrives signed out, and
    /// begins no session.
    Strict,
    /// Browsers send the cookie with all requests, for an application that other sites embed. Needs `Secure`, and so
    /// excludes [`plain_http`](crate::CookieTier::plain_http). `None` has three costs:
    ///
    /// - [`SameSite`]'s rule for requests of other sites does not apply: a form, a frame or an image of another site
    ///   arrives signed in, or begins a session, and the application itself must tell such requests from its own. The
    ///   writeback, event streams and sockets still refuse other sites.
    /// - Sockets lose their second guard: `Origin` alone keeps other sites out, so make sure that no proxy removes
    ///   `Origin`. A client that sends no `Origin` has no session
    ///   ([`upgrades_without_origin`](crate::SessionsBuilder::upgrades_without_origin)).
    /// - Browsers that block third-party cookies drop the cookie, unless the cookie is
    ///   [`partitioned`](crate::CookieTier::partitioned).
    ///
    /// A page of another host of the same site (`app.shop.example` and `api.shop.example`) does not need `None`:
    /// browsers send `Lax` and `Strict` cookies with the requests of such a page. List the page's origin in
    /// `public_origins`.
    None,
}

impl SameSite {
    pub(super) const fn attribute(self) -> cookie::SameSite {
        match self {
            Self::Lax => cookie::SameSite::Lax,
            Self::Strict => cookie::SameSite::Strict,
            Self::None => cookie::SameSite::None,
        }
    }
}
