//! The chain of tiers, and the lifetimes of a session.

use std::{env, time::Duration};

use layered_session::{CookieTier, KeyRing, MemoryTier, Principal, Sessions, SessionsBuilder, tier::BoxError};

use crate::{
    store,
    values::{CurrentUser, Division},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Begins the sessions. The error of a wrong configuration names the remedy.
pub(crate) fn chain(keys: KeyRing) -> Result<SessionsBuilder, BoxError> {
    let chain = Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(64 << 20).build())
        // Plain http is for loopback alone: behind TLS, `sealed(keys)` alone gives `__Host-session` with `Secure`.
        .tier(CookieTier::sealed(keys).name("session").plain_http())
        .value::<CurrentUser>()
        .value::<Division>()
        .identify_by::<CurrentUser>(|user| Some(Principal::new(&user.name)))
        .idle(idle())
        .absolute(365 * DAY);
    store::shared(chain)
}

/// The idle lifetime: `IDLE_SECONDS`, for a quick look at the end of a session, or 31 days.
fn idle() -> Duration {
    let seconds = env::var("IDLE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(31 * DAY, Duration::from_secs)
}
