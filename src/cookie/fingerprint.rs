//! Fingerprints of tokens, by which memory recognises a token that this process has sealed or opened before.

use polyval::{Polyval, universal_hash::UniversalHash};

use super::keyring::random;
use crate::{error::BuildError, record::cookie_sync::TokenFingerprint};

/// A secret key of this process for fingerprints of 128 bits.
///
/// POLYVAL (RFC 8452, 3) evaluates a polynomial over the token at a secret point. Two different tokens of n blocks
/// agree at n + 1 of the 2^128 points at most, and no fingerprint leaves the process, so an attacker can't learn the
/// point. POLYVAL is here as safe as a MAC, at less than half of the cost of two SipHashes. The longest token, of 4
/// KiB, has 2^8 blocks.
#[derive(Clone)]
pub(crate) struct FingerprintKey(Polyval);

impl FingerprintKey {
    /// # Errors
    ///
    /// Fails if the operating system gives no randomness.
    pub(crate) fn generate() -> Result<Self, BuildError> {
        let key = random::<{ polyval::KEY_SIZE }>()?;
        let mut hash = Polyval::new((&*key).into());
        // The first block of every token. Without this block, a token of zeros would have the same fingerprint under
        // every key.
        hash.update_padded(&[1]);
        Ok(Self(hash))
    }

    /// Returns the fingerprint of exactly these bytes under one generation of the key ring, so that memory does not
    /// recognise a token that the present ring might not open.
    pub(crate) fn fingerprint(&self, token: &[u8], ring: u64) -> TokenFingerprint {
        let mut hash = self.0.clone();
        hash.update_padded(token);
        // Two tokens that differ by zeros at the end can have the same polynomial. The polynomial has no constant term,
        // so the length takes the place of the constant, and makes the two fingerprints differ.
        let constant = u128::from(ring) << 64 | token.len() as u128;
        TokenFingerprint((u128::from_le_bytes(hash.finalize().into()) ^ constant).to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_depends_on_token_and_key() {
        let (key, other) = (FingerprintKey::generate().unwrap(), FingerprintKey::generate().unwrap());
        let token: Vec<u8> = (0..=255).collect();
        for len in 0..token.len() {
            let token = &token[..len];
            assert_eq!(key.fingerprint(token, 1), key.fingerprint(token, 1));
            assert_ne!(
                key.fingerprint(token, 1),
                key.fingerprint(&[token, &[0]].concat(), 1),
                "a zero byte more changes the fingerprint"
            );
            assert_ne!(
                key.fingerprint(token, 1),
                key.fingerprint(token, 2),
                "another generation of keys changes the fingerprint"
            );
            assert!(len == 0 || key.fingerprint(token, 1) != other.fingerprint(token, 1));
            for bit in 0..8 * len {
                let mut flipped = token.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(key.fingerprint(token, 1), key.fingerprint(&flipped, 1));
            }
        }
    }
}
