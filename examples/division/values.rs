//! The values of a session: the signed-in user, and the division on show.

use layered_session::{Scope, SessionValue, tier::BoxError};
use serde::{Deserialize, Serialize};

/// The division on show: 0 to 5, or -1 for all divisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Division(pub(crate) i64);

impl Division {
    pub(crate) const ALL: Self = Self(-1);
}

impl Default for Division {
    fn default() -> Self {
        Self::ALL
    }
}

impl SessionValue for Division {
    const NAME: &'static str = "current_division_id";
    // The value belongs to the user, in each of the user's browsers, and to the browser while no user is signed in.
    const SCOPE: Scope = Scope::Principal;

    fn validate(&self) -> Result<(), BoxError> {
        match self.0 {
            -1..=5 => Ok(()),
            id => Err(format!("there is no division {id}").into()),
        }
    }
}

/// The signed-in user. The session's principal comes from this value, so only `sign_in` and `sign_out` change the
/// value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CurrentUser {
    pub(crate) name: String,
}

impl SessionValue for CurrentUser {
    const NAME: &'static str = "current_user";

    fn validate(&self) -> Result<(), BoxError> {
        if !(1..=64).contains(&self.name.chars().count()) {
            return Err("a user name has 1 to 64 characters".into());
        }
        if self.name.chars().any(char::is_control) {
            return Err("a user name has no control characters".into());
        }
        Ok(())
    }
}
