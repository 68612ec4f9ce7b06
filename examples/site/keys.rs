//! The keys that seal the cookie.
//!
//! `SESSION_KEYS` is a comma-separated list of hex keys of 32 bytes, of which the first key seals.

use layered_session::{BuildError, KeyRing};

/// Reads `SESSION_KEYS`, or takes the key that this machine keeps for the example: all sessions survive a restart.
#[cfg(debug_assertions)]
pub(crate) fn key_ring(example: &str) -> Result<KeyRing, BuildError> {
    match std::env::var_os("SESSION_KEYS") {
        Some(_) => KeyRing::from_env("SESSION_KEYS"),
        None => KeyRing::development(example),
    }
}

/// Reads `SESSION_KEYS`. A release build does not start without the variable: a server with its own key could not read
/// the cookies of the other servers.
#[cfg(not(debug_assertions))]
pub(crate) fn key_ring(_: &str) -> Result<KeyRing, BuildError> {
    KeyRing::from_env("SESSION_KEYS")
}
