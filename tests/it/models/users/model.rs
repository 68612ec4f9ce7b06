//! The model of users: a node is a map of sessions and of users, and the later of two copies of a value stays. In the
//! model no record expires, and no record is evicted.

use std::collections::HashMap;

use layered_session::CloseReason;

pub(super) const USERS: usize = 2;

/// The milliseconds after an end in which a plain write must not follow the ended id.
pub(super) const FENCE: u64 = 60_000;

/// The place of a value: the session's own, or the user's. Without a signed-in user the user's value belongs to the
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Session,
    User,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Read(Of),
    Set(Of, i64),
    Update(Of),
    Remove(Of),
    Clear,
    SignIn {
        user: usize,
        adopt: bool,
    },
    SignOut,
    Renew,
    /// An update whose closure panics.
    Panic,
}

/// The reason for which an operation changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Closed(CloseReason),
    HeadSent,
    Panicked,
}

/// A value or a removal, with the time of the write. All writes of all nodes are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Copy {
    written: u64,
    value: Option<i64>,
}

/// The copies of one value: one copy answers, and the newest copy is in the next cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Place {
    answer: Option<Copy>,
    newest: Option<Copy>,
}

impl Place {
    pub(super) fn value(self) -> Option<i64> {
        self.answer?.value
    }

    /// Merges a brought copy. Under `FirstHit` memory's copy answers and stays.
    fn merge(&mut self, brought: Option<Copy>, first_hit: bool) {
        if self.answer.is_none() || !first_hit {
            self.answer = brought.max(self.answer);
        }
        self.newest = brought.max(self.newest);
    }

    fn write(&mut self, op: &Op, time: &mut Time) {
        let before = self.value();
        let value = match *op {
            Op::Set(_, value) => Some(value),
            Op::Update(of) => Some(updated(of, before)),
            // A removal of an absent value changes nothing.
            _ if [self.answer, self.newest].iter().flatten().all(|copy| copy.value.is_none()) => return,
            _ => None,
        };
        self.put(value, time);
    }

    fn put(&mut self, value: Option<i64>, time: &mut Time) {
        let copy = Some(Copy { written: time.next(), value });
        *self = Self { answer: copy, newest: copy };
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Session {
    pub(super) user: Option<usize>,
    /// The time of the sign-in, on the node that last wrote the identity value. Several nodes may carry out one order.
    pub(super) signed: u64,
    pub(super) minted: u64,
    pub(super) own: Place,
    /// The anonymous choice.
    pub(super) anonymous: Place,
    /// The reason and the time of the end.
    pub(super) ended: Option<(CloseReason, u64)>,
    /// The session before the last turn, and the time of the turn.
    pub(super) predecessor: Option<(Predecessor, u64)>,
    /// The session that a renewal for a user began.
    pub(super) successor: Option<usize>,
    /// Whether a request has brought the session's cookie.
    pub(super) confirmed: bool,
}

impl Session {
    /// A session that a node learns of from a token, before the token's values are merged.
    pub(super) fn of(&Token { minted, predecessor, .. }: &Token) -> Self {
        Self { minted, predecessor, ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Predecessor {
    pub(super) id: usize,
    /// Whether the same user was signed in before and after the turn. A sign-out of the predecessor then ends this
    /// session too.
    pub(super) shares_end: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct User {
    own: Place,
    /// The mint time up to which all of the user's sessions have ended.
    pub(super) ended: u64,
}

/// The content of a cookie.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    id: usize,
    minted: u64,
    user: Option<usize>,
    signed: u64,
    own: Option<Copy>,
    users: Option<Copy>,
    /// The session before the last turn, for a minute after the turn.
    predecessor: Option<(Predecessor, u64)>,
}

impl Token {
    /// Whether a browser with the other token lacks nothing of this token. The comparison leaves out the predecessor,
    /// which is for nodes alone, and the mint time, in which the orders of one handle differ.
    pub(super) fn is_known_by(&self, other: &Self) -> bool {
        Self { predecessor: other.predecessor, minted: other.minted, ..self.clone() } == *other
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bind {
    Nobody,
    Live(usize),
    Fenced(CloseReason),
}

#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) bind: Bind,
    /// The session in the request's cookie.
    pub(super) came: Option<usize>,
    /// The session that the handle itself has ended. The handle may then begin another session.
    pub(super) ended: Option<usize>,
    /// Whether the handle has ended a session that had ended elsewhere, and so may begin another session.
    pub(super) anew: bool,
    /// More sessions that the handle has ended: sessions of orders, and earlier sessions.
    pub(super) also_ended: Vec<usize>,
    /// The sessions that the handle's orders begin, each with the user of the sign-in.
    pub(super) ordered: Vec<(Option<usize>, usize)>,
    /// Whether the response head has left, so no cookie can follow.
    pub(super) sent: bool,
}

/// The data common to all nodes: the numbers of sessions and of writes, in the order of time, and the time.
#[derive(Debug, Default)]
pub(super) struct Time {
    made: usize,
    written: u64,
    pub(super) now: u64,
}

impl Time {
    pub(super) fn next(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    pub(super) fn new_id(&mut self) -> usize {
        self.made += 1;
        self.made
    }
}

#[derive(Debug)]
pub(super) struct Node {
    first_hit: bool,
    pub(super) sessions: HashMap<usize, Session>,
    pub(super) users: [User; USERS],
    /// The orders that were carried out here.
    pub(super) accepted: Vec<u64>,
}

impl Node {
    pub(super) fn new(first_hit: bool) -> Self {
        Self { first_hit, sessions: HashMap::new(), users: Default::default(), accepted: Vec::new() }
    }

    pub(super) fn arrive(&mut self, token: Option<&Token>, time: &Time) -> Handle {
        let came = token.map(|token| token.id);
        let (bind, ended, sent) = (Bind::Nobody, None, false);
        let (also_ended, ordered) = (Vec::new(), Vec::new());
        let nobody = Handle { bind, came, ended, anew: false, also_ended, ordered, sent };
        let Some(token) = token else { return nobody };
        let id = token.id;
        self.sessions.entry(id).or_insert_with(|| Session::of(token));
        self.end_predecessor(token, time);
        self.merge(token, self.first_hit);
        self.sessions.get_mut(&id).expect("the node knows the session").confirmed = true;
        match self.ended(id, time) {
            None => Handle { bind: Bind::Live(id), ..nobody },
            Some((reason, at)) if time.now < at + FENCE => Handle { bind: Bind::Fenced(reason), ..nobody },
            Some(_) => nobody,
        }
    }

    /// Begins a request in which `identify_by` panics.
    pub(super) fn arrive_panicking(&mut self, token: Option<&Token>, time: &Time) {
        let Some(token) = token else { return };
        let session = self.sessions.entry(token.id).or_insert_with(|| Session::of(token));
        session.confirmed = true;
        let session = session.clone();
        // The end of a user's session calls `identify_by`, which panics here. The request then ends no session and
        // merges no value.
        let is_users = |id| self.sessions.get(&id).is_some_and(|it| it.ended.is_none() && it.user.is_some());
        if let Some((Predecessor { id, shares_end }, _)) = token.predecessor
            && session.ended.is_none()
        {
            let signed_out = self.sessions.get(&id).and_then(|before| before.ended);
            let signed_out =
                signed_out.is_some_and(|(reason, at)| reason == CloseReason::Destroyed && time.now < at + FENCE);
            if is_users(id) || shares_end && signed_out && is_users(token.id) {
                return;
            }
        }
        if token.user.is_none() {
            self.arrive(Some(token), time);
            return;
        }
        self.end_predecessor(token, time);
        self.merge(&Token { users: None, ..token.clone() }, self.first_hit);
    }

    /// Merges a token's values into the living session.
    pub(super) fn merge(&mut self, &Token { id, user, signed, own, users, .. }: &Token, first_hit: bool) {
        let session = self.sessions.get_mut(&id).expect("the node knows the session");
        if session.ended.is_some() {
            return;
        }
        session.signed = session.signed.max(signed);
        session.user = user;
        let theirs = match user {
            Some(user) => &mut self.users[user].own,
            None => &mut session.anonymous,
        };
        session.own.merge(own, first_hit);
        theirs.merge(users, first_hit);
    }

    /// Ends the session before a turn on another node.
    fn end_predecessor(&mut self, token: &Token, time: &Time) {
        let Some((Predecessor { id, shares_end }, turned)) = token.predecessor else { return };
        if self.sessions[&token.id].ended.is_some() {
            return;
        }
        let ended = Some((CloseReason::Renewed, turned));
        let successor = shares_end.then_some(token.id);
        let unknown = Session { ended, successor, ..Session::default() };
        let before = self.sessions.entry(id).or_insert(unknown);
        if before.ended.is_none() {
            before.successor = successor;
        }
        let before = before.ended;
        self.retire(&Bind::Live(id), CloseReason::Renewed, time);
        if shares_end && before.is_some_and(|(reason, at)| reason == CloseReason::Destroyed && time.now < at + FENCE) {
            self.retire(&Bind::Live(token.id), CloseReason::Destroyed, time);
        }
    }

    /// The end of a session. A read notices the end of all of the user's sessions.
    pub(super) fn ended(&mut self, id: usize, time: &Time) -> Option<(CloseReason, u64)> {
        let session = self.sessions.get_mut(&id).expect("the node knows the session");
        if session.user.is_some_and(|user| session.minted <= self.users[user].ended) {
            session.ended.get_or_insert((CloseReason::Revoked, time.now));
        }
        session.ended
    }

    pub(super) fn closed(&mut self, bind: &Bind, time: &Time) -> Option<CloseReason> {
        match *bind {
            Bind::Nobody => None,
            Bind::Fenced(reason) => Some(reason),
            Bind::Live(id) => self.ended(id, time).map(|(reason, _)| reason),
        }
    }

    pub(super) fn live(&mut self, bind: &Bind, time: &Time) -> Option<(usize, Session)> {
        let Bind::Live(id) = *bind else { return None };
        self.ended(id, time).is_none().then(|| (id, self.sessions[&id].clone()))
    }

    pub(super) fn user(&mut self, bind: &Bind, time: &Time) -> Option<usize> {
        self.live(bind, time)?.1.user
    }

    fn place(&mut self, id: usize, of: Of) -> &mut Place {
        let session = self.sessions.get_mut(&id).expect("the session lives");
        match (of, session.user) {
            (Of::Session, _) => &mut session.own,
            (Of::User, None) => &mut session.anonymous,
            (Of::User, Some(user)) => &mut self.users[user].own,
        }
    }

    pub(super) fn value(&mut self, bind: &Bind, of: Of, time: &Time) -> Option<i64> {
        let (id, _) = self.live(bind, time)?;
        self.place(id, of).value()
    }

    /// The content of a cookie sealed now. The cookie replaces no copy by an older copy.
    pub(super) fn seal(&mut self, handle: &Handle, time: &Time) -> Option<Token> {
        let (id, Session { user, signed, minted, own, predecessor, .. }) = self.live(&handle.bind, time)?;
        let (own, users) = (own.newest, self.place(id, Of::User).newest);
        let predecessor = predecessor.filter(|(_, turned)| time.now < turned + FENCE);
        Some(Token { id, minted, user, signed, own, users, predecessor })
    }

    fn make(
        &mut self,
        user: Option<(usize, u64)>,
        own: Place,
        anonymous: Place,
        predecessor: Option<Predecessor>,
        time: &mut Time,
    ) -> Bind {
        let (user, signed) = user.unzip();
        let signed = signed.unwrap_or_default();
        let (id, minted, predecessor) =
            (time.new_id(), time.next(), predecessor.map(|predecessor| (predecessor, time.now)));
        self.sessions.insert(id, Session { user, signed, minted, own, anonymous, predecessor, ..Session::default() });
        Bind::Live(id)
    }

    pub(super) fn apply(&mut self, op: &Op, handle: &mut Handle, time: &mut Time) -> Result<Option<i64>, Refusal> {
        if let Op::Read(of) = *op {
            return Ok(self.value(&handle.bind, of, time));
        }
        if handle.sent && matches!(op, Op::SignIn { .. } | Op::Renew) {
            return Err(Refusal::HeadSent);
        }
        let closed = self.closed(&handle.bind, time);
        let fenced = matches!(handle.bind, Bind::Fenced(_));
        let followed = match op {
            Op::SignOut => return self.sign_out(handle, time),
            Op::Panic => return Err(Refusal::Panicked),
            Op::SignIn { .. } => fenced || handle.ended.is_some() || handle.anew,
            Op::Renew => handle.ended.is_some() || handle.anew,
            _ => false,
        };
        if let Some(reason) = closed.filter(|_| !followed) {
            return Err(Refusal::Closed(reason));
        }
        let brought = handle.came.map(|id| Predecessor { id, shares_end: false });
        let session = self.live(&handle.bind, time);
        match *op {
            Op::SignIn { user, adopt } => {
                let before = session.as_ref().map(|(_, session)| session);
                let own = before.map(|session| session.own).unwrap_or_default();
                let chosen = before.and_then(|session| session.anonymous.value());
                let before = session.map(|(id, _)| Predecessor { id, shares_end: false });
                self.retire(&handle.bind, CloseReason::Renewed, time);
                handle.bind = self.make(Some((user, time.next())), own, Place::default(), before.or(brought), time);
                (handle.ended, handle.anew) = (None, false);
                if adopt {
                    self.adopt(user, chosen, time);
                }
            }
            Op::Renew => match session {
                Some((id, Session { user, signed, own, anonymous, .. })) => {
                    self.retire(&handle.bind, CloseReason::Renewed, time);
                    let before = Predecessor { id, shares_end: user.is_some() };
                    handle.bind = self.make(user.map(|user| (user, signed)), own, anonymous, Some(before), time);
                    let renewed = self.sessions.get_mut(&id).expect("the session has just ended");
                    renewed.successor = user.map(|_| time.made);
                }
                None if closed.is_some() => {
                    handle.bind = self.make(None, Place::default(), Place::default(), brought, time);
                    (handle.ended, handle.anew) = (None, false);
                }
                None => {}
            },
            Op::Clear => {
                if let Some((id, session)) = session {
                    self.remove(id, Of::Session, time);
                    if session.user.is_none() {
                        self.remove(id, Of::User, time);
                    }
                }
            }
            Op::Remove(of) => {
                if let Some((id, _)) = session {
                    self.remove(id, of, time);
                }
            }
            Op::Set(of, _) | Op::Update(of) => {
                if session.is_none() {
                    handle.bind = self.make(None, Place::default(), Place::default(), None, time);
                    (handle.ended, handle.anew) = (None, false);
                }
                let Bind::Live(id) = handle.bind else { unreachable!("it is live or was just made") };
                let place = self.place(id, of);
                place.write(op, time);
                return Ok(place.value().filter(|_| matches!(op, Op::Update(_))));
            }
            Op::Read(_) | Op::SignOut | Op::Panic => unreachable!("done above"),
        }
        Ok(None)
    }

    fn sign_out(&mut self, handle: &mut Handle, time: &Time) -> Result<Option<i64>, Refusal> {
        let ordered = std::mem::take(&mut handle.ordered);
        ordered.iter().for_each(|(_, id)| self.end_named(*id, time));
        let mut named: Vec<_> = ordered.iter().map(|(_, id)| *id).chain(handle.ended).collect();
        named.append(&mut handle.also_ended);
        let own = self.live(&handle.bind, time).map(|(id, _)| id);
        if let Some(id) = own.or_else(|| self.successor(handle, time)) {
            self.retire(&Bind::Live(id), CloseReason::Destroyed, time);
            (handle.ended, handle.also_ended) = (Some(id), named);
        } else if let Some((_, id)) = ordered.last() {
            let bound = match handle.bind {
                Bind::Live(id) => Some(id),
                Bind::Nobody | Bind::Fenced(_) => handle.came,
            };
            named.extend(bound);
            (handle.ended, handle.also_ended) = (Some(*id), named);
        } else {
            let closed = self.closed(&handle.bind, time);
            handle.anew |= closed.is_some_and(|reason| reason != CloseReason::Renewed);
        }
        Ok(None)
    }

    /// The successor of the handle's renewed session.
    fn successor(&self, handle: &Handle, time: &Time) -> Option<usize> {
        let mut id = match handle.bind {
            Bind::Live(id) => id,
            Bind::Fenced(_) => handle.came?,
            Bind::Nobody => return None,
        };
        while let Some((_, at)) = self.sessions[&id].ended {
            id = self.sessions[&id].successor.filter(|_| time.now < at + FENCE)?;
            self.sessions.get(&id)?;
        }
        Some(id)
    }

    pub(super) fn retire(&mut self, bind: &Bind, reason: CloseReason, time: &Time) {
        if let Bind::Live(id) = bind {
            let session = self.sessions.get_mut(id).expect("the session lives");
            session.ended.get_or_insert((reason, time.now));
        }
    }

    fn remove(&mut self, id: usize, of: Of, time: &mut Time) {
        self.place(id, of).write(&Op::Remove(of), time);
    }

    /// Gives a user the anonymous choice, unless the user has a value.
    pub(super) fn adopt(&mut self, user: usize, chosen: Option<i64>, time: &mut Time) {
        let theirs = &mut self.users[user].own;
        if chosen.is_some() && theirs.value().is_none() {
            theirs.put(chosen, time);
        }
    }

    /// Performs a job's operation on a user's own value.
    pub(super) fn job(&mut self, user: usize, op: &Op, time: &mut Time) {
        self.users[user].own.write(op, time);
    }

    pub(super) fn end_all(&mut self, user: usize, time: &mut Time) {
        self.users[user].ended = time.next();
    }
}

pub(super) fn updated(of: Of, value: Option<i64>) -> i64 {
    match of {
        Of::Session => value.unwrap_or_default() + 1,
        Of::User => (value.unwrap_or(-1) + 1) % 6,
    }
}
