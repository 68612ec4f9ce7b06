//! [`Target`]: the parts of a URL by which a browser keeps its cookies and its sites apart.

use std::net::Ipv4Addr;

use http::Uri;

/// The host for a URL without a host.
const HOST: &str = "example.test";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    scheme: String,
    /// The host and the port, as `Host` and `Origin` have them.
    pub(super) authority: String,
    pub(super) host: String,
    pub(super) path: String,
}

/// The relation of two sites, as `Sec-Fetch-Site` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    SameOrigin,
    SameSite,
    CrossSite,
}

impl Relation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SameOrigin => "same-origin",
            Self::SameSite => "same-site",
            Self::CrossSite => "cross-site",
        }
    }
}

impl Target {
    /// The target of a URL. A URL without a host counts as a path of `https://example.test`.
    pub(super) fn of(url: &Uri) -> Self {
        Self {
            scheme: url.scheme_str().unwrap_or("https").to_ascii_lowercase(),
            authority: url.authority().map_or(HOST, http::uri::Authority::as_str).to_ascii_lowercase(),
            host: url.host().unwrap_or(HOST).to_ascii_lowercase(),
            path: url.path().to_owned(),
        }
    }

    /// Returns a target on the same host, with the path of another URL.
    pub(super) fn at(&self, path: &Uri) -> Self {
        Self { path: path.path().to_owned(), ..self.clone() }
    }

    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Whether a browser takes and sends `Secure` cookies here. On plain http to loopback Safari does not, so this kit
    /// does not either.
    pub(super) fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    /// Whether a browser sends `Sec-Fetch-*` here: over TLS, and to loopback (Secure Contexts, 3.1).
    pub(super) fn is_trustworthy(&self) -> bool {
        let localhost = self.host == "localhost" || self.host.ends_with(".localhost") || self.host == "[::1]";
        self.is_secure() || localhost || self.address().is_some_and(|address| address.is_loopback())
    }

    pub(super) fn relation_to(&self, other: &Self) -> Relation {
        if self.origin() == other.origin() {
            Relation::SameOrigin
        } else if (&self.scheme, self.registrable()) == (&other.scheme, other.registrable()) {
            Relation::SameSite
        } else {
            Relation::CrossSite
        }
    }

    /// Whether a cookie of this domain belongs to the host (RFC 6265bis, 5.1.3).
    pub(super) fn is_within(&self, domain: &str) -> bool {
        self.host == domain || !self.is_address() && is_within(&self.host, domain)
    }

    /// Returns the path of a cookie without `Path` (RFC 6265bis, 5.1.4).
    pub(super) fn default_path(&self) -> &str {
        match self.path.rfind('/') {
            None | Some(0) => "/",
            Some(end) => &self.path[..end],
        }
    }

    /// Returns the last two labels of a host name: near enough to the public suffix list for hosts of tests.
    fn registrable(&self) -> &str {
        if self.is_address() {
            return &self.host;
        }
        let start = self.host.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
        &self.host[start..]
    }

    fn is_address(&self) -> bool {
        self.host.starts_with('[') || self.address().is_some()
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.host.parse().ok()
    }
}

/// Whether a host name is the domain itself, or a subdomain of the domain.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// Whether a path matches the path of a cookie (RFC 6265bis, 5.1.4).
pub(super) fn is_below(path: &str, of_cookie: &str) -> bool {
    let rest = path.strip_prefix(of_cookie);
    rest.is_some_and(|rest| rest.is_empty() || of_cookie.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &'static str) -> Target {
        Target::of(&Uri::from_static(url))
    }

    #[test]
    fn relation_follows_origin_then_domain() {
        for (one, other, relation) in [
            ("https://app.example.test", "https://app.example.test", Relation::SameOrigin),
            ("/page", "https://example.test/", Relation::SameOrigin),
            ("https://app.example.test", "https://example.test:8443", Relation::SameSite),
            ("https://example.test", "http://example.test", Relation::CrossSite),
            ("https://example.test", "https://evil.example", Relation::CrossSite),
            ("http://127.0.0.1", "http://127.1.0.1", Relation::CrossSite),
        ] {
            assert_eq!(target(one).relation_to(&target(other)), relation, "{one} {other}");
        }
    }

    #[test]
    fn default_path_is_the_folder() {
        for (url, path) in [("/", "/"), ("/a", "/"), ("/a/", "/a"), ("/a/b?c", "/a"), ("https://example.test", "/")] {
            assert_eq!(target(url).default_path(), path, "{url}");
        }
    }

    #[test]
    fn tls_and_loopback_are_trustworthy() {
        for (url, expected) in [
            ("https://example.test", true),
            ("http://localhost:3000", true),
            ("http://app.localhost", true),
            ("http://127.0.0.1", true),
            ("http://[::1]:3000", true),
            ("http://example.test", false),
            ("http://notlocalhost", false),
        ] {
            assert_eq!(target(url).is_trustworthy(), expected, "{url}");
        }
    }
}
