//! The check of a cookie's settings: what browsers would refuse, with the remedy.

use std::iter;

use super::{
    CookieTier, Partition, SameSite, Transport,
    budget::{MAX_COOKIE, MIN_COOKIE},
    place::CookieScope,
};
use crate::error::{BuildError, BuildErrorKind};

impl CookieTier {
    /// What browsers would refuse, with its remedy.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let name = self.cookie_name();
        let refuse = |message: String| Err(BuildErrorKind::Cookie.error(message));
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_token_byte) {
            return refuse(format!("{name:?} is no cookie name: use up to 64 letters, digits, `-` and `_`"));
        }
        let prefix = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        let plain = self.transport == Transport::PlainHttp;
        if plain && ["__Host-", "__Secure-", "__Http-"].into_iter().any(prefix) {
            return refuse(format!(
                "browsers refuse {name:?} without `Secure`: leave out `plain_http()`, or name it without a prefix"
            ));
        }
        if !(MIN_COOKIE..=MAX_COOKIE).contains(&self.budget) {
            return refuse(format!("`max_bytes` of {}: give from {MIN_COOKIE} to {MAX_COOKIE}", self.budget));
        }
        if plain && self.same_site == SameSite::None {
            return refuse("browsers refuse `SameSite=None` without `Secure`: leave out `plain_http()`".to_owned());
        }
        if self.partition == Partition::ByEmbedder && self.same_site != SameSite::None {
            return refuse(
                "`partitioned` is for applications that other sites embed: add `same_site(SameSite::None)`, or leave \
                 `partitioned` out"
                    .to_owned(),
            );
        }
        if prefix("__Host-") && !self.place.is_root() {
            return refuse(format!(
                "browsers refuse {name:?} with a domain, or a path other than `/`: name it `__Secure-session`"
            ));
        }
        if self.former.contains(&self.place) {
            return refuse(
                "`formerly` names the present place, where a removal would sign users out: leave it out".into(),
            );
        }
        if prefix("__Host-") && !self.former.is_empty() {
            return refuse(format!("a cookie named {name:?} never stood at another place: leave out `formerly`"));
        }
        let mut places = iter::once(&self.place).chain(&self.former);
        places.try_for_each(CookieScope::check).or_else(refuse)?;
        if !self.has_room() {
            return refuse("the cookie's path and domain leave no room for values: shorten them".to_owned());
        }
        Ok(())
    }
}

/// RFC 9110, 5.6.2.
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
    fn what_a_prefix_forbids_is_refused() {
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
