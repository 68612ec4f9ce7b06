//! [`SameSite`]: the requests of other sites with which a browser sends the cookie.

/// The requests of other sites with which a browser sends the cookie.
///
/// A browser that withholds the cookie may hold a login all the same, and a session that such a request began would
/// replace that login. So under `Lax` and `Strict` a request that another site caused, and in which no token of ours
/// opens, reads computed tiers and begins no session: writes, `renew` and `sign_in` fail with
/// [`CloseReason::CrossSite`](crate::CloseReason::CrossSite). That closes login CSRF too. For an identity provider's answer see
/// [`SignIn::from_another_site`](crate::SignIn::from_another_site).
///
/// `Sec-Fetch-Site` tells other sites from our own. Without that field (old browsers, plain http off loopback), an
/// `Origin` that is neither the request's own authority nor a listed public origin counts as another site's; so does
/// `null`, which a page with `Referrer-Policy: no-referrer` sends. A request with neither field may begin a session: an
/// old browser's `<img>` passes, so a `GET` should write nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// Links and other top-level navigation by `GET` or `HEAD`. A first visit by a link may begin a session.
    #[default]
    Lax,
    /// None, so that a link from another site arrives signed out, and begins no session.
    Strict,
    /// All, for an application that other sites embed. Needs `Secure`, so not
    /// [`plain_http`](crate::CookieTier::plain_http). It gives up:
    ///
    /// - The rule above: a form, a frame or an image of another site arrives signed in, or begins a session, and the
    ///   application itself must tell such requests from its own. The writeback, event streams and sockets still do.
    /// - The second guard of sockets: `Origin` alone keeps other sites out, so that no proxy may remove `Origin`. A client
    ///   that sends none has no session
    ///   ([`upgrades_without_origin`](crate::SessionsBuilder::upgrades_without_origin)).
    /// - Browsers that block third-party cookies, unless the cookie is
    ///   [`partitioned`](crate::CookieTier::partitioned).
    ///
    /// A page of another host of the same site (`app.shop.example` and `api.shop.example`) needs none of this: browsers
    /// send it `Lax` and `Strict` cookies, and `public_origins` lists it.
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
