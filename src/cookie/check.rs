//! The check of a cookie's settings against the rules of browsers. Each error names its remedy.

use std::iter;

use super::{
    CookieTier, SameSite,
    budget::{MAX_COOKIE, MIN_COOKIE},
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
            format!("{name:?} is no cookie name: use up to 64 letters, digits, `-` and `_`")
        } else if self.plain_http && ["__Host-", "__Secure-", "__Http-"].into_iter().any(prefix) {
            format!("browsers refuse {name:?} without `Secure`: leave out `plain_http()`, or name it without a prefix")
        } else if !(MIN_COOKIE..=MAX_COOKIE).contains(&self.budget) {
            format!("`max_bytes` of {}: give from {MIN_COOKIE} to {MAX_COOKIE}", self.budget)
        } else if self.plain_http && self.same_site == SameSite::None {
            "browsers refuse `SameSite=None` without `Secure`: leave out `plain_http()`".to_owned()
        } else if self.partitioned && self.same_site != SameSite::None {
            "`partitioned` is for applications that other sites embed: add `same_site(SameSite::None)`, or leave \
             `partitioned` out"
                .to_owned()
        } else if prefix("__Host-") && !self.place.is_root() {
            format!("browsers refuse {name:?} with a domain, or a path other than `/`: name it `__Secure-session`")
        } else if self.former.contains(&self.place) {
            "`formerly` names the present place, where a removal would sign users out: leave it out".to_owned()
        } else if prefix("__Host-") && !self.former.is_empty() {
            format!("a cookie named {name:?} never stood at another place: leave out `formerly`")
        } else if let Some(flaw) = places.find_map(CookieScope::flaw) {
            flaw
        } else if !self.has_room() {
            "the cookie's path and domain leave no room for values: shorten them".to_owned()
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
