//! The values of the application, and the operations on a handle.

use std::{future::Future, pin::Pin, time::Duration};

use layered_session::{
    CookieTier, KeyRing, Lifetime, Placement, Principal, Scope, Session, SessionValue, Sessions, SessionsBuilder,
    WriteError,
};
use serde::{Deserialize, Serialize};

pub(crate) const USERS: usize = 2;
const DAY: Duration = days(1);

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

/// The idle and the absolute lifetime: the configured pair first.
pub(crate) const LIFETIMES: [[Duration; 2]; 3] =
    [[days(2), days(10)], [Duration::from_secs(6 * 3600), DAY], [days(4), days(20)]];

/// A value of a session, which the browser carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Count(u64);

impl SessionValue for Count {
    const NAME: &'static str = "count";
}

/// A value of a session, on servers alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note(u64);

impl SessionValue for Note {
    const NAME: &'static str = "note";
    const PLACEMENT: Placement = Placement::Server;
}

/// A value of a user, which the browser carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Choice(u64);

impl SessionValue for Choice {
    const NAME: &'static str = "choice";
    const SCOPE: Scope = Scope::Principal;
}

/// A value of a user, on servers alone. Only updates change the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally(u64);

impl SessionValue for Tally {
    const NAME: &'static str = "tally";
    const SCOPE: Scope = Scope::Principal;
    const PLACEMENT: Placement = Placement::Server;
}

/// A value that a cookie carries under the name of [`Note`].
#[derive(Serialize, Deserialize)]
struct CarriedNote(u64);

impl SessionValue for CarriedNote {
    const NAME: &'static str = Note::NAME;
}

/// A value that a cookie carries under the name of [`Tally`].
#[derive(Serialize, Deserialize)]
struct CarriedTally(u64);

impl SessionValue for CarriedTally {
    const NAME: &'static str = Tally::NAME;
    const SCOPE: Scope = Scope::Principal;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct User(String);

impl SessionValue for User {
    const NAME: &'static str = "user";
}

pub(crate) fn name(user: usize) -> &'static str {
    ["ada", "bob"][user]
}

pub(crate) fn principal(user: usize) -> Principal {
    Principal::new(name(user))
}

/// A chain of a node over a store.
pub(crate) fn declared(builder: SessionsBuilder, ring: &KeyRing) -> SessionsBuilder {
    chain(builder, ring).value::<Note>().value::<Tally>()
}

fn chain(builder: SessionsBuilder, ring: &KeyRing) -> SessionsBuilder {
    let [idle, absolute] = LIFETIMES[0];
    builder
        .tier(CookieTier::sealed(ring.clone()).name("session").plain_http())
        .value::<Count>()
        .value::<Choice>()
        .identify_by::<User>(|user| Some(Principal::new(&user.0)))
        .idle(idle)
        .absolute(absolute)
}

/// A node that opens cookies, without memory and without a store.
pub(crate) fn storeless(ring: &KeyRing, clock: impl layered_session::Clock) -> Sessions {
    let chain = chain(Sessions::builder(), ring).value::<CarriedNote>().value::<CarriedTally>();
    chain.clock(clock).build().expect("a chain of a cookie")
}

/// A value of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    Count,
    Note,
    Choice,
    Tally,
}

impl Slot {
    pub(crate) const ALL: [Self; 4] = [Self::Count, Self::Note, Self::Choice, Self::Tally];

    pub(crate) fn is_of_user(self) -> bool {
        matches!(self, Self::Choice | Self::Tally)
    }

    pub(crate) fn is_carried(self) -> bool {
        matches!(self, Self::Count | Self::Choice)
    }

    pub(crate) fn get(self, session: &Session) -> Option<u64> {
        match self {
            Self::Count => session.get().map(|Count(value)| value),
            Self::Note => session.get().map(|Note(value)| value),
            Self::Choice => session.get().map(|Choice(value)| value),
            Self::Tally => session.get().map(|Tally(value)| value),
        }
    }

    /// The value in the cookie of a session of [`storeless`].
    pub(crate) fn carried(self, session: &Session) -> Option<u64> {
        match self {
            Self::Note => session.get().map(|CarriedNote(value)| value),
            Self::Tally => session.get().map(|CarriedTally(value)| value),
            Self::Count | Self::Choice => self.get(session),
        }
    }

    async fn set(self, session: &Session, to: u64) -> Result<(), WriteError> {
        match self {
            Self::Count => session.set(Count(to)).await,
            Self::Note => session.set(Note(to)).await,
            Self::Choice => session.set(Choice(to)).await,
            Self::Tally => session.set(Tally(to)).await,
        }
    }

    async fn update(self, session: &Session) -> Result<u64, WriteError> {
        match self {
            Self::Count => session.update(|Count(value)| *value += 1).await.map(|Count(value)| value),
            Self::Note => session.update(|Note(value)| *value += 1).await.map(|Note(value)| value),
            Self::Choice => session.update(|Choice(value)| *value += 1).await.map(|Choice(value)| value),
            Self::Tally => session.update(|Tally(value)| *value += 1).await.map(|Tally(value)| value),
        }
    }

    async fn remove(self, session: &Session) -> Result<(), WriteError> {
        match self {
            Self::Count => session.remove::<Count>().await,
            Self::Note => session.remove::<Note>().await,
            Self::Choice => session.remove::<Choice>().await,
            Self::Tally => session.remove::<Tally>().await,
        }
    }
}

/// An operation on a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Writes a number that no other write has.
    Set(Slot),
    Update(Slot),
    Remove(Slot),
    Clear,
    Touch,
    Lifetime(usize),
    Renew,
    SignIn {
        user: usize,
        adopt: bool,
    },
    SignOut,
    EndAll,
    EndOthers,
}

impl Op {
    /// Whether the operation moves the session to another id.
    pub(crate) fn moves(self) -> bool {
        matches!(self, Self::Renew | Self::SignIn { .. } | Self::EndOthers)
    }

    /// The value that the operation writes.
    pub(crate) fn slot(self) -> Option<Slot> {
        match self {
            Self::Set(slot) | Self::Update(slot) | Self::Remove(slot) => Some(slot),
            _ => None,
        }
    }

    /// The value after the operation. `serial` is the number of a write.
    pub(crate) fn change(self, serial: u64, before: Option<u64>) -> Option<u64> {
        match self {
            Self::Set(_) => Some(serial),
            Self::Update(_) => Some(before.unwrap_or_default() + 1),
            _ => None,
        }
    }
}

pub(crate) type Answer = Result<Option<u64>, WriteError>;

/// Performs an operation. The answer of an update is its value.
pub(crate) fn perform(session: Session, op: Op, serial: u64) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    Box::pin(async move {
        match op {
            Op::Set(slot) => slot.set(&session, serial).await?,
            Op::Update(slot) => return slot.update(&session).await.map(Some),
            Op::Remove(slot) => slot.remove(&session).await?,
            Op::Clear => session.clear().await?,
            Op::Touch => session.touch().await?,
            Op::Lifetime(which) => {
                let [idle, absolute] = LIFETIMES[which];
                session.set_lifetime(Lifetime::new(idle, absolute).expect("a lifetime")).await?;
            }
            Op::Renew => session.renew().await?,
            Op::SignIn { user, adopt: false } => session.sign_in(User(name(user).into())).await?,
            Op::SignIn { user, adopt: true } => session.sign_in(User(name(user).into())).adopt::<Choice>().await?,
            Op::SignOut => session.sign_out().await?,
            Op::EndAll => session.end_all_sessions().await?,
            Op::EndOthers => session.end_other_sessions().await?,
        }
        Ok(None)
    })
}
