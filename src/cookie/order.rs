//! The order of a turn token: a sign-in, a renewal or a cookie removal (the *turn*) that a page brings to a request.
//! The handle that made the order has no response left that could carry a cookie.
//!
//! | bytes | field |
//! |--:|---|
//! | 1 | the turn: 0 removes the session, 1 renews the session, 2 signs a user in |
//! | 1 | flags: 1 the browser may have no cookie of the session, 2 the token's id lived when the order was made, 4 the token's id had ended by then |
//! | 1 | number of begun ids: 1, or up to 15 of a removal |
//! | 32 | each begun id: the id of the session that the turn begins; of a removal, the ids that earlier orders may have begun and that the removal ends |
//! | 8 | birth of the session that the turn begins |
//! | 1 | number of adopted names |
//! | | each adopted name, after its length in 1 byte |
//!
//! The named id is the token's own id, which stands in the token in clear. With neither flag 2 nor flag 4 the order
//! names no id, and the token's own id is the begun id. The principal of the order is the payload's. The user who signs
//! in and the values that the turn grants are entries of the payload.

use super::reader::Reader;
use crate::{id::SessionId, version::Version};

const NO_COOKIE: u8 = 1;

/// The maximum number of sessions of orders that a removal names in addition to its own session.
pub(crate) const MAX_BEGUN: usize = 15;

/// The order in a turn token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) turn: Turn,
    pub(crate) named: Named,
    /// Whether the browser may have no cookie of the session: no request has brought the cookie yet, or the handle's
    /// own end may have removed the cookie.
    pub(crate) no_cookie: bool,
    /// The id of the session that the turn begins. A removal names further sessions here, which end with its own
    /// session.
    pub(crate) begun: Vec<SessionId>,
    /// The birth of the session that the turn begins: the version at which the order was made.
    pub(crate) birth: Version,
    /// Wire names of the values that a sign-in adopts.
    pub(crate) adopts: Vec<Box<str>>,
}

/// The turn that an order asks for. The number is the turn's byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Remove = 0,
    Renew = 1,
    SignIn = 2,
}

/// The state of the id in the browser's cookie when the order was made. The number is the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// The order names no id.
    Nothing = 0,
    Living = 2,
    Ended = 4,
}

impl Order {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let flags = self.named as u8 | if self.no_cookie { NO_COOKIE } else { 0 };
        let mut bytes = vec![self.turn as u8, flags];
        bytes.push(self.begun.len() as u8);
        self.begun.iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        bytes.extend_from_slice(&self.birth.as_u64().to_be_bytes());
        // At most 255 values can be declared, with names of at most 64 bytes.
        bytes.push(self.adopts.len() as u8);
        for name in &self.adopts {
            bytes.push(name.len() as u8);
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }

    /// Reads an order from the bytes that follow a payload's head. Returns `None` for any other form.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let turn = match reader.byte()? {
            0 => Turn::Remove,
            1 => Turn::Renew,
            2 => Turn::SignIn,
            _ => return None,
        };
        let flags = reader.byte()?;
        let named = match flags & !NO_COOKIE {
            0 => Named::Nothing,
            2 => Named::Living,
            4 => Named::Ended,
            _ => return None,
        };
        let begun =
            (0..reader.byte()?).map(|_| reader.array().map(SessionId::from_bytes)).collect::<Option<Vec<_>>>()?;
        let birth = reader.version()?;
        let mut adopts = Vec::new();
        for _ in 0..reader.byte()? {
            adopts.push(std::str::from_utf8(reader.name()?).ok()?.into());
        }
        let order = Self { turn, named, no_cookie: flags & NO_COOKIE != 0, begun, birth, adopts };
        // Invalid: a sign-in or a renewal that does not begin exactly one session, a removal without a named id, and a
        // removal with more than `MAX_BEGUN` further ids.
        let whole = match turn {
            Turn::Remove => named != Named::Nothing && order.begun.len() <= MAX_BEGUN,
            Turn::Renew | Turn::SignIn => order.begun.len() == 1,
        };
        whole.then_some(order)
    }
}
