//! The model of memory: a map of sessions per node. Memory forgets only where the test has seen a loss.

use std::{cmp::Reverse, collections::HashMap};

use layered_session::CloseReason;

/// An operation on a session: on `Theme` as value 0, or on `Visits` as value 1. Lifetimes are in seconds.
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
    /// An update whose closure panics.
    Panic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Closed(CloseReason),
    Invalid,
    HeadSent,
    Panicked,
}

impl From<CloseReason> for Refusal {
    fn from(closed: CloseReason) -> Self {
        Self::Closed(closed)
    }
}

/// The state of a handle. Sessions are numbered in the order of their creation on all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Bind {
    #[default]
    Anonymous,
    Live(usize),
    Fenced(CloseReason),
    /// The end of the handle's own session, whose tombstone memory has forgotten.
    Over(CloseReason),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Handle {
    pub(super) bind: Bind,
    /// The session in the request's cookie.
    pub(super) brought: Option<usize>,
    /// Whether the handle itself has ended the handle's session, and so may begin another session.
    ended: bool,
    /// Whether the handle has ended an already ended session, and so may begin another session.
    anew: bool,
    /// Whether the response head has left, so no cookie can follow.
    pub(super) sent: bool,
    /// The lifetime of the handle's next session: the idle and the absolute lifetime.
    lifetime: Option<(u64, u64)>,
}

/// A value, or a removal if there is no value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Kept {
    version: u64,
    value: Option<u64>,
}

type Values = [Kept; 2];

/// The times of a session: in node time in a record, by the wall clock in a token.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Life {
    created: u64,
    absolute: u64,
    idle: u64,
    version: u64,
    birth: u64,
}

impl Life {
    fn deadline(&self, used: u64) -> u64 {
        (used + self.idle).min(self.absolute)
    }
}

/// The content of a cookie, with times of the wall clock of the sealing node.
#[derive(Clone, Debug)]
pub(super) struct Token {
    id: usize,
    values: Values,
    life: Life,
    issued: u64,
    deadline: u64,
    /// The id before the last turn, for a minute after the turn.
    predecessor: Option<usize>,
    /// The lead of node time over the wall clock.
    lead: u64,
    /// The number of the token among all tokens.
    pub(super) serial: u64,
}

impl Token {
    pub(super) const fn id(&self) -> usize {
        self.id
    }

    /// Whether a browser with the other token lacks nothing of this token, apart from less than a tenth of the idle
    /// time. `read_until` is the deadline that the node read in the other token on arrival, in node time.
    fn is_known_by(&self, other: &Self, read_until: Option<u64>) -> bool {
        let read = |token: &Self| token.values.map(|kept| kept.value);
        let held = (other.deadline + self.lead.max(other.lead)).max(read_until.unwrap_or_default());
        self.id == other.id
            && read(self) == read(other)
            && (self.life.idle, self.life.version) == (other.life.idle, other.life.version)
            && self.deadline + self.lead < held + self.life.idle / 10
    }
}

#[derive(Clone, Debug)]
struct Record {
    state: State,
    used: u64,
    /// The last sealed or completely merged token of the session on this node, with the time until which the token
    /// holds.
    known: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
enum State {
    /// The state of a living session, with the id before the last turn, and the time of the turn.
    Live {
        values: Values,
        newest: u64,
        life: Life,
        earlier: u64,
        predecessor: Option<usize>,
    },
    Ended {
        reason: CloseReason,
        at: u64,
        until: u64,
    },
}

impl Record {
    fn closed(&self, now: u64) -> Option<CloseReason> {
        match &self.state {
            State::Ended { reason, .. } => Some(*reason),
            State::Live { life, .. } => (life.deadline(self.used) <= now).then_some(CloseReason::Expired),
        }
    }

    /// Ends a living session.
    fn end(&mut self, reason: CloseReason, now: u64) {
        if let (None, State::Live { life, .. }) = (self.closed(now), &self.state) {
            self.state = State::Ended { reason, at: now, until: life.absolute.max(self.until()) };
        }
    }

    /// The time until which memory keeps the record.
    fn until(&self) -> u64 {
        match &self.state {
            State::Ended { until, .. } => *until,
            State::Live { life, earlier, .. } => life.deadline(self.used).max(*earlier),
        }
    }
}

/// The data common to all nodes: the numbers of sessions, and the newest state of each session in any cookie.
#[derive(Debug, Default)]
pub(super) struct Ids {
    made: usize,
    tokens: u64,
    sealed: HashMap<usize, [u64; 2]>,
}

impl Ids {
    fn next(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    /// Numbers and notes a token for a browser.
    pub(super) fn note(&mut self, token: &mut Token) {
        self.tokens += 1;
        token.serial = self.tokens;
        let sealed = self.sealed.entry(token.id).or_default();
        for (sealed, kept) in sealed.iter_mut().zip(&token.values) {
            *sealed = (*sealed).max(kept.version);
        }
    }
}

/// The counts of records that were lost before their end.
#[derive(Debug, Default)]
pub(super) struct Missed {
    pub(super) all: u64,
    /// Lost records with a change that no cookie ever held.
    pub(super) unsaved: u64,
    pub(super) revocations: u64,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    records: HashMap<usize, Record>,
    pub(super) made: u64,
    pub(super) missed: Missed,
    /// The lead of node time over the wall clock. A step back does not move node time.
    pub(super) lead: u64,
    /// The wall clock's reading before each step back, with the lead until then.
    steps: Vec<(u64, u64)>,
    /// The newest version that the node has given or seen.
    newest: u64,
}

impl Node {
    /// Sets the wall clock.
    pub(super) fn set_clock(&mut self, from: u64, to: u64) {
        if to < from {
            self.steps.push((from, self.lead));
            // The node remembers at most 16 steps.
            if self.steps.len() > 16 {
                self.steps.remove(0);
            }
        }
        self.lead = (from + self.lead).saturating_sub(to);
    }

    /// The lead at the moment when the wall clock first showed a time.
    fn lead_at(&self, wall: u64) -> u64 {
        self.steps.iter().find(|(before, _)| wall <= *before).map_or(self.lead, |(_, lead)| *lead)
    }

    /// A token with all times in node time, none in the future.
    fn read(&self, token: &Token, now: u64) -> Token {
        let Token { life, issued, deadline, .. } = token;
        let lead = self.lead_at(*issued);
        let (mut life, mut deadline) =
            (Life { created: life.created + lead, absolute: life.absolute + lead, ..*life }, deadline + lead);
        if issued + lead > now {
            deadline = deadline.min(now + life.idle);
        }
        if life.created > now {
            life = Life { created: now, absolute: now + life.absolute - life.created, ..life };
        }
        Token { life, deadline, ..token.clone() }
    }

    pub(super) fn opens(&self, token: &Token, now: u64) -> bool {
        let known = self.records.get(&token.id).is_some_and(|record| match &record.state {
            State::Live { .. } => record.closed(now).is_none(),
            State::Ended { .. } => true,
        });
        self.proves_id(token, now) && (now < self.read(token, now).deadline || known)
    }

    /// Whether the token proves the id. The seal may have idled out.
    pub(super) fn proves_id(&self, token: &Token, now: u64) -> bool {
        now < self.read(token, now).life.absolute
    }

    /// The minting time of an id, in node time.
    fn turned(&self, birth: u64, now: u64) -> u64 {
        let wall = birth >> 16;
        (wall + self.lead_at(wall)).min(now)
    }

    fn fresh(&mut self, known: u64, now: u64) -> u64 {
        fresh(&mut self.newest, known, now - self.lead)
    }

    /// Begins a request with a cookie, for which the test saw a record or no record.
    pub(super) fn arrive(
        &mut self,
        token: &Token,
        hit: bool,
        held: impl Fn(usize) -> bool,
        ids: &Ids,
        now: u64,
    ) -> Result<Handle, String> {
        let id = token.id;
        match (self.records.get(&id), hit) {
            (None, true) => return Err(format!("session {id} is here, and nobody brought it")),
            (Some(_), false) => self.lose(id, held, ids, now)?,
            (_, _) => {}
        }
        // Memory knows the token by its bytes, and the token's content by the record.
        let knows = |record: &Record| {
            let known = record.known.is_some_and(|(serial, until)| serial == token.serial && now < until);
            known && record.closed(now).is_none()
        };
        if self.records.get(&id).is_some_and(knows) {
            return Ok(Handle { bind: Bind::Live(id), brought: Some(id), ..Handle::default() });
        }
        let seen = token.values.map(|kept| kept.version).into_iter().chain([token.life.version, token.life.birth]);
        self.newest = seen.chain([self.newest]).max().unwrap_or_default();
        if !self.opens(token, now) {
            return Ok(Handle::default());
        }
        let token = self.read(token, now);
        Ok(Handle { bind: self.bind(&token, now), brought: Some(id), ..Handle::default() })
    }

    /// The end of a session whose tombstone has expired. A handle of the session keeps the reason.
    pub(super) fn expired_end(&self, id: usize, now: u64) -> Option<CloseReason> {
        let record = self.records.get(&id).filter(|record| record.until() <= now)?;
        if let State::Ended { reason, .. } = record.state { Some(reason) } else { None }
    }

    /// Notes the loss of a record, if the record existed.
    fn lose(&mut self, id: usize, held: impl Fn(usize) -> bool, ids: &Ids, now: u64) -> Result<(), String> {
        if held(id) {
            return Err(format!("session {id} is gone, and a socket holds it"));
        }
        let record = self.records.remove(&id);
        if let Some(record) = record.filter(|record| record.until() > now) {
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
        Ok(())
    }

    /// Whether the outcome depends on memory's knowledge of the token's bytes, which a test can't see from outside: the
    /// token names a predecessor whose tombstone was evicted, and an older cookie has brought the predecessor back.
    pub(super) fn is_unclear(&self, token: &Token, now: u64) -> bool {
        let lives = |id| self.records.get(&id).is_some_and(|record| record.closed(now).is_none());
        self.records.contains_key(&token.id) && token.predecessor.is_some_and(lives)
    }

    /// The predecessor that ends here when the token arrives. For a token of an ended session memory ends no
    /// predecessor.
    pub(super) fn told_by(&self, token: &Token, now: u64) -> Option<usize> {
        let lives = self.opens(token, now) && matches!(self.records[&token.id].state, State::Live { .. });
        token.predecessor.filter(|_| lives)
    }

    /// Ends the predecessor in a token. `made` says whether the node created a record for the predecessor.
    pub(super) fn end_predecessor(
        &mut self,
        token: &Token,
        (predecessor, hit, made): (usize, bool, bool),
        held: impl Fn(usize) -> bool,
        ids: &Ids,
        now: u64,
    ) -> Result<(), String> {
        if made {
            self.lose(predecessor, held, ids, now)?;
            let (token, at) = (self.read(token, now), self.turned(token.life.birth, now));
            let state = State::Ended { reason: CloseReason::Renewed, at, until: token.life.absolute };
            self.records.insert(predecessor, Record { state, used: at, known: None });
            self.made += 1;
            return Ok(());
        }
        match self.records.get_mut(&predecessor) {
            Some(record) => record.end(CloseReason::Renewed, now),
            // Memory may know the token by its bytes, and have forgotten the tombstone since.
            None if hit => {}
            None => return Err(format!("nobody was told that session {predecessor} has ended")),
        }
        Ok(())
    }

    /// Returns the session of a token that opens.
    fn bind(&mut self, token: &Token, now: u64) -> Bind {
        let (id, made) = (token.id, &mut self.made);
        let used = token.deadline.saturating_sub(token.life.idle).min(now);
        let record = self.records.entry(id).or_insert_with(|| {
            *made += 1;
            let (values, life, predecessor) = (Values::default(), token.life, token.predecessor);
            Record { state: State::Live { values, newest: 0, life, earlier: 0, predecessor }, used, known: None }
        });
        let State::Live { values, newest, life, earlier, .. } = &mut record.state else {
            let State::Ended { reason, at, .. } = record.state else { unreachable!() };
            return if now < at + 60_000 { Bind::Fenced(reason) } else { Bind::Anonymous };
        };
        record.used = record.used.max(used);
        if life.deadline(record.used) <= now {
            return Bind::Anonymous;
        }
        // Of two lifetimes that two nodes have set in the same moment, the shorter stays on both nodes.
        let lifetime = |life: &Life| (life.version, Reverse((life.absolute - life.created, life.idle)));
        if lifetime(&token.life) > lifetime(life) {
            *earlier = (*earlier).max(life.deadline(now));
            *life = Life { created: life.created, birth: life.birth, ..token.life };
        }
        if life.deadline(record.used) > now && token.deadline > now {
            for (mine, brought) in values.iter_mut().zip(token.values) {
                // At equal versions a removal wins, then the greater text.
                let rank = |kept: &Kept| (kept.version, kept.value.is_none(), kept.value.map(|it| it.to_string()));
                if rank(&brought) > rank(mine) && brought.version > 0 {
                    *mine = brought;
                }
                *newest = (*newest).max(brought.version);
            }
            if (*values, lifetime(life)) == (token.values, lifetime(&token.life)) {
                record.known = Some((token.serial, token.deadline.min(token.life.absolute)));
            }
        }
        Bind::Live(id)
    }

    fn record(&self, bind: &Bind) -> Option<&Record> {
        let Bind::Live(id) = bind else { return None };
        Some(self.records.get(id).expect("memory has the record of a handle"))
    }

    pub(super) fn lives(&self, bind: &Bind, now: u64) -> bool {
        self.record(bind).is_some_and(|record| record.closed(now).is_none())
    }

    pub(super) fn closed(&self, bind: &Bind, now: u64) -> Option<Refusal> {
        match bind {
            Bind::Fenced(reason) | Bind::Over(reason) => Some(*reason),
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

    /// Notes a token that the browser got.
    pub(super) fn give(&mut self, token: &Token) {
        if let Some(record) = self.records.get_mut(&token.id) {
            record.known = Some((token.serial, token.deadline + token.lead));
        }
    }

    /// The content of a cookie sealed now.
    pub(super) fn seal(&self, bind: &Bind, now: u64) -> Option<Token> {
        let Bind::Live(id) = bind else { return None };
        let deadline = self.ends(bind, now)?;
        let State::Live { values, life, predecessor, .. } = self.records[id].state else { return None };
        let predecessor = predecessor.filter(|_| now < self.turned(life.birth, now) + 60_000);
        let lead = self.lead;
        let life = Life { created: life.created - lead, absolute: life.absolute - lead, ..life };
        let (issued, deadline) = (now - lead, deadline - lead);
        Some(Token { id: *id, values, life, issued, deadline, predecessor, lead, serial: 0 })
    }

    /// Whether a browser needs no newer cookie than `brought`. The node reads the deadline of a cookie once, on
    /// arrival: a step of the clock after that does not change the deadline of a known cookie.
    pub(super) fn is_current(&self, carried: &Token, brought: &Token) -> bool {
        let known = self.records.get(&brought.id).and_then(|record| record.known);
        let read_until = known.filter(|(serial, _)| *serial == brought.serial).map(|(_, until)| until);
        carried.is_known_by(brought, read_until)
    }

    fn make(&mut self, ids: &mut Ids, state: State, now: u64) -> Bind {
        let id = ids.next();
        self.records.insert(id, Record { state, used: now, known: None });
        self.made += 1;
        Bind::Live(id)
    }

    fn mint(&mut self, ids: &mut Ids, lifetime: Option<(u64, u64)>, predecessor: Option<usize>, now: u64) -> Bind {
        let configured = [super::IDLE, super::ABSOLUTE].map(|span| span.as_millis() as u64);
        let (idle, absolute) =
            lifetime.map_or_else(|| configured.into(), |(idle, absolute)| (idle * 1000, absolute * 1000));
        let birth = self.fresh(0, now);
        let version = lifetime.map_or(0, |_| birth);
        let life = Life { created: now, absolute: now + absolute, idle, version, birth };
        self.make(ids, State::Live { values: Values::default(), newest: 0, life, earlier: 0, predecessor }, now)
    }

    pub(super) fn apply(
        &mut self,
        op: &Op,
        handle: &mut Handle,
        ids: &mut Ids,
        now: u64,
    ) -> Result<Option<u64>, Refusal> {
        let Handle { bind, brought, ended, anew, sent, lifetime } = handle;
        let closed = self.closed(bind, now);
        match op {
            Op::Read(value) => {
                let read = self.value(bind, *value, now);
                self.touch(bind, now);
                return Ok(read);
            }
            Op::Panic => {
                // The closure runs after the read of the value.
                self.touch(bind, now);
                return Err(Refusal::Panicked);
            }
            Op::Renew if *sent => return Err(Refusal::HeadSent),
            // A handle that has ended its own session begins another session by the renewal, without values.
            Op::Renew if (*ended || *anew) && closed.is_some() => {
                *bind = self.mint(ids, *lifetime, *brought, now);
                // The new session takes a version, as its first write would.
                self.fresh(0, now);
                (*ended, *anew) = (false, false);
                return Ok(None);
            }
            Op::Destroy if closed.is_some() => {
                *lifetime = None;
                *anew |= closed != Some(Refusal::Closed(CloseReason::Renewed));
                return Ok(None);
            }
            // The lifetime waits for the session that a later renewal or sign-in of the handle begins.
            Op::SetLifetime(idle, absolute)
                if closed.is_some() && (*ended || *anew || matches!(bind, Bind::Fenced(_))) =>
            {
                *lifetime = Some((*idle, *absolute));
                return Ok(None);
            }
            _ => {}
        }
        if let Some(refusal) = closed {
            return Err(refusal);
        }
        if *bind == Bind::Anonymous && matches!(op, Op::Set(..) | Op::Update) {
            *bind = self.mint(ids, *lifetime, None, now);
        }
        match op {
            Op::SetLifetime(idle, absolute) => *lifetime = Some((*idle, *absolute)),
            Op::Destroy => *lifetime = None,
            _ => {}
        }
        let Bind::Live(id) = *bind else { return Ok(None) };
        let (authority, wall) = (&mut self.newest, now - self.lead);
        let record = self.records.get_mut(&id).expect("the session lives");
        let State::Live { values, newest, life, earlier, .. } = &mut record.state else {
            unreachable!("the session lives")
        };
        let mut came = None;
        let version;
        match op {
            Op::Read(_) | Op::Panic => unreachable!("done above"),
            Op::Set(value, to) => {
                version = fresh(authority, *newest, wall);
                values[*value] = Kept { version, value: Some(*to) };
            }
            Op::Update => {
                came = Some(values[1].value.unwrap_or_default() + 1);
                version = fresh(authority, *newest, wall);
                values[1] = Kept { version, value: came };
            }
            Op::Remove(_) | Op::Clear => {
                let meant = |at: usize| matches!(op, Op::Clear) || matches!(op, Op::Remove(value) if *value == at);
                let there = |(at, kept): (usize, &Kept)| meant(at) && kept.value.is_some();
                if !values.iter().enumerate().any(there) {
                    return Ok(None);
                }
                version = fresh(authority, *newest, wall);
                for (at, kept) in values.iter_mut().enumerate() {
                    if meant(at) && kept.value.is_some() {
                        *kept = Kept { version, value: None };
                    }
                }
            }
            Op::SetLifetime(idle, absolute) => {
                let version = fresh(authority, (*newest).max(life.version), wall);
                *earlier = (*earlier).max(life.deadline(now));
                *life = Life { absolute: life.created + absolute * 1000, idle: idle * 1000, version, ..*life };
                *newest = version;
                record.used = now;
                return Ok(None);
            }
            Op::Renew => {
                let (values, newest) = (*values, *newest);
                let life = Life { birth: fresh(authority, life.birth, wall), ..*life };
                record.end(CloseReason::Renewed, now);
                let predecessor = Some(id);
                *bind = self.make(ids, State::Live { values, newest, life, earlier: 0, predecessor }, now);
                return Ok(None);
            }
            Op::Destroy => {
                record.end(CloseReason::Destroyed, now);
                *ended = true;
                return Ok(None);
            }
            Op::Touch => {
                record.used = now;
                return Ok(None);
            }
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

/// The next version: the wall clock's time, above every version that the node has given or seen, and above `known`.
fn fresh(newest: &mut u64, known: u64, wall: u64) -> u64 {
    *newest = (wall << 16).max((*newest).max(known) + 1);
    *newest
}
