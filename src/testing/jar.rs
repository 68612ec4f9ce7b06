//! [`Jar`]: the cookies of a browser, kept by the rules of RFC 6265bis that sessions depend on.

use std::time::SystemTime;

use cookie::Cookie;
use http::{HeaderMap, HeaderValue, Uri, header::SET_COOKIE};

pub(super) use self::kept::Cause;
use self::kept::Kept;
use super::target::Target;

mod kept;

/// Reads every `Set-Cookie` of a response that browsers can read.
///
/// ```
/// # use http::{HeaderMap, header};
/// use layered_session::testing::set_cookies;
///
/// let mut headers = HeaderMap::new();
/// headers.append(header::SET_COOKIE, "session=abc; Secure; Path=/; Max-Age=60".parse()?);
/// let cookies = set_cookies(&headers);
/// assert_eq!((cookies[0].name(), cookies[0].path()), ("session", Some("/")));
/// assert_eq!(cookies[0].max_age().map(|age| age.whole_seconds()), Some(60));
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
pub fn set_cookies(headers: &HeaderMap) -> Vec<Cookie<'static>> {
    let fields = headers.get_all(SET_COOKIE).iter().filter_map(|field| field.to_str().ok());
    fields.filter_map(|field| Cookie::parse(field.to_owned()).ok()).collect()
}

/// The cookies of one browser.
///
/// A jar takes and sends cookies as browsers do: by host, `Domain`, `Path`, `Secure`, `SameSite`, the prefixes
/// `__Host-` and `__Secure-`, and until their `Max-Age` or `Expires`. A cookie without either lives until
/// [`close`](Self::close). [`Client`](super::Client) has a jar already; the jar alone serves tests over a network, and
/// clients of other kinds. A clone is an independent copy, such as a thief's copy or a backup.
///
/// A URL without a host counts as a path of `https://example.test`.
///
/// ```
/// # use std::time::{Duration, SystemTime};
/// # use http::{HeaderMap, Uri, header};
/// use layered_session::testing::Jar;
///
/// let (now, url) = (SystemTime::now(), Uri::from_static("https://example.test/"));
/// let mut headers = HeaderMap::new();
/// let cookie = "__Host-session=abc; Secure; Path=/; Max-Age=60";
/// headers.append(header::SET_COOKIE, cookie.parse()?);
///
/// let mut jar = Jar::new();
/// jar.take(&url, &headers, now);
/// assert_eq!(jar.field(&url, now).ok_or("no cookie")?, "__Host-session=abc");
/// assert_eq!(jar.field(&url, now + Duration::from_secs(60)), None, "expired");
/// let plain = Uri::from_static("http://example.test/");
/// assert_eq!(jar.field(&plain, now), None, "not over TLS");
/// # Ok::<_, layered_session::tier::BoxError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Jar {
    /// In the order of their creation.
    kept: Vec<Kept>,
}

impl Jar {
    /// Creates an empty jar.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the `Set-Cookie` fields of a response from this URL.
    ///
    /// A field that a browser would refuse changes nothing, such as a cookie whose name and value exceed 4,096 bytes.
    pub fn take(&mut self, url: &Uri, headers: &HeaderMap, now: SystemTime) {
        self.take_from(&Target::of(url), headers, now, Cause::OWN);
    }

    pub(super) fn take_from(&mut self, target: &Target, headers: &HeaderMap, now: SystemTime, cause: Cause) {
        set_cookies(headers).into_iter().for_each(|cookie| self.admit(cookie, target, now, cause));
    }

    /// Puts a cookie into the jar, as a response from this URL would. A cookie that a browser would refuse is left out.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use http::Uri;
    /// use layered_session::testing::{Cookie, Jar};
    ///
    /// let mut jar = Jar::new();
    /// jar.insert(&Uri::from_static("/"), Cookie::new("language", "de"), SystemTime::now());
    /// assert_eq!(jar.get("language").map(Cookie::value), Some("de"));
    /// ```
    pub fn insert(&mut self, url: &Uri, cookie: Cookie<'static>, now: SystemTime) {
        self.admit(cookie, &Target::of(url), now, Cause::OWN);
    }

    fn admit(&mut self, cookie: Cookie<'static>, target: &Target, now: SystemTime, cause: Cause) {
        let Some(kept) = Kept::admit(cookie, target, now, cause) else { return };
        // Plain http must not replace a cookie that came over TLS (RFC 6265bis, 5.7, step 16).
        let shields = |other: &Kept| other.is_secure() && other.cookie.name() == kept.cookie.name();
        if !target.is_secure() && self.kept.iter().any(|other| shields(other) && other.overlaps(&kept)) {
            return;
        }
        let place = self.kept.iter().position(|other| other.has_place_of(&kept));
        match (place, kept.is_over(now)) {
            (Some(place), true) => drop(self.kept.remove(place)),
            // The replaced cookie's place in the order of creation stays.
            (Some(place), false) => self.kept[place] = kept,
            (None, true) => {}
            (None, false) => self.kept.push(kept),
        }
    }

    /// Returns the `Cookie` field of a request to this URL that a page of the same origin causes; `None` without
    /// cookies.
    pub fn field(&self, url: &Uri, now: SystemTime) -> Option<HeaderValue> {
        self.field_for(&Target::of(url), now, Cause::OWN)
    }

    pub(super) fn field_for(&self, target: &Target, now: SystemTime, cause: Cause) -> Option<HeaderValue> {
        let mut sent: Vec<_> = self.kept.iter().filter(|kept| kept.goes_to(target, now, cause)).collect();
        // The longer path first, then the earlier creation (RFC 6265bis, 5.8.3).
        sent.sort_by_key(|kept| std::cmp::Reverse(kept.path.len()));
        let pairs: Vec<_> = sent.into_iter().map(|kept| kept.cookie.stripped().to_string()).collect();
        if pairs.is_empty() { None } else { pairs.join("; ").parse().ok() }
    }

    /// Returns the cookie of this name, for any host and path; the oldest of several.
    pub fn get(&self, name: &str) -> Option<&Cookie<'static>> {
        self.iter().find(|cookie| cookie.name() == name)
    }

    /// Returns every cookie, the oldest first, with the attributes that the response gave.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use http::Uri;
    /// use layered_session::testing::{Cookie, Jar};
    ///
    /// let (mut jar, now) = (Jar::new(), SystemTime::now());
    /// jar.insert(&Uri::from_static("/"), Cookie::build(("a", "1")).path("/app").build(), now);
    /// jar.insert(&Uri::from_static("/"), Cookie::build(("a", "2")).path("/").build(), now);
    /// let paths: Vec<_> = jar.iter().filter_map(Cookie::path).collect();
    /// assert_eq!(paths, ["/app", "/"]);
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = &Cookie<'static>> {
        self.kept.iter().map(|kept| &kept.cookie)
    }

    /// Removes every cookie of this name, as a user can.
    pub fn remove(&mut self, name: &str) {
        self.kept.retain(|kept| kept.cookie.name() != name);
    }

    /// Closes the browser: cookies without `Max-Age` and `Expires` are dropped.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use http::Uri;
    /// use layered_session::testing::{Cookie, Jar};
    ///
    /// let mut jar = Jar::new();
    /// jar.insert(&Uri::from_static("/"), Cookie::new("session", "abc"), SystemTime::now());
    /// jar.close();
    /// assert!(jar.get("session").is_none());
    /// ```
    pub fn close(&mut self) {
        self.kept.retain(|kept| kept.expires.is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::testing::target::Relation;

    /// 2030-01-01T00:00:00Z.
    const NOW: u64 = 1_893_456_000;
    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW + seconds)
    }

    fn headers(set: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in set {
            headers.append(SET_COOKIE, field.parse().unwrap());
        }
        headers
    }

    fn take(jar: &mut Jar, url: &'static str, set: &[&str]) {
        jar.take(&Uri::from_static(url), &headers(set), at(0));
    }

    /// A jar after a response from a URL.
    fn jar(url: &'static str, set: &[&str]) -> Jar {
        let mut jar = Jar::new();
        take(&mut jar, url, set);
        jar
    }

    fn sent_at(jar: &Jar, url: &'static str, seconds: u64) -> String {
        let field = jar.field(&Uri::from_static(url), at(seconds));
        field.map_or_else(String::new, |field| field.to_str().unwrap().to_owned())
    }

    fn sent(jar: &Jar, url: &'static str) -> String {
        sent_at(jar, url, 0)
    }

    #[test]
    fn max_age_and_expires_end_a_cookie() {
        let expires = "a=1; Expires=Tue, 01 Jan 2030 00:01:00 GMT";
        for (set, last) in [
            ("a=1; Max-Age=60", Some(59)),
            (expires, Some(59)),
            ("a=1; Max-Age=90; Expires=Tue, 01 Jan 2030 00:01:00 GMT", Some(89)),
            ("a=1; Expires=Tue, 01 Jan 2030 00:01:00 GMT; Max-Age=30", Some(29)),
            ("a=1; Max-Age=99999999999", Some(400 * DAY - 1)),
            ("a=1; Expires=Fri, 01 Jan 2038 00:00:00 GMT", Some(400 * DAY - 1)),
            ("a=1; Max-Age=0", None),
            ("a=1; Max-Age=-1", None),
            ("a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", None),
        ] {
            let jar = jar("/", &[set]);
            match last {
                Some(last) => {
                    assert_eq!(sent_at(&jar, "/", last), "a=1", "{set}");
                    assert_eq!(sent_at(&jar, "/", last + 1), "", "{set}");
                }
                None => assert_eq!(sent(&jar, "/"), "", "{set}"),
            }
        }
    }

    #[test]
    fn removal_matches_domain_and_path() {
        let set = ["a=1; Path=/", "a=2; Path=/app", "b=3"];
        let mut jar = jar("/", &set);
        take(&mut jar, "/", &["a=; Path=/app; Max-Age=0"]);
        assert_eq!(sent(&jar, "/app"), "a=1; b=3");
        take(&mut jar, "/", &["a=; Max-Age=0; Domain=example.test"]);
        assert_eq!(sent(&jar, "/app"), "a=1; b=3", "a removal for another domain removes nothing");
        take(&mut jar, "/", &["a=; Path=/; Max-Age=0"]);
        assert_eq!(sent(&jar, "/app"), "b=3");
    }

    #[test]
    fn closing_drops_session_cookies() {
        let mut jar = jar("/", &["a=1", "b=2; Max-Age=60", "c=3; Expires=Tue, 01 Jan 2030 00:01:00 GMT"]);
        jar.close();
        assert_eq!(sent(&jar, "/"), "b=2; c=3");
    }

    #[test]
    fn path_limits_a_cookie() {
        for (from, set, goes, stays) in [
            ("/", "a=1; Path=/app", ["/app", "/app/", "/app/x"].as_slice(), ["/", "/apple", "/ap"].as_slice()),
            ("/", "a=1; Path=/app/", &["/app/", "/app/x"], &["/app", "/apple"]),
            ("/app/page", "a=1", &["/app", "/app/other"], &["/", "/apple"]),
            ("/app/page", "a=1; Path=", &["/app"], &["/"]),
            ("/app/page", "a=1; Path=app", &["/app"], &["/"]),
            ("/app/page", "a=1; Path=/", &["/", "/other"], &[]),
        ] {
            let jar = jar(from, &[set]);
            goes.iter().for_each(|url| assert_eq!(sent(&jar, url), "a=1", "{set} {url}"));
            stays.iter().for_each(|url| assert_eq!(sent(&jar, url), "", "{set} {url}"));
        }
    }

    #[test]
    fn longer_paths_and_older_cookies_go_first() {
        let mut jar = jar("/", &["a=1; Path=/", "b=2; Path=/", "a=3; Path=/app"]);
        assert_eq!(sent(&jar, "/app"), "a=3; a=1; b=2");
        take(&mut jar, "/", &["a=4; Path=/"]);
        assert_eq!(sent(&jar, "/app"), "a=3; a=4; b=2", "a new value keeps the cookie's place");
    }

    #[test]
    fn host_and_domain_limit_a_cookie() {
        let host_only = jar("https://example.test/", &["a=1"]);
        assert_eq!(sent(&host_only, "https://example.test/"), "a=1");
        for other in ["https://app.example.test/", "https://other.test/", "https://test/"] {
            assert_eq!(sent(&host_only, other), "", "{other}");
        }
        for domain in ["a=1; Domain=example.test", "a=1; Domain=.Example.test"] {
            let jar = jar("https://app.example.test/", &[domain]);
            for url in ["https://example.test/", "https://app.example.test/", "https://x.app.example.test:8443/"] {
                assert_eq!(sent(&jar, url), "a=1", "{domain} {url}");
            }
            assert_eq!(sent(&jar, "https://notexample.test/"), "");
        }
        for refused in ["a=1; Domain=other.test", "a=1; Domain=app.example.test", "a=1; Domain=ample.test"] {
            assert_eq!(jar("https://example.test/", &[refused]).iter().count(), 0, "{refused}");
        }
        assert_eq!(
            jar("http://10.0.0.1/", &["a=1; Domain=0.0.1"]).iter().count(),
            0,
            "an IP address has no parent domain"
        );
    }

    #[test]
    fn secure_cookies_stay_on_tls() {
        let mut jar = jar("https://example.test/", &["a=1; Secure", "b=2"]);
        assert_eq!(sent(&jar, "https://example.test/"), "a=1; b=2");
        assert_eq!(sent(&jar, "http://example.test/"), "b=2");
        take(&mut jar, "http://example.test/", &["a=3", "c=4; Secure"]);
        assert_eq!(
            sent(&jar, "https://example.test/"),
            "a=1; b=2",
            "plain HTTP neither replaces nor sets a secure cookie"
        );
        take(&mut jar, "http://example.test/", &["a=5; Path=/app"]);
        assert_eq!(
            sent(&jar, "http://example.test/app"),
            "b=2",
            "plain HTTP sets no cookie in front of a secure cookie"
        );
    }

    #[test]
    fn name_prefixes_are_enforced() {
        for kept in ["__Host-a=1; Secure; Path=/", "__Secure-a=1; Secure; Path=/app; Domain=example.test", "a__Host-=1"]
        {
            assert_eq!(jar("/", &[kept]).iter().count(), 1, "{kept}");
        }
        for refused in [
            "__Host-a=1; Path=/",
            "__Host-a=1; Secure; Path=/app",
            "__Host-a=1; Secure",
            "__Host-a=1; Secure; Path=/; Domain=example.test",
            "__host-a=1; Path=/",
            "__Secure-a=1",
            "__SECURE-a=1",
        ] {
            assert_eq!(jar("/", &[refused]).iter().count(), 0, "{refused}");
        }
        assert_eq!(jar("http://example.test/", &["__Host-a=1; Secure; Path=/"]).iter().count(), 0);
    }

    #[test]
    fn oversized_cookies_are_refused() {
        let value = "x".repeat(4095);
        assert_eq!(jar("/", &[&format!("a={value}")]).iter().count(), 1);
        assert_eq!(jar("/", &[&format!("ab={value}")]).iter().count(), 0);
    }

    #[test]
    fn invalid_fields_are_ignored() {
        let jar = jar("/", &["", "a", "=1", "b=2; Max-Age=soon; Nonsense", "c=\"3\""]);
        assert_eq!(sent(&jar, "/"), "b=2; c=\"3\"");
    }

    #[test]
    fn same_site_limits_cross_site_requests() {
        let cause = |navigation, safe| Cause { relation: Relation::CrossSite, navigation, safe };
        let (link, form, script) = (cause(true, true), cause(true, false), cause(false, true));
        let set = ["s=1; SameSite=Strict", "l=2; SameSite=Lax", "d=3", "n=4; SameSite=None; Secure"];
        let (mut jar, target) = (jar("/", &set), Target::of(&Uri::from_static("/")));
        let field = |jar: &Jar, cause| jar.field_for(&target, at(0), cause).unwrap();
        assert_eq!(field(&jar, link), "l=2; d=3; n=4");
        assert_eq!(field(&jar, form), "n=4");
        assert_eq!(field(&jar, script), "n=4");
        let same_site = Cause { relation: Relation::SameSite, ..script };
        assert_eq!(field(&jar, same_site), "s=1; l=2; d=3; n=4");

        jar.take_from(&target, &headers(&["s=5; SameSite=Strict", "n=6; SameSite=None; Secure"]), at(0), script);
        assert_eq!(
            field(&jar, same_site),
            "s=1; l=2; d=3; n=6",
            "a cross-site script request sets only `None` cookies"
        );
        jar.take_from(&target, &headers(&["s=7; SameSite=Strict"]), at(0), form);
        assert_eq!(field(&jar, same_site), "s=7; l=2; d=3; n=6", "the response to a navigation sets a `Strict` cookie");
        take(&mut jar, "/", &["n=8; SameSite=None"]);
        assert_eq!(field(&jar, form), "n=6", "`None` needs `Secure`");
    }

    #[test]
    fn cookies_can_be_removed_and_inserted() {
        let mut jar = jar("/", &["a=1; Path=/", "a=2; Path=/app", "b=3"]);
        jar.remove("a");
        jar.insert(&Uri::from_static("/"), Cookie::new("c", "4"), at(0));
        assert_eq!((sent(&jar, "/app"), jar.get("c").unwrap().value()), ("b=3; c=4".to_owned(), "4"));
    }
}
