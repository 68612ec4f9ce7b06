//! The shared stores of this crate, for [`SharedTier`](crate::SharedTier).

use crate::error::CloseReason;

#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

/// Returns the number of a reason in a stored record. A number never changes its meaning, and zero is free, for a
/// session that lives.
const fn number_of(reason: CloseReason) -> u8 {
    match reason {
        CloseReason::Destroyed => 1,
        CloseReason::Renewed => 2,
        CloseReason::Revoked => 3,
        CloseReason::Expired => 4,
        CloseReason::CrossSite => 5,
        CloseReason::Ambiguous => 6,
        CloseReason::Shutdown => 7,
    }
}

/// Returns the reason of a number; `None` for the number of a later version of this crate.
const fn reason_of(number: u8) -> Option<CloseReason> {
    match number {
        1 => Some(CloseReason::Destroyed),
        2 => Some(CloseReason::Renewed),
        3 => Some(CloseReason::Revoked),
        4 => Some(CloseReason::Expired),
        5 => Some(CloseReason::CrossSite),
        6 => Some(CloseReason::Ambiguous),
        7 => Some(CloseReason::Shutdown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_numbers_of_their_own() {
        let reasons: Vec<_> = (0..=u8::MAX).filter_map(reason_of).collect();
        assert_eq!(reasons.len(), 7);
        assert!(reasons.iter().all(|reason| reason_of(number_of(*reason)) == Some(*reason)));
    }
}
