//! The shared store of the nodes: `STORE_URL`.

use std::env;

use layered_session::{SessionsBuilder, tier::BoxError};

/// Adds the store of `STORE_URL` to a chain. Without the variable the chain has no store.
pub(crate) fn shared(chain: SessionsBuilder) -> Result<SessionsBuilder, BoxError> {
    let Ok(url) = env::var("STORE_URL") else { return Ok(chain) };
    match url.split_once("://") {
        #[cfg(feature = "sqlite")]
        Some(("sqlite", path)) => {
            let store = layered_session::SqliteStore::open(path)?;
            Ok(chain.tier(layered_session::SharedTier::new(store)))
        }
        // The rest of an address may have a password.
        _ => Err("STORE_URL: give `sqlite://path`, and build the example with `--features sqlite`".into()),
    }
}
