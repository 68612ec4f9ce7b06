//! From a request to a session: what the layer leaves in the request's extensions, and what it does when asked.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Extensions, request::Parts};

use super::{
    Session,
    arrive::Arrived,
    core::{Binding, Bound, Brought, Core, Who},
};
use crate::{
    chain::{Chain, Computation, Computed, DEFAULT, Identity, life::FENCE},
    error::{MissingSession, TierError},
    id::Principal,
    live::Closed,
    tier::{
        Lookup, Standing,
        cookie::{
            Opened,
            digest::Digest,
            header::Scan,
            payload::Payload,
            seal::{self, Purpose},
        },
        memory::record::{InStep, Kind, Record, RecordKey},
    },
    value::Number,
    version::{Millis, Version},
};

/// What waits in the extensions: enough to find the session, nothing of it looked up yet.
pub(crate) struct Loader {
    chain: Arc<Chain>,
    cookie: Scan,
    identified: Option<Principal>,
    defaults: Vec<(Number, Bytes)>,
    /// An upgrade that another site caused.
    cross_site: bool,
    /// For sources, until the first load.
    head: Mutex<Option<Box<Parts>>>,
    session: OnceLock<Session>,
    /// The layer around ours.
    outer: Option<Arc<Self>>,
}

/// A session that is being loaded. Handlers hold it over an await, so it is small: what there is to do takes kilobytes of
/// state, which stands on the stack for as long as one poll where nothing has to be waited for, and on the heap else.
///
/// # Cancel safety
///
/// Dropped, it leaves nothing behind; the next one begins anew.
pub(crate) struct Load {
    loader: Arc<Loader>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = Result<Session, MissingSession>> + Send>>;

impl Future for Load {
    type Output = Result<Session, MissingSession>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { loader, waiting } = self.get_mut();
        if !loader.chain.waits() {
            return pin!(loader.finish()).poll(cx);
        }
        let loading = waiting.get_or_insert_with(|| -> Waiting {
            let loader = Arc::clone(loader);
            Box::pin(async move { loader.finish().await })
        });
        loading.as_mut().poll(cx)
    }
}

/// The key of the extensions under which the innermost layer's loader is.
#[derive(Clone, Debug)]
pub(crate) struct Loading(pub(crate) Arc<Loader>);

/// What the layer notes at entry.
pub(crate) struct Arrival {
    pub(crate) cookie: Scan,
    pub(crate) identified: Option<Principal>,
    pub(crate) defaults: Vec<(Number, Bytes)>,
    pub(crate) cross_site: bool,
    pub(crate) head: Option<Box<Parts>>,
    pub(crate) outer: Option<Arc<Loader>>,
}

impl Loader {
    pub(crate) fn new(chain: Arc<Chain>, arrival: Arrival) -> Arc<Self> {
        let Arrival { cookie, identified, defaults, cross_site, head, outer } = arrival;
        if matches!(cookie, Scan::Capped) {
            chain.counters.capped_cookies.fetch_add(1, Ordering::Relaxed);
        }
        let (head, session) = (Mutex::new(head), OnceLock::new());
        Arc::new(Self { chain, cookie, identified, defaults, cross_site, head, session, outer })
    }

    /// The loader of a chain, among those of nested layers.
    pub(crate) fn of(extensions: &Extensions, chain: &Arc<Chain>) -> Option<Arc<Self>> {
        let mut loader = Some(&extensions.get::<Loading>()?.0);
        while let Some(candidate) = loader {
            if Arc::ptr_eq(&candidate.chain, chain) {
                return Some(Arc::clone(candidate));
            }
            loader = candidate.outer.as_ref();
        }
        None
    }

    /// The session, if it was loaded. Its count of holders says whether a handle is alive.
    pub(crate) fn loaded(&self) -> Option<&Session> {
        self.session.get()
    }

    /// Loads the session, once.
    pub(crate) fn load(self: &Arc<Self>) -> Load {
        Load { loader: Arc::clone(self), waiting: None }
    }

    async fn finish(&self) -> Result<Session, MissingSession> {
        if let Some(session) = self.session.get() {
            return Ok(session.clone());
        }
        let session = Session::new(self.resolve().await?);
        Ok(self.session.get_or_init(|| session).clone())
    }

    /// What [`load`](Self::load) gives without waiting for anything.
    pub(crate) fn load_now(&self) -> Option<Session> {
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(self.finish()).poll(&mut cx) {
            Poll::Ready(loaded) => loaded.ok(),
            Poll::Pending => None,
        }
    }

    async fn resolve(&self) -> Result<Core, TierError> {
        let chain = &self.chain;
        let now = chain.now();
        let who = match &chain.identity {
            Identity::Value { .. } => Who::Value,
            _ => Who::Given(self.identified.clone().map(|principal| chain.signed(principal))),
        };
        let computed = self.ask_sources().await;
        if self.cross_site {
            return Ok(Core::new(Arc::clone(chain), Binding::Refused, who, Brought::default(), computed));
        }
        let (binding, brought, token) = match self.recognise(now) {
            Genuine::Nothing => (Binding::Anonymous, Brought::default(), None),
            Genuine::Several => {
                tracing::warn!("several session cookies that open; none is used");
                (Binding::Anonymous, Brought { ambiguous: true, ..Brought::default() }, None)
            }
            Genuine::One(token) => self.bind(token, now).await?,
        };
        let mut core = Core::new(Arc::clone(chain), binding, who, brought, computed);
        match token {
            Some(token) => core.arrive(token, now).await?,
            None => {
                core.unless_revoked(now);
                core.read_principal(now).await?;
            }
        }
        Ok(core)
    }

    /// The one genuine token among the candidates. Each is tried: two that open make the request ambiguous.
    fn recognise(&self, now: Millis) -> Genuine {
        let Scan::Found(candidates) = &self.cookie else { return Genuine::Nothing };
        let keys = self.chain.cookie.ring().keys();
        let mut found = Genuine::Nothing;
        for candidate in candidates.iter() {
            let Some(token) = self.recognised(candidate, keys.generation, now).or_else(|| {
                let mut opened = self.chain.cookie.open(&keys, &self.chain.audience, Purpose::Cookie, candidate)?;
                opened.payload = current(&self.chain, opened.payload, now)?;
                let digest = self.chain.memory.is_some().then(|| self.chain.digests.digest(candidate));
                Some(Token::Opened(opened, digest.map(|digest| (digest, keys.generation))))
            }) else {
                continue;
            };
            found = match found {
                Genuine::Nothing => Genuine::One(token),
                Genuine::One(_) | Genuine::Several => Genuine::Several,
            };
        }
        found
    }

    /// Memory knows these very bytes, and still holds everything that they do: the seal needn't be opened.
    fn recognised(&self, token: &[u8], ring: u64, now: Millis) -> Option<Token> {
        let memory = self.chain.memory.as_ref()?;
        let id = seal::id_of(token)?;
        let record = memory.find(&RecordKey(*id.as_bytes()))?;
        if record.is_doubted() {
            return None;
        }
        let known = match &record.read().kind {
            Kind::Session { browser, .. } => browser.known.clone()?,
            Kind::Principal { .. } | Kind::Ended(_) => return None,
        };
        let same = known.ring == ring && known.digest == self.chain.digests.digest(token);
        if !same || known.brought.deadline <= now || record.closed(now).is_some() {
            return None;
        }
        if let Some((key, carried)) = known.brought.principal {
            // An evicted, expired or newer record of the principal may lack what the token has.
            let there = memory.find(&key).is_some_and(|record| record.live(now, |state| state.carried) == Ok(carried));
            if !there && carried != 0 {
                return None;
            }
        }
        Some(Token::Known(Bound { id, record }, known.brought))
    }

    /// The session that a genuine token names, if it is to be believed.
    async fn bind(&self, token: Token, now: Millis) -> Result<(Binding, Brought, Option<Arrived>), TierError> {
        let nothing = |brought| Ok((Binding::Anonymous, brought, None));
        let (opened, seen) = match token {
            Token::Known(bound, in_step) => {
                bound.record.confirm();
                let brought = Brought { key: Some(bound.key()), in_step: Some(in_step), ..Brought::default() };
                return Ok((Binding::Live(bound), brought, None));
            }
            Token::Opened(opened, seen) => (opened, seen),
        };
        let Opened { id, payload, retired } = opened;
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
        if let (Some(Standing::Absent | Standing::Ended), Some(record)) = (standing, &known) {
            // What is open on this node learns of it too.
            let _ = record.end(Closed::Destroyed, now);
        }
        match standing {
            Some(Standing::Absent) => return nothing(Brought::default()),
            Some(Standing::Ended) => return Ok((Binding::Fenced(Closed::Destroyed), brought, None)),
            Some(Standing::Present) | None => {}
        }
        let record = match (&self.chain.memory, known) {
            (_, Some(record)) => record,
            (Some(memory), None) => {
                let make = || Record::session(payload.head.life.clone(), payload.head.used(now));
                let record = memory.find_or_insert(key, make);
                // Counted from here on: the load may end before it comes to that.
                memory.settle(key, &record, now);
                record
            }
            (None, None) => Arc::new(Record::session(payload.head.life.clone(), payload.head.used(now))),
        };
        let life = &payload.head.life;
        self.chain.note_absolute(life.absolute_deadline.since(life.created));
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
        Ok((Binding::Live(Bound { id, record }), brought, Some(arrived)))
    }

    /// Asks the sources once, for everything; a source that fails is passed over.
    async fn ask_sources(&self) -> Vec<Computation> {
        let defaults = self.defaults.iter().map(|(number, json)| Computation {
            tier: DEFAULT,
            number: *number,
            json: json.clone(),
            until: None,
        });
        let mut answers: Vec<_> = defaults.collect();
        if !self.chain.has_sources() {
            return answers;
        }
        let head = self.head.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ask(&self.chain, head.as_deref(), &mut answers).await;
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = None;
        answers
    }
}

/// The sources' answers for one request, or for a job.
pub(super) async fn ask(chain: &Chain, head: Option<&Parts>, answers: &mut Vec<Computation>) {
    for tier in &chain.computed {
        let Computed::Source(source) = tier else { continue };
        match source.read(Lookup::new(None, &chain.names, head)).await {
            Ok(found) => {
                let until = found.expires_in.map(|span| chain.now().after(span));
                let named = |entry: crate::tier::FoundEntry| {
                    let number = chain.schema.named(&entry.name)?;
                    Some(Computation { tier: source.name(), number, json: entry.json?, until })
                };
                answers.extend(found.entries.into_iter().filter_map(named));
            }
            Err(error) => tracing::warn!(tier = source.name(), error, "a source did not answer; the next tier does"),
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
        head.idle_deadline = head.idle_deadline.min(now.after(head.life.lifetime.idle));
        head.issued = now;
        let life = &mut head.life;
        if life.created > now {
            life.absolute_deadline = now.after(life.absolute_deadline.since(life.created));
            life.created = now;
        }
    }
    // Seen here before anything that ends all sessions from now on, whatever the minting node's clock said.
    head.life.birth = head.life.birth.min(Version::last_at(now));
    (now < head.idle_deadline && now < head.life.absolute_deadline).then_some(payload)
}

/// What a request gets whose id has ended: for a minute nothing, so that it can't come in the way of its successor.
pub(super) fn fenced(record: &Record, now: Millis) -> Option<Binding> {
    match record.read().kind {
        Kind::Ended(end) if now < end.at.after(FENCE) => Some(Binding::Fenced(end.reason)),
        Kind::Ended(_) => Some(Binding::Anonymous),
        _ => None,
    }
}

enum Genuine {
    Nothing,
    One(Token),
    Several,
}

enum Token {
    Known(Bound, InStep),
    Opened(Opened, Option<Seen>),
}

/// A token's digest, and the generation of the ring that opened it: which may be another by the time the token is in.
pub(super) type Seen = (Digest, u64);

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("cookie", &self.cookie)
            .field("loaded", &self.session.get().is_some())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A principal's own handle, outside of any request.
    pub(crate) async fn job(chain: &Arc<Chain>, principal: Principal) -> Result<Self, TierError> {
        let signed = chain.signed(principal);
        let who = Who::Given(Some(signed));
        let mut computed = Vec::new();
        ask(chain, None, &mut computed).await;
        let core = Core::new(Arc::clone(chain), Binding::Job, who, Brought::default(), computed);
        core.read_principal(chain.now()).await?;
        if chain.store.is_none() && chain.memory.is_none() {
            // There is no request whose cookie could keep what it writes: without memory that would be lost at once.
            core.marks.head_sent.store(true, Ordering::Release);
        }
        Ok(Self::new(core))
    }
}
