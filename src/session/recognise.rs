//! Whose cookie a request brings: memory knows its very bytes, or it is opened, and then it is believed or not.

use std::sync::{Arc, atomic::Ordering};

use super::{
    arrive::Arrived,
    brought::Brought,
    core::{Binding, Bound, Core, CrossSite},
};
use crate::{
    chain::{
        Chain,
        life::{End, FENCE, Predecessor},
    },
    error::TierError,
    id::SessionId,
    live::Closed,
    tier::{
        Lookup, Standing,
        cookie::{
            Opened,
            digest::Digest,
            header::{Candidates, Fields, Scan},
            payload::{Head, Payload},
            seal::{self, Purpose},
        },
        memory::{
            Memory,
            record::{InStep, Kind, Record, RecordKey, State},
        },
    },
    version::Millis,
};

/// A session whose token memory knows by its very bytes.
pub(super) struct Familiar {
    bound: Bound,
    in_step: InStep,
    principal: Option<Arc<Record>>,
}

/// The tokens of ours that a request brought.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// The sessions of those that are genuine.
    pub(super) ids: Vec<SessionId>,
    /// A pair of our name did not open, or there were too many to look through.
    pub(super) unread: bool,
}

impl Came {
    pub(super) const fn is_nothing(&self) -> bool {
        self.ids.is_empty() && !self.unread
    }
}

impl Core {
    pub(super) fn came(&self) -> Came {
        let ids = self.brought.key.iter().map(|key| SessionId::from_bytes(key.0)).collect();
        Came { ids, unread: self.brought.ambiguous }
    }
}

/// A token that had to be opened.
pub(super) struct Unfamiliar {
    opened: Opened,
    seen: Option<Digest>,
}

/// What a request came with whose token memory does not know.
pub(super) struct Unopened {
    pub(super) cookies: Option<Fields>,
    /// How another site caused the request, if one did.
    pub(super) cross_site: Option<CrossSite>,
}

/// The session whose token memory knows, if that is the only one. Without memory nobody looks for one.
pub(super) fn familiar(chain: &Chain, cookies: &Fields, now: Millis) -> Option<Familiar> {
    let memory = chain.memory.as_ref()?;
    match chain.cookie_name.scan(cookies) {
        Scan::Found(candidates) => recognise(chain, memory, candidates.only()?, &candidates, now),
        Scan::Absent | Scan::Capped => None,
    }
}

/// The session whose token memory knows by these very bytes, if memory still holds everything that they do: then the
/// seal needn't be opened. Of several tokens none is counted or confirms its session: the request may turn out to be
/// nobody's.
fn recognise(chain: &Chain, memory: &Memory, token: &[u8], among: &Candidates<'_>, now: Millis) -> Option<Familiar> {
    let only = among.only().is_some();
    let key = RecordKey(*seal::id_of(token)?.as_bytes());
    let record = if only { memory.look_up(&key) } else { memory.find(&key) }?;
    if record.is_doubted() {
        return None;
    }
    let digest = chain.digests.digest(token, chain.cookie.ring().generation());
    let (in_step, confirmed) = {
        let state = record.read_live(now).ok()?;
        let Kind::Session { browser, .. } = &state.kind else { return None };
        let (known, in_step) = state.known()?;
        (Some(in_step).filter(|_| known == digest)?, browser.confirmed)
    };
    if in_step.deadline <= now {
        return None;
    }
    let principal = match in_step.principal.as_deref() {
        // An evicted, expired or newer record of the principal may lack what the token has.
        Some((key, carried)) if *carried != 0 => {
            Some(memory.find(key).filter(|record| record.live(now, State::carried) == Ok(*carried))?)
        }
        _ => None,
    };
    if only && !confirmed {
        record.confirm();
    }
    Some(Familiar { bound: Bound { record }, in_step, principal })
}

impl Familiar {
    fn brings(self) -> (Bound, Brought) {
        let Self { bound, in_step, principal } = self;
        let brought = Brought { key: Some(bound.key()), in_step: Some(in_step), principal, ..Brought::default() };
        (bound, brought)
    }
}

impl Core {
    /// The state of a handle of a session that memory knows.
    pub(super) fn familiar(chain: Arc<Chain>, familiar: Familiar) -> Self {
        let (bound, brought) = familiar.brings();
        Self::new(chain, Binding::Live(bound), brought)
    }

    /// Finds whose session it is, if cookies have to be opened for that, and what the store has of its user.
    pub(super) async fn meet(&mut self, unopened: Option<Unopened>, now: Millis) -> Result<(), TierError> {
        if let Some(Unopened { cookies, cross_site }) = unopened {
            if let Some(opened) = cookies.and_then(|cookies| self.open_one(&cookies, now)) {
                return self.admit(opened, now).await;
            }
            self.refuse(cross_site);
        }
        self.unless_revoked(now);
        self.read_principal(now).await
    }

    /// Keeps a request without a session from getting one, if another site caused it: a token of ours that had opened
    /// would have shown that the browser withheld nothing.
    fn refuse(&mut self, cross_site: Option<CrossSite>) {
        let Some(cross_site) = cross_site.filter(|_| matches!(self.binding(), Binding::Anonymous)) else { return };
        match cross_site {
            CrossSite::Upgrade => tracing::debug!("another site caused an upgrade: it has no session, and gets none"),
            CrossSite::Withheld => tracing::debug!(
                "another site caused a request without a session cookie: no session begins here; a sign-in by \
                 `form_post` needs `from_another_site()`"
            ),
            CrossSite::Listed => tracing::warn!(
                "a listed public origin of another site sent no session cookie: no session begins here; serve the page \
                 from the same site, or set `SameSite::None`"
            ),
        }
        self.brought.ambiguous = false;
        self.binding = Binding::Refused(cross_site).into();
    }

    /// Takes in a token that had to be opened.
    async fn admit(&mut self, opened: Unfamiliar, now: Millis) -> Result<(), TierError> {
        let (binding, brought, arrived) = self.bind(opened, now).await?;
        (self.binding, self.brought) = (binding.into(), brought);
        if let Some(arrived) = arrived {
            return self.arrive(arrived, now).await;
        }
        self.unless_revoked(now);
        self.read_principal(now).await
    }

    /// Looks for the one genuine token. Each that came is tried: two that open make the request ambiguous.
    fn open_one(&mut self, cookies: &Fields, now: Millis) -> Option<Unfamiliar> {
        let chain = &self.chain;
        let candidates = match chain.cookie_name.scan(cookies) {
            Scan::Found(candidates) => candidates,
            Scan::Absent => return None,
            Scan::Capped => {
                chain.counters.capped_cookies.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        let keys = chain.cookie.ring().keys();
        // Memory was asked for the only one before it came to this.
        let asked = chain.memory.as_ref().filter(|_| candidates.only().is_none());
        let (mut genuine, mut found, mut named) = (0, (None, None), candidates.iter().find_map(seal::id_of));
        for candidate in candidates.iter() {
            if let Some(memory) = asked
                && let Some(familiar) = recognise(chain, memory, candidate, &candidates, now)
            {
                genuine += 1;
                named = Some(familiar.bound.id());
                found.0 = Some(familiar);
                continue;
            }
            let opened = chain.cookie.open(&keys, &chain.audience, Purpose::Cookie, candidate);
            let Some(Opened { id, payload, retired, nonce }) = opened else { continue };
            let Some(payload) = current(chain, payload, now) else { continue };
            genuine += 1;
            named = Some(id);
            let seen = chain.memory.is_some().then(|| chain.digests.digest(candidate, keys.generation));
            found.1 = Some(Unfamiliar { opened: Opened { id, payload, retired, nonce }, seen });
        }
        if let (Some(memory), Some(id)) = (asked, named) {
            // Counted once for the request, as the session's that it is of if it is of any.
            memory.look_up(&RecordKey(*id.as_bytes()));
        }
        if genuine > 1 {
            tracing::warn!("several session cookies that open; none is used");
            self.brought.ambiguous = true;
            return None;
        }
        if let Some(familiar) = found.0 {
            let (bound, brought) = familiar.brings();
            bound.record.confirm();
            (self.binding, self.brought) = (Binding::Live(bound).into(), brought);
        }
        found.1
    }

    /// The session that a genuine token names, if it is to be believed.
    async fn bind(
        &self,
        Unfamiliar { opened, seen }: Unfamiliar,
        now: Millis,
    ) -> Result<(Binding, Brought, Option<Arrived>), TierError> {
        let nothing = |brought| Ok((Binding::Anonymous, brought, None));
        let Opened { id, payload, retired, .. } = opened;
        let key = RecordKey(*id.as_bytes());
        let brought = Brought { key: Some(key), ..Brought::default() };
        let known = self.chain.memory.as_ref().and_then(|memory| memory.find(&key));
        if let Some(reason) = known.as_ref().and_then(|record| fenced(record, now)) {
            return Ok((reason, brought, None));
        }
        let stored = match &self.chain.store {
            Some(store) if known.as_ref().is_none_or(|record| record.is_doubted()) => {
                let lookup = Lookup::new(Some(self.chain.owner(&id)), &self.chain.names, None);
                let abandoned = known.as_ref().map_or(0, |record| record.abandoned());
                let found = store.read(lookup).await.map_err(|error| TierError::new(store.name(), error))?;
                Some(Box::new((found, abandoned)))
            }
            _ => None,
        };
        let standing = stored.as_ref().map(|stored| stored.0.standing);
        if standing == Some(Standing::Absent) {
            // What is open on this node learns of it too.
            if let Some(record) = &known {
                let _ = self.end(record, Closed::Destroyed, now);
            }
            return nothing(Brought::default());
        }
        let record = match (&self.chain.memory, known) {
            (_, Some(record)) => record,
            (Some(memory), None) => {
                let make = || Record::session(key, payload.head.life(), payload.head.used(now));
                let record = memory.find_or_insert(&key, make);
                // Counted from here on: the load may end before it comes to that.
                memory.settle(&record, now);
                record
            }
            (None, None) => Arc::new(Record::session(key, payload.head.life(), payload.head.used(now))),
        };
        if let Some(predecessor) = payload.head.predecessor {
            self.end_predecessor(&record, predecessor, &payload.head, now);
        }
        if standing == Some(Standing::Ended) {
            // As of now: nobody says since when, and after a minute it is to count as no cookie.
            let _ = self.end(&record, Closed::Destroyed, now);
        }
        let life = &payload.head.life;
        self.chain.note_absolute(life.absolute_deadline().since(life.created()));
        record.touch_at_least(payload.head.used(now));
        // Ended between the first look and now.
        if let Some(reason) = fenced(&record, now) {
            return Ok((reason, brought, None));
        }
        // Over by a lifetime that it was given after this token was sealed.
        if record.closed(now).is_some() {
            return nothing(brought);
        }
        let arrived = Arrived { payload, retired, seen, stored };
        Ok((Binding::Live(Bound { record }), brought, Some(arrived)))
    }
}

impl Core {
    /// Ends the id that a session had before its last turn, which may have happened on another node: whoever holds that
    /// id here, in a socket or a copied cookie, has no session any more.
    fn end_predecessor(&self, record: &Arc<Record>, predecessor: Predecessor, head: &Head, now: Millis) {
        let Some(memory) = &self.chain.memory else { return };
        let key = RecordKey(*predecessor.id.as_bytes());
        let (at, until) = (head.life.birth().millis().min(now), head.life.absolute_deadline());
        let ended = || Record::ended(key, End { reason: Closed::Renewed, at, until });
        let before = memory.find_or_insert(&key, ended);
        let signed_out = match before.read().kind {
            Kind::Ended(End { reason: Closed::Destroyed, at, .. }) => now < at.after(FENCE),
            _ => false,
        };
        let _ = self.end(&before, Closed::Renewed, now);
        if predecessor.shares_end && signed_out {
            // The sign-out came to this node before the renewal did.
            let _ = self.end(record, Closed::Destroyed, now);
        }
    }
}

/// A payload with its times put right, unless they can't be believed or are over.
pub(super) fn current(chain: &Chain, mut payload: Box<Payload>, now: Millis) -> Option<Box<Payload>> {
    let head = &mut payload.head;
    if head.issued > now.after(chain.max_skew) {
        chain.counters.skewed_tokens.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("a session cookie from further ahead than the allowed skew of clocks");
        return None;
    }
    if head.issued > now {
        // Sealed by a node whose clock is ahead: nobody lives longer for it.
        head.idle_deadline = head.idle_deadline.min(now.after(head.life.idle()));
        head.issued = now;
    }
    head.life.correct(now);
    (now < head.idle_deadline && now < head.life.absolute_deadline()).then_some(payload)
}

/// What a request gets whose id has ended: for a minute nothing, so that it can't come in the way of its successor.
pub(super) fn fenced(record: &Record, now: Millis) -> Option<Binding> {
    match record.read().kind {
        Kind::Ended(end) if now < end.at.after(FENCE) => Some(Binding::Fenced(end.reason)),
        Kind::Ended(_) => Some(Binding::Anonymous),
        _ => None,
    }
}
