//! The cookie tier: the sealed cookie that a browser carries.
//!
//! [`seal`] describes the form of a token, and the fields that the seal authenticates; [`payload`] describes the
//! content.

use std::{borrow::Cow, sync::OnceLock};

use http::HeaderValue;

pub use self::same_site::SameSite;
pub(crate) use self::seal::OpenedToken;
use self::{budget::BUDGET, keyring::KeyRing, set_cookie::CookieScope};

mod budget;
mod check;
pub(crate) mod fingerprint;
pub(crate) mod header;
pub(crate) mod keyring;
pub(crate) mod layout;
pub(crate) mod order;
pub(crate) mod payload;
pub(crate) mod plaintext;
mod reader;
mod same_site;
pub(crate) mod seal;
pub(crate) mod set_cookie;

/// The browser's copy of the session: one sealed cookie, which also carries the session's id.
///
/// By default the name is `__Host-session`, with `Path=/; Secure; HttpOnly; SameSite=Lax`. `build()` checks the
/// settings, since browsers silently drop a cookie that breaks the rules of its prefix.
///
/// The attributes come from this configuration alone, for every request. Neither the scheme nor the host of a request
/// changes them, nor `Forwarded` or `X-Forwarded-Proto`: any client can send these fields. Behind a proxy that ends TLS
/// the cookie is `Secure` without a further setting.
///
/// `Max-Age` is a minute shorter than the session's remaining time (see [`idle`](crate::SessionsBuilder::idle)),
/// or half of the remaining time under two minutes. Otherwise a browser with a late clock, or after a slow response,
/// would still bring the cookie of an expired session. Browsers keep a cookie for 400 days at most, so 400 days is the
/// longest `Max-Age`.
///
/// ```
/// # use layered_session::{KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions};
/// # use serde::{Deserialize, Serialize};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// use http::header::SET_COOKIE;
/// use layered_session::{CookieTier, SameSite};
///
/// # #[derive(Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// # let keys = KeyRing::generate()?;
/// let cookie = CookieTier::sealed(keys).same_site(SameSite::Strict);
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let layer = LayeredSessionLayer::new(chain.tier(cookie).value::<Theme>().build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// # session.set(Theme("dark".into())).await?;
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # let response = service.oneshot(Request::new(())).await?;
/// let header = response.headers()[SET_COOKIE].to_str()?; // of the first write's response
/// assert!(header.starts_with("__Host-session="));
/// assert!(header.contains("; SameSite=Strict; Secure; Path=/; Max-Age=1727"));
/// # Ok(()) }
/// ```
///
/// Without a shared store, the cookie alone carries a session over a restart, and between nodes. The cookie tier can't
/// do two things: revoke a cookie before its expiry on a node that did not see the sign-out, and merge two responses
/// that a node without memory of the session sealed at the same time. A chain with neither memory nor a shared store
/// can't revoke any cookie: a copy of the cookie opens after a sign-out too, until the session in the copy expires.
#[derive(Clone, Debug)]
pub struct CookieTier {
    ring: KeyRing,
    name: Option<Cow<'static, str>>,
    place: CookieScope,
    /// The paths and domains at which earlier deploys set the cookie.
    former: Vec<CookieScope>,
    /// The maximum bytes of the finished header.
    budget: usize,
    pub(crate) same_site: SameSite,
    /// Whether browsers keep a cookie for each site that embeds the application.
    partitioned: bool,
    plain_http: bool,
    /// The attributes, built from the other settings for the first cookie.
    attributes: OnceLock<Box<str>>,
    /// The cookie removals at the former places, built at their first use.
    removals: OnceLock<Box<[HeaderValue]>>,
}

impl CookieTier {
    /// A cookie that the first key of a ring seals, and that every key of the ring opens.
    pub const fn sealed(ring: KeyRing) -> Self {
        Self {
            ring,
            name: None,
            place: CookieScope { path: Cow::Borrowed("/"), domain: None },
            former: Vec::new(),
            budget: BUDGET,
            same_site: SameSite::Lax,
            partitioned: false,
            plain_http: false,
            attributes: OnceLock::new(),
            removals: OnceLock::new(),
        }
    }

    /// Sets the cookie's name, by default `__Host-session`. Two layers in one stack need two names.
    #[must_use]
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the `SameSite` attribute, by default [`SameSite::Lax`].
    #[must_use]
    pub const fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Makes browsers keep a separate cookie for each site that embeds the application (`Partitioned`), even if the
    /// browsers block third-party cookies. Needs [`SameSite::None`].
    ///
    /// A user has a separate session under each embedding site, and another session if no site embeds the
    /// application. A sign-in counts for one of these sessions alone. The sessions don't share session values, but
    /// share the values of the principal.
    ///
    /// Give the cookie another [`name`](Self::name) in the deploy that turns this setting on or off: the browser keeps
    /// the earlier cookie beside the new cookie, and no response can remove the earlier cookie.
    #[must_use]
    pub const fn partitioned(mut self) -> Self {
        self.partitioned = true;
        self
    }

    /// Sets the cookie's path, by default `/`, of up to 1,024 bytes. Needs a name without the prefix `__Host-`.
    ///
    /// The path decides to which requests browsers bring the cookie. The path does not confine the layer: a request
    /// outside of the path brings no cookie, so a write there begins a new session, whose cookie replaces the earlier
    /// cookie in the browser. Put the layer around the routes under the path alone.
    #[must_use]
    pub fn path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.place.path = path.into();
        self
    }

    /// Shares the cookie with the hosts of a domain, whose name has up to 255 bytes. Needs a cookie name without the
    /// prefix `__Host-`.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<Cow<'static, str>>) -> Self {
        self.place.domain = Some(domain.into());
        self
    }

    /// Declares a place at which an earlier deploy set the cookie: that deploy's `path`, and its `domain` or `None`.
    /// Call `formerly` once for each such place.
    ///
    /// Browsers distinguish cookies of one name by path and domain. A deploy that changes the path or the domain leaves
    /// the earlier cookie beside the new cookie. Of two tokens of one session, the newer token counts. Tokens of two
    /// sessions, as after a sign-in, give no session ([`CloseReason::Ambiguous`](crate::CloseReason::Ambiguous)). For
    /// this reason each response that answers a token of this application with a cookie also removes the cookie at each
    /// declared place, and so does each response to a request with several tokens. Keep the declaration for the
    /// absolute lifetime of a session.
    #[must_use]
    pub fn formerly<'a>(mut self, path: impl Into<Cow<'static, str>>, domain: impl Into<Option<&'a str>>) -> Self {
        let domain = domain.into().map(|domain| Cow::Owned(domain.to_owned()));
        self.former.push(CookieScope { path: path.into(), domain });
        self
    }

    /// Sets the maximum bytes of the finished `Set-Cookie`, with name and attributes: from 1,000 to 3,800, by default
    /// 3,000. A write that does not fit is refused (`TooLarge`), and the error tells how many bytes of JSON fit.
    ///
    /// With 3,000 bytes and the default attributes, one value whose name has five bytes, such as `theme`, has room for
    /// this much JSON, in bytes:
    ///
    /// | scopes of the declared values | setting that names the user | session's value | user's value |
    /// |---|---|--:|--:|
    /// | session | none, or `identify` | 1,998 | |
    /// | session | `identify_by` | 1,742 | |
    /// | session and principal | `identify` | 991 | 990 |
    /// | session and principal | `identify_by` | 735 | 990 |
    ///
    /// Each further value takes 12 bytes plus the bytes of its name and of its JSON. A removed value takes 10 bytes
    /// plus the bytes of its name. Three bytes of JSON take four bytes of the header.
    ///
    /// A proxy reads a whole response head into one buffer, of 4 kB in nginx's default, and answers 502 if the head is
    /// larger. Raise the budget only if no proxy in front has such a buffer.
    ///
    /// A deploy that lowers the budget loses no value: a cookie over the budget is still sent whole, and a trace names
    /// the largest values. A write passes if the write does not make its owner's part larger. A sign-in passes within
    /// [`identity_room`](crate::SessionsBuilder::identity_room).
    ///
    /// If no declared value of principal scope has copies in the browser, the session's values may take the whole room.
    /// Otherwise the session and the user have one half each. So a deploy that declares the first such value halves the
    /// session's part. In an older session whose values take more than this half, a sign-in may fail (`TooLarge`) until
    /// the application has removed some of the values. If the values of the session and of the user together outgrow
    /// even the largest cookie (3,800 bytes), the cookie leaves out the oldest values: their only copies are then on
    /// the server.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.budget = bytes;
        self
    }

    /// Allows development over plain http: leaves `Secure` out, and names the cookie `session` by default. Browsers
    /// send such a cookie over any connection, and anyone on the way can read and replay the cookie.
    ///
    /// Without this setting the cookie is `Secure`. Browsers drop a `Secure` cookie for a page on plain http, so a
    /// sign-in on such a page is lost at the next request. On loopback, Chrome and Firefox keep the cookie, and some
    /// versions of Safari drop the cookie. The layer traces a warning for the first response that sets the cookie after
    /// a POST of a page on plain http, unless the page is on loopback.
    #[must_use]
    pub const fn plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    pub(crate) fn cookie_name(&self) -> &str {
        self.name.as_deref().unwrap_or(if self.plain_http { "session" } else { "__Host-session" })
    }

    pub(crate) const fn is_secure(&self) -> bool {
        !self.plain_http
    }

    pub(crate) fn ring(&self) -> &KeyRing {
        &self.ring
    }
}
