//! [`SetCookie`]: the header that gives a browser its cookie, and the headers that remove cookies. [`CookieScope`]: the
//! path and the domain of a cookie, and the rules of browsers for both.

use std::{borrow::Cow, io::Write, ops::Range, time::Duration};

use cookie::Cookie;
use http::HeaderValue;

use super::{
    CookieTier,
    plaintext::PlaintextBuffer,
    seal::{self, Purpose, sealed_len},
};
use crate::{id::SessionId, record::life::MAX_AGE};

pub(super) const MAX_AGE_IS: &str = "; Max-Age=";

/// A `Set-Cookie` header that gives a browser its cookie.
pub(crate) struct SetCookie {
    pub(crate) header: HeaderValue,
    /// The token's place in the header.
    pub(crate) token: Range<usize>,
    /// The generation of the ring that sealed the token.
    pub(crate) ring: u64,
}

impl CookieTier {
    /// Returns the `Set-Cookie` with a sealed payload. `ends_in` is the session's remaining time; the cookie expires 60
    /// s earlier, or at half of the time under two minutes, so that a browser with a late clock brings no expired
    /// session. With `None` the cookie ends with the browser.
    ///
    /// # Errors
    ///
    /// Fails if the payload is longer than a cookie can hold.
    pub(crate) fn creation(
        &self,
        audience: &str,
        id: &SessionId,
        payload: PlaintextBuffer,
        ends_in: Option<Duration>,
    ) -> Result<Option<SetCookie>, seal::SealError> {
        let early = |left: Duration| left.saturating_sub(Duration::from_secs(60).min(left / 2));
        // At least 1: `Max-Age=0` would remove the cookie.
        let max_age = ends_in.map(|left| early(left).clamp(Duration::from_secs(1), MAX_AGE));
        let max_age = max_age.map(|max_age| max_age.as_secs());
        let digits = |seconds: u64| 1 + seconds.checked_ilog10().unwrap_or_default() as usize;
        let asked = max_age.map_or(0, |seconds| MAX_AGE_IS.len() + digits(seconds));
        let (name, attributes) = (self.cookie_name(), self.attributes());
        let at = name.len() + 1;
        let token = at..at + sealed_len(payload.as_slice().len());
        // The exact length: with spare capacity, `HeaderValue` would allocate a separate reference count.
        let mut header = Vec::with_capacity(token.end + attributes.len() + asked);
        header.extend_from_slice(name.as_bytes());
        header.push(b'=');
        // Sealed directly into the header, which saves a second copy of the token's hundreds of bytes.
        let ring = self.seal(audience, Purpose::Cookie, id, payload, &mut header)?;
        header.extend_from_slice(attributes.as_bytes());
        if let Some(seconds) = max_age {
            write!(header, "{MAX_AGE_IS}{seconds}").expect("a write to a `Vec` does not fail");
        }
        Ok(sensitive(header).map(|header| SetCookie { header, token, ring }))
    }

    /// Returns the `Set-Cookie` that removes the cookie. The attributes equal those of the creation: a browser matches
    /// the two cookies by path and domain.
    pub(crate) fn removal(&self) -> Option<HeaderValue> {
        self.removal_with(self.attributes())
    }

    /// Returns a cookie removal for each place at which an earlier deploy set the cookie.
    pub(crate) fn former_removals(&self) -> &[HeaderValue] {
        self.removals.get_or_init(|| {
            let removal = |place: &CookieScope| self.removal_with(&place.attributes(self));
            self.former.iter().filter_map(removal).collect()
        })
    }

    fn removal_with(&self, attributes: &str) -> Option<HeaderValue> {
        sensitive(format!("{}={attributes}{MAX_AGE_IS}0", self.cookie_name()).into())
    }

    /// Returns the attributes that all cookies of this tier share: all except `Max-Age`.
    pub(super) fn attributes(&self) -> &str {
        self.attributes.get_or_init(|| self.place.attributes(self))
    }
}

/// Makes a header of bytes, and marks the header as sensitive. The bytes are base64url and attributes that `build()`
/// has checked, so the header is always valid.
fn sensitive(header: Vec<u8>) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(header).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The maximum bytes of an attribute that browsers read (RFC 6265bis, 5.6). Browsers replace a longer path by the
/// directory of the request.
const MAX_PATH: usize = 1_024;

/// The maximum bytes of a domain name (RFC 1035, 2.3.4).
const MAX_DOMAIN: usize = 255;

/// The path and the domain, by which browsers distinguish cookies of one name (RFC 6265bis, 5.7).
#[derive(Clone, Debug)]
pub(super) struct CookieScope {
    pub(super) path: Cow<'static, str>,
    /// `None` limits the cookie to the host that set the cookie.
    pub(super) domain: Option<Cow<'static, str>>,
}

impl CookieScope {
    /// Whether browsers accept a cookie with this path and domain whose name begins with `__Host-`.
    pub(super) fn is_root(&self) -> bool {
        self.domain.is_none() && self.path == "/"
    }

    /// Returns the attributes of a tier's `Set-Cookie` for this path and domain, without `Max-Age`.
    pub(super) fn attributes(&self, tier: &CookieTier) -> Box<str> {
        let mut cookie = Cookie::build((tier.cookie_name(), ""))
            .path(&*self.path)
            .http_only(true)
            .secure(tier.is_secure())
            .same_site(tier.same_site.attribute())
            .partitioned(tier.partitioned);
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(&**domain);
        }
        let cookie = cookie.build().to_string();
        cookie[tier.cookie_name().len() + 1..].into()
    }

    /// Describes the first attribute that browsers would misread, with the remedy.
    pub(super) fn flaw(&self) -> Option<String> {
        let Self { path, domain } = self;
        let domain = domain.as_deref();
        Some(if !path.starts_with('/') || !path.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b';') {
            format!(
                "{path:?} can't be a cookie's path: use a path that begins with `/`, of printable ASCII without a \
                 space and without `;`"
            )
        } else if path.len() > MAX_PATH {
            let len = path.len();
            format!(
                "a cookie's path has {len} bytes, and browsers ignore a path of more than 1,024 bytes: use up to 1,024"
            )
        } else if let Some(domain) = domain.filter(|domain| domain.len() > MAX_DOMAIN) {
            format!("a cookie's domain has {} bytes, and a host's name has at most 255: use up to 255", domain.len())
        } else if let Some(domain) = domain.filter(|domain| !is_domain(domain)) {
            format!("{domain:?} can't be a cookie's domain: give a host name, such as `example.org`")
        } else {
            return None;
        })
    }
}

/// Whether a domain is a host name of at least two labels. Browsers refuse a cookie of a bare top-level name (RFC
/// 6265bis, 5.7), and ignore a leading dot.
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let name = domain.strip_prefix('.').unwrap_or(domain);
    name.contains('.') && name.split('.').all(is_label)
}

/// Compares as browsers do: paths exactly, domains without case and without a leading dot.
impl PartialEq for CookieScope {
    fn eq(&self, other: &Self) -> bool {
        let domain = |place: &Self| {
            let domain = place.domain.as_deref()?;
            Some(domain.strip_prefix('.').unwrap_or(domain).to_ascii_lowercase())
        };
        self.path == other.path && domain(self) == domain(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::{KeyRing, SameSite};

    fn tier() -> CookieTier {
        CookieTier::sealed(KeyRing::generate().unwrap())
    }

    fn unsealed(payload: &[u8]) -> PlaintextBuffer {
        let mut unsealed = PlaintextBuffer::with_room(payload.len());
        unsealed.extend(payload);
        unsealed
    }

    /// Returns the header of a creation, with the letter `t` in place of the token.
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
    fn removal_repeats_cookie_attributes() {
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
    fn max_age_is_shortened_and_capped() {
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
