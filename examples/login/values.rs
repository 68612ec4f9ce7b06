//! The values of a session: the signed-in user, and a message for the next page.

use std::time::Duration;

use layered_session::{Session, SessionValue, WriteError, WriteErrorKind};
use serde::{Deserialize, Serialize};

/// The maximum number of characters of a user name.
pub(crate) const NAME_CHARS: usize = 64;

/// The signed-in user. The session's principal comes from this value, so only `sign_in` and `sign_out` change the
/// value.
///
/// The name is enough to look up all other data. Copies of rights and addresses in the session would be out of date
/// once the application has changed the originals.
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
    // Without this limit, a message that no page has shown could appear days later.
    const MAX_AGE: Option<Duration> = Some(Duration::from_secs(60));
}

impl Flash {
    /// Leaves the message for the next page. `false` if the session has just ended in another browser: such a session
    /// takes no message.
    pub(crate) async fn leave(self, session: &Session) -> Result<bool, WriteError> {
        match session.set(self).await {
            Err(error) if error.kind() == WriteErrorKind::Closed => Ok(false),
            answer => answer.map(|()| true),
        }
    }
}
