//! The life of a session: its lifetimes, and its end.

use std::{cmp::Reverse, time::Duration};

use crate::{
    error::{BuildError, BuildErrorKind, CloseReason},
    id::{OwnerId, PrincipalTag, RecordKey, SessionId},
    node_clock::NodeClock,
    time::Millis,
    version::Version,
};

/// The lifetime of a session: the idle lifetime, the absolute lifetime, and whether the cookie outlives the browser.
///
/// [`SessionsBuilder`](crate::SessionsBuilder) configures the lifetime of all sessions;
/// [`Session::set_lifetime`](crate::Session::set_lifetime) gives a single session another lifetime.
///
/// ```
/// # use std::time::Duration;
/// use layered_session::Lifetime;
/// const DAY: Duration = Duration::from_secs(86_400);
///
/// let remember_me = Lifetime::new(31 * DAY, 365 * DAY)?;
/// let public_terminal = Lifetime::new(DAY / 96, DAY / 3)?.until_browser_closes();
/// assert!(Lifetime::new(2 * DAY, DAY).is_err(), "longer than the absolute lifetime");
/// # Ok::<_, layered_session::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    pub(crate) idle: Duration,
    pub(crate) absolute: Duration,
    pub(crate) ends_with_browser: bool,
}

impl Lifetime {
    /// Returns a lifetime from the idle lifetime, counted from the last use, and the absolute lifetime, counted from
    /// the creation.
    ///
    /// # Errors
    ///
    /// [`BuildErrorKind::Setting`] if either lifetime is under a second, or the idle lifetime is longer than the
    /// absolute lifetime (OWASP ASVS 7.3.1 and 7.3.2 require both).
    pub fn new(idle: Duration, absolute: Duration) -> Result<Self, BuildError> {
        let refuse = |message| Err(BuildErrorKind::Setting.error(message));
        if idle < Duration::from_secs(1) {
            return refuse(
                "the idle lifetime is under a second, so a session would end before the next request: extend `idle`",
            );
        }
        if idle > absolute {
            return refuse(
                "the idle lifetime is longer than the absolute lifetime: shorten `idle` or extend `absolute`",
            );
        }
        Ok(Self { idle, absolute, ends_with_browser: false })
    }

    /// Ends the cookie when the browser closes (no `Max-Age`). The idle and the absolute lifetime still apply.
    #[must_use]
    pub const fn until_browser_closes(mut self) -> Self {
        self.ends_with_browser = true;
        self
    }
}

/// The lifetime state of a session: 40 bytes for most sessions, since memory holds millions.
#[derive(Clone, Debug)]
pub(crate) struct SessionLife {
    created: Millis,
    birth: Version,
    absolute_deadline: Millis,
    /// Milliseconds.
    idle: u64,
    rare: Option<Box<RareFields>>,
}

/// The fields that most sessions don't need.
#[derive(Clone, Debug, Default)]
struct RareFields {
    ends_with_browser: bool,
    lifetime_version: Version,
    generation: u64,
    previous_deadline: Millis,
    /// The id before the last renewal or sign-in.
    predecessor: Option<Predecessor>,
}

/// The fields of a session's life, with times of one clock: a token has times of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LifeFields<T = Millis> {
    /// The beginning of the session. `renew` keeps this time, so that the absolute deadline can't be pushed out.
    pub(crate) created: T,
    /// The version at which the id was made, which `end_all_sessions` compares.
    pub(crate) birth: Version,
    pub(crate) absolute_deadline: T,
    pub(crate) idle: Duration,
    pub(crate) ends_with_browser: bool,
    pub(crate) lifetime_version: Version,
    pub(crate) generation: u64,
}

impl<T> LifeFields<T> {
    /// Converts the times to another clock.
    pub(crate) fn map<U>(self, time: impl Fn(T) -> U) -> LifeFields<U> {
        let Self { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation } = self;
        let (created, absolute_deadline) = (time(created), time(absolute_deadline));
        LifeFields { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation }
    }
}

impl SessionLife {
    pub(crate) fn begin(birth: Version, now: Millis, lifetime: Lifetime) -> Self {
        Self::from(LifeFields {
            created: now,
            birth,
            absolute_deadline: now.after(lifetime.absolute),
            idle: lifetime.idle,
            ends_with_browser: lifetime.ends_with_browser,
            lifetime_version: Version::ZERO,
            generation: 0,
        })
    }

    pub(crate) fn fields(&self) -> LifeFields {
        LifeFields {
            created: self.created,
            birth: self.birth,
            absolute_deadline: self.absolute_deadline,
            idle: self.idle(),
            ends_with_browser: self.ends_with_browser(),
            lifetime_version: self.lifetime_version(),
            generation: self.rare.as_ref().map_or(0, |rare| rare.generation),
        }
    }

    /// Notes the id before the renewal or sign-in that made the present id.
    pub(crate) fn set_predecessor(&mut self, predecessor: Predecessor) {
        self.rare.get_or_insert_default().predecessor = Some(predecessor);
    }

    /// Returns the id before the last renewal or sign-in, for as long as requests with that id are fenced: the cookie
    /// tells other nodes of the id's end.
    pub(crate) fn predecessor(&self, time: &NodeClock, now: Millis) -> Option<Predecessor> {
        let predecessor = self.rare.as_ref()?.predecessor?;
        (now < time.written(self.birth(), now).after(FENCE)).then_some(predecessor)
    }

    pub(crate) const fn created(&self) -> Millis {
        self.created
    }

    /// Returns the version at which the id was made.
    pub(crate) const fn birth(&self) -> Version {
        self.birth
    }

    pub(crate) const fn set_birth(&mut self, birth: Version) {
        self.birth = birth;
    }

    pub(crate) const fn absolute_deadline(&self) -> Millis {
        self.absolute_deadline
    }

    pub(crate) const fn idle(&self) -> Duration {
        Duration::from_millis(self.idle)
    }

    pub(crate) fn ends_with_browser(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.ends_with_browser)
    }

    pub(crate) fn lifetime_version(&self) -> Version {
        self.rare.as_ref().map_or(Version::ZERO, |rare| rare.lifetime_version)
    }

    /// Returns the time until which a token sealed for an earlier lifetime of the session could open.
    pub(crate) fn previous_deadline(&self) -> Millis {
        self.rare.as_ref().map_or_else(Millis::default, |rare| rare.previous_deadline)
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |_| size_of::<RareFields>())
    }

    pub(crate) fn deadline(&self, used: Millis) -> Millis {
        Millis(used.0.saturating_add(self.idle)).min(self.absolute_deadline)
    }

    /// Returns the time from which a use refreshes the browser's cookie, for a token with this deadline, sealed at this
    /// time. A refresh waits for a tenth of the idle lifetime, so that few reads send a cookie. If the browser keeps
    /// the cookie for less time than the deadline allows ([`MAX_AGE`]), the refresh comes after a tenth of that time.
    pub(crate) fn refresh_after(&self, deadline: Millis, sealed: Millis) -> Millis {
        let later = deadline.0.saturating_add(self.idle.div_ceil(10));
        let due = match later <= self.absolute_deadline.0 {
            true => Millis(later.saturating_sub(self.idle)),
            false => Millis(u64::MAX),
        };
        if deadline.since(sealed) > MAX_AGE { due.min(sealed.after(MAX_AGE / 10)) } else { due }
    }

    /// Sets another lifetime, counted from the creation. Tokens sealed for the earlier lifetime open up to `before`.
    pub(crate) fn set_lifetime(&mut self, lifetime: Lifetime, version: Version, before: Millis) {
        let told = LifeFields {
            absolute_deadline: self.created().after(lifetime.absolute),
            idle: lifetime.idle,
            ends_with_browser: lifetime.ends_with_browser,
            lifetime_version: version,
            ..self.fields()
        };
        self.set_fields(told, before);
    }

    /// The rank of the lifetime: of two lifetimes that two nodes have set in the same moment, the shorter one stays on
    /// both nodes.
    pub(crate) fn lifetime_rank(&self) -> impl Ord + use<> {
        let absolute = self.absolute_deadline.since(self.created());
        (self.lifetime_version(), Reverse((absolute, self.idle)), self.ends_with_browser())
    }

    /// Takes over another node's lifetime if the other lifetime ranks higher. The absolute deadline changes only together
    /// with the lifetime.
    pub(crate) fn merge(&mut self, other: &Self, before: Millis) -> bool {
        let is_newer = other.lifetime_rank() > self.lifetime_rank();
        if is_newer {
            self.take(other, before);
        }
        is_newer
    }

    /// Merges the store's lifetime. The store decides between two lifetimes that two nodes have set in the same moment.
    pub(crate) fn merge_stored(&mut self, stored: &Self, before: Millis) -> bool {
        let is_other = (self.idle, self.ends_with_browser()) != (stored.idle, stored.ends_with_browser());
        if self.lifetime_version() == stored.lifetime_version() && is_other {
            self.take(stored, before);
            return true;
        }
        self.merge(stored, before)
    }

    /// Takes over another lifetime.
    fn take(&mut self, other: &Self, before: Millis) {
        let mine = self.fields();
        self.set_fields(
            LifeFields { created: mine.created, birth: mine.birth, generation: mine.generation, ..other.fields() },
            before,
        );
    }

    fn set_fields(&mut self, told: LifeFields, before: Millis) {
        let earlier = self.previous_deadline().max(before);
        let predecessor = self.rare.as_ref().and_then(|rare| rare.predecessor);
        *self = Self::from(told);
        let rare = self.rare.get_or_insert_default();
        (rare.previous_deadline, rare.predecessor) = (earlier, predecessor);
    }
}

impl From<LifeFields> for SessionLife {
    fn from(told: LifeFields) -> Self {
        let LifeFields { created, birth, absolute_deadline, idle, ends_with_browser, lifetime_version, generation } =
            told;
        let ordinary = !ends_with_browser && lifetime_version == Version::ZERO && generation == 0;
        let rare = RareFields { ends_with_browser, lifetime_version, generation, ..RareFields::default() };
        Self {
            created,
            birth,
            absolute_deadline,
            idle: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
            rare: (!ordinary).then(|| Box::new(rare)),
        }
    }
}

/// The id that a session had before its last renewal or sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    pub(crate) id: SessionId,
    /// Whether the same principal was signed in before and after: then a sign-out of the predecessor ends the session
    /// too.
    pub(crate) shares_end: bool,
}

/// The end of a record.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) reason: CloseReason,
    pub(crate) at: Millis,
    /// The last moment at which a token of this id could still open.
    pub(crate) until: Millis,
    /// The principal that was signed in.
    pub(crate) principal: Option<PrincipalTag>,
    pub(crate) successor: Successor,
}

/// The successor of an ended id.
#[derive(Clone, Debug, Default)]
pub(crate) enum Successor {
    #[default]
    None,
    /// The session that a renewal began for the same principal: a `destroy` of the id ends that session too.
    Session(Box<RecordKey>),
    /// The session that a renewal began on another node, as the shared store names it: a `destroy` of the id ends that
    /// session in the store.
    Stored(Box<OwnerId>),
}

impl End {
    /// Whether the end is so recent that a late request with this id must not begin a session.
    pub(crate) fn is_recent(&self, now: Millis) -> bool {
        now < self.at.after(FENCE)
    }

    /// Whether the session was destroyed, and not renewed.
    pub(crate) fn is_sign_out(&self) -> bool {
        self.reason == CloseReason::Destroyed
    }
}

/// The time in which a request with an ended id must not begin a session, so that a late request with the old cookie
/// can't undo a sign-in.
pub(crate) const FENCE: Duration = Duration::from_secs(60);

/// The longest time that browsers keep a cookie (RFC 6265bis, 5.5).
pub(crate) const MAX_AGE: Duration = Duration::from_secs(400 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Wall;

    /// Every combination of common and rare fields.
    fn all() -> impl Iterator<Item = LifeFields> {
        (0..16).map(|which: u64| LifeFields {
            created: Millis(1000),
            birth: Version::at(Wall(1000 + (which & 1))).next(),
            absolute_deadline: Millis(9000),
            idle: Duration::from_millis(4000),
            ends_with_browser: which & 2 != 0,
            lifetime_version: if which & 4 == 0 { Version::ZERO } else { Version::at(Wall(2000)) },
            generation: which >> 3,
        })
    }

    fn shown(fields: LifeFields) -> String {
        format!("{fields:?}")
    }

    #[test]
    fn packed_life_returns_all_fields() {
        for fields in all() {
            assert_eq!(shown(SessionLife::from(fields).fields()), shown(fields));
            assert_eq!(SessionLife::from(fields).previous_deadline(), Millis::default());
        }
    }

    #[test]
    fn previous_deadline_never_moves_earlier() {
        let other = Lifetime::new(Duration::from_secs(1), Duration::from_secs(2)).unwrap().until_browser_closes();
        let version = Version::at(Wall(3000));
        for fields in all() {
            let mut life = SessionLife::from(fields);
            life.set_lifetime(other, version, Millis(5000));
            let (absolute_deadline, idle, ends_with_browser) = (Millis(3000), other.idle, true);
            let expected =
                LifeFields { absolute_deadline, idle, ends_with_browser, lifetime_version: version, ..fields };
            assert_eq!((shown(life.fields()), life.previous_deadline()), (shown(expected), Millis(5000)));

            let mut elsewhere = SessionLife::from(fields);
            assert!(elsewhere.merge(&life, Millis(6000)) && !elsewhere.merge(&life, Millis(7000)));
            assert_eq!((shown(elsewhere.fields()), elsewhere.previous_deadline()), (shown(expected), Millis(6000)));

            life.set_lifetime(other, version.next(), Millis(4000));
            assert_eq!(life.previous_deadline(), Millis(5000), "an earlier deadline does not replace a later deadline");
        }
    }

    #[test]
    fn refresh_stops_at_the_absolute_deadline() {
        let [idle, absolute] = [10, 21].map(Duration::from_secs);
        let life = SessionLife::begin(Version::ZERO, Millis(0), Lifetime::new(idle, absolute).unwrap());
        assert_eq!(life.refresh_after(Millis(20_000), Millis(10_000)), Millis(11_000));
        assert_eq!(life.refresh_after(Millis(20_001), Millis(10_001)), Millis(u64::MAX));
    }
}
