//! The cookie tier: what the browser carries, sealed.
//!
//! A token's form, and what vouches for what, stands in [`seal`]; what is inside, in [`payload`].

use std::{borrow::Cow, sync::OnceLock};

use http::HeaderValue;

pub use self::same_site::SameSite;
use self::{
    budget::BUDGET,
    keyring::{KeyRing, Keys},
    payload::Payload,
    place::CookieScope,
    plaintext::PlaintextBuffer,
    seal::{Context, Purpose},
};
use crate::id::SessionId;

mod budget;
mod check;
pub(crate) mod fingerprint;
pub(crate) mod header;
pub(crate) mod keyring;
pub(crate) mod layout;
pub(crate) mod order;
pub(crate) mod payload;
mod place;
pub(crate) mod plaintext;
mod reader;
mod same_site;
pub(crate) mod seal;
pub(crate) mod set_cookie;

/// The browser's copy of the session: one sealed cookie, and the carrier of the session's id.
///
/// `__Host-session`, with `Path=/; Secure; HttpOnly; SameSite=Lax`, unless said otherwise. What is said is checked at
/// `build()`: browsers drop a cookie that breaks its prefix's rules without a word.
///
/// The attributes are those of this configuration for every request. Neither the scheme nor the host of a request changes
/// them, nor `Forwarded` or `X-Forwarded-Proto`: any client can send these fields. Behind a proxy that ends TLS the cookie is
/// `Secure` without a further setting.
///
/// `Max-Age` is a minute shorter than the session's remaining idle time (see [`idle`](crate::SessionsBuilder::idle)), or half of
/// it under two minutes: a browser whose clock runs late, or a response that was long on its way, is not to bring the cookie
/// of a session that is over. Browsers keep a cookie for 400 days at most, so that is the longest `Max-Age`.
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
/// assert!(header.ends_with("; SameSite=Strict; Secure; Path=/; Max-Age=172740"));
/// # Ok(()) }
/// ```
///
/// A chain without a shared store relies on it alone after a restart, and between nodes. It can't do two things: take
/// back a cookie before it expires on a node that did not see the logout, and reconcile two responses that a node
/// without memory of the session sealed at the same time. A chain without memory and a shared store takes back no cookie at
/// all: a copy opens after a logout too, until it expires.
#[derive(Clone, Debug)]
pub struct CookieTier {
    ring: KeyRing,
    name: Option<Cow<'static, str>>,
    place: CookieScope,
    /// Where earlier deploys put the cookie.
    former: Vec<CookieScope>,
    /// Bytes of the finished header.
    budget: usize,
    same_site: SameSite,
    /// Browsers keep a cookie for each site that embeds the application.
    partitioned: bool,
    plain_http: bool,
    /// Made for the first cookie, of what is said above.
    attributes: OnceLock<Box<str>>,
    /// The same for the first removals at former places.
    removals: OnceLock<Box<[HeaderValue]>>,
}

impl CookieTier {
    /// A cookie sealed under the first key of a ring, opened under any.
    pub const fn sealed(ring: KeyRing) -> Self {
        Self {
            ring,
            name: None,
            place: CookieScope::root(),
            former: Vec::new(),
            budget: BUDGET,
            same_site: SameSite::Lax,
            partitioned: false,
            plain_http: false,
            attributes: OnceLock::new(),
            removals: OnceLock::new(),
        }
    }

    /// Another name than `__Host-session`. Two layers in one stack need two names.
    #[must_use]
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// [`SameSite::Lax`] if not said.
    #[must_use]
    pub const fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Has browsers keep one cookie for each site that embeds the application (`Partitioned`), also where they block
    /// third-party cookies. Needs [`SameSite::None`].
    ///
    /// A user has a session of its own under each embedding site, and another where the application stands alone: a
    /// sign-in under one is not a sign-in under the others, and session values are not shared. The values of a principal
    /// are.
    ///
    /// Give the cookie another [`name`](Self::name) in the deploy that turns this on or off: the browser keeps the cookie
    /// of before beside the new one, and no response can remove the cookie of before.
    #[must_use]
    pub const fn partitioned(mut self) -> Self {
        self.partitioned = true;
        self
    }

    /// Another path than `/`, of up to 1,024 bytes. Needs a name without the prefix `__Host-`.
    ///
    /// The path says to which requests browsers bring the cookie. It does not confine the layer: a request outside of the path
    /// brings no cookie, so that a write there begins a session of its own, and the new cookie takes the place of the old
    /// one in the browser. Put the layer around the routes under the path alone.
    #[must_use]
    pub fn path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.place.path = path.into();
        self
    }

    /// Shares the cookie with the hosts of a domain, whose name has up to 255 bytes. Needs a name without the prefix `__Host-`.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<Cow<'static, str>>) -> Self {
        self.place.domain = Some(domain.into());
        self
    }

    /// Declares a place where an earlier deploy put the cookie: that deploy's `path`, and its `domain` or `None`. Call it
    /// once for each.
    ///
    /// Browsers tell cookies of one name apart by path and domain, so that a deploy which changes either leaves the old
    /// cookie beside the new one. Two tokens of one session are that session, of which the newest counts. Tokens of two
    /// sessions are none ([`CloseReason::Ambiguous`](crate::CloseReason::Ambiguous)): a sign-in is enough to get there. So every
    /// response that answers a token of ours with a cookie also removes the cookie at each declared place, and so does
    /// every response to a request with several tokens. Keep the declaration for as long as a session lives, the absolute
    /// lifetime.
    #[must_use]
    pub fn formerly<'a>(mut self, path: impl Into<Cow<'static, str>>, domain: impl Into<Option<&'a str>>) -> Self {
        let domain = domain.into().map(|domain| Cow::Owned(domain.to_owned()));
        self.former.push(CookieScope { path: path.into(), domain });
        self
    }

    /// The bytes that the finished `Set-Cookie` takes at most, with its name and its attributes: 3,000 unless told
    /// otherwise, from 1,000 to 3,800. Writes that would not fit are refused (`TooLarge`), with the bytes of JSON that would
    /// fit.
    ///
    /// With 3,000 bytes and the default attributes, one value whose name has five bytes, such as `theme`, may have so many
    /// bytes of JSON:
    ///
    /// | declared values | users | the session's value | the user's value |
    /// |---|---|--:|--:|
    /// | of session scope alone | none, or by `identify` | 1,998 | |
    /// | of session scope alone | by `identify_by` | 1,742 | |
    /// | of both scopes | by `identify` | 991 | 990 |
    /// | of both scopes | by `identify_by` | 735 | 990 |
    ///
    /// A further value takes 12 bytes and its name beside its JSON, a removed value its name and 10 bytes. Three bytes more of
    /// JSON take four bytes of the header.
    ///
    /// A proxy reads a whole response head into one buffer, of 4 kB in nginx's default, and answers 502 where the head is
    /// larger. Raise this only where no proxy in front has such a buffer.
    ///
    /// A deploy that lowers this loses nothing: a cookie that is over is still sent whole, and traced with its largest
    /// names. Writes pass that don't make their owner's part larger, and so does a sign-in within
    /// [`identity_room`](crate::SessionsBuilder::identity_room).
    ///
    /// A deploy that declares the first carried value of principal scope halves the session's part. A session that is
    /// fuller than the half can refuse a sign-in (`TooLarge`) until its values are fewer, and its oldest values may stay on
    /// the server alone once the user's part grows.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.budget = bytes;
        self
    }

    /// For development over plain http: no `Secure`, and `session` for the name. Browsers send such a cookie over any
    /// connection, where anyone on the way can read and replay it.
    ///
    /// Without this, browsers drop the cookie of a page on plain http, and a login there ends with the next request. Chrome and
    /// Firefox make an exception for loopback, versions of Safari do not. The first such answer to a POST off loopback is traced.
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

    /// Its name, to look for in requests.
    pub(crate) fn header_name(&self) -> header::Name {
        header::Name::new(self.cookie_name())
    }

    /// The requests with which browsers send the cookie.
    pub(crate) const fn sent(&self) -> SameSite {
        self.same_site
    }

    pub(crate) fn ring(&self) -> &KeyRing {
        &self.ring
    }

    fn context<'a>(&'a self, audience: &'a str, purpose: Purpose) -> Context<'a> {
        Context { cookie: self.cookie_name(), audience, purpose }
    }

    /// Adds the token of a payload to a text. Gives the generation of the ring that sealed it.
    ///
    /// # Errors
    ///
    /// Where the payload is longer than a cipher or a cookie takes.
    pub(crate) fn seal(
        &self,
        audience: &str,
        purpose: Purpose,
        id: &SessionId,
        payload: PlaintextBuffer,
        text: &mut Vec<u8>,
    ) -> Result<u64, seal::SealError> {
        let keys = self.ring.keys();
        seal::seal(&keys, self.context(audience, purpose), id, payload, text)?;
        Ok(keys.generation)
    }

    /// Opens a token, if the token is genuine and of this chain.
    pub(crate) fn open(&self, keys: &Keys, audience: &str, purpose: Purpose, token: &[u8]) -> Option<OpenedToken> {
        let opened = seal::open(keys, self.context(audience, purpose), token)?;
        let payload = Box::new(payload::read(opened.payload)?);
        Some(OpenedToken {
            id: opened.id,
            payload,
            retired: opened.standing == keyring::Standing::Retired,
            nonce: opened.nonce,
        })
    }
}

pub(crate) struct OpenedToken {
    pub(crate) id: SessionId,
    /// Boxed, so that the payload is not moved while its session is looked up.
    pub(crate) payload: Box<Payload>,
    /// Sealed under a key that only opens.
    pub(crate) retired: bool,
    /// The token's nonce, which no other token shares.
    pub(crate) nonce: [u8; layout::NONCE_LEN],
}
