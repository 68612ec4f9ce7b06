//! The values of a session: the signed-in user, and a message for the next page.

use std::time::Duration;

use layered_session::{Session, SessionValue, WriteError, WriteErrorKind};
use serde::{Deserialize, Serialize};

/// The most characters of a user name.
pub(crate) const NAME_CHARS: usize = 64;

/// The signed-in user. The session's principal comes from this value, so `sign_in` and `sign_out` alone change it.
///
/// The name is enough to find everything else. Rights and addresses that were copied into the session would stay there
/// after the application had changed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
}

impl SessionValue for User {
    const NAME: &'static str = "user";
}

/// A message for the next page, which takes the message out of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Flash {
    /// A sign-in failed. The user name fills the form again.
    Refused {
        name: String,
    },
    SignedOut,
    SignedOutEverywhere,
}

impl SessionValue for Flash {
    const NAME: &'static str = "flash";
    // A page that never came must not greet the user with an old message tomorrow.
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(60));
}

impl Flash {
    /// Leaves the message for the next page. `false` where the session has just ended in another browser: such a session
    /// takes no message.
    pub(crate) async fn leave(self, session: &Session) -> Result<bool, WriteError> {
        match session.set(self).await {
            Err(error) if error.kind() == WriteErrorKind::Closed => Ok(false),
            answer => answer.map(|()| true),
        }
    }
}
