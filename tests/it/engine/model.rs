//! What memory is to do, as plainly as it can be said: a map of sessions per node, and no forgetting but what was seen.

use std::collections::HashMap;

use layered_session::Closed;

/// What is done to a session: to `Theme` as value 0 or to `Visits` as value 1. Lifetimes are in seconds.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Read(usize),
    Set(usize, u64),
    Update,
    Remove(usize),
    Clear,
    Touch,
    Renew,
    Destroy,
    SetLifetime(u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Closed(Closed),
    Invalid,
}

impl From<Closed> for Refusal {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

/// What a handle stands for. Sessions are numbered as they are made, on whatever node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bind {
    Anonymous,
    Live(usize),
    Fenced(Closed),
}

/// A value or, without one, its removal.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Kept {
    version: u64,
    value: Option<u64>,
}

type Values = [Kept; 2];

#[derive(Clone, Copy, Debug, PartialEq)]
struct Life {
    created: u64,
    absolute: u64,
    idle: u64,
    version: u64,
}

impl Life {
    fn deadline(&self, used: u64) -> u64 {
        (used + self.idle).min(self.absolute)
    }
}

/// What a cookie holds.
#[derive(Clone, Debug)]
pub(super) struct Token {
    id: usize,
    values: Values,
    life: Life,
    deadline: u64,
}

impl Token {
    pub(super) const fn opens(&self, now: u64) -> bool {
        now < self.deadline
    }

    /// Whether a browser that has the other lacks nothing of this one, but for less than a tenth of the idle time.
    pub(super) fn is_known_by(&self, other: &Self) -> bool {
        let read = |token: &Self| token.values.map(|kept| kept.value);
        self.id == other.id
            && read(self) == read(other)
            && self.life == other.life
            && self.deadline < other.deadline + self.life.idle / 10
    }
}

#[derive(Clone, Debug)]
struct Record {
    state: State,
    used: u64,
}

#[derive(Clone, Debug)]
enum State {
    Live { values: Values, newest: u64, life: Life, earlier: u64 },
    Ended { reason: Closed, at: u64, until: u64 },
}

impl Record {
    fn closed(&self, now: u64) -> Option<Closed> {
        match &self.state {
            State::Ended { reason, .. } => Some(*reason),
            State::Live { life, .. } => (life.deadline(self.used) <= now).then_some(Closed::Expired),
        }
    }

    /// Until when it is to be remembered.
    fn until(&self) -> u64 {
        match &self.state {
            State::Ended { until, .. } => *until,
            State::Live { life, earlier, .. } => life.deadline(self.used).max(*earlier),
        }
    }
}

/// What all nodes have in common: the numbers of sessions, and the newest that any cookie of each has held.
#[derive(Debug, Default)]
pub(super) struct Ids {
    made: usize,
    sealed: HashMap<usize, [u64; 2]>,
}

impl Ids {
    fn next(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    pub(super) fn note(&mut self, token: &Token) {
        let sealed = self.sealed.entry(token.id).or_default();
        for (sealed, kept) in sealed.iter_mut().zip(&token.values) {
            *sealed = (*sealed).max(kept.version);
        }
    }
}

/// Records that were found to be gone before they were over.
#[derive(Debug, Default)]
pub(super) struct Missed {
    pub(super) all: u64,
    /// With something that no cookie ever held.
    pub(super) unsaved: u64,
    pub(super) revocations: u64,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    records: HashMap<usize, Record>,
    pub(super) made: u64,
    pub(super) missed: Missed,
}

impl Node {
    /// A request comes with a cookie, for which a record was found or not.
    pub(super) fn arrive(
        &mut self,
        token: &Token,
        hit: bool,
        held: impl Fn(usize) -> bool,
        ids: &Ids,
        now: u64,
    ) -> Result<Bind, String> {
        let id = token.id;
        match (self.records.get(&id), hit) {
            (None, true) => return Err(format!("session {id} is here, and nobody brought it")),
            (Some(_), false) if held(id) => return Err(format!("session {id} is gone, and a socket holds it")),
            (Some(record), false) => {
                if record.until() > now {
                    self.missed.all += 1;
                    match &record.state {
                        State::Ended { .. } => self.missed.revocations += 1,
                        State::Live { values, .. } => {
                            let sealed = ids.sealed.get(&id).copied().unwrap_or_default();
                            let lost = values.iter().zip(sealed).any(|(kept, sealed)| kept.version > sealed);
                            self.missed.unsaved += u64::from(lost);
                        }
                    }
                }
                self.records.remove(&id);
            }
            (_, _) => {}
        }
        if !token.opens(now) {
            return Ok(Bind::Anonymous);
        }
        let used = token.deadline.saturating_sub(token.life.idle).min(now);
        let made = &mut self.made;
        let record = self.records.entry(id).or_insert_with(|| {
            *made += 1;
            let state = State::Live { values: Values::default(), newest: 0, life: token.life, earlier: 0 };
            Record { state, used }
        });
        let State::Live { values, newest, life, earlier } = &mut record.state else {
            let State::Ended { reason, at, .. } = record.state else { unreachable!() };
            return Ok(if now < at + 60_000 { Bind::Fenced(reason) } else { Bind::Anonymous });
        };
        record.used = record.used.max(used);
        if life.deadline(record.used) <= now {
            return Ok(Bind::Anonymous);
        }
        if token.life.version > life.version {
            *earlier = (*earlier).max(life.deadline(now));
            *life = Life { created: life.created, ..token.life };
        }
        if life.deadline(record.used) > now {
            for (mine, brought) in values.iter_mut().zip(token.values) {
                // At one version a removal wins, then the greater text.
                let rank = |kept: &Kept| (kept.version, kept.value.is_none(), kept.value.map(|it| it.to_string()));
                if rank(&brought) > rank(mine) && brought.version > 0 {
                    *mine = brought;
                }
                *newest = (*newest).max(brought.version);
            }
        }
        Ok(Bind::Live(id))
    }

    fn record(&self, bind: &Bind) -> Option<&Record> {
        let Bind::Live(id) = bind else { return None };
        Some(self.records.get(id).expect("what a handle holds is there"))
    }

    pub(super) fn lives(&self, bind: &Bind, now: u64) -> bool {
        self.record(bind).is_some_and(|record| record.closed(now).is_none())
    }

    pub(super) fn closed(&self, bind: &Bind, now: u64) -> Option<Refusal> {
        match bind {
            Bind::Fenced(reason) => Some(*reason),
            bind => self.record(bind)?.closed(now),
        }
        .map(Refusal::Closed)
    }

    pub(super) fn ends(&self, bind: &Bind, now: u64) -> Option<u64> {
        let record = self.record(bind).filter(|record| record.closed(now).is_none())?;
        let State::Live { life, .. } = &record.state else { return None };
        Some(life.deadline(record.used))
    }

    pub(super) fn value(&self, bind: &Bind, value: usize, now: u64) -> Option<u64> {
        let record = self.record(bind).filter(|record| record.closed(now).is_none())?;
        let State::Live { values, .. } = &record.state else { return None };
        values[value].value
    }

    /// What a cookie of this moment holds.
    pub(super) fn seal(&self, bind: &Bind, now: u64) -> Option<Token> {
        let Bind::Live(id) = bind else { return None };
        let deadline = self.ends(bind, now)?;
        let State::Live { values, life, .. } = self.records[id].state else { return None };
        Some(Token { id: *id, values, life, deadline })
    }

    fn make(&mut self, ids: &mut Ids, values: Values, newest: u64, life: Life, now: u64) -> Bind {
        let id = ids.next();
        self.records.insert(id, Record { state: State::Live { values, newest, life, earlier: 0 }, used: now });
        self.made += 1;
        Bind::Live(id)
    }

    fn mint(&mut self, ids: &mut Ids, now: u64) -> Bind {
        let [idle, absolute] = [super::IDLE, super::ABSOLUTE].map(|span| span.as_millis() as u64);
        let life = Life { created: now, absolute: now + absolute, idle, version: 0 };
        self.make(ids, Values::default(), 0, life, now)
    }

    pub(super) fn apply(&mut self, op: &Op, bind: &mut Bind, ids: &mut Ids, now: u64) -> Result<Option<u64>, Refusal> {
        let closed = self.closed(bind, now);
        match op {
            Op::Read(value) => {
                let read = self.value(bind, *value, now);
                self.touch(bind, now);
                return Ok(read);
            }
            // What follows an id that has just ended is another.
            Op::Renew if matches!(bind, Bind::Fenced(_)) => {
                *bind = self.mint(ids, now);
                return Ok(None);
            }
            Op::Destroy if closed.is_some() => return Ok(None),
            _ => {}
        }
        if let Some(refusal) = closed {
            return Err(refusal);
        }
        let writes = matches!(op, Op::Set(..) | Op::Update);
        if *bind == Bind::Anonymous && writes {
            *bind = self.mint(ids, now);
        }
        let Bind::Live(id) = *bind else {
            return if matches!(op, Op::SetLifetime(..)) { Err(Refusal::Invalid) } else { Ok(None) };
        };
        let record = self.records.get_mut(&id).expect("it lives");
        let until = record.until();
        let State::Live { values, newest, life, earlier } = &mut record.state else { unreachable!("it lives") };
        let version = (now << 16).max(*newest + 1);
        let mut came = None;
        match op {
            Op::Set(value, to) => values[*value] = Kept { version, value: Some(*to) },
            Op::Update => {
                came = Some(values[1].value.unwrap_or_default() + 1);
                values[1] = Kept { version, value: came };
            }
            Op::Remove(_) | Op::Clear => {
                let meant = |at: usize| matches!(op, Op::Clear) || matches!(op, Op::Remove(value) if *value == at);
                let mut any = false;
                for (at, kept) in values.iter_mut().enumerate() {
                    if meant(at) && kept.value.is_some() {
                        (*kept, any) = (Kept { version, value: None }, true);
                    }
                }
                if !any {
                    return Ok(None);
                }
            }
            Op::SetLifetime(idle, absolute) => {
                let version = (now << 16).max((*newest).max(life.version) + 1);
                *earlier = (*earlier).max(life.deadline(now));
                *life = Life { absolute: life.created + absolute * 1000, idle: idle * 1000, version, ..*life };
                *newest = version;
                record.used = now;
                return Ok(None);
            }
            Op::Renew => {
                let (values, newest, life) = (*values, *newest, *life);
                record.state = State::Ended { reason: Closed::Renewed, at: now, until: life.absolute.max(until) };
                *bind = self.make(ids, values, newest, life, now);
                return Ok(None);
            }
            Op::Destroy => {
                let until = life.absolute.max(until);
                record.state = State::Ended { reason: Closed::Destroyed, at: now, until };
                return Ok(None);
            }
            Op::Touch => {
                record.used = now;
                return Ok(None);
            }
            Op::Read(_) => {}
        }
        *newest = version;
        record.used = now;
        Ok(came)
    }

    pub(super) fn touch(&mut self, bind: &Bind, now: u64) {
        if let Bind::Live(id) = bind
            && self.lives(bind, now)
            && let Some(record) = self.records.get_mut(id)
        {
            record.used = now;
        }
    }
}
