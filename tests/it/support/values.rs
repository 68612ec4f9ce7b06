//! The values that the tests share, and spans of time.

use std::time::Duration;

use layered_session::{Scope, SessionValue, tier::BoxError};
use serde::{Deserialize, Serialize};

/// A millisecond, the smallest step of the clock.
pub(crate) const TICK: Duration = Duration::from_millis(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A value of the principal: -1 for all, else 0 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Division(pub(crate) i64);

impl Default for Division {
    fn default() -> Self {
        Self(-1)
    }
}

impl SessionValue for Division {
    const NAME: &'static str = "current_division_id";
    const SCOPE: Scope = Scope::Principal;

    fn validate(&self) -> Result<(), BoxError> {
        if (-1..=5).contains(&self.0) { Ok(()) } else { Err("no such division".into()) }
    }
}

/// A value of the session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Theme(pub(crate) String);

impl SessionValue for Theme {
    const NAME: &'static str = "theme";
}

/// The value of another build of the application under the name of [`Theme`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NumberedTheme(pub(crate) u32);

impl SessionValue for NumberedTheme {
    const NAME: &'static str = Theme::NAME;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Visits(pub(crate) u64);

impl SessionValue for Visits {
    const NAME: &'static str = "visits";
}

/// The signed-in user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct User(pub(crate) String);

impl SessionValue for User {
    const NAME: &'static str = "user";
}

pub(crate) fn theme(name: &str) -> Theme {
    Theme(name.into())
}

pub(crate) fn dark() -> Theme {
    theme("dark")
}

pub(crate) fn user(name: &str) -> User {
    User(name.into())
}
