//! [`CookieScope`]: the path and the domain of a cookie, and the rules of browsers for both.

use std::borrow::Cow;

use cookie::Cookie;

use super::CookieTier;

/// The most bytes of an attribute that browsers read (RFC 6265bis, 5.6). Browsers replace a longer path by the
/// directory of the request.
const MAX_PATH: usize = 1_024;

/// The most bytes of a domain name (RFC 1035, 2.3.4).
const MAX_DOMAIN: usize = 255;

/// The path and the domain, by which browsers distinguish cookies of one name (RFC 6265bis, 5.7).
#[derive(Clone, Debug)]
pub(super) struct CookieScope {
    pub(super) path: Cow<'static, str>,
    /// `None` limits the cookie to the host that set the cookie.
    pub(super) domain: Option<Cow<'static, str>>,
}

impl CookieScope {
    pub(super) const fn root() -> Self {
        Self { path: Cow::Borrowed("/"), domain: None }
    }

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
            format!("{path:?} is no cookie path: start with `/`, printable ASCII, no `;`")
        } else if path.len() > MAX_PATH {
            let len = path.len();
            format!("a cookie path of {len} bytes: browsers ignore attributes of over 1,024 bytes; use up to 1,024")
        } else if let Some(domain) = domain.filter(|domain| domain.len() > MAX_DOMAIN) {
            format!("a cookie domain of {} bytes: no host has so long a name; use up to 255", domain.len())
        } else if let Some(domain) = domain.filter(|domain| !is_domain(domain)) {
            format!("{domain:?} is no domain for cookies: give a host name, such as `example.org`")
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
