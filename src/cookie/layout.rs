//! The layout of a sealed token: the offsets of its fields, and its length. The table is in [`seal`](super::seal).

use crate::{cookie::keyring::KeyId, id::SessionId};

pub(super) const VERSION: u8 = 1;
pub(crate) const NONCE_LEN: usize = 24;
pub(super) const TAG_LEN: usize = 16;
/// The offsets of the session's id, the nonce and the payload in a token's bytes.
pub(super) const ID_AT: usize = 1 + size_of::<KeyId>();
pub(super) const NONCE_AT: usize = ID_AT + SessionId::LEN;
pub(super) const PAYLOAD_AT: usize = NONCE_AT + NONCE_LEN;
/// The length of the longest token in characters, except for turn tokens. No browser keeps a longer cookie, and `open`
/// refuses a longer token before decoding.
pub(super) const MAX_TOKEN_LEN: usize = 4096;
