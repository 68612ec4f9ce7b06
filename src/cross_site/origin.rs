//! [`Origin`]: the scheme, host and port of a page, and [`PublicOrigins`], the list of an application's public origins.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::{BuildError, BuildErrorKind};

/// The origins by which browsers know this application, if a proxy rewrites `Host`. None by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublicOrigins(Vec<Origin<String>>);

impl PublicOrigins {
    /// Reads `https://host` or `https://host:port` (or http), as a browser's `Origin` has it: no path, not even `/`.
    ///
    /// # Errors
    /// [`BuildErrorKind::Setting`] at the first text of another form.
    pub(crate) fn parse(origins: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, BuildError> {
        let parse = |text: &str| {
            let Origin { scheme, host, port } = Origin::parse(text).ok_or_else(|| {
                let remedy = "give `https://host` or `https://host:port`, without a path or a final slash";
                BuildErrorKind::Setting.error(format!("{text:?} in `public_origins` is not an origin: {remedy}"))
            })?;
            Ok(Origin { scheme, host: host.to_owned(), port })
        };
        origins.into_iter().map(|text| parse(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn contains(&self, origin: &Origin<&str>) -> bool {
        self.0.iter().any(|public| public.scheme == origin.scheme && public.is_at(origin.host, Some(origin.port)))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Origin<H> {
    scheme: Scheme,
    host: H,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheme {
    Http,
    Https,
}

impl<'a> Origin<&'a str> {
    /// Reads an `Origin` header. `null` is no origin: every sandboxed frame and every `file:` page sends `null`.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
            _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
            _ => return None,
        };
        let (host, port) = host_and_port(authority)?;
        Some(Self { scheme, host, port: port.unwrap_or_else(|| scheme.default_port()) })
    }
}

impl<H: AsRef<str>> Origin<H> {
    /// Returns whether every browser drops a `Secure` cookie for pages of this origin: on plain http to a host other
    /// than loopback. Some versions of Safari drop the cookie on loopback too.
    pub(super) fn drops_secure_cookies(&self) -> bool {
        self.scheme == Scheme::Http && !is_loopback(self.host.as_ref())
    }

    pub(super) fn is_at(&self, host: &str, port: Option<u16>) -> bool {
        self.host.as_ref().eq_ignore_ascii_case(host) && self.port == port.unwrap_or_else(|| self.scheme.default_port())
    }
}

impl Scheme {
    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Splits an authority into host and port, and is stricter than [`http::uri::Authority`], which skips userinfo and
/// reads a port beyond 65,535 as none. Here userinfo, such a port, and every other text that a browser never writes
/// into a host make the whole authority unreadable.
pub(super) fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        // `parse` alone would accept a sign.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    is_host(host).then_some((host, port))
}

fn is_loopback(host: &str) -> bool {
    let name = host.to_ascii_lowercase();
    name == "[::1]"
        || name.rsplit('.').next() == Some("localhost")
        || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|literal| literal.strip_suffix(']')) {
        Some(literal) => literal.parse::<Ipv6Addr>().is_ok(),
        // Browsers send names outside ASCII as punycode.
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_origin_is_a_build_error() {
        let refused = [
            "",
            "null",
            "*",
            "app.example",
            "//app.example",
            "https://",
            "https://*.example",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example?q",
            "https://app.example#f",
            "https://user@app.example",
            "https://user:secret@app.example",
            "https://app.example:",
            "https://app.example:https",
            "https://app.example:65536",
            "https://app.example:-1",
            "ftp://app.example",
            "https://münchen.example",
            "https://[::1",
            "https://::1",
            "https://[app.example]",
            " https://app.example",
            "https://a.example,b.example",
        ];
        for text in refused {
            let error = PublicOrigins::parse(["https://app.example", text]).unwrap_err();
            assert_eq!(error.kind(), BuildErrorKind::Setting, "{text}");
        }
    }
}
