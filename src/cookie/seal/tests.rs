//! The token's format to the byte, and the tokens that the seal refuses: altered, of another context, or of another
//! key.

use std::{array, collections::HashSet, sync::Arc};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use xaes_256_gcm::aead::KeyInit;

use super::*;
use crate::cookie::keyring::KeyRing;

const CONTEXT: Context<'_> = Context { cookie: "__Host-session", audience: "example", purpose: Purpose::Cookie };
/// The characters at the front of a token from which `session_id_of` reads the id.
const CLEAR_CHARS: usize = 52;
const PAYLOAD: &[u8] = br#"{"theme":"dark"}"#;
const PURPOSES: [Purpose; 4] = [Purpose::Cookie, Purpose::Relay, Purpose::Birth, Purpose::Turn];

/// Tokens of a program that shares no code with this crate, by the table in the docs of `seal`, C2SP's definition and
/// RFC 5869. Browsers hold such tokens for a year, so every later version must open these tokens.
const GOLDEN: [&str; 4] = [
    "AeqV2P0AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6ew111-jQIx6DfYwv6WJTqZz59lBGHFvnz5lskH5_b5p4",
    "AeqV2P0AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e1CWSUWuuFqCSXspGNsBOMw0nMtXuPkFw5wV0dmuzFog",
    "AeqV2P0AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e6hYBOuh9JkmTLea7aUXCLo8tYPfAG0dM8ix0C-RkOG3",
    "AeqV2P0AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e0SHu414uU_gOvn3ZSLumD-h8sK5_s_odzwHS8TmPv1N",
];

fn ring(numbers: &[u8]) -> Arc<Keys> {
    let key = |number| Sha256::digest(format!("layered-session test key {number}"));
    KeyRing::new(numbers.iter().map(key)).unwrap().keys()
}

fn id() -> SessionId {
    SessionId::from_bytes(array::from_fn(|n| n as u8))
}

fn unsealed(payload: &[u8]) -> PlaintextBuffer {
    let mut unsealed = PlaintextBuffer::with_room(0);
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
fn cipher_matches_published_vectors() {
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
fn token_format_is_stable() {
    let keys = ring(&[1]);
    let nonce = Nonce::from(array::from_fn(|n| 100 + n as u8));
    for (purpose, golden) in PURPOSES.into_iter().zip(GOLDEN) {
        let context = Context { purpose, ..CONTEXT };
        assert_eq!(seal_with_nonce(&keys, context, &id(), &nonce, PAYLOAD).unwrap(), golden);
        assert_eq!(session_id_of(golden.as_bytes()), Some(id()));
        let opened = open(&keys, context, golden.as_bytes()).unwrap();
        assert_eq!((opened.id, opened.payload.as_slice(), opened.retired), (id(), PAYLOAD, false));
        assert_eq!(opened.nonce, *nonce);
    }
}

#[test]
fn altered_tokens_are_refused() {
    let keys = ring(&[1]);
    // The three possible lengths of the last group of base64.
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
fn wrong_context_or_key_is_refused() {
    let (both, rings) = (ring(&[1, 2]), [ring(&[1]), ring(&[2])]);
    let mut tokens = Vec::new();
    for keys in &rings {
        // Without lengths, "a" and "bc" give the same bytes as "ab" and "c".
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
            // The same token with the other key's id, so that the look-up finds the other key, and the cipher refuses.
            let mut forged = URL_SAFE_NO_PAD.decode(token).unwrap();
            forged[1..ID_AT].copy_from_slice(&keys.sealing.id);
            let forged = URL_SAFE_NO_PAD.encode(forged);
            assert_eq!(open(&both, context, forged.as_bytes()).is_some(), n == m);
        }
    }
    // Purposes differ by their subkeys, every other part of a context by the associated data.
    let data: HashSet<_> = tokens.iter().map(|token| token.1.associated_data(&both.sealing, &id())).collect();
    assert_eq!(data.len(), tokens.len() / rings.len() / PURPOSES.len());
}

#[test]
fn retired_key_opens_until_removed() {
    let token = seal(&ring(&[1]), CONTEXT, &id(), PAYLOAD).unwrap();
    assert!(open(&ring(&[2, 1]), CONTEXT, token.as_bytes()).unwrap().retired);
    assert!(!opens(&ring(&[2]), token));
}

#[test]
fn million_seals_have_distinct_nonces() {
    let keys = ring(&[1]);
    let token = || URL_SAFE_NO_PAD.decode(seal(&keys, CONTEXT, &id(), b"").unwrap()).unwrap();
    let nonces: HashSet<_> = (0..1_000_000).map(|_| token()[NONCE_AT..PAYLOAD_AT].to_vec()).collect();
    assert_eq!(nonces.len(), 1_000_000);
}

#[test]
fn growing_payload_seals_completely() {
    let keys = ring(&[1]);
    let audience = "a".repeat(5000);
    let context = Context { audience: &audience, ..CONTEXT };
    let parts: Vec<_> = (0..=u8::MAX).map(|n| vec![n; usize::from(n) % 17]).collect();
    let mut payload = PlaintextBuffer::with_room(0);
    parts.iter().for_each(|part| payload.extend(part));
    assert_eq!(payload.as_slice(), parts.concat());
    let mut text = b"r.".to_vec();
    super::seal(&keys, context, &id(), payload, &mut text).unwrap();
    assert_eq!(text.len(), 2 + sealed_len(parts.concat().len()));
    assert_eq!(open(&keys, context, &text[2..]).unwrap().payload.as_slice(), parts.concat());
}

#[test]
fn payload_length_determines_token_length() {
    let keys = ring(&[1]);
    let longest = payload_budget(MAX_TOKEN_LEN);
    for len in (0..9).chain([longest - 1, longest]) {
        let token = seal(&keys, CONTEXT, &id(), &vec![7; len]).unwrap();
        assert_eq!((token.len(), payload_budget(token.len())), (sealed_len(len), len));
        assert!(opens(&keys, token));
    }
    assert_eq!(seal(&keys, CONTEXT, &id(), &vec![7; longest + 1]), Err(SealError));
    let turn = Context { purpose: Purpose::Turn, ..CONTEXT };
    let longest_turn = payload_budget(MAX_TURN_LEN);
    assert_eq!(seal(&keys, turn, &id(), &vec![7; longest_turn]).unwrap().len(), MAX_TURN_LEN);
    assert_eq!(seal(&keys, turn, &id(), &vec![7; longest_turn + 1]), Err(SealError));
    let genuine = seal_with_nonce(&keys, CONTEXT, &id(), &Nonce::default(), &vec![7; longest + 1]).unwrap();
    assert!(!opens(&keys, &genuine) && session_id_of(genuine.as_bytes()).is_none());
    for token_len in sealed_len(0)..5000 {
        let budget = payload_budget(token_len);
        assert!(sealed_len(budget) <= token_len && token_len < sealed_len(budget + 1));
    }
    assert_eq!(payload_budget(0), 0);
}

#[test]
fn only_well_formed_tokens_show_ids() {
    let token = GOLDEN[0];
    let shortest = &token[..sealed_len(0)];
    assert_eq!(session_id_of(shortest.as_bytes()), Some(id()));
    assert_eq!(session_id_of(&token.as_bytes()[..shortest.len() - 1]), None);
    for (at, byte) in (0..CLEAR_CHARS).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
        let mut other = token.as_bytes().to_vec();
        other[at] = byte;
        let decoded = URL_SAFE_NO_PAD.decode(&other[..CLEAR_CHARS]).ok().filter(|clear| clear[0] == VERSION);
        let id = decoded.map(|clear| SessionId::from_bytes(clear[ID_AT..NONCE_AT].try_into().unwrap()));
        assert_eq!(session_id_of(&other), id, "{byte:#x} at {at}");
    }
    for (from, to) in [("Ae", "Ag"), ("Q", "="), ("Q", " "), ("Ae", "\"Ae")] {
        assert_eq!(session_id_of(token.replacen(from, to, 1).as_bytes()), None);
    }
}
