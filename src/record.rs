//! The data of a record and the rules of its changes: pure, with no lock, no request and no tier.

pub(crate) mod change;
pub(crate) mod cookie_sync;
pub(crate) mod life;
pub(crate) mod state;
pub(crate) mod values;
pub(crate) mod write;
