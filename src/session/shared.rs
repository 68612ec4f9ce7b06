//! What a handle and its clones share: which session they are bound to, and who is signed in.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use super::request_token::RequestToken;
use crate::{
    config::{ComputedAnswer, Identity, ResolvedPrincipal},
    cookie::order::{MOST_BEGUN, Turn},
    cross_site::CrossSite,
    error::{CloseReason, WriteError, WriteErrorKind},
    id::{PageMark, PrincipalTag, RecordKey, SessionId},
    memory::{EndedSession, record::Record},
    node::{Node, exempt_renewals::HandleId},
    notify::{HandleWakers, WakerSlot},
    record::life::Lifetime,
    sync::{Mutex, RwLock},
    time::Millis,
    value::Scope,
    version::Version,
};

#[derive(Debug)]
pub(crate) struct SessionShared {
    pub(crate) node: Arc<Node>,
    pub(super) binding: RwLock<Binding>,
    /// The principal, if the head said who it is, or the job; else a value of the session may say it.
    pub(super) head_principal: Option<Arc<ResolvedPrincipal>>,
    /// The count of `end_all_sessions` up to which the principal was looked at.
    pub(super) revocations: AtomicU64,
    pub(super) computed: Box<[ComputedAnswer]>,
    pub(super) request_token: RequestToken,
    pub(super) flags: RequestFlags,
    pub(super) lazy: OnceLock<Box<LazyState>>,
}

/// What only handles need that write, watch, or read for a principal. Apart, since every request that asks for its
/// session pays for the state of a handle by its size, which is moved into place.
#[derive(Debug, Default)]
pub(super) struct LazyState {
    lifecycle_lock: tokio::sync::Mutex<()>,
    /// The lifetime that this handle was given.
    lifetime: Mutex<Option<Lifetime>>,
    /// The sessions that the orders of this handle begin, the newest order's last.
    issued_orders: Mutex<Vec<IssuedOrder>>,
    /// The session that this handle has ended.
    own_end: Mutex<Option<OwnEnd>>,
    /// The principal's record, once this handle holds it. One that holds nothing goes with its last holder.
    principal: Mutex<Option<Arc<Record>>>,
    /// The principal that a session's value names, by the session and the value's version.
    derived_principal: Mutex<Option<(ValueRevision, Option<Arc<ResolvedPrincipal>>)>>,
    /// Made for the first watch.
    wakers: OnceLock<Arc<HandleWakers>>,
    /// The session that an inner layer has seen off, for another principal.
    pub(super) left_to_inner: Mutex<Option<RecordKey>>,
}

/// Which session a handle stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// None yet: a write makes one.
    Anonymous,
    Live(Arc<Record>),
    /// The request brought an id that has just ended: none, and a plain write may not make one.
    Fenced(CloseReason),
    /// Another site caused the request, which brought no session, and gets none.
    CrossSite(CrossSite),
    /// A job's: a principal's record alone.
    PrincipalOnly,
}

/// What a change of a value changes: whose record it comes from, and its version there. Computed answers have none.
pub(crate) type ValueRevision = Option<(RecordKey, Version)>;

/// A session that orders of a handle begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct IssuedOrder {
    pub(super) id: SessionId,
    pub(super) turn: Turn,
    /// The user of the order: the one to sign in, or the one to renew for.
    pub(super) principal: Option<PrincipalTag>,
}

/// The most sessions that the orders of a handle begin. Each is ended with the handle's session, with up to three writes to
/// a store.
const MAX_ISSUED_ORDERS: usize = 8;

/// A session that a handle has ended.
#[derive(Clone, Debug)]
pub(super) struct OwnEnd {
    pub(super) id: SessionId,
    /// The last moment at which a token of the id could open.
    pub(super) until: Millis,
    /// The principal that was signed in, or that an order would have signed in.
    pub(super) principal: Option<PrincipalTag>,
    /// More sessions that the handle has ended, the newest first: the sessions of orders, and earlier ones.
    pub(super) others: Vec<SessionId>,
}

/// What has happened to the request's session so far.
#[derive(Debug, Default)]
pub(super) struct RequestFlags {
    /// It was read, written or watched.
    pub(super) touched: AtomicBool,
    /// No cookie can follow. A session that is loaded later has the mark from its [`Loader`](super::load::Loader).
    pub(super) head_sent: AtomicBool,
    /// How many sessions this handle has ended: the cookie is to go.
    pub(super) own_ends: AtomicU32,
    /// The handle was told to end a session that had ended elsewhere: a renewal may begin another one.
    pub(super) may_begin: AtomicBool,
    /// The session was made here.
    pub(super) begun_here: AtomicBool,
    /// The request is an upgrade, to a WebSocket or the like: only writes and `touch` are use of the session.
    pub(super) upgrade: AtomicBool,
}

impl SessionShared {
    /// The state of a handle, to be completed before it is shared.
    pub(super) fn new(node: Arc<Node>, binding: Binding, request_token: RequestToken) -> Self {
        Self {
            binding: RwLock::new(binding),
            head_principal: None,
            revocations: AtomicU64::new(0),
            computed: Box::default(),
            request_token,
            flags: RequestFlags::default(),
            lazy: OnceLock::new(),
            node,
        }
    }

    pub(super) fn lazy(&self) -> &LazyState {
        self.lazy.get_or_init(Box::default)
    }

    /// The wakers of this handle's watches, if there are watches.
    fn wakers(&self) -> Option<&Arc<HandleWakers>> {
        self.lazy.get()?.wakers.get()
    }

    /// Held while a session is made, renewed or ended: clones that write at once make one session, and each turn finds the
    /// session that the turn before has left.
    pub(super) async fn lifecycle_lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.lazy().lifecycle_lock.lock().await
    }

    /// Notes the session that an order is to begin. Returns the id for the order: that of an earlier order of the same turn
    /// and user, so that no more than one of them is carried out.
    ///
    /// # Errors
    ///
    /// `Invalid` where an end of the handle could not take back another order.
    pub(super) fn note_issued_order(&self, drawn: IssuedOrder) -> Result<SessionId, WriteError> {
        // A removal names these too.
        let ended = self.own_end().map_or(0, |ended| 1 + ended.others.len());
        let mut ordered = self.lazy().issued_orders.lock();
        let same = |earlier: &IssuedOrder| earlier.turn == drawn.turn && earlier.principal == drawn.principal;
        let drawn = match ordered.iter().position(same) {
            Some(at) => ordered.remove(at),
            None if ordered.len() == MAX_ISSUED_ORDERS || ordered.len() + ended >= MOST_BEGUN => {
                let message = "a sign-out takes back 8 orders of a handle, and 15 with those of its earlier sign-outs: \
                               order on the handle of a new request";
                return Err(WriteError::new(WriteErrorKind::Invalid, message));
            }
            None => drawn,
        };
        ordered.push(drawn);
        Ok(drawn.id)
    }

    pub(super) fn issued_order_ids(&self) -> Vec<SessionId> {
        self.issued_orders().iter().map(|ordered| ordered.id).collect()
    }

    /// The sessions that the orders of this handle begin.
    pub(super) fn issued_orders(&self) -> Vec<IssuedOrder> {
        self.lazy.get().map(|seldom| seldom.issued_orders.lock().clone()).unwrap_or_default()
    }

    /// Forgets orders that no longer begin a session.
    pub(super) fn forget_issued_orders(&self, void: &[IssuedOrder]) {
        if let Some(seldom) = self.lazy.get() {
            seldom.issued_orders.lock().retain(|ordered| void.iter().all(|void| void.id != ordered.id));
        }
    }

    /// The lifetime that this handle was given, with which its next session begins.
    pub(super) fn own_lifetime(&self) -> Option<Lifetime> {
        *self.lazy.get()?.lifetime.lock()
    }

    pub(super) fn note_lifetime(&self, lifetime: Lifetime) {
        *self.lazy().lifetime.lock() = Some(lifetime);
    }

    pub(super) fn forget_lifetime(&self) {
        if let Some(seldom) = self.lazy.get() {
            *seldom.lifetime.lock() = None;
        }
    }

    /// Notes what the page of this handle is to remove.
    pub(super) fn note_removal(&self, ended: OwnEnd) {
        *self.lazy().own_end.lock() = Some(ended);
    }

    /// Notes that this handle has ended its session: only this handle and its clones may begin another one.
    pub(super) fn note_own_end(&self, ended: OwnEnd) {
        self.note_removal(ended);
        self.flags.own_ends.fetch_add(1, Ordering::AcqRel);
        // The record has notified its subscribers already: a watch that looked before this note looks again.
        if let Some(wakers) = self.wakers() {
            wakers.notify();
        }
    }

    /// The session that this handle has ended last.
    pub(super) fn own_end(&self) -> Option<OwnEnd> {
        self.lazy.get()?.own_end.lock().clone()
    }

    /// Whether this handle has ended its session, and has begun no other since.
    pub(super) fn has_ended_own(&self) -> bool {
        self.lazy.get().is_some_and(|seldom| seldom.own_end.lock().is_some())
    }

    /// Whether a turn may begin another session where this handle's session is over.
    pub(super) fn may_begin_anew(&self) -> bool {
        self.has_ended_own() || self.flags.may_begin.load(Ordering::Acquire)
    }

    /// Forgets the end, since another session has begun.
    pub(super) fn forget_own_end(&self) {
        self.flags.may_begin.store(false, Ordering::Release);
        if let Some(seldom) = self.lazy.get() {
            *seldom.own_end.lock() = None;
        }
    }

    /// How many sessions this handle has ended. A watch that began before the last one is over.
    pub(crate) fn own_ends(&self) -> u32 {
        self.flags.own_ends.load(Ordering::Acquire)
    }

    pub(crate) fn binding(&self) -> Binding {
        self.binding.read().clone()
    }

    /// Binds the handle to another session. Its watches go along.
    pub(super) fn rebind(&self, bound: Arc<Record>) {
        let Ok(()) = self.rebind_if(bound, || Ok::<_, std::convert::Infallible>(()));
    }

    /// Binds the handle to another session if `turn` has ended the one before, in one step: clones look at the binding
    /// first and then at its record, and are not to take the turn that they go along with for an end.
    pub(super) fn rebind_if<E>(&self, bound: Arc<Record>, turn: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let before = {
            let mut binding = self.binding.write();
            turn()?;
            std::mem::replace(&mut *binding, Binding::Live(bound))
        };
        if let Some(wakers) = self.wakers() {
            if let Binding::Live(old) = before {
                old.unsubscribe(wakers);
            }
            self.subscribe_to_records(wakers);
            wakers.notify();
        }
        Ok(())
    }

    pub(super) fn is_touched(&self) -> bool {
        self.flags.touched.load(Ordering::Acquire)
    }

    pub(crate) fn touch(&self) {
        // A load first: most requests touch more than once, and a store would take the line from other clones.
        if !self.flags.touched.load(Ordering::Relaxed) {
            self.flags.touched.store(true, Ordering::Relaxed);
        }
    }

    /// The session if it lives; else why not, if it ever did.
    pub(crate) fn live(&self, now: Millis) -> Result<Arc<Record>, Option<CloseReason>> {
        let record = loop {
            let record = match self.binding() {
                Binding::Live(record) => record,
                Binding::Fenced(reason) => return Err(Some(reason)),
                Binding::CrossSite(_) => return Err(Some(CloseReason::CrossSite)),
                Binding::Anonymous | Binding::PrincipalOnly => return Err(None),
            };
            match record.closed(now) {
                None => break record,
                // A clone has renewed it between the two looks, and this handle went along.
                Some(CloseReason::Renewed) if self.bound_key() != Some(*record.key()) => {}
                Some(closed) => return Err(Some(closed)),
            }
        };
        self.check_revoked(&record, now).map_err(Some)?;
        Ok(record)
    }

    /// Why the handle can't be used any more; `None` if it can, be it for the principal's values alone.
    pub(crate) fn close_reason(&self, now: Millis) -> Option<CloseReason> {
        self.live(now).err().flatten().filter(|_| !self.is_principal_only())
    }

    /// Whether another site caused the request, which has no session and gets none.
    pub(super) fn is_cross_site(&self) -> bool {
        matches!(self.binding(), Binding::CrossSite(_))
    }

    /// Whether the request has no session and gets none, and has a principal all the same.
    pub(super) fn is_principal_only(&self) -> bool {
        self.head_principal.is_some() && matches!(self.binding(), Binding::CrossSite(CrossSite::Listed))
    }

    /// # Errors
    ///
    /// `Closed` if the handle can't be used any more.
    pub(crate) fn check_open(&self) -> Result<(), WriteError> {
        self.close_reason(self.node.now()).map_or(Ok(()), |reason| Err(WriteError::closed(reason)))
    }

    /// Ends the session if all of its principal's were ended after its id was minted.
    pub(super) fn check_revoked(&self, bound: &Arc<Record>, now: Millis) -> Result<(), CloseReason> {
        let revocations = self.node.revocations.load(Ordering::Acquire);
        if self.revocations.load(Ordering::Relaxed) == revocations {
            return Ok(());
        }
        if let Some(signed) = self.principal_for(bound, now)
            && let Some(record) = self.find_principal(&signed)
        {
            let not_before = record.not_before(&self.node.time, now);
            let birth = bound.read().birth(&self.node.time, now);
            if birth.is_some_and(|birth| birth <= not_before) {
                if let Some(renewer) = self.node.exempt_renewals.renewer(bound.key()) {
                    // The renewal decides. Until then the session is the renewing handle's alone.
                    return if renewer == self.handle_id() { Ok(()) } else { Err(CloseReason::Revoked) };
                }
                // Another handle may have been faster; either way it is over.
                let _ = self.end(bound, CloseReason::Revoked, now);
                return Err(CloseReason::Revoked);
            }
        }
        self.revocations.store(revocations, Ordering::Relaxed);
        Ok(())
    }

    /// The same for all clones of a handle, and another for all other handles.
    pub(super) fn handle_id(&self) -> HandleId {
        std::ptr::from_ref(self).addr()
    }

    /// The principal, if one is signed in and the session has not ended.
    pub(crate) fn principal(&self, now: Millis) -> Option<Arc<ResolvedPrincipal>> {
        match self.binding() {
            Binding::CrossSite(CrossSite::Upgrade | CrossSite::Withheld) => None,
            Binding::Live(_) => self.live(now).ok().and_then(|record| self.principal_for(&record, now)),
            Binding::Anonymous
            | Binding::Fenced(_)
            | Binding::PrincipalOnly
            | Binding::CrossSite(CrossSite::Listed) => self.head_principal.clone(),
        }
    }

    /// What tells this user from others, the same on every node; empty while nobody is signed in.
    pub(crate) fn user_mark(&self) -> String {
        self.principal(self.node.now()).map_or_else(String::new, |signed| signed.owner.mark(PageMark::User))
    }

    /// What tells this session from others, the same on every node; empty without a session.
    pub(crate) fn session_mark(&self) -> String {
        let record = self.live(self.node.now());
        record.map_or_else(|_| String::new(), |record| self.node.config.owner(&record.id()).mark(PageMark::Session))
    }

    #[inline]
    pub(super) fn principal_for(&self, record: &Arc<Record>, now: Millis) -> Option<Arc<ResolvedPrincipal>> {
        // Most chains and handles know nobody, and find that out here.
        match &self.head_principal {
            None if !matches!(self.node.config.identity, Identity::Value { .. }) => None,
            None => self.derive_principal(record, now),
            given => given.clone(),
        }
    }

    fn derive_principal(&self, bound: &Arc<Record>, now: Millis) -> Option<Arc<ResolvedPrincipal>> {
        let Identity::Value { index, derive } = &self.node.config.identity else { return None };
        let (mark, json) = {
            let state = bound.read();
            let stored = state.value(&self.node.config.schema, *index, now)?;
            (Some((*bound.key(), stored.version)), stored.json.clone()?)
        };
        let derived = &self.lazy().derived_principal;
        if let Some((known, signed)) = &*derived.lock()
            && *known == mark
        {
            return signed.clone();
        }
        // Outside of the lock: the application's own code runs here.
        let signed = derive(&json).map(|principal| Arc::new(self.node.config.resolve_principal(principal)));
        *derived.lock() = Some((mark, signed.clone()));
        signed
    }

    /// The principal's record if there is one on this node. Reading makes none.
    pub(super) fn find_principal(&self, signed: &ResolvedPrincipal) -> Option<Arc<Record>> {
        let key = signed.key();
        if let Some(seldom) = self.lazy.get()
            && let Some(held) = &*seldom.principal.lock()
            && *held.key() == key
        {
            return Some(Arc::clone(held));
        }
        if let Some(record) = self.request_token.principal.as_ref().filter(|record| *record.key() == key) {
            return Some(Arc::clone(record));
        }
        self.node.memory.as_ref()?.principal(&key)
    }

    /// The principal's record, made if there is none. Let go of, it goes unless it holds something or was settled.
    pub(super) fn principal_record(&self, signed: &ResolvedPrincipal, now: Millis) -> Arc<Record> {
        let make = || {
            let record = Record::principal(signed.key(), self.node.config.principal_idle, now);
            if self.node.store.is_some() { record.never_loaded() } else { record }
        };
        let found = self.find_principal(signed);
        found.unwrap_or_else(|| match &self.node.memory {
            Some(memory) => memory.principal_or_insert(&signed.key(), make),
            None => Arc::new(make()),
        })
    }

    /// The principal's record, made if there is none, and held until the handle goes.
    pub(super) fn hold_principal(&self, signed: &ResolvedPrincipal, now: Millis) -> Arc<Record> {
        self.hold_record(self.principal_record(signed, now))
    }

    pub(super) fn hold_record(&self, record: Arc<Record>) -> Arc<Record> {
        let mut principal = self.lazy().principal.lock();
        if let Some(held) = &*principal
            && held.key() == record.key()
        {
            return Arc::clone(held);
        }
        let before = principal.replace(Arc::clone(&record));
        drop(principal);
        if before.is_some() {
            self.release_principal(before);
            // A clone may have signed somebody else in since the caller asked who it is: the watches follow who is now.
            if let Some(wakers) = self.wakers() {
                self.subscribe_to_records(wakers);
            }
        }
        record
    }

    fn release_principal(&self, held: Option<Arc<Record>>) {
        if let Some(record) = held {
            if let Some(wakers) = self.wakers() {
                record.unsubscribe(wakers);
            }
            if let Some(memory) = &self.node.memory {
                memory.release(record);
            }
        }
    }

    /// Counts a change of a record and does the memory tier's share of work.
    pub(super) fn account(&self, record: &Arc<Record>, now: Millis) {
        if let Some(memory) = &self.node.memory {
            memory.account_and_sweep(record, now);
        }
    }

    /// Registers a watch: the slot is notified of every change that this handle can see.
    pub(crate) fn subscribe(&self) -> WakerSlot {
        let wakers = self.lazy().wakers.get_or_init(Arc::default);
        // The slot is registered before the handle subscribes, and both before the watch reads: no change is missed.
        let slot = wakers.register();
        self.subscribe_to_records(wakers);
        slot
    }

    fn subscribe_to_records(&self, wakers: &Arc<HandleWakers>) {
        let now = self.node.now();
        self.node.subscribers.subscribe(wakers);
        // Under the binding's lock: a rebind unsubscribes from this record after this subscription.
        if let Binding::Live(bound) = &*self.binding.read() {
            bound.subscribe(wakers);
        }
        if let Some(signed) = self.principal(now) {
            self.hold_principal(&signed, now);
            // What is held now, by whomever: what is let go of is left under the same lock or after it.
            if let Some(held) = &*self.lazy().principal.lock() {
                held.subscribe(wakers);
            }
        }
    }

    /// Whose record a value of a scope is in now, if there is one.
    pub(super) fn record_of(&self, scope: Scope, now: Millis) -> Option<(RecordKey, Arc<Record>)> {
        if scope == Scope::Principal
            && let Some(signed) = self.principal(now)
        {
            return self.find_principal(&signed).map(|record| (signed.key(), record));
        }
        self.live(now).ok().map(|bound| (*bound.key(), bound))
    }

    /// Begins a watch. In an ordinary request the beginning counts as use, as reading does; that the watch goes on does not.
    pub(crate) fn mark_watched(&self) {
        self.touch();
        if !self.is_upgrade() {
            self.touch_session(self.node.now());
        }
    }

    pub(super) fn is_upgrade(&self) -> bool {
        self.flags.upgrade.load(Ordering::Relaxed)
    }

    /// Using what is the principal's is use of the session too.
    pub(super) fn touch_session(&self, now: Millis) {
        if let Ok(record) = self.live(now) {
            record.touch(now);
        }
    }

    /// Marks that the response head has left: no cookie can follow.
    pub(super) fn note_head_sent(&self) {
        // Looked at first: each clone of a handle comes here.
        if !self.head_has_left() {
            self.flags.head_sent.store(true, Ordering::Release);
        }
    }

    pub(super) fn head_has_left(&self) -> bool {
        self.flags.head_sent.load(Ordering::Acquire)
    }

    /// Whether a write can still have an effect.
    pub(super) fn check_head(&self) -> Result<(), WriteError> {
        if self.node.memory.is_none() && self.head_has_left() {
            return Err(WriteError::new(
                WriteErrorKind::HeadSent,
                "the response head is gone: without a memory tier nothing is kept past it",
            ));
        }
        Ok(())
    }
}

impl Drop for SessionShared {
    fn drop(&mut self) {
        let Some(seldom) = self.lazy.get() else { return };
        if let Some(wakers) = seldom.wakers.get() {
            self.node.subscribers.unsubscribe(wakers);
            if let Binding::Live(record) = self.binding() {
                record.unsubscribe(wakers);
            }
        }
        let held = seldom.principal.lock().take();
        self.release_principal(held);
    }
}

/// What a request gets whose id has ended, if it has.
pub(super) fn fenced(record: &Record, now: Millis) -> Option<Binding> {
    record.end_of().map(|end| EndedSession::of(end, now).into())
}

/// For a minute a request with an ended id gets nothing, so that it can't come in the way of its successor.
impl From<EndedSession> for Binding {
    fn from(ended: EndedSession) -> Self {
        match ended {
            EndedSession::Recently(end) => Self::Fenced(end.reason),
            EndedSession::LongAgo => Self::Anonymous,
        }
    }
}
