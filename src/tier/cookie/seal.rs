//! The one format of everything that a browser carries for us: cookies, relay tokens, birth tokens.
//!
//! The main things are [`seal`] and [`open`]. A token is base64url (RFC 4648 section 5) without padding of
//!
//! | bytes | what | |
//! |---|---|---|
//! | 1 | version of the format, 1 | in clear |
//! | 4 | id of the key | in clear |
//! | 32 | id of the session | in clear |
//! | 24 | nonce | in clear |
//! | n | payload | XAES-256-GCM (C2SP), under the key's subkey for the purpose |
//! | 16 | tag | over the payload, what is in clear, and the [`Context`] |
//!
//! There is no other format and no fallback: what does not open is absent (CVE-2026-39324).

use std::fmt;

use base64::Engine;
use rand::Rng;
use xaes_256_gcm::{Nonce, Tag, Xaes256Gcm, aead::AeadInOut};

use super::{
    keyring::{Key, KeyId, Keys, Standing},
    unsealed::Unsealed,
};
use crate::id::SessionId;

const VERSION: u8 = 1;
const NONCE_LEN: usize = 24;
pub(super) const TAG_LEN: usize = 16;
/// Where in a token's bytes the session's id, the nonce and the payload begin.
const ID_AT: usize = 1 + KeyId::LEN;
const NONCE_AT: usize = ID_AT + SessionId::LEN;
pub(super) const PAYLOAD_AT: usize = NONCE_AT + NONCE_LEN;

/// The longest token, in characters: no browser keeps a longer cookie, and nobody makes us decode one.
pub(super) const MAX_TOKEN_LEN: usize = 4096;

/// Strict: no padding, no other alphabet, no bits left over. A second spelling would be a second token.
///
/// By the vectors that the processor has: without, the text was 1,600 of the 6,300 instructions of opening a small token,
/// and 1,150 of the 8,300 of making a cookie. A client knows its token, so that the time need not be constant.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static BASE64URL: std::sync::LazyLock<base64::engine::Simd> =
    std::sync::LazyLock::new(|| base64::engine::Simd::url_safe(base64::engine::general_purpose::NO_PAD));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

/// What a token is for. One that was sealed for another purpose does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Cookie,
    Relay,
    Birth,
}

impl Purpose {
    /// Its name in the associated data, and its cipher among a key's.
    const fn of(self, key: &Key) -> (&'static str, &Xaes256Gcm) {
        match self {
            Self::Cookie => ("cookie", &key.cookie),
            Self::Relay => ("relay", &key.relay),
            Self::Birth => ("birth", &key.birth),
        }
    }
}

/// What a token is bound to without saying so: it opens in the very context for which it was sealed
/// (CVE-2023-48309, GHSA-2ffv-r4r9-r8xr).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// The cookie's name.
    pub(crate) cookie: &'a str,
    pub(crate) audience: &'a str,
    pub(crate) purpose: Purpose,
}

impl Context<'_> {
    /// Adds the associated data. Each part is preceded by its length, so that no two contexts run into the same bytes.
    fn associate(self, key: &Key, id: &SessionId, bytes: &mut Vec<u8>) {
        // The parts of fixed length at once: version, key and session.
        const LEN: usize = size_of::<u64>();
        let mut clear = [0; 3 * LEN + NONCE_AT];
        [clear[LEN - 1], clear[LEN]] = [1, VERSION];
        let (key_at, id_at) = (2 * LEN + 1, 3 * LEN + ID_AT);
        clear[key_at - 1] = KeyId::LEN as u8;
        clear[key_at..key_at + KeyId::LEN].copy_from_slice(&key.id.0);
        clear[id_at - 1] = SessionId::LEN as u8;
        clear[id_at..].copy_from_slice(id.as_bytes());
        bytes.extend_from_slice(&clear);
        for part in [self.cookie, self.audience, self.purpose.of(key).0] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
    }

    /// How long the associated data is at most.
    const fn associated_len(self) -> usize {
        6 * size_of::<u64>() + NONCE_AT + self.cookie.len() + self.audience.len() + "cookie".len()
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

/// Seals a payload under the key that seals, for one session and one context, and adds the token to a text. No two
/// tokens are ever the same.
pub(crate) fn seal(
    keys: &Keys,
    context: Context<'_>,
    id: &SessionId,
    payload: Unsealed,
    text: &mut Vec<u8>,
) -> Result<(), SealError> {
    if payload.as_slice().len() > payload_budget(MAX_TOKEN_LEN) {
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
    mut payload: Unsealed,
    text: &mut Vec<u8>,
) -> Result<(), SealError> {
    let key = keys.sealing();
    let token = payload.with_more(TAG_LEN + context.associated_len());
    token[0] = VERSION;
    token[1..ID_AT].copy_from_slice(&key.id.0);
    token[ID_AT..NONCE_AT].copy_from_slice(id.as_bytes());
    token[NONCE_AT..PAYLOAD_AT].copy_from_slice(nonce);
    // The associated data stands where the tag will: in this way neither takes memory of its own.
    let end = token.len();
    context.associate(key, id, token);
    let (token, data) = token.split_at_mut(end);
    let cipher = context.purpose.of(key).1;
    let tag = cipher.encrypt_inout_detached(nonce, data, token[PAYLOAD_AT..].as_mut().into()).or(Err(SealError))?;
    let token = payload.token();
    token.truncate(end);
    token.extend_from_slice(&tag);
    let at = text.len();
    text.resize(at + sealed_len(end - PAYLOAD_AT), 0);
    BASE64URL.encode_slice(&*token, &mut text[at..]).or(Err(SealError))?;
    Ok(())
}

/// How many characters the token of a payload has.
pub(crate) const fn sealed_len(payload_len: usize) -> usize {
    ((PAYLOAD_AT + payload_len + TAG_LEN) * 4).div_ceil(3)
}

/// How long a payload may be for its token to have at most so many characters; 0 also where not even that fits.
pub(crate) const fn payload_budget(token_len: usize) -> usize {
    (token_len * 3 / 4).saturating_sub(PAYLOAD_AT + TAG_LEN)
}

/// The session that a token claims to be of. Nothing but a look-up may follow from it: anybody can write any id.
pub(crate) fn id_of(token: &[u8]) -> Option<SessionId> {
    // Groups of four characters, so that what is in clear ends within the last one and is decoded alone.
    const GROUPS: usize = NONCE_AT.div_ceil(3);
    if !(sealed_len(0)..=MAX_TOKEN_LEN).contains(&token.len()) {
        return None;
    }
    // Every request that reads comes here. The engine, which is made for long texts, takes more than twice as long.
    let groups: &[_; GROUPS] = token.as_chunks::<4>().0.first_chunk()?;
    let mut clear = [0; 3 * GROUPS + 1];
    let mut all = 0;
    for (at, group) in groups.iter().enumerate() {
        let [a, b, c, d] = group.map(usize::from);
        let bits = SEXTETS[0][a] | SEXTETS[1][b] | SEXTETS[2][c] | SEXTETS[3][d];
        all |= bits;
        // With a byte that the next group replaces: one store, where three would take longer.
        clear[3 * at..3 * at + 4].copy_from_slice(&(bits << 8).to_be_bytes());
    }
    if all >= OTHER {
        return None;
    }
    let id = *clear[ID_AT..].first_chunk()?;
    (clear[0] == VERSION).then(|| SessionId::from_bytes(id))
}

/// The six bits of a character of base64url at each of the four places of a group, or a bit that none of them has.
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

const OTHER: u32 = 1 << 24;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a genuine token holds.
pub(crate) struct Opened {
    pub(crate) id: SessionId,
    pub(crate) payload: Unsealed,
    pub(crate) standing: Standing,
}

/// Opens a token that one of these keys has sealed for this context. Whatever else it gets, it answers `None`.
///
/// The key is chosen by its id: trying keys would cost as many seals as there are keys, at the sender's choice.
pub(crate) fn open(keys: &Keys, context: Context<'_>, token: &[u8]) -> Option<Opened> {
    if token.len() > MAX_TOKEN_LEN {
        return None;
    }
    let len = token.len() * 3 / 4;
    let end = len.checked_sub(TAG_LEN).filter(|end| *end >= PAYLOAD_AT)?;
    let mut opened = Unsealed::with_room(len - PAYLOAD_AT);
    let bytes = opened.token();
    bytes.resize(len, 0);
    BASE64URL.decode_slice(token, bytes).ok().filter(|decoded| *decoded == len)?;
    let (&VERSION, clear) = bytes.split_first()? else { return None };
    let (key, clear) = clear.split_first_chunk()?;
    let (id, clear) = clear.split_first_chunk()?;
    let nonce = Nonce::from(*clear.first_chunk::<NONCE_LEN>()?);
    let id = SessionId::from_bytes(*id);
    let (key, standing) = keys.find(KeyId(*key))?;
    context.associate(key, &id, bytes);
    let (token, data) = bytes.split_at_mut(len);
    let (payload, tag) = token[PAYLOAD_AT..].split_last_chunk_mut::<TAG_LEN>()?;
    let cipher = context.purpose.of(key).1;
    cipher.decrypt_inout_detached(&nonce, data, payload.into(), &Tag::from(*tag)).ok()?;
    bytes.truncate(end);
    Some(Opened { id, payload: opened, standing })
}

#[cfg(test)]
mod tests {
    use std::{array, collections::HashSet, sync::Arc};

    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sha2::{Digest, Sha256};
    use xaes_256_gcm::aead::KeyInit;

    use super::*;
    use crate::tier::cookie::keyring::KeyRing;

    const CONTEXT: Context<'_> = Context { cookie: "__Host-session", audience: "example", purpose: Purpose::Cookie };
    /// Those of which the id can be read.
    const CLEAR_CHARS: usize = 52;
    const PAYLOAD: &[u8] = br#"{"theme":"dark"}"#;
    const PURPOSES: [Purpose; 3] = [Purpose::Cookie, Purpose::Relay, Purpose::Birth];

    /// Computed by a program that shares no code with this one, from the table above, C2SP's definition and RFC 5869.
    /// Browsers hold tokens like these for a year: whatever else later versions do, these must open.
    const GOLDEN: [&str; 3] = [
        "AeqV2P0AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6ew111-jQIx6DfYwv6WJTqZzIFB5kumyFxcBFhdqcCW8y",
        "AeqV2P0AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e1CWSUWuuFqCSXspGNsBOMxgW3uESnuVkxfKPD20bTpO",
        "AeqV2P0AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e6hYBOuh9JkmTLea7aUXCLreNPhIkIFp7uZDYxAniL9U",
    ];

    fn ring(numbers: &[u8]) -> Arc<Keys> {
        let key = |number| Sha256::digest(format!("layered-session test key {number}"));
        KeyRing::new(numbers.iter().map(key)).unwrap().keys()
    }

    fn id() -> SessionId {
        SessionId::from_bytes(array::from_fn(|n| n as u8))
    }

    fn unsealed(payload: &[u8]) -> Unsealed {
        let mut unsealed = Unsealed::with_room(0);
        unsealed.extend(payload);
        unsealed
    }

    fn seal(keys: &Keys, context: Context<'_>, id: &SessionId, payload: &[u8]) -> Result<String, SealError> {
        let mut text = Vec::new();
        super::seal(keys, context, id, unsealed(payload), &mut text)?;
        Ok(String::from_utf8(text).unwrap())
    }

    fn seal_with_nonce(
        keys: &Keys,
        context: Context<'_>,
        id: &SessionId,
        nonce: &Nonce,
        payload: &[u8],
    ) -> Result<String, SealError> {
        let mut text = Vec::new();
        super::seal_with_nonce(keys, context, id, nonce, unsealed(payload), &mut text)?;
        Ok(String::from_utf8(text).unwrap())
    }

    impl Context<'_> {
        fn associated_data(self, key: &Key, id: &SessionId) -> Vec<u8> {
            let mut data = Vec::new();
            self.associate(key, id, &mut data);
            assert!(data.len() <= self.associated_len());
            data
        }
    }

    fn opens(keys: &Keys, token: impl AsRef<[u8]>) -> bool {
        open(keys, CONTEXT, token.as_ref()).is_some()
    }

    #[test]
    fn the_cipher_gives_the_published_vectors() {
        // https://c2sp.org/XAES-256-GCM
        #[rustfmt::skip]
        let vectors: [(u8, &[u8], [u8; 28]); 2] = [
            (1, b"", *b"\xce\x54\x6e\xf6\x3c\x9c\xc6\x07\x65\x92\x36\x09\xb3\x3a\x9a\x19\x74\xe9\x6e\x52\xda\xf2\xfc\xf7\x07\x5e\x22\x71"),
            (3, b"c2sp.org/XAES-256-GCM", *b"\x98\x6e\xc1\x83\x25\x93\xdf\x54\x43\xa1\x79\x43\x7f\xd0\x83\xbf\x3f\xdb\x41\xab\xd7\x40\xa2\x1f\x71\xeb\x76\x9d"),
        ];
        for (key, data, expected) in vectors {
            let mut text = *b"XAES-256-GCM";
            let cipher = Xaes256Gcm::new(&[key; 32].into());
            let nonce = Nonce::from(*b"ABCDEFGHIJKLMNOPQRSTUVWX");
            let tag = cipher.encrypt_inout_detached(&nonce, data, text.as_mut_slice().into()).unwrap();
            assert_eq!([&text[..], &tag].concat(), expected);
        }
    }

    #[test]
    fn the_format_never_changes() {
        let keys = ring(&[1]);
        let nonce = Nonce::from(array::from_fn(|n| 100 + n as u8));
        for (purpose, golden) in PURPOSES.into_iter().zip(GOLDEN) {
            let context = Context { purpose, ..CONTEXT };
            assert_eq!(seal_with_nonce(&keys, context, &id(), &nonce, PAYLOAD).unwrap(), golden);
            assert_eq!(id_of(golden.as_bytes()), Some(id()));
            let opened = open(&keys, context, golden.as_bytes()).unwrap();
            assert_eq!((opened.id, opened.payload.as_slice(), opened.standing), (id(), PAYLOAD, Standing::Sealing));
        }
    }

    #[test]
    fn a_flipped_bit_a_cut_an_extension_and_another_spelling_are_refused() {
        let keys = ring(&[1]);
        // The three ways in which base64 can end.
        for len in [16, 17, 18] {
            let token = seal(&keys, CONTEXT, &id(), &[7; 18][..len]).unwrap().into_bytes();
            let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            assert!(opens(&keys, &token));
            let flip = |bytes: &[u8], bit: usize| {
                let mut bytes = bytes.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            for bit in 0..8 * bytes.len() {
                assert!(!opens(&keys, URL_SAFE_NO_PAD.encode(flip(&bytes, bit))), "bit {bit} of the bytes");
            }
            for bit in 0..8 * token.len() {
                assert!(!opens(&keys, flip(&token, bit)), "bit {bit} of the text");
            }
            for cut in 0..token.len() {
                assert!(!opens(&keys, &token[..cut]) && !opens(&keys, &token[cut + 1..]));
            }
            let (last, rest) = token.split_last().unwrap();
            for byte in (0..=u8::MAX).filter(|byte| byte != last) {
                assert!(!opens(&keys, [rest, &[byte]].concat()), "{byte:#x} for the last character");
            }
            for more in ["=", "==", "A", "AA", "AAA", "AAAA", "\n", " ", ";"] {
                assert!(!opens(&keys, [&token, more.as_bytes()].concat()), "{more:?} behind the last character");
            }
        }
        assert!(opens(&keys, GOLDEN[0]) && !opens(&keys, GOLDEN[0].replace('-', "+")));
    }

    #[test]
    fn no_swap_of_name_audience_purpose_or_key_opens() {
        let (both, rings) = (ring(&[1, 2]), [ring(&[1]), ring(&[2])]);
        let mut tokens = Vec::new();
        for keys in &rings {
            // Run together, "a" and "bc" are "ab" and "c".
            for (cookie, audience) in [("a", "bc"), ("ab", "c"), ("ab", "bc"), ("a", "c"), ("", "abc")] {
                for purpose in PURPOSES {
                    let context = Context { cookie, audience, purpose };
                    tokens.push((keys, context, seal(keys, context, &id(), PAYLOAD).unwrap()));
                }
            }
        }
        for (n, (_, _, token)) in tokens.iter().enumerate() {
            for (m, &(keys, context, _)) in tokens.iter().enumerate() {
                assert_eq!(open(keys, context, token.as_bytes()).is_some(), n == m);
                // The same with the other key's id put into the token, so that it is that key which refuses.
                let mut forged = URL_SAFE_NO_PAD.decode(token).unwrap();
                forged[1..ID_AT].copy_from_slice(&keys.sealing().id.0);
                let forged = URL_SAFE_NO_PAD.encode(forged);
                assert_eq!(open(&both, context, forged.as_bytes()).is_some(), n == m);
            }
        }
        // Purposes have subkeys of their own; that the associated data would keep them apart too shows only here.
        let data: HashSet<_> = tokens.iter().map(|token| token.1.associated_data(both.sealing(), &id())).collect();
        assert_eq!(data.len(), tokens.len() / rings.len());
    }

    #[test]
    fn a_retired_key_opens_and_a_removed_one_does_not() {
        let token = seal(&ring(&[1]), CONTEXT, &id(), PAYLOAD).unwrap();
        assert_eq!(open(&ring(&[2, 1]), CONTEXT, token.as_bytes()).unwrap().standing, Standing::Retired);
        assert!(!opens(&ring(&[2]), token));
    }

    #[test]
    fn a_million_seals_of_one_payload_are_distinct() {
        let keys = ring(&[1]);
        let token = || URL_SAFE_NO_PAD.decode(seal(&keys, CONTEXT, &id(), b"").unwrap()).unwrap();
        let nonces: HashSet<_> = (0..1_000_000).map(|_| token()[NONCE_AT..PAYLOAD_AT].to_vec()).collect();
        assert_eq!(nonces.len(), 1_000_000);
    }

    #[test]
    fn a_payload_that_outgrows_its_room_is_whole_and_so_is_its_token() {
        let keys = ring(&[1]);
        let audience = "a".repeat(5000);
        let context = Context { audience: &audience, ..CONTEXT };
        let parts: Vec<_> = (0..=u8::MAX).map(|n| vec![n; usize::from(n) % 17]).collect();
        let mut payload = Unsealed::with_room(0);
        parts.iter().for_each(|part| payload.extend(part));
        assert_eq!(payload.as_slice(), parts.concat());
        let mut text = b"r.".to_vec();
        super::seal(&keys, context, &id(), payload, &mut text).unwrap();
        assert_eq!(text.len(), 2 + sealed_len(parts.concat().len()));
        assert_eq!(open(&keys, context, &text[2..]).unwrap().payload.as_slice(), parts.concat());
    }

    #[test]
    fn lengths_are_known_before_sealing() {
        let keys = ring(&[1]);
        let most = payload_budget(MAX_TOKEN_LEN);
        for len in (0..9).chain([most - 1, most]) {
            let token = seal(&keys, CONTEXT, &id(), &vec![7; len]).unwrap();
            assert_eq!((token.len(), payload_budget(token.len())), (sealed_len(len), len));
            assert!(opens(&keys, token));
        }
        assert_eq!(seal(&keys, CONTEXT, &id(), &vec![7; most + 1]), Err(SealError));
        let genuine = seal_with_nonce(&keys, CONTEXT, &id(), &Nonce::default(), &vec![7; most + 1]).unwrap();
        assert!(!opens(&keys, &genuine) && id_of(genuine.as_bytes()).is_none());
        for token_len in sealed_len(0)..5000 {
            let budget = payload_budget(token_len);
            assert!(sealed_len(budget) <= token_len && token_len < sealed_len(budget + 1));
        }
        assert_eq!(payload_budget(0), 0);
    }

    #[test]
    fn ids_are_read_from_well_formed_tokens_alone() {
        let token = GOLDEN[0];
        let shortest = &token[..sealed_len(0)];
        assert_eq!(id_of(shortest.as_bytes()), Some(id()));
        assert_eq!(id_of(&token.as_bytes()[..shortest.len() - 1]), None);
        for (at, byte) in (0..CLEAR_CHARS).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
            let mut other = token.as_bytes().to_vec();
            other[at] = byte;
            let decoded = URL_SAFE_NO_PAD.decode(&other[..CLEAR_CHARS]).ok().filter(|clear| clear[0] == VERSION);
            let id = decoded.map(|clear| SessionId::from_bytes(clear[ID_AT..NONCE_AT].try_into().unwrap()));
            assert_eq!(id_of(&other), id, "{byte:#x} at {at}");
        }
        for (from, to) in [("Ae", "Ag"), ("Q", "="), ("Q", " "), ("Ae", "\"Ae")] {
            assert_eq!(id_of(token.replacen(from, to, 1).as_bytes()), None);
        }
    }
}
