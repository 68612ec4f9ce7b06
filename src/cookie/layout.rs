//! The layout of a sealed token: where its fields stand, and how long it can be. The table is in [`seal`](super::seal).

use crate::{cookie::keyring::KeyId, id::SessionId};

pub(super) const VERSION: u8 = 1;
pub(crate) const NONCE_LEN: usize = 24;
pub(super) const TAG_LEN: usize = 16;
/// Where in a token's bytes the session's id, the nonce and the payload begin.
pub(super) const ID_AT: usize = 1 + KeyId::LEN;
pub(super) const NONCE_AT: usize = ID_AT + SessionId::LEN;
pub(super) const PAYLOAD_AT: usize = NONCE_AT + NONCE_LEN;
/// The longest token but a turn token, in characters: no browser keeps a longer cookie, and a longer one is not decoded.
pub(super) const MAX_TOKEN_LEN: usize = 4096;
