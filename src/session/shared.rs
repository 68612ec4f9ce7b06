//! What a handle and its clones share: which session they are bound to, and who is signed in.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use crate::{
    config::{ComputedAnswer, ResolvedPrincipal},
    cross_site::CrossSite,
    error::{CloseReason, WriteError},
    id::{RecordKey, SessionId},
    memory::{EndedSession, record::Record},
    node::{Node, exempt_renewals::HandleId},
    notify::{HandleWakers, WakerSlot},
    record::{cookie_sync::CookieSnapshot, life::Successor},
    sync::RwLock,
    time::Millis,
    value::{Scope, ValueIndex},
    version::Version,
};

mod lazy;
mod principal;

use self::lazy::LazyState;
pub(super) use self::lazy::{IssuedOrder, OwnEnd};

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
    pub(crate) flags: RequestFlags,
    pub(super) lazy: OnceLock<Box<LazyState>>,
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

/// What the request's cookie held.
#[derive(Debug, Default)]
pub(super) struct RequestToken {
    /// The session whose token it was.
    pub(super) key: Option<RecordKey>,
    /// Set if it held all that there was.
    pub(super) cookie: Option<CookieSnapshot>,
    /// The record of its user, if values of that were in it and it was not opened: what isn't here any more when the head
    /// leaves, the next cookie would lack.
    pub(super) principal: Option<Arc<Record>>,
    /// The tokens that came, unless that was a single one, of the session above.
    pub(super) cookie_tokens: Option<Box<CookieTokens>>,
    /// What the cookie answered for, with the version.
    pub(super) from_cookie: Box<[(ValueIndex, Version)]>,
}

impl RequestToken {
    /// The tokens that the request brought. Of an upgrade that another site caused none was looked at.
    pub(super) fn cookie_tokens(&self) -> CookieTokens {
        let only = || self.key.map(|key| SessionId::from_bytes(key.0)).into_iter().collect();
        let single = || CookieTokens { ids: only(), unread: false, opened: self.opened() };
        self.cookie_tokens.as_deref().cloned().unwrap_or_else(single)
    }

    /// How many tokens of ours opened.
    pub(super) fn opened(&self) -> usize {
        self.cookie_tokens.as_ref().map_or_else(|| usize::from(self.key.is_some()), |came| came.opened)
    }
}

/// The tokens that a request brought under our cookie's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CookieTokens {
    /// The sessions of genuine tokens whose absolute deadline has not come, each once, whatever the seal's idle deadline.
    pub(super) ids: Vec<SessionId>,
    /// Whether any value did not open, or was not tried: more values than four, more bytes or pairs than are read.
    pub(super) unread: bool,
    /// How many tokens opened, whatever their deadlines.
    opened: usize,
}

impl CookieTokens {
    /// Values of which nothing is known.
    pub(super) fn unread() -> Self {
        Self { unread: true, ..Self::default() }
    }

    pub(super) const fn is_nothing(&self) -> bool {
        self.ids.is_empty() && !self.unread
    }

    /// Notes a token that opened. `lives` says whether its absolute deadline has yet to come.
    pub(super) fn add(&mut self, id: SessionId, lives: bool) {
        self.opened += 1;
        if lives && !self.ids.contains(&id) {
            self.ids.push(id);
        }
    }
}

impl SessionShared {
    /// The state of a handle, to be completed before it is shared.
    pub(super) fn new(node: Arc<Node>, binding: Binding, request_token: RequestToken, upgrade: bool) -> Self {
        Self {
            binding: RwLock::new(binding),
            head_principal: None,
            revocations: AtomicU64::new(0),
            computed: Box::default(),
            request_token,
            flags: RequestFlags { upgrade: Flag(AtomicBool::new(upgrade)), ..RequestFlags::default() },
            lazy: OnceLock::new(),
            node,
        }
    }

    /// Binds a handle that is not shared yet.
    pub(super) fn bind(&mut self, binding: Binding) {
        *self.binding.get_mut() = binding;
    }

    /// How many sessions this handle has ended. A watch that began before the last end is over.
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

    /// Ends a record, unless it is over already, and counts what it no longer takes.
    pub(super) fn end(&self, record: &Arc<Record>, reason: CloseReason, now: Millis) -> Result<(), CloseReason> {
        self.end_as(record, reason, Successor::None, now)
    }

    /// The same, with what comes after.
    pub(super) fn end_as(
        &self,
        record: &Arc<Record>,
        reason: CloseReason,
        sequel: Successor,
        now: Millis,
    ) -> Result<(), CloseReason> {
        let signed = self.principal_for(record, now);
        let ended = record.end(reason, signed.map(|signed| signed.owner.tag()), sequel, now);
        self.node.account(record, now);
        ended
    }

    /// Looks at the handle's own session in place, where nothing else has a say in a value of this scope: the session is
    /// not a fenced or refused one, no principal's sessions were ended since the last look, and a value of principal scope
    /// is the browser's while nobody is signed in, which nobody can do through this handle while its binding is locked.
    pub(super) fn with_session_record<T>(&self, scope: Scope, look: impl FnOnce(&Arc<Record>) -> T) -> Option<T> {
        let settled = self.revocations.load(Ordering::Relaxed) == self.node.revocations.load(Ordering::Acquire);
        if !settled {
            return None;
        }
        match &*self.binding.read() {
            Binding::Live(record) if scope == Scope::Session || self.is_anonymous(record) => Some(look(record)),
            _ => None,
        }
    }

    pub(super) fn bound_key(&self) -> Option<RecordKey> {
        match &*self.binding.read() {
            Binding::Live(record) => Some(*record.key()),
            _ => None,
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
            bound.extras().subscribers.subscribe(wakers);
        }
        if let Some(signed) = self.principal(now) {
            self.hold_principal(&signed, now);
            // What is held now, by whomever: what is let go of is left under the same lock or after it.
            if let Some(held) = &*self.lazy().principal.lock() {
                held.extras().subscribers.subscribe(wakers);
            }
        }
    }

    /// Whose record a value of a scope is in now, if there is one.
    pub(super) fn record_of(&self, scope: Scope, now: Millis) -> Option<Arc<Record>> {
        if scope == Scope::Principal
            && let Some(signed) = self.principal(now)
        {
            return self.find_principal(&signed);
        }
        self.live(now).ok()
    }

    /// Using what is the principal's is use of the session too.
    pub(super) fn touch_session(&self, now: Millis) {
        if let Ok(record) = self.live(now) {
            record.touch(now);
        }
    }
}

/// What has happened to the request's session so far.
#[derive(Debug, Default)]
pub(crate) struct RequestFlags {
    /// It was read, written or watched.
    pub(crate) touched: Flag,
    /// No cookie can follow. A session that is loaded later has the mark from its [`Loader`](super::loader::Loader).
    pub(super) head_sent: Flag,
    /// How many sessions this handle has ended: the cookie is to go.
    own_ends: AtomicU32,
    /// The handle was told to end a session that had ended elsewhere: a renewal may begin another one.
    pub(super) may_begin: Flag,
    /// The session was made here.
    pub(super) begun_here: Flag,
    /// The request is an upgrade, to a WebSocket or the like: only writes and `touch` are use of the session.
    pub(super) upgrade: Flag,
}

#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self) {
        // A load first: requests set a flag more than once, and a store would take the line from other clones.
        if !self.is_set() {
            self.0.store(true, Ordering::Release);
        }
    }

    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Drop for SessionShared {
    fn drop(&mut self) {
        let Some(lazy) = self.lazy.get() else { return };
        if let Some(wakers) = lazy.wakers.get() {
            self.node.subscribers.unsubscribe(wakers);
            if let Binding::Live(record) = self.binding() {
                record.unsubscribe(wakers);
            }
        }
        let held = lazy.principal.lock().take();
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
