//! The budget of the cookie: the bytes of entries that fit into the finished header.

use super::{CookieTier, payload::HEAD_MAX, seal, set_cookie::MAX_AGE_IS};
use crate::record::write::Budget;

/// The default budget of the finished header: nginx's default buffer holds 4 kB of a whole response head.
pub(super) const BUDGET: usize = 3_000;

/// The largest budget, and so the maximum bytes of name and value in any deploy. Browsers take 4,096 bytes of both, the
/// lowest known limit is Safari's 4,093, and an HTTP/2 peer may take 16 KiB of headers in all.
pub(super) const MAX_COOKIE: usize = 3_800;

/// The smallest useful budget: every cookie takes some 300 bytes beside its values.
pub(super) const MIN_COOKIE: usize = 1_000;

/// The digits of the longest `Max-Age`: 400 days in seconds.
const MAX_AGE_DIGITS: usize = 8;

/// The minimum bytes for entries with which a configuration is useful.
pub(super) const MIN_ENTRIES: usize = 128;

const fn entry_room(token_len: usize) -> usize {
    seal::payload_budget(token_len).saturating_sub(HEAD_MAX)
}

/// Gives the session all of the room, or half if principals have values in the cookie too.
const fn split(entries: usize, principals: bool) -> Budget {
    let principal = if principals { entries / 2 } else { 0 };
    Budget { session: entries - principal, principal, identity: 0 }
}

impl CookieTier {
    /// Returns the room for entries. The calculation assumes that the fields before the entries have their maximum
    /// length, so that each accepted write fits.
    pub(crate) fn budget(&self, principals: bool) -> Budget {
        split(entry_room(self.token_budget()), principals)
    }

    /// Returns the room for entries in the largest cookie that any deploy may have sealed.
    pub(crate) fn max_budget(&self, principals: bool) -> Budget {
        split(entry_room(MAX_COOKIE - self.cookie_name().len() - 1), principals)
    }

    /// Returns the maximum number of characters of a token, beside the name and the longest attributes.
    pub(crate) fn token_budget(&self) -> usize {
        let beside = self.cookie_name().len() + 1 + self.attributes().len() + MAX_AGE_IS.len() + MAX_AGE_DIGITS;
        self.budget.saturating_sub(beside)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        cookie::{KeyRing, plaintext::PlaintextBuffer},
        id::SessionId,
    };

    fn tier() -> CookieTier {
        CookieTier::sealed(KeyRing::generate().unwrap())
    }

    #[test]
    fn full_budget_fills_the_cookie() {
        let max_age = Some(Duration::from_secs(500 * 86_400));
        for bytes in [MIN_COOKIE, 2_345, BUDGET, MAX_COOKIE] {
            for tier in [tier(), tier().plain_http(), tier().name("n".repeat(64)).domain("shop.example").path("/app")] {
                let tier = if bytes == BUDGET { tier } else { tier.max_bytes(bytes) };
                tier.check().unwrap();
                let Budget { session, principal, .. } = tier.budget(true);
                let mut payload = PlaintextBuffer::with_room(session + principal + HEAD_MAX);
                payload.extend(&vec![b'x'; session + principal + HEAD_MAX]);
                let id = SessionId::mint().unwrap();
                let creation = tier.creation("", &id, payload, max_age).unwrap().unwrap();
                let len = creation.header.len();
                assert!((bytes - 4..=bytes).contains(&len), "{len} of {bytes}");
                assert_eq!(tier.budget(false).session, session + principal);
            }
        }
    }
}
