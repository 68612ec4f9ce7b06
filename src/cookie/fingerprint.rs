//! How memory recognises a token that it has sealed or opened before, without opening it again.

use polyval::{Polyval, universal_hash::UniversalHash};

use super::keyring::random;
use crate::{error::BuildError, record::cookie_sync::TokenFingerprint};

/// A key of this process, under which tokens are known by 128 bits.
///
/// POLYVAL (RFC 8452, 3) is a polynomial over the token at a secret point: two different tokens of n blocks agree at n + 1
/// of the 2^128 points at most, and no fingerprint leaves the process, so nobody can learn the point. So it is as good here
/// as a MAC, at less than half of the cost of two SipHashes: 4 KiB, the longest token, are 2^8 blocks.
#[derive(Clone)]
pub(crate) struct FingerprintKey(Polyval);

impl FingerprintKey {
    /// # Errors
    ///
    /// Where the operating system has no randomness to give.
    pub(crate) fn generate() -> Result<Self, BuildError> {
        let key = random::<{ polyval::KEY_SIZE }>()?;
        let mut hash = Polyval::new((&*key).into());
        // A first block of every token: without it zeros would have the same fingerprint under every key.
        hash.update_padded(&[1]);
        Ok(Self(hash))
    }

    /// Returns the fingerprint of exactly these bytes under one generation of the key ring: memory does not recognise a token
    /// that a replaced ring would not open.
    pub(crate) fn fingerprint(&self, token: &[u8], ring: u64) -> TokenFingerprint {
        let mut hash = self.0.clone();
        hash.update_padded(token);
        // Two tokens that differ by zeros at the end can have one polynomial. It has no constant term: the length takes that
        // place, and tells them apart.
        let constant = u128::from(ring) << 64 | token.len() as u128;
        TokenFingerprint((u128::from_le_bytes(hash.finalize().into()) ^ constant).to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_digest_for_one_token_and_key() {
        let (key, other) = (FingerprintKey::generate().unwrap(), FingerprintKey::generate().unwrap());
        let token: Vec<u8> = (0..=255).collect();
        for len in 0..token.len() {
            let token = &token[..len];
            assert_eq!(key.fingerprint(token, 1), key.fingerprint(token, 1));
            assert_ne!(key.fingerprint(token, 1), key.fingerprint(&[token, &[0]].concat(), 1), "longer by a zero");
            assert_ne!(key.fingerprint(token, 1), key.fingerprint(token, 2), "another ring");
            assert!(len == 0 || key.fingerprint(token, 1) != other.fingerprint(token, 1));
            for bit in 0..8 * len {
                let mut flipped = token.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(key.fingerprint(token, 1), key.fingerprint(&flipped, 1));
            }
        }
    }
}
