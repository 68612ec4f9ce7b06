//! How memory recognises a token that it has sealed or opened before, without opening it again.

use polyval::{Polyval, universal_hash::UniversalHash};
use rand::{TryRng, rngs::SysRng};
use subtle::ConstantTimeEq;

/// A key of this process, under which tokens are known by 128 bits.
///
/// POLYVAL (RFC 8452, 3) is a polynomial over the token at a secret point: two different tokens of n blocks agree at n + 1
/// of the 2^128 points at most, and nobody is ever shown a digest from which to learn the point. So it is as good here
/// as a MAC, at less than half of the cost of two SipHashes: 4 KiB, the longest token, are 2^8 blocks.
#[derive(Clone)]
pub(crate) struct DigestKey(Polyval);

impl DigestKey {
    /// # Errors
    ///
    /// Where the operating system has no randomness to give.
    pub(crate) fn generate() -> Result<Self, rand::rngs::SysError> {
        let mut key = zeroize::Zeroizing::new([0; polyval::KEY_SIZE]);
        SysRng.try_fill_bytes(key.as_mut())?;
        Ok(Self(Polyval::new((&*key).into())))
    }

    /// The digest of exactly these bytes.
    pub(crate) fn digest(&self, token: &[u8]) -> Digest {
        let mut hash = self.0.clone();
        // Four blocks are hashed at once, at the cost of one and a half: the end is filled up to as many.
        const GROUP: usize = 4 * polyval::BLOCK_SIZE;
        let (whole, rest) = token.split_at(token.len() / GROUP * GROUP);
        hash.update_padded(whole);
        let mut end = [0; 2 * GROUP];
        end[..rest.len()].copy_from_slice(rest);
        let end = &mut end[..(rest.len() + polyval::BLOCK_SIZE).next_multiple_of(GROUP)];
        // Zeros of the padding and zeros of the token are told apart by the length.
        let length = end.len() - polyval::BLOCK_SIZE;
        end[length..].copy_from_slice(&u128::to_le_bytes(token.len() as u128));
        hash.update_padded(end);
        Digest(u128::from_le_bytes(hash.finalize().into()))
    }
}

/// By which memory knows one token.
#[derive(Clone, Copy)]
pub(crate) struct Digest(u128);

/// In a time that does not say how much of them is the same.
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(..)")
    }
}

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_digest_for_one_token_and_key() {
        let (key, other) = (DigestKey::generate().unwrap(), DigestKey::generate().unwrap());
        let token: Vec<u8> = (0..=255).collect();
        for len in 0..token.len() {
            let token = &token[..len];
            assert_eq!(key.digest(token), key.digest(token));
            assert_ne!(key.digest(token), key.digest(&[token, &[0]].concat()), "longer by a zero");
            assert!(len == 0 || key.digest(token) != other.digest(token));
            for bit in 0..8 * len {
                let mut flipped = token.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(key.digest(token), key.digest(&flipped));
            }
        }
    }
}
