//! The nonces of tokens that were accepted without a cookie: each such token gives a browser its session once.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use crate::{cookie::layout::NONCE_LEN, sync::Mutex, time::Millis};

/// The sum of a token's life, a minute, and the maximum lead of the sealing node's clock, another minute.
const KEPT: Duration = Duration::from_secs(120);

/// The maximum number of nonces at a time, which take 4 MiB. Further tokens are refused for now, since a page could
/// bring a forgotten token again.
const MAX_NONCES: usize = 1 << 16;

/// The reason to refuse a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAccepted {
    /// The token was accepted before.
    Used,
    /// Too many tokens were accepted lately, and the nonce can't be noted.
    Full,
}

/// The nonces of the tokens that were accepted lately.
#[derive(Debug, Default)]
pub(crate) struct AcceptedNonces(Mutex<Nonces>);

#[derive(Debug, Default)]
struct Nonces {
    known: HashSet<[u8; NONCE_LEN]>,
    order: VecDeque<(Millis, [u8; NONCE_LEN])>,
}

impl AcceptedNonces {
    /// Accepts a token, once.
    ///
    /// # Errors
    ///
    /// `Used` if the token was accepted before; `Full` if [`MAX_NONCES`] other tokens were accepted lately.
    pub(crate) fn accept(&self, nonce: [u8; NONCE_LEN], now: Millis) -> Result<(), NotAccepted> {
        let Nonces { known, order } = &mut *self.0.lock();
        while let Some((at, nonce)) = order.front()
            && at.after(KEPT) <= now
        {
            known.remove(nonce);
            order.pop_front();
        }
        if known.contains(&nonce) {
            return Err(NotAccepted::Used);
        }
        if known.len() >= MAX_NONCES {
            return Err(NotAccepted::Full);
        }
        known.insert(nonce);
        order.push_back((now, nonce));
        Ok(())
    }

    /// Whether a token was accepted lately.
    pub(crate) fn contains(&self, nonce: &[u8; NONCE_LEN]) -> bool {
        self.0.lock().known.contains(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: u32) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        nonce
    }

    #[test]
    fn token_is_accepted_once() {
        let (accepted, last) = (AcceptedNonces::default(), Millis(119_999));
        assert!(accepted.accept(nonce(1), Millis(0)).is_ok());
        assert!(matches!(accepted.accept(nonce(1), last), Err(NotAccepted::Used)));
        assert!(accepted.accept(nonce(2), last).is_ok());
        assert!(
            accepted.accept(nonce(1), Millis(120_000)).is_ok(),
            "the nonce is forgotten once the token no longer opens"
        );
    }

    #[test]
    fn full_set_refuses_new_nonces() {
        let accepted = AcceptedNonces::default();
        for number in 0..MAX_NONCES as u32 {
            assert!(accepted.accept(nonce(number), Millis(0)).is_ok());
        }
        assert!(matches!(accepted.accept(nonce(u32::MAX), Millis(1)), Err(NotAccepted::Full)));
        assert!(matches!(accepted.accept(nonce(0), Millis(1)), Err(NotAccepted::Used)));
        assert!(accepted.accept(nonce(u32::MAX), Millis(120_000)).is_ok());
    }
}
