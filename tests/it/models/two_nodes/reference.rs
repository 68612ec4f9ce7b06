//! The reference: the facts about sessions and users, without caches, versions and tokens.
//!
//! A [`Register`] holds one fact. A write whose outcome nobody knows leaves several possible facts, and the next read of
//! the truth leaves one of them.

use std::{collections::BTreeSet, fmt::Debug, time::Duration};

use super::{NODES, values::Slot};

/// The longest difference between a deadline of the reference and the deadline of a node: the clocks of the nodes differ.
pub(crate) const MARGIN: Duration = Duration::from_secs(900);

/// A fact, its history, and the part of the history that each node has seen.
#[derive(Clone, Debug)]
pub(crate) struct Register<T> {
    states: Vec<State<T>>,
    nodes: [Seen; NODES],
}

/// The possible facts of a span of time.
#[derive(Clone, Debug)]
struct State<T> {
    may: BTreeSet<T>,
    /// The end of the span; `None` for the present.
    until: Option<Duration>,
    /// Whether a node may still bring the store one of the possible facts, so that a look at the truth decides nothing.
    is_open: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The node knows this state, or a later state.
    floor: usize,
    /// The next load on the node sees this state, or a later state: the present state, if the load asks the store.
    asks: Option<usize>,
}

/// How old the facts may be that a read sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Age {
    /// A load, which sees each change up to this time.
    Since(Duration),
    /// A load that may share the read of an operation that waits, and otherwise sees each change up to this time.
    Joined(Duration),
    /// A load that sees each change.
    Fresh,
    /// A handle that follows the notices of other nodes. The next load asks for the outcome of an own write.
    Followed,
    /// A handle without a load.
    Held,
}

impl Age {
    /// The age of a user's record. A node remembers for five seconds that the store has no such record.
    pub(crate) fn of_user(self) -> Self {
        match self {
            Self::Since(since) => Self::Since(since.saturating_sub(Duration::from_secs(5))),
            Self::Joined(since) => Self::Joined(since.saturating_sub(Duration::from_secs(5))),
            age => age,
        }
    }
}

impl<T: Clone + Debug + Ord> Register<T> {
    /// A fact that the nodes have not read.
    pub(crate) fn new(may: impl IntoIterator<Item = T>) -> Self {
        let states = vec![State { may: may.into_iter().collect(), until: None, is_open: false }];
        Self { states, nodes: [Seen { floor: 0, asks: Some(usize::MAX) }; NODES] }
    }

    pub(crate) fn now(&self) -> &BTreeSet<T> {
        &self.states[self.last()].may
    }

    pub(crate) fn last(&self) -> usize {
        self.states.len() - 1
    }

    /// The possible facts before a state.
    pub(crate) fn before(&self, state: usize) -> &BTreeSet<T> {
        &self.states[state.saturating_sub(1)].may
    }

    pub(crate) fn can_be(&self, fact: &T) -> bool {
        self.now().contains(fact)
    }

    pub(crate) fn is(&self, fact: &T) -> bool {
        self.can_be(fact) && self.now().len() == 1
    }

    /// Whether the fact was possible at any time.
    pub(crate) fn ever(&self, fact: &T) -> bool {
        self.ever_fits(|other| other == fact)
    }

    pub(crate) fn ever_fits(&self, fits: impl Fn(&T) -> bool) -> bool {
        self.states.iter().flat_map(|state| &state.may).any(fits)
    }

    /// The facts that were possible at any time.
    pub(crate) fn history(&self) -> BTreeSet<T> {
        self.states.iter().flat_map(|state| state.may.clone()).collect()
    }

    /// Notes a change.
    pub(crate) fn write(&mut self, change: impl Fn(&T) -> T, now: Duration) {
        let may = self.now().iter().map(change).collect();
        let last = self.last();
        self.states[last].until = Some(now);
        self.states.push(State { may, until: None, is_open: false });
    }

    /// Notes a change that the store may have made.
    pub(crate) fn may_write(&mut self, change: impl Fn(&T) -> T, now: Duration) {
        let changed: Vec<_> = self.now().iter().map(change).collect();
        let is_open = self.states[self.last()].is_open;
        self.write(T::clone, now);
        let last = self.last();
        self.states[last].may.extend(changed);
        self.states[last].is_open = is_open;
    }

    /// Notes that the change of this state was made.
    pub(crate) fn confirm(&mut self, state: usize, change: impl Fn(&T) -> T) {
        self.states[state].may = self.before(state).iter().map(change).collect();
    }

    /// Leaves the possible facts that a look at the truth permits. False if there is none.
    pub(crate) fn is_now(&mut self, fits: impl Fn(&T) -> bool) -> bool {
        let last = self.last();
        let left: BTreeSet<_> = self.now().iter().filter(|fact| fits(fact)).cloned().collect();
        let fit = !left.is_empty();
        if fit && !self.states[last].is_open {
            self.states[last].may = left;
        }
        fit
    }

    /// Notes that a node knows the present fact, since the node has made it.
    pub(crate) fn made_by(&mut self, node: usize) {
        self.nodes[node].floor = self.last();
    }

    /// Notes that a node may have read the fact during an operation, so that the next load asks no store.
    pub(crate) fn read_by(&mut self, node: usize) {
        self.nodes[node].asks = self.nodes[node].asks.map(|_| 0);
    }

    /// Notes that the next load on a node asks the store.
    pub(crate) fn asks(&mut self, node: usize) {
        self.nodes[node].asks = Some(usize::MAX);
    }

    /// Notes that a follower may have read the fact instead of the next load.
    pub(crate) fn may_be_read_by(&mut self, node: usize) {
        let last = self.last();
        self.nodes[node].asks = self.nodes[node].asks.map(|asks| asks.min(last));
    }

    /// Notes that the next load on a node sees the outcome of the last change.
    pub(crate) fn asks_for_outcome(&mut self, node: usize) {
        self.nodes[node].asks = self.nodes[node].asks.max(Some(self.last()));
    }

    /// Notes this state as known to a node: the node answers no earlier state.
    pub(crate) fn raise_floor(&mut self, node: usize, state: usize) {
        self.nodes[node].floor = self.nodes[node].floor.max(state);
    }

    /// Notes the states that a node's answer fits. Returns false if the node may give no such answer any more.
    pub(crate) fn sees(&mut self, node: usize, age: Age, fits: impl Fn(&T) -> bool) -> bool {
        let Seen { floor, asks } = self.nodes[node];
        let from = match age {
            Age::Held => floor,
            // A follower hears nothing of the outcome of its own node's write.
            Age::Followed if asks.is_some() || self.now().len() > 1 => floor,
            Age::Fresh | Age::Followed => self.last(),
            Age::Since(since) | Age::Joined(since) => {
                let asks = asks.filter(|_| matches!(age, Age::Since(_)));
                let current = |state: &State<T>| state.until.is_none_or(|until| until >= since);
                let current = self.states.iter().position(current).expect("the present state is current");
                current.max(floor).max(asks.unwrap_or_default()).min(self.last())
            }
        };
        if matches!(age, Age::Fresh | Age::Since(_) | Age::Joined(_)) {
            self.nodes[node].asks = None;
        }
        let Some(seen) = (from..self.states.len()).find(|at| self.states[*at].may.iter().any(&fits)) else {
            return false;
        };
        self.nodes[node].floor = floor.max(seen);
        if from == self.last() {
            self.is_now(fits);
        }
        true
    }
}

/// The end of a session, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Live,
    Destroyed,
    Renewed,
    Revoked,
    Expired,
}

impl End {
    /// The later end of a session changes no earlier end.
    pub(crate) fn or(self, end: Self) -> Self {
        if self == Self::Live { end } else { self }
    }
}

/// The least and the greatest possible span or time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds(pub(crate) Duration, pub(crate) Duration);

impl Bounds {
    pub(crate) fn exactly(span: Duration) -> Self {
        Self(span, span)
    }

    pub(crate) fn or(self, span: Duration) -> Self {
        Self(self.0.min(span), self.1.max(span))
    }
}

pub(crate) type Value = Option<u64>;

#[derive(Clone, Debug)]
pub(crate) struct SessionFacts {
    pub(crate) user: Option<usize>,
    pub(crate) end: Register<End>,
    /// The values of the session, and the choices of a visitor.
    pub(crate) values: [Register<Value>; Slot::ALL.len()],
    pub(crate) created: Duration,
    pub(crate) idle: Bounds,
    pub(crate) absolute: Bounds,
    /// The time from which each node knows the lifetime.
    pub(crate) lifetime_known: Duration,
    /// The last use.
    pub(crate) used: Bounds,
    /// The session that a renewal has made of this session.
    pub(crate) successor: Option<usize>,
}

impl SessionFacts {
    pub(crate) fn begin(user: Option<usize>, [idle, absolute]: [Duration; 2], node: usize, now: Duration) -> Self {
        let mut begun = Self {
            user,
            end: Register::new([End::Live]),
            values: [(); Slot::ALL.len()].map(|()| Register::new([None])),
            created: now,
            idle: Bounds::exactly(idle),
            absolute: Bounds::exactly(absolute),
            lifetime_known: Duration::ZERO,
            used: Bounds::exactly(now),
            successor: None,
        };
        begun.known_by(node);
        begun
    }

    /// Notes that a node has made the session.
    pub(crate) fn known_by(&mut self, node: usize) {
        self.end.nodes[node] = Seen::default();
        self.values.iter_mut().for_each(|value| value.nodes[node] = Seen::default());
    }

    /// Copies the possible values of a session into its successor. A renewal whose last write to the store fails has
    /// succeeded, and the store may lack a value that the renewing node had not seen, until the node's next load.
    pub(crate) fn take_values(&mut self, from: &Self, is_whole: bool, keeps: impl Fn(Slot) -> bool) {
        for slot in Slot::ALL.into_iter().filter(|slot| keeps(*slot)) {
            let (value, from) = (&mut self.values[slot as usize], &from.values[slot as usize]);
            let last = value.last();
            let may = if is_whole { from.now().clone() } else { from.history() };
            let is_open = from.states[from.last()].is_open || (!is_whole && may.len() > 1);
            value.states[last] = State { may, until: None, is_open };
        }
    }

    /// Whether no deadline of the session can have come.
    pub(crate) fn is_in_time(&self, now: Duration) -> bool {
        now + MARGIN < self.used.0 + self.idle.0 && now + MARGIN < self.created + self.absolute.0
    }

    /// Whether a deadline of the session has surely come. Nodes count uses in steps of a tenth of the idle lifetime.
    pub(crate) fn is_late(&self, now: Duration) -> bool {
        let idle = self.used.1 + self.idle.1 + self.idle.1 / 5;
        now > self.lifetime_known && now > MARGIN + idle.min(self.created + self.absolute.1)
    }

    /// The ends with which the session may live on a node: the clocks of the nodes differ.
    pub(crate) fn may_live(&self, now: Duration) -> impl Fn(&End) -> bool + use<> {
        let is_late = self.is_late(now);
        move |end| *end == End::Live || (*end == End::Expired && !is_late)
    }

    /// Notes a lifetime. The browser keeps the cookie of a shorter lifetime until the next response.
    pub(crate) fn set_lifetime(&mut self, [idle, absolute]: [Duration; 2], is_sure: bool, now: Duration) {
        (self.idle, self.absolute) = (self.idle.or(idle), self.absolute.or(absolute));
        if is_sure {
            (self.idle.1, self.absolute.1) = (idle, absolute);
        }
        self.lifetime_known = now + Duration::from_secs(40);
    }

    pub(crate) fn must_live(&self, now: Duration) -> bool {
        self.end.is(&End::Live) && self.is_in_time(now)
    }
}

/// The values of a user.
#[derive(Clone, Debug)]
pub(crate) struct UserFacts {
    pub(crate) values: [Register<Value>; Slot::ALL.len()],
    /// The updates of [`Slot::Tally`] that the user's sessions have got an answer for, and all updates.
    pub(crate) updates: (u64, u64),
}

impl Default for UserFacts {
    fn default() -> Self {
        Self { values: [(); Slot::ALL.len()].map(|()| Register::new([None])), updates: (0, 0) }
    }
}
