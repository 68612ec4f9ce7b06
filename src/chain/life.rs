//! How long a session lives, and how it ended.

use std::time::Duration;

use crate::{
    error::{BuildError, BuildErrorKind},
    live::Closed,
    version::{Millis, Version},
};

/// How long a session lives: unused, in all, and whether its cookie outlives the browser.
///
/// ```
/// # use std::time::Duration;
/// use layered_session::Lifetime;
/// const DAY: Duration = Duration::from_secs(86_400);
///
/// let remember_me = Lifetime::new(31 * DAY, 365 * DAY)?;
/// let public_terminal = Lifetime::new(DAY / 96, DAY / 3)?.until_browser_closes();
/// assert!(Lifetime::new(2 * DAY, DAY).is_err(), "unused longer than in all");
/// # Ok::<_, layered_session::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    pub(crate) idle: Duration,
    pub(crate) absolute: Duration,
    pub(crate) ends_with_browser: bool,
}

impl Lifetime {
    /// So long unused, and so long in all, counted from the session's creation.
    ///
    /// # Errors
    ///
    /// [`BuildErrorKind::Setting`] where either is under a second, or the session would live longer unused than in all
    /// (OWASP ASVS 7.3.1 and 7.3.2 want both limits).
    pub fn new(idle: Duration, absolute: Duration) -> Result<Self, BuildError> {
        let refuse = |message| Err(BuildError::new(BuildErrorKind::Setting, message));
        if idle < Duration::from_secs(1) {
            return refuse("an idle lifetime under a second: no request could follow another");
        }
        if idle > absolute {
            return refuse("the idle lifetime is longer than the absolute one: shorten `idle` or extend `absolute`");
        }
        Ok(Self { idle, absolute, ends_with_browser: false })
    }

    /// The cookie goes when the browser closes (no `Max-Age`); the server's limits hold as well.
    #[must_use]
    pub const fn until_browser_closes(mut self) -> Self {
        self.ends_with_browser = true;
        self
    }

    pub(crate) const fn lived(&self) -> Lived {
        Lived { idle: self.idle, ends_with_browser: self.ends_with_browser }
    }
}

/// The part of a [`Lifetime`] that goes on applying once a session has its absolute deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lived {
    pub(crate) idle: Duration,
    pub(crate) ends_with_browser: bool,
}

/// A living session, apart from its values.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// When the session began; `renew` keeps it, so that the absolute deadline can't be pushed out.
    pub(crate) created: Millis,
    /// When this id was minted: what `end_all` compares with.
    pub(crate) birth: Version,
    pub(crate) absolute_deadline: Millis,
    pub(crate) lifetime: Lived,
    pub(crate) lifetime_version: Version,
    pub(crate) generation: u64,
}

impl Life {
    pub(crate) fn begin(birth: Version, now: Millis, lifetime: Lifetime) -> Self {
        Self {
            created: now,
            birth,
            absolute_deadline: now.after(lifetime.absolute),
            lifetime: lifetime.lived(),
            lifetime_version: Version::ZERO,
            generation: 0,
        }
    }

    pub(crate) fn deadline(&self, used: Millis) -> Millis {
        used.after(self.lifetime.idle).min(self.absolute_deadline)
    }

    /// Takes over another node's word on the lifetime, if it is newer. The absolute deadline only moves with it.
    pub(crate) fn join(&mut self, other: &Self) -> bool {
        if other.lifetime_version <= self.lifetime_version {
            return false;
        }
        self.lifetime = other.lifetime;
        self.lifetime_version = other.lifetime_version;
        self.absolute_deadline = other.absolute_deadline;
        true
    }
}

/// How a record ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) reason: Closed,
    pub(crate) at: Millis,
    /// The last moment at which something sealed for this id could still open.
    pub(crate) until: Millis,
}

/// For so long an ended id may not mint a session, so that a late request with the old cookie can't overwrite a login.
pub(crate) const FENCE: Duration = Duration::from_secs(60);
