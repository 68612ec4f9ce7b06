//! The cross-site rule: does this request come from a page of this application?
//!
//! [`same_origin`] is the whole of it, for the writeback, for event streams and for upgrades alike. It trusts nothing
//! but what a browser sets and no script can: `Sec-Fetch-Site`, and `Origin` where that is missing. There are no
//! patterns, no exceptions by path and no tokens, since those are what was got around elsewhere (CVE-2025-47910).

use std::{iter, net::Ipv6Addr};

use http::{
    HeaderMap, HeaderName, Method, Uri,
    header::{ACCEPT, AsHeaderName, HOST, ORIGIN},
};

use crate::{
    error::{BuildError, BuildErrorKind},
    session::{core::CrossSite, relay::Page},
    tier::cookie::SameSite,
};

/// A name that is ready to be looked up: every request is asked for this field.
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The requests that the rule judges: a browser sends each with other headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Browsers send `Origin` with every POST.
    Post,
    /// The `GET` of an `EventSource`. A same-origin one carries no `Origin`, and no `Sec-Fetch-Site` on plain http off
    /// loopback.
    Events,
    /// Browsers send `Origin` with every WebSocket's handshake (RFC 6455, 4.1).
    Upgrade,
}

impl Kind {
    /// The only method with which an endpoint of ours takes the request.
    pub(crate) const fn method(self) -> Method {
        match self {
            Self::Post => Method::POST,
            Self::Events | Self::Upgrade => Method::GET,
        }
    }
}

/// Whether a browser says that the request comes from a page of the very origin that it goes to, or of one of `public`.
///
/// An `Origin` among `public` passes by itself. `Sec-Fetch-Site`, where it is present, decides alone otherwise: it is the
/// browser's own comparison, which no proxy has rewritten. Browsers leave it out on plain http and old ones everywhere,
/// and then `Origin` must name the authority that the request was sent to. A request with neither is refused, except
/// for an `EventSource`'s: a cross-origin `EventSource` is a CORS request, which carries `Origin`. A page elsewhere can
/// imitate the request by a `no-cors` fetch, and its browser withholds the answer (`Cross-Origin-Resource-Policy`).
pub(crate) fn same_origin(kind: Kind, uri: &Uri, headers: &HeaderMap, public: &PublicOrigins) -> bool {
    let origin = only(headers, ORIGIN).and_then(Origin::parse);
    if origin.as_ref().is_some_and(|origin| public.contains(origin)) {
        return true;
    }
    if headers.contains_key(&SEC_FETCH_SITE) {
        // `none`, the address bar, is refused too: nobody types a POST or an upgrade.
        return only(headers, &SEC_FETCH_SITE) == Some("same-origin");
    }
    if headers.contains_key(ORIGIN) {
        return origin.is_some_and(|origin| is_addressed_to(&origin, uri, headers));
    }
    kind == Kind::Events && accepts_events(headers)
}

/// Whether `Accept` lists event streams, as each `EventSource` has it.
fn accepts_events(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let essences = ranges.filter_map(|range| range.split(|byte| *byte == b';').next());
    essences.map(<[u8]>::trim_ascii).any(|essence| essence.eq_ignore_ascii_case(b"text/event-stream"))
}

/// The origin of a page whose request passed [`same_origin`]. A browser that sends no `Sec-Fetch-Site` does not tell a
/// listed origin from the request's own.
pub(crate) fn page_of(headers: &HeaderMap) -> Page {
    match headers.contains_key(&SEC_FETCH_SITE) && only(headers, &SEC_FETCH_SITE) != Some("same-origin") {
        true => Page::Listed,
        false => Page::Own,
    }
}

/// Says whether another site caused a request in a way for which a browser withholds a cookie of this `SameSite`
/// (RFC 6265bis, 5.2). A browser that withholds the cookie may hold one all the same.
///
/// `Sec-Fetch-Site` decides where it is present. Without it, an `Origin` that fails [`same_origin`] counts as another
/// site's. A request with neither field counts as no browser's: an old browser's `<img>` passes.
pub(crate) fn withheld(
    (method, uri, headers): (&Method, &Uri, &HeaderMap),
    public: &PublicOrigins,
    same_site: SameSite,
) -> Option<CrossSite> {
    if same_site == SameSite::None {
        return None;
    }
    let mut sites = headers.get_all(&SEC_FETCH_SITE).iter();
    match sites.next() {
        Some(first) => {
            // Of two fields, a proxy might have added the kinder one.
            let mut sites = iter::once(first).chain(sites);
            if !sites.any(|site| site == "cross-site") || same_site == SameSite::Lax && is_link(method, headers) {
                return None;
            }
        }
        None => {
            if !headers.contains_key(ORIGIN) || same_origin(Kind::Post, uri, headers, public) {
                return None;
            }
        }
    }
    let origin = only(headers, ORIGIN).and_then(Origin::parse);
    let listed = origin.is_some_and(|origin| public.contains(&origin));
    Some(if listed { CrossSite::Listed } else { CrossSite::Withheld })
}

/// Whether a request is a top-level navigation by a safe method, with which browsers send a cookie under `Lax`.
fn is_link(method: &Method, headers: &HeaderMap) -> bool {
    (method == Method::GET || method == Method::HEAD)
        && only(headers, "sec-fetch-mode") == Some("navigate")
        && only(headers, "sec-fetch-dest") == Some("document")
}

/// The origins by which browsers know this application, where a proxy rewrites `Host`. None by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublicOrigins(Vec<Origin<String>>);

impl PublicOrigins {
    /// Reads `https://host` or `https://host:port` (or http), as a browser's `Origin` has it: no path, not even `/`.
    ///
    /// # Errors
    /// [`BuildErrorKind::Setting`] at the first text that is anything else.
    pub(crate) fn parse(origins: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, BuildError> {
        let parse = |text: &str| {
            let Origin { scheme, host, port } = Origin::parse(text).ok_or_else(|| {
                let remedy = "give `https://host` or `https://host:port`, without a path or a final slash";
                BuildError::new(BuildErrorKind::Setting, format!("{text:?} is not a public origin: {remedy}"))
            })?;
            Ok(Origin { scheme, host: host.to_owned(), port })
        };
        origins.into_iter().map(|text| parse(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    fn contains(&self, origin: &Origin<&str>) -> bool {
        self.0.iter().any(|public| public.scheme == origin.scheme && public.is_at(origin.host, Some(origin.port)))
    }
}

/// The authority of the target comes first: HTTP/2 may have no `Host` at all, and where both exist RFC 9112 section
/// 3.2.2 has the target win. Neither says whether the browser spoke http or https, so `Origin`'s own scheme is taken.
fn is_addressed_to(origin: &Origin<&str>, uri: &Uri, headers: &HeaderMap) -> bool {
    let authority = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => only(headers, HOST),
    };
    authority.and_then(host_and_port).is_some_and(|(host, port)| origin.is_at(host, port))
}

/// The header's value, if there is exactly one: of two, this side and a proxy might each believe another.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[derive(Clone, Debug)]
struct Origin<H> {
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
    /// `null` is no origin: it is every sandboxed frame's and every `file:` page's.
    fn parse(text: &'a str) -> Option<Self> {
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
    fn is_at(&self, host: &str, port: Option<u16>) -> bool {
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

/// Stricter than [`http::uri::Authority`], which skips userinfo and reads a port beyond 65,535 as none: here either
/// makes the whole authority unreadable, and so does whatever a browser never writes into a host.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        // `parse` alone would take a sign.
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
        None => None,
    };
    is_host(host).then_some((host, port))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|literal| literal.strip_suffix(']')) {
        Some(literal) => literal.parse::<Ipv6Addr>().is_ok(),
        // Names outside ASCII are sent as punycode.
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn passes(kind: Kind, target: &str, parts: &[Headers], public: &PublicOrigins) -> bool {
        let mut request = Request::builder().uri(target);
        for (name, value) in parts.iter().copied().flatten() {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        same_origin(kind, &head.uri, &head.headers, public)
    }

    /// What `Sec-Fetch-Site` may say, and what follows; `None` where `Origin` is to decide.
    const SITES: &[(Headers, Option<bool>)] = &[
        (&[], None),
        (&[("sec-fetch-site", "same-origin")], Some(true)),
        (&[("sec-fetch-site", "same-site")], Some(false)),
        (&[("sec-fetch-site", "cross-site")], Some(false)),
        (&[("sec-fetch-site", "none")], Some(false)),
        (&[("sec-fetch-site", "")], Some(false)),
        (&[("sec-fetch-site", "Same-Origin")], Some(false)),
        (&[("sec-fetch-site", "same-origin, same-origin")], Some(false)),
        (&[("sec-fetch-site", "same-origin\u{e9}")], Some(false)),
        (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")], Some(false)),
        (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], Some(false)),
    ];

    /// Where a request may have been sent to: its target, and its `Host` fields.
    const PLACES: &[(&str, &str, Headers)] = &[
        ("host", "/", &[("host", "app.example")]),
        ("host in capitals", "/", &[("host", "APP.Example")]),
        ("host:443", "/", &[("host", "app.example:443")]),
        ("host:80", "/", &[("host", "app.example:80")]),
        ("host:8443", "/", &[("host", "app.example:8443")]),
        ("http/2", "https://app.example/", &[]),
        ("http/2:8443", "https://app.example:8443/", &[]),
        ("http/2, other host", "https://app.example/", &[("host", "evil.example")]),
        ("http/2 elsewhere", "https://evil.example/", &[("host", "app.example")]),
        ("userinfo", "https://app.example@evil.example/", &[("host", "app.example")]),
        ("userinfo before ours", "https://evil.example@app.example/", &[("host", "app.example")]),
        ("userinfo in host", "/", &[("host", "user@app.example")]),
        ("two hosts", "/", &[("host", "app.example"), ("host", "app.example")]),
        ("rewritten host", "/", &[("host", "10.0.0.7:3000")]),
        ("no host", "/", &[]),
        ("empty host", "/", &[("host", "")]),
        ("no port after the colon", "/", &[("host", "app.example:")]),
        ("port out of range", "/", &[("host", "app.example:65979")]),
        ("signed port", "/", &[("host", "app.example:+443")]),
        ("ipv6", "/", &[("host", "[2001:DB8::1]")]),
        ("ipv6:8443", "https://[2001:db8::1]:8443/", &[]),
    ];

    const HTTPS: &[&str] = &["host", "host in capitals", "host:443", "http/2", "http/2, other host"];
    const HTTP: &[&str] = &["host", "host in capitals", "host:80", "http/2", "http/2, other host"];

    /// What `Origin` may say, and at which of the places that is the same origin.
    const ORIGINS: &[(Headers, &[&str])] = &[
        (&[], &[]),
        (&[("origin", "")], &[]),
        (&[("origin", "null")], &[]),
        (&[("origin", "https://app.example")], HTTPS),
        (&[("origin", "https://app.example:443")], HTTPS),
        (&[("origin", "HTTPS://APP.EXAMPLE")], HTTPS),
        (&[("origin", "http://app.example")], HTTP),
        (&[("origin", "https://app.example:8443")], &["host:8443", "http/2:8443"]),
        (&[("origin", "http://app.example:443")], &["host:443"]),
        (&[("origin", "https://evil.example")], &["http/2 elsewhere"]),
        (&[("origin", "https://app.example.evil.example")], &[]),
        (&[("origin", "https://sub.app.example")], &[]),
        (&[("origin", "https://app.example.")], &[]),
        (&[("origin", "https://app.example/")], &[]),
        (&[("origin", "https://user@app.example")], &[]),
        (&[("origin", "https://app.example:")], &[]),
        (&[("origin", "https://app.example:65979")], &[]),
        (&[("origin", "https://app.example\u{e9}")], &[]),
        (&[("origin", "app.example")], &[]),
        (&[("origin", "ftp://app.example")], &[]),
        (&[("origin", "https://app.example https://app.example")], &[]),
        (&[("origin", "https://app.example"), ("origin", "https://app.example")], &[]),
        (&[("origin", "https://app.example"), ("origin", "https://evil.example")], &[]),
        (&[("origin", "http://10.0.0.7:3000")], &["rewritten host"]),
        (&[("origin", "https://[2001:db8::1]")], &["ipv6"]),
        (&[("origin", "https://[2001:db8::1]:8443")], &["ipv6:8443"]),
        (&[("origin", "https://2001:db8::1")], &[]),
    ];

    #[test]
    fn only_a_page_of_our_own_origin_may_post() {
        let none = PublicOrigins::default();
        for (site, decided) in SITES {
            for (origin, same) in ORIGINS {
                for (place, target, host) in PLACES {
                    let expected = decided.unwrap_or_else(|| same.contains(place));
                    for kind in [Kind::Post, Kind::Events, Kind::Upgrade] {
                        let found = passes(kind, target, &[site, origin, host], &none);
                        assert_eq!(found, expected, "{kind:?} {site:?} {origin:?} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn event_source_without_either_header_passes() {
        const OURS: &[Headers] = &[
            &[("accept", "text/event-stream")],
            &[("accept", "text/event-stream, */*;q=0.1")],
            &[("accept", "text/html"), ("accept", "Text/Event-Stream;q=1")],
        ];
        const OTHERS: &[Headers] = &[
            &[],
            &[("accept", "")],
            &[("accept", "*/*")],
            &[("accept", "text/*")],
            &[("accept", "text/event-streams")],
            &[("accept", "x;text/event-stream")],
        ];
        let none = PublicOrigins::default();
        let host = [("host", "lan.test")].as_slice();
        for accept in OURS {
            assert!(passes(Kind::Events, "/events", &[host, accept], &none), "{accept:?}");
            for other in [Kind::Post, Kind::Upgrade] {
                assert!(!passes(other, "/events", &[host, accept], &none), "{other:?}");
            }
            for site in
                [&[("sec-fetch-site", "none")], &[("sec-fetch-site", "")], &[("origin", "null")], &[("origin", "")]]
            {
                assert!(!passes(Kind::Events, "/events", &[host, accept, site], &none), "{site:?}");
            }
        }
        for accept in OTHERS {
            assert!(!passes(Kind::Events, "/events", &[host, accept], &none), "{accept:?}");
        }
    }

    #[test]
    fn a_public_origin_counts_whatever_a_proxy_made_of_the_host() {
        let public = PublicOrigins::parse(["https://App.example", "http://[::1]:8080"]).unwrap();
        let rewritten: &[Headers] = &[&[("host", "10.0.0.7:3000")], &[], &[("host", "a"), ("host", "b")]];
        for host in rewritten {
            let passes = |origin: Headers| passes(Kind::Post, "/", &[host, origin], &public);
            assert!(passes(&[("origin", "https://app.example")]));
            assert!(passes(&[("origin", "http://[::1]:8080")]));
            assert!(!passes(&[("origin", "http://app.example")]));
            assert!(!passes(&[("origin", "http://app.example:443")]), "the scheme is part of it");
            assert!(!passes(&[("origin", "https://app.example:8443")]), "and the port");
            assert!(!passes(&[("origin", "https://sub.app.example")]));
            assert!(!passes(&[("origin", "http://[::1]")]));
            assert!(!passes(&[("origin", "null")]));
            assert!(passes(&[("origin", "https://app.example"), ("sec-fetch-site", "same-site")]));
            assert!(passes(&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")]));
            assert!(!passes(&[("origin", "https://sub.app.example"), ("sec-fetch-site", "same-site")]));
            assert!(!passes(&[("origin", "null"), ("sec-fetch-site", "cross-site")]));
        }
    }

    #[test]
    fn what_is_not_exactly_an_origin_is_a_build_error() {
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
