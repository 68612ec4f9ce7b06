//! The check of a cookie's settings against the rules of browsers. Each error names its remedy.

use std::iter;

use super::{
    CookieTier, SameSite,
    budget::{MAX_COOKIE, MIN_COOKIE, MIN_ENTRIES},
    set_cookie::CookieScope,
};
use crate::error::{BuildError, BuildErrorKind};

impl CookieTier {
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        self.flaw().map_or(Ok(()), |flaw| Err(BuildErrorKind::Cookie.error(flaw)))
    }

    /// The first setting that browsers would refuse, with its remedy.
    fn flaw(&self) -> Option<String> {
        let name = self.cookie_name();
        let prefix = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let mut places = iter::once(&self.place).chain(&self.former);
        Some(if name.is_empty() || name.len() > 64 || !name.bytes().all(is_token_byte) {
            format!("{name:?} can't be the name of a cookie: use up to 64 letters, digits, `-` and `_`")
        } else if self.plain_http && ["__Host-", "__Secure-", "__Http-"].into_iter().any(prefix) {
            format!(
                "browsers refuse a cookie named {name:?} without the attribute `Secure`: leave out `plain_http()`, or \
                 choose a name without the prefix"
            )
        } else if !(MIN_COOKIE..=MAX_COOKIE).contains(&self.budget) {
            format!("`max_bytes` of the cookie is {}: give from {MIN_COOKIE} to {MAX_COOKIE} bytes", self.budget)
        } else if self.plain_http && self.same_site == SameSite::None {
            "browsers refuse a cookie with `SameSite=None` and without `Secure`: leave out `plain_http()`".to_owned()
        } else if self.partitioned && self.same_site != SameSite::None {
            "`partitioned` is for an application that pages of other sites embed, where browsers send only cookies of \
             `SameSite=None`: add `same_site(SameSite::None)`, or leave out `partitioned`"
                .to_owned()
        } else if prefix("__Host-") && !self.place.is_root() {
            format!(
                "browsers refuse a cookie named {name:?} with a domain, or with a path other than `/`: choose another \
                 name, such as `__Secure-session`"
            )
        } else if self.former.contains(&self.place) {
            "`formerly` has the cookie's present path and domain, so the removal of the former cookie would sign users \
             out: leave out this `formerly`"
                .to_owned()
        } else if prefix("__Host-") && !self.former.is_empty() {
            format!(
                "a cookie named {name:?} can't have had another path or domain, since browsers refuse such a cookie: \
                 leave out `formerly`"
            )
        } else if let Some(flaw) = places.find_map(CookieScope::flaw) {
            flaw
        } else if self.budget(false).session < MIN_ENTRIES {
            "the cookie's name, path and domain leave no room for values within `max_bytes`: shorten the name, path or \
             domain, or raise `max_bytes`"
                .to_owned()
        } else {
            return None;
        })
    }
}

/// Whether a byte may stand in a token of HTTP (RFC 9110, 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::KeyRing;

    fn tier() -> CookieTier {
        CookieTier::sealed(KeyRing::generate().unwrap())
    }

    #[test]
    fn invalid_configuration_is_refused() {
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
}
