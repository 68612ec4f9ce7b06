//! The cookie tier: what the browser carries, sealed.
//!
//! A token's form, and what vouches for what, stands in [`seal`]; what is inside, in [`payload`].

use std::{borrow::Cow, convert::Infallible, fmt, iter, ops::Range, sync::OnceLock, time::Duration};

use http::HeaderValue;

pub use self::same_site::SameSite;
use self::{
    budget::{BUDGET, MAX_COOKIE, MIN_COOKIE},
    keyring::{KeyRing, Keys},
    payload::Payload,
    place::CookieScope,
    plaintext::PlaintextBuffer,
    seal::{Context, Purpose, sealed_len},
};
use crate::{
    error::{BuildError, BuildErrorKind},
    id::SessionId,
    record::life::MAX_AGE,
};

mod budget;
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
    partition: Partition,
    transport: Transport,
    /// Made for the first cookie, of what is said above.
    attributes: OnceLock<Box<str>>,
    /// The same for the first removals at former places.
    removals: OnceLock<Box<[HeaderValue]>>,
}

/// Whether a browser keeps one cookie, or one for each site that embeds the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Partition {
    None,
    ByEmbedder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Https,
    PlainHttp,
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
            partition: Partition::None,
            transport: Transport::Https,
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
        self.partition = Partition::ByEmbedder;
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
        self.transport = Transport::PlainHttp;
        self
    }

    pub(crate) fn cookie_name(&self) -> &str {
        match (&self.name, self.transport) {
            (Some(name), _) => name,
            (None, Transport::Https) => "__Host-session",
            (None, Transport::PlainHttp) => "session",
        }
    }

    pub(crate) const fn is_secure(&self) -> bool {
        matches!(self.transport, Transport::Https)
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

    /// What browsers would refuse, with its remedy.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let name = self.cookie_name();
        let refuse = |message: String| Err(BuildErrorKind::Cookie.error(message));
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_token_byte) {
            return refuse(format!("{name:?} is no cookie name: use up to 64 letters, digits, `-` and `_`"));
        }
        let prefix = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let plain = self.transport == Transport::PlainHttp;
        if plain && ["__Host-", "__Secure-", "__Http-"].into_iter().any(prefix) {
            return refuse(format!(
                "browsers refuse {name:?} without `Secure`: leave out `plain_http()`, or name it without a prefix"
            ));
        }
        if !(MIN_COOKIE..=MAX_COOKIE).contains(&self.budget) {
            return refuse(format!("`max_bytes` of {}: give from {MIN_COOKIE} to {MAX_COOKIE}", self.budget));
        }
        if plain && self.same_site == SameSite::None {
            return refuse("browsers refuse `SameSite=None` without `Secure`: leave out `plain_http()`".to_owned());
        }
        if self.partition == Partition::ByEmbedder && self.same_site != SameSite::None {
            return refuse(
                "`partitioned` is for applications that other sites embed: add `same_site(SameSite::None)`, or leave \
                 `partitioned` out"
                    .to_owned(),
            );
        }
        if prefix("__Host-") && !self.place.is_root() {
            return refuse(format!(
                "browsers refuse {name:?} with a domain, or a path other than `/`: name it `__Secure-session`"
            ));
        }
        if self.former.contains(&self.place) {
            return refuse(
                "`formerly` names the present place, where a removal would sign users out: leave it out".into(),
            );
        }
        if prefix("__Host-") && !self.former.is_empty() {
            return refuse(format!("a cookie named {name:?} never stood at another place: leave out `formerly`"));
        }
        let mut places = iter::once(&self.place).chain(&self.former);
        places.try_for_each(CookieScope::check).or_else(refuse)?;
        if !self.has_room() {
            return refuse("the cookie's path and domain leave no room for values: shorten them".to_owned());
        }
        Ok(())
    }

    /// `Set-Cookie` of what a session's browser is to carry, for a session that ends in so long. It is asked back 60 s
    /// earlier, so that a browser whose clock runs late does not show a session that is over.
    ///
    /// # Errors
    ///
    /// Where the payload is longer than a cookie takes.
    pub(crate) fn creation(
        &self,
        audience: &str,
        id: &SessionId,
        payload: PlaintextBuffer,
        ends_in: Option<Duration>,
    ) -> Result<Option<SetCookie>, seal::SealError> {
        let early = |left: Duration| left.saturating_sub(Duration::from_secs(60).min(left / 2));
        // Never `Max-Age=0`, which would be a removal.
        let max_age = ends_in.map(|left| early(left).clamp(Duration::from_secs(1), MAX_AGE));
        let len = sealed_len(payload.as_slice().len());
        let mut ring = 0;
        // Into the header at once: a token is hundreds of bytes, and would be copied and measured twice.
        let header = self.header(self.attributes(), len, max_age, |header| {
            ring = self.seal(audience, Purpose::Cookie, id, payload, header)?;
            Ok(())
        })?;
        let at = self.cookie_name().len() + 1;
        Ok(header.map(|header| SetCookie { header, token: at..at + len, ring }))
    }

    /// `Set-Cookie` of a removal: the attributes of the creation again, or the browser would not match it.
    pub(crate) fn removal(&self) -> Option<HeaderValue> {
        self.removal_with(self.attributes())
    }

    /// The same for each place where an earlier deploy put the cookie.
    pub(crate) fn former_removals(&self) -> &[HeaderValue] {
        self.removals.get_or_init(|| {
            let removal = |place: &CookieScope| self.removal_with(&place.attributes(self));
            self.former.iter().filter_map(removal).collect()
        })
    }

    fn removal_with(&self, attributes: &str) -> Option<HeaderValue> {
        let none = |_: &mut Vec<u8>| Ok::<_, Infallible>(());
        let Ok(header) = self.header(attributes, 0, Some(Duration::ZERO), none);
        header
    }

    /// Nothing but base64url and attributes checked at `build()` gets here, so there always is a header to give.
    fn header<E>(
        &self,
        attributes: &str,
        value_len: usize,
        max_age: Option<Duration>,
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Option<HeaderValue>, E> {
        let name = self.cookie_name();
        let mut digits = [0; 20];
        let max_age = max_age.map(|max_age| decimal(max_age.as_secs(), &mut digits));
        let asked = max_age.map_or(0, |seconds| MAX_AGE_IS.len() + seconds.len());
        // All of its length: what is left over would have to be counted apart, in memory of its own.
        let mut header = Vec::with_capacity(name.len() + 1 + value_len + attributes.len() + asked);
        header.extend_from_slice(name.as_bytes());
        header.push(b'=');
        value(&mut header)?;
        header.extend_from_slice(attributes.as_bytes());
        if let Some(seconds) = max_age {
            header.extend_from_slice(MAX_AGE_IS);
            header.extend_from_slice(seconds);
        }
        let Ok(mut header) = HeaderValue::try_from(header) else { return Ok(None) };
        header.set_sensitive(true);
        Ok(Some(header))
    }

    /// All but the value and `Max-Age`, which alone differ from one cookie to the next.
    fn attributes(&self) -> &str {
        self.attributes.get_or_init(|| self.place.attributes(self))
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

    /// What a token holds, if it is genuine and of this chain.
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

const MAX_AGE_IS: &[u8] = b"; Max-Age=";

/// A number's digits, at the end of as many as one can have. `write!` took 300 instructions for them.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The header that gives the browser its cookie.
pub(crate) struct SetCookie {
    pub(crate) header: HeaderValue,
    /// Where in the header the token stands.
    pub(crate) token: Range<usize>,
    /// The generation of the ring that sealed it.
    pub(crate) ring: u64,
}

pub(crate) struct OpenedToken {
    pub(crate) id: SessionId,
    /// Apart, so that it stays where it is while the session that it is of is looked for.
    pub(crate) payload: Box<Payload>,
    /// Sealed under a key that only opens.
    pub(crate) retired: bool,
    /// The token's nonce, which no other token shares.
    pub(crate) nonce: [u8; layout::NONCE_LEN],
}

impl fmt::Debug for OpenedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedToken").field("retired", &self.retired).finish_non_exhaustive()
    }
}

/// RFC 9110, 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier() -> CookieTier {
        CookieTier::sealed(KeyRing::generate().unwrap())
    }

    fn unsealed(payload: &[u8]) -> PlaintextBuffer {
        let mut unsealed = PlaintextBuffer::with_room(payload.len());
        unsealed.extend(payload);
        unsealed
    }

    /// The header that a creation of some token would be, the token left out but for a letter.
    fn creation(tier: &CookieTier, ends_in: Option<Duration>) -> String {
        let id = SessionId::mint().unwrap();
        let SetCookie { header, token, .. } = tier.creation("", &id, unsealed(b"7"), ends_in).unwrap().unwrap();
        assert!(header.is_sensitive());
        let text = header.to_str().unwrap();
        assert!(
            seal::open(&tier.ring.keys(), tier.context("", Purpose::Cookie), text[token.clone()].as_bytes()).is_some()
        );
        format!("{}t{}", &text[..token.start], &text[token.end..])
    }

    #[test]
    fn what_a_prefix_forbids_is_refused() {
        assert!(tier().check().is_ok());
        assert!(tier().plain_http().check().is_ok());
        for bad in [
            tier().name("__Host-x").plain_http(),
            tier().name("__secure-x").plain_http(),
            tier().same_site(SameSite::None).plain_http(),
            tier().partitioned(),
            tier().partitioned().same_site(SameSite::Strict),
            tier().partitioned().same_site(SameSite::None).plain_http(),
            tier().domain("example.org"),
            tier().path("/app"),
            tier().name("a b"),
            tier().name("a=b"),
            tier().name(""),
            tier().name("x").path("app"),
            tier().name("x").path("/a;b"),
            tier().name("x").domain("a;b"),
            tier().max_bytes(0),
            tier().max_bytes(999),
            tier().max_bytes(3_801),
            tier().name("x").path(format!("/{}", "a".repeat(600))).max_bytes(1_000),
        ] {
            assert_eq!(bad.check().unwrap_err().kind(), BuildErrorKind::Cookie, "{bad:?}");
        }
        assert!(tier().name("__Secure-x").domain("example.org").path("/app").check().is_ok());
    }

    #[test]
    fn a_removal_repeats_the_attributes_of_the_creation() {
        let tier = tier().name("x").domain("example.org").path("/app").same_site(SameSite::Strict);
        let text = |header: Option<HeaderValue>| header.unwrap().to_str().unwrap().to_owned();
        let creation = creation(&tier, Some(Duration::from_secs(3660)));
        assert_eq!(creation, "x=t; HttpOnly; SameSite=Strict; Secure; Path=/app; Domain=example.org; Max-Age=3600");
        let removal = text(tier.removal());
        assert_eq!(removal, "x=; HttpOnly; SameSite=Strict; Secure; Path=/app; Domain=example.org; Max-Age=0");
        let embedded = CookieTier::sealed(KeyRing::generate().unwrap()).same_site(SameSite::None).partitioned();
        let removal = text(embedded.removal());
        assert_eq!(removal, "__Host-session=; HttpOnly; SameSite=None; Partitioned; Secure; Path=/; Max-Age=0");
    }

    #[test]
    fn the_cookie_asks_for_no_more_than_400_days_and_short_lives_keep_half() {
        let text = |span| creation(&tier(), Some(span));
        assert!(text(Duration::from_secs(1000 * 86_400)).ends_with("Max-Age=34560000"));
        assert!(text(Duration::from_secs(30)).ends_with("Max-Age=15"));
        assert!(text(Duration::from_secs(1)).ends_with("Max-Age=1"));
        for seconds in [2, 18, 20, 199, 1_000, 10_059, 10_060, 34_560_060] {
            let asked = seconds - 60.min(seconds / 2);
            assert!(text(Duration::from_secs(seconds)).ends_with(&format!("; Max-Age={asked}")), "{seconds}");
        }
        assert!(!creation(&tier(), None).contains("Max-Age"));
    }
}
