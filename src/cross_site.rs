//! The cross-site rule: does this request come from a page of this application?
//!
//! [`CrossSiteRule::check`] is the whole rule, for the writeback, for event streams and for upgrades alike. The rule
//! trusts two headers that a browser sets and a script can't: `Sec-Fetch-Site`, and `Origin` if the first is
//! missing. The rule has no patterns, no exceptions by path and no tokens: elsewhere attacks went around such
//! exceptions (CVE-2025-47910).

use std::iter;

use http::{
    HeaderMap, HeaderName, Method, Uri,
    header::{ACCEPT, AsHeaderName, HOST, ORIGIN},
};

use self::{
    origin::{Origin, PublicOrigins, host_and_port},
    refusal::{CrossSiteRefusal, RefusalReason},
};
use crate::cookie::SameSite;

pub(crate) mod origin;
pub(crate) mod refusal;

/// The header's name, ready for a look-up: the rule looks for the header in every request.
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The kinds of requests that the rule judges. Browsers send different headers with each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// Browsers send `Origin` with every POST.
    Post,
    /// The `GET` of an `EventSource`. A same-origin request has no `Origin`, and on plain http to a host other than
    /// loopback no `Sec-Fetch-Site` either.
    Events,
    /// Browsers send `Origin` with every WebSocket's handshake (RFC 6455, 4.1).
    Upgrade,
}

impl RequestKind {
    /// Returns the only method with which an endpoint of this crate takes the request.
    pub(crate) const fn method(self) -> Method {
        match self {
            Self::Post => Method::POST,
            Self::Events | Self::Upgrade => Method::GET,
        }
    }
}

/// The cross-site rule, with the settings of an application.
#[derive(Debug)]
pub(crate) struct CrossSiteRule {
    pub(crate) public: PublicOrigins,
    /// Whether an upgrade with neither header has its session.
    pub(crate) bare_upgrades: bool,
}

impl CrossSiteRule {
    /// Checks that the request comes from a page of the origin that the request goes to, or of a listed origin, as far
    /// as the browser tells.
    ///
    /// A listed `Origin` passes by itself. Otherwise `Sec-Fetch-Site`, if the field is present, decides alone: the
    /// field is the browser's own comparison, which no proxy has rewritten. Browsers leave `Sec-Fetch-Site` out on
    /// plain http and at a WebSocket's handshake, and old browsers leave the field out everywhere. Without the field,
    /// `Origin` must name the authority to which the request was sent.
    ///
    /// A request with neither header is refused, unless a page of another origin can't have sent such a request:
    /// - An upgrade, if `bare_upgrades` is set: browsers send `Origin` with each upgrade, so the client is no browser.
    /// - The `GET` of an `EventSource`: a cross-origin `EventSource` is a CORS request, which carries `Origin`. A page
    ///   of another origin can imitate the same-origin request by a `no-cors` fetch, and its browser withholds the
    ///   answer (`Cross-Origin-Resource-Policy`).
    ///
    /// # Errors
    ///
    /// The reason of the refusal.
    pub(crate) fn check(&self, kind: RequestKind, uri: &Uri, headers: &HeaderMap) -> Result<(), CrossSiteRefusal> {
        let origin = only(headers, ORIGIN).and_then(Origin::parse);
        if origin.as_ref().is_some_and(|origin| self.public.contains(origin)) {
            return Ok(());
        }
        let reason = if headers.contains_key(&SEC_FETCH_SITE) {
            // `none`, the address bar, is refused too: no user types a POST or an upgrade.
            (only(headers, &SEC_FETCH_SITE) != Some("same-origin")).then_some(RefusalReason::AnotherSite)
        } else if let Some(text) = headers.get(ORIGIN) {
            let addressed = origin.is_some_and(|origin| is_addressed_to(&origin, uri, headers));
            (!addressed).then_some(if text == "null" {
                RefusalReason::NullOrigin
            } else {
                RefusalReason::AnotherOrigin
            })
        } else {
            match kind {
                RequestKind::Post => Some(RefusalReason::BarePost),
                RequestKind::Events => (!accepts_events(headers)).then_some(RefusalReason::BareEvents),
                RequestKind::Upgrade => (!self.bare_upgrades).then_some(RefusalReason::BareUpgrade),
            }
        };
        reason.map_or(Ok(()), |reason| Err(CrossSiteRefusal::new(reason, uri, headers)))
    }

    /// Returns whether another site caused a request for which a browser withholds a cookie of this `SameSite` (RFC
    /// 6265bis, 5.2), and how. A browser that withholds the cookie may still hold the cookie.
    ///
    /// `Sec-Fetch-Site` decides if it is present. Without this header, an `Origin` that fails [`check`](Self::check)
    /// counts as another site's. A request with neither header counts as a request of no browser: an old browser's
    /// `<img>` passes.
    pub(crate) fn withheld(
        &self,
        (method, uri, headers): (&Method, &Uri, &HeaderMap),
        same_site: SameSite,
    ) -> Option<CrossSite> {
        if same_site == SameSite::None {
            return None;
        }
        let mut sites = headers.get_all(&SEC_FETCH_SITE).iter();
        match sites.next() {
            Some(first) => {
                // A proxy might have added a second field, with a value that passes.
                let mut sites = iter::once(first).chain(sites);
                if !sites.any(|site| site == "cross-site") || same_site == SameSite::Lax && is_link(method, headers) {
                    return None;
                }
            }
            None => {
                if !headers.contains_key(ORIGIN) || self.check(RequestKind::Post, uri, headers).is_ok() {
                    return None;
                }
            }
        }
        let origin = only(headers, ORIGIN).and_then(Origin::parse);
        let listed = origin.is_some_and(|origin| self.public.contains(&origin));
        Some(if listed { CrossSite::Listed } else { CrossSite::Withheld })
    }
}

/// Returns whether the browser of a request drops `Secure` cookies of the response: the page is on plain http, at a
/// host other than loopback.
///
/// Browsers send `Origin` with a POST, and `Sec-Fetch-Site` to https and to loopback alone. A request whose `Origin` is
/// the request's own host by http, without `Sec-Fetch-Site`, left the browser over plain http. The target's scheme and
/// `X-Forwarded-Proto` decide nothing: a proxy speaks plain http to this server for browsers on https, and any client
/// can send the field. With a `GET` to their own page browsers send no `Origin`, so a `GET` tells nothing.
pub(crate) fn drops_secure_cookies(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    if method.is_safe() || headers.contains_key(&SEC_FETCH_SITE) {
        return false;
    }
    let origin = only(headers, ORIGIN).and_then(Origin::parse);
    origin.is_some_and(|origin| origin.drops_secure_cookies() && is_addressed_to(&origin, uri, headers))
}

/// Returns whether `Accept` lists event streams, as the `Accept` of each `EventSource` does.
fn accepts_events(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let essences = ranges.filter_map(|range| range.split(|byte| *byte == b';').next());
    essences.map(<[u8]>::trim_ascii).any(|essence| essence.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Returns the origin of a page whose request passed [`CrossSiteRule::check`]. Without `Sec-Fetch-Site` a listed origin
/// can't be told from the origin to which the browser sends the request, and counts as that origin.
pub(crate) fn page_of(headers: &HeaderMap) -> PageOrigin {
    match headers.contains_key(&SEC_FETCH_SITE) && only(headers, &SEC_FETCH_SITE) != Some("same-origin") {
        true => PageOrigin::Listed,
        false => PageOrigin::Own,
    }
}

/// Returns whether a request is a top-level navigation by a safe method, with which browsers send a cookie under `Lax`.
fn is_link(method: &Method, headers: &HeaderMap) -> bool {
    (method == Method::GET || method == Method::HEAD)
        && only(headers, "sec-fetch-mode") == Some("navigate")
        && only(headers, "sec-fetch-dest") == Some("document")
}

/// Returns whether the request was sent to an origin's host and port. The authority of the target comes first: HTTP/2
/// may have no `Host` at all, and if both exist the target wins (RFC 9112, 3.2.2). Neither tells whether the browser
/// spoke http or https, so the scheme is `Origin`'s own.
fn is_addressed_to(origin: &Origin<&str>, uri: &Uri, headers: &HeaderMap) -> bool {
    let authority = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => only(headers, HOST),
    };
    authority.and_then(host_and_port).is_some_and(|(host, port)| origin.is_at(host, port))
}

/// Returns the header's value, if there is exactly one: of two values, this server might believe the first, and a proxy
/// the second.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// The way in which another site caused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrossSite {
    /// An upgrade, whose cookies do not count.
    Upgrade,
    /// A request with which the browser may have withheld the cookie: a session that begins here would replace the
    /// login.
    Withheld,
    /// As `Withheld`, by a page of a listed public origin: the principal that `identify` gives is believed.
    Listed,
}

/// The origin of the page that brings a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageOrigin {
    /// The origin to which the browser sends the request.
    Own,
    /// A listed public origin other than the origin to which the browser sends the request.
    Listed,
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn passes(kind: RequestKind, target: &str, parts: &[Headers], rule: &CrossSiteRule) -> bool {
        judge(kind, target, parts, rule).is_ok()
    }

    fn judge(kind: RequestKind, target: &str, parts: &[Headers], rule: &CrossSiteRule) -> Result<(), CrossSiteRefusal> {
        let mut request = Request::builder().uri(target);
        for (name, value) in parts.iter().copied().flatten() {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        rule.check(kind, &head.uri, &head.headers)
    }

    /// The values of `Sec-Fetch-Site`, with the decision; `None` if `Origin` decides.
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

    /// The places to which a request may go: a name for the test, the target, and the `Host` fields.
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

    /// The values of `Origin`, with the places that are the same origin.
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
    fn only_same_origin_requests_pass() {
        let none = CrossSiteRule { public: PublicOrigins::default(), bare_upgrades: false };
        for (site, decided) in SITES {
            for (origin, same) in ORIGINS {
                for (place, target, host) in PLACES {
                    let expected = decided.unwrap_or_else(|| same.contains(place));
                    for kind in [RequestKind::Post, RequestKind::Events, RequestKind::Upgrade] {
                        let found = passes(kind, target, &[site, origin, host], &none);
                        assert_eq!(found, expected, "{kind:?} {site:?} {origin:?} at {place}");
                    }
                }
            }
        }
    }

    #[test]
    fn event_source_without_origin_headers_passes() {
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
        let none = CrossSiteRule { public: PublicOrigins::default(), bare_upgrades: false };
        let host = [("host", "lan.test")].as_slice();
        for accept in OURS {
            assert!(passes(RequestKind::Events, "/events", &[host, accept], &none), "{accept:?}");
            for other in [RequestKind::Post, RequestKind::Upgrade] {
                assert!(!passes(other, "/events", &[host, accept], &none), "{other:?}");
            }
            for site in
                [&[("sec-fetch-site", "none")], &[("sec-fetch-site", "")], &[("origin", "null")], &[("origin", "")]]
            {
                assert!(!passes(RequestKind::Events, "/events", &[host, accept, site], &none), "{site:?}");
            }
        }
        for accept in OTHERS {
            assert!(!passes(RequestKind::Events, "/events", &[host, accept], &none), "{accept:?}");
        }
    }

    #[test]
    fn refusal_names_the_reason() {
        let rule = CrossSiteRule { public: PublicOrigins::default(), bare_upgrades: false };
        let evil = [("origin", "https://evil.example")].as_slice();
        let cases: &[(RequestKind, Headers, RefusalReason)] = &[
            (RequestKind::Post, &[("sec-fetch-site", "same-site")], RefusalReason::AnotherSite),
            (RequestKind::Events, &[("sec-fetch-site", "none")], RefusalReason::AnotherSite),
            (RequestKind::Upgrade, evil, RefusalReason::AnotherOrigin),
            (RequestKind::Post, &[("origin", "")], RefusalReason::AnotherOrigin),
            (RequestKind::Post, &[("origin", "null")], RefusalReason::NullOrigin),
            (RequestKind::Post, &[], RefusalReason::BarePost),
            (RequestKind::Events, &[("accept", "*/*")], RefusalReason::BareEvents),
            (RequestKind::Upgrade, &[], RefusalReason::BareUpgrade),
        ];
        for (kind, headers, reason) in cases {
            let refused = judge(*kind, "/", &[headers, &[("host", "app.example")]], &rule).unwrap_err();
            assert_eq!(refused.reason, *reason, "{kind:?} {headers:?}");
        }
    }

    #[test]
    fn allowed_upgrade_without_origin_headers_passes() {
        let rule = CrossSiteRule { public: PublicOrigins::default(), bare_upgrades: true };
        let host: Headers = &[("host", "app.example")];
        assert!(passes(RequestKind::Upgrade, "/live", &[host], &rule));
        for kind in [RequestKind::Post, RequestKind::Events] {
            assert!(!passes(kind, "/live", &[host], &rule), "{kind:?}");
        }
        let others: &[Headers] =
            &[&[("origin", "")], &[("origin", "null")], &[("sec-fetch-site", "none")], &[("sec-fetch-site", "")]];
        for other in others {
            assert!(!passes(RequestKind::Upgrade, "/live", &[host, other], &rule), "{other:?}");
        }
    }

    #[test]
    fn public_origin_passes_with_any_host() {
        let public = PublicOrigins::parse(["https://App.example", "http://[::1]:8080"]).unwrap();
        let rule = CrossSiteRule { public, bare_upgrades: false };
        let rewritten: &[Headers] = &[&[("host", "10.0.0.7:3000")], &[], &[("host", "a"), ("host", "b")]];
        for host in rewritten {
            let passes = |origin: Headers| passes(RequestKind::Post, "/", &[host, origin], &rule);
            assert!(passes(&[("origin", "https://app.example")]));
            assert!(passes(&[("origin", "http://[::1]:8080")]));
            assert!(!passes(&[("origin", "http://app.example")]));
            assert!(!passes(&[("origin", "http://app.example:443")]), "the scheme is part of an origin");
            assert!(!passes(&[("origin", "https://app.example:8443")]), "the port is part of an origin");
            assert!(!passes(&[("origin", "https://sub.app.example")]));
            assert!(!passes(&[("origin", "http://[::1]")]));
            assert!(!passes(&[("origin", "null")]));
            assert!(passes(&[("origin", "https://app.example"), ("sec-fetch-site", "same-site")]));
            assert!(passes(&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")]));
            assert!(!passes(&[("origin", "https://sub.app.example"), ("sec-fetch-site", "same-site")]));
            assert!(!passes(&[("origin", "null"), ("sec-fetch-site", "cross-site")]));
        }
    }
}
