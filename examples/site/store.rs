//! The shared store of the nodes: `STORE_URL` and `DEGRADE`.

use std::env;

use layered_session::{SessionsBuilder, tier::BoxError};

/// Adds the store of `STORE_URL` to a chain. Without the variable the chain has no store.
pub(crate) fn shared(chain: SessionsBuilder) -> Result<SessionsBuilder, BoxError> {
    let Ok(url) = env::var("STORE_URL") else { return Ok(chain) };
    match url.split_once("://") {
        #[cfg(feature = "redis")]
        Some(("redis" | "rediss", _)) => Ok(chain.tier(tier(layered_session::RedisStore::new(url)?))),
        #[cfg(feature = "sqlite")]
        Some(("sqlite", path)) => Ok(chain.tier(tier(layered_session::SqliteStore::open(path)?))),
        // The rest of an address may have a password.
        _ => Err(
            "STORE_URL: give `redis://host:port` and build the example with `--features redis`, or `sqlite://path` \
                  with `--features sqlite`"
                .into(),
        ),
    }
}

/// With `DEGRADE=1`, memory and the cookie answer while the store does not.
#[cfg(any(feature = "redis", feature = "sqlite"))]
fn tier(store: impl layered_session::tier::Store) -> layered_session::SharedTier {
    let tier = layered_session::SharedTier::new(store);
    match env::var("DEGRADE").as_deref() {
        Ok("1") => tier.degrade(),
        _ => tier,
    }
}
