//! The format of all tokens that a browser carries: cookies, relay tokens, birth tokens and turn tokens.
//!
//! The main functions are [`CookieTier::seal`] and [`CookieTier::open`]. A token is base64url (RFC 4648 section 5) without padding of
//!
//! | bytes | field | |
//! |--:|---|---|
//! | 1 | version of the format, 1 | in clear |
//! | 4 | id of the key | in clear |
//! | 32 | id of the session | in clear |
//! | 24 | nonce | in clear |
//! | n | payload, see [`payload`] | XAES-256-GCM (C2SP), under the subkey of the key for the purpose |
//! | 16 | tag | over the payload and the associated data |
//!
//! The version of the format and the purpose are in the HKDF info of the subkey (see `keyring`): each purpose has a
//! subkey of its own, so the associated data needs neither again. The associated data is
//!
//! | bytes | field |
//! |--:|---|
//! | 37 | version, key id and session id, as in the token |
//! | 1 | length of the cookie's name |
//! | n | cookie's name |
//! | n | audience, to the end |
//!
//! No two tokens share a nonce, so the nonce also names a token: a node accepts a birth token once, by the nonce. A
//! reader accepts any nonce. (A writer may draw the first 12 bytes once for up to 2^20 seals of a process, which keeps
//! the derived subkey of XAES; random 12 bytes for each token then collide with a probability of 2^-57.)
//!
//! There is no other format and no fallback: a token that does not open counts as absent (CVE-2026-39324).

use std::fmt;

use base64::Engine;
use rand::Rng;
use xaes_256_gcm::{Nonce, Tag, Xaes256Gcm, aead::AeadInOut};

use super::{
    CookieTier,
    keyring::{Key, Keys},
    layout::{ID_AT, MAX_TOKEN_LEN, NONCE_AT, NONCE_LEN, PAYLOAD_AT, TAG_LEN, VERSION},
    payload::{self, Payload},
    plaintext::PlaintextBuffer,
};
use crate::id::SessionId;

/// The length of the longest turn token, in characters. The JSON with such a token fits into the largest writeback
/// body.
pub(crate) const MAX_TURN_LEN: usize = 12 << 10;

/// The strict base64url engine: no padding, no other alphabet, no spare bits. Each token has exactly one spelling.
///
/// Uses the vector instructions of the processor. A client knows its own token, so the time need not be constant.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static BASE64URL: std::sync::LazyLock<base64::engine::Simd> =
    std::sync::LazyLock::new(|| base64::engine::Simd::url_safe(base64::engine::general_purpose::NO_PAD));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

/// The purpose of a token. A token that was sealed for another purpose does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Cookie,
    Relay,
    Birth,
    Turn,
}

impl Purpose {
    /// Returns a key's cipher for this purpose.
    const fn cipher(self, key: &Key) -> &Xaes256Gcm {
        match self {
            Self::Cookie => &key.cookie,
            Self::Relay => &key.relay,
            Self::Birth => &key.birth,
            Self::Turn => &key.turn,
        }
    }

    const fn max_len(self) -> usize {
        match self {
            Self::Cookie | Self::Relay | Self::Birth => MAX_TOKEN_LEN,
            Self::Turn => MAX_TURN_LEN,
        }
    }
}

/// The context that a token is bound to and does not contain: a token opens only in the context for which it was sealed
/// (CVE-2023-48309, GHSA-2ffv-r4r9-r8xr).
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// The cookie's name, of at most 64 bytes.
    cookie: &'a str,
    audience: &'a str,
    purpose: Purpose,
}

impl Context<'_> {
    /// Appends the associated data. The length before the name makes the bytes of two different contexts differ.
    fn associate(self, key: &Key, id: &SessionId, bytes: &mut Vec<u8>) {
        let mut clear = [0; NONCE_AT + 1];
        clear[0] = VERSION;
        clear[1..ID_AT].copy_from_slice(&key.id);
        clear[ID_AT..NONCE_AT].copy_from_slice(id.as_bytes());
        clear[NONCE_AT] = self.cookie.len() as u8;
        bytes.extend_from_slice(&clear);
        bytes.extend_from_slice(self.cookie.as_bytes());
        bytes.extend_from_slice(self.audience.as_bytes());
    }

    const fn associated_len(self) -> usize {
        NONCE_AT + 1 + self.cookie.len() + self.audience.len()
    }
}

/// The payload is longer than any token can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealError;

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the payload is longer than any token can hold")
    }
}

impl std::error::Error for SealError {}

impl CookieTier {
    pub(super) fn context<'a>(&'a self, audience: &'a str, purpose: Purpose) -> Context<'a> {
        Context { cookie: self.cookie_name(), audience, purpose }
    }

    /// Seals a payload, and appends the token to `text`. Returns the generation of the ring that sealed the token.
    ///
    /// # Errors
    ///
    /// Fails if the payload is longer than a token for the purpose can hold.
    pub(crate) fn seal(
        &self,
        audience: &str,
        purpose: Purpose,
        id: &SessionId,
        payload: PlaintextBuffer,
        text: &mut Vec<u8>,
    ) -> Result<u64, SealError> {
        let keys = self.ring.keys();
        seal(&keys, self.context(audience, purpose), id, payload, text)?;
        Ok(keys.generation)
    }

    /// Opens a token that this chain's keys sealed for this audience and purpose. Returns `None` for any other bytes.
    pub(crate) fn open(&self, keys: &Keys, audience: &str, purpose: Purpose, token: &[u8]) -> Option<OpenedToken> {
        let Opened { id, payload, retired, nonce } = open(keys, self.context(audience, purpose), token)?;
        let payload = Box::new(payload::read(payload)?);
        Some(OpenedToken { id, payload, retired, nonce })
    }
}

/// A token that this chain's keys have sealed.
pub(crate) struct OpenedToken {
    pub(crate) id: SessionId,
    /// Boxed, so that the look-up of the session does not move the payload.
    pub(crate) payload: Box<Payload>,
    /// Whether a retired key sealed the token: a key that only opens. The next response should seal the cookie again.
    pub(crate) retired: bool,
    /// The token's nonce, which no other token shares.
    pub(crate) nonce: [u8; NONCE_LEN],
}

/// Seals a payload under the sealing key, for one session and one context, and appends the token to `text`. No two
/// tokens are the same.
fn seal(
    keys: &Keys,
    context: Context<'_>,
    id: &SessionId,
    payload: PlaintextBuffer,
    text: &mut Vec<u8>,
) -> Result<(), SealError> {
    if payload.as_slice().len() > payload_budget(context.purpose.max_len()) {
        return Err(SealError);
    }
    // 192 random bits set no limit on seals per key, as the 96 of plain AES-GCM would (2^32).
    let mut nonce = Nonce::default();
    rand::rng().fill_bytes(&mut nonce);
    seal_with_nonce(keys, context, id, &nonce, payload, text)
}

fn seal_with_nonce(
    keys: &Keys,
    context: Context<'_>,
    id: &SessionId,
    nonce: &Nonce,
    mut payload: PlaintextBuffer,
    text: &mut Vec<u8>,
) -> Result<(), SealError> {
    let key = &keys.sealing;
    let token = payload.with_more(TAG_LEN + context.associated_len());
    token[0] = VERSION;
    token[1..ID_AT].copy_from_slice(&key.id);
    token[ID_AT..NONCE_AT].copy_from_slice(id.as_bytes());
    token[NONCE_AT..PAYLOAD_AT].copy_from_slice(nonce);
    // The associated data stands in the place of the later tag, so that neither needs an allocation.
    let end = token.len();
    context.associate(key, id, token);
    let (token, data) = token.split_at_mut(end);
    let cipher = context.purpose.cipher(key);
    let tag = cipher.encrypt_inout_detached(nonce, data, token[PAYLOAD_AT..].as_mut().into()).or(Err(SealError))?;
    let token = payload.token();
    token.truncate(end);
    token.extend_from_slice(&tag);
    let at = text.len();
    text.resize(at + sealed_len(end - PAYLOAD_AT), 0);
    BASE64URL.encode_slice(&*token, &mut text[at..]).or(Err(SealError))?;
    Ok(())
}

/// Returns the length of a payload's token, in characters.
pub(crate) const fn sealed_len(payload_len: usize) -> usize {
    ((PAYLOAD_AT + payload_len + TAG_LEN) * 4).div_ceil(3)
}

/// Returns the maximum bytes of a payload whose token has at most `token_len` characters; 0 also if no payload fits.
pub(crate) const fn payload_budget(token_len: usize) -> usize {
    (token_len * 3 / 4).saturating_sub(PAYLOAD_AT + TAG_LEN)
}

/// Returns the session id that a token claims. The claim may serve for a look-up only: any client can write any id.
pub(crate) fn session_id_of(token: &[u8]) -> Option<SessionId> {
    // The groups of four characters up to the end of the id: this function decodes no more.
    const GROUPS: usize = NONCE_AT.div_ceil(3);
    if !(sealed_len(0)..=MAX_TOKEN_LEN).contains(&token.len()) {
        return None;
    }
    // Every request with a cookie that reads the session calls this function. The engine is made for long texts, and
    // takes more than twice as long.
    let groups: &[_; GROUPS] = token.as_chunks::<4>().0.first_chunk()?;
    let mut clear = [0; 3 * GROUPS + 1];
    let mut all = 0;
    for (at, group) in groups.iter().enumerate() {
        let [a, b, c, d] = group.map(usize::from);
        let bits = SEXTETS[0][a] | SEXTETS[1][b] | SEXTETS[2][c] | SEXTETS[3][d];
        all |= bits;
        // Writes four bytes, of which the next group replaces the last: one write is faster than three.
        clear[3 * at..3 * at + 4].copy_from_slice(&(bits << 8).to_be_bytes());
    }
    if all >= OTHER {
        return None;
    }
    let id = *clear[ID_AT..].first_chunk()?;
    (clear[0] == VERSION).then(|| SessionId::from_bytes(id))
}

/// The six bits of each base64url character at each of the four places of a group, or [`OTHER`] for any other byte.
static SEXTETS: [[u32; 256]; 4] = [sextets(18), sextets(12), sextets(6), sextets(0)];

const fn sextets(shift: u32) -> [u32; 256] {
    let mut sextets = [OTHER; 256];
    let mut at = 0;
    while at < 64 {
        sextets[ALPHABET[at] as usize] = (at as u32) << shift;
        at += 1;
    }
    sextets
}

/// The mark of a byte outside of the alphabet: a bit above the 24 bits of a group.
const OTHER: u32 = 1 << 24;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The content of a genuine token, and its payload's bytes.
pub(super) struct Opened {
    id: SessionId,
    payload: PlaintextBuffer,
    retired: bool,
    nonce: [u8; NONCE_LEN],
}

/// Opens a token that one of these keys has sealed for this context. Returns `None` for any other bytes.
///
/// The key id in the token selects the key. A trial of all keys would let any client cause as many decryptions as the
/// ring has keys.
pub(super) fn open(keys: &Keys, context: Context<'_>, token: &[u8]) -> Option<Opened> {
    if token.len() > context.purpose.max_len() {
        return None;
    }
    let len = token.len() * 3 / 4;
    let end = len.checked_sub(TAG_LEN).filter(|end| *end >= PAYLOAD_AT)?;
    let mut opened = PlaintextBuffer::with_room(len - PAYLOAD_AT);
    let bytes = opened.token();
    bytes.resize(len, 0);
    BASE64URL.decode_slice(token, bytes).ok().filter(|decoded| *decoded == len)?;
    let (&VERSION, clear) = bytes.split_first()? else { return None };
    let (key, clear) = clear.split_first_chunk()?;
    let (id, clear) = clear.split_first_chunk()?;
    let nonce = Nonce::from(*clear.first_chunk::<NONCE_LEN>()?);
    let id = SessionId::from_bytes(*id);
    let key = keys.find(*key)?;
    context.associate(key, &id, bytes);
    let (token, data) = bytes.split_at_mut(len);
    let (payload, tag) = token[PAYLOAD_AT..].split_last_chunk_mut::<TAG_LEN>()?;
    let cipher = context.purpose.cipher(key);
    cipher.decrypt_inout_detached(&nonce, data, payload.into(), &Tag::from(*tag)).ok()?;
    bytes.truncate(end);
    let retired = key.id != keys.sealing.id;
    Some(Opened { id, payload: opened, retired, nonce: nonce.into() })
}

#[cfg(test)]
mod tests;
