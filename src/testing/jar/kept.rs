//! [`Kept`]: one cookie in a jar, which a browser keeps and sends by the rules of RFC 6265bis.

use std::time::{Duration, SystemTime};

use cookie::{Cookie, Expiration, SameSite};

use crate::testing::target::{Relation, Target, is_below, is_within};

/// The longest time for which browsers keep a cookie (RFC 6265bis, 5.5).
const LONGEST: Duration = Duration::from_secs(400 * 86_400);

/// The maximum bytes of a cookie's name and value together. Browsers refuse a longer cookie (RFC 6265bis, 5.6).
const MOST_BYTES: usize = 4096;

/// A cookie, with the domain and the path under which a browser keeps the cookie.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) cookie: Cookie<'static>,
    domain: String,
    /// Whether the cookie names no `Domain`, so that subdomains do not get the cookie.
    host_only: bool,
    pub(super) path: String,
    /// The end of the cookie; `None` for a cookie that ends when the browser closes.
    pub(super) expires: Option<SystemTime>,
}

/// The page and the kind of a request, by which `SameSite` decides.
#[derive(Clone, Copy, Debug)]
pub(in crate::testing) struct Cause {
    pub(in crate::testing) relation: Relation,
    /// Whether a link or a form of a page causes the request, so that the answer replaces the page.
    pub(in crate::testing) navigation: bool,
    /// Whether the method is safe (RFC 9110, 9.2.1).
    pub(in crate::testing) safe: bool,
}

impl Cause {
    /// A link in a page of the same origin.
    pub(super) const OWN: Self = Self { relation: Relation::SameOrigin, navigation: true, safe: true };
}

impl Kept {
    /// Returns the cookie as a browser keeps the cookie; `None` for a cookie that a browser refuses (RFC 6265bis, 5.7).
    pub(super) fn admit(cookie: Cookie<'static>, target: &Target, now: SystemTime, cause: Cause) -> Option<Self> {
        let secure = cookie.secure() == Some(true);
        let domain = cookie.domain().map(str::to_ascii_lowercase);
        let path = cookie.path().filter(|path| path.starts_with('/')).map(str::to_owned);
        let kept = Self {
            host_only: domain.is_none(),
            domain: domain.unwrap_or_else(|| target.host.clone()),
            path: path.unwrap_or_else(|| target.default_path().to_owned()),
            expires: expiry(&cookie, now),
            cookie,
        };
        let short = kept.cookie.name().len() + kept.cookie.value().len() <= MOST_BYTES;
        let shown = cause.relation != Relation::CrossSite || cause.navigation || kept.same_site() == SameSite::None;
        let allowed = short
            && target.is_within(&kept.domain)
            && (target.is_secure() || !secure)
            && (secure || kept.same_site() != SameSite::None)
            && kept.keeps_the_promise_of_its_name()
            && shown;
        allowed.then_some(kept)
    }

    /// Whether the cookie meets the rules of its name's prefix (RFC 6265bis, 4.1.3). Browsers compare without case.
    fn keeps_the_promise_of_its_name(&self) -> bool {
        let begins = |prefix: &str| {
            self.cookie.name().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        if begins("__Host-") {
            self.is_secure() && self.host_only && self.cookie.path() == Some("/")
        } else {
            !begins("__Secure-") || self.is_secure()
        }
    }

    pub(super) fn is_secure(&self) -> bool {
        self.cookie.secure() == Some(true)
    }

    /// Returns the cookie's `SameSite`, by default `Lax` as in Chrome, the strictest browser.
    fn same_site(&self) -> SameSite {
        self.cookie.same_site().unwrap_or(SameSite::Lax)
    }

    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(super) fn has_place_of(&self, other: &Self) -> bool {
        fn place(kept: &Kept) -> (&str, &str, bool, &str) {
            (kept.cookie.name(), &kept.domain, kept.host_only, &kept.path)
        }
        place(self) == place(other)
    }

    /// Whether some request would carry both cookies.
    pub(super) fn overlaps(&self, newer: &Self) -> bool {
        let hosts = is_within(&self.domain, &newer.domain) || is_within(&newer.domain, &self.domain);
        hosts && is_below(&newer.path, &self.path)
    }

    pub(super) fn goes_to(&self, target: &Target, now: SystemTime, cause: Cause) -> bool {
        let host = if self.host_only { target.host == self.domain } else { target.is_within(&self.domain) };
        let shown = match self.same_site() {
            _ if cause.relation != Relation::CrossSite => true,
            SameSite::None => true,
            SameSite::Lax => cause.navigation && cause.safe,
            SameSite::Strict => false,
        };
        host && shown
            && is_below(&target.path, &self.path)
            && (target.is_secure() || !self.is_secure())
            && !self.is_over(now)
    }
}

/// Returns the end of a cookie. `Max-Age` outranks `Expires`, and both are capped.
fn expiry(cookie: &Cookie<'_>, now: SystemTime) -> Option<SystemTime> {
    let capped = |seconds: u64| Duration::from_secs(seconds).min(LONGEST);
    match (cookie.max_age(), cookie.expires()) {
        (Some(age), _) => Some(now + capped(u64::try_from(age.whole_seconds()).unwrap_or_default())),
        (None, Some(Expiration::DateTime(time))) => Some(SystemTime::from(time).min(now + LONGEST)),
        (None, Some(Expiration::Session) | None) => None,
    }
}
